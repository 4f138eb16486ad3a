/* local.c - the memory of local mode. See local.h. */
#include <stdlib.h>

#include "client/ctx.h"

lw_status_t lwc_local_init(struct lw *kv, lw_error_t *error)
{
    uint32_t segments = kv->sizes.range_capacity * kv->model.layers;

    if (!kv->local.on)
        return LW_OK;
    kv->local.runs = calloc(segments, sizeof(*kv->local.runs));
    if (!kv->local.runs)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for %u segments", segments);
    return lwc_arena_init(&kv->local.arena, kv->tickets.landing, kv->tickets.landing_bytes,
                          segments + LWC_JOBS * kv->model.layers, error);
}

void lwc_local_fini(struct lw *kv)
{
    lwc_arena_fini(&kv->local.arena);
    free(kv->local.runs);
    kv->local.runs = NULL;
}

lw_status_t lwc_local_take(struct lw *kv, uint64_t bytes, lwc_run_t *run_out, lw_error_t *error)
{
    lw_status_t status = lwc_arena_take(&kv->local.arena, bytes, run_out);

    if (status != LW_OK)
        return lw_fail(error, status, "local memory is full (%llu of %llu bytes in use): raise local.bytes",
                       (unsigned long long)lwc_arena_used(&kv->local.arena),
                       (unsigned long long)kv->local.arena.bytes);
    return LW_OK;
}

void lwc_local_give(struct lw *kv, lwc_run_t run)
{
    if (kv->local.on)
        lwc_arena_give(&kv->local.arena, run);
}

const uint8_t *lwc_local_segment(const struct lw *kv, uint32_t row, uint32_t layer)
{
    return kv->local.arena.base + kv->local.runs[(size_t)row * kv->model.layers + layer].offset;
}
