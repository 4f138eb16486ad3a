/* full.cu - full attention of one new token a row over K and V in the device's memory: what Longwave is
 * compared with.
 *
 * Three launches: append, attend in slices of the context (K and V read once for a group of up to 8 query
 * heads), merge. Floor of a layer: (K + V bytes of all rows' contexts) / HBM bandwidth. A warp holds one
 * token's row in head_dim / 8 lanes of 16 bytes, 4 tokens of K and V in flight each; sums are fp32. The grid
 * does not depend on the lengths, which are read from the device, so that a captured pass serves every
 * length. Results depend on the number of slices, which the capacity and the device decide. */
#include <stdlib.h>
#include <string.h>

#include "client/examples/llama/cuda/runner.cuh"

#define THREADS 128u
#define WARPS (THREADS / 32u)
#define GROUP_MAX 8u /* query heads of a block; a larger group takes more blocks */
#define FLIGHT 4u    /* tokens of a lane group under way */
#define SLICES_MAX 256u
#define BLOCKS_PER_PROCESSOR 4u

struct llama_gpu_full {
    llama_gpu_t *gpu;
    uint32_t layers, sequences, capacity, slices;
    bool chunk;
    uint16_t *key, *value; /* [layer][sequence][kv head][capacity][head_dim] */
    float *partial;        /* [rows_max][query_heads][slices][head_dim + 2]: sums, maximum, sum of weights */
};

typedef struct {
    const uint16_t *query, *new_key, *new_value;
    const uint32_t *position;
    uint16_t *key, *value, *out; /* key and value: of the layer */
    float *partial;
    uint32_t kv_heads, group, capacity, slices, rows;
    uint32_t row_sequences; /* 1: row r is sequence r; 0: all rows are sequence 0 */
    float scale;
} full_args_t;

LWK_DEVICE uint64_t head_rows(const full_args_t *args, uint32_t row, uint32_t kv_head)
{
    return ((uint64_t)row * args->row_sequences * args->kv_heads + kv_head) * args->capacity;
}

/* ---- append ---- */

/* Grid: (rows, kv heads). Threads: head_dim / 8, 16 bytes each of a key and of a value. */
LWK_KERNEL(32, 1) void append_kernel(LWK_ARGS(full_args_t) args, uint32_t head_dim)
{
    uint32_t row = blockIdx.x, kv_head = blockIdx.y, i = threadIdx.x * 8;
    uint32_t position = args.position[row];
    if (i >= head_dim || position >= args.capacity)
        return;
    uint64_t to = (head_rows(&args, row, kv_head) + position) * head_dim + i;
    uint64_t from = ((uint64_t)row * args.kv_heads + kv_head) * head_dim + i;
    lwk_copy16(args.key + to, args.new_key + from);
    lwk_copy16(args.value + to, args.new_value + from);
}

/* ---- attend ---- */

/* What one lane holds: 8 of a row's elements. */
template <int G> struct full_lane_t {
    float query[G][8], sum[G][8], maximum[G], weight[G];
};

LWK_DEVICE void unpack8(uint4 bits, float out[8])
{
    const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
    for (int i = 0; i < 4; i++) {
        float2 two = lwk_unpack2(word[i], LW_DTYPE_BF16);
        out[2 * i] = two.x;
        out[2 * i + 1] = two.y;
    }
}

/* Adds `count` (0 to FLIGHT) tokens to the lane's sums. LANES lanes hold a row and agree on every logit. */
template <int G, int LANES>
LWK_DEVICE void add_tokens(full_lane_t<G> *lane, const uint4 *key, const uint4 *value, uint32_t count,
                           float scale)
{
    float logit[G][FLIGHT];
#pragma unroll
    for (uint32_t t = 0; t < FLIGHT; t++) {
        float k[8];
        unpack8(key[t], k);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float dot = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
                dot = fmaf(lane->query[g][i], k[i], dot);
#pragma unroll
            for (int step = LANES / 2; step > 0; step /= 2)
                dot += __shfl_xor_sync(LWK_WARP_ALL, dot, step);
            logit[g][t] = t < count ? dot * scale : -INFINITY;
        }
    }
    if (count == 0)
        return;
#pragma unroll
    for (int g = 0; g < G; g++) {
        float maximum = lane->maximum[g];
#pragma unroll
        for (uint32_t t = 0; t < FLIGHT; t++)
            maximum = fmaxf(maximum, logit[g][t]);
        float shrink = __expf(lane->maximum[g] - maximum);
        lane->maximum[g] = maximum;
        lane->weight[g] *= shrink;
#pragma unroll
        for (int i = 0; i < 8; i++)
            lane->sum[g][i] *= shrink;
    }
#pragma unroll
    for (uint32_t t = 0; t < FLIGHT; t++) {
        float v[8];
        unpack8(value[t], v);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float p = __expf(logit[g][t] - lane->maximum[g]);
            lane->weight[g] += p;
#pragma unroll
            for (int i = 0; i < 8; i++)
                lane->sum[g][i] = fmaf(p, v[i], lane->sum[g][i]);
        }
    }
}

/* One block's lane groups, to be merged. */
template <int G, int LANES> struct full_shared_t {
    float sum[WARPS * 32 / LANES][G][LANES * 8];
    float maximum[WARPS * 32 / LANES][G], weight[WARPS * 32 / LANES][G];
};

template <int G, int LANES>
LWK_DEVICE void write_partial(const full_args_t *args, const full_lane_t<G> *lane,
                              full_shared_t<G, LANES> *shared, uint32_t first_query, uint32_t heads)
{
    const uint32_t groups = WARPS * 32 / LANES, d = LANES * 8;
    uint32_t mine = threadIdx.x / LANES, at = threadIdx.x % LANES;
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            shared->sum[mine][g][at * 8 + i] = lane->sum[g][i];
        if (at == 0) {
            shared->maximum[mine][g] = lane->maximum[g];
            shared->weight[mine][g] = lane->weight[g];
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < heads * d; i += THREADS) {
        uint32_t g = i / d, j = i % d;
        float maximum = -INFINITY, sum = 0, weight = 0;
        for (uint32_t k = 0; k < groups; k++)
            maximum = fmaxf(maximum, shared->maximum[k][g]);
        for (uint32_t k = 0; k < groups && maximum > -INFINITY; k++) {
            float w = __expf(shared->maximum[k][g] - maximum);
            sum += w * shared->sum[k][g][j];
            weight += w * shared->weight[k][g];
        }
        uint32_t query_heads = args->kv_heads * args->group;
        float *out =
            args->partial +
            (((uint64_t)blockIdx.z * query_heads + first_query + g) * args->slices + blockIdx.x) * (d + 2);
        out[j] = sum;
        if (j == 0) {
            out[d] = maximum;
            out[d + 1] = weight;
        }
    }
}

/* Grid: (slices, kv heads x parts of a group, rows). Reads K and V of the slice once. */
template <int G, int LANES> LWK_KERNEL(THREADS, G == 8 ? 2 : 4) void attend_kernel(LWK_ARGS(full_args_t) args)
{
    typedef full_shared_t<G, LANES> shared_t;
    LWK_SHARED(shared_t, shared);
    const uint32_t groups = WARPS * 32 / LANES, d = LANES * 8;
    uint32_t parts = (args.group + G - 1) / G, kv_head = blockIdx.y / parts, part = blockIdx.y % parts,
             row = blockIdx.z;
    uint32_t first_query = kv_head * args.group + part * G;
    uint32_t heads = args.group - part * G < G ? args.group - part * G : G;
    uint32_t mine = threadIdx.x / LANES, at = threadIdx.x % LANES;
    uint32_t tokens = args.position[row] + 1;
    tokens = tokens < args.capacity ? tokens : args.capacity;
    uint32_t turn = groups * FLIGHT, turns = (tokens + turn - 1) / turn,
             each = (turns + args.slices - 1) / args.slices;
    uint32_t begin = blockIdx.x * each * turn, end = begin + each * turn;
    end = end < tokens ? end : tokens;
    full_lane_t<G> lane;
#pragma unroll
    for (int g = 0; g < G; g++) {
        uint32_t head = first_query + (g < (int)heads ? g : 0);
        unpack8(
            *(const uint4 *)(args.query + ((uint64_t)row * args.kv_heads * args.group + head) * d + at * 8),
            lane.query[g]);
        lane.maximum[g] = -INFINITY;
        lane.weight[g] = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            lane.sum[g][i] = 0;
    }
    uint64_t base = head_rows(&args, row, kv_head) * d + at * 8;
    for (uint32_t first = begin; first < end; first += turn) {
        uint32_t token = first + mine * FLIGHT;
        uint32_t count = token < end ? (end - token < FLIGHT ? end - token : FLIGHT) : 0;
        uint4 key[FLIGHT], value[FLIGHT];
#pragma unroll
        for (uint32_t t = 0; t < FLIGHT; t++) {
            uint32_t from = t < count ? token + t : begin; /* a row that is there; its weight will be 0 */
            key[t] = __ldcs((const uint4 *)(args.key + base + (uint64_t)from * d));
            value[t] = __ldcs((const uint4 *)(args.value + base + (uint64_t)from * d));
        }
        add_tokens<G, LANES>(&lane, key, value, count, args.scale);
    }
    write_partial<G, LANES>(&args, &lane, shared, first_query, heads);
}

/* ---- merge ---- */

/* Grid: (query heads, rows); threads: head_dim. Slices in order. */
LWK_KERNEL(256, 1) void merge_kernel(LWK_ARGS(full_args_t) args)
{
    uint32_t d = blockDim.x, head = blockIdx.x, row = blockIdx.y, j = threadIdx.x;
    uint64_t at = (uint64_t)row * gridDim.x + head;
    const float *partial = args.partial + at * args.slices * (d + 2);
    float maximum = -INFINITY, sum = 0, weight = 0;
    for (uint32_t s = 0; s < args.slices; s++)
        maximum = fmaxf(maximum, partial[(uint64_t)s * (d + 2) + d]);
    for (uint32_t s = 0; s < args.slices; s++) {
        const float *from = partial + (uint64_t)s * (d + 2);
        float w = __expf(from[d] - maximum);
        sum += w * from[j];
        weight += w * from[d + 1];
    }
    args.out[at * d + j] = lwk_f32_to_bf16(sum / weight);
}

/* ---- the call ---- */

template <int G, int LANES>
static lw_status_t launch_attend(const llama_gpu_full_t *full, const full_args_t *args)
{
    uint32_t parts = (args->group + G - 1) / G;
    return lwk_launch("full_attend", attend_kernel<G, LANES>,
                      dim3(args->slices, args->kv_heads * parts, args->rows), THREADS,
                      sizeof(full_shared_t<G, LANES>), full->gpu->stream, *args);
}

template <int LANES> static lw_status_t choose_attend(const llama_gpu_full_t *full, const full_args_t *args)
{
    if (args->group == 1)
        return launch_attend<1, LANES>(full, args);
    if (args->group <= 4)
        return launch_attend<4, LANES>(full, args);
    return launch_attend<8, LANES>(full, args);
}

static lw_status_t attend_of(const llama_gpu_full_t *full, const full_args_t *args, uint32_t head_dim)
{
    switch (head_dim) {
    case 16: return choose_attend<2>(full, args);
    case 64: return choose_attend<8>(full, args);
    case 128: return choose_attend<16>(full, args);
    case 256: return choose_attend<32>(full, args);
    default: return LW_ERR_UNSUPPORTED;
    }
}

static lw_status_t attend(void *self, uint32_t layer, uint32_t rows, const uint16_t *query,
                          const uint16_t *key, const uint16_t *value, uint16_t *out)
{
    llama_gpu_full_t *full = (llama_gpu_full_t *)self;
    const llama_gpu_t *gpu = full->gpu;
    const llama_shape_t *shape = &gpu->shape;
    uint32_t d = shape->head_dim;
    if (rows == 0 || rows > gpu->rows_max || (!full->chunk && rows > full->sequences))
        return LW_ERR_INVALID;
    uint64_t offset =
        (uint64_t)(layer % full->layers) * full->sequences * shape->kv_heads * full->capacity * d;
    full_args_t args = {query,
                        key,
                        value,
                        gpu->position,
                        full->key + offset,
                        full->value + offset,
                        out,
                        full->partial,
                        shape->kv_heads,
                        shape->query_heads / shape->kv_heads,
                        full->capacity,
                        full->slices,
                        rows,
                        full->chunk ? 0u : 1u,
                        1.0f / sqrtf((float)d)};
    lw_status_t status =
        lwk_launch("full_append", append_kernel, dim3(rows, shape->kv_heads), 32, 0, gpu->stream, args, d);
    if (status == LW_OK)
        status = attend_of(full, &args, d);
    if (status == LW_OK)
        status =
            lwk_launch("full_merge", merge_kernel, dim3(shape->query_heads, rows), d, 0, gpu->stream, args);
    return status;
}

llama_gpu_attention_t llama_full_gpu_attention(llama_gpu_full_t *full)
{
    llama_gpu_attention_t attention = {attend, full};
    return attention;
}

/* ---- the object ---- */

static uint32_t choose_slices(const llama_gpu_t *gpu, uint32_t rows, uint32_t capacity)
{
    int processors = 1;
    uint32_t group = gpu->shape.query_heads / gpu->shape.kv_heads,
             parts = (group + GROUP_MAX - 1) / GROUP_MAX;
    if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, (int)gpu->ordinal) != cudaSuccess)
        processors = 1;
    uint32_t blocks = rows * gpu->shape.kv_heads * parts;
    uint32_t slices = ((uint32_t)processors * BLOCKS_PER_PROCESSOR + blocks - 1) / blocks;
    uint32_t most = (capacity + 255) / 256;
    slices = slices < most ? slices : most;
    return slices < SLICES_MAX ? slices : SLICES_MAX;
}

static lw_status_t allocate(llama_gpu_full_t *full, uint64_t rows, lw_error_t *error)
{
    const llama_shape_t *shape = &full->gpu->shape;
    uint64_t side =
        (uint64_t)full->layers * full->sequences * shape->kv_heads * full->capacity * shape->head_dim * 2;
    uint64_t partial = rows * shape->query_heads * full->slices * (shape->head_dim + 2) * sizeof(float);
    if (cudaMalloc(&full->key, side) == cudaSuccess && cudaMalloc(&full->value, side) == cudaSuccess &&
        cudaMalloc(&full->partial, partial) == cudaSuccess)
        return LW_OK;
    (void)cudaGetLastError();
    return lw_fail(error, LW_ERR_NO_MEMORY,
                   "full attention: %u layers, %u sequences of %u tokens do not fit the device", full->layers,
                   full->sequences, full->capacity);
}

lw_status_t llama_full_gpu_create(llama_gpu_t *gpu, const llama_gpu_full_params_t *params,
                                  llama_gpu_full_t **full_out, lw_error_t *error)
{
    const llama_shape_t *shape = &gpu->shape;
    if (params->sequences == 0 || params->capacity == 0 || (params->chunk && params->sequences != 1) ||
        (!params->chunk && params->sequences > gpu->rows_max))
        return lw_fail(error, LW_ERR_INVALID, "full attention: %u sequences of %u tokens", params->sequences,
                       params->capacity);
    if (shape->head_dim != 16 && shape->head_dim != 64 && shape->head_dim != 128 && shape->head_dim != 256)
        return lw_fail(error, LW_ERR_UNSUPPORTED,
                       "full attention: head_dim is %u; supported: 16, 64, 128, 256", shape->head_dim);
    llama_gpu_full_t *full = (llama_gpu_full_t *)calloc(1, sizeof(*full));
    if (full == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "full attention: no memory");
    full->gpu = gpu;
    full->layers = params->layers != 0 && params->layers < shape->layers ? params->layers : shape->layers;
    full->sequences = params->sequences;
    full->capacity = params->capacity;
    full->chunk = params->chunk;
    uint32_t rows = params->chunk ? gpu->rows_max : params->sequences;
    full->slices = choose_slices(gpu, rows, full->capacity);
    lw_status_t status = allocate(full, rows, error);
    if (status == LW_OK) /* loads the kernels, outside any capture; rows of the runner's last pass will do */
        status = attend(full, 0, rows < gpu->rows_max ? rows : gpu->rows_max, gpu->query, gpu->key,
                        gpu->value, gpu->attended);
    if (status == LW_OK)
        status = lwk_cuda_check("full attention", cudaStreamSynchronize(gpu->stream));
    if (status != LW_OK) {
        llama_full_gpu_destroy(full);
        return status;
    }
    *full_out = full;
    return LW_OK;
}

void llama_full_gpu_destroy(llama_gpu_full_t *full)
{
    if (full == NULL)
        return;
    (void)cudaStreamSynchronize(full->gpu->stream);
    cudaFree(full->key);
    cudaFree(full->value);
    cudaFree(full->partial);
    free(full);
}

lw_status_t llama_full_gpu_fill(llama_gpu_full_t *full, uint64_t seed)
{
    const llama_shape_t *shape = &full->gpu->shape;
    uint64_t count =
        (uint64_t)full->layers * full->sequences * shape->kv_heads * full->capacity * shape->head_dim;
    lw_status_t status = llama_draw(full->gpu->stream, full->key, true, count, 1.0f, seed);
    return status == LW_OK ? llama_draw(full->gpu->stream, full->value, true, count, 1.0f, seed + 1) : status;
}

/* One head's rows at a time: the cache keeps heads apart, the caller's rows do not. */
lw_status_t llama_full_gpu_load(llama_gpu_full_t *full, uint32_t layer, uint32_t sequence, uint32_t first,
                                uint32_t tokens, const uint16_t *key, const uint16_t *value)
{
    const llama_shape_t *shape = &full->gpu->shape;
    uint32_t d = shape->head_dim, heads = shape->kv_heads;
    if (layer >= full->layers || sequence >= full->sequences || first > full->capacity ||
        tokens > full->capacity - first)
        return LW_ERR_INVALID;
    uint64_t count = (uint64_t)tokens * heads * d;
    uint16_t *staging = (uint16_t *)malloc(2 * count * sizeof(*staging)), *by_head = staging + count;
    if (staging == NULL)
        return LW_ERR_NO_MEMORY;
    cudaError_t error = cudaStreamSynchronize(full->gpu->stream);
    for (uint32_t of = 0; of < 2 && error == cudaSuccess; of++) {
        uint16_t *to = of == 0 ? full->key : full->value;
        error = cudaMemcpy(staging, of == 0 ? key : value, count * sizeof(*staging), cudaMemcpyDefault);
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t t = 0; t < tokens; t++)
                memcpy(by_head + ((uint64_t)h * tokens + t) * d, staging + ((uint64_t)t * heads + h) * d,
                       d * sizeof(*to));
        for (uint32_t h = 0; h < heads && error == cudaSuccess; h++) {
            uint64_t row =
                (((uint64_t)layer * full->sequences + sequence) * heads + h) * full->capacity + first;
            error = cudaMemcpy(to + row * d, by_head + (uint64_t)h * tokens * d,
                               (uint64_t)tokens * d * sizeof(*to), cudaMemcpyDefault);
        }
    }
    free(staging);
    return lwk_cuda_check("full_load", error);
}
