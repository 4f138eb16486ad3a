/* rows.c - see rows.h. Rows are made by several threads; the generator itself has no state. */
#include "bench/layer_step/rows.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/prng.h"
#include "kernels/view.h"

#define TOPICS 64u
#define PASSAGE_TOKENS 24u
#define THREADS_MAX 64u
static const float TOPIC = 1.0f, NOISE = 0.6f, MEAN = 2.0f, ASK = 0.75f, ASK_NOISE = 0.35f;

struct bench_rows {
    lwk_shape_t shape;
    uint64_t seed;
    float *mean;   /* [L][J][d] */
    float *topics; /* [L][J][TOPICS][d] for keys */
    float *gists;  /* the same for values */
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, a * 0x9E3779B97F4A7C15ull ^ b);
    return lw_prng_u64(&prng);
}

/* Nearly normal: the sum of four bytes, deviation 1. */
static float noise_of(uint32_t bits)
{
    uint32_t sum = (bits & 0xFF) + (bits >> 8 & 0xFF) + (bits >> 16 & 0xFF) + (bits >> 24);
    return ((float)sum - 510.0f) * (1.0f / 147.8f);
}

static void fill_noise(float *to, size_t count, uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (size_t i = 0; i < count; i += 2) {
        uint64_t bits = lw_prng_u64(&prng);
        to[i] = noise_of((uint32_t)bits);
        if (i + 1 < count)
            to[i + 1] = noise_of((uint32_t)(bits >> 32));
    }
}

bench_rows_t *bench_rows_create(const lwk_shape_t *shape, uint64_t seed)
{
    size_t heads = (size_t)shape->layer_count * shape->kv_head_count, d = shape->head_dim;
    bench_rows_t *rows = calloc(1, sizeof *rows);
    if (rows == NULL)
        return NULL;
    rows->shape = *shape;
    rows->seed = seed;
    rows->mean = malloc(heads * d * sizeof(float));
    rows->topics = malloc(heads * TOPICS * d * sizeof(float));
    rows->gists = malloc(heads * TOPICS * d * sizeof(float));
    if (rows->mean == NULL || rows->topics == NULL || rows->gists == NULL) {
        bench_rows_destroy(rows);
        return NULL;
    }
    fill_noise(rows->mean, heads * d, mix(seed, 1));
    fill_noise(rows->topics, heads * TOPICS * d, mix(seed, 2));
    fill_noise(rows->gists, heads * TOPICS * d, mix(seed, 3));
    return rows;
}

void bench_rows_destroy(bench_rows_t *rows)
{
    if (rows == NULL)
        return;
    free(rows->mean);
    free(rows->topics);
    free(rows->gists);
    free(rows);
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------------- */

static void store_noisy(void *to, uint32_t dtype, size_t at, const float *base, const float *mean, uint32_t d, lw_prng_t *prng)
{
    for (uint32_t j = 0; j < d; j += 2) {
        uint64_t bits = lw_prng_u64(prng);
        float x = TOPIC * base[j] + NOISE * noise_of((uint32_t)bits),
              y = TOPIC * base[j + 1] + NOISE * noise_of((uint32_t)(bits >> 32));
        if (mean != NULL) {
            x += MEAN * mean[j];
            y += MEAN * mean[j + 1];
        }
        lwk_store(to, dtype, at + j, x);
        lwk_store(to, dtype, at + j + 1, y);
    }
}

typedef struct part {
    const bench_rows_t *rows;
    uint32_t first, count;
    uint32_t head_first, head_count; /* of layer * J + head */
    void *keys, *values;
    pthread_t thread;
} part_t;

static void *fill_part(void *arg)
{
    const part_t *p = arg;
    const bench_rows_t *rows = p->rows;
    uint32_t d = rows->shape.head_dim, dtype = rows->shape.dtype;
    for (uint32_t h = p->head_first; h < p->head_first + p->head_count; h++)
        for (uint32_t i = 0; i < p->count; i++) {
            uint32_t token = p->first + i;
            uint64_t passage = mix(rows->seed + h, token / PASSAGE_TOKENS);
            size_t topic = ((size_t)h * TOPICS + passage % TOPICS) * d, at = ((size_t)h * p->count + i) * d;
            lw_prng_t prng;
            lw_prng_seed(&prng, mix(rows->seed ^ (uint64_t)h << 40, token));
            store_noisy(p->keys, dtype, at, rows->topics + topic, rows->mean + (size_t)h * d, d, &prng);
            store_noisy(p->values, dtype, at, rows->gists + topic, NULL, d, &prng);
        }
    return NULL;
}

void bench_rows_fill(const bench_rows_t *rows, uint32_t first, uint32_t count, unsigned threads, void *keys, void *values)
{
    uint32_t heads = rows->shape.layer_count * rows->shape.kv_head_count;
    part_t parts[THREADS_MAX];
    threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads > heads ? heads : threads;
    for (unsigned t = 0; t < threads; t++) {
        uint32_t begin = heads * t / threads, end = heads * (t + 1) / threads;
        parts[t] = (part_t){.rows = rows,
                            .first = first,
                            .count = count,
                            .head_first = begin,
                            .head_count = end - begin,
                            .keys = keys,
                            .values = values};
        if (t > 0 && pthread_create(&parts[t].thread, NULL, fill_part, &parts[t]) != 0) {
            fill_part(&parts[t]);
            parts[t].rows = NULL; /* nobody to wait for */
        }
    }
    fill_part(&parts[0]);
    for (unsigned t = 1; t < threads; t++)
        if (parts[t].rows != NULL)
            pthread_join(parts[t].thread, NULL);
}

/* ---- queries
 * ----------------------------------------------------------------------------------------------------- */

void bench_rows_query(const bench_rows_t *rows, uint32_t step, uint32_t keep_ppm, void *queries)
{
    const lwk_shape_t *shape = &rows->shape;
    uint32_t d = shape->head_dim, query_heads = shape->kv_head_count * shape->group;
    float noise[LW_HEAD_DIM_MAX];
    for (uint32_t layer = 0; layer < shape->layer_count; layer++)
        for (uint32_t h = 0; h < query_heads; h++) {
            uint32_t head = layer * shape->kv_head_count + h / shape->group;
            uint64_t topic = 0;
            for (uint32_t s = step + 1; s-- > 0;) { /* the topic that was chosen last */
                uint64_t draw = mix(rows->seed + 17 * (uint64_t)head, s);
                topic = draw >> 32;
                if (s == 0 || draw % 1000000 >= keep_ppm)
                    break;
            }
            topic += h % shape->group / 2; /* pairs of query heads ask for the same */
            const float *base = rows->topics + ((size_t)head * TOPICS + topic % TOPICS) * d;
            fill_noise(noise, d, mix(rows->seed + 29, ((uint64_t)step << 32) + layer * query_heads + h));
            for (uint32_t j = 0; j < d; j++)
                lwk_store(queries, shape->dtype, ((size_t)layer * query_heads + h) * d + j,
                          ASK * base[j] + ASK_NOISE * noise[j]);
        }
}
