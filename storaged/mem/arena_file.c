/* arena_file.c - maps an arena's file. Main thread, at start. */
#include "storaged/mem/arena_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "storaged/mem/arena_private.h"

#define PAGE_BYTES_MIN (2ull << 20)

uint64_t lwd_arena_file_head(uint64_t bytes)
{
    return lw_align_up(bytes, PAGE_BYTES_MIN);
}

bool lwd_arena_file_peek(const char *path, void *into, uint64_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    bool there = fd >= 0 && fstat(fd, &info) == 0 && (uint64_t)info.st_size >= PAGE_BYTES_MIN;
    /* Through a mapping: hugetlbfs has no read(). */
    const void *head = there ? mmap(NULL, PAGE_BYTES_MIN, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (head != MAP_FAILED) {
        memcpy(into, head, bytes);
        (void)munmap((void *)head, PAGE_BYTES_MIN);
    }
    if (fd >= 0)
        (void)close(fd);
    return head != MAP_FAILED;
}

/* Makes the file `bytes` long with all its pages there. */
static lw_status_t size_file(int fd, const char *path, uint64_t bytes, uint64_t magic, bool *fresh_out,
                             lw_error_t *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return lw_fail(error, LW_ERR_IO, "%s: %s", path, strerror(errno));
    uint64_t had = (uint64_t)info.st_size, first = 1;
    (void)lwd_arena_file_peek(path, &first, sizeof(first));
    *fresh_out = had != bytes;
    if (had != 0 && had != bytes) {
        if (first != magic)
            return lw_fail(error, LW_ERR_INVALID, "%s is a file of %llu bytes that is no arena: it is left alone",
                           path, (unsigned long long)had);
        LW_WARN("mem", "%s has %llu bytes, and the arena needs %llu: what it held is dropped", path,
                (unsigned long long)had, (unsigned long long)bytes);
        if (ftruncate(fd, 0) != 0)
            return lw_fail(error, LW_ERR_IO, "%s: %s", path, strerror(errno));
    } else if (had == bytes && first == 0) { /* made, and then its maker died */
        *fresh_out = true;
    } else if (had == bytes && first != magic) {
        return lw_fail(error, LW_ERR_INVALID, "%s is a file of the arena's size that is no arena: it is left alone",
                       path);
    }
    if (*fresh_out && ftruncate(fd, (off_t)bytes) != 0)
        return lw_fail(error, LW_ERR_IO, "%s cannot get %llu bytes: %s", path, (unsigned long long)bytes,
                       strerror(errno));
    int rc = posix_fallocate(fd, 0, (off_t)bytes);
    if (rc != 0)
        return lw_fail(error, LW_ERR_NO_MEMORY, "%s: no room for %llu bytes: %s", path, (unsigned long long)bytes,
                       strerror(rc));
    return LW_OK;
}

static lwd_pages_t file_pages(int fd, uint64_t *page_bytes_out)
{
    struct statfs info;
    *page_bytes_out = PAGE_BYTES_MIN;
    if (fstatfs(fd, &info) != 0 || (uint64_t)info.f_type != HUGETLBFS_MAGIC)
        return LWD_PAGES_NONE;
    *page_bytes_out = lw_max_u64((uint64_t)info.f_bsize, PAGE_BYTES_MIN);
    return *page_bytes_out > PAGE_BYTES_MIN ? LWD_PAGES_1G : LWD_PAGES_2M;
}

static void *map_file(int fd, uint64_t offset, uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Head and arena are mapped on their own: each at an address that its pages like. */
static lw_status_t map_both(const lwd_arena_params_t *params, const char *path, uint64_t magic, lwd_arena_t *arena,
                            lwd_arena_file_t *file, lw_error_t *error)
{
    uint64_t page_bytes;
    arena->pages = file_pages(file->fd, &page_bytes);
    arena->bytes = lw_align_up(params->bytes, LWD_ARENA_UNIT_BYTES);
    arena->mapped_bytes = lw_align_up(arena->bytes, page_bytes);
    file->head_bytes = lw_align_up(file->head_bytes, page_bytes);
    lw_status_t status =
        size_file(file->fd, path, file->head_bytes + arena->mapped_bytes, magic, &file->fresh, error);
    if (status != LW_OK)
        return status;
    file->head = map_file(file->fd, 0, file->head_bytes);
    arena->base = map_file(file->fd, file->head_bytes, arena->mapped_bytes);
    if (file->head == NULL || arena->base == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "%s cannot be mapped: %s", path, strerror(errno));
    if (arena->pages == LWD_PAGES_NONE && params->pages != LWD_PAGES_NONE)
        (void)madvise(arena->base, arena->mapped_bytes, MADV_HUGEPAGE);
    return LW_OK;
}

lw_status_t lwd_arena_file_init(const lwd_arena_params_t *params, const char *path, uint64_t magic,
                                uint64_t head_bytes, lwd_arena_t *arena_out, lwd_arena_file_t *file_out,
                                lw_error_t *error)
{
    if (params->bytes < LWD_ARENA_BYTES_MIN)
        return lw_fail(error, LW_ERR_INVALID, "arena of %llu bytes is smaller than the minimum of %llu",
                       (unsigned long long)params->bytes, LWD_ARENA_BYTES_MIN);
    lwd_arena_t arena = {0};
    lwd_arena_file_t file = {.head_bytes = head_bytes};
    file.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file.fd < 0)
        return lw_fail(error, LW_ERR_INVALID, "%s: %s", path, strerror(errno));
    lw_status_t status = LW_OK;
    if (flock(file.fd, LOCK_EX | LOCK_NB) != 0)
        status = lw_fail(error, LW_ERR_BUSY, "%s is another daemon's arena: %s", path, strerror(errno));
    if (status == LW_OK)
        status = map_both(params, path, magic, &arena, &file, error);
    if (status == LW_OK)
        status = lwd_arena_finish(params, &arena, error);
    if (status != LW_OK) {
        lwd_arena_file_fini(&file);
        lwd_arena_fini(&arena);
        return status;
    }
    *arena_out = arena;
    *file_out = file;
    return LW_OK;
}

void lwd_arena_file_fini(lwd_arena_file_t *file)
{
    if (file->head != NULL)
        (void)munmap(file->head, file->head_bytes);
    if (file->fd >= 0)
        (void)close(file->fd);
    *file = (lwd_arena_file_t){.fd = -1};
}
