/* disk_sim.c - a disk in memory. One thread. */
#include "storaged/io/disk_sim.h"

#include <stdlib.h>
#include <string.h>

typedef struct disk {
    lwd_disk_sim_t *sim;
    lwd_disk_op_t *first, **last; /* submitted */
    lwd_disk_op_t *done;
} disk_t;

static _Thread_local lwd_disk_sim_t *next_sim;

void lwd_disk_sim_use(lwd_disk_sim_t *sim)
{
    next_sim = sim;
}

static lw_status_t sim_open(const lwd_disk_params_t *params, lwd_disk_t **disk_out, lw_error_t *error)
{
    LW_ASSERT(next_sim != NULL);
    if (next_sim->size < params->bytes)
        return lw_fail(error, LW_ERR_EXHAUSTED, "%s: no room for %llu bytes", params->path,
                       (unsigned long long)params->bytes);
    disk_t *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a disk");
    disk->sim = next_sim;
    disk->last = &disk->first;
    *disk_out = (lwd_disk_t *)(void *)disk;
    return LW_OK;
}

static void sim_close(lwd_disk_t *self)
{
    free(self);
}

static lw_status_t transfer(lwd_disk_sim_t *sim, const lwd_disk_op_t *op)
{
    LW_ASSERT(op->offset % LWD_DISK_BLOCK_BYTES == 0 && op->bytes % LWD_DISK_BLOCK_BYTES == 0);
    if (op->offset > sim->size || op->bytes > sim->size - op->offset)
        return LW_ERR_IO;
    if (op->kind == LWD_DISK_READ) {
        sim->reads++;
        if (sim->read_fails == LW_OK)
            memcpy(op->data, sim->bytes + op->offset, op->bytes);
        return sim->read_fails;
    }
    sim->writes++;
    uint64_t put = lw_min_u64(op->bytes, sim->torn_after);
    if (sim->write_fails != LW_OK)
        return sim->write_fails;
    memcpy(sim->bytes + op->offset, op->data, put);
    if (sim->torn_after != UINT64_MAX)
        sim->torn_after -= put;
    return LW_OK; /* whoever pulled the plug asks no more */
}

uint32_t lwd_disk_sim_run(lwd_disk_sim_t *sim, lwd_disk_t *self, uint32_t most)
{
    disk_t *disk = (disk_t *)(void *)self;
    uint32_t ran = 0;
    for (; ran < most && disk->first != NULL; ran++) {
        lwd_disk_op_t *op = disk->first;
        disk->first = op->next;
        if (disk->first == NULL)
            disk->last = &disk->first;
        op->status = transfer(sim, op);
        op->next = disk->done;
        disk->done = op;
    }
    return ran;
}

static void sim_submit(lwd_disk_t *self, lwd_disk_op_t *op)
{
    disk_t *disk = (disk_t *)(void *)self;
    op->next = NULL;
    *disk->last = op;
    disk->last = &op->next;
    if (!disk->sim->hold)
        (void)lwd_disk_sim_run(disk->sim, self, UINT32_MAX);
}

static lwd_disk_op_t *sim_reap(lwd_disk_t *self)
{
    disk_t *disk = (disk_t *)(void *)self;
    lwd_disk_op_t *done = disk->done;
    disk->done = NULL;
    return done;
}

static lw_status_t sim_now(lwd_disk_t *self, lwd_disk_op_t *op)
{
    return transfer(((disk_t *)(void *)self)->sim, op);
}

const lwd_disk_ops_t *lwd_disk_sim_ops(void)
{
    static const lwd_disk_ops_t ops = {"sim", sim_open, sim_close, sim_submit, sim_reap, sim_now};
    return &ops;
}
