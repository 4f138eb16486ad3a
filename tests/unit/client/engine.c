/* engine.c - see engine.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "unit/client/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const lwc_device_t *device(const engine_t *engine)
{
    return &engine->h->kv->device;
}

static size_t layer_floats(const engine_t *engine, uint32_t heads)
{
    return (size_t)engine->slots * engine->tokens * heads * engine->h->model.head_dim;
}

static float *buffer(engine_t *engine, size_t floats)
{
    void *memory = NULL;
    lw_error_t error;

    if (lwc_device_alloc(device(engine), LWK_MEMORY_PINNED, floats * sizeof(float), "engine", &memory, &error) !=
        LW_OK)
        fail_msg("%s", error.text);
    return memory;
}

void engine_init(engine_t *engine, harness_t *h, uint32_t slots, uint32_t tokens)
{
    const lw_model_t *model = &h->model;

    *engine = (engine_t){.h = h, .slots = slots, .tokens = tokens};
    engine->query = buffer(engine, model->layer_count * layer_floats(engine, model->query_head_count));
    engine->out = buffer(engine, model->layer_count * layer_floats(engine, model->query_head_count));
    engine->lse = buffer(engine, model->layer_count * layer_floats(engine, model->query_head_count));
    engine->key = buffer(engine, model->layer_count * layer_floats(engine, model->kv_head_count));
    engine->value = buffer(engine, model->layer_count * layer_floats(engine, model->kv_head_count));
    assert_int_equal(h->kv->device.backend->stream_create(h->kv->device.dev, &engine->stream), LW_OK);
}

/* The handle must be closed only after this; the stream is the handle's until then. */
void engine_fini(engine_t *engine)
{
    struct lw *kv = engine->h->kv;
    lw_error_t error;

    assert_int_equal(lwc_stream_use(kv, kv->own_stream, &error), LW_OK);
    assert_int_equal(lwc_stream_settle(kv, &error), LW_OK);
    if (engine->graph)
        kv->device.backend->graph_destroy(engine->graph);
    kv->device.backend->stream_destroy(kv->device.dev, engine->stream);
    float *buffers[] = {engine->query, engine->out, engine->lse, engine->key, engine->value};
    for (size_t i = 0; i < LW_ARRAY_SIZE(buffers); i++)
        lwc_device_free(&kv->device, LWK_MEMORY_PINNED, buffers[i]);
}

static void fill_slot(engine_t *engine, uint32_t slot)
{
    const lw_model_t *model = &engine->h->model;
    sequence_t *sequence = engine->sequences[slot];
    size_t row = (size_t)model->kv_head_count * model->head_dim;

    if (!engine->sessions[slot])
        return;
    engine->before[slot] = harness_tokens(engine->sessions[slot]);
    while (sequence->count < engine->before[slot] + engine->tokens)
        sequence_grow(sequence, engine->h, 1);
    for (uint32_t layer = 0; layer < model->layer_count; layer++)
        for (uint32_t t = 0; t < engine->tokens; t++) {
            size_t from = ((size_t)(engine->before[slot] + t) * model->layer_count + layer) * row;
            size_t to = layer * layer_floats(engine, model->kv_head_count) +
                        ((size_t)slot * engine->tokens + t) * row;
            memcpy(engine->key + to, sequence->keys + from, row * sizeof(float));
            memcpy(engine->value + to, sequence->values + from, row * sizeof(float));
        }
}

void engine_fill(engine_t *engine)
{
    const lw_model_t *model = &engine->h->model;
    size_t count = model->layer_count * layer_floats(engine, model->query_head_count);

    for (size_t i = 0; i < count; i++)
        engine->query[i] = 4 * ((float)lw_prng_unit(&engine->h->prng) - 0.5f);
    for (uint32_t slot = 0; slot < engine->slots; slot++)
        fill_slot(engine, slot);
}

static lw_tensor_t tensor(const engine_t *engine, float *data, uint32_t layer, uint32_t heads)
{
    return (lw_tensor_t){.data = data + layer * layer_floats(engine, heads),
                         .sessions = engine->slots,
                         .tokens = engine->tokens,
                         .heads = heads,
                         .head_dim = engine->h->model.head_dim};
}

lw_status_t engine_layer(engine_t *engine, uint32_t layer, lw_session_t *const *sessions, uint32_t timeout_us)
{
    const lw_model_t *model = &engine->h->model;
    lw_tensor_t out = tensor(engine, engine->out, layer, model->query_head_count);
    lw_step_t step = {.size = sizeof(step),
                      .layer = layer,
                      .sessions = sessions,
                      .session_count = engine->slots,
                      .timeout_us = timeout_us,
                      .query = tensor(engine, engine->query, layer, model->query_head_count),
                      .key = tensor(engine, engine->key, layer, model->kv_head_count),
                      .value = tensor(engine, engine->value, layer, model->kv_head_count),
                      .lse_out = engine->lse + layer * layer_floats(engine, model->query_head_count) / model->head_dim,
                      .stream = engine->stream};

    return lw_attend(engine->h->kv, &step, &out, NULL);
}

void engine_bind(engine_t *engine, uint32_t slot, lw_session_t *session, sequence_t *sequence)
{
    if (lw_bind(engine->h->kv, slot, session) != LW_OK)
        fail_msg("bind: %s", lw_last_error(engine->h->kv));
    engine->sessions[slot] = session;
    engine->sequences[slot] = sequence;
}

void engine_capture(engine_t *engine)
{
    struct lw *kv = engine->h->kv;

    assert_int_equal(kv->device.backend->capture_begin(kv->device.dev, engine->stream), LW_OK);
    for (uint32_t layer = 0; layer < engine->h->model.layer_count; layer++)
        if (engine_layer(engine, layer, NULL, 0) != LW_OK)
            fail_msg("capture of layer %u: %s", layer, lw_last_error(kv));
    assert_int_equal(kv->device.backend->capture_end(kv->device.dev, engine->stream, &engine->graph), LW_OK);
}

lw_status_t engine_replay(engine_t *engine)
{
    struct lw *kv = engine->h->kv;
    lw_status_t status = lw_replay(kv, engine->slots, engine->tokens, engine->stream);

    if (status == LW_OK)
        assert_int_equal(kv->device.backend->graph_launch(engine->graph, engine->stream), LW_OK);
    return status;
}

void engine_settle(engine_t *engine)
{
    lw_error_t error;

    if (lwc_stream_settle(engine->h->kv, &error) != LW_OK)
        fail_msg("%s", error.text);
}

double engine_error(const engine_t *engine, uint32_t slot)
{
    const lw_model_t *model = &engine->h->model;
    uint32_t d = model->head_dim;
    double exact[256], lse, most = 0;

    for (uint32_t layer = 0; layer < model->layer_count; layer++)
        for (uint32_t t = 0; t < engine->tokens; t++)
            for (uint32_t q = 0; q < model->query_head_count; q++) {
                size_t row = layer * layer_floats(engine, model->query_head_count) / d +
                             ((size_t)slot * engine->tokens + t) * model->query_head_count + q;
                harness_exact(engine->h, engine->sequences[slot], layer, q, engine->before[slot] + t + 1,
                              engine->query + row * d, exact, &lse);
                most = fmax(most, fabs(engine->lse[row] - lse));
                for (uint32_t j = 0; j < d; j++) {
                    double error = fabs(engine->out[row * d + j] - exact[j]);
                    most = isnan(error) ? INFINITY : fmax(most, error);
                }
            }
    return most;
}
