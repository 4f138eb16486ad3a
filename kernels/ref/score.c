/* score.c - reads the keys of every entry: logits, and per tile the largest R and the sum of e^R
 * (ALGORITHM.md section 4). */
#include "kernels/ref/entry.h"
#include "kernels/ref/ref.h"

static void score_tile(const lwk_step_t *step, const lwk_session_t *session, size_t row, uint32_t range,
                       const ref_tile_t *tile)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = tile->head_dim, count = lwk_tile_entries(tile->tile);
    float *logits = scratch->logit + row * scratch->entry_capacity + session->ranges[range].entry_base;
    ref_query_t query = lwk_ref_query_open(step, session, tile, row);
    real key[LW_HEAD_DIM_MAX], largest = -INFINITY, sum = 0;
    for (uint32_t e = 0; e < count; e++) {
        if (lwk_entry_size(tile->tile, e) == 0) {
            logits[e] = -INFINITY;
            continue;
        }
        lwk_ref_entry_key(tile, e, key);
        real dot = 0;
        for (uint32_t j = 0; j < d; j++)
            dot += query.query[j] * key[j];
        logits[e] = (float)lwk_ref_soft_cap(query.scale * dot, query.soft_cap);
        largest = fmax(largest, lwk_ref_entry_terms(tile, &query, e, logits[e]).rank);
    }
    for (uint32_t e = 0; e < count; e++)
        if (lwk_entry_size(tile->tile, e) > 0)
            sum += exp(lwk_ref_entry_terms(tile, &query, e, logits[e]).rank - largest);
    uint32_t parts = lwk_session_parts(&step->shape, session);
    size_t at = row * scratch->part_capacity + lwk_part_slot(range, 0, parts);
    scratch->tile_max[at] = (float)largest;
    /* The stored maximum is rounded; the sum is relative to what is stored. */
    scratch->tile_sum[at] = sum > 0 ? (float)(sum * exp(largest - (float)largest)) : 0.0f;
    for (uint32_t part = 1; part < parts; part++) {
        scratch->tile_max[at + part] = -INFINITY;
        scratch->tile_sum[at + part] = 0;
    }
}

lw_status_t lwk_ref_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    const lwk_store_t *store = step->store;
    for (uint32_t s = 0; s < step->session_count; s++) {
        const lwk_session_t *session = lwk_step_session(step, s);
        if (session == NULL)
            continue;
        for (uint32_t h = 0; h < lwk_query_heads(&step->shape); h++)
            for (uint32_t t = 0; t < step->query_tokens; t++)
                lwk_ref_steady(step, session, h / step->shape.group, t, lwk_query_row(step, s, t, h));
        if (session->policy.steady_only)
            continue;
        for (uint32_t range = 0; range < session->range_count; range++)
            for (uint32_t h = 0; h < lwk_query_heads(&step->shape); h++) {
                uint32_t number =
                    lwk_tile_number(&step->shape, session->ranges[range].row, step->layer, h / step->shape.group);
                ref_tile_t tile = lwk_ref_tile_open(&store->tiles[number], step->shape.head_dim);
                for (uint32_t t = 0; t < step->query_tokens; t++)
                    score_tile(step, session, lwk_query_row(step, s, t, h), range, &tile);
            }
    }
    return LW_OK;
}
