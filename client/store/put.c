/* put.c - a sealed segment goes to each of its nodes: prove the session's token, RESERVE, WRITE in chunks, COMMIT. Replicas
 * move side by side; one that loses its connection starts over (RESERVE is idempotent by name); one that is full waits as
 * long as the node says. The put ends when every replica is committed, at the first refusal, when the view says
 * that one of its nodes is down, or at the deadline. */
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "client/store/store_private.h"

static void end(lwc_put_t *put, lwc_store_t *store, lw_status_t status)
{
    if (!put->ending) {
        put->ending = true;
        put->status = status;
        put->requests -= lwc_requests_let_go(store, put);
    }
    if (put->requests > 0)
        return; /* chunks still borrow the extent */
    lwc_done_t done = put->done;
    void *arg = put->arg;
    put->used = false;
    store->events++;
    if (put->status == LW_OK) {
        store->stats.segments_put++;
        store->stats.bytes_put += put->bytes * put->replica_count;
    }
    done(arg, put->status);
}

static bool all_done(const lwc_put_t *put)
{
    for (uint32_t r = 0; r < put->replica_count; r++)
        if (put->replica[r].step != LWC_PUT_DONE)
            return false;
    return true;
}

static lwc_request_t *request_new(lwc_put_t *put, lwc_store_t *store, uint32_t r, uint16_t type)
{
    lwc_peer_t *peer = lwc_peer(store, put->replica[r].node_index);
    lwc_request_t *request = lwc_request_new(store, LWC_REQUEST_PUT, peer, put->deadline_us);
    if (!request)
        return NULL;
    request->owner = put;
    request->replica = r;
    request->sent_type = type;
    put->requests++;
    return request;
}

static void send_right(lwc_put_t *put, lwc_store_t *store, uint32_t r)
{
    const lwc_store_session_t *session = &store->sessions[put->session_slot];
    lwc_request_t *request = request_new(put, store, r, LW_MSG_ATTACH);
    if (!request)
        return;
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH,
                    .body.attach = {.session_id = session->session_id, .write = 1, .term = session->term}};
    memcpy(msg.body.attach.token, session->token, LW_TOKEN_BYTES);
    put->replica[r].step = LWC_PUT_RIGHT;
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

static void send_reserve(lwc_put_t *put, lwc_store_t *store, uint32_t r)
{
    lwc_request_t *request = request_new(put, store, r, LW_MSG_RESERVE);
    if (!request)
        return;
    lw_msg_t msg = {.header.type = LW_MSG_RESERVE,
                    .body.reserve = {.name = lw_segment_header(put->extent)->name,
                                     .bytes = put->bytes,
                                     .epoch = store->view.epoch}};
    put->replica[r].step = LWC_PUT_RESERVE;
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

static void send_commit(lwc_put_t *put, lwc_store_t *store, uint32_t r)
{
    if (LW_FAULT(SHIP_DROP_COMMIT)) {
        put->replica[r].step = LWC_PUT_DONE; /* the writer dies here: the caller never hears of it */
        return;
    }
    lwc_request_t *request = request_new(put, store, r, LW_MSG_COMMIT);
    if (!request)
        return;
    lw_msg_t msg = {.header.type = LW_MSG_COMMIT,
                    .body.commit = {.handle = put->replica[r].handle, .bytes = put->bytes}};
    put->replica[r].step = LWC_PUT_COMMIT;
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

static void send_writes(lwc_put_t *put, lwc_store_t *store, uint32_t r)
{
    lwc_put_replica_t *replica = &put->replica[r];
    while (replica->step == LWC_PUT_WRITE && replica->in_flight < LWC_PUT_WINDOW && replica->offset < put->bytes) {
        lwc_request_t *request = request_new(put, store, r, LW_MSG_WRITE);
        if (!request)
            return;
        uint32_t bytes = (uint32_t)lw_min_u64(put->bytes - replica->offset, LW_WRITE_CHUNK_BYTES);
        lw_msg_t msg = {.header.type = LW_MSG_WRITE,
                        .body.write = {.handle = replica->handle, .offset = replica->offset, .bytes = bytes}};
        const uint8_t *from = put->extent + replica->offset;
        request->write_bytes = bytes;
        replica->in_flight++;
        replica->offset += bytes;
        lwc_request_send(request, &msg, NULL, 0, from, bytes);
    }
    if (replica->step == LWC_PUT_WRITE && replica->in_flight == 0 && replica->offset == put->bytes)
        send_commit(put, store, r);
}

static void restart(lwc_put_replica_t *replica, uint64_t at_us)
{
    replica->step = LWC_PUT_WAIT;
    replica->in_flight = 0;
    replica->offset = 0;
    replica->retry_at_us = at_us;
}

static void advance(lwc_put_t *put, lwc_store_t *store, uint32_t r)
{
    lwc_put_replica_t *replica = &put->replica[r];
    lwc_peer_t *peer = lwc_peer(store, replica->node_index);
    if (replica->step == LWC_PUT_DONE)
        return;
    if (!peer || !peer->in_view) {
        end(put, store, lwc_store_fail(store, LW_ERR_UNREACHABLE, "put: node %u is not in the view", replica->node_index));
        return;
    }
    bool ready = lwc_peer_ready(peer);
    if (!ready && peer->node.state == LW_NODE_DOWN) { /* the writer has another node to choose before the deadline */
        end(put, store, lwc_store_fail(store, LW_ERR_UNREACHABLE, "put: node %u is down", replica->node_index));
        return;
    }
    if (!ready || store->now_us < replica->retry_at_us)
        return;
    if (replica->serial != peer->serial) {
        restart(replica, 0);
        replica->serial = peer->serial;
    }
    if (replica->step == LWC_PUT_WAIT) {
        if (peer->session_serial[put->session_slot] == peer->serial)
            send_reserve(put, store, r);
        else
            send_right(put, store, r);
    } else if (replica->step == LWC_PUT_WRITE) {
        send_writes(put, store, r);
    }
}

void lwc_put_advance(lwc_put_t *put, lwc_store_t *store)
{
    for (uint32_t r = 0; r < put->replica_count && !put->ending; r++)
        advance(put, store, r);
    if (!put->ending && all_done(put))
        end(put, store, LW_OK);
}

static const char *type_text(const lwc_request_t *request) { return lw_msg_type_text(request->sent_type); }

static void refused(lwc_put_t *put, lwc_request_t *request, lw_status_t status, uint32_t retry_after_ms)
{
    lwc_store_t *store = request->store;
    lwc_put_replica_t *replica = &put->replica[request->replica];
    char name[64];
    lwc_store_fail(store, status, "node %u refused %s of %s: %s", replica->node_index, type_text(request),
                   lw_segment_name_text(&lw_segment_header(put->extent)->name, name), lw_status_text(status));
    bool passing = status == LW_ERR_EXHAUSTED || status == LW_ERR_BUSY || status == LW_ERR_FLEET ||
                   status == LW_ERR_TIMEOUT;
    if (!passing) {
        end(put, store, status);
        return;
    }
    put->status = status; /* what the deadline will say */
    uint64_t wait_us = lw_max_u64(retry_after_ms, 10) * 1000;
    restart(replica, store->now_us + wait_us);
}

static lw_status_t reply_status(const lwc_request_t *request, const lw_msg_t *msg)
{
    switch (request->sent_type) {
    case LW_MSG_ATTACH: return (lw_status_t)msg->body.attach_reply.status;
    case LW_MSG_RESERVE: return (lw_status_t)msg->body.reserve_reply.status;
    default: return (lw_status_t)msg->body.status_reply.status;
    }
}

void lwc_put_reply(lwc_request_t *request, const lw_msg_t *msg)
{
    lwc_store_t *store = request->store;
    lwc_put_t *put = request->owner;
    lwc_put_replica_t *replica = &put->replica[request->replica];
    lw_status_t status = reply_status(request, msg);
    bool current = replica->serial == request->serial && !put->ending && replica->step != LWC_PUT_WAIT;
    uint16_t type = request->sent_type;
    put->requests--;
    request->owner = NULL;
    if (current && type == LW_MSG_WRITE)
        replica->in_flight--;
    if (current && status != LW_OK) {
        refused(put, request, status, type == LW_MSG_RESERVE ? msg->body.reserve_reply.retry_after_ms : 0);
    } else if (current) {
        switch (type) {
        case LW_MSG_ATTACH:
            request->peer->session_serial[put->session_slot] = request->serial;
            replica->step = LWC_PUT_WAIT;
            break;
        case LW_MSG_RESERVE:
            replica->handle = msg->body.reserve_reply.handle;
            replica->offset = 0;
            replica->step = msg->body.reserve_reply.committed ? LWC_PUT_DONE : LWC_PUT_WRITE;
            break;
        case LW_MSG_COMMIT: replica->step = LWC_PUT_DONE; break;
        default: break;
        }
    }
    lwc_request_end(request);
    if (!put->used)
        return;
    if (put->ending)
        end(put, store, put->status);
    else
        lwc_put_advance(put, store);
}

void lwc_put_lost(lwc_request_t *request)
{
    lwc_put_t *put = request->owner;
    lwc_store_t *store = request->store;
    put->requests--;
    request->owner = NULL;
    if (put->replica[request->replica].serial == request->serial)
        restart(&put->replica[request->replica], 0);
    lwc_request_end(request);
    if (put->ending)
        end(put, store, put->status);
}

void lwc_puts_scan(lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        lwc_put_t *put = &store->puts[i];
        if (!put->used)
            continue;
        if (!put->ending && store->now_us >= put->deadline_us) {
            lwc_peer_t *peer = NULL;
            for (uint32_t r = 0; r < put->replica_count; r++)
                if (put->replica[r].step != LWC_PUT_DONE)
                    peer = lwc_peer(store, put->replica[r].node_index);
            lw_status_t status = put->status != LW_OK                              ? put->status
                                 : peer && peer->state == LWC_PEER_READY ? LW_ERR_TIMEOUT
                                                                                   : LW_ERR_UNREACHABLE;
            lwc_store_fail(store, status, "put of %llu bytes not done in time: node %u: %s%s%s",
                           (unsigned long long)put->bytes, peer ? peer->node.index : 0, lw_status_text(status),
                           peer && peer->cause[0] ? ": " : "", peer ? peer->cause : "");
            end(put, store, status);
        } else if (!put->ending) {
            lwc_put_advance(put, store);
        }
    }
}

lw_status_t lwc_store_put(lwc_store_t *store, uint32_t session_slot, const void *extent, uint64_t bytes,
                          const uint16_t *node_index, uint32_t replica_count, uint64_t deadline_us, lwc_done_t done,
                          void *arg)
{
    if (replica_count == 0 || replica_count > LW_REPLICAS_MAX)
        return lwc_store_fail(store, LW_ERR_INVALID, "put: replica_count %u, 1..%u", replica_count, LW_REPLICAS_MAX);
    if (session_slot >= store->params.session_capacity || !store->sessions[session_slot].used)
        return lwc_store_fail(store, LW_ERR_INVALID, "put: no session in slot %u", session_slot);
    if (bytes < sizeof(lw_segment_header_t) || bytes > LW_SEGMENT_BYTES_MAX || lw_segment_header(extent)->bytes != bytes)
        return lwc_store_fail(store, LW_ERR_INVALID, "put: %llu bytes, the segment's header says %llu",
                              (unsigned long long)bytes, (unsigned long long)lw_segment_header(extent)->bytes);
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        lwc_put_t *put = &store->puts[i];
        if (put->used)
            continue;
        *put = (lwc_put_t){.used = true, .session_slot = session_slot, .replica_count = replica_count, .extent = extent,
                           .bytes = bytes, .deadline_us = deadline_us, .done = done, .arg = arg};
        for (uint32_t r = 0; r < replica_count; r++)
            put->replica[r].node_index = node_index[r];
        return LW_OK; /* the next round starts it */
    }
    return LW_ERR_BUSY;
}
