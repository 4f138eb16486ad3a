/* segment_make.h - valid segments with random contents, for tests of the daemon. */
#ifndef LW_TEST_SEGMENT_MAKE_H
#define LW_TEST_SEGMENT_MAKE_H

#include "base/prng.h"
#include "wire/segment_fmt.h"

typedef struct segment_shape {
    uint32_t heads, clusters, outliers,
        rows_max; /* sizes are drawn from 1..rows_max; every head gets the same sum */
    uint32_t head_dim;
} segment_shape_t;

/* A sealed segment on the heap; the caller frees it. */
uint8_t *segment_make(const lw_segment_name_t *name, const segment_shape_t *shape, uint64_t seed,
                      uint64_t *bytes_out);
/* The record's bytes and size, computed from the segment's own sizes. */
const uint8_t *segment_record(const uint8_t *segment, uint32_t head, uint32_t entry, uint32_t *bytes_out);

#endif /* LW_TEST_SEGMENT_MAKE_H */
