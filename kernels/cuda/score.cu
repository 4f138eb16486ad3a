/* score.cu - the second launch of a layer: the keys of every entry, once. Logits per entry and query, per part the largest R
 * and the sum of e^R; and the steady zone, exactly, which the error budget's selection needs.
 *
 * Grid: persistent blocks over the list of (session, steady tile, KV head), then (session, part of a range, KV head), as long
 * as the sessions are now. Bytes: the key half of the index, 4 a query head and entry of logits, and K and V of the steady zone.
 * Floor at 1M tokens of Llama-3-8B (65,536 clusters in int8 and 131,072 outliers in int4 for each of 8 heads, 32 query
 * heads): 139 MB of keys and 25 MB of logits a layer, 54 us at 3.03 TB/s; at 128K 6.8 us. */
#include "kernels/cuda/score.cuh"
#include "kernels/cuda/score_coded.cuh"
#include "kernels/cuda/steady.cuh"

typedef struct score_items {
    step_items_t steady, range;
} score_items_t;

template <uint32_t KIND, uint32_t LANES, uint32_t QC> union score_work {
    rows_shared<KIND, LANES, QC> rows;
    score_shared<LANES, 4> tile;
    coded_shared<LANES * LWK_ROW_PART> coded;
};

template <uint32_t KIND, uint32_t LANES, uint32_t QC> struct score_block {
    score_items_t items;
    score_work<KIND, LANES, QC> work;
};

LWK_DEVICE void list_items(const lwk_step_t *step, score_items_t *items)
{
    if (threadIdx.x < step->session_count) {
        const lwk_session_t *session = lwk_step_session(step, threadIdx.x);
        uint32_t heads = step->shape.kv_head_count;
        items->steady.first[threadIdx.x] = session != NULL ? heads * lwk_steady_tiles(session) : 0;
        items->range.first[threadIdx.x] =
            session != NULL && !session->policy.steady_only
                ? heads * session->range_count * lwk_session_parts(&step->shape, session)
                : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        lwk_items_sum(&items->steady, step->session_count);
    if (threadIdx.x == 32)
        lwk_items_sum(&items->range, step->session_count);
    __syncthreads();
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_KERNEL(STEP_THREADS, 2)
void score_kernel(LWK_ARGS(lwk_step_t) step)
{
    typedef score_block<KIND, LANES, QC> block_t;
    LWK_SHARED(block_t, sh);
    list_items(&step, &sh->items);
    uint32_t heads = step.shape.kv_head_count, steady = sh->items.steady.first[step.session_count],
             total = steady + sh->items.range.first[step.session_count];
    for (uint32_t item = blockIdx.x; item < total; item += gridDim.x) {
        bool is_steady = item < steady;
        const step_items_t *items = is_steady ? &sh->items.steady : &sh->items.range;
        uint32_t number = is_steady ? item : item - steady;
        uint32_t s = lwk_items_session(items, step.session_count, number);
        number -= items->first[s];
        const lwk_session_t *session = lwk_step_session(&step, s);
        uint32_t head = number % heads, slot = number / heads;
        if (is_steady) {
            lwk_steady_tile<KIND, LANES, QC>(&sh->work.rows, &step, session, s, head, slot);
            continue;
        }
        uint32_t parts = lwk_session_parts(&step.shape, session);
        tile_view_t tile = lwk_tile_open(&step, session, slot / parts, head);
        lwk_part_t span = lwk_part(tile.clusters, tile.entries - tile.clusters, tile.outlier_eighths, slot % parts, parts);
        if (coded_serves(&tile, step.shape.head_dim, LANES))
            coded_tile<LANES * LWK_ROW_PART>(&sh->work.coded, &step, session, &tile, &span, s, head, slot);
        else
            score_tile<LANES, 4>(&sh->work.tile, &step, session, &tile, &span, s, head, slot);
    }
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
static lw_status_t run(const lwk_dev_t *dev, const lwk_step_t *step, cudaStream_t stream)
{
    size_t shared = sizeof(score_block<KIND, LANES, QC>);
    if (step == NULL)
        return lwk_kernel_load(score_kernel<KIND, LANES, QC>, STEP_THREADS, shared);
    uint64_t most = (uint64_t)step->session_count * step->shape.kv_head_count *
                    (step->scratch.part_capacity + lwk_slot_hits(&step->scratch, 0) -
                     lwk_slot_steady(&step->scratch, 0));
    unsigned blocks = (unsigned)lw_min_u64(most, 2 * dev->processors);
    return lwk_launch("score", score_kernel<KIND, LANES, QC>, dim3(blocks), STEP_THREADS, shared, stream, *step);
}

static lw_status_t dispatch(const lwk_dev_t *dev, const lwk_shape_t *shape, uint32_t queries, const lwk_step_t *step,
                            cudaStream_t stream)
{
    LWK_STEP_DISPATCH(shape, queries, run, dev, step, stream);
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
