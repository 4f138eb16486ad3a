/* put.c - RESERVE, WRITE, COMMIT and ABORT. Chunks land by the fabric's own receive, straight in the reserved
 * extent. */
#include "storaged/net/net_private.h"

/* Has this connection proved that it may write that name? */
static lw_status_t may_write(const lwd_worker_t *worker, const lwd_peer_t *peer,
                             const lw_segment_name_t *name)
{
    uint32_t term;
    lw_status_t status = lwd_attach_proved(worker->attach, peer->index, name->origin, &term);
    if (status != LW_OK)
        return status;
    if (name->generation != term)
        return name->generation < term ? LW_ERR_STALE : LW_ERR_PERMISSION;
    return LW_OK;
}

static bool catalogue_away(lwd_worker_t *worker)
{
    if (atomic_load_explicit(&worker->params.node->writable, memory_order_relaxed))
        return false;
    lw_count(&lwd_stats(worker)->reserves_refused_fleet, 1);
    return true;
}

void lwd_serve_reserve(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lw_status_t status = may_write(worker, peer, &msg->body.reserve.name);
    if (status != LW_OK) {
        lw_count(status == LW_ERR_STALE ? &lwd_stats(worker)->reserves_refused_stale
                                        : &lwd_stats(worker)->reserves_refused_permission,
                 1);
    } else if (catalogue_away(worker)) {
        status = LW_ERR_FLEET;
    }
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (request == NULL) {
        lwd_reply_status(worker, peer, LW_MSG_RESERVE, msg->header.request_id,
                         status != LW_OK ? status : LW_ERR_BUSY);
        return;
    }
    request->client_id = peer->client_id;
    request->incarnation = peer->incarnation;
    lwd_change_submit(request, LWD_CHANGE_RESERVE);
}

void lwd_reserve_done(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    if (request->peer->conn == NULL) {
        lwd_request_release(request);
        return;
    }
    lw_msg_t reply = {.header.type = LW_MSG_RESERVE_REPLY};
    lw_msg_reserve_reply_t *body = &reply.body.reserve_reply;
    body->status = request->status;
    body->epoch = atomic_load_explicit(&worker->params.node->epoch, memory_order_relaxed);
    if (request->status == LW_ERR_EXHAUSTED)
        body->retry_after_ms = request->reserved.retry_after_ms;
    if (request->status == LW_OK) {
        body->committed = request->reserved.committed;
        body->status =
            lwd_attach_open(worker->attach, request->peer->index, request->reserved.ref, true, &body->handle);
        if (body->status != LW_OK)
            body->retry_after_ms = LWD_RETRY_FULL_MS;
        lw_gauge(&lwd_stats(worker)->attachments, lwd_attach_count(worker->attach));
    }
    lwd_request_reply(request, &reply);
}

/* A handle with which this connection may write. */
static lw_status_t writer_ref(const lwd_worker_t *worker, const lwd_peer_t *peer, uint64_t handle,
                              lwd_ref_t *ref_out)
{
    bool writer = false;
    lw_status_t status = lwd_attach_resolve(worker->attach, peer->index, handle, ref_out, &writer);
    if (status == LW_OK && !writer)
        status = LW_ERR_PERMISSION;
    return status;
}

static void chunk_landed(void *arg, lw_status_t status)
{
    lwd_request_t *request = arg;
    lwd_worker_t *worker = request->worker;
    lwd_shard_write_end(worker->params.shard, request->ref);
    if (status == LW_OK) {
        lw_count(&lwd_stats(worker)->write_requests, 1);
        lw_count(&lwd_stats(worker)->write_bytes, request->msg.body.write.bytes);
    } else {
        lw_count(&lwd_stats(worker)->writes_failed, 1);
    }
    lwd_request_answer(request, status);
}

void lwd_serve_write(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg,
                     const lw_fabric_msg_t *arrived)
{
    const lw_msg_write_t *write = &msg->body.write;
    lwd_ref_t ref;
    uint8_t *into = NULL;
    lw_status_t status = writer_ref(worker, peer, write->handle, &ref);
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (status == LW_OK && request == NULL)
        status = LW_ERR_BUSY;
    if (status == LW_OK)
        status = lwd_shard_write_begin(worker->params.shard, ref, write->offset, write->bytes, &into);
    if (status != LW_OK) {
        lw_count(&lwd_stats(worker)->writes_failed, 1);
        if (request != NULL)
            lwd_request_answer(request, status);
        else
            lwd_reply_status(worker, peer, LW_MSG_WRITE, msg->header.request_id, status);
        return;
    }
    request->ref = ref;
    worker->params.fabric->recv(worker->fabric, arrived, into, lwd_slice_region(worker, into, write->bytes),
                                chunk_landed, request);
}

/* COMMIT and ABORT begin alike: a writer's handle and a request. */
static lwd_request_t *begin(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg, uint64_t handle,
                            lw_status_t status)
{
    lwd_ref_t ref = {LWD_SLOT_NONE, 0};
    if (status == LW_OK)
        status = writer_ref(worker, peer, handle, &ref);
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (request == NULL)
        lwd_reply_status(worker, peer, msg->header.type, msg->header.request_id,
                         status != LW_OK ? status : LW_ERR_BUSY);
    else
        request->ref = ref;
    return request;
}

void lwd_serve_commit(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    if (peer->node) {
        lwd_serve_doubt(worker, peer, msg);
        return;
    }
    lw_status_t status = catalogue_away(worker) ? LW_ERR_FLEET : LW_OK;
    lwd_request_t *request = begin(worker, peer, msg, msg->body.commit.handle, status);
    if (request != NULL)
        lwd_change_submit(request, LWD_CHANGE_COMMIT_BEGIN);
}

void lwd_commit_begun(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    if (request->status != LW_OK || request->done) {
        lwd_request_answer(request, request->status);
        return;
    }
    lw_error_t error = {0};
    uint64_t before = lw_now_us(worker->params.clock);
    request->status = lwd_shard_commit_verify(worker->params.shard, request->ref, &error);
    lw_histogram_add(&lwd_stats(worker)->commit_us, lw_now_us(worker->params.clock) - before);
    static lw_log_rate_t rate;
    if (request->status != LW_OK)
        lw_log_rated(&rate, LW_LOG_WARN, "net", "COMMIT of client %llu refused: %s",
                     (unsigned long long)request->peer->client_id, error.text);
    lwd_change_submit(request, LWD_CHANGE_COMMIT_END);
}

void lwd_commit_done(lwd_request_t *request)
{
    lwd_request_answer(request, request->status);
}

void lwd_serve_abort(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lwd_request_t *request = begin(worker, peer, msg, msg->body.abort.handle, LW_OK);
    if (request != NULL)
        lwd_change_submit(request, LWD_CHANGE_ABORT);
}
