/* llama_private.h - what model.c loads and forward.c reads. */
#ifndef LLAMA_PRIVATE_H
#define LLAMA_PRIVATE_H

#include "client/examples/llama/llama.h"

/* Matrices are row-major fp32, [rows][columns], one row an output. */
typedef struct llama_layer {
    const float *attention_norm;   /* [embedding] */
    const float *qkv;              /* [(query_heads + 2 kv_heads) head_dim][embedding]: Q, then K, then V */
    const float *attention_output; /* [embedding][query_heads head_dim] */
    const float *feed_forward_norm;
    const float *gate_up; /* [2 feed_forward][embedding]: gate, then up */
    const float *down;    /* [embedding][feed_forward] */
} llama_layer_t;

struct llama_model {
    llama_shape_t shape;
    char name[128];
    uint64_t parameters;
    llama_tokenizer_t *tokenizer;
    float *weights;               /* all of them, one block */
    const float *token_embedding; /* [vocabulary][embedding] */
    const float *output_norm;
    const float *output;       /* [vocabulary][embedding]; token_embedding when tied */
    const float *rope_factors; /* [rope_dim / 2] divisors of the frequencies; NULL: none */
    llama_layer_t *layer;
};

#endif /* LLAMA_PRIVATE_H */
