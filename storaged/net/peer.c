/* peer.c - connections and the requests they have in flight: pools, and the way each of them ends. One data
 * thread. */
#include <stdlib.h>
#include <string.h>

#include "storaged/net/net_private.h"

#define NIL UINT32_MAX

lw_status_t lwd_peers_init(lwd_worker_t *worker)
{
    const lwd_worker_params_t *params = &worker->params;
    worker->peers = calloc(params->connection_max, sizeof(*worker->peers));
    worker->requests = calloc(params->request_max, sizeof(*worker->requests));
    if (worker->peers == NULL || worker->requests == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < params->connection_max; i++) {
        worker->peers[i].index = i;
        worker->peers[i].next_free = i + 1 < params->connection_max ? i + 1 : NIL;
    }
    worker->peer_free = 0;
    for (uint32_t i = params->request_max; i-- > 0;) {
        lwd_request_t *request = &worker->requests[i];
        *request = (lwd_request_t){.worker = worker, .index = i, .turn = 1, .next = worker->request_free};
        worker->request_free = request;
    }
    return LW_OK;
}

void lwd_peer_accept(lwd_worker_t *worker, lw_conn_t *conn)
{
    if (worker->peer_free == NIL || atomic_load_explicit(&worker->stop_at_us, memory_order_relaxed) != 0) {
        lw_count(&lwd_stats(worker)->connections_refused, 1);
        worker->params.fabric->close_conn(conn); /* has no user: on_closed ignores it */
        return;
    }
    lwd_peer_t *peer = &worker->peers[worker->peer_free];
    worker->peer_free = peer->next_free;
    *peer =
        (lwd_peer_t){.conn = conn, .state = LWD_PEER_NEW, .index = peer->index, .since_us = worker->now_us};
    worker->peer_count++;
    worker->strangers++;
    worker->params.fabric->set_user(conn, peer);
    lw_count(&lwd_stats(worker)->connections_accepted, 1);
    lw_gauge(&lwd_stats(worker)->connections, worker->peer_count);
}

/* Tells the shard that the connection is gone; false when that has to wait for a free request. */
static bool say_bye(lwd_worker_t *worker, lwd_peer_t *peer)
{
    if (lwd_is_owner(worker)) {
        lwd_shard_client_down(worker->params.shard, peer->client_id, peer->incarnation, worker->now_us);
    } else if (!lwd_worker_stopped(worker)) { /* at the end the owner may be gone already */
        lwd_request_t *request = lwd_request_acquire(worker, NULL, NULL);
        if (request == NULL)
            return false;
        request->client_id = peer->client_id;
        request->incarnation = peer->incarnation;
        lwd_change_submit(request, LWD_CHANGE_BYE);
    }
    peer->up = false;
    return true;
}

/* A closed peer's slot is free once nothing refers to it. */
static void free_if_done(lwd_worker_t *worker, lwd_peer_t *peer)
{
    if (peer->conn != NULL || peer->in_flight > 0 || peer->up || peer->state != LWD_PEER_CLOSING)
        return;
    peer->state = LWD_PEER_FREE;
    peer->next_free = worker->peer_free;
    worker->peer_free = peer->index;
    worker->peer_count--;
    lw_gauge(&lwd_stats(worker)->connections, worker->peer_count);
}

static void leave_state(lwd_worker_t *worker, lwd_peer_t *peer)
{
    if (peer->state == LWD_PEER_NEW)
        worker->strangers--;
    peer->state = LWD_PEER_CLOSING;
}

void lwd_peer_closed(lwd_worker_t *worker, lwd_peer_t *peer)
{
    LW_ASSERT(peer->conn != NULL);
    peer->conn = NULL;
    leave_state(worker, peer);
    lwd_attach_close(worker->attach, peer->index);
    lw_gauge(&lwd_stats(worker)->attachments, lwd_attach_count(worker->attach));
    if (peer->up && !say_bye(worker, peer))
        worker->byes++;
    free_if_done(worker, peer);
}

void lwd_peers_say_bye(lwd_worker_t *worker)
{
    for (uint32_t i = 0; i < worker->params.connection_max && worker->byes > 0; i++) {
        lwd_peer_t *peer = &worker->peers[i];
        if (peer->state != LWD_PEER_CLOSING || peer->conn != NULL || !peer->up)
            continue;
        if (!say_bye(worker, peer))
            return;
        worker->byes--;
        free_if_done(worker, peer);
    }
}

void lwd_peer_close(lwd_worker_t *worker, lwd_peer_t *peer)
{
    if (peer->conn == NULL || peer->state == LWD_PEER_CLOSING)
        return;
    leave_state(worker, peer);
    worker->params.fabric->close_conn(peer->conn);
}

lwd_request_t *lwd_request_acquire(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lwd_request_t *request = worker->request_free;
    if (request == NULL || (peer != NULL && peer->in_flight >= LWD_REQUESTS_PER_PEER_MAX))
        return NULL;
    worker->request_free = request->next;
    worker->request_count++;
    request->peer = peer;
    request->prev = NULL;
    request->next = NULL;
    request->canceled = request->first = false;
    request->wait_until_us = 0;
    request->buffer = LWD_EXTENT_NONE;
    request->borrow_count = 0;
    request->started_us = worker->now_us;
    request->type = msg != NULL ? msg->header.type : LW_MSG_NONE;
    request->request_id = msg != NULL ? msg->header.request_id : 0;
    if (msg != NULL)
        request->msg = *msg;
    if (peer != NULL) {
        peer->in_flight++;
        request->next = peer->requests;
        if (peer->requests != NULL)
            peer->requests->prev = request;
        peer->requests = request;
    }
    return request;
}

void lwd_request_release(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    lwd_peer_t *peer = request->peer;
    for (uint32_t i = 0; i < request->borrow_count; i++)
        lwd_segment_release(request->borrowed[i]);
    if (request->buffer != LWD_EXTENT_NONE)
        lwd_extents_free(worker->reply_extents, request->buffer);
    if (peer != NULL) {
        if (request->prev != NULL)
            request->prev->next = request->next;
        else
            peer->requests = request->next;
        if (request->next != NULL)
            request->next->prev = request->prev;
        peer->in_flight--;
    }
    request->peer = NULL;
    request->buffer = LWD_EXTENT_NONE;
    request->borrow_count = 0;
    request->type = LW_MSG_NONE;
    request->turn++; /* an answer that comes later finds another turn */
    request->next = worker->request_free;
    worker->request_free = request;
    LW_ASSERT(worker->request_count > 0);
    worker->request_count--;
    if (peer != NULL)
        free_if_done(worker, peer);
}

uint8_t *lwd_request_buffer(lwd_request_t *request, uint64_t bytes)
{
    lwd_worker_t *worker = request->worker;
    LW_ASSERT(request->buffer == LWD_EXTENT_NONE);
    uint64_t offset = lwd_extents_alloc(worker->reply_extents, bytes);
    if (offset == LWD_EXTENT_NONE)
        return NULL;
    request->buffer = offset;
    return worker->reply + offset;
}
