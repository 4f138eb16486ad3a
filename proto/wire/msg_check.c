/* msg_check.c - the rules that a message's fixed body must keep, whoever sent it. Pure.
 *
 * One function a type, one line a rule; each names the field and its value. */
#include <inttypes.h>

#include "wire/msg.h"

static lw_status_t field_range(lw_error_t *error, const char *field, uint64_t value, uint64_t min,
                               uint64_t max)
{
    if (value < min || value > max) {
        return lw_fail(error, LW_ERR_INVALID, "%s is %" PRIu64 ", must be %" PRIu64 " to %" PRIu64, field,
                       value, min, max);
    }
    return LW_OK;
}

static lw_status_t field_zero(lw_error_t *error, const char *field, uint64_t value)
{
    if (value != 0) {
        return lw_fail(error, LW_ERR_INVALID, "%s is %" PRIu64 ", must be 0", field, value);
    }
    return LW_OK;
}

static lw_status_t field_status(lw_error_t *error, const char *field, int32_t status)
{
    if (status > 0) {
        return lw_fail(error, LW_ERR_INVALID, "%s is %" PRId32 ", must be 0 or negative", field, status);
    }
    return LW_OK;
}

/* The first rule that is broken ends the check. */
#define RULE(call)                    \
    do {                              \
        lw_status_t status_ = (call); \
        if (status_ != LW_OK) {       \
            return status_;           \
        }                             \
    } while (0)
#define RANGE(member, min, max) RULE(field_range(error, FIELD(member), body->member, min, max))
#define ZERO(member) RULE(field_zero(error, FIELD(member), body->member))
#define STATUS(member) RULE(field_status(error, FIELD(member), body->member))

#define FIELD(member) "HELLO: " #member
static lw_status_t check_hello(const lw_msg_hello_t *body, lw_error_t *error)
{
    RANGE(version_min, 1, UINT32_MAX);
    RANGE(version_max, body->version_min, UINT32_MAX);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "HELLO_REPLY: " #member
static lw_status_t check_hello_reply(const lw_msg_hello_reply_t *body, lw_error_t *error)
{
    STATUS(status);
    if (body->status == LW_OK) {
        RANGE(version, 1, UINT16_MAX);
        RANGE(attach_limit, 1, LW_ATTACH_NAMES_MAX);
        RANGE(fetch_entry_limit, 1, LW_FETCH_ENTRIES_MAX);
    }
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "PING_REPLY: " #member
static lw_status_t check_ping_reply(const lw_msg_ping_reply_t *body, lw_error_t *error)
{
    RANGE(arena_free_bytes, 0, body->arena_bytes);
    RANGE(draining, 0, 1);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "ATTACH: " #member
static lw_status_t check_attach(const lw_msg_attach_t *body, lw_error_t *error)
{
    RANGE(write, 0, 1);
    RANGE(name_count, 0, LW_ATTACH_NAMES_MAX);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "ATTACH_REPLY: " #member
static lw_status_t check_attach_reply(const lw_msg_attach_reply_t *body, lw_error_t *error)
{
    STATUS(status);
    RANGE(name_count, 0, body->status == LW_OK ? LW_ATTACH_NAMES_MAX : 0);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "RESERVE: " #member
static lw_status_t check_reserve(const lw_msg_reserve_t *body, lw_error_t *error)
{
    ZERO(name.reserved);
    RANGE(bytes, 1, LW_SEGMENT_BYTES_MAX);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "RESERVE_REPLY: " #member
static lw_status_t check_reserve_reply(const lw_msg_reserve_reply_t *body, lw_error_t *error)
{
    STATUS(status);
    RANGE(committed, 0, 1);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "WRITE: " #member
static lw_status_t check_write(const lw_msg_write_t *body, lw_error_t *error)
{
    RANGE(bytes, 1, LW_WRITE_CHUNK_BYTES);
    RANGE(offset, 0, LW_SEGMENT_BYTES_MAX - body->bytes);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "COMMIT: " #member
static lw_status_t check_commit(const lw_msg_commit_t *body, lw_error_t *error)
{
    RANGE(bytes, 1, LW_SEGMENT_BYTES_MAX);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "STATUS_REPLY: " #member
static lw_status_t check_status_reply(const lw_msg_status_reply_t *body, lw_error_t *error)
{
    STATUS(status);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "FETCH: " #member
static lw_status_t check_fetch(const lw_msg_fetch_t *body, lw_error_t *error)
{
    RANGE(run_count, 0, LW_FETCH_RUNS_MAX);
    RANGE(entry_count, 0, LW_FETCH_ENTRIES_MAX);
    RANGE(flags, 0, LW_MSG_FETCH_CONTIGUOUS);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "FETCH_REPLY: " #member
static lw_status_t check_fetch_reply(const lw_msg_fetch_reply_t *body, lw_error_t *error)
{
    bool done = body->status == LW_OK;

    STATUS(status);
    RANGE(run_count, 0, done ? LW_FETCH_RUNS_MAX : 0);
    RANGE(record_count, 0, done ? LW_FETCH_ENTRIES_MAX : 0);
    RANGE(moved, 0, 1);
    RANGE(bulk_bytes, 0, done ? LW_MSG_BULK_MAX : 0);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "READ: " #member
static lw_status_t check_read(const lw_msg_read_t *body, lw_error_t *error)
{
    RANGE(bytes, 0, LW_MSG_BULK_MAX);
    RANGE(offset, 0, LW_SEGMENT_BYTES_MAX - body->bytes);
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "READ_REPLY: " #member
static lw_status_t check_read_reply(const lw_msg_read_reply_t *body, lw_error_t *error)
{
    STATUS(status);
    RANGE(bytes, 0, body->status == LW_OK ? LW_MSG_BULK_MAX : 0);
    RANGE(segment_bytes, body->bytes, LW_SEGMENT_BYTES_MAX);
    return LW_OK;
}
#undef FIELD

#define FIELD(member) "ATTEND: " #member
static lw_status_t check_attend(const lw_msg_attend_t *body, lw_error_t *error)
{
    ZERO(reserved);
    return LW_OK;
}
#undef FIELD

lw_status_t lw_msg_check_body(const lw_msg_t *msg, lw_error_t *error)
{
    switch ((lw_msg_type_t)msg->header.type) {
    case LW_MSG_HELLO:
        return check_hello(&msg->body.hello, error);
    case LW_MSG_HELLO_REPLY:
        return check_hello_reply(&msg->body.hello_reply, error);
    case LW_MSG_PING_REPLY:
        return check_ping_reply(&msg->body.ping_reply, error);
    case LW_MSG_ATTACH:
        return check_attach(&msg->body.attach, error);
    case LW_MSG_ATTACH_REPLY:
        return check_attach_reply(&msg->body.attach_reply, error);
    case LW_MSG_RESERVE:
        return check_reserve(&msg->body.reserve, error);
    case LW_MSG_RESERVE_REPLY:
        return check_reserve_reply(&msg->body.reserve_reply, error);
    case LW_MSG_WRITE:
        return check_write(&msg->body.write, error);
    case LW_MSG_COMMIT:
        return check_commit(&msg->body.commit, error);
    case LW_MSG_STATUS_REPLY:
        return check_status_reply(&msg->body.status_reply, error);
    case LW_MSG_FETCH:
        return check_fetch(&msg->body.fetch, error);
    case LW_MSG_FETCH_REPLY:
        return check_fetch_reply(&msg->body.fetch_reply, error);
    case LW_MSG_READ:
        return check_read(&msg->body.read, error);
    case LW_MSG_READ_REPLY:
        return check_read_reply(&msg->body.read_reply, error);
    case LW_MSG_ATTEND:
        return check_attend(&msg->body.attend, error);
    case LW_MSG_PING:
    case LW_MSG_ABORT:
    case LW_MSG_CANCEL:
        return LW_OK; /* any value of their one field is good */
    case LW_MSG_NONE:
    case LW_MSG_TYPE_END:
        break;
    }
    return lw_fail(error, LW_ERR_INVALID, "message type %u is unknown", msg->header.type);
}
