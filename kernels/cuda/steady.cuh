/* steady.cuh - one tile of LWK_STEADY_TILE steady tokens: exact attention of all queries of a head. Needs no selection, so
 * it is part of the score launch. */
#ifndef LWK_CUDA_STEADY_CUH
#define LWK_CUDA_STEADY_CUH

#include "kernels/cuda/exact.cuh"
#include "kernels/cuda/rows.cuh"

LWK_DEVICE uint32_t lwk_steady_tiles(const lwk_session_t *session)
{
    return (lwk_steady_count(session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
}

/* Steady tokens of one head from number `first` on. */
typedef struct steady_source {
    const lwk_step_t *step;
    const lwk_session_t *session;
    uint32_t head, first;
} steady_source_t;

LWK_DEVICE exact_row_t exact_row_at(const steady_source_t *source, uint32_t row)
{
    const lwk_session_t *session = source->session;
    const lwk_shape_t *shape = &source->step->shape;
    uint32_t position = lwk_steady_position(session, source->first + row);
    bool sink = position < LW_SINK_TOKENS;
    size_t at = lwk_steady_at(session, shape, source->step->layer, source->head, position) * lwk_dtype_bytes(shape->dtype);
    exact_row_t r = {(const uint8_t *)(sink ? session->sink_keys : session->steady_keys) + at,
                     (const uint8_t *)(sink ? session->sink_values : session->steady_values) + at, 0};
    for (uint32_t t = 0; t < source->step->query_tokens; t++)
        r.visible |= lwk_visible(source->step, session, t, position) ? 1u << t : 0u;
    return r;
}

/* The tile on the matrix units. */
template <uint32_t D, uint32_t DTYPE, uint32_t WARPS>
LWK_DEVICE void lwk_steady_exact(exact_shared<D, WARPS> *sh, const lwk_step_t *step, const lwk_session_t *session,
                                 uint32_t s, uint32_t head, uint32_t tile)
{
    steady_source_t source = {step, session, head, tile * LWK_STEADY_TILE};
    uint32_t rows = min(lwk_steady_count(session) - source.first, LWK_STEADY_TILE);
    for (uint32_t first = 0; first < lwk_query_count(step); first += EXACT_QUERIES) {
        exact_sum<D> sum;
        exact_begin<D, DTYPE, WARPS>(sh, &sum, step, s, head, first);
        exact_rows<D, DTYPE, WARPS>(sh, &sum, &step->shape, &source, rows, exact_bit(step, first));
        exact_end<D, WARPS>(sh, &sum, step, s, head, first, lwk_slot_steady(&step->scratch, tile), 0.0f);
    }
}

template <uint32_t KIND, uint32_t LANES, uint32_t QC>
LWK_DEVICE void lwk_steady_tile(rows_shared<KIND, LANES, QC> *sh, const lwk_step_t *step, const lwk_session_t *session,
                                uint32_t s, uint32_t head, uint32_t tile)
{
    const uint32_t ROWS = rows_config<KIND, LANES, QC>::ROWS;
    const lwk_shape_t *shape = &step->shape;
    uint32_t total = lwk_steady_count(session), end = min(total, (tile + 1) * LWK_STEADY_TILE);
    uint32_t element = lwk_dtype_bytes(shape->dtype);
    for (uint32_t first = 0; first < lwk_query_count(step); first += QC) {
        rows_sum<QC> sum;
        lwk_rows_begin<KIND, LANES, QC>(sh, &sum, step, s, head, first);
        for (uint32_t base = tile * LWK_STEADY_TILE; base < end; base += ROWS) {
            for (uint32_t r = threadIdx.x; r < ROWS; r += STEP_THREADS) {
                sh->key[r] = sh->value[r] = NULL;
                if (base + r >= end)
                    continue;
                uint32_t position = lwk_steady_position(session, base + r), visible = 0;
                bool sink = position < LW_SINK_TOKENS;
                size_t at = lwk_steady_at(session, shape, step->layer, head, position) * element;
                sh->key[r] = (const uint8_t *)(sink ? session->sink_keys : session->steady_keys) + at;
                sh->value[r] = (const uint8_t *)(sink ? session->sink_values : session->steady_values) + at;
                for (uint32_t t = 0; t < step->query_tokens; t++)
                    visible |= lwk_visible(step, session, t, position) ? 1u << t : 0u;
                sh->visible[r] = visible;
            }
            __syncthreads();
            lwk_rows_pass<KIND, LANES, QC>(sh, &sum, shape);
        }
        lwk_rows_end<KIND, LANES, QC>(sh, &sum, step, s, head, first, lwk_slot_steady(&step->scratch, tile), 0.0f);
    }
}

#endif /* LWK_CUDA_STEADY_CUH */
