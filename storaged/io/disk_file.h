/* disk_file.h - what both real disks share: the file, a blocking transfer, and the stack of finished operations. */
#ifndef LWD_IO_DISK_FILE_H
#define LWD_IO_DISK_FILE_H

#include <stdatomic.h>

#include "storaged/io/disk.h"

typedef struct lwd_disk_file {
    int fd;
    bool direct; /* the page cache is left out */
    void (*notify)(void *arg);
    void *arg;
    _Atomic(lwd_disk_op_t *) done;
} lwd_disk_file_t;

/* Opens, locks and sizes the file. Errors name the path. */
LW_CHECK lw_status_t lwd_disk_file_open(const lwd_disk_params_t *params, lwd_disk_file_t *file_out, lw_error_t *error);
void lwd_disk_file_close(lwd_disk_file_t *file);
/* Transfers all bytes from `at` on, however many calls that takes. Any thread. */
lw_status_t lwd_disk_file_transfer(const lwd_disk_file_t *file, const lwd_disk_op_t *op, uint64_t at);
lw_status_t lwd_disk_status(int error); /* of an errno */
void lwd_disk_file_finish(lwd_disk_file_t *file, lwd_disk_op_t *op); /* any thread */
lwd_disk_op_t *lwd_disk_file_reap(lwd_disk_file_t *file);

#endif /* LWD_IO_DISK_FILE_H */
