/* segment.c - the directory: a segment's key to its name and replicas, and each replica's handle on the connection it was
 * attached on. Attaching is on demand: whoever needs a handle queues it, and one ATTACH goes out for each peer and session. */
#include <string.h>

#include "client/store/store_private.h"

#define ATTACH_TIMEOUT_US 2000000ull
#define OPEN_ATTACHES 16u

lwc_segment_t *lwc_segment(const lwc_store_t *store, uint32_t key)
{
    if (key >= store->params.segment_capacity || !store->segments[key].used)
        return NULL;
    return &store->segments[key];
}

lw_status_t lwc_store_session(lwc_store_t *store, uint32_t slot, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES],
                              bool write, uint32_t term)
{
    if (slot >= store->params.session_capacity)
        return lwc_store_fail(store, LW_ERR_INVALID, "session slot %u, capacity %u", slot, store->params.session_capacity);
    lwc_store_session_t *session = &store->sessions[slot];
    *session = (lwc_store_session_t){.used = true, .write = write, .session_id = session_id, .term = term};
    memcpy(session->token, token, LW_TOKEN_BYTES);
    for (uint32_t i = 0; i < store->peer_count; i++)
        if (store->peer[i])
            store->peer[i]->session_serial[slot] = 0;
    return LW_OK;
}

void lwc_store_session_forget(lwc_store_t *store, uint32_t slot)
{
    store->sessions[slot].used = false;
}

static void count_copies(lwc_store_t *store, const lwc_segment_t *segment, bool known)
{
    for (uint32_t r = 0; segment->used && r < segment->replica_count; r++)
        if (segment->replica[r].node_index < LW_NODES_MAX)
            store->copies[segment->replica[r].node_index] += known ? 1u : -1u;
}

lw_status_t lwc_store_segment(lwc_store_t *store, uint32_t key, uint32_t session_slot, const lw_segment_name_t *name,
                              uint32_t row_pair_bytes, const uint16_t *node_index, uint32_t replica_count)
{
    if (key >= store->params.segment_capacity)
        return lwc_store_fail(store, LW_ERR_INVALID, "segment key %u, capacity %u", key, store->params.segment_capacity);
    if (session_slot >= store->params.session_capacity || !store->sessions[session_slot].used)
        return lwc_store_fail(store, LW_ERR_INVALID, "segment %u: no session in slot %u", key, session_slot);
    if (replica_count == 0 || replica_count > LW_REPLICAS_MAX)
        return lwc_store_fail(store, LW_ERR_INVALID, "segment %u: replica_count %u, 1..%u", key, replica_count,
                              LW_REPLICAS_MAX);
    lwc_segment_t *segment = &store->segments[key];
    if (segment->used && segment->moves > 0 && !segment->gone && lw_segment_name_equal(&segment->name, name)) {
        segment->session_slot = session_slot; /* its handles belong to the session before */
        segment->version++;
        for (uint32_t r = 0; r < segment->replica_count; r++)
            if (segment->replica[r].state != LWC_QUEUED)
                segment->replica[r].state = LWC_DETACHED;
        return LW_OK;
    }
    count_copies(store, segment, false);
    *segment = (lwc_segment_t){.used = true, .replica_count = (uint8_t)replica_count, .session_slot = session_slot,
                               .row_pair_bytes = row_pair_bytes, .version = segment->version + 1, .name = *name,
                               .name_hash = lw_segment_name_hash(name), .known_us = store->now_us};
    for (uint32_t r = 0; r < replica_count; r++)
        segment->replica[r].node_index = node_index[r];
    count_copies(store, segment, true);
    return LW_OK;
}

static void waiter_count(lwc_store_t *store, lwc_segment_t *segment, lw_status_t status)
{
    if (segment->waiter == 0)
        return;
    lwc_waiter_t *waiter = &store->waiters[segment->waiter - 1];
    segment->waiter = 0;
    if (!waiter->used)
        return;
    if (status != LW_OK && waiter->status == LW_OK)
        waiter->status = status;
    if (--waiter->left == 0) {
        waiter->used = false;
        waiter->done(waiter->arg, waiter->status);
    }
}

void lwc_store_segment_forget(lwc_store_t *store, uint32_t key)
{
    lwc_segment_t *segment = lwc_segment(store, key);
    if (!segment)
        return;
    count_copies(store, segment, false);
    segment->used = false;
    waiter_count(store, segment, LW_ERR_CANCELED);
}

static void queue(lwc_store_t *store, uint32_t key, uint32_t r)
{
    lwc_replica_t *replica = &store->segments[key].replica[r];
    if (replica->state == LWC_QUEUED || replica->state == LWC_ATTACHING ||
        store->attach_count == store->attach_capacity)
        return;
    replica->state = LWC_QUEUED;
    uint32_t at = (store->attach_first + store->attach_count++) % store->attach_capacity;
    store->attach_queue[at] = (uint64_t)key << 8 | r;
}

bool lwc_segment_handle(lwc_store_t *store, uint32_t key, uint32_t r, uint64_t *handle_out, bool *absent_out)
{
    lwc_replica_t *replica = &store->segments[key].replica[r];
    lwc_peer_t *peer = lwc_peer(store, replica->node_index);
    *absent_out = !peer;
    if (!peer || !lwc_peer_ready(peer))
        return false;
    bool current = replica->serial == peer->serial;
    if (current && replica->state == LWC_ATTACHED) {
        *handle_out = replica->handle;
        return true;
    }
    *absent_out = current && replica->state == LWC_ABSENT && store->now_us - replica->handle < LWC_ABSENT_US;
    if (!*absent_out)
        queue(store, key, r);
    return false;
}

void lwc_segment_stale(lwc_store_t *store, uint32_t key, uint32_t r)
{
    lwc_segment_t *segment = lwc_segment(store, key);
    if (segment && segment->replica[r].state == LWC_ATTACHED)
        segment->replica[r].state = LWC_DETACHED;
}

static bool names(const uint16_t *node_index, uint32_t count, uint16_t node)
{
    for (uint32_t i = 0; i < count; i++)
        if (node_index[i] == node)
            return true;
    return false;
}

static bool is_on(const lwc_segment_t *segment, uint32_t count, uint16_t node)
{
    for (uint32_t r = 0; r < count; r++)
        if (segment->replica[r].node_index == node)
            return true;
    return false;
}

/* Replicas that stay keep their place and handle, new ones take the places of those that left. */
static void take_nodes(lwc_segment_t *segment, const uint16_t *node_index, uint32_t replica_count)
{
    const lwc_segment_t old = *segment;
    uint32_t next = 0, common = (uint32_t)lw_min_u64(replica_count, old.replica_count);
    for (uint32_t r = 0; r < replica_count; r++) {
        if (r < common && names(node_index, replica_count, old.replica[r].node_index)) {
            if (old.replica[r].state == LWC_ATTACHING) /* its reply is of the version before */
                segment->replica[r].state = LWC_DETACHED;
            continue;
        }
        while (next < replica_count - 1 && is_on(&old, common, node_index[next]))
            next++;
        segment->replica[r] = (lwc_replica_t){.node_index = node_index[next++]};
    }
    segment->replica_count = (uint8_t)replica_count;
}

bool lwc_segment_move(lwc_store_t *store, uint32_t key, const uint16_t *node_index, uint32_t replica_count)
{
    lwc_segment_t *segment = lwc_segment(store, key);
    uint32_t kept = 0;
    if (!segment || replica_count == 0 || replica_count > LW_REPLICAS_MAX)
        return false;
    for (uint32_t r = 0; r < segment->replica_count; r++)
        kept += names(node_index, replica_count, segment->replica[r].node_index);
    if (kept == replica_count && kept == segment->replica_count && !segment->gone)
        return false;
    count_copies(store, segment, false);
    take_nodes(segment, node_index, replica_count);
    count_copies(store, segment, true);
    segment->gone = false;
    segment->moves++;
    segment->version++;
    store->moves++;
    if (segment->waiter)
        queue(store, key, 0);
    return true;
}

/* ---- ATTACH ---- */

typedef struct {
    lwc_request_t *request[OPEN_ATTACHES];
    uint32_t count;
} open_attaches_t;

static void attach_send(lwc_request_t *request)
{
    lwc_batch_t *batch = request->batch;
    const lwc_store_session_t *session = &request->store->sessions[request->session_slot];
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH,
                    .body.attach = {.session_id = session->session_id, .name_count = batch->count}};
    memcpy(msg.body.attach.token, session->token, LW_TOKEN_BYTES);
    lwc_request_send(request, &msg, batch->lists, batch->count * (uint32_t)sizeof(lw_segment_name_t), NULL, 0);
}

static lwc_request_t *attach_request(lwc_store_t *store, open_attaches_t *open, lwc_peer_t *peer, uint32_t session_slot)
{
    for (uint32_t i = 0; i < open->count; i++) {
        lwc_request_t *request = open->request[i];
        if (request->peer == peer && request->session_slot == session_slot && request->batch->count < LWC_BATCH_WANTS)
            return request;
    }
    if (open->count == OPEN_ATTACHES || store->batch_free_count == 0)
        return NULL;
    lwc_request_t *request = lwc_request_new(store, LWC_REQUEST_ATTACH, peer, store->now_us + ATTACH_TIMEOUT_US);
    if (!request)
        return NULL;
    request->batch = lwc_batch_new(store);
    request->session_slot = session_slot;
    open->request[open->count++] = request;
    return request;
}

static bool attach_add(lwc_store_t *store, open_attaches_t *open, uint32_t key, uint32_t r)
{
    lwc_segment_t *segment = &store->segments[key];
    lwc_peer_t *peer = lwc_peer(store, segment->replica[r].node_index);
    if (!peer || !lwc_peer_ready(peer))
        return false;
    lwc_request_t *request = attach_request(store, open, peer, segment->session_slot);
    if (!request)
        return false;
    lwc_batch_t *batch = request->batch;
    ((lw_segment_name_t *)batch->lists)[batch->count] = segment->name;
    batch->versions[batch->count] = segment->version;
    batch->keys[batch->count++] = key << 3 | r;
    segment->replica[r].state = LWC_ATTACHING;
    segment->replica[r].serial = peer->serial;
    return true;
}

void lwc_attach_flush(lwc_store_t *store)
{
    open_attaches_t open = {.count = 0};
    for (uint32_t left = store->attach_count; left > 0; left--) {
        uint64_t item = store->attach_queue[store->attach_first];
        store->attach_first = (store->attach_first + 1) % store->attach_capacity;
        store->attach_count--;
        uint32_t key = (uint32_t)(item >> 8), r = (uint32_t)(item & 0xFF);
        lwc_segment_t *segment = lwc_segment(store, key);
        if (!segment || r >= segment->replica_count || segment->replica[r].state != LWC_QUEUED)
            continue; /* forgotten meanwhile */
        if (!attach_add(store, &open, key, r)) {
            segment->replica[r].state = LWC_DETACHED;
            if (segment->waiter)
                queue(store, key, r); /* a fetch asks again by itself */
        }
    }
    for (uint32_t i = 0; i < open.count; i++)
        attach_send(open.request[i]);
}

void lwc_attach_reply(lwc_request_t *request, const lw_msg_t *msg)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    int32_t whole = msg->body.attach_reply.status;
    if (whole == LW_OK && msg->body.attach_reply.name_count != batch->count) {
        lwc_attach_lost(request, LW_ERR_INVALID);
        return;
    }
    if (whole == LW_ERR_BUSY || whole == LW_ERR_FLEET || whole == LW_ERR_TIMEOUT || whole == LW_ERR_UNREACHABLE) {
        lwc_attach_lost(request, (lw_status_t)whole); /* asked again later */
        return;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        uint32_t key = batch->keys[i] >> 3, r = batch->keys[i] & 7;
        lwc_segment_t *segment = lwc_segment(store, key);
        if (!segment || segment->version != batch->versions[i])
            continue; /* the key belongs to another segment by now */
        int32_t status = whole == LW_OK ? msg->attached[i].status : whole;
        lwc_replica_t *replica = &segment->replica[r];
        if (replica->state != LWC_ATTACHING || replica->serial != request->serial)
            continue;
        replica->state = status == LW_OK ? LWC_ATTACHED : LWC_ABSENT;
        replica->handle = status == LW_OK ? msg->attached[i].handle : store->now_us;
        if (status != LW_OK)
            lwc_store_fail(store, (lw_status_t)status, "node %u does not serve segment %u: %s",
                           request->peer->node.index, key, lw_status_text(status));
        waiter_count(store, segment, (lw_status_t)status);
    }
    lwc_request_end(request);
}

void lwc_attach_lost(lwc_request_t *request, lw_status_t status)
{
    lwc_store_t *store = request->store;
    for (uint32_t i = 0; i < request->batch->count; i++) {
        uint32_t key = request->batch->keys[i] >> 3, r = request->batch->keys[i] & 7;
        lwc_segment_t *segment = lwc_segment(store, key);
        if (!segment || segment->version != request->batch->versions[i] ||
            segment->replica[r].state != LWC_ATTACHING || segment->replica[r].serial != request->serial)
            continue;
        segment->replica[r].state = LWC_DETACHED;
        if (segment->waiter)
            queue(store, key, r);
    }
    if (status == LW_ERR_TIMEOUT && request->state == LWC_SENT)
        request->state = LWC_ZOMBIE;
    else
        lwc_request_end(request);
}

lw_status_t lwc_store_attach(lwc_store_t *store, const uint32_t *keys, uint32_t count, uint64_t deadline_us,
                             lwc_done_t done, void *arg)
{
    uint32_t w = 0;
    while (w < LWC_ATTACH_WAITERS && store->waiters[w].used)
        w++;
    if (w == LWC_ATTACH_WAITERS)
        return LW_ERR_BUSY;
    for (uint32_t i = 0; i < count; i++)
        if (!lwc_segment(store, keys[i]))
            return lwc_store_fail(store, LW_ERR_INVALID, "attach: no segment with key %u", keys[i]);
    lwc_waiter_t *waiter = &store->waiters[w];
    *waiter = (lwc_waiter_t){.used = true, .left = 1, .deadline_us = deadline_us, .done = done, .arg = arg};
    for (uint32_t i = 0; i < count; i++) {
        lwc_segment_t *segment = &store->segments[keys[i]];
        lwc_peer_t *peer = lwc_peer(store, segment->replica[0].node_index);
        bool attached = segment->replica[0].state == LWC_ATTACHED && peer && segment->replica[0].serial == peer->serial;
        if (attached || segment->waiter)
            continue;
        segment->waiter = (uint8_t)(w + 1);
        waiter->left++;
        queue(store, keys[i], 0);
    }
    if (waiter->left == 1)
        waiter->deadline_us = 0; /* nothing to wait for: told by the next round, never from inside this call */
    else
        waiter->left--;
    return LW_OK;
}

void lwc_waiters_scan(lwc_store_t *store)
{
    for (uint32_t w = 0; w < LWC_ATTACH_WAITERS; w++) {
        lwc_waiter_t *waiter = &store->waiters[w];
        if (!waiter->used || store->now_us < waiter->deadline_us)
            continue;
        lw_status_t status = waiter->deadline_us == 0 ? LW_OK : LW_ERR_TIMEOUT;
        waiter->used = false;
        for (uint32_t key = 0; status != LW_OK && key < store->params.segment_capacity; key++)
            if (store->segments[key].waiter == w + 1)
                store->segments[key].waiter = 0;
        store->events++;
        waiter->done(waiter->arg, status);
    }
}
