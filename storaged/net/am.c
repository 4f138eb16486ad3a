/* am.c - messages in: checked, counted and handed to the file that serves their type. One data thread. */
#include "storaged/net/net_private.h"

void lwd_malformed(lwd_worker_t *worker, lwd_peer_t *peer, const lw_error_t *error)
{
    lw_count(&lwd_stats(worker)->malformed, 1);
    lw_log_rated(&worker->malformed_log, LW_LOG_WARN, "net", "connection %u of client %llu closed: %s",
                 peer->index, (unsigned long long)peer->client_id, error->text);
    lwd_peer_close(worker, peer);
}

static void serve_ping(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    const lwd_worker_t *owner = lwd_is_owner(worker) ? worker : worker->params.owner;
    const lwd_stats_t *stats = owner->params.stats;
    const lwd_node_t *node = worker->params.node;
    lw_msg_t reply = {.header = {.type = LW_MSG_PING_REPLY, .request_id = msg->header.request_id}};
    reply.body.ping_reply = (lw_msg_ping_reply_t){
        .sent_us = msg->body.ping.sent_us,
        .epoch = atomic_load_explicit(&node->epoch, memory_order_relaxed),
        .arena_free_bytes = atomic_load_explicit(&stats->arena_free_bytes, memory_order_relaxed),
        .queue_depth = worker->request_count,
        .draining = atomic_load_explicit(&node->draining, memory_order_relaxed),
    };
    reply.body.ping_reply.arena_bytes =
        lw_max_u64(atomic_load_explicit(&stats->arena_bytes, memory_order_relaxed),
                   reply.body.ping_reply.arena_free_bytes);
    lwd_reply_small(worker, peer, &reply);
}

/* The cancelled request is answered CANCELED when what it waits for has come. */
static void serve_cancel(lwd_peer_t *peer, const lw_msg_t *msg)
{
    for (lwd_request_t *request = peer->requests; request != NULL; request = request->next) {
        if (request->request_id == msg->body.cancel.request_id)
            request->canceled = true;
    }
}

static void dispatch(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, const lw_fabric_msg_t *arrived)
{
    lw_error_t error;
    switch ((lw_msg_type_t)msg->header.type) {
    case LW_MSG_PING: serve_ping(worker, peer, msg); break;
    case LW_MSG_ATTACH: lwd_serve_attach(worker, peer, msg, arrived); break;
    case LW_MSG_RESERVE: lwd_serve_reserve(worker, peer, msg); break;
    case LW_MSG_WRITE: lwd_serve_write(worker, peer, msg, arrived); break;
    case LW_MSG_COMMIT: lwd_serve_commit(worker, peer, msg); break;
    case LW_MSG_ABORT: lwd_serve_abort(worker, peer, msg); break;
    case LW_MSG_FETCH: lwd_serve_fetch(worker, peer, msg, arrived); break;
    case LW_MSG_READ: lwd_serve_read(worker, peer, msg); break;
    case LW_MSG_ATTEND:
        lwd_reply_status(worker, peer, LW_MSG_ATTEND, msg->header.request_id, LW_ERR_UNSUPPORTED);
        break;
    case LW_MSG_CANCEL: serve_cancel(peer, msg); break;
    default:
        (void)lw_fail(&error, LW_ERR_INVALID, "%s is not a request", lw_msg_type_text(msg->header.type));
        lwd_malformed(worker, peer, &error);
        break;
    }
}

/* A connection begins with one HELLO, and everything after it names the fleet. */
static lw_status_t check_order(const lwd_worker_t *worker, const lwd_peer_t *peer, const lw_msg_t *msg,
                               lw_error_t *error)
{
    bool hello = msg->header.type == LW_MSG_HELLO;
    if (hello != (peer->state == LWD_PEER_NEW))
        return lw_fail(error, LW_ERR_INVALID, "%s %s HELLO was answered", lw_msg_type_text(msg->header.type),
                       hello ? "after" : "before");
    uint64_t fleet_id = atomic_load_explicit(&worker->params.node->fleet_id, memory_order_relaxed);
    if (!hello && msg->header.fleet_id != fleet_id)
        return lw_fail(error, LW_ERR_INVALID, "fleet is %llu, this node is of fleet %llu",
                       (unsigned long long)msg->header.fleet_id, (unsigned long long)fleet_id);
    return LW_OK;
}

void lwd_on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *arrived)
{
    lwd_worker_t *worker = arg;
    lwd_peer_t *peer = worker->params.fabric->user(conn);
    if (peer == NULL || peer->state == LWD_PEER_CLOSING)
        return;
    lw_msg_t msg;
    lw_error_t error = {0};
    if (lw_msg_decode_head(arrived->head, arrived->head_bytes, arrived->data_bytes, &msg, &error) != LW_OK ||
        check_order(worker, peer, &msg, &error) != LW_OK) {
        lwd_malformed(worker, peer, &error);
        return;
    }
    lw_count(&lwd_stats(worker)->requests, 1);
    lw_count(&lwd_stats(worker)->received_bytes, arrived->data_bytes);
    if (peer->state == LWD_PEER_NEW)
        lwd_serve_hello(worker, peer, &msg);
    else if (atomic_load_explicit(&worker->stop_at_us, memory_order_relaxed) != 0)
        lwd_reply_status(worker, peer, msg.header.type, msg.header.request_id, LW_ERR_UNREACHABLE);
    else
        dispatch(worker, peer, &msg, arrived);
}
