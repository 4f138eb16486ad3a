/* finish.c - attends the arrived records where they landed, then merges all partials in slot order into the
 * output. */
#include "kernels/ref/ref.h"
#include "kernels/ref/sum.h"

static void attend_arrivals(const lwk_step_t *step, uint32_t s, lwk_session_t *session, uint32_t head,
                            size_t row)
{
    const lwk_shape_t *shape = &step->shape;
    const float *query = step->scratch.query + row * shape->head_dim;
    size_t kv_row = lwk_kv_row(step, s, head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row];
    for (uint32_t first = 0; first < count; first += LWK_ITEM_TILE) {
        ref_sum_t sum;
        lwk_ref_sum_init(&sum, shape->head_dim);
        for (uint32_t i = first; i < count && i < first + LWK_ITEM_TILE; i++) {
            if (lwk_place_kind(items[i].place) != LWK_PLACE_PENDING)
                continue;
            const uint8_t *record = lwk_ref_landed(step, session, &items[i]);
            if (record != NULL)
                lwk_ref_sum_add_rows(&sum, shape, query, record, items[i].size, items[i].size);
        }
        size_t at =
            row * step->scratch.partial_capacity + lwk_slot_arrivals(&step->scratch, first / LWK_ITEM_TILE);
        lwk_ref_sum_store(&sum, &step->scratch.partial[at], step->scratch.partial_out + at * shape->head_dim);
    }
}

static void merge_slots(ref_sum_t *sum, const lwk_step_t *step, size_t row, uint32_t first, uint32_t count)
{
    const lwk_scratch_t *scratch = &step->scratch;
    const float *shift = scratch->shift + row * sum->head_dim;
    for (uint32_t slot = first; slot < first + count; slot++) {
        size_t at = row * scratch->partial_capacity + slot;
        lwk_ref_sum_merge(sum, &scratch->partial[at], scratch->partial_out + at * sum->head_dim, shift);
    }
}

static void finish_row(const lwk_step_t *step, uint32_t s, lwk_session_t *session, uint32_t t,
                       uint32_t query_head)
{
    const lwk_shape_t *shape = &step->shape;
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t head = query_head / shape->group, d = shape->head_dim;
    size_t row = lwk_query_row(step, s, t, query_head);
    uint32_t item_tiles =
        (scratch->item_count[lwk_kv_row(step, s, head)] + LWK_ITEM_TILE - 1) / LWK_ITEM_TILE;
    uint32_t steady_tiles = (lwk_steady_count(session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
    attend_arrivals(step, s, session, head, row);

    ref_sum_t sum;
    lwk_ref_sum_init(&sum, d);
    merge_slots(&sum, step, row, 0, session->range_count);
    merge_slots(&sum, step, row, lwk_slot_steady(scratch, 0), steady_tiles);
    merge_slots(&sum, step, row, lwk_slot_hits(scratch, 0), item_tiles);
    merge_slots(&sum, step, row, lwk_slot_arrivals(scratch, 0), item_tiles);

    real out[LW_HEAD_DIM_MAX];
    real lse = lwk_ref_sum_result(&sum, out);
    size_t to = lwk_tensor_at(&step->out, s, t, query_head);
    for (uint32_t j = 0; j < d; j++) {
        if (step->out.data != NULL)
            lwk_store(step->out.data, shape->dtype, to + j, (float)out[j]);
        if (step->out_fp32 != NULL)
            step->out_fp32[row * d + j] = (float)out[j];
    }
    if (step->lse_out != NULL)
        step->lse_out[row] = (float)lse;
}

lw_status_t lwk_ref_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (step->out.data == NULL && step->out_fp32 == NULL)
        return LW_ERR_INVALID;
    for (uint32_t s = 0; s < step->session_count; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        for (uint32_t t = 0; session != NULL && t < step->query_tokens; t++)
            for (uint32_t h = 0; h < lwk_query_heads(&step->shape); h++)
                finish_row(step, s, session, t, h);
    }
    step->store->counters->steps++;
    return LW_OK;
}
