/* exact.cuh - exact attention over rows of K and V wherever they lie, on the matrix units: 16-bit rows of head_dim 64, 128 or
 * 256 (rows.cuh serves the rest). Each warp takes groups of 16 rows by itself, with a running maximum, and meets the others once, at
 * the end of the partial slot: they are merged in the order of their numbers.
 *
 * Of a group a warp asks for everything at once: rows of K into registers, as the second operand of queries times keys, and rows
 * of V into shared memory, from where they are read transposed as the first operand of values times weights. A query's
 * elements are permuted like the keys': every thread takes 16 neighbouring bytes of a row. Weights are two numbers of the
 * dtype, the second being what the first one lost. */
#ifndef LWK_CUDA_EXACT_CUH
#define LWK_CUDA_EXACT_CUH

#include "kernels/cuda/step.cuh"

#define EXACT_QUERIES 8u /* queries of one pass over the rows */
#define EXACT_GROUP 16u  /* rows that a warp attends at a time */
/* An empty slot's exponent would make NaN of differences. */
#define EXACT_NOTHING (-1.0e30f)

/* Whether a shape is one that this file serves. */
static inline bool lwk_exact_serves(const lwk_shape_t *shape)
{
    return shape->dtype != LW_DTYPE_FP32 && (shape->head_dim == 64 || shape->head_dim == 128 || shape->head_dim == 256);
}

/* Returns run<head_dim, dtype>(args) of a shape that it serves. */
#define LWK_EXACT_DISPATCH_DTYPE(shape, dim, run, ...)                                \
    return (shape)->dtype == LW_DTYPE_BF16 ? run<dim, LW_DTYPE_BF16>(__VA_ARGS__)     \
                                           : run<dim, LW_DTYPE_FP16>(__VA_ARGS__)
#define LWK_EXACT_DISPATCH(shape, run, ...)                                           \
    switch ((shape)->head_dim) {                                                      \
    case 64: LWK_EXACT_DISPATCH_DTYPE(shape, 64, run, __VA_ARGS__);                   \
    case 128: LWK_EXACT_DISPATCH_DTYPE(shape, 128, run, __VA_ARGS__);                 \
    default: LWK_EXACT_DISPATCH_DTYPE(shape, 256, run, __VA_ARGS__);                  \
    }

/* One row, as a source tells about it. */
typedef struct exact_row {
    const uint8_t *key, *value; /* NULL: beyond the end */
    uint32_t visible;           /* bit of each query token that sees it */
} exact_row_t;

template <uint32_t D> union exact_warp {
    alignas(16) uint16_t value[EXACT_GROUP][D + 8];
    float sum[EXACT_QUERIES][D + 4];
};

template <uint32_t D, uint32_t WARPS> struct exact_shared {
    exact_warp<D> warp[WARPS];
    alignas(16) uint16_t query[EXACT_QUERIES][D + 32];
    float largest[WARPS][EXACT_QUERIES], z[WARPS][EXACT_QUERIES];
};

/* What a warp has summed up: thread (lane / 4, lane % 4) = (g, t) holds elements 16 i + g and + 8 of queries 2 t and 2 t + 1, and of query
 * g the largest logit and its own rows' part of z. */
template <uint32_t D> struct exact_sum {
    float o[D / 16][4];
    float largest, z;
};

/* Queries first .. first + 7 in the dtype, zeros beyond the last: they came in it. Ends with a barrier. */
template <uint32_t D, uint32_t DTYPE, uint32_t WARPS>
LWK_DEVICE void exact_begin(exact_shared<D, WARPS> *sh, exact_sum<D> *sum, const lwk_step_t *step, uint32_t s, uint32_t head,
                            uint32_t first)
{
    uint32_t count = lwk_query_count(step);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < EXACT_QUERIES * D / 4; i += 32 * WARPS) {
        uint32_t q = i / (D / 4), j = i % (D / 4) * 4;
        uint2 two = make_uint2(0, 0);
        if (first + q < count) {
            float4 x = *(const float4 *)(step->scratch.query + lwk_group_row(step, s, head, first + q) * D + j);
            two = make_uint2(lwk_pack2(x.x, x.y, DTYPE), lwk_pack2(x.z, x.w, DTYPE));
        }
        *(uint2 *)&sh->query[q][j] = two;
    }
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++)
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            sum->o[i][k] = 0.0f;
    sum->largest = EXACT_NOTHING;
    sum->z = 0.0f;
    __syncthreads();
}

LWK_DEVICE const uint8_t *exact_shuffle(const uint8_t *at, uint32_t lane)
{
    return (const uint8_t *)(uintptr_t)__shfl_sync(LWK_WARP_ALL, (uint64_t)(uintptr_t)at, (int)lane);
}

/* Starts the copy of a group's rows of V; lane i % 16 brings row i. */
template <uint32_t D> LWK_DEVICE void exact_copy_values(exact_warp<D> *to, const exact_row_t *mine)
{
    const uint32_t PIECES = D / 8; /* of 16 bytes in a row */
#pragma unroll
    for (uint32_t i = 0; i < EXACT_GROUP * PIECES / 32; i++) {
        uint32_t at = 32 * i + lwk_lane(), row = at / PIECES, piece = at % PIECES;
        const uint8_t *from = exact_shuffle(mine->value, row);
        lwk_copy16_async(&to->value[row][8 * piece], from + 16 * piece, from != NULL);
    }
    lwk_copy_commit();
}

/* Logits of 8 rows of the group from row 8 * half on: this thread's of query g are rows 2 t and 2 t + 1 of them. */
template <uint32_t D, uint32_t DTYPE, uint32_t WARPS>
LWK_DEVICE void exact_logits(const exact_shared<D, WARPS> *sh, const uint4 key[D / 32], float logit[2])
{
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4;
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (uint32_t i = 0; i < D / 32; i++) {
        uint4 q = *(const uint4 *)&sh->query[g][32 * i + 8 * t];
        uint32_t a[4] = {q.x, 0, q.y, 0}, b[2] = {key[i].x, key[i].y};
        lwk_mma_16816(d, a, b, DTYPE);
        uint32_t c[4] = {q.z, 0, q.w, 0}, e[2] = {key[i].z, key[i].w};
        lwk_mma_16816(d, c, e, DTYPE);
    }
    logit[0] = d[0];
    logit[1] = d[1];
}

/* Logits to weights, in place; the sums so far are brought to the new maximum. */
template <uint32_t D> LWK_DEVICE void exact_weigh(exact_sum<D> *sum, float x[4])
{
    float largest = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    largest = fmaxf(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, 2));
    largest = fmaxf(largest, sum->largest);
    float factor = __expf(sum->largest - largest);
    if (__any_sync(LWK_WARP_ALL, largest > sum->largest)) {
        int t = (int)(lwk_lane() % 4);
        float low = __shfl_sync(LWK_WARP_ALL, factor, 8 * t), high = __shfl_sync(LWK_WARP_ALL, factor, 8 * t + 4);
#pragma unroll
        for (uint32_t i = 0; i < D / 16; i++) {
            sum->o[i][0] *= low;
            sum->o[i][1] *= high;
            sum->o[i][2] *= low;
            sum->o[i][3] *= high;
        }
    }
    sum->largest = largest;
    sum->z *= factor;
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
        x[k] = __expf(x[k] - largest);
        sum->z += x[k];
    }
}

/* Adds weights times the group's rows of V, which have arrived. */
template <uint32_t D, uint32_t DTYPE>
LWK_DEVICE void exact_values(const exact_warp<D> *from, exact_sum<D> *sum, const float w[4])
{
    uint32_t high[2], rest[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        high[half] = lwk_pack2(w[2 * half], w[2 * half + 1], DTYPE);
        float2 kept = lwk_unpack2(high[half], DTYPE);
        rest[half] = lwk_pack2(w[2 * half] - kept.x, w[2 * half + 1] - kept.y, DTYPE);
    }
    uint32_t lane = lwk_lane(), row = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        uint32_t a[4];
        lwk_ldmatrix_x4_trans(a, &from->value[row][16 * i + column]);
        lwk_mma_16816(sum->o[i], a, high, DTYPE);
        lwk_mma_16816(sum->o[i], a, rest, DTYPE);
    }
}

/* Adds this warp's groups of `total` rows; exact_row_at(source, row) tells where each is. `bit` is that of the token of query
 * g in exact_row_t.visible, 0 for none. */
template <uint32_t D, uint32_t DTYPE, uint32_t WARPS, typename SOURCE>
LWK_DEVICE void exact_rows(exact_shared<D, WARPS> *sh, exact_sum<D> *sum, const lwk_shape_t *shape, const SOURCE *source,
                           uint32_t total, uint32_t bit)
{
    exact_warp<D> *mine = &sh->warp[lwk_warp()];
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4, in_group = lwk_lane() % EXACT_GROUP;
    exact_row_t next = {NULL, NULL, 0};
    if (lwk_warp() * EXACT_GROUP + in_group < total)
        next = exact_row_at(source, lwk_warp() * EXACT_GROUP + in_group);
    for (uint32_t base = lwk_warp() * EXACT_GROUP; base < total; base += WARPS * EXACT_GROUP) {
        exact_row_t row = next;
        exact_copy_values<D>(mine, &row);
        uint4 key[2][D / 32];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint8_t *from = exact_shuffle(row.key, 8 * half + g);
#pragma unroll
            for (uint32_t i = 0; i < D / 32; i++)
                key[half][i] = from != NULL ? ((const uint4 *)from)[4 * i + t] : make_uint4(0, 0, 0, 0);
        }
        uint32_t further = base + WARPS * EXACT_GROUP + in_group;
        next.key = next.value = NULL;
        next.visible = 0;
        if (further < total)
            next = exact_row_at(source, further);
        float x[4];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            exact_logits<D, DTYPE, WARPS>(sh, key[half], x + 2 * half);
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t visible = __shfl_sync(LWK_WARP_ALL, row.visible, (int)(8 * half + 2 * t + k));
                x[2 * half + k] = (visible & bit) != 0 ? lwk_soft_cap(shape->scale * x[2 * half + k], shape->soft_cap)
                                                       : -INFINITY;
            }
        }
        exact_weigh<D>(sum, x);
        lwk_copy_wait<0>();
        __syncwarp(LWK_WARP_ALL);
        exact_values<D, DTYPE>(mine, sum, x);
        __syncwarp(LWK_WARP_ALL);
    }
}

/* Merges the warps and writes partial slot `slot` of queries first and following, with `note`. The whole block calls. */
template <uint32_t D, uint32_t WARPS>
LWK_DEVICE void exact_end(exact_shared<D, WARPS> *sh, const exact_sum<D> *sum, const lwk_step_t *step, uint32_t s, uint32_t head,
                          uint32_t first, uint32_t slot, float note)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4, count = min(lwk_query_count(step) - first, EXACT_QUERIES);
    float (*to)[D + 4] = sh->warp[lwk_warp()].sum;
    float z = sum->z;
    z += __shfl_xor_sync(LWK_WARP_ALL, z, 1);
    z += __shfl_xor_sync(LWK_WARP_ALL, z, 2);
    if (t == 0) {
        sh->largest[lwk_warp()][g] = sum->largest;
        sh->z[lwk_warp()][g] = z;
    }
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++)
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            to[2 * t + k % 2][16 * i + k / 2 * 8 + g] = sum->o[i][k];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count * (D / 4); i += 32 * WARPS) {
        uint32_t q = i / (D / 4), j = i % (D / 4) * 4;
        float largest = EXACT_NOTHING, all = 0.0f;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++)
            largest = fmaxf(largest, sh->largest[w][q]);
        float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) {
            float factor = __expf(sh->largest[w][q] - largest);
            float4 x = *(const float4 *)&sh->warp[w].sum[q][j];
            o.x = fmaf(factor, x.x, o.x);
            o.y = fmaf(factor, x.y, o.y);
            o.z = fmaf(factor, x.z, o.z);
            o.w = fmaf(factor, x.w, o.w);
            all = fmaf(factor, sh->z[w][q], all);
        }
        size_t at = lwk_group_row(step, s, head, first + q) * scratch->partial_capacity + slot;
        *(float4 *)(scratch->partial_out + at * D + j) = o;
        if (j == 0) {
            lwk_partial_t partial = {all > 0.0f ? largest : -INFINITY, all, 0.0f, note};
            scratch->partial[at] = partial;
        }
    }
}

/* Bit of query g's token for a pass that begins with query `first`. */
LWK_DEVICE uint32_t exact_bit(const lwk_step_t *step, uint32_t first)
{
    uint32_t q = first + lwk_lane() / 4;
    return q < lwk_query_count(step) ? 1u << (q / step->shape.group) : 0u;
}

#endif /* LWK_CUDA_EXACT_CUH */
