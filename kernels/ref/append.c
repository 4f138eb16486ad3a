/* append.c - writes new tokens into a session's sinks and ring. Serves every backend whose memory is host
 * memory. */
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"

static void put_row(const lwk_append_t *args, const lwk_tensor_t *from, uint32_t t, uint32_t head, void *sink,
                    void *steady)
{
    size_t element = lwk_dtype_bytes(args->shape.dtype), bytes = element * args->shape.head_dim;
    uint32_t position = args->first + t;
    uint8_t *to = position < LW_SINK_TOKENS ? sink : steady;
    memcpy(to + lwk_ring_at(&args->shape, args->steady_rows, args->layer, head, position) * element,
           (const uint8_t *)from->data + lwk_tensor_at(from, 0, t, head) * element, bytes);
}

lw_status_t lwk_ref_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream)
{
    lw_status_t status = lwk_append_check(args);
    if (status != LW_OK)
        return status;
    for (uint32_t t = 0; t < args->token_count; t++)
        for (uint32_t head = 0; head < args->shape.kv_head_count; head++) {
            put_row(args, &args->key, t, head, args->sink_keys, args->steady_keys);
            put_row(args, &args->value, t, head, args->sink_values, args->steady_values);
        }
    return LW_OK;
}
