/* wait.c - requests that wait for segments to come back from the log on disk.
 *
 * The thread that received the request finds that a segment is absent, and hands the owner the request with the list of
 * those it needs; the owner wants them back, keeps the request until all can be read or LWD_WAIT_US are over, and returns
 * it as it returns changes. It is then served as if it had just come; what is still absent is answered BUSY. */
#include <string.h>

#include "storaged/net/net_private.h"

/* ---- the thread that received the request ---- */
/* Sets the request's deadline at its first wait; false: that is over. */
static bool may_wait(lwd_request_t *request)
{
    uint64_t now_us = request->worker->now_us;
    if (request->wait_until_us == 0) {
        request->wait_until_us = now_us + LWD_WAIT_US;
        lw_count(&lwd_stats(request->worker)->load_waits, 1);
    }
    return now_us < request->wait_until_us;
}

bool lwd_wait_for_runs(lwd_request_t *request, const lw_msg_t *msg)
{
    lwd_worker_t *worker = request->worker;
    uint32_t list_bytes = lw_msg_list_bytes(msg), count = 0, run_count = msg->body.fetch.run_count;
    if (!may_wait(request))
        return false;
    uint64_t refs_at = lw_align_up(lw_wire_bulk_offset(list_bytes), 64);
    uint64_t buffer = lwd_extents_alloc(worker->reply_extents, refs_at + run_count * sizeof(lwd_ref_t));
    if (buffer == LWD_EXTENT_NONE)
        return false;
    lwd_ref_t *refs = (lwd_ref_t *)(worker->reply + buffer + refs_at);
    for (uint32_t r = 0; r < run_count; r++) {
        lwd_ref_t ref;
        bool writer;
        if (lwd_attach_resolve(worker->attach, request->peer->index, msg->runs[r].handle, &ref, &writer) == LW_OK &&
            (count == 0 || refs[count - 1].slot != ref.slot)) /* those that are there as well: they have to stay */
            refs[count++] = ref;
    }
    memcpy(worker->reply + buffer, msg->runs, list_bytes); /* from the worker's copy, or from the old buffer */
    if (request->buffer != LWD_EXTENT_NONE)
        lwd_extents_free(worker->reply_extents, request->buffer);
    request->buffer = buffer;
    request->wait_refs = refs;
    request->wait_count = count;
    lwd_change_submit(request, LWD_CHANGE_LOAD);
    return true;
}

bool lwd_wait_for_one(lwd_request_t *request, lwd_ref_t ref)
{
    request->ref = ref;
    request->wait_refs = &request->ref;
    request->wait_count = 1;
    if (!may_wait(request))
        return false;
    lwd_change_submit(request, LWD_CHANGE_LOAD);
    return true;
}

/* ---- the owner ---- */
static bool settled(lwd_worker_t *owner, const lwd_request_t *request)
{
    bool all = true;
    for (uint32_t i = 0; i < request->wait_count; i++)
        all = lwd_shard_want(owner->params.shard, request->wait_refs[i], owner->now_us) && all;
    return all;
}

bool lwd_wait_begin(lwd_worker_t *owner, lwd_request_t *request)
{
    if (settled(owner, request))
        return true;
    request->wait_next = NULL;
    if (owner->waiting_last != NULL)
        owner->waiting_last->wait_next = request;
    else
        owner->waiting_first = request;
    owner->waiting_last = request;
    return false;
}

unsigned lwd_waits_run(lwd_worker_t *owner)
{
    uint64_t seen = lwd_shard_settled(owner->params.shard);
    lwd_request_t *request = owner->waiting_first, *next;
    unsigned ended = 0;
    /* They wait in the order of their deadlines, nearly: who comes back is looked at with the others. */
    if (request == NULL || (seen == owner->waits_seen && owner->now_us < request->wait_until_us))
        return 0;
    owner->waits_seen = seen;
    owner->waiting_first = owner->waiting_last = NULL;
    for (; request != NULL; request = next) {
        next = request->wait_next;
        bool late = owner->now_us >= request->wait_until_us;
        if (settled(owner, request) || late) {
            lw_count(&lwd_stats(owner)->load_waits_late, late ? 1 : 0);
            lwd_change_return(owner, request);
            ended++;
            continue;
        }
        request->wait_next = NULL;
        if (owner->waiting_last != NULL)
            owner->waiting_last->wait_next = request;
        else
            owner->waiting_first = request;
        owner->waiting_last = request;
    }
    return ended;
}
