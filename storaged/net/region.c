/* region.c - registers the arena with a worker's fabric, in slices: one huge registration was measured slower
 * by others, and a small memlock limit then costs a part and not all. At start, on the thread that creates
 * the worker. */
#include <stdlib.h>

#include "storaged/net/net_private.h"

lw_status_t lwd_slices_register(lwd_worker_t *worker)
{
    const lwd_worker_params_t *params = &worker->params;
    uint64_t count = lw_div_up(params->arena_bytes, LWD_REGION_BYTES_MAX);
    worker->slices = calloc(count > 0 ? count : 1, sizeof(*worker->slices));
    if (worker->slices == NULL)
        return LW_ERR_NO_MEMORY;
    uint64_t registered = 0;
    lw_error_t error = {0};
    for (uint64_t i = 0, at = 0; i < count; i++, at += LWD_REGION_BYTES_MAX) {
        lwd_slice_t *slice = &worker->slices[worker->slice_count++];
        slice->base = params->arena + at;
        slice->bytes = lw_min_u64(LWD_REGION_BYTES_MAX, params->arena_bytes - at);
        if (params->fabric->register_memory(worker->fabric, slice->base, slice->bytes, &slice->region,
                                            &error) == LW_OK)
            registered += slice->bytes;
        else
            slice->region = NULL;
    }
    if (registered < params->arena_bytes) {
        LW_WARN(
            "net",
            "registered %llu of %llu MiB of the arena (%s): the rest is served through copies; raise memlock",
            (unsigned long long)(registered >> 20), (unsigned long long)(params->arena_bytes >> 20),
            error.text);
    }
    return LW_OK;
}

void lwd_slices_unregister(lwd_worker_t *worker)
{
    for (uint32_t i = 0; i < worker->slice_count; i++) {
        if (worker->slices[i].region != NULL)
            worker->params.fabric->unregister(worker->slices[i].region);
    }
    free(worker->slices);
    worker->slices = NULL;
    worker->slice_count = 0;
}

lw_region_t *lwd_slice_region(const lwd_worker_t *worker, const uint8_t *at, uint64_t bytes)
{
    uint64_t offset = (uint64_t)(at - worker->params.arena);
    const lwd_slice_t *slice = &worker->slices[offset / LWD_REGION_BYTES_MAX];
    return (uint64_t)(at - slice->base) + bytes <= slice->bytes ? slice->region : NULL;
}
