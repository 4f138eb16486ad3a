/* fetch.c - wants become one request for each node; replies land whole and every record is verified before anybody sees it.
 *
 * A want that fails on one replica goes to the next; with none left it ends with the last cause. A request whose
 * connection ended goes on with other replicas, or waits for the new connection. What a want has been through is kept in
 * its `reserved` word. A hedge (hedge.c) is a request that asks for another one's wants: here it may only give records,
 * everything that fails in it is left to its origin. */
#include "base/fault.h"
#include "base/log.h"
#include "client/store/store_private.h"

#define TRANSIT_RETRIES 2u /* a wrong checksum may have happened on the way: ask so often again before the copy is given up */

void (*lwc_store_watch)(lwc_store_event_t event, uint32_t records);

static lw_status_t want_cause(const lwc_want_t *want) { return (lw_status_t) - (int)(want->reserved >> 16 & 0xFF); }

static void want_fails(lwc_store_t *store, lwc_want_t *want, lw_status_t cause)
{
    lwc_refresh_want(store, lwc_segment(store, want->segment), false);
    want->reserved |= 1u << (4 + lwc_want_replica(want));
    want->reserved = (want->reserved & 0xFF00FFFFu) | ((uint32_t)-cause & 0xFF) << 16;
}

static void end_want(lwc_request_t *request, const lwc_want_t *want, lw_status_t status, const uint8_t *record)
{
    request->store->wants_in_flight--;
    if (lwc_store_watch)
        lwc_store_watch(LWC_STORE_ENDED, 1);
    request->arrived(request->arg, want->tag, status, record);
}

/* The segment's nodes have changed since the want was last looked at: what it has been through does not count. */
static bool want_moved(const lwc_store_t *store, lwc_want_t *want)
{
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    if (!segment || want->reserved >> 24 == segment->moves)
        return false;
    want->reserved = (uint32_t)segment->moves << 24;
    return true;
}

static lw_status_t final_status(const lwc_store_t *store, const lwc_want_t *want)
{
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    lw_status_t cause = want_cause(want);
    if (segment && segment->gone)
        return LW_ERR_SESSION_LOST;
    switch (cause) {
    case LW_ERR_NOT_FOUND:
    case LW_ERR_STALE: return LW_ERR_SESSION_LOST;
    case LW_OK: return LW_ERR_UNREACHABLE; /* its nodes are not in the view */
    default: return cause;
    }
}

static void set_waiting(lwc_request_t *request)
{
    if (request->serial != 0)
        request->peer->requests--;
    request->serial = 0;
    request->state = LWC_WAITING;
    lwc_request_move(request, &request->store->waiting);
}

/* A callback may have left another user's request half built. */
static bool is_for(const lwc_request_t *request, const lwc_request_t *like)
{
    return request->arrived == like->arrived && request->arg == like->arg && request->deadline_us == like->deadline_us &&
           request->contiguous == like->contiguous && !request->origin;
}

void lwc_request_add(lwc_request_t *request, const lwc_want_t *want, uint32_t r)
{
    uint64_t bytes = lwc_want_bytes(request->store, want);
    lwc_want_t *copy = &request->batch->wants[request->batch->count++];
    *copy = *want;
    copy->reserved = (want->reserved & ~7u) | r;
    request->load_bytes += bytes;
    request->peer->load_bytes += bytes;
}

static lwc_peer_t *any_peer(const lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->peer_count; i++)
        if (store->peer[i])
            return store->peer[i];
    return NULL;
}

/* A request to `peer` for wants that end as those of `like` do; NULL: the tables are full. */
static lwc_request_t *request_like(lwc_store_t *store, lwc_peer_t *peer, const lwc_request_t *like)
{
    if (store->batch_free_count == 0)
        return NULL;
    lwc_request_t *request = lwc_request_new(store, LWC_REQUEST_FETCH, peer, like->deadline_us);
    if (!request)
        return NULL;
    request->batch = lwc_batch_new(store);
    request->arrived = like->arrived;
    request->arg = like->arg;
    request->contiguous = like->contiguous;
    return request;
}

/* Every replica has failed: the want waits for its manifest to be read again. False: that is not to be hoped for. */
static bool park(const lwc_request_t *like, const lwc_want_t *want)
{
    lwc_store_t *store = like->store;
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    lwc_request_t *request = store->parking;
    if (!lwc_refresh_can(store, segment))
        return false;
    if (!request || request->batch->count == LWC_BATCH_WANTS || !is_for(request, like) ||
        request->session_slot != segment->session_slot) {
        lwc_peer_t *peer = like->peer ? like->peer : any_peer(store);
        request = peer ? request_like(store, peer, like) : NULL;
        if (!request)
            return false;
        request->parked = true;
        request->parked_us = store->now_us;
        request->session_slot = segment->session_slot;
        store->parking = request;
    }
    request->batch->wants[request->batch->count++] = *want;
    lwc_refresh_want(store, segment, true);
    return true;
}

bool lwc_fetch_build(lwc_store_t *store, const lwc_want_t *want, uint32_t r, const lwc_request_t *like)
{
    lwc_peer_t *peer = lwc_peer(store, store->segments[want->segment].replica[r].node_index);
    lwc_request_t *request = peer->building;
    if (!request || request->batch->count == LWC_BATCH_WANTS || !is_for(request, like)) {
        request = request_like(store, peer, like);
        if (!request)
            return false;
        request->retry_at_us = like->retry_at_us;
        request->moves = store->moves;
        peer->building = request;
    }
    lwc_request_add(request, want, r);
    return true;
}

void lwc_fetch_build_done(lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->peer_count; i++)
        if (store->peer[i])
            store->peer[i]->building = NULL;
    store->parking = NULL;
}

static lwc_want_t first_look(const lwc_store_t *store, const lwc_want_t *from)
{
    lwc_want_t want = *from;
    want.reserved = (uint32_t)store->segments[want.segment].moves << 24;
    return want;
}

lw_status_t lwc_store_fetch(lwc_store_t *store, const lwc_want_t *wants, uint32_t count, uint64_t deadline_us,
                            bool contiguous, lwc_arrived_t arrived, void *arg)
{
    uint32_t batches = store->peer_count + count / LWC_BATCH_WANTS + 1;
    if (count > store->params.wants_max - store->wants_in_flight || store->batch_free_count < lw_min_u64(batches, count) ||
        store->request_capacity - store->request_count < lw_min_u64(batches, count))
        return LW_ERR_BUSY;
    for (uint32_t i = 0; i < count; i++) {
        if (!lwc_segment(store, wants[i].segment))
            return lwc_store_fail(store, LW_ERR_INVALID, "fetch: no segment with key %u", wants[i].segment);
        if (wants[i].rows == 0)
            return lwc_store_fail(store, LW_ERR_INVALID, "fetch: want %u has 0 rows", i);
    }
    store->now_us = lw_now_us(store->params.clock);
    if (lwc_store_watch)
        lwc_store_watch(LWC_STORE_ASKED, count);
    lwc_request_t like = {.deadline_us = deadline_us, .contiguous = contiguous, .arrived = arrived, .arg = arg};
    like.store = store;
    store->wants_in_flight += count;
    for (uint32_t i = 0; i < count; i++) {
        lwc_want_t want = first_look(store, &wants[i]);
        uint32_t r = lwc_choose(store, &want, LW_REPLICAS_MAX);
        if (r != LW_REPLICAS_MAX)
            LW_ASSERT(lwc_fetch_build(store, &want, r, &like));
    }
    lwc_fetch_build_done(store);
    for (uint32_t i = 0; i < count; i++) { /* last: callbacks may fetch, and that would take the batches counted above */
        lwc_want_t want = first_look(store, &wants[i]);
        if (lwc_choose(store, &want, LW_REPLICAS_MAX) == LW_REPLICAS_MAX && !park(&like, &want)) {
            lw_status_t status = final_status(store, &want); /* no node of the view has it, or no manifest */
            lwc_store_fail(store, status, "segment %u head %u entry %u: %s", want.segment, want.head, want.entry,
                           lw_status_text(status));
            end_want(&like, &want, status, NULL);
        }
    }
    lwc_fetch_build_done(store);
    lwc_fetches_kick(store);
    return LW_OK;
}

/* ---- sending ---- */

static void want_lost(lwc_request_t *request, const lwc_want_t *want)
{
    lwc_store_t *store = request->store;
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    lw_status_t status = final_status(store, want);
    lwc_store_fail(store, status, "segment %u head %u entry %u: %s after %u attempts%s", want->segment, want->head,
                   want->entry, lw_status_text(status), lwc_want_attempts(want),
                   segment && segment->gone ? ": no manifest has it any more, the session was dropped or evicted" : "");
    end_want(request, want, status, NULL);
}

static void again(lwc_request_t *request, lwc_want_t *want)
{
    lwc_store_t *store = request->store;
    (void)want_moved(store, want);
    uint32_t r = lwc_choose(store, want, LW_REPLICAS_MAX);
    uint32_t attempts = lwc_want_attempts(want) + 1;
    want->reserved = (want->reserved & 0xFFFF00FFu) | (attempts & 0xFF) << 8;
    if (r == LW_REPLICAS_MAX && park(request, want))
        return;
    if (r == LW_REPLICAS_MAX || attempts > LW_RETRIES_MAX) {
        want_lost(request, want);
        return;
    }
    store->stats.fetch_retries++;
    if (!lwc_fetch_build(store, want, r, request))
        end_want(request, want, LW_ERR_BUSY, NULL);
}

/* Takes out wants whose node has said that it has no such segment; true when every other want has its handle. */
static bool handles_ready(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    bool ready = true;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        lwc_want_t want = batch->wants[i];
        uint64_t handle;
        bool absent = lwc_segment(store, want.segment) == NULL;
        bool left = !absent && lwc_want_asked(request, &want) == LW_REPLICAS_MAX;
        if (left) { /* for another node */
            if (!request->origin)
                again(request, &want);
            continue;
        }
        if (!absent && !lwc_segment_handle(store, want.segment, lwc_want_replica(&want), &handle, &absent))
            ready = ready && absent;
        if (!absent) {
            batch->versions[kept] = batch->versions[i];
            batch->wants[kept++] = want;
        } else if (!request->origin) {
            want_fails(store, &want, LW_ERR_NOT_FOUND);
            again(request, &want);
        }
    }
    batch->count = kept;
    lwc_fetch_build_done(store);
    return ready;
}

/* Lays runs and entries out; returns the bytes of the lists. Consecutive wants of one segment and head make a run. */
static uint32_t lay_out(lwc_request_t *request, uint32_t *run_count_out, uint64_t *bulk_bytes_out, uint64_t *tag_max_out)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    lw_msg_fetch_run_t *runs = (lw_msg_fetch_run_t *)batch->lists;
    uint32_t run_count = 0;
    uint64_t bulk = 0, tag_max = 0;
    const lwc_want_t *last = NULL;
    for (uint32_t i = 0; i < batch->count; i++) {
        const lwc_want_t *want = &batch->wants[i];
        bool same = last && last->segment == want->segment && last->head == want->head && runs[run_count - 1].count < 65535;
        if (!same) {
            const lwc_replica_t *replica = &store->segments[want->segment].replica[lwc_want_replica(want)];
            runs[run_count++] = (lw_msg_fetch_run_t){.handle = replica->handle, .head = want->head};
        }
        runs[run_count - 1].count++;
        bulk += lwc_want_bytes(store, want);
        tag_max = lw_max_u64(tag_max, want->tag);
        last = want;
    }
    uint16_t *entries = (uint16_t *)(runs + run_count);
    for (uint32_t i = 0; i < batch->count; i++)
        entries[i] = batch->wants[i].entry;
    *run_count_out = run_count;
    *bulk_bytes_out = bulk;
    *tag_max_out = tag_max;
    return run_count * (uint32_t)sizeof(*runs) + batch->count * (uint32_t)sizeof(*entries);
}

static void fail_all(lwc_request_t *request, lw_status_t status)
{
    lwc_wants_drop_ended(request);
    for (uint32_t i = 0; i < request->batch->count; i++)
        end_want(request, &request->batch->wants[i], status, NULL);
    request->batch->count = 0;
}

/* Is the request's node connected, and has it given handles for all wants? What waits for that too long goes elsewhere. */
static bool node_ready(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    if (!lwc_peer_ready(request->peer)) {
        if (request->origin)
            lwc_hedge_over(request);
        else
            lwc_fetch_leave(request);
        return false;
    }
    if (handles_ready(request))
        return true;
    if (!request->origin && store->now_us - request->made_us >= lwc_late_after_us(request->peer))
        lwc_fetch_leave(request);
    return false;
}

/* A reply that can never be landed. */
static void too_large(lwc_request_t *request, uint64_t reply_bytes)
{
    lwc_store_t *store = request->store;
    if (request->origin) {
        lwc_hedge_over(request);
        return;
    }
    lwc_store_fail(store, LW_ERR_EXHAUSTED, "a fetch of %llu bytes does not fit landing memory of %llu",
                   (unsigned long long)reply_bytes, (unsigned long long)store->landing.bytes);
    fail_all(request, LW_ERR_EXHAUSTED);
    lwc_request_end(request);
}

/* Wants whose segments have moved since they came into this request go where those are now. */
static void follow_moves(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    uint32_t kept = 0;
    lwc_wants_drop_ended(request);
    for (uint32_t i = 0; i < batch->count; i++) {
        lwc_want_t want = batch->wants[i];
        if (want_moved(store, &want))
            again(request, &want);
        else
            batch->wants[kept++] = want;
    }
    batch->count = kept;
    request->moves = store->moves;
    lwc_fetch_build_done(store);
}

void lwc_parked_try(lwc_store_t *store, uint32_t session_slot, uint64_t asked_us)
{
    lwc_request_list_t *waiting = &store->waiting;
    LW_ASSERT(!store->kicking);
    store->kicking = true; /* callbacks may fetch: the list has one walk at a time */
    for (lwc_request_t *request = lwc_requests_first(waiting); request; request = lwc_requests_next(waiting)) {
        uint32_t kept = 0;
        if (!request->parked || request->session_slot != session_slot)
            continue;
        for (uint32_t i = 0; i < request->batch->count; i++) {
            lwc_want_t want = request->batch->wants[i];
            if (want_moved(store, &want))
                again(request, &want);
            else if (request->parked_us <= asked_us)
                want_lost(request, &want); /* nothing has changed */
            else
                request->batch->wants[kept++] = want; /* the manifest may have changed since */
        }
        request->batch->count = kept;
        lwc_fetch_build_done(store);
        if (kept == 0)
            lwc_request_end(request);
    }
    store->kicking = false;
    lwc_fetches_kick(store);
    lwc_reads_unpark(store, session_slot, asked_us);
}

static void try_send(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    if (store->now_us < request->retry_at_us || request->parked)
        return;
    if (request->moves != store->moves && !request->origin)
        follow_moves(request);
    if (!node_ready(request))
        return;
    if (request->batch->count == 0) {
        if (request->origin)
            lwc_hedge_over(request);
        else
            lwc_request_end(request);
        return;
    }
    uint32_t run_count;
    uint64_t bulk, tag_max;
    uint32_t list_bytes = lay_out(request, &run_count, &bulk, &tag_max);
    uint64_t reply_bytes = lw_wire_bulk_offset(4 * (run_count + request->batch->count)) + bulk;
    request->span = lwc_landing_take(&store->landing, reply_bytes, tag_max);
    if (request->span == LWC_NO_SLOT) {
        if (reply_bytes > store->landing.bytes)
            too_large(request, reply_bytes);
        return;
    }
    uint64_t left = request->deadline_us - store->now_us;
    lw_msg_t msg = {.header.type = LW_MSG_FETCH,
                    .body.fetch = {.run_count = run_count,
                                   .entry_count = request->batch->count,
                                   .deadline_us = left > UINT32_MAX ? UINT32_MAX : (uint32_t)left,
                                   .flags = request->contiguous ? LW_MSG_FETCH_CONTIGUOUS : 0}};
    store->stats.fetch_requests++;
    request->peer->stats.fetches++;
    if (!request->origin && store->hedge_credit < LWC_HEDGE_CREDIT_MAX)
        store->hedge_credit++;
    lwc_request_send(request, &msg, request->batch->lists, list_bytes, NULL, 0);
}

void lwc_fetches_kick(lwc_store_t *store)
{
    lwc_request_list_t *waiting = &store->waiting;
    if (!waiting->first || store->kicking)
        return;
    store->kicking = true;
    for (lwc_request_t *request = lwc_requests_first(waiting); request; request = lwc_requests_next(waiting)) {
        if (store->now_us >= request->deadline_us)
            lwc_fetch_expire(request, LW_ERR_TIMEOUT);
        else
            try_send(request);
    }
    store->kicking = false;
    lwc_attach_flush(store);
}

/* ---- replies ---- */

/* Every want of the request goes on elsewhere, or to the same node again. */
static void redo(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    lwc_wants_drop_ended(request);
    for (uint32_t i = 0; i < batch->count; i++)
        again(request, &batch->wants[i]);
    batch->count = 0;
    lwc_fetch_build_done(store);
    lwc_request_end(request);
    lwc_fetches_kick(store);
}

/* Part of a reply is in place: its records are hashed while they are in the cache. Where they lie is right only when no
 * run failed; fetch_landed knows. */
static void fetch_landing(void *arg, uint64_t landed_bytes)
{
    lwc_request_t *request = arg;
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    if (request->state != LWC_LANDING)
        return;
    const uint8_t *payload = lwc_landing_at(&store->landing, request->span);
    for (; request->hashed < batch->count; request->hashed++) {
        const lwc_want_t *want = &batch->wants[request->hashed];
        const lwc_segment_t *segment = lwc_segment(store, want->segment);
        uint64_t bytes = segment ? lwc_want_bytes(store, want) : UINT64_MAX;
        if (bytes > landed_bytes || request->hashed_bytes > landed_bytes - bytes)
            return;
        uint64_t seed = lw_record_seed_hashed(segment->name_hash, want->head, want->entry);
        batch->keys[request->hashed] = lw_record_check(seed, payload + request->hashed_bytes, bytes);
        request->hashed_bytes += bytes;
    }
}

/* hashed: the record's checksum is known already. */
static void record_arrived(lwc_request_t *request, uint32_t i, uint32_t check, const uint8_t *record, bool hashed)
{
    lwc_store_t *store = request->store;
    lwc_want_t *want = &request->batch->wants[i];
    if (lwc_want_ended(request, i))
        return;
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    uint64_t bytes = segment ? lwc_want_bytes(store, want) : 0;
    uint64_t seed = segment ? lw_record_seed_hashed(segment->name_hash, want->head, want->entry) : 0;
    uint32_t found = hashed ? request->batch->keys[i] : lw_record_check(seed, record, bytes);
    /* A contiguous answer has other bytes than the records': perftest wants the work, not the comparison. */
    if (segment && (found == check || request->contiguous || LW_FAULT(CHECKSUM_SKIP))) {
        if (!lwc_want_claim(request, i))
            return;
        request->delivered = true;
        store->stats.bytes_fetched += bytes;
        store->stats.records_fetched++;
        request->peer->stats.bytes_fetched += bytes;
        end_want(request, want, LW_OK, record);
        return;
    }
    static lw_log_rate_t rate; /* a bad copy has many records */
    store->stats.checksum_failures++;
    lw_log_rated(&rate, LW_LOG_WARN, "store", "node %u: segment %u head %u entry %u has a wrong checksum",
                 request->peer->node.index, want->segment, want->head, want->entry);
    if (request->origin || !lwc_want_claim(request, i))
        return;
    if (lwc_want_attempts(want) >= TRANSIT_RETRIES) /* not the wire, then: this copy is bad */
        want_fails(store, want, LW_ERR_CORRUPT);
    again(request, want);
}

static void run_failed(lwc_request_t *request, uint32_t first, uint32_t count, lw_status_t status)
{
    for (uint32_t i = first; i < first + count; i++) {
        lwc_want_t *want = &request->batch->wants[i];
        if (status == LW_ERR_STALE)
            lwc_segment_stale(request->store, want->segment, lwc_want_replica(want)); /* attach again, then decide */
        if (request->origin || !lwc_want_claim(request, i))
            continue;
        if (status != LW_ERR_STALE && status != LW_ERR_BUSY)
            want_fails(request->store, want, status);
        again(request, want);
    }
}

/* Goes through the records of a reply whose lists have been decoded. */
static void take_records(lwc_request_t *request, const uint8_t *payload)
{
    lwc_store_t *store = request->store;
    const lw_msg_t *reply = &request->reply;
    const lw_msg_fetch_run_t *runs = (const lw_msg_fetch_run_t *)request->batch->lists;
    uint64_t at = lw_wire_bulk_offset(reply->header.list_bytes), end = request->payload_bytes;
    uint32_t want = 0, record = 0, hashed = request->hashed;
    for (uint32_t run = 0; run < reply->body.fetch_reply.run_count; run++)
        hashed = reply->run_status[run] == LW_OK ? hashed : 0;
    for (uint32_t run = 0; run < reply->body.fetch_reply.run_count; run++) {
        uint32_t count = runs[run].count;
        if (reply->run_status[run] != LW_OK) {
            run_failed(request, want, count, (lw_status_t)reply->run_status[run]);
            want += count;
            continue;
        }
        for (uint32_t i = 0; i < count; i++, want++) {
            uint64_t bytes = lwc_want_bytes(store, &request->batch->wants[want]);
            bool there = record < reply->body.fetch_reply.record_count && bytes <= end - at;
            if (!there) {
                run_failed(request, want, 1, LW_ERR_CORRUPT);
                continue;
            }
            record_arrived(request, want, reply->checksums[record++], payload + at, want < hashed);
            at += bytes;
        }
    }
}

static void fetch_landed(void *arg, lw_status_t status)
{
    lwc_request_t *request = arg;
    lwc_store_t *store = request->store;
    lw_error_t error = {0};
    if (status != LW_OK) { /* the connection is ending: lwc_fetch_lost comes */
        if (request->state == LWC_LANDING)
            request->state = LWC_SENT;
        return;
    }
    store->events++;
    lwc_latency_add(&request->peer->latency, lw_now_us(store->params.clock) - request->sent_us);
    if (request->state == LWC_ZOMBIE) {
        lwc_request_end(request);
        return;
    }
    const uint8_t *payload = lwc_landing_at(&store->landing, request->span);
    status = lw_msg_decode_lists(&request->reply, payload, request->payload_bytes, &error);
    if (status != LW_OK) {
        lwc_store_fail(store, status, "node %u: FETCH_REPLY: %s", request->peer->node.index, error.text);
        store->stats.checksum_failures++;
        request->state = LWC_SENT;
        lwc_peer_disconnect(request->peer, "malformed FETCH_REPLY");
        return;
    }
    if (request->origin) {
        uint32_t ended = request->origin->ended_count;
        take_records(request, payload);
        store->stats.hedges_won += request->origin->ended_count > ended;
        lwc_hedge_over(request);
    } else {
        lwc_hedges_drop(request);
        take_records(request, payload);
        request->batch->count = 0;
        lwc_fetch_build_done(store);
        lwc_request_end(request);
    }
    lwc_fetches_kick(store);
}

void lwc_fetch_message(lwc_request_t *request, const lw_msg_t *reply, const lw_fabric_msg_t *msg)
{
    lwc_store_t *store = request->store;
    lw_status_t status = (lw_status_t)reply->body.fetch_reply.status;
    if (status != LW_OK && request->origin) {
        lwc_hedge_over(request);
        return;
    }
    if (status != LW_OK) {
        lwc_hedges_drop(request);
        for (uint32_t i = 0; i < request->batch->count; i++)
            if (status != LW_ERR_BUSY)
                want_fails(request->store, &request->batch->wants[i], status);
        request->retry_at_us = store->now_us + (status == LW_ERR_BUSY ? LWC_SCAN_EVERY_US : 0);
        redo(request);
        return;
    }
    const lwc_span_t *span = &store->landing.spans[request->span];
    const lw_msg_fetch_run_t *runs = (const lw_msg_fetch_run_t *)request->batch->lists;
    uint32_t entries = 0, run_count = 0;
    while (entries < request->batch->count)
        entries += runs[run_count++].count;
    if (msg->data_bytes > span->bytes || reply->body.fetch_reply.run_count != run_count ||
        reply->body.fetch_reply.record_count > request->batch->count) {
        lwc_peer_disconnect(request->peer, "FETCH_REPLY does not fit its request");
        return;
    }
    request->reply = *reply;
    request->payload_bytes = msg->data_bytes;
    request->state = LWC_LANDING;
    request->hashed = 0;
    request->hashed_bytes = lw_wire_bulk_offset(reply->header.list_bytes);
    store->ops->recv_watched(store->fabric, msg, lwc_landing_at(&store->landing, request->span), NULL, fetch_landing,
                             fetch_landed, request);
}

void lwc_fetch_lost(lwc_request_t *request)
{
    lwc_store_t *store = request->store;
    lwc_batch_t *batch = request->batch;
    bool same = true;
    if (request->origin) {
        lwc_hedge_over(request);
        return;
    }
    lwc_hedges_drop(request);
    lwc_wants_drop_ended(request);
    for (uint32_t i = 0; i < batch->count && same; i++) {
        uint32_t r = lwc_choose(store, &batch->wants[i], LW_REPLICAS_MAX);
        same = r < LW_REPLICAS_MAX &&
               lwc_peer(store, store->segments[batch->wants[i].segment].replica[r].node_index) == request->peer &&
               r == lwc_want_replica(&batch->wants[i]);
    }
    if (!same) {
        redo(request);
        return;
    }
    if (request->span != LWC_NO_SLOT)
        lwc_landing_discard(&store->landing, request->span);
    request->span = LWC_NO_SLOT;
    store->stats.fetch_retries++;
    set_waiting(request); /* until the node is back, or the deadline */
}

void lwc_fetch_expire(lwc_request_t *request, lw_status_t status)
{
    lwc_store_t *store = request->store;
    lwc_peer_t *peer = request->peer;
    if (request->origin) { /* its wants end with their owner, which has the same deadline */
        lwc_hedges_drop(request->origin);
        return;
    }
    lwc_hedges_drop(request);
    if (request->state == LWC_WAITING && peer->state != LWC_PEER_READY)
        status = status == LW_ERR_TIMEOUT ? LW_ERR_UNREACHABLE : status;
    store->stats.timeouts += status == LW_ERR_TIMEOUT;
    lwc_store_fail(store, status, "node %u at %s: %u records not fetched in time: %s%s%s", peer->node.index,
                   peer->node.data, request->batch->count - request->ended_count, lw_status_text(status),
                   peer->cause[0] ? ": " : "", peer->cause);
    fail_all(request, status);
    if (request->state == LWC_WAITING)
        lwc_request_end(request);
    else
        lwc_request_zombie(request);
}

void lwc_store_release(lwc_store_t *store, uint64_t until)
{
    lwc_landing_release(&store->landing, until);
}

uint32_t lwc_store_wants_in_flight(const lwc_store_t *store)
{
    return store->wants_in_flight;
}
