/* attend.cu - the fourth launch of a layer: what needs no fetch. The estimate of every part of a tile, and cached items in place in
 * their pages, each into a partial slot of its own.
 *
 * Grid: `hit_blocks` blocks for each (session, KV head), which share its item tiles, and behind them persistent blocks over
 * the list of (session, range, KV head, part). 16-bit rows of head_dim 64, 128 or 256 go through the matrix units (exact.cuh,
 * estimate.cuh) in small blocks; the others, which are for tests, take the plain way. Bytes: the value half of the index, logits
 * once, pages of the hits. Floor at 1M tokens of Llama-3-8B, 32 query heads: 68 MB of values and 25 MB of logits a
 * layer, 31 us at 3.03 TB/s, and 45 us of pages at 3.2% retrieved; at 128K 3.8 us and 5.7 us. */
#include "kernels/cuda/estimate.cuh"
#include "kernels/cuda/items.cuh"

#define ATTEND_THREADS 160u
#define ATTEND_WARPS (ATTEND_THREADS / 32u)
#define ATTEND_BLOCKS 3u /* of a processor */
#define ATTEND_WAVES 3u  /* as many of all processors' blocks for hits, at most, and for parts */

template <typename ITEMS, typename ESTIMATE> struct attend_block {
    step_items_t parts;
    union {
        ITEMS items;
        ESTIMATE estimate;
    };
};

/* Item tiles number `first`, `first` + `stride` and so on of one (session, KV head). */
template <typename ITEMS>
LWK_DEVICE void attend_hits(ITEMS *sh, const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t first, uint32_t stride)
{
    const lwk_session_t *session = lwk_step_session(step, s);
    if (session == NULL)
        return;
    size_t kv_row = lwk_kv_row(step, s, head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row], each = lwk_item_tile(count);
    for (uint32_t tile = first; tile * each < count; tile += stride) {
        uint32_t begin = tile * each;
        __syncthreads();
        if (lwk_warp() == 0)
            lwk_items_cached(&sh->list, step, session, head, items + begin, min(count - begin, each));
        __syncthreads();
        lwk_items_attend(sh, step, s, head, lwk_slot_hits(&step->scratch, tile), (float)sh->list.pending);
    }
}

/* Parts of the batch's sessions, counted through. Ends with a barrier. */
LWK_DEVICE void attend_list(step_items_t *parts, const lwk_step_t *step)
{
    if (threadIdx.x < step->session_count) {
        const lwk_session_t *session = lwk_step_session(step, threadIdx.x);
        parts->first[threadIdx.x] = session != NULL ? step->shape.kv_head_count * session->range_count *
                                                          lwk_session_parts(&step->shape, session)
                                                    : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        lwk_items_sum(parts, step->session_count);
    __syncthreads();
}

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void attend_parts(step_items_t *list, estimate_shared<D, QC, THREADS> *sh, const lwk_step_t *step, uint32_t first,
                             uint32_t stride)
{
    uint32_t heads = step->shape.kv_head_count;
    attend_list(list, step);
    uint32_t total = list->first[step->session_count];
    for (uint32_t item = first; item < total; item += stride) {
        uint32_t s = lwk_items_session(list, step->session_count, item), number = item - list->first[s];
        const lwk_session_t *session = lwk_step_session(step, s);
        uint32_t parts = lwk_session_parts(&step->shape, session);
        lwk_estimate_part<D, QC, THREADS>(sh, step, session, s, number / parts % heads, number / parts / heads, number % parts,
                                          parts);
    }
}

template <uint32_t D, uint32_t DTYPE, uint32_t QC>
LWK_KERNEL(ATTEND_THREADS, ATTEND_BLOCKS)
void attend_exact_kernel(LWK_ARGS(lwk_step_t) step, uint32_t hit_blocks)
{
    typedef attend_block<items_exact<D, DTYPE, ATTEND_WARPS>, estimate_shared<D, QC, ATTEND_THREADS>> block_t;
    LWK_SHARED(block_t, sh);
    uint32_t heads = step.shape.kv_head_count, hits = step.session_count * heads * hit_blocks, pair = blockIdx.x / hit_blocks;
    if (blockIdx.x < hits)
        attend_hits(&sh->items, &step, pair / heads, pair % heads, blockIdx.x % hit_blocks, hit_blocks);
    else
        attend_parts<D, QC, ATTEND_THREADS>(&sh->parts, &sh->estimate, &step, blockIdx.x - hits, gridDim.x - hits);
}

template <uint32_t KIND, uint32_t LANES>
LWK_KERNEL(STEP_THREADS, 1)
void attend_plain_kernel(LWK_ARGS(lwk_step_t) step, uint32_t hit_blocks)
{
    typedef attend_block<items_shared<KIND, LANES, 4>, estimate_shared<0, 4, STEP_THREADS>> block_t;
    LWK_SHARED(block_t, sh);
    uint32_t heads = step.shape.kv_head_count, hits = step.session_count * heads * hit_blocks, pair = blockIdx.x / hit_blocks;
    if (blockIdx.x < hits)
        attend_hits(&sh->items, &step, pair / heads, pair % heads, blockIdx.x % hit_blocks, hit_blocks);
    else
        attend_parts<0, 4, STEP_THREADS>(&sh->parts, &sh->estimate, &step, blockIdx.x - hits, gridDim.x - hits);
}

/* ---- host ---- */

/* Blocks for each of `count` lists of at most `most` pieces, `fill` together. */
static uint32_t blocks_share(uint32_t fill, uint32_t count, uint32_t most)
{
    uint32_t each = fill / (count > 0 ? count : 1);
    each = each < 1 ? 1 : each;
    return each < most ? each : most;
}

typedef void (*attend_kernel_t)(lwk_step_t step, uint32_t hit_blocks);

static lw_status_t launch(const lwk_dev_t *dev, attend_kernel_t kernel, unsigned threads, uint32_t blocks_each, size_t shared,
                          const lwk_step_t *step, cudaStream_t stream)
{
    if (step == NULL)
        return lwk_kernel_load(kernel, threads, shared);
    /* A block a tile and a part, unless there are so many that blocks had better take several. */
    uint32_t pairs = step->session_count * step->shape.kv_head_count, fill = ATTEND_WAVES * blocks_each * dev->processors;
    uint32_t hit_blocks = blocks_share(fill, pairs, lwk_item_slots(step->scratch.item_capacity));
    uint32_t parts = blocks_share(fill, 1, pairs * step->scratch.part_capacity);
    return lwk_launch("attend", kernel, dim3(pairs * hit_blocks + parts), threads, shared, stream, *step, hit_blocks);
}

template <uint32_t D, uint32_t DTYPE>
static lw_status_t run_exact(const lwk_dev_t *dev, uint32_t queries, const lwk_step_t *step, cudaStream_t stream)
{
    typedef items_exact<D, DTYPE, ATTEND_WARPS> items_t;
    typedef attend_block<items_t, estimate_shared<D, 4, ATTEND_THREADS>> few_t;
    typedef attend_block<items_t, estimate_shared<D, 8, ATTEND_THREADS>> many_t;
    return queries <= 4 ? launch(dev, attend_exact_kernel<D, DTYPE, 4>, ATTEND_THREADS, ATTEND_BLOCKS, sizeof(few_t), step, stream)
                        : launch(dev, attend_exact_kernel<D, DTYPE, 8>, ATTEND_THREADS, ATTEND_BLOCKS, sizeof(many_t), step, stream);
}

template <uint32_t KIND, uint32_t LANES, uint32_t>
static lw_status_t run_plain(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    typedef attend_block<items_shared<KIND, LANES, 4>, estimate_shared<0, 4, STEP_THREADS>> block_t;
    return launch(dev, attend_plain_kernel<KIND, LANES>, STEP_THREADS, 1, sizeof(block_t), step, stream);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                            cudaStream_t stream)
{
    if (lwk_exact_serves(shape))
        LWK_EXACT_DISPATCH(shape, run_exact, dev, queries, step, stream);
    LWK_STEP_DISPATCH(shape, 4, run_plain, dev, step, stream);
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
