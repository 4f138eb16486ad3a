/* read.c - READ: a stretch of a stored segment, sent from where it lies. The segment's memory stays until it
 * is sent. A segment in the log on disk is waited for. */
#include "storaged/net/net_private.h"

/* Answers a request whose segment can be read. */
static void serve(lwd_request_t *request, lwd_segment_t *segment)
{
    lwd_worker_t *worker = request->worker;
    const lw_msg_read_t *read = &request->msg.body.read;
    uint64_t bytes = 0;
    lw_status_t status = LW_OK;
    if (read->offset > segment->bytes)
        status = LW_ERR_INVALID;
    else /* what lies beyond the end is not sent */
        bytes = lw_min_u64(read->bytes != 0 ? read->bytes : UINT64_MAX, segment->bytes - read->offset);
    if (status != LW_OK || bytes > LW_MSG_BULK_MAX) {
        lwd_request_answer(request, LW_ERR_INVALID);
        return;
    }
    lw_msg_t reply = {.header.type = LW_MSG_READ_REPLY};
    reply.body.read_reply = (lw_msg_read_reply_t){
        .bytes = (uint32_t)bytes,
        .segment_bytes = segment->bytes,
        .epoch = atomic_load_explicit(&worker->params.node->epoch, memory_order_relaxed),
    };
    lw_count(&lwd_stats(worker)->read_requests, 1);
    lw_count(&lwd_stats(worker)->read_bytes, bytes);
    lwd_segment_touch(segment, worker->now_us);
    if (bytes == 0) {
        lwd_request_reply(request, &reply);
        return;
    }
    lwd_segment_borrow(segment);
    request->one = segment;
    request->borrowed = &request->one;
    request->borrow_count = 1;
    lw_iov_t piece = {segment->extent + read->offset, bytes};
    lwd_request_send(request, &reply, NULL, 0, &piece, 1, LW_SEND_AUTO);
}

void lwd_read_waited(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    lwd_segment_t *segment = lwd_shard_readable(worker->params.shard, request->ref);
    if (request->peer->conn == NULL)
        lwd_request_release(request);
    else if (request->canceled)
        lwd_request_answer(request, LW_ERR_CANCELED);
    else if (segment != NULL)
        serve(request, segment);
    else if (!lwd_shard_absent(worker->params.shard, request->ref))
        lwd_request_answer(request, LW_ERR_STALE);
    else if (!lwd_wait_for_one(request, request->ref))
        lwd_request_answer(request, LW_ERR_BUSY);
}

void lwd_serve_read(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lwd_ref_t ref;
    bool writer, absent = false;
    lwd_segment_t *segment = NULL;
    lw_status_t status = lwd_attach_resolve(worker->attach, peer->index, msg->body.read.handle, &ref, &writer);
    if (status == LW_OK) {
        segment = lwd_shard_readable(worker->params.shard, ref);
        absent = segment == NULL && lwd_shard_absent(worker->params.shard, ref);
        status = segment != NULL || absent ? LW_OK : LW_ERR_STALE;
    }
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (request == NULL)
        lwd_reply_status(worker, peer, LW_MSG_READ, msg->header.request_id,
                         status != LW_OK ? status : LW_ERR_BUSY);
    else if (absent)
        (void)lwd_wait_for_one(request, ref); /* the first time it may */
    else
        serve(request, segment);
}
