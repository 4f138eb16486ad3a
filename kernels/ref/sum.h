/* sum.h - a running softmax sum in double: add (exponent, value) pairs, store it as a partial, merge partials
 * (ALGORITHM.md section 5). Private to kernels/ref. */
#ifndef LWK_REF_SUM_H
#define LWK_REF_SUM_H

#include "kernels/ref/entry.h"

/* m: largest exponent so far; z, t, o: sums of e^(x - m), e^(x - m) shift, e^(x - m) value. */
typedef struct ref_sum {
    uint32_t head_dim;
    real m, z, t, o[LW_HEAD_DIM_MAX];
} ref_sum_t;

void lwk_ref_sum_init(ref_sum_t *sum, uint32_t head_dim);
void lwk_ref_sum_add(ref_sum_t *sum, real exponent, real shift, const real *value);
/* One row of K and V in the session's dtype; element numbers of their first elements. */
void lwk_ref_sum_add_row(ref_sum_t *sum, const lwk_shape_t *shape, const float *query, const void *keys,
                     size_t key, const void *values, size_t value);
/* A record or a page part: rows of K, then (`stride` rows further) rows of V. */
void lwk_ref_sum_add_rows(ref_sum_t *sum, const lwk_shape_t *shape, const float *query, const uint8_t *rows,
                      uint32_t count, uint32_t stride);
void lwk_ref_sum_store(const ref_sum_t *sum, lwk_partial_t *partial_out, float *value_out);
/* Adds a stored partial; the value correction t * shift goes into o. shift may be NULL. */
void lwk_ref_sum_merge(ref_sum_t *sum, const lwk_partial_t *partial, const float *value, const float *shift);
/* o / z and ln z + m; an empty sum gives 0 and -infinity. */
real lwk_ref_sum_result(const ref_sum_t *sum, real *out);

#endif /* LWK_REF_SUM_H */
