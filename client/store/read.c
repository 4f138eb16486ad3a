/* read.c - bytes of a stored segment, in order, in chunks that land straight in the caller's memory. */
#include "client/store/store_private.h"

#define READ_CHUNK_BYTES (8u << 20)

static void end(lwc_read_t *read, lwc_store_t *store, lw_status_t status)
{
    if (!read->ending) {
        read->ending = true;
        read->status = status;
        read->requests -= lwc_requests_let_go(store, read);
    }
    if (read->requests > 0)
        return; /* a transfer may still write into the caller's memory */
    lwc_done_t done = read->done;
    void *arg = read->arg;
    if (read->status == LW_OK && read->bytes_out)
        *read->bytes_out = read->got;
    store->stats.bytes_read += read->got;
    store->events++;
    read->used = false;
    done(arg, read->status);
}

/* The replica to read from: the one in use or the next that has not failed, a connected one before others. All of them are
 * connected to while none is. */
static bool settle_replica(lwc_read_t *read, lwc_store_t *store, const lwc_segment_t *segment)
{
    uint32_t fallback = LW_REPLICAS_MAX;
    for (uint32_t i = 0; i < segment->replica_count; i++) {
        uint32_t r = (read->replica + i) % segment->replica_count;
        lwc_peer_t *peer = lwc_peer(store, segment->replica[r].node_index);
        if (read->failed >> r & 1)
            continue;
        if (peer && peer->in_view && lwc_peer_ready(peer)) {
            read->replica = r;
            return true;
        }
        fallback = fallback == LW_REPLICAS_MAX ? r : fallback;
    }
    read->replica = fallback != LW_REPLICAS_MAX ? fallback : read->replica;
    return fallback != LW_REPLICAS_MAX;
}

static bool has_left(const lwc_store_t *store, const lwc_segment_t *segment, uint32_t r)
{
    const lwc_peer_t *peer = lwc_peer(store, segment->replica[r].node_index);
    return !peer || peer->state == LWC_PEER_WAITING;
}

/* This replica will not do: the next one, or the end. */
static void next_replica(lwc_read_t *read, lwc_store_t *store, lw_status_t status)
{
    const lwc_segment_t *segment = lwc_segment(store, read->key);
    read->got = 0;
    if (segment && read->moves != segment->moves) /* that was another node */
        return;
    read->failed |= 1u << read->replica;
    lwc_refresh_want(store, segment, false);
    if (segment && settle_replica(read, store, segment))
        return;
    read->cause = status;
    if (!read->parked && lwc_refresh_can(store, segment)) {
        read->parked = true;
        read->parked_us = store->now_us;
        lwc_refresh_want(store, segment, true);
        return;
    }
    status = status == LW_ERR_NOT_FOUND || status == LW_ERR_STALE ? LW_ERR_SESSION_LOST : status;
    end(read, store, lwc_store_fail(store, status, "segment %u cannot be read: %s", read->key, lw_status_text(status)));
}

void lwc_read_advance(lwc_read_t *read, lwc_store_t *store)
{
    uint64_t handle;
    bool absent;
    if (read->requests > 0 || read->ending)
        return;
    const lwc_segment_t *segment = lwc_segment(store, read->key);
    if (!segment) {
        end(read, store, LW_ERR_CANCELED);
        return;
    }
    if (read->moves != segment->moves) {
        read->moves = segment->moves;
        read->failed = 0;
        read->parked = false;
    }
    if (segment->gone) {
        end(read, store, lwc_store_fail(store, LW_ERR_SESSION_LOST, "segment %u is in no manifest any more", read->key));
        return;
    }
    if (read->parked)
        return;
    (void)settle_replica(read, store, segment); /* a read whose replicas have all failed has ended */
    if (!lwc_segment_handle(store, read->key, read->replica, &handle, &absent)) {
        if (absent)
            next_replica(read, store, LW_ERR_NOT_FOUND);
        else if (has_left(store, segment, read->replica))
            lwc_refresh_want(store, segment, false);
        return;
    }
    lwc_peer_t *peer = lwc_peer(store, store->segments[read->key].replica[read->replica].node_index);
    lwc_request_t *request = lwc_request_new(store, LWC_REQUEST_READ, peer, read->deadline_us);
    if (!request)
        return;
    /* The size of a whole segment is known from its first chunk. */
    uint64_t want = read->bytes ? read->bytes - read->got : lw_min_u64(read->capacity, READ_CHUNK_BYTES);
    request->owner = read;
    read->requests++;
    lw_msg_t msg = {.header.type = LW_MSG_READ,
                    .body.read = {.handle = handle,
                                  .offset = read->offset + read->got,
                                  .bytes = (uint32_t)lw_min_u64(want, READ_CHUNK_BYTES)}};
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

static void chunk_landed(void *arg, lw_status_t status)
{
    lwc_request_t *request = arg;
    lwc_store_t *store = request->store;
    lwc_read_t *read = request->owner;
    if (status != LW_OK) { /* the connection is ending: lwc_read_lost comes */
        request->state = LWC_SENT;
        return;
    }
    read->got += request->payload_bytes;
    read->requests--;
    request->owner = NULL;
    lwc_request_end(request);
    if (read->ending || read->got == read->bytes)
        end(read, store, LW_OK);
    else
        lwc_read_advance(read, store);
}

void lwc_read_message(lwc_request_t *request, const lw_msg_t *reply, const lw_fabric_msg_t *msg)
{
    lwc_store_t *store = request->store;
    lwc_read_t *read = request->owner;
    const lw_msg_read_reply_t *body = &reply->body.read_reply;
    if (read->ending || body->status != LW_OK) {
        read->requests--;
        request->owner = NULL;
        lwc_request_end(request);
        if (read->ending)
            end(read, store, read->status);
        else if (body->status != LW_ERR_BUSY)
            next_replica(read, store, (lw_status_t)body->status);
        return;
    }
    if (read->bytes == 0) /* the whole segment, from offset on */
        read->bytes = body->segment_bytes > read->offset ? body->segment_bytes - read->offset : 0;
    if (read->bytes > read->capacity || msg->data_bytes != body->bytes || msg->data_bytes == 0 ||
        msg->data_bytes > read->bytes - read->got) {
        lw_status_t status = lwc_store_fail(store, LW_ERR_INVALID, "read of segment %u: %llu bytes for room of %llu",
                                            read->key, (unsigned long long)read->bytes,
                                            (unsigned long long)read->capacity);
        read->requests--;
        request->owner = NULL;
        lwc_request_end(request);
        end(read, store, status);
        return;
    }
    request->payload_bytes = msg->data_bytes;
    request->state = LWC_LANDING;
    store->ops->recv(store->fabric, msg, read->into + read->got, NULL, chunk_landed, request);
}

void lwc_read_lost(lwc_request_t *request)
{
    lwc_read_t *read = request->owner;
    lwc_store_t *store = request->store;
    read->requests--;
    request->owner = NULL;
    lwc_request_end(request);
    if (read->ending)
        end(read, store, read->status);
    /* else: the scan goes on when the node is back */
}

void lwc_reads_unpark(lwc_store_t *store, uint32_t session_slot, uint64_t asked_us)
{
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        lwc_read_t *read = &store->reads[i];
        const lwc_segment_t *segment = read->used && read->parked ? lwc_segment(store, read->key) : NULL;
        if (!segment || segment->session_slot != session_slot || read->parked_us > asked_us)
            continue;
        if (read->moves != segment->moves)
            lwc_read_advance(read, store);
        else /* nothing has changed; `parked` stays, so that it ends */
            next_replica(read, store, read->cause);
    }
}

void lwc_reads_scan(lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        lwc_read_t *read = &store->reads[i];
        if (!read->used)
            continue;
        if (!read->ending && store->now_us >= read->deadline_us) {
            const lwc_segment_t *segment = lwc_segment(store, read->key);
            lwc_peer_t *peer = segment ? lwc_peer(store, segment->replica[read->replica].node_index) : NULL;
            bool ready = peer && peer->state == LWC_PEER_READY;
            lw_status_t status = ready ? LW_ERR_TIMEOUT : LW_ERR_UNREACHABLE;
            lwc_store_fail(store, status, "segment %u not read in time: node %u: %s%s%s", read->key,
                           peer ? peer->node.index : 0, lw_status_text(status), peer && peer->cause[0] ? ": " : "",
                           peer ? peer->cause : "");
            end(read, store, status);
        } else if (!read->ending) {
            lwc_read_advance(read, store);
        }
    }
}

lw_status_t lwc_store_read(lwc_store_t *store, uint32_t key, uint64_t offset, uint64_t bytes, void *into, uint64_t capacity,
                           uint64_t *bytes_out, uint64_t deadline_us, lwc_done_t done, void *arg)
{
    if (!lwc_segment(store, key))
        return lwc_store_fail(store, LW_ERR_INVALID, "read: no segment with key %u", key);
    if (bytes > capacity || capacity == 0)
        return lwc_store_fail(store, LW_ERR_INVALID, "read: %llu bytes for room of %llu", (unsigned long long)bytes,
                              (unsigned long long)capacity);
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        lwc_read_t *read = &store->reads[i];
        if (read->used)
            continue;
        *read = (lwc_read_t){.used = true, .key = key, .offset = offset, .bytes = bytes, .into = into,
                             .moves = store->segments[key].moves, .capacity = capacity, .bytes_out = bytes_out, .deadline_us = deadline_us, .done = done,
                             .arg = arg};
        return LW_OK; /* the next round starts it */
    }
    return LW_ERR_BUSY;
}
