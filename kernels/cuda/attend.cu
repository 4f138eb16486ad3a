/* attend.cu - the fourth launch of a layer: what needs no fetch. The estimate of every tile, and cached items in place in
 * their pages, each into a partial slot of its own.
 *
 * Grid: `hit_blocks` blocks for each (session, KV head), which share its item tiles, and behind them persistent blocks over
 * the list of (session, range, KV head). Bytes: the value half of the index (not of clusters that nothing weighs on), logits
 * once or twice, pages of the hits. Floor at 1M tokens of Llama-3-8B, 32 query heads: 68 MB of values and 25 MB of logits a
 * layer, 31 us at 3.03 TB/s, and 45 us of pages at 3.2% retrieved; at 128K 3.8 us and 5.7 us. */
#include "kernels/cuda/estimate.cuh"
#include "kernels/cuda/items.cuh"

template <uint32_t KIND, uint32_t LANES, uint32_t QC> union attend_work {
    items_shared<KIND, LANES, QC> items;
    estimate_shared<LANES, QC> estimate;
};

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct attend_block {
    step_items_t ranges;
    attend_work<KIND, LANES, QC> work;
};

/* Item tiles number `first`, `first` + `stride` and so on of one (session, KV head). */
template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void attend_hits(items_shared<KIND, LANES, QC> *sh, const lwk_step_t *step, uint32_t s, uint32_t head,
                            uint32_t first, uint32_t stride)
{
    const lwk_session_t *session = lwk_step_session(step, s);
    if (session == NULL)
        return;
    size_t kv_row = lwk_kv_row(step, s, head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row];
    for (uint32_t tile = first; tile * LWK_ITEM_TILE < count; tile += stride) {
        uint32_t begin = tile * LWK_ITEM_TILE;
        __syncthreads();
        if (lwk_warp() == 0)
            lwk_items_cached(&sh->list, step, session, head, items + begin, min(count - begin, LWK_ITEM_TILE));
        __syncthreads();
        lwk_items_attend<KIND, LANES, QC>(sh, step, s, head, lwk_slot_hits(&step->scratch, tile));
    }
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_KERNEL(STEP_THREADS, 2)
void attend_kernel(LWK_ARGS(lwk_step_t) step, uint32_t hit_blocks)
{
    typedef attend_block<KIND, LANES, QC> block_t;
    LWK_SHARED(block_t, sh);
    uint32_t heads = step.shape.kv_head_count, hits = step.session_count * heads * hit_blocks;
    if (blockIdx.x < hits) {
        uint32_t pair = blockIdx.x / hit_blocks;
        attend_hits<KIND, LANES, QC>(&sh->work.items, &step, pair / heads, pair % heads, blockIdx.x % hit_blocks,
                                     hit_blocks);
        return;
    }
    if (threadIdx.x < step.session_count) {
        const lwk_session_t *session = lwk_step_session(&step, threadIdx.x);
        sh->ranges.first[threadIdx.x] = session != NULL ? heads * session->range_count : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        lwk_items_sum(&sh->ranges, step.session_count);
    __syncthreads();
    uint32_t total = sh->ranges.first[step.session_count];
    for (uint32_t item = blockIdx.x - hits; item < total; item += gridDim.x - hits) {
        uint32_t s = lwk_items_session(&sh->ranges, step.session_count, item);
        uint32_t number = item - sh->ranges.first[s];
        lwk_estimate_tile<LANES, QC>(&sh->work.estimate, &step, lwk_step_session(&step, s), s, number % heads,
                                     number / heads);
    }
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
static lw_status_t run(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    size_t shared = sizeof(attend_block<KIND, LANES, QC>);
    if (step == NULL)
        return lwk_kernel_load(attend_kernel<KIND, LANES, QC>, STEP_THREADS, shared);
    uint32_t pairs = step->session_count * step->shape.kv_head_count;
    uint32_t hit_blocks = lwk_blocks_each(dev, pairs, step->scratch.item_capacity / LWK_ITEM_TILE + 1);
    uint64_t most = (uint64_t)pairs * step->scratch.range_list_capacity;
    unsigned ranges = (unsigned)lw_min_u64(most, 2 * dev->processors);
    return lwk_launch("attend", attend_kernel<KIND, LANES, QC>, dim3(pairs * hit_blocks + ranges), STEP_THREADS, shared,
                      stream, *step, hit_blocks);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                            cudaStream_t stream)
{
    LWK_STEP_DISPATCH(shape, queries, run, dev, step, stream);
}

lw_status_t lwk_cuda_attend_load(const lwk_shape_t *shape)
{
    lw_status_t status = dispatch(NULL, shape, 4, NULL, NULL);
    return status == LW_OK ? dispatch(NULL, shape, 5, NULL, NULL) : status;
}

lw_status_t lwk_cuda_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (step->session_count == 0)
        return LW_OK;
    return dispatch(dev, &step->shape, step->query_tokens * step->shape.group, step, (cudaStream_t)stream);
}
