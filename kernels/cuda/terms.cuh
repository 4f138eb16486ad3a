/* terms.cuh - the terms of one index entry (ops.h names them), and the opened tile that they are taken from. */
#ifndef LWK_CUDA_TERMS_CUH
#define LWK_CUDA_TERMS_CUH

#include "kernels/cuda/step.cuh"

/* A tile as a block works on it: copied once, so that no entry waits for the descriptor. */
typedef struct tile_view {
    const uint8_t *index;
    const uint16_t *sizes;
    lwk_index_layout_t at;
    uint32_t clusters, entries, base; /* base: first entry slot in the scratch arrays */
    uint32_t cluster_kind, outlier_kind; /* step_kind_t */
    const uint16_t *outlier_eighths;     /* of the tile */
} tile_view_t;

LWK_DEVICE tile_view_t lwk_tile_open(const lwk_step_t *step, const lwk_session_t *session, uint32_t range, uint32_t head)
{
    lwk_range_ref_t ref = session->ranges[range];
    const lwk_tile_t *tile = &step->store->tiles[lwk_tile_number(&step->shape, ref.row, step->layer, head)];
    tile_view_t v;
    v.index = tile->index;
    v.sizes = tile->sizes;
    v.at = lwk_tile_layout(tile, step->shape.head_dim);
    v.clusters = tile->cluster_count;
    v.entries = lwk_tile_entries(tile);
    v.base = ref.entry_base;
    v.cluster_kind = lwk_kind_of_encoding(tile->cluster_encoding);
    v.outlier_kind = lwk_kind_of_encoding(tile->outlier_encoding);
    v.outlier_eighths = tile->outlier_eighths;
    return v;
}

LWK_DEVICE const float *lwk_tile_floats(const tile_view_t *tile, uint32_t offset)
{
    return (const float *)(tile->index + offset);
}
LWK_DEVICE const uint16_t *lwk_tile_halves(const tile_view_t *tile, uint32_t offset)
{
    return (const uint16_t *)(tile->index + offset);
}

LWK_DEVICE bool lwk_kind_is_coded(uint32_t kind)
{
    return kind >= STEP_INT8;
}

/* What an entry brings, whatever the query. */
typedef struct tile_entry {
    float log_size, key_scale, spread; /* key_scale 0: plain; spread 0: outlier */
    uint32_t size;
} tile_entry_t;

LWK_DEVICE tile_entry_t lwk_tile_entry(const tile_view_t *tile, uint32_t e)
{
    tile_entry_t x = {0.0f, 0.0f, 0.0f, 1};
    if (e < tile->clusters) {
        x.size = tile->sizes[e];
        x.log_size = logf((float)x.size);
        x.spread = lwk_bf16_to_f32(lwk_tile_halves(tile, tile->at.cluster_spreads)[e]);
        if (tile->at.cluster_key_scales != 0)
            x.key_scale = lwk_f16_to_f32(lwk_tile_halves(tile, tile->at.cluster_key_scales)[e]);
    } else if (tile->at.outlier_key_scales != 0) {
        x.key_scale = lwk_f16_to_f32(lwk_tile_halves(tile, tile->at.outlier_key_scales)[e - tile->clusters]);
    }
    return x;
}

/* What a query brings, whatever the entry of the tile. */
typedef struct tile_query {
    float spread; /* of the scratch: variance of the logit for spread 1 */
    float noise;  /* scale^2 |channel * q|^2 / 24 */
} tile_query_t;

typedef struct tile_terms {
    float spread, variance, slope;
} tile_terms_t;

LWK_DEVICE tile_terms_t lwk_entry_terms(const tile_entry_t *entry, const tile_query_t *query, float logit,
                                        float soft_cap)
{
    tile_terms_t t = {0.0f, 0.0f, 1.0f};
    if (soft_cap > 0.0f) {
        float x = logit / soft_cap;
        t.slope = 1.0f - x * x;
    }
    if (entry->spread > 0.0f && query->spread > 0.0f) {
        t.spread = fminf(entry->spread, LWK_VARIANCE_MAX / query->spread);
        t.variance = t.spread * query->spread * t.slope * t.slope;
    }
    return t;
}

/* R. */
LWK_DEVICE float lwk_entry_rank(const tile_entry_t *entry, const tile_terms_t *t, const lwk_policy_t *policy, float logit)
{
    return policy->rank == LWK_RANK_EXPECTED_MAX
               ? logit + policy->z * sqrtf(t->variance * 2.0f * entry->log_size)
               : logit;
}

/* A. */
LWK_DEVICE float lwk_entry_mass(const tile_entry_t *entry, const tile_query_t *query, const tile_terms_t *t,
                                const lwk_policy_t *policy, float logit)
{
    float mass = entry->log_size + logit - entry->key_scale * entry->key_scale * query->noise * t->slope * t->slope;
    return (policy->correct & LWK_CORRECT_VARIANCE) != 0 ? mass + 0.5f * t->variance : mass;
}

/* Sum over a row of the tile's channels: |channel * q|^2, and the dot with a center; by one warp, in one order. */
LWK_DEVICE float lwk_channel_norm(const float *channel, const float *query, uint32_t head_dim)
{
    float sum = 0.0f;
    for (uint32_t j = lwk_lane(); j < head_dim; j += 32) {
        float x = channel[j] * query[j];
        sum = fmaf(x, x, sum);
    }
    return lwk_warp_sum(sum);
}
LWK_DEVICE float lwk_center_dot(const float *center, const float *query, uint32_t head_dim)
{
    float sum = 0.0f;
    for (uint32_t j = lwk_lane(); j < head_dim; j += 32)
        sum = fmaf(center[j], query[j], sum);
    return lwk_warp_sum(sum);
}

#endif /* LWK_CUDA_TERMS_CUH */
