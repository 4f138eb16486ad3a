/* fabric_ucx_stream.c - a payload sent in parts over tcp or shared memory, read in place and landed part by
 * part.
 *
 * UCX could send a list of pieces by itself, but it would gather it first, or put its parts together at the
 * receiver before anybody sees them. Here each part is one active message that fits one segment of the
 * transport, all posted at once and in order: over tcp the sender's kernel reads the pieces, over shared memory
 * they are copied into the queue. The receiver lands each part while it is in the cache and shows it to whoever
 * watches. Small pieces are copied together so that they don't use parts up. The first part carries the
 * message's head.
 *
 *   part head:  offset size field
 *                    0    4 id           of the stream, on its connection
 *                    4    4 head_bytes   of the message, behind this head; 0 unless offset is 0
 *                    8    8 total        bytes of the payload
 *                   16    8 offset       of this part in it
 */
#include "fabric/fabric_ucx_private.h"

#include <assert.h>
#include <string.h>

#include "base/log.h"
#include "fabric/fabric_gather.h"

#define SMALL_PIECE_BYTES 2048u

typedef struct part_head {
    uint32_t id, head_bytes;
    uint64_t total, offset;
} part_head_t;

static_assert(sizeof(part_head_t) == 24, "part head");

typedef struct part { /* in op->copy */
    part_head_t head;
    lw_ucx_op_t *op;
    uint32_t count;
    ucp_dt_iov_t list[LW_UCX_PART_PIECES_MAX];
} part_t;

typedef struct first_head { /* what the first part sends; begins op->copy, the parts follow */
    part_head_t head;
    uint8_t message_head[LW_MSG_HEAD_MAX];
} first_head_t;

static_assert(sizeof(first_head_t) % sizeof(void *) == 0, "parts behind it are aligned");

typedef struct layout {
    part_t *parts;
    uint32_t count;    /* the last one is being filled */
    uint64_t filled;   /* bytes in it */
    uint8_t *small;    /* where copies of small pieces go */
    uint8_t *copy_end; /* end of the last copy, if it is the last entry of the list */
} layout_t;

static part_t *op_parts(const lw_ucx_op_t *op)
{
    return (part_t *)((first_head_t *)op->copy + 1);
}

static part_t *begin_part(layout_t *layout, lw_ucx_op_t *op, uint64_t total, uint64_t offset)
{
    part_t *part = &layout->parts[layout->count++];
    part->head = (part_head_t){.total = total, .offset = offset};
    part->op = op;
    part->count = 0;
    layout->filled = 0;
    layout->copy_end = NULL;
    return part;
}

static uint64_t part_bytes_max(const lw_conn_t *conn)
{
    return conn->kind == LW_UCX_KIND_SHM ? LW_UCX_SHM_PART_BYTES : LW_UCX_TCP_PART_BYTES;
}

/* Most parts that so many pieces and bytes can need: a part ends because it is full of bytes or of pieces. */
static uint64_t parts_bound(uint32_t piece_count, uint64_t bytes, uint64_t part_bytes)
{
    uint64_t full = bytes / part_bytes + 1;
    return full + (piece_count + full) / LW_UCX_PART_PIECES_MAX + 1;
}

static uint64_t small_bytes(const lw_iov_t *pieces, uint32_t piece_count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        bytes += pieces[i].bytes < SMALL_PIECE_BYTES ? pieces[i].bytes : 0;
    return bytes;
}

lw_status_t lw_ucx_stream_lay_out(lw_ucx_op_t *op, const lw_iov_t *pieces, uint32_t piece_count,
                                  uint64_t bytes)
{
    uint64_t part_bytes = part_bytes_max(op->conn), bound = parts_bound(piece_count, bytes, part_bytes);
    lw_status_t status = lw_ucx_copy_acquire(op, sizeof(first_head_t) + bound * sizeof(part_t) +
                                                     small_bytes(pieces, piece_count));
    if (status != LW_OK)
        return status;
    layout_t layout = {.parts = op_parts(op), .small = (uint8_t *)(op_parts(op) + bound)};
    part_t *part = begin_part(&layout, op, bytes, 0);
    part->head.head_bytes = op->head_bytes;

    uint64_t offset = 0;
    lw_gather_ahead_t ahead = {.pieces = pieces, .count = piece_count, .piece_max = SMALL_PIECE_BYTES};
    for (uint32_t i = 0; i < piece_count; i++) {
        lw_gather_ahead(&ahead, i);
        const uint8_t *data = pieces[i].data;
        uint64_t left = pieces[i].bytes;
        if (left > 0 && left < SMALL_PIECE_BYTES) {
            memcpy(layout.small, data, left);
            data = layout.small;
            layout.small += left;
        }
        while (left > 0) {
            bool joins = data == layout.copy_end; /* one copy behind another: one entry */
            if (layout.filled == part_bytes || (part->count == LW_UCX_PART_PIECES_MAX && !joins)) {
                part = begin_part(&layout, op, bytes, offset);
                joins = false;
            }
            uint64_t taken = lw_min_u64(left, part_bytes - layout.filled);
            if (joins)
                part->list[part->count - 1].length += taken;
            else
                part->list[part->count++] = (ucp_dt_iov_t){.buffer = (void *)data, .length = taken};
            data += taken;
            layout.copy_end = pieces[i].bytes < SMALL_PIECE_BYTES ? (uint8_t *)data : NULL;
            layout.filled += taken;
            offset += taken;
            left -= taken;
        }
    }
    LW_ASSERT(layout.count <= bound && offset == bytes);
    op->parts = layout.count;
    return LW_OK;
}

/* ---- sending ---- */

static void part_over(lw_ucx_op_t *op, ucs_status_t status)
{
    if (status != UCS_OK && op->status == LW_OK)
        op->status = lw_ucx_status(status);
    if (--op->parts_left > 0)
        return;
    lw_ucx_op_complete(op, op->status == LW_OK ? UCS_OK : UCS_ERR_CONNECTION_RESET);
}

static void on_part_sent(void *request, ucs_status_t status, void *arg)
{
    ucp_request_free(request);
    lw_ucx_op_t *op = ((part_t *)arg)->op;
    op->fabric->sends--;
    part_over(op, status);
}

lw_status_t lw_ucx_stream_post(lw_ucx_op_t *op)
{
    lw_fabric_t *fabric = op->fabric;
    lw_conn_t *conn = op->conn;
    first_head_t *first = op->copy;
    part_t *parts = op_parts(op);
    uint32_t count = op->parts;
    op->state = LW_UCX_OP_POSTED;
    op->status = LW_OK;
    op->parts_left = count + 1; /* one more: not over before all are posted */
    conn->stream_id++;
    fabric->depth++;
    ucs_status_t status = UCS_OK;
    for (uint32_t i = 0; i < count; i++) {
        part_t *part = &parts[i];
        const void *head = &part->head;
        part->head.id = conn->stream_id;
        if (i == 0) {
            first->head = part->head;
            memcpy(first->message_head, op->head, op->head_bytes);
            head = first;
        }
        ucp_request_param_t param = {
            .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                            UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_DATATYPE,
            .flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER,
            .datatype = part->count == 1 ? ucp_dt_make_contig(1) : UCP_DATATYPE_IOV,
            .cb.send = on_part_sent,
            .user_data = part,
        };
        const void *buffer = part->count == 1 ? part->list[0].buffer : (void *)part->list;
        size_t buffer_count = part->count == 1 ? part->list[0].length : part->count;
        void *request = NULL;
        if (status == UCS_OK)
            request =
                ucp_am_send_nbx(conn->ep, LW_UCX_AM_PART_ID, head,
                                sizeof(part->head) + part->head.head_bytes, buffer, buffer_count, &param);
        fabric->sends += UCS_PTR_IS_PTR(request); /* on_part_sent may have taken its one off already */
        if (UCS_PTR_IS_ERR(request))
            status = UCS_PTR_STATUS(request);
        if (!UCS_PTR_IS_PTR(request))
            part_over(op, status);
    }
    part_over(op, status);
    fabric->depth--;
    if (status != UCS_OK && conn->state == LW_CONN_OPEN)
        lw_ucx_conn_end(conn, LW_ERR_UNREACHABLE); /* half a stream: nothing can follow it */
    return LW_OK;
}

/* ---- receiving ---- */

static void land(lw_conn_t *conn, const void *data, size_t bytes)
{
    lw_ucx_inbound_t *inbound = &conn->inbound;
    if (inbound->into != NULL && bytes > 0)
        lw_fabric_land(inbound->into + inbound->got, data, bytes);
    inbound->got += bytes;
    if (inbound->op != NULL && inbound->landed != NULL)
        inbound->landed(inbound->op->arg, inbound->got);
    if (inbound->got < inbound->total || !inbound->open)
        return;
    lw_ucx_op_t *op = inbound->op;
    *inbound = (lw_ucx_inbound_t){0};
    if (op != NULL)
        lw_ucx_op_complete(op, UCS_OK);
}

/* Parts are landed by a copy of ours, so that a stream's memory can be let go between any two of them. What UCX
 * lands by itself it writes until it is done. */
bool lw_ucx_stream_cancel(lw_conn_t *conn, const void *arg)
{
    lw_ucx_inbound_t *inbound = &conn->inbound;
    lw_ucx_op_t *op = inbound->op;
    if (conn->state != LW_CONN_OPEN || op == NULL || op->arg != arg)
        return false;
    inbound->into = NULL;
    inbound->op = NULL;
    inbound->landed = NULL;
    lw_ucx_op_release(op);
    return true;
}

static void begin_stream(lw_conn_t *conn, const part_head_t *head, const uint8_t *message_head, void *data,
                         size_t bytes)
{
    lw_fabric_t *fabric = conn->fabric;
    bool whole = bytes == head->total;
    conn->inbound = (lw_ucx_inbound_t){.open = !whole, .id = head->id, .total = head->total};
    lw_ucx_arrival_t arrival = {.conn = conn, .data = data, .bytes = bytes, .stream = !whole};
    lw_fabric_msg_t msg = {
        .head = message_head,
        .head_bytes = head->head_bytes,
        .data = whole ? data : NULL,
        .data_bytes = head->total,
        .handle = &arrival,
    };
    fabric->handler.on_message(fabric->handler.arg, conn, &msg);
    if (conn->inbound.open)
        land(conn, data, bytes);
}

ucs_status_t lw_ucx_on_part(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                            const ucp_am_recv_param_t *param)
{
    lw_conn_t *conn = NULL;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        conn = lw_ucx_conn_find(arg, param->reply_ep);
    if (conn == NULL || conn->state != LW_CONN_OPEN)
        return UCS_OK;
    part_head_t part;
    bool sound = head_bytes >= sizeof(part) && (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
    if (sound) {
        memcpy(&part, head, sizeof(part));
        sound = part.head_bytes == head_bytes - sizeof(part) && part.head_bytes <= LW_MSG_HEAD_MAX &&
                part.total <= LW_FABRIC_PAYLOAD_MAX && part.offset <= part.total &&
                data_bytes <= part.total - part.offset && data_bytes > 0;
    }
    const lw_ucx_inbound_t *inbound = &conn->inbound;
    if (sound && part.offset == 0 && !inbound->open) {
        begin_stream(conn, &part, (const uint8_t *)head + sizeof(part), data, data_bytes);
    } else if (sound && inbound->open && part.id == inbound->id && part.offset == inbound->got &&
               part.total == inbound->total) {
        land(conn, data, data_bytes);
    } else {
        static lw_log_rate_t rate;
        lw_log_rated(&rate, LW_LOG_WARN, "fabric",
                     "a peer sent a part that fits no stream: connection closed");
        lw_ucx_conn_end(conn, LW_ERR_IO);
    }
    return UCS_OK;
}
