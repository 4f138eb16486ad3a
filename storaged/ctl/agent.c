/* agent.c - heartbeats and questions to the catalogue. One thread, woken by its timer, by questions and by answers; the
 * answers come in on other threads and are only put into a list there. */
#include "storaged/ctl/agent.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "storaged/ctl/ctl_private.h"
#include "storaged/ctl/pb.h"

#define AGENT_ASK_US 2000000ull   /* an answer comes within this, or ERR_FLEET does */
#define AGENT_CACHE_ROWS 64u      /* rights to read that are remembered */
#define AGENT_CACHE_US 2000000ull

typedef enum ask_kind { ASK_SYNC, ASK_CHECK, ASK_ORPHANS, ASK_EXPIRE, ASK_PLACED, ASK_MOVE } ask_kind_t;

typedef struct ask {
    struct ask *next;
    ctl_agent_t *agent;
    ask_kind_t kind;
    void *arg;
    lwd_ctl_checked_fn checked;
    lwd_ctl_orphans_fn orphaned;
    lwd_ctl_expired_fn expired;
    lwd_ctl_placed_fn placed;
    lwd_ctl_moved_fn moved;
    lwd_placed_key_t after;
    lw_segment_name_t name;
    uint16_t from, to;
    lwd_ctl_check_t check;
    uint64_t bytes;
    uint32_t name_count;
    lw_segment_name_t *names; /* owned */
    lw_status_t status;       /* of the answer */
    lw_rpc_bytes_t reply;
} ask_t;

typedef struct ask_list {
    ask_t *head, **tail;
} ask_list_t;

typedef struct right { /* a session's right to read, as the catalogue gave it */
    uint64_t session_id, until_us;
    uint8_t token[LW_TOKEN_BYTES];
    uint32_t count;
    uint64_t origins[LWD_FORK_DEPTH_MAX];
    uint32_t cuts[LWD_FORK_DEPTH_MAX];
} right_t;

struct ctl_agent {
    lwd_ctl_t *ctl;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ask_list_t asked, answered; /* under lock, like all down to `kicked` */
    unsigned waiting;           /* questions of others that are not answered yet */
    unsigned flying;            /* requests whose done has not run */
    bool stopping, kicked;
    /* The thread alone. */
    bool syncing;
    uint64_t sync_at_us, ended_serial;
    uint32_t sync_failures;
    right_t rights[AGENT_CACHE_ROWS];
};

static void list_push(ask_list_t *list, ask_t *ask)
{
    ask->next = NULL;
    *list->tail = ask;
    list->tail = &ask->next;
}

static ask_t *list_take_all(ask_list_t *list)
{
    ask_t *head = list->head;
    list->head = NULL;
    list->tail = &list->head;
    return head;
}

static void ask_free(ask_t *ask)
{
    lw_rpc_bytes_free(&ask->reply);
    free(ask->names);
    free(ask);
}

/* ---- questions of the data threads ---- */

static lw_status_t agent_submit(lwd_ctl_t *ctl, ask_t *ask)
{
    ctl_agent_t *agent = ctl->agent;
    ask->agent = agent;
    pthread_mutex_lock(&agent->lock);
    bool taken = !agent->stopping && agent->waiting < LWD_CTL_ASKS_MAX;
    if (taken) {
        agent->waiting++;
        list_push(&agent->asked, ask);
        pthread_cond_signal(&agent->changed);
    }
    pthread_mutex_unlock(&agent->lock);
    if (!taken)
        ask_free(ask);
    return taken ? LW_OK : LW_ERR_BUSY;
}

lw_status_t lwd_ctl_check_async(lwd_ctl_t *ctl, const lwd_ctl_check_t *check, lwd_ctl_checked_fn done, void *arg)
{
    ask_t *ask = calloc(1, sizeof(*ask));
    if (!ask)
        return LW_ERR_BUSY;
    ask->kind = ASK_CHECK;
    ask->check = *check;
    ask->checked = done;
    ask->arg = arg;
    return agent_submit(ctl, ask);
}

lw_status_t lwd_ctl_orphans_async(lwd_ctl_t *ctl, const lw_segment_name_t *names, uint32_t count,
                                  lwd_ctl_orphans_fn done, void *arg)
{
    if (count > LWD_CTL_ORPHANS_MAX)
        return LW_ERR_INVALID;
    ask_t *ask = calloc(1, sizeof(*ask));
    lw_segment_name_t *copy = calloc(count + 1, sizeof(*copy));
    if (!ask || !copy) {
        free(copy);
        free(ask);
        return LW_ERR_BUSY;
    }
    if (count)
        memcpy(copy, names, count * sizeof(*copy));
    ask->kind = ASK_ORPHANS;
    ask->names = copy;
    ask->name_count = count;
    ask->orphaned = done;
    ask->arg = arg;
    return agent_submit(ctl, ask);
}

lw_status_t lwd_ctl_expire_async(lwd_ctl_t *ctl, uint64_t bytes, lwd_ctl_expired_fn done, void *arg)
{
    ask_t *ask = calloc(1, sizeof(*ask));
    if (!ask)
        return LW_ERR_BUSY;
    ask->kind = ASK_EXPIRE;
    ask->bytes = bytes;
    ask->expired = done;
    ask->arg = arg;
    return agent_submit(ctl, ask);
}

lw_status_t lwd_ctl_placed_async(lwd_ctl_t *ctl, const lwd_placed_key_t *after, uint32_t capacity, lwd_ctl_placed_fn done,
                                 void *arg)
{
    if (capacity > LWD_CTL_PLACED_MAX)
        return LW_ERR_INVALID;
    ask_t *ask = calloc(1, sizeof(*ask));
    if (!ask)
        return LW_ERR_BUSY;
    ask->kind = ASK_PLACED;
    ask->after = *after;
    ask->name_count = capacity;
    ask->placed = done;
    ask->arg = arg;
    return agent_submit(ctl, ask);
}

lw_status_t lwd_ctl_move_async(lwd_ctl_t *ctl, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                               lwd_ctl_moved_fn done, void *arg)
{
    ask_t *ask = calloc(1, sizeof(*ask));
    if (!ask)
        return LW_ERR_BUSY;
    ask->kind = ASK_MOVE;
    ask->name = *name;
    ask->from = from;
    ask->to = to;
    ask->moved = done;
    ask->arg = arg;
    return agent_submit(ctl, ask);
}

void lwd_ctl_agent_kick(ctl_agent_t *agent)
{
    if (!agent)
        return;
    pthread_mutex_lock(&agent->lock);
    agent->kicked = true;
    pthread_cond_signal(&agent->changed);
    pthread_mutex_unlock(&agent->lock);
}

/* ---- the cache of rights ---- */

static right_t *right_row(ctl_agent_t *agent, uint64_t session_id)
{
    return &agent->rights[session_id % AGENT_CACHE_ROWS];
}

/* `now` 0: however old. */
static const right_t *right_find(ctl_agent_t *agent, const lwd_ctl_check_t *check, uint64_t now)
{
    const right_t *right = right_row(agent, check->session_id);
    bool found = !check->write && right->session_id == check->session_id && right->until_us > now &&
                 memcmp(right->token, check->token, LW_TOKEN_BYTES) == 0;
    return found ? right : NULL;
}

/* ---- answers ---- */

static void ask_done(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    ask_t *ask = arg;
    ctl_agent_t *agent = ask->agent;
    (void)text;
    ask->status = status == LW_ERR_UNREACHABLE || status == LW_ERR_TIMEOUT ? LW_ERR_FLEET : status;
    if (status == LW_OK && reply->bytes) {
        ask->reply.data = malloc(reply->bytes);
        if (ask->reply.data) {
            memcpy(ask->reply.data, reply->data, reply->bytes);
            ask->reply.bytes = reply->bytes;
        } else {
            ask->status = LW_ERR_NO_MEMORY;
        }
    }
    pthread_mutex_lock(&agent->lock);
    agent->flying--;
    list_push(&agent->answered, ask);
    pthread_cond_signal(&agent->changed);
    pthread_mutex_unlock(&agent->lock);
}

static void answer_check(ctl_agent_t *agent, ask_t *ask)
{
    Longwave__V1__CheckReply *reply = NULL;
    if (ask->status == LW_OK) {
        reply = longwave__v1__check_reply__unpack(NULL, ask->reply.bytes, ask->reply.data);
        if (!reply || reply->n_origins != reply->n_cuts || reply->n_origins > LWD_FORK_DEPTH_MAX)
            ask->status = LW_ERR_IO;
    }
    if (ask->status == LW_OK) {
        right_t *right = right_row(agent, ask->check.session_id);
        if (!ask->check.write) {
            right->session_id = ask->check.session_id;
            right->until_us = ctl_now(agent->ctl) + AGENT_CACHE_US;
            memcpy(right->token, ask->check.token, LW_TOKEN_BYTES);
            right->count = (uint32_t)reply->n_origins;
            memcpy(right->origins, reply->origins, reply->n_origins * sizeof(*right->origins));
            memcpy(right->cuts, reply->cuts, reply->n_cuts * sizeof(*right->cuts));
        }
        ask->checked(ask->arg, LW_OK, reply->origins, reply->cuts, (uint32_t)reply->n_origins);
    } else {
        /* While the catalogue is away reads go on: what was allowed still is, since no ending can have come. */
        const right_t *right = ask->status == LW_ERR_FLEET ? right_find(agent, &ask->check, 0) : NULL;
        ask->checked(ask->arg, right ? LW_OK : ask->status, right ? right->origins : NULL, right ? right->cuts : NULL,
                     right ? right->count : 0);
    }
    if (reply)
        longwave__v1__check_reply__free_unpacked(reply, NULL);
}

static void answer_orphans(ask_t *ask)
{
    Longwave__V1__OrphansReply *reply = NULL;
    bool *dead = NULL;
    if (ask->status == LW_OK) {
        reply = longwave__v1__orphans_reply__unpack(NULL, ask->reply.bytes, ask->reply.data);
        dead = calloc(ask->name_count + 1, sizeof(*dead));
        if (!reply || reply->dead.len != ask->name_count || !dead)
            ask->status = LW_ERR_IO;
    }
    for (uint32_t i = 0; i < ask->name_count && ask->status == LW_OK; i++)
        dead[i] = reply->dead.data[i] == 1;
    ask->orphaned(ask->arg, ask->status, ask->status == LW_OK ? dead : NULL, ask->status == LW_OK ? ask->name_count : 0);
    free(dead);
    if (reply)
        longwave__v1__orphans_reply__free_unpacked(reply, NULL);
}

static void answer_expire(ask_t *ask)
{
    Longwave__V1__ExpireReply *reply = NULL;
    if (ask->status == LW_OK) {
        reply = longwave__v1__expire_reply__unpack(NULL, ask->reply.bytes, ask->reply.data);
        if (!reply)
            ask->status = LW_ERR_IO;
    }
    ask->expired(ask->arg, ask->status, reply ? reply->bytes_freed : 0);
    if (reply)
        longwave__v1__expire_reply__free_unpacked(reply, NULL);
}

/* Reads a page into rows[reply->n_rows]. */
static lw_status_t read_page(const Longwave__V1__PlacedReply *reply, lwd_placed_t *rows)
{
    for (size_t i = 0; i < reply->n_rows; i++) {
        const Longwave__V1__Placed *placed = reply->rows[i];
        lw_error_t error;
        if (!placed->range || placed->rank > UINT16_MAX || placed->layers == 0 || placed->layers > LW_LAYERS_MAX ||
            lw_pb_range_read(placed->range, placed->layers, &rows[i].range, &error) != LW_OK)
            return LW_ERR_IO;
        rows[i].rank = (uint16_t)placed->rank;
        rows[i].layers = placed->layers;
    }
    return LW_OK;
}

static void answer_placed(ask_t *ask)
{
    Longwave__V1__PlacedReply *reply = NULL;
    lwd_placed_t *rows = NULL;
    if (ask->status == LW_OK) {
        reply = longwave__v1__placed_reply__unpack(NULL, ask->reply.bytes, ask->reply.data);
        rows = calloc(ask->name_count + 1, sizeof(*rows));
        if (!reply || reply->n_rows > ask->name_count || !rows)
            ask->status = LW_ERR_IO;
    }
    if (ask->status == LW_OK)
        ask->status = read_page(reply, rows);
    bool good = ask->status == LW_OK;
    ask->placed(ask->arg, ask->status, good ? rows : NULL, good ? (uint32_t)reply->n_rows : 0);
    free(rows);
    if (reply)
        longwave__v1__placed_reply__free_unpacked(reply, NULL);
}

/* ---- heartbeats ---- */

/* Takes a new view; false when it makes no sense. */
static bool agent_take_view(lwd_ctl_t *ctl, const Longwave__V1__View *message)
{
    lw_view_t view;
    lw_error_t error;
    if (lw_pb_view_read(message, &view, &error) != LW_OK)
        return false;
    pthread_mutex_lock(&ctl->view_lock);
    free(ctl->view.nodes);
    ctl->view = view;
    pthread_mutex_unlock(&ctl->view_lock);
    atomic_store(&ctl->fleet_id, message->fleet_id);
    atomic_store(&ctl->epoch, message->epoch);
    lw_gauge(&ctl->stats[1].view_epoch, message->epoch);
    if (ctl->callbacks.on_view)
        ctl->callbacks.on_view(ctl->callbacks.arg, message->fleet_id, message->epoch);
    return true;
}

static void agent_take_endings(ctl_agent_t *agent, const Longwave__V1__SyncReply *reply)
{
    lwd_ctl_t *ctl = agent->ctl;
    lwd_ended_t rows[CTL_ENDED_PAGE];
    uint32_t count = 0;
    for (size_t i = 0; i < reply->n_ended && count < CTL_ENDED_PAGE; i++) {
        const Longwave__V1__Ended *ended = reply->ended[i];
        rows[count++] = (lwd_ended_t){.serial = ended->serial, .origin = ended->origin, .from_token = ended->from_token,
                                      .generation_max = ended->generation_max, .rank = (uint16_t)ended->rank};
        if (ended->serial > agent->ended_serial)
            agent->ended_serial = ended->serial;
    }
    if (!count)
        return;
    memset(agent->rights, 0, sizeof(agent->rights));
    lw_count(&ctl->stats[1].endings, count);
    if (ctl->callbacks.on_ended)
        ctl->callbacks.on_ended(ctl->callbacks.arg, rows, count);
    agent->sync_at_us = 0; /* tell at once that they were taken, and ask for more */
}

static void answer_sync(ctl_agent_t *agent, ask_t *ask)
{
    lwd_ctl_t *ctl = agent->ctl;
    Longwave__V1__SyncReply *reply = NULL;
    agent->syncing = false;
    if (ask->status == LW_OK)
        reply = longwave__v1__sync_reply__unpack(NULL, ask->reply.bytes, ask->reply.data);
    if (reply && reply->node_token.len == LW_TOKEN_BYTES) {
        pthread_mutex_lock(&ctl->view_lock);
        memcpy(ctl->node_token, reply->node_token.data, LW_TOKEN_BYTES);
        pthread_mutex_unlock(&ctl->view_lock);
    }
    if (!reply || (reply->view && !agent_take_view(ctl, reply->view))) {
        lw_count(&ctl->stats[1].syncs_failed, 1);
        if (agent->sync_failures++ == 3) /* the fourth in a row: a state worth a line, once */
            LW_WARN("ctl", "no answer from the catalogue's node %s: %s", ctl->fleet[0], lw_status_text(ask->status));
    } else {
        if (agent->sync_failures > 3)
            LW_WARN("ctl", "the catalogue's node %s answers again", ctl->fleet[0]);
        agent->sync_failures = 0;
        lw_count(&ctl->stats[1].syncs, 1);
        if (!ctl->etcd) /* there each kept lease counts */
            atomic_store(&ctl->synced_us, ctl_now(ctl));
        agent_take_endings(agent, reply);
    }
    if (reply)
        longwave__v1__sync_reply__free_unpacked(reply, NULL);
}

static void agent_answer(ctl_agent_t *agent, ask_t *ask)
{
    switch (ask->kind) {
    case ASK_SYNC: answer_sync(agent, ask); break;
    case ASK_CHECK: answer_check(agent, ask); break;
    case ASK_ORPHANS: answer_orphans(ask); break;
    case ASK_EXPIRE: answer_expire(ask); break;
    case ASK_PLACED: answer_placed(ask); break;
    case ASK_MOVE: ask->moved(ask->arg, ask->status); break;
    }
    if (ask->kind != ASK_SYNC) {
        pthread_mutex_lock(&agent->lock);
        agent->waiting--;
        pthread_mutex_unlock(&agent->lock);
    }
    ask_free(ask);
}

/* ---- sending ---- */

static uint8_t *pack_sync(ctl_agent_t *agent, size_t *bytes_out)
{
    lwd_ctl_t *ctl = agent->ctl;
    uint64_t used = 0, free_bytes = 0;
    if (ctl->callbacks.usage)
        ctl->callbacks.usage(ctl->callbacks.arg, &used, &free_bytes);
    pthread_mutex_lock(&ctl->view_lock);
    ctl->used_bytes = used;
    ctl->free_bytes = free_bytes;
    pthread_mutex_unlock(&ctl->view_lock);
    lw_node_t own = {.id = ctl->node_id, .incarnation = ctl->incarnation, .weight = ctl->weight,
                     .state = atomic_load(&ctl->draining) ? LW_NODE_DRAINING : LW_NODE_UP};
    memcpy(own.zone, ctl->zone, sizeof(own.zone));
    memcpy(own.control, ctl->advertise, sizeof(own.control));
    memcpy(own.data, ctl->data, sizeof(own.data));
    Longwave__V1__Node node;
    Longwave__V1__SyncRequest request = LONGWAVE__V1__SYNC_REQUEST__INIT;
    lw_pb_node(&own, &node);
    node.used_bytes = used;
    node.free_bytes = free_bytes;
    request.node = &node;
    request.ended_serial = agent->ended_serial;
    request.epoch = atomic_load(&ctl->epoch);
    uint8_t *packed = malloc(longwave__v1__sync_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes_out = longwave__v1__sync_request__pack(&request, packed);
    return packed;
}

static uint8_t *pack_check(const ask_t *ask, size_t *bytes_out)
{
    Longwave__V1__CheckRequest request = LONGWAVE__V1__CHECK_REQUEST__INIT;
    request.session_id = ask->check.session_id;
    request.token = (ProtobufCBinaryData){.data = (uint8_t *)ask->check.token, .len = LW_TOKEN_BYTES};
    request.write = ask->check.write;
    request.term = ask->check.term;
    uint8_t *packed = malloc(longwave__v1__check_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes_out = longwave__v1__check_request__pack(&request, packed);
    return packed;
}

static uint8_t *pack_orphans(const ask_t *ask, size_t *bytes_out)
{
    Longwave__V1__OrphansRequest request = LONGWAVE__V1__ORPHANS_REQUEST__INIT;
    Longwave__V1__SegmentName *names = calloc(ask->name_count + 1, sizeof(*names));
    Longwave__V1__SegmentName **pointers = calloc(ask->name_count + 1, sizeof(*pointers));
    uint8_t *packed = NULL;
    if (names && pointers) {
        for (uint32_t i = 0; i < ask->name_count; i++) {
            longwave__v1__segment_name__init(&names[i]);
            names[i].origin = ask->names[i].origin;
            names[i].rank = ask->names[i].rank;
            names[i].layer = ask->names[i].layer;
            names[i].first_token = ask->names[i].first_token;
            names[i].generation = ask->names[i].generation;
            pointers[i] = &names[i];
        }
        request.n_names = ask->name_count;
        request.names = pointers;
        request.node = ask->agent->ctl->own_index + 1;
        packed = malloc(longwave__v1__orphans_request__get_packed_size(&request) + 1);
        if (packed)
            *bytes_out = longwave__v1__orphans_request__pack(&request, packed);
    }
    free(pointers);
    free(names);
    return packed;
}

static uint8_t *pack_expire(const ask_t *ask, size_t *bytes_out)
{
    Longwave__V1__ExpireRequest request = LONGWAVE__V1__EXPIRE_REQUEST__INIT;
    request.bytes = ask->bytes;
    uint8_t *packed = malloc(longwave__v1__expire_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes_out = longwave__v1__expire_request__pack(&request, packed);
    return packed;
}

static uint8_t *pack_placed(const ask_t *ask, size_t *bytes_out)
{
    Longwave__V1__PlacedRequest request = LONGWAVE__V1__PLACED_REQUEST__INIT;
    request.origin = ask->after.origin;
    request.rank = ask->after.rank;
    request.first_token = ask->after.first_token;
    request.capacity = ask->name_count;
    uint8_t *packed = malloc(longwave__v1__placed_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes_out = longwave__v1__placed_request__pack(&request, packed);
    return packed;
}

static uint8_t *pack_move(const ask_t *ask, size_t *bytes_out)
{
    Longwave__V1__SegmentName name = LONGWAVE__V1__SEGMENT_NAME__INIT;
    Longwave__V1__MoveRequest request = LONGWAVE__V1__MOVE_REQUEST__INIT;
    name.origin = ask->name.origin;
    name.rank = ask->name.rank;
    name.layer = ask->name.layer;
    name.first_token = ask->name.first_token;
    name.generation = ask->name.generation;
    request.name = &name;
    request.from = ask->from;
    request.to = ask->to;
    uint8_t *packed = malloc(longwave__v1__move_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes_out = longwave__v1__move_request__pack(&request, packed);
    return packed;
}

static uint8_t *pack(ctl_agent_t *agent, const ask_t *ask, size_t *bytes_out)
{
    switch (ask->kind) {
    case ASK_SYNC: return pack_sync(agent, bytes_out);
    case ASK_CHECK: return pack_check(ask, bytes_out);
    case ASK_ORPHANS: return pack_orphans(ask, bytes_out);
    case ASK_EXPIRE: return pack_expire(ask, bytes_out);
    case ASK_PLACED: return pack_placed(ask, bytes_out);
    case ASK_MOVE: return pack_move(ask, bytes_out);
    }
    return NULL;
}

/* Sends a question; when that cannot be done it is answered at once. */
static void agent_send(ctl_agent_t *agent, ask_t *ask)
{
    static const char *const paths[] = {"/longwave.v1.Fleet/Sync", "/longwave.v1.Session/Check",
                                        "/longwave.v1.Fleet/Orphans", "/longwave.v1.Fleet/Expire",
                                        "/longwave.v1.Fleet/Placed",  "/longwave.v1.Fleet/Move"};
    size_t bytes = 0;
    uint8_t *packed = pack(agent, ask, &bytes);
    pthread_mutex_lock(&agent->lock);
    agent->flying++;
    pthread_mutex_unlock(&agent->lock);
    lw_status_t status = LW_ERR_NO_MEMORY;
    if (packed)
        status = lwd_ctl_ask(agent->ctl, lwd_ctl_method(paths[ask->kind]), packed, bytes,
                         ask->kind == ASK_SYNC ? LWD_CTL_DOWN_US : AGENT_ASK_US, ask_done, ask);
    free(packed);
    if (status == LW_OK)
        return;
    pthread_mutex_lock(&agent->lock);
    agent->flying--;
    pthread_mutex_unlock(&agent->lock);
    ask->status = status;
    agent_answer(agent, ask);
}

static void agent_ask(ctl_agent_t *agent, ask_t *ask)
{
    if (ask->kind == ASK_CHECK) {
        lw_count(&agent->ctl->stats[1].checks, 1);
        const right_t *right = right_find(agent, &ask->check, ctl_now(agent->ctl));
        if (right) {
            lw_count(&agent->ctl->stats[1].checks_cached, 1);
            ask->checked(ask->arg, LW_OK, right->origins, right->cuts, right->count);
            pthread_mutex_lock(&agent->lock);
            agent->waiting--;
            pthread_mutex_unlock(&agent->lock);
            ask_free(ask);
            return;
        }
    }
    agent_send(agent, ask);
}

static void agent_sync(ctl_agent_t *agent, uint64_t now)
{
    ask_t *ask = calloc(1, sizeof(*ask));
    agent->sync_at_us = now + LWD_CTL_SYNC_US;
    if (!ask)
        return; /* the next one may find memory */
    ask->agent = agent;
    ask->kind = ASK_SYNC;
    agent->syncing = true;
    agent_send(agent, ask);
}

/* ---- the thread ---- */

/* Waits for work with the lock held; returns what was asked and what was answered. */
static void agent_wait(ctl_agent_t *agent, ask_t **asked_out, ask_t **answered_out, bool *stop_out)
{
    pthread_mutex_lock(&agent->lock);
    for (;;) {
        uint64_t now = ctl_now(agent->ctl);
        if (agent->kicked && !agent->syncing) {
            agent->kicked = false;
            agent->sync_at_us = 0;
        }
        bool due = !agent->stopping && !agent->syncing && now >= agent->sync_at_us;
        bool over = agent->stopping && agent->flying == 0;
        if (agent->asked.head || agent->answered.head || due || over)
            break;
        uint64_t left = agent->stopping || agent->syncing ? LWD_CTL_SYNC_US : agent->sync_at_us - now;
        struct timespec to;
        clock_gettime(CLOCK_MONOTONIC, &to);
        to.tv_nsec += (long)(lw_min_u64(left, LWD_CTL_SYNC_US) * 1000);
        if (to.tv_nsec >= 1000000000) {
            to.tv_sec++;
            to.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&agent->changed, &agent->lock, &to);
    }
    *asked_out = list_take_all(&agent->asked);
    *answered_out = list_take_all(&agent->answered);
    *stop_out = agent->stopping;
    pthread_mutex_unlock(&agent->lock);
}

static void *agent_thread(void *arg)
{
    ctl_agent_t *agent = arg;
    for (;;) {
        ask_t *asked, *answered;
        bool stopping;
        agent_wait(agent, &asked, &answered, &stopping);
        bool idle = !asked && !answered;
        while (answered) {
            ask_t *ask = answered;
            answered = ask->next;
            agent_answer(agent, ask);
        }
        while (asked) {
            ask_t *ask = asked;
            asked = ask->next;
            if (stopping) {
                ask->status = LW_ERR_CANCELED;
                agent_answer(agent, ask);
            } else {
                agent_ask(agent, ask);
            }
        }
        uint64_t now = ctl_now(agent->ctl);
        if (stopping && idle)
            return NULL; /* nothing flies, nothing waits */
        if (!stopping && !agent->syncing && now >= agent->sync_at_us)
            agent_sync(agent, now);
    }
}

lw_status_t lwd_ctl_agent_start(lwd_ctl_t *ctl, ctl_agent_t **agent_out, lw_error_t *error)
{
    ctl_agent_t *agent = calloc(1, sizeof(*agent));
    if (!agent)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the agent");
    agent->ctl = ctl;
    agent->asked.tail = &agent->asked.head;
    agent->answered.tail = &agent->answered.head;
    pthread_mutex_init(&agent->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&agent->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&agent->thread, NULL, agent_thread, agent) != 0) {
        pthread_cond_destroy(&agent->changed);
        pthread_mutex_destroy(&agent->lock);
        free(agent);
        return lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the agent");
    }
    *agent_out = agent;
    return LW_OK;
}

void lwd_ctl_agent_stop(ctl_agent_t *agent)
{
    if (!agent)
        return;
    pthread_mutex_lock(&agent->lock);
    agent->stopping = true;
    pthread_cond_signal(&agent->changed);
    pthread_mutex_unlock(&agent->lock);
    pthread_join(agent->thread, NULL);
    pthread_cond_destroy(&agent->changed);
    pthread_mutex_destroy(&agent->lock);
    free(agent);
}
