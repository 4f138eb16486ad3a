/* step.cuh - what the kernels of a step share: which (session, KV head) and which queries a block works for, rows of 8
 * elements a thread in any dtype or encoding, and sums over the threads of a row.
 *
 * A row of head_dim elements is read by LANES neighbouring threads, 8 elements each; threads beyond head_dim idle.
 * A block works for all queries of one (session, KV head) at once, QC of them at a time, so that rows are read once
 * where that is enough: query q of the group is (query token q / group, query head head * group + q % group). */
#ifndef LWK_CUDA_STEP_CUH
#define LWK_CUDA_STEP_CUH

#include "kernels/cuda/dev.cuh"

#define STEP_THREADS 256u
#define STEP_WARPS (STEP_THREADS / 32u)

/* Of the workspace, behind what select keeps there: sums of prepare, and merged partials of finish. */
uint64_t lwk_cuda_finish_bytes(const lwk_dims_t *dims);
uint64_t lwk_cuda_prepare_bytes(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens);
/* Loads the kernels of the step ops and asks for the shared memory that they need with this shape; NULL: whether they
 * load at all. */
lw_status_t lwk_cuda_load_step(const lwk_shape_t *shape);
lw_status_t lwk_cuda_prepare_load(const lwk_shape_t *shape);
lw_status_t lwk_cuda_score_load(const lwk_shape_t *shape);
lw_status_t lwk_cuda_attend_load(const lwk_shape_t *shape);
lw_status_t lwk_cuda_finish_load(const lwk_shape_t *shape);
/* Where that part of the step's workspace begins; NULL: the workspace is too small. */
uint8_t *lwk_cuda_step_work(const lwk_step_t *step);

LWK_DEVICE uint32_t lwk_lane(void)
{
    return threadIdx.x % 32u;
}
LWK_DEVICE uint32_t lwk_warp(void)
{
    return threadIdx.x / 32u;
}

/* ---- queries ---- */

LWK_DEVICE uint32_t lwk_query_count(const lwk_step_t *step)
{
    return step->query_tokens * step->shape.group;
}

/* Scratch row of query q. */
LWK_DEVICE size_t lwk_group_row(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t q)
{
    uint32_t group = step->shape.group;
    return lwk_query_row(step, s, q / group, head * group + q % group);
}

LWK_DEVICE float lwk_soft_cap(float x, float soft_cap)
{
    return soft_cap > 0.0f ? soft_cap * tanhf(x / soft_cap) : x;
}

/* ---- 8 elements of a row ---- */

/* Rows of a dtype, and of an encoding, have one set of names. STEP_HALF is bf16 or fp16, as a dtype says at run time: that
 * costs a branch and saves half of the kernels. */
typedef enum step_kind { STEP_FP32, STEP_HALF, STEP_INT8, STEP_INT4 } step_kind_t;

LWK_HD uint32_t lwk_kind_of_encoding(uint32_t encoding)
{
    return encoding == LW_ENCODING_BF16   ? STEP_HALF
           : encoding == LW_ENCODING_INT8 ? STEP_INT8
           : encoding == LW_ENCODING_INT4 ? STEP_INT4
                                          : STEP_FP32;
}

template <uint32_t KIND> LWK_DEVICE uint32_t lwk_kind_row_bytes(uint32_t head_dim)
{
    return KIND == STEP_FP32   ? 4 * head_dim
           : KIND == STEP_HALF ? 2 * head_dim
           : KIND == STEP_INT8 ? head_dim
                               : head_dim / 2;
}

LWK_DEVICE uint32_t lwk_kind_row_bytes(uint32_t kind, uint32_t head_dim)
{
    return kind == STEP_FP32 ? 4 * head_dim : kind == STEP_HALF ? 2 * head_dim : kind == STEP_INT8 ? head_dim : head_dim / 2;
}

template <uint32_t KIND> struct step_part;
template <> struct step_part<STEP_FP32> {
    uint4 low, high;
};
template <> struct step_part<STEP_HALF> {
    uint4 all;
};
template <> struct step_part<STEP_INT8> {
    uint2 all;
};
template <> struct step_part<STEP_INT4> {
    uint32_t all;
};

/* Part number `part` of the row at `row`; rows and parts are aligned to the size of a part. */
LWK_DEVICE void lwk_part_load(step_part<STEP_FP32> *to, const uint8_t *row, uint32_t part)
{
    to->low = ((const uint4 *)row)[2 * part];
    to->high = ((const uint4 *)row)[2 * part + 1];
}
LWK_DEVICE void lwk_part_load(step_part<STEP_HALF> *to, const uint8_t *row, uint32_t part)
{
    to->all = ((const uint4 *)row)[part];
}
LWK_DEVICE void lwk_part_load(step_part<STEP_INT8> *to, const uint8_t *row, uint32_t part)
{
    to->all = ((const uint2 *)row)[part];
}
LWK_DEVICE void lwk_part_load(step_part<STEP_INT4> *to, const uint8_t *row, uint32_t part)
{
    to->all = ((const uint32_t *)row)[part];
}

LWK_DEVICE void lwk_part_clear(step_part<STEP_FP32> *to)
{
    to->low = to->high = make_uint4(0, 0, 0, 0);
}
LWK_DEVICE void lwk_part_clear(step_part<STEP_HALF> *to)
{
    to->all = make_uint4(0, 0, 0, 0);
}
LWK_DEVICE void lwk_part_clear(step_part<STEP_INT8> *to)
{
    to->all = make_uint2(0, 0);
}
LWK_DEVICE void lwk_part_clear(step_part<STEP_INT4> *to)
{
    to->all = 0;
}

/* The dtype is that of STEP_HALF. */
LWK_DEVICE void lwk_part_floats(const step_part<STEP_HALF> *from, uint32_t dtype, float to[8])
{
    float2 a = lwk_unpack2(from->all.x, dtype), b = lwk_unpack2(from->all.y, dtype),
           c = lwk_unpack2(from->all.z, dtype), e = lwk_unpack2(from->all.w, dtype);
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y, to[4] = c.x, to[5] = c.y, to[6] = e.x, to[7] = e.y;
}
LWK_DEVICE void lwk_part_floats(const step_part<STEP_FP32> *from, uint32_t dtype, float to[8])
{
    to[0] = __uint_as_float(from->low.x), to[1] = __uint_as_float(from->low.y);
    to[2] = __uint_as_float(from->low.z), to[3] = __uint_as_float(from->low.w);
    to[4] = __uint_as_float(from->high.x), to[5] = __uint_as_float(from->high.y);
    to[6] = __uint_as_float(from->high.z), to[7] = __uint_as_float(from->high.w);
}
/* A byte with its sign flipped, as the low bits of 2^23, is 2^23 + 128 + code: two full-rate operations instead of a
 * conversion. */
LWK_DEVICE float lwk_code_float(uint32_t flipped, uint32_t byte)
{
    return __uint_as_float(__byte_perm(flipped, 0x4B000000u, 0x7440u | byte)) - 8388736.0f;
}
LWK_DEVICE void lwk_part_floats(const step_part<STEP_INT8> *from, uint32_t dtype, float to[8])
{
    uint32_t low = from->all.x ^ 0x80808080u, high = from->all.y ^ 0x80808080u;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        to[i] = lwk_code_float(low, i);
        to[4 + i] = lwk_code_float(high, i);
    }
}
/* Nibbles go to the high half of a byte: 16 times the code. */
LWK_DEVICE void lwk_part_floats(const step_part<STEP_INT4> *from, uint32_t dtype, float to[8])
{
    uint32_t even = (from->all << 4 & 0xF0F0F0F0u) ^ 0x80808080u, odd = (from->all & 0xF0F0F0F0u) ^ 0x80808080u;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        to[2 * i] = lwk_code_float(even, i) * 0.0625f;
        to[2 * i + 1] = lwk_code_float(odd, i) * 0.0625f;
    }
}

/* A query in shared memory: the first halves of all parts, then the second ones, so that 16-byte loads of neighbouring
 * threads meet no bank twice. */
template <uint32_t LANES> LWK_DEVICE uint32_t lwk_query_at(uint32_t j)
{
    uint32_t part = j / LWK_ROW_PART, k = j % LWK_ROW_PART;
    return k / 4 * (LANES * 4) + part * 4 + k % 4;
}
template <uint32_t LANES> LWK_DEVICE float lwk_query_dot(const float *query, uint32_t part, const float x[8])
{
    float4 a = ((const float4 *)query)[part], b = ((const float4 *)query)[LANES + part];
    float sum = x[0] * a.x;
    sum = fmaf(x[1], a.y, sum);
    sum = fmaf(x[2], a.z, sum);
    sum = fmaf(x[3], a.w, sum);
    sum = fmaf(x[4], b.x, sum);
    sum = fmaf(x[5], b.y, sum);
    sum = fmaf(x[6], b.z, sum);
    return fmaf(x[7], b.w, sum);
}

/* Sum over the LANES threads of a row; each of them gets it. The whole warp calls. */
template <uint32_t LANES> LWK_DEVICE float lwk_row_sum(float x)
{
#pragma unroll
    for (uint32_t step = LANES / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(LWK_WARP_ALL, x, (int)step);
    return x;
}

LWK_DEVICE float lwk_warp_max(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(LWK_WARP_ALL, x, step));
    return x;
}
LWK_DEVICE float lwk_warp_sum(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(LWK_WARP_ALL, x, step);
    return x;
}

/* ---- blocks of one launch that depend on each other ---- */

/* True in all threads of the last of `blocks` blocks that come here; what the others wrote before is visible to it, and the
 * counter is zero again. `flag` lies in shared memory. */
LWK_DEVICE bool lwk_last_block(uint32_t *flag, uint32_t *counter, uint32_t blocks)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *flag = atomicAdd(counter, 1u) == blocks - 1;
        if (*flag)
            *counter = 0;
    }
    __syncthreads();
    bool last = *flag != 0;
    if (last)
        __threadfence();
    __syncthreads();
    return last;
}

/* ---- work of a persistent grid ---- */

/* Numbers of a batch's items, one after the other: first[s] is that of session s's first one. */
typedef struct step_items {
    uint32_t first[LW_BATCH_MAX + 1];
} step_items_t;

/* first[s] holds the count of session s; afterwards the sum before it, and first[session_count] the total. One thread. */
LWK_DEVICE void lwk_items_sum(step_items_t *items, uint32_t session_count)
{
    uint32_t sum = 0;
    for (uint32_t s = 0; s < session_count; s++) {
        uint32_t count = items->first[s];
        items->first[s] = sum;
        sum += count;
    }
    items->first[session_count] = sum;
}

LWK_DEVICE uint32_t lwk_items_session(const step_items_t *items, uint32_t session_count, uint32_t item)
{
    uint32_t s = 0;
    while (s + 1 < session_count && items->first[s + 1] <= item)
        s++;
    return s;
}

/* Blocks that share the item tiles of one (session, KV head): together they fill the device, and no more. */
static inline uint32_t lwk_blocks_each(const lwk_dev_t *dev, uint32_t pairs, uint32_t tiles_max)
{
    uint32_t each = 2 * dev->processors / (pairs > 0 ? pairs : 1);
    each = each < 1 ? 1 : each > 32 ? 32 : each;
    return each < tiles_max ? each : tiles_max;
}

/* Returns run<kind of the dtype, LANES, QC>(args): QC is 4 while that is enough, else 8; fp32 rows are for tests. */
#define LWK_STEP_DISPATCH_LANES(shape, queries, lanes, run, ...)                        \
    return (shape)->dtype == LW_DTYPE_FP32 ? run<STEP_FP32, lanes, 4>(__VA_ARGS__)      \
           : (queries) <= 4               ? run<STEP_HALF, lanes, 4>(__VA_ARGS__)      \
                                          : run<STEP_HALF, lanes, 8>(__VA_ARGS__)
#define LWK_STEP_DISPATCH(shape, queries, run, ...)                                     \
    switch (lwk_row_lanes((shape)->head_dim)) {                                         \
    case 8: LWK_STEP_DISPATCH_LANES(shape, queries, 8, run, __VA_ARGS__);               \
    case 16: LWK_STEP_DISPATCH_LANES(shape, queries, 16, run, __VA_ARGS__);             \
    default: LWK_STEP_DISPATCH_LANES(shape, queries, 32, run, __VA_ARGS__);             \
    }

#endif /* LWK_CUDA_STEP_CUH */
