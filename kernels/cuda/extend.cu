/* extend.cu - exact attention of many query tokens over rows given in place, accumulated over calls. What it
 * computes is kernels/ref/extend.c.
 *
 * 16-bit rows: a block has 128 query rows (the heads of a group share each row of K and V that is loaded) and
 * lets tiles of rows pass through shared memory, two at a time; products and probabilities stay in registers.
 * Probabilities go to the matrix units as two 16-bit numbers each, so that the result is as good as fp32: 6
 * flops for each query, row and channel instead of 4. Other rows (fp32, or not 16-byte aligned): a warp for
 * each query row, plainly.
 *
 * Floor: flops over the matrix units' rate, or the rows' bytes once. Blocks read all rows from L2 again for
 * each 128 query rows. */
#include "kernels/cuda/build.cuh"

#define EXTEND_WARPS 8u
#define EXTEND_QUERIES (16 * EXTEND_WARPS) /* query rows of a block */
#define EXTEND_STAGES 2
#define LOG2E 1.4426950408889634f

/* What a kernel needs of an lwk_extend_t. */
typedef struct extend_args {
    lwk_extend_t call;
    lwk_shape_t shape;
} extend_args_t;

LWK_DEVICE float extend_logit(const lwk_shape_t *shape, float dot)
{
    float logit = shape->scale * dot;
    return shape->soft_cap > 0 ? shape->soft_cap * tanhf(logit / shape->soft_cap) : logit;
}

/* How many of the call's rows query token t sees. */
LWK_DEVICE uint32_t extend_visible(const lwk_extend_t *call, uint32_t t)
{
    if (!call->causal)
        return call->rows.row_count;
    uint64_t end = (uint64_t)call->first_position + t + 1, first = call->rows.first_row_position;
    return end <= first ? 0 : (uint32_t)min(end - first, (uint64_t)call->rows.row_count);
}

/* Query row q of a KV head: token q / group, head q % group of its group. */
LWK_DEVICE uint32_t extend_query_head(const extend_args_t *args, uint32_t head, uint32_t q)
{
    return (args->call.head_first + head) * args->shape.group + q % args->shape.group;
}
LWK_DEVICE size_t extend_partial_row(const extend_args_t *args, uint32_t head, uint32_t q)
{
    return (size_t)(q / args->shape.group) * lwk_query_heads(&args->shape) + extend_query_head(args, head, q);
}
LWK_DEVICE size_t extend_query_at(const extend_args_t *args, const lwk_tensor_t *tensor, uint32_t head,
                                  uint32_t q)
{
    return lwk_tensor_at(tensor, 0, q / args->shape.group, extend_query_head(args, head, q));
}

LWK_DEVICE void extend_write_pair(const extend_args_t *args, size_t row, size_t out, uint32_t j, float x,
                                  float y)
{
    lwk_store(args->call.out.data, args->shape.dtype, out + j, x);
    lwk_store(args->call.out.data, args->shape.dtype, out + j + 1, y);
    if (args->call.out_fp32 != NULL)
        *(float2 *)(args->call.out_fp32 + row * args->shape.head_dim + j) = make_float2(x, y);
}

LWK_DEVICE void extend_write_sums(const extend_args_t *args, size_t row, float m, float z)
{
    lwk_partial_t partial = {m, z, 0, 0};
    args->call.partial[row] = partial;
    if (args->call.out.data != NULL && args->call.lse_out != NULL)
        args->call.lse_out[row] = z > 0 ? m + logf(z) : -INFINITY;
}

/* ---- 16-bit rows ---- */

template <int W> struct extend_shape {
    enum { ROWS = W <= 128 ? 64 : 32, STRIDE = W + 8 };
    uint16_t key[EXTEND_STAGES][ROWS][STRIDE], value[EXTEND_STAGES][ROWS][STRIDE];
};

template <int W>
LWK_DEVICE void extend_load(extend_shape<W> *s, uint32_t stage, const extend_args_t *args, uint32_t head,
                            uint32_t first)
{
    const lwk_rows_t *rows = &args->call.rows;
    const uint32_t pieces = W / 8, d = args->shape.head_dim;
    for (uint32_t i = threadIdx.x; i < (uint32_t)extend_shape<W>::ROWS * pieces; i += 32 * EXTEND_WARPS) {
        uint32_t row = first + i / pieces, j = i % pieces * 8;
        bool valid = row < rows->row_count && j < d;
        int64_t at = valid ? head * rows->head_stride + row * rows->row_stride + j : 0;
        lwk_copy16_async(&s->key[stage][i / pieces][j], (const uint16_t *)rows->keys + at, valid);
        lwk_copy16_async(&s->value[stage][i / pieces][j], (const uint16_t *)rows->values + at, valid);
    }
    lwk_copy_commit();
}

/* Grid (128 query rows, KV heads); the last query rows, which see most, begin. */
template <int W, uint32_t DTYPE> LWK_KERNEL(256, 1) void extend_kernel(LWK_ARGS(extend_args_t) args)
{
    LWK_SHARED(extend_shape<W>, s);
    const int ROWS = extend_shape<W>::ROWS, STEPS = W / 16, TILES = W / 8, COLUMNS = ROWS / 8;
    const uint32_t lane = build_lane(), group = lane / 4, pair = lane % 4, head = blockIdx.y,
                   d = args.shape.head_dim;
    const uint32_t queries = args.call.query_tokens * args.shape.group;
    const uint32_t block = gridDim.x - 1 - blockIdx.x,
                   first_query = block * EXTEND_QUERIES + build_warp() * 16 + group;
    const uint32_t last = min(queries, (block + 1) * EXTEND_QUERIES) - 1;
    const uint32_t end = extend_visible(&args.call, last / args.shape.group);
    uint32_t query[STEPS][4], visible[2];
    size_t row[2];
    bool real[2];
    float out[TILES][4], m[2], z[2];

    if (end > 0)
        extend_load<W>(s, 0, &args, head, 0);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t q = first_query + 8 * half;
        real[half] = q < queries;
        q = real[half] ? q : last;
        visible[half] = real[half] ? extend_visible(&args.call, q / args.shape.group) : 0;
        row[half] = extend_partial_row(&args, head, q);
        const uint16_t *from =
            (const uint16_t *)args.call.query.data + extend_query_at(&args, &args.call.query, head, q);
#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int right = 0; right < 2; right++) {
                uint32_t j = 16 * k + 8 * right + 2 * pair;
                query[k][half + 2 * right] = j < d ? (uint32_t)from[j] | (uint32_t)from[j + 1] << 16 : 0;
            }
        const bool kept = !args.call.first && args.call.partial[row[half]].z > 0;
        m[half] = kept ? args.call.partial[row[half]].m : -INFINITY;
        z[half] =
            kept && pair == 0 ? args.call.partial[row[half]].z : 0; /* lanes of a row add up in the end */
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            uint32_t j = 8 * t + 2 * pair;
            float2 o = make_float2(0, 0);
            if (kept && j < d)
                o = *(const float2 *)(args.call.partial_out + row[half] * d + j);
            out[t][2 * half] = o.x;
            out[t][2 * half + 1] = o.y;
        }
    }

    for (uint32_t first = 0, stage = 0; first < end; first += ROWS, stage ^= 1) {
        if (first + ROWS < end) {
            extend_load<W>(s, stage ^ 1, &args, head, first + ROWS);
            lwk_copy_wait<1>();
        } else {
            lwk_copy_wait<0>();
        }
        __syncthreads();
        float logit[COLUMNS][4];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                logit[c][e] = 0;
#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 2) {
                uint32_t b[4];
                lwk_ldmatrix_x4(b,
                                &s->key[stage][8 * c + lane / 16 * 8 + lane % 8][16 * k + lane / 8 % 2 * 8]);
                lwk_mma_16816(logit[c], query[k], b, DTYPE);
                lwk_mma_16816(logit[c + 1], query[k], b + 2, DTYPE);
            }
        float correction[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float largest = m[half];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    bool seen = first + 8 * c + 2 * pair + (e & 1) < visible[half];
                    logit[c][e] = seen ? extend_logit(&args.shape, logit[c][e]) : -INFINITY;
                    largest = fmaxf(largest, logit[c][e]);
                }
            largest = fmaxf(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, 2));
            float base = largest == -INFINITY ? 0 : largest * LOG2E;
            correction[half] = exp2f(m[half] * LOG2E - base);
            m[half] = largest;
            z[half] *= correction[half];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    logit[c][e] = exp2f(fmaf(logit[c][e], LOG2E, -base));
                    z[half] += logit[c][e];
                }
        }
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                out[t][e] *= correction[e / 2];
#pragma unroll
        for (int c = 0; c < COLUMNS; c += 2) {
            uint32_t high[4], low[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float x = logit[c + i / 2][2 * (i % 2)], y = logit[c + i / 2][2 * (i % 2) + 1];
                high[i] = lwk_pack2(x, y, DTYPE);
                float2 rounded = lwk_unpack2(high[i], DTYPE);
                low[i] = lwk_pack2(x - rounded.x, y - rounded.y, DTYPE);
            }
#pragma unroll
            for (int t = 0; t < TILES; t += 2) {
                uint32_t b[4];
                lwk_ldmatrix_x4_trans(
                    b, &s->value[stage][8 * c + lane / 8 % 2 * 8 + lane % 8][8 * t + lane / 16 * 8]);
                lwk_mma_16816(out[t], high, b, DTYPE);
                lwk_mma_16816(out[t + 1], high, b + 2, DTYPE);
                lwk_mma_16816(out[t], low, b, DTYPE);
                lwk_mma_16816(out[t + 1], low, b + 2, DTYPE);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = z[half];
        sum += __shfl_xor_sync(LWK_WARP_ALL, sum, 1);
        sum += __shfl_xor_sync(LWK_WARP_ALL, sum, 2);
        if (!real[half])
            continue;
        size_t to = args.call.out.data != NULL
                        ? extend_query_at(&args, &args.call.out, head, first_query + 8 * half)
                        : 0;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            uint32_t j = 8 * t + 2 * pair;
            if (j >= d)
                continue;
            float x = out[t][2 * half], y = out[t][2 * half + 1];
            *(float2 *)(args.call.partial_out + row[half] * d + j) = make_float2(x, y);
            if (args.call.out.data != NULL)
                extend_write_pair(&args, row[half], to, j, sum > 0 ? x / sum : 0, sum > 0 ? y / sum : 0);
        }
        if (pair == 0)
            extend_write_sums(&args, row[half], m[half], sum);
    }
}

/* ---- any rows ---- */

#define PLAIN_WARPS 4u

typedef struct plain_shape {
    float query[PLAIN_WARPS][LW_HEAD_DIM_MAX], weight[PLAIN_WARPS][32];
} plain_shape_t;

/* Grid (4 query rows, KV heads): a warp takes 32 rows at a time, a lane each for the products, then a channel
 * each for the sum of values. */
template <int CHUNKS> LWK_KERNEL(128, 4) void extend_plain_kernel(LWK_ARGS(extend_args_t) args)
{
    LWK_SHARED(plain_shape_t, s);
    const uint32_t lane = build_lane(), warp = build_warp(), head = blockIdx.y, d = args.shape.head_dim;
    const uint32_t queries = args.call.query_tokens * args.shape.group, q = blockIdx.x * PLAIN_WARPS + warp;
    const uint32_t dtype = args.shape.dtype;
    const lwk_rows_t *rows = &args.call.rows;
    if (q >= queries)
        return;
    const size_t row = extend_partial_row(&args, head, q);
    const size_t from = extend_query_at(&args, &args.call.query, head, q);
    const bool kept = !args.call.first && args.call.partial[row].z > 0;
    const uint32_t end = extend_visible(&args.call, q / args.shape.group);
    float m = kept ? args.call.partial[row].m : -INFINITY, z = kept ? args.call.partial[row].z : 0,
          out[2 * CHUNKS];
#pragma unroll
    for (int k = 0; k < 2 * CHUNKS; k++) {
        uint32_t j = 32 * k + lane;
        out[k] = kept && j < d ? args.call.partial_out[row * d + j] : 0;
        if (j < d)
            s->query[warp][j] = lwk_load(args.call.query.data, dtype, from + j);
    }
    __syncwarp(LWK_WARP_ALL);
    for (uint32_t first = 0; first < end; first += 32) {
        int64_t base = head * rows->head_stride + first * rows->row_stride;
        float logit = -INFINITY, dot = 0;
        if (first + lane < end) {
            for (uint32_t j = 0; j < d; j++)
                dot = fmaf(s->query[warp][j],
                           lwk_load(rows->keys, dtype, (size_t)(base + lane * rows->row_stride + j)), dot);
            logit = extend_logit(&args.shape, dot);
        }
        float largest = fmaxf(m, logit);
        for (int step = 16; step > 0; step /= 2)
            largest = fmaxf(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, step));
        float weight = expf(logit - largest), correction = expf(m - largest);
        s->weight[warp][lane] = weight;
        z = z * correction + build_warp_sum(weight);
        m = largest;
        __syncwarp(LWK_WARP_ALL);
#pragma unroll
        for (int k = 0; k < 2 * CHUNKS; k++) {
            uint32_t j = 32 * k + lane;
            float sum = 0;
            for (uint32_t i = 0; j < d && i < min(32u, end - first); i++)
                sum = fmaf(s->weight[warp][i],
                           lwk_load(rows->values, dtype, (size_t)(base + i * rows->row_stride + j)), sum);
            out[k] = out[k] * correction + sum;
        }
        __syncwarp(LWK_WARP_ALL);
    }
    const size_t to = args.call.out.data != NULL ? extend_query_at(&args, &args.call.out, head, q) : 0;
#pragma unroll
    for (int k = 0; k < 2 * CHUNKS; k++) {
        uint32_t j = 32 * k + lane;
        if (j >= d)
            continue;
        args.call.partial_out[row * d + j] = out[k];
        if (args.call.out.data != NULL) {
            float x = z > 0 ? out[k] / z : 0;
            lwk_store(args.call.out.data, dtype, to + j, x);
            if (args.call.out_fp32 != NULL)
                args.call.out_fp32[row * d + j] = x;
        }
    }
    if (lane == 0)
        extend_write_sums(&args, row, m, z);
}

/* ---- host ---- */

static lw_status_t check(const lwk_extend_t *call)
{
    if (call->shape == NULL || lwk_shape_check(call->shape) != LW_OK)
        return LW_ERR_INVALID;
    if (call->query.data == NULL || call->partial == NULL || call->partial_out == NULL)
        return LW_ERR_INVALID;
    if (call->head_count > call->shape->kv_head_count ||
        call->head_first > call->shape->kv_head_count - call->head_count)
        return LW_ERR_INVALID;
    if (call->rows.row_count > 0 && (call->rows.keys == NULL || call->rows.values == NULL))
        return LW_ERR_INVALID;
    return LW_OK;
}

static bool takes_matrix_units(const lwk_extend_t *call)
{
    const lwk_rows_t *rows = &call->rows;
    return call->shape->dtype != LW_DTYPE_FP32 && rows->head_stride % 8 == 0 && rows->row_stride % 8 == 0 &&
           (((uintptr_t)rows->keys | (uintptr_t)rows->values) & 15) == 0;
}

template <int CHUNKS> static lw_status_t launch(const extend_args_t *args, cudaStream_t stream)
{
    const int W = 64 * CHUNKS;
    const uint32_t queries = args->call.query_tokens * args->shape.group, heads = args->call.head_count;
    if (!takes_matrix_units(&args->call))
        return lwk_launch("extend plain", extend_plain_kernel<CHUNKS>,
                          dim3((queries + PLAIN_WARPS - 1) / PLAIN_WARPS, heads), 32 * PLAIN_WARPS,
                          sizeof(plain_shape_t), stream, *args);
    const dim3 grid((queries + EXTEND_QUERIES - 1) / EXTEND_QUERIES, heads);
    if (args->shape.dtype == LW_DTYPE_BF16)
        return lwk_launch("extend bf16", extend_kernel<W, LW_DTYPE_BF16>, grid, 32 * EXTEND_WARPS,
                          sizeof(extend_shape<W>), stream, *args);
    return lwk_launch("extend fp16", extend_kernel<W, LW_DTYPE_FP16>, grid, 32 * EXTEND_WARPS,
                      sizeof(extend_shape<W>), stream, *args);
}

lw_status_t lwk_cuda_extend(lwk_dev_t *dev, const lwk_extend_t *call, void *stream)
{
    (void)dev;
    lw_status_t status = check(call);
    if (status != LW_OK)
        return status;
    extend_args_t args = {*call, *call->shape};
    LWK_BY_CHUNKS(args.shape.head_dim, status = launch<CHUNKS>(&args, (cudaStream_t)stream));
    return status;
}
