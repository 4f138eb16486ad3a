/* test_build_outliers.c - who becomes an outlier, the record order, and that nothing is lost or doubled. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

static double distance_to(const build_fixture_t *f, uint32_t job, uint32_t t, const float *mean)
{
    double sum = 0;
    for (uint32_t j = 0; j < f->args.head_dim; j++) {
        double gap = (double)build_key(f, job, t, j) - mean[j];
        sum += gap * gap;
    }
    return sum;
}

/* Order is a permutation, sorted within each record; outliers are sorted by (parent, token) and belong to
 * their parent. */
static void check_order(const build_fixture_t *f)
{
    const lwk_build_t *args = &f->args;
    uint32_t n = args->token_count;
    uint8_t *seen = calloc(n, 1);
    for (uint32_t job = 0; job < args->job_count; job++) {
        const uint32_t *order = args->order + (size_t)job * n;
        const uint16_t *assign = args->assign + (size_t)job * n,
                       *sizes = args->sizes + (size_t)job * args->cluster_capacity;
        const uint16_t *parents = args->parents + (size_t)job * args->outlier_capacity;
        uint32_t at = 0;
        memset(seen, 0, n);
        for (uint32_t c = 0; c < args->cluster_count[job]; c++) {
            assert_true(sizes[c] >= 1);
            for (uint32_t i = 0; i < sizes[c]; i++, at++) {
                assert_true(order[at] < n && !seen[order[at]]);
                seen[order[at]] = 1;
                assert_int_equal(assign[order[at]], c);
                assert_true(i == 0 || order[at] > order[at - 1]);
            }
        }
        for (uint32_t o = 0; o < args->outlier_count[job]; o++, at++) {
            assert_true(order[at] < n && !seen[order[at]]);
            seen[order[at]] = 1;
            assert_int_equal(assign[order[at]], parents[o]);
            assert_true(o == 0 || parents[o] > parents[o - 1] ||
                        (parents[o] == parents[o - 1] && order[at] > order[at - 1]));
        }
        assert_int_equal(at, n);
    }
    free(seen);
}

static build_fixture_t made(uint32_t n, uint32_t ppm, const build_ops_t *ops, lw_prng_t *prng)
{
    build_spec_t spec = {.jobs = 2, .tokens = n, .head_dim = 32, .dtype = LW_DTYPE_BF16, .outlier_ppm = ppm};
    build_fixture_t f = build_open(&spec, ops);
    build_fill_noise(&f, prng, 1);
    return f;
}

static void test_outliers_refuse_a_workspace_that_is_too_small(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = made(200, 0, &build_backends[b], &prng);
        assert_int_equal(build_backends[b].kmeans(NULL, &f.args, NULL), LW_OK);
        f.args.workspace_bytes = 64;
        assert_int_equal(build_backends[b].outliers(NULL, &f.args, NULL), LW_ERR_INVALID);
        build_close(&f);
    }
}

static void test_outliers_are_the_farthest_but_for_each_clusters_keeper(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        const build_ops_t *ops = &build_backends[b];
        build_fixture_t f = made(1500, 60000, ops, &prng);
        lwk_build_t *args = &f.args;
        assert_int_equal(ops->kmeans(NULL, args, NULL), LW_OK);
        size_t floats = 2 * (size_t)args->cluster_capacity * 32;
        float *before = malloc(floats * sizeof *before);
        memcpy(before, args->centroids, floats * sizeof *before);
        assert_int_equal(ops->outliers(NULL, args, NULL), LW_OK);
        check_order(&f);
        for (uint32_t job = 0; job < 2; job++) {
            assert_int_equal(args->outlier_count[job], 90);
            const uint32_t *order = args->order + (size_t)job * 1500;
            double nearest_outlier = INFINITY;
            for (uint32_t i = 1410; i < 1500; i++) {
                uint32_t c = args->assign[(size_t)job * 1500 + order[i]];
                const float *mean = before + ((size_t)job * args->cluster_capacity + c) * 32;
                nearest_outlier = fmin(nearest_outlier, distance_to(&f, job, order[i], mean));
            }
            for (uint32_t i = 0; i < 1410; i++) {
                uint32_t c = args->assign[(size_t)job * 1500 + order[i]];
                const float *mean = before + ((size_t)job * args->cluster_capacity + c) * 32;
                /* A member farther away than an outlier stays only as the last of its cluster. */
                if (distance_to(&f, job, order[i], mean) > nearest_outlier * (1 + 1e-9))
                    assert_int_equal(args->sizes[(size_t)job * args->cluster_capacity + c], 1);
            }
        }
        free(before);
        build_close(&f);
    }
}

static void test_every_cluster_keeps_a_member_at_any_share(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = made(100, 1000000, &build_backends[b], &prng);
        build_run(&f, &build_backends[b]);
        check_order(&f);
        for (uint32_t job = 0; job < 2; job++)
            assert_int_equal(f.args.outlier_count[job] + f.args.cluster_count[job], 100);
        build_close(&f);
    }
}

static void test_outliers_stay_within_capacity(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = made(1024, 900000, &build_backends[b], &prng);
        build_run(&f, &build_backends[b]);
        check_order(&f);
        assert_int_equal(f.args.outlier_count[0], LW_OUTLIERS_PER_UNIT_MAX);
        f.args.outlier_capacity = 0;
        build_run(&f, &build_backends[b]);
        check_order(&f);
        assert_int_equal(f.args.outlier_count[0], 0);
        build_close(&f);
    }
}

static void test_a_key_on_its_centroid_is_no_outlier(void **state)
{
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {
            .jobs = 1, .tokens = 128, .head_dim = 8, .dtype = LW_DTYPE_BF16, .outlier_ppm = 500000};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        for (uint32_t t = 0; t < 128; t++)
            for (uint32_t j = 0; j < 8; j++)
                build_set(&f, 0, t, j, 1.25f, 1);
        build_run(&f, &build_backends[b]);
        check_order(&f);
        assert_int_equal(f.args.outlier_count[0], 0);
        assert_true(f.args.spreads[0] == 0);
        build_close(&f);
    }
}

/* Integers whose sums are exact in fp32: value means times the tokens that they stand for must give the total
 * back. */
static void test_values_are_conserved(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = made(1024, 125000, &build_backends[b], &prng);
        const lwk_build_t *args = &f.args;
        for (uint32_t t = 0; t < 1024; t++)
            for (uint32_t j = 0; j < 32; j++)
                build_set(&f, 1, t, j, build_key(&f, 1, t, j), (float)lw_prng_below(&prng, 200) - 100);
        build_run(&f, &build_backends[b]);
        for (uint32_t j = 0; j < 32; j++) {
            double total = 0, parts = 0;
            for (uint32_t t = 0; t < 1024; t++)
                total += build_value(&f, 1, t, j);
            for (uint32_t c = 0; c < args->cluster_count[1]; c++) {
                size_t at = (size_t)args->cluster_capacity + c;
                uint32_t tokens = args->sizes[at];
                for (uint32_t o = 0; o < args->outlier_count[1]; o++)
                    tokens += args->parents[args->outlier_capacity + o] == c;
                parts += rint(tokens * (double)args->value_means[at * 32 + j]);
            }
            assert_true(parts == total);
        }
        build_close(&f);
    }
}

static void test_key_means_leave_outliers_out_and_value_means_do_not(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = made(700, 125000, &build_backends[b], &prng);
        const lwk_build_t *args = &f.args;
        build_run(&f, &build_backends[b]);
        const uint32_t *order = args->order;
        for (uint32_t c = 0; c < args->cluster_count[0]; order += args->sizes[c], c++) {
            double spread = 0;
            for (uint32_t j = 0; j < 32; j++) {
                double key = 0, value = 0, tokens = 0;
                for (uint32_t i = 0; i < args->sizes[c]; i++)
                    key += build_key(&f, 0, order[i], j) / (double)args->sizes[c];
                for (uint32_t t = 0; t < 700; t++)
                    if (args->assign[t] == c) {
                        value += build_value(&f, 0, t, j);
                        tokens++;
                    }
                assert_true(fabs(args->centroids[c * 32 + j] - key) < 1e-6);
                assert_true(fabs(args->value_means[c * 32 + j] - value / tokens) < 1e-6);
            }
            for (uint32_t i = 0; i < args->sizes[c]; i++)
                spread += distance_to(&f, 0, order[i], args->centroids + c * 32) / args->sizes[c];
            assert_true(fabs(args->spreads[c] - spread) <= 1e-5 * spread);
        }
        build_close(&f);
    }
}

static void test_huge_keys_give_finite_spreads(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {
            .jobs = 1, .tokens = 300, .head_dim = 16, .dtype = LW_DTYPE_BF16, .outlier_ppm = 125000};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_fill_noise(&f, &prng, 1e30);
        build_run(&f, &build_backends[b]);
        for (uint32_t c = 0; c < f.args.cluster_count[0]; c++)
            assert_true(isfinite(f.args.spreads[c]));
        for (uint32_t i = 0; i < 2 + 2 * 16 * 16; i++)
            assert_true(isfinite(f.args.moment_sums[i]));
        build_close(&f);
    }
}

static void test_every_backend_chooses_as_ref_does_from_the_same_clusters(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_fixture_t f = made(1001, 125000, &build_backends[0], &prng);
    lwk_build_t *args = &f.args;
    uint32_t *order = malloc(2002 * sizeof *order);
    assert_int_equal(lwk_ref_kmeans(NULL, args, NULL), LW_OK);
    size_t floats = 2 * (size_t)args->cluster_capacity * 32;
    float *centroids = malloc(floats * sizeof *centroids), *values = malloc(floats * sizeof *values);
    memcpy(centroids, args->centroids, floats * sizeof *centroids);
    assert_int_equal(lwk_ref_outliers(NULL, args, NULL), LW_OK);
    memcpy(order, args->order, 2002 * sizeof *order);
    memcpy(values, args->value_means, floats * sizeof *values);
    for (int b = BUILD_CPU; b < build_count(); b++) {
        build_use(&f, &build_backends[b]);
        memcpy(args->centroids, centroids, floats * sizeof *centroids);
        memset(args->order, 0xA5, 2002 * sizeof *order);
        assert_int_equal(build_backends[b].outliers(NULL, args, NULL), LW_OK);
        assert_memory_equal(order, args->order, 2002 * sizeof *order);
        for (uint32_t job = 0; job < 2; job++)
            assert_memory_equal(values + (size_t)job * args->cluster_capacity * 32,
                                args->value_means + (size_t)job * args->cluster_capacity * 32,
                                args->cluster_count[job] * 32 * sizeof *values);
    }
    free(order);
    free(centroids);
    free(values);
    build_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outliers_refuse_a_workspace_that_is_too_small),
        cmocka_unit_test(test_outliers_are_the_farthest_but_for_each_clusters_keeper),
        cmocka_unit_test(test_every_cluster_keeps_a_member_at_any_share),
        cmocka_unit_test(test_outliers_stay_within_capacity),
        cmocka_unit_test(test_a_key_on_its_centroid_is_no_outlier),
        cmocka_unit_test(test_values_are_conserved),
        cmocka_unit_test(test_key_means_leave_outliers_out_and_value_means_do_not),
        cmocka_unit_test(test_huge_keys_give_finite_spreads),
        cmocka_unit_test(test_every_backend_chooses_as_ref_does_from_the_same_clusters),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
