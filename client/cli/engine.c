/* engine.c - see engine.h. */
#include "client/cli/engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"

#define READ_CHUNK 256u
#define EXPECT_CHUNK 64u
#define PROGRESS_EVERY_US 500000ull

/* ---- progress ---- */

static void show(const lwc_engine_t *engine, const char *label, uint32_t done, uint32_t total, uint64_t began_us)
{
    static uint64_t shown_us;
    uint64_t now = lw_now_us(lw_clock_real());
    if (engine->quiet || (done < total && now - shown_us < PROGRESS_EVERY_US))
        return;
    shown_us = now;
    double seconds = (double)(now - began_us) / 1e6;
    bool terminal = isatty(STDERR_FILENO);
    if (!terminal && done < total && done % 1024 != 0)
        return;
    fprintf(stderr, "%s%-38s %5u / %-5u tokens  %6.1f s  %7.1f tokens/s%s", terminal ? "\r" : "", label, done, total,
            seconds, seconds > 0 ? done / seconds : 0, terminal && done < total ? "" : "\n");
    fflush(stderr);
}

/* ---- open and close ---- */

static char *load(const char *path, size_t *bytes_out, lw_error_t *error)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        lw_fail(error, LW_ERR_IO, "document '%s' cannot be opened", path);
        return NULL;
    }
    char *text = NULL;
    size_t bytes = 0, room = 0, got;
    do {
        if (bytes == room) {
            char *more = realloc(text, room = room ? 2 * room : 1 << 16);
            if (!more) {
                lw_fail(error, LW_ERR_NO_MEMORY, "document '%s': out of memory", path);
                free(text);
                fclose(file);
                return NULL;
            }
            text = more;
        }
        got = fread(text + bytes, 1, room - bytes, file);
        bytes += got;
    } while (got > 0);
    fclose(file);
    *bytes_out = bytes;
    return text;
}

static lw_status_t read_document(lwc_engine_t *engine, const lwc_engine_params_t *params, lw_error_t *error)
{
    size_t bytes = 0;
    const llama_tokenizer_t *tokenizer = llama_model_tokenizer(engine->model);
    char *text = load(params->document_path, &bytes, error);
    if (!text)
        return LW_ERR_IO;
    lw_status_t status = LW_OK;
    if (params->opening)
        status = llama_encode(tokenizer, params->opening, strlen(params->opening), true, &engine->document);
    if (status == LW_OK)
        status = llama_encode(tokenizer, text, bytes, false, &engine->document);
    free(text);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "document '%s' cannot be tokenized", params->document_path);
}

/* The runner's tensors lie in host memory, which a device's backend must not be given. */
static const char *host_backend(const char *asked)
{
    const char *name = asked ? asked : getenv("LWK_BACKEND");
    return name && name[0] ? name : "cpu";
}

static lw_status_t open_fleet(lwc_engine_t *engine, const lwc_engine_params_t *params, lw_error_t *error)
{
    const llama_shape_t *shape = engine->shape;
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = host_backend(params->backend),
                             .fleet = params->fleet,
                             .config = params->config,
                             .sessions_max = params->sessions_max,
                             .tokens_max = params->tokens_max,
                             .model = {.size = sizeof(lw_model_t),
                                       .layer_count = shape->layers,
                                       .kv_head_count = shape->kv_heads,
                                       .query_head_count = shape->query_heads,
                                       .head_dim = shape->head_dim,
                                       .dtype = LW_DTYPE_BF16,
                                       .model_id = llama_model_name(engine->model)}};
    lw_status_t status = lw_open(&open, &engine->kv);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "fleet: %s", lw_last_error(NULL));
}

lw_status_t lwc_engine_open(const lwc_engine_params_t *params, lwc_engine_t *engine, lw_error_t *error)
{
    const char *backend = host_backend(params->backend);
    memset(engine, 0, sizeof(*engine));
    engine->quiet = params->quiet;
    if (strcmp(backend, "cpu") != 0 && strcmp(backend, "ref") != 0)
        return lw_fail(error, LW_ERR_INVALID, "backend is '%s', must be cpu or ref: the model runs on the host", backend);
    lw_status_t status = llama_pool_create(params->threads, &engine->pool, error);
    if (status == LW_OK)
        status = llama_model_open(params->model_path, engine->pool, &engine->model, error);
    if (status == LW_OK) {
        engine->shape = llama_model_shape(engine->model);
        status = read_document(engine, params, error);
    }
    if (status == LW_OK && params->tokens_max > engine->shape->context)
        status = lw_fail(error, LW_ERR_INVALID, "a sequence of %u tokens: the model was trained for %u", params->tokens_max,
                         engine->shape->context);
    if (status == LW_OK)
        status = llama_runner_create(engine->model, engine->pool, READ_CHUNK, params->tokens_max, &engine->reader);
    if (status == LW_OK)
        status = llama_runner_create(engine->model, engine->pool, LW_QUERY_TOKENS_MAX, params->tokens_max,
                                     &engine->stepper);
    if (status == LW_OK)
        status = llama_full_create(engine->shape, params->tokens_max, engine->pool, &engine->full);
    if (status == LW_OK)
        status = open_fleet(engine, params, error);
    if (status != LW_OK) {
        if (error && error->text[0] == 0)
            lw_fail(error, status, "the model runner could not be set up: %s", lw_status_text(status));
        lwc_engine_close(engine);
    }
    return status;
}

void lwc_engine_close(lwc_engine_t *engine)
{
    if (engine->kv)
        lw_close(engine->kv);
    llama_full_destroy(engine->full);
    llama_runner_destroy(engine->stepper);
    llama_runner_destroy(engine->reader);
    llama_tokens_free(&engine->document);
    llama_model_close(engine->model);
    llama_pool_destroy(engine->pool);
    memset(engine, 0, sizeof(*engine));
}

/* ---- reading ---- */

static lw_tensor_t tensor(const void *data, uint32_t tokens, uint32_t heads, uint32_t head_dim)
{
    return (lw_tensor_t){.data = (void *)(uintptr_t)data, .sessions = 1, .tokens = tokens, .heads = heads,
                         .head_dim = head_dim};
}

/* BUSY means that sealing is behind: let it catch up. */
static lw_status_t prefill(lwc_engine_t *engine, lw_session_t *session, uint32_t layer, const lw_tensor_t *key,
                           const lw_tensor_t *value)
{
    for (;;) {
        lw_status_t status = lw_prefill(session, layer, key, value, NULL, NULL);
        if (status != LW_ERR_BUSY)
            return status;
        if (lw_progress(engine->kv) == 0)
            usleep(200);
    }
}

typedef struct {
    lwc_engine_t *engine;
    lw_session_t *session;
} sink_t;

static lw_status_t take(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens, const uint16_t *key_bf16,
                        const uint16_t *value_bf16)
{
    sink_t *sink = self;
    const llama_shape_t *shape = sink->engine->shape;
    lw_tensor_t key = tensor(key_bf16, tokens, shape->kv_heads, shape->head_dim);
    lw_tensor_t value = tensor(value_bf16, tokens, shape->kv_heads, shape->head_dim);
    (void)first_position;
    return prefill(sink->engine, sink->session, layer, &key, &value);
}

typedef struct {
    lwc_engine_t *engine;
    uint64_t began_us;
    uint32_t base;
} reading_t;

static void on_read(void *arg, uint32_t done, uint32_t total)
{
    reading_t *reading = arg;
    show(reading->engine, "reading", reading->base + done, reading->base + total, reading->began_us);
}

lw_status_t lwc_engine_read(lwc_engine_t *engine, uint32_t until, lw_session_t *session, lw_error_t *error)
{
    if (until > engine->document.count)
        return lw_fail(error, LW_ERR_INVALID, "the document has %zu tokens, %u are needed", engine->document.count, until);
    sink_t sink = {.engine = engine, .session = session};
    llama_tee_t tee = {.inner = llama_full_attention(engine->full), .sink = {.take = take, .self = &sink}};
    llama_attention_t attention = session ? llama_tee_attention(&tee) : tee.inner;
    reading_t reading = {.engine = engine, .began_us = lw_now_us(lw_clock_real()), .base = engine->read};
    lw_status_t status = llama_prefill(engine->reader, &attention, engine->document.ids + engine->read,
                                       until - engine->read, engine->read, NULL, on_read, &reading);
    if (status != LW_OK)
        return lw_fail(error, status, "reading: %s: %s", lw_status_text(status), lw_last_error(engine->kv));
    engine->read = until;
    return LW_OK;
}

lw_status_t lwc_engine_replay(lwc_engine_t *engine, lw_session_t *session, uint32_t until, lw_error_t *error)
{
    const llama_shape_t *shape = engine->shape;
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    lw_status_t status = lw_session_query(session, &attr);
    if (status != LW_OK || until > engine->read)
        return lw_fail(error, LW_ERR_INVALID, "replay up to %u, %u tokens were read", until, engine->read);
    uint64_t head_stride = 0;
    if (shape->kv_heads > 1)
        head_stride = (uint64_t)(llama_full_keys(engine->full, 0, 1) - llama_full_keys(engine->full, 0, 0));
    for (uint32_t first = attr.token_count; first < until && status == LW_OK; first += READ_CHUNK) {
        uint32_t tokens = until - first < READ_CHUNK ? until - first : READ_CHUNK;
        for (uint32_t layer = 0; layer < shape->layers && status == LW_OK; layer++) {
            uint64_t offset = (uint64_t)first * shape->head_dim;
            lw_tensor_t key = tensor(llama_full_keys(engine->full, layer, 0) + offset, tokens, shape->kv_heads,
                                     shape->head_dim);
            lw_tensor_t value = tensor(llama_full_values(engine->full, layer, 0) + offset, tokens, shape->kv_heads,
                                       shape->head_dim);
            key.token_stride = value.token_stride = shape->head_dim;
            key.head_stride = value.head_stride = shape->kv_heads > 1 ? (int64_t)head_stride : shape->head_dim;
            key.session_stride = value.session_stride = 1;
            status = prefill(engine, session, layer, &key, &value);
        }
    }
    return status == LW_OK ? LW_OK : lw_fail(error, status, "replay: %s", lw_last_error(engine->kv));
}

lw_status_t lwc_engine_flush(lwc_engine_t *engine, lw_session_t *session, lw_error_t *error)
{
    lw_status_t status = lw_session_flush(session, NULL);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "flush: %s", lw_last_error(engine->kv));
}

/* ---- comparing ---- */

float *lwc_engine_expect(lwc_engine_t *engine, uint32_t first, uint32_t count, lw_error_t *error)
{
    uint32_t vocabulary = engine->shape->vocabulary;
    llama_full_t *full = NULL;
    float *logits = malloc((uint64_t)count * vocabulary * sizeof(float));
    lw_status_t status = logits ? LW_OK : LW_ERR_NO_MEMORY;
    if (status == LW_OK)
        status = llama_full_fork(engine->full, first, first + count, engine->pool, &full);
    uint64_t began = lw_now_us(lw_clock_real());
    llama_attention_t attention = llama_full_attention(full);
    for (uint32_t done = 0; done < count && status == LW_OK; done += EXPECT_CHUNK) {
        uint32_t tokens = count - done < EXPECT_CHUNK ? count - done : EXPECT_CHUNK;
        llama_chunk_t chunk = {.tokens = engine->document.ids + first + done,
                               .token_count = tokens,
                               .first_position = first + done,
                               .logits = logits + (uint64_t)done * vocabulary};
        status = llama_forward(engine->reader, &attention, &chunk);
        show(engine, "full attention, teacher-forced", done + tokens, count, began);
    }
    llama_full_destroy(full);
    if (status == LW_OK)
        return logits;
    lw_fail(error, status, "full attention over %u tokens failed: %s", first + count, lw_status_text(status));
    free(logits);
    return NULL;
}

static float from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof(value));
    return value;
}

static lw_status_t attend(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens, const uint16_t *query_bf16,
                          const uint16_t *key_bf16, const uint16_t *value_bf16, float *out)
{
    lwc_engine_attention_t *attention = self;
    const llama_shape_t *shape = attention->engine->shape;
    lw_step_t step = {.size = sizeof(step),
                      .layer = layer,
                      .sessions = &attention->session,
                      .session_count = 1,
                      .query = tensor(query_bf16, tokens, shape->query_heads, shape->head_dim),
                      .key = tensor(key_bf16, tokens, shape->kv_heads, shape->head_dim),
                      .value = tensor(value_bf16, tokens, shape->kv_heads, shape->head_dim)};
    lw_tensor_t result = tensor(attention->out, tokens, shape->query_heads, shape->head_dim);
    (void)first_position;
    lw_status_t status = lw_attend(attention->engine->kv, &step, &result, NULL);
    if (status != LW_OK)
        return status;
    for (uint32_t i = 0; i < tokens * shape->query_heads * shape->head_dim; i++)
        out[i] = from_bf16(attention->out[i]);
    return LW_OK;
}

lw_status_t lwc_engine_attention_init(lwc_engine_t *engine, lw_session_t *session, lwc_engine_attention_t *attention)
{
    *attention = (lwc_engine_attention_t){.engine = engine, .session = session};
    attention->out = malloc((uint64_t)LW_QUERY_TOKENS_MAX * engine->shape->query_heads * engine->shape->head_dim * 2);
    return attention->out ? LW_OK : LW_ERR_NO_MEMORY;
}

void lwc_engine_attention_fini(lwc_engine_attention_t *attention)
{
    free(attention->out);
    attention->out = NULL;
}

llama_attention_t lwc_engine_attention(lwc_engine_attention_t *attention)
{
    return (llama_attention_t){.attend = attend, .self = attention};
}

/* Adds what happened between two queries. */
static void add_attr(lwc_score_t *score, const lw_attr_t *before, const lw_attr_t *after)
{
    static const size_t fields[] = {
        offsetof(lw_attr_t, bytes_fetched),     offsetof(lw_attr_t, records_fetched),
        offsetof(lw_attr_t, selections),        offsetof(lw_attr_t, entries_indexed),
        offsetof(lw_attr_t, entries_retrieved), offsetof(lw_attr_t, tokens_indexed),
        offsetof(lw_attr_t, tokens_retrieved),  offsetof(lw_attr_t, tokens_steady),
        offsetof(lw_attr_t, hits),              offsetof(lw_attr_t, misses),
        offsetof(lw_attr_t, hit_tokens),        offsetof(lw_attr_t, miss_tokens),
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(fields); i++) {
        uint64_t *total = (uint64_t *)((char *)&score->sum + fields[i]);
        *total += *(const uint64_t *)((const char *)after + fields[i]) -
                  *(const uint64_t *)((const char *)before + fields[i]);
    }
}

lw_status_t lwc_engine_score(lwc_engine_t *engine, lw_session_t *session, uint32_t first, uint32_t count,
                             const float *expected, const char *label, lwc_score_t *score, lw_error_t *error)
{
    uint32_t vocabulary = engine->shape->vocabulary;
    lwc_engine_attention_t attention = {.engine = engine};
    float *logits = malloc(vocabulary * sizeof(float));
    lw_status_t status = logits ? lwc_engine_attention_init(engine, session, &attention) : LW_ERR_NO_MEMORY;
    lw_attr_t before = {.field_mask = LW_ATTR_TRAFFIC | LW_ATTR_ATTENTION}, after = before;
    llama_attention_t call = lwc_engine_attention(&attention);
    if (status == LW_OK)
        status = lw_query(engine->kv, &before);
    uint64_t began = lw_now_us(lw_clock_real()), spent = 0;
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        uint64_t start = lw_now_us(lw_clock_real());
        llama_chunk_t chunk = {.tokens = engine->document.ids + first + i, .token_count = 1, .first_position = first + i,
                               .logits = logits};
        status = llama_forward(engine->stepper, &call, &chunk);
        spent += lw_now_us(lw_clock_real()) - start;
        uint32_t next = first + i + 1 < engine->document.count ? engine->document.ids[first + i + 1] : UINT32_MAX;
        if (status == LW_OK)
            llama_agreement_add(&score->agreement, expected + (uint64_t)i * vocabulary, logits, vocabulary, next);
        show(engine, label, i + 1, count, began);
    }
    if (status == LW_OK)
        status = lw_query(engine->kv, &after);
    if (status == LW_OK) {
        add_attr(score, &before, &after);
        score->seconds += (double)spent / 1e6;
    } else {
        lw_fail(error, status, "%s: %s: %s", label, lw_status_text(status), lw_last_error(engine->kv));
    }
    lwc_engine_attention_fini(&attention);
    free(logits);
    return status;
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

lwc_figures_t lwc_figures(const lwc_engine_t *engine, const lwc_score_t *score)
{
    const llama_agreement_t *agreement = &score->agreement;
    const lw_attr_t *sum = &score->sum;
    double n = (double)agreement->positions;
    double row_pair = 4.0 * engine->shape->head_dim;
    return (lwc_figures_t){
        .top1 = ratio((double)agreement->top1_equal, n),
        .kl = ratio(agreement->kl_sum, n),
        .kl_max = agreement->kl_max,
        .tokens_per_s = ratio(n, score->seconds),
        .exact_share = ratio((double)(sum->tokens_retrieved + sum->tokens_steady),
                             (double)(sum->tokens_indexed + sum->tokens_steady)),
        .retrieved_share = ratio((double)sum->tokens_retrieved, (double)sum->tokens_indexed),
        .cluster_share = ratio((double)sum->entries_retrieved, (double)sum->entries_indexed),
        .hit_ratio = ratio((double)(sum->entries_retrieved - sum->misses), (double)sum->entries_retrieved),
        .bytes_per_token = ratio((double)sum->bytes_fetched, n),
        .retrieved_bytes_per_token = ratio((double)sum->tokens_retrieved * row_pair, n),
        .nll_full = ratio(agreement->expected_nll_sum, n),
        .nll = ratio(agreement->actual_nll_sum, n),
        .bytes_fetched = sum->bytes_fetched,
        .records_fetched = sum->records_fetched,
    };
}

/* ---- decoding ---- */

static uint32_t best_that_goes_on(const lwc_engine_t *engine, float *logits)
{
    const llama_tokenizer_t *tokenizer = llama_model_tokenizer(engine->model);
    uint32_t token = llama_greedy(logits, engine->shape->vocabulary);
    while (llama_is_end(tokenizer, token)) {
        logits[token] = -1e30f;
        token = llama_greedy(logits, engine->shape->vocabulary);
    }
    return token;
}

lw_status_t lwc_engine_decode(lwc_engine_t *engine, const llama_attention_t *attention, const uint32_t *prompt,
                              uint32_t prompt_count, uint32_t position, uint32_t count, uint32_t *tokens_out,
                              double *seconds_out, const char *label, lw_error_t *error)
{
    float *logits = malloc(engine->shape->vocabulary * sizeof(float));
    lw_status_t status = logits ? LW_OK : LW_ERR_NO_MEMORY;
    for (uint32_t done = 0; done < prompt_count && status == LW_OK;) {
        uint32_t tokens = prompt_count - done < LW_QUERY_TOKENS_MAX ? prompt_count - done : LW_QUERY_TOKENS_MAX;
        bool last = done + tokens == prompt_count;
        llama_chunk_t chunk = {.tokens = prompt + done, .token_count = tokens, .first_position = position + done,
                               .first_logit_token = last ? tokens - 1 : tokens, .logits = last ? logits : NULL};
        status = llama_forward(engine->stepper, attention, &chunk);
        done += tokens;
    }
    uint64_t began = lw_now_us(lw_clock_real());
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        tokens_out[i] = best_that_goes_on(engine, logits);
        llama_chunk_t chunk = {.tokens = &tokens_out[i], .token_count = 1, .first_position = position + prompt_count + i,
                               .logits = logits};
        status = llama_forward(engine->stepper, attention, &chunk);
        show(engine, label, i + 1, count, began);
    }
    *seconds_out = (double)(lw_now_us(lw_clock_real()) - began) / 1e6;
    free(logits);
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "%s: %s: %s", label, lw_status_text(status), lw_last_error(engine->kv));
}

char *lwc_engine_text(const lwc_engine_t *engine, const uint32_t *tokens, uint32_t count)
{
    const llama_tokenizer_t *tokenizer = llama_model_tokenizer(engine->model);
    size_t bytes = 1, at = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += llama_decode(tokenizer, tokens[i], NULL, 0);
    char *text = malloc(bytes);
    for (uint32_t i = 0; i < count && text; i++)
        at += llama_decode(tokenizer, tokens[i], text + at, bytes - at);
    if (text)
        text[at] = 0;
    return text;
}
