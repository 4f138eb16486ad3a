/* harness.c - the handle in miniature: buffers, steps, tickets, exact attention. Ranges are cut in
 * harness_range.c. */
#include "ops/harness.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/view.h"
#include "ops/harness_private.h"

void ops_must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "harness: %s failed\n", what);
        abort();
    }
}

void *ops_host(size_t bytes)
{
    void *ptr = calloc(1, bytes > 0 ? bytes : 1);
    ops_must(ptr != NULL, "calloc");
    return ptr;
}

void *ops_device(ops_rig_t *rig, lwk_memory_t kind, size_t bytes)
{
    void *ptr = NULL;
    ops_must(rig->backend->alloc(rig->dev, kind, bytes, &ptr) == LW_OK, "alloc");
    return ptr;
}

void ops_wait(const lwk_backend_t *backend, lwk_dev_t *dev)
{
    if (!(backend->caps & LWK_CAP_ASYNC))
        return;
    lwk_event_t *event = NULL;
    ops_must(backend->event_create(dev, &event) == LW_OK, "event_create");
    ops_must(backend->event_record(event, NULL) == LW_OK, "event_record");
    while (backend->event_query(event) == LW_INPROGRESS)
        (void)sched_yield();
    backend->event_destroy(event);
}

static void sync(ops_rig_t *rig)
{
    ops_wait(rig->backend, rig->dev);
}

void ops_put(ops_rig_t *rig, void *device, const void *host, size_t bytes)
{
    ops_must(rig->backend->copy(rig->dev, device, host, bytes, NULL) == LW_OK, "copy");
    sync(rig);
}

void ops_get(ops_rig_t *rig, void *host, const void *device, size_t bytes)
{
    ops_must(rig->backend->copy(rig->dev, host, device, bytes, NULL) == LW_OK, "copy");
    sync(rig);
}

lwk_session_t ops_session(ops_rig_t *rig, uint32_t s)
{
    lwk_session_t session;
    ops_get(rig, &session, &rig->sessions[s], sizeof session);
    return session;
}

void ops_set_session(ops_rig_t *rig, uint32_t s, const lwk_session_t *session)
{
    ops_put(rig, &rig->sessions[s], session, sizeof *session);
}

void ops_set_policy(ops_rig_t *rig, uint32_t s, const lwk_policy_t *policy)
{
    lwk_session_t session = ops_session(rig, s);
    session.policy = *policy;
    ops_set_session(rig, s, &session);
    rig->config.policy = *policy;
}

lwk_policy_t ops_policy(void)
{
    return (lwk_policy_t){.rank = LWK_RANK_EXPECTED_MAX,
                          .budget = LWK_BUDGET_TOKENS,
                          .correct = LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE,
                          .cluster_tokens = 16,
                          .retrieve_ppm = 18000,
                          .estimate_ppm = 1000000,
                          .accuracy_ppm = 100000,
                          .floor_entries = 8,
                          .cap_ppm = 50000,
                          .z = 1.5f};
}

lwk_policy_t ops_policy_full(void)
{
    lwk_policy_t policy = ops_policy();
    policy.retrieve_ppm = 1000000;
    return policy;
}

const char *ops_dtype_name(uint32_t dtype)
{
    return dtype == LW_DTYPE_BF16 ? "bf16" : dtype == LW_DTYPE_FP16 ? "fp16" : "fp32";
}

const char *ops_encoding_name(uint32_t encoding)
{
    return encoding == LW_ENCODING_BF16   ? "bf16"
           : encoding == LW_ENCODING_INT8 ? "int8"
           : encoding == LW_ENCODING_INT4 ? "int4"
                                          : "fp32";
}

/* ---- data
 * ------------------------------------------------------------------------------------------------------- */

float ops_gauss(lw_prng_t *prng)
{
    double u = 1.0 - lw_prng_unit(prng), v = lw_prng_unit(prng);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

static float rounded(uint32_t dtype, float x)
{
    float stored[1] = {0};
    lwk_store(stored, dtype, 0, x);
    return lwk_load(stored, dtype, 0);
}

size_t ops_row_at(const ops_rig_t *rig, uint32_t layer, uint32_t head, uint32_t token)
{
    return (((size_t)layer * rig->config.shape.kv_head_count + head) * rig->config.token_count + token) *
           rig->config.shape.head_dim;
}

static void make_row(ops_rig_t *rig, uint32_t layer, uint32_t head, uint32_t token, float *key, float *value)
{
    uint32_t d = rig->config.shape.head_dim;
    if (rig->config.data == OPS_DATA_SYNTH) {
        lw_synth_row(rig->synth, layer, head, token, key, value);
        return;
    }
    for (uint32_t j = 0; j < d; j++) {
        key[j] =
            rig->config.data == OPS_DATA_EQUAL ? 0.25f * (float)((j * 7 + head) % 5) : ops_gauss(&rig->prng);
        value[j] = ops_gauss(&rig->prng);
        if (rig->config.data == OPS_DATA_SINKS && token < LW_SINK_TOKENS)
            key[j] = j % 2 == 0 ? 4.0f : -4.0f;
    }
}

static void make_stream(ops_rig_t *rig, uint32_t stream)
{
    const lwk_shape_t *shape = &rig->config.shape;
    size_t floats =
        (size_t)shape->layer_count * shape->kv_head_count * rig->config.token_count * shape->head_dim;
    rig->keys[stream] = ops_host(floats * sizeof(float));
    rig->values[stream] = ops_host(floats * sizeof(float));
    for (uint32_t layer = 0; layer < shape->layer_count; layer++)
        for (uint32_t head = 0; head < shape->kv_head_count; head++)
            for (uint32_t token = 0; token < rig->config.token_count; token++) {
                size_t at = ops_row_at(rig, layer, head, token);
                make_row(rig, layer, head, token, rig->keys[stream] + at, rig->values[stream] + at);
            }
    for (size_t i = 0; i < floats; i++) {
        rig->keys[stream][i] = rounded(shape->dtype, rig->keys[stream][i]);
        rig->values[stream][i] = rounded(shape->dtype, rig->values[stream][i]);
    }
}

static void make_query(ops_rig_t *rig, uint32_t layer, uint32_t s, uint32_t t, uint32_t query_head,
                       float *query)
{
    uint32_t d = rig->config.shape.head_dim;
    uint32_t position = ops_session(rig, s).token_count + (layer == 0 ? t : t - rig->config.query_tokens);
    float size = rig->config.data == OPS_DATA_HARSH ? 24.0f : 1.5f;
    switch (rig->config.data) {
    case OPS_DATA_SYNTH:
        lw_synth_query(rig->synth, layer, query_head, position, lw_synth_target(rig->synth, position), query);
        break;
    case OPS_DATA_SINKS:
        for (uint32_t j = 0; j < d; j++)
            query[j] = (j % 2 == 0 ? 1.0f : -1.0f) + 0.1f * ops_gauss(&rig->prng);
        break;
    default:
        for (uint32_t j = 0; j < d; j++)
            query[j] = size * ops_gauss(&rig->prng);
    }
}

static uint32_t query_heads(const ops_rig_t *rig)
{
    return lwk_query_heads(&rig->config.shape);
}

static size_t query_rows(const ops_rig_t *rig)
{
    return (size_t)rig->config.session_count * rig->config.query_tokens * query_heads(rig);
}

void ops_query(ops_rig_t *rig, uint32_t layer)
{
    uint32_t d = rig->config.shape.head_dim;
    for (uint32_t s = 0; s < rig->config.session_count; s++)
        for (uint32_t t = 0; t < rig->config.query_tokens; t++)
            for (uint32_t h = 0; h < query_heads(rig); h++) {
                float *query =
                    rig->query_host + (((size_t)s * rig->config.query_tokens + t) * query_heads(rig) + h) * d;
                make_query(rig, layer, s, t, h, query);
                for (uint32_t j = 0; j < d; j++)
                    query[j] = rounded(rig->config.shape.dtype, query[j]);
            }
}

void ops_query_zero(ops_rig_t *rig)
{
    memset(rig->query_host, 0, query_rows(rig) * rig->config.shape.head_dim * sizeof(float));
}

/* ---- create and destroy
 * ----------------------------------------------------------------------------------------- */

static void fill_defaults(ops_config_t *c)
{
    if (c->shape.scale == 0)
        c->shape.scale = 1.0f / sqrtf((float)c->shape.head_dim);
    if (c->session_count == 0)
        c->session_count = 1;
    if (c->query_tokens == 0)
        c->query_tokens = 1;
    if (c->cluster_tokens == 0)
        c->cluster_tokens = 16;
    if (c->cluster_encoding == 0)
        c->cluster_encoding = LW_ENCODING_FP32;
    if (c->outlier_encoding == 0)
        c->outlier_encoding = LW_ENCODING_FP32;
    if (c->steady_rows == 0)
        c->steady_rows = LW_STEADY_TOKENS_MIN;
}

static lwk_dims_t dims_of(const ops_config_t *c)
{
    uint32_t entries = c->clustering == OPS_CLUSTER_KMEANS
                           ? (c->token_count / LW_UNIT_TOKENS + OPS_RANGES_MAX) *
                                 (LW_CLUSTERS_PER_UNIT_MAX + LW_OUTLIERS_PER_UNIT_MAX)
                           : c->token_count + OPS_RANGES_MAX;
    return (lwk_dims_t){.shape = c->shape,
                        .session_count = c->session_count,
                        .query_tokens = c->query_tokens,
                        .entry_capacity = entries,
                        .range_list_capacity = OPS_RANGES_MAX,
                        .item_capacity = c->item_capacity > 0 ? c->item_capacity : entries,
                        .steady_rows = c->steady_rows};
}

static void create_pages(ops_rig_t *rig, uint32_t which, uint32_t tokens, uint32_t wanted, uint32_t enough)
{
    lwk_page_class_t *pages = &rig->store_host.pages[which];
    pages->tokens = tokens;
    pages->count = wanted == UINT32_MAX ? 0 : wanted > 0 ? wanted : enough;
    pages->bytes =
        ops_device(rig, LWK_MEMORY_DEVICE, pages->count * lwk_page_bytes(&rig->config.shape, pages));
    pages->owner = ops_device(rig, LWK_MEMORY_DEVICE, pages->count * sizeof *pages->owner);
    pages->free_list = ops_device(rig, LWK_MEMORY_DEVICE, pages->count * sizeof *pages->free_list);
    lwk_page_owner_t *owner = ops_host(pages->count * sizeof *owner);
    uint32_t *list = ops_host(pages->count * sizeof *list);
    for (uint32_t i = 0; i < pages->count; i++) {
        owner[i].tile = UINT32_MAX;
        list[i] = pages->count - 1 - i;
    }
    ops_put(rig, pages->owner, owner, pages->count * sizeof *owner);
    ops_put(rig, pages->free_list, list, pages->count * sizeof *list);
    pages->free_count = pages->count;
    free(owner);
    free(list);
}

static uint32_t power_of_two(uint64_t x)
{
    uint32_t p = 2;
    while (p < x)
        p *= 2;
    return p;
}

static void create_store(ops_rig_t *rig)
{
    const ops_config_t *c = &rig->config;
    lwk_store_t *st = &rig->store_host;
    uint32_t per_row = c->shape.layer_count * c->shape.kv_head_count;
    uint64_t everything = (uint64_t)rig->dims.entry_capacity * c->session_count * per_row;
    st->shape = c->shape;
    st->range_capacity = OPS_RANGES_MAX;
    st->tiles = ops_device(rig, LWK_MEMORY_DEVICE, (size_t)OPS_RANGES_MAX * per_row * sizeof(lwk_tile_t));
    st->admit_window = c->admit_window;
    st->ticket_capacity = c->ticket_capacity > 0 ? c->ticket_capacity : power_of_two(everything);
    create_pages(
        rig, 0, LWK_PAGE_TOKENS, c->page_count[0],
        (uint32_t)(everything + (uint64_t)c->token_count * per_row * c->session_count / LWK_PAGE_TOKENS));
    create_pages(rig, 1, 1, c->page_count[1],
                 (uint32_t)((uint64_t)c->token_count * per_row * c->session_count));
    rig->tickets = ops_device(rig, LWK_MEMORY_PINNED, st->ticket_capacity * sizeof(lwk_ticket_t));
    rig->arrivals = ops_device(rig, LWK_MEMORY_PINNED, st->ticket_capacity * sizeof(uint64_t));
    rig->ticket_head = ops_device(rig, LWK_MEMORY_PINNED, 64);
    rig->ticket_tail = ops_device(rig, LWK_MEMORY_PINNED, 64);
    rig->counters = ops_device(rig, LWK_MEMORY_PINNED, sizeof(lwk_counters_t));
    rig->landing_bytes = (uint64_t)c->session_count * per_row * c->token_count *
                         (2 * lwk_row_bytes(&c->shape) + LWK_LANDING_UNIT);
    rig->landing_bytes = lw_align_up(rig->landing_bytes, LWK_LANDING_UNIT);
    rig->local_bytes = c->local_every > 0 ? rig->landing_bytes : 0;
    rig->landing = ops_device(rig, LWK_MEMORY_PINNED, rig->landing_bytes + rig->local_bytes);
    st->tickets = rig->tickets;
    st->ticket_head = rig->ticket_head;
    st->ticket_tail = rig->ticket_tail;
    st->arrivals = rig->arrivals;
    st->landing = rig->landing;
    st->counters = rig->counters;
    rig->store = ops_device(rig, LWK_MEMORY_DEVICE, sizeof *st);
    ops_put(rig, rig->store, st, sizeof *st);
}

static void create_sessions(ops_rig_t *rig)
{
    const ops_config_t *c = &rig->config;
    const lwk_shape_t *shape = &c->shape;
    size_t heads = (size_t)shape->layer_count * shape->kv_head_count;
    rig->sessions = ops_device(rig, LWK_MEMORY_DEVICE, c->session_count * sizeof(lwk_session_t));
    rig->slots = ops_device(rig, LWK_MEMORY_DEVICE, c->session_count * sizeof(uint32_t));
    rig->session_stream = ops_host(c->session_count * sizeof(uint32_t));
    rig->keys = ops_host(c->session_count * sizeof *rig->keys);
    rig->values = ops_host(c->session_count * sizeof *rig->values);
    for (uint32_t s = 0; s < c->session_count; s++) {
        lwk_session_t session = {.steady_rows = c->steady_rows, .policy = c->policy};
        size_t sinks = heads * LW_SINK_TOKENS * lwk_row_bytes(shape),
               ring = heads * c->steady_rows * lwk_row_bytes(shape);
        session.ranges = ops_device(rig, LWK_MEMORY_DEVICE, OPS_RANGES_MAX * sizeof(lwk_range_ref_t));
        session.sink_keys = ops_device(rig, LWK_MEMORY_DEVICE, sinks);
        session.sink_values = ops_device(rig, LWK_MEMORY_DEVICE, sinks);
        session.steady_keys = ops_device(rig, LWK_MEMORY_DEVICE, ring);
        session.steady_values = ops_device(rig, LWK_MEMORY_DEVICE, ring);
        session.moments = ops_device(rig, LWK_MEMORY_DEVICE, heads * lwk_moments_bytes(shape->head_dim));
        ops_set_session(rig, s, &session);
        ops_put(rig, &rig->slots[s], &s, sizeof s);
        rig->session_stream[s] = s;
        make_stream(rig, s);
    }
}

static void create_step(ops_rig_t *rig)
{
    const lwk_shape_t *shape = &rig->config.shape;
    size_t rows = query_rows(rig), kv = rows / shape->group, d = shape->head_dim,
           e = lwk_dtype_bytes(shape->dtype);
    uint64_t workspace = rig->backend->workspace_bytes(&rig->dims);
    rig->scratch_memory = ops_device(rig, LWK_MEMORY_DEVICE, lwk_scratch_bytes(&rig->dims, workspace));
    rig->scratch = lwk_scratch_carve(&rig->dims, rig->scratch_memory, workspace);
    rig->query = ops_device(rig, LWK_MEMORY_DEVICE, rows * d * e);
    rig->out = ops_device(rig, LWK_MEMORY_DEVICE, rows * d * e);
    rig->key = ops_device(rig, LWK_MEMORY_DEVICE, kv * d * e);
    rig->value = ops_device(rig, LWK_MEMORY_DEVICE, kv * d * e);
    rig->out_fp32 = ops_device(rig, LWK_MEMORY_DEVICE, rows * d * sizeof(float));
    rig->lse = ops_device(rig, LWK_MEMORY_DEVICE, rows * sizeof(float));
    rig->query_host = ops_host(rows * d * sizeof(float));
    rig->out_host = ops_host(rows * d * sizeof(float));
    rig->lse_host = ops_host(rows * sizeof(float));
    rig->out_dtype_host = ops_host(rows * d * e);
}

ops_rig_t *ops_rig_create(const ops_config_t *config)
{
    ops_rig_t *rig = ops_host(sizeof *rig);
    rig->config = *config;
    fill_defaults(&rig->config);
    rig->backend = config->backend;
    rig->dims = dims_of(&rig->config);
    rig->fail_ticket = rig->drop_ticket = UINT64_MAX;
    lw_prng_seed(&rig->prng, config->seed);
    if (config->data == OPS_DATA_SYNTH) {
        lw_synth_config_t synth = {.seed = config->seed,
                                   .layer_count = config->shape.layer_count,
                                   .kv_head_count = config->shape.kv_head_count,
                                   .group = config->shape.group,
                                   .head_dim = config->shape.head_dim,
                                   .token_count = config->token_count + LW_QUERY_TOKENS_MAX};
        rig->synth = lw_synth_create(&synth);
        ops_must(rig->synth != NULL, "synth");
    }
    ops_must(rig->backend->open(0, &rig->dev, NULL) == LW_OK, "open");
    ops_must(rig->backend->warm_up(rig->dev, &rig->dims) == LW_OK, "warm_up");
    create_store(rig);
    create_sessions(rig);
    create_step(rig);
    return rig;
}

static void drop(ops_rig_t *rig, lwk_memory_t kind, void *ptr)
{
    rig->backend->free(rig->dev, kind, ptr);
}

void ops_rig_destroy(ops_rig_t *rig)
{
    if (rig == NULL)
        return;
    for (uint32_t s = 0; s < rig->config.session_count; s++) {
        lwk_session_t session = ops_session(rig, s);
        void *parts[] = {session.ranges,      session.sink_keys,     session.sink_values,
                         session.steady_keys, session.steady_values, session.moments};
        for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++)
            drop(rig, LWK_MEMORY_DEVICE, parts[i]);
        free(rig->keys[s]);
        free(rig->values[s]);
    }
    for (uint32_t i = 0; i < rig->range_count; i++)
        ops_range_free(rig, &rig->ranges[i]);
    lwk_store_t *st = &rig->store_host;
    void *device[] = {st->tiles,
                      st->pages[0].bytes,
                      st->pages[0].owner,
                      st->pages[0].free_list,
                      st->pages[1].bytes,
                      st->pages[1].owner,
                      st->pages[1].free_list,
                      rig->store,
                      rig->sessions,
                      rig->slots,
                      rig->scratch_memory,
                      rig->query,
                      rig->key,
                      rig->value,
                      rig->out,
                      rig->out_fp32,
                      rig->lse,
                      (void *)(uintptr_t)rig->tree_mask};
    for (size_t i = 0; i < LW_ARRAY_SIZE(device); i++)
        drop(rig, LWK_MEMORY_DEVICE, device[i]);
    void *pinned[] = {rig->tickets,     rig->arrivals, rig->ticket_head,
                      rig->ticket_tail, rig->counters, rig->landing};
    for (size_t i = 0; i < LW_ARRAY_SIZE(pinned); i++)
        drop(rig, LWK_MEMORY_PINNED, pinned[i]);
    rig->backend->close(rig->dev);
    lw_synth_destroy(rig->synth);
    void *host[] = {rig->keys,     rig->values,   rig->session_stream, rig->query_host,
                    rig->out_host, rig->lse_host, rig->out_dtype_host};
    for (size_t i = 0; i < LW_ARRAY_SIZE(host); i++)
        free(host[i]);
    free(rig);
}

/* ---- tokens
 * ----------------------------------------------------------------------------------------------------- */

void ops_to_dtype(const ops_rig_t *rig, const float *from, void *to, size_t to_at, uint32_t count)
{
    for (uint32_t j = 0; j < count; j++)
        lwk_store(to, rig->config.shape.dtype, to_at + j, from[j]);
}

void ops_fill(ops_rig_t *rig, uint32_t s, uint32_t token_count)
{
    const lwk_shape_t *shape = &rig->config.shape;
    uint32_t d = shape->head_dim, stream = rig->session_stream[s];
    size_t row_bytes = lwk_row_bytes(shape);
    lwk_session_t session = ops_session(rig, s);
    session.token_count = token_count;
    ops_set_session(rig, s, &session);
    uint8_t *row = ops_host(row_bytes);
    for (uint32_t layer = 0; layer < shape->layer_count; layer++)
        for (uint32_t head = 0; head < shape->kv_head_count; head++)
            for (uint32_t i = 0; i < lwk_steady_count(&session); i++) {
                uint32_t p = lwk_steady_position(&session, i);
                if (p >= LW_SINK_TOKENS && p + session.steady_rows < token_count)
                    continue; /* will be sealed before anybody reads it */
                bool sink = p < LW_SINK_TOKENS;
                size_t at = lwk_steady_at(&session, shape, layer, head, p) / d * row_bytes;
                ops_to_dtype(rig, rig->keys[stream] + ops_row_at(rig, layer, head, p), row, 0, d);
                ops_put(rig, (uint8_t *)(sink ? session.sink_keys : session.steady_keys) + at, row,
                        row_bytes);
                ops_to_dtype(rig, rig->values[stream] + ops_row_at(rig, layer, head, p), row, 0, d);
                ops_put(rig, (uint8_t *)(sink ? session.sink_values : session.steady_values) + at, row,
                        row_bytes);
            }
    free(row);
}

/* ---- steps
 * ------------------------------------------------------------------------------------------------------ */

lwk_step_t ops_step_args(ops_rig_t *rig, uint32_t layer)
{
    const lwk_shape_t *shape = &rig->config.shape;
    int64_t d = shape->head_dim, q = query_heads(rig) * d, k = shape->kv_head_count * d,
            tokens = rig->config.query_tokens;
    return (lwk_step_t){
        .shape = *shape,
        .layer = layer,
        .session_count = rig->config.session_count,
        .query_tokens = rig->config.query_tokens,
        .store = rig->store,
        .sessions = rig->sessions,
        .slots = rig->slots,
        .scratch = rig->scratch,
        .query = {rig->query, tokens * q, q, d},
        .key = {rig->key, tokens * k, k, d},
        .value = {rig->value, tokens * k, k, d},
        .out = {rig->out, tokens * q, q, d},
        .out_fp32 = rig->out_fp32,
        .lse_out = rig->lse,
        .tree_mask = rig->tree_mask,
        .wait_us = 1000000,
    };
}

/* Puts the queries and the step's new key and value rows where the ops read them. */
void ops_load_step(ops_rig_t *rig, uint32_t layer)
{
    const lwk_shape_t *shape = &rig->config.shape;
    uint32_t d = shape->head_dim;
    size_t rows = query_rows(rig), e = lwk_dtype_bytes(shape->dtype);
    uint8_t *buffer = ops_host(rows * d * e);
    ops_to_dtype(rig, rig->query_host, buffer, 0, (uint32_t)(rows * d));
    ops_put(rig, rig->query, buffer, rows * d * e);
    for (int value = 0; value < 2; value++) {
        size_t at = 0;
        for (uint32_t s = 0; s < rig->config.session_count; s++) {
            uint32_t first = ops_session(rig, s).token_count - (layer == 0 ? 0 : rig->config.query_tokens);
            for (uint32_t t = 0; t < rig->config.query_tokens; t++)
                for (uint32_t head = 0; head < shape->kv_head_count; head++, at += d) {
                    uint32_t stream = rig->session_stream[s];
                    const float *from = value ? rig->values[stream] : rig->keys[stream];
                    ops_must(first + t < rig->config.token_count, "a token beyond token_count");
                    ops_to_dtype(rig, from + ops_row_at(rig, layer, head, first + t), buffer, at, d);
                }
        }
        ops_put(rig, value ? rig->value : rig->key, buffer, at * e);
    }
    free(buffer);
}

static const ops_range_t *range_of_row(const ops_rig_t *rig, uint32_t row)
{
    for (uint32_t i = 0; i < rig->range_count; i++)
        if (rig->ranges[i].row == row)
            return &rig->ranges[i];
    return NULL;
}

/* What a progress thread does: every ticket gets its record, or what the test asked for instead. */
void ops_answer(ops_rig_t *rig)
{
    const lwk_shape_t *shape = &rig->config.shape;
    uint64_t head = __atomic_load_n(rig->ticket_head, __ATOMIC_ACQUIRE);
    uint32_t mask = rig->store_host.ticket_capacity - 1;
    for (; rig->answered < head; rig->answered++) {
        const lwk_ticket_t *ticket = &rig->tickets[rig->answered & mask];
        uint64_t *arrival = &rig->arrivals[rig->answered & mask];
        if (ticket->flags & LWK_TICKET_LOCAL) {
            ops_must(lwk_has_arrived(*arrival, rig->answered), "a local ticket's arrival");
            continue;
        }
        if (rig->answered == rig->drop_ticket ||
            (rig->hold_prefetch && (ticket->flags & LWK_TICKET_PREFETCH)))
            continue;
        if (rig->answered == rig->fail_ticket) {
            __atomic_store_n(arrival, lwk_arrival(rig->answered, LWK_LANDING_FAILED), __ATOMIC_RELEASE);
            continue;
        }
        const ops_range_t *range = range_of_row(rig, ticket->row);
        ops_must(range != NULL, "a ticket for a known row");
        const ops_part_t *part = &range->parts[ticket->layer * shape->kv_head_count + ticket->head];
        uint64_t bytes = 2 * (uint64_t)ticket->size * lwk_row_bytes(shape);
        ops_must(rig->landing_at + bytes <= rig->landing_bytes, "landing");
        memcpy(rig->landing + rig->landing_at, part->records + part->offsets[ticket->entry], bytes);
        __atomic_store_n(arrival, lwk_arrival(rig->answered, (uint32_t)(rig->landing_at / LWK_LANDING_UNIT)),
                         __ATOMIC_RELEASE);
        rig->landing_at = lw_align_up(rig->landing_at + bytes, LWK_LANDING_UNIT);
    }
}

void ops_read_step(ops_rig_t *rig)
{
    size_t rows = query_rows(rig), d = rig->config.shape.head_dim;
    sync(rig);
    ops_get(rig, rig->out_host, rig->out_fp32, rows * d * sizeof(float));
    ops_get(rig, rig->lse_host, rig->lse, rows * sizeof(float));
    ops_get(rig, rig->out_dtype_host, rig->out, rows * d * lwk_dtype_bytes(rig->config.shape.dtype));
}

lw_status_t ops_admit(ops_rig_t *rig)
{
    lwk_step_t step = ops_step_args(rig, rig->config.shape.layer_count - 1);
    lw_status_t status = rig->backend->admit(rig->dev, &step, NULL);
    sync(rig);
    if (*rig->ticket_tail == *rig->ticket_head)
        rig->landing_at = 0;
    return status;
}

lw_status_t ops_step(ops_rig_t *rig, uint32_t layer)
{
    const lwk_backend_t *b = rig->backend;
    ops_load_step(rig, layer);
    lwk_step_t step = ops_step_args(rig, layer);
    lw_status_t status = b->prepare(rig->dev, &step, NULL);
    if (status == LW_OK)
        status = b->score(rig->dev, &step, NULL);
    if (status == LW_OK)
        status = b->select(rig->dev, &step, NULL);
    sync(rig);
    ops_answer(rig);
    if (status == LW_OK)
        status = b->attend(rig->dev, &step, NULL);
    if (status == LW_OK)
        status = b->finish(rig->dev, &step, NULL);
    ops_read_step(rig);
    if (status == LW_OK && layer + 1 == rig->config.shape.layer_count)
        status = ops_admit(rig);
    return status;
}

/* ---- the truth
 * -------------------------------------------------------------------------------------------------- */

static bool sees(const ops_rig_t *rig, uint32_t first_new, uint32_t t, uint32_t position)
{
    if (position < first_new)
        return true;
    uint32_t u = position - first_new;
    return rig->tree_mask != NULL ? (rig->tree_mask_host[t] >> u & 1u) != 0 : u <= t;
}

void ops_exact(ops_rig_t *rig, uint32_t s, uint32_t layer, uint32_t t, uint32_t query_head, double *out,
               double *lse)
{
    const lwk_shape_t *shape = &rig->config.shape;
    uint32_t d = shape->head_dim, n = ops_session(rig, s).token_count, stream = rig->session_stream[s];
    const float *query =
        rig->query_host + (((size_t)s * rig->config.query_tokens + t) * query_heads(rig) + query_head) * d;
    double *logits = ops_host(n * sizeof *logits), largest = -INFINITY, sum = 0;
    for (uint32_t p = 0; p < n; p++) {
        const float *key = rig->keys[stream] + ops_row_at(rig, layer, query_head / shape->group, p);
        double dot = 0;
        for (uint32_t j = 0; j < d; j++)
            dot += (double)query[j] * key[j];
        logits[p] = dot * shape->scale;
        if (shape->soft_cap > 0)
            logits[p] = shape->soft_cap * tanh(logits[p] / shape->soft_cap);
        if (!sees(rig, n - rig->config.query_tokens, t, p))
            logits[p] = -INFINITY;
        largest = fmax(largest, logits[p]);
    }
    for (uint32_t j = 0; j < d; j++)
        out[j] = 0;
    for (uint32_t p = 0; p < n; p++) {
        const float *value = rig->values[stream] + ops_row_at(rig, layer, query_head / shape->group, p);
        double weight = exp(logits[p] - largest);
        sum += weight;
        for (uint32_t j = 0; j < d && weight > 0; j++)
            out[j] += weight * value[j];
    }
    for (uint32_t j = 0; j < d; j++)
        out[j] /= sum;
    *lse = largest + log(sum);
    free(logits);
}

ops_errors_t ops_errors(ops_rig_t *rig, uint32_t layer)
{
    uint32_t d = rig->config.shape.head_dim;
    ops_errors_t errors = {.lse_bias = -INFINITY};
    size_t row = 0;
    for (uint32_t s = 0; s < rig->config.session_count; s++)
        for (uint32_t t = 0; t < rig->config.query_tokens; t++)
            for (uint32_t h = 0; h < query_heads(rig); h++, row++) {
                double exact[LW_HEAD_DIM_MAX], lse, difference = 0, norm = 0;
                ops_exact(rig, s, layer, t, h, exact, &lse);
                for (uint32_t j = 0; j < d; j++) {
                    double x = rig->out_host[row * d + j] - exact[j];
                    difference += x * x;
                    norm += exact[j] * exact[j];
                }
                double bias = rig->lse_host[row] - lse;
                /* A NaN must not look like a small error. */
                double e = sqrt(difference / fmax(norm, 1e-30));
                errors.out = e == e ? fmax(errors.out, e) : INFINITY;
                errors.lse = bias == bias ? fmax(errors.lse, fabs(bias)) : INFINITY;
                errors.lse_bias = fmax(errors.lse_bias, bias);
            }
    return errors;
}
