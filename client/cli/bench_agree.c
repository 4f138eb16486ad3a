/* bench_agree.c - `longwave bench agree`: does the model say the same on a GPU as on the CPU? The CPU reads a
 * document into the fleet and is then fed the document's next tokens through Longwave; a second handle on the
 * other backend reopens the session, so that both attend through the same index, and the model on the GPU is
 * fed the same tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/bench.h"
#include "client/cli/engine.h"
#include "client/cli/words.h"

#define GATE_TOP1 0.995
#define GATE_KL 1e-3
#define DEVICE_BACKEND "cuda"

typedef struct {
    lwc_run_words_t run;
    const char *precision;
    lwc_engine_t engine;
    lw_session_t *session;
    uint64_t session_id;
    float *expected; /* [teacher][vocabulary]: the CPU's */
    llama_agreement_t agreement;
    double cpu_s, gpu_s;
} agree_t;

static void usage(FILE *out)
{
    fputs("longwave bench agree --model FILE.gguf --document FILE --fleet HOST:PORT,... [options]\n"
          "\n"
          "Feeds a document's tokens to the model on the CPU and on a GPU, both through Longwave over one "
          "index, and compares\n"
          "the distributions. Exit status 0 only if top-1 agrees in 99.5% and the mean KL is at most 0.001.\n"
          "\n"
          "  --context N       tokens read before the comparison (6272)\n"
          "  --teacher N       tokens compared (512)\n"
          "  --precision NAME  weights on the GPU: f32 or bf16 (f32, as on the CPU)\n"
          "  --backend NAME    of the CPU's side: cpu or ref (cpu); the other side's is cuda\n"
          "  --config TEXT, --threads N, --json FILE, --quiet   as for longwave demo\n",
          out);
}

/* ---- the CPU's side ---- */

static lw_status_t feed_cpu(agree_t *agree, lw_session_t *child, lw_error_t *error)
{
    lwc_engine_t *engine = &agree->engine;
    uint32_t vocabulary = engine->shape->vocabulary, context = agree->run.context;
    lwc_engine_attention_t attention;
    lw_status_t status = lwc_engine_attention_init(engine, child, &attention);
    if (status != LW_OK)
        return lw_fail(error, status, "no memory");
    llama_attention_t call = lwc_engine_attention(&attention);
    uint64_t began_ns = lwc_bench_now_ns();
    for (uint32_t i = 0; i < agree->run.teacher && status == LW_OK; i++) {
        llama_chunk_t chunk = {.tokens = engine->document.ids + context + i,
                               .token_count = 1,
                               .first_position = context + i,
                               .logits = agree->expected + (uint64_t)i * vocabulary};
        status = llama_forward(engine->stepper, &call, &chunk);
    }
    agree->cpu_s = (double)(lwc_bench_now_ns() - began_ns) / 1e9;
    lwc_engine_attention_fini(&attention);
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "on the CPU: %s: %s", lw_status_text(status),
                                     lw_last_error(engine->kv));
}

/* A child takes the tokens, so that the session stays as it was read. */
static lw_status_t on_cpu(agree_t *agree, lw_error_t *error)
{
    lwc_engine_t *engine = &agree->engine;
    lw_session_params_t params = {.size = sizeof(params), .replicas = 1, .segment_tokens = 2 * LW_UNIT_TOKENS};
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    lw_session_t *child = NULL;
    lw_status_t status = lw_session_open(engine->kv, &params, &agree->session);
    if (status != LW_OK)
        return lw_fail(error, status, "session: %s", lw_last_error(engine->kv));
    status = lwc_engine_read(engine, agree->run.context, agree->session, error);
    if (status == LW_OK)
        status = lwc_engine_flush(engine, agree->session, error);
    if (status != LW_OK)
        return status;
    status = lw_session_query(agree->session, &attr);
    if (status == LW_OK)
        status = lw_session_fork(agree->session, NULL, &child);
    if (status != LW_OK)
        return lw_fail(error, status, "fork: %s", lw_last_error(engine->kv));
    agree->session_id = attr.session_id;
    status = feed_cpu(agree, child, error);
    lw_status_t dropped = lw_session_drop(child);
    lw_session_close(child);
    lw_session_close(agree->session);
    agree->session = NULL;
    return status == LW_OK ? dropped : status;
}

/* ---- the GPU's side ---- */

typedef struct {
    agree_t *agree;
    const llama_gpu_api_t *api;
    llama_gpu_t *runner;
    lw_t *kv;
    lw_session_t *session, *child;
} device_t;

static lw_tensor_t rows_of(const void *data, uint32_t heads, uint32_t head_dim)
{
    return (lw_tensor_t){
        .data = (void *)(uintptr_t)data, .sessions = 1, .tokens = 1, .heads = heads, .head_dim = head_dim};
}

static lw_status_t attend(void *self, uint32_t layer, uint32_t rows, const uint16_t *query,
                          const uint16_t *key, const uint16_t *value, uint16_t *out)
{
    device_t *device = self;
    const llama_shape_t *shape = device->agree->engine.shape;
    lw_step_t step = {.size = sizeof(step),
                      .layer = layer,
                      .sessions = &device->child,
                      .session_count = 1,
                      .query = rows_of(query, shape->query_heads, shape->head_dim),
                      .key = rows_of(key, shape->kv_heads, shape->head_dim),
                      .value = rows_of(value, shape->kv_heads, shape->head_dim),
                      .stream = device->api->stream(device->runner)};
    lw_tensor_t result = rows_of(out, shape->query_heads, shape->head_dim);
    return rows == 1 ? lw_attend(device->kv, &step, &result, NULL) : LW_ERR_INVALID;
}

static lw_status_t open_device(device_t *device, lw_error_t *error)
{
    agree_t *agree = device->agree;
    const llama_shape_t *shape = agree->engine.shape;
    uint32_t tokens = agree->run.context + agree->run.teacher;
    llama_gpu_params_t runner = {.model = agree->engine.model,
                                 .precision =
                                     strcmp(agree->precision, "bf16") == 0 ? LLAMA_GPU_BF16 : LLAMA_GPU_F32,
                                 .rows_max = 1,
                                 .positions_max = tokens};
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = DEVICE_BACKEND,
                             .fleet = agree->run.fleet,
                             .config = agree->run.config,
                             .sessions_max = 2,
                             .tokens_max = tokens + LW_UNIT_TOKENS,
                             .model = {.size = sizeof(lw_model_t),
                                       .layer_count = shape->layers,
                                       .kv_head_count = shape->kv_heads,
                                       .query_head_count = shape->query_heads,
                                       .head_dim = shape->head_dim,
                                       .dtype = LW_DTYPE_BF16,
                                       .model_id = llama_model_name(agree->engine.model)}};
    lw_session_params_t params = {.size = sizeof(params), .session_id = agree->session_id};
    device->api = llama_gpu_find(error);
    lw_status_t status =
        device->api ? device->api->create(&runner, &device->runner, error) : LW_ERR_UNSUPPORTED;
    if (status != LW_OK)
        return status;
    if ((status = lw_open(&open, &device->kv)) != LW_OK)
        return lw_fail(error, status, "open of backend '%s': %s", DEVICE_BACKEND, lw_last_error(NULL));
    status = lw_session_open(device->kv, &params, &device->session);
    if (status == LW_OK)
        status = lw_session_fork(device->session, NULL, &device->child);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "reopen: %s", lw_last_error(device->kv));
}

static void close_device(device_t *device)
{
    lw_session_t *sessions[] = {device->child, device->session};
    for (size_t i = 0; i < LW_ARRAY_SIZE(sessions); i++) {
        if (!sessions[i])
            continue;
        if (lw_session_drop(sessions[i]) != LW_OK)
            fprintf(stderr, "longwave bench: drop: %s\n", lw_last_error(device->kv));
        lw_session_close(sessions[i]);
    }
    lw_close(device->kv);
    if (device->runner)
        device->api->destroy(device->runner);
}

static lw_status_t feed_device(device_t *device, float *logits, lw_error_t *error)
{
    agree_t *agree = device->agree;
    const lwc_engine_t *engine = &agree->engine;
    uint32_t vocabulary = engine->shape->vocabulary, context = agree->run.context;
    llama_gpu_attention_t attention = {attend, device};
    llama_gpu_pass_t pass = {.rows = 1, .project = true};
    lw_status_t status = LW_OK, ended = LW_OK;
    uint64_t began_ns = lwc_bench_now_ns();
    for (uint32_t i = 0; i < agree->run.teacher && status == LW_OK; i++) {
        uint32_t position = context + i, token = engine->document.ids[position];
        uint32_t next =
            position + 1 < engine->document.count ? engine->document.ids[position + 1] : UINT32_MAX;
        status = device->api->set_rows(device->runner, &token, &position, 1);
        if (status == LW_OK)
            status = device->api->forward(device->runner, &attention, &pass);
        if (status == LW_OK)
            status = device->api->logits(device->runner, 0, logits);
        if (status == LW_OK)
            status = lw_step_status(device->kv, device->child, &ended);
        if (status == LW_OK && ended != LW_INPROGRESS)
            status = ended;
        if (status == LW_OK)
            llama_agreement_add(&agree->agreement, agree->expected + (uint64_t)i * vocabulary, logits,
                                vocabulary, next);
    }
    agree->gpu_s = (double)(lwc_bench_now_ns() - began_ns) / 1e9;
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "on the GPU: %s: %s", lw_status_text(status),
                                     lw_last_error(device->kv));
}

static lw_status_t on_device(agree_t *agree, lw_error_t *error)
{
    device_t device = {.agree = agree};
    float *logits = malloc(agree->engine.shape->vocabulary * sizeof(*logits));
    lw_status_t status = logits ? open_device(&device, error) : lw_fail(error, LW_ERR_NO_MEMORY, "no memory");
    if (status == LW_OK)
        status = feed_device(&device, logits, error);
    close_device(&device);
    free(logits);
    return status;
}

/* ---- report ---- */

static bool gates_hold(const agree_t *agree)
{
    const llama_agreement_t *a = &agree->agreement;
    double n = (double)a->positions;
    return n > 0 && (double)a->top1_equal / n >= GATE_TOP1 && a->kl_sum / n <= GATE_KL;
}

static lw_status_t report(const agree_t *agree, lw_error_t *error)
{
    const llama_agreement_t *a = &agree->agreement;
    const char *path = agree->run.json;
    double n = (double)a->positions;
    if (!path || strcmp(path, "-") != 0)
        printf("| %s weights, %u tokens after %u | top-1 %.2f%% | mean KL %.2e | max KL %.2e | tokens/s: CPU "
               "%.1f, GPU %.1f | %s |\n",
               agree->precision, agree->run.teacher, agree->run.context, 100 * (double)a->top1_equal / n,
               a->kl_sum / n, a->kl_max, n / agree->cpu_s, n / agree->gpu_s,
               gates_hold(agree) ? "agrees" : "DOES NOT AGREE");
    if (!path)
        return LW_OK;
    FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (!out)
        return lw_fail(error, LW_ERR_IO, "--json: '%s' cannot be written", path);
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    lwc_json_text(&json, "precision", agree->precision);
    lwc_json_uint(&json, "context", agree->run.context);
    lwc_json_uint(&json, "positions", a->positions);
    lwc_json_number(&json, "top1_agreement", (double)a->top1_equal / n);
    lwc_json_number(&json, "mean_kl", a->kl_sum / n);
    lwc_json_number(&json, "max_kl", a->kl_max);
    lwc_json_number(&json, "cpu_tokens_per_s", n / agree->cpu_s);
    lwc_json_number(&json, "gpu_tokens_per_s", n / agree->gpu_s);
    lwc_json_bool(&json, "agrees", gates_hold(agree));
    lwc_json_close(&json);
    bool fine = lwc_json_end(&json);
    if (out != stdout && fclose(out) != 0)
        fine = false;
    return fine ? LW_OK : lw_fail(error, LW_ERR_IO, "--json: '%s' cannot be written", path);
}

static lw_status_t run(agree_t *agree, lw_error_t *error)
{
    lwc_engine_params_t params = {.model_path = agree->run.model,
                                  .document_path = agree->run.document,
                                  .fleet = agree->run.fleet,
                                  .backend = agree->run.backend ? agree->run.backend : "cpu",
                                  .config = agree->run.config,
                                  .threads = agree->run.threads,
                                  .tokens_max = agree->run.context + agree->run.teacher,
                                  .sessions_max = 2,
                                  .quiet = agree->run.quiet};
    lw_status_t status = lwc_engine_open(&params, &agree->engine, error);
    if (status != LW_OK)
        return status;
    agree->expected = malloc((uint64_t)agree->run.teacher * agree->engine.shape->vocabulary * sizeof(float));
    if (!agree->expected)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %u distributions", agree->run.teacher);
    else if (agree->run.context + agree->run.teacher > agree->engine.document.count)
        status = lw_fail(error, LW_ERR_INVALID, "the document has %zu tokens, %u are needed",
                         agree->engine.document.count, agree->run.context + agree->run.teacher);
    if (status == LW_OK)
        status = on_cpu(agree, error);
    if (status == LW_OK)
        status = on_device(agree, error);
    if (status == LW_OK)
        status = report(agree, error);
    free(agree->expected);
    if (agree->session)
        lw_session_close(agree->session);
    lwc_engine_close(&agree->engine);
    return status;
}

int lwc_bench_agree(int argc, char **argv)
{
    agree_t agree = {.run = {.context = 6272, .teacher = 512}, .precision = "f32"};
    const lwc_word_t own[] = {{"precision", LWC_WORD_TEXT, &agree.precision}};
    lw_error_t error = {0};
    int usage_status = lwc_words_parse("bench agree", argc, argv, &agree.run, own, LW_ARRAY_SIZE(own), usage);
    if (usage_status >= 0)
        return usage_status;
    if (!agree.run.fleet)
        return lwc_words_wrong("bench agree", "--fleet is required", usage);
    if (strcmp(agree.precision, "f32") != 0 && strcmp(agree.precision, "bf16") != 0)
        return lwc_words_wrong("bench agree", "--precision must be f32 or bf16", usage);
    lw_status_t status = run(&agree, &error);
    if (status != LW_OK) {
        fprintf(stderr, "longwave bench: %s\n", error.text[0] ? error.text : lw_status_text(status));
        return 1;
    }
    return gates_hold(&agree) ? 0 : 1;
}
