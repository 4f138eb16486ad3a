/* prepare.c - appends the new tokens to the steady zone and makes what the other ops need of the query. */
#include "kernels/ref/entry.h"
#include "kernels/ref/ref.h"

static void append(const lwk_step_t *step, uint32_t s, lwk_session_t *session)
{
    const lwk_shape_t *shape = &step->shape;
    uint32_t first_new = session->token_count - step->query_tokens;
    LW_ASSERT(session->token_count <= lwk_steady_first(session) + session->steady_rows);
    for (uint32_t t = 0; t < step->query_tokens; t++)
        for (uint32_t head = 0; head < shape->kv_head_count; head++) {
            uint32_t position = first_new + t;
            bool sink = position < LW_SINK_TOKENS;
            size_t to = lwk_steady_at(session, shape, step->layer, head, position);
            size_t key = lwk_tensor_at(&step->key, s, t, head),
                   value = lwk_tensor_at(&step->value, s, t, head);
            for (uint32_t j = 0; j < shape->head_dim; j++) {
                lwk_store(sink ? session->sink_keys : session->steady_keys, shape->dtype, to + j,
                          lwk_load(step->key.data, shape->dtype, key + j));
                lwk_store(sink ? session->sink_values : session->steady_values, shape->dtype, to + j,
                          lwk_load(step->value.data, shape->dtype, value + j));
            }
        }
}

/* scale^2 q'Sq and scale S_vk q (ALGORITHM.md section 5). */
static void prepare_query(const lwk_step_t *step, uint32_t s, const lwk_session_t *session, uint32_t t,
                          uint32_t query_head)
{
    const lwk_shape_t *shape = &step->shape;
    uint32_t d = shape->head_dim;
    size_t row = lwk_query_row(step, s, t, query_head);
    float *q = step->scratch.query + row * d;
    lwk_load_row(step->query.data, shape->dtype, lwk_tensor_at(&step->query, s, t, query_head), d, q);

    uint32_t head = query_head / shape->group;
    const uint8_t *moments =
        session->moments + ((size_t)step->layer * shape->kv_head_count + head) * lwk_moments_bytes(d);
    const lwk_moments_header_t *header = (const void *)moments;
    const float *covariance = (const void *)(moments + sizeof *header), *cross = covariance + (size_t)d * d;
    bool known = header->token_count > 0;
    bool wants_spread = known && lwk_policy_uses_spread(&session->policy);
    bool wants_shift = known && lwk_policy_uses_shift(&session->policy);
    real spread = 0;
    for (uint32_t i = 0; i < d; i++) {
        real covariance_q = 0, cross_q = 0;
        for (uint32_t j = 0; j < d; j++) {
            if (wants_spread)
                covariance_q += (real)covariance[(size_t)i * d + j] * q[j];
            if (wants_shift)
                cross_q += (real)cross[(size_t)i * d + j] * q[j];
        }
        spread += q[i] * covariance_q;
        step->scratch.shift[row * d + i] = (float)(shape->scale * cross_q);
    }
    /* Rounding can make a tiny q'Sq negative. */
    step->scratch.spread[row] = (float)fmax(0, (real)shape->scale * shape->scale * spread);
}

lw_status_t lwk_ref_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    bool prefetch = (step->flags & LWK_STEP_PREFETCH) != 0;
    if (!prefetch && (step->key.data == NULL || step->value.data == NULL))
        return LW_ERR_INVALID;
    if (step->layer == 0 && !prefetch)
        step->store->step++;
    for (uint32_t s = 0; s < step->session_count; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        if (session == NULL)
            continue;
        if (step->layer == 0 && !prefetch) {
            session->token_count += step->query_tokens;
            session->error = 0;
        }
        if (!prefetch)
            append(step, s, session);
        for (uint32_t t = 0; t < step->query_tokens; t++)
            for (uint32_t h = 0; h < lwk_query_heads(&step->shape); h++)
                prepare_query(step, s, session, t, h);
    }
    return LW_OK;
}
