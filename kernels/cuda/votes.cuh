/* votes.cuh - the first half of select: keys of all entries, and the histogram of their first digits.
 *
 * Bytes: 4 for each logit once, 2 to 4 for each entry's size and spread, 6 for each entry that does not fit shared memory. At
 * 128K tokens in 16-token clusters, 8 heads, group 4: 1.1 MB, from L2; at 1M with 12.5% outliers 25 MB: 8 us of HBM. */
#ifndef LWK_CUDA_VOTES_CUH
#define LWK_CUDA_VOTES_CUH

#include "kernels/cuda/select.cuh"

/* ---- queries and ranges ---- */

LWK_DEVICE float votes_warp_max(float x)
{
#pragma unroll 1
    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(LWK_WARP_ALL, x, step));
    return x;
}
LWK_DEVICE float votes_warp_sum(float x)
{
#pragma unroll 1
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(LWK_WARP_ALL, x, step);
    return x;
}

#define VOTES_LOG2E 1.44269504f

/* Rows, spreads, and the normalisers of the votes from the tile sums: one warp for each query, parts in the same order
 * whatever the batch, four of a lane under way together. The block calls; a barrier must follow. */
LWK_DEVICE void votes_open_queries(const select_job_t *job, select_shared_t *sh)
{
    const lwk_step_t *step = job->step;
    const lwk_scratch_t *scratch = &step->scratch;
    const uint32_t group = step->shape.group, lane = select_lane();
    const uint32_t slots = job->range_count * lwk_parts(job->range_count, step->shape.kv_head_count);
#pragma unroll 1
    for (uint32_t q = select_warp(); q < job->queries; q += SELECT_WARPS) {
        size_t row = lwk_query_row(step, job->s, q / group, job->head * group + q % group);
        const float *tile_max = scratch->tile_max + row * scratch->part_capacity;
        const float *tile_sum = scratch->tile_sum + row * scratch->part_capacity;
        const float spread = scratch->spread[row];
        float largest = -INFINITY, sum = 0;
#pragma unroll 1
        for (uint32_t base = lane; base < slots; base += 128) {
            float m[4], x[4];
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                bool some = base + 32 * k < slots;
                m[k] = some ? tile_max[base + 32 * k] : -INFINITY;
                x[k] = some ? tile_sum[base + 32 * k] : 0;
            }
#pragma unroll
            for (uint32_t k = 0; k < 4; k++)
                if (x[k] > 0) {
                    float most = fmaxf(largest, m[k]);
                    sum = sum * lwk_exp2((largest - most) * VOTES_LOG2E) + x[k] * lwk_exp2((m[k] - most) * VOTES_LOG2E);
                    largest = most;
                }
        }
        float all = votes_warp_max(largest);
        sum = votes_warp_sum(sum > 0 ? sum * lwk_exp2((largest - all) * VOTES_LOG2E) : 0);
        if (lane == 0) {
            select_query_t *query = &sh->query[q];
            query->row = row;
            query->logit = scratch->logit + row * scratch->entry_capacity;
            query->largest = sum > 0 ? all : 0;
            query->inverse = sum > 0 ? 1 / sum : 0;
            query->spread = spread;
        }
    }
}

/* Opens ranges `first`.. of the session, as many as have room; returns the first one that is not open. The block calls;
 * barriers before and after are its own. */
LWK_CALLED uint32_t votes_open_ranges(const select_job_t *job, select_shared_t *sh, uint32_t first, uint32_t room)
{
    const lwk_step_t *step = job->step;
    const lwk_store_t *store = step->store;
    const uint32_t count = min(job->range_count - first, room);
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += SELECT_THREADS) {
        lwk_range_ref_t ref = job->session->ranges[first + i];
        const lwk_tile_t *tile = &store->tiles[lwk_tile_number(&step->shape, ref.row, step->layer, job->head)];
        lwk_index_layout_t at = lwk_tile_layout(tile, step->shape.head_dim);
        select_range_t r;
        r.tile = tile;
        r.place = tile->place;
        r.stamp = tile->stamp;
        r.sizes = tile->sizes;
        r.spreads = (const uint16_t *)(const void *)(tile->index + at.cluster_spreads);
        r.cluster_scales = at.cluster_key_scales == 0 ? NULL : (const uint16_t *)(const void *)(tile->index + at.cluster_key_scales);
        r.outlier_scales = at.outlier_key_scales == 0 ? NULL : (const uint16_t *)(const void *)(tile->index + at.outlier_key_scales);
        r.base = ref.entry_base;
        r.clusters = tile->cluster_count;
        r.entries = (uint16_t)lwk_tile_entries(tile);
        sh->range[i] = r; /* all loads before the first store */
    }
    if (threadIdx.x == 0) {
        sh->range_first = first;
        sh->range_count = count;
    }
    __syncthreads();
    return first + count;
}

/* Slots of this block that lie in the open ranges, up to range `next`. */
LWK_DEVICE uint32_t votes_window_end(const select_job_t *job, uint32_t next)
{
    return next < job->range_count ? min(job->own.end, job->session->ranges[next].entry_base) : job->own.end;
}

/* ---- one entry ---- */

typedef struct votes_entry {
    uint32_t size; /* 0: no entry */
    float spread;  /* 0 for an outlier */
    bool cluster;
} votes_entry_t;

/* `range` (of the open ones) moves on to where the slot lies. */
LWK_DEVICE votes_entry_t votes_entry_at(const select_shared_t *sh, uint32_t slot, uint32_t *range)
{
    while (*range + 1 < sh->range_count && sh->range[*range + 1].base <= slot)
        ++*range;
    const select_range_t *r = &sh->range[*range];
    uint32_t entry = slot - r->base;
    votes_entry_t e = {0, 0, entry < r->clusters};
    if (e.cluster) {
        e.size = r->sizes[entry];
        e.spread = lwk_bf16_to_f32(r->spreads[entry]);
    } else if (entry < r->entries) {
        e.size = 1;
    }
    return e;
}

/* ops.h: variance = min(spread, LWK_VARIANCE_MAX / spread of the query) * spread of the query * slope^2. */
LWK_DEVICE float votes_variance(float entry_spread, float query_spread, float slope)
{
    return fminf(entry_spread * query_spread, LWK_VARIANCE_MAX) * slope * slope;
}

/* ---- digits ---- */

typedef struct votes_digits {
    uint32_t shift, base, last;
} votes_digits_t;

LWK_DEVICE votes_digits_t votes_digits(const select_job_t *job)
{
    return votes_digits_t{job->key_shift, job->key_base, (1u << job->bits) - 1};
}

LWK_DEVICE uint32_t votes_first_digit(const votes_digits_t *digits, uint32_t key)
{
    uint32_t digit = key >> digits->shift;
    return digit <= digits->base ? 0 : min(digit - digits->base, digits->last);
}

/* Adds an entry of each lane whose `valid` is set. Lanes that agree with the first one are added at once: when all votes are
 * alike, every lane of every warp wants the same bin. The whole warp calls. */
LWK_DEVICE void votes_count(lwk_select_hist_t *hist, uint32_t bin, uint32_t size, bool valid)
{
    uint32_t lanes = __ballot_sync(LWK_WARP_ALL, valid);
    if (lanes == 0)
        return;
    uint32_t leader = __ffs((int)lanes) - 1, common = __shfl_sync(LWK_WARP_ALL, bin, (int)leader);
    bool same = valid && bin == common;
    uint32_t alike = __ballot_sync(LWK_WARP_ALL, same), tokens = __reduce_add_sync(LWK_WARP_ALL, same ? size : 0u);
    if (select_lane() == leader) {
        atomicAdd(&hist->entries[common], (uint32_t)__popc(alike));
        atomicAdd(&hist->tokens[common], tokens);
    } else if (valid && !same) {
        atomicAdd(&hist->entries[bin], 1u);
        atomicAdd(&hist->tokens[bin], size);
    }
}

/* ---- votes ---- */

#define VOTES_AT_ONCE 4 /* entries of a thread whose loads are under way together, four queries each */

/* inverse_cap: 0 without a soft cap. */
LWK_DEVICE float votes_one(const select_query_t *query, float logit, float spread, float reach, float inverse_cap)
{
    float capped = logit * inverse_cap;
    float square = votes_variance(spread, query->spread, 1 - capped * capped) * reach;
    float rank = fmaf(square, lwk_rsqrt(fmaxf(square, 1e-30f)), logit);
    return lwk_exp2((rank - query->largest) * VOTES_LOG2E) * query->inverse;
}

/* Keys and first digits of the slots of the open ranges. The block calls. */
LWK_DEVICE void votes_window(const select_job_t *job, select_shared_t *sh, uint32_t from, uint32_t end)
{
    const lwk_policy_t *policy = &job->policy;
    const select_slice_t own = job->own;
    const votes_digits_t digits = votes_digits(job);
    const uint32_t queries = job->queries;
    const float inverse_cap = job->step->shape.soft_cap > 0 ? 1 / job->step->shape.soft_cap : 0;
    const float z = policy->rank == LWK_RANK_EXPECTED_MAX ? policy->z : 0, squared = z > 0 ? 2 * z * z * 0.69314718f : 0;
    uint32_t range = from + threadIdx.x < end ? select_open_range_of(sh, from + threadIdx.x) : 0;
#pragma unroll 1
    for (uint32_t at = from; at < end; at += VOTES_AT_ONCE * SELECT_THREADS) {
        votes_entry_t entry[VOTES_AT_ONCE];
        uint32_t slot[VOTES_AT_ONCE];
        float vote[VOTES_AT_ONCE], reach[VOTES_AT_ONCE];
#pragma unroll
        for (int k = 0; k < VOTES_AT_ONCE; k++) {
            slot[k] = at + k * SELECT_THREADS + threadIdx.x;
            entry[k] = slot[k] < end ? votes_entry_at(sh, slot[k], &range) : votes_entry_t{0, 0, false};
            vote[k] = 0;
            /* z sqrt(variance 2 ln s) = sqrt(variance * reach) */
            reach[k] = squared * lwk_log2((float)max(entry[k].size, 1u));
        }
#pragma unroll 1
        for (uint32_t q = 0; q < queries; q += 4) {
            float logit[4][VOTES_AT_ONCE];
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
#pragma unroll
                for (int k = 0; k < VOTES_AT_ONCE; k++)
                    logit[i][k] = q + i < queries && slot[k] < end ? sh->query[q + i].logit[slot[k]] : 0;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
#pragma unroll
                for (int k = 0; k < VOTES_AT_ONCE; k++)
                    if (q + i < queries && entry[k].size > 0)
                        vote[k] += votes_one(&sh->query[q + i], logit[i][k], entry[k].spread, reach[k], inverse_cap);
        }
#pragma unroll
        for (int k = 0; k < VOTES_AT_ONCE; k++) {
            bool valid = entry[k].size > 0;
            uint32_t key = valid ? __float_as_uint(vote[k]) + 1 : 0;
            if (slot[k] < end)
                select_keep(&own, sh, slot[k], key, entry[k].size);
            votes_count(&sh->first, votes_first_digit(&digits, key), entry[k].size, valid);
        }
    }
}

/* Keys of all entries of the slice, and the block's part of the first histogram (which must be zero). */
LWK_DEVICE void votes_all(const select_job_t *job, select_shared_t *sh)
{
    const uint32_t last = job->own.end;
    uint32_t from = job->own.first, next = sh->range_first + sh->range_count; /* the first ones are open */
    __syncthreads();
    while (from < last) {
        if (from > job->own.first)
            next = votes_open_ranges(job, sh, next, SELECT_RANGES);
        uint32_t end = votes_window_end(job, next);
        votes_window(job, sh, from, end);
        from = end;
    }
}

#endif /* LWK_CUDA_VOTES_CUH */
