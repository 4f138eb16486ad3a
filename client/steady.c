/* steady.c - rows in and out of a session's exact zone: the append op and copies, so that it serves any backend.
 */
#include "client/steady.h"

#include <string.h>

lw_status_t lwc_steady_init(lwc_steady_t *steady, const lwc_device_t *device, const lwc_model_t *model,
                            uint32_t rows, uint32_t ranges_max, lw_error_t *error)
{
    uint64_t streams = (uint64_t)model->layers * model->heads;

    if (steady->rows >= rows)
        return LW_OK;
    lwc_steady_fini(steady);
    const struct {
        uint8_t **memory;
        uint64_t bytes;
    } parts[] = {{&steady->sink_keys, streams * LW_SINK_TOKENS * model->row_bytes},
                 {&steady->sink_values, streams * LW_SINK_TOKENS * model->row_bytes},
                 {&steady->keys, streams * rows * model->row_bytes},
                 {&steady->values, streams * rows * model->row_bytes},
                 {&steady->moments, model->layers * model->moments_bytes}};
    lw_status_t status = LW_OK;
    steady->device = device;
    steady->model = model;
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts) && status == LW_OK; i++)
        status = lwc_device_alloc(device, LWK_MEMORY_DEVICE, parts[i].bytes, "steady zone",
                                  (void **)parts[i].memory, error);
    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_DEVICE, ranges_max * sizeof(lwk_range_ref_t),
                                  "list of ranges", (void **)&steady->ranges, error);
    if (status != LW_OK) {
        lwc_steady_fini(steady);
        return status;
    }
    steady->rows = rows;
    return LW_OK;
}

void lwc_steady_fini(lwc_steady_t *steady)
{
    if (steady->device) {
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->sink_keys);
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->sink_values);
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->keys);
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->values);
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->moments);
        lwc_device_free(steady->device, LWK_MEMORY_DEVICE, steady->ranges);
    }
    memset(steady, 0, sizeof(*steady));
}

/* Positions first .. that lie in consecutive rows, at most `count`; where they begin. */
typedef struct piece {
    uint32_t count;
    bool sink;
    uint64_t offset; /* bytes from the start of the sinks or the ring */
} piece_t;

static piece_t piece_at(const lwc_steady_t *steady, uint32_t layer, uint32_t head, uint32_t first,
                        uint32_t count)
{
    uint64_t stream = (uint64_t)layer * steady->model->heads + head;
    piece_t piece = {.sink = first < LW_SINK_TOKENS};
    uint32_t rows = piece.sink ? LW_SINK_TOKENS : steady->rows;
    uint32_t row = first % rows;

    piece.count = (uint32_t)lw_min_u64(count, rows - row);
    piece.offset = (stream * rows + row) * steady->model->row_bytes;
    return piece;
}

static lwk_tensor_t op_tensor(const lw_tensor_t *tensor)
{
    return (lwk_tensor_t){.data = tensor->data,
                          .session_stride = tensor->session_stride,
                          .token_stride = tensor->token_stride,
                          .head_stride = tensor->head_stride};
}

lw_status_t lwc_steady_append(const lwc_steady_t *steady, uint32_t layer, uint32_t first,
                              const lw_tensor_t *key, const lw_tensor_t *value, void *stream,
                              lw_error_t *error)
{
    lwk_append_t args = {.shape = steady->model->shape,
                         .layer = layer,
                         .first = first,
                         .token_count = key->tokens,
                         .steady_rows = steady->rows,
                         .key = op_tensor(key),
                         .value = op_tensor(value),
                         .sink_keys = steady->sink_keys,
                         .sink_values = steady->sink_values,
                         .steady_keys = steady->keys,
                         .steady_values = steady->values};
    lw_status_t status = steady->device->backend->append(steady->device->dev, &args, stream);

    if (status != LW_OK)
        return lw_fail(error, status, "op append of %u tokens to layer %u: %s", key->tokens, layer,
                       lw_status_text(status));
    return LW_OK;
}

lw_status_t lwc_steady_read(const lwc_steady_t *steady, uint32_t layer, uint32_t head, uint32_t first,
                            uint32_t count, void *keys, void *values, void *stream, lw_error_t *error)
{
    uint64_t row_bytes = steady->model->row_bytes, done = 0;
    lw_status_t status = LW_OK;

    while (done < count && status == LW_OK) {
        piece_t piece = piece_at(steady, layer, head, first + (uint32_t)done, count - (uint32_t)done);
        status = lwc_device_copy(steady->device, (uint8_t *)keys + done * row_bytes,
                                 (piece.sink ? steady->sink_keys : steady->keys) + piece.offset,
                                 piece.count * row_bytes, stream, error);
        if (status == LW_OK)
            status = lwc_device_copy(steady->device, (uint8_t *)values + done * row_bytes,
                                     (piece.sink ? steady->sink_values : steady->values) + piece.offset,
                                     piece.count * row_bytes, stream, error);
        done += piece.count;
    }
    return status;
}

lw_status_t lwc_steady_write(const lwc_steady_t *steady, uint32_t layer, uint32_t head, uint32_t first,
                             uint32_t count, const void *keys, const void *values, void *stream,
                             lw_error_t *error)
{
    uint64_t row_bytes = steady->model->row_bytes, done = 0;
    lw_status_t status = LW_OK;

    while (done < count && status == LW_OK) {
        piece_t piece = piece_at(steady, layer, head, first + (uint32_t)done, count - (uint32_t)done);
        status =
            lwc_device_copy(steady->device, (piece.sink ? steady->sink_keys : steady->keys) + piece.offset,
                            (const uint8_t *)keys + done * row_bytes, piece.count * row_bytes, stream, error);
        if (status == LW_OK)
            status = lwc_device_copy(
                steady->device, (piece.sink ? steady->sink_values : steady->values) + piece.offset,
                (const uint8_t *)values + done * row_bytes, piece.count * row_bytes, stream, error);
        done += piece.count;
    }
    return status;
}

static lw_status_t clone_ring(const lwc_steady_t *to, const lwc_steady_t *from, uint32_t layer, uint32_t head,
                              uint32_t first, uint32_t end, void *stream, lw_error_t *error)
{
    uint64_t row_bytes = to->model->row_bytes;
    lw_status_t status = LW_OK;

    for (uint32_t at = first; at < end && status == LW_OK;) {
        piece_t piece = piece_at(from, layer, head, at, end - at);
        status = lwc_device_copy(to->device, to->keys + piece.offset, from->keys + piece.offset,
                                 piece.count * row_bytes, stream, error);
        if (status == LW_OK)
            status = lwc_device_copy(to->device, to->values + piece.offset, from->values + piece.offset,
                                     piece.count * row_bytes, stream, error);
        at += piece.count;
    }
    return status;
}

lw_status_t lwc_steady_clone(const lwc_steady_t *to, const lwc_steady_t *from, uint32_t first, uint32_t end,
                             void *stream, lw_error_t *error)
{
    const lwc_model_t *model = to->model;
    uint64_t sink_bytes = (uint64_t)model->layers * model->heads * LW_SINK_TOKENS * model->row_bytes;

    LW_ASSERT(to->rows == from->rows);
    lw_status_t status =
        lwc_device_copy(to->device, to->sink_keys, from->sink_keys, sink_bytes, stream, error);
    if (status == LW_OK)
        status = lwc_device_copy(to->device, to->sink_values, from->sink_values, sink_bytes, stream, error);
    if (status == LW_OK)
        status = lwc_device_copy(to->device, to->moments, from->moments, model->layers * model->moments_bytes,
                                 stream, error);
    first = (uint32_t)lw_max_u64(first, LW_SINK_TOKENS);
    for (uint32_t layer = 0; layer < model->layers; layer++)
        for (uint32_t head = 0; head < model->heads && status == LW_OK; head++)
            status = clone_ring(to, from, layer, head, first, end, stream, error);
    return status;
}
