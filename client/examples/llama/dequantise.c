/* dequantise.c - the block formats of the supported tensor types.
 *
 *   type   values  block (little-endian)                           value i of the block
 *   F32    1       f32
 *   F16    1       f16
 *   BF16   1       upper half of an f32
 *   Q8_0   32      f16 d, int8 q[32]                               d q[i]
 *   Q4_0   32      f16 d, 16 bytes: low nibbles are values 0..15,  d (q - 8)
 *                  high nibbles 16..31
 *   Q4_1   32      f16 d, f16 m, 16 bytes as above                 d q + m */
#include "client/examples/llama/dequantise.h"

#include <math.h>
#include <string.h>

#define BLOCK 32u

float llama_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    union {
        uint32_t bits;
        float value;
    } word;
    if (exponent == 0) { /* zero or subnormal: mantissa x 2^-24 */
        word.value = (float)mantissa * 0x1p-24f;
        word.bits |= sign;
    } else if (exponent == 31) {
        word.bits = sign | 0x7f800000u | mantissa << 13;
    } else {
        word.bits = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    return word.value;
}

static float load_half(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof(half));
    return llama_half_to_float(half);
}

static void read_f32(const uint8_t *data, uint64_t count, float *out)
{
    memcpy(out, data, count * sizeof(*out));
}

static void read_f16(const uint8_t *data, uint64_t count, float *out)
{
    for (uint64_t i = 0; i < count; i++)
        out[i] = load_half(data + 2 * i);
}

static void read_bf16(const uint8_t *data, uint64_t count, float *out)
{
    for (uint64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof(bits));
        out[i] = llama_bf16_to_float(bits);
    }
}

static void read_q8_0(const uint8_t *data, uint64_t count, float *out)
{
    for (uint64_t block = 0; block < count / BLOCK; block++, data += 34, out += BLOCK) {
        float d = load_half(data);
        for (unsigned i = 0; i < BLOCK; i++)
            out[i] = d * (float)(int8_t)data[2 + i];
    }
}

static void read_q4_0(const uint8_t *data, uint64_t count, float *out)
{
    for (uint64_t block = 0; block < count / BLOCK; block++, data += 18, out += BLOCK) {
        float d = load_half(data);
        for (unsigned i = 0; i < BLOCK / 2; i++) {
            out[i] = d * (float)((data[2 + i] & 15) - 8);
            out[i + BLOCK / 2] = d * (float)((data[2 + i] >> 4) - 8);
        }
    }
}

static void read_q4_1(const uint8_t *data, uint64_t count, float *out)
{
    for (uint64_t block = 0; block < count / BLOCK; block++, data += 20, out += BLOCK) {
        float d = load_half(data), m = load_half(data + 2);
        for (unsigned i = 0; i < BLOCK / 2; i++) {
            out[i] = d * (float)(data[4 + i] & 15) + m;
            out[i + BLOCK / 2] = d * (float)(data[4 + i] >> 4) + m;
        }
    }
}

void llama_dequantise(const llama_gguf_tensor_t *tensor, uint64_t first, uint64_t count, float *out)
{
    static void (*const read[])(const uint8_t *, uint64_t, float *) = {
        [LLAMA_TENSOR_F32] = read_f32,   [LLAMA_TENSOR_F16] = read_f16,   [LLAMA_TENSOR_BF16] = read_bf16,
        [LLAMA_TENSOR_Q8_0] = read_q8_0, [LLAMA_TENSOR_Q4_0] = read_q4_0, [LLAMA_TENSOR_Q4_1] = read_q4_1,
    };
    uint32_t values = tensor->type == LLAMA_TENSOR_Q8_0 || tensor->type == LLAMA_TENSOR_Q4_0 ||
                              tensor->type == LLAMA_TENSOR_Q4_1
                          ? BLOCK
                          : 1;
    LW_ASSERT(first % values == 0 && count % values == 0);
    LW_ASSERT(first <= tensor->value_count && count <= tensor->value_count - first);
    uint64_t bytes_per_block = tensor->byte_count / (tensor->value_count / values);
    read[tensor->type](tensor->data + first / values * bytes_per_block, count, out);
}
