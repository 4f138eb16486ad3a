/* test_messages.h - a random message of any type that keeps every rule, with its lists laid out. */
#ifndef LW_TEST_MESSAGES_H
#define LW_TEST_MESSAGES_H

#include "test_support.h"

#include "wire/msg.h"

typedef struct test_message {
    lw_msg_t msg;
    uint32_t list_bytes;
    _Alignas(64) uint8_t lists[LW_MSG_LIST_MAX + LW_WIRE_BULK_ALIGN];
} test_message_t;

static inline int32_t test_reply_status(lw_prng_t *prng)
{
    return lw_prng_below(prng, 4) == 0 ? LW_ERR_EXHAUSTED : LW_OK;
}

static inline void test_random_attach(lw_prng_t *prng, uint32_t count, test_message_t *out)
{
    lw_segment_name_t *names = (void *)out->lists;

    test_fill(prng, names, count * sizeof(*names));
    for (uint32_t i = 0; i < count; i++) {
        names[i].reserved = 0;
    }
    out->msg.body.attach.write = (uint32_t)lw_prng_below(prng, 2);
    out->msg.body.attach.name_count = count;
    out->msg.body.attach.reserved = 0;
}

static inline void test_random_attach_reply(lw_prng_t *prng, uint32_t count, test_message_t *out)
{
    lw_msg_attached_t *attached = (void *)out->lists;

    out->msg.body.attach_reply.status = test_reply_status(prng);
    out->msg.body.attach_reply.name_count = out->msg.body.attach_reply.status == LW_OK ? count : 0;
    for (uint32_t i = 0; i < count; i++) {
        attached[i].status = lw_prng_below(prng, 3) == 0 ? LW_ERR_NOT_FOUND : LW_OK;
        attached[i].handle = attached[i].status == LW_OK ? lw_prng_u64(prng) : 0;
        attached[i].reserved = 0;
    }
}

static inline void test_random_fetch(lw_prng_t *prng, uint32_t runs, test_message_t *out)
{
    lw_msg_fetch_run_t *run = (void *)out->lists;
    uint32_t entries = 0;

    for (uint32_t i = 0; i < runs; i++) {
        uint32_t most = (uint32_t)lw_min_u64(40, LW_FETCH_ENTRIES_MAX - entries);
        run[i] = (lw_msg_fetch_run_t){.handle = lw_prng_u64(prng),
                                      .head = (uint16_t)lw_prng_u64(prng),
                                      .count = (uint16_t)lw_prng_below(prng, most + 1)};
        entries += run[i].count;
    }
    test_fill(prng, &run[runs], entries * 2ull);
    out->msg.body.fetch = (lw_msg_fetch_t){.run_count = runs,
                                           .entry_count = entries,
                                           .deadline_us = (uint32_t)lw_prng_u64(prng),
                                           .flags = (uint32_t)lw_prng_below(prng, 2)};
}

static inline void test_random_fetch_reply(lw_prng_t *prng, uint32_t runs, test_message_t *out)
{
    lw_msg_fetch_reply_t *body = &out->msg.body.fetch_reply;
    int32_t *status = (void *)out->lists;
    bool done;

    body->status = test_reply_status(prng);
    done = body->status == LW_OK;
    body->run_count = done ? runs : 0;
    body->record_count = done ? (uint32_t)lw_prng_below(prng, 1000) : 0;
    body->moved = (uint32_t)lw_prng_below(prng, 2);
    body->bulk_bytes = done ? lw_prng_below(prng, LW_MSG_BULK_MAX + 1) : 0;
    for (uint32_t i = 0; i < runs; i++) {
        status[i] = lw_prng_below(prng, 3) == 0 ? LW_ERR_STALE : LW_OK;
    }
    test_fill(prng, &status[runs], body->record_count * 4ull);
}

/* Random contents, then what the rules ask for. `count` is the length of the first list, where there is one.
 */
static inline void test_random_message(lw_prng_t *prng, uint16_t type, uint32_t count, test_message_t *out)
{
    lw_msg_t *msg = &out->msg;

    memset(msg, 0, sizeof(*msg));
    msg->header.type = type;
    msg->header.fleet_id = lw_prng_u64(prng);
    msg->header.request_id = lw_prng_u64(prng);
    test_fill(prng, &msg->body, lw_msg_body_bytes(type));
    switch ((lw_msg_type_t)type) {
    case LW_MSG_HELLO:
        msg->body.hello.version_min = 1 + (uint32_t)lw_prng_below(prng, 5);
        msg->body.hello.version_max = msg->body.hello.version_min + (uint32_t)lw_prng_below(prng, 5);
        msg->body.hello.reserved = 0;
        break;
    case LW_MSG_HELLO_REPLY:
        msg->body.hello_reply.status = test_reply_status(prng);
        msg->body.hello_reply.version = LW_WIRE_VERSION;
        msg->body.hello_reply.attach_limit = 1 + (uint32_t)lw_prng_below(prng, LW_ATTACH_NAMES_MAX);
        msg->body.hello_reply.fetch_entry_limit = 1 + (uint32_t)lw_prng_below(prng, LW_FETCH_ENTRIES_MAX);
        break;
    case LW_MSG_PING_REPLY:
        msg->body.ping_reply.arena_free_bytes = lw_prng_below(prng, msg->body.ping_reply.arena_bytes | 1);
        msg->body.ping_reply.arena_bytes |= 1;
        msg->body.ping_reply.draining = (uint32_t)lw_prng_below(prng, 2);
        break;
    case LW_MSG_ATTACH:
        test_random_attach(prng, count, out);
        break;
    case LW_MSG_ATTACH_REPLY:
        test_random_attach_reply(prng, count, out);
        break;
    case LW_MSG_RESERVE:
        msg->body.reserve.name.reserved = 0;
        msg->body.reserve.bytes = 1 + lw_prng_below(prng, LW_SEGMENT_BYTES_MAX);
        break;
    case LW_MSG_RESERVE_REPLY:
        msg->body.reserve_reply.status = test_reply_status(prng);
        msg->body.reserve_reply.committed = (uint32_t)lw_prng_below(prng, 2);
        msg->body.reserve_reply.reserved = 0;
        break;
    case LW_MSG_WRITE:
        msg->body.write.bytes = 1 + (uint32_t)lw_prng_below(prng, LW_WRITE_CHUNK_BYTES);
        msg->body.write.offset = lw_prng_below(prng, LW_SEGMENT_BYTES_MAX - msg->body.write.bytes + 1);
        msg->body.write.reserved = 0;
        break;
    case LW_MSG_COMMIT:
        msg->body.commit.bytes = 1 + lw_prng_below(prng, LW_SEGMENT_BYTES_MAX);
        break;
    case LW_MSG_STATUS_REPLY:
        msg->body.status_reply.status = test_reply_status(prng);
        msg->body.status_reply.reserved = 0;
        break;
    case LW_MSG_FETCH:
        test_random_fetch(prng, count, out);
        break;
    case LW_MSG_FETCH_REPLY:
        test_random_fetch_reply(prng, count, out);
        break;
    case LW_MSG_READ:
        msg->body.read.bytes = (uint32_t)lw_prng_below(prng, LW_MSG_BULK_MAX + 1);
        msg->body.read.offset = lw_prng_below(prng, LW_SEGMENT_BYTES_MAX - msg->body.read.bytes + 1);
        msg->body.read.reserved = 0;
        break;
    case LW_MSG_READ_REPLY:
        msg->body.read_reply.status = test_reply_status(prng);
        msg->body.read_reply.bytes =
            msg->body.read_reply.status == LW_OK ? (uint32_t)lw_prng_below(prng, LW_MSG_BULK_MAX + 1) : 0;
        msg->body.read_reply.segment_bytes =
            msg->body.read_reply.bytes + lw_prng_below(prng, LW_SEGMENT_BYTES_MAX - LW_MSG_BULK_MAX);
        break;
    case LW_MSG_ATTEND:
        msg->body.attend.reserved = 0;
        break;
    case LW_MSG_PING:
    case LW_MSG_ABORT:
    case LW_MSG_CANCEL:
    case LW_MSG_NONE:
    case LW_MSG_TYPE_END:
        break;
    }
    out->list_bytes = lw_msg_list_bytes(msg);
    memset(out->lists + out->list_bytes, 0, LW_WIRE_BULK_ALIGN); /* the padding */
}

/* Bytes of the whole payload, bulk included. */
static inline uint64_t test_payload_bytes(const test_message_t *message)
{
    uint64_t bulk = lw_msg_bulk_bytes(&message->msg);

    return bulk > 0 ? lw_wire_bulk_offset(message->list_bytes) + bulk : message->list_bytes;
}

#endif /* LW_TEST_MESSAGES_H */
