/* attend_full.c - full attention: a bf16 cache and exact causal softmax, in two ways.
 *
 * Many rows (prefill): a task is a KV head and a block of query tokens. Keys come in tiles that are widened
 * to fp32; BLAS makes scores and outputs of the tile; the softmax is kept running over the tiles.
 *
 * Few rows (decoding): a task is a KV head and a range of keys, whose bf16 rows are read in place. The
 * ranges' partial results (maximum, sum, output) are merged in order by the caller's thread.
 *
 * Tasks depend on the shapes only, so the result does not depend on the number of threads. */
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "client/examples/llama/lanes.h"
#include "client/examples/llama/llama.h"
#include "client/examples/llama/pool.h"

#define BLOCK_TOKENS 64u  /* query tokens of a task, many rows */
#define TILE_KEYS 256u    /* keys of a tile, many rows */
#define RANGE_KEYS 1024u  /* keys of a task, few rows */
#define FEW_TOKENS_MAX 8u /* up to here the rows are few */
#define MAXIMUM_NONE (-FLT_MAX)

struct llama_full {
    uint32_t layers, query_heads, kv_heads, head_dim, group, capacity;
    float scale;
    uint32_t *held; /* [layers] tokens in the cache */
    uint16_t *key, *value;
    llama_pool_t *pool;
    const llama_lanes_t *lanes;
    float *scratch; /* [threads][scratch_floats] */
    size_t scratch_floats;
    float *partial; /* [kv_heads][ranges][FEW_TOKENS_MAX x group][head_dim + 2]: output, maximum, sum */
};

/* One attend call, as the tasks see it. */
typedef struct call {
    llama_full_t *full;
    uint32_t layer, first, tokens;
    const uint16_t *query;
    float *out;
    uint32_t per_head; /* tasks of one KV head */
} call_t;

static uint16_t *rows_of(const llama_full_t *full, uint16_t *cache, uint32_t layer, uint32_t kv_head)
{
    return cache + ((size_t)layer * full->kv_heads + kv_head) * full->capacity * full->head_dim;
}

static void append(llama_full_t *full, uint32_t layer, uint32_t first, uint32_t tokens, const uint16_t *key,
                   const uint16_t *value)
{
    size_t d = full->head_dim;
    for (uint32_t head = 0; head < full->kv_heads; head++) {
        uint16_t *keys = rows_of(full, full->key, layer, head) + first * d;
        uint16_t *values = rows_of(full, full->value, layer, head) + first * d;
        for (uint32_t t = 0; t < tokens; t++) {
            memcpy(keys + t * d, key + ((size_t)t * full->kv_heads + head) * d, d * sizeof(*key));
            memcpy(values + t * d, value + ((size_t)t * full->kv_heads + head) * d, d * sizeof(*value));
        }
    }
}

/* fp32 rows [tokens x group][d] of one KV head's queries; row t * group + g is token first_token + t, head g.
 */
static void load_queries(const call_t *call, uint32_t kv_head, uint32_t first_token, uint32_t tokens,
                         float *query)
{
    const llama_full_t *full = call->full;
    uint32_t row = full->group * full->head_dim;
    for (uint32_t t = 0; t < tokens; t++)
        full->lanes->widen(call->query + ((size_t)(first_token + t) * full->kv_heads + kv_head) * row, row,
                           query + (size_t)t * row);
}

/* Where the output row of (token, query head g of the KV head) belongs. */
static float *out_row(const call_t *call, uint32_t token, uint32_t kv_head, uint32_t g)
{
    const llama_full_t *full = call->full;
    return call->out + ((size_t)token * full->query_heads + kv_head * full->group + g) * full->head_dim;
}

/* ---- many rows --------------------------------------------------------- */

static size_t many_scratch_floats(const llama_full_t *full)
{
    size_t rows = BLOCK_TOKENS * full->group, d = full->head_dim;
    return rows * d * 2 + rows * TILE_KEYS + TILE_KEYS * d + rows * 2;
}

static void many_task(void *arg, uint32_t task, uint32_t worker)
{
    const call_t *call = arg;
    llama_full_t *full = call->full;
    const llama_lanes_t *lanes = full->lanes;
    /* Later blocks see more keys: hand them out first, so that the threads end together. */
    uint32_t kv_head = task % full->kv_heads;
    uint32_t first = (call->per_head - 1 - task / full->kv_heads) * BLOCK_TOKENS;
    uint32_t tokens = call->tokens - first < BLOCK_TOKENS ? call->tokens - first : BLOCK_TOKENS;
    uint32_t d = full->head_dim, rows = tokens * full->group;
    uint32_t keys = call->first + first + tokens; /* of the block's last token */

    float *query = full->scratch + full->scratch_floats * worker;
    float *output = query + (size_t)BLOCK_TOKENS * full->group * d;
    float *score = output + (size_t)BLOCK_TOKENS * full->group * d;
    float *wide = score + (size_t)BLOCK_TOKENS * full->group * TILE_KEYS;
    float *maximum = wide + (size_t)TILE_KEYS * d;
    float *sum = maximum + (size_t)BLOCK_TOKENS * full->group;

    load_queries(call, kv_head, first, tokens, query);
    memset(output, 0, (size_t)rows * d * sizeof(*output));
    for (uint32_t r = 0; r < rows; r++) {
        maximum[r] = MAXIMUM_NONE;
        sum[r] = 0;
    }
    for (uint32_t start = 0; start < keys; start += TILE_KEYS) {
        uint32_t n = keys - start < TILE_KEYS ? keys - start : TILE_KEYS;
        lanes->widen(rows_of(full, full->key, call->layer, kv_head) + (size_t)start * d, n * d, wide);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)d, 1.0f, query, (int)d,
                    wide, (int)d, 0.0f, score, TILE_KEYS);
        for (uint32_t r = 0; r < rows; r++) {
            float *row = score + (size_t)r * TILE_KEYS;
            uint32_t visible = call->first + first + r / full->group + 1;
            uint32_t valid = visible <= start ? 0 : visible - start < n ? visible - start : n;
            if (valid) {
                float shrink = lanes->softmax(row, valid, full->scale, &maximum[r], &sum[r]);
                if (shrink != 1.0f)
                    lanes->scale(output + (size_t)r * d, d, shrink);
            }
            memset(row + valid, 0, (n - valid) * sizeof(*row));
        }
        lanes->widen(rows_of(full, full->value, call->layer, kv_head) + (size_t)start * d, n * d, wide);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)d, (int)n, 1.0f, score,
                    TILE_KEYS, wide, (int)d, 1.0f, output, (int)d);
    }
    for (uint32_t r = 0; r < rows; r++) {
        float *row = out_row(call, first + r / full->group, kv_head, r % full->group);
        memcpy(row, output + (size_t)r * d, d * sizeof(*row));
        lanes->scale(row, d, 1.0f / sum[r]);
    }
}

/* ---- few rows ---------------------------------------------------------- */

static size_t few_scratch_floats(const llama_full_t *full)
{
    return (size_t)FEW_TOKENS_MAX * full->group * (full->head_dim + RANGE_KEYS);
}

static float *partial_of(const call_t *call, uint32_t kv_head, uint32_t range)
{
    const llama_full_t *full = call->full;
    return full->partial +
           ((size_t)kv_head * call->per_head + range) * FEW_TOKENS_MAX * full->group * (full->head_dim + 2);
}

static void few_task(void *arg, uint32_t task, uint32_t worker)
{
    const call_t *call = arg;
    llama_full_t *full = call->full;
    uint32_t kv_head = task % full->kv_heads, range = task / full->kv_heads;
    uint32_t d = full->head_dim, rows = call->tokens * full->group;
    uint32_t start = range * RANGE_KEYS, keys = call->first + call->tokens - start;
    uint32_t n = keys < RANGE_KEYS ? keys : RANGE_KEYS;

    float *query = full->scratch + full->scratch_floats * worker;
    float *score = query + (size_t)FEW_TOKENS_MAX * full->group * d;
    float *output = partial_of(call, kv_head, range);
    float *maximum = output + (size_t)rows * d, *sum = maximum + rows;

    load_queries(call, kv_head, 0, call->tokens, query);
    full->lanes->score(query, rows, rows_of(full, full->key, call->layer, kv_head) + (size_t)start * d, n, d,
                       score);
    for (uint32_t r = 0; r < rows; r++) {
        float *row = score + (size_t)r * n;
        uint32_t visible = call->first + r / full->group + 1;
        uint32_t valid = visible <= start ? 0 : visible - start < n ? visible - start : n;
        maximum[r] = MAXIMUM_NONE;
        sum[r] = 0;
        if (valid)
            full->lanes->softmax(row, valid, full->scale, &maximum[r], &sum[r]);
        memset(row + valid, 0, (n - valid) * sizeof(*row));
    }
    memset(output, 0, (size_t)rows * d * sizeof(*output));
    full->lanes->mix(score, rows, rows_of(full, full->value, call->layer, kv_head) + (size_t)start * d, n, d,
                     output);
}

static void merge_row(const call_t *call, uint32_t kv_head, uint32_t r)
{
    const llama_full_t *full = call->full;
    uint32_t d = full->head_dim, rows = call->tokens * full->group;
    float *out = out_row(call, r / full->group, kv_head, r % full->group);
    float maximum = MAXIMUM_NONE, sum = 0;
    for (uint32_t range = 0; range < call->per_head; range++)
        maximum = fmaxf(maximum, partial_of(call, kv_head, range)[(size_t)rows * d + r]);
    memset(out, 0, d * sizeof(*out));
    for (uint32_t range = 0; range < call->per_head; range++) {
        const float *partial = partial_of(call, kv_head, range);
        float weight = expf(partial[(size_t)rows * d + r] - maximum);
        sum += weight * partial[(size_t)rows * (d + 1) + r];
        for (uint32_t i = 0; i < d; i++)
            out[i] += weight * partial[(size_t)r * d + i];
    }
    full->lanes->scale(out, d, 1.0f / sum);
}

/* ---- the call ---------------------------------------------------------- */

static lw_status_t attend(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                          const uint16_t *query_bf16, const uint16_t *key_bf16, const uint16_t *value_bf16,
                          float *out)
{
    llama_full_t *full = self;
    if (layer >= full->layers || tokens == 0 || first_position != full->held[layer])
        return LW_ERR_INVALID;
    if (tokens > full->capacity - first_position)
        return LW_ERR_EXHAUSTED;
    append(full, layer, first_position, tokens, key_bf16, value_bf16);
    full->held[layer] += tokens;

    call_t call = {full, layer, first_position, tokens, query_bf16, out, 0};
    if (tokens > FEW_TOKENS_MAX) {
        call.per_head = (uint32_t)lw_div_up(tokens, BLOCK_TOKENS);
        llama_pool_run(full->pool, many_task, &call, full->kv_heads * call.per_head);
        return LW_OK;
    }
    call.per_head = (uint32_t)lw_div_up(first_position + tokens, RANGE_KEYS);
    llama_pool_run(full->pool, few_task, &call, full->kv_heads * call.per_head);
    for (uint32_t kv_head = 0; kv_head < full->kv_heads; kv_head++)
        for (uint32_t r = 0; r < tokens * full->group; r++)
            merge_row(&call, kv_head, r);
    return LW_OK;
}

llama_attention_t llama_full_attention(llama_full_t *full)
{
    return (llama_attention_t){attend, full};
}

/* ---- the object -------------------------------------------------------- */

lw_status_t llama_full_create(const llama_shape_t *shape, uint32_t capacity, llama_pool_t *pool,
                              llama_full_t **full_out)
{
    if (capacity == 0 || shape->layers == 0 || shape->kv_heads == 0 || shape->query_heads % shape->kv_heads ||
        shape->query_heads == 0 || shape->head_dim == 0 || shape->head_dim > LW_HEAD_DIM_MAX)
        return LW_ERR_INVALID;
    llama_full_t *full = calloc(1, sizeof(*full));
    if (!full)
        return LW_ERR_NO_MEMORY;
    full->layers = shape->layers;
    full->query_heads = shape->query_heads;
    full->kv_heads = shape->kv_heads;
    full->head_dim = shape->head_dim;
    full->group = shape->query_heads / shape->kv_heads;
    full->capacity = capacity;
    full->scale = 1.0f / sqrtf((float)shape->head_dim);
    full->pool = pool;
    full->lanes = llama_lanes();
    size_t many = many_scratch_floats(full), few = few_scratch_floats(full);
    full->scratch_floats = lw_align_up(many > few ? many : few, 64);

    size_t cache = (size_t)full->layers * full->kv_heads * capacity * full->head_dim;
    size_t ranges = lw_div_up(capacity, RANGE_KEYS);
    full->held = calloc(full->layers, sizeof(*full->held));
    full->key = calloc(cache, sizeof(*full->key));
    full->value = calloc(cache, sizeof(*full->value));
    full->scratch = calloc(full->scratch_floats * llama_pool_threads(pool), sizeof(*full->scratch));
    full->partial = calloc(full->kv_heads * ranges * FEW_TOKENS_MAX * full->group * (full->head_dim + 2),
                           sizeof(*full->partial));
    if (!full->held || !full->key || !full->value || !full->scratch || !full->partial) {
        llama_full_destroy(full);
        return LW_ERR_NO_MEMORY;
    }
    *full_out = full;
    return LW_OK;
}

void llama_full_destroy(llama_full_t *full)
{
    if (!full)
        return;
    free(full->held);
    free(full->key);
    free(full->value);
    free(full->scratch);
    free(full->partial);
    free(full);
}

lw_status_t llama_full_fork(const llama_full_t *parent, uint32_t tokens, uint32_t capacity,
                            llama_pool_t *pool, llama_full_t **full_out)
{
    if (tokens > llama_full_tokens(parent) || tokens > capacity)
        return LW_ERR_INVALID;
    llama_shape_t shape = {.layers = parent->layers,
                           .query_heads = parent->query_heads,
                           .kv_heads = parent->kv_heads,
                           .head_dim = parent->head_dim};
    llama_full_t *full;
    lw_status_t status = llama_full_create(&shape, capacity, pool, &full);
    if (status != LW_OK)
        return status;
    size_t bytes = (size_t)tokens * full->head_dim * sizeof(*full->key);
    for (uint32_t layer = 0; layer < full->layers; layer++) {
        for (uint32_t head = 0; head < full->kv_heads; head++) {
            memcpy(rows_of(full, full->key, layer, head), rows_of(parent, parent->key, layer, head), bytes);
            memcpy(rows_of(full, full->value, layer, head), rows_of(parent, parent->value, layer, head),
                   bytes);
        }
        full->held[layer] = tokens;
    }
    *full_out = full;
    return LW_OK;
}

lw_status_t llama_full_truncate(llama_full_t *full, uint32_t tokens)
{
    for (uint32_t layer = 0; layer < full->layers; layer++)
        if (full->held[layer] < tokens)
            return LW_ERR_INVALID;
    for (uint32_t layer = 0; layer < full->layers; layer++)
        full->held[layer] = tokens;
    return LW_OK;
}

lw_status_t llama_full_append(llama_full_t *full, uint32_t layer, uint32_t tokens, const uint16_t *key_bf16,
                              const uint16_t *value_bf16)
{
    if (layer >= full->layers)
        return LW_ERR_INVALID;
    if (tokens > full->capacity - full->held[layer])
        return LW_ERR_EXHAUSTED;
    append(full, layer, full->held[layer], tokens, key_bf16, value_bf16);
    full->held[layer] += tokens;
    return LW_OK;
}

uint32_t llama_full_tokens(const llama_full_t *full)
{
    uint32_t least = full->held[0];
    for (uint32_t layer = 1; layer < full->layers; layer++)
        least = full->held[layer] < least ? full->held[layer] : least;
    return least;
}

const uint16_t *llama_full_keys(const llama_full_t *full, uint32_t layer, uint32_t kv_head)
{
    LW_ASSERT(layer < full->layers && kv_head < full->kv_heads);
    return rows_of(full, full->key, layer, kv_head);
}

const uint16_t *llama_full_values(const llama_full_t *full, uint32_t layer, uint32_t kv_head)
{
    LW_ASSERT(layer < full->layers && kv_head < full->kv_heads);
    return rows_of(full, full->value, layer, kv_head);
}
