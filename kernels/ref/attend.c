/* attend.c - everything that needs no fetch: the estimate of what was not chosen, the steady zone, and cached
 * entries in place in their pages. Each part goes to a partial slot of its own (ops.h). */
#include "kernels/ref/ref.h"
#include "kernels/ref/sum.h"

static void store(const lwk_step_t *step, size_t row, uint32_t slot, const ref_sum_t *sum)
{
    size_t at = row * step->scratch.partial_capacity + slot;
    lwk_ref_sum_store(sum, &step->scratch.partial[at], step->scratch.partial_out + at * sum->head_dim);
}

/* Section 5 over the entries of one tile that are marked so. An outlier that is estimated has its own key's
 * weight and the value mean of its parent, whatever happens to the parent itself. */
static void estimate_range(const lwk_step_t *step, const lwk_session_t *session, const uint8_t *mark,
                           size_t row, uint32_t range, const ref_tile_t *tile)
{
    ref_query_t query = lwk_ref_query_open(step, session, tile, row);
    uint32_t base = session->ranges[range].entry_base, clusters = tile->tile->cluster_count;
    const float *logits = step->scratch.logit + row * step->scratch.entry_capacity + base;
    bool shifts = (session->policy.correct & LWK_CORRECT_VALUE) != 0;
    ref_sum_t sum;
    lwk_ref_sum_init(&sum, tile->head_dim);
    for (uint32_t e = 0; e < lwk_tile_entries(tile->tile); e++) {
        if (mark[base + e] != LWK_MARK_ESTIMATE || lwk_entry_size(tile->tile, e) == 0)
            continue;
        ref_terms_t t = lwk_ref_entry_terms(tile, &query, e, logits[e]);
        real value[LW_HEAD_DIM_MAX];
        lwk_ref_cluster_value(tile, e < clusters ? e : lwk_ref_outlier_parent(tile, e), value);
        lwk_ref_sum_add(&sum, t.mass, shifts ? t.spread * t.slope : 0, value);
    }
    store(step, row, range, &sum);
}

static void add_cached(ref_sum_t *sum, const lwk_step_t *step, const float *query, const lwk_tile_t *tile,
                       const lwk_item_t *item)
{
    const lwk_store_t *st = step->store;
    if (item->entry >= tile->cluster_count) {
        uint64_t page = lwk_place_number(item->place);
        lwk_ref_sum_add_rows(sum, &step->shape, query,
                         st->pages[1].bytes + page * lwk_page_bytes(&step->shape, &st->pages[1]), 1, 1);
        return;
    }
    const uint32_t *pages = tile->pages + tile->page_base[item->entry];
    for (uint32_t first = 0; first < item->size; first += LWK_PAGE_TOKENS) {
        uint32_t count = item->size - first < LWK_PAGE_TOKENS ? item->size - first : LWK_PAGE_TOKENS;
        uint64_t page = pages[first / LWK_PAGE_TOKENS];
        lwk_ref_sum_add_rows(sum, &step->shape, query,
                         st->pages[0].bytes + page * lwk_page_bytes(&step->shape, &st->pages[0]), count,
                         LWK_PAGE_TOKENS);
    }
}

static void attend_hits(const lwk_step_t *step, uint32_t s, const lwk_session_t *session, uint32_t head,
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
            if (lwk_place_kind(items[i].place) != LWK_PLACE_CACHED)
                continue;
            uint32_t number =
                lwk_tile_number(&step->shape, session->ranges[items[i].range].row, step->layer, head);
            add_cached(&sum, step, query, &step->store->tiles[number], &items[i]);
        }
        store(step, row, lwk_slot_hits(&step->scratch, first / LWK_ITEM_TILE), &sum);
    }
}

static void attend_row(const lwk_step_t *step, uint32_t s, const lwk_session_t *session, uint32_t t,
                       uint32_t query_head)
{
    const lwk_shape_t *shape = &step->shape;
    uint32_t head = query_head / shape->group;
    size_t row = lwk_query_row(step, s, t, query_head);
    const uint8_t *mark = step->scratch.mark + lwk_kv_row(step, s, head) * step->scratch.entry_capacity;
    for (uint32_t range = 0; range < session->range_count; range++) {
        uint32_t number = lwk_tile_number(&step->shape, session->ranges[range].row, step->layer, head);
        ref_tile_t tile = lwk_ref_tile_open(&step->store->tiles[number], shape->head_dim);
        estimate_range(step, session, mark, row, range, &tile);
    }
    attend_hits(step, s, session, head, row);
}

lw_status_t lwk_ref_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    for (uint32_t s = 0; s < step->session_count; s++) {
        const lwk_session_t *session = lwk_step_session(step, s);
        for (uint32_t t = 0; session != NULL && t < step->query_tokens; t++)
            for (uint32_t h = 0; h < lwk_query_heads(&step->shape); h++)
                attend_row(step, s, session, t, h);
    }
    return LW_OK;
}
