/* attend.c - what needs the selection but no fetch, as in ref/attend.c: estimates, and cached entries in
 * their pages. */
#include <string.h>

#include "kernels/cpu/cpu_private.h"

/* ---- the estimate
 * ------------------------------------------------------------------------------------------------- */

/* An outlier's weight goes to its parent's value mean. */
static void fold_outliers(const lwk_cpu_tile_t *tile, float *weight)
{
    const uint16_t *parent = (const uint16_t *)(const void *)(tile->tile->index + tile->at.outlier_parents);
    const float *outlier = weight + tile->tile->cluster_count;
    for (uint32_t i = 0; i < tile->tile->outlier_count; i++)
        weight[parent[i]] += outlier[i];
}

/* Weights of what is estimated, relative to the partial's m; the value half of the tile comes later. */
static void weigh_tile(const lwk_loops_t *loops, const lwk_cpu_queries_t *queries, const lwk_cpu_tile_t *tile,
                       uint32_t q, float *weight, lwk_partial_t *partial_out)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    uint32_t correct = queries->session->policy.correct;
    const float *logit = scratch->logit + queries->row[q] * scratch->entry_capacity + tile->base;
    lwk_lens_t lens = lwk_cpu_lens(queries, q, tile);
    float largest =
        loops->mass(&tile->columns, &lens, (correct & LWK_CORRECT_VARIANCE) != 0, logit, tile->count, weight);
    *partial_out = (lwk_partial_t){.m = largest};
    if (largest == -INFINITY)
        return;
    partial_out->z = loops->exp_sum(weight, tile->count, largest);
    if ((correct & LWK_CORRECT_VALUE) && lens.spread > 0)
        partial_out->t = loops->shift_weight(&tile->columns, &lens, logit, weight, tile->tile->cluster_count);
    fold_outliers(tile, weight);
}

static void add_values(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_tile_t *tile,
                       uint32_t count, float *const *weight, const float *const *sum, uint32_t d,
                       float *const *out)
{
    const lwk_tile_t *t = tile->tile;
    bool coded = lwk_encoding_is_coded(t->cluster_encoding);
    float *to[LWK_CPU_QUERIES_MAX];
    for (uint32_t q = 0; q < count; q++) {
        to[q] = coded ? work->coded_out + (size_t)q * d : out[q];
        memset(to[q], 0, d * sizeof(float));
        if (coded)
            loops->product(weight[q], tile->value_scale, t->cluster_count, weight[q]);
    }
    lwk_cpu_index_rows(work, t->index + tile->at.cluster_values,
                       lwk_encoded_row_bytes(t->cluster_encoding, d), t->cluster_count);
    loops->accumulate[lwk_encoding_kind(t->cluster_encoding)](work->rows, t->cluster_count,
                                                              (const float *const *)weight, count, d, to);
    for (uint32_t q = 0; q < count && coded; q++) {
        memset(out[q], 0, d * sizeof(float));
        loops->decode_row(to[q], lwk_cpu_floats(tile, tile->at.value_center),
                          lwk_cpu_floats(tile, tile->at.value_channel), *sum[q], d, out[q]);
    }
}

static void estimate_range(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                           const lwk_cpu_queries_t *queries, uint32_t range)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    uint32_t d = queries->step->shape.head_dim, weighed = 0;
    const uint8_t *mark =
        scratch->mark + lwk_kv_row(queries->step, queries->s, queries->head) * scratch->entry_capacity;
    float *weight[LWK_CPU_QUERIES_MAX], *out[LWK_CPU_QUERIES_MAX];
    const float *sum[LWK_CPU_QUERIES_MAX];
    lwk_cpu_tile_t tile;
    lwk_cpu_tile_open(loops, work, queries, range, mark + queries->session->ranges[range].entry_base, &tile);
    for (uint32_t q = 0; q < queries->count; q++) {
        size_t at = queries->row[q] * scratch->partial_capacity + range;
        weight[weighed] = work->weight + (size_t)weighed * scratch->entry_capacity;
        weigh_tile(loops, queries, &tile, q, weight[weighed], &scratch->partial[at]);
        sum[weighed] = &scratch->partial[at].z;
        out[weighed] = scratch->partial_out + at * d;
        if (scratch->partial[at].m > -INFINITY)
            weighed++; /* the others have nothing to estimate here */
    }
    if (weighed > 0)
        add_values(loops, work, &tile, weighed, weight, sum, d, out);
}

/* ---- cached entries
 * ----------------------------------------------------------------------------------------------- */

static void add_cached(lwk_cpu_batch_t *batch, const lwk_store_t *store, const lwk_tile_t *tile,
                       const lwk_item_t *item)
{
    const lwk_shape_t *shape = batch->run->shape;
    if (item->entry >= tile->cluster_count) {
        uint64_t page = lwk_place_number(item->place);
        lwk_cpu_batch_add(batch, store->pages[1].bytes + page * lwk_page_bytes(shape, &store->pages[1]), 1,
                          1);
        return;
    }
    const uint32_t *pages = tile->pages + tile->page_base[item->entry];
    uint64_t page_bytes = lwk_page_bytes(shape, &store->pages[0]);
    for (uint32_t first = 0; first < item->size; first += LWK_PAGE_TOKENS) {
        uint32_t count = item->size - first < LWK_PAGE_TOKENS ? item->size - first : LWK_PAGE_TOKENS;
        lwk_cpu_batch_add(batch, store->pages[0].bytes + pages[first / LWK_PAGE_TOKENS] * page_bytes, count,
                          LWK_PAGE_TOKENS);
    }
}

static void attend_hits(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                        const lwk_cpu_queries_t *queries)
{
    const lwk_step_t *step = queries->step;
    const lwk_store_t *store = step->store;
    size_t kv_row = lwk_kv_row(step, queries->s, queries->head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row];
    for (uint32_t first = 0; first < count; first += LWK_ITEM_TILE) {
        lwk_cpu_run_t run;
        lwk_cpu_run_begin(&run, loops, work, queries, lwk_slot_hits(&step->scratch, first / LWK_ITEM_TILE));
        lwk_cpu_batch_t batch;
        batch.run = &run;
        batch.count = 0;
        for (uint32_t i = first; i < count && i < first + LWK_ITEM_TILE; i++) {
            if (lwk_place_kind(items[i].place) != LWK_PLACE_CACHED)
                continue;
            uint32_t row = queries->session->ranges[items[i].range].row;
            add_cached(&batch, store, &store->tiles[lwk_tile_number(&step->shape, row, step->layer, queries->head)],
                       &items[i]);
        }
        lwk_cpu_batch_flush(&batch);
    }
}

static void attend_head(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                        const lwk_cpu_queries_t *queries)
{
    for (uint32_t range = 0; range < queries->session->range_count; range++)
        estimate_range(loops, work, queries, range);
    attend_hits(loops, work, queries);
}

lw_status_t lwk_cpu_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    return lwk_cpu_each_head(dev, step, attend_head);
}
