/* select.cuh - what the parts of the select kernel share: its sizes, its shared memory, its workspace, a prefix sum over a block,
 * and the barrier among the blocks that work on one (session, KV head).
 *
 * Such a pair is a *job*. A job's entry slots are cut into one slice for each of its blocks; a slice begins at a multiple of
 * SELECT_CHUNK slots. Entries are ordered by one 64-bit number, their rank: key << 32 | ~slot, the key being the bits of the
 * vote plus 1 (0: not an entry). Ranks differ, so every cut through the order is a rank, and equal votes go by slot for free. */
#ifndef LWK_CUDA_SELECT_CUH
#define LWK_CUDA_SELECT_CUH

#include "kernels/cuda/lang.cuh"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/select_work.h"

/* On a GPU as large as shared memory allows; emulated so small that small inputs take every path. */
#if defined(__CUDACC__)
#define SELECT_THREADS 512u    /* so that they have registers for all they need: a stack would live in L2 */
#define SELECT_LOCAL 16384u    /* entries of a slice that are kept in shared memory; the rest: workspace */
#define SELECT_SLICE_MIN 1024u /* a job gets another block for each so many slots */
#define SELECT_CHUNK 256u      /* slices are multiples of it */
#define SELECT_LIST 4096u      /* retrieved entries looked up at a time */
#define SELECT_RANGES 256u     /* ranges open at a time */
#define SELECT_ELIGIBLE 4096u  /* entries whose errors are summed together: at least a thread's each twice */
#define SELECT_CANDIDATES LWK_SELECT_CANDIDATES_MAX /* entries around a cut that each block finishes alone */
#define SELECT_SETTLE 128u     /* so few of them are compared with each other, by four threads each */
#else
#define SELECT_THREADS 128u
#define SELECT_LOCAL 24u
#define SELECT_SLICE_MIN 16u
#define SELECT_CHUNK 8u
#define SELECT_LIST 24u
#define SELECT_RANGES 4u
#define SELECT_ELIGIBLE 256u
#define SELECT_CANDIDATES 24u
#define SELECT_SETTLE 8u
#endif
#define SELECT_WARPS (SELECT_THREADS / 32)
/* A launch runs through its code once, and fetching that costs more than running it: what is used in several places is
 * LWK_CALLED. */
#define SELECT_BIN_BITS 11u
#define SELECT_BINS (1u << SELECT_BIN_BITS)
#define SELECT_SUMS LWK_SELECT_SUMS /* 64-bit sums of one histogram: bins * queries */
#define SELECT_NOISES 2048u    /* ranges open at a time * queries, where the noise of keys counts */
#define SELECT_QUERIES_MAX (LW_QUERY_TOKENS_MAX * LW_GROUP_MAX)
#define SELECT_NO_RANK UINT64_MAX
#define SELECT_FIRST_RANK (1ull << 32) /* every entry's rank is at least this */

/* What does not change from entry to entry for one (query token, query head). */
typedef struct select_query {
    const float *logit;     /* [entry_capacity] */
    float largest, inverse; /* of R or of A; 1 / sum of e^(x - largest), 0 where there is no weight */
    float spread;
    size_t row;
} select_query_t;

/* An open range. */
typedef struct select_range {
    const lwk_tile_t *tile;
    uint32_t *place, *stamp;
    const uint16_t *sizes, *spreads;
    const uint16_t *cluster_scales, *outlier_scales; /* NULL: keys are not coded */
    uint32_t base; /* first slot */
    uint16_t clusters, entries;
} select_range_t;

/* The bin in which a limit is reached. */
typedef struct select_edge {
    uint32_t bin;                         /* its number + 1; 0: the limit is not reached */
    uint32_t entries, tokens;             /* in it */
    uint32_t entries_above, tokens_above; /* in all before it in the order */
    uint32_t not_small;                   /* error budget: with the bin taken, the rest is too large */
} select_edge_t;

/* The slots of one block, and the keys and sizes of those that have no room in shared memory, by slot. */
typedef struct select_slice {
    uint32_t first, end;
    uint32_t *key;
    uint16_t *size;
} select_slice_t;

/* One block's view of the job at hand. In shared memory: thread 0 writes it, and what changes only between barriers. */
typedef struct select_job {
    const lwk_step_t *step;
    lwk_session_t *session;
    lwk_policy_t policy;        /* the session's */
    uint32_t indexed;           /* its lwk_indexed_tokens() */
    uint32_t s, head, number;   /* number: s * J + head */
    uint32_t block, blocks;     /* of this job */
    uint32_t slots;             /* of a whole slice */
    select_slice_t own;
    uint32_t queries;
    uint32_t range_count, entry_count;
    uint32_t bits;              /* of a histogram digit */
    uint32_t key_base;          /* digit of level 0: (key >> key_shift) - key_base, clamped */
    uint32_t key_shift;
    lwk_select_state_t *state;
    lwk_select_buffers_t *buffers;
    uint64_t epoch;             /* of the last barrier */
    int stale;                  /* which histogram is to be zeroed behind the next barrier; -1: none */
} select_job_t;

typedef struct select_shared {
    uint32_t key[SELECT_LOCAL];
    uint16_t size[SELECT_LOCAL];
    alignas(16) lwk_select_hist_t first, level; /* histograms of level 0, which stays, and of the level at hand */
    union {
        uint64_t sums[SELECT_SUMS]; /* error budget */
        struct {
            uint64_t rank[SELECT_CANDIDATES];
            uint16_t size[SELECT_CANDIDATES];
        } candidate;
        uint32_t list[SELECT_LIST];
    };
    select_query_t query[SELECT_QUERIES_MAX];
    select_range_t range[SELECT_RANGES];
    float noise[SELECT_NOISES]; /* [open range][query] */
    uint32_t eligible[SELECT_ELIGIBLE], listed;
    double mass[SELECT_QUERIES_MAX], part[4][SELECT_WARPS];
    uint64_t rest[SELECT_QUERIES_MAX], above[SELECT_QUERIES_MAX]; /* error budget: all; taken so far */
    uint64_t scan[SELECT_WARPS];
    uint64_t head, tail;
    uint32_t offset[LWK_SELECT_SPLIT_MAX + 1];
    uint32_t count[8]; /* of lookup.cuh */
    select_edge_t edge;
    struct {
        uint64_t rank;
        uint32_t entries, tokens;
    } settled; /* the last entry of a cut, and what is taken with it */
    uint32_t total_entries, total_tokens; /* of the level at hand */
    uint32_t candidates, before, above_count; /* of cut.cuh */
    uint32_t range_first, range_count;        /* the open ones */
    uint32_t ticket_base, issued_any;         /* of lookup.cuh */
    uint32_t now, window;                     /* of the store: the step, and in how many a second touch counts */
    uint32_t has_part;
    select_job_t job;
} select_shared_t;
static_assert(sizeof(select_shared_t) <= 227 * 1024, "what a block may have on sm_90");


LWK_DEVICE uint32_t select_lane(void)
{
    return threadIdx.x % 32;
}
LWK_DEVICE uint32_t select_warp(void)
{
    return threadIdx.x / 32;
}

template <typename T> struct select_scanned {
    T before, total;
};
template <typename T> LWK_CALLED select_scanned<T> select_scan_all(select_shared_t *sh, T x)
{
    select_scanned<T> r;
    r.before = scan_block<SELECT_WARPS>((T *)(void *)sh->scan, x, &r.total);
    return r;
}
template <typename T> LWK_DEVICE T select_scan(select_shared_t *sh, T x, T *total_out)
{
    select_scanned<T> r = select_scan_all<T>(sh, x);
    *total_out = r.total;
    return r.before;
}

/* ---- entries of this block's slice ---- */

LWK_DEVICE void select_keep(const select_slice_t *own, select_shared_t *sh, uint32_t slot, uint32_t key, uint32_t size)
{
    uint32_t i = slot - own->first;
    if (i < SELECT_LOCAL) {
        sh->key[i] = key;
        sh->size[i] = (uint16_t)size;
    } else {
        own->key[slot] = key;
        own->size[slot] = (uint16_t)size;
    }
}
LWK_DEVICE uint32_t select_key(const select_slice_t *own, const select_shared_t *sh, uint32_t slot)
{
    uint32_t i = slot - own->first;
    return i < SELECT_LOCAL ? sh->key[i] : own->key[slot];
}
LWK_DEVICE uint32_t select_size(const select_slice_t *own, const select_shared_t *sh, uint32_t slot)
{
    uint32_t i = slot - own->first;
    return i < SELECT_LOCAL ? sh->size[i] : own->size[slot];
}
LWK_DEVICE uint64_t select_rank(uint32_t key, uint32_t slot)
{
    return (uint64_t)key << 32 | (uint32_t)~slot;
}

/* ---- among the blocks of a job ---- */

/* What a block wrote to device memory before is seen by all of them after. Every block has a flag of its own, which only
 * grows, so there is nothing to reset; histograms that all have read are zeroed on the way. */
LWK_CALLED void select_barrier(select_job_t *job)
{
    if (job->blocks == 1) {
        __syncthreads();
        return;
    }
    __syncthreads();
    const uint64_t epoch = job->epoch + 1;
    const int turn = job->stale;
    if (threadIdx.x == 0)
        lwk_store_release(&job->state->flag[job->block], epoch);
    if (threadIdx.x < job->blocks)
        while ((int64_t)(lwk_load_acquire(&job->state->flag[threadIdx.x]) - epoch) < 0)
            lwk_pause();
    __syncthreads();
    if (threadIdx.x == 0) {
        job->epoch = epoch;
        job->stale = -1;
    }
    if (turn >= 0) {
        lwk_select_hist_t *stale = turn == 0 ? &job->state->first : &job->buffers->hist[turn - 1];
        uint64_t *sums = job->buffers->sums[turn];
        uint32_t worker = job->block * SELECT_THREADS + threadIdx.x, workers = job->blocks * SELECT_THREADS;
#pragma unroll 1
        for (uint32_t i = worker; i < SELECT_BINS; i += workers)
            stale->entries[i] = stale->tokens[i] = 0;
        if (turn > 0 && job->policy.budget == LWK_BUDGET_ERROR)
#pragma unroll 1
            for (uint32_t i = worker; i < SELECT_SUMS; i += workers)
                sums[i] = 0;
    }
}

/* Index among the open ranges of the one that a slot lies in. */
LWK_DEVICE uint32_t select_open_range_of(const select_shared_t *sh, uint32_t slot)
{
    uint32_t low = 0, high = sh->range_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (sh->range[middle].base <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Whether the open ranges reach to the end of the session. */
LWK_DEVICE bool select_all_open(const select_job_t *job, const select_shared_t *sh)
{
    return sh->range_first + sh->range_count == job->range_count;
}

/* The same in the session's list. */
LWK_DEVICE uint32_t select_range_of(const select_job_t *job, uint32_t slot)
{
    uint32_t low = 0, high = job->range_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (job->session->ranges[middle].entry_base <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The same by all threads of the block at once. */
LWK_DEVICE uint32_t select_find_range(const select_job_t *job, uint32_t slot)
{
    uint32_t before = 0; /* ranges that begin at or before the slot: the first one always does */
#pragma unroll 1
    for (uint32_t at = 0; at < job->range_count; at += SELECT_THREADS) {
        uint32_t i = at + threadIdx.x;
        before += (uint32_t)__syncthreads_count(i < job->range_count && job->session->ranges[i].entry_base <= slot);
    }
    return before > 0 ? before - 1 : 0;
}

#endif /* LWK_CUDA_SELECT_CUH */
