/* attend_plain.h - random Q, K, V and attention by its definition, in double precision. */
#ifndef ATTEND_PLAIN_H
#define ATTEND_PLAIN_H

#include <math.h>

#include "client/examples/llama/dequantise.h"
#include "client/examples/llama/llama.h"
#include "unit/proto/test_support.h"

/* A whole sequence: query [tokens][query_heads][d], key and value [tokens][kv_heads][d]. */
typedef struct plain {
    llama_shape_t shape;
    uint32_t tokens;
    uint16_t *query, *key, *value;
} plain_t;

static inline uint16_t *plain_random(lw_prng_t *prng, size_t count, double scale)
{
    uint16_t *out = malloc(count * sizeof(*out));
    for (size_t i = 0; i < count; i++)
        out[i] = llama_float_to_bf16((float)((lw_prng_unit(prng) * 2 - 1) * scale));
    return out;
}

static inline plain_t plain_make(lw_prng_t *prng, llama_shape_t shape, uint32_t tokens, double scale)
{
    size_t q = (size_t)tokens * shape.query_heads * shape.head_dim,
           kv = (size_t)tokens * shape.kv_heads * shape.head_dim;
    return (plain_t){shape, tokens, plain_random(prng, q, scale), plain_random(prng, kv, scale),
                     plain_random(prng, kv, 1)};
}

static inline void plain_free(plain_t *plain)
{
    free(plain->query);
    free(plain->key);
    free(plain->value);
}

static inline void plain_attend(const plain_t *plain, uint32_t token, uint32_t head, double *out)
{
    const llama_shape_t *s = &plain->shape;
    uint32_t d = s->head_dim, kv_head = head / (s->query_heads / s->kv_heads);
    double *weight = malloc((token + 1) * sizeof(*weight)), maximum = -INFINITY, sum = 0;
    for (uint32_t j = 0; j <= token; j++) {
        weight[j] = 0;
        for (uint32_t i = 0; i < d; i++)
            weight[j] +=
                (double)llama_bf16_to_float(plain->query[((size_t)token * s->query_heads + head) * d + i]) *
                llama_bf16_to_float(plain->key[((size_t)j * s->kv_heads + kv_head) * d + i]);
        weight[j] /= sqrt(d);
        maximum = fmax(maximum, weight[j]);
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] = 0;
    for (uint32_t j = 0; j <= token; j++) {
        double w = exp(weight[j] - maximum);
        sum += w;
        for (uint32_t i = 0; i < d; i++)
            out[i] += w * llama_bf16_to_float(plain->value[((size_t)j * s->kv_heads + kv_head) * d + i]);
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
    free(weight);
}

/* Attends tokens first .. first + count - 1 of the sequence on a layer. */
static inline lw_status_t plain_feed(const plain_t *plain, const llama_attention_t *attention, uint32_t layer,
                                     uint32_t first, uint32_t count, float *out)
{
    const llama_shape_t *s = &plain->shape;
    size_t q = (size_t)s->query_heads * s->head_dim, kv = (size_t)s->kv_heads * s->head_dim;
    return attention->attend(attention->self, layer, first, count, plain->query + first * q,
                             plain->key + first * kv, plain->value + first * kv, out);
}

#endif /* ATTEND_PLAIN_H */
