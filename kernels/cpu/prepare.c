/* prepare.c - as ref/prepare.c, with whole rows copied and the covariance read once for all queries of a KV
 * head. */
#include <string.h>

#include "kernels/cpu/cpu_private.h"

static void append(const lwk_step_t *step, uint32_t s, lwk_session_t *session)
{
    const lwk_shape_t *shape = &step->shape;
    uint32_t first_new = session->token_count - step->query_tokens;
    size_t element = lwk_dtype_bytes(shape->dtype), bytes = lwk_row_bytes(shape);
    LW_ASSERT(session->token_count <= lwk_steady_first(session) + session->steady_rows);
    for (uint32_t t = 0; t < step->query_tokens; t++)
        for (uint32_t head = 0; head < shape->kv_head_count; head++) {
            bool sink = first_new + t < LW_SINK_TOKENS;
            size_t to = lwk_steady_at(session, shape, step->layer, head, first_new + t) * element;
            memcpy((uint8_t *)(sink ? session->sink_keys : session->steady_keys) + to,
                   (const uint8_t *)step->key.data + lwk_tensor_at(&step->key, s, t, head) * element, bytes);
            memcpy((uint8_t *)(sink ? session->sink_values : session->steady_values) + to,
                   (const uint8_t *)step->value.data + lwk_tensor_at(&step->value, s, t, head) * element,
                   bytes);
        }
}

static void load_queries(const lwk_loops_t *loops, const lwk_cpu_queries_t *queries)
{
    const lwk_step_t *step = queries->step;
    const lwk_shape_t *shape = &step->shape;
    size_t element = lwk_dtype_bytes(shape->dtype);
    for (uint32_t q = 0; q < queries->count; q++) {
        size_t at = lwk_tensor_at(&step->query, queries->s, q / shape->group,
                                  queries->head * shape->group + q % shape->group);
        loops->widen(lwk_dtype_kind(shape->dtype), (const uint8_t *)step->query.data + at * element,
                     shape->head_dim, step->scratch.query + queries->row[q] * shape->head_dim);
    }
}

/* out[q] = matrix * query[q] for a row-major matrix of [d][d]. */
static void multiply_all(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                         const lwk_cpu_queries_t *queries, const float *matrix, float *const *out)
{
    uint32_t d = queries->step->shape.head_dim;
    const uint8_t *rows[LW_HEAD_DIM_MAX];
    for (uint32_t i = 0; i < d; i++)
        rows[i] = (const uint8_t *)(matrix + (size_t)i * d);
    loops->dot[LWK_ROW_FP32](rows, d, queries->query, queries->count, d, out);
}

static void prepare_head(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                         const lwk_cpu_queries_t *queries)
{
    const lwk_step_t *step = queries->step;
    const lwk_shape_t *shape = &step->shape;
    uint32_t d = shape->head_dim;
    const uint8_t *moments =
        queries->session->moments +
        ((size_t)step->layer * shape->kv_head_count + queries->head) * lwk_moments_bytes(d);
    const lwk_moments_header_t *header = (const void *)moments;
    const float *covariance = (const void *)(moments + sizeof *header), *cross = covariance + (size_t)d * d;
    bool known = header->token_count > 0;
    float *product[LWK_CPU_QUERIES_MAX], *shift[LWK_CPU_QUERIES_MAX];
    load_queries(loops, queries);
    for (uint32_t q = 0; q < queries->count; q++) {
        product[q] = work->coded_query + (size_t)q * d;
        shift[q] = step->scratch.shift + queries->row[q] * d;
        step->scratch.spread[queries->row[q]] = 0;
    }
    if (known && lwk_policy_uses_spread(&queries->session->policy)) {
        multiply_all(loops, work, queries, covariance, product);
        for (uint32_t q = 0; q < queries->count; q++) {
            float spread = 0;
            for (uint32_t j = 0; j < d; j++)
                spread += queries->query[q][j] * product[q][j];
            step->scratch.spread[queries->row[q]] = fmaxf(0, shape->scale * shape->scale * spread);
        }
    }
    bool shifts = known && lwk_policy_uses_shift(&queries->session->policy);
    if (shifts)
        multiply_all(loops, work, queries, cross, shift);
    for (uint32_t q = 0; q < queries->count; q++) {
        if (shifts)
            loops->multiply(shift[q], d, shape->scale);
        else
            memset(shift[q], 0, d * sizeof(float));
    }
}

lw_status_t lwk_cpu_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    bool prefetch = (step->flags & LWK_STEP_PREFETCH) != 0;
    if (!prefetch && (step->key.data == NULL || step->value.data == NULL))
        return LW_ERR_INVALID;
    if (step->layer == 0 && !prefetch)
        step->store->step++;
    for (uint32_t s = 0; s < step->session_count && !prefetch; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        if (session == NULL)
            continue;
        if (step->layer == 0) {
            session->token_count += step->query_tokens;
            session->error = 0;
        }
        append(step, s, session);
    }
    return lwk_cpu_each_head(dev, step, prepare_head);
}
