/* cuda_lang_cases.cu - see cuda_lang_cases.h. */
#include "unit/kernels/cuda_lang_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#include "kernels/cuda/lang.cuh"

/* ---- a device buffer with its host copy
 * -------------------------------------------------------------------------- */

template <typename T> struct buffer {
    T *host, *device;
    size_t count;
};

template <typename T> static buffer<T> buffer_new(size_t count)
{
    buffer<T> b = {(T *)calloc(count, sizeof(T)), NULL, count};
    if (cudaMalloc((void **)&b.device, count * sizeof(T)) != cudaSuccess)
        abort();
    return b;
}
template <typename T> static void buffer_put(buffer<T> &b)
{
    cudaMemcpy(b.device, b.host, b.count * sizeof(T), cudaMemcpyHostToDevice);
}
/* Waits for everything and reads the buffer back; false when the device reports an error. */
template <typename T> static bool buffer_get(buffer<T> &b)
{
    return cudaDeviceSynchronize() == cudaSuccess &&
           cudaMemcpy(b.host, b.device, b.count * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess;
}
template <typename T> static void buffer_free(buffer<T> &b)
{
    free(b.host);
    cudaFree(b.device);
}

int lang_devices(void)
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/* ---- barriers
 * ---------------------------------------------------------------------------------------------------- */

#define BARRIER_THREADS 160

struct barrier_shared {
    uint32_t value[BARRIER_THREADS];
};

/* out: per thread: the other end's value after three rounds of reversing; how many were odd; whether any was 7. */
LWK_KERNEL(BARRIER_THREADS, 1) void barrier_kernel(const uint32_t *in, uint32_t *out)
{
    LWK_SHARED(barrier_shared, sh);
    uint32_t i = threadIdx.x, n = blockDim.x, at = blockIdx.x * n + i;
    sh->value[i] = in[at];
    __syncthreads();
    for (int round = 0; round < 3; round++) {
        uint32_t other = sh->value[n - 1 - i];
        __syncthreads();
        sh->value[i] = other + 1;
        __syncthreads();
    }
    uint32_t odd = (uint32_t)__syncthreads_count((int)(in[at] & 1));
    uint32_t seven = (uint32_t)__syncthreads_or(in[at] == 7);
    out[3 * at] = sh->value[i];
    out[3 * at + 1] = odd;
    out[3 * at + 2] = seven != 0;
}

int lang_barrier(uint64_t seed)
{
    const uint32_t blocks = 9, n = BARRIER_THREADS;
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> in = buffer_new<uint32_t>(blocks * n), out = buffer_new<uint32_t>(3 * blocks * n);
    for (size_t i = 0; i < in.count; i++)
        in.host[i] = (uint32_t)lw_prng_below(&prng, 500);
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("barrier", barrier_kernel, dim3(blocks), n, sizeof(barrier_shared), 0, in.device, out.device) != LW_OK ||
        !buffer_get(out))
        wrong = -1;
    for (uint32_t b = 0; b < blocks && wrong >= 0; b++) {
        uint32_t odd = 0, seven = 0;
        for (uint32_t i = 0; i < n; i++) {
            odd += in.host[b * n + i] & 1;
            seven |= in.host[b * n + i] == 7;
        }
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t *o = &out.host[3 * (b * n + i)];
            wrong += o[0] != in.host[b * n + n - 1 - i] + 3 || o[1] != odd || o[2] != seven;
        }
    }
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

/* ---- warps
 * ------------------------------------------------------------------------------------------------------- */

LWK_KERNEL(64, 1) void shuffle_kernel(const uint64_t *in, uint64_t *out)
{
    uint32_t i = threadIdx.x;
    uint64_t x = in[i];
    uint64_t *o = out + 8 * i;
    o[0] = __shfl_sync(LWK_WARP_ALL, x, 5);
    o[1] = __shfl_sync(LWK_WARP_ALL, x, (int)(x & 31));
    o[2] = __shfl_up_sync(LWK_WARP_ALL, x, 3);
    o[3] = __shfl_down_sync(LWK_WARP_ALL, (uint32_t)x, 4);
    o[4] = __shfl_xor_sync(LWK_WARP_ALL, x, 6);
    o[5] = __shfl_xor_sync(LWK_WARP_ALL, (uint32_t)x, 1, 8);
    o[6] = (uint64_t)__float_as_uint(__shfl_down_sync(LWK_WARP_ALL, (float)(x & 1023), 1, 4));
    o[7] = __shfl_sync(LWK_WARP_ALL, (uint32_t)x, 1, 4);
}

int lang_shuffles(uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint64_t> in = buffer_new<uint64_t>(64), out = buffer_new<uint64_t>(8 * 64);
    for (size_t i = 0; i < 64; i++)
        in.host[i] = lw_prng_u64(&prng);
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("shuffle", shuffle_kernel, dim3(1), 64, 0, 0, in.device, out.device) != LW_OK || !buffer_get(out))
        wrong = -1;
    for (uint32_t i = 0; i < 64 && wrong >= 0; i++) {
        uint32_t lane = i % 32;
        const uint64_t *x = in.host + i / 32 * 32, *o = out.host + 8 * i;
        uint32_t narrow = lane % 4 + 1 < 4 ? lane + 1 : lane;
        wrong += o[0] != x[5];
        wrong += o[1] != x[x[lane] & 31];
        wrong += o[2] != x[lane >= 3 ? lane - 3 : lane];
        wrong += o[3] != (uint32_t)x[lane + 4 < 32 ? lane + 4 : lane];
        wrong += o[4] != x[lane ^ 6];
        wrong += o[5] != (uint32_t)x[lane ^ 1];
        wrong += o[6] != lwk_float_bits((float)(x[narrow] & 1023));
        wrong += o[7] != (uint32_t)x[(lane & ~3u) + 1];
    }
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

LWK_KERNEL(32, 1) void vote_kernel(const uint32_t *in, uint32_t *out)
{
    uint32_t x = in[threadIdx.x], *o = out + 9 * threadIdx.x;
    o[0] = __ballot_sync(LWK_WARP_ALL, x & 1);
    o[1] = __any_sync(LWK_WARP_ALL, x == 3) != 0;
    o[2] = __all_sync(LWK_WARP_ALL, x < 16) != 0;
    o[3] = __match_any_sync(LWK_WARP_ALL, x & 3);
    o[4] = __reduce_add_sync(LWK_WARP_ALL, x);
    o[5] = __reduce_max_sync(LWK_WARP_ALL, x);
    o[6] = __reduce_min_sync(LWK_WARP_ALL, x);
    o[7] = (uint32_t)(__popc(o[0]) + __ffs((int)o[0]) + __clz((int)x));
    o[8] = __brev(x);
    __syncwarp();
}

int lang_votes(uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> in = buffer_new<uint32_t>(32), out = buffer_new<uint32_t>(9 * 32);
    uint32_t odd = 0, any = 0, all = 1, sum = 0, most = 0, least = UINT32_MAX;
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t x = in.host[i] = (uint32_t)lw_prng_below(&prng, 17);
        odd |= (x & 1) << i;
        any |= x == 3;
        all &= x < 16;
        sum += x;
        most = x > most ? x : most;
        least = x < least ? x : least;
    }
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("vote", vote_kernel, dim3(1), 32, 0, 0, in.device, out.device) != LW_OK || !buffer_get(out))
        wrong = -1;
    for (uint32_t i = 0; i < 32 && wrong >= 0; i++) {
        const uint32_t *o = out.host + 9 * i;
        uint32_t x = in.host[i], same = 0, reversed = 0;
        for (uint32_t j = 0; j < 32; j++) {
            same |= (uint32_t)((in.host[j] & 3) == (x & 3)) << j;
            reversed |= (x >> j & 1) << (31 - j);
        }
        uint32_t bits = (uint32_t)__builtin_popcount(odd) + (uint32_t)__builtin_ffs((int)odd) +
                        (x == 0 ? 32u : (uint32_t)__builtin_clz(x));
        wrong += o[0] != odd || o[1] != any || o[2] != all || o[3] != same || o[4] != sum || o[5] != most ||
                 o[6] != least || o[7] != bits || o[8] != reversed;
    }
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

/* Lanes of one warp take two ways and meet in two masks; a block that is no multiple of a warp; threads that left. */
LWK_KERNEL(48, 1) void partial_kernel(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x, lane = i % 32, x = in[i];
    if (i >= 40)
        return; /* whoever is left still meets at the barrier below */
    if (i < 32) {
        if ((lane & 1) != 0)
            out[i] = __reduce_add_sync(0xAAAAAAAAu, x);
        else
            out[i] = __reduce_max_sync(0x55555555u, x);
    } else {
        out[i] = __shfl_xor_sync(0x000000FFu, x, 1);
    }
    __syncthreads();
    if (i == 0)
        out[48] = (uint32_t)__popc(__ballot_sync(1u, 1));
}

int lang_partial_warps(uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> in = buffer_new<uint32_t>(48), out = buffer_new<uint32_t>(49);
    uint32_t odd_sum = 0, even_most = 0;
    for (uint32_t i = 0; i < 48; i++) {
        uint32_t x = in.host[i] = (uint32_t)lw_prng_below(&prng, 1000);
        if (i < 32 && (i & 1) != 0)
            odd_sum += x;
        else if (i < 32)
            even_most = x > even_most ? x : even_most;
    }
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("partial", partial_kernel, dim3(1), 48, 0, 0, in.device, out.device) != LW_OK || !buffer_get(out))
        wrong = -1;
    for (uint32_t i = 0; i < 40 && wrong >= 0; i++)
        wrong += out.host[i] != (i >= 32 ? in.host[i ^ 1] : (i & 1) != 0 ? odd_sum : even_most);
    if (wrong >= 0)
        wrong += out.host[48] != 1;
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

/* ---- matrices
 * ---------------------------------------------------------------------------------------------------- */

struct mma_shared {
    uint16_t a[16][24]; /* rows of 48 bytes: no bank twice */
    uint16_t b[8][24];  /* the columns of b */
};

LWK_KERNEL(32, 1) void mma_kernel(const uint16_t *a, const uint16_t *b, float *d, uint32_t dtype)
{
    LWK_SHARED(mma_shared, sh);
    uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
    for (uint32_t i = lane; i < 16 * 16; i += 32)
        sh->a[i / 16][i % 16] = a[i];
    for (uint32_t i = lane; i < 8 * 16; i += 32)
        sh->b[i / 16][i % 16] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[2];
    for (uint32_t i = 0; i < 4; i++)
        memcpy(&fa[i], &sh->a[g + 8 * (i & 1)][2 * t + 8 * (i >> 1)], 4);
    for (uint32_t i = 0; i < 2; i++)
        memcpy(&fb[i], &sh->b[g][2 * t + 8 * i], 4);
    float fd[4] = {1, 2, 3, 4};
    lwk_mma_16816(fd, fa, fb, dtype);
    for (uint32_t i = 0; i < 4; i++)
        d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fd[i] - (float)(i + 1);
}

static uint16_t half_of(float x, uint32_t dtype)
{
    return dtype == LW_DTYPE_BF16 ? lwk_f32_to_bf16(x) : lwk_f32_to_f16(x);
}

int lang_mma_16(uint64_t seed, uint32_t dtype)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint16_t> a = buffer_new<uint16_t>(256), b = buffer_new<uint16_t>(128);
    buffer<float> d = buffer_new<float>(128);
    for (size_t i = 0; i < 256; i++) /* small whole numbers: sums are exact */
        a.host[i] = half_of((float)((int)lw_prng_below(&prng, 33) - 16), dtype);
    for (size_t i = 0; i < 128; i++)
        b.host[i] = half_of((float)((int)lw_prng_below(&prng, 33) - 16), dtype);
    buffer_put(a);
    buffer_put(b);
    int wrong = 0;
    if (lwk_launch("mma", mma_kernel, dim3(1), 32, sizeof(mma_shared), 0, a.device, b.device, d.device, dtype) != LW_OK ||
        !buffer_get(d))
        wrong = -1;
    for (uint32_t r = 0; r < 16 && wrong >= 0; r++)
        for (uint32_t c = 0; c < 8; c++) {
            float sum = 0;
            for (uint32_t k = 0; k < 16; k++)
                sum += lwk_load(a.host, dtype, r * 16 + k) * lwk_load(b.host, dtype, c * 16 + k);
            wrong += d.host[r * 8 + c] != sum;
        }
    buffer_free(a);
    buffer_free(b);
    buffer_free(d);
    return wrong;
}

LWK_KERNEL(32, 1) void mma_s8_kernel(const int8_t *a, const int8_t *b, int *d)
{
    uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4, fa[4], fb[2];
    for (uint32_t i = 0; i < 4; i++)
        fa[i] = *(const uint32_t *)&a[(g + 8 * (i & 1)) * 32 + 4 * t + 16 * (i >> 1)];
    for (uint32_t i = 0; i < 2; i++)
        fb[i] = *(const uint32_t *)&b[g * 32 + 4 * t + 16 * i];
    int fd[4] = {0, 0, 0, 0};
    lwk_mma_s8_16832(fd, fa, fb);
    for (uint32_t i = 0; i < 4; i++)
        d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fd[i];
}

int lang_mma_s8(uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<int8_t> a = buffer_new<int8_t>(512), b = buffer_new<int8_t>(256);
    buffer<int> d = buffer_new<int>(128);
    for (size_t i = 0; i < 512; i++)
        a.host[i] = (int8_t)lw_prng_u64(&prng);
    for (size_t i = 0; i < 256; i++)
        b.host[i] = (int8_t)lw_prng_u64(&prng);
    buffer_put(a);
    buffer_put(b);
    int wrong = 0;
    if (lwk_launch("mma_s8", mma_s8_kernel, dim3(1), 32, 0, 0, a.device, b.device, d.device) != LW_OK || !buffer_get(d))
        wrong = -1;
    for (uint32_t r = 0; r < 16 && wrong >= 0; r++)
        for (uint32_t c = 0; c < 8; c++) {
            int sum = 0;
            for (uint32_t k = 0; k < 32; k++)
                sum += a.host[r * 32 + k] * b.host[c * 32 + k];
            wrong += d.host[r * 8 + c] != sum;
        }
    buffer_free(a);
    buffer_free(b);
    buffer_free(d);
    return wrong;
}

struct ldmatrix_shared {
    uint16_t rows[32][8];
};

LWK_KERNEL(32, 1) void ldmatrix_kernel(const uint16_t *in, uint32_t *out)
{
    LWK_SHARED(ldmatrix_shared, sh);
    uint32_t lane = threadIdx.x, r[4], s[4];
    lwk_copy16(sh->rows[lane], in + 8 * lane);
    __syncwarp();
    lwk_ldmatrix_x4(r, sh->rows[lane]);
    lwk_ldmatrix_x4_trans(s, sh->rows[lane]);
    for (uint32_t m = 0; m < 4; m++) {
        out[8 * lane + m] = r[m];
        out[8 * lane + 4 + m] = s[m];
    }
}

int lang_ldmatrix(uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint16_t> in = buffer_new<uint16_t>(256);
    buffer<uint32_t> out = buffer_new<uint32_t>(256);
    for (size_t i = 0; i < 256; i++)
        in.host[i] = (uint16_t)lw_prng_u64(&prng);
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("ldmatrix", ldmatrix_kernel, dim3(1), 32, sizeof(ldmatrix_shared), 0, in.device, out.device) != LW_OK ||
        !buffer_get(out))
        wrong = -1;
    for (uint32_t lane = 0; lane < 32 && wrong >= 0; lane++)
        for (uint32_t m = 0; m < 4; m++) {
            const uint16_t *x = in.host + 64 * m;
            uint32_t row = lane / 4, two = 2 * (lane % 4);
            wrong += out.host[8 * lane + m] != ((uint32_t)x[8 * row + two] | (uint32_t)x[8 * row + two + 1] << 16);
            wrong += out.host[8 * lane + 4 + m] != ((uint32_t)x[8 * two + row] | (uint32_t)x[8 * (two + 1) + row] << 16);
        }
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

/* ---- copies, atomics, conversions
 * -------------------------------------------------------------------------------- */

struct copy_shared {
    uint4 stage[2][64];
};

/* Streams `tiles` tiles of 64 x 16 bytes through two stages; every third piece is left out. */
LWK_KERNEL(64, 1) void copy_kernel(const uint4 *in, uint4 *out, uint32_t tiles)
{
    LWK_SHARED(copy_shared, sh);
    uint32_t i = threadIdx.x;
    lwk_copy16_async(&sh->stage[0][i], in + i, i % 3 != 0);
    lwk_copy_commit();
    for (uint32_t tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles)
            lwk_copy16_async(&sh->stage[(tile + 1) & 1][i], in + 64 * (tile + 1) + i, i % 3 != 0);
        lwk_copy_commit();
        lwk_copy_wait<1>();
        __syncthreads();
        lwk_copy16(out + 64 * tile + i, &sh->stage[tile & 1][63 - i]);
        __syncthreads();
    }
}

int lang_async_copy(uint64_t seed)
{
    const uint32_t tiles = 5;
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> in = buffer_new<uint32_t>(tiles * 256), out = buffer_new<uint32_t>(tiles * 256);
    for (size_t i = 0; i < in.count; i++)
        in.host[i] = (uint32_t)lw_prng_u64(&prng);
    buffer_put(in);
    int wrong = 0;
    if (lwk_launch("copy", copy_kernel, dim3(1), 64, sizeof(copy_shared), 0, (const uint4 *)in.device, (uint4 *)out.device,
                   tiles) != LW_OK ||
        !buffer_get(out))
        wrong = -1;
    for (uint32_t i = 0; i < out.count && wrong >= 0; i++) {
        uint32_t from = 63 - i / 4 % 64;
        wrong += out.host[i] != (from % 3 != 0 ? in.host[i / 256 * 256 + 4 * from + i % 4] : 0);
    }
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

LWK_KERNEL(128, 1) void atomic_kernel(const uint32_t *in, uint32_t *histogram, uint64_t *wide, float *sum)
{
    uint32_t x = in[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(&histogram[x & 15], 1u);
    atomicMax(&histogram[16], x);
    atomicMin(&histogram[17], x);
    atomicOr(&histogram[18], x);
    atomicAdd(&wide[0], (uint64_t)x << 20);
    atomicMax(&wide[1], (uint64_t)x << 32);
    uint64_t seen = wide[2], expected; /* an addition made of compare-and-swap */
    do {
        expected = seen;
        seen = atomicCAS(&wide[2], expected, expected + x);
    } while (seen != expected);
    atomicAdd(sum, 1.0f);
}

int lang_atomics(uint64_t seed)
{
    const uint32_t blocks = 6, n = blocks * 128;
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> in = buffer_new<uint32_t>(n), histogram = buffer_new<uint32_t>(19);
    buffer<uint64_t> wide = buffer_new<uint64_t>(3);
    buffer<float> sum = buffer_new<float>(1);
    uint32_t expected[19] = {0};
    uint64_t total = 0;
    expected[17] = histogram.host[17] = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x = in.host[i] = (uint32_t)lw_prng_u64(&prng);
        expected[x & 15]++;
        expected[16] = x > expected[16] ? x : expected[16];
        expected[17] = x < expected[17] ? x : expected[17];
        expected[18] |= x;
        total += x;
    }
    buffer_put(in);
    buffer_put(histogram);
    buffer_put(wide);
    buffer_put(sum);
    int wrong = 0;
    if (lwk_launch("atomics", atomic_kernel, dim3(blocks), 128, 0, 0, in.device, histogram.device, wide.device, sum.device) !=
            LW_OK ||
        !buffer_get(histogram) || !buffer_get(wide) || !buffer_get(sum))
        wrong = -1;
    for (uint32_t i = 0; i < 19 && wrong >= 0; i++)
        wrong += histogram.host[i] != expected[i];
    if (wrong >= 0)
        wrong += (wide.host[0] != total << 20) + (wide.host[1] != (uint64_t)expected[16] << 32) + (wide.host[2] != total) +
                 (sum.host[0] != (float)n);
    buffer_free(in);
    buffer_free(histogram);
    buffer_free(wide);
    buffer_free(sum);
    return wrong;
}

/* Every 16-bit pattern to float and back, and packing. */
LWK_KERNEL(256, 1) void convert_kernel(uint32_t *out, uint32_t dtype)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float2 two = lwk_unpack2(i << 16 | (i ^ 0x8000u), dtype);
    out[2 * i] = __float_as_uint(lwk_to_float((uint16_t)i, dtype));
    out[2 * i + 1] = lwk_pack2(two.x, two.y, dtype);
}

int lang_convert(uint64_t seed)
{
    buffer<uint32_t> out = buffer_new<uint32_t>(2 * 65536);
    int wrong = 0;
    for (uint32_t dtype = LW_DTYPE_BF16; dtype <= LW_DTYPE_FP16 && wrong >= 0; dtype++) {
        if (lwk_launch("convert", convert_kernel, dim3(256), 256, 0, 0, out.device, dtype) != LW_OK || !buffer_get(out)) {
            wrong = -1;
            break;
        }
        for (uint32_t i = 0; i < 65536; i++) {
            float x = dtype == LW_DTYPE_BF16 ? lwk_bf16_to_f32((uint16_t)i) : lwk_f16_to_f32((uint16_t)i);
            if (isnan(x)) /* which NaN is free */
                wrong += !isnan(lwk_bits_float(out.host[2 * i]));
            else
                wrong += out.host[2 * i] != lwk_float_bits(x) || out.host[2 * i + 1] != (i << 16 | (i ^ 0x8000u));
        }
    }
    buffer_free(out);
    return wrong;
}

/* ---- blocks that wait for each other
 * ------------------------------------------------------------------------------ */

/* A barrier of the whole grid: `count` only grows. */
LWK_DEVICE void grid_barrier(uint32_t *count, uint32_t phase)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (lwk_load_acquire(count) < (phase + 1) * gridDim.x)
            lwk_pause();
    }
    __syncthreads();
}

/* Each block passes a number on to the next one, round by round. */
LWK_KERNEL(64, 1) void resident_kernel(uint32_t *count, uint32_t *cells, uint32_t rounds)
{
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t *from = cells + (round & 1) * gridDim.x, *to = cells + ((round + 1) & 1) * gridDim.x;
        if (threadIdx.x == 0)
            to[(blockIdx.x + 1) % gridDim.x] = __ldcg(&from[blockIdx.x]) + 1;
        grid_barrier(count, round);
    }
}

int lang_resident(uint64_t seed)
{
    const uint32_t rounds = 7;
    uint32_t blocks = lwk_resident_blocks(resident_kernel, 64, 0);
    blocks = blocks > 24 ? 24 : blocks;
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    buffer<uint32_t> count = buffer_new<uint32_t>(1), cells = buffer_new<uint32_t>(2 * 24);
    uint32_t first[24];
    for (uint32_t i = 0; i < 24; i++)
        first[i] = cells.host[i] = (uint32_t)lw_prng_below(&prng, 1000);
    buffer_put(count);
    buffer_put(cells);
    int wrong = 0;
    if (blocks == 0 ||
        lwk_launch_resident("resident", resident_kernel, dim3(blocks), 64, 0, 0, count.device, cells.device, rounds) != LW_OK ||
        !buffer_get(cells))
        wrong = -1;
    for (uint32_t i = 0; i < blocks && wrong >= 0; i++)
        wrong += cells.host[(rounds & 1) * blocks + (i + rounds) % blocks] != first[i] + rounds;
    buffer_free(count);
    buffer_free(cells);
    return wrong;
}

int lang_resident_too_many(void)
{
    uint32_t blocks = lwk_resident_blocks(resident_kernel, 64, 0) + 1;
    return lwk_launch_resident("resident", resident_kernel, dim3(blocks), 64, 0, 0, (uint32_t *)NULL, (uint32_t *)NULL, 1u) ==
                   LW_ERR_INVALID
               ? 0
               : 1;
}

/* ---- streams, events, graphs
 * -------------------------------------------------------------------------------------- */

LWK_KERNEL(64, 1) void scale_kernel(uint32_t *x, uint32_t factor, uint32_t plus)
{
    x[threadIdx.x] = x[threadIdx.x] * factor + plus;
}

int lang_stream_order(uint64_t seed)
{
    buffer<uint32_t> x = buffer_new<uint32_t>(64);
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    uint32_t expected = 3, *back;
    cudaHostAlloc((void **)&back, 64 * sizeof *back, cudaHostAllocDefault);
    for (uint32_t i = 0; i < 64; i++)
        x.host[i] = 3;
    int wrong = 0;
    cudaMemcpyAsync(x.device, x.host, 64 * sizeof(uint32_t), cudaMemcpyHostToDevice, stream);
    memset(x.host, 0xEE, 64 * sizeof(uint32_t)); /* pageable memory is ours again */
    for (uint32_t i = 0; i < 20; i++) {
        if (lwk_launch("scale", scale_kernel, dim3(1), 64, 0, stream, x.device, 3u, i) != LW_OK)
            wrong = -1;
        expected = expected * 3 + i;
    }
    cudaMemcpyAsync(back, x.device, 64 * sizeof(uint32_t), cudaMemcpyDeviceToHost, stream);
    if (cudaStreamSynchronize(stream) != cudaSuccess)
        wrong = -1;
    for (uint32_t i = 0; i < 64 && wrong >= 0; i++)
        wrong += back[i] != expected;
    cudaStreamDestroy(stream);
    cudaFreeHost(back);
    buffer_free(x);
    return wrong;
}

/* Two streams take turns at one buffer, ordered by events alone. */
int lang_events(uint64_t seed)
{
    buffer<uint32_t> x = buffer_new<uint32_t>(64);
    cudaStream_t streams[2];
    cudaEvent_t events[2];
    for (int i = 0; i < 2; i++) {
        cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming);
    }
    buffer_put(x);
    uint32_t expected = 0;
    int wrong = 0;
    for (uint32_t i = 0; i < 40; i++) {
        cudaStream_t s = streams[i & 1];
        if (i > 0)
            cudaStreamWaitEvent(s, events[(i - 1) & 1], 0);
        if (lwk_launch("scale", scale_kernel, dim3(1), 64, 0, s, x.device, 5u, i) != LW_OK)
            wrong = -1;
        cudaEventRecord(events[i & 1], s);
        expected = expected * 5 + i;
    }
    if (cudaEventSynchronize(events[1]) != cudaSuccess || cudaEventQuery(events[1]) != cudaSuccess || !buffer_get(x))
        wrong = -1;
    for (uint32_t i = 0; i < 64 && wrong >= 0; i++)
        wrong += x.host[i] != expected;
    for (int i = 0; i < 2; i++) {
        cudaEventDestroy(events[i]);
        cudaStreamDestroy(streams[i]);
    }
    buffer_free(x);
    return wrong;
}

int lang_capture(uint64_t seed)
{
    buffer<uint32_t> x = buffer_new<uint32_t>(64);
    cudaStream_t stream, side;
    cudaEvent_t fork, join;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join, cudaEventDisableTiming);
    buffer_put(x);
    int wrong = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess ? 0 : -1;
    for (uint32_t i = 1; i <= 3; i++)
        if (lwk_launch("scale", scale_kernel, dim3(1), 64, 0, stream, x.device, 2u, i) != LW_OK)
            wrong = -1;
    cudaEventRecord(fork, stream); /* a branch that comes back */
    cudaStreamWaitEvent(side, fork, 0);
    if (lwk_launch("scale", scale_kernel, dim3(1), 64, 0, side, x.device, 1u, 7u) != LW_OK)
        wrong = -1;
    cudaEventRecord(join, side);
    cudaStreamWaitEvent(stream, join, 0);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    if (cudaStreamEndCapture(stream, &graph) != cudaSuccess || cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess)
        return -1;
    cudaGraphDestroy(graph);
    if (!buffer_get(x))
        wrong = -1;
    for (uint32_t i = 0; i < 64 && wrong >= 0; i++)
        wrong += x.host[i] != 0; /* capturing ran nothing */
    uint32_t expected = 0;
    for (uint32_t i = 0; i < 10; i++) {
        if (cudaGraphLaunch(exec, stream) != cudaSuccess)
            wrong = -1;
        expected = (((expected * 2 + 1) * 2 + 2) * 2 + 3) + 7;
    }
    if (cudaStreamSynchronize(stream) != cudaSuccess || !buffer_get(x))
        wrong = -1;
    for (uint32_t i = 0; i < 64 && wrong >= 0; i++)
        wrong += x.host[i] != expected;
    cudaGraphExecDestroy(exec);
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaStreamDestroy(side);
    cudaStreamDestroy(stream);
    buffer_free(x);
    return wrong;
}

/* ---- the host, while a kernel runs
 * --------------------------------------------------------------------------------- */

/* Answers `rounds` questions: ask[0] is the number of the last one, answer[0] that of the last one answered. */
LWK_KERNEL(32, 1) void handshake_kernel(uint64_t *ask, uint64_t *answer, uint32_t rounds)
{
    for (uint64_t round = 1; round <= rounds; round++) {
        if (threadIdx.x == 0) {
            while (lwk_load_acquire_sys(ask) < round)
                lwk_pause();
            answer[1] = ask[1] * 2;
            lwk_store_release_sys(answer, round);
        }
        __syncwarp();
    }
}

int lang_handshake(uint64_t seed)
{
    const uint32_t rounds = 20;
    uint64_t *words;
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaHostAlloc((void **)&words, 4 * sizeof *words, cudaHostAllocMapped);
    memset(words, 0, 4 * sizeof *words);
    int wrong = 0;
    if (lwk_launch("handshake", handshake_kernel, dim3(1), 32, 0, stream, words, words + 2, rounds) != LW_OK)
        return -1;
    for (uint64_t round = 1; round <= rounds; round++) {
        words[1] = seed + round;
        __atomic_store_n(&words[0], round, __ATOMIC_RELEASE);
        while (__atomic_load_n(&words[2], __ATOMIC_ACQUIRE) < round)
            ;
        wrong += words[3] != 2 * (seed + round);
    }
    if (cudaStreamSynchronize(stream) != cudaSuccess)
        wrong = -1;
    cudaStreamDestroy(stream);
    cudaFreeHost(words);
    return wrong;
}

/* ---- wrong on purpose
 * --------------------------------------------------------------------------------------------- */

#if !defined(__CUDACC__)

LWK_KERNEL(BARRIER_THREADS, 1) void no_barrier_kernel(uint32_t *out)
{
    LWK_SHARED(barrier_shared, sh);
    sh->value[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = sh->value[blockDim.x - 1 - threadIdx.x];
}

int lang_bad_no_barrier(void)
{
    buffer<uint32_t> out = buffer_new<uint32_t>(BARRIER_THREADS);
    int wrong = 0;
    lwk_launch("no_barrier", no_barrier_kernel, dim3(1), BARRIER_THREADS, sizeof(barrier_shared), 0, out.device);
    buffer_get(out);
    for (uint32_t i = 0; i < BARRIER_THREADS; i++)
        wrong += out.host[i] != BARRIER_THREADS - 1 - i;
    buffer_free(out);
    return wrong;
}

LWK_KERNEL(64, 1) void unwritten_kernel(float *out)
{
    LWK_SHARED(float, sh);
    out[threadIdx.x] = sh[threadIdx.x];
}

int lang_bad_unwritten_shared(void)
{
    buffer<float> out = buffer_new<float>(64);
    int good = 0;
    lwk_launch("unwritten", unwritten_kernel, dim3(1), 64, 64 * sizeof(float), 0, out.device);
    buffer_get(out);
    for (uint32_t i = 0; i < 64; i++)
        good += !isnan(out.host[i]) && out.host[i] > -1.0f; /* odd seeds: a large negative number */
    buffer_free(out);
    return good;
}

LWK_KERNEL(64, 1) void no_wait_kernel(const uint4 *in, uint4 *out)
{
    LWK_SHARED(copy_shared, sh);
    lwk_copy16_async(&sh->stage[0][threadIdx.x], in + threadIdx.x, true);
    lwk_copy_commit();
    __syncthreads();
    lwk_copy16(out + threadIdx.x, &sh->stage[0][threadIdx.x]);
}

int lang_bad_copy_without_wait(void)
{
    buffer<uint32_t> in = buffer_new<uint32_t>(256), out = buffer_new<uint32_t>(256);
    buffer_put(in);
    lwk_launch("no_wait", no_wait_kernel, dim3(1), 64, sizeof(copy_shared), 0, (const uint4 *)in.device, (uint4 *)out.device);
    buffer_get(out);
    int wrong = 0;
    for (uint32_t i = 0; i < 256; i++)
        wrong += out.host[i] != in.host[i];
    buffer_free(in);
    buffer_free(out);
    return wrong;
}

LWK_KERNEL(64, 1) void divergent_barrier_kernel(void)
{
    if (threadIdx.x == 63)
        __syncwarp(0xC0000000u); /* with lane 30, which does not come */
    else
        __syncthreads();
}

void lang_bad_divergent_barrier(void)
{
    lwk_launch("divergent_barrier", divergent_barrier_kernel, dim3(1), 64, 0, 0);
    cudaDeviceSynchronize();
}

LWK_KERNEL(32, 1) void divergent_shuffle_kernel(void)
{
    if (threadIdx.x < 16)
        __shfl_sync(LWK_WARP_ALL, 1u, 0);
    else
        __shfl_xor_sync(LWK_WARP_ALL, 1u, 1);
}

void lang_bad_divergent_shuffle(void)
{
    lwk_launch("divergent_shuffle", divergent_shuffle_kernel, dim3(1), 32, 0, 0);
    cudaDeviceSynchronize();
}

LWK_KERNEL(32, 1) void other_barrier_kernel(void)
{
    if (threadIdx.x < 16)
        __syncthreads();
    else
        __syncthreads();
}

void lang_bad_other_barrier(void)
{
    lwk_launch("other_barrier", other_barrier_kernel, dim3(1), 32, 0, 0);
    cudaDeviceSynchronize();
}

LWK_KERNEL(32, 1) void overrun_kernel(void)
{
    LWK_SHARED(uint32_t, sh);
    sh[threadIdx.x + 1] = 1;
}

void lang_bad_shared_overrun(void)
{
    lwk_launch("overrun", overrun_kernel, dim3(1), 32, 32 * sizeof(uint32_t), 0);
    cudaDeviceSynchronize();
}

LWK_KERNEL(32, 1) void foreign_mask_kernel(void)
{
    __ballot_sync(0x0000FFFFu, 1);
}

void lang_bad_foreign_mask(void)
{
    lwk_launch("foreign_mask", foreign_mask_kernel, dim3(1), 32, 0, 0);
    cudaDeviceSynchronize();
}

#endif
