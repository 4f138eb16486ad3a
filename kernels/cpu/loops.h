/* loops.h - the few inner loops in which the step ops of the cpu backend spend their time, once for each
 * instruction set.
 *
 * Rows are given by pointers, so that ring, pages, landed records and index parts are all the same to them;
 * queries and results likewise, so that a row is loaded once for all query heads that share it. Row kinds:
 * the session's dtypes and the index encodings. Codes are taken as numbers: scale, channel and center are the
 * caller's. Stateless, any thread.
 *
 * The sets add in different orders, so their results differ in the last places; each set gives the same bits
 * every time. */
#ifndef LWK_CPU_LOOPS_H
#define LWK_CPU_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/longwave_types.h"

typedef enum lwk_row_kind {
    LWK_ROW_FP32,
    LWK_ROW_BF16,
    LWK_ROW_FP16,
    LWK_ROW_INT8,
    LWK_ROW_INT4,
    LWK_ROW_KINDS,
} lwk_row_kind_t;

/* What the entries of a tile are to every query (ops.h has the formulas); columns of [count]. */
typedef struct lwk_columns {
    const float *spread;   /* 0 for outliers */
    const float *log_size; /* ln s; 0 for outliers and for entries of size 0 */
    const float *scale;    /* of the key's code, 0 for a plain key; NULL: no coded keys */
    const float *bias;     /* ln s of what is estimated, -infinity for everything else */
} lwk_columns_t;

/* What one query is to every entry of a tile. */
typedef struct lwk_lens {
    float spread;      /* variance of the logit for spread 1 */
    float noise;       /* scale^2 |channel * q|^2 / 24 */
    float rank_z;      /* z, or 0 for LWK_RANK_MEAN */
    float inverse_cap; /* 1 / soft_cap, or 0 */
} lwk_lens_t;

typedef struct lwk_loops {
    const char *name;
    uint32_t head_dim_step; /* head_dim must be a multiple of it */
    /* dots[q][r] = sum over j of query[q][j] * rows[r][j] */
    void (*dot[LWK_ROW_KINDS])(const uint8_t *const *rows, uint32_t row_count, const float *const *query,
                               uint32_t query_count, uint32_t d, float *const *dots);
    /* out[q][j] += sum over r of weight[q][r] * rows[r][j] */
    void (*accumulate[LWK_ROW_KINDS])(const uint8_t *const *rows, uint32_t row_count,
                                      const float *const *weight, uint32_t query_count, uint32_t d,
                                      float *const *out);
    /* to[i] = from[i] as fp32; FP32, BF16 and FP16 only */
    void (*widen)(lwk_row_kind_t kind, const void *from, uint32_t count, float *to);
    /* x = scale * x, or soft_cap * tanh(scale * x / soft_cap); returns the largest */
    float (*cap)(float *x, uint32_t count, float scale, float soft_cap);
    /* x = e^(x - largest); returns the sum */
    float (*exp_sum)(float *x, uint32_t count, float largest);
    float (*largest)(const float *x, uint32_t count);
    /* x = x * scale[i] + add */
    void (*decode)(float *x, const float *scale, uint32_t count, float add);
    /* out[i] += center[i] * weight + channel[i] * code[i] */
    void (*decode_row)(const float *code, const float *center, const float *channel, float weight, uint32_t d,
                       float *out);
    /* out[i] = x[i] * y[i] */
    void (*product)(const float *x, const float *y, uint32_t count, float *out);
    void (*multiply)(float *x, uint32_t count, float factor);
    /* rank_out = R of each entry; returns the largest */
    float (*rank)(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit, uint32_t count,
                  float *rank_out);
    /* votes += factor * e^(rank - largest) */
    void (*vote)(const float *rank, uint32_t count, float largest, float factor, float *votes);
    /* mass_out = A - ln s + bias; with_variance: LWK_CORRECT_VARIANCE; returns the largest */
    float (*mass)(const lwk_columns_t *columns, const lwk_lens_t *lens, int with_variance, const float *logit,
                  uint32_t count, float *mass_out);
    /* sum of weight * spread' * g */
    float (*shift_weight)(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit,
                          const float *weight, uint32_t count);
    /* share = weight * factor * (1 - e^(-variance / 2)) for the first `clusters`, weight * factor for the
     * rest */
    void (*contribution)(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit,
                         uint32_t clusters, uint32_t count, float factor, float *weight);
} lwk_loops_t;

extern const lwk_loops_t lwk_loops_plain;
#if defined(__x86_64__)
extern const lwk_loops_t lwk_loops_avx2, lwk_loops_avx512;
#endif

#endif /* LWK_CPU_LOOPS_H */
