/* test_catalogue_support.h - short forms of the catalogue's calls for its tests. */
#ifndef TEST_CATALOGUE_SUPPORT_H
#define TEST_CATALOGUE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/longwave_types.h"
#include "storaged/catalogue/catalogue.h"

#define T0 1700000000000000ull /* the tests' first moment */
#define LEASE 10000000ull
#define LATER (T0 + 2 * LEASE)

static inline lwd_session_shape_t test_shape(uint32_t layers, uint32_t ranks)
{
    lwd_session_shape_t shape = {.model_id = "test-model", .layer_count = layers, .kv_head_count = 2,
                                 .query_head_count = 6, .head_dim = 64, .dtype = LW_DTYPE_BF16, .rank_count = ranks,
                                 .segment_tokens = 2048, .replicas = 1, .cluster_encoding = LW_ENCODING_INT8,
                                 .outlier_encoding = LW_ENCODING_INT4, .outlier_ppm = 125000, .cluster_tokens = 16};
    return shape;
}

static inline lwd_range_t test_range(uint32_t first, uint32_t tokens, uint32_t term, uint32_t flags)
{
    lwd_range_t range = {.first_token = first, .token_count = tokens, .generation = term, .flags = flags, .replicas = 1,
                         .bytes = tokens * 100ull};
    for (uint32_t i = 0; i < 4; i++)
        range.node_index[i] = (uint16_t)((first / 7 + i) % 3);
    return range;
}

#endif /* TEST_CATALOGUE_SUPPORT_H */
