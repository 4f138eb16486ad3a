/* lanes.h - the loops over many floats that are worth a vector unit. The set for this processor (AVX-512,
 * AVX2 with FMA, or the compiler's baseline) is picked once by cpuid. Arguments must be finite. Thread-safe.
 */
#ifndef LLAMA_LANES_H
#define LLAMA_LANES_H

#include <stdint.h>

typedef struct llama_lanes {
    const char *name;
    void (*widen)(const uint16_t *bf16, uint32_t count, float *out);
    void (*narrow)(const float *in, uint32_t count, uint16_t *bf16_out);
    /* out[r][j] = query[r] . key[j], for `rows` queries and `keys` bf16 keys of d values; row stride of out:
     * `keys` */
    void (*score)(const float *query, uint32_t rows, const uint16_t *key, uint32_t keys, uint32_t d,
                  float *out);
    /* out[r] += sum_j weight[r][j] value[j] */
    void (*mix)(const float *weight, uint32_t rows, const uint16_t *value, uint32_t keys, uint32_t d,
                float *out);
    /* Scales score[0..keys) and replaces it by exp(score - m), m the larger of *maximum and its own. Updates
     * *maximum to m, multiplies *sum by the returned exp(old maximum - m) and adds the new terms: the caller
     * scales its sums alike. */
    float (*softmax)(float *score, uint32_t keys, float scale, float *maximum, float *sum);
    void (*scale)(float *x, uint32_t count, float by);
    void (*add)(float *x, const float *y, uint32_t count); /* x += y */
    /* out = gate / (1 + e^-gate) x up */
    void (*silu_mul)(const float *gate, const float *up, uint32_t count, float *out);
    void (*rms_norm)(const float *x, const float *weight, uint32_t count, float epsilon, float *out);
} llama_lanes_t;

const llama_lanes_t *llama_lanes(void);
/* Every set that this processor can run, for tests; NULL past the last. */
const llama_lanes_t *llama_lanes_at(unsigned index);

#endif /* LLAMA_LANES_H */
