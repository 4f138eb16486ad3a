/* build_avx512.c - the build loops in AVX-512F. Reached only through lwk_cpu_build_isa(), which asks the
 * processor. */
#include "kernels/cpu/build_private.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define AVX512 __attribute__((target("avx512f")))

/* 12 tokens by 32 clusters: 24 sums, two loads and one broadcast fill the registers. */
AVX512 static void nearest_tile(const float *rows, uint32_t d, const float *panels, uint32_t panel_count,
                                uint32_t *id_out)
{
    __m512 best[LWK_TOKEN_TILE];
    __m512i id[LWK_TOKEN_TILE];
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (uint32_t t = 0; t < LWK_TOKEN_TILE; t++) {
        best[t] = _mm512_set1_ps(-INFINITY);
        id[t] = _mm512_setzero_si512();
    }
    for (uint32_t p = 0; p < panel_count; p += LWK_PANELS_STEP) {
        const float *low = panels + (size_t)p * LWK_PANEL * d, *high = low + (size_t)LWK_PANEL * d;
        __m512 a[LWK_TOKEN_TILE], b[LWK_TOKEN_TILE];
#pragma GCC unroll 12
        for (uint32_t t = 0; t < LWK_TOKEN_TILE; t++)
            a[t] = b[t] = _mm512_setzero_ps();
        for (uint32_t j = 0; j < d; j++) {
            __m512 x = _mm512_loadu_ps(low + (size_t)j * LWK_PANEL),
                   y = _mm512_loadu_ps(high + (size_t)j * LWK_PANEL);
#pragma GCC unroll 12
            for (uint32_t t = 0; t < LWK_TOKEN_TILE; t++) {
                __m512 r = _mm512_set1_ps(rows[(size_t)t * d + j]);
                a[t] = _mm512_fmadd_ps(r, x, a[t]);
                b[t] = _mm512_fmadd_ps(r, y, b[t]);
            }
        }
        __m512i ida = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)(p * LWK_PANEL)));
        __m512i idb = _mm512_add_epi32(ida, _mm512_set1_epi32((int)LWK_PANEL));
#pragma GCC unroll 12
        for (uint32_t t = 0; t < LWK_TOKEN_TILE; t++) {
            __mmask16 more = _mm512_cmp_ps_mask(a[t], best[t], _CMP_GT_OQ);
            best[t] = _mm512_mask_mov_ps(best[t], more, a[t]);
            id[t] = _mm512_mask_mov_epi32(id[t], more, ida);
            more = _mm512_cmp_ps_mask(b[t], best[t], _CMP_GT_OQ);
            best[t] = _mm512_mask_mov_ps(best[t], more, b[t]);
            id[t] = _mm512_mask_mov_epi32(id[t], more, idb);
        }
    }
    for (uint32_t t = 0; t < LWK_TOKEN_TILE; t++) {
        __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(best[t]));
        id_out[t] = _mm512_mask_reduce_min_epu32(_mm512_cmp_ps_mask(best[t], most, _CMP_EQ_OQ), id[t]);
    }
}

AVX512 static uint32_t assign_avx512(const float *rows, uint32_t n, uint32_t d, const float *panels,
                                     uint32_t panel_count, uint16_t *assign)
{
    uint32_t moved = 0, id[LWK_TOKEN_TILE];
    for (uint32_t i = 0; i < n; i += LWK_TOKEN_TILE) {
        nearest_tile(rows + (size_t)i * d, d, panels, panel_count, id);
        for (uint32_t t = 0; t < LWK_TOKEN_TILE && i + t < n; t++) {
            moved += assign[i + t] != id[t];
            assign[i + t] = (uint16_t)id[t];
        }
    }
    return moved;
}

AVX512 static void add_rows_avx512(double *sums, const float *rows, const uint16_t *assign,
                                   const uint8_t *skip, uint32_t n, uint32_t d)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * d;
        double *sum = sums + (size_t)assign[i] * d;
        for (uint32_t j = 0; j < d && (skip == NULL || !skip[i]); j += 8)
            _mm512_storeu_pd(
                sum + j, _mm512_add_pd(_mm512_loadu_pd(sum + j), _mm512_cvtps_pd(_mm256_loadu_ps(row + j))));
    }
}

AVX512 static void distances_avx512(const float *rows, const float *means, const uint16_t *assign, uint32_t n,
                                    uint32_t d, double *distance_out)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * d, *mean = means + (size_t)assign[i] * d;
        __m512d sum = _mm512_setzero_pd();
        for (uint32_t j = 0; j < d; j += 8) {
            __m512d gap = _mm512_sub_pd(_mm512_cvtps_pd(_mm256_loadu_ps(row + j)),
                                        _mm512_cvtps_pd(_mm256_loadu_ps(mean + j)));
            sum = _mm512_fmadd_pd(gap, gap, sum);
        }
        double part[8];
        _mm512_storeu_pd(part, sum);
        distance_out[i] =
            ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    }
}

AVX512 static void outer_tile(const float *left, const float *right, uint32_t n, uint32_t stride,
                              float tile_out[LWK_OUTER_ROWS][LWK_OUTER_COLUMNS])
{
    __m512 a[LWK_OUTER_ROWS], b[LWK_OUTER_ROWS];
#pragma GCC unroll 8
    for (uint32_t r = 0; r < LWK_OUTER_ROWS; r++)
        a[r] = b[r] = _mm512_setzero_ps();
    for (uint32_t t = 0; t < n; t++, left += stride, right += stride) {
        __m512 x = _mm512_loadu_ps(right), y = _mm512_loadu_ps(right + 16);
#pragma GCC unroll 8
        for (uint32_t r = 0; r < LWK_OUTER_ROWS; r++) {
            __m512 l = _mm512_set1_ps(left[r]);
            a[r] = _mm512_fmadd_ps(l, x, a[r]);
            b[r] = _mm512_fmadd_ps(l, y, b[r]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t r = 0; r < LWK_OUTER_ROWS; r++) {
        _mm512_storeu_ps(tile_out[r], a[r]);
        _mm512_storeu_ps(tile_out[r] + 16, b[r]);
    }
}

AVX512 static void outer_avx512(const float *left, const float *right, uint32_t n, uint32_t d,
                                uint32_t stride, double *sums)
{
    float tile[LWK_OUTER_ROWS][LWK_OUTER_COLUMNS];
    for (uint32_t b = 0; b < d; b += LWK_OUTER_COLUMNS)
        for (uint32_t a = 0; a < d; a += LWK_OUTER_ROWS) {
            outer_tile(left + a, right + b, n, stride, tile);
            for (uint32_t r = 0; r < LWK_OUTER_ROWS; r++)
                for (uint32_t c = 0; c < LWK_OUTER_COLUMNS && b + c < d; c++)
                    sums[(size_t)(a + r) * d + b + c] += tile[r][c];
        }
}

const lwk_cpu_build_isa_t lwk_cpu_build_avx512 = {
    "avx512",     assign_avx512,      add_rows_avx512,      distances_avx512,
    outer_avx512, lwk_cpu_widen_avx2, lwk_cpu_residual_avx2};
#endif
