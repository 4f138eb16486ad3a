/* build_avx2.c - the build loops in AVX2 and FMA. Reached only through lwk_cpu_build_isa(), which asks the
 * processor. */
#include "kernels/cpu/build_private.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX2_F16C __attribute__((target("avx2,f16c")))
#define TOKENS                                                                                             \
    6u          /* by 16 clusters: 12 sums, two loads and one broadcast fill the registers; two tiles make \
                   LWK_TOKEN_TILE */
#define ROWS 4u /* of an outer tile: LWK_OUTER_ROWS is twice that */

AVX2 static void nearest_tile(const float *rows, uint32_t d, const float *panels, uint32_t panel_count,
                              uint32_t *id_out)
{
    float best[TOKENS][LWK_PANEL];
    uint32_t id[TOKENS][LWK_PANEL];
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t l = 0; l < LWK_PANEL; l++) {
            best[t][l] = -INFINITY;
            id[t][l] = 0;
        }
    for (uint32_t p = 0; p < panel_count; p++, panels += (size_t)LWK_PANEL * d) {
        __m256 dot[TOKENS][2];
#pragma GCC unroll 6
        for (uint32_t t = 0; t < TOKENS; t++)
            dot[t][0] = dot[t][1] = _mm256_setzero_ps();
        for (uint32_t j = 0; j < d; j++) {
            __m256 x = _mm256_loadu_ps(panels + (size_t)j * LWK_PANEL),
                   y = _mm256_loadu_ps(panels + (size_t)j * LWK_PANEL + 8);
#pragma GCC unroll 6
            for (uint32_t t = 0; t < TOKENS; t++) {
                __m256 r = _mm256_broadcast_ss(rows + (size_t)t * d + j);
                dot[t][0] = _mm256_fmadd_ps(r, x, dot[t][0]);
                dot[t][1] = _mm256_fmadd_ps(r, y, dot[t][1]);
            }
        }
#pragma GCC unroll 6
        for (uint32_t t = 0; t < TOKENS; t++)
#pragma GCC unroll 2
            for (uint32_t h = 0; h < 2; h++) {
                __m256 old = _mm256_loadu_ps(best[t] + 8 * h),
                       more = _mm256_cmp_ps(dot[t][h], old, _CMP_GT_OQ);
                __m256i new_id = _mm256_add_epi32(lanes, _mm256_set1_epi32((int)(p * LWK_PANEL + 8 * h)));
                __m256i old_id = _mm256_loadu_si256((const __m256i *)(id[t] + 8 * h));
                _mm256_storeu_ps(best[t] + 8 * h, _mm256_blendv_ps(old, dot[t][h], more));
                _mm256_storeu_si256((__m256i *)(id[t] + 8 * h),
                                    _mm256_blendv_epi8(old_id, new_id, _mm256_castps_si256(more)));
            }
    }
    for (uint32_t t = 0; t < TOKENS; t++) {
        uint32_t at = 0;
        for (uint32_t l = 1; l < LWK_PANEL; l++)
            if (best[t][l] > best[t][at] || (best[t][l] == best[t][at] && id[t][l] < id[t][at]))
                at = l;
        id_out[t] = id[t][at];
    }
}

AVX2 static uint32_t assign_avx2(const float *rows, uint32_t n, uint32_t d, const float *panels,
                                 uint32_t panel_count, uint16_t *assign)
{
    uint32_t moved = 0, id[TOKENS];
    for (uint32_t i = 0; i < n; i += TOKENS) {
        nearest_tile(rows + (size_t)i * d, d, panels, panel_count, id);
        for (uint32_t t = 0; t < TOKENS && i + t < n; t++) {
            moved += assign[i + t] != id[t];
            assign[i + t] = (uint16_t)id[t];
        }
    }
    return moved;
}

AVX2 static void add_rows_avx2(double *sums, const float *rows, const uint16_t *assign, const uint8_t *skip,
                               uint32_t n, uint32_t d)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * d;
        double *sum = sums + (size_t)assign[i] * d;
        for (uint32_t j = 0; j < d && (skip == NULL || !skip[i]); j += 4)
            _mm256_storeu_pd(sum + j,
                             _mm256_add_pd(_mm256_loadu_pd(sum + j), _mm256_cvtps_pd(_mm_loadu_ps(row + j))));
    }
}

AVX2 static void distances_avx2(const float *rows, const float *means, const uint16_t *assign, uint32_t n,
                                uint32_t d, double *distance_out)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * d, *mean = means + (size_t)assign[i] * d;
        __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
        for (uint32_t j = 0; j < d; j += 8) {
            __m256d gap = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(row + j)),
                                        _mm256_cvtps_pd(_mm_loadu_ps(mean + j)));
            low = _mm256_fmadd_pd(gap, gap, low);
            gap = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(row + j + 4)),
                                _mm256_cvtps_pd(_mm_loadu_ps(mean + j + 4)));
            high = _mm256_fmadd_pd(gap, gap, high);
        }
        double part[4];
        _mm256_storeu_pd(part, _mm256_add_pd(low, high));
        distance_out[i] = (part[0] + part[2]) + (part[1] + part[3]);
    }
}

AVX2 static void outer_tile(const float *left, const float *right, uint32_t n, uint32_t stride,
                            float tile_out[ROWS][16])
{
    __m256 sum[ROWS][2];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (uint32_t t = 0; t < n; t++, left += stride, right += stride) {
        __m256 x = _mm256_loadu_ps(right), y = _mm256_loadu_ps(right + 8);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < ROWS; r++) {
            __m256 l = _mm256_broadcast_ss(left + r);
            sum[r][0] = _mm256_fmadd_ps(l, x, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(l, y, sum[r][1]);
        }
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < ROWS; r++) {
        _mm256_storeu_ps(tile_out[r], sum[r][0]);
        _mm256_storeu_ps(tile_out[r] + 8, sum[r][1]);
    }
}

AVX2 static void outer_avx2(const float *left, const float *right, uint32_t n, uint32_t d, uint32_t stride,
                            double *sums)
{
    float tile[ROWS][16];
    for (uint32_t b = 0; b < d; b += 16)
        for (uint32_t a = 0; a < d; a += ROWS) {
            outer_tile(left + a, right + b, n, stride, tile);
            for (uint32_t r = 0; r < ROWS; r++)
                for (uint32_t c = 0; c < 16 && b + c < d; c++)
                    sums[(size_t)(a + r) * d + b + c] += tile[r][c];
        }
}

AVX2_F16C static __m256 load8(const void *from, uint32_t dtype, size_t at)
{
    if (dtype == LW_DTYPE_FP32)
        return _mm256_loadu_ps((const float *)from + at);
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)from + at));
    if (dtype == LW_DTYPE_FP16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

AVX2_F16C void lwk_cpu_widen_avx2(const void *from, uint32_t dtype, size_t count, float *to)
{
    for (size_t at = 0; at < count; at += 8)
        _mm256_storeu_ps(to + at, load8(from, dtype, at));
}

AVX2_F16C void lwk_cpu_residual_avx2(const void *row, uint32_t dtype, const float *mean, uint32_t d,
                                     float *residual_out, float largest[8])
{
    __m256 most = _mm256_loadu_ps(largest), sign = _mm256_set1_ps(-0.0f);
    for (uint32_t j = 0; j < d; j += 8) {
        __m256 gap = _mm256_sub_ps(load8(row, dtype, j), _mm256_loadu_ps(mean + j));
        most = _mm256_max_ps(_mm256_andnot_ps(sign, gap), most);
        _mm256_storeu_ps(residual_out + j, gap);
    }
    _mm256_storeu_ps(largest, most);
}

const lwk_cpu_build_isa_t lwk_cpu_build_avx2 = {
    "avx2",     assign_avx2,        add_rows_avx2,        distances_avx2,
    outer_avx2, lwk_cpu_widen_avx2, lwk_cpu_residual_avx2};
#endif
