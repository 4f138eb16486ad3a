/* extend.c - exact attention of many query tokens over rows given in place, accumulated over calls. */
#include "kernels/ref/ref.h"
#include "kernels/ref/sum.h"

static lw_status_t check(const lwk_extend_t *args)
{
    if (args->shape == NULL || lwk_shape_check(args->shape) != LW_OK)
        return LW_ERR_INVALID;
    if (args->query.data == NULL || args->partial == NULL || args->partial_out == NULL)
        return LW_ERR_INVALID;
    if (args->head_count > args->shape->kv_head_count ||
        args->head_first > args->shape->kv_head_count - args->head_count)
        return LW_ERR_INVALID;
    if (args->rows.row_count > 0 && (args->rows.keys == NULL || args->rows.values == NULL))
        return LW_ERR_INVALID;
    return LW_OK;
}

static void add_rows(ref_sum_t *sum, const lwk_extend_t *args, uint32_t t, uint32_t query_head)
{
    const lwk_shape_t *shape = args->shape;
    float query[LW_HEAD_DIM_MAX];
    lwk_load_row(args->query.data, shape->dtype, lwk_tensor_at(&args->query, 0, t, query_head),
                 shape->head_dim, query);
    uint32_t head = query_head / shape->group - args->head_first;
    for (uint32_t r = 0; r < args->rows.row_count; r++) {
        if (args->causal && args->rows.first_row_position + r > args->first_position + t)
            break;
        size_t at = (size_t)(head * args->rows.head_stride + r * args->rows.row_stride);
        lwk_ref_sum_add_row(sum, shape, query, args->rows.keys, at, args->rows.values, at);
    }
}

static void write_out(const ref_sum_t *sum, const lwk_extend_t *args, uint32_t t, uint32_t query_head,
                      size_t row)
{
    const lwk_shape_t *shape = args->shape;
    real out[LW_HEAD_DIM_MAX];
    real lse = lwk_ref_sum_result(sum, out);
    size_t to = lwk_tensor_at(&args->out, 0, t, query_head);
    for (uint32_t j = 0; j < shape->head_dim; j++) {
        lwk_store(args->out.data, shape->dtype, to + j, (float)out[j]);
        if (args->out_fp32 != NULL)
            args->out_fp32[row * shape->head_dim + j] = (float)out[j];
    }
    if (args->lse_out != NULL)
        args->lse_out[row] = (float)lse;
}

lw_status_t lwk_ref_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream)
{
    lw_status_t status = check(args);
    if (status != LW_OK)
        return status;
    const lwk_shape_t *shape = args->shape;
    uint32_t first_head = args->head_first * shape->group, head_count = args->head_count * shape->group;
    for (uint32_t t = 0; t < args->query_tokens; t++)
        for (uint32_t h = first_head; h < first_head + head_count; h++) {
            size_t row = (size_t)t * lwk_query_heads(shape) + h;
            ref_sum_t sum;
            lwk_ref_sum_init(&sum, shape->head_dim);
            if (!args->first)
                lwk_ref_sum_merge(&sum, &args->partial[row], args->partial_out + row * shape->head_dim, NULL);
            add_rows(&sum, args, t, h);
            lwk_ref_sum_store(&sum, &args->partial[row], args->partial_out + row * shape->head_dim);
            if (args->out.data != NULL)
                write_out(&sum, args, t, h, row);
        }
    return LW_OK;
}
