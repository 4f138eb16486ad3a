/* gates.c - see gates.h. */
#include "ops/gates.h"

#include <math.h>
#include <string.h>

#include "kernels/view.h"

bool ops_gate_zero_query(ops_rig_t *rig, bool check_value)
{
    const lwk_shape_t *shape = &rig->config.shape;
    for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
        ops_query_zero(rig);
        if (ops_step(rig, layer) != LW_OK)
            return false;
        ops_errors_t errors = ops_errors(rig, layer);
        for (uint32_t s = 0; s < rig->config.session_count; s++) {
            lwk_session_t session = ops_session(rig, s);
            if (session.error != 0)
                return false;
            /* The last query token of a causal step sees all of them. */
            for (uint32_t h = 0; h < lwk_query_heads(shape) && rig->tree_mask == NULL; h++) {
                size_t row = ((size_t)s * rig->config.query_tokens + rig->config.query_tokens - 1) *
                                 lwk_query_heads(shape) +
                             h;
                double expected = log(session.token_count);
                if (!(fabs(rig->lse_host[row] - expected) <= 1e-6 * fmax(expected, 1)))
                    return false;
            }
        }
        if (!(errors.lse <= 2e-5) || (check_value && !(errors.out <= 2e-5)))
            return false;
    }
    return true;
}

bool ops_gate_probe(ops_rig_t *rig, uint32_t number, uint32_t entry)
{
    const lwk_shape_t *shape = &rig->config.shape;
    const ops_range_t *range = &rig->ranges[number];
    const ops_part_t *part = &range->parts[0];
    uint32_t d = shape->head_dim, size = entry < part->cluster_count ? part->sizes[entry] : 1, row = 0;
    for (uint32_t e = 0; e < entry; e++)
        row += e < part->cluster_count ? part->sizes[e] : 1;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t token = range->stored_first + part->order[row + i];
        const float *key = rig->keys[range->stream] + (size_t)token * d; /* layer 0, head 0 */
        double norm = 0;
        for (uint32_t j = 0; j < d; j++)
            norm += (double)key[j] * key[j];
        ops_query_zero(rig);
        for (uint32_t h = 0; h < shape->group; h++)
            for (uint32_t j = 0; j < d; j++)
                rig->query_host[(size_t)h * d + j] =
                    lwk_bf16_to_f32(lwk_f32_to_bf16((float)(key[j] * 64 / (norm * shape->scale))));
        if (ops_step(rig, 0) != LW_OK)
            return false;
        for (uint32_t h = 0; h < shape->group; h++)
            for (uint32_t j = 0; j < d; j++) {
                float value = rig->values[range->stream][(size_t)token * d + j];
                if (!(fabs(rig->out_host[(size_t)h * d + j] - value) <= 0.02 + 0.01 * fabs(value)))
                    return false;
            }
        /* The same tokens again, so that a sweep over records needs no longer context. */
        lwk_session_t session = ops_session(rig, 0);
        session.token_count -= rig->config.query_tokens;
        ops_set_session(rig, 0, &session);
    }
    return true;
}

bool ops_gate_exact(ops_rig_t *rig, double out_tolerance, double lse_tolerance)
{
    for (uint32_t layer = 0; layer < rig->config.shape.layer_count; layer++) {
        ops_query(rig, layer);
        if (ops_step(rig, layer) != LW_OK)
            return false;
        ops_errors_t errors = ops_errors(rig, layer);
        if (!(errors.out <= out_tolerance) || !(errors.lse <= lse_tolerance))
            return false;
    }
    return true;
}
