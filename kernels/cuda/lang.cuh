/* lang.cuh - the dialect in which every kernel of this folder is written, and the only header that a .cu file takes
 * the language from.
 *
 * nvcc compiles the sources for a GPU (lang_nvcc.cuh); a C++ compiler compiles the same sources for host memory
 * (emu/lang_emu.h), where the threads of a block are fibers, so that they can be tested where no GPU is. Both give:
 *
 *   LWK_KERNEL(threads, blocks_per_sm) void name(args)   a kernel; as lwk_launch() with at most `threads` threads
 *   LWK_DEVICE type name(args)                           a function of kernels, inlined
 *   LWK_CALLED type name(args)                           one that is called, so that what it needs costs the others no registers
 *   LWK_ARGS(type) name                                  a struct parameter of a kernel whose address may be taken
 *   LWK_SHARED(type, name)     declares `type *name`, the block's shared memory; its size is given at launch. There is
 *                              no other shared memory. It holds garbage at first.
 *   threadIdx.x blockIdx.x/.y/.z blockDim.x gridDim.x/.y/.z, warpSize; blocks are one-dimensional
 *   __syncthreads() __syncthreads_or() __syncthreads_count() __syncwarp(mask)
 *   __shfl_sync __shfl_up_sync __shfl_down_sync __shfl_xor_sync, of 4- and 8-byte types, width 32
 *   __ballot_sync __any_sync __all_sync __match_any_sync __reduce_add_sync __reduce_max_sync __reduce_min_sync
 *   __reduce_or_sync (u32)
 *   __popc __popcll __ffs __clz __brev; min() max() of two values of one type
 *   atomicAdd (u32, i32, u64, float) atomicMax atomicMin atomicOr atomicAnd atomicCAS atomicExch (u32, u64)
 *   __threadfence() __threadfence_block() __threadfence_system() __ldg __ldcs __ldcg __stcs __nanosleep
 *   lwk_timer_ns()
 *   lwk_load_acquire(p) lwk_store_release(p, v)            u32, u64; among the threads of the GPU
 *   lwk_load_acquire_sys(p) lwk_store_release_sys(p, v)    the same with the host, on pinned memory
 *   lwk_wait_before()          in a kernel that lwk_launch_early() starts: what the launches before it wrote is there; every
 *                              thread that reads or writes what they touch calls it first
 *   lwk_let_next()             the next early launch may start blocks once all blocks of this one have called (or left); behind
 *                              lwk_wait_before(), so that what an early launch finds is never older than two launches
 *   lwk_prefetch(p, bytes)     into L2
 *   lwk_exp2 lwk_log2 lwk_rsqrt   of the special function unit alone
 *   lwk_pause()                in every loop that waits for another thread, block or the host
 *   uint2 uint4 int2 int4 float2 float4 and make_*; fmaf exp2f expf __expf logf __logf log2f rsqrtf sqrtf tanhf fmaxf
 *   __float_as_uint __uint_as_float __int_as_float __float_as_int
 *   the functions of kernels/convert.h, view.h, ops.h and index_fmt.h
 *   lwk_to_float(bits, dtype) lwk_from_float(x, dtype) lwk_unpack2(two, dtype) lwk_pack2(x, y, dtype)
 *   lwk_mma_16816 lwk_mma_s8_16832 lwk_ldmatrix_x4 lwk_ldmatrix_x4_trans
 *   lwk_copy16_async lwk_copy_commit lwk_copy_wait<N> lwk_copy16
 *
 * All lanes that a mask names must reach the same warp function at the same place in the source; the emulator stops
 * the program when they don't. Host code gets the CUDA runtime's names (cudaStream_t and so on) as far as backend_cuda.cu
 * needs them.
 */
#ifndef LWK_CUDA_LANG_CUH
#define LWK_CUDA_LANG_CUH

#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

/* How a launch is to be made. */
#define LWK_LAUNCH_RESIDENT 1u /* all blocks at once */
#define LWK_LAUNCH_EARLY 2u    /* while the one before it ends */

#if defined(__CUDACC__)
#include "kernels/cuda/lang_nvcc.cuh"
#else
#include "kernels/cuda/emu/lang_emu.h"
#endif

#include "kernels/convert.h"
#include "kernels/view.h"

#define LWK_WARP_ALL 0xFFFFFFFFu

/* ---- 16-bit rows. `dtype` is LW_DTYPE_BF16 or LW_DTYPE_FP16; a constant costs nothing.
 * ---------------------------- */

LWK_DEVICE float lwk_to_float(uint16_t bits, uint32_t dtype)
{
    return dtype == LW_DTYPE_BF16 ? lwk_bf16_to_f32(bits) : lwk_f16_to_f32(bits);
}

LWK_DEVICE uint16_t lwk_from_float(float x, uint32_t dtype)
{
    return dtype == LW_DTYPE_BF16 ? lwk_f32_to_bf16(x) : lwk_f32_to_f16(x);
}

/* Two neighbours of a row, the first in the low half. */
LWK_DEVICE float2 lwk_unpack2(uint32_t two, uint32_t dtype)
{
    if (dtype == LW_DTYPE_BF16)
        return make_float2(lwk_bits_float(two << 16), lwk_bits_float(two & 0xFFFF0000u));
    return make_float2(lwk_f16_to_f32((uint16_t)two), lwk_f16_to_f32((uint16_t)(two >> 16)));
}

LWK_DEVICE uint32_t lwk_pack2(float x, float y, uint32_t dtype)
{
    return (uint32_t)lwk_from_float(x, dtype) | (uint32_t)lwk_from_float(y, dtype) << 16;
}

LWK_DEVICE void lwk_copy16(void *to, const void *from)
{
    *(uint4 *)to = *(const uint4 *)from;
}

/* ---- host side
 * --------------------------------------------------------------------------------------------------- */

/* LW_OK, or LW_ERR_DEVICE (LW_ERR_NO_MEMORY) with one log line that names `what`. */
lw_status_t lwk_cuda_check(const char *what, cudaError_t error);

/* Enqueues kernel(args...) on `grid` blocks of `threads` threads with shared_bytes of shared memory (more than 48 KiB
 * is asked for). `name` appears in the log when the launch is refused: LW_ERR_DEVICE. A grid of no blocks is done. */
template <typename... Params>
static inline lw_status_t lwk_launch(const char *name, void (*kernel)(Params...), dim3 grid, unsigned threads,
                                     size_t shared_bytes, cudaStream_t stream,
                                     typename lwk_same<Params>::type... args)
{
    return lwk_launch_impl(name, kernel, grid, threads, shared_bytes, stream, 0, args...);
}

/* The same for a kernel whose blocks wait for each other: refused with LW_ERR_INVALID when not all of them fit the
 * device at once. */
template <typename... Params>
static inline lw_status_t lwk_launch_resident(const char *name, void (*kernel)(Params...), dim3 grid,
                                              unsigned threads, size_t shared_bytes, cudaStream_t stream,
                                              typename lwk_same<Params>::type... args)
{
    return lwk_launch_impl(name, kernel, grid, threads, shared_bytes, stream, LWK_LAUNCH_RESIDENT, args...);
}

/* Either of them (how: LWK_LAUNCH_*) for a kernel that calls lwk_wait_before() in every thread that needs it: its blocks may
 * start before the launch before it on the stream has ended. */
template <typename... Params>
static inline lw_status_t lwk_launch_early(const char *name, void (*kernel)(Params...), dim3 grid, unsigned threads,
                                           size_t shared_bytes, cudaStream_t stream, unsigned how,
                                           typename lwk_same<Params>::type... args)
{
    return lwk_launch_impl(name, kernel, grid, threads, shared_bytes, stream, how | LWK_LAUNCH_EARLY, args...);
}

/* How many blocks of a kernel can be on the current device at once; 0 when it cannot be known. */
template <typename... Params>
static inline unsigned lwk_resident_blocks(void (*kernel)(Params...), unsigned threads, size_t shared_bytes)
{
    return lwk_resident_blocks_impl((const void *)kernel, threads, shared_bytes);
}

#endif /* LWK_CUDA_LANG_CUH */
