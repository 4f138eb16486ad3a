/* check.c - what can be said about an op's arguments without touching device memory, and a store's shape. Any
 * thread. */
#include "kernels/build_args.h"
#include "kernels/view.h"

lw_status_t lwk_shape_check(const lwk_shape_t *shape)
{
    if (shape->layer_count == 0 || shape->layer_count > LW_LAYERS_MAX)
        return LW_ERR_INVALID;
    if (shape->kv_head_count == 0 || shape->kv_head_count > LW_KV_HEADS_MAX)
        return LW_ERR_INVALID;
    if (shape->group == 0 || shape->group > LW_GROUP_MAX)
        return LW_ERR_INVALID;
    if (shape->head_dim == 0 || shape->head_dim > LW_HEAD_DIM_MAX || shape->head_dim % 8 != 0)
        return LW_ERR_INVALID;
    if (lwk_dtype_bytes(shape->dtype) == 0)
        return LW_ERR_INVALID;
    if (!(shape->scale > 0.0f) || !(shape->soft_cap >= 0.0f))
        return LW_ERR_INVALID;
    return LW_OK;
}

lw_status_t lwk_step_check(const lwk_step_t *step)
{
    if (step->store == NULL || step->sessions == NULL || step->slots == NULL)
        return LW_ERR_INVALID;
    if (step->query_tokens == 0 || step->query_tokens > LW_QUERY_TOKENS_MAX ||
        step->session_count > LW_BATCH_MAX)
        return LW_ERR_INVALID;
    lw_status_t status = lwk_shape_check(&step->shape);
    if (status != LW_OK)
        return status;
    if (step->layer >= step->shape.layer_count)
        return LW_ERR_INVALID;
    if (step->scratch.query == NULL || step->query.data == NULL)
        return LW_ERR_INVALID;
    return LW_OK;
}

lw_status_t lwk_append_check(const lwk_append_t *args)
{
    lw_status_t status = lwk_shape_check(&args->shape);
    if (status != LW_OK)
        return status;
    if (args->layer >= args->shape.layer_count || args->token_count > args->steady_rows || args->steady_rows == 0)
        return LW_ERR_INVALID;
    if (args->key.data == NULL || args->value.data == NULL || args->sink_keys == NULL || args->sink_values == NULL ||
        args->steady_keys == NULL || args->steady_values == NULL)
        return LW_ERR_INVALID;
    return LW_OK;
}

lw_status_t lwk_unpack_check(const lwk_unpack_t *args)
{
    uint64_t tokens = args->outlier_count;
    if (args->token_count > LW_SEGMENT_TOKENS_MAX || !lwk_head_dim_ok(args->head_dim) ||
        lwk_dtype_bytes(args->dtype) == 0)
        return LW_ERR_INVALID;
    for (uint32_t c = 0; c < args->cluster_count; c++)
        tokens += args->sizes[c];
    if (tokens != args->token_count)
        return LW_ERR_INVALID;
    for (uint32_t i = 0; i < args->token_count; i++)
        if (args->order[i] >= args->token_count)
            return LW_ERR_INVALID;
    return LW_OK;
}
