/* test_model.c - shapes that are refused, sizes that follow from those that are not; moments; options. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#include "client/model.h"
#include "client/seal.h"
#include "wire/segment_fmt.h"

static lw_error_t error;

static lw_model_t good(void)
{
    return (lw_model_t){
        .layer_count = 30, .kv_head_count = 3, .query_head_count = 9, .head_dim = 64, .model_id = "m"};
}

static void refused(lw_model_t from, const char *words)
{
    lwc_model_t model;
    assert_int_equal(lwc_model_make(&from, &model, &error), LW_ERR_INVALID);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
}

#define REFUSED(field, value, words) \
    do {                             \
        lw_model_t m = good();       \
        m.field = (value);           \
        refused(m, words);           \
    } while (0)

static void test_absurd_shapes_are_refused_by_name_and_value(void **state)
{
    (void)state;
    char long_id[200];
    memset(long_id, 'x', sizeof(long_id) - 1);
    long_id[sizeof(long_id) - 1] = '\0';
    REFUSED(layer_count, 0, "layer_count is 0");
    REFUSED(layer_count, 257, "layer_count is 257");
    REFUSED(kv_head_count, 65, "kv_head_count is 65");
    REFUSED(query_head_count, 10, "query_head_count is 10");
    REFUSED(query_head_count, 51, "query_head_count is 51");
    REFUSED(head_dim, 60, "head_dim is 60");
    REFUSED(head_dim, 264, "head_dim is 264");
    REFUSED(dtype, 4, "dtype is 4");
    REFUSED(model_id, NULL, "model_id is missing");
    REFUSED(model_id, long_id, "model_id has 199 bytes");
    REFUSED(scale, -1.0f, "scale is -1");
    REFUSED(scale, NAN, "scale is nan");
    REFUSED(soft_cap, INFINITY, "soft_cap is inf");
    REFUSED(rank, 1, "rank is 1");
}

static void test_defaults_of_a_shape(void **state)
{
    (void)state;
    lw_model_t from = good();
    lwc_model_t model;
    assert_int_equal(lwc_model_make(&from, &model, &error), LW_OK);
    assert_int_equal(model.shape.dtype, LW_DTYPE_BF16);
    assert_int_equal(model.shape.group, 3);
    assert_true(fabsf(model.shape.scale - 0.125f) < 1e-7f);
    assert_int_equal(model.pair_bytes, 256);
    assert_int_equal(model.rank_count, 1);
}

static void test_the_largest_segment_fits_its_extent(void **state)
{
    (void)state;
    static const uint32_t dims[] = {8, 64, 128, 256};
    for (size_t i = 0; i < LW_ARRAY_SIZE(dims); i++) {
        lw_model_t from = good();
        lwc_model_t model;
        from.head_dim = dims[i];
        from.dtype = LW_DTYPE_FP32;
        assert_int_equal(lwc_model_make(&from, &model, &error), LW_OK);
        lw_segment_plan_t plan = {.flags = LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS,
                                  .token_count = 8192,
                                  .head_count = 3,
                                  .head_dim = dims[i],
                                  .dtype = LW_DTYPE_FP32,
                                  .cluster_encoding = LW_ENCODING_FP32,
                                  .outlier_encoding = LW_ENCODING_FP32,
                                  .moments_bytes = model.moments_bytes};
        for (uint32_t j = 0; j < 3; j++) {
            plan.head[j].cluster_count = 8 * LW_CLUSTERS_PER_UNIT_MAX;
            plan.head[j].outlier_count = 8 * LW_OUTLIERS_PER_UNIT_MAX;
            plan.head[j].row_count = 8188;
            plan.head[j].index_bytes =
                lwk_index_layout(LW_ENCODING_FP32, LW_ENCODING_FP32, plan.head[j].cluster_count,
                                 plan.head[j].outlier_count, dims[i])
                    .bytes;
        }
        uint64_t bytes = 0;
        assert_int_equal(lw_segment_layout(&plan, NULL, &bytes, &error), LW_OK);
        assert_true(bytes <= lwc_extent_bytes_max(&model, 8192));
    }
}

static void test_sizes_follow_limits_and_options(void **state)
{
    (void)state;
    lw_model_t from = good();
    lwc_model_t model;
    lwc_options_t options;
    lwc_sizes_t sizes;
    lw_open_params_t params = {.sessions_max = 3, .tokens_max = 10000};
    assert_int_equal(lwc_model_make(&from, &model, &error), LW_OK);
    assert_int_equal(lwc_options_load("client.tickets=5000; client.landing_bytes = 1m", &options, &error),
                     LW_OK);
    assert_int_equal(lwc_sizes_make(&model, &params, &options, &sizes, &error), LW_OK);
    assert_int_equal(sizes.ticket_capacity, 8192);
    assert_int_equal(sizes.landing_bytes, 1 << 20);
    assert_int_equal(sizes.ranges_max, 11);
    assert_int_equal(sizes.entry_capacity, 10 * (LW_CLUSTERS_PER_UNIT_MAX + LW_OUTLIERS_PER_UNIT_MAX));
    assert_int_equal(sizes.query_rows, 8);
    params.sessions_max = 5000;
    assert_int_equal(lwc_sizes_make(&model, &params, &options, &sizes, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "sessions_max is 5000"));
}

static void test_bad_configuration_is_refused_by_name(void **state)
{
    (void)state;
    lwc_options_t options;
    assert_int_equal(lwc_options_load("client.lease", &options, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "client.lease"));
    assert_int_equal(lwc_options_load("client.nonsense=1", &options, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "nonsense"));
    assert_int_equal(lwc_options_load("client.extents=1", &options, &error), LW_ERR_INVALID);
    assert_int_equal(lwc_options_load(";; client.extents=2;", &options, &error), LW_OK);
    assert_int_equal(options.client_extents, 2);
}

static const char *reference_path;

/* LW_WRITE_REFERENCE=1 writes the page instead of comparing it. */
static void test_reference_page_of_the_options_is_current(void **state)
{
    (void)state;
    char *wanted = NULL, found[32768];
    size_t bytes = 0;
    FILE *memory = open_memstream(&wanted, &bytes);
    if (!reference_path)
        skip();
    lw_options_reference(&lwc_option_table, memory);
    fclose(memory);
    FILE *file = fopen(reference_path, getenv("LW_WRITE_REFERENCE") ? "w+" : "r");
    assert_non_null(file);
    if (getenv("LW_WRITE_REFERENCE")) {
        assert_int_equal(fwrite(wanted, 1, bytes, file), bytes);
        rewind(file);
    }
    size_t got = fread(found, 1, sizeof(found) - 1, file);
    fclose(file);
    found[got] = '\0';
    assert_string_equal(found, wanted);
    free(wanted);
}

static void test_moments_come_back_as_they_went(void **state)
{
    (void)state;
    enum { D = 8, N = 2 + 2 * D * D };
    lw_prng_t prng;
    double sums[2 * N], more[2 * N], back[2 * N];
    uint8_t *moments = aligned_alloc(64, 2 * lwk_moments_bytes(D));
    lw_prng_seed(&prng, 5);
    for (int i = 0; i < 2 * N; i++) {
        sums[i] = lw_prng_unit(&prng) - 0.5;
        more[i] = sums[i];
    }
    sums[0] = more[0] = 1000;
    sums[1] = more[1] = 77;
    sums[N] = sums[N + 1] = more[N] = more[N + 1] = 0; /* nothing known of the second head */
    lwc_moments_add(sums, more, 2, N);
    assert_true(sums[0] == 2000 && sums[1] == 154);
    lwc_moments_encode(sums, 2, D, moments);
    const lwk_moments_header_t *header = (const void *)moments;
    assert_int_equal(header->token_count, 2000);
    assert_true(fabsf(header->mean_residual - 0.077f) < 1e-6f);
    lwc_moments_decode(moments, 2, D, back);
    for (int i = 0; i < N; i++)
        assert_true(fabs(back[i] - sums[i]) < 1e-5 * (1 + fabs(sums[i])));
    for (int i = N; i < 2 * N; i++)
        assert_true(back[i] == 0);
    free(moments);
}

int main(int argc, char **argv)
{
    reference_path = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absurd_shapes_are_refused_by_name_and_value),
        cmocka_unit_test(test_defaults_of_a_shape),
        cmocka_unit_test(test_the_largest_segment_fits_its_extent),
        cmocka_unit_test(test_sizes_follow_limits_and_options),
        cmocka_unit_test(test_bad_configuration_is_refused_by_name),
        cmocka_unit_test(test_reference_page_of_the_options_is_current),
        cmocka_unit_test(test_moments_come_back_as_they_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
