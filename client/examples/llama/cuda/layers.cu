/* layers.cu - what lies between two products of the forward pass: one block a row, fp32 arithmetic. */
#include "client/examples/llama/cuda/runner.cuh"

#define THREADS 256u
#define WARPS (THREADS / 32u)

typedef struct {
    float value[WARPS];
    uint32_t index[WARPS];
} shared_t;

LWK_DEVICE void put(void *out, bool narrow, uint64_t i, float value)
{
    if (narrow)
        ((uint16_t *)out)[i] = lwk_f32_to_bf16(value);
    else
        ((float *)out)[i] = value;
}

LWK_DEVICE float get(const void *in, bool narrow, uint64_t i)
{
    return narrow ? lwk_bf16_to_f32(((const uint16_t *)in)[i]) : ((const float *)in)[i];
}

/* The sum of all threads' values, in one order. */
LWK_DEVICE float block_sum(shared_t *shared, float value)
{
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(LWK_WARP_ALL, value, step);
    if (threadIdx.x % 32 == 0)
        shared->value[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (uint32_t i = 0; i < WARPS; i++)
        sum += shared->value[i];
    return sum;
}

/* ---- embedding ---- */

LWK_KERNEL(THREADS, 1)
void embed_kernel(const void *table, bool narrow, const uint32_t *token, uint32_t width, float *x)
{
    uint64_t from = (uint64_t)token[blockIdx.x] * width, to = (uint64_t)blockIdx.x * width;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        x[to + i] = get(table, narrow, from + i);
}

lw_status_t llama_embed(const llama_gpu_t *gpu, uint32_t rows)
{
    return lwk_launch("embed", embed_kernel, dim3(rows), THREADS, 0, gpu->stream, gpu->embedding, gpu->narrow,
                      gpu->token, gpu->shape.embedding, gpu->x);
}

/* ---- residual and norm ---- */

LWK_KERNEL(THREADS, 1)
void norm_kernel(float *x, const float *product, const float *weight, uint32_t width, float epsilon,
                 void *normed, bool narrow)
{
    LWK_SHARED(shared_t, shared);
    uint64_t row = (uint64_t)blockIdx.x * width;
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        float value = x[row + i];
        if (product != NULL)
            x[row + i] = value += product[row + i];
        squares += value * value;
    }
    float scale = 1.0f / sqrtf(block_sum(shared, squares) / (float)width + epsilon);
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        put(normed, narrow, row + i, x[row + i] * scale * weight[i]);
}

lw_status_t llama_norm(const llama_gpu_t *gpu, uint32_t rows, bool add, const float *weight)
{
    return lwk_launch("norm", norm_kernel, dim3(rows), THREADS, sizeof(shared_t), gpu->stream, gpu->x,
                      add ? gpu->product : NULL, weight, gpu->shape.embedding, gpu->shape.rms_epsilon,
                      gpu->normed, gpu->narrow);
}

/* ---- rotation ---- */

typedef struct {
    const float *product, *rope;
    const uint32_t *position;
    uint16_t *query, *key, *value;
    uint32_t query_heads, kv_heads, head_dim, rope_dim;
} rotate_t;

/* Grid: (rows, heads of Q, K and V); one thread a pair of neighbours, which is what a file of this
 * architecture turns. */
LWK_KERNEL(128, 1) void rotate_kernel(LWK_ARGS(rotate_t) args)
{
    uint32_t row = blockIdx.x, head = blockIdx.y, d = args.head_dim;
    uint32_t heads = args.query_heads + 2 * args.kv_heads, pair = threadIdx.x;
    bool is_query = head < args.query_heads, is_value = head >= args.query_heads + args.kv_heads;
    if (pair >= d / 2)
        return;
    const float *in = args.product + ((uint64_t)row * heads + head) * d + 2 * pair;
    float a = in[0], b = in[1];
    if (!is_value && pair < args.rope_dim / 2) {
        const float *turn = args.rope + ((uint64_t)args.position[row] * (args.rope_dim / 2) + pair) * 2;
        float cosine = turn[0], sine = turn[1], first = a;
        a = first * cosine - b * sine;
        b = first * sine + b * cosine;
    }
    uint32_t to = is_query   ? head
                  : is_value ? head - args.query_heads - args.kv_heads
                             : head - args.query_heads;
    uint32_t to_heads = is_query ? args.query_heads : args.kv_heads;
    uint16_t *out = is_query ? args.query : is_value ? args.value : args.key;
    ((uint32_t *)out)[(((uint64_t)row * to_heads + to) * d) / 2 + pair] = lwk_pack2(a, b, LW_DTYPE_BF16);
}

lw_status_t llama_rotate(const llama_gpu_t *gpu, uint32_t rows)
{
    const llama_shape_t *shape = &gpu->shape;
    rotate_t args = {gpu->product, gpu->rope,          gpu->position,   gpu->query,      gpu->key,
                     gpu->value,   shape->query_heads, shape->kv_heads, shape->head_dim, shape->rope_dim};
    return lwk_launch("rotate", rotate_kernel, dim3(rows, shape->query_heads + 2 * shape->kv_heads), 128, 0,
                      gpu->stream, args);
}

LWK_KERNEL(THREADS, 1) void widen_kernel(const uint16_t *in, float *out, uint64_t count)
{
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        out[i] = lwk_bf16_to_f32(in[i]);
}

lw_status_t llama_widen(const llama_gpu_t *gpu, uint32_t rows)
{
    uint64_t count = (uint64_t)rows * gpu->shape.query_heads * gpu->shape.head_dim;
    if (gpu->narrow)
        return LW_OK;
    return lwk_launch("widen", widen_kernel, dim3((unsigned)((count + THREADS - 1) / THREADS)), THREADS, 0,
                      gpu->stream, gpu->attended, (float *)gpu->attended_wide, count);
}

/* ---- activation ---- */

LWK_KERNEL(THREADS, 1) void activate_kernel(const float *gate_up, uint32_t width, void *hidden, bool narrow)
{
    uint32_t i = blockIdx.y * THREADS + threadIdx.x;
    uint64_t row = blockIdx.x;
    if (i >= width)
        return;
    float gate = gate_up[row * 2 * width + i], up = gate_up[row * 2 * width + width + i];
    put(hidden, narrow, row * width + i, gate / (1.0f + expf(-gate)) * up);
}

lw_status_t llama_activate(const llama_gpu_t *gpu, uint32_t rows)
{
    uint32_t width = gpu->shape.feed_forward;
    return lwk_launch("activate", activate_kernel, dim3(rows, (width + THREADS - 1) / THREADS), THREADS, 0,
                      gpu->stream, gpu->product, width, gpu->hidden, gpu->narrow);
}

/* ---- the next token ---- */

LWK_DEVICE bool better(float value, uint32_t index, float than, uint32_t than_index)
{
    return value > than || (value == than && index < than_index);
}

/* Grid: rows. The lowest index of equals. */
LWK_KERNEL(THREADS, 1)
void advance_kernel(const float *logits, uint32_t vocabulary, uint32_t positions_max, uint32_t *token,
                    uint32_t *position)
{
    LWK_SHARED(shared_t, shared);
    const float *row = logits + (uint64_t)blockIdx.x * vocabulary;
    float best = -INFINITY;
    uint32_t index = 0;
    for (uint32_t i = threadIdx.x; i < vocabulary; i += THREADS)
        if (better(row[i], i, best, index)) {
            best = row[i];
            index = i;
        }
    for (int step = 16; step > 0; step /= 2) {
        float other = __shfl_xor_sync(LWK_WARP_ALL, best, step);
        uint32_t other_index = __shfl_xor_sync(LWK_WARP_ALL, index, step);
        if (better(other, other_index, best, index)) {
            best = other;
            index = other_index;
        }
    }
    if (threadIdx.x % 32 == 0) {
        shared->value[threadIdx.x / 32] = best;
        shared->index[threadIdx.x / 32] = index;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (uint32_t i = 1; i < WARPS; i++)
        if (better(shared->value[i], shared->index[i], best, index)) {
            best = shared->value[i];
            index = shared->index[i];
        }
    token[blockIdx.x] = index;
    if (position[blockIdx.x] + 1 < positions_max)
        position[blockIdx.x]++;
}

lw_status_t llama_advance(const llama_gpu_t *gpu, uint32_t rows)
{
    return lwk_launch("advance", advance_kernel, dim3(rows), THREADS, sizeof(shared_t), gpu->stream,
                      gpu->logits, gpu->shape.vocabulary, gpu->positions_max, gpu->token, gpu->position);
}
