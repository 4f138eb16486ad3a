/* synth.h - synthetic keys, values and queries that behave like a model's attention: content in few shared
 * directions and low frequencies, passages with drifting topics, a large common key mean, sinks, rotary
 * positions. Everything is a function of the configuration; rows are made on demand. Any thread, once
 * created. */
#ifndef LW_SYNTH_H
#define LW_SYNTH_H

#include <stdint.h>

typedef struct lw_synth_config {
    uint64_t seed;
    uint32_t layer_count, kv_head_count, group, head_dim; /* head_dim: a multiple of 8, at most 256 */
    uint32_t token_count;                                 /* positions 0..token_count-1 can be asked for */
} lw_synth_config_t;

typedef struct lw_synth lw_synth_t;

/* NULL: out of memory. The caller destroys it. */
lw_synth_t *lw_synth_create(const lw_synth_config_t *config);
void lw_synth_destroy(lw_synth_t *synth);

/* Key (rotated by its position) and value of one token, head_dim floats each. */
void lw_synth_row(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t token, float *key_out,
                  float *value_out);
/* A query asked at `position` that looks for what token `target` is about: the mass goes to tokens of its
 * topic and most to those of its type. The spread of its logits differs from head to head. */
void lw_synth_query(const lw_synth_t *synth, uint32_t layer, uint32_t query_head, uint32_t position,
                    uint32_t target, float *query_out);
/* What a decoder at `position` would look for: stays with a passage for a while, so that neighbouring steps
 * look alike. */
uint32_t lw_synth_target(const lw_synth_t *synth, uint32_t position);

#endif /* LW_SYNTH_H */
