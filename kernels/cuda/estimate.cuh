/* estimate.cuh - the estimate of one tile: what its entries that were not chosen weigh, and the value means of its clusters.
 *
 * An outlier that is estimated brings its own weight and its parent's value mean, so weights are first gathered by cluster
 * (outliers lie sorted by parent), and each cluster's value row is read once, if anything weighs on it. */
#ifndef LWK_CUDA_ESTIMATE_CUH
#define LWK_CUDA_ESTIMATE_CUH

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/terms.cuh"

#define ESTIMATE_ENTRIES (LW_SEGMENT_UNITS_MAX * (LW_CLUSTERS_PER_UNIT_MAX + LW_OUTLIERS_PER_UNIT_MAX))
#define ESTIMATE_UNROLL 8u /* value rows whose parts a thread loads before it uses the first */

template <uint32_t LANES, uint32_t QC> struct estimate_shared {
    float weight[QC][ESTIMATE_ENTRIES]; /* A, then e^(A - largest), then gathered by cluster */
    float sum[STEP_WARPS][LANES * LWK_ROW_PART];
    float reduce[STEP_WARPS][QC];
    float largest[QC], z[QC], shift[QC];
    tile_query_t query[QC];
};

/* Largest, or sum, over the block of each thread's x[q]; to `out`[q], in an order that never changes. */
template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_reduce(estimate_shared<LANES, QC> *sh, const float x[QC], bool largest, float *out)
{
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float y = largest ? lwk_warp_max(x[q]) : lwk_warp_sum(x[q]);
        if (lwk_lane() == 0)
            sh->reduce[lwk_warp()][q] = y;
    }
    __syncthreads();
    if (threadIdx.x < QC) {
        float y = sh->reduce[0][threadIdx.x];
        for (uint32_t w = 1; w < STEP_WARPS; w++) {
            float other = sh->reduce[w][threadIdx.x];
            y = largest ? fmaxf(y, other) : y + other;
        }
        out[threadIdx.x] = y;
    }
    __syncthreads();
}

/* A of every entry that is to be estimated, else -infinity; and the largest of each query. */
template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_masses(estimate_shared<LANES, QC> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                                const tile_view_t *tile, uint32_t s, uint32_t head, uint32_t first)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t count = lwk_query_count(step);
    const uint8_t *mark = scratch->mark + lwk_kv_row(step, s, head) * scratch->entry_capacity + tile->base;
    float largest[QC];
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        largest[q] = -INFINITY;
    for (uint32_t e = threadIdx.x; e < tile->entries; e += STEP_THREADS) {
        tile_entry_t entry = lwk_tile_entry(tile, e);
        bool estimated = mark[e] == LWK_MARK_ESTIMATE && entry.size > 0;
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            float mass = -INFINITY;
            if (estimated && first + q < count) {
                float logit =
                    scratch->logit[lwk_group_row(step, s, head, first + q) * scratch->entry_capacity + tile->base + e];
                tile_terms_t t = lwk_entry_terms(&entry, &sh->query[q], logit, step->shape.soft_cap);
                mass = lwk_entry_mass(&entry, &sh->query[q], &t, policy, logit);
            }
            sh->weight[q][e] = mass;
            largest[q] = fmaxf(largest[q], mass);
        }
    }
    estimate_reduce<LANES, QC>(sh, largest, true, sh->largest);
}

/* Masses become weights; their sums, and those of the shifts, follow. */
template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_weights(estimate_shared<LANES, QC> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                                 const tile_view_t *tile, uint32_t s, uint32_t head, uint32_t first)
{
    const lwk_scratch_t *scratch = &step->scratch;
    bool shifts = lwk_policy_uses_shift(policy);
    float z[QC], shift[QC];
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        z[q] = shift[q] = 0.0f;
    for (uint32_t e = threadIdx.x; e < tile->entries; e += STEP_THREADS) {
        tile_entry_t entry = lwk_tile_entry(tile, e);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            float mass = sh->weight[q][e];
            float w = mass > -INFINITY ? __expf(mass - sh->largest[q]) : 0.0f;
            sh->weight[q][e] = w;
            z[q] += w;
            if (shifts && w > 0.0f && e < tile->clusters) {
                float logit =
                    scratch->logit[lwk_group_row(step, s, head, first + q) * scratch->entry_capacity + tile->base + e];
                tile_terms_t t = lwk_entry_terms(&entry, &sh->query[q], logit, step->shape.soft_cap);
                shift[q] = fmaf(w, t.spread * t.slope, shift[q]);
            }
        }
    }
    estimate_reduce<LANES, QC>(sh, z, false, sh->z);
    estimate_reduce<LANES, QC>(sh, shift, false, sh->shift);
}

/* Adds the weights of outliers to their parents', by the thread of the first one of each parent. */
template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_gather(estimate_shared<LANES, QC> *sh, const tile_view_t *tile)
{
    const uint16_t *parents = lwk_tile_halves(tile, tile->at.outlier_parents);
    uint32_t outliers = tile->entries - tile->clusters;
    for (uint32_t o = threadIdx.x; o < outliers; o += STEP_THREADS) {
        uint32_t parent = parents[o];
        if (o > 0 && parents[o - 1] == parent)
            continue;
        float sum[QC];
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            sum[q] = sh->weight[q][parent];
        for (uint32_t i = o; i < outliers && parents[i] == parent; i++)
#pragma unroll
            for (uint32_t q = 0; q < QC; q++)
                sum[q] += sh->weight[q][tile->clusters + i];
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            sh->weight[q][parent] = sum[q];
    }
    __syncthreads();
}

/* Sums of weight * code (or value) over the clusters. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_values(const estimate_shared<LANES, QC> *sh, const tile_view_t *tile, uint32_t head_dim,
                                rows_sum<QC> *sum)
{
    const uint32_t GROUPS = STEP_THREADS / LANES;
    const bool CODED = KIND == STEP_INT8 || KIND == STEP_INT4;
    uint32_t part = threadIdx.x % LANES, group = threadIdx.x / LANES, d = head_dim;
    uint32_t bytes = lwk_kind_row_bytes<KIND>(d);
    const uint8_t *rows = tile->index + tile->at.cluster_values;
    const uint16_t *scales = lwk_tile_halves(tile, tile->at.cluster_value_scales);
    bool inside = part * LWK_ROW_PART < d;
    for (uint32_t base = 0; base < tile->clusters; base += ESTIMATE_UNROLL * GROUPS) {
        step_part<KIND> value[ESTIMATE_UNROLL];
        uint16_t scale[ESTIMATE_UNROLL];
#pragma unroll
        for (uint32_t i = 0; i < ESTIMATE_UNROLL; i++) {
            uint32_t c = base + i * GROUPS + group;
            bool weighs = false;
            if (c < tile->clusters)
#pragma unroll
                for (uint32_t q = 0; q < QC; q++)
                    weighs = weighs || sh->weight[q][c] > 0.0f;
            lwk_part_clear(&value[i]);
            scale[i] = 0;
            if (weighs && inside)
                lwk_part_load(&value[i], rows + (size_t)c * bytes, part);
            if (weighs && CODED)
                scale[i] = scales[c];
        }
#pragma unroll
        for (uint32_t i = 0; i < ESTIMATE_UNROLL; i++) {
            uint32_t c = base + i * GROUPS + group;
            if (c >= tile->clusters)
                break;
            float x[LWK_ROW_PART], times = CODED ? lwk_f16_to_f32(scale[i]) : 1.0f;
            lwk_part_floats(&value[i], LW_DTYPE_BF16, x);
#pragma unroll
            for (uint32_t q = 0; q < QC; q++) {
                float w = sh->weight[q][c] * times;
#pragma unroll
                for (uint32_t j = 0; j < LWK_ROW_PART; j++)
                    sum->o[q][j] = fmaf(w, x[j], sum->o[q][j]);
            }
        }
    }
}

template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void estimate_queries(estimate_shared<LANES, QC> *sh, const lwk_step_t *step, const tile_view_t *tile,
                                 uint32_t s, uint32_t head, uint32_t first)
{
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    __syncthreads();
    for (uint32_t q = lwk_warp(); q < QC; q += STEP_WARPS) {
        float norm = 0.0f, spread = 0.0f;
        if (first + q < count) {
            size_t row = lwk_group_row(step, s, head, first + q);
            spread = step->scratch.spread[row];
            if (tile->at.key_channel != 0)
                norm = lwk_channel_norm(lwk_tile_floats(tile, tile->at.key_channel), step->scratch.query + row * d, d);
        }
        if (lwk_lane() == 0) {
            sh->query[q].spread = spread;
            sh->query[q].noise = norm * step->shape.scale * step->shape.scale / 24.0f;
        }
    }
    __syncthreads();
}

/* Writes the partials of slot `range` for all queries of the head. */
template <uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_estimate_tile(estimate_shared<LANES, QC> *sh, const lwk_step_t *step, lwk_session_t *session,
                                  uint32_t s, uint32_t head, uint32_t range)
{
    const lwk_scratch_t *scratch = &step->scratch;
    tile_view_t tile = lwk_tile_open(step, session, range, head);
    lwk_policy_t policy = session->policy;
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    if (tile.entries > ESTIMATE_ENTRIES) { /* no builder makes such a tile */
        if (threadIdx.x == 0)
            lwk_session_fail(session, LW_ERR_INVALID);
        tile.entries = tile.clusters = 0;
    }
    const float *center = NULL, *channel = NULL;
    if (tile.at.value_channel != 0) {
        center = lwk_tile_floats(&tile, tile.at.value_center);
        channel = lwk_tile_floats(&tile, tile.at.value_channel);
    }
    for (uint32_t first = 0; first < count; first += QC) {
        estimate_queries<LANES, QC>(sh, step, &tile, s, head, first);
        estimate_masses<LANES, QC>(sh, step, &policy, &tile, s, head, first);
        estimate_weights<LANES, QC>(sh, step, &policy, &tile, s, head, first);
        estimate_gather<LANES, QC>(sh, &tile);
        rows_sum<QC> sum;
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
#pragma unroll
            for (uint32_t j = 0; j < LWK_ROW_PART; j++)
                sum.o[q][j] = 0.0f;
        switch (tile.cluster_kind) {
        case STEP_INT8: estimate_values<STEP_INT8, LANES, QC>(sh, &tile, d, &sum); break;
        case STEP_INT4: estimate_values<STEP_INT4, LANES, QC>(sh, &tile, d, &sum); break;
        case STEP_HALF: estimate_values<STEP_HALF, LANES, QC>(sh, &tile, d, &sum); break;
        default: estimate_values<STEP_FP32, LANES, QC>(sh, &tile, d, &sum); break;
        }
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            if (first + q >= count)
                break;
            size_t at = lwk_group_row(step, s, head, first + q) * scratch->partial_capacity + range;
            lwk_rows_reduce<LANES>(sh->sum, sum.o[q], d, center, channel, sh->z[q], scratch->partial_out + at * d);
            if (threadIdx.x == 0) {
                lwk_partial_t partial = {sh->largest[q], sh->z[q], sh->shift[q], 0.0f};
                scratch->partial[at] = partial;
            }
        }
        __syncthreads();
    }
}

#endif /* LWK_CUDA_ESTIMATE_CUH */
