/* merge.cuh - merging partials: a running softmax sum of one query in the registers of a warp, 4 neighbouring elements a
 * lane (8 above head_dim 128). */
#ifndef LWK_CUDA_MERGE_CUH
#define LWK_CUDA_MERGE_CUH

#include "kernels/cuda/step.cuh"

typedef struct merge_sum {
    float m, z, t;
    float4 o[2]; /* elements 4 lane .., and 128 further */
} merge_sum_t;

LWK_DEVICE merge_sum_t lwk_merge_none(void)
{
    merge_sum_t sum = {-INFINITY, 0.0f, 0.0f, {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)}};
    return sum;
}

LWK_DEVICE void lwk_merge_axpy(float4 *to, float w, float4 x)
{
    to->x = fmaf(w, x.x, to->x);
    to->y = fmaf(w, x.y, to->y);
    to->z = fmaf(w, x.z, to->z);
    to->w = fmaf(w, x.w, to->w);
}

LWK_DEVICE void lwk_merge_scale(float4 *x, float w)
{
    x->x *= w;
    x->y *= w;
    x->z *= w;
    x->w *= w;
}

#define MERGE_AHEAD 8u /* partials whose values a lane loads before it uses the first */

/* Adds up to 32 partials, lane i bringing the addresses of number i (NULL: none); values are read of those that weigh
 * something. In the order of the lanes. The whole warp calls. */
LWK_DEVICE void lwk_merge_add(merge_sum_t *sum, const lwk_partial_t *partial, const float *value, uint32_t head_dim)
{
    lwk_partial_t mine = {-INFINITY, 0.0f, 0.0f, 0.0f};
    if (partial != NULL) {
        float4 x = *(const float4 *)partial;
        if (x.y > 0.0f) {
            mine.m = x.x;
            mine.z = x.y;
            mine.t = x.z;
        }
    }
    uint32_t some = __ballot_sync(LWK_WARP_ALL, mine.z > 0.0f);
    if (some == 0)
        return;
    float m = fmaxf(sum->m, lwk_warp_max(mine.m));
    float factor = sum->m > -INFINITY ? __expf(sum->m - m) : 0.0f;
    float weight = mine.z > 0.0f ? __expf(mine.m - m) : 0.0f;
    sum->m = m;
    sum->z = fmaf(sum->z, factor, lwk_warp_sum(weight * mine.z));
    sum->t = fmaf(sum->t, factor, lwk_warp_sum(weight * mine.t));
    lwk_merge_scale(&sum->o[0], factor);
    lwk_merge_scale(&sum->o[1], factor);
    uint32_t lane = lwk_lane();
    bool low = 4 * lane < head_dim, high = 4 * lane + 128 < head_dim;
    for (uint32_t base = 0; base < 32 && some >> base != 0; base += MERGE_AHEAD) {
        float4 x[MERGE_AHEAD], y[MERGE_AHEAD];
        float w[MERGE_AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < MERGE_AHEAD; i++) {
            w[i] = __shfl_sync(LWK_WARP_ALL, weight, (int)(base + i));
            uint64_t at = __shfl_sync(LWK_WARP_ALL, (uint64_t)(uintptr_t)value, (int)(base + i));
            const float4 *from = (const float4 *)(uintptr_t)at;
            bool weighs = some >> (base + i) & 1u;
            x[i] = y[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (weighs && low)
                x[i] = from[lane];
            if (weighs && high)
                y[i] = from[lane + 32];
        }
#pragma unroll
        for (uint32_t i = 0; i < MERGE_AHEAD; i++) {
            lwk_merge_axpy(&sum->o[0], w[i], x[i]);
            lwk_merge_axpy(&sum->o[1], w[i], y[i]);
        }
    }
}

/* Puts the value correction t * shift into o. */
LWK_DEVICE void lwk_merge_shift(merge_sum_t *sum, const float *shift, uint32_t head_dim)
{
    const float4 *from = (const float4 *)shift;
    uint32_t lane = lwk_lane();
    if (sum->t != 0.0f && 4 * lane < head_dim)
        lwk_merge_axpy(&sum->o[0], sum->t, from[lane]);
    if (sum->t != 0.0f && 4 * lane + 128 < head_dim)
        lwk_merge_axpy(&sum->o[1], sum->t, from[lane + 32]);
    sum->t = 0.0f;
}

LWK_DEVICE void lwk_merge_store(const merge_sum_t *sum, lwk_partial_t *partial, float *value, uint32_t head_dim)
{
    float4 *to = (float4 *)value;
    uint32_t lane = lwk_lane();
    if (lane == 0) {
        lwk_partial_t p = {sum->m, sum->z, sum->t, 0.0f};
        *partial = p;
    }
    if (4 * lane < head_dim)
        to[lane] = sum->o[0];
    if (4 * lane + 128 < head_dim)
        to[lane + 32] = sum->o[1];
}

/* Sums of the warps of a block. */
typedef struct merge_shared {
    alignas(16) float o[STEP_WARPS][LW_HEAD_DIM_MAX];
    lwk_partial_t head[STEP_WARPS];
} merge_shared_t;

/* Adds up the warps' sums, in their order; warp 0 gets the result. The whole block calls. */
LWK_DEVICE void lwk_merge_warps(merge_shared_t *sh, merge_sum_t *sum, uint32_t head_dim)
{
    lwk_merge_store(sum, &sh->head[lwk_warp()], sh->o[lwk_warp()], head_dim);
    __syncthreads();
    if (lwk_warp() != 0)
        return;
    *sum = lwk_merge_none();
    uint32_t w = lwk_lane();
    lwk_merge_add(sum, w < STEP_WARPS ? &sh->head[w] : NULL, w < STEP_WARPS ? sh->o[w] : NULL, head_dim);
}

#endif /* LWK_CUDA_MERGE_CUH */
