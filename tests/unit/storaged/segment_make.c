#include "unit/storaged/segment_make.h"

#include <stdlib.h>

uint8_t *segment_make(const lw_segment_name_t *name, const segment_shape_t *shape, uint64_t seed,
                      uint64_t *bytes_out)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    uint16_t *sizes = calloc(shape->clusters, sizeof(*sizes));
    uint32_t rows = shape->outliers;
    for (uint32_t i = 0; i < shape->clusters; i++) {
        sizes[i] = (uint16_t)(1 + lw_prng_below(&prng, shape->rows_max));
        rows += sizes[i];
    }
    lw_segment_plan_t plan = {
        .name = *name,
        .token_count = rows,
        .head_count = shape->heads,
        .head_dim = shape->head_dim,
        .dtype = LW_DTYPE_BF16,
        .cluster_encoding = LW_ENCODING_INT8,
        .outlier_encoding = LW_ENCODING_INT4,
    };
    for (uint32_t h = 0; h < shape->heads; h++) {
        plan.head[h].cluster_count = shape->clusters;
        plan.head[h].outlier_count = shape->outliers;
        plan.head[h].index_bytes = 64 * shape->clusters;
        plan.head[h].row_count = rows;
    }
    lw_error_t error = {0};
    uint64_t bytes = 0;
    lw_status_t status = lw_segment_layout(&plan, NULL, &bytes, &error);
    LW_ASSERT(status == LW_OK);
    uint8_t *segment = aligned_alloc(64, lw_align_up(bytes, 64));
    LW_ASSERT(segment != NULL);
    for (uint64_t i = 0; i + 8 <= bytes; i += 8)
        *(uint64_t *)(segment + i) = lw_prng_u64(&prng);
    status = lw_segment_layout(&plan, segment, &bytes, &error);
    LW_ASSERT(status == LW_OK);
    for (uint32_t h = 0; h < shape->heads; h++) {
        uint16_t *stored = (uint16_t *)(segment + lw_segment_heads(segment)[h].sizes_offset);
        for (uint32_t i = 0; i < shape->clusters; i++)
            stored[i] = sizes[(i + h) % shape->clusters];
    }
    free(sizes);
    lw_segment_seal(segment);
    *bytes_out = bytes;
    return segment;
}

const uint8_t *segment_record(const uint8_t *segment, uint32_t head, uint32_t entry, uint32_t *bytes_out)
{
    const lw_segment_header_t *header = lw_segment_header(segment);
    const lw_segment_head_t *row = &lw_segment_heads(segment)[head];
    const uint16_t *sizes = (const uint16_t *)(segment + row->sizes_offset);
    uint64_t pair = lw_row_pair_bytes(header->dtype, header->head_dim), at = row->records_offset;
    for (uint32_t i = 0; i < entry; i++)
        at += pair * (i < row->cluster_count ? sizes[i] : 1);
    *bytes_out = (uint32_t)(pair * (entry < row->cluster_count ? sizes[entry] : 1));
    return segment + at;
}
