/* reply.c - messages out. A request ends when the fabric has sent its reply, or when its connection is gone.
 */
#include <string.h>

#include "base/fault.h"
#include "storaged/net/net_private.h"

static uint32_t encode(lwd_worker_t *worker, lw_msg_t *msg, uint64_t request_id, const void *lists,
                       uint32_t list_bytes, void *head)
{
    msg->header.fleet_id = atomic_load_explicit(&worker->params.node->fleet_id, memory_order_relaxed);
    msg->header.request_id = request_id;
    return lw_msg_encode(msg, lists, list_bytes, head);
}

/* The reply of `type` that says only a status; 0 for a type that has no reply. */
static uint16_t status_msg(const lwd_worker_t *worker, uint16_t type, lw_status_t status, lw_msg_t *msg)
{
    uint64_t epoch = atomic_load_explicit(&worker->params.node->epoch, memory_order_relaxed);
    memset(&msg->body, 0, sizeof(msg->body));
    switch ((lw_msg_type_t)type) {
    case LW_MSG_HELLO: msg->body.hello_reply.status = status; return LW_MSG_HELLO_REPLY;
    case LW_MSG_ATTACH:
        msg->body.attach_reply.status = status;
        msg->body.attach_reply.epoch = epoch;
        return LW_MSG_ATTACH_REPLY;
    case LW_MSG_RESERVE:
        msg->body.reserve_reply.status = status;
        msg->body.reserve_reply.epoch = epoch;
        return LW_MSG_RESERVE_REPLY;
    case LW_MSG_FETCH:
        msg->body.fetch_reply.status = status;
        msg->body.fetch_reply.epoch = epoch;
        return LW_MSG_FETCH_REPLY;
    case LW_MSG_READ:
        msg->body.read_reply.status = status;
        msg->body.read_reply.epoch = epoch;
        return LW_MSG_READ_REPLY;
    case LW_MSG_WRITE:
    case LW_MSG_COMMIT:
    case LW_MSG_ABORT:
    case LW_MSG_ATTEND:
        msg->body.status_reply.status = status;
        msg->body.status_reply.epoch = epoch;
        return LW_MSG_STATUS_REPLY;
    default: return LW_MSG_NONE;
    }
}

static void small_sent(void *arg, lw_status_t status)
{
    lwd_worker_t *worker = arg;
    (void)status; /* a lost connection ends by itself */
    worker->small_sends--;
}

static void send_small(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, uint64_t request_id)
{
    uint8_t head[LW_MSG_HEAD_MAX];
    if (peer->conn == NULL || peer->state == LWD_PEER_CLOSING || LW_FAULT(REPLY_DROP))
        return;
    uint32_t bytes = encode(worker, msg, request_id, NULL, 0, head);
    if (worker->params.fabric->send(peer->conn, head, bytes, NULL, 0, LW_SEND_AUTO, small_sent, worker) ==
        LW_OK)
        worker->small_sends++;
}

void lwd_reply_small(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg)
{
    send_small(worker, peer, msg, msg->header.request_id);
}

void lwd_reply_status(lwd_worker_t *worker, lwd_peer_t *peer, uint16_t type, uint64_t request_id,
                      lw_status_t status)
{
    lw_msg_t msg = {0};
    msg.header.type = status_msg(worker, type, status, &msg);
    if (status == LW_ERR_BUSY)
        lw_count(&lwd_stats(worker)->requests_refused_busy, 1);
    if (msg.header.type != LW_MSG_NONE)
        send_small(worker, peer, &msg, request_id);
}

void lwd_request_answer(lwd_request_t *request, lw_status_t status)
{
    if (request->peer != NULL)
        lwd_reply_status(request->worker, request->peer, request->type, request->request_id, status);
    lwd_request_release(request);
}

void lwd_request_reply(lwd_request_t *request, lw_msg_t *msg)
{
    if (request->peer != NULL)
        send_small(request->worker, request->peer, msg, request->request_id);
    lwd_request_release(request);
}

static void request_sent(void *arg, lw_status_t status)
{
    (void)status;
    lwd_request_release(arg);
}

void lwd_request_send(lwd_request_t *request, lw_msg_t *msg, const void *lists, uint32_t list_bytes,
                      const lw_iov_t *pieces, uint32_t piece_count, lw_send_mode_t mode)
{
    lwd_worker_t *worker = request->worker;
    lwd_peer_t *peer = request->peer;
    uint8_t head[LW_MSG_HEAD_MAX];
    if (peer->conn == NULL || peer->state == LWD_PEER_CLOSING || LW_FAULT(REPLY_DROP)) {
        lwd_request_release(request);
        return;
    }
    uint32_t bytes = encode(worker, msg, request->request_id, lists, list_bytes, head);
    lw_status_t status = worker->params.fabric->send(peer->conn, head, bytes, pieces, piece_count, mode,
                                                     request_sent, request);
    if (status != LW_OK) {
        lwd_request_answer(request, LW_ERR_BUSY);
        return;
    }
    uint64_t sent = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        sent += pieces[i].bytes;
    lw_count(&lwd_stats(worker)->sent_bytes, sent);
}
