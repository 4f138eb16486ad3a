/* rows.cuh - exact attention of a block's queries over rows of K and V wherever they lie (steady zone, pages, landing
 * memory), as a running softmax sum. Passes of ROWS rows: every thread first loads all its parts of K and V, so that a
 * pass has ROWS * head_dim * 4 bytes of 16-bit rows in flight, then logits, weights and values follow from registers. */
#ifndef LWK_CUDA_ROWS_CUH
#define LWK_CUDA_ROWS_CUH

#include "kernels/cuda/step.cuh"

#define ROWS_EACH 4u /* rows of K, and of V, that a thread has a part of in one pass */

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct rows_config {
    static const uint32_t GROUPS = STEP_THREADS / LANES; /* rows that the block reads side by side */
    static const uint32_t ROWS = ROWS_EACH * GROUPS;
    static const uint32_t WIDTH = LANES * LWK_ROW_PART;
};

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct rows_shared {
    typedef rows_config<KIND, LANES, QC> config;
    alignas(16) float query[QC][config::WIDTH]; /* lwk_query_at() */
    float weight[QC][config::ROWS];
    float sum[STEP_WARPS][config::WIDTH];
    float largest[QC], z[QC], factor[QC];
    uint32_t visible_bit[QC]; /* bit of the query's token in `visible` */
    /* of the pass: addresses, NULL beyond its end, and which query tokens see the row */
    const uint8_t *key[config::ROWS], *value[config::ROWS];
    uint32_t visible[config::ROWS];
};

/* Sums of one thread: 8 elements of each query over the rows that it reads. */
template <uint32_t QC> struct rows_sum {
    float o[QC][LWK_ROW_PART];
};

/* Loads queries first .. first + QC - 1 (zeros beyond the last) and empties the sums. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_rows_begin(rows_shared<KIND, LANES, QC> *sh, rows_sum<QC> *sum, const lwk_step_t *step, uint32_t s,
                               uint32_t head, uint32_t first)
{
    const uint32_t WIDTH = LANES * LWK_ROW_PART;
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < QC * WIDTH; i += STEP_THREADS) {
        uint32_t q = first + i / WIDTH, j = i % WIDTH;
        sh->query[i / WIDTH][lwk_query_at<LANES>(j)] =
            q < count && j < d ? step->scratch.query[lwk_group_row(step, s, head, q) * d + j] : 0.0f;
    }
    if (threadIdx.x < QC) {
        sh->largest[threadIdx.x] = -INFINITY;
        sh->z[threadIdx.x] = 0.0f;
        sh->visible_bit[threadIdx.x] = 1u << min((first + threadIdx.x) / step->shape.group, 31u);
    }
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
#pragma unroll
        for (uint32_t j = 0; j < LWK_ROW_PART; j++)
            sum->o[q][j] = 0.0f;
}

/* One query of the pass: weights e^(x - largest), and what the sums so far are to be multiplied with. One warp. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_rows_weigh(rows_shared<KIND, LANES, QC> *sh, uint32_t q)
{
    const uint32_t ROWS = rows_config<KIND, LANES, QC>::ROWS;
    float before = sh->largest[q], largest = before, z = 0.0f;
    for (uint32_t r = lwk_lane(); r < ROWS; r += 32)
        largest = fmaxf(largest, sh->weight[q][r]);
    largest = lwk_warp_max(largest);
    /* Nothing visible so far: any finite reference makes weights of 0. */
    float from = largest > -INFINITY ? largest : 0.0f;
    for (uint32_t r = lwk_lane(); r < ROWS; r += 32) {
        float w = __expf(sh->weight[q][r] - from);
        sh->weight[q][r] = w;
        z += w;
    }
    z = lwk_warp_sum(z);
    if (lwk_lane() == 0) {
        float factor = before > -INFINITY ? __expf(before - from) : 0.0f;
        sh->factor[q] = factor;
        sh->z[q] = sh->z[q] * factor + z;
        sh->largest[q] = largest;
    }
}

/* Adds the rows that sh->key, value and visible name; the caller has filled them and passed a barrier. Ends with one. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_rows_pass(rows_shared<KIND, LANES, QC> *sh, rows_sum<QC> *sum, const lwk_shape_t *shape)
{
    const uint32_t GROUPS = rows_config<KIND, LANES, QC>::GROUPS;
    uint32_t part = threadIdx.x % LANES, group = threadIdx.x / LANES;
    bool inside = part * LWK_ROW_PART < shape->head_dim;
    step_part<KIND> key[ROWS_EACH], value[ROWS_EACH];
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++) {
        const uint8_t *at = sh->key[group + i * GROUPS];
        lwk_part_clear(&key[i]);
        if (at != NULL && inside)
            lwk_part_load(&key[i], at, part);
    }
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++) {
        const uint8_t *at = sh->value[group + i * GROUPS];
        lwk_part_clear(&value[i]);
        if (at != NULL && inside)
            lwk_part_load(&value[i], at, part);
    }
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++) {
        uint32_t r = group + i * GROUPS, visible = sh->key[r] != NULL ? sh->visible[r] : 0;
        float x[LWK_ROW_PART];
        lwk_part_floats(&key[i], shape->dtype, x);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            float dot = lwk_row_sum<LANES>(lwk_query_dot<LANES>(sh->query[q], part, x));
            if (part == 0)
                sh->weight[q][r] = (visible & sh->visible_bit[q]) != 0
                                       ? lwk_soft_cap(shape->scale * dot, shape->soft_cap)
                                       : -INFINITY;
        }
    }
    __syncthreads();
    for (uint32_t q = lwk_warp(); q < QC; q += STEP_WARPS)
        lwk_rows_weigh<KIND, LANES, QC>(sh, q);
    __syncthreads();
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float factor = sh->factor[q];
#pragma unroll
        for (uint32_t j = 0; j < LWK_ROW_PART; j++)
            sum->o[q][j] *= factor;
    }
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++) {
        float x[LWK_ROW_PART];
        lwk_part_floats(&value[i], shape->dtype, x);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            float w = sh->weight[q][group + i * GROUPS];
#pragma unroll
            for (uint32_t j = 0; j < LWK_ROW_PART; j++)
                sum->o[q][j] = fmaf(w, x[j], sum->o[q][j]);
        }
    }
    __syncthreads();
}

/* Sum over the block's groups of o[], to `to`[0 .. head_dim - 1]; decoded as center * z + channel * sum where channel is
 * not NULL. The order of additions depends on LANES only. The whole block calls. */
template <uint32_t LANES>
LWK_DEVICE void lwk_rows_reduce(float (*scratch)[LANES * LWK_ROW_PART], const float o[LWK_ROW_PART], uint32_t head_dim,
                                const float *center, const float *channel, float z, float *to)
{
    uint32_t part = threadIdx.x % LANES;
    __syncthreads();
#pragma unroll
    for (uint32_t j = 0; j < LWK_ROW_PART; j++) {
        float x = o[j];
#pragma unroll
        for (uint32_t step = 16; step >= LANES; step /= 2)
            x += __shfl_xor_sync(LWK_WARP_ALL, x, (int)step);
        if (lwk_lane() < LANES)
            scratch[lwk_warp()][part * LWK_ROW_PART + j] = x;
    }
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < head_dim; j += STEP_THREADS) {
        float x = 0.0f;
#pragma unroll
        for (uint32_t w = 0; w < STEP_WARPS; w++)
            x += scratch[w][j];
        to[j] = channel != NULL ? fmaf(channel[j], x, center[j] * z) : x;
    }
}

/* Writes the sums to partial slot `slot` of the block's queries, and `note` to its reserved field. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_rows_end(rows_shared<KIND, LANES, QC> *sh, const rows_sum<QC> *sum, const lwk_step_t *step,
                             uint32_t s, uint32_t head, uint32_t first, uint32_t slot, float note)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        if (first + q >= count)
            break;
        size_t at = lwk_group_row(step, s, head, first + q) * scratch->partial_capacity + slot;
        lwk_rows_reduce<LANES>(sh->sum, sum->o[q], d, NULL, NULL, 0.0f, scratch->partial_out + at * d);
        if (threadIdx.x == 0) {
            lwk_partial_t partial = {sh->largest[q], sh->z[q], 0.0f, note};
            scratch->partial[at] = partial;
        }
    }
}

#endif /* LWK_CUDA_ROWS_CUH */
