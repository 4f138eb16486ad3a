/* assign.cuh - the inner product of every key with every direction, and the largest of them: nearly all the
 * arithmetic of an index build.
 *
 * Grid (tiles of ROWS tokens, jobs), 128 threads. Each warp keeps its rows in registers as matrix fragments
 * and meets all directions, which pass through shared memory 64 at a time; the products never leave the
 * registers. Flops 2 n C W a job; bytes n W 2 of rows once, C W 2 of directions for each tile (from L2).
 * Floor: the matrix units. Ties go to the lower cluster: a thread meets its columns in ascending order, lanes
 * are merged by (product, lower number). Columns beyond the last direction hold NaN, whose products win no
 * comparison. */
#ifndef LWK_ASSIGN_CUH
#define LWK_ASSIGN_CUH

#include "kernels/cuda/kmeans_work.cuh"

#define ASSIGN_THREADS 128u
#define ASSIGN_COLUMNS 64u /* directions in one stage */
#define ASSIGN_STAGES 2u

template <int W> struct assign_shape {
    enum {
        TILES = W <= 128 ? 2 : 1, /* of 16 rows for each warp */
        ROWS = (int)ASSIGN_THREADS / 32 * 16 * TILES,
        STRIDE = W + 8, /* 16 bytes more, so that eight rows of a matrix lie in different banks */
    };
    uint16_t column[ASSIGN_STAGES][ASSIGN_COLUMNS][STRIDE];
};

template <int W>
LWK_DEVICE void assign_load(assign_shape<W> *shared, uint32_t stage, const uint16_t *directions,
                            uint32_t first)
{
    const uint32_t pieces = W / 8; /* of 16 bytes in a row */
    for (uint32_t i = threadIdx.x; i < ASSIGN_COLUMNS * pieces; i += ASSIGN_THREADS)
        lwk_copy16_async(&shared->column[stage][i / pieces][i % pieces * 8],
                         directions + (size_t)(first + i / pieces) * W + i % pieces * 8, true);
    lwk_copy_commit();
}

template <int W>
LWK_KERNEL(128, 3)
void assign_kernel(LWK_ARGS(kmeans_work_t) work, uint32_t n, uint32_t round)
{
    LWK_SHARED(assign_shape<W>, shared);
    const int TILES = assign_shape<W>::TILES, STEPS = W / 16,
              PAIRS = 2; /* PAIRS of 8 columns: 32 at a time */
    const uint32_t job = blockIdx.y, lane = build_lane(), group = lane / 4, pair = lane % 4;
    if (round > 0 && work.moved[(size_t)job * work.rounds + round - 1] == 0)
        return;
    const uint32_t first_row = blockIdx.x * assign_shape<W>::ROWS + build_warp() * 16 * TILES;
    const uint16_t *rows = work.rows + (size_t)job * n * W;
    const uint16_t *directions = work.directions + (size_t)job * work.clusters_padded * W;
    uint32_t a[TILES][STEPS][4], best_id[TILES][2];
    float best[TILES][2];

    assign_load<W>(shared, 0, directions, 0);
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t row = first_row + 16 * m + 8 * half + group;
            best[m][half] = -INFINITY;
            best_id[m][half] = 0;
#pragma unroll
            for (int k = 0; k < STEPS; k++)
#pragma unroll
                for (int right = 0; right < 2; right++)
                    a[m][k][half + 2 * right] =
                        row < n ? *(const uint32_t *)(rows + (size_t)row * W + 16 * k + 8 * right + 2 * pair)
                                : 0;
        }

    for (uint32_t first = 0, stage = 0; first < work.clusters_padded; first += ASSIGN_COLUMNS, stage ^= 1) {
        if (first + ASSIGN_COLUMNS < work.clusters_padded) {
            assign_load<W>(shared, stage ^ 1, directions, first + ASSIGN_COLUMNS);
            lwk_copy_wait<1>();
        } else {
            lwk_copy_wait<0>();
        }
        __syncthreads();
#pragma unroll
        for (uint32_t part = 0; part < ASSIGN_COLUMNS; part += 16 * PAIRS) {
            float product[TILES][2 * PAIRS][4];
#pragma unroll
            for (int m = 0; m < TILES; m++)
#pragma unroll
                for (int t = 0; t < 2 * PAIRS; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        product[m][t][e] = 0;
#pragma unroll
            for (int k = 0; k < STEPS; k++)
#pragma unroll
                for (int p = 0; p < PAIRS; p++) {
                    uint32_t b[4]; /* two tiles of 8 columns, two halves of k each */
                    lwk_ldmatrix_x4(b, &shared->column[stage][part + 16 * p + lane / 16 * 8 + lane % 8]
                                                      [16 * k + lane / 8 % 2 * 8]);
#pragma unroll
                    for (int m = 0; m < TILES; m++) {
                        lwk_mma_16816(product[m][2 * p], a[m][k], b, LW_DTYPE_FP16);
                        lwk_mma_16816(product[m][2 * p + 1], a[m][k], b + 2, LW_DTYPE_FP16);
                    }
                }
            uint32_t column = first + part + 2 * pair;
#pragma unroll
            for (int t = 0; t < 2 * PAIRS; t++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    uint32_t id = column + 8 * t + e;
#pragma unroll
                    for (int m = 0; m < TILES; m++)
#pragma unroll
                        for (int half = 0; half < 2; half++)
                            if (product[m][t][2 * half + e] > best[m][half]) {
                                best[m][half] = product[m][t][2 * half + e];
                                best_id[m][half] = id;
                            }
                }
        }
        __syncthreads();
    }

    uint16_t *assign = work.assign + (size_t)job * n;
    uint32_t moved = 0;
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t row = first_row + 16 * m + 8 * half + group, id = best_id[m][half];
            float product = best[m][half];
#pragma unroll
            for (int step = 1; step < 4; step *= 2) {
                float other = __shfl_xor_sync(LWK_WARP_ALL, product, step);
                uint32_t other_id = __shfl_xor_sync(LWK_WARP_ALL, id, step);
                if (other > product || (other == product && other_id < id)) {
                    product = other;
                    id = other_id;
                }
            }
            if (pair == 0 && row < n) {
                moved += assign[row] != id;
                assign[row] = (uint16_t)id;
            }
        }
    moved = __reduce_add_sync(LWK_WARP_ALL, moved);
    if (lane == 0 && moved > 0)
        atomicAdd(&work.moved[(size_t)job * work.rounds + round], moved);
}

#endif /* LWK_ASSIGN_CUH */
