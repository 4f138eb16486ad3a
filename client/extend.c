/* extend.c - exact attention of many new tokens over everything stored: segments stream one ahead of the one
 * that is attended, every checksum is verified, partials accumulate on the device. Caller's thread, blocking.
 */
#include "client/ctx.h"

lw_status_t lwc_extend_init(struct lw *kv, lw_error_t *error)
{
    lwc_extend_t *extend = &kv->extend;
    const lwc_model_t *model = &kv->model;
    extend->tokens_max = (uint32_t)kv->options.client_extend_tokens;
    uint64_t rows = (uint64_t)extend->tokens_max * model->query_heads;
    const struct {
        void **memory;
        lwk_memory_t kind;
        uint64_t bytes;
    } parts[] = {{(void **)&extend->extents[0], LWK_MEMORY_PINNED, kv->sizes.extent_bytes},
                 {(void **)&extend->extents[1], LWK_MEMORY_PINNED, kv->sizes.extent_bytes},
                 {(void **)&extend->keys, LWK_MEMORY_DEVICE, model->heads * LW_SEGMENT_TOKENS_MAX * model->row_bytes},
                 {(void **)&extend->values, LWK_MEMORY_DEVICE, model->heads * LW_SEGMENT_TOKENS_MAX * model->row_bytes},
                 {(void **)&extend->order, LWK_MEMORY_PINNED, LW_SEGMENT_TOKENS_MAX * sizeof(uint32_t)},
                 {(void **)&extend->partial, LWK_MEMORY_DEVICE, rows * sizeof(lwk_partial_t)},
                 {(void **)&extend->partial_out, LWK_MEMORY_DEVICE, rows * model->head_dim * sizeof(float)}};
    lw_status_t status = LW_OK;

    for (size_t i = 0; i < LW_ARRAY_SIZE(parts) && status == LW_OK; i++)
        status = lwc_device_alloc(&kv->device, parts[i].kind, parts[i].bytes, "extend (client.extend_tokens)",
                                  parts[i].memory, error);
    for (uint32_t i = 0; i < 2 && status == LW_OK; i++)
        status = lwc_device_event(&kv->device, &extend->attended[i], error);
    for (uint32_t i = 0; status == LW_OK && i < LW_SEGMENT_TOKENS_MAX; i++)
        extend->order[i] = i;
    return status;
}

void lwc_extend_fini(struct lw *kv)
{
    lwc_extend_t *extend = &kv->extend;

    lwc_device_event_free(&kv->device, extend->attended[0]);
    lwc_device_event_free(&kv->device, extend->attended[1]);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, extend->extents[0]);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, extend->extents[1]);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, extend->keys);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, extend->values);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, extend->order);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, extend->partial);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, extend->partial_out);
}

/* One call of lw_extend. */
typedef struct pass {
    struct lw *kv;
    struct lw_session *session;
    uint32_t layer;
    uint64_t deadline_us;
    void *stream;
    lwk_extend_t args; /* query, counts and partials; rows change from call to call */
    lw_error_t *error;
} pass_t;

static lw_status_t call(pass_t *pass, const lwk_rows_t *rows, uint32_t head_first, uint32_t head_count,
                        bool causal)
{
    pass->args.rows = *rows;
    pass->args.head_first = head_first;
    pass->args.head_count = head_count;
    pass->args.causal = causal;
    lw_status_t status = pass->kv->device.backend->extend(pass->kv->device.dev, &pass->args, pass->stream);
    if (status != LW_OK)
        return lw_fail(pass->error, status, "op extend of layer %u: %s", pass->layer, lw_status_text(status));
    return LW_OK;
}

/* ---- stored segments ---- */

static uint32_t rows_of(const pass_t *pass, const uint8_t *extent, uint32_t head)
{
    return (uint32_t)(lw_segment_heads(extent)[head].records_bytes / pass->kv->model.pair_bytes);
}

/* A head's rows in record order: all of them are older than every query token, so their order does not matter. */
static lw_status_t unpack_head(pass_t *pass, const uint8_t *extent, uint32_t head)
{
    struct lw *kv = pass->kv;
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *entry = &lw_segment_heads(extent)[head];
    uint64_t offset = head * LW_SEGMENT_TOKENS_MAX * kv->model.row_bytes;
    lwk_unpack_t unpack = {.head_dim = header->head_dim,
                           .dtype = header->dtype,
                           .cluster_count = entry->cluster_count,
                           .outlier_count = entry->outlier_count,
                           .token_count = rows_of(pass, extent, head),
                           .sizes = (const uint16_t *)(const void *)(extent + entry->sizes_offset),
                           .order = kv->extend.order,
                           .records = extent + entry->records_offset,
                           .keys = kv->extend.keys + offset,
                           .values = kv->extend.values + offset};
    lw_status_t status = kv->device.backend->unpack(kv->device.dev, &unpack, pass->stream);

    if (status != LW_OK)
        return lw_fail(pass->error, status, "op unpack of layer %u: %s", pass->layer, lw_status_text(status));
    return LW_OK;
}

/* Heads with equally many rows, which is all of them as segments are made now, go in one call. */
static lw_status_t attend_heads(pass_t *pass, const uint8_t *extent)
{
    struct lw *kv = pass->kv;
    lw_status_t status = LW_OK;

    for (uint32_t head = 0; head < kv->model.heads && status == LW_OK; head++)
        status = unpack_head(pass, extent, head);
    for (uint32_t first = 0, end = 0; first < kv->model.heads && status == LW_OK; first = end) {
        uint32_t rows = rows_of(pass, extent, first);
        uint64_t offset = first * LW_SEGMENT_TOKENS_MAX * kv->model.row_bytes;
        lwk_rows_t span = {.keys = kv->extend.keys + offset,
                           .values = kv->extend.values + offset,
                           .head_stride = (int64_t)LW_SEGMENT_TOKENS_MAX * kv->model.head_dim,
                           .row_stride = kv->model.head_dim,
                           .row_count = rows};
        for (end = first + 1; end < kv->model.heads && rows_of(pass, extent, end) == rows;)
            end++;
        status = call(pass, &span, first, end - first, false);
    }
    return status;
}

/* Where a segment of the session can be read. */
static const uint8_t *extent_of(const pass_t *pass, uint32_t i)
{
    return pass->kv->local.on ? lwc_local_segment(pass->kv, pass->session->rows[i], pass->layer)
                              : pass->kv->extend.extents[i % 2];
}

static lw_status_t check_extent(pass_t *pass, uint32_t row, const uint8_t *extent, uint64_t bytes)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    lw_segment_name_t name = pass->kv->directory.rows[row].name;
    lw_status_t status = lw_segment_verify(extent, bytes, pass->error);

    name.layer = (uint16_t)pass->layer;
    if (status == LW_OK &&
        (!lw_segment_name_equal(&header->name, &name) || header->head_count != pass->kv->model.heads ||
         header->head_dim != pass->kv->model.head_dim || header->dtype != pass->kv->model.shape.dtype))
        status = lw_fail(pass->error, LW_ERR_CORRUPT, "another segment than that of token %u came",
                         name.first_token);
    return status;
}

static lw_status_t start_read(pass_t *pass, uint32_t i, lwc_reading_t *reading)
{
    struct lw *kv = pass->kv;
    uint32_t row = pass->session->rows[i], key = row * kv->model.layers + pass->layer;
    uint64_t bytes = lwc_directory_bytes(&kv->directory, row)[pass->layer];
    lw_status_t status = lwc_device_await(&kv->device, kv->extend.attended[i % 2],
                                          kv->options.client_ship_timeout, NULL, NULL, pass->error);

    if (status != LW_OK)
        return status;
    return lwc_read_start(kv, reading, key, 0, bytes, kv->extend.extents[i % 2], pass->deadline_us,
                          pass->error);
}

static lw_status_t attend_segment(pass_t *pass, uint32_t i)
{
    const uint8_t *extent = extent_of(pass, i);
    uint64_t bytes = lwc_directory_bytes(&pass->kv->directory, pass->session->rows[i])[pass->layer];
    lw_status_t status = LW_OK;

    if (!pass->kv->local.on) /* what was read is verified before it is used */
        status = check_extent(pass, pass->session->rows[i], extent, bytes);

    if (status == LW_OK)
        status = attend_heads(pass, extent);
    if (status == LW_OK)
        status = lwc_device_record(&pass->kv->device, pass->kv->extend.attended[i % 2], pass->stream, pass->error);
    return status;
}

static lw_status_t attend_local(pass_t *pass)
{
    lw_status_t status = LW_OK;

    for (uint32_t i = 0; i < pass->session->range_count && status == LW_OK; i++)
        status = attend_segment(pass, i);
    return status;
}

static lw_status_t attend_stored(pass_t *pass)
{
    uint32_t count = pass->session->range_count;
    lwc_reading_t reading[2] = {{.flying = false}, {.flying = false}};
    lw_status_t status = count > 0 ? start_read(pass, 0, &reading[0]) : LW_OK;

    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        status = lwc_read_wait(pass->kv, &reading[i % 2], pass->error);
        if (status == LW_OK && i + 1 < count)
            status = start_read(pass, i + 1, &reading[(i + 1) % 2]);
        if (status == LW_OK)
            status = attend_segment(pass, i);
    }
    for (int b = 0; b < 2; b++) /* its buffer is borrowed until it has ended */
        lwc_read_drop(pass->kv, &reading[b]);
    return status;
}

/* ---- the steady zone, the new tokens in it ---- */

static lw_status_t attend_sinks(pass_t *pass, uint32_t end)
{
    const lwc_steady_t *steady = &pass->session->steady;
    const lwc_model_t *model = &pass->kv->model;
    uint64_t offset = (uint64_t)pass->layer * model->heads * LW_SINK_TOKENS * model->row_bytes;
    lwk_rows_t rows = {.keys = steady->sink_keys + offset,
                       .values = steady->sink_values + offset,
                       .head_stride = (int64_t)LW_SINK_TOKENS * model->head_dim,
                       .row_stride = model->head_dim,
                       .row_count = (uint32_t)lw_min_u64(end, LW_SINK_TOKENS),
                       .first_row_position = 0};

    return call(pass, &rows, 0, model->heads, true);
}

static lw_status_t attend_ring(pass_t *pass, uint32_t end, const lw_tensor_t *out)
{
    const lwc_steady_t *steady = &pass->session->steady;
    const lwc_model_t *model = &pass->kv->model;
    uint64_t layer_bytes = (uint64_t)steady->rows * model->heads * model->row_bytes;
    uint32_t at = (uint32_t)lw_max_u64(pass->session->sealed, LW_SINK_TOKENS);
    lw_status_t status = LW_OK;

    do {
        uint32_t row = at % steady->rows;
        uint32_t count = at < end ? (uint32_t)lw_min_u64(end - at, steady->rows - row) : 0;
        uint64_t offset = pass->layer * layer_bytes + row * model->row_bytes;
        lwk_rows_t rows = {.keys = steady->keys + offset,
                           .values = steady->values + offset,
                           .head_stride = (int64_t)steady->rows * model->head_dim,
                           .row_stride = model->head_dim,
                           .row_count = count,
                           .first_row_position = at};
        at += count;
        if (at >= end) /* the last call writes */
            pass->args.out = (lwk_tensor_t){.data = out->data,
                                            .session_stride = out->session_stride,
                                            .token_stride = out->token_stride,
                                            .head_stride = out->head_stride};
        status = call(pass, &rows, 0, model->heads, true);
    } while (status == LW_OK && at < end);
    return status;
}

static lw_status_t attend(pass_t *pass, const lw_tensor_t *out)
{
    uint32_t end = pass->session->token_count + pass->args.query_tokens;

    pass->args.first = 1;
    lw_status_t status = attend_sinks(pass, end);
    pass->args.first = 0;
    if (status == LW_OK)
        status = pass->kv->local.on ? attend_local(pass) : attend_stored(pass);
    return status == LW_OK ? attend_ring(pass, end, out) : status;
}

lw_status_t lwc_extend_run(struct lw_session *session, uint32_t layer, const lw_tensor_t *query,
                           const lw_tensor_t *key, const lw_tensor_t *value, const lw_tensor_t *out,
                           uint32_t timeout_us, void *stream, bool block, lw_error_t *error)
{
    struct lw *kv = session->kv;
    const lwc_model_t *model = &kv->model;
    uint32_t tokens = key->tokens;
    lw_tensor_t q, k, v, o;

    if (tokens > kv->extend.tokens_max)
        return lw_fail(error, LW_ERR_INVALID, "key.tokens is %u, above client.extend_tokens %u", tokens,
                       kv->extend.tokens_max);
    lw_status_t status =
        lwc_tensor_check("query", query, 1, tokens, model->query_heads, model->head_dim, &q, error);
    if (status == LW_OK)
        status = lwc_tensor_check("key", key, 1, tokens, model->heads, model->head_dim, &k, error);
    if (status == LW_OK)
        status = lwc_tensor_check("value", value, 1, tokens, model->heads, model->head_dim, &v, error);
    if (status == LW_OK)
        status = lwc_tensor_check("attn_out", out, 1, tokens, model->query_heads, model->head_dim, &o, error);
    if (status == LW_OK)
        status = lwc_stream_use(kv, stream, error);
    if (status == LW_OK && layer == 0 && session->prefilling && session->append_kind == LWC_APPEND_NONE)
        lwc_session_cut(session);
    if (status == LW_OK)
        status = lwc_append_begin(session, LWC_APPEND_EXTEND, layer, &k, &v, block, error);
    if (status != LW_OK)
        return status;
    pass_t pass = {.kv = kv,
                   .session = session,
                   .layer = layer,
                   .deadline_us = lwc_now(kv) + (timeout_us ? timeout_us : kv->options.client_ship_timeout),
                   .stream = stream,
                   .error = error,
                   .args = {.shape = &kv->model.shape,
                            .query_tokens = tokens,
                            .first_position = session->token_count,
                            .query = {.data = q.data,
                                      .session_stride = q.session_stride,
                                      .token_stride = q.token_stride,
                                      .head_stride = q.head_stride},
                            .partial = kv->extend.partial,
                            .partial_out = kv->extend.partial_out}};
    status = lwc_append_rows(session, layer, &k, &v, stream, error);
    if (status == LW_OK)
        status = attend(&pass, &o);
    if (status == LW_OK)
        return lwc_append_end(session, layer, error);
    session->append_kind = LWC_APPEND_NONE; /* the chunk is dropped: start again with layer 0 */
    return status;
}
