/* test_build_encode.c - what a reader of the index gets back, for each encoding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

/* One element as the format says it is read. */
static float decoded(const uint8_t *index, uint32_t encoding, uint32_t rows, uint32_t center,
                     uint32_t channel, uint32_t scales, uint32_t d, uint32_t entry, uint32_t j)
{
    const uint8_t *row = index + rows + (size_t)entry * lwk_encoded_row_bytes(encoding, d);
    if (encoding == LW_ENCODING_FP32)
        return ((const float *)row)[j];
    if (encoding == LW_ENCODING_BF16)
        return lwk_bf16_to_f32(((const uint16_t *)row)[j]);
    int code = encoding == LW_ENCODING_INT8 ? (int8_t)row[j] : lwk_int4_code(row, j);
    float scale = lwk_f16_to_f32(((const uint16_t *)(index + scales))[entry]);
    return ((const float *)(index + center))[j] + ((const float *)(index + channel))[j] * (float)code * scale;
}

/* Half a code step, the rounding of the scale at the last code, and of the arithmetic. */
static double bound(const uint8_t *index, uint32_t encoding, uint32_t channel, uint32_t scales,
                    uint32_t entry, uint32_t j, double x)
{
    if (encoding == LW_ENCODING_FP32)
        return 0;
    if (encoding == LW_ENCODING_BF16)
        return ldexp(fabs(x), -8);
    double most = encoding == LW_ENCODING_INT8 ? 127 : 7;
    double step =
        ((const float *)(index + channel))[j] * lwk_f16_to_f32(((const uint16_t *)(index + scales))[entry]);
    return step * (0.501 + most * 0x1p-10) + fabs(x) * 1e-6;
}

typedef struct rows {
    uint32_t encoding, at, center, channel, scales;
} rows_t;

static void check_row(const uint8_t *index, const rows_t *rows, uint32_t d, uint32_t entry, const float *want)
{
    for (uint32_t j = 0; j < d; j++) {
        float got =
            decoded(index, rows->encoding, rows->at, rows->center, rows->channel, rows->scales, d, entry, j);
        double limit = bound(index, rows->encoding, rows->channel, rows->scales, entry, j, want[j]);
        if (!(fabs((double)got - want[j]) <= limit))
            fail_msg("entry %u channel %u: %g for %g, limit %g", entry, j, got, want[j], limit);
    }
}

static void check_index(const build_fixture_t *f, uint32_t job)
{
    const lwk_build_t *args = &f->args;
    uint32_t d = args->head_dim, clusters = args->cluster_count[job], outliers = args->outlier_count[job];
    lwk_index_layout_t at =
        lwk_index_layout(args->cluster_encoding, args->outlier_encoding, clusters, outliers, d);
    const uint8_t *index = args->index + job * args->index_stride;
    rows_t keys = {args->cluster_encoding, at.cluster_keys, at.key_center, at.key_channel,
                   at.cluster_key_scales};
    rows_t values = {args->cluster_encoding, at.cluster_values, at.value_center, at.value_channel,
                     at.cluster_value_scales};
    rows_t outlier_keys = {args->outlier_encoding, at.outlier_keys, at.key_center, at.key_channel,
                           at.outlier_key_scales};
    size_t first = (size_t)job * args->cluster_capacity;
    for (uint32_t c = 0; c < clusters; c++) {
        check_row(index, &keys, d, c, args->centroids + (first + c) * d);
        check_row(index, &values, d, c, args->value_means + (first + c) * d);
        float spread = lwk_bf16_to_f32(((const uint16_t *)(index + at.cluster_spreads))[c]);
        assert_true(fabs(spread - args->spreads[first + c]) <= ldexp(args->spreads[first + c], -8));
    }
    for (uint32_t o = 0; o < outliers; o++) {
        float key[LW_HEAD_DIM_MAX];
        uint32_t token = args->order[(size_t)(job + 1) * args->token_count - outliers + o];
        for (uint32_t j = 0; j < d; j++)
            key[j] = build_key(f, job, token, j);
        check_row(index, &outlier_keys, d, o, key);
        assert_int_equal(((const uint16_t *)(index + at.outlier_parents))[o],
                         args->parents[(size_t)job * args->outlier_capacity + o]);
    }
}

static const uint32_t encodings[] = {LW_ENCODING_FP32, LW_ENCODING_BF16, LW_ENCODING_INT8, LW_ENCODING_INT4};

static void check_all_encodings(uint32_t dtype, uint32_t n, double scale, uint32_t outlier_ppm)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++)
        for (size_t i = 0; i < 16; i++) {
            build_spec_t spec = {.jobs = 2,
                                 .tokens = n,
                                 .head_dim = 40,
                                 .dtype = dtype,
                                 .outlier_ppm = outlier_ppm,
                                 .cluster_encoding = encodings[i / 4],
                                 .outlier_encoding = encodings[i % 4]};
            build_fixture_t f = build_open(&spec, &build_backends[b]);
            build_fill_noise(&f, &prng, scale);
            build_run(&f, &build_backends[b]);
            check_index(&f, 0);
            check_index(&f, 1);
            build_close(&f);
        }
}

static void test_encode_refuses_unknown_encodings_and_short_strides(void **state)
{
    build_spec_t spec = {.jobs = 1, .tokens = 64, .head_dim = 16, .dtype = LW_DTYPE_BF16};
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_run(&f, &build_backends[b]);
        f.args.cluster_encoding = 0;
        assert_int_equal(build_backends[b].encode(NULL, &f.args, NULL), LW_ERR_INVALID);
        f.args.cluster_encoding = LW_ENCODING_BF16;
        f.args.outlier_encoding = 77;
        assert_int_equal(build_backends[b].encode(NULL, &f.args, NULL), LW_ERR_INVALID);
        f.args.outlier_encoding = LW_ENCODING_BF16;
        f.args.index_stride = 64;
        assert_int_equal(build_backends[b].encode(NULL, &f.args, NULL), LW_ERR_INVALID);
        build_close(&f);
    }
}

static void test_every_encoding_stays_within_half_a_step(void **state)
{
    check_all_encodings(LW_DTYPE_BF16, 500, 1, 125000);
    check_all_encodings(LW_DTYPE_FP32, 77, 3, 60000);
}

static void test_encodings_hold_for_huge_and_tiny_numbers(void **state)
{
    check_all_encodings(LW_DTYPE_BF16, 200, 1e30, 125000);
    check_all_encodings(LW_DTYPE_BF16, 200, 1e-25, 125000);
}

static void test_an_index_without_outliers_has_no_outlier_parts(void **state)
{
    check_all_encodings(LW_DTYPE_BF16, 200, 1, 0);
    check_all_encodings(LW_DTYPE_BF16, 1, 1, 125000);
}

/* One loud channel must not cost the others their digits. */
static void test_a_loud_channel_does_not_drown_the_others(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {.jobs = 1,
                             .tokens = 512,
                             .head_dim = 32,
                             .dtype = LW_DTYPE_FP32,
                             .outlier_ppm = 125000,
                             .cluster_encoding = LW_ENCODING_INT4,
                             .outlier_encoding = LW_ENCODING_INT4};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_fill_noise(&f, &prng, 1);
        for (uint32_t t = 0; t < 512; t++)
            build_set(&f, 0, t, 5, (float)(1000 + 100 * build_normal(&prng)), 1);
        build_run(&f, &build_backends[b]);
        uint32_t clusters = f.args.cluster_count[0], outliers = f.args.outlier_count[0];
        lwk_index_layout_t at = lwk_index_layout(LW_ENCODING_INT4, LW_ENCODING_INT4, clusters, outliers, 32);
        double error = 0;
        for (uint32_t o = 0; o < outliers; o++)
            for (uint32_t j = 6; j < 32; j++) {
                float got = decoded(f.args.index, LW_ENCODING_INT4, at.outlier_keys, at.key_center,
                                    at.key_channel, at.outlier_key_scales, 32, o, j);
                double gap = got - build_key(&f, 0, f.args.order[512 - outliers + o], j);
                error += gap * gap / (outliers * 26.0);
            }
        assert_true(
            sqrt(error) <
            0.2); /* the channels' deviation is 1; codes shared with channel 5 would lose nearly all of it */
        build_close(&f);
    }
}

static void test_every_backend_writes_the_index_of_ref(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_spec_t spec = {.jobs = 1,
                         .tokens = 600,
                         .head_dim = 64,
                         .dtype = LW_DTYPE_BF16,
                         .outlier_ppm = 125000,
                         .cluster_encoding = LW_ENCODING_INT8,
                         .outlier_encoding = LW_ENCODING_INT4};
    build_fixture_t f = build_open(&spec, &build_backends[BUILD_REF]);
    build_fill_noise(&f, &prng, 1);
    build_run(&f, &build_backends[BUILD_REF]);
    uint8_t *ref = malloc(f.args.index_stride);
    memcpy(ref, f.args.index, f.args.index_stride);
    for (int b = BUILD_CPU; b < build_count(); b++) {
        build_use(&f, &build_backends[b]);
        memset(f.args.index, 0xA5, f.args.index_stride);
        assert_int_equal(build_backends[b].encode(NULL, &f.args, NULL), LW_OK);
        check_index(&f, 0);
        uint32_t bytes = lwk_index_layout(LW_ENCODING_INT8, LW_ENCODING_INT4, f.args.cluster_count[0],
                                          f.args.outlier_count[0], 64)
                             .bytes,
                 different = 0;
        for (uint32_t i = 0; i < bytes; i++)
            different += ref[i] != f.args.index[i];
        printf("%s: %u of %u index bytes differ\n", build_backends[b].name, different, bytes);
        assert_true(different * 500 < bytes); /* codes that lie on a rounding edge */
    }
    free(ref);
    build_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_refuses_unknown_encodings_and_short_strides),
        cmocka_unit_test(test_every_encoding_stays_within_half_a_step),
        cmocka_unit_test(test_encodings_hold_for_huge_and_tiny_numbers),
        cmocka_unit_test(test_an_index_without_outliers_has_no_outlier_parts),
        cmocka_unit_test(test_a_loud_channel_does_not_drown_the_others),
        cmocka_unit_test(test_every_backend_writes_the_index_of_ref),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
