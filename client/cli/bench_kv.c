/* bench_kv.c - opens the handle and its sessions and fills them with generated K and V.
 *
 * A chunk of tokens of all layers is made on several threads while the one before goes through lw_prefill. */
#include "client/cli/bench.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"

#define CHUNK_TOKENS 1024u
#define SLACK_TOKENS 64u
#define SHOW_EVERY_NS 500000000ull

void lwc_bench_show(const lwc_bench_t *bench, const char *what, uint64_t done, uint64_t total)
{
    static uint64_t shown_ns;
    uint64_t now = lwc_bench_now_ns();
    if (bench->options.quiet || (done < total && now - shown_ns < SHOW_EVERY_NS))
        return;
    shown_ns = now;
    fprintf(stderr, "%-24s %8" PRIu64 " / %" PRIu64 "\n", what, done, total);
}

/* Steps with stamps and a few more come after the timed ones. */
static uint32_t tokens_max(const lwc_bench_options_t *options)
{
    return options->context + options->warm_up + options->steps + SLACK_TOKENS;
}

uint64_t lwc_bench_layer_elements(const lwc_bench_t *bench)
{
    return bench->query_elements + 2 * bench->key_elements;
}

lw_tensor_t lwc_bench_tensor(const lwc_bench_t *bench, void *data, uint32_t heads)
{
    return (lw_tensor_t){.data = data,
                         .sessions = bench->options.batch,
                         .tokens = 1,
                         .heads = heads,
                         .head_dim = bench->options.shape.head_dim};
}

/* ---- opening ---- */

static uint64_t kv_bytes(const lwc_bench_t *bench)
{
    const llama_shape_t *shape = &bench->options.shape;
    return (uint64_t)bench->options.batch * bench->options.context * shape->layers * shape->kv_heads *
           shape->head_dim * 4;
}

/* The library's defaults stop at 1 GiB; what a caller says comes last and wins. */
static void make_config(const lwc_bench_t *bench, char *text, size_t bytes)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint64_t rows = (uint64_t)bench->options.batch * bench->options.context * shape->layers * shape->kv_heads;
    uint64_t index = rows * shape->head_dim * 3 / 4 + (64ull << 20); /* of entries, as they are by default */
    if (index < 1ull << 30)
        index = 1ull << 30;
    int used = snprintf(text, bytes, "index.bytes=%" PRIu64, index);
    if (bench->options.fleet)
        used +=
            snprintf(text + used, bytes - (size_t)used, ";client.transports=%s", bench->options.transport);
    else
        used += snprintf(text + used, bytes - (size_t)used, ";local.bytes=%" PRIu64,
                         (uint64_t)(kv_bytes(bench) / 4 * 5 + (256u << 20)));
    if (bench->options.config)
        snprintf(text + used, bytes - (size_t)used, ";%s", bench->options.config);
}

static lw_status_t open_handle(lwc_bench_t *bench, lw_error_t *error)
{
    const lwc_bench_options_t *options = &bench->options;
    const llama_shape_t *shape = &options->shape;
    char config[2048];
    uint64_t cache = kv_bytes(bench) / 1000000 * options->cache_ppm;
    make_config(bench, config, sizeof(config));
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = options->backend,
                             .fleet = options->fleet ? options->fleet : "local",
                             .config = config,
                             .device_bytes = cache < 4u << 20 ? 4u << 20 : cache,
                             .sessions_max = options->batch,
                             .tokens_max = tokens_max(options),
                             .model = {.size = sizeof(lw_model_t),
                                       .layer_count = shape->layers,
                                       .kv_head_count = shape->kv_heads,
                                       .query_head_count = shape->query_heads,
                                       .head_dim = shape->head_dim,
                                       .dtype = LW_DTYPE_BF16,
                                       .model_id = options->shape_name}};
    lw_status_t status = lw_open(&open, &bench->kv);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "open: %s", lw_last_error(NULL));
}

static lw_status_t open_texts(lwc_bench_t *bench, lw_error_t *error)
{
    const lwc_bench_options_t *options = &bench->options;
    lw_synth_config_t config = {.seed = options->seed,
                                .layer_count = options->shape.layers,
                                .kv_head_count = options->shape.kv_heads,
                                .group = options->shape.query_heads / options->shape.kv_heads,
                                .head_dim = options->shape.head_dim,
                                .token_count = tokens_max(options)};
    for (uint32_t s = 0; s < options->batch; s++) {
        bench->texts[s] =
            s == 0 ? lw_synth_create(&config) : lw_synth_text(bench->texts[0], options->seed + s);
        if (!bench->texts[s])
            return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the text of session %u", s);
    }
    return LW_OK;
}

static lw_status_t open_buffers(lwc_bench_t *bench, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    bench->query_elements = (uint64_t)bench->options.batch * shape->query_heads * shape->head_dim;
    bench->key_elements = (uint64_t)bench->options.batch * shape->kv_heads * shape->head_dim;
    uint64_t in = shape->layers * lwc_bench_layer_elements(bench) * sizeof(uint16_t);
    uint64_t out = shape->layers * bench->query_elements * sizeof(uint16_t);
    lwc_bench_device_t *device = &bench->device;
    lw_status_t status = lwc_bench_alloc(device, LWK_MEMORY_DEVICE, in, (void **)&bench->inputs, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_DEVICE, out, (void **)&bench->outputs, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_PINNED, in, (void **)&bench->inputs_staging, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_PINNED, out, (void **)&bench->outputs_staging, error);
    return status;
}

/* ---- filling ---- */

/* One chunk of one session: [layer] of keys [tokens][heads][d], then values. */
typedef struct {
    const lwc_bench_t *bench;
    uint16_t *pinned, *device; /* of room for CHUNK_TOKENS each */
    uint32_t session, first, tokens;
    pthread_t maker;
    bool making;
} chunk_t;

static uint64_t layer_rows(const lwc_bench_t *bench, uint32_t tokens)
{
    return (uint64_t)tokens * bench->options.shape.kv_heads * bench->options.shape.head_dim;
}

static void make_layer(void *arg, uint32_t layer)
{
    const chunk_t *chunk = arg;
    uint64_t elements = layer_rows(chunk->bench, chunk->tokens);
    uint16_t *key = chunk->pinned + 2 * layer * elements;
    lw_synth_fill(chunk->bench->texts[chunk->session], layer, 0, chunk->bench->options.shape.kv_heads,
                  chunk->first, chunk->tokens, key, key + elements);
}

static void *make_chunk(void *arg)
{
    chunk_t *chunk = arg;
    lwc_bench_parallel(chunk->bench->options.threads, chunk->bench->options.shape.layers, make_layer, chunk);
    return NULL;
}

/* The chunk that starts at `at` of all sessions' tokens, one session after the other; in the background if it
 * can be. */
static void start_chunk(chunk_t *chunk, uint64_t at)
{
    uint32_t context = chunk->bench->options.context;
    chunk->session = (uint32_t)(at / context);
    chunk->first = (uint32_t)(at % context);
    chunk->tokens = context - chunk->first < CHUNK_TOKENS ? context - chunk->first : CHUNK_TOKENS;
    chunk->making = pthread_create(&chunk->maker, NULL, make_chunk, chunk) == 0;
    if (!chunk->making)
        make_chunk(chunk);
}

static void finish_chunk(chunk_t *chunk)
{
    if (chunk->making)
        pthread_join(chunk->maker, NULL);
    chunk->making = false;
}

static lw_status_t append_chunk(lwc_bench_t *bench, const chunk_t *chunk, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint64_t elements = layer_rows(bench, chunk->tokens);
    lw_session_t *session = bench->sessions[chunk->session];
    lw_status_t status = LW_OK;
    const uint16_t *from = chunk->pinned;
    if (chunk->device != chunk->pinned)
        status = lwc_bench_copy(&bench->device, chunk->device, from,
                                2 * shape->layers * elements * sizeof(*from), error);
    for (uint32_t layer = 0; layer < shape->layers && status == LW_OK; layer++) {
        uint16_t *at = chunk->device + 2 * layer * elements;
        lw_tensor_t key = {.data = at,
                           .sessions = 1,
                           .tokens = chunk->tokens,
                           .heads = shape->kv_heads,
                           .head_dim = shape->head_dim};
        lw_tensor_t value = key;
        value.data = at + elements;
        status = lw_prefill(session, layer, &key, &value, bench->device.stream, NULL);
        if (status != LW_OK)
            lw_fail(error, status, "prefill of layer %u: %s", layer, lw_last_error(bench->kv));
    }
    return status == LW_OK ? lwc_bench_wait(&bench->device, error) : status;
}

static lw_status_t chunk_init(lwc_bench_t *bench, chunk_t *chunk, lw_error_t *error)
{
    uint64_t bytes = 2 * bench->options.shape.layers * layer_rows(bench, CHUNK_TOKENS) * sizeof(uint16_t);
    *chunk = (chunk_t){.bench = bench};
    lw_status_t status =
        lwc_bench_alloc(&bench->device, LWK_MEMORY_PINNED, bytes, (void **)&chunk->pinned, error);
    if (status != LW_OK || !bench->async) {
        chunk->device = chunk->pinned;
        return status;
    }
    return lwc_bench_alloc(&bench->device, LWK_MEMORY_DEVICE, bytes, (void **)&chunk->device, error);
}

static void chunk_fini(lwc_bench_t *bench, chunk_t *chunk)
{
    finish_chunk(chunk);
    if (chunk->device && chunk->device != chunk->pinned)
        bench->device.backend->free(bench->device.dev, LWK_MEMORY_DEVICE, chunk->device);
    if (chunk->pinned)
        bench->device.backend->free(bench->device.dev, LWK_MEMORY_PINNED, chunk->pinned);
}

static double since(uint64_t *began_ns)
{
    uint64_t now = lwc_bench_now_ns();
    double s = (double)(now - *began_ns) / 1e9;
    *began_ns = now;
    return s;
}

static lw_status_t flush_all(lwc_bench_t *bench, lw_error_t *error)
{
    uint64_t began = lwc_bench_now_ns();
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        lw_status_t status = lw_session_flush(bench->sessions[s], NULL);
        lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS | LW_SESSION_ATTR_INDEX};
        if (status != LW_OK)
            return lw_fail(error, status, "flush: %s", lw_last_error(bench->kv));
        status = lw_session_query(bench->sessions[s], &attr);
        if (status != LW_OK)
            return lw_fail(error, status, "session: %s", lw_last_error(bench->kv));
        bench->ingest.index_bytes += attr.index_bytes;
        bench->ingest.stored_bytes += attr.stored_bytes;
        bench->ingest.clusters += attr.clusters;
        bench->ingest.outliers += attr.outliers;
        bench->ingest.sealed_tokens += attr.sealed_tokens;
        lwc_bench_show(bench, "flushing sessions", s + 1, bench->options.batch);
    }
    bench->ingest.flushed_s = since(&began);
    return LW_OK;
}

static lw_status_t fill(lwc_bench_t *bench, lw_error_t *error)
{
    chunk_t chunks[2];
    uint64_t total = (uint64_t)bench->options.batch * bench->options.context, at = 0;
    memset(chunks, 0, sizeof(chunks));
    lw_status_t status = chunk_init(bench, &chunks[0], error);
    if (status == LW_OK)
        status = chunk_init(bench, &chunks[1], error);
    if (status == LW_OK)
        start_chunk(&chunks[0], 0);
    for (uint32_t turn = 0; at < total && status == LW_OK; turn ^= 1) {
        uint64_t began = lwc_bench_now_ns();
        finish_chunk(&chunks[turn]);
        bench->ingest.made_s += since(&began);
        if (at + chunks[turn].tokens < total)
            start_chunk(&chunks[turn ^ 1], at + chunks[turn].tokens);
        status = append_chunk(bench, &chunks[turn], error);
        bench->ingest.appended_s += since(&began);
        at += chunks[turn].tokens;
        lwc_bench_show(bench, "tokens in", at, total);
    }
    bench->ingest.tokens = total;
    bench->tokens = bench->options.context;
    for (uint32_t i = 0; i < 2; i++)
        chunk_fini(bench, &chunks[i]);
    return status == LW_OK ? flush_all(bench, error) : status;
}

/* ---- the object ---- */

lw_status_t lwc_bench_open(lwc_bench_t *bench, lw_error_t *error)
{
    lw_status_t status = lwc_bench_device_open(bench->options.backend, &bench->device, error);
    bench->async = status == LW_OK && (bench->device.backend->caps & LWK_CAP_ASYNC) != 0;
    if (status == LW_OK)
        status = open_texts(bench, error);
    if (status == LW_OK)
        status = open_buffers(bench, error);
    if (status == LW_OK)
        status = open_handle(bench, error);
    for (uint32_t s = 0; s < bench->options.batch && status == LW_OK; s++) {
        status = lw_session_open(bench->kv, &bench->options.policy, &bench->sessions[s]);
        if (status != LW_OK)
            lw_fail(error, status, "session: %s", lw_last_error(bench->kv));
    }
    return status == LW_OK ? fill(bench, error) : status;
}

static void free_buffer(lwc_bench_t *bench, lwk_memory_t kind, void *ptr)
{
    if (ptr)
        bench->device.backend->free(bench->device.dev, kind, ptr);
}

void lwc_bench_close(lwc_bench_t *bench)
{
    if (bench->graph)
        bench->device.backend->graph_destroy(bench->graph);
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        if (!bench->sessions[s])
            continue;
        if (lw_session_drop(bench->sessions[s]) != LW_OK)
            fprintf(stderr, "longwave bench: drop: %s\n", lw_last_error(bench->kv));
        lw_session_close(bench->sessions[s]);
    }
    lw_close(bench->kv);
    free_buffer(bench, LWK_MEMORY_DEVICE, bench->inputs);
    free_buffer(bench, LWK_MEMORY_DEVICE, bench->outputs);
    free_buffer(bench, LWK_MEMORY_PINNED, bench->inputs_staging);
    free_buffer(bench, LWK_MEMORY_PINNED, bench->outputs_staging);
    for (uint32_t s = bench->options.batch; s-- > 0;)
        lw_synth_destroy(bench->texts[s]);
    lwc_bench_device_close(&bench->device);
}
