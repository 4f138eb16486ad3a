/* fabric_ucx_transfer.c - messages of the UCX fabric: sending, receiving, and completing each of them once. */
#include "fabric/fabric_ucx_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fabric/fabric_gather.h"

typedef struct lw_ucx_arrival { /* a message inside on_message; what msg->handle points to */
    lw_conn_t *conn;
    void *data;
    size_t bytes;
    bool rendezvous, taken;
} lw_ucx_arrival_t;

/* ---- operations ---- */

static lw_status_t grow(lw_fabric_t *fabric)
{
    lw_ucx_slab_t *slab = calloc(1, sizeof(*slab));
    if (slab == NULL)
        return LW_ERR_NO_MEMORY;
    slab->next = fabric->slabs;
    fabric->slabs = slab;
    for (uint32_t i = 0; i < LW_UCX_OPS_PER_SLAB; i++)
        lw_ucx_list_add(&fabric->free_ops, &slab->op[i].link);
    return LW_OK;
}

/* A posted operation of conn; NULL without memory. */
static lw_ucx_op_t *op_acquire(lw_conn_t *conn, lw_fabric_done_t done, void *arg)
{
    lw_fabric_t *fabric = conn->fabric;
    if (lw_ucx_list_empty(&fabric->free_ops) && grow(fabric) != LW_OK)
        return NULL;
    lw_ucx_op_t *op = (lw_ucx_op_t *)fabric->free_ops.prev; /* the last one used is warm */
    lw_ucx_list_remove(&op->link);
    LW_ASSERT(op->state == LW_UCX_OP_FREE);
    op->fabric = fabric;
    op->conn = conn;
    op->done = done;
    op->arg = arg;
    op->copy = NULL;
    op->state = LW_UCX_OP_POSTED;
    lw_ucx_list_add(&conn->ops, &op->link);
    return op;
}

static void copy_release(lw_ucx_op_t *op);

static void op_release(lw_ucx_op_t *op)
{
    LW_ASSERT(op->state != LW_UCX_OP_FREE);
    copy_release(op);
    lw_ucx_list_remove(&op->link);
    op->state = LW_UCX_OP_FREE;
    op->conn = NULL;
    lw_ucx_list_add(&op->fabric->free_ops, &op->link);
}

/* The operation is over and its callback waits for progress. */
static void op_ready(lw_ucx_op_t *op, lw_status_t status)
{
    op->status = status;
    op->state = LW_UCX_OP_READY;
    lw_ucx_list_remove(&op->link);
    lw_ucx_list_add(&op->fabric->ready, &op->link);
}

static void op_run(lw_ucx_op_t *op, lw_status_t status)
{
    lw_fabric_done_t done = op->done;
    void *arg = op->arg;
    op_release(op);
    if (done != NULL)
        done(arg, status);
}

unsigned lw_ucx_run_ready(lw_fabric_t *fabric)
{
    unsigned ran = 0;
    while (!lw_ucx_list_empty(&fabric->ready)) {
        lw_ucx_op_t *op = (lw_ucx_op_t *)fabric->ready.next;
        op_run(op, op->status);
        ran++;
    }
    return ran;
}

/* UCX has let go of op: from progress, or from inside a call that posted it or another one. */
static void op_complete(lw_ucx_op_t *op, ucs_status_t ucs_status)
{
    if (op->state == LW_UCX_OP_ORPHAN) {
        op_release(op);
        return;
    }
    LW_ASSERT(op->state == LW_UCX_OP_POSTED);
    lw_status_t status = lw_ucx_status(ucs_status);
    if (status != LW_OK && op->conn->state != LW_CONN_OPEN) /* say why the connection ended, not how UCX put it */
        status = op->conn->status != LW_OK ? op->conn->status : LW_ERR_CANCELED;
    if (op->fabric->depth > 0)
        op_ready(op, status);
    else
        op_run(op, status);
}

void lw_ucx_orphan_ops(lw_conn_t *conn, lw_status_t status)
{
    while (!lw_ucx_list_empty(&conn->ops)) {
        lw_ucx_op_t *op = (lw_ucx_op_t *)conn->ops.next;
        lw_fabric_done_t done = op->done;
        void *arg = op->arg;
        lw_ucx_list_remove(&op->link);
        op->state = LW_UCX_OP_ORPHAN;
        op->conn = NULL;
        op->done = NULL;
        if (done != NULL)
            done(arg, status);
    }
}

/* ---- buffers for copies: a free list for each power of two, the last one used first ---- */

static uint32_t copy_class(size_t bytes)
{
    uint32_t shift = LW_UCX_COPY_CLASS_MIN;
    while (((size_t)1 << shift) < bytes)
        shift++;
    return shift - LW_UCX_COPY_CLASS_MIN;
}

static size_t copy_class_bytes(uint32_t class) { return (size_t)1 << (class + LW_UCX_COPY_CLASS_MIN); }

static lw_status_t copy_acquire(lw_ucx_op_t *op, size_t bytes)
{
    lw_fabric_t *fabric = op->fabric;
    uint32_t class = copy_class(bytes);
    size_t room = copy_class_bytes(class);
    if (fabric->copy_bytes + room > LW_FABRIC_COPY_BYTES_MAX)
        return LW_ERR_BUSY;
    lw_ucx_copy_t *buffer = fabric->copies[class];
    if (buffer != NULL) {
        fabric->copies[class] = buffer->next;
    } else {
        buffer = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (buffer == MAP_FAILED)
            return LW_ERR_NO_MEMORY;
        (void)madvise(buffer, room, MADV_HUGEPAGE);
    }
    fabric->copy_bytes += room;
    op->copy = buffer;
    op->copy_class = class;
    return LW_OK;
}

static void copy_release(lw_ucx_op_t *op)
{
    if (op->copy == NULL)
        return;
    lw_ucx_copy_t *buffer = op->copy;
    buffer->next = op->fabric->copies[op->copy_class];
    op->fabric->copies[op->copy_class] = buffer;
    op->fabric->copy_bytes -= copy_class_bytes(op->copy_class);
    op->copy = NULL;
}

void lw_ucx_transfer_fini(lw_fabric_t *fabric)
{
    for (lw_ucx_slab_t *slab = fabric->slabs; slab != NULL; slab = slab->next)
        for (uint32_t i = 0; i < LW_UCX_OPS_PER_SLAB; i++)
            copy_release(&slab->op[i]); /* orphans */
    for (uint32_t class = 0; class < LW_UCX_COPY_CLASSES; class++) {
        while (fabric->copies[class] != NULL) {
            lw_ucx_copy_t *buffer = fabric->copies[class];
            fabric->copies[class] = buffer->next;
            munmap(buffer, copy_class_bytes(class));
        }
    }
    while (fabric->slabs != NULL) {
        lw_ucx_slab_t *slab = fabric->slabs;
        fabric->slabs = slab->next;
        free(slab);
    }
}

/* ---- sending ---- */

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    ucp_request_free(request);
    op_complete(arg, status);
}

/* Lays the pieces out as UCX wants them: in place, as a list, or copied together. */
static lw_status_t lay_out(lw_ucx_op_t *op, const lw_iov_t *pieces, uint32_t piece_count, size_t bytes, lw_send_mode_t mode)
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
    if (mode == LW_SEND_IOV && piece_count <= LW_FABRIC_IOV_MAX) {
        for (uint32_t i = 0; i < piece_count; i++)
            op->iov[i] = (ucp_dt_iov_t){.buffer = (void *)pieces[i].data, .length = pieces[i].bytes};
        op->payload_type = UCP_DATATYPE_IOV;
        op->payload = op->iov;
        op->payload_count = piece_count;
        return LW_OK;
    }
    lw_status_t status = copy_acquire(op, bytes);
    if (status != LW_OK)
        return status;
    lw_fabric_gather(op->copy, pieces, piece_count);
    op->payload = op->copy;
    return LW_OK;
}

/* Gives op to UCX. On an error op is as it was. */
static lw_status_t post(lw_ucx_op_t *op)
{
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
    void *request = ucp_am_send_nbx(op->conn->ep, LW_UCX_AM_ID, op->head, op->head_bytes, op->payload, op->payload_count,
                                    &param);
    fabric->depth--;
    if (UCS_PTR_IS_ERR(request))
        return lw_ucx_status(UCS_PTR_STATUS(request));
    if (request == NULL && op->done != NULL)
        op_ready(op, LW_OK);
    else if (request == NULL)
        op_release(op);
    return LW_OK;
}

lw_status_t lw_ucx_send(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces, uint32_t piece_count,
                        lw_send_mode_t mode, lw_fabric_done_t done, void *arg)
{
    if (conn->state != LW_CONN_OPEN)
        return conn->status != LW_OK ? conn->status : LW_ERR_CANCELED;
    size_t bytes = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        bytes += pieces[i].bytes;
    if (head_bytes > LW_MSG_HEAD_MAX || bytes > LW_FABRIC_PAYLOAD_MAX)
        return LW_ERR_INVALID;

    lw_ucx_op_t *op = op_acquire(conn, done, arg);
    if (op == NULL)
        return LW_ERR_NO_MEMORY;
    if (head_bytes > 0)
        memcpy(op->head, head, head_bytes);
    op->head_bytes = (uint32_t)head_bytes;
    lw_status_t status = lay_out(op, pieces, piece_count, bytes, mode);
    if (status == LW_OK && !conn->ready) {
        op->state = LW_UCX_OP_HELD;
        return LW_OK;
    }
    if (status == LW_OK)
        status = post(op);
    if (status != LW_OK)
        op_release(op);
    return status;
}

/* ---- making a connection ready: each end tells the other that it hears it ---- */

static void on_ready_sent(void *request, ucs_status_t status, void *arg) { ucp_request_free(request); }

void lw_ucx_send_ready(lw_conn_t *conn)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_REPLY,
        .cb.send = on_ready_sent,
    };
    (void)ucp_am_send_nbx(conn->ep, LW_UCX_AM_READY_ID, NULL, 0, NULL, 0, &param); /* an error ends the connection */
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
            op_ready(op, status);
    }
    return UCS_OK;
}

void lw_ucx_cancel_held(lw_conn_t *conn, lw_status_t status)
{
    lw_ucx_link_t *next;
    for (lw_ucx_link_t *at = conn->ops.next; at != &conn->ops; at = next) {
        next = at->next;
        if (((lw_ucx_op_t *)at)->state == LW_UCX_OP_HELD)
            op_ready((lw_ucx_op_t *)at, status);
    }
}

/* ---- receiving ---- */

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
    ucp_request_free(request);
    op_complete(arg, status);
}

void lw_ucx_recv(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region, lw_fabric_done_t done,
                 void *arg)
{
    lw_ucx_arrival_t *arrival = msg->handle;
    LW_ASSERT(!arrival->taken);
    arrival->taken = true;
    if (!arrival->rendezvous) {
        if (arrival->bytes > 0)
            memcpy(into, arrival->data, arrival->bytes);
        if (done != NULL)
            done(arg, LW_OK);
        return;
    }
    lw_ucx_op_t *op = op_acquire(arrival->conn, done, arg);
    if (op == NULL) {
        arrival->taken = false; /* dropped: UCX tells the sender */
        if (done != NULL)
            done(arg, LW_ERR_NO_MEMORY);
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
        op_ready(op, lw_ucx_status(UCS_PTR_STATUS(request)));
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
