/* dequantise.h - tensor blocks to fp32. Formulas are in dequantise.c, one function a type. */
#ifndef LLAMA_DEQUANTISE_H
#define LLAMA_DEQUANTISE_H

#include "client/examples/llama/gguf.h"

/* Writes values [first, first + count) of the tensor to out; first and count are multiples of 32, or of 1 for
 * the types without blocks, and lie inside the tensor. Thread-safe. */
void llama_dequantise(const llama_gguf_tensor_t *tensor, uint64_t first, uint64_t count, float *out);

float llama_half_to_float(uint16_t half);
static inline float llama_bf16_to_float(uint16_t bits)
{
    union {
        uint32_t bits;
        float value;
    } word = {(uint32_t)bits << 16};
    return word.value;
}
/* Nearest, ties to even; NaN stays NaN. */
static inline uint16_t llama_float_to_bf16(float value)
{
    union {
        float value;
        uint32_t bits;
    } word = {value};
    if ((word.bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((word.bits >> 16) | 0x40u);
    return (uint16_t)((word.bits + 0x7fffu + ((word.bits >> 16) & 1u)) >> 16);
}

#endif /* LLAMA_DEQUANTISE_H */
