#include "test_segments.h"

#define ALL_FLAGS (LW_SEGMENT_RAW | LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS)

#define REFUSED(change, words)                                                            \
    do {                                                                                  \
        lw_segment_plan_t plan = test_random_plan(&prng, 0, 200);                         \
        lw_error_t error;                                                                 \
        uint64_t bytes = 77;                                                              \
        change;                                                                           \
        assert_int_equal(lw_segment_layout(&plan, NULL, &bytes, &error), LW_ERR_INVALID); \
        assert_names(error, words);                                                       \
        assert_int_equal(bytes, 77);                                                      \
    } while (0)

static void test_a_plan_that_cannot_be_is_refused_by_field(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");

    REFUSED(plan.token_count = 0, "token_count is 0, must be 1 to 8192");
    REFUSED(plan.token_count = LW_SEGMENT_TOKENS_MAX + 1, "token_count is 8193");
    REFUSED(plan.head_count = 0, "head_count is 0, must be 1 to 64");
    REFUSED(plan.head_count = LW_KV_HEADS_MAX + 1, "head_count is 65");
    REFUSED(plan.head_count = 65536 + 1, "head_count is 65537");
    REFUSED(plan.head_dim = 0, "head_dim is 0");
    REFUSED(plan.head_dim = 12, "head_dim is 12, must be a multiple of 8");
    REFUSED(plan.head_dim = LW_HEAD_DIM_MAX + 8, "head_dim is 264");
    REFUSED(plan.dtype = 0, "dtype is 0");
    REFUSED(plan.dtype = 4, "dtype is 4");
    REFUSED(plan.dtype = 65537, "dtype is 65537");
    REFUSED(plan.cluster_encoding = 0, "cluster_encoding is 0");
    REFUSED(plan.outlier_encoding = 5, "outlier_encoding is 5");
    REFUSED(plan.flags = 8, "flags is 8");
    REFUSED(plan.name.reserved = 1, "name.reserved is 1");
    REFUSED(plan.name.first_token = UINT32_MAX, "name.first_token is 4294967295");
    REFUSED(plan.moments_bytes = 10, "moments_bytes is 10, must be 0 to 0");
    REFUSED(plan.flags = LW_SEGMENT_MOMENTS, "moments_bytes is 0, must be 1");
    REFUSED((plan.flags = LW_SEGMENT_MOMENTS, plan.moments_bytes = UINT64_MAX),
            "moments_bytes is 18446744073709551615");
    REFUSED((plan.flags = LW_SEGMENT_SINKS, plan.name.first_token = 4), "it has sinks");
    REFUSED((plan.flags = LW_SEGMENT_SINKS, plan.name.first_token = 0, plan.token_count = 4),
            "token_count is 4, must be 5");
    REFUSED(plan.head[0].row_count++, "head 0: row_count is ");
    REFUSED(plan.head[0].cluster_count = 60000, "head 0: 60000 clusters");
    REFUSED((plan.head[0].cluster_count = UINT32_MAX, plan.head[0].outlier_count = 1),
            "at most 65536 together");
    REFUSED((plan.head[0].cluster_count = 0, plan.head[0].outlier_count = 0), "cannot hold");
    REFUSED(plan.head[0].outlier_count = plan.token_count, "cannot hold");
    REFUSED((plan.flags = LW_SEGMENT_RAW, plan.head[0].outlier_count = 1), "raw, ");
    REFUSED((plan.flags = LW_SEGMENT_RAW, plan.head[0].outlier_count = 0, plan.head[0].index_bytes = 8,
             plan.head[0].cluster_count = (plan.token_count + 63) / 64),
            "8 index_bytes, must be");
    REFUSED((plan.flags = LW_SEGMENT_RAW, plan.head[0].outlier_count = 2, plan.head[0].index_bytes = 0,
             plan.head[0].cluster_count = (plan.token_count + 63) / 64),
            "2 outliers, 0 index_bytes, must be");
}

static void test_a_segment_beyond_the_largest_is_refused(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");
    lw_segment_plan_t plan = test_random_plan(&prng, 0, 20);
    uint64_t bytes = 0;
    lw_error_t error;

    plan.head_count = LW_KV_HEADS_MAX;
    for (uint32_t i = 0; i < plan.head_count; i++) {
        plan.head[i] = plan.head[0];
        plan.head[i].index_bytes = UINT32_MAX;
    }
    assert_int_equal(lw_segment_layout(&plan, NULL, &bytes, &error), LW_ERR_INVALID);
    assert_names(error, "at most 1073741824");
}

static void test_the_largest_shape_is_laid_out(void **state)
{
    lw_segment_plan_t plan = {.token_count = LW_SEGMENT_TOKENS_MAX,
                              .head_count = LW_KV_HEADS_MAX,
                              .head_dim = LW_HEAD_DIM_MAX,
                              .dtype = LW_DTYPE_BF16,
                              .cluster_encoding = LW_ENCODING_INT8,
                              .outlier_encoding = LW_ENCODING_INT4};
    uint64_t bytes = 0;
    lw_error_t error;

    for (uint32_t i = 0; i < LW_KV_HEADS_MAX; i++) {
        plan.head[i].cluster_count = LW_CLUSTERS_PER_UNIT_MAX * LW_SEGMENT_UNITS_MAX;
        plan.head[i].outlier_count = LW_OUTLIERS_PER_UNIT_MAX * LW_SEGMENT_UNITS_MAX;
        plan.head[i].row_count = LW_SEGMENT_TOKENS_MAX;
    }
    assert_int_equal(lw_segment_layout(&plan, NULL, &bytes, &error), LW_OK);
    assert_in_range(bytes, 512u << 20, (512u << 20) + (2u << 20)); /* the records alone are 512 MiB */
    plan.dtype = LW_DTYPE_FP32; /* twice that and its table: just too large */
    assert_int_equal(lw_segment_layout(&plan, NULL, &bytes, &error), LW_ERR_INVALID);
}

static void test_parts_are_aligned_in_order_and_fill_the_segment(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");

    for (int round = 0; round < 200; round++) {
        test_segment_t segment =
            test_random_segment(&prng, (uint32_t)lw_prng_below(&prng, ALL_FLAGS + 1), 300);
        const lw_segment_header_t *header = lw_segment_header(segment.extent);
        const lw_segment_head_t *heads = lw_segment_heads(segment.extent);
        uint64_t row_pair = lw_row_pair_bytes(header->dtype, header->head_dim);
        uint64_t end = sizeof(*header) + header->head_count * sizeof(*heads);

#define PART(offset, size)                                \
    do {                                                  \
        assert_int_equal((offset), lw_align_up(end, 64)); \
        end = (offset) + (size);                          \
    } while (0)
        for (uint32_t i = 0; i < header->head_count; i++) {
            PART(heads[i].sizes_offset, heads[i].cluster_count * 2ull);
            PART(heads[i].checks_offset, (heads[i].cluster_count + heads[i].outlier_count) * 4ull);
            PART(heads[i].index_offset, heads[i].index_bytes);
        }
        if ((header->flags & LW_SEGMENT_SINKS) != 0) {
            PART(header->sinks_offset, header->head_count * LW_SINK_TOKENS * row_pair);
        }
        if ((header->flags & LW_SEGMENT_MOMENTS) != 0) {
            PART(header->moments_offset, header->moments_bytes);
        }
        for (uint32_t i = 0; i < header->head_count; i++) {
            PART(heads[i].records_offset, segment.plan.head[i].row_count * row_pair);
        }
        assert_int_equal(end, header->bytes);
        assert_int_equal(end, segment.bytes);
        free(segment.extent);
    }
}

static void test_record_offsets_follow_the_sizes_without_gaps(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");
    static uint32_t offsets[LW_SEGMENT_ENTRIES_MAX + 1];

    for (int round = 0; round < 200; round++) {
        test_segment_t segment =
            test_random_segment(&prng, (uint32_t)lw_prng_below(&prng, ALL_FLAGS + 1), 300);
        uint64_t row_pair = lw_row_pair_bytes(segment.plan.dtype, segment.plan.head_dim);

        for (uint32_t head = 0; head < segment.plan.head_count; head++) {
            const lw_segment_head_t *info = &lw_segment_heads(segment.extent)[head];
            const uint16_t *sizes = (const void *)(segment.extent + info->sizes_offset);
            uint32_t entries = info->cluster_count + info->outlier_count;

            offsets[entries + 1] = 0xabcdef;
            lw_segment_record_offsets(segment.extent, head, offsets);
            assert_int_equal(offsets[0], info->records_offset);
            for (uint32_t i = 0; i < entries; i++) {
                assert_int_equal(offsets[i + 1] - offsets[i],
                                 (i < info->cluster_count ? sizes[i] : 1) * row_pair);
            }
            assert_int_equal(offsets[entries], info->records_offset + info->records_bytes);
            assert_int_equal(offsets[entries + 1], 0xabcdef);
        }
        free(segment.extent);
    }
}

static void test_a_raw_segment_is_cut_into_64_rows(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");

    for (uint32_t tokens = 1; tokens < 200; tokens += 7) {
        lw_segment_plan_t plan = {.flags = LW_SEGMENT_RAW,
                                  .token_count = tokens,
                                  .head_count = 2,
                                  .head_dim = 8,
                                  .dtype = LW_DTYPE_FP16}; /* encodings 0: it has no index */
        for (uint32_t i = 0; i < 2; i++) {
            plan.head[i].row_count = tokens;
            plan.head[i].cluster_count = (tokens + 63) / 64;
        }
        test_segment_t segment = test_segment_from(&prng, &plan);
        lw_error_t error;

        assert_int_equal(lw_segment_verify(segment.extent, segment.bytes, &error), LW_OK);
        if (tokens > 64) { /* other cuts of the same rows are refused */
            uint16_t *sizes = (void *)(segment.extent + lw_segment_heads(segment.extent)[1].sizes_offset);
            sizes[0]--;
            sizes[1]++;
            lw_segment_seal(segment.extent);
            assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
            assert_names(error, "head 1: size of cluster 0 is 63");
        }
        free(segment.extent);
    }
}

static void test_sealing_is_repeatable_and_cleans_the_gaps(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");
    test_segment_t segment = test_random_segment(&prng, LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS, 200);
    uint8_t *copy = malloc(segment.bytes);

    memcpy(copy, segment.extent, segment.bytes);
    lw_segment_seal(segment.extent);
    assert_memory_equal(copy, segment.extent, segment.bytes);
    assert_int_equal(lw_segment_verify(segment.extent, segment.bytes, NULL), LW_OK);
    free(copy);
    free(segment.extent);
}

static void seal(void *extent) { lw_segment_seal(extent); }

static void test_sealing_sizes_that_do_not_add_up_asserts(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");
    test_segment_t segment = {.extent = NULL};

    do {
        free(segment.extent);
        segment = test_random_segment(&prng, 0, 200);
    } while (lw_segment_heads(segment.extent)[0].cluster_count == 0);
    uint16_t *sizes = (void *)(segment.extent + lw_segment_heads(segment.extent)[0].sizes_offset);
    sizes[0]++;
    assert_true(test_aborts(seal, segment.extent));
    sizes[0] = 0;
    assert_true(test_aborts(seal, segment.extent));
    free(segment.extent);
}

static void test_seeds_differ_by_name_head_and_entry(void **state)
{
    lw_prng_t prng = test_prng("segment_fmt");
    lw_segment_name_t name = {.origin = lw_prng_u64(&prng)}, other = name;
    uint8_t record[64];

    test_fill(&prng, record, sizeof(record));
    other.generation++;
    uint64_t seed = lw_record_seed(&name, 3, 5);
    assert_true(seed == lw_record_seed_hashed(lw_segment_name_hash(&name), 3, 5));
    assert_true(seed != lw_record_seed(&name, 5, 3));
    assert_true(seed != lw_record_seed(&name, 3, 6));
    assert_true(seed != lw_record_seed(&name, 4, 5));
    assert_true(seed != lw_record_seed(&name, 3, LW_PART_INDEX));
    assert_true(seed != lw_record_seed(&other, 3, 5));
    assert_int_not_equal(lw_record_check(seed, record, 64),
                         lw_record_check(lw_record_seed(&name, 3, 6), record, 64));
    assert_int_not_equal(lw_record_check(seed, record, 64), lw_record_check(seed, record, 63));
}

static void test_an_unknown_dtype_has_no_size(void **state)
{
    assert_int_equal(lw_dtype_bytes(0), 0);
    assert_int_equal(lw_dtype_bytes(4), 0);
    assert_int_equal(lw_dtype_bytes(LW_DTYPE_BF16), 2);
    assert_int_equal(lw_dtype_bytes(LW_DTYPE_FP16), 2);
    assert_int_equal(lw_dtype_bytes(LW_DTYPE_FP32), 4);
    assert_int_equal(lw_row_pair_bytes(LW_DTYPE_FP32, 64), 512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_plan_that_cannot_be_is_refused_by_field),
        cmocka_unit_test(test_a_segment_beyond_the_largest_is_refused),
        cmocka_unit_test(test_the_largest_shape_is_laid_out),
        cmocka_unit_test(test_parts_are_aligned_in_order_and_fill_the_segment),
        cmocka_unit_test(test_record_offsets_follow_the_sizes_without_gaps),
        cmocka_unit_test(test_a_raw_segment_is_cut_into_64_rows),
        cmocka_unit_test(test_sealing_is_repeatable_and_cleans_the_gaps),
        cmocka_unit_test(test_sealing_sizes_that_do_not_add_up_asserts),
        cmocka_unit_test(test_seeds_differ_by_name_head_and_entry),
        cmocka_unit_test(test_an_unknown_dtype_has_no_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
