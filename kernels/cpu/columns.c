/* columns.c - what an index block says about its entries whatever the query is, as columns of fp32. */
#include "kernels/cpu/cpu_private.h"

#define LOG_SIZES 1024u

static float log_sizes[LOG_SIZES];

void lwk_cpu_fill_log_sizes(void)
{
    for (uint32_t i = 1; i < LOG_SIZES; i++)
        log_sizes[i] = (float)log(i);
}

/* 0 for 0. */
static float log_size(uint32_t size)
{
    return size < LOG_SIZES ? log_sizes[size] : (float)log(size);
}

static void open_scales(const lwk_loops_t *loops, const lwk_cpu_work_t *work, lwk_cpu_tile_t *tile)
{
    const lwk_tile_t *t = tile->tile;
    bool clusters = lwk_encoding_is_coded(t->cluster_encoding);
    bool outliers = lwk_encoding_is_coded(t->outlier_encoding) && t->outlier_count > 0;
    tile->columns.scale = clusters || outliers ? work->scale : NULL;
    tile->value_scale = clusters ? work->value_scale : NULL;
    if (clusters) {
        loops->widen(LWK_ROW_FP16, t->index + tile->at.cluster_key_scales, t->cluster_count, work->scale);
        loops->widen(LWK_ROW_FP16, t->index + tile->at.cluster_value_scales, t->cluster_count,
                     work->value_scale);
    } else if (outliers) {
        for (uint32_t i = 0; i < t->cluster_count; i++)
            work->scale[i] = 0;
    }
    if (outliers)
        loops->widen(LWK_ROW_FP16, t->index + tile->at.outlier_key_scales, t->outlier_count,
                     work->scale + t->cluster_count);
    else if (clusters)
        for (uint32_t i = t->cluster_count; i < tile->count; i++)
            work->scale[i] = 0;
}

static void open_bias(const lwk_cpu_work_t *work, const lwk_cpu_tile_t *tile, const uint8_t *mark)
{
    for (uint32_t i = 0; i < tile->count; i++)
        work->bias[i] = mark == NULL || mark[i] == LWK_MARK_ESTIMATE ? work->log_size[i] : -INFINITY;
    for (uint32_t i = 0; tile->has_empty && i < tile->tile->cluster_count; i++)
        if (tile->tile->sizes[i] == 0)
            work->bias[i] = -INFINITY;
}

void lwk_cpu_tile_open(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries,
                       uint32_t range, const uint8_t *mark, lwk_cpu_tile_t *tile_out)
{
    const lwk_store_t *store = queries->step->store;
    lwk_range_ref_t ref = queries->session->ranges[range];
    const lwk_shape_t *shape = &queries->step->shape;
    const lwk_tile_t *t = &store->tiles[lwk_tile_number(shape, ref.row, queries->step->layer, queries->head)];
    *tile_out =
        (lwk_cpu_tile_t){.tile = t,
                         .at = lwk_tile_layout(t, shape->head_dim),
                         .count = lwk_tile_entries(t),
                         .base = ref.entry_base,
                         .columns = {.spread = work->spread, .log_size = work->log_size, .bias = work->bias}};
    loops->widen(LWK_ROW_BF16, t->index + tile_out->at.cluster_spreads, t->cluster_count, work->spread);
    for (uint32_t i = 0; i < t->cluster_count; i++) {
        work->log_size[i] = log_size(t->sizes[i]);
        tile_out->has_empty |= t->sizes[i] == 0;
    }
    for (uint32_t i = t->cluster_count; i < tile_out->count; i++)
        work->spread[i] = work->log_size[i] = 0;
    open_scales(loops, work, tile_out);
    open_bias(work, tile_out, mark);
}

lwk_lens_t lwk_cpu_lens(const lwk_cpu_queries_t *queries, uint32_t q, const lwk_cpu_tile_t *tile)
{
    const lwk_shape_t *shape = &queries->step->shape;
    const lwk_policy_t *policy = &queries->session->policy;
    lwk_lens_t lens = {
        .spread = queries->step->scratch.spread[queries->row[q]],
        .rank_z = policy->rank == LWK_RANK_EXPECTED_MAX ? policy->z : 0,
        .inverse_cap = shape->soft_cap > 0 ? 1 / shape->soft_cap : 0,
    };
    if (tile->columns.scale != NULL) {
        const float *channel = lwk_cpu_floats(tile, tile->at.key_channel);
        float noise = 0;
        for (uint32_t j = 0; j < shape->head_dim; j++)
            noise += channel[j] * queries->query[q][j] * channel[j] * queries->query[q][j];
        lens.noise = noise * shape->scale * shape->scale / 24;
    }
    return lens;
}

void lwk_cpu_index_rows(const lwk_cpu_work_t *work, const uint8_t *first, uint32_t row_bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        work->rows[i] = first + (size_t)i * row_bytes;
}
