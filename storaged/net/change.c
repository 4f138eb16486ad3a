/* change.c - changes to segments, made by the owner's thread whoever received the message.
 *
 * A request of another worker travels to the owner and back through two rings; the owner's own run at once.
 * Rings hold as many entries as there are requests, so that a push cannot fail. */
#include "storaged/net/net_private.h"

/* On the owner's thread. False: it is kept, and returned later. */
static bool change_run(lwd_worker_t *owner, lwd_request_t *request)
{
    lwd_shard_t *shard = owner->params.shard;
    const lw_msg_t *msg = &request->msg;
    lwd_reserve_t reserve;
    switch (request->change) {
    case LWD_CHANGE_BYE:
        lwd_shard_client_down(shard, request->client_id, request->incarnation, owner->now_us);
        break;
    case LWD_CHANGE_ATTACH:
        request->status = LW_OK;
        if (msg->body.attach.write != 0)
            request->status = lwd_shard_grant(shard, msg->body.attach.session_id, msg->body.attach.term);
        if (request->first && request->status == LW_OK)
            request->status = lwd_shard_client_up(shard, request->client_id, request->incarnation);
        for (uint32_t i = 0; i < msg->body.attach.name_count; i++) {
            if (request->refs[i].slot == LWD_SLOT_NONE ||
                lwd_shard_find(shard, &request->names[i], &request->refs[i]) != LW_OK)
                request->refs[i].slot = LWD_SLOT_NONE;
        }
        break;
    case LWD_CHANGE_RESERVE:
        reserve = (lwd_reserve_t){request->client_id, request->incarnation, msg->body.reserve.name,
                                  msg->body.reserve.bytes};
        request->status = lwd_shard_reserve(shard, &reserve, &request->reserved);
        break;
    case LWD_CHANGE_COMMIT_BEGIN:
        request->status = lwd_shard_commit_begin(shard, request->ref, msg->body.commit.bytes, &request->done);
        break;
    case LWD_CHANGE_COMMIT_END:
        request->status = lwd_shard_commit_end(shard, request->ref, request->status, owner->now_us);
        break;
    case LWD_CHANGE_ABORT: request->status = lwd_shard_abort(shard, request->ref); break;
    case LWD_CHANGE_DISTRUST: (void)lwd_shard_distrust(shard, request->ref); break;
    case LWD_CHANGE_LOAD: return lwd_wait_begin(owner, request);
    }
    return true;
}

/* Back on the thread that received the message. */
static void change_done(lwd_request_t *request)
{
    switch (request->change) {
    case LWD_CHANGE_BYE: lwd_request_release(request); break;
    case LWD_CHANGE_ATTACH: lwd_attach_done(request); break;
    case LWD_CHANGE_RESERVE: lwd_reserve_done(request); break;
    case LWD_CHANGE_COMMIT_BEGIN: lwd_commit_begun(request); break;
    case LWD_CHANGE_COMMIT_END: lwd_commit_done(request); break;
    case LWD_CHANGE_ABORT:
    case LWD_CHANGE_DISTRUST: lwd_request_answer(request, request->status); break;
    case LWD_CHANGE_LOAD:
        if (request->type == LW_MSG_READ)
            lwd_read_waited(request);
        else
            lwd_fetch_waited(request);
        break;
    }
}

void lwd_change_return(lwd_worker_t *owner, lwd_request_t *request)
{
    lwd_worker_t *from = request->worker;
    if (from == owner) {
        change_done(request);
        return;
    }
    bool pushed = lwd_ring_push(&from->returned, &request);
    LW_ASSERT(pushed);
    lwd_worker_wake(from);
}

void lwd_change_submit(lwd_request_t *request, lwd_change_t change)
{
    lwd_worker_t *worker = request->worker;
    request->change = change;
    if (lwd_is_owner(worker)) {
        if (change_run(worker, request))
            change_done(request);
        return;
    }
    bool pushed = lwd_ring_push(&worker->params.owner->changes, &request);
    LW_ASSERT(pushed);
    lwd_worker_wake(worker->params.owner);
}

unsigned lwd_changes_run(lwd_worker_t *worker)
{
    lwd_request_t *request;
    unsigned ran = 0;
    while (ran < LWD_ROUND_NEWS_MAX && lwd_ring_pop(&worker->changes, &request)) {
        if (change_run(worker, request))
            lwd_change_return(worker, request);
        ran++;
    }
    return ran;
}

unsigned lwd_changes_returned(lwd_worker_t *worker)
{
    lwd_request_t *request;
    unsigned ran = 0;
    while (ran < LWD_ROUND_NEWS_MAX && lwd_ring_pop(&worker->returned, &request)) {
        change_done(request);
        ran++;
    }
    return ran;
}
