/* test_loops.c - the cpu backend's inner loops, each instruction set that runs here, against plain double
 * arithmetic: every kind of row, every count of rows and queries around the sizes of the blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "kernels/cpu/cpu_private.h"

static lw_prng_t prng;

static float uniform(void)
{
    return (float)(2 * lw_prng_unit(&prng) - 1);
}

static const lwk_loops_t *loops_at(int level)
{
#if defined(__x86_64__)
    bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (level == 1)
        return avx2 ? &lwk_loops_avx2 : NULL;
    if (level == 2)
        return avx2 && __builtin_cpu_supports("avx512f") ? &lwk_loops_avx512 : NULL;
#endif
    return level == 0 ? &lwk_loops_plain : NULL;
}

#define ROWS_MAX 140u
#define QUERIES_MAX 9u

typedef struct fixture {
    uint32_t d, row_count, query_count;
    uint8_t rows[ROWS_MAX][4 * LW_HEAD_DIM_MAX];
    double row[ROWS_MAX][LW_HEAD_DIM_MAX]; /* the same in double */
    float query[QUERIES_MAX][LW_HEAD_DIM_MAX], weight[QUERIES_MAX][ROWS_MAX];
    const uint8_t *row_at[ROWS_MAX];
    const float *query_at[QUERIES_MAX], *weight_at[QUERIES_MAX];
} fixture_t;

static void fill_row(fixture_t *f, lwk_row_kind_t kind, uint32_t r)
{
    for (uint32_t j = 0; j < f->d; j++) {
        int code = (int)lw_prng_below(&prng, 255) - 127, nibble = (int)lw_prng_below(&prng, 15) - 7;
        switch (kind) {
        case LWK_ROW_INT8:
            f->rows[r][j] = (uint8_t)code;
            f->row[r][j] = code;
            break;
        case LWK_ROW_INT4:
            f->rows[r][j / 2] = (uint8_t)(j % 2 == 0 ? nibble & 15 : f->rows[r][j / 2] | (nibble & 15) << 4);
            f->row[r][j] = nibble;
            break;
        default: {
            uint32_t dtype = kind == LWK_ROW_FP32   ? LW_DTYPE_FP32
                             : kind == LWK_ROW_BF16 ? LW_DTYPE_BF16
                                                    : LW_DTYPE_FP16;
            lwk_store(f->rows[r], dtype, j, uniform());
            f->row[r][j] = lwk_load(f->rows[r], dtype, j);
        }
        }
    }
}

static fixture_t *make(lwk_row_kind_t kind, uint32_t d, uint32_t rows, uint32_t queries)
{
    fixture_t *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->d = d;
    f->row_count = rows;
    f->query_count = queries;
    for (uint32_t r = 0; r < rows; r++) {
        fill_row(f, kind, r);
        f->row_at[r] = f->rows[r];
    }
    for (uint32_t q = 0; q < queries; q++) {
        for (uint32_t j = 0; j < d; j++)
            f->query[q][j] = uniform();
        for (uint32_t r = 0; r < rows; r++)
            f->weight[q][r] = uniform();
        f->query_at[q] = f->query[q];
        f->weight_at[q] = f->weight[q];
    }
    return f;
}

static void check_dot(const lwk_loops_t *loops, const fixture_t *f, lwk_row_kind_t kind)
{
    float dots[QUERIES_MAX][ROWS_MAX + 1], *dots_at[QUERIES_MAX];
    for (uint32_t q = 0; q < f->query_count; q++) {
        dots_at[q] = dots[q];
        dots[q][f->row_count] = 12345;
    }
    loops->dot[kind](f->row_at, f->row_count, f->query_at, f->query_count, f->d, dots_at);
    for (uint32_t q = 0; q < f->query_count; q++) {
        for (uint32_t r = 0; r < f->row_count; r++) {
            double exact = 0, size = 0;
            for (uint32_t j = 0; j < f->d; j++) {
                exact += f->query[q][j] * f->row[r][j];
                size += fabs(f->query[q][j] * f->row[r][j]);
            }
            assert_true(fabs(dots[q][r] - exact) <= 1e-6 * size);
        }
        assert_true(dots[q][f->row_count] == 12345); /* nothing is written past the end */
    }
}

static void check_accumulate(const lwk_loops_t *loops, const fixture_t *f, lwk_row_kind_t kind)
{
    float out[QUERIES_MAX][LW_HEAD_DIM_MAX + 1], *out_at[QUERIES_MAX];
    for (uint32_t q = 0; q < f->query_count; q++) {
        out_at[q] = out[q];
        for (uint32_t j = 0; j <= f->d; j++)
            out[q][j] = (float)j;
    }
    loops->accumulate[kind](f->row_at, f->row_count, f->weight_at, f->query_count, f->d, out_at);
    for (uint32_t q = 0; q < f->query_count; q++) {
        for (uint32_t j = 0; j < f->d; j++) {
            double exact = j, size = j;
            for (uint32_t r = 0; r < f->row_count; r++) {
                exact += f->weight[q][r] * f->row[r][j];
                size += fabs(f->weight[q][r] * f->row[r][j]);
            }
            assert_true(fabs(out[q][j] - exact) <= 2e-6 * size);
        }
        assert_true(out[q][f->d] == (float)f->d);
    }
}

static void test_dot_and_accumulate_for_every_kind_and_count(void **state)
{
    const uint32_t row_counts[] = {1, 2, 3, 4, 5, 17, 64, 65, 131}, query_counts[] = {1, 2, 3, 4, 5, 8, 9};
    const uint32_t dims[] = {8, 64, 80, 96, 128, 256};
    for (int level = 0; level < 3; level++) {
        const lwk_loops_t *loops = loops_at(level);
        for (lwk_row_kind_t kind = 0; loops != NULL && kind < LWK_ROW_KINDS; kind++)
            for (uint32_t i = 0; i < LW_ARRAY_SIZE(row_counts) * LW_ARRAY_SIZE(query_counts); i++) {
                uint32_t d = dims[(i + (uint32_t)kind) % LW_ARRAY_SIZE(dims)];
                if (d % loops->head_dim_step != 0)
                    d = 128;
                fixture_t *f = make(kind, d, row_counts[i % LW_ARRAY_SIZE(row_counts)],
                                    query_counts[i / LW_ARRAY_SIZE(row_counts)]);
                check_dot(loops, f, kind);
                check_accumulate(loops, f, kind);
                free(f);
            }
    }
}

static void test_exponentials_are_exact_at_zero_and_zero_below(void **state)
{
    for (int level = 0; level < 3; level++) {
        const lwk_loops_t *loops = loops_at(level);
        if (loops == NULL)
            continue;
        float x[37], y[37];
        for (int i = 0; i < 37; i++)
            x[i] = y[i] = i < 3   ? 0
                          : i < 6 ? -INFINITY
                          : i < 9 ? -88.0f - (float)i
                                  : -86.0f * (float)lw_prng_unit(&prng);
        float sum = loops->exp_sum(x, 37, 0);
        double exact = 0;
        for (int i = 0; i < 37; i++) {
            exact += exp(y[i]);
            if (i < 3)
                assert_true(x[i] == 1.0f);
            else if (i < 9)
                assert_true(x[i] == 0.0f);
            else
                assert_true(fabs(x[i] - exp(y[i])) <= 3e-7 * exp(y[i]));
        }
        assert_true(fabs(sum - exact) <= 1e-6 * exact);
    }
}

static void test_soft_caps_follow_the_hyperbolic_tangent(void **state)
{
    for (int level = 0; level < 3; level++) {
        const lwk_loops_t *loops = loops_at(level);
        if (loops == NULL)
            continue;
        float x[21], y[21];
        for (int i = 0; i < 21; i++)
            x[i] = y[i] = i == 0 ? 0 : i == 1 ? 1e6f : i == 2 ? -1e6f : 200 * uniform();
        float largest = loops->cap(x, 21, 0.5f, 30.0f);
        for (int i = 0; i < 21; i++)
            assert_true(fabs(x[i] - 30 * tanh(0.5 * y[i] / 30)) <= 1e-5);
        assert_true(fabs(largest - 30) <= 1e-5);
    }
}

static void test_the_largest_of_a_short_array_ignores_what_follows(void **state)
{
    for (int level = 0; level < 3; level++) {
        const lwk_loops_t *loops = loops_at(level);
        float x[40];
        for (int i = 0; i < 40; i++)
            x[i] = i < 19 ? -5.0f - (float)i : 100.0f;
        for (uint32_t n = 1; loops != NULL && n <= 19; n++)
            assert_true(loops->largest(x, n) == -5.0f);
        if (loops != NULL)
            assert_true(loops->largest(x, 0) == -INFINITY);
    }
}

int main(void)
{
    uint64_t seed = getenv("LW_SEED") != NULL ? strtoull(getenv("LW_SEED"), NULL, 0) : (uint64_t)time(NULL);
    printf("LW_SEED=%llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dot_and_accumulate_for_every_kind_and_count),
        cmocka_unit_test(test_exponentials_are_exact_at_zero_and_zero_below),
        cmocka_unit_test(test_soft_caps_follow_the_hyperbolic_tangent),
        cmocka_unit_test(test_the_largest_of_a_short_array_ignores_what_follows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
