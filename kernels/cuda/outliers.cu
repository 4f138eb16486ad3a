/* outliers.cu - gives the tokens farthest from their centroid entries of their own, then sums up the clusters
 * that remain. What it computes is kernels/ref/outliers.c, with the same sums in double and in token order.
 *
 * Three launches: distances (a warp for each cluster), the choice (a block for each job), record order and
 * means (a warp for each cluster). Bytes: keys three times, the later ones of a cluster from cache, values
 * once. */
#include "kernels/cuda/build.cuh"
#include "kernels/cuda/build_work.h"

typedef struct outliers_work {
    uint64_t *key;    /* [job][n] bits of the squared distance, which order as it does; 0: stays a member */
    uint8_t *flagged; /* [job][n] outliers */
} outliers_work_t;

static uint64_t carve(outliers_work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t tokens = (uint64_t)args->job_count * args->token_count;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->key = (uint64_t *)lwk_carve_take(&at, tokens * sizeof(uint64_t));
    work->flagged = (uint8_t *)lwk_carve_take(&at, tokens);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cuda_outliers_bytes(const lwk_build_t *args)
{
    outliers_work_t work;
    return carve(&work, args, NULL);
}

LWK_DEVICE uint64_t double_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* |row - mean|^2, the same in every lane. */
template <int CHUNKS>
LWK_DEVICE double distance_to(const void *rows, uint32_t dtype, size_t at, uint32_t d,
                              const float2 mean[CHUNKS])
{
    float2 x[CHUNKS];
    double sum = 0;
    build_load_row<CHUNKS>(rows, dtype, at, d, x);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        double a = (double)x[k].x - mean[k].x, b = (double)x[k].y - mean[k].y;
        sum += a * a + b * b;
    }
    return build_warp_sum(sum);
}

/* Grid (8 clusters of the capacity, jobs). The member nearest its centroid is kept: its key is 0. */
template <int CHUNKS>
LWK_KERNEL(256, 2)
void distance_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(outliers_work_t) work)
{
    LWK_SHARED(members_t, m);
    const uint32_t job = blockIdx.y, first = blockIdx.x * MEMBERS_CLUSTERS, warp = build_warp();
    const uint32_t n = args.token_count, d = args.head_dim;
    if (first >= args.cluster_count[job])
        return;
    members_collect(m, args.assign + (size_t)job * n, NULL, n, first);
    const uint16_t *token = m->token + m->start[warp];
    const uint32_t count = m->count[warp];
    uint64_t *key = work.key + (size_t)job * n;
    float2 mean[CHUNKS];
    if (count == 0)
        return;
    build_load_row<CHUNKS>(args.centroids, LW_DTYPE_FP32,
                           ((size_t)job * args.cluster_capacity + first + warp) * d, d, mean);
    double nearest = 0;
    uint32_t keeper = 0;
    for (uint32_t i = 0; i < count; i++) {
        double distance =
            distance_to<CHUNKS>(args.keys, args.dtype, lwk_build_row(&args, job, token[i]), d, mean);
        if (i == 0 || distance < nearest) {
            nearest = distance;
            keeper = i;
        }
        if (build_lane() == 0)
            key[token[i]] = double_bits(distance);
    }
    if (build_lane() == 0)
        key[token[keeper]] = 0;
}

/* ---- the choice ---- */

#define CHOOSE_THREADS 1024u
#define CHOOSE_EACH (LW_SEGMENT_TOKENS_MAX / CHOOSE_THREADS) /* consecutive tokens of one thread */

typedef struct choose_shape {
    uint32_t histogram[256];
    uint32_t warp_sum[CHOOSE_THREADS / 32];
    uint32_t digit, left; /* digit of the last one chosen; how many with that digit are */
    uint32_t candidates;
} choose_shape_t;

/* Where, counted from the largest digit, `left` keys are reached. Warp 0. */
LWK_DEVICE void choose_digit(choose_shape_t *s, uint32_t left)
{
    const uint32_t lane = build_lane();
    uint32_t sum = 0, before;
    for (uint32_t i = 0; i < 8; i++)
        sum += s->histogram[255 - (8 * lane + i)];
    before = sum;
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = __shfl_up_sync(LWK_WARP_ALL, before, step);
        before += lane >= step ? other : 0;
    }
    before -= sum;
    if (before < left && left <= before + sum) {
        uint32_t i = 0;
        while (before + s->histogram[255 - (8 * lane + i)] < left)
            before += s->histogram[255 - (8 * lane + i++)];
        s->digit = 255 - (8 * lane + i);
        s->left = left - before;
    }
}

/* Grid (jobs). Flags the `most` largest keys, ties by the lower token: a radix selection by integer counts,
 * eight bits a pass. */
LWK_KERNEL(1024, 1)
void choose_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(outliers_work_t) work, uint32_t most)
{
    LWK_SHARED(choose_shape_t, s);
    const uint32_t job = blockIdx.x, n = args.token_count, first = threadIdx.x * CHOOSE_EACH;
    uint64_t key[CHOOSE_EACH], edge = 0;
    uint32_t candidates = 0;
    if (threadIdx.x == 0)
        s->candidates = 0;
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < CHOOSE_EACH; i++) {
        key[i] = first + i < n ? work.key[(size_t)job * n + first + i] : 0;
        candidates += key[i] != 0;
    }
    if (candidates > 0)
        atomicAdd(&s->candidates, candidates);
    __syncthreads();
    uint32_t count = min(s->candidates, most), left = count;
    for (int shift = 56; shift >= 0 && count > 0; shift -= 8) {
        for (uint32_t b = threadIdx.x; b < 256; b += CHOOSE_THREADS)
            s->histogram[b] = 0;
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < CHOOSE_EACH; i++)
            if (key[i] != 0 && (shift == 56 || key[i] >> (shift + 8) == edge))
                atomicAdd(&s->histogram[key[i] >> shift & 255], 1u);
        __syncthreads();
        if (build_warp() == 0)
            choose_digit(s, left);
        __syncthreads();
        edge = edge << 8 | s->digit;
        left = s->left;
    }

    /* Of those at the edge, the first `left`. */
    uint32_t ties = 0, before;
#pragma unroll
    for (uint32_t i = 0; i < CHOOSE_EACH; i++)
        ties += count > 0 && key[i] == edge;
    before = ties;
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = __shfl_up_sync(LWK_WARP_ALL, before, step);
        before += build_lane() >= step ? other : 0;
    }
    if (build_lane() == 31)
        s->warp_sum[build_warp()] = before;
    __syncthreads();
    before -= ties;
    for (uint32_t w = 0; w < build_warp(); w++)
        before += s->warp_sum[w];
#pragma unroll
    for (uint32_t i = 0; i < CHOOSE_EACH; i++) {
        bool tie = count > 0 && key[i] == edge;
        if (first + i < n)
            work.flagged[(size_t)job * n + first + i] =
                count > 0 && (key[i] > edge || (tie && before < left));
        before += tie;
    }
    if (threadIdx.x == 0)
        args.outlier_count[job] = count;
}

/* ---- record order and means ---- */

typedef struct order_shape {
    members_t members;
    uint32_t kept[MEMBERS_CLUSTERS], flagged[MEMBERS_CLUSTERS];
} order_shape_t;

/* Writes the cluster's part of order, sizes and parents. Returns its members without outliers. */
LWK_DEVICE uint32_t write_order(const lwk_build_t *args, order_shape_t *s, const uint8_t *flagged,
                                uint32_t job, uint32_t first)
{
    const uint32_t warp = build_warp(), lane = build_lane(), n = args->token_count,
                   count = s->members.count[warp];
    const uint16_t *token = s->members.token + s->members.start[warp];
    uint32_t kept = 0;
    for (uint32_t i = lane; i < count; i += 32)
        kept += flagged[token[i]] == 0;
    kept = __reduce_add_sync(LWK_WARP_ALL, kept);
    if (lane == 0) {
        s->kept[warp] = kept;
        s->flagged[warp] = count - kept;
    }
    __syncthreads();
    uint32_t at = s->members.below[0], outlier = s->members.below[1];
    for (uint32_t w = 0; w < warp; w++) {
        at += s->kept[w];
        outlier += s->flagged[w];
    }
    uint32_t *order = args->order + (size_t)job * n;
    uint16_t *parents = args->parents + (size_t)job * args->outlier_capacity;
    const uint32_t outliers_first = n - args->outlier_count[job], below = (1u << lane) - 1;
    for (uint32_t i = lane; i < (count + 31) / 32 * 32; i += 32) {
        bool is = i < count && flagged[token[i]] != 0, stays = i < count && !is;
        uint32_t is_mask = __ballot_sync(LWK_WARP_ALL, is), stays_mask = __ballot_sync(LWK_WARP_ALL, stays);
        if (stays)
            order[at + __popc(stays_mask & below)] = token[i];
        if (is) {
            order[outliers_first + outlier + __popc(is_mask & below)] = token[i];
            parents[outlier + __popc(is_mask & below)] = (uint16_t)(first + warp);
        }
        at += __popc(stays_mask);
        outlier += __popc(is_mask);
    }
    if (lane == 0 && count > 0)
        args->sizes[(size_t)job * args->cluster_capacity + first + warp] = (uint16_t)kept;
    return kept;
}

/* The pairs of a mean, rounded to what is stored. */
template <int CHUNKS>
LWK_DEVICE void store_mean(float *to, uint32_t d, const double sum[CHUNKS][2], uint32_t count,
                           float2 mean[CHUNKS])
{
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        mean[k] = make_float2((float)(sum[k][0] / count), (float)(sum[k][1] / count));
        if (j < d)
            *(float2 *)(to + j) = mean[k];
    }
}

/* Key means and spreads of the members that stayed; value means of these and the outliers. */
template <int CHUNKS>
LWK_DEVICE void summarise(const lwk_build_t *args, const uint8_t *flagged, uint32_t job, uint32_t cluster,
                          const uint16_t *token, uint32_t count, uint32_t kept)
{
    const uint32_t d = args->head_dim;
    const size_t at = (size_t)job * args->cluster_capacity + cluster;
    double key_sum[CHUNKS][2] = {}, value_sum[CHUNKS][2] = {};
#pragma unroll 4
    for (uint32_t i = 0; i < count; i++) {
        size_t row = lwk_build_row(args, job, token[i]);
        double stays = flagged[token[i]] == 0;
        float2 key[CHUNKS], value[CHUNKS];
        build_load_row<CHUNKS>(args->keys, args->dtype, row, d, key);
        build_load_row<CHUNKS>(args->values, args->dtype, row, d, value);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            key_sum[k][0] += stays * key[k].x;
            key_sum[k][1] += stays * key[k].y;
            value_sum[k][0] += value[k].x;
            value_sum[k][1] += value[k].y;
        }
    }
    float2 key_mean[CHUNKS], value_mean[CHUNKS];
    store_mean<CHUNKS>(args->centroids + at * d, d, key_sum, kept, key_mean);
    store_mean<CHUNKS>(args->value_means + at * d, d, value_sum, count, value_mean);
    double spread = 0;
#pragma unroll 2
    for (uint32_t i = 0; i < count; i++)
        if (flagged[token[i]] == 0)
            spread +=
                distance_to<CHUNKS>(args->keys, args->dtype, lwk_build_row(args, job, token[i]), d, key_mean);
    spread /= kept;
    if (build_lane() == 0)
        args->spreads[at] = spread < 3.402823466e38 ? (float)spread : 3.402823466e38f;
}

/* Grid (8 clusters of the capacity, jobs). */
template <int CHUNKS>
LWK_KERNEL(256, 2)
void order_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(outliers_work_t) work)
{
    LWK_SHARED(order_shape_t, s);
    const uint32_t job = blockIdx.y, first = blockIdx.x * MEMBERS_CLUSTERS, warp = build_warp();
    const uint32_t n = args.token_count;
    const uint8_t *flagged = work.flagged + (size_t)job * n;
    if (first >= args.cluster_count[job])
        return;
    members_collect(&s->members, args.assign + (size_t)job * n, flagged, n, first);
    uint32_t kept = write_order(&args, s, flagged, job, first), count = s->members.count[warp];
    if (count > 0)
        summarise<CHUNKS>(&args, flagged, job, first + warp, s->members.token + s->members.start[warp], count,
                          kept);
}

/* ---- host ---- */

template <int CHUNKS>
static lw_status_t launch(const lwk_build_t *args, const outliers_work_t *work, cudaStream_t stream)
{
    const dim3 clusters((args->cluster_capacity + MEMBERS_CLUSTERS - 1) / MEMBERS_CLUSTERS, args->job_count);
    lw_status_t status = lwk_launch("outliers distance", distance_kernel<CHUNKS>, clusters, BUILD_THREADS,
                                    sizeof(members_t), stream, *args, *work);
    if (status == LW_OK)
        status = lwk_launch("outliers choose", choose_kernel, dim3(args->job_count), CHOOSE_THREADS,
                            sizeof(choose_shape_t), stream, *args, *work, lwk_build_outlier_max(args));
    if (status == LW_OK)
        status = lwk_launch("outliers order", order_kernel<CHUNKS>, clusters, BUILD_THREADS,
                            sizeof(order_shape_t), stream, *args, *work);
    return status;
}

lw_status_t lwk_cuda_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cuda_outliers_bytes(args));
    if (status != LW_OK)
        return status;
    outliers_work_t work;
    carve(&work, args, args->workspace);
    LWK_BY_CHUNKS(args->head_dim, status = launch<CHUNKS>(args, &work, (cudaStream_t)stream));
    return status;
}
