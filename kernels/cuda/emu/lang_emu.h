/* lang_emu.h - the dialect of lang.cuh for a C++ compiler: threads are fibers, device memory is host memory. */
#ifndef LWK_EMU_LANG_EMU_H
#define LWK_EMU_LANG_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "base/longwave_status.h"
#include "base/longwave_types.h"
#include "kernels/cuda/emu/runtime.h"
#include "kernels/cuda/emu/types.h"
#include "kernels/cuda/emu/warp.h"

#define __host__
#define __device__
#define __forceinline__ inline

#define LWK_KERNEL(threads, blocks_per_sm) static
#define LWK_DEVICE static inline
#define LWK_CALLED static
#define LWK_ARGS(type) const type
#define LWK_SHARED(type, name) type *const name = reinterpret_cast<type *>(lwk_emu_self->shared)

#define threadIdx (lwk_emu_self->thread_index)
#define blockIdx (lwk_emu_self->block_index)
#define blockDim (lwk_emu_self->block_dim)
#define gridDim (lwk_emu_self->grid_dim)
#define warpSize 32

/* Where the caller stands, for messages and to tell one barrier from another. */
#define LWK_EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* ---- barriers and warps
 * ------------------------------------------------------------------------------------------ */

LWK_DEVICE void __syncthreads(LWK_EMU_SITE)
{
    lwk_emu_barrier(0, file, line);
}
LWK_DEVICE int __syncthreads_or(int predicate, LWK_EMU_SITE)
{
    return (int)(lwk_emu_barrier(predicate, file, line) >> 32);
}
LWK_DEVICE int __syncthreads_count(int predicate, LWK_EMU_SITE)
{
    return (int)(uint32_t)lwk_emu_barrier(predicate, file, line);
}
LWK_DEVICE int __syncthreads_and(int predicate, LWK_EMU_SITE)
{
    return (lwk_emu_barrier(!predicate, file, line) >> 32) == 0;
}
LWK_DEVICE void __syncwarp(unsigned mask = 0xFFFFFFFFu, LWK_EMU_SITE)
{
    lwk_emu_warp(EMU_SYNC, mask, 0, 0, 32, NULL, file, line);
}

template <typename T> LWK_DEVICE T lwk_emu_shuffle(int kind, unsigned mask, T x, int select, int width, LWK_EMU_SITE)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    bits = lwk_emu_warp(kind, mask, bits, select, width, NULL, file, line);
    memcpy(&x, &bits, sizeof x);
    return x;
}
template <typename T> LWK_DEVICE T __shfl_sync(unsigned mask, T x, int lane, int width = 32, LWK_EMU_SITE)
{
    return lwk_emu_shuffle(EMU_SHFL, mask, x, lane, width, file, line);
}
template <typename T> LWK_DEVICE T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32, LWK_EMU_SITE)
{
    return lwk_emu_shuffle(EMU_SHFL_UP, mask, x, (int)delta, width, file, line);
}
template <typename T> LWK_DEVICE T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32, LWK_EMU_SITE)
{
    return lwk_emu_shuffle(EMU_SHFL_DOWN, mask, x, (int)delta, width, file, line);
}
template <typename T> LWK_DEVICE T __shfl_xor_sync(unsigned mask, T x, int with, int width = 32, LWK_EMU_SITE)
{
    return lwk_emu_shuffle(EMU_SHFL_XOR, mask, x, with, width, file, line);
}
LWK_DEVICE unsigned __ballot_sync(unsigned mask, int predicate, LWK_EMU_SITE)
{
    return (unsigned)lwk_emu_warp(EMU_BALLOT, mask, predicate != 0, 0, 32, NULL, file, line);
}
LWK_DEVICE int __any_sync(unsigned mask, int predicate, LWK_EMU_SITE)
{
    return lwk_emu_warp(EMU_BALLOT, mask, predicate != 0, 0, 32, NULL, file, line) != 0;
}
LWK_DEVICE int __all_sync(unsigned mask, int predicate, LWK_EMU_SITE)
{
    return lwk_emu_warp(EMU_BALLOT, mask, predicate == 0, 0, 32, NULL, file, line) == 0;
}
template <typename T> LWK_DEVICE unsigned __match_any_sync(unsigned mask, T x, LWK_EMU_SITE)
{
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    return (unsigned)lwk_emu_warp(EMU_MATCH, mask, bits, 0, 32, NULL, file, line);
}
LWK_DEVICE unsigned __activemask(void) = delete; /* what it tells is no promise */

#define LWK_EMU_REDUCE(name, kind_unsigned, kind_int)                                                      \
    LWK_DEVICE unsigned name(unsigned mask, unsigned x, LWK_EMU_SITE)                                      \
    {                                                                                                      \
        return (unsigned)lwk_emu_warp(kind_unsigned, mask, x, 0, 32, NULL, file, line);                    \
    }                                                                                                      \
    LWK_DEVICE int name(unsigned mask, int x, LWK_EMU_SITE)                                                \
    {                                                                                                      \
        return (int)(unsigned)lwk_emu_warp(kind_int, mask, (unsigned)x, 0, 32, NULL, file, line);          \
    }
LWK_EMU_REDUCE(__reduce_add_sync, EMU_REDUCE_ADD, EMU_REDUCE_ADD)
LWK_EMU_REDUCE(__reduce_max_sync, EMU_REDUCE_MAX, EMU_REDUCE_MAX_INT)
LWK_EMU_REDUCE(__reduce_min_sync, EMU_REDUCE_MIN, EMU_REDUCE_MIN_INT)
LWK_EMU_REDUCE(__reduce_or_sync, EMU_REDUCE_OR, EMU_REDUCE_OR)
LWK_EMU_REDUCE(__reduce_and_sync, EMU_REDUCE_AND, EMU_REDUCE_AND)

LWK_DEVICE void lwk_mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t dtype, LWK_EMU_SITE)
{
    emu_fragment_t f = {a, b, d, NULL, dtype, NULL, NULL};
    lwk_emu_warp(EMU_MMA_16, 0xFFFFFFFFu, 0, 0, 32, &f, file, line);
}
LWK_DEVICE void lwk_mma_s8_16832(int d[4], const uint32_t a[4], const uint32_t b[2], LWK_EMU_SITE)
{
    emu_fragment_t f = {a, b, NULL, d, 0, NULL, NULL};
    lwk_emu_warp(EMU_MMA_8, 0xFFFFFFFFu, 0, 0, 32, &f, file, line);
}
LWK_DEVICE void lwk_ldmatrix_x4(uint32_t r[4], const void *shared, LWK_EMU_SITE)
{
    emu_fragment_t f = {NULL, NULL, NULL, NULL, 0, r, shared};
    lwk_emu_warp(EMU_LDMATRIX, 0xFFFFFFFFu, 0, 0, 32, &f, file, line);
}
LWK_DEVICE void lwk_ldmatrix_x4_trans(uint32_t r[4], const void *shared, LWK_EMU_SITE)
{
    emu_fragment_t f = {NULL, NULL, NULL, NULL, 0, r, shared};
    lwk_emu_warp(EMU_LDMATRIX_TRANS, 0xFFFFFFFFu, 0, 0, 32, &f, file, line);
}

LWK_DEVICE float lwk_exp2(float x) { return exp2f(x); }
LWK_DEVICE float lwk_log2(float x) { return log2f(x); }
LWK_DEVICE float lwk_rsqrt(float x) { return 1.0f / sqrtf(x); }

LWK_DEVICE void lwk_prefetch(const void *global, uint32_t bytes)
{
    (void)global;
    (void)bytes;
}
/* Launches follow each other here. */
LWK_DEVICE void lwk_wait_before(void) {}
LWK_DEVICE void lwk_let_next(void) {}

LWK_DEVICE void lwk_copy16_async(void *shared, const void *global, bool valid)
{
    lwk_emu_copy_start(shared, valid ? global : NULL);
}
LWK_DEVICE void lwk_copy_commit(void)
{
    lwk_emu_copy_commit();
}
template <int N> LWK_DEVICE void lwk_copy_wait(void)
{
    lwk_emu_copy_wait(N);
}

/* ---- atomics, fences, loads and stores. The host may look at pinned memory meanwhile.
 * ---------------------------- */

template <typename T, typename F> LWK_DEVICE T lwk_emu_change(T *p, F change)
{
    T old = __atomic_load_n(p, __ATOMIC_RELAXED), made;
    do
        made = change(old);
    while (!__atomic_compare_exchange(p, &old, &made, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
#define LWK_EMU_ATOMICS(T)                                                                             \
    LWK_DEVICE T atomicAdd(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }           \
    LWK_DEVICE T atomicOr(T *p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }             \
    LWK_DEVICE T atomicAnd(T *p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }           \
    LWK_DEVICE T atomicExch(T *p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }         \
    LWK_DEVICE T atomicMax(T *p, T v)                                                                  \
    {                                                                                                  \
        return lwk_emu_change(p, [v](T old) { return v > old ? v : old; });                            \
    }                                                                                                  \
    LWK_DEVICE T atomicMin(T *p, T v)                                                                  \
    {                                                                                                  \
        return lwk_emu_change(p, [v](T old) { return v < old ? v : old; });                            \
    }                                                                                                  \
    LWK_DEVICE T atomicCAS(T *p, T old, T v)                                                           \
    {                                                                                                  \
        __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);            \
        return old;                                                                                    \
    }
LWK_EMU_ATOMICS(uint32_t)
LWK_EMU_ATOMICS(int)
LWK_EMU_ATOMICS(uint64_t)
LWK_EMU_ATOMICS(unsigned long long)
LWK_DEVICE float atomicAdd(float *p, float v)
{
    uint32_t seen = __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED), made;
    float old;
    do {
        memcpy(&old, &seen, sizeof old);
        float sum = old + v;
        memcpy(&made, &sum, sizeof made);
    } while (!__atomic_compare_exchange_n((uint32_t *)p, &seen, made, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

LWK_DEVICE void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
LWK_DEVICE void __threadfence_block(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
LWK_DEVICE void __threadfence_system(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#define LWK_EMU_ORDERED(T)                                                                                  \
    LWK_DEVICE T lwk_load_acquire(const T *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }              \
    LWK_DEVICE T lwk_load_acquire_sys(const T *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }          \
    LWK_DEVICE void lwk_store_release(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }              \
    LWK_DEVICE void lwk_store_release_sys(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
LWK_EMU_ORDERED(uint32_t)
LWK_EMU_ORDERED(uint64_t)

template <typename T> LWK_DEVICE T __ldg(const T *p) { return *p; }
template <typename T> LWK_DEVICE T __ldcg(const T *p) { return *p; }
template <typename T> LWK_DEVICE T __ldcs(const T *p) { return *p; }
template <typename T> LWK_DEVICE T __ldca(const T *p) { return *p; }
template <typename T> LWK_DEVICE T __ldcv(const T *p) { return *(const volatile T *)p; }
template <typename T> LWK_DEVICE void __stcs(T *p, T v) { *p = v; }
template <typename T> LWK_DEVICE void __stcg(T *p, T v) { *p = v; }
template <typename T> LWK_DEVICE void __stwt(T *p, T v) { *p = v; }

LWK_DEVICE void lwk_pause(void) { lwk_emu_pause(); }
LWK_DEVICE void __nanosleep(unsigned ns) { lwk_emu_pause(); }
LWK_DEVICE uint64_t lwk_timer_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- arithmetic
 * -------------------------------------------------------------------------------------------------- */

LWK_DEVICE int __popc(unsigned x) { return __builtin_popcount(x); }
LWK_DEVICE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
LWK_DEVICE int __ffs(int x) { return __builtin_ffs(x); }
LWK_DEVICE int __ffsll(long long x) { return __builtin_ffsll(x); }
LWK_DEVICE int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
LWK_DEVICE int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
LWK_DEVICE unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++)
        reversed |= (x >> i & 1u) << (31 - i);
    return reversed;
}
LWK_DEVICE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> 4 * i & 15u, byte = (unsigned)(bytes >> 8 * (s & 7)) & 0xFFu;
        result |= ((s & 8) != 0 ? (byte & 0x80u) != 0 ? 0xFFu : 0u : byte) << 8 * i;
    }
    return result;
}
LWK_DEVICE int __dp4a(int x, int y, int sum)
{
    for (int i = 0; i < 4; i++)
        sum += (int)(int8_t)((unsigned)x >> 8 * i) * (int)(int8_t)((unsigned)y >> 8 * i);
    return sum;
}

#define LWK_EMU_LEAST_MOST(T)                                    \
    LWK_DEVICE T min(T x, T y) { return y < x ? y : x; }         \
    LWK_DEVICE T max(T x, T y) { return x < y ? y : x; }
LWK_EMU_LEAST_MOST(int)
LWK_EMU_LEAST_MOST(unsigned)
LWK_EMU_LEAST_MOST(long)
LWK_EMU_LEAST_MOST(unsigned long)
LWK_EMU_LEAST_MOST(long long)
LWK_EMU_LEAST_MOST(unsigned long long)
LWK_EMU_LEAST_MOST(float)
LWK_EMU_LEAST_MOST(double)

template <typename To, typename From> LWK_DEVICE To lwk_emu_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "bits are kept");
    To to;
    memcpy(&to, &x, sizeof to);
    return to;
}
LWK_DEVICE unsigned __float_as_uint(float x) { return lwk_emu_bits<unsigned>(x); }
LWK_DEVICE int __float_as_int(float x) { return lwk_emu_bits<int>(x); }
LWK_DEVICE float __uint_as_float(unsigned x) { return lwk_emu_bits<float>(x); }
LWK_DEVICE float __int_as_float(int x) { return lwk_emu_bits<float>(x); }
LWK_DEVICE unsigned long long __double_as_longlong(double x) { return lwk_emu_bits<unsigned long long>(x); }
LWK_DEVICE double __longlong_as_double(unsigned long long x) { return lwk_emu_bits<double>(x); }
/* The C library has these names for itself. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __exp10f(x) exp10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
LWK_DEVICE float __fdividef(float x, float y) { return x / y; }
LWK_DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
LWK_DEVICE float __frcp_rn(float x) { return 1.0f / x; }
LWK_DEVICE float __fsqrt_rn(float x) { return sqrtf(x); }
LWK_DEVICE float __fadd_rn(float x, float y) { return x + y; }
LWK_DEVICE float __fsub_rn(float x, float y) { return x - y; }
LWK_DEVICE float __fmul_rn(float x, float y) { return x * y; }
LWK_DEVICE float __fdiv_rn(float x, float y) { return x / y; }
LWK_DEVICE float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
LWK_DEVICE int __float2int_rn(float x) { return (int)rintf(x); }
LWK_DEVICE unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
LWK_DEVICE unsigned long long __float2ull_rn(float x) { return (unsigned long long)rintf(x); }

/* ---- launches
 * ---------------------------------------------------------------------------------------------------- */

template <typename T> struct lwk_same {
    typedef T type;
};

lw_status_t lwk_cuda_check(const char *what, cudaError_t error);
unsigned lwk_resident_blocks_impl(const void *kernel, unsigned threads, size_t shared_bytes);

template <typename... Params>
static inline lw_status_t lwk_launch_impl(const char *name, void (*kernel)(Params...), dim3 grid, unsigned threads,
                                          size_t shared_bytes, cudaStream_t stream, unsigned how,
                                          typename lwk_same<Params>::type... args)
{
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (blocks == 0)
        return LW_OK;
    if ((how & LWK_LAUNCH_RESIDENT) && blocks > lwk_resident_blocks_impl((const void *)kernel, threads, shared_bytes))
        return LW_ERR_INVALID;
    return lwk_cuda_check(name, lwk_emu_launch(name, grid, threads, shared_bytes, stream, (how & LWK_LAUNCH_RESIDENT) != 0,
                                               [kernel, args...] { kernel(args...); }));
}

#endif /* LWK_EMU_LANG_EMU_H */
