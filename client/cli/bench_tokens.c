/* bench_tokens.c - whole decode steps of a model with random weights in the shape: the products run,
 * attention goes through the library or is full, in the same run. The library's queries, keys and values are
 * the generator's (a model with random weights asks for nothing in particular), so that hits and budgets are
 * those of `bench decode`; they are made and copied to the device before the clock starts. Steps follow each
 * other without the host; the end of the last is waited for. */
#include "client/cli/bench.h"

#include <stdlib.h>
#include <string.h>

#define RING_BYTES (512ull << 20)
#define FULL_STEPS_MAX 32u
#define IN_FLIGHT 4u /* steps announced before the device is looked at */

typedef struct {
    lwc_bench_t *bench;
    const llama_gpu_api_t *api;
    llama_gpu_t *runner;
    llama_gpu_graph_t *graph;
    uint16_t *ring; /* device: inputs of `count` steps */
    uint32_t count;
    lw_error_t error; /* of the attention call */
} tokens_t;

static uint64_t step_bytes(const lwc_bench_t *bench)
{
    return bench->options.shape.layers * lwc_bench_layer_elements(bench) * sizeof(uint16_t);
}

/* The runner's own rows are not looked at; its output takes the library's. */
static lw_status_t attend(void *self, uint32_t layer, uint32_t rows, const uint16_t *query,
                          const uint16_t *key, const uint16_t *value, uint16_t *out)
{
    tokens_t *tokens = self;
    lwc_bench_t *bench = tokens->bench;
    (void)query, (void)key, (void)value;
    lw_status_t status = lwc_bench_attend(bench, layer, true, &tokens->error);
    if (status != LW_OK)
        return status;
    return bench->device.backend->copy(bench->device.dev, out, bench->outputs + layer * bench->query_elements,
                                       bench->query_elements * sizeof(*out), bench->device.stream);
}

static lw_status_t open_runner(tokens_t *tokens, lw_error_t *error)
{
    const lwc_bench_options_t *options = &tokens->bench->options;
    llama_gpu_params_t params = {.stream = tokens->bench->device.stream,
                                 .shape = options->shape,
                                 .seed = options->seed,
                                 .precision = LLAMA_GPU_BF16,
                                 .rows_max = options->batch,
                                 .positions_max = options->context + options->warm_up + options->steps +
                                                  FULL_STEPS_MAX + 1};
    tokens->api = llama_gpu_find(error);
    return tokens->api ? tokens->api->create(&params, &tokens->runner, error) : LW_ERR_UNSUPPORTED;
}

static lw_status_t set_rows(tokens_t *tokens, lw_error_t *error)
{
    uint32_t ids[LWC_BENCH_BATCH_MAX], positions[LWC_BENCH_BATCH_MAX];
    for (uint32_t s = 0; s < tokens->bench->options.batch; s++) {
        ids[s] = s;
        positions[s] = tokens->bench->options.context;
    }
    lw_status_t status = tokens->api->set_rows(tokens->runner, ids, positions, tokens->bench->options.batch);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "tokens and positions were refused");
}

static lw_status_t capture(tokens_t *tokens, const llama_gpu_attention_t *attention, lw_error_t *error)
{
    llama_gpu_pass_t pass = {.rows = tokens->bench->options.batch, .project = true, .advance = true};
    if (tokens->graph)
        tokens->api->graph_destroy(tokens->graph);
    tokens->graph = NULL;
    tokens->error.text[0] = 0;
    lw_status_t status = tokens->api->capture_begin(tokens->runner);
    if (status == LW_OK)
        status = tokens->api->forward(tokens->runner, attention, &pass);
    lw_status_t ended = tokens->api->capture_end(tokens->runner, &tokens->graph);
    status = status == LW_OK ? ended : status;
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "the step was not captured: %.160s",
                                     tokens->error.text[0] ? tokens->error.text : lw_status_text(status));
}

/* ---- through the library ---- */

static lw_status_t make_ring(tokens_t *tokens, lw_error_t *error)
{
    lwc_bench_t *bench = tokens->bench;
    uint64_t bytes = step_bytes(bench), most = RING_BYTES / bytes;
    uint32_t total = bench->options.warm_up + bench->options.steps;
    tokens->count = most < 1 ? 1 : most < total ? (uint32_t)most : total;
    lw_status_t status = lwc_bench_alloc(&bench->device, LWK_MEMORY_DEVICE, tokens->count * bytes,
                                         (void **)&tokens->ring, error);
    uint32_t held = bench->tokens;
    for (uint32_t i = 0; i < tokens->count && status == LW_OK; i++, bench->tokens++)
        status = lwc_bench_inputs(bench, i, -1, tokens->ring + i * (bytes / sizeof(uint16_t)), error);
    bench->tokens = held;
    return status;
}

static lw_status_t enqueue_step(tokens_t *tokens, uint32_t i, lw_error_t *error)
{
    lwc_bench_t *bench = tokens->bench;
    uint64_t bytes = step_bytes(bench);
    const uint16_t *from = tokens->ring + i % tokens->count * (bytes / sizeof(uint16_t));
    lw_status_t status = lwc_bench_announce(bench, error);
    if (status == LW_OK)
        status = lwc_bench_copy(&bench->device, bench->inputs, from, bytes, error);
    if (status == LW_OK && (status = tokens->api->launch(tokens->runner, tokens->graph)) != LW_OK)
        lw_fail(error, status, "the graph does not start");
    bench->tokens++;
    return status;
}

static lw_status_t run_steps(tokens_t *tokens, uint32_t first, uint32_t count, double *us_out,
                             lw_error_t *error)
{
    lwc_bench_t *bench = tokens->bench;
    lw_status_t status = LW_OK;
    uint64_t began_ns = lwc_bench_now_ns();
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        status = enqueue_step(tokens, first + i, error);
        if (status == LW_OK && i % IN_FLIGHT == IN_FLIGHT - 1)
            status = lwc_bench_wait(&bench->device, error);
        lwc_bench_show(bench, "steps of the model", i + 1, count);
    }
    if (status == LW_OK)
        status = lwc_bench_wait(&bench->device, error);
    *us_out = count ? (double)(lwc_bench_now_ns() - began_ns) / 1e3 / count : 0;
    return status == LW_OK ? lwc_bench_check_sessions(bench, error) : status;
}

static lw_status_t run_library(tokens_t *tokens, lwc_bench_result_t *result, lw_error_t *error)
{
    lwc_bench_t *bench = tokens->bench;
    llama_gpu_attention_t attention = {attend, tokens};
    double unused;
    lw_status_t status = make_ring(tokens, error);
    if (status == LW_OK)
        status = lwc_bench_capture(bench, error); /* binds the sessions */
    if (status == LW_OK)
        status = set_rows(tokens, error);
    if (status == LW_OK)
        status = capture(tokens, &attention, error);
    if (status == LW_OK)
        status = run_steps(tokens, 0, bench->options.warm_up, &unused, error);
    if (status == LW_OK)
        status = lwc_bench_traffic(bench, &result->before, error);
    if (status == LW_OK)
        status = run_steps(tokens, bench->options.warm_up, bench->options.steps, &result->token_us, error);
    return status == LW_OK ? lwc_bench_traffic(bench, &result->after, error) : status;
}

/* ---- with full attention ---- */

/* As many layers of distinct K and V as fit; the others use them again, which costs the same time. */
static lw_status_t open_full(tokens_t *tokens, llama_gpu_full_t **full_out, uint32_t *layers_out,
                             lw_error_t *error)
{
    const lwc_bench_options_t *options = &tokens->bench->options;
    for (uint32_t layers = options->shape.layers; layers > 0; layers /= 2) {
        llama_gpu_full_params_t params = {
            .layers = layers, .sequences = options->batch, .capacity = options->context + FULL_STEPS_MAX + 1};
        lw_status_t status = tokens->api->full_create(tokens->runner, &params, full_out, error);
        *layers_out = layers;
        if (status == LW_OK)
            return tokens->api->full_fill(*full_out, options->seed);
        if (status != LW_ERR_NO_MEMORY)
            return status;
    }
    return LW_ERR_NO_MEMORY;
}

static lw_status_t run_full(tokens_t *tokens, lwc_bench_result_t *result, lw_error_t *error)
{
    lwc_bench_t *bench = tokens->bench;
    llama_gpu_full_t *full = NULL;
    uint32_t steps = bench->options.steps < FULL_STEPS_MAX ? bench->options.steps : FULL_STEPS_MAX;
    lw_status_t status = open_full(tokens, &full, &result->full_layers, error);
    llama_gpu_attention_t attention = {0};
    if (status == LW_OK)
        attention = tokens->api->full_attention(full);
    if (status == LW_OK)
        status = set_rows(tokens, error);
    if (status == LW_OK)
        status = capture(tokens, &attention, error);
    uint64_t began_ns = 0;
    for (uint32_t i = 0; i < steps && status == LW_OK; i++) {
        status = tokens->api->launch(tokens->runner, tokens->graph);
        if (status == LW_OK && i == 0) { /* the first warms up */
            status = tokens->api->wait(tokens->runner);
            began_ns = lwc_bench_now_ns();
        }
    }
    if (status == LW_OK)
        status = tokens->api->wait(tokens->runner);
    if (status == LW_OK && steps > 1)
        result->full_token_us = (double)(lwc_bench_now_ns() - began_ns) / 1e3 / (steps - 1);
    if (tokens->graph)
        tokens->api->graph_destroy(tokens->graph);
    tokens->graph = NULL;
    if (full)
        tokens->api->full_destroy(full);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "full attention: %s", lw_status_text(status));
}

lw_status_t lwc_bench_tokens(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    static tokens_t tokens;
    tokens = (tokens_t){.bench = bench};
    if (!bench->async)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "bench tokens needs a GPU: backend '%s' is a host's",
                       bench->device.backend->name);
    bench->options.graph = true;
    lw_status_t status = open_runner(&tokens, error);
    if (status == LW_OK) {
        result->runner_bytes = tokens.api->bytes(tokens.runner);
        status = run_library(&tokens, result, error);
    }
    if (status == LW_OK && bench->options.baseline == LWC_BENCH_BASELINE_FULL)
        status = run_full(&tokens, result, error);
    if (tokens.graph)
        tokens.api->graph_destroy(tokens.graph);
    if (tokens.ring)
        bench->device.backend->free(bench->device.dev, LWK_MEMORY_DEVICE, tokens.ring);
    if (tokens.runner)
        tokens.api->destroy(tokens.runner);
    return status;
}
