/* fabric_ucx_transfer.c - messages of the UCX fabric: sending, receiving, and completing each of them once.
 */
#include "fabric/fabric_ucx_private.h"

#include <string.h>

#include "fabric/fabric_gather.h"

/* ---- sending ---- */

/* What LW_SEND_AUTO goes by (docs/decisions/0002-send-modes.md). */
#define IN_PLACE_BYTES_MIN 16384u      /* of a payload; below, a copy costs less than a list */
#define IN_PLACE_PIECE_BYTES_MIN 2048u /* of its pieces on the average */

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    ucp_request_free(request);
    ((lw_ucx_op_t *)arg)->fabric->sends--;
    lw_ucx_op_complete(arg, status);
}

static lw_status_t lay_out_list(lw_ucx_op_t *op, const lw_iov_t *pieces, uint32_t piece_count)
{
    lw_status_t status = lw_ucx_copy_acquire(op, piece_count * sizeof(ucp_dt_iov_t));
    if (status != LW_OK)
        return status;
    ucp_dt_iov_t *list = op->copy;
    for (uint32_t i = 0; i < piece_count; i++)
        list[i] = (ucp_dt_iov_t){.buffer = (void *)pieces[i].data, .length = pieces[i].bytes};
    op->payload_type = UCP_DATATYPE_IOV;
    op->payload = list;
    op->payload_count = piece_count;
    return LW_OK;
}

static bool wants_list(uint32_t piece_count, size_t bytes, lw_send_mode_t mode)
{
    if (mode == LW_SEND_COPY || piece_count < 2 || piece_count > LW_FABRIC_IOV_MAX ||
        bytes < IN_PLACE_BYTES_MIN)
        return false;
    return mode == LW_SEND_IOV || bytes / piece_count >= IN_PLACE_PIECE_BYTES_MIN;
}

/* Over tcp and shared memory a list is sent as a stream of ours: UCX would put its parts together at the
 * receiver, over tcp with one copy more, before anybody may look at them. */
static bool wants_stream(const lw_conn_t *conn, uint32_t piece_count, size_t bytes, lw_send_mode_t mode)
{
    return (conn->kind == LW_UCX_KIND_TCP || conn->kind == LW_UCX_KIND_SHM) &&
           wants_list(piece_count, bytes, mode);
}

/* Lays the pieces out as UCX wants them: in place, as a list, or copied together. */
static lw_status_t lay_out(lw_ucx_op_t *op, const lw_iov_t *pieces, uint32_t piece_count, size_t bytes,
                           lw_send_mode_t mode)
{
    op->payload_type = ucp_dt_make_contig(1);
    op->payload_count = bytes;
    op->payload = NULL;
    if (bytes == 0)
        return LW_OK;
    if (piece_count == 1) {
        op->payload = pieces[0].data;
        return LW_OK;
    }
    if (wants_list(piece_count, bytes, mode))
        return lay_out_list(op, pieces, piece_count);
    lw_status_t status = lw_ucx_copy_acquire(op, bytes);
    if (status != LW_OK)
        return status;
    lw_fabric_gather(op->copy, pieces, piece_count);
    op->payload = op->copy;
    return LW_OK;
}

/* Gives op to UCX. On an error op is as it was. */
static lw_status_t post(lw_ucx_op_t *op)
{
    if (op->parts > 0)
        return lw_ucx_stream_post(op);
    lw_fabric_t *fabric = op->fabric;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_DATATYPE,
        .flags = UCP_AM_SEND_FLAG_REPLY, /* so that the receiver knows which connection it came by */
        .datatype = op->payload_type,
        .cb.send = on_sent,
        .user_data = op,
    };
    op->state = LW_UCX_OP_POSTED;
    fabric->depth++;
    void *request = ucp_am_send_nbx(op->conn->ep, LW_UCX_AM_ID, op->head, op->head_bytes, op->payload,
                                    op->payload_count, &param);
    fabric->depth--;
    fabric->sends += UCS_PTR_IS_PTR(request); /* on_sent may have taken its one off already */
    if (UCS_PTR_IS_ERR(request))
        return lw_ucx_status(UCS_PTR_STATUS(request));
    if (request == NULL && op->done != NULL)
        lw_ucx_op_ready(op, LW_OK);
    else if (request == NULL)
        lw_ucx_op_release(op);
    return LW_OK;
}

lw_status_t lw_ucx_send(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces,
                        uint32_t piece_count, lw_send_mode_t mode, lw_fabric_done_t done, void *arg)
{
    if (conn->state != LW_CONN_OPEN)
        return conn->status != LW_OK ? conn->status : LW_ERR_CANCELED;
    size_t bytes = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        bytes += pieces[i].bytes;
    if (head_bytes > LW_MSG_HEAD_MAX || bytes > LW_FABRIC_PAYLOAD_MAX)
        return LW_ERR_INVALID;

    lw_ucx_op_t *op = lw_ucx_op_acquire(conn, done, arg);
    if (op == NULL)
        return LW_ERR_NO_MEMORY;
    if (head_bytes > 0)
        memcpy(op->head, head, head_bytes);
    op->head_bytes = (uint32_t)head_bytes;
    lw_status_t status = wants_stream(conn, piece_count, bytes, mode)
                             ? lw_ucx_stream_lay_out(op, pieces, piece_count, bytes)
                             : lay_out(op, pieces, piece_count, bytes, mode);
    if (status == LW_OK && !conn->ready) {
        op->state = LW_UCX_OP_HELD;
        return LW_OK;
    }
    if (status == LW_OK)
        status = post(op);
    if (status != LW_OK)
        lw_ucx_op_release(op);
    return status;
}

/* ---- making a connection ready: each end tells the other that it hears it ---- */

static void on_ready_sent(void *request, ucs_status_t status, void *arg)
{
    ucp_request_free(request);
}

void lw_ucx_send_ready(lw_conn_t *conn)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_REPLY,
        .cb.send = on_ready_sent,
    };
    (void)ucp_am_send_nbx(conn->ep, LW_UCX_AM_READY_ID, NULL, 0, NULL, 0,
                          &param); /* an error ends the connection */
}

ucs_status_t lw_ucx_on_ready(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                             const ucp_am_recv_param_t *param)
{
    lw_conn_t *conn = NULL;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        conn = lw_ucx_conn_find(arg, param->reply_ep);
    if (conn == NULL || conn->ready)
        return UCS_OK;
    conn->ready = true;
    lw_ucx_conn_classify(conn);
    if (conn->accepted)
        lw_ucx_send_ready(conn);
    lw_ucx_link_t *next;
    for (lw_ucx_link_t *at = conn->ops.next; at != &conn->ops && conn->state == LW_CONN_OPEN; at = next) {
        next = at->next;
        lw_ucx_op_t *op = (lw_ucx_op_t *)at;
        if (op->state != LW_UCX_OP_HELD)
            continue;
        lw_status_t status = post(op);
        if (status != LW_OK)
            lw_ucx_op_ready(op, status);
    }
    return UCS_OK;
}

void lw_ucx_cancel_early(lw_conn_t *conn, lw_status_t status)
{
    if (conn->inbound.op != NULL)
        lw_ucx_op_ready(conn->inbound.op, status);
    conn->inbound = (lw_ucx_inbound_t){0};
    lw_ucx_link_t *next;
    for (lw_ucx_link_t *at = conn->ops.next; at != &conn->ops; at = next) {
        next = at->next;
        if (((lw_ucx_op_t *)at)->state == LW_UCX_OP_HELD)
            lw_ucx_op_ready((lw_ucx_op_t *)at, status);
    }
}

/* ---- receiving ---- */

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
    ucp_request_free(request);
    lw_ucx_op_complete(arg, status);
}

void lw_ucx_recv(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                 lw_fabric_done_t done, void *arg)
{
    lw_ucx_recv_watched(fabric, msg, into, region, NULL, done, arg);
}

void lw_ucx_recv_watched(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                         lw_fabric_landed_t landed, lw_fabric_done_t done, void *arg)
{
    lw_ucx_arrival_t *arrival = msg->handle;
    LW_ASSERT(!arrival->taken);
    arrival->taken = true;
    if (!arrival->rendezvous && !arrival->stream) {
        if (arrival->bytes > 0)
            lw_fabric_land(into, arrival->data, arrival->bytes);
        if (done != NULL)
            done(arg, LW_OK);
        return;
    }
    lw_ucx_op_t *op = lw_ucx_op_acquire(arrival->conn, done, arg);
    if (op == NULL) {
        arrival->taken = false; /* dropped: UCX tells the sender */
        if (done != NULL)
            done(arg, LW_ERR_NO_MEMORY);
        return;
    }
    if (arrival->stream) { /* the rest comes by on_part */
        arrival->conn->inbound.into = into;
        arrival->conn->inbound.op = op;
        arrival->conn->inbound.landed = landed;
        return;
    }
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = on_received,
        .user_data = op,
    };
    if (region != NULL) {
        param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
        param.memh = region->memory;
    }
    fabric->depth++;
    void *request = ucp_am_recv_data_nbx(fabric->worker, arrival->data, into, arrival->bytes, &param);
    fabric->depth--;
    if (!UCS_PTR_IS_PTR(request))
        lw_ucx_op_ready(op, lw_ucx_status(UCS_PTR_STATUS(request)));
}

ucs_status_t lw_ucx_on_message(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                               const ucp_am_recv_param_t *param)
{
    lw_fabric_t *fabric = arg;
    lw_conn_t *conn = NULL;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        conn = lw_ucx_conn_find(fabric, param->reply_ep);
    if (conn == NULL || conn->state != LW_CONN_OPEN)
        return UCS_OK; /* dropped */
    lw_ucx_arrival_t arrival = {
        .conn = conn,
        .data = data,
        .bytes = data_bytes,
        .rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0,
    };
    lw_fabric_msg_t msg = {
        .head = head,
        .head_bytes = head_bytes,
        .data = arrival.rendezvous ? NULL : data,
        .data_bytes = data_bytes,
        .handle = &arrival,
    };
    fabric->handler.on_message(fabric->handler.arg, conn, &msg);
    return UCS_OK; /* UCX sees by itself whether the payload was asked for */
}
