/* prepare.cu - the first launch of a layer: appends the new tokens, and of every query makes fp32 numbers, scale^2 q'Sq and
 * scale S_vk q.
 *
 * Grid: PREPARE_PARTS blocks for each (KV head, session); a block reads head_dim / PREPARE_PARTS rows of S and of S_vk, for
 * all queries of the head. Bytes: 8 head_dim^2 a KV head and layer (1 MiB for 8 heads of 128: 0.35 us), so latency is all
 * that counts: all loads of a warp are under way before the first is used. Counters tell the last block of a head, which
 * adds up the parts of q'Sq, and at layer 0 the last one of all, which counts the step's tokens: every block must have read
 * the old counts by then. */
#include "kernels/cuda/step.cuh"

#define PREPARE_PARTS 4u
#define PREPARE_ROWS 8u /* rows of a matrix that a warp handles at a time */

typedef struct prepare_shared {
    uint32_t last;
    float spread[STEP_WARPS][LW_QUERY_TOKENS_MAX * LW_GROUP_MAX];
    alignas(16) float query[4]; /* [queries][head_dim] */
} prepare_shared_t;

static size_t prepare_bytes(const lwk_shape_t *shape, uint32_t query_tokens)
{
    return sizeof(prepare_shared_t) + (size_t)query_tokens * shape->group * shape->head_dim * sizeof(float);
}

/* Copies rows of one tensor into the ring; first_new is the position of query token 0. */
LWK_DEVICE void append(const lwk_step_t *step, const lwk_session_t *session, uint32_t s, uint32_t head,
                       uint32_t first_new, bool values)
{
    const lwk_shape_t *shape = &step->shape;
    const lwk_tensor_t *from = values ? &step->value : &step->key;
    uint32_t bytes = lwk_dtype_bytes(shape->dtype), d = shape->head_dim;
    for (uint32_t i = threadIdx.x; i < step->query_tokens * d; i += STEP_THREADS) {
        uint32_t t = i / d, j = i % d, position = first_new + t;
        bool sink = position < LW_SINK_TOKENS;
        uint8_t *rows = (uint8_t *)(values ? (sink ? session->sink_values : session->steady_values)
                                           : (sink ? session->sink_keys : session->steady_keys));
        size_t to = lwk_steady_at(session, shape, step->layer, head, position) + j,
               at = lwk_tensor_at(from, s, t, head) + j;
        if (bytes == 4)
            ((uint32_t *)rows)[to] = ((const uint32_t *)from->data)[at];
        else
            ((uint16_t *)rows)[to] = ((const uint16_t *)from->data)[at];
    }
}

LWK_DEVICE void load_queries(const lwk_step_t *step, prepare_shared_t *sh, uint32_t s, uint32_t head, bool write)
{
    uint32_t d = step->shape.head_dim, group = step->shape.group, count = lwk_query_count(step);
    for (uint32_t i = threadIdx.x; i < count * d; i += STEP_THREADS) {
        uint32_t q = i / d, j = i % d;
        float x = lwk_load(step->query.data, step->shape.dtype,
                           lwk_tensor_at(&step->query, s, q / group, head * group + q % group) + j);
        sh->query[i] = x;
        if (write)
            step->scratch.query[lwk_group_row(step, s, head, q) * d + j] = x;
    }
}

/* One row of a matrix: lane l has elements 4 l .. 4 l + 3, and, above 128, those 128 further. */
typedef struct matrix_row {
    float4 low, high;
} matrix_row_t;

LWK_DEVICE matrix_row_t load_row(const float *matrix, uint32_t row, uint32_t d, bool valid)
{
    matrix_row_t r = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
    const float4 *at = (const float4 *)(matrix + (size_t)row * d);
    if (valid && lwk_lane() < d / 4)
        r.low = __ldg(at + lwk_lane());
    if (valid && lwk_lane() + 32 < d / 4)
        r.high = __ldg(at + lwk_lane() + 32);
    return r;
}

LWK_DEVICE float row_dot(const matrix_row_t *row, const float *query, uint32_t d)
{
    float sum = 0;
    if (lwk_lane() < d / 4) {
        float4 q = ((const float4 *)query)[lwk_lane()];
        sum = row->low.x * q.x + row->low.y * q.y + row->low.z * q.z + row->low.w * q.w;
    }
    if (lwk_lane() + 32 < d / 4) {
        float4 q = ((const float4 *)query)[lwk_lane() + 32];
        sum += row->high.x * q.x + row->high.y * q.y + row->high.z * q.z + row->high.w * q.w;
    }
    return lwk_warp_sum(sum);
}

/* The rows of this block, of both matrices, times all queries; sh->spread gets each warp's part of q'Sq. */
LWK_DEVICE void multiply(const lwk_step_t *step, prepare_shared_t *sh, const float *covariance, const float *cross,
                         uint32_t s, uint32_t head, uint32_t first, uint32_t end)
{
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    for (uint32_t q = lwk_lane(); q < count; q += 32)
        sh->spread[lwk_warp()][q] = 0;
    __syncwarp();
    for (uint32_t base = first + lwk_warp(); base < end; base += STEP_WARPS * PREPARE_ROWS) {
        matrix_row_t a[PREPARE_ROWS], b[PREPARE_ROWS];
#pragma unroll
        for (uint32_t k = 0; k < PREPARE_ROWS; k++) {
            uint32_t row = base + k * STEP_WARPS;
            a[k] = load_row(covariance, row, d, covariance != NULL && row < end);
            b[k] = load_row(cross, row, d, cross != NULL && row < end);
        }
        for (uint32_t q = 0; q < count; q++) {
            const float *query = sh->query + q * d;
#pragma unroll
            for (uint32_t k = 0; k < PREPARE_ROWS; k++) {
                uint32_t row = base + k * STEP_WARPS;
                if (row >= end)
                    break;
                float spread = row_dot(&a[k], query, d), shift = row_dot(&b[k], query, d);
                if (lwk_lane() == 0) {
                    sh->spread[lwk_warp()][q] += query[row] * spread;
                    step->scratch.shift[lwk_group_row(step, s, head, q) * d + row] = step->shape.scale * shift;
                }
            }
        }
    }
}

/* Every block has appended by now. */
LWK_DEVICE void count_step(const lwk_step_t *step)
{
    for (uint32_t s = threadIdx.x; s < step->session_count; s += STEP_THREADS) {
        lwk_session_t *session = lwk_step_session(step, s);
        if (session != NULL) {
            session->token_count += step->query_tokens;
            session->error = 0;
        }
    }
    if (threadIdx.x == 0)
        step->store->step++;
}

/* parts: [S][J][PREPARE_PARTS][queries] of the workspace. */
LWK_KERNEL(STEP_THREADS, 1)
void prepare_kernel(LWK_ARGS(lwk_step_t) step, lwk_dev_counters_t *counters, float *parts)
{
    LWK_SHARED(prepare_shared_t, sh);
    const lwk_shape_t *shape = &step.shape;
    uint32_t part = blockIdx.x, head = blockIdx.y, s = blockIdx.z, d = shape->head_dim;
    uint32_t count = lwk_query_count(&step), number = s * shape->kv_head_count + head;
    bool prefetch = (step.flags & LWK_STEP_PREFETCH) != 0, counts = step.layer == 0 && !prefetch;
    lwk_session_t *session = lwk_step_session(&step, s);
    if (session != NULL) {
        uint32_t first_new = session->token_count - (counts ? 0 : step.query_tokens);
        if (!prefetch && part >= PREPARE_PARTS - 2)
            append(&step, session, s, head, first_new, part == PREPARE_PARTS - 1);
        load_queries(&step, sh, s, head, part == 0);

        const uint8_t *moments =
            session->moments + ((size_t)step.layer * shape->kv_head_count + head) * lwk_moments_bytes(d);
        const lwk_moments_header_t *header = (const lwk_moments_header_t *)moments;
        bool known = header->token_count > 0;
        const float *matrices = (const float *)(moments + sizeof *header);
        const float *covariance = known && lwk_policy_uses_spread(&session->policy) ? matrices : NULL;
        const float *cross = known && lwk_policy_uses_shift(&session->policy) ? matrices + (size_t)d * d : NULL;
        uint32_t rows = (d + PREPARE_PARTS - 1) / PREPARE_PARTS;
        __syncthreads();
        multiply(&step, sh, covariance, cross, s, head, part * rows, min(d, (part + 1) * rows));
        __syncthreads();
        float *mine = parts + ((size_t)number * PREPARE_PARTS + part) * count;
        for (uint32_t q = threadIdx.x; q < count; q += STEP_THREADS) {
            float sum = 0;
            for (uint32_t w = 0; w < STEP_WARPS; w++)
                sum += sh->spread[w][q];
            mine[q] = sum;
        }
        if (lwk_last_block(&sh->last, &counters->prepare[number], PREPARE_PARTS))
            for (uint32_t q = threadIdx.x; q < count; q += STEP_THREADS) {
                float sum = 0;
                for (uint32_t p = 0; p < PREPARE_PARTS; p++)
                    sum += __ldcg(parts + ((size_t)number * PREPARE_PARTS + p) * count + q);
                /* Rounding can make a tiny q'Sq negative. */
                step.scratch.spread[lwk_group_row(&step, s, head, q)] =
                    fmaxf(0.0f, shape->scale * shape->scale * sum);
            }
    }
    if (counts && lwk_last_block(&sh->last, &counters->prepare_all, gridDim.x * gridDim.y * gridDim.z))
        count_step(&step);
}

lw_status_t lwk_cuda_prepare_load(const lwk_shape_t *shape)
{
    return lwk_kernel_load(prepare_kernel, STEP_THREADS,
                           shape != NULL ? prepare_bytes(shape, LW_QUERY_TOKENS_MAX) : 0);
}

uint64_t lwk_cuda_prepare_bytes(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens)
{
    return (uint64_t)session_count * shape->kv_head_count * PREPARE_PARTS * query_tokens * shape->group * sizeof(float);
}

lw_status_t lwk_cuda_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (!(step->flags & LWK_STEP_PREFETCH) && (step->key.data == NULL || step->value.data == NULL))
        return LW_ERR_INVALID;
    uint8_t *work = lwk_cuda_step_work(step);
    if (work == NULL)
        return LW_ERR_INVALID;
    return lwk_launch("prepare", prepare_kernel,
                      dim3(PREPARE_PARTS, step->shape.kv_head_count, step->session_count), STEP_THREADS,
                      prepare_bytes(&step->shape, step->query_tokens), (cudaStream_t)stream, *step, dev->counters,
                      (float *)work);
}
