/* bench_inputs.c - what a decoder's next token brings: its key and value, and queries that drift or are
 * steered. */
#include "base/prng.h"
#include "client/cli/bench.h"

#define HOLD_STEPS \
    4u /* a head keeps looking for the same while: three of four stay as they are in each step */

typedef struct {
    const lwc_bench_t *bench;
    uint32_t step;
    double
        fresh; /* share of (session, layer, KV head) that look for something new; below 0: drifting queries */
} making_t;

/* What KV head `head` of a layer looks for. With a wanted hit ratio: always the same token, which the cache
 * will hold, or one that was never asked for. */
static uint32_t target_of(const making_t *making, uint32_t session, uint32_t layer, uint32_t head)
{
    const lwc_bench_t *bench = making->bench;
    lw_prng_t prng;
    if (making->fresh < 0) {
        uint32_t since = (bench->tokens + layer * 7 + head) % HOLD_STEPS;
        return lw_synth_target(bench->texts[session], bench->tokens - (since < bench->tokens ? since : 0));
    }
    lw_prng_seed(&prng, bench->options.seed ^
                            ((uint64_t)session << 40 | (uint64_t)layer << 16 | head) * 0x9E3779B97F4A7C15ull);
    uint32_t always = (uint32_t)lw_prng_below(&prng, bench->options.context);
    lw_prng_seed(&prng, lw_prng_u64(&prng) + making->step);
    bool fresh = lw_prng_unit(&prng) < making->fresh;
    return fresh ? (uint32_t)lw_prng_below(&prng, bench->options.context) : always;
}

static void make_layer(void *arg, uint32_t layer)
{
    const making_t *making = arg;
    const lwc_bench_t *bench = making->bench;
    const llama_shape_t *shape = &bench->options.shape;
    uint32_t d = shape->head_dim, group = shape->query_heads / shape->kv_heads;
    uint16_t *query = bench->inputs_staging + layer * lwc_bench_layer_elements(bench);
    uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
    float row[LW_SYNTH_HEAD_DIM_MAX];
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        uint64_t kv = (uint64_t)s * shape->kv_heads * d;
        lw_synth_fill(bench->texts[s], layer, 0, shape->kv_heads, bench->tokens, 1, key + kv, value + kv);
        for (uint32_t h = 0; h < shape->query_heads; h++, query += d) {
            lw_synth_query(bench->texts[s], layer, h, bench->tokens, target_of(making, s, layer, h / group),
                           row);
            for (uint32_t i = 0; i < d; i++)
                query[i] = lw_synth_bf16(row[i]);
        }
    }
}

lw_status_t lwc_bench_inputs(lwc_bench_t *bench, uint32_t step, double fresh, uint16_t *to, lw_error_t *error)
{
    making_t making = {.bench = bench, .step = step, .fresh = fresh};
    uint64_t bytes = bench->options.shape.layers * lwc_bench_layer_elements(bench) * sizeof(uint16_t);
    lwc_bench_parallel(bench->options.threads, bench->options.shape.layers, make_layer, &making);
    lw_status_t status = lwc_bench_copy(&bench->device, to, bench->inputs_staging, bytes, error);
    return status == LW_OK ? lwc_bench_wait(&bench->device, error) : status;
}
