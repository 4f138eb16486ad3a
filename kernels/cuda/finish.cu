/* finish.cu - the last launch of a layer: arrived records straight from landing memory, and the merge of all partials.
 *
 * Grid: for each (session, KV head) `arrival_blocks` blocks for what was on its way, then one for each of its queries. A block of a query
 * merges the partials that are there already: every warp its slots (a function of the slots alone, so that sums do not
 * depend on the batch), then the warps in their order. If attend has noted no pending items, that is the output, and the other
 * blocks leave. Else those share the noted item tiles: a lane polls the arrival of one item, no longer than wait_us after the
 * block began, and the tile is attended as soon as its items are there; whichever block of the pair comes last merges the queries'
 * sums with the arrivals and writes the output. Bytes: 4 head_dim a partial and query; records over the host link, 16 bytes a
 * lane: 32 blocks of 256 threads keep 1 MiB under way, more than 50 GB/s times its latency. */
#include "kernels/cuda/items.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/select_work.h"
#include "kernels/cuda/steady.cuh"

template <typename ITEMS> struct finish_block {
    uint32_t last;
    union {
        ITEMS items;
        merge_shared_t merge;
    };
};

/* What is merged before the arrivals: one for each query row. */
typedef struct finish_sums {
    lwk_partial_t *partial;
    float *value;
} finish_sums_t;

/* Slots that are there before finish, counted through: parts, steady tiles, hits. */
typedef struct finish_slots {
    uint32_t parts, steady, items, total; /* items: tiles of hits, and as many of arrivals */
} finish_slots_t;

LWK_DEVICE finish_slots_t finish_slots_of(const lwk_step_t *step, const lwk_session_t *session, size_t kv_row)
{
    finish_slots_t n;
    n.parts = session->range_count * lwk_session_parts(&step->shape, session);
    n.steady = lwk_steady_tiles(session);
    uint32_t count = step->scratch.item_count[kv_row], each = lwk_item_tile(count);
    n.items = (count + each - 1) / each;
    n.total = n.parts + n.steady + n.items;
    return n;
}

LWK_DEVICE uint32_t finish_slot(const lwk_step_t *step, const finish_slots_t *n, uint32_t i)
{
    if (i < n->parts)
        return i;
    i -= n->parts;
    return i < n->steady ? lwk_slot_steady(&step->scratch, i) : lwk_slot_hits(&step->scratch, i - n->steady);
}

/* Whether items of a tile were pending: attend's note in the head's first query row. */
LWK_DEVICE bool finish_noted(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t tile)
{
    size_t at = lwk_group_row(step, s, head, 0) * step->scratch.partial_capacity + lwk_slot_hits(&step->scratch, tile);
    return step->scratch.partial[at].reserved > 0.0f;
}

/* Whether any item of the pair was pending. The whole block calls. */
LWK_DEVICE bool finish_waits(const lwk_step_t *step, const finish_slots_t *n, uint32_t s, uint32_t head)
{
    bool mine = false;
    for (uint32_t tile = threadIdx.x; tile < n->items; tile += STEP_THREADS)
        mine = mine || finish_noted(step, s, head, tile);
    return __syncthreads_or(mine) != 0;
}

/* Polls for one item's record until `until`. NULL: it did not come, and *status_out says why. */
LWK_DEVICE const uint8_t *await_record(const lwk_store_t *store, const lwk_item_t *item, uint64_t until,
                                       lw_status_t *status_out)
{
    uint64_t ticket = lwk_ticket_number(*store->ticket_tail, lwk_place_number(item->place));
    const uint64_t *word = store->arrivals + (ticket & (store->ticket_capacity - 1));
    uint64_t arrival = lwk_load_acquire_sys(word);
    while (!lwk_has_arrived(arrival, ticket) && lwk_timer_ns() < until) {
        lwk_pause();
        arrival = lwk_load_acquire_sys(word);
    }
    bool arrived = lwk_has_arrived(arrival, ticket), failed = (uint32_t)arrival == LWK_LANDING_FAILED;
    *status_out = !arrived ? LW_ERR_TIMEOUT : failed ? LW_ERR_SESSION_LOST : LW_OK;
    return *status_out == LW_OK ? store->landing + (uint64_t)(uint32_t)arrival * LWK_LANDING_UNIT : NULL;
}

/* The items of a tile that were on their way. One warp. */
LWK_DEVICE void list_arrivals(item_list_t *list, const lwk_step_t *step, lwk_session_t *session, const lwk_item_t *items,
                              uint32_t count, uint64_t until)
{
    uint32_t k = lwk_lane();
    list->rows[k] = 0;
    if (k < count && lwk_place_kind(items[k].place) == LWK_PLACE_PENDING) {
        lw_status_t status;
        const uint8_t *record = await_record(step->store, &items[k], until, &status);
        if (record != NULL)
            list->rows[k] = items[k].size;
        else
            (void)atomicCAS((uint32_t *)&session->error, 0u, (uint32_t)status);
        list->record[k] = record;
    }
    __syncwarp();
    lwk_items_count(list);
}

LWK_DEVICE void write_query(const lwk_step_t *step, const merge_sum_t *sum, uint32_t s, uint32_t head, uint32_t q)
{
    uint32_t d = step->shape.head_dim, group = step->shape.group, lane = lwk_lane();
    size_t row = lwk_group_row(step, s, head, q);
    float inverse = sum->z > 0.0f ? 1.0f / sum->z : 0.0f;
    size_t to = lwk_tensor_at(&step->out, s, q / group, head * group + q % group);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t j = 4 * lane + 128 * half;
        if (j >= d)
            break;
        float x[4] = {sum->o[half].x * inverse, sum->o[half].y * inverse, sum->o[half].z * inverse,
                      sum->o[half].w * inverse};
        for (uint32_t k = 0; k < 4; k++) {
            if (step->out.data != NULL)
                lwk_store(step->out.data, step->shape.dtype, to + j + k, x[k]);
            if (step->out_fp32 != NULL)
                step->out_fp32[row * d + j + k] = x[k];
        }
    }
    if (step->lse_out != NULL && lane == 0)
        step->lse_out[row] = sum->z > 0.0f ? sum->m + logf(sum->z) : -INFINITY;
}

/* A query's block: all that is there. Warp 0 has the result. */
LWK_DEVICE void merge_present(merge_shared_t *sh, merge_sum_t *sum, const lwk_step_t *step, const finish_slots_t *n, uint32_t s,
                              uint32_t head, uint32_t q)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = step->shape.head_dim;
    size_t row = lwk_group_row(step, s, head, q);
    *sum = lwk_merge_none();
    for (uint32_t base = 0; base < n->total; base += 32 * STEP_WARPS) {
        uint32_t i = base + STEP_WARPS * lwk_lane() + lwk_warp();
        const lwk_partial_t *partial = NULL;
        const float *value = NULL;
        if (i < n->total) {
            size_t at = row * scratch->partial_capacity + finish_slot(step, n, i);
            partial = scratch->partial + at;
            value = scratch->partial_out + at * d;
        }
        lwk_merge_add(sum, partial, value, d);
    }
    lwk_merge_warps(sh, sum, d);
    if (lwk_warp() == 0)
        lwk_merge_shift(sum, scratch->shift + row * d, d);
}

/* The pair's last block, one warp for a query: what was there, then what has arrived. */
LWK_DEVICE void merge_arrivals(const lwk_step_t *step, const finish_sums_t *sums, const finish_slots_t *n, uint32_t s,
                               uint32_t head, uint32_t q)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = step->shape.head_dim, lane = lwk_lane();
    size_t row = lwk_group_row(step, s, head, q);
    merge_sum_t sum = lwk_merge_none();
    lwk_merge_add(&sum, lane == 0 ? sums->partial + row : NULL, lane == 0 ? sums->value + row * d : NULL, d);
    for (uint32_t first = 0; first < n->items; first += 32) {
        uint32_t tile = first + lane;
        const lwk_partial_t *partial = NULL;
        const float *value = NULL;
        if (tile < n->items && finish_noted(step, s, head, tile)) {
            size_t at = row * scratch->partial_capacity + lwk_slot_arrivals(scratch, tile);
            partial = scratch->partial + at;
            value = scratch->partial_out + at * d;
        }
        lwk_merge_add(&sum, partial, value, d);
    }
    write_query(step, &sum, s, head, q);
}

/* Item tiles `first`, `first` + `stride` and so on, as far as something was pending. */
template <typename ITEMS>
LWK_DEVICE void attend_arrivals(ITEMS *sh, const lwk_step_t *step, lwk_session_t *session, uint32_t tiles, uint32_t s,
                                uint32_t head, uint32_t first, uint32_t stride)
{
    uint64_t until = lwk_timer_ns() + step->wait_us * 1000u;
    size_t kv_row = lwk_kv_row(step, s, head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row], each = lwk_item_tile(count);
    for (uint32_t tile = first; tile < tiles; tile += stride) {
        uint32_t begin = tile * each;
        if (!finish_noted(step, s, head, tile))
            continue;
        __syncthreads();
        if (lwk_warp() == 0)
            list_arrivals(&sh->list, step, session, items + begin, min(count - begin, each), until);
        __syncthreads();
        lwk_items_attend(sh, step, s, head, lwk_slot_arrivals(&step->scratch, tile), 0.0f);
    }
}

template <typename ITEMS>
LWK_DEVICE void finish_all(finish_block<ITEMS> *sh, const lwk_step_t *step, const finish_sums_t *sums, lwk_dev_counters_t *counters,
                           uint32_t arrival_blocks)
{
    uint32_t heads = step->shape.kv_head_count, queries = lwk_query_count(step), pairs = step->session_count * heads;
    if (threadIdx.x == 0 && blockIdx.x == 0)
        atomicAdd(&step->store->counters->steps, (uint64_t)1);
    bool merges = blockIdx.x < pairs * queries;
    uint32_t number = merges ? blockIdx.x : blockIdx.x - pairs * queries, each = merges ? queries : arrival_blocks;
    uint32_t pair = number / each, s = pair / heads, head = pair % heads;
    number %= each;
    lwk_session_t *session = lwk_step_session(step, s);
    if (session == NULL)
        return;
    finish_slots_t n = finish_slots_of(step, session, lwk_kv_row(step, s, head));
    bool waits = finish_waits(step, &n, s, head);
    if (!merges && !waits)
        return;
    if (merges) {
        merge_sum_t sum;
        merge_present(&sh->merge, &sum, step, &n, s, head, number);
        if (!waits) {
            if (lwk_warp() == 0)
                write_query(step, &sum, s, head, number);
            return;
        }
        size_t row = lwk_group_row(step, s, head, number);
        if (lwk_warp() == 0)
            lwk_merge_store(&sum, sums->partial + row, sums->value + row * step->shape.head_dim, step->shape.head_dim);
    } else {
        attend_arrivals(&sh->items, step, session, n.items, s, head, number, arrival_blocks);
    }
    if (!lwk_last_block(&sh->last, &counters->finish[pair], queries + arrival_blocks))
        return;
    for (uint32_t q = lwk_warp(); q < queries; q += STEP_WARPS)
        merge_arrivals(step, sums, &n, s, head, q);
}

template <uint32_t D, uint32_t DTYPE>
LWK_KERNEL(STEP_THREADS, 2)
void finish_exact_kernel(LWK_ARGS(lwk_step_t) step, LWK_ARGS(finish_sums_t) sums, lwk_dev_counters_t *counters,
                         uint32_t arrival_blocks)
{
    typedef items_exact<D, DTYPE, STEP_WARPS> items_t;
    LWK_SHARED(finish_block<items_t>, sh);
    finish_all(sh, &step, &sums, counters, arrival_blocks);
}

template <uint32_t KIND, uint32_t LANES>
LWK_KERNEL(STEP_THREADS, 2)
void finish_plain_kernel(LWK_ARGS(lwk_step_t) step, LWK_ARGS(finish_sums_t) sums, lwk_dev_counters_t *counters,
                         uint32_t arrival_blocks)
{
    typedef items_shared<KIND, LANES, 4> items_t;
    LWK_SHARED(finish_block<items_t>, sh);
    finish_all(sh, &step, &sums, counters, arrival_blocks);
}

/* ---- host ---- */

static uint64_t lay_out(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens, uint8_t *memory,
                        finish_sums_t *sums)
{
    uint64_t rows = (uint64_t)session_count * query_tokens * lwk_query_heads(shape);
    uint64_t headers = lw_align_up(rows * sizeof(lwk_partial_t), 256);
    if (sums != NULL) {
        sums->partial = (lwk_partial_t *)memory;
        sums->value = (float *)(memory + headers);
    }
    return headers + rows * shape->head_dim * sizeof(float);
}

/* prepare's parts lie in the same place: they have been used by then. */
static uint64_t work_bytes(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens)
{
    return lw_max_u64(lay_out(shape, session_count, query_tokens, NULL, NULL),
                      lwk_cuda_prepare_bytes(shape, session_count, query_tokens));
}

uint64_t lwk_cuda_finish_bytes(const lwk_dims_t *dims)
{
    return work_bytes(&dims->shape, dims->session_count, dims->query_tokens);
}

uint8_t *lwk_cuda_step_work(const lwk_step_t *step)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint64_t first = lwk_cuda_select_carve(&step->shape, step->session_count, step->query_tokens,
                                           scratch->entry_capacity, NULL, NULL);
    uint64_t mine = work_bytes(&step->shape, step->session_count, step->query_tokens);
    return scratch->workspace != NULL && first + mine <= scratch->workspace_bytes ? (uint8_t *)scratch->workspace + first
                                                                                 : NULL;
}

typedef void (*finish_kernel_t)(lwk_step_t step, finish_sums_t sums, lwk_dev_counters_t *counters, uint32_t arrival_blocks);

static lw_status_t launch(const lwk_dev_t *dev, finish_kernel_t kernel, size_t shared, const lwk_step_t *step,
                          cudaStream_t stream)
{
    if (step == NULL)
        return lwk_kernel_load(kernel, STEP_THREADS, shared);
    finish_sums_t sums;
    uint8_t *work = lwk_cuda_step_work(step);
    if (work == NULL)
        return LW_ERR_INVALID;
    (void)lay_out(&step->shape, step->session_count, step->query_tokens, work, &sums);
    uint32_t pairs = step->session_count * step->shape.kv_head_count;
    uint32_t each = lwk_blocks_each(dev, pairs, lwk_item_slots(step->scratch.item_capacity));
    uint32_t queries = step->query_tokens * step->shape.group;
    return lwk_launch("finish", kernel, dim3(pairs * (queries + each)), STEP_THREADS, shared, stream, *step, sums, dev->counters,
                      each);
}

template <uint32_t D, uint32_t DTYPE>
static lw_status_t run_exact(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    return launch(dev, finish_exact_kernel<D, DTYPE>, sizeof(finish_block<items_exact<D, DTYPE, STEP_WARPS>>), step, stream);
}

template <uint32_t KIND, uint32_t LANES, uint32_t>
static lw_status_t run_plain(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    return launch(dev, finish_plain_kernel<KIND, LANES>, sizeof(finish_block<items_shared<KIND, LANES, 4>>), step, stream);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, const lwk_step_t *step, cudaStream_t stream)
{
    if (lwk_exact_serves(shape))
        LWK_EXACT_DISPATCH(shape, run_exact, dev, step, stream);
    LWK_STEP_DISPATCH(shape, 4, run_plain, dev, step, stream);
}

lw_status_t lwk_cuda_finish_load(const lwk_shape_t *shape)
{
    return dispatch(NULL, shape, NULL, NULL);
}

lw_status_t lwk_cuda_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (step->out.data == NULL && step->out_fp32 == NULL)
        return LW_ERR_INVALID;
    return dispatch(dev, &step->shape, step, (cudaStream_t)stream);
}
