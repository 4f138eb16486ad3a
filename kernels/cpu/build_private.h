/* build_private.h - the loops in which the cpu build ops spend their time, one set for each instruction set.
 *
 * All sets add in the same order. Those with fused multiply-add (avx2, avx512) agree to the last bit with
 * each other; the plain one rounds products, so its inner products and distances differ in the last places.
 * Rows are fp32, row-major and dense. Stateless.
 */
#ifndef LWK_CPU_BUILD_PRIVATE_H
#define LWK_CPU_BUILD_PRIVATE_H

#include "kernels/build_args.h"

#define LWK_PANEL 16u      /* clusters side by side in a panel: panel[d][16] */
#define LWK_PANELS_STEP 2u /* panels come in pairs */
#define LWK_TOKEN_TILE 12u /* assign reads rows in tiles of this many: rows are padded up to it */
#define LWK_OUTER_ROWS 8u  /* outer: channels of `left` in one register tile */
#define LWK_OUTER_COLUMNS \
    32u /* outer: channels of `right` in one register tile: its rows are padded up to it */

typedef struct lwk_cpu_build_isa {
    const char *name;
    /* The direction with the largest inner product for each of n rows; ties to the lower one. Lanes past the
     * last cluster repeat it. Returns how many entries of `assign` changed. */
    uint32_t (*assign)(const float *rows, uint32_t n, uint32_t d, const float *panels, uint32_t panel_count,
                       uint16_t *assign);
    /* sums[assign[i]] += rows[i], i ascending; rows with skip[i] != 0 are left out (skip may be NULL). */
    void (*add_rows)(double *sums, const float *rows, const uint16_t *assign, const uint8_t *skip, uint32_t n,
                     uint32_t d);
    /* distance_out[i] = |rows[i] - means[assign[i]]|^2 */
    void (*distances)(const float *rows, const float *means, const uint16_t *assign, uint32_t n, uint32_t d,
                      double *distance_out);
    /* sums[a][b] += sum over n tokens of left[t][a] * right[t][b]; both have `stride` floats a row, of which
     * d count; d is a multiple of 8, stride of 32, padding is 0. */
    void (*outer)(const float *left, const float *right, uint32_t n, uint32_t d, uint32_t stride,
                  double *sums);
    /* `count` elements of an lw_dtype_t in fp32; count is a multiple of 8. */
    void (*widen)(const void *from, uint32_t dtype, size_t count, float *to);
    /* residual_out = row - mean over d channels; largest[j % 8] keeps the largest |residual_out[j]|. */
    void (*residual)(const void *row, uint32_t dtype, const float *mean, uint32_t d, float *residual_out,
                     float largest[8]);
} lwk_cpu_build_isa_t;

/* The best set that this processor runs. */
const lwk_cpu_build_isa_t *lwk_cpu_build_isa(void);
/* Set number `at` from the plainest on, or NULL: past the last, or not for this processor. For tests. */
const lwk_cpu_build_isa_t *lwk_cpu_build_isa_at(unsigned at);
#define LWK_CPU_BUILD_ISAS 3u

extern const lwk_cpu_build_isa_t lwk_cpu_build_plain;
#if defined(__x86_64__)
extern const lwk_cpu_build_isa_t lwk_cpu_build_avx2, lwk_cpu_build_avx512;
/* Bound by loads and stores: the avx512 set has them too. */
void lwk_cpu_widen_avx2(const void *from, uint32_t dtype, size_t count, float *to);
void lwk_cpu_residual_avx2(const void *row, uint32_t dtype, const float *mean, uint32_t d,
                           float *residual_out, float largest[8]);
#endif

/* All rows of a job in fp32. */
void lwk_cpu_build_load(const lwk_build_t *args, const lwk_cpu_build_isa_t *isa, const void *from,
                        uint32_t job, float *rows_out);

uint64_t lwk_cpu_kmeans_bytes(const lwk_build_t *args);
uint64_t lwk_cpu_outliers_bytes(const lwk_build_t *args);
uint64_t lwk_cpu_moments_bytes(const lwk_build_t *args);
uint64_t lwk_cpu_encode_bytes(const lwk_build_t *args);

#endif /* LWK_CPU_BUILD_PRIVATE_H */
