/* build.cuh - what the build ops share: channels of a row over the lanes of a warp, sums over a warp, and the
 * members of a few clusters in token order.
 *
 * A warp holds a row as pairs of channels: lane l has channels 64 i + 2 l and the next, i < CHUNKS, so that
 * every load of a row is one coalesced piece. CHUNKS is 1, 2 or 4 for head_dim up to 64, 128 or 256; pairs
 * beyond head_dim are zero. */
#ifndef LWK_BUILD_CUH
#define LWK_BUILD_CUH

#include "kernels/build_args.h"
#include "kernels/cuda/lang.cuh"
#include "kernels/cuda/ops_cuda.h"

#define BUILD_WARPS 8u
#define BUILD_THREADS 256u

/* Calls one of three instances by head_dim; CHUNKS is the constant in the call. */
#define LWK_BY_CHUNKS(head_dim, call)   \
    do {                                \
        if ((head_dim) <= 64) {         \
            const int CHUNKS = 1;       \
            (void)CHUNKS;               \
            call;                       \
        } else if ((head_dim) <= 128) { \
            const int CHUNKS = 2;       \
            (void)CHUNKS;               \
            call;                       \
        } else {                        \
            const int CHUNKS = 4;       \
            (void)CHUNKS;               \
            call;                       \
        }                               \
    } while (0)

/* head_dim as the instances know it: 64, 128 or 256. */
static inline uint32_t lwk_build_width(uint32_t head_dim)
{
    return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

LWK_DEVICE uint32_t build_warp(void)
{
    return threadIdx.x / 32;
}
LWK_DEVICE uint32_t build_lane(void)
{
    return threadIdx.x % 32;
}

/* The same in every lane, added in the same order in every warp. */
template <typename T> LWK_DEVICE T build_warp_sum(T x)
{
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(LWK_WARP_ALL, x, step);
    return x;
}

LWK_DEVICE float2 build_load2(const void *rows, uint32_t dtype, size_t at)
{
    if (dtype == LW_DTYPE_FP32)
        return *(const float2 *)((const float *)rows + at);
    return lwk_unpack2(*(const uint32_t *)((const uint16_t *)rows + at), dtype);
}

/* This lane's pairs of the row that begins at element `at`. */
template <int CHUNKS>
LWK_DEVICE void build_load_row(const void *rows, uint32_t dtype, size_t at, uint32_t head_dim,
                               float2 pairs[CHUNKS])
{
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        uint32_t j = 64 * i + 2 * build_lane();
        pairs[i] = j < head_dim ? build_load2(rows, dtype, at + j) : make_float2(0, 0);
    }
}

/* ---- members of clusters ---- */

#define MEMBERS_CLUSTERS BUILD_WARPS /* of a block: one for each of its warps */

/* In shared memory. */
typedef struct members {
    uint16_t
        found[LW_SEGMENT_TOKENS_MAX]; /* 8 token + cluster - first: each warp's part of the tokens in order */
    uint16_t token[LW_SEGMENT_TOKENS_MAX]; /* of the first cluster, of the next ...; ascending in each */
    uint32_t found_count[BUILD_WARPS];
    uint32_t start[MEMBERS_CLUSTERS + 1]; /* where each cluster begins in `token` */
    uint32_t count[MEMBERS_CLUSTERS];
    uint32_t below[2]; /* tokens of clusters below `first`: those without a flag, those with one */
} members_t;

/* Fills `m` for clusters first .. first + 7 from the cluster of each token; flags may be NULL. The whole
 * block of BUILD_THREADS threads calls; afterwards all of it may read. Reads 2 n bytes (3 n with flags). */
LWK_DEVICE void members_collect(members_t *m, const uint16_t *assign, const uint8_t *flags, uint32_t n,
                                uint32_t first)
{
    const uint32_t warp = build_warp(), lane = build_lane();
    const uint32_t part = (n + 32 * BUILD_WARPS - 1) / (32 * BUILD_WARPS) * 32;
    uint32_t found = 0, below = 0, below_flagged = 0;
    if (threadIdx.x < MEMBERS_CLUSTERS)
        m->count[threadIdx.x] = 0;
    if (threadIdx.x < 2)
        m->below[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 8
    for (uint32_t at = 0; at < part; at += 32) {
        uint32_t token = warp * part + at + lane;
        uint32_t cluster = token < n ? assign[token] : UINT32_MAX;
        bool mine = cluster - first < MEMBERS_CLUSTERS;
        if (cluster < first) {
            bool flagged = flags != NULL && flags[token] != 0;
            below += !flagged;
            below_flagged += flagged;
        }
        uint32_t mask = __ballot_sync(LWK_WARP_ALL, mine);
        if (mine) {
            m->found[warp * part + found + __popc(mask & ((1u << lane) - 1))] =
                (uint16_t)(token * MEMBERS_CLUSTERS + (cluster - first));
            atomicAdd(&m->count[cluster - first], 1u);
        }
        found += __popc(mask);
    }
    if (below > 0)
        atomicAdd(&m->below[0], below);
    if (below_flagged > 0)
        atomicAdd(&m->below[1], below_flagged);
    if (lane == 0)
        m->found_count[warp] = found;
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t at = 0;
        for (uint32_t c = 0; c < MEMBERS_CLUSTERS; c++) {
            m->start[c] = at;
            at += m->count[c];
        }
        m->start[MEMBERS_CLUSTERS] = at;
    }
    __syncthreads();
    uint32_t to = m->start[warp];
    for (uint32_t w = 0; w < BUILD_WARPS; w++)
        for (uint32_t at = 0; at < m->found_count[w]; at += 32) {
            uint32_t entry = at + lane < m->found_count[w] ? m->found[w * part + at + lane] : 0;
            bool mine = at + lane < m->found_count[w] && entry % MEMBERS_CLUSTERS == warp;
            uint32_t mask = __ballot_sync(LWK_WARP_ALL, mine);
            if (mine)
                m->token[to + __popc(mask & ((1u << lane) - 1))] = (uint16_t)(entry / MEMBERS_CLUSTERS);
            to += __popc(mask);
        }
    __syncthreads();
}

#endif /* LWK_BUILD_CUH */
