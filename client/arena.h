/* arena.h - gives out runs of the index memory on the device. The book-keeping is on the host; device memory
 * is not read.
 *
 * The keeper takes runs for segments that it seals, the caller's thread for those that it reopens, and the
 * caller gives all of them back: one lock, never taken between lw_attend and its completion. */
#ifndef LWC_ARENA_H
#define LWC_ARENA_H

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"

#define LWC_ARENA_ALIGN 64u

typedef struct lwc_run {
    uint64_t offset, bytes; /* bytes 0: none */
} lwc_run_t;

typedef struct lwc_arena {
    pthread_mutex_t lock;
    uint8_t *base; /* device memory; owned by the arena's owner */
    uint64_t bytes, used_bytes;
    lwc_run_t *holes; /* by offset, never touching each other */
    uint32_t hole_count, hole_capacity;
} lwc_arena_t;

/* run_capacity: runs that are out at once, at most. */
LW_CHECK lw_status_t lwc_arena_init(lwc_arena_t *arena, uint8_t *base, uint64_t bytes, uint32_t run_capacity,
                                    lw_error_t *error);
void lwc_arena_fini(lwc_arena_t *arena);
/* First fit. ERR_EXHAUSTED when no hole is large enough. */
LW_CHECK lw_status_t lwc_arena_take(lwc_arena_t *arena, uint64_t bytes, lwc_run_t *run_out);
void lwc_arena_give(lwc_arena_t *arena, lwc_run_t run); /* an empty run is fine */
uint64_t lwc_arena_used(lwc_arena_t *arena);

#endif /* LWC_ARENA_H */
