/* runner.cu - the runner on a GPU: its weights and activations, the forward pass, the table that a program
 * opens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/examples/llama/cuda/runner.cuh"

extern "C" {
#include "client/examples/llama/llama_private.h"
}

/* ---- memory ---- */

static lw_status_t take(llama_gpu_t *gpu, const char *what, uint64_t bytes, void **ptr_out, lw_error_t *error)
{
    if (cudaMalloc(ptr_out, bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        *ptr_out = NULL;
        return lw_fail(error, LW_ERR_NO_MEMORY, "%s: %llu bytes do not fit the device", what,
                       (unsigned long long)bytes);
    }
    gpu->bytes += bytes;
    return LW_OK;
}

static uint64_t wide_of(const llama_gpu_t *gpu)
{
    return gpu->narrow ? sizeof(uint16_t) : sizeof(float);
}

/* ---- weights ---- */

/* Where the weights lie, in one block: matrices in the runner's precision, norms in fp32; every part 256-byte
 * aligned. */
typedef struct {
    uint8_t *base; /* NULL: only count */
    uint64_t used;
} block_t;

static void *part(block_t *block, uint64_t bytes)
{
    void *at = block->base ? block->base + block->used : NULL;
    block->used += (bytes + 255) / 256 * 256;
    return at;
}

static void lay_out(llama_gpu_t *gpu, bool tied, block_t *block)
{
    const llama_shape_t *s = &gpu->shape;
    uint64_t wide = wide_of(gpu), e = s->embedding, q = (uint64_t)s->query_heads * s->head_dim;
    uint64_t kv = (uint64_t)s->kv_heads * s->head_dim, f = s->feed_forward;
    gpu->embedding = part(block, wide * s->vocabulary * e);
    gpu->output = tied ? gpu->embedding : part(block, wide * s->vocabulary * e);
    gpu->output_norm = (float *)part(block, sizeof(float) * e);
    for (uint32_t i = 0; i < s->layers; i++) {
        llama_gpu_layer_t *layer = &gpu->layer[i];
        layer->attention_norm = (float *)part(block, sizeof(float) * e);
        layer->feed_forward_norm = (float *)part(block, sizeof(float) * e);
        layer->qkv = part(block, wide * (q + 2 * kv) * e);
        layer->attention_output = part(block, wide * e * q);
        layer->gate_up = part(block, wide * 2 * f * e);
        layer->down = part(block, wide * e * f);
    }
}

/* Rounds on the host where the runner is narrow. `staging` has room for `count` values. */
static lw_status_t upload(const llama_gpu_t *gpu, const void *to, const float *from, uint64_t count,
                          uint16_t *staging)
{
    if (!gpu->narrow)
        return lwk_cuda_check("weights",
                              cudaMemcpy((void *)to, from, count * sizeof(float), cudaMemcpyDefault));
    for (uint64_t i = 0; i < count; i++)
        staging[i] = lwk_f32_to_bf16(from[i]);
    return lwk_cuda_check("weights",
                          cudaMemcpy((void *)to, staging, count * sizeof(uint16_t), cudaMemcpyDefault));
}

static lw_status_t upload_norm(const float *to, const float *from, uint64_t count)
{
    return lwk_cuda_check("weights", cudaMemcpy((void *)to, from, count * sizeof(float), cudaMemcpyDefault));
}

static lw_status_t copy_layer(const llama_gpu_t *gpu, const llama_layer_t *from, const llama_gpu_layer_t *to,
                              uint16_t *staging)
{
    const llama_shape_t *s = &gpu->shape;
    uint64_t e = s->embedding, q = (uint64_t)s->query_heads * s->head_dim,
             kv = (uint64_t)s->kv_heads * s->head_dim;
    lw_status_t status = upload_norm(to->attention_norm, from->attention_norm, e);
    if (status == LW_OK)
        status = upload_norm(to->feed_forward_norm, from->feed_forward_norm, e);
    if (status == LW_OK)
        status = upload(gpu, to->qkv, from->qkv, (q + 2 * kv) * e, staging);
    if (status == LW_OK)
        status = upload(gpu, to->attention_output, from->attention_output, e * q, staging);
    if (status == LW_OK)
        status = upload(gpu, to->gate_up, from->gate_up, 2 * (uint64_t)s->feed_forward * e, staging);
    if (status == LW_OK)
        status = upload(gpu, to->down, from->down, e * s->feed_forward, staging);
    return status;
}

static uint64_t most_values(const llama_shape_t *s)
{
    uint64_t heads = ((uint64_t)s->query_heads + 2 * s->kv_heads) * s->head_dim, most = s->vocabulary;
    most = most > heads ? most : heads;
    most = most > 2ull * s->feed_forward ? most : 2ull * s->feed_forward;
    return most * s->embedding;
}

static lw_status_t copy_weights(llama_gpu_t *gpu, const llama_model_t *model)
{
    const llama_shape_t *s = &gpu->shape;
    uint64_t table = (uint64_t)s->vocabulary * s->embedding;
    uint16_t *staging = gpu->narrow ? (uint16_t *)malloc(most_values(s) * sizeof(uint16_t)) : NULL;
    if (gpu->narrow && staging == NULL)
        return LW_ERR_NO_MEMORY;
    lw_status_t status = upload(gpu, gpu->embedding, model->token_embedding, table, staging);
    if (status == LW_OK && gpu->output != gpu->embedding)
        status = upload(gpu, gpu->output, model->output, table, staging);
    if (status == LW_OK)
        status = upload_norm(gpu->output_norm, model->output_norm, s->embedding);
    for (uint32_t i = 0; i < s->layers && status == LW_OK; i++)
        status = copy_layer(gpu, &model->layer[i], &gpu->layer[i], staging);
    free(staging);
    return status;
}

/* Bounds keep activations near 1, as trained weights do. */
static lw_status_t draw_weights(llama_gpu_t *gpu, uint64_t seed, uint64_t bytes)
{
    const llama_shape_t *s = &gpu->shape;
    float bound = sqrtf(3.0f / (float)s->embedding);
    lw_status_t status =
        llama_draw(gpu->stream, gpu->weights, gpu->narrow, bytes / wide_of(gpu), bound, seed);
    if (status == LW_OK)
        status = llama_set(gpu->stream, gpu->output_norm, s->embedding, 1.0f);
    for (uint32_t i = 0; i < s->layers && status == LW_OK; i++) {
        status = llama_set(gpu->stream, (float *)gpu->layer[i].attention_norm, s->embedding, 1.0f);
        if (status == LW_OK)
            status = llama_set(gpu->stream, (float *)gpu->layer[i].feed_forward_norm, s->embedding, 1.0f);
    }
    return status;
}

static lw_status_t make_weights(llama_gpu_t *gpu, const llama_gpu_params_t *params, lw_error_t *error)
{
    bool tied = params->model != NULL && params->model->output == params->model->token_embedding;
    block_t block = {NULL, 0};
    gpu->layer = (llama_gpu_layer_t *)calloc(gpu->shape.layers, sizeof(*gpu->layer));
    if (gpu->layer == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "weights: no memory");
    lay_out(gpu, tied, &block);
    lw_status_t status = take(gpu, "weights", block.used, &gpu->weights, error);
    if (status != LW_OK)
        return status;
    uint64_t bytes = block.used;
    block.base = (uint8_t *)gpu->weights;
    block.used = 0;
    lay_out(gpu, tied, &block);
    status =
        params->model != NULL ? copy_weights(gpu, params->model) : draw_weights(gpu, params->seed, bytes);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "weights: %s", lw_status_text(status));
}

/* ---- activations ---- */

static lw_status_t make_rope(llama_gpu_t *gpu, const float *factors, lw_error_t *error)
{
    const llama_shape_t *s = &gpu->shape;
    uint32_t pairs = s->rope_dim / 2;
    uint64_t bytes = (uint64_t)gpu->positions_max * pairs * 2 * sizeof(float);
    float *table = (float *)malloc(bytes);
    if (table == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "angles of %u positions: no memory", gpu->positions_max);
    for (uint32_t i = 0; i < pairs; i++) {
        double frequency =
            pow(s->rope_base, -2.0 * i / s->rope_dim) / s->rope_scale / (factors != NULL ? factors[i] : 1);
        for (uint32_t p = 0; p < gpu->positions_max; p++) {
            float *turn = table + ((uint64_t)p * pairs + i) * 2;
            turn[0] = (float)cos(p * frequency);
            turn[1] = (float)sin(p * frequency);
        }
    }
    lw_status_t status = take(gpu, "angles", bytes, (void **)&gpu->rope, error);
    if (status == LW_OK)
        status = lwk_cuda_check("angles", cudaMemcpy(gpu->rope, table, bytes, cudaMemcpyDefault));
    free(table);
    return status;
}

static lw_status_t make_rows(llama_gpu_t *gpu, lw_error_t *error)
{
    const llama_shape_t *s = &gpu->shape;
    uint64_t rows = gpu->rows_max, wide = wide_of(gpu), q = (uint64_t)s->query_heads * s->head_dim;
    uint64_t kv = (uint64_t)s->kv_heads * s->head_dim, widest = q + 2 * kv;
    widest = widest > 2ull * s->feed_forward ? widest : 2ull * s->feed_forward;
    widest = widest > s->embedding ? widest : s->embedding;
    struct {
        void **to;
        uint64_t bytes;
    } parts[] = {{(void **)&gpu->token, rows * sizeof(uint32_t)},
                 {(void **)&gpu->position, rows * sizeof(uint32_t)},
                 {(void **)&gpu->x, rows * s->embedding * sizeof(float)},
                 {&gpu->normed, rows * s->embedding * wide},
                 {(void **)&gpu->product, rows * widest * sizeof(float)},
                 {&gpu->hidden, rows * s->feed_forward * wide},
                 {(void **)&gpu->query, rows * q * sizeof(uint16_t)},
                 {(void **)&gpu->key, rows * kv * sizeof(uint16_t)},
                 {(void **)&gpu->value, rows * kv * sizeof(uint16_t)},
                 {(void **)&gpu->attended, rows * q * sizeof(uint16_t)},
                 {(void **)&gpu->logits, rows * s->vocabulary * sizeof(float)}};
    lw_status_t status = LW_OK;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && status == LW_OK; i++)
        status = take(gpu, "activations", parts[i].bytes, parts[i].to, error);
    if (status != LW_OK || gpu->narrow) {
        gpu->attended_wide = gpu->attended;
        return status;
    }
    return take(gpu, "activations", rows * q * sizeof(float), &gpu->attended_wide, error);
}

/* ---- the object ---- */

static void destroy(llama_gpu_t *gpu)
{
    if (gpu == NULL)
        return;
    if (gpu->stream != NULL)
        (void)cudaStreamSynchronize(gpu->stream);
    llama_gemm_destroy(gpu->gemm);
    if (gpu->attended_wide != gpu->attended)
        cudaFree(gpu->attended_wide);
    void *parts[] = {gpu->weights, gpu->rope,     gpu->token,  gpu->position, gpu->x,
                     gpu->normed,  gpu->product,  gpu->hidden, gpu->query,    gpu->key,
                     gpu->value,   gpu->attended, gpu->logits};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        cudaFree(parts[i]);
    if (gpu->own_stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu->layer);
    free(gpu);
}

static lw_status_t check(const llama_gpu_params_t *params, const llama_shape_t *s, lw_error_t *error)
{
    if (params->rows_max == 0 || params->positions_max == 0)
        return lw_fail(error, LW_ERR_INVALID, "runner: rows_max is %u, positions_max %u", params->rows_max,
                       params->positions_max);
    if (s->layers == 0 || s->kv_heads == 0 || s->query_heads % s->kv_heads != 0 || s->query_heads == 0 ||
        s->head_dim == 0 || s->head_dim % 8 != 0 || s->head_dim > 256 || s->rope_dim > s->head_dim ||
        s->rope_dim % 2 != 0 || s->embedding == 0 || s->feed_forward == 0 || s->vocabulary == 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "runner: a shape of %u layers, %u query heads, %u KV heads of %u, width %u", s->layers,
                       s->query_heads, s->kv_heads, s->head_dim, s->embedding);
    return LW_OK;
}

static lw_status_t find_device(llama_gpu_t *gpu, lw_error_t *error)
{
    cudaDeviceProp properties;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || (int)gpu->ordinal >= count ||
        cudaSetDevice((int)gpu->ordinal) != cudaSuccess ||
        cudaGetDeviceProperties(&properties, (int)gpu->ordinal) != cudaSuccess) {
        (void)cudaGetLastError();
        return lw_fail(error, LW_ERR_UNSUPPORTED, "there is no device %u", gpu->ordinal);
    }
    snprintf(gpu->text, sizeof(gpu->text), "%.100s", properties.name);
    gpu->own_stream = gpu->stream == NULL;
    if (gpu->own_stream && cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking) != cudaSuccess)
        return lw_fail(error, LW_ERR_DEVICE, "%s makes no stream", gpu->text);
    return LW_OK;
}

static const char *describe(const llama_gpu_t *gpu)
{
    return gpu->text;
}

static uint64_t bytes(const llama_gpu_t *gpu)
{
    return gpu->bytes;
}

static void *stream(const llama_gpu_t *gpu)
{
    return (void *)gpu->stream;
}

static lw_status_t wait(llama_gpu_t *gpu)
{
    return lwk_cuda_check("wait", cudaStreamSynchronize(gpu->stream));
}

/* ---- a pass ---- */

static lw_status_t set_rows(llama_gpu_t *gpu, const uint32_t *tokens, const uint32_t *positions,
                            uint32_t rows)
{
    if (rows == 0 || rows > gpu->rows_max)
        return LW_ERR_INVALID;
    for (uint32_t i = 0; i < rows; i++)
        if (tokens[i] >= gpu->shape.vocabulary || positions[i] >= gpu->positions_max)
            return LW_ERR_INVALID;
    cudaError_t error = cudaStreamSynchronize(gpu->stream);
    if (error == cudaSuccess)
        error = cudaMemcpy(gpu->token, tokens, rows * sizeof(uint32_t), cudaMemcpyDefault);
    if (error == cudaSuccess)
        error = cudaMemcpy(gpu->position, positions, rows * sizeof(uint32_t), cudaMemcpyDefault);
    return lwk_cuda_check("set_rows", error);
}

static lw_status_t run_layer(const llama_gpu_t *gpu, const llama_gpu_attention_t *attention, uint32_t index,
                             uint32_t rows)
{
    const llama_shape_t *s = &gpu->shape;
    const llama_gpu_layer_t *layer = &gpu->layer[index];
    uint32_t q = s->query_heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    lw_status_t status = llama_norm(gpu, rows, index > 0, layer->attention_norm);
    if (status == LW_OK)
        status = llama_gemm(gpu, layer->qkv, q + 2 * kv, s->embedding, gpu->normed, rows, gpu->product);
    if (status == LW_OK)
        status = llama_rotate(gpu, rows);
    if (status == LW_OK)
        status =
            attention->attend(attention->self, index, rows, gpu->query, gpu->key, gpu->value, gpu->attended);
    if (status == LW_OK)
        status = llama_widen(gpu, rows);
    if (status == LW_OK)
        status =
            llama_gemm(gpu, layer->attention_output, s->embedding, q, gpu->attended_wide, rows, gpu->product);
    if (status == LW_OK)
        status = llama_norm(gpu, rows, true, layer->feed_forward_norm);
    if (status == LW_OK)
        status = llama_gemm(gpu, layer->gate_up, 2 * s->feed_forward, s->embedding, gpu->normed, rows,
                            gpu->product);
    if (status == LW_OK)
        status = llama_activate(gpu, rows);
    if (status == LW_OK)
        status = llama_gemm(gpu, layer->down, s->embedding, s->feed_forward, gpu->hidden, rows, gpu->product);
    return status;
}

static lw_status_t forward(llama_gpu_t *gpu, const llama_gpu_attention_t *attention,
                           const llama_gpu_pass_t *pass)
{
    const llama_shape_t *s = &gpu->shape;
    if (pass->rows == 0 || pass->rows > gpu->rows_max)
        return LW_ERR_INVALID;
    lw_status_t status = llama_embed(gpu, pass->rows);
    for (uint32_t i = 0; i < s->layers && status == LW_OK; i++)
        status = run_layer(gpu, attention, i, pass->rows);
    if (status != LW_OK || (!pass->project && !pass->advance))
        return status;
    status = llama_norm(gpu, pass->rows, true, gpu->output_norm);
    if (status == LW_OK)
        status =
            llama_gemm(gpu, gpu->output, s->vocabulary, s->embedding, gpu->normed, pass->rows, gpu->logits);
    if (status == LW_OK && pass->advance)
        status = llama_advance(gpu, pass->rows);
    return status;
}

static lw_status_t logits(llama_gpu_t *gpu, uint32_t row, float *logits_out)
{
    uint64_t count = gpu->shape.vocabulary;
    if (row >= gpu->rows_max)
        return LW_ERR_INVALID;
    cudaError_t error = cudaStreamSynchronize(gpu->stream);
    if (error == cudaSuccess)
        error = cudaMemcpy(logits_out, gpu->logits + row * count, count * sizeof(float), cudaMemcpyDefault);
    return lwk_cuda_check("logits", error);
}

static lw_status_t rows(llama_gpu_t *gpu, uint32_t count, uint32_t *tokens_out, uint32_t *positions_out)
{
    if (count > gpu->rows_max)
        return LW_ERR_INVALID;
    cudaError_t error = cudaStreamSynchronize(gpu->stream);
    if (error == cudaSuccess)
        error = cudaMemcpy(tokens_out, gpu->token, count * sizeof(uint32_t), cudaMemcpyDefault);
    if (error == cudaSuccess)
        error = cudaMemcpy(positions_out, gpu->position, count * sizeof(uint32_t), cudaMemcpyDefault);
    return lwk_cuda_check("rows", error);
}

/* ---- making one ---- */

/* Attention that leaves its output as it is. */
static lw_status_t attend_nothing(void *self, uint32_t layer, uint32_t rows, const uint16_t *query,
                                  const uint16_t *key, const uint16_t *value, uint16_t *out)
{
    return LW_OK;
}

/* Kernels and the products' plans are loaded by their first use, which must not happen in a capture. */
static lw_status_t warm_up(llama_gpu_t *gpu, lw_error_t *error)
{
    llama_gpu_attention_t attention = {attend_nothing, NULL};
    llama_gpu_pass_t pass = {gpu->rows_max, true, true};
    cudaError_t zeroed = cudaMemsetAsync(gpu->token, 0, gpu->rows_max * sizeof(uint32_t), gpu->stream);
    if (zeroed == cudaSuccess)
        zeroed = cudaMemsetAsync(gpu->position, 0, gpu->rows_max * sizeof(uint32_t), gpu->stream);
    lw_status_t status = lwk_cuda_check("warm-up", zeroed);
    if (status == LW_OK)
        status = forward(gpu, &attention, &pass);
    if (status == LW_OK)
        status = wait(gpu);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "%s: the first pass fails", gpu->text);
}

static lw_status_t create(const llama_gpu_params_t *params, llama_gpu_t **gpu_out, lw_error_t *error)
{
    const llama_shape_t *shape = params->model != NULL ? &params->model->shape : &params->shape;
    lw_status_t status = check(params, shape, error);
    if (status != LW_OK)
        return status;
    llama_gpu_t *gpu = (llama_gpu_t *)calloc(1, sizeof(*gpu));
    if (gpu == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "runner: no memory");
    gpu->shape = *shape;
    gpu->ordinal = params->ordinal;
    gpu->rows_max = params->rows_max;
    gpu->positions_max = params->positions_max;
    gpu->narrow = params->precision == LLAMA_GPU_BF16;
    gpu->stream = (cudaStream_t)params->stream;
    status = find_device(gpu, error);
    if (status == LW_OK)
        status = make_weights(gpu, params, error);
    if (status == LW_OK)
        status = make_rope(gpu, params->model != NULL ? params->model->rope_factors : NULL, error);
    if (status == LW_OK)
        status = make_rows(gpu, error);
    if (status == LW_OK)
        status = llama_gemm_create(gpu, &gpu->gemm, error);
    if (status == LW_OK)
        status = warm_up(gpu, error);
    if (status != LW_OK) {
        destroy(gpu);
        return status;
    }
    *gpu_out = gpu;
    return LW_OK;
}

extern "C" __attribute__((visibility("default"))) const llama_gpu_api_t *llama_gpu_cuda(void)
{
    static const llama_gpu_api_t api = {sizeof(llama_gpu_api_t),
                                        LLAMA_GPU_VERSION,
                                        create,
                                        destroy,
                                        describe,
                                        bytes,
                                        stream,
                                        wait,
                                        set_rows,
                                        forward,
                                        llama_graph_begin,
                                        llama_graph_end,
                                        llama_graph_launch,
                                        llama_graph_destroy,
                                        logits,
                                        rows,
                                        llama_full_gpu_create,
                                        llama_full_gpu_destroy,
                                        llama_full_gpu_attention,
                                        llama_full_gpu_fill,
                                        llama_stamp,
                                        llama_full_gpu_load};
    return &api;
}
