/* hello.c - the first message of a connection: versions, fleet, and whose connection it is. */
#include "storaged/net/net_private.h"

static lw_status_t hello_check(const lwd_worker_t *worker, const lw_msg_t *msg)
{
    const lw_msg_hello_t *hello = &msg->body.hello;
    uint64_t fleet_id = atomic_load_explicit(&worker->params.node->fleet_id, memory_order_relaxed);
    if (hello->version_min > LW_WIRE_VERSION || hello->version_max < LW_WIRE_VERSION)
        return LW_ERR_VERSION;
    if (fleet_id == 0) /* the catalogue was not reached yet */
        return LW_ERR_FLEET;
    if (msg->header.fleet_id != 0 && msg->header.fleet_id != fleet_id)
        return LW_ERR_PERMISSION;
    return LW_OK;
}

void lwd_serve_hello(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lw_status_t status = hello_check(worker, msg);
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (request == NULL) {
        lw_count(&lwd_stats(worker)->hello_refused, 1);
        lwd_reply_status(worker, peer, LW_MSG_HELLO, msg->header.request_id,
                         status != LW_OK ? status : LW_ERR_BUSY);
        return;
    }
    peer->state = LWD_PEER_GREETING;
    peer->client_id = request->client_id = msg->body.hello.client_id;
    peer->incarnation = request->incarnation = msg->body.hello.incarnation;
    lwd_change_submit(request, LWD_CHANGE_HELLO);
}

void lwd_hello_done(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    lwd_peer_t *peer = request->peer;
    const lwd_node_t *node = worker->params.node;
    if (request->status != LW_OK) {
        lw_count(&lwd_stats(worker)->hello_refused, 1);
        if (peer->state == LWD_PEER_GREETING)
            peer->state = LWD_PEER_NEW;
        lwd_request_answer(request, request->status);
        return;
    }
    peer->up = true;
    if (peer->conn == NULL) { /* it closed while the owner was counting it */
        worker->byes++;
        lwd_request_release(request);
        return;
    }
    if (peer->state == LWD_PEER_GREETING)
        peer->state = LWD_PEER_READY;
    lw_msg_t reply = {.header.type = LW_MSG_HELLO_REPLY};
    reply.body.hello_reply = (lw_msg_hello_reply_t){
        .status = LW_OK,
        .version = LW_WIRE_VERSION,
        .fleet_id = atomic_load_explicit(&node->fleet_id, memory_order_relaxed),
        .node_id = node->node_id,
        .node_incarnation = node->incarnation,
        .epoch = atomic_load_explicit(&node->epoch, memory_order_relaxed),
        .attach_limit = LW_ATTACH_NAMES_MAX,
        .fetch_entry_limit = LW_FETCH_ENTRIES_MAX,
    };
    lwd_request_reply(request, &reply);
}
