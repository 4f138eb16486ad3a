/* fetch.c - FETCH: scattered records of many segments in one reply. The serve path: no allocation, no lock,
 * no system call, no logging; pools were sized at start.
 *
 * resolve() turns runs into statuses, checksums and pieces (neighbouring records are one piece). Pieces that
 * are large enough on the average are sent from where they lie, and their segments stay until the send is
 * done; small ones are copied behind the reply's lists first. The fabric knows how its transport sends many
 * pieces best. */
#include <string.h>

#include "base/fault.h"
#include "fabric/fabric_gather.h"
#include "storaged/net/net_private.h"

#define TIME_SAMPLE 16u /* one request in so many is timed */
#define WARM_RUNS 32u   /* runs whose tables are asked for ahead of their use */
#define PLACE_PIECE_BYTES_MIN \
    2048u /* docs/decisions/0002-send-modes.md: smaller pieces cost more than a copy */

typedef struct fetch_plan {
    uint64_t bulk_bytes;
    uint32_t run_count, record_count;
    uint32_t piece_count;  /* piece 0 is the reply's lists */
    uint32_t borrow_count; /* segments that pieces lie in */
    uint32_t absent_count; /* runs whose segment is in the log on disk */
} fetch_plan_t;

/* Adds the records of one run; all of them or none. */
static lw_status_t resolve_run(lwd_worker_t *worker, const lwd_segment_t *segment,
                               const lw_msg_fetch_run_t *run, const uint16_t *entry, fetch_plan_t *plan)
{
    if (run->head >= segment->head_count)
        return LW_ERR_INVALID;
    const lwd_head_t *head = &segment->heads[run->head];
    const lwd_record_t *record = segment->records + head->first;
    fetch_plan_t next = *plan;
    lw_iov_t *last = &worker->pieces[plan->piece_count - 1];
    size_t last_bytes = last->bytes;
    for (uint32_t i = 0; i < run->count; i++) {
        if (entry[i] >= head->entry_count) {
            last->bytes = last_bytes; /* as it was before this run */
            return LW_ERR_INVALID;
        }
        const lwd_record_t *at = &record[entry[i]];
        const uint8_t *data = segment->extent + at->offset;
        uint32_t bytes = at[1].offset - at->offset;
        worker->checks[next.record_count++] = at->check;
        next.bulk_bytes += bytes;
        lw_iov_t *before = &worker->pieces[next.piece_count - 1];
        if (next.piece_count > 1 && (const uint8_t *)before->data + before->bytes == data)
            before->bytes += bytes;
        else
            worker->pieces[next.piece_count++] = (lw_iov_t){data, bytes};
    }
    *plan = next;
    return LW_OK;
}

/* Asks memory for what resolving these runs will look at, a step for all of them at a time, so that their
 * misses overlap: the slots, then the heads, then the first record of each. Only hints. */
static void warm(const lwd_worker_t *worker, const lwd_peer_t *peer, const lw_msg_fetch_run_t *runs,
                 uint32_t count, const uint16_t *entry)
{
    lwd_segment_t *segments[WARM_RUNS];
    lwd_ref_t refs[WARM_RUNS];
    bool writer;
    for (uint32_t r = 0; r < count; r++) {
        bool known =
            lwd_attach_resolve(worker->attach, peer->index, runs[r].handle, &refs[r], &writer) == LW_OK;
        segments[r] = known ? lwd_shard_slot(worker->params.shard, refs[r].slot) : NULL;
        if (segments[r] != NULL)
            __builtin_prefetch(segments[r]);
    }
    for (uint32_t r = 0; r < count; r++) {
        if (segments[r] != NULL)
            segments[r] = lwd_shard_readable(worker->params.shard, refs[r]);
        if (segments[r] != NULL && runs[r].head < segments[r]->head_count)
            __builtin_prefetch(&segments[r]->heads[runs[r].head]);
        else
            segments[r] = NULL;
    }
    for (uint32_t r = 0; r < count; entry += runs[r].count, r++) {
        if (segments[r] == NULL || runs[r].count == 0)
            continue;
        const lwd_head_t *head = &segments[r]->heads[runs[r].head];
        if (entry[0] < head->entry_count)
            __builtin_prefetch(&segments[r]->records[head->first + entry[0]]);
    }
}

/* A segment that cannot be read now: in the log on disk, or freed. */
static lw_status_t missing(const lwd_worker_t *worker, lwd_ref_t ref, fetch_plan_t *plan)
{
    if (!lwd_shard_absent(worker->params.shard, ref))
        return LW_ERR_STALE;
    plan->absent_count++;
    return LW_ERR_BUSY;
}

static void resolve(lwd_worker_t *worker, const lwd_peer_t *peer, const lw_msg_t *msg, fetch_plan_t *plan)
{
    const uint16_t *entry = msg->entries;
    lwd_stats_t *stats = lwd_stats(worker);
    *plan = (fetch_plan_t){.run_count = msg->body.fetch.run_count, .piece_count = 1};
    for (uint32_t r = 0; r < plan->run_count; r++) {
        const lw_msg_fetch_run_t *run = &msg->runs[r];
        lwd_segment_t *segment = NULL;
        lwd_ref_t ref;
        bool writer;
        if (r % WARM_RUNS == 0)
            warm(worker, peer, run, plan->run_count - r < WARM_RUNS ? plan->run_count - r : WARM_RUNS, entry);
        lw_status_t status = lwd_attach_resolve(worker->attach, peer->index, run->handle, &ref, &writer);
        if (status == LW_OK) {
            segment = lwd_shard_readable(worker->params.shard, ref);
            status = segment != NULL ? resolve_run(worker, segment, run, entry, plan) : missing(worker, ref, plan);
        }
        worker->run_status[r] = status;
        entry += run->count;
        if (status == LW_OK) {
            if (plan->borrow_count == 0 || worker->borrows[plan->borrow_count - 1] != segment)
                worker->borrows[plan->borrow_count++] = segment;
            lwd_segment_touch(segment, worker->now_us);
        } else if (status != LW_ERR_BUSY) {
            lw_count(status == LW_ERR_STALE       ? &stats->fetch_runs_stale
                     : status == LW_ERR_NOT_FOUND ? &stats->fetch_runs_not_found
                                                  : &stats->fetch_runs_invalid,
                     1);
        }
    }
}

/* perftest's ceiling: as many bytes, from one place that nobody touched lately. */
static lw_status_t make_contiguous(lwd_worker_t *worker, fetch_plan_t *plan)
{
    if (plan->bulk_bytes == 0)
        return LW_OK;
    const lwd_segment_t *segment = worker->borrows[0];
    if (plan->bulk_bytes > segment->bytes)
        return LW_ERR_INVALID;
    if (worker->contiguous_at > segment->bytes - plan->bulk_bytes)
        worker->contiguous_at = 0;
    worker->pieces[1] = (lw_iov_t){segment->extent + worker->contiguous_at, plan->bulk_bytes};
    worker->contiguous_at += lw_align_up(plan->bulk_bytes, 64);
    plan->piece_count = 2;
    plan->borrow_count = 1;
    return LW_OK;
}

static void write_lists(const lwd_worker_t *worker, const fetch_plan_t *plan, uint8_t *lists)
{
    uint64_t run_bytes = plan->run_count * sizeof(int32_t),
             check_bytes = plan->record_count * sizeof(uint32_t);
    memcpy(lists, worker->run_status, run_bytes);
    memcpy(lists + run_bytes, worker->checks, check_bytes);
    uint64_t end = run_bytes + check_bytes;
    memset(lists + end, 0, lw_wire_bulk_offset((uint32_t)end) - end);
}

/* May the pieces be sent from where they lie? */
static bool from_place(const fetch_plan_t *plan)
{
    if (plan->bulk_bytes == 0 || LW_FAULT(REPLY_CORRUPT))
        return false;
    return plan->piece_count <= LW_FABRIC_IOV_MAX &&
           plan->bulk_bytes / (plan->piece_count - 1) >= PLACE_PIECE_BYTES_MIN;
}

/* Room for the reply: its lists, then the records or the list of borrowed segments. */
static lw_status_t make_room(lwd_request_t *request, const fetch_plan_t *plan, bool place,
                             uint32_t list_bytes, uint8_t **buffer_out)
{
    lwd_worker_t *worker = request->worker;
    uint64_t behind = place ? plan->borrow_count * sizeof(lwd_segment_t *) : plan->bulk_bytes;
    uint64_t total = lw_wire_bulk_offset(list_bytes) + behind;
    if (request->buffer != LWD_EXTENT_NONE) { /* the request's own lists, when they came by rendezvous */
        lwd_extents_free(worker->reply_extents, request->buffer);
        request->buffer = LWD_EXTENT_NONE;
    }
    if (total > worker->params.reply_bytes)
        return LW_ERR_INVALID; /* can never fit */
    *buffer_out = lwd_request_buffer(request, lw_max_u64(total, 1));
    return *buffer_out != NULL ? LW_OK : LW_ERR_BUSY;
}

/* Sends the reply whose lists are in the buffer, and ends the request with it. */
static void send_reply(lwd_request_t *request, lw_msg_t *reply, const fetch_plan_t *plan, bool place,
                       uint8_t *buffer, uint32_t list_bytes)
{
    lwd_worker_t *worker = request->worker;
    uint32_t bulk_at = lw_wire_bulk_offset(list_bytes);
    worker->pieces[0] = (lw_iov_t){buffer, plan->bulk_bytes > 0 ? bulk_at : list_bytes};
    if (place) {
        request->borrowed = (lwd_segment_t **)(buffer + bulk_at);
        request->borrow_count = plan->borrow_count;
        for (uint32_t i = 0; i < plan->borrow_count; i++) {
            request->borrowed[i] = worker->borrows[i];
            lwd_segment_borrow(worker->borrows[i]);
        }
        lwd_request_send(request, reply, buffer, list_bytes, worker->pieces, plan->piece_count, LW_SEND_AUTO);
        return;
    }
    lw_fabric_gather(buffer + bulk_at, worker->pieces + 1, plan->piece_count - 1);
    if (plan->bulk_bytes > 0 && LW_FAULT(REPLY_CORRUPT))
        buffer[bulk_at + plan->bulk_bytes / 2] ^= 1;
    worker->pieces[0].bytes += plan->bulk_bytes;
    lwd_request_send(request, reply, buffer, list_bytes, worker->pieces, 1, LW_SEND_AUTO);
}

/* Ends the request with its reply. msg's lists are valid until this returns. */
static void serve(lwd_request_t *request, const lw_msg_t *msg)
{
    lwd_worker_t *worker = request->worker;
    lwd_stats_t *stats = lwd_stats(worker);
    bool timed = worker->fetch_count++ % TIME_SAMPLE == 0;
    uint64_t before = timed ? lw_now_us(worker->params.clock) : 0;
    uint8_t *buffer = NULL;
    fetch_plan_t plan;
    resolve(worker, request->peer, msg, &plan);
    if (plan.absent_count > 0 && lwd_wait_for_runs(request, msg))
        return;
    lw_status_t status = plan.bulk_bytes > LW_MSG_BULK_MAX ? LW_ERR_INVALID : LW_OK;
    if (status == LW_OK && (msg->body.fetch.flags & LW_MSG_FETCH_CONTIGUOUS) != 0)
        status = make_contiguous(worker, &plan);
    lw_msg_t reply = {.header.type = LW_MSG_FETCH_REPLY};
    reply.body.fetch_reply = (lw_msg_fetch_reply_t){
        .run_count = plan.run_count,
        .record_count = plan.record_count,
        .epoch = atomic_load_explicit(&worker->params.node->epoch, memory_order_relaxed),
        .bulk_bytes = plan.bulk_bytes,
    };
    uint32_t list_bytes = lw_msg_list_bytes(&reply);
    bool place = from_place(&plan);
    if (status == LW_OK)
        status = make_room(request, &plan, place, list_bytes, &buffer);
    if (status != LW_OK) {
        lwd_request_answer(request, status);
        return;
    }
    lw_count(&stats->fetch_requests, 1);
    lw_count(&stats->fetch_records, plan.record_count);
    lw_count(&stats->fetch_bytes, plan.bulk_bytes);
    write_lists(worker, &plan, buffer);
    if (list_bytes == 0)
        lwd_request_reply(request, &reply);
    else
        send_reply(request, &reply, &plan, place, buffer, list_bytes);
    if (timed)
        lw_histogram_add(&stats->gather_us, lw_now_us(worker->params.clock) - before);
}

/* Lists that came by rendezvous, in the request's buffer. */
static void landed(void *arg, lw_status_t status)
{
    lwd_request_t *request = arg;
    lwd_worker_t *worker = request->worker;
    lw_error_t error = {0};
    if (status != LW_OK || request->peer->conn == NULL) {
        lwd_request_release(request);
        return;
    }
    const lw_msg_fetch_t *fetch = &request->msg.body.fetch;
    if (request->canceled) {
        lwd_request_answer(request, LW_ERR_CANCELED);
    } else if (fetch->deadline_us != 0 && worker->now_us - request->started_us > fetch->deadline_us) {
        lw_count(&lwd_stats(worker)->fetch_late, 1);
        lwd_request_answer(request, LW_ERR_TIMEOUT);
    } else if (lw_msg_decode_lists(&request->msg, worker->reply + request->buffer,
                                   lw_msg_list_bytes(&request->msg), &error) != LW_OK) {
        lwd_malformed(worker, request->peer, &error);
        lwd_request_release(request);
    } else {
        serve(request, &request->msg);
    }
}

void lwd_fetch_waited(lwd_request_t *request)
{
    landed(request, LW_OK); /* its lists are in its buffer, as if they had just come */
}

void lwd_serve_fetch(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, const lw_fabric_msg_t *arrived)
{
    lw_error_t error;
    lwd_request_t *request = lwd_request_acquire(worker, peer, msg);
    if (request == NULL) {
        lwd_reply_status(worker, peer, LW_MSG_FETCH, msg->header.request_id, LW_ERR_BUSY);
        return;
    }
    uint32_t list_bytes = lw_msg_list_bytes(msg);
    if (arrived->data == NULL && list_bytes > 0) {
        uint8_t *buffer = lwd_request_buffer(request, lw_wire_bulk_offset(list_bytes));
        if (buffer == NULL)
            lwd_request_answer(request, LW_ERR_BUSY);
        else
            worker->params.fabric->recv(worker->fabric, arrived, buffer, NULL, landed, request);
        return;
    }
    if (list_bytes > 0)
        memcpy(worker->lists, arrived->data, list_bytes); /* an eager payload may be unaligned */
    if (lw_msg_decode_lists(msg, worker->lists, list_bytes, &error) != LW_OK) {
        lwd_malformed(worker, peer, &error);
        lwd_request_release(request);
        return;
    }
    serve(request, msg);
}
