/* hedge.c - requests that are late are asked of another replica, too, and the first good answer of each want counts.
 *
 * The request stays the owner of its wants: a hedge only asks for them again and claims those that it can answer first.
 * Whatever ends the request ends its hedges; a hedge that fails is forgotten. Each has landing memory of its own, so the
 * loser of a race writes where nobody reads; memory whose answer has not begun to land is free at once, since such an
 * answer is not received any more. A budget keeps a slow fleet from being asked for everything twice.
 *
 * Wants that merely wait for their node (it is not connected, or does not attach) are not asked twice: they move. */
#include "base/log.h"
#include "client/store/store_private.h"

static bool ended(const lwc_request_t *request, uint32_t i)
{
    return request->batch->ended[i / 64] >> i % 64 & 1;
}

bool lwc_want_ended(const lwc_request_t *request, uint32_t i)
{
    return request->origin ? ended(request->origin, request->batch->versions[i]) : ended(request, i);
}

bool lwc_want_claim(lwc_request_t *request, uint32_t i)
{
    lwc_request_t *owner = request->origin ? request->origin : request;
    uint32_t at = request->origin ? request->batch->versions[i] : i;
    if (ended(owner, at))
        return false;
    owner->batch->ended[at / 64] |= 1ull << at % 64;
    owner->ended_count++;
    return true;
}

void lwc_wants_drop_ended(lwc_request_t *request)
{
    lwc_batch_t *batch = request->batch;
    uint32_t kept = 0;
    if (request->ended_count == 0)
        return;
    for (uint32_t i = 0; i < batch->count; i++)
        if (!ended(request, i))
            batch->wants[kept++] = batch->wants[i];
    for (uint32_t word = 0; word < LW_ARRAY_SIZE(batch->ended); word++)
        batch->ended[word] = 0;
    batch->count = kept;
    request->ended_count = 0;
}

/* ---- ending ---- */

static void tell_canceled(const lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg = {.header = {.type = LW_MSG_CANCEL, .fleet_id = store->view.fleet_id}};
    msg.body.cancel.request_id = lwc_request_id(request);
    uint32_t head_bytes = lw_msg_encode(&msg, NULL, 0, head);
    if (request->peer->state != LWC_PEER_READY)
        return;
    lw_status_t status = store->ops->send(request->peer->conn, head, head_bytes, NULL, 0, LW_SEND_AUTO, NULL, NULL);
    if (status != LW_OK) /* only a hint: nothing follows from it */
        LW_DEBUG("store", "node %u: CANCEL not sent: %s", request->peer->node.index, lw_status_text(status));
}

/* Nobody waits for its answer any more. */
static void let_go(lwc_request_t *request)
{
    if (request->state == LWC_WAITING) {
        lwc_request_end(request);
        return;
    }
    if (request->state == LWC_SENT)
        tell_canceled(request);
    lwc_request_zombie(request);
}

void lwc_hedges_drop(lwc_request_t *request)
{
    lwc_request_list_t *lists[] = {&request->store->waiting, &request->store->away};
    for (size_t i = 0; i < LW_ARRAY_SIZE(lists) && request->hedges > 0; i++) {
        lwc_request_t *next;
        for (lwc_request_t *at = lists[i]->first; at; at = next) {
            next = at->after;
            if (at->origin != request)
                continue;
            at->origin = NULL;
            request->hedges--;
            let_go(at);
        }
    }
}

void lwc_hedge_over(lwc_request_t *hedge)
{
    lwc_request_t *origin = hedge->origin;
    hedge->origin = NULL;
    origin->hedges--;
    lwc_request_end(hedge);
    if (origin->ended_count < origin->batch->count)
        return;
    lwc_hedges_drop(origin);
    let_go(origin);
}

/* ---- asking ---- */

static lwc_request_t *open_hedge(lwc_request_t *origin, lwc_peer_t *peer)
{
    lwc_store_t *store = origin->store;
    if (peer->building)
        return peer->building->origin == origin ? peer->building : NULL;
    if (store->hedge_credit < LWC_HEDGE_COST || store->batch_free_count <= LWC_HEDGE_BATCHES_LEFT)
        return NULL;
    lwc_request_t *hedge = lwc_request_new(store, LWC_REQUEST_FETCH, peer, origin->deadline_us);
    if (!hedge)
        return NULL;
    hedge->batch = lwc_batch_new(store);
    hedge->arrived = origin->arrived;
    hedge->arg = origin->arg;
    hedge->origin = origin;
    origin->hedges++;
    peer->building = hedge;
    store->hedge_credit -= LWC_HEDGE_COST;
    store->stats.hedges++;
    return hedge;
}

static void hedge(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    bool denied = false;
    for (uint32_t i = 0; i < request->batch->count; i++) {
        const lwc_want_t *want = &request->batch->wants[i];
        uint32_t r = ended(request, i) ? LW_REPLICAS_MAX : lwc_choose_ready(store, want, lwc_want_asked(request, want));
        if (r == LW_REPLICAS_MAX)
            continue;
        lwc_request_t *other = open_hedge(request, lwc_peer(store, store->segments[want->segment].replica[r].node_index));
        if (other)
            other->batch->versions[other->batch->count] = i;
        if (other)
            lwc_request_add(other, want, r);
        denied = denied || !other;
    }
    lwc_fetch_build_done(store);
    request->hedged = request->hedges > 0;
    store->stats.hedges_denied += denied && !request->hedge_denied;
    request->hedge_denied = request->hedge_denied || denied;
}

void lwc_hedge_if_late(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    uint64_t after_us = lwc_late_after_us(request->peer);
    if (after_us == UINT64_MAX || request->contiguous)
        return;
    if (store->now_us - request->sent_us < after_us) {
        store->hedge_due_us = lw_min_u64(store->hedge_due_us, request->sent_us + after_us);
        return;
    }
    request->peer->late = request->peer->late || request->peer->heard_us <= request->sent_us + after_us / 2;
    if (!request->hedged && !request->origin)
        hedge(request); /* once for each request; asked again only while there is nobody, or no credit, to ask */
}

/* ---- moving on ---- */

/* Replicas that nobody has asked for anything yet have no connection. */
static void connect_others(lwc_request_t *request, const lwc_want_t *want)
{
    lwc_store_t *store = request->store;
    const lwc_segment_t *segment = &store->segments[want->segment];
    for (uint32_t r = 0; r < segment->replica_count; r++) {
        lwc_peer_t *peer = lwc_peer(store, segment->replica[r].node_index);
        if (peer && peer != request->peer && !lwc_want_failed(want, r))
            (void)lwc_peer_ready(peer);
    }
}

void lwc_fetch_leave(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        lwc_want_t want = batch->wants[i];
        if (!lwc_segment(store, want.segment)) { /* forgotten: it ends where handles are looked for */
            batch->wants[kept++] = want;
            continue;
        }
        uint32_t r = lwc_choose_ready(store, &want, lwc_want_asked(request, &want));
        if (r != LW_REPLICAS_MAX && lwc_fetch_build(store, &want, r, request)) {
            store->stats.reroutes++;
            continue;
        }
        connect_others(request, &want);
        if (request->peer->state == LWC_PEER_WAITING)
            lwc_refresh_want(store, lwc_segment(store, want.segment), false);
        batch->wants[kept++] = want;
    }
    lwc_fetch_build_done(store);
    batch->count = kept;
    if (kept == 0)
        lwc_request_end(request);
}
