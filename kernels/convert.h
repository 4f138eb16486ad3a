/* convert.h - bf16, fp16 and fp32, one number or one row at a time.
 *
 * Rounding is to the nearest, ties to even, everywhere; the F16C path and the CUDA one give the same bits
 * as the portable one (but for the payload of a NaN). NaN stays NaN (quiet), infinities stay, subnormal fp16 numbers are kept. Any thread.
 */
#ifndef LWK_CONVERT_H
#define LWK_CONVERT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/longwave_types.h"
#include "kernels/hd.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

LWK_HD uint32_t lwk_float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

LWK_HD float lwk_bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

LWK_HD float lwk_bf16_to_f32(uint16_t h)
{
    return lwk_bits_float((uint32_t)h << 16);
}

LWK_HD uint16_t lwk_f32_to_bf16(float x)
{
#if defined(__CUDA_ARCH__)
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#else
    uint32_t u = lwk_float_bits(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(u >> 16 | 0x40u); /* the carry below could turn a NaN into an infinity */
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
#endif
}

#if defined(__CUDA_ARCH__)

LWK_HD float lwk_f16_to_f32(uint16_t h)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
LWK_HD uint16_t lwk_f32_to_f16(float x)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

#elif defined(__F16C__)

LWK_HD float lwk_f16_to_f32(uint16_t h)
{
    return _cvtsh_ss(h);
}
LWK_HD uint16_t lwk_f32_to_f16(float x)
{
    return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

#else

LWK_HD float lwk_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
    if (magnitude >= 0x7C00u) /* infinity or NaN, made quiet as the hardware does */
        return lwk_bits_float(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13 |
                              (magnitude > 0x7C00u ? 0x400000u : 0u));
    if (magnitude < 0x400u) { /* zero or subnormal: a multiple of 2^-24, exact in fp32 */
        float x = (float)magnitude * 0x1p-24f;
        return lwk_bits_float(sign | lwk_float_bits(x));
    }
    return lwk_bits_float(sign | ((magnitude << 13) + (112u << 23)));
}

LWK_HD uint16_t lwk_f32_to_f16(float x)
{
    uint32_t u = lwk_float_bits(x), magnitude = u & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x477FF000u) /* 65,520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude <
        0x38800000u) { /* below 2^-14: adding 0.5 makes the last place 2^-24, and the adder rounds */
        float aligned = lwk_bits_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (lwk_float_bits(aligned) - 0x3F000000u));
    }
    magnitude += 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (magnitude - (112u << 23)) >> 13);
}

#endif

/* Bytes of one element of an lw_dtype_t; 0 for an unknown one. */
LWK_HD uint32_t lwk_dtype_bytes(uint32_t dtype)
{
    return dtype == LW_DTYPE_FP32 ? 4 : dtype == LW_DTYPE_BF16 || dtype == LW_DTYPE_FP16 ? 2 : 0;
}

/* Element `at` of rows of a dtype. */
LWK_HD float lwk_load(const void *rows, uint32_t dtype, size_t at)
{
    switch (dtype) {
    case LW_DTYPE_BF16: return lwk_bf16_to_f32(((const uint16_t *)rows)[at]);
    case LW_DTYPE_FP16: return lwk_f16_to_f32(((const uint16_t *)rows)[at]);
    default: return ((const float *)rows)[at];
    }
}

LWK_HD void lwk_store(void *rows, uint32_t dtype, size_t at, float x)
{
    switch (dtype) {
    case LW_DTYPE_BF16: ((uint16_t *)rows)[at] = lwk_f32_to_bf16(x); break;
    case LW_DTYPE_FP16: ((uint16_t *)rows)[at] = lwk_f32_to_f16(x); break;
    default: ((float *)rows)[at] = x; break;
    }
}

/* `count` elements from element `first` of `rows` on. */
LWK_HD void lwk_load_row(const void *rows, uint32_t dtype, size_t first, uint32_t count,
                                float *row_out)
{
    if (dtype == LW_DTYPE_FP32) {
        memcpy(row_out, (const float *)rows + first, count * sizeof *row_out);
        return;
    }
    const uint16_t *from = (const uint16_t *)rows + first;
    if (dtype == LW_DTYPE_BF16)
        for (uint32_t i = 0; i < count; i++)
            row_out[i] = lwk_bf16_to_f32(from[i]);
    else
        for (uint32_t i = 0; i < count; i++)
            row_out[i] = lwk_f16_to_f32(from[i]);
}

#endif /* LWK_CONVERT_H */
