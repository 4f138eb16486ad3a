/* tickets.c - the bridge between the select op and the store. The store's thread; nothing here allocates after
 * init. */
#include "client/tickets.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

lw_status_t lwc_tickets_init(lwc_tickets_t *tickets, const lwc_device_t *device, const lwc_model_t *model,
                             const lwc_sizes_t *sizes, bool local, lw_error_t *error)
{
    memset(tickets, 0, sizeof(*tickets));
    tickets->device = device;
    tickets->kind = local && device->async ? LWK_MEMORY_DEVICE : LWK_MEMORY_PINNED;
    tickets->capacity = sizes->ticket_capacity;
    tickets->layers = model->layers;
    tickets->async = device->async;
    tickets->pair_bytes = model->pair_bytes;
    tickets->landing_bytes = sizes->landing_bytes;
    const struct {
        void **memory;
        uint64_t bytes;
        const char *what;
    } parts[] = {
        {(void **)&tickets->ring, tickets->capacity * sizeof(lwk_ticket_t), "ticket ring"},
        {(void **)&tickets->head, 64, "ticket head"},
        {(void **)&tickets->tail, 64, "ticket tail"},
        {(void **)&tickets->arrivals, tickets->capacity * sizeof(uint64_t), "arrivals"}};
    lw_status_t status = LW_OK;
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts) && status == LW_OK; i++)
        status = lwc_device_alloc(device, tickets->kind, parts[i].bytes, parts[i].what, parts[i].memory, error);
    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_PINNED, tickets->landing_bytes,
                                  local ? "local memory (local.bytes)"
                                        : "landing memory (client.landing_bytes)",
                                  (void **)&tickets->landing, error);
    tickets->wants = calloc(tickets->capacity, sizeof(*tickets->wants));
    tickets->rows = calloc(tickets->capacity, sizeof(*tickets->rows));
    if (status == LW_OK && (!tickets->wants || !tickets->rows))
        status = lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for %u tickets", tickets->capacity);
    return status;
}

void lwc_tickets_fini(lwc_tickets_t *tickets)
{
    if (!tickets->device)
        return;
    lwc_device_free(tickets->device, tickets->kind, tickets->ring);
    lwc_device_free(tickets->device, tickets->kind, tickets->head);
    lwc_device_free(tickets->device, tickets->kind, tickets->tail);
    lwc_device_free(tickets->device, tickets->kind, tickets->arrivals);
    lwc_device_free(tickets->device, LWK_MEMORY_PINNED, tickets->landing);
    free(tickets->wants);
    free(tickets->rows);
    memset(tickets, 0, sizeof(*tickets));
}

static void fail(lwc_tickets_t *tickets, lw_status_t status, const char *text)
{
    bool full = status == LW_ERR_TIMEOUT && tickets->bytes > tickets->landing_bytes / 8 * 7;
    const char *advice = !full            ? ""
                         : tickets->async ? "; landing memory is full: raise client.landing_bytes, or set "
                                            "client.admit_layers"
                                          : "; landing memory is full: raise client.landing_bytes";

    if (tickets->failed != LW_OK && !tickets->failing)
        return;
    tickets->failed = lw_fail(&tickets->error, status, "%.160s%s", text, advice);
    if (tickets->failing)
        tickets->failing(tickets->failing_arg, &tickets->error);
}

static void answer(lwc_tickets_t *tickets, uint64_t ticket, uint32_t where)
{
    __atomic_store_n(&tickets->arrivals[ticket & (tickets->capacity - 1)], lwk_arrival(ticket, where),
                     __ATOMIC_RELEASE);
}

/* A control of the demo, on verified records: the two largest of equal size that belong to different heads
 * change places. */
static void swap_two(lwc_tickets_t *tickets, uint32_t layer)
{
    uint64_t mask = tickets->capacity - 1, best[2] = {0, 0};
    uint32_t size = 0;

    for (uint64_t a = tickets->released; a < tickets->seen; a++) {
        const lwk_ticket_t *one = &tickets->ring[a & mask];
        for (uint64_t b = a + 1; b < tickets->seen && one->layer == layer && one->size > size; b++) {
            const lwk_ticket_t *other = &tickets->ring[b & mask];
            if (other->layer == layer && other->head != one->head && other->size == one->size) {
                best[0] = a, best[1] = b, size = one->size;
                break;
            }
        }
    }
    if (size == 0)
        return;
    uint32_t first = (uint32_t)tickets->arrivals[best[0] & mask],
             second = (uint32_t)tickets->arrivals[best[1] & mask];
    answer(tickets, best[0], second);
    answer(tickets, best[1], first);
}

static void arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record)
{
    lwc_tickets_t *tickets = arg;
    uint32_t layer = tickets->ring[tag & (tickets->capacity - 1)].layer; /* before the answer: then it may be reused */
    uint32_t where = LWK_LANDING_FAILED;

    if (status == LW_OK) {
        uint64_t offset = (uint64_t)(record - tickets->landing);
        LW_ASSERT(offset % LWK_LANDING_UNIT == 0 && offset < tickets->landing_bytes);
        where = (uint32_t)(offset / LWK_LANDING_UNIT);
    } else {
        fail(tickets, status, lwc_store_last_error(tickets->store));
    }
    answer(tickets, tag, where);
    tickets->waiting--;
    tickets->waiting_layer[layer]--;
    if (!tickets->async && tickets->waiting_layer[layer] == 0 && LW_FAULT(RECORD_SWAP))
        swap_two(tickets, layer);
}

uint64_t lwc_tickets_rung(const lwc_tickets_t *tickets)
{
    return __atomic_load_n(tickets->head, __ATOMIC_ACQUIRE);
}

static lwc_want_t want_of(const lwc_tickets_t *tickets, uint64_t number)
{
    const lwk_ticket_t *ticket = &tickets->ring[number & (tickets->capacity - 1)];

    return (lwc_want_t){.segment = ticket->row * tickets->layers + ticket->layer,
                        .head = ticket->head,
                        .entry = ticket->entry,
                        .rows = ticket->size,
                        .tag = number};
}

/* Answered by select itself: the record lies in this host's memory. */
static bool is_local(const lwc_tickets_t *tickets, uint64_t number)
{
    const lwk_ticket_t *ticket = &tickets->ring[number & (tickets->capacity - 1)];

    return (__atomic_load_n(&ticket->flags, __ATOMIC_RELAXED) & LWK_TICKET_LOCAL) != 0;
}

/* Tickets from `seen` to below `rung` as wants; those of segments that nobody knows are answered. */
static uint32_t make_wants(lwc_tickets_t *tickets, uint64_t rung, const bool *known)
{
    uint32_t count = 0;

    for (uint64_t t = tickets->seen; t < rung; t++) {
        lwc_want_t want = want_of(tickets, t);
        tickets->rows[t & (tickets->capacity - 1)] = 0;
        if (is_local(tickets, t))
            continue;
        if (tickets->async && (!known || !known[want.segment])) {
            fail(tickets, LW_ERR_CANCELED, "the session or the handle is closed");
            answer(tickets, t, LWK_LANDING_FAILED);
            continue;
        }
        tickets->wants[count++] = want;
        tickets->waiting_layer[tickets->ring[t & (tickets->capacity - 1)].layer]++;
        tickets->rows[t & (tickets->capacity - 1)] = want.rows;
        tickets->bytes += want.rows * tickets->pair_bytes;
    }
    tickets->waiting += count;
    return count;
}

/* Nobody waits for these wants any more; answered unless they will be asked for again. */
static void drop_wants(lwc_tickets_t *tickets, uint32_t count, bool answered)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t tag = tickets->wants[i].tag;
        tickets->waiting_layer[tickets->ring[tag & (tickets->capacity - 1)].layer]--;
        if (answered) {
            answer(tickets, tag, LWK_LANDING_FAILED);
        } else {
            tickets->rows[tag & (tickets->capacity - 1)] = 0;
            tickets->bytes -= tickets->wants[i].rows * tickets->pair_bytes;
        }
    }
    tickets->waiting -= count;
}

void lwc_tickets_collect(lwc_tickets_t *tickets, uint64_t deadline_us)
{
    uint64_t rung = lwc_tickets_rung(tickets);

    LW_ASSERT(rung - tickets->released <= tickets->capacity);
    uint32_t count = make_wants(tickets, rung, NULL);
    tickets->seen = rung;
    if (count == 0)
        return;
    lw_status_t status =
        lwc_store_fetch(tickets->store, tickets->wants, count, deadline_us, false, arrived, tickets);
    if (status == LW_OK)
        return;
    fail(tickets, status, lwc_store_last_error(tickets->store));
    drop_wants(tickets, count, true);
}

unsigned lwc_tickets_take(lwc_tickets_t *tickets, uint64_t rung, uint64_t now_us, uint64_t deadline_us,
                          const bool *known)
{
    uint64_t tail = __atomic_load_n(tickets->tail, __ATOMIC_ACQUIRE);
    uint64_t first = tickets->seen = lw_max_u64(tickets->seen, tail); /* local ones are answered and released without us */
    lw_status_t status = LW_OK;

    if (rung <= first)
        return 0;
    uint32_t count = make_wants(tickets, rung, known);
    if (count > 0)
        status = lwc_store_fetch(tickets->store, tickets->wants, count, deadline_us, false, arrived, tickets);
    if (status == LW_ERR_BUSY) {
        uint64_t since = tickets->busy_since_us ? tickets->busy_since_us : now_us;
        if (now_us - since < deadline_us - now_us) {
            tickets->busy_since_us = since;
            drop_wants(tickets, count, false);
            return 0;
        }
    }
    tickets->busy_since_us = 0;
    if (status != LW_OK) {
        fail(tickets, status, lwc_store_last_error(tickets->store));
        drop_wants(tickets, count, true);
    }
    tickets->seen = rung;
    return (unsigned)(rung - first);
}

void lwc_tickets_release(lwc_tickets_t *tickets)
{
    uint64_t tail = __atomic_load_n(tickets->tail, __ATOMIC_ACQUIRE);

    if (tail <= tickets->released)
        return;
    for (uint64_t t = tickets->released; t < tail; t++) {
        tickets->bytes -= tickets->rows[t & (tickets->capacity - 1)] * tickets->pair_bytes;
        tickets->rows[t & (tickets->capacity - 1)] = 0;
    }
    if (tickets->store)
        lwc_store_release(tickets->store, tail);
    tickets->released = tail;
}

bool lwc_tickets_tight(const lwc_tickets_t *tickets)
{
    return tickets->bytes > tickets->landing_bytes / 3 ||
           tickets->seen - tickets->released > tickets->capacity / 2;
}

void lwc_tickets_clear(lwc_tickets_t *tickets)
{
    tickets->failed = LW_OK;
    tickets->error.text[0] = '\0';
}
