/* request.c - the table of requests in flight: ids that tell a late reply from a live one, deadlines, and freeing only when
 * neither the peer nor the fabric can touch a request's memory any more. */
#include <string.h>

#include "base/log.h"
#include "client/store/store_private.h"

static void list_remove(lwc_request_t *request)
{
    lwc_request_list_t *list = request->list;
    if (list->cursor == request)
        list->cursor = request->after;
    *(request->before ? &request->before->after : &list->first) = request->after;
    *(request->after ? &request->after->before : &list->last) = request->before;
    request->list = NULL;
}

static void list_append(lwc_request_t *request, lwc_request_list_t *list)
{
    request->list = list;
    request->before = list->last;
    request->after = NULL;
    *(list->last ? &list->last->after : &list->first) = request;
    list->last = request;
}

void lwc_request_move(lwc_request_t *request, lwc_request_list_t *list)
{
    list_remove(request);
    list_append(request, list);
}

lwc_request_t *lwc_requests_first(lwc_request_list_t *list)
{
    list->cursor = list->first;
    return lwc_requests_next(list);
}

lwc_request_t *lwc_requests_next(lwc_request_list_t *list)
{
    lwc_request_t *request = list->cursor;
    if (request)
        list->cursor = request->after;
    return request;
}

lwc_request_t *lwc_request_new(lwc_store_t *store, lwc_request_kind_t kind, lwc_peer_t *peer, uint64_t deadline_us)
{
    for (uint32_t tried = 0; tried < store->request_capacity; tried++) {
        uint32_t slot = (store->request_next + tried) % store->request_capacity;
        lwc_request_t *request = &store->requests[slot];
        if (request->kind != LWC_REQUEST_FREE)
            continue;
        uint32_t generation = request->generation + 1;
        *request = (lwc_request_t){.kind = kind, .state = LWC_WAITING, .slot = slot, .generation = generation,
                                   .store = store, .peer = peer, .deadline_us = deadline_us, .span = LWC_NO_SLOT,
                                   .made_us = store->now_us};
        store->request_next = (slot + 1) % store->request_capacity;
        store->request_count++;
        list_append(request, kind == LWC_REQUEST_FETCH ? &store->waiting : &store->away);
        return request;
    }
    return NULL;
}

lwc_batch_t *lwc_batch_new(lwc_store_t *store)
{
    if (store->batch_free_count == 0)
        return NULL;
    lwc_batch_t *batch = store->batch_free[--store->batch_free_count];
    batch->used = true;
    batch->count = 0;
    memset(batch->ended, 0, sizeof(batch->ended));
    return batch;
}

static void release_batch(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    if (!request->batch)
        return;
    request->batch->used = false;
    store->batch_free[store->batch_free_count++] = request->batch;
    request->batch = NULL;
}

static void release_span(lwc_request_t *request)
{
    if (request->span != LWC_NO_SLOT && request->delivered)
        lwc_landing_settle(&request->store->landing, request->span);
    else if (request->span != LWC_NO_SLOT)
        lwc_landing_discard(&request->store->landing, request->span);
    request->span = LWC_NO_SLOT;
}

static void release(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    release_batch(request);
    release_span(request);
    request->peer->load_bytes -= request->load_bytes;
    list_remove(request);
    request->kind = LWC_REQUEST_FREE;
    store->request_count--;
}

void lwc_request_end(lwc_request_t *request)
{
    if (request->state != LWC_WAITING && request->serial != 0) {
        request->peer->requests--;
        request->serial = 0;
    }
    request->state = LWC_ZOMBIE;
    if (!request->send_pending)
        release(request);
}

void lwc_request_zombie(lwc_request_t *request)
{
    lwc_peer_t *peer = request->peer;
    if (request->state == LWC_LANDING && request->kind == LWC_REQUEST_FETCH && request->serial == peer->serial &&
        peer->state == LWC_PEER_READY && request->store->ops->recv_cancel(peer->conn, request)) {
        lwc_request_end(request); /* its reply has come, and the rest of it goes nowhere */
        return;
    }
    if (request->state == LWC_SENT) {
        release_span(request);
        if (!request->send_pending)
            release_batch(request);
    }
    request->state = LWC_ZOMBIE;
}

static void on_sent(void *arg, lw_status_t status)
{
    lwc_request_t *request = arg;
    (void)status; /* a failed send ends the connection, and with it the request */
    request->send_pending = false;
    if (request->state == LWC_ZOMBIE && request->serial == 0)
        release(request);
}

uint64_t lwc_request_id(const lwc_request_t *request)
{
    return (uint64_t)request->generation << 32 | request->slot;
}

void lwc_request_send(lwc_request_t *request, lw_msg_t *msg, const void *lists, uint32_t list_bytes, const void *bulk,
                      uint64_t bulk_bytes)
{
    lwc_store_t *store = request->store;
    lwc_peer_t *peer = request->peer;
    uint8_t head[LW_MSG_HEAD_MAX];
    msg->header.fleet_id = store->view.fleet_id;
    msg->header.request_id = lwc_request_id(request);
    uint32_t head_bytes = lw_msg_encode(msg, lists, list_bytes, head);
    /* A request has lists or bulk, never both. */
    lw_iov_t piece = {.data = list_bytes ? lists : bulk, .bytes = list_bytes ? list_bytes : bulk_bytes};

    if (request->list != &store->away)
        lwc_request_move(request, &store->away);
    request->state = LWC_SENT;
    request->serial = peer->serial;
    request->sent_us = store->now_us;
    request->send_pending = true;
    peer->requests++;
    if (peer->requests == 1)
        peer->heard_us = store->now_us; /* silence counts from the first question */
    lw_status_t status = store->ops->send(peer->conn, head, head_bytes, &piece, piece.bytes ? 1 : 0, LW_SEND_AUTO,
                                          on_sent, request);
    if (status != LW_OK) {
        request->send_pending = false;
        lwc_peer_disconnect(peer, "send failed"); /* its end will tell this request */
    }
}

static lwc_request_t *find(lwc_store_t *store, uint64_t request_id)
{
    uint32_t slot = (uint32_t)request_id, generation = (uint32_t)(request_id >> 32);
    if (slot >= store->request_capacity)
        return NULL;
    lwc_request_t *request = &store->requests[slot];
    bool live = request->kind != LWC_REQUEST_FREE && request->generation == generation && request->serial != 0;
    return live && (request->state == LWC_SENT || request->state == LWC_ZOMBIE) ? request : NULL;
}

static bool type_fits(const lwc_request_t *request, uint16_t type)
{
    switch (request->kind) {
    case LWC_REQUEST_HELLO: return type == LW_MSG_HELLO_REPLY;
    case LWC_REQUEST_PING: return type == LW_MSG_PING_REPLY;
    case LWC_REQUEST_ATTACH: return type == LW_MSG_ATTACH_REPLY;
    case LWC_REQUEST_FETCH: return type == LW_MSG_FETCH_REPLY;
    case LWC_REQUEST_READ: return type == LW_MSG_READ_REPLY;
    case LWC_REQUEST_PUT:
        return type == (request->sent_type == LW_MSG_ATTACH    ? LW_MSG_ATTACH_REPLY
                        : request->sent_type == LW_MSG_RESERVE ? LW_MSG_RESERVE_REPLY
                                                               : LW_MSG_STATUS_REPLY);
    default: return false;
    }
}

static void dispatch(lwc_request_t *request, lw_msg_t *reply, const lw_fabric_msg_t *msg)
{
    if (request->state == LWC_ZOMBIE) { /* too late: not received, so nothing is written */
        if (request->kind == LWC_REQUEST_FETCH)
            lwc_latency_add(&request->peer->latency, lw_now_us(request->store->params.clock) - request->sent_us);
        lwc_request_end(request);
        return;
    }
    switch (request->kind) {
    case LWC_REQUEST_HELLO: lwc_peer_hello_reply(request, reply); break;
    case LWC_REQUEST_PING: lwc_request_end(request); break;
    case LWC_REQUEST_ATTACH: lwc_attach_reply(request, reply); break;
    case LWC_REQUEST_FETCH: lwc_fetch_message(request, reply, msg); break;
    case LWC_REQUEST_READ: lwc_read_message(request, reply, msg); break;
    case LWC_REQUEST_PUT: lwc_put_reply(request, reply); break;
    default: break;
    }
}

/* ATTACH_REPLY is the one reply with a list that is needed at once; it is small enough to be eager, or it is landed in the
 * request's own list memory. */
static void attach_landed(void *arg, lw_status_t status)
{
    lwc_request_t *request = arg;
    lw_error_t error = {0};
    if (request->state == LWC_ZOMBIE || status != LW_OK) {
        if (status == LW_OK)
            lwc_request_end(request);
        else
            request->state = request->state == LWC_LANDING ? LWC_SENT : request->state;
        return;
    }
    status = lw_msg_decode_lists(&request->reply, request->batch->lists, request->payload_bytes, &error);
    if (status != LW_OK) {
        request->state = LWC_SENT;
        lwc_peer_disconnect(request->peer, error.text);
        return;
    }
    lwc_attach_reply(request, &request->reply);
}

void lwc_on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    lwc_store_t *store = arg;
    lwc_peer_t *peer = store->ops->user(conn);
    lw_error_t error = {0};
    lw_msg_t reply;
    store->events++;
    if (!peer || peer->state == LWC_PEER_CLOSING)
        return;
    lwc_peer_heard(peer);
    if (lw_msg_decode_head(msg->head, msg->head_bytes, msg->data_bytes, &reply, &error) != LW_OK) {
        lwc_store_fail(store, LW_ERR_INVALID, "node %u: %s", peer->node.index, error.text);
        lwc_peer_disconnect(peer, error.text);
        return;
    }
    lwc_request_t *request = find(store, reply.header.request_id);
    if (!request || request->peer != peer)
        return; /* a reply that nobody waits for any more */
    if (!type_fits(request, reply.header.type)) {
        lwc_peer_disconnect(peer, "reply of the wrong type");
        return;
    }
    if (request->state != LWC_ZOMBIE && reply.header.type == LW_MSG_ATTACH_REPLY && request->batch &&
        reply.header.list_bytes > 0) {
        if (msg->data_bytes > sizeof(request->batch->lists)) {
            lwc_peer_disconnect(peer, "ATTACH_REPLY is too long");
            return;
        }
        request->reply = reply;
        request->payload_bytes = msg->data_bytes;
        request->state = LWC_LANDING;
        store->ops->recv(store->fabric, msg, request->batch->lists, NULL, attach_landed, request);
        return;
    }
    dispatch(request, &reply, msg);
}

void lwc_requests_lost(lwc_peer_t *peer)
{
    lwc_request_list_t *away = &peer->store->away;
    for (lwc_request_t *request = lwc_requests_first(away); request; request = lwc_requests_next(away)) {
        if (request->peer != peer || request->serial == 0)
            continue;
        LW_ASSERT(!request->send_pending);
        if (request->state == LWC_ZOMBIE) {
            lwc_request_end(request);
            continue;
        }
        switch (request->kind) {
        case LWC_REQUEST_ATTACH: lwc_attach_lost(request, LW_ERR_UNREACHABLE); break;
        case LWC_REQUEST_FETCH: lwc_fetch_lost(request); break;
        case LWC_REQUEST_READ: lwc_read_lost(request); break;
        case LWC_REQUEST_PUT: lwc_put_lost(request); break;
        default: lwc_request_end(request); break;
        }
    }
}

void lwc_requests_scan(lwc_store_t *store)
{
    lwc_request_list_t *away = &store->away;
    uint64_t hedges = store->stats.hedges;
    store->hedge_due_us = UINT64_MAX;
    for (lwc_request_t *request = lwc_requests_first(away); request; request = lwc_requests_next(away)) {
        if (request->state == LWC_ZOMBIE)
            continue;
        if (store->now_us < request->deadline_us) {
            if (request->kind == LWC_REQUEST_FETCH)
                lwc_hedge_if_late(request);
            continue;
        }
        if (request->kind == LWC_REQUEST_FETCH)
            lwc_fetch_expire(request, LW_ERR_TIMEOUT);
        else if (request->kind == LWC_REQUEST_ATTACH && request->state == LWC_SENT)
            lwc_attach_lost(request, LW_ERR_TIMEOUT);
        else if (request->kind == LWC_REQUEST_PING && request->state == LWC_SENT)
            request->state = LWC_ZOMBIE; /* the peer's silence is judged by peer.c */
    }
    if (store->stats.hedges != hedges)
        lwc_fetches_kick(store);
}

uint32_t lwc_requests_let_go(lwc_store_t *store, const void *owner)
{
    uint32_t count = 0;
    for (lwc_request_t *request = store->away.first; request; request = request->after) {
        if (request->owner != owner || request->state == LWC_ZOMBIE)
            continue;
        if (request->state == LWC_SENT && !request->send_pending) {
            request->state = LWC_ZOMBIE;
            request->owner = NULL;
            count++;
        } else {
            lwc_peer_disconnect(request->peer, "a transfer passed its deadline");
        }
    }
    return count;
}
