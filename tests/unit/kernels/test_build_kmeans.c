/* test_build_kmeans.c - what k-means promises on every backend, and that cpu does as ref does. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

static void check_partition(const build_fixture_t *f)
{
    const lwk_build_t *args = &f->args;
    for (uint32_t job = 0; job < args->job_count; job++) {
        uint32_t clusters = args->cluster_count[job], sum = 0,
                 members[LW_CLUSTERS_PER_UNIT_MAX * LW_SEGMENT_UNITS_MAX] = {0};
        assert_in_range(clusters, 1, args->cluster_capacity);
        for (uint32_t t = 0; t < args->token_count; t++) {
            uint32_t c = args->assign[(size_t)job * args->token_count + t];
            assert_true(c < clusters);
            members[c]++;
        }
        for (uint32_t c = 0; c < clusters; c++) {
            assert_int_equal(args->sizes[(size_t)job * args->cluster_capacity + c], members[c]);
            assert_in_range(members[c], 1, 4 * args->cluster_tokens);
            sum += members[c];
        }
        assert_int_equal(sum, args->token_count);
        assert_int_equal(args->outlier_count[job], 0);
    }
}

/* Every centroid against a plain mean in double. */
static void check_means(const build_fixture_t *f)
{
    const lwk_build_t *args = &f->args;
    uint32_t d = args->head_dim, n = args->token_count;
    for (uint32_t job = 0; job < args->job_count; job++)
        for (uint32_t c = 0; c < args->cluster_count[job]; c++)
            for (uint32_t j = 0; j < d; j++) {
                double sum = 0, size = 0, most = 0;
                for (uint32_t t = 0; t < n; t++)
                    if (args->assign[(size_t)job * n + t] == c) {
                        double key = build_key(f, job, t, j);
                        sum += key;
                        size++;
                        most = fmax(most, fabs(key));
                    }
                float centroid = args->centroids[((size_t)job * args->cluster_capacity + c) * d + j];
                assert_true(isfinite(centroid));
                assert_true(fabs(centroid - sum / size) <= 1e-6 * most);
            }
}

static void expect_valid_clusters(build_fixture_t *f)
{
    for (int b = 0; b < build_count(); b++) {
        const build_ops_t *ops = &build_backends[b];
        build_use(f, ops);
        assert_int_equal(ops->kmeans(NULL, &f->args, NULL), LW_OK);
        check_partition(f);
        check_means(f);
    }
}

static double objective(const build_fixture_t *f, uint32_t job)
{
    const lwk_build_t *args = &f->args;
    double sum = 0;
    for (uint32_t t = 0; t < args->token_count; t++) {
        uint32_t c = args->assign[(size_t)job * args->token_count + t];
        for (uint32_t j = 0; j < args->head_dim; j++) {
            double gap = (double)build_key(f, job, t, j) -
                         args->centroids[((size_t)job * args->cluster_capacity + c) * args->head_dim + j];
            sum += gap * gap;
        }
    }
    return sum;
}

static void test_kmeans_refuses_shapes_that_do_not_fit(void **state)
{
    build_spec_t spec = {.jobs = 1, .tokens = 100, .head_dim = 16, .dtype = LW_DTYPE_FP32};
    for (int b = 0; b < build_count(); b++) {
        const build_ops_t *ops = &build_backends[b];
        build_fixture_t f = build_open(&spec, ops);
        struct {
            uint32_t *field, bad;
        } cases[] = {
            {&f.args.token_count, 0},
            {&f.args.token_count, LW_SEGMENT_TOKENS_MAX + 1},
            {&f.args.head_dim, 0},
            {&f.args.head_dim, 12},
            {&f.args.head_dim, LW_HEAD_DIM_MAX + 8},
            {&f.args.dtype, 0},
            {&f.args.dtype, 9},
            {&f.args.ring_rows, 99},
            {&f.args.ring_rows, 0},
            {&f.args.first_row, 100},
            {&f.args.cluster_tokens, 0},
            {&f.args.cluster_capacity, 1},
            {&f.args.cluster_capacity, 70000},
            {&f.args.outlier_ppm, 1000001},
        };
        for (size_t i = 0; i < LW_ARRAY_SIZE(cases); i++) {
            uint32_t good = *cases[i].field;
            *cases[i].field = cases[i].bad;
            assert_int_equal(ops->kmeans(NULL, &f.args, NULL), LW_ERR_INVALID);
            *cases[i].field = good;
        }
        f.args.workspace_bytes = 100;
        assert_int_equal(ops->kmeans(NULL, &f.args, NULL), LW_ERR_INVALID);
        assert_int_equal(f.args.cluster_count[0], 0xA5A5A5A5u);
        build_close(&f);
    }
}

static void test_clusters_partition_the_tokens_for_any_count(void **state)
{
    static const uint32_t counts[] = {1, 2, 15, 17, 63, 65, 1000, 1023, 1024, 2047};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (size_t i = 0; i < LW_ARRAY_SIZE(counts); i++) {
        build_spec_t spec = {.jobs = 2,
                             .tokens = counts[i],
                             .head_dim = i % 2 ? 24 : 64,
                             .dtype = i % 3 == 0   ? LW_DTYPE_BF16
                                      : i % 3 == 1 ? LW_DTYPE_FP16
                                                   : LW_DTYPE_FP32,
                             .ring_rows = counts[i] + 7,
                             .first_row = counts[i] / 2};
        build_fixture_t f = build_open(&spec, &build_backends[0]);
        build_fill_noise(&f, &prng, 1);
        expect_valid_clusters(&f);
        build_close(&f);
    }
}

static void test_equal_keys_are_cut_into_bounded_clusters(void **state)
{
    build_spec_t spec = {.jobs = 1, .tokens = 8192, .head_dim = 8, .dtype = LW_DTYPE_BF16};
    build_fixture_t f = build_open(&spec, &build_backends[0]);
    for (uint32_t t = 0; t < 8192; t++)
        for (uint32_t j = 0; j < 8; j++)
            build_set(&f, 0, t, j, 3, (float)t);
    expect_valid_clusters(&f);
    assert_int_equal(f.args.cluster_count[0], 128);
    build_close(&f);
}

static void test_a_cluster_of_half_the_tokens_is_cut_within_capacity(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_spec_t spec = {.jobs = 1, .tokens = 2048, .head_dim = 16, .dtype = LW_DTYPE_FP32};
    build_fixture_t f = build_open(&spec, &build_backends[0]);
    build_fill_noise(&f, &prng, 1);
    for (uint32_t t = 0; t < 2048; t += 2)
        for (uint32_t j = 0; j < 16; j++)
            build_set(&f, 0, t, j, j == 0 ? 50 : 0, 1);
    expect_valid_clusters(&f);
    build_close(&f);
}

static void test_capacity_below_the_usual_number_is_kept(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    /* 16 clusters are the fewest that can hold 1,024 tokens at 64 each. */
    for (uint32_t capacity = 16; capacity <= 80; capacity += 8) {
        build_spec_t spec = {
            .jobs = 1, .tokens = 1024, .head_dim = 16, .dtype = LW_DTYPE_FP32, .cluster_capacity = capacity};
        build_fixture_t f = build_open(&spec, &build_backends[0]);
        build_fill_noise(&f, &prng, 1);
        expect_valid_clusters(&f);
        build_close(&f);
    }
}

static void test_huge_and_tiny_keys_give_finite_centroids(void **state)
{
    static const double scales[] = {1e30, 1e-30, 3e37};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (size_t i = 0; i < LW_ARRAY_SIZE(scales); i++) {
        build_spec_t spec = {.jobs = 1, .tokens = 300, .head_dim = 16, .dtype = LW_DTYPE_BF16};
        build_fixture_t f = build_open(&spec, &build_backends[0]);
        build_fill_noise(&f, &prng, scales[i]);
        expect_valid_clusters(&f);
        assert_true(f.args.cluster_count[0] >= 15);
        build_close(&f);
    }
}

static void test_separated_groups_are_found_and_equal_on_all_backends(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_spec_t spec = {.jobs = 3, .tokens = 1008, .head_dim = 64, .dtype = LW_DTYPE_BF16};
    build_fixture_t f = build_open(&spec, &build_backends[0]);
    uint32_t groups = 63, n = 1008;
    build_fill_groups(&f, &prng, groups);
    expect_valid_clusters(&f);
    assert_int_equal(f.args.cluster_count[2], groups);
    for (uint32_t t = 0; t < n; t++)
        assert_int_equal(f.args.assign[2 * n + t], t / 16);
    size_t floats = 3 * (size_t)f.args.cluster_capacity * 64;
    uint16_t *ref = malloc(3 * n * sizeof *ref);
    float *centroids = malloc(floats * sizeof *centroids);
    for (int b = 0; b < build_count(); b++) {
        build_use(&f, &build_backends[b]);
        memset(f.args.centroids, 0, floats * sizeof *centroids);
        assert_int_equal(build_backends[b].kmeans(NULL, &f.args, NULL), LW_OK);
        if (b == BUILD_REF) {
            memcpy(ref, f.args.assign, 3 * n * sizeof *ref);
            memcpy(centroids, f.args.centroids, floats * sizeof *centroids);
        }
        assert_memory_equal(ref, f.args.assign, 3 * n * sizeof *ref);
        assert_memory_equal(centroids, f.args.centroids, floats * sizeof *centroids);
    }
    free(ref);
    free(centroids);
    build_close(&f);
}

static void test_every_backend_reaches_the_objective_of_ref(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_spec_t spec = {.jobs = 2, .tokens = 2048, .head_dim = 64, .dtype = LW_DTYPE_BF16};
    build_fixture_t f = build_open(&spec, &build_backends[0]);
    build_fill_noise(&f, &prng, 1);
    double sum[3] = {0, 0, 0};
    for (int b = 0; b < build_count(); b++) {
        build_use(&f, &build_backends[b]);
        assert_int_equal(build_backends[b].kmeans(NULL, &f.args, NULL), LW_OK);
        for (uint32_t job = 0; job < 2; job++)
            sum[b] += objective(&f, job);
        printf("objective: %s %.6g, %+.2g of ref's\n", build_backends[b].name, sum[b], sum[b] / sum[0] - 1);
        assert_true(fabs(sum[b] / sum[0] - 1) < 1e-3);
    }
    build_close(&f);
}

static void test_rounds_lower_the_objective(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    build_spec_t spec = {.jobs = 1, .tokens = 1024, .head_dim = 32, .dtype = LW_DTYPE_FP32};
    for (int b = 0; b < build_count(); b++) {
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_fill_noise(&f, &prng, 1);
        f.args.iterations = 1;
        assert_int_equal(build_backends[b].kmeans(NULL, &f.args, NULL), LW_OK);
        double one = objective(&f, 0);
        f.args.iterations = 10;
        assert_int_equal(build_backends[b].kmeans(NULL, &f.args, NULL), LW_OK);
        assert_true(objective(&f, 0) < 0.98 * one);
        build_close(&f);
    }
}

static void test_a_job_does_not_depend_on_its_neighbours_or_its_ring(void **state)
{
    for (int b = 0; b < build_count(); b++) {
        build_spec_t alone = {.jobs = 1, .tokens = 500, .head_dim = 32, .dtype = LW_DTYPE_BF16};
        build_spec_t among = {.jobs = 3,
                              .tokens = 500,
                              .head_dim = 32,
                              .dtype = LW_DTYPE_BF16,
                              .ring_rows = 640,
                              .first_row = 300};
        build_fixture_t f = build_open(&alone, &build_backends[b]),
                        g = build_open(&among, &build_backends[b]);
        lw_prng_t prng;
        lw_prng_seed(&prng, seed + 1);
        build_fill_noise(&g, &prng, 1);
        for (uint32_t t = 0; t < 500; t++)
            for (uint32_t j = 0; j < 32; j++)
                build_set(&f, 0, t, j, build_key(&g, 1, t, j), build_value(&g, 1, t, j));
        build_run(&f, &build_backends[b]);
        build_run(&g, &build_backends[b]);
        assert_memory_equal(f.args.assign, g.args.assign + 500, 500 * sizeof(uint16_t));
        assert_memory_equal(f.record_bytes, g.records[1], 500u * 2 * 2 * 32);
        build_close(&f);
        build_close(&g);
    }
}

static void test_the_same_input_gives_the_same_bits(void **state)
{
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {.jobs = 2,
                             .tokens = 1000,
                             .head_dim = 64,
                             .dtype = LW_DTYPE_BF16,
                             .outlier_ppm = 125000,
                             .cluster_encoding = LW_ENCODING_INT8,
                             .outlier_encoding = LW_ENCODING_INT4};
        build_fixture_t f[2];
        for (int i = 0; i < 2; i++) {
            lw_prng_t prng;
            lw_prng_seed(&prng, seed);
            f[i] = build_open(&spec, &build_backends[b]);
            build_fill_noise(&f[i], &prng, 1);
            build_run(&f[i], &build_backends[b]);
        }
        size_t d = 64;
        assert_memory_equal(f[0].args.assign, f[1].args.assign, 2000 * sizeof(uint16_t));
        assert_memory_equal(f[0].args.order, f[1].args.order, 2000 * sizeof(uint32_t));
        assert_memory_equal(f[0].args.index, f[1].args.index, 2 * f[0].args.index_stride);
        assert_memory_equal(f[0].args.moment_sums, f[1].args.moment_sums,
                            2 * (2 + 2 * d * d) * sizeof(double));
        assert_memory_equal(f[0].record_bytes, f[1].record_bytes, 2000 * 2 * 2 * d);
        build_close(&f[0]);
        build_close(&f[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kmeans_refuses_shapes_that_do_not_fit),
        cmocka_unit_test(test_clusters_partition_the_tokens_for_any_count),
        cmocka_unit_test(test_equal_keys_are_cut_into_bounded_clusters),
        cmocka_unit_test(test_a_cluster_of_half_the_tokens_is_cut_within_capacity),
        cmocka_unit_test(test_capacity_below_the_usual_number_is_kept),
        cmocka_unit_test(test_huge_and_tiny_keys_give_finite_centroids),
        cmocka_unit_test(test_separated_groups_are_found_and_equal_on_all_backends),
        cmocka_unit_test(test_every_backend_reaches_the_objective_of_ref),
        cmocka_unit_test(test_rounds_lower_the_objective),
        cmocka_unit_test(test_a_job_does_not_depend_on_its_neighbours_or_its_ring),
        cmocka_unit_test(test_the_same_input_gives_the_same_bits),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
