/* tile.h - where one (layer, KV head) of a range lies on the device: index part, sizes, placement. Used when
 * a segment is sealed (keeper) and when one is reopened (caller). */
#ifndef LWC_TILE_H
#define LWC_TILE_H

#include "client/arena.h"
#include "client/device.h"

/* What is known of one head before it lies on the device; host memory, borrowed for the call. */
typedef struct lwc_tile_source {
    uint32_t cluster_count, outlier_count;
    uint32_t index_bytes;
    uint32_t rows; /* sum of sizes and outliers */
    const uint8_t *index;
    const uint16_t *sizes;
} lwc_tile_source_t;

/* local: the tiles will be attended where their records lie in this host's memory (lwk_tile_t.local, set by the caller).
 * Takes one run for all heads of a layer, copies index parts and sizes there and fills tiles_out[head_count]
 * (host memory). ERR_EXHAUSTED when the arena has no room now; nothing is kept then. */
LW_CHECK lw_status_t lwc_tiles_place(const lwc_device_t *device, lwc_arena_t *arena,
                                     const lwc_tile_source_t *heads, uint32_t head_count,
                                     uint32_t cluster_encoding, uint32_t outlier_encoding, bool local,
                                     void *stream, lwk_tile_t *tiles_out, lwc_run_t *run_out, lw_error_t *error);

#endif /* LWC_TILE_H */
