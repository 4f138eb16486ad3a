/* test_segments.h - random segments: a plan, its extent filled with random contents, sealed. */
#ifndef LW_TEST_SEGMENTS_H
#define LW_TEST_SEGMENTS_H

#include "test_support.h"

#include "wire/segment_fmt.h"

typedef struct test_segment {
    lw_segment_plan_t plan;
    uint8_t *extent; /* 64-byte aligned, exactly `bytes` long up to the alignment; free it */
    uint64_t bytes;
} test_segment_t;

static inline uint32_t test_plan_rows(const lw_segment_plan_t *plan)
{
    return plan->token_count - ((plan->flags & LW_SEGMENT_SINKS) != 0 ? LW_SINK_TOKENS : 0);
}

/* flags: LW_SEGMENT_* wanted; tokens_max keeps the segment small. */
static inline lw_segment_plan_t test_random_plan(lw_prng_t *prng, uint32_t flags, uint32_t tokens_max)
{
    lw_segment_plan_t plan;
    uint32_t rows;

    memset(&plan, 0, sizeof(plan));
    plan.flags = flags;
    plan.token_count = LW_SINK_TOKENS + 1 + (uint32_t)lw_prng_below(prng, tokens_max - LW_SINK_TOKENS);
    plan.head_count = 1 + (uint32_t)lw_prng_below(prng, 4);
    plan.head_dim = 8 * (1 + (uint32_t)lw_prng_below(prng, 4));
    plan.dtype = 1 + (uint32_t)lw_prng_below(prng, 3);
    plan.cluster_encoding = 1 + (uint32_t)lw_prng_below(prng, 4);
    plan.outlier_encoding = 1 + (uint32_t)lw_prng_below(prng, 4);
    plan.moments_bytes = (flags & LW_SEGMENT_MOMENTS) != 0 ? 1 + lw_prng_below(prng, 300) : 0;
    test_fill(prng, &plan.name, sizeof(plan.name));
    plan.name.reserved = 0;
    plan.name.first_token = (flags & LW_SEGMENT_SINKS) != 0 ? 0 : (uint32_t)lw_prng_below(prng, 1u << 30);
    rows = test_plan_rows(&plan);
    for (uint32_t i = 0; i < plan.head_count; i++) {
        plan.head[i].row_count = rows;
        if ((flags & LW_SEGMENT_RAW) != 0) {
            plan.head[i].cluster_count = (uint32_t)lw_div_up(rows, LW_SEGMENT_RAW_ROWS);
            continue;
        }
        plan.head[i].outlier_count = (uint32_t)lw_prng_below(prng, rows + 1);
        uint32_t left = rows - plan.head[i].outlier_count;
        plan.head[i].cluster_count = left == 0 ? 0 : 1 + (uint32_t)lw_prng_below(prng, left);
        plan.head[i].index_bytes = (uint32_t)lw_prng_below(prng, 500);
    }
    return plan;
}

/* Splits rows over clusters, each at least 1. */
static inline void test_fill_sizes(lw_prng_t *prng, const lw_segment_plan_t *plan, uint32_t head,
                                   uint16_t *sizes)
{
    uint32_t clusters = plan->head[head].cluster_count;
    uint32_t left = plan->head[head].row_count - plan->head[head].outlier_count;

    for (uint32_t i = 0; i < clusters; i++) {
        uint32_t rest = clusters - i - 1;
        uint32_t size = rest == 0 ? left : 1 + (uint32_t)lw_prng_below(prng, left - rest);

        if ((plan->flags & LW_SEGMENT_RAW) != 0 && rest > 0) {
            size = LW_SEGMENT_RAW_ROWS;
        }
        sizes[i] = (uint16_t)size;
        left -= size;
    }
}

static inline test_segment_t test_segment_from(lw_prng_t *prng, const lw_segment_plan_t *plan)
{
    test_segment_t segment = {.plan = *plan};
    lw_error_t error;

    if (lw_segment_layout(plan, NULL, &segment.bytes, &error) != LW_OK) {
        fail_msg("%s", error.text);
    }
    segment.extent = aligned_alloc(64, lw_align_up(segment.bytes, 64));
    assert_non_null(segment.extent);
    test_fill(prng, segment.extent, segment.bytes); /* contents, and dirt between the parts */
    assert_int_equal(lw_segment_layout(plan, segment.extent, &segment.bytes, &error), LW_OK);
    for (uint32_t i = 0; i < plan->head_count; i++) {
        test_fill_sizes(prng, plan, i,
                        (void *)(segment.extent + lw_segment_heads(segment.extent)[i].sizes_offset));
    }
    lw_segment_seal(segment.extent);
    return segment;
}

static inline test_segment_t test_random_segment(lw_prng_t *prng, uint32_t flags, uint32_t tokens_max)
{
    lw_segment_plan_t plan = test_random_plan(prng, flags, tokens_max);

    return test_segment_from(prng, &plan);
}

#endif /* LW_TEST_SEGMENTS_H */
