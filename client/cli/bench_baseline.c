/* bench_baseline.c - full attention over the same shape, context and batch: the runner's kernel on a GPU,
 * over as many layers of distinct K and V as fit beside the library's; the runner's loops on a host. Steps in
 * a graph where there are graphs. */
#include "client/cli/bench.h"

#include <stdlib.h>
#include <string.h>

#define WARM_UP 3u
#define STEPS 20u
#define HOST_LAYERS_MAX 4u
#define CHUNK_TOKENS 1024u
#define SMALL 64u /* width of a model whose products are not run */

static lw_status_t make_times(lwc_bench_result_t *result, lw_error_t *error)
{
    result->full.step_us = calloc(STEPS, sizeof(double));
    return result->full.step_us ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for times");
}

/* ---- on a GPU ---- */

typedef struct {
    const llama_gpu_api_t *api;
    llama_gpu_t *runner;
    llama_gpu_full_t *full;
    llama_gpu_graph_t *graph;
    uint32_t layers;
} gpu_t;

/* Only its sizes of heads matter; half as many layers until K and V fit. */
static lw_status_t gpu_open(lwc_bench_t *bench, gpu_t *gpu, lw_error_t *error)
{
    const lwc_bench_options_t *options = &bench->options;
    llama_gpu_params_t params = {.stream = bench->device.stream,
                                 .shape = options->shape,
                                 .rows_max = options->batch,
                                 .positions_max = options->context + 1};
    params.shape.embedding = params.shape.feed_forward = params.shape.vocabulary = SMALL;
    gpu->api = llama_gpu_find(error);
    if (!gpu->api)
        return LW_ERR_UNSUPPORTED;
    lw_status_t status = gpu->api->create(&params, &gpu->runner, error);
    for (gpu->layers = options->shape.layers; status == LW_OK; gpu->layers /= 2) {
        llama_gpu_full_params_t full = {
            .layers = gpu->layers, .sequences = options->batch, .capacity = options->context + 1};
        lw_status_t made = gpu->api->full_create(gpu->runner, &full, &gpu->full, error);
        if (made == LW_OK)
            break;
        if (made != LW_ERR_NO_MEMORY || gpu->layers == 1)
            status = made;
    }
    if (status == LW_OK)
        status = gpu->api->full_fill(gpu->full, options->seed);
    return status;
}

static lw_status_t gpu_capture(lwc_bench_t *bench, gpu_t *gpu)
{
    llama_gpu_attention_t attention = gpu->api->full_attention(gpu->full);
    lw_status_t status = gpu->api->capture_begin(gpu->runner);
    for (uint32_t layer = 0; layer < bench->options.shape.layers && status == LW_OK; layer++) {
        uint16_t *query = bench->inputs + layer * lwc_bench_layer_elements(bench);
        uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
        status = attention.attend(attention.self, layer, bench->options.batch, query, key, value,
                                  bench->outputs + layer * bench->query_elements);
    }
    lw_status_t ended = gpu->api->capture_end(gpu->runner, &gpu->graph);
    return status == LW_OK ? ended : status;
}

static lw_status_t gpu_time(lwc_bench_t *bench, gpu_t *gpu, lwc_bench_result_t *result)
{
    uint32_t tokens[LWC_BENCH_BATCH_MAX] = {0}, positions[LWC_BENCH_BATCH_MAX];
    for (uint32_t s = 0; s < bench->options.batch; s++)
        positions[s] = bench->options.context;
    lw_status_t status = gpu->api->set_rows(gpu->runner, tokens, positions, bench->options.batch);
    for (uint32_t i = 0; i < WARM_UP + STEPS && status == LW_OK; i++) {
        uint64_t began_ns = lwc_bench_now_ns();
        status = gpu->api->launch(gpu->runner, gpu->graph);
        if (status == LW_OK)
            status = gpu->api->wait(gpu->runner);
        if (i >= WARM_UP)
            result->full.step_us[result->full.count++] =
                (double)(lwc_bench_now_ns() - began_ns) / 1e3 / bench->options.shape.layers;
        lwc_bench_show(bench, "full attention", i + 1, WARM_UP + STEPS);
    }
    return status;
}

static lw_status_t gpu_full(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    gpu_t gpu = {0};
    lw_status_t status = gpu_open(bench, &gpu, error);
    if (status == LW_OK && (status = gpu_capture(bench, &gpu)) != LW_OK)
        lw_fail(error, status, "full attention: the step was not captured");
    if (status == LW_OK && (status = gpu_time(bench, &gpu, result)) != LW_OK)
        lw_fail(error, status, "full attention: %s", lw_status_text(status));
    result->full_layers = gpu.layers;
    snprintf(result->full_name, sizeof(result->full_name),
             "the runner's kernel, %u layers of distinct K and V", gpu.layers);
    if (gpu.graph)
        gpu.api->graph_destroy(gpu.graph);
    if (gpu.full)
        gpu.api->full_destroy(gpu.full);
    if (gpu.runner)
        gpu.api->destroy(gpu.runner);
    return status;
}

/* ---- on a host ---- */

#ifdef LWC_CLI_DEMO
typedef struct {
    llama_pool_t *pool;
    llama_full_t *full;
    llama_shape_t shape;
    uint16_t *key, *value;
    float *out;
} host_t;

static lw_status_t host_open(lwc_bench_t *bench, host_t *host, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint64_t rows = (uint64_t)CHUNK_TOKENS * shape->kv_heads * shape->head_dim;
    host->shape = *shape;
    host->shape.layers = shape->layers < HOST_LAYERS_MAX ? shape->layers : HOST_LAYERS_MAX;
    host->key = malloc(2 * rows * sizeof(uint16_t));
    host->value = host->key ? host->key + rows : NULL;
    host->out = malloc((uint64_t)shape->query_heads * shape->head_dim * sizeof(float));
    lw_status_t status = llama_pool_create(bench->options.threads, &host->pool, error);
    if (status == LW_OK && (!host->key || !host->out))
        status = LW_ERR_NO_MEMORY;
    if (status == LW_OK)
        status = llama_full_create(&host->shape, bench->options.context + 1, host->pool, &host->full);
    for (uint32_t first = 0; first < bench->options.context && status == LW_OK; first += CHUNK_TOKENS) {
        uint32_t left = bench->options.context - first, tokens = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
        for (uint32_t layer = 0; layer < host->shape.layers && status == LW_OK; layer++) {
            lw_synth_fill(bench->texts[0], layer, 0, shape->kv_heads, first, tokens, host->key, host->value);
            status = llama_full_append(host->full, layer, tokens, host->key, host->value);
        }
    }
    return status == LW_OK ? LW_OK : lw_fail(error, status, "full attention: %s", lw_status_text(status));
}

/* One session at a time; a batch takes as many times as long. */
static lw_status_t host_time(lwc_bench_t *bench, host_t *host, lwc_bench_result_t *result)
{
    llama_attention_t attention = llama_full_attention(host->full);
    lw_status_t status = LW_OK;
    for (uint32_t i = 0; i < WARM_UP + STEPS && status == LW_OK; i++) {
        uint64_t began_ns = lwc_bench_now_ns();
        for (uint32_t layer = 0; layer < host->shape.layers && status == LW_OK; layer++) {
            const uint16_t *query = bench->inputs_staging + layer * lwc_bench_layer_elements(bench);
            const uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
            status = attention.attend(attention.self, layer, bench->options.context, 1, query, key, value,
                                      host->out);
        }
        if (i >= WARM_UP)
            result->full.step_us[result->full.count++] =
                (double)(lwc_bench_now_ns() - began_ns) / 1e3 / host->shape.layers * bench->options.batch;
        if (status == LW_OK)
            status = llama_full_truncate(host->full, bench->options.context);
        lwc_bench_show(bench, "full attention", i + 1, WARM_UP + STEPS);
    }
    return status;
}

static lw_status_t host_full(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    host_t host = {0};
    lw_status_t status = host_open(bench, &host, error);
    if (status == LW_OK && (status = host_time(bench, &host, result)) != LW_OK)
        lw_fail(error, status, "full attention: %s", lw_status_text(status));
    result->full_layers = host.shape.layers;
    snprintf(result->full_name, sizeof(result->full_name), "the runner's loops, %u threads",
             bench->options.threads);
    llama_full_destroy(host.full);
    llama_pool_destroy(host.pool);
    free(host.key);
    free(host.out);
    return status;
}
#else
static lw_status_t host_full(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    return lw_fail(error, LW_ERR_UNSUPPORTED,
                   "--baseline full: built without the model runner (it needs a BLAS)");
}
#endif

lw_status_t lwc_bench_full(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    lw_status_t status = make_times(result, error);
    if (status != LW_OK)
        return status;
    return bench->async ? gpu_full(bench, result, error) : host_full(bench, result, error);
}
