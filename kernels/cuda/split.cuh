/* split.cuh - cuts clusters that grew too large, as kernels/build_split.h does: along the direction in which
 * their members differ most, into pieces of even size; clusters without members are dropped, the others
 * numbered anew in the old order.
 *
 * Grid (8 seed clusters, jobs), BUILD_THREADS. Most blocks only number; a cut of m members reads m rows ten
 * times and ranks them in m^2 / 256 steps. */
#ifndef LWK_SPLIT_CUH
#define LWK_SPLIT_CUH

#include "kernels/cuda/kmeans_work.cuh"
#include "kernels/build_split.h"

#define SPLIT_DEPTH 16u /* of parts that wait: one for each halving of at most 2^16 pieces */

typedef struct split_part {
    uint32_t first, count, pieces, number; /* members; clusters to make; number of the first of them */
} split_part_t;

template <int W> struct split_shape {
    members_t members; /* `found` is used again once they are found */
    float key[LW_SEGMENT_TOKENS_MAX];
    alignas(16) float warp_sum[2][BUILD_WARPS][W]; /* of the low half, of the high half */
    alignas(16) float direction[W];
    split_part_t waiting[SPLIT_DEPTH];
    uint32_t waiting_count;
    uint32_t largest; /* exponent - KMEANS_ZERO */
};

/* This lane's channels of a member, 2 lane + 64 k and the next, relative to the cluster's largest exponent.
 */
template <int W>
LWK_DEVICE void split_row(const split_shape<W> *s, const uint16_t *rows, const int16_t *exponents,
                          uint32_t token, float2 x[W / 64])
{
    const uint32_t *row = (const uint32_t *)(rows + (size_t)token * W);
    int exponent = exponents[token] - KMEANS_ZERO - (int)s->largest;
    float scale = exponent < -120 ? 0 : __uint_as_float((uint32_t)(exponent + 127) << 23);
#pragma unroll
    for (int k = 0; k < W / 64; k++) {
        x[k] = lwk_unpack2(row[32 * k + build_lane()], LW_DTYPE_FP16);
        x[k].x *= scale;
        x[k].y *= scale;
    }
}

/* warp_sum: sums over members [0, low) and [low, count), each cut evenly over the warps. */
template <int W>
LWK_DEVICE void split_sums(split_shape<W> *s, const uint16_t *rows, const int16_t *exponents,
                           const uint16_t *list, uint32_t low, uint32_t count)
{
    const uint32_t warp = build_warp();
    for (uint32_t side = 0; side < 2; side++) {
        uint32_t first = side == 0 ? 0 : low, members = side == 0 ? low : count - low;
        uint32_t from = first + members * warp / BUILD_WARPS, to = first + members * (warp + 1) / BUILD_WARPS;
        float2 sum[W / 64];
#pragma unroll
        for (int k = 0; k < W / 64; k++)
            sum[k] = make_float2(0, 0);
#pragma unroll 8
        for (uint32_t i = from; i < to; i++) {
            float2 x[W / 64];
            split_row<W>(s, rows, exponents, list[i], x);
#pragma unroll
            for (int k = 0; k < W / 64; k++) {
                sum[k].x += x[k].x;
                sum[k].y += x[k].y;
            }
        }
#pragma unroll
        for (int k = 0; k < W / 64; k++)
            *(float2 *)&s->warp_sum[side][warp][64 * k + 2 * build_lane()] = sum[k];
    }
    __syncthreads();
}

template <int W> LWK_DEVICE float split_side(const split_shape<W> *s, uint32_t side, uint32_t j)
{
    float sum = 0;
    for (uint32_t warp = 0; warp < BUILD_WARPS; warp++)
        sum += s->warp_sum[side][warp][j];
    return sum;
}

/* key[i]: inner product of member i with the direction, or its distance to it. */
template <int W>
LWK_DEVICE void split_keys(split_shape<W> *s, const uint16_t *rows, const int16_t *exponents,
                           const uint16_t *list, uint32_t count, bool distance)
{
    float2 y[W / 64];
#pragma unroll
    for (int k = 0; k < W / 64; k++)
        y[k] = *(const float2 *)&s->direction[64 * k + 2 * build_lane()];
#pragma unroll 4
    for (uint32_t i = build_warp(); i < count; i += BUILD_WARPS) {
        float2 x[W / 64];
        float sum = 0;
        split_row<W>(s, rows, exponents, list[i], x);
#pragma unroll
        for (int k = 0; k < W / 64; k++) {
            float2 gap = make_float2(x[k].x - y[k].x, x[k].y - y[k].y);
            sum += distance ? gap.x * gap.x + gap.y * gap.y : x[k].x * y[k].x + x[k].y * y[k].y;
        }
        sum = build_warp_sum(sum);
        if (build_lane() == 0)
            s->key[i] = sum;
    }
    __syncthreads();
}

/* By key, then by token: a total order, so that each member finds its own place. */
template <int W> LWK_DEVICE void split_sort(split_shape<W> *s, uint16_t *list, uint32_t count)
{
    for (uint32_t i = threadIdx.x; i < count; i += BUILD_THREADS) {
        float key = s->key[i];
        uint32_t token = list[i], rank = 0;
        for (uint32_t other = 0; other < count; other++)
            rank += s->key[other] < key || (s->key[other] == key && list[other] < token);
        s->members.found[rank] = (uint16_t)token;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += BUILD_THREADS)
        list[i] = s->members.found[i];
    __syncthreads();
}

/* The direction of the member farthest from the mean, ties to the earlier one. */
template <int W>
LWK_DEVICE void split_first_direction(split_shape<W> *s, const uint16_t *rows, const int16_t *exponents,
                                      const uint16_t *list, uint32_t count)
{
    split_sums<W>(s, rows, exponents, list, count, count);
    for (uint32_t j = threadIdx.x; j < W; j += BUILD_THREADS)
        s->direction[j] = split_side<W>(s, 0, j) / (float)count;
    __syncthreads();
    split_keys<W>(s, rows, exponents, list, count, true);
    if (build_warp() == 0) {
        float most = -1;
        uint32_t farthest = 0;
        for (uint32_t i = build_lane(); i < count; i += 32)
            if (s->key[i] > most) {
                most = s->key[i];
                farthest = i;
            }
        for (int step = 16; step > 0; step /= 2) {
            float other = __shfl_xor_sync(LWK_WARP_ALL, most, step);
            uint32_t at = __shfl_xor_sync(LWK_WARP_ALL, farthest, step);
            if (other > most || (other == most && at < farthest)) {
                most = other;
                farthest = at;
            }
        }
        float2 x[W / 64];
        split_row<W>(s, rows, exponents, list[farthest], x);
#pragma unroll
        for (int k = 0; k < W / 64; k++) {
            s->direction[64 * k + 2 * build_lane()] = x[k].x - s->direction[64 * k + 2 * build_lane()];
            s->direction[64 * k + 2 * build_lane() + 1] =
                x[k].y - s->direction[64 * k + 2 * build_lane() + 1];
        }
    }
    __syncthreads();
}

/* Orders the members so that the first `low` and the others lie apart. */
template <int W>
LWK_DEVICE void split_order(split_shape<W> *s, const uint16_t *rows, const int16_t *exponents, uint16_t *list,
                            uint32_t low, uint32_t count)
{
    split_first_direction<W>(s, rows, exponents, list, count);
    split_keys<W>(s, rows, exponents, list, count, false);
    split_sort<W>(s, list, count);
    for (int round = 0; round < LWK_SPLIT_ROUNDS; round++) {
        split_sums<W>(s, rows, exponents, list, low, count);
        for (uint32_t j = threadIdx.x; j < W; j += BUILD_THREADS)
            s->direction[j] =
                split_side<W>(s, 1, j) / (float)(count - low) - split_side<W>(s, 0, j) / (float)low;
        __syncthreads();
        split_keys<W>(s, rows, exponents, list, count, false);
        split_sort<W>(s, list, count);
    }
}

/* Members list[0 .. count - 1] become `pieces` clusters from `number` on. */
template <int W>
LWK_DEVICE void split_cluster(split_shape<W> *s, const uint16_t *rows, const int16_t *exponents,
                              uint16_t *list, uint32_t count, uint32_t pieces, uint32_t number,
                              uint16_t *assign)
{
    if (threadIdx.x == 0) {
        s->waiting[0].first = 0;
        s->waiting[0].count = count;
        s->waiting[0].pieces = pieces;
        s->waiting[0].number = number;
        s->waiting_count = 1;
        s->largest = 0;
    }
    __syncthreads();
    if (pieces > 1) {
        uint32_t largest = 0;
        for (uint32_t i = threadIdx.x; i < count; i += BUILD_THREADS)
            largest = max(largest, (uint32_t)(exponents[list[i]] - KMEANS_ZERO));
        atomicMax(&s->largest, largest);
        __syncthreads();
    }
    while (s->waiting_count > 0) {
        split_part_t part = s->waiting[s->waiting_count - 1];
        __syncthreads();
        if (part.pieces == 1) {
            for (uint32_t i = threadIdx.x; i < part.count; i += BUILD_THREADS)
                assign[list[part.first + i]] = (uint16_t)part.number;
            if (threadIdx.x == 0)
                s->waiting_count--;
        } else {
            /* Rounded up, both sides stay within their pieces. */
            uint32_t low_pieces = part.pieces / 2;
            uint32_t low = (part.count * low_pieces + part.pieces - 1) / part.pieces;
            split_order<W>(s, rows, exponents, list + part.first, low, part.count);
            if (threadIdx.x == 0) {
                split_part_t *high = &s->waiting[s->waiting_count - 1], *next = high + 1;
                next->first = part.first;
                next->count = low;
                next->pieces = low_pieces;
                next->number = part.number;
                high->first = part.first + low;
                high->count = part.count - low;
                high->pieces = part.pieces - low_pieces;
                high->number = part.number + low_pieces;
                s->waiting_count++;
            }
        }
        __syncthreads();
    }
    __syncthreads();
}

template <int W>
LWK_KERNEL(256, 1)
void split_kernel(LWK_ARGS(kmeans_work_t) work, uint32_t n, uint32_t size_max, uint16_t *assign_out)
{
    LWK_SHARED(split_shape<W>, s);
    const uint32_t job = blockIdx.y, first = blockIdx.x * MEMBERS_CLUSTERS;
    const uint32_t *first_piece = work.first_piece + (size_t)job * (work.clusters + 1);
    members_collect(&s->members, work.assign + (size_t)job * n, NULL, n, first);
    for (uint32_t c = 0; c < MEMBERS_CLUSTERS; c++) {
        uint32_t count = s->members.count[c];
        if (count > 0)
            split_cluster<W>(s, work.rows + (size_t)job * n * W, work.exponents + (size_t)job * n,
                             s->members.token + s->members.start[c], count, (count + size_max - 1) / size_max,
                             first_piece[first + c], assign_out + (size_t)job * n);
    }
}

#endif /* LWK_SPLIT_CUH */
