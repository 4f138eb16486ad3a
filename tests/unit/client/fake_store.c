/* fake_store.c - see fake_store.h. */
#include "unit/client/fake_store.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORED_MAX 4096u

typedef struct stored {
    lw_segment_name_t name;
    uint16_t node_index[LW_REPLICAS_MAX];
    uint32_t replicas;
    uint8_t *extent;
    uint64_t bytes;
    uint32_t **offsets; /* [head][entry] */
} stored_t;

static stored_t stored[STORED_MAX];
static uint32_t stored_count;
static bool node_down[LW_NODES_MAX], full, hold;
/* What is stored and what is broken is common to all stores, each of which has a thread of its own. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef enum kind { NOTHING, WANT, PUT, READ, ATTACH } kind_t;
typedef struct pending {
    kind_t kind;
    uint64_t deadline_us;
    lwc_want_t want;
    lwc_arrived_t arrived;
    lwc_done_t done;
    void *arg;
    const void *extent;
    uint64_t bytes, offset, capacity;
    uint64_t *bytes_out;
    void *into;
    uint32_t key, replicas;
    uint16_t node_index[LW_REPLICAS_MAX];
} pending_t;

typedef struct span {
    uint64_t tag, offset, bytes;
} span_t;

typedef struct known {
    bool used;
    lw_segment_name_t name;
    uint32_t pair_bytes, session_slot;
} known_t;

struct lwc_store {
    lwc_store_params_t params;
    lw_view_t view;
    known_t *segments;
    bool *sessions;
    pending_t *pending; /* FIFO */
    uint32_t capacity, count, wants;
    uint64_t landing_at, released, last_tag;
    span_t *spans; /* landed records in the order of the ring; [capacity] */
    uint32_t span_first, span_count;
    lwc_store_stats_t stats;
    char error[240];
};

void fake_store_reset(void)
{
    for (uint32_t i = 0; i < stored_count; i++) {
        uint32_t heads = lw_segment_header(stored[i].extent)->head_count;
        for (uint32_t h = 0; h < heads; h++)
            free(stored[i].offsets[h]);
        free(stored[i].offsets);
        free(stored[i].extent);
    }
    memset(stored, 0, sizeof(stored));
    stored_count = 0;
    memset(node_down, 0, sizeof(node_down));
    full = hold = false;
}

void fake_store_node_down(uint16_t node_index, bool down)
{
    pthread_mutex_lock(&lock);
    node_down[node_index] = down;
    pthread_mutex_unlock(&lock);
}
void fake_store_full(bool is_full)
{
    pthread_mutex_lock(&lock);
    full = is_full;
    pthread_mutex_unlock(&lock);
}
void fake_store_hold(bool is_held)
{
    pthread_mutex_lock(&lock);
    hold = is_held;
    pthread_mutex_unlock(&lock);
}
uint32_t fake_store_segments(void)
{
    return stored_count;
}

bool fake_store_corrupt(uint32_t layer, uint32_t first_token, bool part)
{
    for (uint32_t i = 0; i < stored_count; i++)
        if (stored[i].name.layer == layer && stored[i].name.first_token == first_token) {
            const lw_segment_head_t *head = lw_segment_heads(stored[i].extent);
            stored[i].extent[part ? head->index_offset + 64 : head->records_offset + 3] ^= 0x10;
            return true;
        }
    return false;
}

static lw_status_t fail(lwc_store_t *store, lw_status_t status, const char *format, ...) LW_PRINTF(3, 4);
static lw_status_t fail(lwc_store_t *store, lw_status_t status, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(store->error, sizeof(store->error), format, list);
    va_end(list);
    return status;
}

lw_status_t lwc_store_create(const lwc_store_params_t *params, lwc_store_t **store_out, lw_error_t *error)
{
    (void)error;
    lwc_store_t *store = calloc(1, sizeof(*store));
    store->params = *params;
    store->segments = calloc(params->segment_capacity, sizeof(*store->segments));
    store->sessions = calloc(params->session_capacity, sizeof(*store->sessions));
    store->capacity = params->wants_max + params->puts_max + 64;
    store->pending = calloc(store->capacity, sizeof(*store->pending));
    store->spans = calloc(store->capacity, sizeof(*store->spans));
    *store_out = store;
    return LW_OK;
}

static void end(lwc_store_t *store, pending_t *p, lw_status_t status, const uint8_t *record)
{
    if (p->kind == WANT) {
        store->wants--;
        p->arrived(p->arg, p->want.tag, status, record);
    } else {
        p->done(p->arg, status);
    }
}

void lwc_store_destroy(lwc_store_t *store)
{
    if (!store)
        return;
    for (uint32_t i = 0; i < store->count; i++)
        end(store, &store->pending[i], LW_ERR_CANCELED, NULL);
    free(store->view.nodes);
    free(store->spans);
    free(store->pending);
    free(store->sessions);
    free(store->segments);
    free(store);
}

lw_status_t lwc_store_set_view(lwc_store_t *store, const lw_view_t *view, lw_error_t *error)
{
    (void)error;
    free(store->view.nodes);
    store->view = *view;
    store->view.nodes = calloc(view->node_count + 1, sizeof(lw_node_t));
    memcpy(store->view.nodes, view->nodes, view->node_count * sizeof(lw_node_t));
    return LW_OK;
}
const lw_view_t *lwc_store_view(const lwc_store_t *store)
{
    return &store->view;
}

lw_status_t lwc_store_session(lwc_store_t *store, uint32_t slot, uint64_t session_id,
                              const uint8_t token[LW_TOKEN_BYTES], bool write, uint32_t term)
{
    (void)session_id, (void)token, (void)write, (void)term;
    store->sessions[slot] = true;
    return LW_OK;
}
void lwc_store_session_forget(lwc_store_t *store, uint32_t slot)
{
    store->sessions[slot] = false;
}

lw_status_t lwc_store_segment(lwc_store_t *store, uint32_t key, uint32_t session_slot,
                              const lw_segment_name_t *name, uint32_t row_pair_bytes,
                              const uint16_t *node_index, uint32_t replica_count)
{
    (void)node_index, (void)replica_count;
    LW_ASSERT(key < store->params.segment_capacity && store->sessions[session_slot]);
    store->segments[key] = (known_t){true, *name, row_pair_bytes, session_slot};
    return LW_OK;
}
void lwc_store_segment_forget(lwc_store_t *store, uint32_t key)
{
    store->segments[key].used = false;
}

static lw_status_t add(lwc_store_t *store, const pending_t *p)
{
    if (store->count == store->capacity)
        return fail(store, LW_ERR_BUSY, "fake store: table full");
    store->pending[store->count++] = *p;
    return LW_OK;
}

lw_status_t lwc_store_attach(lwc_store_t *store, const uint32_t *keys, uint32_t count, uint64_t deadline_us,
                             lwc_done_t done, void *arg)
{
    (void)keys, (void)count;
    pending_t p = {.kind = ATTACH, .deadline_us = deadline_us, .done = done, .arg = arg};
    return add(store, &p);
}

lw_status_t lwc_store_fetch(lwc_store_t *store, const lwc_want_t *wants, uint32_t count, uint64_t deadline_us,
                            bool contiguous, lwc_arrived_t arrived, void *arg)
{
    (void)contiguous;
    for (uint32_t i = 0; i < count; i++) {
        LW_ASSERT(wants[i].segment < store->params.segment_capacity &&
                  store->segments[wants[i].segment].used);
        LW_ASSERT(wants[i].tag >= store->last_tag);
        store->last_tag = wants[i].tag + 1;
        pending_t p = {
            .kind = WANT, .deadline_us = deadline_us, .want = wants[i], .arrived = arrived, .arg = arg};
        lw_status_t status = add(store, &p);
        LW_ASSERT(status == LW_OK);
        store->wants++;
    }
    store->stats.fetch_requests++;
    return LW_OK;
}

/* Released records are poisoned, so that a stale use shows. */
void lwc_store_release(lwc_store_t *store, uint64_t until)
{
    store->released = until;
    while (store->span_count > 0 && store->spans[store->span_first].tag < until) {
        const span_t *span = &store->spans[store->span_first];
        memset(store->params.landing + span->offset, 0xFF, span->bytes);
        store->span_first = (store->span_first + 1) % store->capacity;
        store->span_count--;
    }
}

/* A place for a record, NULL: there is none now. Spans are taken and given back in order. */
static uint8_t *land(lwc_store_t *store, uint64_t tag, uint64_t bytes)
{
    uint64_t rounded = lw_align_up(bytes, 64), end = store->params.landing_bytes;
    const span_t *oldest = &store->spans[store->span_first];

    if (store->span_count == 0)
        store->landing_at = 0;
    else if (oldest->offset >= store->landing_at)
        end = oldest->offset;
    if (store->landing_at + rounded > end && end == store->params.landing_bytes && store->span_count > 0) {
        store->landing_at = 0;
        end = oldest->offset;
    }
    if (store->landing_at + rounded > end || store->span_count == store->capacity)
        return NULL;
    store->spans[(store->span_first + store->span_count++) % store->capacity] =
        (span_t){.tag = tag, .offset = store->landing_at, .bytes = rounded};
    store->landing_at += rounded;
    return store->params.landing + store->landing_at - rounded;
}

uint32_t lwc_store_wants_in_flight(const lwc_store_t *store)
{
    return store->wants;
}

lw_status_t lwc_store_put(lwc_store_t *store, uint32_t session_slot, const void *extent, uint64_t bytes,
                          const uint16_t *node_index, uint32_t replica_count, uint64_t deadline_us,
                          lwc_done_t done, void *arg)
{
    LW_ASSERT(store->sessions[session_slot]);
    pending_t p = {.kind = PUT,
                   .deadline_us = deadline_us,
                   .done = done,
                   .arg = arg,
                   .extent = extent,
                   .bytes = bytes,
                   .replicas = replica_count};
    memcpy(p.node_index, node_index, replica_count * sizeof(uint16_t));
    return add(store, &p);
}

lw_status_t lwc_store_read(lwc_store_t *store, uint32_t key, uint64_t offset, uint64_t bytes, void *into,
                           uint64_t capacity, uint64_t *bytes_out, uint64_t deadline_us, lwc_done_t done,
                           void *arg)
{
    LW_ASSERT(store->segments[key].used);
    pending_t p = {.kind = READ,
                   .deadline_us = deadline_us,
                   .done = done,
                   .arg = arg,
                   .key = key,
                   .offset = offset,
                   .bytes = bytes,
                   .into = into,
                   .capacity = capacity,
                   .bytes_out = bytes_out};
    return add(store, &p);
}

static stored_t *find(lwc_store_t *store, uint32_t key, lw_status_t *status_out)
{
    for (uint32_t i = 0; i < stored_count; i++) {
        if (!lw_segment_name_equal(&stored[i].name, &store->segments[key].name))
            continue;
        for (uint32_t r = 0; r < stored[i].replicas; r++)
            if (!node_down[stored[i].node_index[r]])
                return &stored[i];
        *status_out = fail(store, LW_ERR_UNREACHABLE, "node %u is down", stored[i].node_index[0]);
        return NULL;
    }
    *status_out = fail(store, LW_ERR_SESSION_LOST, "nobody has segment %u", key);
    return NULL;
}

static uint32_t *offsets_of(stored_t *s, uint32_t head)
{
    if (!s->offsets[head]) {
        const lw_segment_head_t *h = &lw_segment_heads(s->extent)[head];
        s->offsets[head] = calloc(h->cluster_count + h->outlier_count + 1, sizeof(uint32_t));
        lw_segment_record_offsets(s->extent, head, s->offsets[head]);
    }
    return s->offsets[head];
}

/* false: there is no room for its record now. */
static bool run_want(lwc_store_t *store, pending_t *p)
{
    lw_status_t status = LW_OK;
    stored_t *s = find(store, p->want.segment, &status);
    if (!s) {
        end(store, p, status, NULL);
        return true;
    }
    const lw_segment_head_t *head = &lw_segment_heads(s->extent)[p->want.head];
    const uint32_t *offsets = offsets_of(s, p->want.head);
    uint64_t bytes = offsets[p->want.entry + 1] - offsets[p->want.entry];
    const uint8_t *record = s->extent + offsets[p->want.entry];
    LW_ASSERT(bytes == p->want.rows * (uint64_t)store->segments[p->want.segment].pair_bytes);
    uint32_t check = ((const uint32_t *)(const void *)(s->extent + head->checks_offset))[p->want.entry];
    if (lw_record_check(lw_record_seed(&s->name, p->want.head, p->want.entry), record, bytes) != check) {
        store->stats.checksum_failures++;
        end(store, p,
            fail(store, LW_ERR_CORRUPT, "record %u of head %u is damaged", p->want.entry, p->want.head),
            NULL);
        return true;
    }
    uint8_t *to = land(store, p->want.tag, bytes);
    if (!to)
        return false;
    memcpy(to, record, bytes);
    store->stats.bytes_fetched += bytes;
    store->stats.records_fetched++;
    end(store, p, LW_OK, to);
    return true;
}

static void run_put(lwc_store_t *store, pending_t *p)
{
    lw_error_t error;
    if (full) {
        end(store, p, fail(store, LW_ERR_EXHAUSTED, "the fleet is full"), NULL);
        return;
    }
    for (uint32_t r = 0; r < p->replicas; r++)
        if (node_down[p->node_index[r]]) {
            end(store, p, fail(store, LW_ERR_UNREACHABLE, "node %u is down", p->node_index[r]), NULL);
            return;
        }
    lw_status_t status = lw_segment_verify(p->extent, p->bytes, &error);
    if (status != LW_OK) {
        end(store, p, fail(store, status, "put: %s", error.text), NULL);
        return;
    }
    LW_ASSERT(stored_count < STORED_MAX);
    stored_t *s = &stored[stored_count++];
    *s = (stored_t){.name = lw_segment_header(p->extent)->name, .replicas = p->replicas, .bytes = p->bytes};
    memcpy(s->node_index, p->node_index, sizeof(s->node_index));
    s->extent = aligned_alloc(64, lw_align_up(p->bytes, 64));
    memcpy(s->extent, p->extent, p->bytes);
    s->offsets = calloc(lw_segment_header(s->extent)->head_count, sizeof(uint32_t *));
    store->stats.segments_put++;
    end(store, p, LW_OK, NULL);
}

static void run_read(lwc_store_t *store, pending_t *p)
{
    lw_status_t status = LW_OK;
    stored_t *s = find(store, p->key, &status);
    if (s) {
        uint64_t bytes = p->bytes ? p->bytes : s->bytes;
        LW_ASSERT(bytes <= p->capacity && p->offset + bytes <= s->bytes);
        memcpy(p->into, s->extent + p->offset, bytes);
        if (p->bytes_out)
            *p->bytes_out = bytes;
    }
    end(store, p, s ? LW_OK : status, NULL);
}

unsigned lwc_store_round(lwc_store_t *store, uint64_t now_us)
{
    /* What callbacks add waits for the next round. */
    uint32_t count = store->count;
    unsigned events = 0;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < count; i++) {
        pending_t p = store->pending[i];
        store->pending[i].kind = NOTHING;
        if (now_us >= p.deadline_us) {
            end(store, &p, fail(store, LW_ERR_TIMEOUT, "deadline passed"), NULL);
        } else if (hold) {
            store->pending[i] = p;
            continue;
        } else if (p.kind == WANT) {
            if (!run_want(store, &p)) {
                store->pending[i] = p;
                continue;
            }
        } else if (p.kind == PUT) {
            run_put(store, &p);
        } else if (p.kind == READ) {
            run_read(store, &p);
        } else if (p.kind == ATTACH) {
            end(store, &p, LW_OK, NULL);
        }
        events++;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < store->count; i++)
        if (store->pending[i].kind != NOTHING)
            store->pending[kept++] = store->pending[i];
    store->count = kept;
    pthread_mutex_unlock(&lock);
    return events;
}

unsigned lwc_store_wait(lwc_store_t *store, uint64_t wait_us)
{
    (void)wait_us;
    return lwc_store_round(store, lw_now_us(store->params.clock));
}

void lwc_store_stats(const lwc_store_t *store, lwc_store_stats_t *stats_out)
{
    *stats_out = store->stats;
}
lw_status_t lwc_store_node_stats(const lwc_store_t *store, uint16_t node_index, lwc_node_stats_t *stats_out)
{
    (void)store, (void)node_index;
    memset(stats_out, 0, sizeof(*stats_out));
    return LW_OK;
}
const char *lwc_store_last_error(const lwc_store_t *store)
{
    return store->error;
}
