/* test_build_moments.c - the sums against a plain computation in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

static void check_moments(const build_fixture_t *f, uint32_t job)
{
    const lwk_build_t *args = &f->args;
    uint32_t d = args->head_dim, n = args->token_count, indexed = n - args->outlier_count[job];
    const double *sums = args->moment_sums + (size_t)job * (2 + 2 * (size_t)d * d);
    double *key_key = calloc((size_t)d * d, sizeof *key_key),
           *value_key = calloc((size_t)d * d, sizeof *value_key), square = 0;
    for (uint32_t i = 0; i < indexed; i++) {
        uint32_t t = args->order[(size_t)job * n + i], c = args->assign[(size_t)job * n + t];
        size_t mean = ((size_t)job * args->cluster_capacity + c) * d;
        for (uint32_t a = 0; a < d; a++) {
            double key = build_key(f, job, t, a) - args->centroids[mean + a];
            double value = build_value(f, job, t, a) - args->value_means[mean + a];
            square += key * key;
            for (uint32_t b = 0; b < d; b++) {
                double other = build_key(f, job, t, b) - args->centroids[mean + b];
                key_key[a * d + b] += key * other;
                value_key[a * d + b] += value * other;
            }
        }
    }
    assert_true(sums[0] == indexed);
    assert_true(fabs(sums[1] - square) <= 1e-5 * square);
    /* Entries are compared with the size of the matrix, not with their own, which may be a near cancellation.
     */
    double norm_kk = 0, norm_vk = 0, error_kk = 0, error_vk = 0;
    for (size_t at = 0; at < (size_t)d * d; at++) {
        norm_kk += key_key[at] * key_key[at];
        norm_vk += value_key[at] * value_key[at];
        error_kk += (sums[2 + at] - key_key[at]) * (sums[2 + at] - key_key[at]);
        error_vk +=
            (sums[2 + (size_t)d * d + at] - value_key[at]) * (sums[2 + (size_t)d * d + at] - value_key[at]);
    }
    assert_true(sqrt(error_kk) <= 1e-5 * sqrt(norm_kk));
    assert_true(sqrt(error_vk) <= 1e-5 * sqrt(norm_vk));
    free(key_key);
    free(value_key);
}

static void test_moments_are_the_plain_sums(void **state)
{
    static const uint32_t dims[] = {8, 24, 64, 128};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++)
        for (size_t i = 0; i < LW_ARRAY_SIZE(dims); i++) {
            build_spec_t spec = {.jobs = 2,
                                 .tokens = 333,
                                 .head_dim = dims[i],
                                 .dtype = LW_DTYPE_BF16,
                                 .outlier_ppm = i % 2 ? 125000 : 0,
                                 .ring_rows = 400,
                                 .first_row = 200};
            build_fixture_t f = build_open(&spec, &build_backends[b]);
            build_fill_noise(&f, &prng, 1);
            build_run(&f, &build_backends[b]);
            check_moments(&f, 0);
            check_moments(&f, 1);
            build_close(&f);
        }
}

static void test_moments_of_huge_and_tiny_keys_keep_their_digits(void **state)
{
    static const double scales[] = {1e25, 1e-25};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++)
        for (size_t i = 0; i < LW_ARRAY_SIZE(scales); i++) {
            build_spec_t spec = {.jobs = 1, .tokens = 300, .head_dim = 16, .dtype = LW_DTYPE_FP32};
            build_fixture_t f = build_open(&spec, &build_backends[b]);
            build_fill_noise(&f, &prng, scales[i]);
            build_run(&f, &build_backends[b]);
            check_moments(&f, 0);
            build_close(&f);
        }
}

static void test_tokens_on_their_centroids_have_no_moments(void **state)
{
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {.jobs = 1, .tokens = 64, .head_dim = 8, .dtype = LW_DTYPE_BF16};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        for (uint32_t t = 0; t < 64; t++)
            for (uint32_t j = 0; j < 8; j++)
                build_set(&f, 0, t, j, 2, (float)t);
        build_run(&f, &build_backends[b]);
        assert_true(f.args.moment_sums[0] == 64);
        for (uint32_t at = 1; at < 2 + 2 * 64; at++)
            assert_true(f.args.moment_sums[at] == 0);
        build_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments_are_the_plain_sums),
        cmocka_unit_test(test_moments_of_huge_and_tiny_keys_keep_their_digits),
        cmocka_unit_test(test_tokens_on_their_centroids_have_no_moments),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
