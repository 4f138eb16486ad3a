/* model.c - a GGUF file to a model in memory: reads the shape, checks every tensor against it, dequantises.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "client/examples/llama/dequantise.h"
#include "client/examples/llama/gguf.h"
#include "client/examples/llama/llama_private.h"
#include "client/examples/llama/pool.h"
#include "client/examples/llama/tokenizer.h"

/* Sanity bounds of the shape: far above any model of this architecture, far below overflow. */
#define EMBEDDING_MAX (1u << 16)
#define FEED_FORWARD_MAX (1u << 18)
#define VOCABULARY_MAX (1u << 22)
#define CONTEXT_MAX (1u << 26)
#define QUERY_HEADS_MAX (LW_KV_HEADS_MAX * LW_GROUP_MAX)

/* ---- the shape --------------------------------------------------------- */

static lw_status_t read_bounded(const llama_gguf_t *gguf, const char *key, uint32_t maximum,
                                uint32_t *value_out, lw_error_t *error)
{
    uint32_t value;
    lw_status_t status = llama_gguf_u32(gguf, key, &value, error);
    if (status != LW_OK)
        return status;
    if (value == 0 || value > maximum)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %s is %u, outside 1 to %u", key, value, maximum);
    *value_out = value;
    return LW_OK;
}

/* As read_bounded, but an absent key leaves *value_out as it is. */
static lw_status_t read_optional(const llama_gguf_t *gguf, const char *key, uint32_t maximum,
                                 uint32_t *value_out, lw_error_t *error)
{
    return llama_gguf_find(gguf, key) ? read_bounded(gguf, key, maximum, value_out, error) : LW_OK;
}

static lw_status_t check_architecture(const llama_gguf_t *gguf, lw_error_t *error)
{
    llama_text_t text;
    lw_status_t status = llama_gguf_text(gguf, "general.architecture", &text, error);
    if (status != LW_OK)
        return status;
    if (!llama_text_is(text, "llama"))
        return lw_fail(error, LW_ERR_UNSUPPORTED, "gguf: general.architecture is %.*s, not llama",
                       (int)(text.count < 80 ? text.count : 80), text.bytes);
    return LW_OK;
}

static lw_status_t read_rope(const llama_gguf_t *gguf, llama_shape_t *shape, lw_error_t *error)
{
    shape->rope_dim = shape->head_dim;
    shape->rope_base = 10000.0f;
    shape->rope_scale = 1.0f;
    lw_status_t status =
        read_optional(gguf, "llama.rope.dimension_count", shape->head_dim, &shape->rope_dim, error);
    if (status != LW_OK)
        return status;
    status = llama_gguf_f32(gguf, "llama.rope.freq_base", &shape->rope_base, error);
    if (status != LW_OK && status != LW_ERR_NOT_FOUND)
        return status;
    llama_text_t scaling = {"none", 4};
    status = llama_gguf_text(gguf, "llama.rope.scaling.type", &scaling, error);
    if (status != LW_OK && status != LW_ERR_NOT_FOUND)
        return status;
    if (llama_text_is(scaling, "linear")) {
        status = llama_gguf_f32(gguf, "llama.rope.scaling.factor", &shape->rope_scale, error);
        if (status != LW_OK)
            return status;
    } else if (!llama_text_is(scaling, "none")) {
        return lw_fail(error, LW_ERR_UNSUPPORTED,
                       "gguf: llama.rope.scaling.type is %.*s; supported: none linear",
                       (int)(scaling.count < 80 ? scaling.count : 80), scaling.bytes);
    }
    if (shape->rope_dim % 2 || !(shape->rope_base >= 1.0f) || !(shape->rope_scale >= 1.0f))
        return lw_fail(error, LW_ERR_INVALID, "gguf: rope of %u dimensions, base %g, scale %g",
                       shape->rope_dim, (double)shape->rope_base, (double)shape->rope_scale);
    return LW_OK;
}

static lw_status_t read_heads(const llama_gguf_t *gguf, llama_shape_t *shape, lw_error_t *error)
{
    lw_status_t status;
    if ((status =
             read_bounded(gguf, "llama.attention.head_count", QUERY_HEADS_MAX, &shape->query_heads, error)))
        return status;
    shape->kv_heads = shape->query_heads;
    if ((status =
             read_optional(gguf, "llama.attention.head_count_kv", LW_KV_HEADS_MAX, &shape->kv_heads, error)))
        return status;
    if (shape->query_heads % shape->kv_heads || shape->kv_heads > LW_KV_HEADS_MAX ||
        shape->query_heads / shape->kv_heads > LW_GROUP_MAX)
        return lw_fail(error, LW_ERR_INVALID, "gguf: llama.attention: %u query heads on %u KV heads",
                       shape->query_heads, shape->kv_heads);
    shape->head_dim = shape->embedding / shape->query_heads;
    uint32_t key = shape->head_dim, value;
    if ((status = read_optional(gguf, "llama.attention.key_length", LW_HEAD_DIM_MAX, &key, error)))
        return status;
    value = key;
    if ((status = read_optional(gguf, "llama.attention.value_length", LW_HEAD_DIM_MAX, &value, error)))
        return status;
    if (key != value || key == 0 || key > LW_HEAD_DIM_MAX || key % 8)
        return lw_fail(
            error, LW_ERR_INVALID,
            "gguf: llama.attention: heads of %u key and %u value dimensions; one multiple of 8 up to %u", key,
            value, LW_HEAD_DIM_MAX);
    shape->head_dim = key;
    return LW_OK;
}

static lw_status_t read_shape(const llama_gguf_t *gguf, llama_shape_t *shape, lw_error_t *error)
{
    lw_status_t status = check_architecture(gguf, error);
    if (status != LW_OK)
        return status;
    if ((status = read_bounded(gguf, "llama.block_count", LW_LAYERS_MAX, &shape->layers, error)) ||
        (status = read_bounded(gguf, "llama.context_length", CONTEXT_MAX, &shape->context, error)) ||
        (status = read_bounded(gguf, "llama.embedding_length", EMBEDDING_MAX, &shape->embedding, error)) ||
        (status = read_bounded(gguf, "llama.feed_forward_length", FEED_FORWARD_MAX, &shape->feed_forward,
                               error)) ||
        (status = read_heads(gguf, shape, error)) || (status = read_rope(gguf, shape, error)) ||
        (status = llama_gguf_f32(gguf, "llama.attention.layer_norm_rms_epsilon", &shape->rms_epsilon, error)))
        return status;
    if (!(shape->rms_epsilon >= 0 && shape->rms_epsilon < 1))
        return lw_fail(error, LW_ERR_INVALID, "gguf: llama.attention.layer_norm_rms_epsilon is %g",
                       (double)shape->rms_epsilon);
    uint32_t experts = 0;
    if (llama_gguf_find(gguf, "llama.expert_count")) {
        if ((status = llama_gguf_u32(gguf, "llama.expert_count", &experts, error)))
            return status;
        if (experts)
            return lw_fail(error, LW_ERR_UNSUPPORTED,
                           "gguf: llama.expert_count is %u: no mixtures of experts", experts);
    }
    const llama_gguf_tensor_t *embedding = llama_gguf_tensor(gguf, "token_embd.weight");
    if (!embedding)
        return lw_fail(error, LW_ERR_INVALID, "gguf: there is no tensor token_embd.weight");
    if (embedding->dimension[1] > VOCABULARY_MAX)
        return lw_fail(error, LW_ERR_INVALID, "gguf: token_embd.weight has %" PRIu64 " rows",
                       embedding->dimension[1]);
    shape->vocabulary = (uint32_t)embedding->dimension[1];
    return LW_OK;
}

/* ---- the weights ------------------------------------------------------- */

/* One tensor and where its values go. */
typedef struct placement {
    const llama_gguf_tensor_t *tensor;
    size_t offset; /* floats into the weights */
} placement_t;

typedef struct loader {
    const llama_gguf_t *gguf;
    llama_model_t *model;
    placement_t *placement; /* [count], in the order of the tensors' places */
    size_t count, floats;
    lw_error_t *error;
    lw_status_t status; /* the first failure; later calls do nothing */
} loader_t;

/* Reserves room for a tensor of exactly [rows][columns] (rows 1: a vector) and returns where, in floats. */
static size_t place(loader_t *loader, uint64_t rows, uint64_t columns, const char *name)
{
    if (loader->status != LW_OK)
        return 0;
    const llama_gguf_tensor_t *tensor = llama_gguf_tensor(loader->gguf, name);
    if (!tensor) {
        loader->status = lw_fail(loader->error, LW_ERR_INVALID, "gguf: there is no tensor %s", name);
        return 0;
    }
    if (tensor->dimension[0] != columns || tensor->dimension[1] != rows ||
        tensor->value_count != rows * columns) {
        loader->status = lw_fail(loader->error, LW_ERR_INVALID,
                                 "gguf: tensor %s is %" PRIu64 " x %" PRIu64 ", not %" PRIu64 " x %" PRIu64,
                                 name, tensor->dimension[0], tensor->dimension[1], columns, rows);
        return 0;
    }
    LW_ASSERT(loader->count < llama_gguf_tensor_count(loader->gguf));
    loader->placement[loader->count++] = (placement_t){tensor, loader->floats};
    loader->floats += tensor->value_count;
    loader->model->parameters += tensor->value_count;
    return loader->placement[loader->count - 1].offset;
}

static size_t place_in_layer(loader_t *loader, uint32_t layer, uint64_t rows, uint64_t columns,
                             const char *name)
{
    char full_name[64];
    snprintf(full_name, sizeof(full_name), "blk.%u.%s.weight", layer, name);
    return place(loader, rows, columns, full_name);
}

/* Matrices that one product covers are placed one after the other. Offsets become pointers when the block
 * exists. */
static void place_layer(loader_t *loader, uint32_t index, size_t offset_out[6])
{
    const llama_shape_t *shape = &loader->model->shape;
    uint64_t d = shape->head_dim, width = shape->embedding, forward = shape->feed_forward;
    offset_out[0] = place_in_layer(loader, index, 1, width, "attn_norm");
    offset_out[1] = place_in_layer(loader, index, shape->query_heads * d, width, "attn_q");
    place_in_layer(loader, index, shape->kv_heads * d, width, "attn_k");
    place_in_layer(loader, index, shape->kv_heads * d, width, "attn_v");
    offset_out[2] = place_in_layer(loader, index, width, shape->query_heads * d, "attn_output");
    offset_out[3] = place_in_layer(loader, index, 1, width, "ffn_norm");
    offset_out[4] = place_in_layer(loader, index, forward, width, "ffn_gate");
    place_in_layer(loader, index, forward, width, "ffn_up");
    offset_out[5] = place_in_layer(loader, index, width, forward, "ffn_down");
}

/* A tensor that was not placed changes what the model computes: refuse it by name. */
static void refuse_others(loader_t *loader)
{
    size_t count = llama_gguf_tensor_count(loader->gguf);
    if (loader->status != LW_OK || loader->count == count)
        return;
    for (size_t i = 0; i < count; i++) {
        const llama_gguf_tensor_t *tensor = llama_gguf_tensor_at(loader->gguf, i);
        bool used = false;
        for (size_t j = 0; j < loader->count && !used; j++)
            used = loader->placement[j].tensor == tensor;
        if (!used) {
            loader->status =
                lw_fail(loader->error, LW_ERR_UNSUPPORTED, "gguf: tensor %.*s is not one this runner uses",
                        (int)(tensor->name.count < 80 ? tensor->name.count : 80), tensor->name.bytes);
            return;
        }
    }
}

static void dequantise_task(void *arg, uint32_t task, uint32_t worker)
{
    const loader_t *loader = arg;
    const placement_t *placement = &loader->placement[task];
    llama_dequantise(placement->tensor, 0, placement->tensor->value_count,
                     loader->model->weights + placement->offset);
}

static bool all_finite(const float *values, size_t count)
{
    float sum = 0; /* 0 x anything finite is 0; otherwise NaN */
    for (size_t i = 0; i < count; i++)
        sum += values[i] * 0.0f;
    return sum == 0.0f;
}

static lw_status_t load_weights(const llama_gguf_t *gguf, llama_model_t *model, llama_pool_t *pool,
                                lw_error_t *error)
{
    const llama_shape_t *shape = &model->shape;
    loader_t loader = {.gguf = gguf, .model = model, .error = error};
    loader.placement = calloc(llama_gguf_tensor_count(gguf) + 1, sizeof(*loader.placement));
    size_t(*offsets)[6] = calloc(shape->layers, sizeof(*offsets));
    model->layer = calloc(shape->layers, sizeof(*model->layer));
    if (!loader.placement || !offsets || !model->layer) {
        loader.status = lw_fail(error, LW_ERR_NO_MEMORY, "model: no memory for %u layers", shape->layers);
        goto free_loader;
    }
    bool untied = llama_gguf_tensor(gguf, "output.weight") != NULL;
    bool factors = llama_gguf_tensor(gguf, "rope_freqs.weight") != NULL;
    size_t embedding = place(&loader, shape->vocabulary, shape->embedding, "token_embd.weight");
    size_t output = untied ? place(&loader, shape->vocabulary, shape->embedding, "output.weight") : embedding;
    size_t norm = place(&loader, 1, shape->embedding, "output_norm.weight");
    size_t rope = factors ? place(&loader, 1, shape->rope_dim / 2, "rope_freqs.weight") : 0;
    for (uint32_t i = 0; i < shape->layers; i++)
        place_layer(&loader, i, offsets[i]);
    refuse_others(&loader);
    if (loader.status != LW_OK)
        goto free_loader;

    model->weights = aligned_alloc(64, lw_align_up(loader.floats * sizeof(float), 64));
    if (!model->weights) {
        loader.status =
            lw_fail(error, LW_ERR_NO_MEMORY, "model: no memory for %zu fp32 weights", loader.floats);
        goto free_loader;
    }
    llama_pool_run(pool, dequantise_task, &loader, (uint32_t)loader.count);
    for (size_t i = 0; i < loader.count; i++) {
        const llama_gguf_tensor_t *tensor = loader.placement[i].tensor;
        if (!all_finite(model->weights + loader.placement[i].offset, tensor->value_count)) {
            loader.status = lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s holds infinities or NaNs",
                                    (int)tensor->name.count, tensor->name.bytes);
            goto free_loader;
        }
    }
    model->token_embedding = model->weights + embedding;
    model->output = model->weights + output;
    model->output_norm = model->weights + norm;
    model->rope_factors = factors ? model->weights + rope : NULL;
    for (uint32_t i = 0; i < shape->layers; i++) {
        const float *weights = model->weights;
        model->layer[i] =
            (llama_layer_t){weights + offsets[i][0], weights + offsets[i][1], weights + offsets[i][2],
                            weights + offsets[i][3], weights + offsets[i][4], weights + offsets[i][5]};
    }
free_loader:
    free(loader.placement);
    free(offsets);
    return loader.status;
}

/* ---- the object -------------------------------------------------------- */

static lw_status_t load(const llama_gguf_t *gguf, llama_model_t *model, llama_pool_t *pool, lw_error_t *error)
{
    lw_status_t status = read_shape(gguf, &model->shape, error);
    if (status != LW_OK)
        return status;
    llama_text_t name;
    snprintf(model->name, sizeof(model->name), "llama");
    if (llama_gguf_text(gguf, "general.name", &name, NULL) == LW_OK)
        snprintf(model->name, sizeof(model->name), "%.*s", (int)(name.count < 127 ? name.count : 127),
                 name.bytes);
    status = llama_tokenizer_create(gguf, &model->tokenizer, error);
    if (status != LW_OK)
        return status;
    if (llama_tokenizer_count(model->tokenizer) > model->shape.vocabulary)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %u tokens, but token_embd.weight has %u rows",
                       llama_tokenizer_count(model->tokenizer), model->shape.vocabulary);
    return load_weights(gguf, model, pool, error);
}

lw_status_t llama_model_open(const char *path, llama_pool_t *pool, llama_model_t **model_out,
                             lw_error_t *error)
{
    llama_gguf_t *gguf;
    lw_status_t status = llama_gguf_open(path, &gguf, error);
    if (status != LW_OK)
        return status;
    llama_model_t *model = calloc(1, sizeof(*model));
    status = model ? load(gguf, model, pool, error) : lw_fail(error, LW_ERR_NO_MEMORY, "model: no memory");
    llama_gguf_close(gguf); /* weights and tokenizer are copies */
    if (status != LW_OK) {
        llama_model_close(model);
        return status;
    }
    *model_out = model;
    return LW_OK;
}

void llama_model_close(llama_model_t *model)
{
    if (!model)
        return;
    llama_tokenizer_destroy(model->tokenizer);
    free(model->weights);
    free(model->layer);
    free(model);
}

const llama_shape_t *llama_model_shape(const llama_model_t *model)
{
    return &model->shape;
}
const char *llama_model_name(const llama_model_t *model)
{
    return model->name;
}
uint64_t llama_model_parameters(const llama_model_t *model)
{
    return model->parameters;
}
const llama_tokenizer_t *llama_model_tokenizer(const llama_model_t *model)
{
    return model->tokenizer;
}
