/* fuzz_msg.c - the message decoder: an input is a head and its payload, one after the other, as in the golden
 * files.
 *
 * Each input is tried as it is and with both checksums made right, since an attacker can compute them too.
 * What decodes must encode to the same bytes. */
#include <string.h>

#include "fuzz.h"
#include "wire/msg.h"

static size_t head_bytes_of(const uint8_t *bytes, size_t byte_count)
{
    lw_wire_header_t header;

    if (byte_count < sizeof(header)) {
        return byte_count;
    }
    memcpy(&header, bytes, sizeof(header));
    return lw_min_u64(byte_count, sizeof(header) + lw_msg_body_bytes(header.type));
}

static uint64_t touch(const void *bytes, size_t byte_count)
{
    volatile uint64_t sum = 0;

    for (size_t i = 0; i < byte_count; i++) {
        sum += ((const uint8_t *)bytes)[i];
    }
    return sum;
}

#ifdef LW_FUZZ_CANARY
/* The planted fault: a count of the body is believed. */
static lw_status_t decode_lists(lw_msg_t *msg, const uint8_t *payload, size_t payload_bytes)
{
    (void)payload_bytes;
    touch(payload, lw_msg_list_bytes(msg));
    return LW_ERR_INVALID;
}
static lw_status_t decode_head(const uint8_t *head, size_t head_bytes, uint64_t payload_bytes, lw_msg_t *msg)
{
    (void)payload_bytes;
    memset(msg, 0, sizeof(*msg));
    memcpy(msg, head, lw_min_u64(head_bytes, sizeof(msg->header)));
    if (head_bytes > sizeof(msg->header)) {
        memcpy(&msg->body, head + sizeof(msg->header), head_bytes - sizeof(msg->header));
    }
    return LW_OK;
}
#else
static lw_status_t decode_lists(lw_msg_t *msg, const uint8_t *payload, size_t payload_bytes)
{
    lw_error_t error;

    return lw_msg_decode_lists(msg, payload, payload_bytes, &error);
}
static lw_status_t decode_head(const uint8_t *head, size_t head_bytes, uint64_t payload_bytes, lw_msg_t *msg)
{
    lw_error_t error;
    lw_status_t status = lw_msg_decode_head(head, head_bytes, payload_bytes, msg, &error);

    FUZZ_REQUIRE(status == LW_OK || status == LW_ERR_INVALID || status == LW_ERR_VERSION);
    FUZZ_REQUIRE(status == LW_OK || error.text[0] != '\0');
    return status;
}
#endif

static void try_one(const uint8_t *head, size_t head_bytes, const uint8_t *payload, size_t payload_bytes)
{
    uint8_t again[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    if (decode_head(head, head_bytes, payload_bytes, &msg) != LW_OK ||
        decode_lists(&msg, payload, payload_bytes) != LW_OK) {
        return;
    }
    uint32_t list_bytes = lw_msg_list_bytes(&msg);
    FUZZ_REQUIRE(list_bytes <= payload_bytes && list_bytes <= LW_MSG_LIST_MAX);
    FUZZ_REQUIRE(lw_msg_bulk_bytes(&msg) <= payload_bytes);
    touch(payload, list_bytes);
    if (msg.header.type == LW_MSG_FETCH && list_bytes > 0) {
        FUZZ_REQUIRE((const uint8_t *)(msg.entries + msg.body.fetch.entry_count) == payload + list_bytes);
    }
    FUZZ_REQUIRE(lw_msg_encode(&msg, payload, list_bytes, again) == head_bytes);
    FUZZ_REQUIRE(memcmp(head, again, head_bytes) == 0);
}

/* Version, list_bytes and both checksums as the body would have them. */
static void repair(uint8_t *head, size_t head_bytes, const uint8_t *payload, size_t payload_bytes)
{
    lw_msg_t msg;

    if (head_bytes < sizeof(msg.header)) {
        return;
    }
    memset(&msg, 0, sizeof(msg));
    memcpy(&msg.header, head, sizeof(msg.header));
    memcpy(&msg.body, head + sizeof(msg.header), head_bytes - sizeof(msg.header));
    msg.header.version = LW_WIRE_VERSION;
    msg.header.list_bytes = lw_msg_list_bytes(&msg);
    msg.header.body_crc = lw_wire_body_crc(&msg.body, head_bytes - sizeof(msg.header), payload,
                                           lw_min_u64(msg.header.list_bytes, payload_bytes));
    msg.header.header_crc = lw_wire_header_crc(&msg.header);
    memcpy(head, &msg.header, sizeof(msg.header));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    size_t head_bytes = head_bytes_of(bytes, byte_count), payload_bytes = byte_count - head_bytes;
    fuzz_guard_t head = fuzz_guard_copy(bytes, head_bytes, 1);
    fuzz_guard_t payload = fuzz_guard_copy(bytes + head_bytes, payload_bytes, 8);

    try_one(head.bytes, head_bytes, payload.bytes, payload_bytes);
    repair(head.bytes, head_bytes, payload.bytes, payload_bytes);
    try_one(head.bytes, head_bytes, payload.bytes, payload_bytes);
    fuzz_guard_free(&payload);
    fuzz_guard_free(&head);
    return 0;
}
