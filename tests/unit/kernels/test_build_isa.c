/* test_build_isa.c - each instruction set's loops against the plain ones, on every set that this processor
 * runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

#include "kernels/cpu/build_private.h"

static uint64_t seed;

static float *noise(lw_prng_t *prng, size_t count)
{
    float *numbers = aligned_alloc(64, (count * sizeof *numbers + 63) / 64 * 64);
    assert_non_null(numbers);
    for (size_t i = 0; i < count; i++)
        numbers[i] = (float)build_normal(prng);
    return numbers;
}

static void test_the_best_set_runs_here(void **state)
{
    const lwk_cpu_build_isa_t *best = lwk_cpu_build_isa();
    printf("best: %s\n", best->name);
    assert_non_null(lwk_cpu_build_isa_at(0));
    assert_null(lwk_cpu_build_isa_at(LWK_CPU_BUILD_ISAS));
}

static void test_assign_finds_the_largest_inner_product(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    uint32_t n = 101, d = 40, clusters = 70, panels = 6;
    float *rows = noise(&prng, 108 * d), *lanes = noise(&prng, (size_t)panels * 16 * d);
    uint16_t *assign = malloc(n * sizeof *assign), *fused = malloc(n * sizeof *fused);
    for (uint32_t c = clusters; c < panels * 16; c++)
        for (uint32_t j = 0; j < d; j++)
            lanes[(c / 16 * d + j) * 16 + c % 16] =
                lanes[((clusters - 1) / 16 * d + j) * 16 + (clusters - 1) % 16];
    for (unsigned at = 0; at < LWK_CPU_BUILD_ISAS; at++) {
        const lwk_cpu_build_isa_t *isa = lwk_cpu_build_isa_at(at);
        if (isa == NULL)
            continue;
        memset(assign, 0xFF, n * sizeof *assign);
        assert_int_equal(isa->assign(rows, n, d, lanes, panels, assign), n);
        assert_int_equal(isa->assign(rows, n, d, lanes, panels, assign), 0);
        for (uint32_t t = 0; t < n; t++) {
            double best = -INFINITY, chosen = 0;
            for (uint32_t c = 0; c < clusters; c++) {
                double dot = 0;
                for (uint32_t j = 0; j < d; j++)
                    dot += (double)rows[t * d + j] * lanes[(c / 16 * d + j) * 16 + c % 16];
                best = fmax(best, dot);
                chosen = c == assign[t] ? dot : chosen;
            }
            assert_true(assign[t] < clusters);
            assert_true(chosen >= best - 1e-4);
        }
        if (at == 1)
            memcpy(fused, assign, n * sizeof *fused);
        if (at == 2)
            assert_memory_equal(fused, assign, n * sizeof *fused);
    }
    free(rows);
    free(lanes);
    free(assign);
    free(fused);
}

static void test_assign_gives_ties_to_the_lower_cluster(void **state)
{
    uint32_t n = 12, d = 8;
    float rows[12 * 8], lanes[4 * 16 * 8];
    uint16_t assign[12];
    for (size_t i = 0; i < LW_ARRAY_SIZE(rows); i++)
        rows[i] = 1;
    for (uint32_t from = 0; from < 64; from++) {
        /* Clusters below `from` are worse, all others tie. */
        for (uint32_t c = 0; c < 64; c++)
            for (uint32_t j = 0; j < d; j++)
                lanes[(c / 16 * d + j) * 16 + c % 16] = c < from ? 0.5f : 1;
        for (unsigned at = 0; at < LWK_CPU_BUILD_ISAS; at++) {
            const lwk_cpu_build_isa_t *isa = lwk_cpu_build_isa_at(at);
            if (isa == NULL)
                continue;
            isa->assign(rows, n, d, lanes, 4, assign);
            for (uint32_t t = 0; t < n; t++)
                assert_int_equal(assign[t], from);
        }
    }
}

static void test_sums_distances_and_products_agree_with_the_plain_ones(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    uint32_t n = 77, d = 40, stride = 64, clusters = 5;
    float *rows = noise(&prng, n * d), *means = noise(&prng, clusters * d);
    float *left = noise(&prng, n * stride), *right = noise(&prng, n * stride);
    uint16_t assign[77];
    uint8_t skip[77];
    for (uint32_t t = 0; t < n; t++) {
        assign[t] = (uint16_t)lw_prng_below(&prng, clusters);
        skip[t] = lw_prng_below(&prng, 4) == 0;
    }
    double want_sums[5 * 40] = {0}, want_distance[77], *want_outer = calloc(d * d, sizeof(double));
    lwk_cpu_build_plain.add_rows(want_sums, rows, assign, skip, n, d);
    lwk_cpu_build_plain.distances(rows, means, assign, n, d, want_distance);
    lwk_cpu_build_plain.outer(left, right, n, d, stride, want_outer);
    for (unsigned at = 1; at < LWK_CPU_BUILD_ISAS; at++) {
        const lwk_cpu_build_isa_t *isa = lwk_cpu_build_isa_at(at);
        if (isa == NULL)
            continue;
        double sums[5 * 40] = {0}, distance[77], *outer = calloc(d * d, sizeof(double));
        isa->add_rows(sums, rows, assign, skip, n, d);
        isa->distances(rows, means, assign, n, d, distance);
        isa->outer(left, right, n, d, stride, outer);
        assert_memory_equal(sums, want_sums, sizeof sums);
        for (uint32_t t = 0; t < n; t++)
            assert_true(fabs(distance[t] - want_distance[t]) <= 1e-14 * want_distance[t]);
        for (uint32_t i = 0; i < d * d; i++)
            assert_true(fabs(outer[i] - want_outer[i]) < 1e-4);
        free(outer);
    }
    free(rows);
    free(means);
    free(left);
    free(right);
    free(want_outer);
}

static void test_rows_are_widened_and_centred_alike(void **state)
{
    static const uint32_t dtypes[] = {LW_DTYPE_BF16, LW_DTYPE_FP16, LW_DTYPE_FP32};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    uint32_t d = 72;
    float rows[72], *mean = noise(&prng, d);
    for (size_t k = 0; k < LW_ARRAY_SIZE(dtypes); k++) {
        for (uint32_t j = 0; j < d; j++)
            lwk_store(rows, dtypes[k], j, (float)build_normal(&prng));
        float want[72], want_gap[72], want_largest[8] = {0};
        lwk_cpu_build_plain.widen(rows, dtypes[k], d, want);
        lwk_cpu_build_plain.residual(rows, dtypes[k], mean, d, want_gap, want_largest);
        for (uint32_t j = 0; j < d; j++) {
            assert_true(want[j] == lwk_load(rows, dtypes[k], j));
            assert_true(want_gap[j] == want[j] - mean[j]);
            assert_true(fabsf(want_gap[j]) <= want_largest[j % 8]);
        }
        for (unsigned at = 1; at < LWK_CPU_BUILD_ISAS; at++) {
            const lwk_cpu_build_isa_t *isa = lwk_cpu_build_isa_at(at);
            float got[72], gap[72], largest[8] = {0};
            if (isa == NULL)
                continue;
            isa->widen(rows, dtypes[k], d, got);
            isa->residual(rows, dtypes[k], mean, d, gap, largest);
            assert_memory_equal(got, want, sizeof want);
            assert_memory_equal(gap, want_gap, sizeof gap);
            assert_memory_equal(largest, want_largest, sizeof largest);
        }
    }
    free(mean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_best_set_runs_here),
        cmocka_unit_test(test_assign_finds_the_largest_inner_product),
        cmocka_unit_test(test_assign_gives_ties_to_the_lower_cluster),
        cmocka_unit_test(test_sums_distances_and_products_agree_with_the_plain_ones),
        cmocka_unit_test(test_rows_are_widened_and_centred_alike),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
