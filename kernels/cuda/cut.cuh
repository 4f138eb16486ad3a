/* cut.cuh - where a budget is filled: a descent over the digits of ranks, by histograms of entries and tokens (integers, so that
 * the order of additions does not matter). Every level narrows the interval of ranks in which the cut lies to one bin, until the
 * bin holds one entry. As soon as a bin holds few entries, all blocks of the job gather them and go on alone: a cut costs two
 * barriers then, the one behind the first histogram and the one before gathering. */
#ifndef LWK_CUDA_CUT_CUH
#define LWK_CUDA_CUT_CUH

#include "kernels/cuda/votes.cuh"

/* An entry is taken while this holds for what was taken before it; once it is false it stays so. */
typedef struct cut_limit {
    uint64_t most, least; /* entries: never more; always so many, whatever the tokens */
    uint64_t tokens_ppm;  /* tokens * 1e6 below this; UINT64_MAX: no such limit */
    uint64_t target;      /* error budget: some query's rest is at least this; 0: no error budget */
} cut_limit_t;

/* Entries of rank `from` and above are taken. */
typedef struct cut {
    uint64_t from;
    uint32_t entries, tokens;
    bool gathered;  /* sh->before and sh->above_count say how many taken entries lie in slices before this block's */
    bool not_small; /* error budget: the rest is still too large */
} cut_t;

/* An interval of ranks and its digits. */
typedef struct cut_level {
    uint64_t low, last;
    uint32_t shift, number;
} cut_level_t;

LWK_DEVICE bool cut_wants_more(const cut_limit_t *limit, uint64_t entries, uint64_t tokens, bool not_small)
{
    return entries < limit->most &&
           (entries < limit->least || (tokens * 1000000 < limit->tokens_ppm && not_small));
}

LWK_DEVICE void cut_narrow(const select_job_t *job, cut_level_t *level, uint32_t bin)
{
    if (level->number == 0) {
        uint32_t bins = 1u << job->bits, shift = job->key_shift + 32;
        level->low = bin == 0 ? SELECT_FIRST_RANK : (uint64_t)(job->key_base + bin) << shift;
        level->last = bin + 1 == bins ? UINT64_MAX : ((uint64_t)(job->key_base + bin + 1) << shift) - 1;
    } else {
        uint64_t low = level->low + ((uint64_t)bin << level->shift), size = 1ull << level->shift;
        level->last = level->last - low < size ? level->last : low + (size - 1);
        level->low = low;
    }
    uint32_t wide = 64 - __clzll((long long)(level->last - level->low));
    level->shift = wide > job->bits ? wide - job->bits : 0;
    level->number++;
}

LWK_DEVICE bool cut_inside(const cut_level_t *level, uint64_t rank)
{
    return rank >= level->low && rank <= level->last;
}

LWK_CALLED void cut_zero(const select_job_t *job, select_shared_t *sh, lwk_select_hist_t *hist, bool sums)
{
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SELECT_BINS; i += SELECT_THREADS)
        hist->entries[i] = hist->tokens[i] = 0;
    if (sums)
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < SELECT_SUMS; i += SELECT_THREADS)
            sh->sums[i] = 0;
    __syncthreads();
}

/* Adds this block's histogram of level `number` to the job's, and brings back the whole: one barrier. */
LWK_CALLED void cut_share(select_job_t *job, select_shared_t *sh, lwk_select_hist_t *mine, uint32_t number, bool sums)
{
    __syncthreads();
    if (job->blocks == 1)
        return;
    uint32_t turn = number == 0 ? 0 : 1 + (number - 1) % 3;
    lwk_select_hist_t *all = turn == 0 ? &job->state->first : &job->buffers->hist[turn - 1];
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SELECT_BINS; i += SELECT_THREADS)
        if (mine->entries[i] > 0) {
            atomicAdd(&all->entries[i], mine->entries[i]);
            atomicAdd(&all->tokens[i], mine->tokens[i]);
        }
    if (sums)
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < SELECT_SUMS; i += SELECT_THREADS)
            if (sh->sums[i] > 0)
                atomicAdd(&job->buffers->sums[turn][i], sh->sums[i]);
    select_barrier(job);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SELECT_BINS / 4; i += SELECT_THREADS) {
        uint4 entries = __ldcg((const uint4 *)all->entries + i), tokens = __ldcg((const uint4 *)all->tokens + i);
        ((uint4 *)mine->entries)[i] = entries;
        ((uint4 *)mine->tokens)[i] = tokens;
    }
    if (sums)
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < SELECT_SUMS; i += SELECT_THREADS)
            sh->sums[i] = __ldcg(&job->buffers->sums[turn][i]);
    if (threadIdx.x == 0)
        job->stale = (int)turn;
    __syncthreads();
}

/* The same for the sums of the first level alone. */
LWK_DEVICE void cut_share_sums(select_job_t *job, select_shared_t *sh)
{
    __syncthreads();
    if (job->blocks == 1)
        return;
    uint64_t *all = job->buffers->sums[0];
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SELECT_SUMS; i += SELECT_THREADS)
        if (sh->sums[i] > 0)
            atomicAdd(&all[i], sh->sums[i]);
    select_barrier(job);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < SELECT_SUMS; i += SELECT_THREADS)
        sh->sums[i] = __ldcg(&all[i]);
    __syncthreads();
}

/* ---- one level ---- */

/* Entries of the job: the sum of the first histogram. The same in all threads. */
LWK_DEVICE uint32_t cut_count_all(const select_job_t *job, select_shared_t *sh)
{
    uint32_t mine = 0, total;
#pragma unroll 1
    for (uint32_t bin = threadIdx.x; bin < 1u << job->bits; bin += SELECT_THREADS)
        mine += sh->first.entries[bin];
    (void)select_scan<uint32_t>(sh, mine, &total);
    return total;
}

/* Error budget: for each of the thread's bins, whether some query's rest is too large when all bins down to it are taken. */
LWK_DEVICE uint32_t cut_not_small(const select_job_t *job, select_shared_t *sh, uint64_t target, uint32_t each)
{
    const uint32_t bins = 1u << job->bits;
    uint32_t large = 0;
#pragma unroll 1
    for (uint32_t q = 0; q < job->queries; q++) {
        uint64_t mine = 0, total;
#pragma unroll 1
        for (uint32_t k = 0; k < each; k++)
            if (threadIdx.x * each + k < bins)
                mine += sh->sums[q * bins + bins - 1 - (threadIdx.x * each + k)];
        uint64_t taken = sh->above[q] + select_scan<uint64_t>(sh, mine, &total);
#pragma unroll 1
        for (uint32_t k = 0; k < each; k++)
            if (threadIdx.x * each + k < bins) {
                taken += sh->sums[q * bins + bins - 1 - (threadIdx.x * each + k)];
                uint64_t left = sh->rest[q] > taken ? sh->rest[q] - taken : 0;
                large |= (left >= target ? 1u : 0u) << k;
            }
    }
    return large;
}

/* Leaves in sh->edge the bin in which the limit is reached: the first one, from the top, that cannot be taken whole and leave
 * the limit unreached. entries, tokens: above this level's interval; the first skip_entries and skip_tokens of all do not count
 * against the limit. The block calls. */
LWK_DEVICE void cut_find_edge(const select_job_t *job, select_shared_t *sh, const lwk_select_hist_t *hist,
                              const cut_limit_t *limit, uint32_t entries, uint32_t tokens, const cut_t *skip)
{
    const uint32_t bins = 1u << job->bits, each = max(bins / SELECT_THREADS, 1u);
    uint32_t large = limit->target > 0 ? cut_not_small(job, sh, limit->target, each) : UINT32_MAX;
    uint64_t mine = 0, total;
#pragma unroll 1
    for (uint32_t k = 0; k < each; k++)
        if (threadIdx.x * each + k < bins) {
            uint32_t bin = bins - 1 - (threadIdx.x * each + k);
            mine += (uint64_t)hist->entries[bin] << 32 | hist->tokens[bin];
        }
    if (threadIdx.x == 0)
        sh->edge.bin = 0;
    uint64_t before = select_scan<uint64_t>(sh, mine, &total);
    select_edge_t edge = {};
#pragma unroll 1
    for (uint32_t k = 0; k < each && threadIdx.x * each + k < bins && edge.bin == 0; k++) {
        uint32_t bin = bins - 1 - (threadIdx.x * each + k), count = hist->entries[bin];
        uint32_t e = entries + (uint32_t)(before >> 32), t = tokens + (uint32_t)before;
        bool more = e + count <= skip->entries ||
                    cut_wants_more(limit, e + count - skip->entries, t + hist->tokens[bin] - skip->tokens,
                                   (large >> k & 1u) != 0);
        if (count > 0 && !more)
            edge = {bin + 1, count, hist->tokens[bin], e, t, large >> k & 1u};
        before += (uint64_t)count << 32 | hist->tokens[bin];
    }
    if (edge.bin > 0)
        atomicMax(&sh->edge.bin, edge.bin);
    __syncthreads();
    uint32_t found = sh->edge.bin;
    __syncthreads();
    if (edge.bin > 0 && edge.bin == found)
        sh->edge = edge;
    if (threadIdx.x == 0) {
        sh->total_entries = (uint32_t)(total >> 32);
        sh->total_tokens = (uint32_t)total;
    }
    __syncthreads();
}

/* Error budget: moves the sums of all bins above the edge to what is taken. The block calls. */
LWK_DEVICE void cut_take_above(const select_job_t *job, select_shared_t *sh, uint32_t edge)
{
    const uint32_t bins = 1u << job->bits;
#pragma unroll 1
    for (uint32_t q = select_warp(); q < job->queries; q += SELECT_WARPS) {
        uint64_t sum = 0;
#pragma unroll 1
        for (uint32_t bin = edge + 1 + select_lane(); bin < bins; bin += 32)
            sum += sh->sums[q * bins + bin];
#pragma unroll 1
        for (int step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(LWK_WARP_ALL, sum, step);
        if (select_lane() == 0)
            sh->above[q] += sum;
    }
    __syncthreads();
}

/* ---- gathering ---- */

LWK_DEVICE void cut_gather_mine(const select_job_t *job, select_shared_t *sh, const cut_level_t *level)
{
    const select_slice_t own = job->own;
    if (threadIdx.x == 0)
        sh->candidates = sh->above_count = 0;
    __syncthreads();
#pragma unroll 1
    for (uint32_t at = own.first; at < own.end; at += SELECT_THREADS) {
        uint32_t slot = at + threadIdx.x;
        uint64_t rank = slot < own.end ? select_rank(select_key(&own, sh, slot), slot) : 0;
        uint32_t above = __ballot_sync(LWK_WARP_ALL, rank > level->last);
        if (cut_inside(level, rank)) {
            uint32_t to = atomicAdd(&sh->candidates, 1u);
            sh->candidate.rank[to] = rank;
            sh->candidate.size[to] = (uint16_t)select_size(&own, sh, slot);
        }
        if (select_lane() == 0 && above > 0)
            atomicAdd(&sh->above_count, (uint32_t)__popc(above));
    }
    __syncthreads();
}

/* All entries of the interval, of all blocks, into shared memory; sh->before: entries beyond the interval in slices before
 * this one. One barrier. turn: 0 or 1, so that nobody writes what another block still reads. */
LWK_DEVICE void cut_gather(select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work, const cut_level_t *level,
                           uint32_t turn)
{
    cut_gather_mine(job, sh, level);
    if (job->blocks == 1) {
        if (threadIdx.x == 0)
            sh->before = 0;
        __syncthreads();
        return;
    }
    const uint32_t first_block = blockIdx.x - job->block;
    uint64_t *ranks = work->candidate_rank + (size_t)turn * LWK_SELECT_BLOCKS_MAX * LWK_SELECT_CANDIDATES_MAX;
    uint16_t *sizes = work->candidate_size + (size_t)turn * LWK_SELECT_BLOCKS_MAX * LWK_SELECT_CANDIDATES_MAX;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < sh->candidates; i += SELECT_THREADS) {
        ranks[(size_t)blockIdx.x * LWK_SELECT_CANDIDATES_MAX + i] = sh->candidate.rank[i];
        sizes[(size_t)blockIdx.x * LWK_SELECT_CANDIDATES_MAX + i] = sh->candidate.size[i];
    }
    if (threadIdx.x == 0) {
        job->buffers->candidates[turn][job->block] = sh->candidates;
        job->buffers->above[turn][job->block] = sh->above_count;
    }
    select_barrier(job);
    if (select_warp() == 0) {
        uint32_t lane = select_lane(), count = lane < job->blocks ? __ldcg(&job->buffers->candidates[turn][lane]) : 0;
        uint32_t above = lane < job->block ? __ldcg(&job->buffers->above[turn][lane]) : 0;
        above = __reduce_add_sync(LWK_WARP_ALL, above);
        uint32_t inclusive = count;
#pragma unroll 1
        for (uint32_t step = 1; step < 32; step *= 2) {
            uint32_t x = __shfl_up_sync(LWK_WARP_ALL, inclusive, step);
            if (lane >= step)
                inclusive += x;
        }
        sh->offset[lane + 1] = inclusive;
        if (lane == 0) {
            sh->offset[0] = 0;
            sh->before = above;
        }
        if (lane == 31)
            sh->candidates = inclusive;
    }
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < sh->candidates; i += SELECT_THREADS) {
        uint32_t low = 0, high = job->blocks;
        while (high - low > 1) {
            uint32_t middle = (low + high) / 2;
            if (sh->offset[middle] <= i)
                low = middle;
            else
                high = middle;
        }
        size_t from = (size_t)(first_block + low) * LWK_SELECT_CANDIDATES_MAX + (i - sh->offset[low]);
        sh->candidate.rank[i] = __ldcg(&ranks[from]);
        sh->candidate.size[i] = __ldcg(&sizes[from]);
    }
    __syncthreads();
}

/* ---- the descent ---- */

/* Error budget: what an entry contributes, errors.cuh. */
LWK_CALLED void errors_count_level(const select_job_t *job, select_shared_t *sh, cut_level_t level);

LWK_DEVICE void cut_count_candidates(select_shared_t *sh, const cut_level_t *level)
{
    const uint32_t count = sh->candidates;
#pragma unroll 1
    for (uint32_t at = 0; at < count; at += SELECT_THREADS) {
        uint32_t i = at + threadIdx.x;
        uint64_t rank = i < count ? sh->candidate.rank[i] : 0;
        bool inside = i < count && cut_inside(level, rank);
        votes_count(&sh->level, inside ? (uint32_t)((rank - level->low) >> level->shift) : 0,
                    inside ? sh->candidate.size[i] : 0u, inside);
    }
}

LWK_DEVICE void cut_count_slice(const select_job_t *job, select_shared_t *sh, const cut_level_t *level)
{
    const select_slice_t own = job->own;
#pragma unroll 1
    for (uint32_t at = own.first; at < own.end; at += SELECT_THREADS) {
        uint32_t slot = at + threadIdx.x;
        uint64_t rank = slot < own.end ? select_rank(select_key(&own, sh, slot), slot) : 0;
        bool inside = cut_inside(level, rank);
        votes_count(&sh->level, inside ? (uint32_t)((rank - level->low) >> level->shift) : 0,
                    inside ? select_size(&own, sh, slot) : 0, inside);
    }
}

/* Entries that are taken and lie in slices before this one, of those gathered. The block calls. */
LWK_DEVICE void cut_count_before(const select_job_t *job, select_shared_t *sh, uint64_t from)
{
    if (job->blocks == 1)
        return;
    const uint32_t first = job->own.first;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < sh->candidates; i += SELECT_THREADS)
        if (sh->candidate.rank[i] >= from && ~(uint32_t)sh->candidate.rank[i] < first)
            atomicAdd(&sh->before, 1u);
    __syncthreads();
}

/* Whether an entry before which so much is taken is taken, too. */
LWK_DEVICE bool cut_takes(const cut_limit_t *limit, const cut_t *skip, uint32_t entries, uint32_t tokens)
{
    return entries < skip->entries || cut_wants_more(limit, entries - skip->entries, tokens - skip->tokens, true);
}

/* The cut among few candidates, so much being taken above them: everyone knows what is before it. The block calls. */
LWK_DEVICE cut_t cut_settle(select_shared_t *sh, const cut_limit_t *limit, const cut_t *skip, uint32_t entries, uint32_t tokens)
{
    const uint32_t count = sh->candidates, i = threadIdx.x / 4;
    const uint64_t rank = i < count ? sh->candidate.rank[i] : 0;
    uint32_t before = 0, weight = 0;
    if (i < count)
#pragma unroll 4
        for (uint32_t k = threadIdx.x % 4; k < count; k += 4)
            if (sh->candidate.rank[k] > rank) {
                before++;
                weight += sh->candidate.size[k];
            }
#pragma unroll 1
    for (int with = 1; with <= 2; with *= 2) {
        before += __shfl_xor_sync(LWK_WARP_ALL, before, with);
        weight += __shfl_xor_sync(LWK_WARP_ALL, weight, with);
    }
    if (i < count && threadIdx.x % 4 == 0) {
        uint32_t n = entries + before, t = tokens + weight, size = sh->candidate.size[i];
        if (cut_takes(limit, skip, n, t) && !cut_takes(limit, skip, n + 1, t + size)) {
            sh->settled.rank = rank;
            sh->settled.entries = n + 1;
            sh->settled.tokens = t + size;
        }
    }
    __syncthreads();
    return cut_t{sh->settled.rank, sh->settled.entries, sh->settled.tokens, true, true};
}

/* The cut of a limit, `skip` being taken before anything counts. sh->first holds the first histogram (and sh->sums its sums).
 * The same in all threads of all blocks. */
LWK_DEVICE cut_t cut_find(select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work, const cut_limit_t *limit,
                          const cut_t *skip, uint32_t turn)
{
    const bool by_error = limit->target > 0;
    __syncthreads(); /* all threads have read what the cut before this one left */
    cut_t cut = {skip->from, skip->entries, skip->tokens, false, true};
    bool not_small = true;
    if (by_error) {
        not_small = false;
#pragma unroll 1
        for (uint32_t q = 0; q < job->queries; q++)
            not_small = not_small || sh->rest[q] >= limit->target;
    }
    if (!cut_wants_more(limit, 0, 0, not_small)) {
        cut.not_small = not_small;
        return cut;
    }
    cut_level_t level = {0, 0, 0, 0};
    uint32_t entries = 0, tokens = 0;
    bool gathered = false;
#pragma unroll 1
    for (;;) {
        cut_find_edge(job, sh, level.number == 0 ? &sh->first : &sh->level, limit, entries, tokens, skip);
        const select_edge_t edge = sh->edge;
        if (edge.bin == 0) /* on the first level only: all are taken */
            return cut_t{SELECT_FIRST_RANK, sh->total_entries, sh->total_tokens, false, true};
        cut_narrow(job, &level, edge.bin - 1);
        entries = edge.entries_above;
        tokens = edge.tokens_above;
        if (by_error)
            cut_take_above(job, sh, edge.bin - 1);
        if (edge.entries == 1) {
            cut = {level.low, entries + 1, tokens + edge.tokens, gathered, edge.not_small != 0};
            break;
        }
        if (!gathered && !by_error && edge.entries <= SELECT_CANDIDATES) {
            cut_gather(job, sh, work, &level, turn);
            gathered = true;
            if (sh->candidates <= SELECT_SETTLE) {
                cut = cut_settle(sh, limit, skip, entries, tokens);
                break;
            }
        }
        cut_zero(job, sh, &sh->level, by_error);
        if (gathered) {
            cut_count_candidates(sh, &level);
            __syncthreads();
            continue;
        }
        if (by_error)
            errors_count_level(job, sh, level);
        else
            cut_count_slice(job, sh, &level);
        cut_share(job, sh, &sh->level, level.number, by_error);
    }
    if (gathered)
        cut_count_before(job, sh, cut.from);
    return cut;
}

#endif /* LWK_CUDA_CUT_CUH */
