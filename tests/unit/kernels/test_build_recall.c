/* test_build_recall.c - how many of the 100 tokens with the largest logits lie in the clusters ranked first,
 * 128K synthetic tokens in segments of 8,192, at 1.8% of the tokens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"
#include "unit/kernels/synthetic_keys.h"

#define SEGMENTS 16u
#define SEGMENT 8192u
#define TOKENS (SEGMENTS * SEGMENT)
#define HEAD_DIM 64u
#define QUERIES 16u
#define TOP 100u

typedef struct ranked {
    double key;
    uint32_t at;
} ranked_t;

static int by_key_down(const void *a, const void *b)
{
    const ranked_t *x = a, *y = b;
    return x->key < y->key ? 1 : x->key > y->key ? -1 : (x->at > y->at) - (x->at < y->at);
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (uint32_t j = 0; j < HEAD_DIM; j++)
        sum += (double)a[j] * b[j];
    return sum;
}

static void find_top(const float *query, const float *keys, ranked_t *list, uint32_t *top_out)
{
    for (uint32_t t = 0; t < TOKENS; t++)
        list[t] = (ranked_t){dot(query, keys + (size_t)t * HEAD_DIM), t};
    qsort(list, TOKENS, sizeof *list, by_key_down);
    for (uint32_t i = 0; i < TOP; i++)
        top_out[i] = list[i].at;
}

static double recall_of(const build_fixture_t *f, const float *query, const uint32_t *top, ranked_t *list,
                        uint8_t *chosen)
{
    const lwk_build_t *args = &f->args;
    uint32_t entries = 0, taken = 0, found = 0;
    for (uint32_t s = 0; s < SEGMENTS; s++)
        for (uint32_t c = 0; c < args->cluster_count[s]; c++, entries++)
            list[entries] =
                (ranked_t){dot(query, args->centroids + ((size_t)s * args->cluster_capacity + c) * HEAD_DIM),
                           s * args->cluster_capacity + c};
    qsort(list, entries, sizeof *list, by_key_down);
    memset(chosen, 0, SEGMENTS * args->cluster_capacity);
    for (uint32_t e = 0; e < entries && taken < TOKENS * 18ull / 1000; e++) {
        chosen[list[e].at] = 1;
        taken += args->sizes[list[e].at];
    }
    for (uint32_t i = 0; i < TOP; i++)
        found += chosen[top[i] / SEGMENT * args->cluster_capacity + args->assign[top[i]]];
    return (double)found / TOP;
}

static double mean_recall(build_fixture_t *f, uint32_t iterations, const float *queries, const uint32_t *top,
                          ranked_t *list)
{
    uint8_t *chosen = malloc(SEGMENTS * f->args.cluster_capacity);
    double sum = 0;
    f->args.iterations = iterations;
    assert_int_equal(lwk_cpu_kmeans(NULL, &f->args, NULL), LW_OK);
    for (uint32_t i = 0; i < QUERIES; i++)
        sum += recall_of(f, queries + (size_t)i * HEAD_DIM, top + i * TOP, list, chosen);
    free(chosen);
    return sum / QUERIES;
}

static void test_recall_of_the_top_100_reaches_its_gate(void **state)
{
    float *keys = malloc((size_t)TOKENS * HEAD_DIM * sizeof *keys),
          *queries = malloc(QUERIES * HEAD_DIM * sizeof *queries);
    build_spec_t build = {.jobs = SEGMENTS, .tokens = SEGMENT, .head_dim = HEAD_DIM, .dtype = LW_DTYPE_FP32};
    synthetic_spec_t spec = {
        .tokens = TOKENS, .head_dim = HEAD_DIM, .queries = QUERIES, .seed = 20, .noise = 0.3};
    build_fixture_t f = build_open(&build, &build_backends[1]);
    synthetic_keys(&spec, keys, queries);
    memcpy(f.keys, keys, (size_t)TOKENS * HEAD_DIM * sizeof *keys);
    ranked_t *list = malloc(TOKENS * sizeof *list);
    uint32_t *top = malloc(QUERIES * TOP * sizeof *top);
    for (uint32_t i = 0; i < QUERIES; i++)
        find_top(queries + (size_t)i * HEAD_DIM, keys, list, top + i * TOP);
    double ten = mean_recall(&f, 10, queries, top, list), four = mean_recall(&f, 4, queries, top, list);
    double one = mean_recall(&f, 1, queries, top, list);
    printf("recall@100 after 10, 4, 1 rounds: %.3f %.3f %.3f\n", ten, four, one);
    assert_true(ten >= 0.86);
    assert_true(ten > one + 0.01);
    free(keys);
    free(queries);
    free(list);
    free(top);
    build_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recall_of_the_top_100_reaches_its_gate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
