/* sum.c - the running softmax sum of sum.h. */
#include "kernels/ref/sum.h"

void lwk_ref_sum_init(ref_sum_t *sum, uint32_t head_dim)
{
    sum->head_dim = head_dim;
    sum->m = -INFINITY;
    sum->z = sum->t = 0;
    for (uint32_t j = 0; j < head_dim; j++)
        sum->o[j] = 0;
}

/* Makes m at least `exponent`, so that no term overflows. */
static void raise_to(ref_sum_t *sum, real exponent)
{
    if (exponent <= sum->m)
        return;
    real factor = exp(sum->m - exponent);
    sum->m = exponent;
    sum->z *= factor;
    sum->t *= factor;
    for (uint32_t j = 0; j < sum->head_dim; j++)
        sum->o[j] *= factor;
}

void lwk_ref_sum_add(ref_sum_t *sum, real exponent, real shift, const real *value)
{
    raise_to(sum, exponent);
    real weight = exp(exponent - sum->m);
    sum->z += weight;
    sum->t += weight * shift;
    for (uint32_t j = 0; j < sum->head_dim; j++)
        sum->o[j] += weight * value[j];
}

void lwk_ref_sum_add_row(ref_sum_t *sum, const lwk_shape_t *shape, const float *query, const void *keys,
                     size_t key, const void *values, size_t value)
{
    real dot = 0, row[LW_HEAD_DIM_MAX];
    for (uint32_t j = 0; j < shape->head_dim; j++) {
        dot += (real)query[j] * lwk_load(keys, shape->dtype, key + j);
        row[j] = lwk_load(values, shape->dtype, value + j);
    }
    lwk_ref_sum_add(sum, lwk_ref_soft_cap(shape->scale * dot, shape->soft_cap), 0, row);
}

void lwk_ref_sum_add_rows(ref_sum_t *sum, const lwk_shape_t *shape, const float *query, const uint8_t *rows,
                      uint32_t count, uint32_t stride)
{
    for (uint32_t i = 0; i < count; i++)
        lwk_ref_sum_add_row(sum, shape, query, rows, (size_t)i * shape->head_dim, rows,
                        (size_t)(stride + i) * shape->head_dim);
}

void lwk_ref_sum_store(const ref_sum_t *sum, lwk_partial_t *partial_out, float *value_out)
{
    /* The stored m is rounded; the rest is made relative to what is stored. */
    float m = (float)sum->m;
    real factor = sum->z > 0 ? exp(sum->m - m) : 0;
    *partial_out = (lwk_partial_t){.m = m, .z = (float)(sum->z * factor), .t = (float)(sum->t * factor)};
    for (uint32_t j = 0; j < sum->head_dim; j++)
        value_out[j] = (float)(sum->o[j] * factor);
}

void lwk_ref_sum_merge(ref_sum_t *sum, const lwk_partial_t *partial, const float *value, const float *shift)
{
    if (!(partial->z > 0))
        return;
    raise_to(sum, partial->m);
    real weight = exp(partial->m - sum->m);
    sum->z += weight * partial->z;
    for (uint32_t j = 0; j < sum->head_dim; j++)
        sum->o[j] += weight * (value[j] + (shift != NULL ? (real)partial->t * shift[j] : 0));
}

real lwk_ref_sum_result(const ref_sum_t *sum, real *out)
{
    for (uint32_t j = 0; j < sum->head_dim; j++)
        out[j] = sum->z > 0 ? sum->o[j] / sum->z : 0;
    return sum->z > 0 ? sum->m + log(sum->z) : -INFINITY;
}
