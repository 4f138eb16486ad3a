/* content.c - true segments: made by the writer, kept by the checker, compared with whatever comes back. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

void *sim_content_make(sim_world_t *world, const lw_segment_name_t *name, uint64_t *bytes_out)
{
    lw_segment_plan_t plan;
    lw_error_t error = {0};
    memset(&plan, 0, sizeof(plan));
    plan.name = *name;
    plan.head_count = SIM_HEADS;
    plan.head_dim = SIM_DIM;
    plan.dtype = LW_DTYPE_BF16;
    plan.cluster_encoding = LW_ENCODING_INT8;
    plan.outlier_encoding = LW_ENCODING_INT4;
    /* Every head covers the same tokens: clusters first, the last ones as outliers. */
    uint32_t clusters = 2 + (uint32_t)sim_below(world, 6), outliers = (uint32_t)sim_below(world, 4), rows = 0;
    uint16_t sizes[8];
    for (uint32_t c = 0; c < clusters; c++)
        rows += sizes[c] = (uint16_t)(1 + sim_below(world, 20));
    plan.token_count = rows + outliers;
    for (uint32_t h = 0; h < SIM_HEADS; h++) {
        plan.head[h].cluster_count = clusters;
        plan.head[h].outlier_count = outliers;
        plan.head[h].index_bytes = 64 + (uint32_t)sim_below(world, 500);
        plan.head[h].row_count = rows + outliers;
    }
    uint64_t bytes = 0;
    if (lw_segment_layout(&plan, NULL, &bytes, &error) != LW_OK)
        return NULL;
    uint8_t *extent = aligned_alloc(64, lw_align_up(bytes, 64));
    if (!extent)
        return NULL;
    memset(extent, 0, bytes);
    if (lw_segment_layout(&plan, extent, &bytes, &error) != LW_OK) {
        free(extent);
        return NULL;
    }
    const lw_segment_head_t *heads = lw_segment_heads(extent);
    for (uint32_t h = 0; h < SIM_HEADS; h++) {
        memcpy(extent + heads[h].sizes_offset, sizes, clusters * sizeof(uint16_t));
        for (uint32_t i = 0; i < heads[h].index_bytes; i++)
            extent[heads[h].index_offset + i] = (uint8_t)lw_prng_u64(&world->prng);
        for (uint64_t i = 0; i < heads[h].records_bytes; i++)
            extent[heads[h].records_offset + i] = (uint8_t)lw_prng_u64(&world->prng);
    }
    lw_segment_seal(extent);
    *bytes_out = bytes;
    return extent;
}

uint32_t sim_content_entries(const void *extent, uint32_t head)
{
    const lw_segment_head_t *h = &lw_segment_heads(extent)[head];
    return h->cluster_count + h->outlier_count;
}

uint32_t sim_content_record(const void *extent, uint32_t head, uint32_t entry, const uint8_t **bytes_out)
{
    uint32_t offsets[16];
    lw_segment_record_offsets(extent, head, offsets);
    *bytes_out = (const uint8_t *)extent + offsets[entry];
    return (uint32_t)((offsets[entry + 1] - offsets[entry]) / lw_row_pair_bytes(LW_DTYPE_BF16, SIM_DIM));
}
