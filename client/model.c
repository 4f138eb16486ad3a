/* model.c - checks the model's shape and derives every size that open allocates. Pure. */
#include "client/model.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "wire/segment_fmt.h"

static lw_status_t in_range(const char *field, uint64_t value, uint64_t min, uint64_t max, lw_error_t *error)
{
    if (value < min || value > max)
        return lw_fail(error, LW_ERR_INVALID, "%s is %" PRIu64 ", must be %" PRIu64 "..%" PRIu64, field,
                       value, min, max);
    return LW_OK;
}

static lw_status_t check_counts(const lw_model_t *from, lw_error_t *error)
{
    lw_status_t status = in_range("model.layer_count", from->layer_count, 1, LW_LAYERS_MAX, error);

    if (status == LW_OK)
        status = in_range("model.kv_head_count", from->kv_head_count, 1, LW_KV_HEADS_MAX, error);
    if (status == LW_OK)
        status = in_range("model.query_head_count", from->query_head_count, from->kv_head_count,
                          (uint64_t)from->kv_head_count * LW_GROUP_MAX, error);
    if (status == LW_OK && from->query_head_count % from->kv_head_count != 0)
        status = lw_fail(error, LW_ERR_INVALID,
                         "model.query_head_count is %u, must be a multiple of kv_head_count %u",
                         from->query_head_count, from->kv_head_count);
    if (status == LW_OK)
        status = in_range("model.head_dim", from->head_dim, 8, LW_HEAD_DIM_MAX, error);
    if (status == LW_OK && from->head_dim % 8 != 0)
        status =
            lw_fail(error, LW_ERR_INVALID, "model.head_dim is %u, must be a multiple of 8", from->head_dim);
    if (status == LW_OK)
        status = in_range("model.dtype", from->dtype, 0, LW_DTYPE_FP32, error);
    return status;
}

static lw_status_t check_rest(const lw_model_t *from, lw_error_t *error)
{
    if (!from->model_id || from->model_id[0] == '\0')
        return lw_fail(error, LW_ERR_INVALID, "model.model_id is missing");
    if (strlen(from->model_id) >= LW_MODEL_ID_MAX)
        return lw_fail(error, LW_ERR_INVALID, "model.model_id has %zu bytes, at most %u",
                       strlen(from->model_id), LW_MODEL_ID_MAX - 1);
    if (!isfinite(from->scale) || from->scale < 0)
        return lw_fail(error, LW_ERR_INVALID, "model.scale is %g, must be positive, or 0 for the default",
                       (double)from->scale);
    if (!isfinite(from->soft_cap) || from->soft_cap < 0)
        return lw_fail(error, LW_ERR_INVALID, "model.soft_cap is %g, must be positive, or 0 for none",
                       (double)from->soft_cap);
    if (from->rank_count > UINT16_MAX ||
        (from->rank_count == 0 ? from->rank != 0 : from->rank >= from->rank_count))
        return lw_fail(error, LW_ERR_INVALID, "model.rank is %u of rank_count %u", from->rank,
                       from->rank_count);
    return LW_OK;
}

lw_status_t lwc_model_make(const lw_model_t *from, lwc_model_t *model_out, lw_error_t *error)
{
    lw_status_t status = check_counts(from, error);

    if (status == LW_OK)
        status = check_rest(from, error);
    if (status != LW_OK)
        return status;
    lwc_model_t model = {.rank = from->rank,
                         .rank_count = from->rank_count ? from->rank_count : 1,
                         .layers = from->layer_count,
                         .heads = from->kv_head_count,
                         .query_heads = from->query_head_count,
                         .head_dim = from->head_dim};
    model.shape = (lwk_shape_t){.layer_count = model.layers,
                                .kv_head_count = model.heads,
                                .group = model.query_heads / model.heads,
                                .head_dim = model.head_dim,
                                .dtype = from->dtype ? from->dtype : LW_DTYPE_BF16,
                                .scale = from->scale > 0 ? from->scale : 1.0f / sqrtf((float)model.head_dim),
                                .soft_cap = from->soft_cap};
    memcpy(model.model_id, from->model_id, strlen(from->model_id));
    model.element_bytes = lw_dtype_bytes(model.shape.dtype);
    model.row_bytes = model.element_bytes * model.head_dim;
    model.pair_bytes = 2 * model.row_bytes;
    model.moments_bytes = model.heads * lwk_moments_bytes(model.head_dim);
    model.sums_count = 2 + 2ull * model.head_dim * model.head_dim;
    *model_out = model;
    return LW_OK;
}

uint32_t lwc_steady_rows(uint32_t segment_tokens)
{
    return (uint32_t)lw_max_u64(LW_STEADY_TOKENS_MIN, segment_tokens + 2 * LW_UNIT_TOKENS);
}

static uint32_t units(uint32_t tokens)
{
    return (uint32_t)lw_div_up(tokens, LW_UNIT_TOKENS);
}

static uint64_t index_part_bytes_max(const lwc_model_t *model, uint32_t tokens)
{
    uint64_t most = 0;

    for (uint32_t clusters = LW_ENCODING_BF16; clusters <= LW_ENCODING_FP32; clusters++)
        for (uint32_t outliers = LW_ENCODING_BF16; outliers <= LW_ENCODING_FP32; outliers++)
            most = lw_max_u64(most,
                              lwk_index_layout(clusters, outliers, units(tokens) * LW_CLUSTERS_PER_UNIT_MAX,
                                               units(tokens) * LW_OUTLIERS_PER_UNIT_MAX, model->head_dim)
                                  .bytes);
    return most;
}

uint64_t lwc_extent_bytes_max(const lwc_model_t *model, uint32_t tokens)
{
    uint64_t clusters = (uint64_t)units(tokens) * LW_CLUSTERS_PER_UNIT_MAX;
    uint64_t entries = clusters + (uint64_t)units(tokens) * LW_OUTLIERS_PER_UNIT_MAX;
    uint64_t head = sizeof(lw_segment_head_t) + 2 * clusters + 4 * entries +
                    index_part_bytes_max(model, tokens) + tokens * model->pair_bytes +
                    LW_SINK_TOKENS * model->pair_bytes + 5 * LW_SEGMENT_PART_ALIGN;

    return lw_align_up(sizeof(lw_segment_header_t) + model->heads * head + model->moments_bytes +
                           4 * LW_SEGMENT_PART_ALIGN,
                       4096);
}

/* Device bytes of the index of one (layer, KV head) over one unit, with room to spare for alignment. */
static uint64_t index_bytes_per_unit(const lwc_model_t *model)
{
    lwk_index_layout_t layout = lwk_index_layout(LW_ENCODING_BF16, LW_ENCODING_BF16, LW_CLUSTERS_PER_UNIT_MAX,
                                                 LW_OUTLIERS_PER_UNIT_MAX, model->head_dim);
    return layout.bytes + 4 * LW_CLUSTERS_PER_UNIT_MAX +
           12 * (LW_CLUSTERS_PER_UNIT_MAX + LW_OUTLIERS_PER_UNIT_MAX) + 1024;
}

static uint64_t clamp(uint64_t value, uint64_t min, uint64_t max)
{
    return value < min ? min : value > max ? max : value;
}

static uint32_t power_of_two_up(uint64_t value)
{
    uint32_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

static void choose_bytes(const lwc_model_t *model, const lw_open_params_t *params,
                         const lwc_options_t *options, lwc_sizes_t *sizes)
{
    uint64_t streams = (uint64_t)model->layers * model->heads;
    uint64_t tokens = (uint64_t)sizes->sessions_max * sizes->tokens_max;
    uint64_t layer_bytes = (uint64_t)model->heads * sizes->tokens_max * model->pair_bytes;

    sizes->index_bytes = options->index_bytes;
    if (sizes->index_bytes == LWC_AUTO)
        sizes->index_bytes = clamp(lw_div_up(tokens, LW_UNIT_TOKENS) * streams * index_bytes_per_unit(model),
                                   1u << 20, 1ull << 30);
    sizes->cache_bytes = params->device_bytes ? params->device_bytes : options->cache_bytes;
    if (sizes->cache_bytes == LWC_AUTO)
        sizes->cache_bytes = clamp(tokens * streams * model->pair_bytes / 20, 4u << 20, 1ull << 30);
    sizes->landing_bytes = options->client_landing_bytes;
    if (sizes->landing_bytes == LWC_AUTO)
        sizes->landing_bytes = clamp(3 * layer_bytes, 8u << 20, 256ull << 20);
    sizes->landing_bytes = lw_align_up(sizes->landing_bytes, 64);
    sizes->extent_bytes = lwc_extent_bytes_max(model, LW_SEGMENT_TOKENS_MAX);
}

lw_status_t lwc_sizes_make(const lwc_model_t *model, const lw_open_params_t *params,
                           const lwc_options_t *options, lwc_sizes_t *sizes_out, lw_error_t *error)
{
    lwc_sizes_t sizes = {.sessions_max = params->sessions_max ? params->sessions_max : 8,
                         .tokens_max = params->tokens_max ? params->tokens_max : 131072};
    lw_status_t status = in_range("sessions_max", sizes.sessions_max, 1, 4096, error);

    if (status == LW_OK)
        status = in_range("tokens_max", sizes.tokens_max, 1, (uint64_t)(LW_RANGES_MAX - 2) * LW_UNIT_TOKENS,
                          error);
    if (status != LW_OK)
        return status;
    sizes.ranges_max = units(sizes.tokens_max) + 1;
    sizes.range_capacity = sizes.ranges_max * sizes.sessions_max;
    sizes.entry_capacity = units(sizes.tokens_max) * (LW_CLUSTERS_PER_UNIT_MAX + LW_OUTLIERS_PER_UNIT_MAX);
    sizes.query_rows = (uint32_t)options->client_query_rows;
    if (sizes.query_rows == 0)
        sizes.query_rows = (uint32_t)clamp(sizes.sessions_max, LW_QUERY_TOKENS_MAX, LW_BATCH_MAX);
    sizes.steady_rows_max = lwc_steady_rows(LW_SEGMENT_TOKENS_MAX);
    uint64_t tickets = options->client_tickets;
    if (tickets == 0)
        tickets = clamp(4ull * model->heads * sizes.entry_capacity, 1u << 14, 1u << 19);
    sizes.ticket_capacity = power_of_two_up(tickets);
    choose_bytes(model, params, options, &sizes);
    *sizes_out = sizes;
    return LW_OK;
}

void lwc_sizes_make_async(const lwc_model_t *model, const lwc_options_t *options, lwc_sizes_t *sizes)
{
    uint64_t tokens = (uint64_t)sizes->sessions_max * sizes->tokens_max;
    uint64_t all = tokens * model->layers * model->heads * model->pair_bytes;

    if (options->client_landing_bytes == LWC_AUTO)
        sizes->landing_bytes = lw_align_up(clamp(all / 40, sizes->landing_bytes, 2ull << 30), 64);
}
