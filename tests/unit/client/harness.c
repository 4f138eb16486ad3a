/* harness.c - sequences, steps and exact attention; see harness.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "quick.h"
#include "unit/client/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void harness_model(harness_t *h, const harness_params_t *params)
{
    uint32_t heads = params->heads ? params->heads : 2;

    h->replicas = params->replicas;
    h->model = (lw_model_t){.size = sizeof(h->model),
                            .layer_count = params->layers ? params->layers : 2,
                            .kv_head_count = heads,
                            .query_head_count = heads * (params->group ? params->group : 2),
                            .head_dim = params->head_dim ? params->head_dim : 16,
                            .dtype = LW_DTYPE_FP32,
                            .model_id = "test"};
}

lw_session_t *harness_session(harness_t *h, uint32_t policy, uint32_t segment_tokens)
{
    lw_session_params_t params = {.size = sizeof(params),
                                  .replicas = h->replicas,
                                  .policy = policy,
                                  .segment_tokens = segment_tokens,
                                  .cluster_encoding = LW_ENCODING_FP32,
                                  .outlier_encoding = LW_ENCODING_FP32};
    lw_session_t *session = NULL;

    if (lw_session_open(h->kv, &params, &session) != LW_OK)
        fail_msg("session: %s", lw_last_error(h->kv));
    return session;
}

/* ---- sequences ---- */

static size_t token_floats(const harness_t *h)
{
    return (size_t)h->model.layer_count * h->model.kv_head_count * h->model.head_dim;
}

void sequence_init(sequence_t *sequence, const harness_t *h, uint32_t capacity)
{
    *sequence = (sequence_t){.capacity = capacity,
                             .keys = calloc(capacity, token_floats(h) * sizeof(float)),
                             .values = calloc(capacity, token_floats(h) * sizeof(float))};
}

void sequence_fini(sequence_t *sequence)
{
    free(sequence->keys);
    free(sequence->values);
}

static float draw(lw_prng_t *prng)
{
    return (float)(lw_prng_unit(prng) + lw_prng_unit(prng) + lw_prng_unit(prng) - 1.5);
}

void sequence_grow(sequence_t *sequence, harness_t *h, uint32_t tokens)
{
    size_t floats = token_floats(h);

    LW_ASSERT(sequence->count + tokens <= sequence->capacity);
    for (uint32_t t = 0; t < tokens; t++, sequence->count++) {
        lw_prng_t topic = {.state = 77 + lw_prng_below(&h->prng, 40)};
        for (size_t i = 0; i < floats; i++) {
            sequence->keys[sequence->count * floats + i] = 1.5f * draw(&topic) + 0.4f * draw(&h->prng);
            sequence->values[sequence->count * floats + i] = draw(&h->prng);
        }
    }
}

static lw_tensor_t layer_tensor(const harness_t *h, const float *data, uint32_t layer, uint32_t first,
                                uint32_t tokens)
{
    size_t floats = token_floats(h), per_layer = (size_t)h->model.kv_head_count * h->model.head_dim;

    return (lw_tensor_t){.data = (void *)(uintptr_t)(data + first * floats + layer * per_layer),
                         .sessions = 1,
                         .tokens = tokens,
                         .heads = h->model.kv_head_count,
                         .head_dim = h->model.head_dim,
                         .token_stride = (int64_t)floats,
                         .head_stride = h->model.head_dim};
}

void harness_prefill(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t first,
                     uint32_t count, uint32_t chunk)
{
    for (uint32_t at = first; at < first + count; at += chunk) {
        uint32_t tokens = (uint32_t)lw_min_u64(chunk, first + count - at);
        for (uint32_t layer = 0; layer < h->model.layer_count; layer++) {
            lw_tensor_t key = layer_tensor(h, sequence->keys, layer, at, tokens);
            lw_tensor_t value = layer_tensor(h, sequence->values, layer, at, tokens);
            if (lw_prefill(session, layer, &key, &value, NULL, NULL) != LW_OK)
                fail_msg("prefill of token %u, layer %u: %s", at, layer, lw_last_error(h->kv));
        }
    }
}

void harness_settle(harness_t *h)
{
    for (int quiet = 0, i = 0; quiet < 50 && i < 100000; i++) {
        bool busy = false;
        lw_progress(h->kv);
        if (h->kv->env.keeper_thread || h->kv->device.async)
            lwc_wait(h->kv, 1000);
        for (uint32_t slot = 0; slot < h->kv->sizes.sessions_max; slot++)
            busy |= h->kv->sessions[slot].open && h->kv->sessions[slot].task_busy;
        quiet = busy ? 0 : quiet + 1;
    }
}

void harness_drain(harness_t *h)
{
    lw_error_t error;

    for (int i = 0; i < 2; i++) {
        assert_int_equal(lwc_stream_settle(h->kv, &error), LW_OK);
        lwc_publish_bury(h->kv);
    }
    assert_int_equal(lwc_stream_settle(h->kv, &error), LW_OK);
    lwc_publish_bury(h->kv);
}

lw_status_t harness_attend(harness_t *h, const lw_step_t *step, lw_tensor_t *out)
{
    lw_error_t error;
    lw_status_t status = lw_attend(h->kv, step, out, NULL);

    return status == LW_OK ? lwc_stream_settle(h->kv, &error) : status;
}

lw_status_t harness_ended(harness_t *h, lw_session_t *session)
{
    lw_status_t status = LW_OK;

    do {
        lwc_device_nap(10);
        assert_int_equal(lw_step_status(h->kv, session, &status), LW_OK);
    } while (status == LW_INPROGRESS);
    if (status == LW_OK)
        return LW_OK;
    assert_int_equal(lw_session_truncate(session, harness_tokens(session)), status);
    return status;
}

/* ---- exact attention ---- */

/* Reads what no device writes: sanitizers of threads need not watch it, and it is most of what a test computes. */
__attribute__((no_sanitize("thread"))) void harness_exact(const harness_t *h, const sequence_t *sequence, uint32_t layer, uint32_t query_head,
                   uint32_t visible, const float *query, double *out, double *lse_out)
{
    size_t floats = token_floats(h);
    uint32_t d = h->model.head_dim, head = query_head / (h->model.query_head_count / h->model.kv_head_count);
    size_t offset = ((size_t)layer * h->model.kv_head_count + head) * d;
    double scale = 1 / sqrt(d), most = -INFINITY, total = 0;

    for (uint32_t t = 0; t < visible; t++) {
        double x = 0;
        for (uint32_t j = 0; j < d; j++)
            x += (double)query[j] * sequence->keys[t * floats + offset + j];
        most = fmax(most, scale * x);
    }
    memset(out, 0, d * sizeof(*out));
    for (uint32_t t = 0; t < visible; t++) {
        double x = 0;
        for (uint32_t j = 0; j < d; j++)
            x += (double)query[j] * sequence->keys[t * floats + offset + j];
        double w = exp(scale * x - most);
        total += w;
        for (uint32_t j = 0; j < d; j++)
            out[j] += w * sequence->values[t * floats + offset + j];
    }
    for (uint32_t j = 0; j < d; j++)
        out[j] /= total;
    *lse_out = most + log(total);
}

static void result_init(result_t *result, const harness_t *h, uint32_t tokens)
{
    result->rows = h->model.layer_count * tokens * h->model.query_head_count;
    result->head_dim = h->model.head_dim;
    result->out = calloc((size_t)result->rows * result->head_dim, sizeof(float));
    result->lse = calloc(result->rows, sizeof(float));
    result->exact_out = calloc((size_t)result->rows * result->head_dim, sizeof(double));
    result->exact_lse = calloc(result->rows, sizeof(double));
}

void result_fini(result_t *result)
{
    free(result->out);
    free(result->lse);
    free(result->exact_out);
    free(result->exact_lse);
    memset(result, 0, sizeof(*result));
}

double result_out_error(const result_t *result)
{
    double most = 0;
    for (size_t i = 0; i < (size_t)result->rows * result->head_dim; i++) {
        if (isnan(result->exact_lse[i / result->head_dim]))
            continue; /* not compared */
        double error = fabs(result->out[i] - result->exact_out[i]);
        most = error > most || isnan(error) ? error : most;
        if (isnan(most))
            return INFINITY;
    }
    return most;
}

double result_lse_error(const result_t *result)
{
    double most = 0;
    for (uint32_t i = 0; i < result->rows; i++) {
        double error = fabs(result->lse[i] - result->exact_lse[i]);
        if (isnan(result->exact_lse[i]))
            continue;
        if (isnan(error))
            return INFINITY;
        most = fmax(most, error);
    }
    return most;
}

typedef struct layer_run {
    harness_t *h;
    lw_session_t *session;
    const sequence_t *sequence;
    uint32_t first, tokens, layer;
    float *query;
    result_t *result;
} layer_run_t;

static void draw_query(layer_run_t *run, bool zero)
{
    size_t count = (size_t)run->tokens * run->h->model.query_head_count * run->h->model.head_dim;
    for (size_t i = 0; i < count; i++)
        run->query[i] = zero ? 0 : 2 * draw(&run->h->prng);
}

static void exact_layer(layer_run_t *run)
{
    uint32_t heads = run->h->model.query_head_count, d = run->h->model.head_dim;
    uint32_t stride = quick_count(1, 1 + run->tokens / 16);
    for (uint32_t t = 0; t < run->tokens; t++)
        for (uint32_t q = 0; q < heads; q++) {
            size_t row = ((size_t)run->layer * run->tokens + t) * heads + q;
            run->result->exact_lse[row] = NAN;
            if ((run->tokens - 1 - t) % stride != 0)
                continue;
            harness_exact(run->h, run->sequence, run->layer, q, run->first + t + 1,
                          run->query + ((size_t)t * heads + q) * d, run->result->exact_out + row * d,
                          &run->result->exact_lse[row]);
        }
}

static lw_tensor_t query_tensor(const layer_run_t *run, float *data)
{
    return (lw_tensor_t){.data = data,
                         .sessions = 1,
                         .tokens = run->tokens,
                         .heads = run->h->model.query_head_count,
                         .head_dim = run->h->model.head_dim};
}

static lw_status_t attend_layer(layer_run_t *run)
{
    size_t at = (size_t)run->layer * run->tokens * run->h->model.query_head_count;
    lw_tensor_t out = query_tensor(run, run->result->out + at * run->h->model.head_dim);
    lw_session_t *sessions[1] = {run->session};
    lw_step_t step = {.size = sizeof(step),
                      .layer = run->layer,
                      .sessions = sessions,
                      .session_count = 1,
                      .timeout_us = run->h->step_timeout_us,
                      .query = query_tensor(run, run->query),
                      .key = layer_tensor(run->h, run->sequence->keys, run->layer, run->first, run->tokens),
                      .value =
                          layer_tensor(run->h, run->sequence->values, run->layer, run->first, run->tokens),
                      .lse_out = run->result->lse + at};
    uint64_t began_us = lw_now_us(lw_clock_real());
    lw_status_t status = lw_attend(run->h->kv, &step, &out, NULL);

    run->h->attend_us += lw_now_us(lw_clock_real()) - began_us;
    return status;
}

/* One layer's queries; kept until the step has ended. */
static size_t query_floats(const harness_t *h, uint32_t tokens)
{
    return (size_t)tokens * h->model.query_head_count * h->model.head_dim;
}

lw_status_t harness_step(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens,
                         bool zero_query, result_t *result_out)
{
    layer_run_t run = {.h = h,
                       .session = session,
                       .sequence = sequence,
                       .first = harness_tokens(session),
                       .tokens = tokens,
                       .result = result_out};
    lw_status_t status = LW_OK;

    LW_ASSERT(run.first + tokens <= sequence->count);
    result_init(result_out, h, tokens);
    float *queries = calloc(query_floats(h, tokens) * h->model.layer_count, sizeof(float));
    for (run.layer = 0; run.layer < h->model.layer_count && status == LW_OK; run.layer++) {
        run.query = queries + run.layer * query_floats(h, tokens);
        draw_query(&run, zero_query);
        exact_layer(&run);
        status = attend_layer(&run);
    }
    if (h->kv->device.async) {
        lw_error_t error;
        assert_int_equal(lwc_stream_settle(h->kv, &error), LW_OK);
        if (status == LW_OK)
            status = harness_ended(h, session);
    }
    free(queries);
    return status;
}

lw_status_t harness_extend(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens,
                           result_t *result_out)
{
    layer_run_t run = {.h = h,
                       .session = session,
                       .sequence = sequence,
                       .first = harness_tokens(session),
                       .tokens = tokens,
                       .result = result_out};
    lw_status_t status = LW_OK;

    result_init(result_out, h, tokens);
    float *queries = calloc(query_floats(h, tokens) * h->model.layer_count, sizeof(float));
    for (run.layer = 0; run.layer < h->model.layer_count && status == LW_OK; run.layer++) {
        run.query = queries + run.layer * query_floats(h, tokens);
        draw_query(&run, false);
        exact_layer(&run);
        size_t at = (size_t)run.layer * tokens * h->model.query_head_count;
        lw_tensor_t query = query_tensor(&run, run.query);
        lw_tensor_t out = query_tensor(&run, result_out->out + at * h->model.head_dim);
        lw_tensor_t key = layer_tensor(h, sequence->keys, run.layer, run.first, tokens);
        lw_tensor_t value = layer_tensor(h, sequence->values, run.layer, run.first, tokens);
        status = lw_extend(session, run.layer, &query, &key, &value, &out, 0, NULL, NULL);
    }
    lw_error_t error;
    assert_int_equal(lwc_stream_settle(h->kv, &error), LW_OK);
    free(queries);
    return status;
}

uint32_t harness_tokens(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    return lw_session_query(session, &attr) == LW_OK ? attr.token_count : UINT32_MAX;
}

uint32_t harness_sealed(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    return lw_session_query(session, &attr) == LW_OK ? attr.sealed_tokens : UINT32_MAX;
}
