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
    sum->z *= factor;
    sum->t *= factor;
    lwk_merge_scale(&sum->o[0], factor);
    lwk_merge_scale(&sum->o[1], factor);
    uint32_t lane = lwk_lane();
    bool low = 4 * lane < head_dim, high = 4 * lane + 128 < head_dim;
#pragma unroll 8
    for (uint32_t i = 0; i < 32; i++) {
        float w = __shfl_sync(LWK_WARP_ALL, weight, (int)i);
        float z = __shfl_sync(LWK_WARP_ALL, mine.z, (int)i), t = __shfl_sync(LWK_WARP_ALL, mine.t, (int)i);
        uint64_t at = __shfl_sync(LWK_WARP_ALL, (uint64_t)(uintptr_t)value, (int)i);
        const float4 *from = (const float4 *)(uintptr_t)at;
        if ((some >> i & 1u) == 0)
            continue;
        sum->z = fmaf(w, z, sum->z);
        sum->t = fmaf(w, t, sum->t);
        if (low)
            lwk_merge_axpy(&sum->o[0], w, from[lane]);
        if (high)
            lwk_merge_axpy(&sum->o[1], w, from[lane + 32]);
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

#endif /* LWK_CUDA_MERGE_CUH */
