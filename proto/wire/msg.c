/* msg.c - the codec: one row per type says how long the body is and what its lists hold. Pure; any thread.
 *
 * Called for every message on the serve path: no allocation, no lock, no copy but of the head. */
#include "wire/msg.h"

#include <string.h>

#include "base/log.h"

typedef struct shape {
    const char *text;
    uint32_t body_bytes;
    uint32_t element_bytes[2]; /* of the lists, 0: no such list */
} shape_t;

static const shape_t shapes[LW_MSG_TYPE_END] = {
#define XX(type, member, body, bytes, first, second) [LW_MSG_##type] = {#type, bytes, {first, second}},
    LW_MSG_MAP(XX)
#undef XX
};

#define XX(type, member, body, bytes, first, second)                                         \
    static_assert((bytes) % 8 == 0 && sizeof(lw_wire_header_t) + (bytes) <= LW_MSG_HEAD_MAX, \
                  "wire: room for " #type);
LW_MSG_MAP(XX)
#undef XX
static_assert(sizeof(lw_msg_fetch_run_t) == 16, "wire: fetch run");
static_assert(sizeof(lw_msg_attached_t) == 16, "wire: attached");
static_assert(LW_MSG_CANCEL == 18, "wire: types keep their codes");

/* The largest lists that the limits of counts allow stay below the limit of all lists, so that 32 bits
 * suffice. */
static_assert(LW_FETCH_RUNS_MAX * 16u + LW_FETCH_ENTRIES_MAX * 4u <= LW_MSG_LIST_MAX, "wire: fetch lists");
static_assert(LW_ATTACH_NAMES_MAX * 24u <= LW_MSG_LIST_MAX, "wire: attach lists");

static bool type_known(uint16_t type) { return type > LW_MSG_NONE && type < LW_MSG_TYPE_END; }

uint32_t lw_msg_body_bytes(uint16_t type) { return type_known(type) ? shapes[type].body_bytes : 0; }

const char *lw_msg_type_text(uint16_t type) { return type_known(type) ? shapes[type].text : "unknown"; }

/* Elements of both lists, as the body says. */
static void list_counts(const lw_msg_t *msg, uint32_t count[2])
{
    count[0] = count[1] = 0;
    switch (msg->header.type) {
    case LW_MSG_ATTACH:
        count[0] = msg->body.attach.name_count;
        break;
    case LW_MSG_ATTACH_REPLY:
        count[0] = msg->body.attach_reply.name_count;
        break;
    case LW_MSG_FETCH:
        count[0] = msg->body.fetch.run_count;
        count[1] = msg->body.fetch.entry_count;
        break;
    case LW_MSG_FETCH_REPLY:
        count[0] = msg->body.fetch_reply.run_count;
        count[1] = msg->body.fetch_reply.record_count;
        break;
    default:
        break;
    }
}

/* In 64 bits: counts may not have been checked yet. */
static uint64_t list_bytes_of(const lw_msg_t *msg)
{
    uint32_t count[2];

    if (!type_known(msg->header.type)) {
        return 0;
    }
    const shape_t *shape = &shapes[msg->header.type];
    list_counts(msg, count);
    return (uint64_t)count[0] * shape->element_bytes[0] + (uint64_t)count[1] * shape->element_bytes[1];
}

uint32_t lw_msg_list_bytes(const lw_msg_t *msg)
{
    uint64_t bytes = list_bytes_of(msg);

    return bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
}

uint64_t lw_msg_bulk_bytes(const lw_msg_t *msg)
{
    switch (msg->header.type) {
    case LW_MSG_WRITE:
        return msg->body.write.bytes;
    case LW_MSG_FETCH_REPLY:
        return msg->body.fetch_reply.bulk_bytes;
    case LW_MSG_READ_REPLY:
        return msg->body.read_reply.bytes;
    default:
        return 0;
    }
}

uint32_t lw_msg_encode(const lw_msg_t *msg, const void *lists, uint32_t list_bytes, void *head)
{
    uint32_t body_bytes = lw_msg_body_bytes(msg->header.type);
    lw_wire_header_t header = msg->header;
    lw_error_t error;

    LW_ASSERT(body_bytes != 0);
    if (lw_msg_check_body(msg, &error) != LW_OK) {
        LW_ERROR("wire", "a message that must not be sent: %s", error.text);
        LW_ASSERT(!"lw_msg_encode: the body breaks a rule");
    }
    LW_ASSERT(list_bytes == list_bytes_of(msg));
    header.list_bytes = list_bytes;
    header.version = LW_WIRE_VERSION;
    header.body_crc = lw_wire_body_crc(&msg->body, body_bytes, lists, list_bytes);
    header.header_crc = lw_wire_header_crc(&header);
    memcpy(head, &header, sizeof(header));
    memcpy((uint8_t *)head + sizeof(header), &msg->body, body_bytes);
    return (uint32_t)sizeof(header) + body_bytes;
}

static lw_status_t check_payload(const lw_msg_t *msg, uint64_t payload_bytes, lw_error_t *error)
{
    const char *type = lw_msg_type_text(msg->header.type);
    uint64_t wanted = list_bytes_of(msg), bulk = lw_msg_bulk_bytes(msg);
    uint32_t list_bytes = msg->header.list_bytes;

    if (list_bytes != wanted) {
        return lw_fail(error, LW_ERR_INVALID, "%s: list_bytes is %u, its counts make %llu", type, list_bytes,
                       (unsigned long long)wanted);
    }
    uint64_t padded = lw_wire_bulk_offset(list_bytes);
    if (bulk > 0 ? payload_bytes != padded + bulk : payload_bytes < list_bytes || payload_bytes > padded) {
        return lw_fail(error, LW_ERR_INVALID,
                       "%s: payload of %llu bytes, its body announces %u of lists and %llu of bulk", type,
                       (unsigned long long)payload_bytes, list_bytes, (unsigned long long)bulk);
    }
    return LW_OK;
}

static lw_status_t check_header(const lw_wire_header_t *header, size_t head_bytes, lw_error_t *error)
{
    uint32_t crc = lw_wire_header_crc(header);

    if (header->header_crc != crc) {
        return lw_fail(error, LW_ERR_INVALID, "header_crc is %08x, the header makes %08x", header->header_crc,
                       crc);
    }
    if (header->version != LW_WIRE_VERSION) {
        return lw_fail(error, LW_ERR_VERSION, "wire version is %u, this is %u", header->version,
                       LW_WIRE_VERSION);
    }
    if (!type_known(header->type)) {
        return lw_fail(error, LW_ERR_INVALID, "message type %u is unknown", header->type);
    }
    size_t wanted = sizeof(*header) + shapes[header->type].body_bytes;
    if (head_bytes != wanted) {
        return lw_fail(error, LW_ERR_INVALID, "%s: head of %zu bytes, must be %zu",
                       lw_msg_type_text(header->type), head_bytes, wanted);
    }
    return LW_OK;
}

static lw_status_t check_body_crc(const lw_msg_t *msg, const void *lists, lw_error_t *error)
{
    uint32_t crc =
        lw_wire_body_crc(&msg->body, shapes[msg->header.type].body_bytes, lists, msg->header.list_bytes);

    if (msg->header.body_crc != crc) {
        return lw_fail(error, LW_ERR_INVALID, "%s: body_crc is %08x, body and lists make %08x",
                       lw_msg_type_text(msg->header.type), msg->header.body_crc, crc);
    }
    return LW_OK;
}

lw_status_t lw_msg_decode_head(const void *head, size_t head_bytes, uint64_t payload_bytes, lw_msg_t *msg_out,
                               lw_error_t *error)
{
    lw_msg_t msg;
    lw_status_t status;

    memset(&msg, 0, sizeof(msg));
    if (head_bytes < sizeof(msg.header) || head_bytes > LW_MSG_HEAD_MAX) {
        return lw_fail(error, LW_ERR_INVALID, "head of %zu bytes, must be %zu to %u", head_bytes,
                       sizeof(msg.header), LW_MSG_HEAD_MAX);
    }
    memcpy(&msg.header, head, sizeof(msg.header));
    status = check_header(&msg.header, head_bytes, error);
    if (status != LW_OK) {
        return status;
    }
    memcpy(&msg.body, (const uint8_t *)head + sizeof(msg.header), head_bytes - sizeof(msg.header));
    status = lw_msg_check_body(&msg, error);
    if (status == LW_OK) {
        status = check_payload(&msg, payload_bytes, error);
    }
    if (status == LW_OK && msg.header.list_bytes == 0) {
        status = check_body_crc(&msg, NULL, error);
    }
    if (status == LW_OK) {
        *msg_out = msg;
    }
    return status;
}

static lw_status_t check_padding(const lw_msg_t *msg, const uint8_t *payload, size_t payload_bytes,
                                 lw_error_t *error)
{
    size_t end = lw_min_u64(payload_bytes, lw_wire_bulk_offset(msg->header.list_bytes));

    for (size_t i = msg->header.list_bytes; i < end; i++) {
        if (payload[i] != 0) {
            return lw_fail(error, LW_ERR_INVALID, "%s: padding byte %zu behind the lists is %u, must be 0",
                           lw_msg_type_text(msg->header.type), i, payload[i]);
        }
    }
    return LW_OK;
}

static lw_status_t check_names(const lw_segment_name_t *names, uint32_t count, lw_error_t *error)
{
    for (uint32_t i = 0; i < count; i++) {
        if (names[i].reserved != 0) {
            return lw_fail(error, LW_ERR_INVALID, "ATTACH: names[%u].reserved is %u, must be 0", i,
                           names[i].reserved);
        }
    }
    return LW_OK;
}

static lw_status_t check_attached(const lw_msg_attached_t *attached, uint32_t count, lw_error_t *error)
{
    for (uint32_t i = 0; i < count; i++) {
        if (attached[i].reserved != 0) {
            return lw_fail(error, LW_ERR_INVALID, "ATTACH_REPLY: attached[%u].reserved is %u, must be 0", i,
                           attached[i].reserved);
        }
        if (attached[i].status > 0 || (attached[i].status != LW_OK && attached[i].handle != 0)) {
            return lw_fail(error, LW_ERR_INVALID, "ATTACH_REPLY: attached[%u].status is %d with handle %llx",
                           i, attached[i].status, (unsigned long long)attached[i].handle);
        }
    }
    return LW_OK;
}

static lw_status_t check_runs(const lw_msg_fetch_run_t *runs, uint32_t count, uint32_t entry_count,
                              lw_error_t *error)
{
    uint64_t sum = 0; /* at most 8,192 x 65,535 */

    for (uint32_t i = 0; i < count; i++) {
        if (runs[i].reserved != 0) {
            return lw_fail(error, LW_ERR_INVALID, "FETCH: runs[%u].reserved is %u, must be 0", i,
                           runs[i].reserved);
        }
        sum += runs[i].count;
    }
    if (sum != entry_count) {
        return lw_fail(error, LW_ERR_INVALID, "FETCH: counts of the runs add up to %llu, entry_count is %u",
                       (unsigned long long)sum, entry_count);
    }
    return LW_OK;
}

static lw_status_t check_run_status(const int32_t *run_status, uint32_t count, lw_error_t *error)
{
    for (uint32_t i = 0; i < count; i++) {
        if (run_status[i] > 0) {
            return lw_fail(error, LW_ERR_INVALID, "FETCH_REPLY: run_status[%u] is %d, must be 0 or negative",
                           i, run_status[i]);
        }
    }
    return LW_OK;
}

/* Points the lists into payload and checks their elements. */
static lw_status_t open_lists(lw_msg_t *msg, const uint8_t *payload, lw_error_t *error)
{
    uint32_t count[2];

    list_counts(msg, count);
    const void *second = payload + (size_t)count[0] * shapes[msg->header.type].element_bytes[0];
    switch (msg->header.type) {
    case LW_MSG_ATTACH:
        msg->names = (const void *)payload;
        return check_names(msg->names, count[0], error);
    case LW_MSG_ATTACH_REPLY:
        msg->attached = (const void *)payload;
        return check_attached(msg->attached, count[0], error);
    case LW_MSG_FETCH:
        msg->runs = (const void *)payload;
        msg->entries = second;
        return check_runs(msg->runs, count[0], count[1], error);
    case LW_MSG_FETCH_REPLY:
        msg->run_status = (const void *)payload;
        msg->checksums = second;
        return check_run_status(msg->run_status, count[0], error);
    default:
        return lw_fail(error, LW_ERR_INVALID, "%s has no lists", lw_msg_type_text(msg->header.type));
    }
}

lw_status_t lw_msg_decode_lists(lw_msg_t *msg, const void *payload, size_t payload_bytes, lw_error_t *error)
{
    const char *type = lw_msg_type_text(msg->header.type);
    lw_msg_t opened = *msg;
    lw_status_t status;

    if (msg->header.list_bytes == 0) {
        return LW_OK;
    }
    if (payload_bytes < msg->header.list_bytes) {
        return lw_fail(error, LW_ERR_INVALID, "%s: payload of %zu bytes ends before its lists of %u", type,
                       payload_bytes, msg->header.list_bytes);
    }
    if ((uintptr_t)payload % 8 != 0) {
        return lw_fail(error, LW_ERR_INVALID, "%s: lists at an address that is not 8-byte aligned", type);
    }
    status = check_body_crc(msg, payload, error);
    if (status == LW_OK) {
        status = check_padding(msg, payload, payload_bytes, error);
    }
    if (status == LW_OK) {
        status = open_lists(&opened, payload, error);
    }
    if (status == LW_OK) {
        *msg = opened;
    }
    return status;
}
