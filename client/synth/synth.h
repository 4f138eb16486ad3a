/* synth.h - synthetic keys, values and queries that behave like a model's attention: content in few shared
 * directions and low frequencies, passages with drifting topics, a large common key mean, sinks, rotary
 * positions. Everything is a function of the configuration; rows are made on demand, a million a second and
 * thread. What benchmarks and op tests feed the library with where no model is. Any thread, once created. */
#ifndef LW_SYNTH_H
#define LW_SYNTH_H

#include <stdint.h>

#define LW_SYNTH_HEAD_DIM_MAX 256u

typedef struct lw_synth_config {
    uint64_t seed;
    uint32_t layer_count, kv_head_count, group, head_dim; /* head_dim: a multiple of 8, at most 256 */
    uint32_t token_count;                                 /* positions 0..token_count-1 can be asked for */
} lw_synth_config_t;

typedef struct lw_synth lw_synth_t;

/* NULL: out of memory. The caller destroys it. Tables take 2.4 KiB x head_dim for each layer and KV head. */
lw_synth_t *lw_synth_create(const lw_synth_config_t *config);
/* Another text by the same "model": tables are the parent's, which must outlive it. NULL: out of memory. */
lw_synth_t *lw_synth_text(const lw_synth_t *parent, uint64_t seed);
void lw_synth_destroy(lw_synth_t *synth);

/* Key (rotated by its position) and value of one token, head_dim floats each. */
void lw_synth_row(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t token, float *key_out,
                  float *value_out);
/* The same rows rounded to bf16, of tokens [first, first + count) and heads [head, head + head_count):
 * [count][head_count][head_dim]. */
void lw_synth_fill(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t head_count,
                   uint32_t first, uint32_t count, uint16_t *key_out, uint16_t *value_out);
/* A query asked at `position` that looks for what token `target` is about: the mass goes to tokens of its
 * topic and most to those of its type. The spread of its logits differs from head to head. */
void lw_synth_query(const lw_synth_t *synth, uint32_t layer, uint32_t query_head, uint32_t position,
                    uint32_t target, float *query_out);
/* What a decoder at `position` would look for: stays with a passage for a while, so that neighbouring steps
 * look alike. */
uint32_t lw_synth_target(const lw_synth_t *synth, uint32_t position);

/* Nearest, ties to even. */
static inline uint16_t lw_synth_bf16(float value)
{
    union {
        float value;
        uint32_t bits;
    } word = {value};
    return (uint16_t)((word.bits + 0x7FFFu + (word.bits >> 16 & 1u)) >> 16);
}

#endif /* LW_SYNTH_H */
