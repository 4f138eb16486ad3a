/* prepare.cu - the first launch of a layer: appends the new tokens, and of every query makes fp32 numbers, scale^2 q'Sq and
 * scale S_vk q.
 *
 * Grid: 1 + PREPARE_SHIFTS blocks for each (KV head, session): the first one makes numbers of the queries and takes all of S, the
 * others share the rows of S_vk, and two of them append K and V. Bytes: 8 head_dim^2 a KV head and layer (1 MiB for 8 heads of
 * 128: 0.35 us), so latency is all that counts: the matrices are asked for before the queries are there, all loads of a warp are
 * under way before the first is used, and blocks need nothing of each other. At layer 0 a counter tells the last one of all, which
 * counts the step's tokens: every block must have read the old counts by then. */
#include "kernels/cuda/step.cuh"

#define PREPARE_THREADS 512u
#define PREPARE_WARPS (PREPARE_THREADS / 32u)
#define PREPARE_SHIFTS 4u
#define PREPARE_ROWS 8u /* rows of a matrix that a warp handles at a time */

typedef struct prepare_shared {
    uint32_t last;
    float spread[PREPARE_WARPS][LW_QUERY_TOKENS_MAX * LW_GROUP_MAX];
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
    for (uint32_t i = threadIdx.x; i < step->query_tokens * d; i += PREPARE_THREADS) {
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
    for (uint32_t i = threadIdx.x; i < count * d; i += PREPARE_THREADS) {
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

/* This lane's part of row . query. */
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
    return sum;
}

/* Rows base, base + PREPARE_WARPS and so on below `end`. */
LWK_DEVICE void load_rows(matrix_row_t rows[PREPARE_ROWS], const float *matrix, uint32_t base, uint32_t end, uint32_t d)
{
#pragma unroll
    for (uint32_t k = 0; k < PREPARE_ROWS; k++) {
        uint32_t row = base + k * PREPARE_WARPS;
        rows[k] = load_row(matrix, row, d, row < end);
    }
}

/* Numbers of the queries, and scale^2 q'Sq; 0 when not `wanted`. The block calls. */
LWK_DEVICE void make_spread(const lwk_step_t *step, prepare_shared_t *sh, const float *covariance, bool wanted, uint32_t s,
                            uint32_t head)
{
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    matrix_row_t rows[PREPARE_ROWS];
    load_rows(rows, covariance, lwk_warp(), d, d); /* under way while the queries come */
    load_queries(step, sh, s, head, true);
    for (uint32_t q = lwk_lane(); q < count; q += 32)
        sh->spread[lwk_warp()][q] = 0.0f;
    __syncthreads();
    for (uint32_t base = lwk_warp(); base < d; base += PREPARE_WARPS * PREPARE_ROWS) {
        if (base >= PREPARE_WARPS)
            load_rows(rows, covariance, base, d, d);
#pragma unroll 1 /* code that is new to a processor costs more than the loop */
        for (uint32_t q = 0; q < count; q++) {
            const float *query = sh->query + q * d;
            float sum = 0.0f;
#pragma unroll
            for (uint32_t k = 0; k < PREPARE_ROWS; k++) {
                uint32_t row = base + k * PREPARE_WARPS;
                sum = fmaf(query[min(row, d - 1)], row_dot(&rows[k], query, d), sum); /* rows beyond the last are zero */
            }
            sum = lwk_warp_sum(sum);
            if (lwk_lane() == 0)
                sh->spread[lwk_warp()][q] += sum;
        }
    }
    __syncthreads();
    for (uint32_t q = lwk_warp(); q < count; q += PREPARE_WARPS) {
        float sum = lwk_warp_sum(lwk_lane() < PREPARE_WARPS ? sh->spread[lwk_lane()][q] : 0.0f);
        if (lwk_lane() == 0) /* rounding can make a tiny q'Sq negative */
            step->scratch.spread[lwk_group_row(step, s, head, q)] =
                wanted ? fmaxf(0.0f, step->shape.scale * step->shape.scale * sum) : 0.0f;
    }
}

/* Elements first .. end - 1 of scale S_vk q of all queries; 0 when not `wanted`. The block calls. */
LWK_DEVICE void make_shift(const lwk_step_t *step, prepare_shared_t *sh, const float *cross, bool wanted, uint32_t s,
                           uint32_t head, uint32_t first, uint32_t end)
{
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    const uint32_t EACH = 4;
    matrix_row_t rows[EACH];
#pragma unroll
    for (uint32_t k = 0; k < EACH; k++)
        rows[k] = load_row(cross, first + lwk_warp() + k * PREPARE_WARPS, d, first + lwk_warp() + k * PREPARE_WARPS < end);
    load_queries(step, sh, s, head, false);
    __syncthreads();
    for (uint32_t base = first + lwk_warp(); base < end; base += PREPARE_WARPS * EACH) {
        if (base >= first + PREPARE_WARPS)
#pragma unroll
            for (uint32_t k = 0; k < EACH; k++)
                rows[k] = load_row(cross, base + k * PREPARE_WARPS, d, base + k * PREPARE_WARPS < end);
#pragma unroll 1 /* code that is new to a processor costs more than the loop */
        for (uint32_t q = 0; q < count; q++) {
            float *to = step->scratch.shift + lwk_group_row(step, s, head, q) * d;
#pragma unroll
            for (uint32_t k = 0; k < EACH; k++) {
                float shift = lwk_warp_sum(row_dot(&rows[k], sh->query + q * d, d));
                if (lwk_lane() == 0 && base + k * PREPARE_WARPS < end)
                    to[base + k * PREPARE_WARPS] = wanted ? step->shape.scale * shift : 0.0f;
            }
        }
    }
}

/* Every block has appended by now. */
LWK_DEVICE void count_step(const lwk_step_t *step)
{
    for (uint32_t s = threadIdx.x; s < step->session_count; s += PREPARE_THREADS) {
        lwk_session_t *session = lwk_step_session(step, s);
        if (session != NULL) {
            session->token_count += step->query_tokens;
            session->error = 0;
        }
    }
    if (threadIdx.x == 0)
        step->store->step++;
}

/* Whether a block's product is asked for, and its matrix known. */
LWK_DEVICE bool is_wanted(const lwk_session_t *session, const uint8_t *moments, uint32_t part)
{
    bool known = ((const lwk_moments_header_t *)moments)->token_count > 0;
    bool used = part == 0 ? lwk_policy_uses_spread(&session->policy) : lwk_policy_uses_shift(&session->policy);
    return known && used;
}

LWK_KERNEL(PREPARE_THREADS, 1)
void prepare_kernel(LWK_ARGS(lwk_step_t) step, lwk_dev_counters_t *counters)
{
    LWK_SHARED(prepare_shared_t, sh);
    const lwk_shape_t *shape = &step.shape;
    uint32_t part = blockIdx.x, head = blockIdx.y, s = blockIdx.z, d = shape->head_dim;
    bool prefetch = (step.flags & LWK_STEP_PREFETCH) != 0, counts = step.layer == 0 && !prefetch;
    lwk_session_t *session = lwk_step_session(&step, s);
    /* Block 0: S, rows 0 .. d - 1; the others: so many rows of S_vk. */
    uint32_t rows = (d + PREPARE_SHIFTS - 1) / PREPARE_SHIFTS;
    uint32_t first = part == 0 ? 0 : min(d, (part - 1) * rows), end = part == 0 ? d : min(d, part * rows);
    const uint8_t *moments = NULL;
    const float *matrix = NULL; /* S or S_vk */
    if (session != NULL) {
        moments = session->moments + ((size_t)step.layer * shape->kv_head_count + head) * lwk_moments_bytes(d);
        matrix = (const float *)(moments + sizeof(lwk_moments_header_t)) + (part == 0 ? 0 : (size_t)d * d);
        if (threadIdx.x == 0 && first < end)
            lwk_prefetch(matrix + (size_t)first * d, (uint32_t)((end - first) * d * sizeof(float)));
    }
    /* Behind the first layer nothing changes them any more. */
    bool wanted = session != NULL && step.layer > 0 && is_wanted(session, moments, part);
    lwk_wait_before();
    lwk_let_next();
    if (session != NULL) {
        uint32_t first_new = session->token_count - (counts ? 0 : step.query_tokens);
        if (step.layer == 0)
            wanted = is_wanted(session, moments, part);
        if (!prefetch && part >= 1 && part <= 2)
            append(&step, session, s, head, first_new, part == 2);
        if (part == 0)
            make_spread(&step, sh, matrix, wanted, s, head);
        else
            make_shift(&step, sh, matrix, wanted, s, head, first, end);
    }
    if (counts && lwk_last_block(&sh->last, &counters->prepare_all, gridDim.x * gridDim.y * gridDim.z))
        count_step(&step);
}

lw_status_t lwk_cuda_prepare_load(const lwk_shape_t *shape)
{
    return lwk_kernel_load(prepare_kernel, PREPARE_THREADS,
                           shape != NULL ? prepare_bytes(shape, LW_QUERY_TOKENS_MAX) : 0);
}

uint64_t lwk_cuda_prepare_bytes(const lwk_shape_t *shape, uint32_t session_count, uint32_t query_tokens)
{
    (void)shape, (void)session_count, (void)query_tokens;
    return 0; /* its blocks need nothing of each other */
}

lw_status_t lwk_cuda_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (!(step->flags & LWK_STEP_PREFETCH) && (step->key.data == NULL || step->value.data == NULL))
        return LW_ERR_INVALID;
    return lwk_launch_early("prepare", prepare_kernel,
                            dim3(1 + PREPARE_SHIFTS, step->shape.kv_head_count, step->session_count), PREPARE_THREADS,
                            prepare_bytes(&step->shape, step->query_tokens), (cudaStream_t)stream, 0, *step, dev->counters);
}
