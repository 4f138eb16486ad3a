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

/* What a peer says of itself is written down, and believed by nobody until an ATTACH proves something. */
void lwd_serve_hello(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lw_status_t status = hello_check(worker, msg);
    if (status != LW_OK) {
        lw_count(&lwd_stats(worker)->hello_refused, 1);
        lwd_reply_status(worker, peer, LW_MSG_HELLO, msg->header.request_id, status);
        return;
    }
    const lwd_node_t *node = worker->params.node;
    peer->state = LWD_PEER_READY;
    worker->strangers--;
    peer->client_id = msg->body.hello.client_id;
    peer->incarnation = msg->body.hello.incarnation;
    lw_msg_t reply = {.header = {.type = LW_MSG_HELLO_REPLY, .request_id = msg->header.request_id}};
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
    lwd_reply_small(worker, peer, &reply);
}

void lwd_hello_expire(lwd_worker_t *worker)
{
    if (worker->strangers == 0 || worker->now_us < worker->next_stranger_us)
        return;
    worker->next_stranger_us = worker->now_us + LWD_HELLO_LOOK_US;
    for (uint32_t i = 0; i < worker->params.connection_max; i++) {
        lwd_peer_t *peer = &worker->peers[i];
        if (peer->state != LWD_PEER_NEW || worker->now_us - peer->since_us < LWD_HELLO_US)
            continue;
        lw_count(&lwd_stats(worker)->hello_late, 1);
        lwd_peer_close(worker, peer);
    }
}
