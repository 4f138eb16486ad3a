/* tile.c - lays the device parts of a layer's tiles into one run of the index arena. */
#include "client/tile.h"

#include "base/limits.h"

static uint64_t take(uint64_t *at, uint64_t bytes)
{
    uint64_t offset = *at;
    *at = lw_align_up(offset + bytes, LWC_ARENA_ALIGN);
    return offset;
}

/* Lays one head out from *at on; with base NULL only *at moves. */
static void lay_out(const lwc_tile_source_t *head, bool local, uint8_t *base, uint64_t *at, lwk_tile_t *tile)
{
    uint64_t clusters = head->cluster_count, entries = clusters + head->outlier_count;
    uint64_t pages = lwk_page_refs_max(head->cluster_count, head->rows - head->outlier_count);
    uint64_t index = take(at, head->index_bytes), sizes = take(at, 2 * clusters),
             page_base = take(at, 2 * clusters);
    uint64_t row_base = local ? take(at, 2 * clusters) : 0;
    uint64_t place = take(at, 4 * entries), stamp = take(at, 4 * entries), refs = take(at, 4 * pages);

    if (!base)
        return;
    *tile = (lwk_tile_t){.index = base + index,
                         .sizes = (uint16_t *)(void *)(base + sizes),
                         .place = (uint32_t *)(void *)(base + place),
                         .stamp = (uint32_t *)(void *)(base + stamp),
                         .page_base = (uint16_t *)(void *)(base + page_base),
                         .pages = (uint32_t *)(void *)(base + refs),
                         .row_base = local ? (uint16_t *)(void *)(base + row_base) : NULL,
                         .cluster_count = (uint16_t)head->cluster_count,
                         .outlier_count = (uint16_t)head->outlier_count};
}

static lw_status_t copy_in(const lwc_device_t *device, const lwc_tile_source_t *head, const lwk_tile_t *tile,
                           void *stream, lw_error_t *error)
{
    lw_status_t status = lwc_device_copy(device, (void *)(uintptr_t)tile->index, head->index,
                                         head->index_bytes, stream, error);

    if (status == LW_OK)
        status = lwc_device_copy(device, (void *)(uintptr_t)tile->sizes, head->sizes,
                                 2ull * head->cluster_count, stream, error);
    return status;
}

lw_status_t lwc_tiles_place(const lwc_device_t *device, lwc_arena_t *arena, const lwc_tile_source_t *heads,
                            uint32_t head_count, uint32_t cluster_encoding, uint32_t outlier_encoding,
                            bool local, void *stream, lwk_tile_t *tiles_out, lwc_run_t *run_out, lw_error_t *error)
{
    uint64_t bytes = 0, at = 0;
    lwc_run_t run;

    for (uint32_t j = 0; j < head_count; j++)
        lay_out(&heads[j], local, NULL, &bytes, NULL);
    lw_status_t status = lwc_arena_take(arena, bytes, &run);
    if (status != LW_OK)
        return lw_fail(error, status, "index memory is full (%llu of %llu bytes in use): raise index.bytes",
                       (unsigned long long)lwc_arena_used(arena), (unsigned long long)arena->bytes);
    for (uint32_t j = 0; j < head_count && status == LW_OK; j++) {
        lay_out(&heads[j], local, arena->base + run.offset, &at, &tiles_out[j]);
        tiles_out[j].cluster_encoding = (uint8_t)cluster_encoding;
        tiles_out[j].outlier_encoding = (uint8_t)outlier_encoding;
        status = copy_in(device, &heads[j], &tiles_out[j], stream, error);
    }
    if (status != LW_OK) {
        lwc_arena_give(arena, run);
        return status;
    }
    *run_out = run;
    return LW_OK;
}
