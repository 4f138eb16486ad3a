/* disk_uring.c - a disk over io_uring; the only file that includes liburing.h. The submitter fills the submission
 * queue; one thread waits for completions. */
#include "storaged/io/disk_file.h"

#ifdef LW_HAVE_URING
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct disk {
    lwd_disk_file_t file;
    struct io_uring ring;
    pthread_t thread;
    _Atomic uint64_t pushed; /* orders what the submitter wrote before what the thread reads: an operation crosses over in the
                                kernel, where the language sees no order */
} disk_t;

/* A transfer that the kernel cut short is finished here. */
static void complete(disk_t *disk, lwd_disk_op_t *op, int result)
{
    if (result < 0)
        op->status = result == -EINTR || result == -EAGAIN ? lwd_disk_file_transfer(&disk->file, op, 0)
                                                           : lwd_disk_status(-result);
    else
        op->status = lwd_disk_file_transfer(&disk->file, op, (uint64_t)result);
    lwd_disk_file_finish(&disk->file, op);
}

static void *thread_main(void *arg)
{
    disk_t *disk = arg;
    for (;;) {
        struct io_uring_cqe *cqe;
        if (io_uring_wait_cqe(&disk->ring, &cqe) != 0)
            continue;
        lwd_disk_op_t *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&disk->ring, cqe);
        (void)atomic_load_explicit(&disk->pushed, memory_order_acquire);
        if (op == NULL)
            return NULL;
        complete(disk, op, result);
    }
}

static lw_status_t uring_open(const lwd_disk_params_t *params, lwd_disk_t **disk_out, lw_error_t *error)
{
    disk_t *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a disk");
    int rc = io_uring_queue_init(2 * LWD_DISK_OPS_MAX, &disk->ring, 0);
    if (rc != 0) {
        free(disk);
        return lw_fail(error, LW_ERR_UNSUPPORTED, "io_uring: %s", strerror(-rc));
    }
    lw_status_t status = lwd_disk_file_open(params, &disk->file, error);
    if (status == LW_OK && pthread_create(&disk->thread, NULL, thread_main, disk) != 0) {
        lwd_disk_file_close(&disk->file);
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no thread for a disk");
    }
    if (status != LW_OK) {
        io_uring_queue_exit(&disk->ring);
        free(disk);
        return status;
    }
    *disk_out = (lwd_disk_t *)(void *)disk;
    return LW_OK;
}

/* The queue has room for twice as many as may be in flight. */
static void push(disk_t *disk, lwd_disk_op_t *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);
    LW_ASSERT(sqe != NULL);
    if (op == NULL) {
        io_uring_prep_nop(sqe);
        sqe->flags |= IOSQE_IO_DRAIN; /* after everything before it */
    } else {
        unsigned bytes = (unsigned)lw_min_u64(op->bytes, 1u << 30);
        if (op->kind == LWD_DISK_READ)
            io_uring_prep_read(sqe, disk->file.fd, op->data, bytes, op->offset);
        else
            io_uring_prep_write(sqe, disk->file.fd, op->data, bytes, op->offset);
    }
    io_uring_sqe_set_data(sqe, op);
    (void)atomic_fetch_add_explicit(&disk->pushed, 1, memory_order_release);
    while (io_uring_submit(&disk->ring) < 0) {
    }
}

static void uring_close(lwd_disk_t *self)
{
    disk_t *disk = (disk_t *)(void *)self;
    push(disk, NULL);
    (void)pthread_join(disk->thread, NULL);
    io_uring_queue_exit(&disk->ring);
    lwd_disk_file_close(&disk->file);
    free(disk);
}

static void uring_submit(lwd_disk_t *self, lwd_disk_op_t *op)
{
    push((disk_t *)(void *)self, op);
}

static lwd_disk_op_t *uring_reap(lwd_disk_t *self)
{
    return lwd_disk_file_reap(&((disk_t *)(void *)self)->file);
}

static lw_status_t uring_now(lwd_disk_t *self, lwd_disk_op_t *op)
{
    return lwd_disk_file_transfer(&((disk_t *)(void *)self)->file, op, 0);
}

const lwd_disk_ops_t *lwd_disk_uring(void)
{
    static const lwd_disk_ops_t ops = {"uring", uring_open, uring_close, uring_submit, uring_reap, uring_now};
    return &ops;
}
#else
const lwd_disk_ops_t *lwd_disk_uring(void)
{
    return NULL;
}
#endif
