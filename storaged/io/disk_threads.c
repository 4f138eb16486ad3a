/* disk_threads.c - a disk over threads that call pread and pwrite: where io_uring is missing or forbidden.
 *
 * `lock` guards the queue of operations that no thread has taken yet; it is held for a few instructions. */
#include <pthread.h>
#include <stdlib.h>

#include "storaged/io/disk_file.h"

#define THREADS 4u

typedef struct disk {
    lwd_disk_file_t file;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    lwd_disk_op_t *first, *last; /* under the lock, like stopping */
    bool stopping;
    pthread_t thread[THREADS];
    uint32_t started;
} disk_t;

static void *thread_main(void *arg)
{
    disk_t *disk = arg;
    pthread_mutex_lock(&disk->lock);
    for (;;) {
        lwd_disk_op_t *op = disk->first;
        if (op == NULL && disk->stopping)
            break;
        if (op == NULL) {
            pthread_cond_wait(&disk->changed, &disk->lock);
            continue;
        }
        disk->first = op->next;
        pthread_mutex_unlock(&disk->lock);
        op->status = lwd_disk_file_transfer(&disk->file, op, 0);
        lwd_disk_file_finish(&disk->file, op);
        pthread_mutex_lock(&disk->lock);
    }
    pthread_mutex_unlock(&disk->lock);
    return NULL;
}

static void threads_close(lwd_disk_t *self)
{
    disk_t *disk = (disk_t *)(void *)self;
    pthread_mutex_lock(&disk->lock);
    disk->stopping = true;
    pthread_cond_broadcast(&disk->changed);
    pthread_mutex_unlock(&disk->lock);
    for (uint32_t i = 0; i < disk->started; i++)
        (void)pthread_join(disk->thread[i], NULL);
    pthread_mutex_destroy(&disk->lock);
    pthread_cond_destroy(&disk->changed);
    lwd_disk_file_close(&disk->file);
    free(disk);
}

static lw_status_t threads_open(const lwd_disk_params_t *params, lwd_disk_t **disk_out, lw_error_t *error)
{
    disk_t *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a disk");
    lw_status_t status = lwd_disk_file_open(params, &disk->file, error);
    if (status != LW_OK) {
        free(disk);
        return status;
    }
    pthread_mutex_init(&disk->lock, NULL);
    pthread_cond_init(&disk->changed, NULL);
    while (disk->started < THREADS && pthread_create(&disk->thread[disk->started], NULL, thread_main, disk) == 0)
        disk->started++;
    if (disk->started == 0) {
        threads_close((lwd_disk_t *)(void *)disk);
        return lw_fail(error, LW_ERR_NO_MEMORY, "no thread for a disk");
    }
    *disk_out = (lwd_disk_t *)(void *)disk;
    return LW_OK;
}

static void threads_submit(lwd_disk_t *self, lwd_disk_op_t *op)
{
    disk_t *disk = (disk_t *)(void *)self;
    op->next = NULL;
    pthread_mutex_lock(&disk->lock);
    if (disk->first == NULL)
        disk->first = op;
    else
        disk->last->next = op;
    disk->last = op;
    pthread_cond_signal(&disk->changed);
    pthread_mutex_unlock(&disk->lock);
}

static lwd_disk_op_t *threads_reap(lwd_disk_t *self)
{
    return lwd_disk_file_reap(&((disk_t *)(void *)self)->file);
}

static lw_status_t threads_now(lwd_disk_t *self, lwd_disk_op_t *op)
{
    return lwd_disk_file_transfer(&((disk_t *)(void *)self)->file, op, 0);
}

const lwd_disk_ops_t *lwd_disk_threads(void)
{
    static const lwd_disk_ops_t ops = {"threads", threads_open, threads_close, threads_submit, threads_reap,
                                       threads_now};
    return &ops;
}
