/* golden_items.c - fixed messages and segments. Never change what a version's items hold: add items of a new
 * version. */
#include "golden_items.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const lw_segment_name_t name_a = {0x1112131415161718, 0x2122, 0x3132, 0x41424344, 0x51525354, 0};
static const lw_segment_name_t name_b = {0x6162636465666768, 0x7172, 0x0102, 0x11223344, 0x55667788, 0};

static void fill_counting(uint8_t *bytes, size_t count, uint8_t from)
{
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)(from + i);
    }
}

static void add_list(golden_message_t *out, const void *list, size_t bytes)
{
    memcpy(out->payload + out->list_bytes, list, bytes);
    out->list_bytes += (uint32_t)bytes;
}

static void add_bulk(golden_message_t *out, uint32_t bytes)
{
    fill_counting(out->payload + lw_wire_bulk_offset(out->list_bytes), bytes, 0xb0);
    out->bulk_bytes = bytes;
}

static void set_attach(golden_message_t *out)
{
    lw_segment_name_t names[2] = {name_a, name_b};

    out->msg.body.attach =
        (lw_msg_attach_t){.session_id = 0x2021222324252627, .write = 1, .term = 0x31323334, .name_count = 2};
    fill_counting(out->msg.body.attach.token, LW_TOKEN_BYTES, 0xa0);
    add_list(out, names, sizeof(names));
}

static void set_attach_reply(golden_message_t *out)
{
    static const lw_msg_attached_t attached[2] = {{0x5152535455565758, LW_OK, 0}, {0, LW_ERR_NOT_FOUND, 0}};

    out->msg.body.attach_reply =
        (lw_msg_attach_reply_t){.status = LW_OK, .name_count = 2, .epoch = 0x6162636465666768};
    add_list(out, attached, sizeof(attached));
}

static void set_fetch(golden_message_t *out)
{
    static const lw_msg_fetch_run_t runs[2] = {{0x0102030405060708, 0x1112, 3, 0},
                                               {0x2122232425262728, 0x3132, 2, 0}};
    static const uint16_t entries[5] = {0x0001, 0x0203, 0x0405, 0xfffe, 0xffff};

    out->msg.body.fetch = (lw_msg_fetch_t){
        .run_count = 2, .entry_count = 5, .deadline_us = 0x41424344, .flags = LW_MSG_FETCH_CONTIGUOUS};
    add_list(out, runs, sizeof(runs));
    add_list(out, entries, sizeof(entries));
}

static void set_fetch_reply(golden_message_t *out)
{
    static const int32_t run_status[2] = {LW_OK, LW_ERR_STALE};
    static const uint32_t checksums[3] = {0x01020304, 0x11121314, 0x21222324};

    out->msg.body.fetch_reply = (lw_msg_fetch_reply_t){.status = LW_OK,
                                                       .run_count = 2,
                                                       .record_count = 3,
                                                       .moved = 1,
                                                       .epoch = 0x3132333435363738,
                                                       .bulk_bytes = 96};
    add_list(out, run_status, sizeof(run_status));
    add_list(out, checksums, sizeof(checksums));
    add_bulk(out, 96);
}

static void set_body(uint16_t type, golden_message_t *out)
{
    switch ((lw_msg_type_t)type) {
    case LW_MSG_HELLO:
        out->msg.body.hello = (lw_msg_hello_t){1, 1, 0x1011121314151617, 0x2021222324252627, 3, 0};
        break;
    case LW_MSG_HELLO_REPLY:
        out->msg.body.hello_reply = (lw_msg_hello_reply_t){
            LW_OK,  1,     0x0102030405060708, 0x1112131415161718, 0x2122232425262728, 0x3132333435363738,
            0x1234, 0x8765};
        break;
    case LW_MSG_PING:
        out->msg.body.ping = (lw_msg_ping_t){0x0102030405060708};
        break;
    case LW_MSG_PING_REPLY:
        out->msg.body.ping_reply = (lw_msg_ping_reply_t){
            0x0102030405060708, 0x1112131415161718, 0x3122232425262728, 0x2122232425262728, 0x31323334, 1};
        break;
    case LW_MSG_ATTACH:
        set_attach(out);
        break;
    case LW_MSG_ATTACH_REPLY:
        set_attach_reply(out);
        break;
    case LW_MSG_RESERVE:
        out->msg.body.reserve = (lw_msg_reserve_t){name_a, 0x01020304, 0x1112131415161718};
        break;
    case LW_MSG_RESERVE_REPLY:
        out->msg.body.reserve_reply = (lw_msg_reserve_reply_t){
            LW_ERR_EXHAUSTED, 0x01020304, 0x1112131415161718, 0x2122232425262728, 1, 0};
        break;
    case LW_MSG_WRITE:
        out->msg.body.write = (lw_msg_write_t){0x0102030405060708, 0x11121314, 70, 0};
        add_bulk(out, 70);
        break;
    case LW_MSG_COMMIT:
        out->msg.body.commit = (lw_msg_commit_t){0x0102030405060708, 0x11121314};
        break;
    case LW_MSG_ABORT:
        out->msg.body.abort = (lw_msg_abort_t){0x0102030405060708};
        break;
    case LW_MSG_STATUS_REPLY:
        out->msg.body.status_reply = (lw_msg_status_reply_t){LW_ERR_CORRUPT, 0, 0x0102030405060708};
        break;
    case LW_MSG_FETCH:
        set_fetch(out);
        break;
    case LW_MSG_FETCH_REPLY:
        set_fetch_reply(out);
        break;
    case LW_MSG_READ:
        out->msg.body.read = (lw_msg_read_t){0x0102030405060708, 0x11121314, 0x010203, 0};
        break;
    case LW_MSG_READ_REPLY:
        out->msg.body.read_reply = (lw_msg_read_reply_t){LW_OK, 33, 0x11121314, 0x2122232425262728};
        add_bulk(out, 33);
        break;
    case LW_MSG_ATTEND:
        out->msg.body.attend = (lw_msg_attend_t){0};
        break;
    case LW_MSG_CANCEL:
        out->msg.body.cancel = (lw_msg_cancel_t){0x0102030405060708};
        break;
    case LW_MSG_NONE:
    case LW_MSG_TYPE_END:
        break;
    }
}

void golden_message(uint16_t type, golden_message_t *out)
{
    memset(out, 0, sizeof(*out));
    out->msg.header.type = type;
    out->msg.header.fleet_id = 0xf1f2f3f4f5f6f7f8;
    out->msg.header.request_id = 0xe1e2e3e4e5e6e700 + type;
    set_body(type, out);
}

uint32_t golden_payload_bytes(const golden_message_t *message)
{
    return message->bulk_bytes > 0 ? lw_wire_bulk_offset(message->list_bytes) + message->bulk_bytes
                                   : message->list_bytes;
}

uint32_t golden_message_bytes(const golden_message_t *message, uint8_t *bytes_out)
{
    uint32_t head = lw_msg_encode(&message->msg, message->payload, message->list_bytes, bytes_out);

    memcpy(bytes_out + head, message->payload, golden_payload_bytes(message));
    return head + golden_payload_bytes(message);
}

void golden_message_file(uint16_t type, char *file_out, size_t file_bytes)
{
    snprintf(file_out, file_bytes, "%s_v1.bin", lw_msg_type_text(type));
    for (char *c = file_out; *c != '\0'; c++) {
        *c = (char)tolower((unsigned char)*c);
    }
}

static void fill_sizes(uint8_t *extent, bool raw)
{
    static const uint16_t sizes[2][3] = {{5, 1, 4}, {10, 0, 0}};

    for (uint32_t head = 0; head < 2; head++) {
        const lw_segment_head_t *info = &lw_segment_heads(extent)[head];
        static const uint16_t raw_sizes[2] = {64, 6};
        memcpy(extent + info->sizes_offset, raw ? raw_sizes : sizes[head], info->cluster_count * 2);
    }
}

uint32_t golden_segment_bytes(bool raw, uint8_t *extent_out)
{
    lw_segment_plan_t plan = {.name = name_b, .head_count = 2, .head_dim = 8, .dtype = LW_DTYPE_BF16};
    uint64_t bytes;

    if (raw) {
        plan.flags = LW_SEGMENT_RAW;
        plan.token_count = 70;
        plan.head[0].cluster_count = plan.head[1].cluster_count = 2;
        plan.head[0].row_count = plan.head[1].row_count = 70;
    } else {
        plan.flags = LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS;
        plan.name.first_token = 0;
        plan.token_count = 16;
        plan.cluster_encoding = LW_ENCODING_INT8;
        plan.outlier_encoding = LW_ENCODING_INT4;
        plan.moments_bytes = 24;
        plan.head[0].cluster_count = 3;
        plan.head[1].cluster_count = 1;
        plan.head[0].outlier_count = plan.head[1].outlier_count = 2;
        plan.head[0].row_count = plan.head[1].row_count = 12;
        plan.head[0].index_bytes = 50;
        plan.head[1].index_bytes = 30;
    }
    LW_ASSERT(lw_segment_layout(&plan, NULL, &bytes, NULL) == LW_OK && bytes <= GOLDEN_BYTES_MAX);
    fill_counting(extent_out, bytes, 0x40);
    LW_ASSERT(lw_segment_layout(&plan, extent_out, &bytes, NULL) == LW_OK);
    fill_sizes(extent_out, raw);
    lw_segment_seal(extent_out);
    return (uint32_t)bytes;
}
