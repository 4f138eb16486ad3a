/* score.cuh - one tile, of any head_dim and encoding: logits of all its entries for all queries of the head, and the tile's
 * largest R and sum of e^R. Tiles of codes with a usual head_dim go through score_coded.cuh. */
#ifndef LWK_CUDA_SCORE_CUH
#define LWK_CUDA_SCORE_CUH

#include "kernels/cuda/terms.cuh"

#define SCORE_UNROLL 4u /* entries whose parts a thread loads before it uses the first */

template <uint32_t LANES, uint32_t QC, uint32_t THREADS> struct score_shared {
    static const uint32_t WIDTH = LANES * LWK_ROW_PART;
    alignas(16) float plain[QC][WIDTH], coded[QC][WIDTH]; /* q; channel * q; lwk_query_at() */
    float center[QC];                         /* q . center */
    tile_query_t query[QC];
    float largest[THREADS / LANES][QC], sum[THREADS / LANES][QC]; /* of each group's entries */
};

/* A running maximum and sum of e^(x - maximum). */
typedef struct score_sum {
    float largest, sum;
} score_sum_t;

LWK_DEVICE void score_add(score_sum_t *to, float x)
{
    if (x > to->largest) {
        to->sum = to->sum * __expf(to->largest - x) + 1.0f;
        to->largest = x;
    } else {
        to->sum += __expf(x - to->largest);
    }
}

/* q, channel * q and what follows from them, for queries first .. first + QC - 1; zeros beyond the last. */
template <uint32_t LANES, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void score_queries(score_shared<LANES, QC, THREADS> *sh, const lwk_step_t *step, const tile_view_t *tile, uint32_t s,
                              uint32_t head, uint32_t first)
{
    const uint32_t WIDTH = LANES * LWK_ROW_PART;
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    const float *channel = tile->at.key_channel != 0 ? lwk_tile_floats(tile, tile->at.key_channel) : NULL;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < QC * WIDTH; i += THREADS) {
        uint32_t q = first + i / WIDTH, j = i % WIDTH;
        float x = 0.0f;
        if (q < count && j < d)
            x = step->scratch.query[lwk_group_row(step, s, head, q) * d + j];
        sh->plain[i / WIDTH][lwk_query_at<LANES>(j)] = x;
        sh->coded[i / WIDTH][lwk_query_at<LANES>(j)] = channel != NULL && j < d ? x * channel[j] : 0.0f;
    }
    __syncthreads();
    for (uint32_t q = lwk_warp(); q < QC; q += (THREADS / 32)) {
        float center = 0.0f, norm = 0.0f;
        if (channel != NULL) {
            const float *query =
                step->scratch.query + lwk_group_row(step, s, head, min(first + q, count - 1)) * d;
            center = lwk_center_dot(lwk_tile_floats(tile, tile->at.key_center), query, d);
            norm = lwk_channel_norm(channel, query, d);
        }
        if (lwk_lane() == 0) {
            sh->center[q] = center;
            sh->query[q].noise = norm * step->shape.scale * step->shape.scale / 24.0f;
            sh->query[q].spread =
                first + q < count ? step->scratch.spread[lwk_group_row(step, s, head, first + q)] : 0.0f;
        }
    }
    __syncthreads();
}

/* Entries begin .. end - 1, which are all of one kind, whose rows begin at `rows`; thread `part` of a row's threads keeps
 * query number part. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void score_entries(score_shared<LANES, QC, THREADS> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                              const tile_view_t *tile, const uint8_t *rows, uint32_t begin, uint32_t end,
                              float *logits, score_sum_t *sum)
{
    const uint32_t GROUPS = THREADS / LANES;
    const bool CODED = KIND == STEP_INT8 || KIND == STEP_INT4;
    const lwk_shape_t *shape = &step->shape;
    uint32_t part = threadIdx.x % LANES, group = threadIdx.x / LANES, d = shape->head_dim;
    uint32_t bytes = lwk_kind_row_bytes<KIND>(d);
    bool inside = part * LWK_ROW_PART < d;
    for (uint32_t base = begin; base < end; base += SCORE_UNROLL * GROUPS) {
        step_part<KIND> key[SCORE_UNROLL];
#pragma unroll
        for (uint32_t i = 0; i < SCORE_UNROLL; i++) {
            uint32_t e = base + i * GROUPS + group;
            lwk_part_clear(&key[i]);
            if (e < end && inside)
                lwk_part_load(&key[i], rows + (size_t)(e - begin) * bytes, part);
        }
#pragma unroll
        for (uint32_t i = 0; i < SCORE_UNROLL; i++) {
            uint32_t e = base + i * GROUPS + group;
            float x[LWK_ROW_PART], mine = 0.0f;
            lwk_part_floats(&key[i], LW_DTYPE_BF16, x);
#pragma unroll
            for (uint32_t q = 0; q < QC; q++) {
                float dot =
                    lwk_row_sum<LANES>(lwk_query_dot<LANES>(CODED ? sh->coded[q] : sh->plain[q], part, x));
                if (part == q)
                    mine = dot;
            }
            if (e >= end || part >= QC || logits == NULL)
                continue;
            tile_entry_t entry = lwk_tile_entry(tile, e);
            if (CODED)
                mine = fmaf(mine, entry.key_scale, sh->center[part]);
            float logit = lwk_soft_cap(shape->scale * mine, shape->soft_cap);
            logits[e] = entry.size > 0 ? logit : -INFINITY;
            if (entry.size > 0) {
                tile_terms_t t = lwk_entry_terms(&entry, &sh->query[part], logit, shape->soft_cap);
                score_add(sum, lwk_entry_rank(&entry, &t, policy, logit));
            }
        }
    }
}

template <uint32_t LANES, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void score_part(score_shared<LANES, QC, THREADS> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                           const tile_view_t *tile, uint32_t kind, uint32_t rows, uint32_t base, uint32_t begin,
                           uint32_t end, float *logits, score_sum_t *sum)
{
    const uint8_t *at = tile->index + rows + (size_t)(begin - base) * lwk_kind_row_bytes(kind, step->shape.head_dim);
    if (begin >= end)
        return;
    switch (kind) {
    case STEP_INT8: score_entries<STEP_INT8, LANES, QC, THREADS>(sh, step, policy, tile, at, begin, end, logits, sum); break;
    case STEP_INT4: score_entries<STEP_INT4, LANES, QC, THREADS>(sh, step, policy, tile, at, begin, end, logits, sum); break;
    case STEP_HALF: score_entries<STEP_HALF, LANES, QC, THREADS>(sh, step, policy, tile, at, begin, end, logits, sum); break;
    default: score_entries<STEP_FP32, LANES, QC, THREADS>(sh, step, policy, tile, at, begin, end, logits, sum); break;
    }
}

/* span: what of the tile; slot: of tile_max and tile_sum. */
template <uint32_t LANES, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void score_tile(score_shared<LANES, QC, THREADS> *sh, const lwk_step_t *step, const lwk_session_t *session,
                           const tile_view_t *opened, const lwk_part_t *span, uint32_t s, uint32_t head, uint32_t slot)
{
    const uint32_t GROUPS = THREADS / LANES;
    const lwk_scratch_t *scratch = &step->scratch;
    tile_view_t tile = *opened;
    lwk_policy_t policy = session->policy;
    uint32_t count = lwk_query_count(step), part = threadIdx.x % LANES, group = threadIdx.x / LANES;
    for (uint32_t first = 0; first < count; first += QC) {
        score_queries<LANES, QC, THREADS>(sh, step, &tile, s, head, first);
        score_sum_t sum = {-INFINITY, 0.0f};
        float *logits = NULL;
        if (part < QC && first + part < count)
            logits = scratch->logit + lwk_group_row(step, s, head, first + part) * scratch->entry_capacity + tile.base;
        score_part<LANES, QC, THREADS>(sh, step, &policy, &tile, tile.cluster_kind, tile.at.cluster_keys, 0, span->cluster_first,
                              span->cluster_end, logits, &sum);
        score_part<LANES, QC, THREADS>(sh, step, &policy, &tile, tile.outlier_kind, tile.at.outlier_keys, tile.clusters,
                              tile.clusters + span->outlier_first, tile.clusters + span->outlier_end, logits, &sum);
        if (part < QC) {
            sh->largest[group][part] = sum.largest;
            sh->sum[group][part] = sum.sum;
        }
        __syncthreads();
        if (threadIdx.x < QC && first + threadIdx.x < count) {
            uint32_t q = threadIdx.x;
            float largest = -INFINITY, total = 0.0f;
            for (uint32_t g = 0; g < GROUPS; g++)
                largest = fmaxf(largest, sh->largest[g][q]);
            for (uint32_t g = 0; g < GROUPS; g++)
                if (sh->sum[g][q] > 0.0f)
                    total += sh->sum[g][q] * __expf(sh->largest[g][q] - largest);
            size_t at = lwk_group_row(step, s, head, first + q) * scratch->part_capacity + slot;
            scratch->tile_max[at] = largest;
            scratch->tile_sum[at] = total;
        }
    }
}

#endif /* LWK_CUDA_SCORE_CUH */
