/* arena_file.h - an arena in a file on hugetlbfs or tmpfs, whose bytes outlive the process.
 *
 *   offset        what
 *        0        head: its first bytes say what the file is (who writes the head: the caller)
 *   head_bytes    the arena, `bytes` long; both are whole pages of the file system, at least 2 MiB
 *
 * The file is locked while it is mapped: two daemons never share one. Main thread. */
#ifndef LWD_MEM_ARENA_FILE_H
#define LWD_MEM_ARENA_FILE_H

#include "storaged/mem/arena.h"

typedef struct lwd_arena_file {
    int fd; /* holds the lock */
    uint8_t *head;
    uint64_t head_bytes;
    bool fresh; /* all bytes are zero: the file was made, or had another size */
} lwd_arena_file_t;

/* Bytes of a head of at least `bytes`. */
uint64_t lwd_arena_file_head(uint64_t bytes);
/* Copies the first bytes (at most 4,096) of a file that is there; false when there is none, or a smaller one than any
 * arena's. */
bool lwd_arena_file_peek(const char *path, void *into, uint64_t bytes);

/* Maps `path` as an arena of params->bytes (pages and placement as params say; huge pages are the file system's),
 * behind a head of head_bytes (lwd_arena_file_head). A file of another size is taken only when its first bytes are
 * `magic`, and is emptied then, with a log line; one that is not ours is left as it is: ERR_INVALID. ERR_BUSY:
 * another process holds it; ERR_NO_MEMORY: the file system has no room. Reserves all of its pages, so that no
 * access can fail later. On success the caller ends it with lwd_arena_file_fini, and then the arena. */
LW_CHECK lw_status_t lwd_arena_file_init(const lwd_arena_params_t *params, const char *path, uint64_t magic,
                                         uint64_t head_bytes, lwd_arena_t *arena_out, lwd_arena_file_t *file_out,
                                         lw_error_t *error);
/* Unmaps the head and lets the lock go; the arena's mapping is lwd_arena_fini's. */
void lwd_arena_file_fini(lwd_arena_file_t *file);

#endif /* LWD_MEM_ARENA_FILE_H */
