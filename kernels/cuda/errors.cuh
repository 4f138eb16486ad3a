/* errors.cuh - LWK_BUDGET_ERROR: what each entry's estimate is expected to cost (ops.h), keys by the largest of it for a token,
 * and the sums that decide when to stop.
 *
 * Two passes over all entries: the masses, whose sum every share needs (added in fp64, so that how many blocks a job has shows
 * in no fp32 share), then keys. Sums by bin are made of those entries only that floor and cap allow, a few in a hundred. Bytes:
 * those of votes.cuh twice, from L2 the second time. Barriers: masses, histogram, sums, one for each further level, items. */
#ifndef LWK_CUDA_ERRORS_CUH
#define LWK_CUDA_ERRORS_CUH

#include "kernels/cuda/cut.cuh"

#define ERRORS_QUERIES 4u /* queries of one pass over the entries */
#define ERRORS_LOG2E 1.44269504f

/* ---- ranges and entries ---- */

/* scale^2 |channel * q|^2 / 24 of a range; the warp calls. */
LWK_DEVICE float errors_noise(const select_job_t *job, const lwk_tile_t *tile, const select_query_t *query)
{
    const lwk_shape_t *shape = &job->step->shape;
    uint32_t channel_at = lwk_tile_layout(tile, shape->head_dim).key_channel;
    if (channel_at == 0)
        return 0;
    const float *channel = (const float *)(const void *)(tile->index + channel_at);
    const float *q = job->step->scratch.query + query->row * shape->head_dim;
    float sum = 0;
#pragma unroll 1
    for (uint32_t j = select_lane(); j < shape->head_dim; j += 32)
        sum += channel[j] * q[j] * (channel[j] * q[j]);
    return votes_warp_sum(sum) * shape->scale * shape->scale / 24;
}

/* As votes_open_ranges, with the noise of every query, unless they are open already. */
LWK_DEVICE uint32_t errors_open_ranges(const select_job_t *job, select_shared_t *sh, uint32_t first)
{
    __syncthreads();
    if (sh->range_count > 0 && sh->range_first == first)
        return first + sh->range_count;
    uint32_t next = votes_open_ranges(job, sh, first, min(SELECT_RANGES, SELECT_NOISES / job->queries));
#pragma unroll 1
    for (uint32_t i = select_warp(); i < sh->range_count * job->queries; i += SELECT_WARPS) {
        float noise = errors_noise(job, sh->range[i / job->queries].tile, &sh->query[i % job->queries]);
        if (select_lane() == 0)
            sh->noise[i] = noise;
    }
    __syncthreads();
    return next;
}

typedef struct errors_entry {
    uint32_t size; /* 0: no entry */
    uint32_t range;
    float spread, scale_squared, log_size;
    bool cluster;
} errors_entry_t;

LWK_DEVICE errors_entry_t errors_entry_at(const select_shared_t *sh, uint32_t slot, uint32_t *range)
{
    votes_entry_t v = votes_entry_at(sh, slot, range);
    const select_range_t *r = &sh->range[*range];
    const uint16_t *scales = v.cluster ? r->cluster_scales : r->outlier_scales;
    float scale = 0;
    if (v.size > 0 && scales != NULL)
        scale = lwk_f16_to_f32(scales[slot - r->base - (v.cluster ? 0 : r->clusters)]);
    return errors_entry_t{v.size, *range, v.spread, scale * scale, v.size > 1 ? logf((float)v.size) : 0, v.cluster};
}

/* What the terms of all entries have in common. */
typedef struct errors_lens {
    float inverse_cap; /* 0: no soft cap */
    bool corrects;
} errors_lens_t;

LWK_DEVICE errors_lens_t errors_lens(const select_job_t *job)
{
    float cap = job->step->shape.soft_cap;
    return errors_lens_t{cap > 0 ? 1 / cap : 0, (job->policy.correct & LWK_CORRECT_VARIANCE) != 0};
}

/* e^(A - reference of the query), and the variance of the logit. */
LWK_DEVICE float errors_weight(const errors_lens_t *lens, const select_query_t *query, const errors_entry_t *entry, float noise,
                               float logit, float *variance_out)
{
    float capped = logit * lens->inverse_cap, slope = 1 - capped * capped;
    float variance = entry->cluster ? votes_variance(entry->spread, query->spread, slope) : 0;
    float mass = entry->log_size + logit - entry->scale_squared * noise * slope * slope;
    if (lens->corrects)
        mass += variance / 2;
    *variance_out = variance;
    return exp2f((mass - query->largest) * ERRORS_LOG2E);
}

/* e^x - 1 for 0 <= x <= LWK_VARIANCE_MAX. */
LWK_DEVICE float errors_expm1(float x)
{
    return x < 0.0625f ? x * (1 + x * (0.5f + x * (1.0f / 6 + x * (1.0f / 24)))) : exp2f(x * ERRORS_LOG2E) - 1;
}

LWK_DEVICE float errors_contribution(const errors_lens_t *lens, const select_query_t *query, const errors_entry_t *entry,
                                     float noise, float logit)
{
    float variance, share = errors_weight(lens, query, entry, noise, logit, &variance) * query->inverse;
    return entry->cluster ? share * share * errors_expm1(variance) / (float)entry->size : share * share;
}

LWK_DEVICE uint64_t errors_fixed(float x)
{
    return __float2ull_rn(x * 0x1p40f);
}

/* ---- masses ---- */

/* Adds the slots' masses of queries first .. first + 3 to sh->mass. The block calls. */
LWK_DEVICE void errors_sum_window(const select_job_t *job, select_shared_t *sh, uint32_t from, uint32_t end, uint32_t first)
{
    const errors_lens_t lens = errors_lens(job);
    const uint32_t queries = job->queries;
    double sum[ERRORS_QUERIES] = {0};
    uint32_t range = from + threadIdx.x < end ? select_open_range_of(sh, from + threadIdx.x) : 0;
#pragma unroll 2
    for (uint32_t slot = from + threadIdx.x; slot < end; slot += SELECT_THREADS) {
        float logit[ERRORS_QUERIES];
#pragma unroll
        for (uint32_t i = 0; i < ERRORS_QUERIES; i++)
            logit[i] = first + i < queries ? sh->query[first + i].logit[slot] : 0;
        errors_entry_t entry = errors_entry_at(sh, slot, &range);
#pragma unroll
        for (uint32_t i = 0; i < ERRORS_QUERIES; i++) {
            float variance;
            if (entry.size > 0 && first + i < queries)
                sum[i] += (double)errors_weight(&lens, &sh->query[first + i], &entry,
                                                sh->noise[entry.range * queries + first + i], logit[i], &variance);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < ERRORS_QUERIES; i++) {
#pragma unroll 1
        for (int step = 16; step > 0; step /= 2)
            sum[i] += __shfl_xor_sync(LWK_WARP_ALL, sum[i], step);
        if (select_lane() == 0)
            sh->part[i][select_warp()] = sum[i];
    }
    __syncthreads();
    if (threadIdx.x < ERRORS_QUERIES && first + threadIdx.x < queries)
#pragma unroll 1
        for (uint32_t w = 0; w < SELECT_WARPS; w++)
            sh->mass[first + threadIdx.x] += sh->part[threadIdx.x][w];
    __syncthreads();
}

/* 1 / (sum of all masses, the steady zone included) of each query. One barrier among the job's blocks. */
LWK_DEVICE void errors_normalise(select_job_t *job, select_shared_t *sh)
{
    const lwk_scratch_t *scratch = &job->step->scratch;
    const uint32_t tiles = (lwk_steady_count(job->session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
    if (job->blocks > 1)
#pragma unroll 1
        for (uint32_t q = threadIdx.x; q < job->queries; q += SELECT_THREADS)
            job->buffers->mass[job->block][q] = sh->mass[q];
    select_barrier(job);
#pragma unroll 1
    for (uint32_t q = select_warp(); q < job->queries; q += SELECT_WARPS) {
        const lwk_partial_t *steady =
            scratch->partial + sh->query[q].row * scratch->partial_capacity + lwk_slot_steady(scratch, 0);
        double sum = 0;
        if (job->blocks == 1)
            sum = select_lane() == 0 ? sh->mass[q] : 0;
        else if (select_lane() < job->blocks)
            sum = __ldcg(&job->buffers->mass[select_lane()][q]);
#pragma unroll 1
        for (uint32_t i = select_lane(); i < tiles; i += 32)
            if (steady[i].z > 0)
                sum += (double)steady[i].z * (double)expf(steady[i].m - sh->query[q].largest);
#pragma unroll 1
        for (int step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(LWK_WARP_ALL, sum, step);
        if (select_lane() == 0)
            sh->query[q].inverse = sum > 0 ? (float)(1 / sum) : 0;
    }
    __syncthreads();
}

/* ---- keys ---- */

/* Leaves the slots' largest contribution so far in their keys, and adds what they contribute to sh->rest. The block calls. */
LWK_DEVICE void errors_rank_window(const select_job_t *job, select_shared_t *sh, uint32_t from, uint32_t end, uint32_t first)
{
    const errors_lens_t lens = errors_lens(job);
    const select_slice_t own = job->own;
    const uint32_t queries = job->queries;
    uint64_t sum[ERRORS_QUERIES] = {0};
    uint32_t range = from + threadIdx.x < end ? select_open_range_of(sh, from + threadIdx.x) : 0;
#pragma unroll 2
    for (uint32_t slot = from + threadIdx.x; slot < end; slot += SELECT_THREADS) {
        float logit[ERRORS_QUERIES], best = first == 0 ? 0 : __uint_as_float(select_key(&own, sh, slot));
#pragma unroll
        for (uint32_t i = 0; i < ERRORS_QUERIES; i++)
            logit[i] = first + i < queries ? sh->query[first + i].logit[slot] : 0;
        errors_entry_t entry = errors_entry_at(sh, slot, &range);
#pragma unroll
        for (uint32_t i = 0; i < ERRORS_QUERIES; i++)
            if (entry.size > 0 && first + i < queries) {
                float x = errors_contribution(&lens, &sh->query[first + i], &entry,
                                              sh->noise[entry.range * queries + first + i], logit[i]);
                sum[i] += errors_fixed(x);
                best = fmaxf(best, x);
            }
        select_keep(&own, sh, slot, __float_as_uint(best), entry.size);
    }
#pragma unroll
    for (uint32_t i = 0; i < ERRORS_QUERIES; i++) {
#pragma unroll 1
        for (int step = 16; step > 0; step /= 2)
            sum[i] += __shfl_xor_sync(LWK_WARP_ALL, sum[i], step);
        if (select_lane() == 0 && first + i < queries)
            atomicAdd(&sh->rest[first + i], sum[i]);
    }
    __syncthreads();
}

/* From largest contributions to keys, and the first histogram. */
LWK_DEVICE void errors_keys(const select_job_t *job, select_shared_t *sh)
{
    const select_slice_t own = job->own;
    const votes_digits_t digits = votes_digits(job);
#pragma unroll 1
    for (uint32_t at = own.first; at < own.end; at += SELECT_THREADS) {
        uint32_t slot = at + threadIdx.x, size = slot < own.end ? select_size(&own, sh, slot) : 0;
        uint32_t key = size > 0 ? __float_as_uint(__uint_as_float(select_key(&own, sh, slot)) / (float)size) + 1 : 0;
        if (slot < own.end)
            select_keep(&own, sh, slot, key, size);
        votes_count(&sh->first, votes_first_digit(&digits, key), size, size > 0);
    }
}

/* ---- sums ---- */

/* Adds what the listed entries contribute to the sums of their bins: a thread for each entry and query. The block calls. */
LWK_DEVICE void errors_add_listed(const select_job_t *job, select_shared_t *sh, cut_level_t level)
{
    const errors_lens_t lens = errors_lens(job);
    const select_slice_t own = job->own;
    const votes_digits_t digits = votes_digits(job);
    const uint32_t queries = job->queries, bits = job->bits, pairs = sh->listed * queries;
#pragma unroll 1
    for (uint32_t p = threadIdx.x; p < pairs; p += SELECT_THREADS) {
        uint32_t slot = sh->eligible[p / queries], q = p % queries, key = select_key(&own, sh, slot);
        uint32_t bin = level.number == 0 ? votes_first_digit(&digits, key)
                                         : (uint32_t)((select_rank(key, slot) - level.low) >> level.shift);
        uint32_t range = select_open_range_of(sh, slot);
        errors_entry_t entry = errors_entry_at(sh, slot, &range);
        float x = errors_contribution(&lens, &sh->query[q], &entry, sh->noise[range * queries + q], sh->query[q].logit[slot]);
        uint64_t fixed = errors_fixed(x);
        if (fixed > 0)
            atomicAdd(&sh->sums[(q << bits) + bin], fixed);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        sh->listed = 0;
    __syncthreads();
}

/* Sums, and behind the first level also the histogram, of the slice's entries whose rank lies in the level's interval. The
 * block calls. */
LWK_CALLED void errors_count_level(const select_job_t *job, select_shared_t *sh, cut_level_t level)
{
    const select_slice_t own = job->own;
    uint32_t from = own.first, next = from < own.end ? select_range_of(job, from) : 0;
    if (threadIdx.x == 0)
        sh->listed = 0;
    while (from < own.end) {
        next = errors_open_ranges(job, sh, next);
        const uint32_t end = votes_window_end(job, next);
#pragma unroll 1
        for (uint32_t at = from; at < end; at += SELECT_THREADS) {
            uint32_t slot = at + threadIdx.x;
            uint64_t rank = slot < end ? select_rank(select_key(&own, sh, slot), slot) : 0;
            bool inside = rank >= SELECT_FIRST_RANK && cut_inside(&level, rank);
            if (level.number > 0)
                votes_count(&sh->level, inside ? (uint32_t)((rank - level.low) >> level.shift) : 0,
                            inside ? select_size(&own, sh, slot) : 0, inside);
            if (inside)
                sh->eligible[atomicAdd(&sh->listed, 1u)] = slot;
            __syncthreads();
            bool full = sh->listed + SELECT_THREADS > SELECT_ELIGIBLE || at + SELECT_THREADS >= end;
            __syncthreads();
            if (full)
                errors_add_listed(job, sh, level);
        }
        from = end;
    }
}

/* Keys, the first histogram, what there is in all, and the sums of all bins that floor and cap can reach. The block calls;
 * sh->first is zero. */
LWK_CALLED void errors_all(select_job_t *job, select_shared_t *sh, const cut_limit_t limit)
{
#pragma unroll 1
    for (uint32_t q = threadIdx.x; q < job->queries; q += SELECT_THREADS) {
        sh->mass[q] = 0;
        sh->rest[q] = sh->above[q] = 0;
    }
#pragma unroll 1
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint32_t from = job->own.first, next = from < job->own.end ? select_range_of(job, from) : 0;
        while (from < job->own.end) {
            next = errors_open_ranges(job, sh, next);
            const uint32_t end = votes_window_end(job, next);
#pragma unroll 1
            for (uint32_t first = 0; first < job->queries; first += ERRORS_QUERIES)
                if (pass == 0)
                    errors_sum_window(job, sh, from, end, first);
                else
                    errors_rank_window(job, sh, from, end, first);
            from = end;
        }
        __syncthreads();
        if (pass == 0)
            errors_normalise(job, sh);
    }
    errors_keys(job, sh);
    if (job->blocks > 1)
#pragma unroll 1
        for (uint32_t q = threadIdx.x; q < job->queries; q += SELECT_THREADS)
            atomicAdd(&job->buffers->rest[q], sh->rest[q]);
    cut_share(job, sh, &sh->first, 0, false);
    if (job->blocks > 1)
#pragma unroll 1
        for (uint32_t q = threadIdx.x; q < job->queries; q += SELECT_THREADS)
            sh->rest[q] = __ldcg(&job->buffers->rest[q]);
    cut_limit_t reach = limit;
    reach.target = 0;
    const cut_t nothing = {SELECT_NO_RANK, 0, 0, false, true};
    cut_find_edge(job, sh, &sh->first, &reach, 0, 0, &nothing);
    cut_level_t level = {0, 0, 0, 0};
    cut_narrow(job, &level, sh->edge.bin > 0 ? sh->edge.bin - 1 : 0);
    level.last = UINT64_MAX; /* that bin and all above it */
    level.number = 0;
    cut_zero(job, sh, &sh->level, true);
    errors_count_level(job, sh, level);
    cut_share_sums(job, sh);
}

#endif /* LWK_CUDA_ERRORS_CUH */
