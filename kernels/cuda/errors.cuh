/* errors.cuh - LWK_BUDGET_ERROR: what each entry's estimate is expected to cost (ops.h), keys by the largest of it for a token,
 * and histograms with the sums that decide when to stop.
 *
 * A warp takes SELECT_CHUNK slots at a time, 8 in each lane, one query after the other; the noise of coded keys is computed
 * where a range begins. Masses are summed by chunk and merged in chunk order, so that shares do not depend on how many blocks a
 * job has. Bytes: those of votes.cuh three times (mass, key, sums), from L2 after the first. */
#ifndef LWK_CUDA_ERRORS_CUH
#define LWK_CUDA_ERRORS_CUH

#include "kernels/cuda/cut.cuh"

#define ERRORS_EACH (SELECT_CHUNK / 32)

/* A lane's entries of a chunk: slot chunk * SELECT_CHUNK + 32 k + lane. */
typedef struct errors_chunk {
    uint32_t size[ERRORS_EACH]; /* 0: no entry */
    uint32_t range[ERRORS_EACH];
    float spread[ERRORS_EACH], scale[ERRORS_EACH], log_size[ERRORS_EACH];
    uint32_t clusters; /* bit k: entry k is a cluster */
    uint32_t first_range, last_range, slot;
} errors_chunk_t;

LWK_DEVICE const lwk_tile_t *errors_tile(const select_job_t *job, uint32_t range)
{
    uint32_t row = job->session->ranges[range].row;
    return &job->step->store->tiles[lwk_tile_number(&job->step->shape, row, job->step->layer, job->head)];
}

LWK_DEVICE float errors_key_scale(const lwk_tile_t *tile, const lwk_index_layout_t *at, uint32_t entry)
{
    bool cluster = entry < tile->cluster_count;
    uint32_t scales = cluster ? at->cluster_key_scales : at->outlier_key_scales;
    if (scales == 0)
        return 0;
    return lwk_f16_to_f32(((const uint16_t *)(const void *)(tile->index + scales))[cluster ? entry : entry - tile->cluster_count]);
}

LWK_DEVICE void errors_open(const select_job_t *job, uint32_t chunk, errors_chunk_t *c)
{
    const uint32_t first = chunk * SELECT_CHUNK, last = min(first + SELECT_CHUNK, job->own.end) - 1;
    c->slot = first + select_lane();
    c->clusters = 0;
    c->first_range = select_range_of(job, first);
    c->last_range = select_range_of(job, last);
#pragma unroll
    for (uint32_t k = 0; k < ERRORS_EACH; k++) {
        uint32_t slot = c->slot + 32 * k;
        c->size[k] = 0;
        c->range[k] = UINT32_MAX;
        c->spread[k] = c->scale[k] = c->log_size[k] = 0;
        if (slot > last)
            continue;
        uint32_t range = c->first_range == c->last_range ? c->first_range : select_range_of(job, slot);
        const lwk_tile_t *tile = errors_tile(job, range);
        uint32_t entry = slot - job->session->ranges[range].entry_base;
        if (entry >= lwk_tile_entries(tile))
            continue;
        lwk_index_layout_t at = lwk_tile_layout(tile, job->step->shape.head_dim);
        c->range[k] = range;
        c->size[k] = lwk_entry_size(tile, entry);
        c->log_size[k] = c->size[k] > 1 ? logf((float)c->size[k]) : 0;
        c->scale[k] = errors_key_scale(tile, &at, entry);
        if (entry < tile->cluster_count) {
            c->clusters |= 1u << k;
            c->spread[k] = lwk_bf16_to_f32(((const uint16_t *)(const void *)(tile->index + at.cluster_spreads))[entry]);
        }
    }
}

/* scale^2 |channel * q|^2 / 24, the same in all lanes. */
LWK_DEVICE float errors_noise(const select_job_t *job, const select_query_t *query, uint32_t range)
{
    const lwk_tile_t *tile = errors_tile(job, range);
    const lwk_shape_t *shape = &job->step->shape;
    uint32_t channel_at = lwk_tile_layout(tile, shape->head_dim).key_channel;
    if (channel_at == 0)
        return 0;
    const float *channel = (const float *)(const void *)(tile->index + channel_at);
    const float *q = job->step->scratch.query + query->row * shape->head_dim;
    float sum = 0;
    for (uint32_t j = select_lane(); j < shape->head_dim; j += 32)
        sum += channel[j] * q[j] * (channel[j] * q[j]);
    return votes_warp_sum(sum) * shape->scale * shape->scale / 24;
}

/* Of each of the lane's entries for one query: A (-infinity where there is none) and the variance. The whole warp calls. */
LWK_DEVICE void errors_terms(const select_job_t *job, const select_query_t *query, const errors_chunk_t *c,
                             float mass[ERRORS_EACH], float variance[ERRORS_EACH])
{
    const bool corrects = (job->session->policy.correct & LWK_CORRECT_VARIANCE) != 0;
    const float soft_cap = job->step->shape.soft_cap;
#pragma unroll
    for (uint32_t k = 0; k < ERRORS_EACH; k++) {
        mass[k] = -INFINITY;
        variance[k] = 0;
    }
    for (uint32_t range = c->first_range; range <= c->last_range; range++) {
        float noise = errors_noise(job, query, range);
#pragma unroll
        for (uint32_t k = 0; k < ERRORS_EACH; k++) {
            if (c->range[k] != range || c->size[k] == 0)
                continue;
            float logit = query->logit[c->slot + 32 * k], slope = votes_slope(logit, soft_cap);
            if (c->clusters >> k & 1u)
                variance[k] = votes_variance(c->spread[k], query->spread, slope);
            mass[k] = c->log_size[k] + logit - c->scale[k] * c->scale[k] * noise * slope * slope;
            if (corrects)
                mass[k] += variance[k] / 2;
        }
    }
}

LWK_DEVICE float errors_contribution(const select_query_t *query, const errors_chunk_t *c, uint32_t k, float mass, float variance)
{
    float share = expf(mass - query->largest) * query->inverse;
    return c->clusters >> k & 1u ? share * share * expm1f(variance) / (float)c->size[k] : share * share;
}

LWK_DEVICE uint64_t errors_fixed(float x)
{
    return (uint64_t)((double)x * 0x1p40 + 0.5);
}

/* ---- masses ---- */

LWK_DEVICE size_t errors_part(const select_job_t *job, const lwk_select_work_t *work, uint32_t q, uint32_t chunk)
{
    return ((size_t)job->number * job->queries + q) * work->chunks + chunk;
}

LWK_DEVICE void errors_sum_chunks(const select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work)
{
    const select_slice_t own = job->own;
    for (uint32_t chunk = own.first / SELECT_CHUNK + select_warp(); chunk * SELECT_CHUNK < own.end; chunk += SELECT_WARPS) {
        errors_chunk_t c;
        errors_open(job, chunk, &c);
        for (uint32_t q = 0; q < job->queries; q++) {
            float mass[ERRORS_EACH], variance[ERRORS_EACH], largest = -INFINITY, sum = 0;
            errors_terms(job, &sh->query[q], &c, mass, variance);
#pragma unroll
            for (uint32_t k = 0; k < ERRORS_EACH; k++)
                largest = fmaxf(largest, mass[k]);
            largest = votes_warp_max(largest);
#pragma unroll
            for (uint32_t k = 0; k < ERRORS_EACH; k++)
                sum += mass[k] > -INFINITY ? expf(mass[k] - largest) : 0;
            sum = votes_warp_sum(sum);
            if (select_lane() == 0) {
                work->chunk_max[errors_part(job, work, q, chunk)] = largest;
                work->chunk_sum[errors_part(job, work, q, chunk)] = sum;
            }
        }
    }
}

/* The largest mass and 1 / (sum of all, the steady zone included) of each query. */
LWK_DEVICE void errors_normalise(const select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work)
{
    const lwk_scratch_t *scratch = &job->step->scratch;
    const uint32_t chunks = (job->entry_count + SELECT_CHUNK - 1) / SELECT_CHUNK;
    const uint32_t tiles = (lwk_steady_count(job->session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
    for (uint32_t q = select_warp(); q < job->queries; q += SELECT_WARPS) {
        float largest = -INFINITY, sum = 0;
        for (uint32_t i = select_lane(); i < chunks; i += 32)
            largest = fmaxf(largest, __ldcg(&work->chunk_max[errors_part(job, work, q, i)]));
        largest = votes_warp_max(largest);
        for (uint32_t i = select_lane(); i < chunks; i += 32) {
            float chunk_sum = __ldcg(&work->chunk_sum[errors_part(job, work, q, i)]);
            if (chunk_sum > 0)
                sum += chunk_sum * expf(__ldcg(&work->chunk_max[errors_part(job, work, q, i)]) - largest);
        }
        const lwk_partial_t *steady =
            scratch->partial + sh->query[q].row * scratch->partial_capacity + lwk_slot_steady(scratch, 0);
        for (uint32_t i = select_lane(); i < tiles; i += 32)
            if (largest > -INFINITY && steady[i].z > 0)
                sum += steady[i].z * expf(steady[i].m - largest);
        sum = votes_warp_sum(sum);
        if (select_lane() == 0) {
            sh->query[q].largest = largest > -INFINITY ? largest : 0;
            sh->query[q].inverse = largest > -INFINITY && sum > 0 ? 1 / sum : 0;
        }
    }
    __syncthreads();
}

/* ---- keys and histograms ---- */

/* Adds what the entries of a chunk contribute to the sums of their bins; bin[k] UINT32_MAX: not counted. */
LWK_DEVICE void errors_add_sums(const select_job_t *job, select_shared_t *sh, const errors_chunk_t *c,
                                const uint32_t bin[ERRORS_EACH])
{
    for (uint32_t q = 0; q < job->queries; q++) {
        float mass[ERRORS_EACH], variance[ERRORS_EACH];
        errors_terms(job, &sh->query[q], c, mass, variance);
#pragma unroll
        for (uint32_t k = 0; k < ERRORS_EACH; k++) {
            uint64_t x = bin[k] == UINT32_MAX ? 0 : errors_fixed(errors_contribution(&sh->query[q], c, k, mass[k], variance[k]));
            if (x > 0)
                atomicAdd(&sh->sums[(q << job->bits) + bin[k]], x);
        }
    }
}

LWK_DEVICE void errors_keys(const select_job_t *job, select_shared_t *sh)
{
    const select_slice_t own = job->own;
    const votes_digits_t digits = votes_digits(job);
    for (uint32_t chunk = own.first / SELECT_CHUNK + select_warp(); chunk * SELECT_CHUNK < own.end; chunk += SELECT_WARPS) {
        errors_chunk_t c;
        float best[ERRORS_EACH];
        uint32_t bin[ERRORS_EACH];
        errors_open(job, chunk, &c);
#pragma unroll
        for (uint32_t k = 0; k < ERRORS_EACH; k++)
            best[k] = 0;
        for (uint32_t q = 0; q < job->queries; q++) {
            float mass[ERRORS_EACH], variance[ERRORS_EACH];
            errors_terms(job, &sh->query[q], &c, mass, variance);
#pragma unroll
            for (uint32_t k = 0; k < ERRORS_EACH; k++)
                if (c.size[k] > 0)
                    best[k] = fmaxf(best[k], errors_contribution(&sh->query[q], &c, k, mass[k], variance[k]));
        }
#pragma unroll
        for (uint32_t k = 0; k < ERRORS_EACH; k++) {
            bool valid = c.size[k] > 0;
            uint32_t key = valid ? __float_as_uint(best[k] / (float)c.size[k]) + 1 : 0, digit = votes_first_digit(&digits, key);
            if (c.slot + 32 * k < own.end)
                select_keep(&own, sh, c.slot + 32 * k, key, c.size[k]);
            votes_count(&sh->first, digit, c.size[k], valid);
            bin[k] = valid ? digit : UINT32_MAX;
        }
        errors_add_sums(job, sh, &c, bin);
    }
}

SELECT_CALLED void errors_count_level(const select_job_t *job, select_shared_t *sh, cut_level_t level)
{
    const select_slice_t own = job->own;
    for (uint32_t chunk = own.first / SELECT_CHUNK + select_warp(); chunk * SELECT_CHUNK < own.end; chunk += SELECT_WARPS) {
        uint32_t bin[ERRORS_EACH];
        bool any = false;
#pragma unroll
        for (uint32_t k = 0; k < ERRORS_EACH; k++) {
            uint32_t slot = chunk * SELECT_CHUNK + 32 * k + select_lane();
            uint64_t rank = slot < own.end ? select_rank(select_key(&own, sh, slot), slot) : 0;
            bool inside = cut_inside(&level, rank);
            bin[k] = inside ? (uint32_t)((rank - level.low) >> level.shift) : UINT32_MAX;
            votes_count(&sh->level, inside ? bin[k] : 0, inside ? select_size(&own, sh, slot) : 0, inside);
            any = any || inside;
        }
        if (!__any_sync(LWK_WARP_ALL, any))
            continue;
        errors_chunk_t c;
        errors_open(job, chunk, &c);
        errors_add_sums(job, sh, &c, bin);
    }
}

/* Keys, the first histogram and its sums, and what there is in all. The block calls; sh->first and sh->sums are zero. */
SELECT_CALLED void errors_all(select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work)
{
    errors_sum_chunks(job, sh, work);
    select_barrier(job);
    errors_normalise(job, sh, work);
    errors_keys(job, sh);
    cut_share(job, sh, &sh->first, 0, true);
    for (uint32_t q = select_warp(); q < job->queries; q += SELECT_WARPS) {
        uint64_t sum = 0;
        for (uint32_t bin = select_lane(); bin < 1u << job->bits; bin += 32)
            sum += sh->sums[(q << job->bits) + bin];
        for (int step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(LWK_WARP_ALL, sum, step);
        if (select_lane() == 0) {
            sh->rest[q] = sum;
            sh->above[q] = 0;
        }
    }
    __syncthreads();
}

#endif /* LWK_CUDA_ERRORS_CUH */
