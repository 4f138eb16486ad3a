#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/prng.h"
#include "client/examples/llama/gguf.h"

/* ---- blocks, by formulas of their own: ldexp and division, no bit tricks ---- */

static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static uint16_t half_of(double value) /* truncates: any half will do */
{
    int exponent;
    double fraction = frexp(fabs(value), &exponent); /* [0.5, 1) x 2^exponent */
    if (value == 0 || exponent < -13)
        return 0;
    return (uint16_t)((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | ((int)(fraction * 2048) & 1023));
}

size_t tiny_block_bytes(uint32_t type, size_t count)
{
    switch (type) {
    case LLAMA_TENSOR_F32: return count * 4;
    case LLAMA_TENSOR_F16:
    case LLAMA_TENSOR_BF16: return count * 2;
    case LLAMA_TENSOR_Q4_0: return count / 32 * 18;
    case LLAMA_TENSOR_Q4_1: return count / 32 * 20;
    default: return count / 32 * 34;
    }
}

static void put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void random_block(uint32_t type, float scale, lw_prng_t *prng, uint8_t *block, float *values)
{
    double steps = type == LLAMA_TENSOR_Q8_0 ? 128 : 8;
    uint16_t d = half_of(scale / steps * (0.5 + lw_prng_unit(prng))),
             m = half_of(-scale * lw_prng_unit(prng));
    put_u16(block, d);
    if (type == LLAMA_TENSOR_Q4_1)
        put_u16(block + 2, m);
    uint8_t *codes = block + (type == LLAMA_TENSOR_Q4_1 ? 4 : 2);
    for (int i = 0; i < 32; i++) {
        if (type == LLAMA_TENSOR_Q8_0) {
            int code = (int)lw_prng_below(prng, 256) - 128;
            codes[i] = (uint8_t)code;
            values[i] = (float)(half_value(d) * code);
            continue;
        }
        int code = (int)lw_prng_below(prng, 16);
        if (i < 16)
            codes[i] = (uint8_t)code;
        else
            codes[i - 16] = (uint8_t)(codes[i - 16] + code * 16);
        double product = (float)(half_value(d) * (type == LLAMA_TENSOR_Q4_1 ? code : code - 8));
        values[i] = (float)(product + (type == LLAMA_TENSOR_Q4_1 ? half_value(m) : 0));
    }
}

void tiny_random_blocks(uint32_t type, size_t count, float scale, uint64_t *seed, uint8_t *blocks,
                        float *values)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, *seed);
    if (tiny_block_bytes(type, 32) % 32 == 0) { /* no blocks */
        for (size_t i = 0; i < count; i++) {
            float value = (float)(lw_prng_unit(&prng) * 2 - 1) * scale;
            uint32_t bits;
            memcpy(&bits, &value, sizeof(bits));
            if (type == LLAMA_TENSOR_F16) {
                put_u16(blocks + 2 * i, half_of(value));
                value = (float)half_value(half_of(value));
            } else if (type == LLAMA_TENSOR_BF16) {
                put_u16(blocks + 2 * i, (uint16_t)(bits >> 16));
                bits &= 0xffff0000u;
                memcpy(&value, &bits, sizeof(value));
            } else {
                memcpy(blocks + 4 * i, &value, sizeof(value));
            }
            values[i] = value;
        }
    } else {
        for (size_t i = 0; i < count / 32; i++)
            random_block(type, scale, &prng, blocks + i * tiny_block_bytes(type, 32), values + i * 32);
    }
    *seed = prng.state;
}

/* ---- the vocabulary --------------------------------------------------------- */

/* A byte's spelling in the alphabet of GPT-2. */
static void spell(unsigned byte, char *text)
{
    unsigned code = byte;
    if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174))
        code = 256 + (byte < 33 ? byte : byte < 161 ? byte - 127 + 33 : 67);
    if (code < 128)
        snprintf(text, 3, "%c", code);
    else
        snprintf(text, 3, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
}

void tiny_tokenizer(gguf_writer_t *writer, const tiny_options_t *options)
{
    static const char *const merged[TINY_MERGES] = {
        "th", "the", "\xc4\xa0t", "\xc4\xa0the", "\xc4\xa0\xc4\xa0", "aa"};
    static const char *const merges[TINY_MERGES] = {
        "t h", "th e", "\xc4\xa0 t", "\xc4\xa0 the", "\xc4\xa0 \xc4\xa0", "a a"};
    char spelling[256][3];
    const char *tokens[TINY_VOCABULARY];
    int32_t types[TINY_VOCABULARY];
    for (unsigned i = 0; i < TINY_VOCABULARY; i++)
        types[i] = 1;
    for (unsigned byte = 0; byte < 256; byte++) {
        spell(byte, spelling[byte]);
        tokens[byte] = spelling[byte];
    }
    for (unsigned i = 0; i < TINY_MERGES; i++)
        tokens[256 + i] = merged[i];
    tokens[TINY_TURN_START] = "<|im_start|>";
    tokens[TINY_TURN_END] = "<|im_end|>";
    tokens[TINY_USER] = "<user>";
    types[TINY_TURN_START] = types[TINY_TURN_END] = 3;
    types[TINY_USER] = 4;
    gguf_add_text(writer, "tokenizer.ggml.model", options->rename_model ? options->rename_model : "gpt2");
    gguf_add_text(writer, "tokenizer.ggml.pre", options->rename_pre ? options->rename_pre : "smollm");
    gguf_add_texts(writer, "tokenizer.ggml.tokens", tokens, TINY_VOCABULARY);
    gguf_add_i32s(writer, "tokenizer.ggml.token_type", types, TINY_VOCABULARY);
    gguf_add_texts(writer, "tokenizer.ggml.merges", merges, TINY_MERGES);
    gguf_add_u32(writer, "tokenizer.ggml.eos_token_id", TINY_TURN_END);
}

/* ---- the model -------------------------------------------------------------- */

typedef struct maker {
    gguf_writer_t writer;
    const tiny_options_t *options;
    uint64_t seed;
} maker_t;

static float *add(maker_t *maker, const char *name, uint64_t rows, uint64_t columns)
{
    size_t count = (rows ? rows : 1) * columns;
    uint32_t type = rows ? maker->options->matrix_type : LLAMA_TENSOR_F32;
    float *values = malloc(count * sizeof(*values));
    uint8_t *blocks = malloc(count * sizeof(*values));
    LW_ASSERT(values && blocks);
    tiny_random_blocks(type, count, rows ? 1.5f / sqrtf((float)columns) : 1.0f, &maker->seed, blocks, values);
    if (!maker->options->skip || strcmp(maker->options->skip, name) != 0) {
        if (maker->options->as_f32)
            gguf_add_tensor(&maker->writer, name, rows, columns, LLAMA_TENSOR_F32, values,
                            count * sizeof(*values));
        else
            gguf_add_tensor(&maker->writer, name, rows, columns, type, blocks, tiny_block_bytes(type, count));
    }
    free(blocks);
    return values;
}

static float *add_layer(maker_t *maker, unsigned layer, const char *what, uint64_t rows, uint64_t columns)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, what);
    return add(maker, name, rows, columns);
}

uint8_t *tiny_model(const tiny_options_t *options, size_t *bytes_out, tiny_weights_t *weights_out)
{
    maker_t maker = {.options = options, .seed = options->seed};
    gguf_writer_t *writer = &maker.writer;
    tiny_weights_t weights = {0};
    gguf_add_text(writer, "general.architecture",
                  options->rename_architecture ? options->rename_architecture : "llama");
    gguf_add_text(writer, "general.name", "tiny");
    gguf_add_u32(writer, "llama.block_count", TINY_LAYERS);
    gguf_add_u32(writer, "llama.context_length", TINY_CONTEXT);
    gguf_add_u32(writer, "llama.embedding_length", TINY_WIDTH);
    gguf_add_u32(writer, "llama.feed_forward_length", TINY_FORWARD);
    gguf_add_u32(writer, "llama.attention.head_count", TINY_QUERY_HEADS);
    gguf_add_u32(writer, "llama.attention.head_count_kv", TINY_KV_HEADS);
    gguf_add_f32(writer, "llama.rope.freq_base", TINY_BASE);
    gguf_add_f32(writer, "llama.attention.layer_norm_rms_epsilon", TINY_EPSILON);
    tiny_tokenizer(writer, options);

    uint64_t q = TINY_QUERY_HEADS * TINY_HEAD_DIM, kv = TINY_KV_HEADS * TINY_HEAD_DIM;
    weights.embedding = add(&maker, "token_embd.weight", TINY_VOCABULARY, TINY_WIDTH);
    if (options->untied)
        weights.output = add(&maker, "output.weight", TINY_VOCABULARY, TINY_WIDTH);
    weights.output_norm = add(&maker, "output_norm.weight", 0, TINY_WIDTH);
    for (unsigned i = 0; i < TINY_LAYERS; i++) {
        weights.layer[i].attention_norm = add_layer(&maker, i, "attn_norm", 0, TINY_WIDTH);
        weights.layer[i].q = add_layer(&maker, i, "attn_q", q, TINY_WIDTH);
        weights.layer[i].k = add_layer(&maker, i, "attn_k", kv, TINY_WIDTH);
        weights.layer[i].v = add_layer(&maker, i, "attn_v", kv, TINY_WIDTH);
        weights.layer[i].attention_output = add_layer(&maker, i, "attn_output", TINY_WIDTH, q);
        weights.layer[i].forward_norm = add_layer(&maker, i, "ffn_norm", 0, TINY_WIDTH);
        weights.layer[i].gate = add_layer(&maker, i, "ffn_gate", TINY_FORWARD, TINY_WIDTH);
        weights.layer[i].up = add_layer(&maker, i, "ffn_up", TINY_FORWARD, TINY_WIDTH);
        weights.layer[i].down = add_layer(&maker, i, "ffn_down", TINY_WIDTH, TINY_FORWARD);
    }
    if (options->extra)
        free(add(&maker, options->extra, 0, TINY_WIDTH));
    if (weights_out)
        *weights_out = weights;
    else
        tiny_weights_free(&weights);
    return gguf_finish(writer, bytes_out);
}

void tiny_weights_free(tiny_weights_t *weights)
{
    free(weights->embedding);
    free(weights->output);
    free(weights->output_norm);
    for (unsigned i = 0; i < TINY_LAYERS; i++) {
        float *all[] = {weights->layer[i].attention_norm,
                        weights->layer[i].q,
                        weights->layer[i].k,
                        weights->layer[i].v,
                        weights->layer[i].attention_output,
                        weights->layer[i].forward_norm,
                        weights->layer[i].gate,
                        weights->layer[i].up,
                        weights->layer[i].down};
        for (unsigned j = 0; j < LW_ARRAY_SIZE(all); j++)
            free(all[j]);
    }
    memset(weights, 0, sizeof(*weights));
}

llama_model_t *tiny_open(const tiny_options_t *options, llama_pool_t *pool, tiny_weights_t *weights)
{
    size_t bytes;
    uint8_t *file = tiny_model(options, &bytes, weights);
    const char *name = gguf_write_file(file, bytes);
    llama_model_t *model = NULL;
    lw_error_t error = {0};
    lw_status_t status = llama_model_open(name, pool, &model, &error);
    unlink(name);
    free(file);
    if (status != LW_OK)
        fprintf(stderr, "tiny model: %s\n", error.text);
    LW_ASSERT(status == LW_OK);
    return model;
}
