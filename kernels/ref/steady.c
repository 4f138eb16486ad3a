/* steady.c - exact attention of one query head over the steady zone. It needs no selection, so score does it: then select knows how
 * much of the query's weight lies outside the index. */
#include "kernels/ref/ref.h"
#include "kernels/ref/sum.h"

void lwk_ref_steady(const lwk_step_t *step, const lwk_session_t *session, uint32_t head, uint32_t t, size_t row)
{
    const lwk_shape_t *shape = &step->shape;
    const float *query = step->scratch.query + row * shape->head_dim;
    uint32_t count = lwk_steady_count(session);
    for (uint32_t first = 0; first < count; first += LWK_STEADY_TILE) {
        ref_sum_t sum;
        lwk_ref_sum_init(&sum, shape->head_dim);
        for (uint32_t i = first; i < count && i < first + LWK_STEADY_TILE; i++) {
            uint32_t position = lwk_steady_position(session, i);
            if (!lwk_visible(step, session, t, position))
                continue;
            bool sink = position < LW_SINK_TOKENS;
            size_t at = lwk_steady_at(session, shape, step->layer, head, position);
            lwk_ref_sum_add_row(&sum, shape, query, sink ? session->sink_keys : session->steady_keys, at,
                            sink ? session->sink_values : session->steady_values, at);
        }
        size_t slot = row * step->scratch.partial_capacity + lwk_slot_steady(&step->scratch, first / LWK_STEADY_TILE);
        lwk_ref_sum_store(&sum, &step->scratch.partial[slot], step->scratch.partial_out + slot * sum.head_dim);
    }
}
