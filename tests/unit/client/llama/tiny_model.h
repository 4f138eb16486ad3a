/* tiny_model.h - a random Llama of two layers and a vocabulary of the 256 bytes, a few merges and special
 * tokens. */
#ifndef TINY_MODEL_H
#define TINY_MODEL_H

#include <stdbool.h>

#include "client/examples/llama/llama.h"
#include "gguf_writer.h"

#define TINY_LAYERS 2u
#define TINY_WIDTH 64u
#define TINY_QUERY_HEADS 4u
#define TINY_KV_HEADS 2u
#define TINY_HEAD_DIM 16u
#define TINY_FORWARD 96u
#define TINY_CONTEXT 2048u
#define TINY_BASE 500.0f
#define TINY_EPSILON 1e-5f

/* Tokens: 0..255 are the bytes, then the merges of tiny_merges, then <|im_start|>, <|im_end|>, <user>
 * (user-defined). */
#define TINY_MERGES 6u
#define TINY_VOCABULARY (256u + TINY_MERGES + 3u)
#define TINY_THE (256u + 1u)       /* "the" */
#define TINY_SPACE_THE (256u + 3u) /* " the" */
#define TINY_TURN_START (256u + TINY_MERGES)
#define TINY_TURN_END (256u + TINY_MERGES + 1u)
#define TINY_USER (256u + TINY_MERGES + 2u)

typedef struct tiny_options {
    uint64_t seed;
    uint32_t matrix_type; /* tensor type code of the matrices; F32 is 0 */
    bool as_f32;          /* write the values that matrix_type's blocks stand for, as F32 */
    bool untied;          /* an output.weight of its own */
    const char *skip;     /* a tensor to leave out */
    const char *extra;    /* a tensor too many */
    const char *rename_architecture, *rename_model, *rename_pre;
} tiny_options_t;

/* fp32 weights as the file means them; tiny_weights_free(). */
typedef struct tiny_weights {
    float *embedding, *output, *output_norm;
    struct {
        float *attention_norm, *q, *k, *v, *attention_output, *forward_norm, *gate, *up, *down;
    } layer[TINY_LAYERS];
} tiny_weights_t;

void tiny_tokenizer(gguf_writer_t *writer, const tiny_options_t *options);
/* The file's bytes (free()), and the weights when weights is not NULL. */
uint8_t *tiny_model(const tiny_options_t *options, size_t *bytes_out, tiny_weights_t *weights);
void tiny_weights_free(tiny_weights_t *weights);
/* Writes the model to a file, opens it, removes the file. Aborts on failure. */
llama_model_t *tiny_open(const tiny_options_t *options, llama_pool_t *pool, tiny_weights_t *weights);

/* Bytes of `count` values of a type; and random blocks of it, with the values they stand for by the plain
 * formula. */
size_t tiny_block_bytes(uint32_t type, size_t count);
void tiny_random_blocks(uint32_t type, size_t count, float scale, uint64_t *seed, uint8_t *blocks,
                        float *values);

#endif /* TINY_MODEL_H */
