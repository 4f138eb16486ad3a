/* arena.c - first-fit runs with holes kept in offset order. Takes and gives are rare (once a segment). */
#include "client/arena.h"

#include <stdlib.h>
#include <string.h>

lw_status_t lwc_arena_init(lwc_arena_t *arena, uint8_t *base, uint64_t bytes, uint32_t run_capacity,
                           lw_error_t *error)
{
    memset(arena, 0, sizeof(*arena));
    arena->hole_capacity = run_capacity + 1; /* n runs leave at most n + 1 holes */
    arena->holes = calloc(arena->hole_capacity, sizeof(*arena->holes));
    if (!arena->holes)
        return lw_fail(error, LW_ERR_NO_MEMORY, "index arena: out of memory for %u runs", run_capacity);
    pthread_mutex_init(&arena->lock, NULL);
    arena->base = base;
    arena->bytes = bytes & ~(uint64_t)(LWC_ARENA_ALIGN - 1);
    arena->holes[0] = (lwc_run_t){0, arena->bytes};
    arena->hole_count = 1;
    return LW_OK;
}

void lwc_arena_fini(lwc_arena_t *arena)
{
    if (!arena->holes)
        return;
    pthread_mutex_destroy(&arena->lock);
    free(arena->holes);
    arena->holes = NULL;
}

static void hole_remove(lwc_arena_t *arena, uint32_t at)
{
    arena->hole_count--;
    memmove(&arena->holes[at], &arena->holes[at + 1], (arena->hole_count - at) * sizeof(*arena->holes));
}

lw_status_t lwc_arena_take(lwc_arena_t *arena, uint64_t bytes, lwc_run_t *run_out)
{
    lw_status_t status = LW_ERR_EXHAUSTED;

    bytes = lw_align_up(bytes, LWC_ARENA_ALIGN);
    pthread_mutex_lock(&arena->lock);
    for (uint32_t i = 0; i < arena->hole_count; i++) {
        lwc_run_t *hole = &arena->holes[i];
        if (hole->bytes < bytes)
            continue;
        *run_out = (lwc_run_t){hole->offset, bytes};
        hole->offset += bytes;
        hole->bytes -= bytes;
        arena->used_bytes += bytes;
        if (hole->bytes == 0)
            hole_remove(arena, i);
        status = LW_OK;
        break;
    }
    pthread_mutex_unlock(&arena->lock);
    return status;
}

void lwc_arena_give(lwc_arena_t *arena, lwc_run_t run)
{
    if (run.bytes == 0)
        return;
    pthread_mutex_lock(&arena->lock);
    uint32_t at = 0;
    while (at < arena->hole_count && arena->holes[at].offset < run.offset)
        at++;
    lwc_run_t *before = at > 0 ? &arena->holes[at - 1] : NULL;
    lwc_run_t *after = at < arena->hole_count ? &arena->holes[at] : NULL;
    LW_ASSERT(!before || before->offset + before->bytes <= run.offset);
    LW_ASSERT(!after || run.offset + run.bytes <= after->offset);
    bool joins_before = before && before->offset + before->bytes == run.offset;
    bool joins_after = after && run.offset + run.bytes == after->offset;
    if (joins_before && joins_after) {
        before->bytes += run.bytes + after->bytes;
        hole_remove(arena, at);
    } else if (joins_before) {
        before->bytes += run.bytes;
    } else if (joins_after) {
        after->offset = run.offset;
        after->bytes += run.bytes;
    } else {
        LW_ASSERT(arena->hole_count < arena->hole_capacity);
        memmove(&arena->holes[at + 1], &arena->holes[at], (arena->hole_count - at) * sizeof(*arena->holes));
        arena->holes[at] = run;
        arena->hole_count++;
    }
    arena->used_bytes -= run.bytes;
    pthread_mutex_unlock(&arena->lock);
}

uint64_t lwc_arena_used(lwc_arena_t *arena)
{
    pthread_mutex_lock(&arena->lock);
    uint64_t used = arena->used_bytes;
    pthread_mutex_unlock(&arena->lock);
    return used;
}
