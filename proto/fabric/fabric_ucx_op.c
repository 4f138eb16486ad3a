/* fabric_ucx_op.c - operations of the UCX fabric and the buffers they borrow: each is completed once, whoever
 * ends it. */
#include "fabric/fabric_ucx_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

lw_ucx_op_t *lw_ucx_op_acquire(lw_conn_t *conn, lw_fabric_done_t done, void *arg)
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
    op->parts = 0;
    op->state = LW_UCX_OP_POSTED;
    lw_ucx_list_add(&conn->ops, &op->link);
    return op;
}

static void copy_release(lw_ucx_op_t *op);

void lw_ucx_op_release(lw_ucx_op_t *op)
{
    LW_ASSERT(op->state != LW_UCX_OP_FREE);
    copy_release(op);
    lw_ucx_list_remove(&op->link);
    op->state = LW_UCX_OP_FREE;
    op->conn = NULL;
    lw_ucx_list_add(&op->fabric->free_ops, &op->link);
}

void lw_ucx_op_ready(lw_ucx_op_t *op, lw_status_t status)
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
    lw_ucx_op_release(op);
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
void lw_ucx_op_complete(lw_ucx_op_t *op, ucs_status_t ucs_status)
{
    if (op->state == LW_UCX_OP_ORPHAN) {
        lw_ucx_op_release(op);
        return;
    }
    LW_ASSERT(op->state == LW_UCX_OP_POSTED);
    lw_status_t status = lw_ucx_status(ucs_status);
    if (status != LW_OK &&
        op->conn->state != LW_CONN_OPEN) /* say why the connection ended, not how UCX put it */
        status = op->conn->status != LW_OK ? op->conn->status : LW_ERR_CANCELED;
    if (op->fabric->depth > 0)
        lw_ucx_op_ready(op, status);
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

static size_t copy_class_bytes(uint32_t class)
{
    return (size_t)1 << (class + LW_UCX_COPY_CLASS_MIN);
}

lw_status_t lw_ucx_copy_acquire(lw_ucx_op_t *op, size_t bytes)
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

void lw_ucx_ops_fini(lw_fabric_t *fabric)
{
    for (lw_ucx_slab_t *slab = fabric->slabs; slab != NULL; slab = slab->next)
        for (uint32_t i = 0; i < LW_UCX_OPS_PER_SLAB; i++)
            copy_release(&slab->op[i]); /* orphans */
    for (uint32_t class = 0; class < LW_UCX_COPY_CLASSES; class ++) {
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
