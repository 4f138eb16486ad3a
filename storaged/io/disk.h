/* disk.h - one file on a disk as a table: reads and writes that finish later. Over io_uring, over threads that call
 * pread and pwrite, or in memory with faults for tests.
 *
 * One thread submits and reaps; implementations have threads of their own. Offsets, lengths and addresses are
 * multiples of LWD_DISK_BLOCK_BYTES, so that the page cache can be left out where the file system allows it. */
#ifndef LWD_IO_DISK_H
#define LWD_IO_DISK_H

#include <stdbool.h>

#include "base/error.h"

#define LWD_DISK_BLOCK_BYTES 4096u
#define LWD_DISK_OPS_MAX 64u /* in flight */

typedef struct lwd_disk lwd_disk_t;

typedef enum lwd_disk_kind { LWD_DISK_READ = 1, LWD_DISK_WRITE } lwd_disk_kind_t;

/* The submitter's memory, and the data's, stay until the operation was reaped. */
typedef struct lwd_disk_op {
    lwd_disk_kind_t kind;
    lw_status_t status; /* of a finished one: OK (all bytes), ERR_EXHAUSTED (no space), ERR_IO */
    uint64_t offset, bytes;
    void *data;
    struct lwd_disk_op *next;
} lwd_disk_op_t;

typedef struct lwd_disk_params {
    const char *path;
    uint64_t bytes;             /* the file gets this size, with room for all of it */
    void (*notify)(void *arg);  /* any thread: something has finished */
    void *arg;
} lwd_disk_params_t;

typedef struct lwd_disk_ops {
    const char *name; /* "uring", "threads", "sim" */
    /* ERR_UNSUPPORTED: not on this machine (io_uring may be forbidden); ERR_BUSY: another process holds the file. */
    LW_CHECK lw_status_t (*open)(const lwd_disk_params_t *params, lwd_disk_t **disk_out, lw_error_t *error);
    void (*close)(lwd_disk_t *disk); /* waits for what is in flight; the operations are the submitter's again */
    void (*submit)(lwd_disk_t *disk, lwd_disk_op_t *op); /* at most LWD_DISK_OPS_MAX at a time */
    lwd_disk_op_t *(*reap)(lwd_disk_t *disk);            /* what has finished, chained; NULL: nothing */
    lw_status_t (*now)(lwd_disk_t *disk, lwd_disk_op_t *op); /* at start only: waits for it */
} lwd_disk_ops_t;

const lwd_disk_ops_t *lwd_disk_uring(void); /* NULL: built without liburing */
const lwd_disk_ops_t *lwd_disk_threads(void);

#endif /* LWD_IO_DISK_H */
