/* run.c - exact attention over rows wherever they lie, a block at a time, for all queries that share them. */
#include "kernels/cpu/cpu_private.h"

void lwk_cpu_run_begin(lwk_cpu_run_t *run, const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                       const lwk_cpu_queries_t *queries, uint32_t slot)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    run->loops = loops;
    run->shape = &queries->step->shape;
    run->kind = lwk_dtype_kind(run->shape->dtype);
    run->query_count = queries->count;
    for (uint32_t q = 0; q < queries->count; q++) {
        size_t at = queries->row[q] * scratch->partial_capacity + slot;
        run->query[q] = queries->query[q];
        run->dots[q] = work->dots + q * LWK_CPU_BLOCK;
        run->partial[q] = &scratch->partial[at];
        run->out[q] = scratch->partial_out + at * run->shape->head_dim;
        *run->partial[q] = (lwk_partial_t){.m = -INFINITY};
        memset(run->out[q], 0, run->shape->head_dim * sizeof(float));
    }
}

void lwk_cpu_run_dots(const lwk_cpu_run_t *run, const uint8_t *const *keys, uint32_t count)
{
    run->loops->dot[run->kind](keys, count, run->query, run->query_count, run->shape->head_dim, run->dots);
    for (uint32_t q = 0; q < run->query_count; q++)
        (void)run->loops->cap(run->dots[q], count, run->shape->scale, run->shape->soft_cap);
}

void lwk_cpu_run_sum(const lwk_cpu_run_t *run, const uint8_t *const *values, uint32_t count)
{
    for (uint32_t q = 0; q < run->query_count; q++) {
        lwk_partial_t *partial = run->partial[q];
        float largest = run->loops->largest(run->dots[q], count);
        if (largest > partial->m) {
            if (partial->z > 0) {
                float factor = expf(partial->m - largest);
                partial->z *= factor;
                run->loops->multiply(run->out[q], run->shape->head_dim, factor);
            }
            partial->m = largest;
        }
        /* Nothing visible so far: any finite reference makes weights of 0 from logits of -infinity. */
        partial->z += run->loops->exp_sum(run->dots[q], count, partial->m > -INFINITY ? partial->m : 0);
    }
    run->loops->accumulate[run->kind](values, count, (const float *const *)run->dots, run->query_count,
                                      run->shape->head_dim, run->out);
}

void lwk_cpu_batch_flush(lwk_cpu_batch_t *batch)
{
    if (batch->count == 0)
        return;
    lwk_cpu_run_dots(batch->run, batch->keys, batch->count);
    lwk_cpu_run_sum(batch->run, batch->values, batch->count);
    batch->count = 0;
}

void lwk_cpu_batch_add(lwk_cpu_batch_t *batch, const uint8_t *rows, uint32_t count, uint32_t stride)
{
    size_t row_bytes = lwk_row_bytes(batch->run->shape);
    for (uint32_t i = 0; i < count; i++) {
        if (batch->count == LWK_CPU_BLOCK)
            lwk_cpu_batch_flush(batch);
        batch->keys[batch->count] = rows + i * row_bytes;
        batch->values[batch->count++] = rows + (stride + i) * row_bytes;
    }
}
