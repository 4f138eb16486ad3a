/* lang_nvcc.cuh - the dialect of lang.cuh for nvcc and sm_80 or newer: mostly names for single PTX instructions. */
#ifndef LWK_CUDA_LANG_NVCC_CUH
#define LWK_CUDA_LANG_NVCC_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "base/longwave_types.h"
#include "base/longwave_status.h"

#define LWK_KERNEL(threads, blocks_per_sm) static __global__ __launch_bounds__(threads, blocks_per_sm)
#define LWK_DEVICE static __device__ __forceinline__
#define LWK_CALLED static __device__ __noinline__
#define LWK_ARGS(type) const __grid_constant__ type
#define LWK_SHARED(type, name)                                        \
    extern __shared__ __align__(128) unsigned char lwk_shared_bytes[]; \
    type *const name = reinterpret_cast<type *>(lwk_shared_bytes)

/* ---- 64-bit atomics under the names that stdint gives the type
 * --------------------------------------------------- */

LWK_DEVICE uint64_t atomicAdd(uint64_t *p, uint64_t v)
{
    return ::atomicAdd((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicMax(uint64_t *p, uint64_t v)
{
    return ::atomicMax((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicMin(uint64_t *p, uint64_t v)
{
    return ::atomicMin((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicOr(uint64_t *p, uint64_t v)
{
    return ::atomicOr((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicAnd(uint64_t *p, uint64_t v)
{
    return ::atomicAnd((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicExch(uint64_t *p, uint64_t v)
{
    return ::atomicExch((unsigned long long *)p, (unsigned long long)v);
}
LWK_DEVICE uint64_t atomicCAS(uint64_t *p, uint64_t old, uint64_t v)
{
    return ::atomicCAS((unsigned long long *)p, (unsigned long long)old, (unsigned long long)v);
}

/* ---- loads and stores with an order
 * ------------------------------------------------------------------------------ */

LWK_DEVICE uint32_t lwk_load_acquire(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
LWK_DEVICE uint64_t lwk_load_acquire(const uint64_t *p)
{
    uint64_t v;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
LWK_DEVICE void lwk_store_release(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
LWK_DEVICE void lwk_store_release(uint64_t *p, uint64_t v)
{
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
LWK_DEVICE uint32_t lwk_load_acquire_sys(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
LWK_DEVICE uint64_t lwk_load_acquire_sys(const uint64_t *p)
{
    uint64_t v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
LWK_DEVICE void lwk_store_release_sys(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
LWK_DEVICE void lwk_store_release_sys(uint64_t *p, uint64_t v)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

LWK_DEVICE void lwk_pause(void)
{
    __nanosleep(20);
}

LWK_DEVICE uint64_t lwk_timer_ns(void)
{
    uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

/* ---- matrix units
 * ------------------------------------------------------------------------------------------------ */

/* d += a b of 16 x 16 by 16 x 8, fp32 sums. With g = lane / 4, t = lane % 4: a[0] holds row g, columns 2t and 2t + 1; a[1]
 * row g + 8; a[2], a[3] the same rows at columns + 8. b[0] holds rows 2t and 2t + 1 of column g, b[1] rows + 8. d[0], d[1] are
 * row g, columns 2t and 2t + 1; d[2], d[3] row g + 8. The whole warp calls. */
LWK_DEVICE void lwk_mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t dtype)
{
    if (dtype == LW_DTYPE_BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a b of 16 x 32 by 32 x 8, signed bytes, exact. a[0]: row g, columns 4t..4t + 3 (the first in the low byte); a[1] row
 * g + 8; a[2], a[3] columns + 16. b[0]: rows 4t..4t + 3 of column g; b[1] rows + 16. d as above. */
LWK_DEVICE void lwk_mma_s8_16832(int d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements: lanes 8i..8i + 7 give the addresses of the rows of matrix i (16 bytes each, in
 * shared memory, 16-byte aligned). r[i] holds row lane / 4, elements 2 (lane % 4) and + 1 of matrix i. */
LWK_DEVICE void lwk_ldmatrix_x4(uint32_t r[4], const void *shared)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
/* The same of the transposed matrices: r[i] holds rows 2 (lane % 4) and + 1, element lane / 4. */
LWK_DEVICE void lwk_ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* ---- global to shared memory
 * ------------------------------------------------------------------------------------ */

/* Starts a copy of 16 aligned bytes past L1, or writes zeros when not valid (`global` is then not read). Visible to this
 * thread after lwk_copy_wait, to others after a barrier behind that. */
LWK_DEVICE void lwk_copy16_async(void *shared, const void *global, bool valid)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
}
LWK_DEVICE void lwk_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of this thread's committed groups are under way. */
template <int N> LWK_DEVICE void lwk_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Asks for `bytes` (a multiple of 16) from a 16-byte aligned address on to be brought into L2. One thread is enough. */
LWK_DEVICE void lwk_prefetch(const void *global, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
#endif
}

/* ---- one instruction each: 2^x, log2 x, 1 / sqrt(x) to 2^-22 of the result; subnormal numbers are 0
 * -------------------------------- */

LWK_DEVICE float lwk_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
LWK_DEVICE float lwk_log2(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
LWK_DEVICE float lwk_rsqrt(float x)
{
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- launches that overlap
 * -------------------------------------------------------------------------------------- */

LWK_DEVICE void lwk_wait_before(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
LWK_DEVICE void lwk_let_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- launches
 * --------------------------------------------------------------------------------------------------- */

template <typename T> struct lwk_same {
    typedef T type;
};

/* launch.cu */
lw_status_t lwk_launch_raw(const char *name, const void *kernel, dim3 grid, unsigned threads, size_t shared_bytes,
                           cudaStream_t stream, unsigned how, void **args);
unsigned lwk_resident_blocks_impl(const void *kernel, unsigned threads, size_t shared_bytes);

template <typename... Params>
static inline lw_status_t lwk_launch_impl(const char *name, void (*kernel)(Params...), dim3 grid, unsigned threads,
                                          size_t shared_bytes, cudaStream_t stream, unsigned how, Params... args)
{
    void *list[] = {(void *)&args..., nullptr};
    return lwk_launch_raw(name, (const void *)kernel, grid, threads, shared_bytes, stream, how, list);
}

#endif /* LWK_CUDA_LANG_NVCC_CUH */
