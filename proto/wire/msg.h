/* msg.h - the data-plane messages: fixed bodies, lists, and the codec that both sides link.
 *
 * A fixed body is a plain struct without padding, copied as it is (little-endian machines only, asserted at
 * build time). Encoding fills head and lists and computes both checksums; decoding checks sizes, versions,
 * limits, checksums and reserved bytes, never trusts a length and never allocates. Heads and payloads that
 * arrive from a transport may be unaligned: lw_msg_decode copies the head; lists must be 8-byte aligned
 * (copy them first), which decode checks.
 *
 * Request -> reply, all types (lists in braces, bulk in brackets):
 *   HELLO                       -> HELLO_REPLY
 *   PING                        -> PING_REPLY
 *   ATTACH {names}              -> ATTACH_REPLY {attached}
 *   RESERVE                     -> RESERVE_REPLY
 *   WRITE [bytes]               -> STATUS_REPLY
 *   COMMIT                      -> STATUS_REPLY     (verifies every checksum, then the segment can be read)
 *   ABORT                       -> STATUS_REPLY
 *   FETCH {runs, entries}       -> FETCH_REPLY {run statuses, record checksums}[records]
 *   READ                        -> READ_REPLY [bytes]
 *   ATTEND                      -> STATUS_REPLY UNSUPPORTED in this version
 *   CANCEL                      (no reply; the cancelled request's reply still comes, perhaps CANCELED)
 * A request that fails as a whole is answered with its own reply type, status set, no lists, no bulk.
 */
#ifndef LW_WIRE_MSG_H
#define LW_WIRE_MSG_H

#include "base/limits.h"
#include "wire/header.h"
#include "wire/segment_name.h"

/* One row per type: XX(TYPE, member of lw_msg_t's body, struct, bytes of the struct, first list's element, second list's
 * element). A type's code is its place in this list, counted from 1: rows are added at the end and never removed. */
#define LW_MSG_MAP(XX)                                                                                     \
    XX(HELLO, hello, lw_msg_hello_t, 32, 0, 0)                                                             \
    XX(HELLO_REPLY, hello_reply, lw_msg_hello_reply_t, 48, 0, 0)                                           \
    XX(PING, ping, lw_msg_ping_t, 8, 0, 0)                                                                 \
    XX(PING_REPLY, ping_reply, lw_msg_ping_reply_t, 40, 0, 0)                                              \
    XX(ATTACH, attach, lw_msg_attach_t, 40, sizeof(lw_segment_name_t), 0)                                  \
    XX(ATTACH_REPLY, attach_reply, lw_msg_attach_reply_t, 16, sizeof(lw_msg_attached_t), 0)                \
    XX(RESERVE, reserve, lw_msg_reserve_t, 40, 0, 0)                                                       \
    XX(RESERVE_REPLY, reserve_reply, lw_msg_reserve_reply_t, 32, 0, 0)                                     \
    XX(WRITE, write, lw_msg_write_t, 24, 0, 0)                                                             \
    XX(COMMIT, commit, lw_msg_commit_t, 16, 0, 0)                                                          \
    XX(ABORT, abort, lw_msg_abort_t, 8, 0, 0)                                                              \
    XX(STATUS_REPLY, status_reply, lw_msg_status_reply_t, 16, 0, 0)                                        \
    XX(FETCH, fetch, lw_msg_fetch_t, 16, sizeof(lw_msg_fetch_run_t), sizeof(uint16_t))                     \
    XX(FETCH_REPLY, fetch_reply, lw_msg_fetch_reply_t, 32, sizeof(int32_t), sizeof(uint32_t))              \
    XX(READ, read, lw_msg_read_t, 24, 0, 0)                                                                \
    XX(READ_REPLY, read_reply, lw_msg_read_reply_t, 24, 0, 0)                                              \
    XX(ATTEND, attend, lw_msg_attend_t, 8, 0, 0)                                                           \
    XX(CANCEL, cancel, lw_msg_cancel_t, 8, 0, 0)

typedef enum lw_msg_type {
    LW_MSG_NONE = 0, /* on no wire */
#define XX(type, member, body, bytes, first, second) LW_MSG_##type,
    LW_MSG_MAP(XX)
#undef XX
    LW_MSG_TYPE_END
} lw_msg_type_t;

typedef struct lw_msg_hello {
    uint32_t version_min, version_max; /* wire versions the client speaks */
    uint64_t client_id, incarnation;   /* of the client handle; believed once an ATTACH to write is granted */
    uint32_t lane, reserved;
} lw_msg_hello_t; /* 32 */

typedef struct lw_msg_hello_reply {
    int32_t status;
    uint32_t version; /* the one both will use */
    uint64_t fleet_id, node_id, node_incarnation, epoch;
    uint32_t attach_limit, fetch_entry_limit;
} lw_msg_hello_reply_t; /* 48 */

typedef struct lw_msg_ping {
    uint64_t sent_us; /* the sender's clock; comes back as it is */
} lw_msg_ping_t; /* 8 */

typedef struct lw_msg_ping_reply {
    uint64_t sent_us, epoch;
    uint64_t arena_bytes, arena_free_bytes;
    uint32_t queue_depth, draining;
} lw_msg_ping_reply_t; /* 40 */

/* Gives this connection the right to a session's segments. With no names it only proves the token (a writer does
 * that before RESERVE; the first such proof makes the connection one of its client's, whose reservations live with it).
 * Names may belong to other origins where the catalogue says that the session forked from them. */
typedef struct lw_msg_attach {
    uint64_t session_id;
    uint8_t token[LW_TOKEN_BYTES];
    uint32_t write;      /* 1: wants to write with `term` */
    uint32_t term;
    uint32_t name_count; /* list: lw_segment_name_t[name_count] */
    uint32_t reserved;
} lw_msg_attach_t; /* 40 */

typedef struct lw_msg_attached { /* element of ATTACH_REPLY's list, in request order */
    uint64_t handle;             /* valid on this connection only; 0 unless status is OK */
    int32_t status;              /* OK, ERR_NOT_FOUND */
    uint32_t reserved;
} lw_msg_attached_t; /* 16 */

typedef struct lw_msg_attach_reply {
    int32_t status;
    uint32_t name_count; /* list: lw_msg_attached_t[name_count] */
    uint64_t epoch;
} lw_msg_attach_reply_t; /* 16 */

typedef struct lw_msg_reserve {
    lw_segment_name_t name; /* idempotent by name: the same name and size give the same reservation */
    uint64_t bytes;         /* whole segment */
    uint64_t epoch;         /* the writer's view; older than the node's fence: ERR_STALE */
} lw_msg_reserve_t; /* 40 */

typedef struct lw_msg_reserve_reply {
    int32_t status;         /* OK, ERR_EXHAUSTED, ERR_STALE, ERR_PERMISSION, ERR_INVALID, ERR_EXISTS */
    uint32_t retry_after_ms; /* with ERR_EXHAUSTED */
    uint64_t handle;        /* for WRITE, COMMIT, ABORT on this connection; the same works for FETCH after COMMIT */
    uint64_t epoch;
    uint32_t committed;     /* 1: this name was committed before; nothing need be written */
    uint32_t reserved;
} lw_msg_reserve_reply_t; /* 32 */

typedef struct lw_msg_write {
    uint64_t handle, offset;
    uint32_t bytes; /* of bulk, at most LW_WRITE_CHUNK_BYTES */
    uint32_t reserved;
} lw_msg_write_t; /* 24 */

typedef struct lw_msg_commit {
    uint64_t handle;
    uint64_t bytes; /* must equal the reservation */
} lw_msg_commit_t; /* 16 */

typedef struct lw_msg_abort {
    uint64_t handle;
} lw_msg_abort_t; /* 8 */

typedef struct lw_msg_status_reply {
    int32_t status;
    uint32_t reserved;
    uint64_t epoch;
} lw_msg_status_reply_t; /* 16 */

typedef struct lw_msg_fetch_run {
    uint64_t handle;
    uint16_t head, count; /* the next `count` of the entries list belong to this run */
    uint32_t reserved;
} lw_msg_fetch_run_t; /* 16 */

typedef struct lw_msg_fetch {
    uint32_t run_count, entry_count; /* lists: lw_msg_fetch_run_t[run_count], then u16[entry_count] */
    uint32_t deadline_us;            /* what is left of the request's time; 0: none */
    uint32_t flags;                  /* LW_MSG_FETCH_* */
} lw_msg_fetch_t; /* 16 */

/* perftest's ceiling: the same number of bytes from one contiguous extent, no gather; entries give the sizes. */
#define LW_MSG_FETCH_CONTIGUOUS 1u

typedef struct lw_msg_fetch_reply {
    int32_t status;
    uint32_t run_count, record_count; /* lists: i32 status[run_count], then u32 checksum[record_count] */
    uint32_t moved;                   /* 1: some handle's segment has moved: refresh the directory */
    uint64_t epoch;
    uint64_t bulk_bytes; /* records of the runs whose status is OK, in request order, without gaps */
} lw_msg_fetch_reply_t; /* 32 */

typedef struct lw_msg_read {
    uint64_t handle, offset; /* of the stored segment, header included */
    uint32_t bytes;          /* at most LW_MSG_BULK_MAX, 0: to the end; what lies beyond the end is not sent */
    uint32_t reserved;
} lw_msg_read_t; /* 24 */

typedef struct lw_msg_read_reply {
    int32_t status;
    uint32_t bytes;
    uint64_t segment_bytes, epoch;
} lw_msg_read_reply_t; /* 24 */

/* Push-down attention has a type and no contents yet: a daemon of this version answers UNSUPPORTED. */
typedef struct lw_msg_attend {
    uint64_t reserved;
} lw_msg_attend_t; /* 8 */

typedef struct lw_msg_cancel {
    uint64_t request_id;
} lw_msg_cancel_t; /* 8 */

#define XX(type, member, body, bytes, first, second) static_assert(sizeof(body) == (bytes), "wire: body of " #type);
LW_MSG_MAP(XX)
#undef XX

/* Any decoded message. Lists point into the payload that decode was given. */
typedef struct lw_msg {
    lw_wire_header_t header;
    union {
        lw_msg_hello_t hello;
        lw_msg_hello_reply_t hello_reply;
        lw_msg_ping_t ping;
        lw_msg_ping_reply_t ping_reply;
        lw_msg_attach_t attach;
        lw_msg_attach_reply_t attach_reply;
        lw_msg_reserve_t reserve;
        lw_msg_reserve_reply_t reserve_reply;
        lw_msg_write_t write;
        lw_msg_commit_t commit;
        lw_msg_abort_t abort;
        lw_msg_status_reply_t status_reply;
        lw_msg_fetch_t fetch;
        lw_msg_fetch_reply_t fetch_reply;
        lw_msg_read_t read;
        lw_msg_read_reply_t read_reply;
        lw_msg_attend_t attend;
        lw_msg_cancel_t cancel;
    } body;
    const lw_segment_name_t *names;       /* ATTACH */
    const lw_msg_attached_t *attached;    /* ATTACH_REPLY */
    const lw_msg_fetch_run_t *runs;       /* FETCH */
    const uint16_t *entries;              /* FETCH */
    const int32_t *run_status;            /* FETCH_REPLY */
    const uint32_t *checksums;            /* FETCH_REPLY */
} lw_msg_t;

/* Bytes of the fixed body of `type`; 0 for an unknown type. */
uint32_t lw_msg_body_bytes(uint16_t type);
const char *lw_msg_type_text(uint16_t type);

/* Bytes of bulk that the body of msg announces. */
uint64_t lw_msg_bulk_bytes(const lw_msg_t *msg);

/* Every rule for a body that its bytes alone can break: maxima, flags, reserved bytes, a failed reply without lists and
 * bulk. ERR_INVALID; the error names field and value. Encoding asserts it, decoding answers with it. */
LW_CHECK lw_status_t lw_msg_check_body(const lw_msg_t *msg, lw_error_t *error);

/* Encodes header and body into `head` (LW_MSG_HEAD_MAX bytes of room) and, where the type has lists, finds them already
 * laid out by the caller at `lists` (list_bytes long; see lw_msg_list_bytes). msg->header.type, fleet_id and request_id
 * are inputs; the rest of the header is computed. A body that breaks a rule is a bug of the caller and asserts. Returns
 * the bytes of the head. */
uint32_t lw_msg_encode(const lw_msg_t *msg, const void *lists, uint32_t list_bytes, void *head);

/* Bytes that the lists of msg take, from the counts in its body. */
uint32_t lw_msg_list_bytes(const lw_msg_t *msg);

/* What a payload must be: lists, zeros up to lw_wire_bulk_offset(list_bytes), bulk. Without bulk the zeros may be left off. */

/* Decodes a head alone: header checksum, version, type, size, limits of counts, list_bytes against the counts and against
 * payload_bytes. The body checksum is verified here when the message has no lists. ERR_VERSION for a foreign version,
 * ERR_INVALID otherwise; the error names the field. */
LW_CHECK lw_status_t lw_msg_decode_head(const void *head, size_t head_bytes, uint64_t payload_bytes, lw_msg_t *msg_out,
                                        lw_error_t *error);
/* Second half, for messages with lists: points msg's lists into `payload` (8-byte aligned) and verifies the body checksum,
 * that reserved bytes of elements and the padding are zero, and for FETCH that the runs' counts add up to entry_count.
 * `payload` may end anywhere behind the lists. A message without lists passes, with lists NULL. */
LW_CHECK lw_status_t lw_msg_decode_lists(lw_msg_t *msg, const void *payload, size_t payload_bytes, lw_error_t *error);

#endif /* LW_WIRE_MSG_H */
