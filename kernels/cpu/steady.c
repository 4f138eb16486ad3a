/* steady.c - exact attention over the steady zone, for score: see ref/steady.c. */
#include "kernels/cpu/cpu_private.h"

/* Tokens of this very step that a query may not see. */
static void hide(const lwk_cpu_run_t *run, const lwk_cpu_queries_t *queries, uint32_t first, uint32_t count)
{
    const lwk_step_t *step = queries->step;
    uint32_t first_new = queries->session->token_count - step->query_tokens;
    for (uint32_t i = count; i-- > 0;) {
        uint32_t position = lwk_steady_position(queries->session, first + i);
        if (position < first_new)
            return; /* positions ascend: everything before is older */
        for (uint32_t q = 0; q < queries->count; q++)
            if (!lwk_visible(step, queries->session, q / step->shape.group, position))
                run->dots[q][i] = -INFINITY;
    }
}

void lwk_cpu_steady(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries)
{
    const lwk_step_t *step = queries->step;
    const lwk_shape_t *shape = &step->shape;
    const lwk_session_t *session = queries->session;
    size_t element = lwk_dtype_bytes(shape->dtype);
    uint32_t total = lwk_steady_count(session);
    for (uint32_t first = 0; first < total; first += LWK_STEADY_TILE) {
        uint32_t count = total - first < LWK_STEADY_TILE ? total - first : LWK_STEADY_TILE;
        const uint8_t *keys[LWK_STEADY_TILE], *values[LWK_STEADY_TILE];
        for (uint32_t i = 0; i < count; i++) {
            uint32_t position = lwk_steady_position(session, first + i);
            size_t at = lwk_steady_at(session, shape, step->layer, queries->head, position) * element;
            bool sink = position < LW_SINK_TOKENS;
            keys[i] = (const uint8_t *)(sink ? session->sink_keys : session->steady_keys) + at;
            values[i] = (const uint8_t *)(sink ? session->sink_values : session->steady_values) + at;
        }
        lwk_cpu_run_t run;
        lwk_cpu_run_begin(&run, loops, work, queries, lwk_slot_steady(&step->scratch, first / LWK_STEADY_TILE));
        lwk_cpu_run_dots(&run, keys, count);
        hide(&run, queries, first, count);
        lwk_cpu_run_sum(&run, values, count);
    }
}
