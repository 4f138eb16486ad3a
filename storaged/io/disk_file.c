/* disk_file.c - the file under a disk. Main thread opens and closes; transfers run on threads of the disk. */
#include "storaged/io/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

lw_status_t lwd_disk_status(int error)
{
    return error == ENOSPC || error == EDQUOT ? LW_ERR_EXHAUSTED : LW_ERR_IO;
}

static lw_status_t size_file(int fd, const char *path, uint64_t bytes, lw_error_t *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return lw_fail(error, LW_ERR_INVALID, "%s is no regular file", path);
    int rc = posix_fallocate(fd, 0, (off_t)bytes);
    return rc == 0 ? LW_OK
                   : lw_fail(error, lwd_disk_status(rc), "%s: no room for %llu bytes: %s", path,
                             (unsigned long long)bytes, strerror(rc));
}

lw_status_t lwd_disk_file_open(const lwd_disk_params_t *params, lwd_disk_file_t *file_out, lw_error_t *error)
{
    lwd_disk_file_t file = {.direct = true, .notify = params->notify, .arg = params->arg};
    file.fd = open(params->path, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
    if (file.fd < 0 && errno == EINVAL) { /* tmpfs, say */
        file.direct = false;
        file.fd = open(params->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    if (file.fd < 0)
        return lw_fail(error, LW_ERR_INVALID, "%s: %s", params->path, strerror(errno));
    lw_status_t status = LW_OK;
    if (flock(file.fd, LOCK_EX | LOCK_NB) != 0)
        status = lw_fail(error, LW_ERR_BUSY, "%s is another daemon's: %s", params->path, strerror(errno));
    if (status == LW_OK)
        status = size_file(file.fd, params->path, params->bytes, error);
    if (status != LW_OK) {
        (void)close(file.fd);
        return status;
    }
    *file_out = file;
    return LW_OK;
}

void lwd_disk_file_close(lwd_disk_file_t *file)
{
    (void)close(file->fd);
}

lw_status_t lwd_disk_file_transfer(const lwd_disk_file_t *file, const lwd_disk_op_t *op, uint64_t at)
{
    while (at < op->bytes) {
        uint8_t *data = (uint8_t *)op->data + at;
        size_t left = (size_t)lw_min_u64(op->bytes - at, 1u << 30);
        ssize_t moved = op->kind == LWD_DISK_READ ? pread(file->fd, data, left, (off_t)(op->offset + at))
                                                  : pwrite(file->fd, data, left, (off_t)(op->offset + at));
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return moved < 0 ? lwd_disk_status(errno) : LW_ERR_IO;
        at += (uint64_t)moved;
    }
    return LW_OK;
}

void lwd_disk_file_finish(lwd_disk_file_t *file, lwd_disk_op_t *op)
{
    lwd_disk_op_t *head = atomic_load_explicit(&file->done, memory_order_relaxed);
    do
        op->next = head;
    while (!atomic_compare_exchange_weak_explicit(&file->done, &head, op, memory_order_release, memory_order_relaxed));
    if (file->notify != NULL)
        file->notify(file->arg);
}

lwd_disk_op_t *lwd_disk_file_reap(lwd_disk_file_t *file)
{
    return atomic_exchange_explicit(&file->done, NULL, memory_order_acquire);
}
