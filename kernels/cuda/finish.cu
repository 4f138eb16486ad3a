/* finish.cu - the last launch of a layer: arrived records straight from landing memory, and the merge of all partials.
 *
 * Grid: `blocks_each` blocks for each (session, KV head). First its warps merge the partials that are there already, in
 * groups of FINISH_GROUP slots (a function of the slots alone, so that sums do not depend on the batch). Then its blocks
 * share the item tiles: a lane polls the arrival of one item, no longer than wait_us after the block began, and the tile is
 * attended as soon as its items are there. The last block of the pair merges groups and arrivals in slot order and writes
 * the output. Bytes: 4 head_dim a partial and query, twice for those in groups; records over the host link, 16 bytes a
 * lane: 32 blocks of 256 threads keep 1 MiB under way, more than 50 GB/s times its latency. */
#include "kernels/cuda/items.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/select_work.h"
#include "kernels/cuda/steady.cuh"

#define FINISH_GROUP 16u

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct finish_block {
    uint32_t last, failed;
    items_shared<KIND, LANES, QC> items;
};

/* Partials of groups; groups_max for each query row. */
typedef struct finish_groups {
    lwk_partial_t *partial;
    float *value;
    uint32_t groups_max;
} finish_groups_t;

static uint32_t groups_max_of(uint32_t ranges, uint32_t steady_slots, uint32_t item_capacity)
{
    return (ranges + steady_slots + item_capacity / LWK_ITEM_TILE + 1) / FINISH_GROUP + 1;
}

/* Slots that are there before finish, counted through: ranges, steady tiles, hits. */
typedef struct finish_slots {
    uint32_t ranges, steady, items, total; /* items: tiles of hits, and as many of arrivals */
} finish_slots_t;

LWK_DEVICE finish_slots_t finish_slots_of(const lwk_step_t *step, const lwk_session_t *session, size_t kv_row)
{
    finish_slots_t n;
    n.ranges = session->range_count;
    n.steady = lwk_steady_tiles(session);
    n.items = (step->scratch.item_count[kv_row] + LWK_ITEM_TILE - 1) / LWK_ITEM_TILE;
    n.total = n.ranges + n.steady + n.items;
    return n;
}

LWK_DEVICE uint32_t finish_slot(const lwk_step_t *step, const finish_slots_t *n, uint32_t i)
{
    if (i < n->ranges)
        return i;
    i -= n->ranges;
    return i < n->steady ? lwk_slot_steady(&step->scratch, i) : lwk_slot_hits(&step->scratch, i - n->steady);
}

/* Warp `warp` of `warps` merges every so many-th group of the pair's queries. */
LWK_DEVICE void merge_groups(const lwk_step_t *step, const finish_groups_t *groups, const finish_slots_t *n, uint32_t s,
                             uint32_t head, uint32_t warp, uint32_t warps)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = step->shape.head_dim, each = (n->total + FINISH_GROUP - 1) / FINISH_GROUP;
    for (uint32_t work = warp; work < each * lwk_query_count(step); work += warps) {
        uint32_t group = work % each, i = group * FINISH_GROUP + lwk_lane();
        size_t row = lwk_group_row(step, s, head, work / each);
        const lwk_partial_t *partial = NULL;
        const float *value = NULL;
        if (lwk_lane() < FINISH_GROUP && i < n->total) {
            size_t at = row * scratch->partial_capacity + finish_slot(step, n, i);
            partial = scratch->partial + at;
            value = scratch->partial_out + at * d;
        }
        merge_sum_t sum = lwk_merge_none();
        lwk_merge_add(&sum, partial, value, d);
        lwk_merge_shift(&sum, scratch->shift + row * d, d);
        size_t to = row * groups->groups_max + group;
        lwk_merge_store(&sum, groups->partial + to, groups->value + to * d, d);
    }
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

/* One query: groups, then arrivals; one warp. */
LWK_DEVICE void write_query(const lwk_step_t *step, const finish_groups_t *groups, const finish_slots_t *n, uint32_t s,
                            uint32_t head, uint32_t q)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t d = step->shape.head_dim, group = step->shape.group;
    uint32_t each = (n->total + FINISH_GROUP - 1) / FINISH_GROUP, lane = lwk_lane();
    size_t row = lwk_group_row(step, s, head, q);
    merge_sum_t sum = lwk_merge_none();
    for (uint32_t first = 0; first < each + n->items; first += 32) {
        uint32_t i = first + lane;
        const lwk_partial_t *partial = NULL;
        const float *value = NULL;
        if (i < each) {
            size_t at = row * groups->groups_max + i;
            partial = groups->partial + at;
            value = groups->value + at * d;
        } else if (i < each + n->items) {
            size_t at = row * scratch->partial_capacity + lwk_slot_arrivals(scratch, i - each);
            partial = scratch->partial + at;
            value = scratch->partial_out + at * d;
        }
        lwk_merge_add(&sum, partial, value, d);
    }
    float inverse = sum.z > 0.0f ? 1.0f / sum.z : 0.0f;
    size_t to = lwk_tensor_at(&step->out, s, q / group, head * group + q % group);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t j = 4 * lane + 128 * half;
        if (j >= d)
            break;
        float x[4] = {sum.o[half].x * inverse, sum.o[half].y * inverse, sum.o[half].z * inverse,
                      sum.o[half].w * inverse};
        for (uint32_t k = 0; k < 4; k++) {
            if (step->out.data != NULL)
                lwk_store(step->out.data, step->shape.dtype, to + j + k, x[k]);
            if (step->out_fp32 != NULL)
                step->out_fp32[row * d + j + k] = x[k];
        }
    }
    if (step->lse_out != NULL && lane == 0)
        step->lse_out[row] = sum.z > 0.0f ? sum.m + logf(sum.z) : -INFINITY;
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_KERNEL(STEP_THREADS, 2)
void finish_kernel(LWK_ARGS(lwk_step_t) step, LWK_ARGS(finish_groups_t) groups, lwk_dev_counters_t *counters)
{
    typedef finish_block<KIND, LANES, QC> block_t;
    LWK_SHARED(block_t, sh);
    uint32_t head = blockIdx.y, s = blockIdx.z, heads = step.shape.kv_head_count;
    uint64_t until = lwk_timer_ns() + step.wait_us * 1000u;
    if (threadIdx.x == 0 && blockIdx.x == 0 && head == 0 && s == 0)
        atomicAdd(&step.store->counters->steps, (uint64_t)1);
    lwk_session_t *session = lwk_step_session(&step, s);
    if (session == NULL)
        return;
    size_t kv_row = lwk_kv_row(&step, s, head);
    finish_slots_t n = finish_slots_of(&step, session, kv_row);
    merge_groups(&step, &groups, &n, s, head, blockIdx.x + gridDim.x * lwk_warp(), gridDim.x * STEP_WARPS);

    const lwk_item_t *items = step.scratch.items + kv_row * step.scratch.item_capacity;
    uint32_t count = step.scratch.item_count[kv_row];
    for (uint32_t tile = blockIdx.x; tile * LWK_ITEM_TILE < count; tile += gridDim.x) {
        uint32_t begin = tile * LWK_ITEM_TILE;
        __syncthreads();
        if (lwk_warp() == 0)
            list_arrivals(&sh->items.list, &step, session, items + begin, min(count - begin, LWK_ITEM_TILE), until);
        __syncthreads();
        lwk_items_attend<KIND, LANES, QC>(&sh->items, &step, s, head, lwk_slot_arrivals(&step.scratch, tile));
    }
    if (!lwk_last_block(&sh->last, &counters->finish[s * heads + head], gridDim.x))
        return;
    for (uint32_t q = lwk_warp(); q < lwk_query_count(&step); q += STEP_WARPS)
        write_query(&step, &groups, &n, s, head, q);
}

/* ---- host ---- */

static uint64_t lay_out(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens, uint32_t groups_max,
                        uint8_t *memory, finish_groups_t *groups)
{
    uint64_t slots = (uint64_t)session_count * query_tokens * lwk_query_heads(shape) * groups_max;
    uint64_t headers = lw_align_up(slots * sizeof(lwk_partial_t), 256);
    if (groups != NULL) {
        groups->partial = (lwk_partial_t *)memory;
        groups->value = (float *)(memory + headers);
        groups->groups_max = groups_max;
    }
    return headers + slots * shape->head_dim * sizeof(float);
}

/* prepare's parts lie in the same place: they have been used by then. */
static uint64_t work_bytes(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens, uint32_t groups_max)
{
    return lw_max_u64(lay_out(shape, session_count, query_tokens, groups_max, NULL, NULL),
                      lwk_cuda_prepare_bytes(shape, session_count, query_tokens));
}

uint64_t lwk_cuda_finish_bytes(const lwk_dims_t *dims)
{
    uint32_t steady = (dims->steady_rows + LW_SINK_TOKENS) / LWK_STEADY_TILE + 2;
    return work_bytes(&dims->shape, dims->session_count, dims->query_tokens,
                      groups_max_of(dims->range_list_capacity, steady, dims->item_capacity));
}

static uint32_t groups_max_of_step(const lwk_step_t *step)
{
    const lwk_scratch_t *scratch = &step->scratch;
    return groups_max_of(scratch->range_list_capacity, lwk_slot_hits(scratch, 0) - lwk_slot_steady(scratch, 0),
                         scratch->item_capacity);
}

uint8_t *lwk_cuda_step_work(const lwk_step_t *step)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint64_t first = lwk_cuda_select_carve(&step->shape, step->session_count, step->query_tokens,
                                           scratch->entry_capacity, NULL, NULL);
    uint64_t mine = work_bytes(&step->shape, step->session_count, step->query_tokens, groups_max_of_step(step));
    return scratch->workspace != NULL && first + mine <= scratch->workspace_bytes ? (uint8_t *)scratch->workspace + first
                                                                                 : NULL;
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
static lw_status_t run(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    size_t shared = sizeof(finish_block<KIND, LANES, QC>);
    if (step == NULL)
        return lwk_kernel_load(finish_kernel<KIND, LANES, QC>, STEP_THREADS, shared);
    finish_groups_t groups;
    uint8_t *work = lwk_cuda_step_work(step);
    if (work == NULL)
        return LW_ERR_INVALID;
    (void)lay_out(&step->shape, step->session_count, step->query_tokens, groups_max_of_step(step), work, &groups);
    uint32_t heads = step->shape.kv_head_count;
    uint32_t each = lwk_blocks_each(dev, step->session_count * heads, step->scratch.item_capacity / LWK_ITEM_TILE + 1);
    return lwk_launch("finish", finish_kernel<KIND, LANES, QC>, dim3(each, heads, step->session_count), STEP_THREADS,
                      shared, stream, *step, groups, dev->counters);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                            cudaStream_t stream)
{
    LWK_STEP_DISPATCH(shape, queries, run, dev, step, stream);
}

lw_status_t lwk_cuda_finish_load(const lwk_shape_t *shape)
{
    lw_status_t status = dispatch(NULL, shape, 4, NULL, NULL);
    return status == LW_OK ? dispatch(NULL, shape, 5, NULL, NULL) : status;
}

lw_status_t lwk_cuda_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (step->out.data == NULL && step->out_fp32 == NULL)
        return LW_ERR_INVALID;
    return dispatch(dev, &step->shape, step->query_tokens * step->shape.group, step, (cudaStream_t)stream);
}
