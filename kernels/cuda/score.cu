/* score.cu - the second launch of a layer: the keys of every entry, once. Logits per entry and query, per part the largest R
 * and the sum of e^R; and the steady zone, exactly, which the error budget's selection needs.
 *
 * Grid: persistent blocks over the list of (session, part of a range, KV head), then (session, steady tile, KV head), as long
 * as the sessions are now. A block opens its first part, and asks for the keys, before the queries are there: it starts while
 * prepare runs. Bytes: the key half of the index, 4 a query head and entry of logits, and K and V of the steady zone.
 * Floor at 1M tokens of Llama-3-8B (65,536 clusters in int8 and 131,072 outliers in int4 for each of 8 heads, 32 query
 * heads): 139 MB of keys and 25 MB of logits a layer, 54 us at 3.03 TB/s; at 128K 6.8 us.
 *
 * Two kernels: one for 16-bit dtypes with head_dim 64, 128 or 256, which takes coded tiles and the steady zone through the matrix
 * units; one for everything else. */
#include "kernels/cuda/score.cuh"
#include "kernels/cuda/score_coded.cuh"
#include "kernels/cuda/select_work.h"
#include "kernels/cuda/steady.cuh"

/* A part at hand; thread 0 fills it in. */
typedef struct score_part {
    tile_view_t tile;
    lwk_part_t span;
    lwk_policy_t policy;
    lwk_session_t *session;
    uint32_t s, head, slot;
    bool coded;
} score_part_t;

typedef struct score_items {
    step_items_t part, steady;
    score_part_t at;
} score_items_t;

template <uint32_t D, uint32_t CHUNKS> union score_work {
    exact_shared<D, CODED_WARPS> steady;
    score_shared<D / LWK_ROW_PART, 4, CODED_THREADS> tile;
    coded_shared<D, CHUNKS> coded;
};

template <uint32_t D, uint32_t CHUNKS> struct score_block {
    score_items_t items;
    score_work<D, CHUNKS> work;
};

template <uint32_t KIND, uint32_t LANES, uint32_t QC> union score_work_any {
    rows_shared<KIND, LANES, QC> steady;
    score_shared<LANES, 4, STEP_THREADS> tile;
};

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct score_block_any {
    score_items_t items;
    score_work_any<KIND, LANES, QC> work;
};

/* What each session brings: parts, or steady tiles. The block calls; the launch before this one leaves parts alone. */
LWK_DEVICE void list_items(const lwk_step_t *step, step_items_t *items, bool steady)
{
    uint32_t heads = step->shape.kv_head_count;
    if (threadIdx.x < step->session_count) {
        const lwk_session_t *session = lwk_step_session(step, threadIdx.x);
        uint32_t each = 0;
        if (session != NULL && steady)
            each = lwk_steady_tiles(session);
        else if (session != NULL && !session->policy.steady_only)
            each = session->range_count * lwk_session_parts(&step->shape, session);
        items->first[threadIdx.x] = heads * each;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        lwk_items_sum(items, step->session_count);
    __syncthreads();
}

/* Opens part number `item` of the list and asks for its keys. The block calls. */
LWK_DEVICE void open_part(const lwk_step_t *step, score_items_t *items, uint32_t item, uint32_t lanes)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        score_part_t at; /* all loads before the first store */
        uint32_t heads = step->shape.kv_head_count;
        at.s = lwk_items_session(&items->part, step->session_count, item);
        at.head = (item - items->part.first[at.s]) % heads;
        at.slot = (item - items->part.first[at.s]) / heads;
        at.session = lwk_step_session(step, at.s);
        uint32_t parts = lwk_session_parts(&step->shape, at.session);
        at.tile = lwk_tile_open(step, at.session, at.slot / parts, at.head);
        at.span = lwk_part(at.tile.clusters, at.tile.entries - at.tile.clusters, at.tile.outlier_eighths, at.slot % parts, parts);
        at.policy = at.session->policy;
        at.coded = coded_serves(&at.tile, step->shape.head_dim, lanes);
        if (at.coded)
            coded_prefetch(&at.tile, &at.span, step->shape.head_dim);
        items->at = at;
    }
    __syncthreads();
}

/* The steady tile number `item`. */
typedef struct score_steady {
    const lwk_session_t *session;
    uint32_t s, head, tile;
} score_steady_t;

LWK_DEVICE score_steady_t find_steady(const lwk_step_t *step, const score_items_t *items, uint32_t item)
{
    uint32_t heads = step->shape.kv_head_count, s = lwk_items_session(&items->steady, step->session_count, item);
    item -= items->steady.first[s];
    score_steady_t at = {lwk_step_session(step, s), s, item % heads, item / heads};
    return at;
}

template <uint32_t D>
LWK_CALLED void score_any(score_shared<D / LWK_ROW_PART, 4, CODED_THREADS> *sh, const lwk_step_t *step, const score_part_t *at)
{
    score_tile<D / LWK_ROW_PART, 4, CODED_THREADS>(sh, step, at->session, &at->tile, &at->span, at->s, at->head, at->slot);
}

/* Reads how the ring of tickets stands for select: the host's memory is far away, and here nobody waits for it. */
LWK_DEVICE void note_tickets(const lwk_step_t *step)
{
    lwk_select_global_t *global = (lwk_select_global_t *)step->scratch.workspace;
    if (blockIdx.x + 1 < gridDim.x || threadIdx.x != 32 || global == NULL)
        return;
    const volatile uint64_t *head = step->store->ticket_head, *tail = step->store->ticket_tail;
    global->head = *head;
    global->tail = *tail;
}

/* CHUNKS: four queries each. */
template <uint32_t D, uint32_t CHUNKS, uint32_t DTYPE>
LWK_KERNEL(CODED_THREADS, D == 256 || CHUNKS == 2 ? 3 : 5)
void score_kernel(LWK_ARGS(lwk_step_t) step)
{
    typedef score_block<D, CHUNKS> block_t;
    LWK_SHARED(block_t, sh);
    const uint32_t LANES = D / LWK_ROW_PART;
    score_items_t *items = &sh->items;
    list_items(&step, &items->part, false);
    uint32_t parts = items->part.first[step.session_count], item = blockIdx.x;
    /* At layer 0 prepare counts the step's tokens meanwhile. */
    bool settled = step.layer > 0 || (step.flags & LWK_STEP_PREFETCH) != 0;
    if (settled)
        list_items(&step, &items->steady, true);
    if (item < parts)
        open_part(&step, items, item, LANES);
    lwk_wait_before();
    lwk_let_next();
    note_tickets(&step);
    if (!settled)
        list_items(&step, &items->steady, true);
    while (item < parts) {
        const score_part_t *at = &items->at;
        if (at->coded)
            coded_part<D, CHUNKS>(&sh->work.coded, &step, &at->policy, &at->tile, &at->span, at->s, at->head, at->slot);
        else
            score_any<D>(&sh->work.tile, &step, at);
        item += gridDim.x;
        if (item < parts)
            open_part(&step, items, item, LANES);
    }
    uint32_t total = parts + items->steady.first[step.session_count];
    for (; item < total; item += gridDim.x) {
        score_steady_t at = find_steady(&step, items, item - parts);
        lwk_steady_exact<D, DTYPE, CODED_WARPS>(&sh->work.steady, &step, at.session, at.s, at.head, at.tile);
    }
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_KERNEL(STEP_THREADS, 2)
void score_kernel_any(LWK_ARGS(lwk_step_t) step)
{
    typedef score_block_any<KIND, LANES, QC> block_t;
    LWK_SHARED(block_t, sh);
    score_items_t *items = &sh->items;
    lwk_wait_before();
    lwk_let_next();
    note_tickets(&step);
    list_items(&step, &items->part, false);
    list_items(&step, &items->steady, true);
    uint32_t parts = items->part.first[step.session_count], total = parts + items->steady.first[step.session_count];
    for (uint32_t item = blockIdx.x; item < total; item += gridDim.x) {
        if (item < parts) {
            open_part(&step, items, item, LANES);
            const score_part_t *at = &items->at;
            score_tile<LANES, 4, STEP_THREADS>(&sh->work.tile, &step, at->session, &at->tile, &at->span, at->s, at->head, at->slot);
        } else {
            score_steady_t at = find_steady(&step, items, item - parts);
            lwk_steady_tile<KIND, LANES, QC>(&sh->work.steady, &step, at.session, at.s, at.head, at.tile);
        }
    }
}

/* ---- host ---- */

static lw_status_t launch(const lwk_dev_t *dev, void (*kernel)(lwk_step_t), size_t shared, unsigned threads,
                          uint32_t blocks_each, const lwk_step_t *step, cudaStream_t stream)
{
    if (step == NULL)
        return lwk_kernel_load(kernel, threads, shared);
    uint64_t most = (uint64_t)step->session_count * step->shape.kv_head_count *
                    (step->scratch.part_capacity + lwk_slot_hits(&step->scratch, 0) - lwk_slot_steady(&step->scratch, 0));
    unsigned blocks = (unsigned)lw_min_u64(most, blocks_each * dev->processors);
    return lwk_launch_early("score", kernel, dim3(blocks), threads, shared, stream, 0, *step);
}

template <uint32_t D, uint32_t DTYPE>
static lw_status_t run(const lwk_dev_t *dev, uint32_t queries, const lwk_step_t *step, cudaStream_t stream)
{
    if (queries <= CODED_CHUNK)
        return launch(dev, score_kernel<D, 1, DTYPE>, sizeof(score_block<D, 1>), CODED_THREADS, D == 256 ? 3 : 5, step, stream);
    return launch(dev, score_kernel<D, 2, DTYPE>, sizeof(score_block<D, 2>), CODED_THREADS, 3, step, stream);
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
static lw_status_t run_any(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    return launch(dev, score_kernel_any<KIND, LANES, QC>, sizeof(score_block_any<KIND, LANES, QC>), STEP_THREADS, 2, step,
                  stream);
}

static lw_status_t dispatch_any(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                                cudaStream_t stream)
{
    LWK_STEP_DISPATCH(shape, queries, run_any, dev, step, stream);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                            cudaStream_t stream)
{
    if (!lwk_exact_serves(shape))
        return dispatch_any(dev, shape, queries, step, stream);
    LWK_EXACT_DISPATCH(shape, run, dev, queries, step, stream);
}

lw_status_t lwk_cuda_score_load(const lwk_shape_t *shape)
{
    lw_status_t status = dispatch(NULL, shape, 4, NULL, NULL);
    return status == LW_OK ? dispatch(NULL, shape, 5, NULL, NULL) : status;
}

lw_status_t lwk_cuda_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    return dispatch(dev, &step->shape, step->query_tokens * step->shape.group, step, (cudaStream_t)stream);
}
