/* scan.cuh - prefix sums over a block. */
#ifndef LWK_CUDA_SCAN_CUH
#define LWK_CUDA_SCAN_CUH

#include "kernels/cuda/lang.cuh"

/* Sum over the threads before this one, and over all. `sums`: [WARPS] in shared memory. The whole block of 32 * WARPS threads
 * calls; two barriers. */
template <unsigned WARPS, typename T> LWK_DEVICE T scan_block(T *sums, T x, T *total_out)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T inclusive = x;
#pragma unroll 1
    for (unsigned step = 1; step < 32; step *= 2) {
        T y = __shfl_up_sync(LWK_WARP_ALL, inclusive, step);
        if (lane >= step)
            inclusive += y;
    }
    if (lane == 31)
        sums[warp] = inclusive;
    __syncthreads();
    T others = lane < WARPS ? sums[lane] : 0;
#pragma unroll 1
    for (unsigned step = 1; step < WARPS; step *= 2) {
        T y = __shfl_up_sync(LWK_WARP_ALL, others, step);
        if (lane >= step)
            others += y;
    }
    T before = __shfl_sync(LWK_WARP_ALL, others, warp == 0 ? 0 : (int)warp - 1);
    *total_out = __shfl_sync(LWK_WARP_ALL, others, (int)WARPS - 1);
    __syncthreads();
    return (warp == 0 ? 0 : before) + inclusive - x;
}

#endif /* LWK_CUDA_SCAN_CUH */
