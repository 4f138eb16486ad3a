/* items.cuh - exact attention of a block's queries over one tile of LWK_ITEM_TILE retrieved items: those in cached pages, or
 * those that have landed. */
#ifndef LWK_CUDA_ITEMS_CUH
#define LWK_CUDA_ITEMS_CUH

#include "kernels/cuda/exact.cuh"
#include "kernels/cuda/rows.cuh"

/* Where the rows of each item are: in pages, or one record (`rows` of K, then of V) when that is not NULL. */
typedef struct item_list {
    uint32_t first[LWK_ITEM_TILE + 1]; /* number of an item's first row among the tile's; the last: all rows */
    uint32_t rows[LWK_ITEM_TILE];      /* 0: not of this tile's kind */
    const uint8_t *record[LWK_ITEM_TILE];
    const uint32_t *pages[LWK_ITEM_TILE];
    uint32_t pending; /* items that are on their way */
} item_list_t;

/* Of the two ways to attend rows: any dtype and head_dim, and those of exact.cuh. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct items_shared {
    item_list_t list;
    rows_shared<KIND, LANES, QC> rows;
};
template <uint32_t D, uint32_t DTYPE, uint32_t WARPS> struct items_exact {
    item_list_t list;
    exact_shared<D, WARPS> rows;
};

/* Sums of rows[] before each item. One warp. */
LWK_DEVICE void lwk_items_count(item_list_t *list)
{
    uint32_t mine = list->rows[lwk_lane()], sum = mine;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t before = __shfl_up_sync(LWK_WARP_ALL, sum, step);
        if (lwk_lane() >= step)
            sum += before;
    }
    list->first[lwk_lane() + 1] = sum;
    if (lwk_lane() == 0)
        list->first[0] = 0;
}

/* The cached items of a tile, and how many are pending. One warp. */
LWK_DEVICE void lwk_items_cached(item_list_t *list, const lwk_step_t *step, const lwk_session_t *session, uint32_t head,
                                 const lwk_item_t *items, uint32_t count)
{
    uint32_t k = lwk_lane(), kind = LWK_PLACE_REMOTE;
    lwk_item_t item = {0, 0, 0, 0, 0};
    if (k < count) {
        item = items[k];
        kind = lwk_place_kind(item.place);
    }
    uint32_t pending = __ballot_sync(LWK_WARP_ALL, kind == LWK_PLACE_PENDING);
    if (k == 0)
        list->pending = (uint32_t)__popc(pending);
    list->rows[k] = 0;
    if (kind == LWK_PLACE_CACHED) {
        const lwk_store_t *store = step->store;
        const lwk_tile_t *tile =
            &store->tiles[lwk_tile_number(&step->shape, session->ranges[item.range].row, step->layer, head)];
        list->rows[k] = item.size;
        list->record[k] = NULL;
        if (item.entry < tile->cluster_count)
            list->pages[k] = tile->pages + tile->page_base[item.entry];
        else
            list->record[k] = store->pages[1].bytes +
                              lwk_place_number(item.place) * lwk_page_bytes(&step->shape, &store->pages[1]);
    }
    __syncwarp();
    lwk_items_count(list);
}

LWK_DEVICE exact_row_t lwk_items_row(const item_list_t *list, const lwk_step_t *step, uint32_t row)
{
    uint64_t row_bytes = lwk_row_bytes(&step->shape);
    uint32_t low = 0, high = LWK_ITEM_TILE; /* the last item that begins at or before the row and has rows */
#pragma unroll
    for (uint32_t i = 1; i < LWK_ITEM_TILE; i *= 2) {
        uint32_t middle = (low + high) / 2;
        if (list->first[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    uint32_t i = row - list->first[low];
    exact_row_t at;
    at.visible = ~0u;
    if (list->record[low] != NULL) {
        at.key = list->record[low] + i * row_bytes;
        at.value = at.key + list->rows[low] * row_bytes;
        return at;
    }
    const lwk_page_class_t *pages = &step->store->pages[0];
    at.key = pages->bytes + list->pages[low][i / LWK_PAGE_TOKENS] * lwk_page_bytes(&step->shape, pages) +
             i % LWK_PAGE_TOKENS * row_bytes;
    at.value = at.key + LWK_PAGE_TOKENS * row_bytes;
    return at;
}

/* A list as exact_rows() reads it. */
typedef struct item_rows {
    const item_list_t *list;
    const lwk_step_t *step;
} item_rows_t;

LWK_DEVICE exact_row_t exact_row_at(const item_rows_t *source, uint32_t row)
{
    return lwk_items_row(source->list, source->step, row);
}

/* An empty partial in `slot` of all queries, with a note. */
LWK_DEVICE void lwk_items_nothing(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t slot, float note)
{
    lwk_partial_t nothing = {-INFINITY, 0.0f, 0.0f, note};
    if (threadIdx.x < lwk_query_count(step))
        step->scratch.partial[lwk_group_row(step, s, head, threadIdx.x) * step->scratch.partial_capacity + slot] = nothing;
}

/* Attends the rows of sh->list, which is filled behind a barrier, into partial slot `slot`. `note` goes to the partials' reserved field:
 * attend tells finish how many items of the tile are pending. */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_items_attend(items_shared<KIND, LANES, QC> *sh, const lwk_step_t *step, uint32_t s, uint32_t head,
                                 uint32_t slot, float note)
{
    const uint32_t ROWS = rows_config<KIND, LANES, QC>::ROWS;
    uint32_t total = sh->list.first[LWK_ITEM_TILE], count = lwk_query_count(step);
    if (total == 0) {
        lwk_items_nothing(step, s, head, slot, note);
        return;
    }
    for (uint32_t first = 0; first < count; first += QC) {
        rows_sum<QC> sum;
        lwk_rows_begin<KIND, LANES, QC>(&sh->rows, &sum, step, s, head, first);
        for (uint32_t base = 0; base < total; base += ROWS) {
            for (uint32_t r = threadIdx.x; r < ROWS; r += STEP_THREADS) {
                exact_row_t at = {NULL, NULL, ~0u};
                if (base + r < total)
                    at = lwk_items_row(&sh->list, step, base + r);
                sh->rows.key[r] = at.key;
                sh->rows.value[r] = at.value;
                sh->rows.visible[r] = at.visible;
            }
            __syncthreads();
            lwk_rows_pass<KIND, LANES, QC>(&sh->rows, &sum, &step->shape);
        }
        lwk_rows_end<KIND, LANES, QC>(&sh->rows, &sum, step, s, head, first, slot, note);
    }
}

template <uint32_t D, uint32_t DTYPE, uint32_t WARPS>
LWK_DEVICE void lwk_items_attend(items_exact<D, DTYPE, WARPS> *sh, const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t slot,
                                 float note)
{
    uint32_t total = sh->list.first[LWK_ITEM_TILE];
    if (total == 0) {
        lwk_items_nothing(step, s, head, slot, note);
        return;
    }
    item_rows_t source = {&sh->list, step};
    for (uint32_t first = 0; first < lwk_query_count(step); first += EXACT_QUERIES) {
        exact_sum<D> sum;
        exact_begin<D, DTYPE, WARPS>(&sh->rows, &sum, step, s, head, first);
        exact_rows<D, DTYPE, WARPS>(&sh->rows, &sum, &step->shape, &source, total, exact_bit(step, first));
        exact_end<D, WARPS>(&sh->rows, &sum, step, s, head, first, slot, note);
    }
}

#endif /* LWK_CUDA_ITEMS_CUH */
