/* exact.c - see exact.h. Logits in fp32 from keys that lie transposed in blocks; weights and sums in double.
 */
#include "bench/eval/exact.h"

#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "kernels/convert.h"
#include "kernels/ops.h"

#define BLOCK 32u   /* tokens side by side: the compiler turns a row of them into vectors */
#define LEAST 1e-12 /* weights below this share of the largest do not change an fp32 output */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

WIDE static void block_logits(const float *block, const float *query, float *logits_out)
{
    float sum[BLOCK] = {0};
    for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
        for (uint32_t t = 0; t < BLOCK; t++)
            sum[t] += query[j] * block[(size_t)j * BLOCK + t];
    for (uint32_t t = 0; t < BLOCK; t++)
        logits_out[t] = sum[t];
}

static void transpose(const uint16_t *keys, float *blocks_out)
{
    for (uint32_t t = 0; t < EVAL_TOKENS; t++)
        for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
            blocks_out[((size_t)(t / BLOCK) * EVAL_HEAD_DIM + j) * BLOCK + t % BLOCK] =
                lwk_bf16_to_f32(keys[(size_t)t * EVAL_HEAD_DIM + j]);
}

static void finish(const uint16_t *values, const float *logits, const eval_zone_t *zone, uint32_t query,
                   eval_exact_t *exact_out)
{
    uint32_t end = eval_position(query) + 1, recent = eval_recent_first(zone, query);
    double sum = 0, out[EVAL_HEAD_DIM] = {0};
    eval_exact_t exact = {.top_logit = -INFINITY};
    for (uint32_t t = 0; t < end; t = t + 1 == zone->index_end ? recent : t + 1)
        if (logits[t] > exact.top_logit) {
            exact.top_logit = logits[t];
            exact.top_token = t;
        }
    for (uint32_t t = 0; t < end; t = t + 1 == zone->index_end ? recent : t + 1) {
        double weight = exp((double)logits[t] - exact.top_logit);
        sum += weight;
        if (t < LW_SINK_TOKENS || t >= recent)
            exact.steady_mass += weight;
        if (weight < LEAST)
            continue;
        for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
            out[j] += weight * lwk_bf16_to_f32(values[(size_t)t * EVAL_HEAD_DIM + j]);
    }
    exact.steady_mass /= sum;
    exact.lse = exact.top_logit + log(sum);
    for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
        exact.out[j] = (float)(out[j] / sum);
    *exact_out = exact;
}

eval_exact_t *eval_exact_all(const eval_tensors_t *tensors, const eval_zone_t *zone, uint32_t query_step)
{
    eval_exact_t *all = calloc((size_t)EVAL_LAYERS * EVAL_QUERIES * EVAL_HEADS, sizeof *all);
    float *blocks = malloc((size_t)EVAL_TOKENS * EVAL_HEAD_DIM * sizeof *blocks),
          *logits = malloc(EVAL_TOKENS * sizeof *logits);
    LW_ASSERT(all != NULL && blocks != NULL && logits != NULL);
    double scale = 1 / sqrt(EVAL_HEAD_DIM);
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        uint32_t layer = job / EVAL_KV_HEADS, kv_head = job % EVAL_KV_HEADS;
        transpose(tensors->keys + eval_row(layer, kv_head, 0), blocks);
        for (uint32_t q = 0; q < EVAL_QUERIES; q += query_step)
            for (uint32_t head = kv_head * EVAL_GROUP; head < (kv_head + 1) * EVAL_GROUP; head++) {
                float query[EVAL_HEAD_DIM];
                for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
                    query[j] =
                        (float)(scale * lwk_bf16_to_f32(tensors->queries[eval_query(layer, q, head) + j]));
                for (uint32_t b = 0; b < EVAL_TOKENS / BLOCK; b++)
                    block_logits(blocks + (size_t)b * BLOCK * EVAL_HEAD_DIM, query,
                                 logits + (size_t)b * BLOCK);
                finish(tensors->values + eval_row(layer, kv_head, 0), logits, zone, q,
                       &all[eval_exact_at(layer, q, head)]);
            }
    }
    free(blocks);
    free(logits);
    return all;
}
