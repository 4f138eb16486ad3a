/* kmeans.cu - segmented spherical k-means of all jobs at once. What it computes is kernels/ref/kmeans.c;
 * tokens are compared in fp16 with a scale of their own, centroids are exact means.
 *
 * Launches: two for the mean and the rows, one for the seeds, then for each round `assign` (assign.cuh) and
 * `turn`, and at the end one that numbers the cuts, the cuts (split.cuh) and the centroids: 2 rounds + 5,
 * whatever the data; a job in which nothing moved skips its part of the later ones. Bytes: keys twice, 2 W n
 * of rows twice a round. */
#include "kernels/cuda/assign.cuh"
#include "kernels/cuda/build_work.h"
#include "kernels/cuda/kmeans_work.cuh"
#include "kernels/cuda/split.cuh"

/* Room for as many seeds as the capacities allow, so that one workspace serves clusters of any size. */
static uint64_t carve(kmeans_work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t jobs = args->job_count, n = args->token_count;
    uint64_t most = lw_align_up(lw_min_u64(args->cluster_capacity, n), ASSIGN_COLUMNS);
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->clusters = lwk_build_seed_count(args);
    work->clusters_padded = (uint32_t)lw_align_up(work->clusters, ASSIGN_COLUMNS);
    work->mean_tiles = (uint32_t)lw_div_up(n, KMEANS_MEAN_TILE);
    work->rounds = args->iterations > 0 ? args->iterations : 1;
    work->width = lwk_build_width(args->head_dim);
    work->mean_parts =
        (double *)lwk_carve_take(&at, jobs * work->mean_tiles * args->head_dim * sizeof(double));
    work->rows = (uint16_t *)lwk_carve_take(&at, jobs * n * work->width * sizeof(uint16_t));
    work->exponents = (int16_t *)lwk_carve_take(&at, jobs * n * sizeof(int16_t));
    work->directions = (uint16_t *)lwk_carve_take(&at, jobs * most * work->width * sizeof(uint16_t));
    work->assign = (uint16_t *)lwk_carve_take(&at, jobs * n * sizeof(uint16_t));
    work->moved = (uint32_t *)lwk_carve_take(&at, jobs * work->rounds * sizeof(uint32_t));
    work->first_piece = (uint32_t *)lwk_carve_take(&at, jobs * (most + 1) * sizeof(uint32_t));
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cuda_kmeans_bytes(const lwk_build_t *args)
{
    kmeans_work_t work;
    return carve(&work, args, NULL);
}

/* ---- the mean, and rows without it ---- */

/* Grid (tiles of KMEANS_MEAN_TILE tokens, jobs): the tile's sum of keys; each warp adds its tokens in order,
 * then warps in order. */
template <int CHUNKS>
LWK_KERNEL(256, 2)
void mean_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(kmeans_work_t) work)
{
    LWK_SHARED(double, warp_sum); /* [BUILD_WARPS][head_dim] */
    const uint32_t job = blockIdx.y, d = args.head_dim, each = KMEANS_MEAN_TILE / BUILD_WARPS;
    const uint32_t first = blockIdx.x * KMEANS_MEAN_TILE + build_warp() * each;
    double sum[CHUNKS][2] = {};
#pragma unroll 4
    for (uint32_t i = 0; i < each; i++) {
        if (first + i >= args.token_count)
            break;
        float2 x[CHUNKS];
        build_load_row<CHUNKS>(args.keys, args.dtype, lwk_build_row(&args, job, first + i), d, x);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            sum[k][0] += x[k].x;
            sum[k][1] += x[k].y;
        }
    }
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        if (j < d) {
            warp_sum[build_warp() * d + j] = sum[k][0];
            warp_sum[build_warp() * d + j + 1] = sum[k][1];
        }
    }
    if (blockIdx.x == 0)
        for (uint32_t r = threadIdx.x; r < work.rounds; r += BUILD_THREADS)
            work.moved[(size_t)job * work.rounds + r] = 0;
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < d; j += BUILD_THREADS) {
        double all = 0;
        for (uint32_t warp = 0; warp < BUILD_WARPS; warp++)
            all += warp_sum[warp * d + j];
        work.mean_parts[((size_t)job * work.mean_tiles + blockIdx.x) * d + j] = all;
    }
}

/* Grid (tiles of 64 tokens, jobs): a warp takes a token, removes the mean and writes fp16 and the power of
 * two. */
#define ROWS_TILE 64u
template <int CHUNKS>
LWK_KERNEL(256, 2)
void rows_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(kmeans_work_t) work)
{
    LWK_SHARED(double, mean); /* [64 CHUNKS] */
    const uint32_t job = blockIdx.y, d = args.head_dim, n = args.token_count, W = 64 * CHUNKS;
    for (uint32_t j = threadIdx.x; j < W; j += BUILD_THREADS) {
        double sum = 0;
        for (uint32_t tile = 0; j < d && tile < work.mean_tiles; tile++)
            sum += work.mean_parts[((size_t)job * work.mean_tiles + tile) * d + j];
        mean[j] = sum / n;
    }
    __syncthreads();
    for (uint32_t i = build_warp(); i < ROWS_TILE; i += BUILD_WARPS) {
        uint32_t token = blockIdx.x * ROWS_TILE + i;
        if (token >= n)
            break;
        float2 x[CHUNKS];
        uint32_t largest = 0;
        build_load_row<CHUNKS>(args.keys, args.dtype, lwk_build_row(&args, job, token), d, x);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            uint32_t j = 64 * k + 2 * build_lane();
            x[k].x = j < d ? (float)(x[k].x - mean[j]) : 0;
            x[k].y = j < d ? (float)(x[k].y - mean[j + 1]) : 0;
            largest = max(largest, max(__float_as_uint(fabsf(x[k].x)), __float_as_uint(fabsf(x[k].y))));
        }
        largest = __reduce_max_sync(LWK_WARP_ALL, largest); /* floats of one sign compare as integers */
        int exponent = largest == 0 ? 0 : ilogbf(__uint_as_float(largest)) + 1;
        uint32_t *to = (uint32_t *)(work.rows + ((size_t)job * n + token) * W);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++)
            to[32 * k + build_lane()] =
                lwk_pack2(ldexpf(x[k].x, -exponent), ldexpf(x[k].y, -exponent), LW_DTYPE_FP16);
        if (build_lane() == 0) {
            work.exponents[(size_t)job * n + token] = (int16_t)(largest == 0 ? KMEANS_ZERO : exponent);
            work.assign[(size_t)job * n + token] = UINT16_MAX;
        }
    }
}

/* ---- directions ---- */

/* The sum of a cluster's rows, as a direction of length 1; of zeros if it has no length. */
template <int CHUNKS>
LWK_DEVICE void set_direction(const kmeans_work_t *work, uint32_t job, uint32_t cluster,
                              const float2 sum[CHUNKS])
{
    float square = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        square += sum[k].x * sum[k].x + sum[k].y * sum[k].y;
    square = build_warp_sum(square);
    float scale = square > 0 ? 1 / sqrtf(square) : 0;
    uint32_t *to =
        (uint32_t *)(work->directions + ((size_t)job * work->clusters_padded + cluster) * 64 * CHUNKS);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        to[32 * k + build_lane()] = lwk_pack2(sum[k].x * scale, sum[k].y * scale, LW_DTYPE_FP16);
}

template <int CHUNKS>
LWK_DEVICE void add_row(const kmeans_work_t *work, uint32_t job, uint32_t n, uint32_t token, int largest,
                        float2 sum[CHUNKS])
{
    const uint32_t *row = (const uint32_t *)(work->rows + ((size_t)job * n + token) * 64 * CHUNKS);
    int exponent = work->exponents[(size_t)job * n + token] - largest;
    float scale = exponent < -120 ? 0 : __uint_as_float((uint32_t)(exponent + 127) << 23);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        float2 x = lwk_unpack2(row[32 * k + build_lane()], LW_DTYPE_FP16);
        sum[k].x = fmaf(x.x, scale, sum[k].x);
        sum[k].y = fmaf(x.y, scale, sum[k].y);
    }
}

/* Grid (8 columns, jobs): clusters start as keys at even spacing; columns that pad get NaN. */
template <int CHUNKS> LWK_KERNEL(256, 2) void seed_kernel(LWK_ARGS(kmeans_work_t) work, uint32_t n)
{
    const uint32_t job = blockIdx.y, cluster = blockIdx.x * BUILD_WARPS + build_warp();
    float2 sum[CHUNKS];
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        sum[k] = make_float2(0, 0);
    if (cluster < work.clusters) {
        uint32_t token = (uint32_t)((uint64_t)cluster * n / work.clusters);
        add_row<CHUNKS>(&work, job, n, token, work.exponents[(size_t)job * n + token], sum);
        set_direction<CHUNKS>(&work, job, cluster, sum);
    } else if (cluster < work.clusters_padded) {
        uint32_t *to =
            (uint32_t *)(work.directions + ((size_t)job * work.clusters_padded + cluster) * 64 * CHUNKS);
        for (int k = 0; k < CHUNKS; k++)
            to[32 * k + build_lane()] = 0x7E007E00u;
    }
}

/* Grid (8 clusters, jobs): directions of the members that `assign` found in this round, one warp for each
 * cluster, sums in token order. A cluster without members keeps its direction. */
template <int CHUNKS>
LWK_KERNEL(256, 4)
void turn_kernel(LWK_ARGS(kmeans_work_t) work, uint32_t n, uint32_t round)
{
    LWK_SHARED(members_t, m);
    const uint32_t job = blockIdx.y, first = blockIdx.x * MEMBERS_CLUSTERS, warp = build_warp();
    if (work.moved[(size_t)job * work.rounds + round] == 0)
        return;
    members_collect(m, work.assign + (size_t)job * n, NULL, n, first);
    const uint16_t *token = m->token + m->start[warp];
    const uint32_t count = m->count[warp];
    if (count == 0)
        return;
    uint32_t largest = 0;
    for (uint32_t i = build_lane(); i < count; i += 32)
        largest = max(largest, (uint32_t)(work.exponents[(size_t)job * n + token[i]] - KMEANS_ZERO));
    largest = __reduce_max_sync(LWK_WARP_ALL, largest);
    float2 sum[CHUNKS];
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
        sum[k] = make_float2(0, 0);
#pragma unroll 8
    for (uint32_t i = 0; i < count; i++)
        add_row<CHUNKS>(&work, job, n, token[i], (int)largest + KMEANS_ZERO, sum);
    set_direction<CHUNKS>(&work, job, first + warp, sum);
}

/* ---- the result ---- */

/* Grid (jobs): numbers the pieces that each seed cluster is cut into. Ends with the job's cluster_count. */
LWK_KERNEL(1024, 1) void pieces_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(kmeans_work_t) work)
{
    LWK_SHARED(uint32_t, count); /* [clusters] */
    const uint32_t job = blockIdx.x, n = args.token_count, size_max = lwk_build_size_max(&args);
    const uint16_t *assign = work.assign + (size_t)job * n;
    for (uint32_t c = threadIdx.x; c < work.clusters; c += blockDim.x)
        count[c] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        atomicAdd(&count[assign[i]], 1u);
    __syncthreads();
    if (build_warp() > 0)
        return;
    uint32_t *first_piece = work.first_piece + (size_t)job * (work.clusters + 1), at = 0;
    for (uint32_t first = 0; first < work.clusters; first += 32) {
        uint32_t c = first + build_lane();
        uint32_t pieces = c < work.clusters ? (count[c] + size_max - 1) / size_max : 0, below = pieces;
        for (uint32_t step = 1; step < 32; step *= 2) {
            uint32_t other = __shfl_up_sync(LWK_WARP_ALL, below, step);
            below += build_lane() >= step ? other : 0;
        }
        if (c < work.clusters)
            first_piece[c] = at + below - pieces;
        at += __shfl_sync(LWK_WARP_ALL, below, 31);
    }
    if (build_lane() == 0) {
        first_piece[work.clusters] = at;
        args.cluster_count[job] = at;
        args.outlier_count[job] = 0;
    }
}

/* Grid (8 clusters of the capacity, jobs): sizes and exact means, sums in double and in token order. */
template <int CHUNKS>
LWK_KERNEL(256, 2)
void centroids_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(kmeans_work_t) work)
{
    LWK_SHARED(members_t, m);
    const uint32_t job = blockIdx.y, first = blockIdx.x * MEMBERS_CLUSTERS, warp = build_warp();
    const uint32_t n = args.token_count, d = args.head_dim;
    if (first >= work.first_piece[(size_t)job * (work.clusters + 1) + work.clusters])
        return;
    members_collect(m, args.assign + (size_t)job * n, NULL, n, first);
    const uint16_t *token = m->token + m->start[warp];
    const uint32_t count = m->count[warp];
    if (count == 0)
        return;
    double sum[CHUNKS][2] = {};
#pragma unroll 4
    for (uint32_t i = 0; i < count; i++) {
        float2 x[CHUNKS];
        build_load_row<CHUNKS>(args.keys, args.dtype, lwk_build_row(&args, job, token[i]), d, x);
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            sum[k][0] += x[k].x;
            sum[k][1] += x[k].y;
        }
    }
    const size_t cluster = (size_t)job * args.cluster_capacity + first + warp;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        if (j < d) {
            args.centroids[cluster * d + j] = (float)(sum[k][0] / count);
            args.centroids[cluster * d + j + 1] = (float)(sum[k][1] / count);
        }
    }
    if (build_lane() == 0)
        args.sizes[cluster] = (uint16_t)count;
}

/* ---- host ---- */

template <int CHUNKS>
static lw_status_t launch_rows(const lwk_build_t *args, const kmeans_work_t *work, cudaStream_t stream)
{
    const uint32_t jobs = args->job_count, n = args->token_count;
    lw_status_t status =
        lwk_launch("kmeans mean", mean_kernel<CHUNKS>, dim3(work->mean_tiles, jobs), BUILD_THREADS,
                   BUILD_WARPS * args->head_dim * sizeof(double), stream, *args, *work);
    if (status == LW_OK)
        status = lwk_launch("kmeans rows", rows_kernel<CHUNKS>, dim3((n + ROWS_TILE - 1) / ROWS_TILE, jobs),
                            BUILD_THREADS, 64 * CHUNKS * sizeof(double), stream, *args, *work);
    if (status == LW_OK)
        status =
            lwk_launch("kmeans seed", seed_kernel<CHUNKS>, dim3(work->clusters_padded / BUILD_WARPS, jobs),
                       BUILD_THREADS, 0, stream, *work, n);
    return status;
}

template <int CHUNKS>
static lw_status_t launch_rounds(const lwk_build_t *args, const kmeans_work_t *work, cudaStream_t stream)
{
    const int W = 64 * CHUNKS;
    const uint32_t jobs = args->job_count, n = args->token_count, rows = assign_shape<W>::ROWS;
    const dim3 tiles((n + rows - 1) / rows, jobs);
    const dim3 clusters((work->clusters + MEMBERS_CLUSTERS - 1) / MEMBERS_CLUSTERS, jobs);
    lw_status_t status = LW_OK;
    for (uint32_t round = 0; round < work->rounds && status == LW_OK; round++) {
        status = lwk_launch("kmeans assign", assign_kernel<W>, tiles, ASSIGN_THREADS, sizeof(assign_shape<W>),
                            stream, *work, n, round);
        if (status == LW_OK && round + 1 < work->rounds)
            status = lwk_launch("kmeans turn", turn_kernel<CHUNKS>, clusters, BUILD_THREADS,
                                sizeof(members_t), stream, *work, n, round);
    }
    return status;
}

template <int CHUNKS>
static lw_status_t launch_result(const lwk_build_t *args, const kmeans_work_t *work, cudaStream_t stream)
{
    const int W = 64 * CHUNKS;
    const uint32_t jobs = args->job_count, n = args->token_count;
    lw_status_t status = lwk_launch("kmeans pieces", pieces_kernel, dim3(jobs), 1024,
                                    work->clusters * sizeof(uint32_t), stream, *args, *work);
    if (status == LW_OK)
        status =
            lwk_launch("kmeans split", split_kernel<W>,
                       dim3((work->clusters + MEMBERS_CLUSTERS - 1) / MEMBERS_CLUSTERS, jobs), BUILD_THREADS,
                       sizeof(split_shape<W>), stream, *work, n, lwk_build_size_max(args), args->assign);
    if (status == LW_OK)
        status = lwk_launch("kmeans centroids", centroids_kernel<CHUNKS>,
                            dim3((args->cluster_capacity + MEMBERS_CLUSTERS - 1) / MEMBERS_CLUSTERS, jobs),
                            BUILD_THREADS, sizeof(members_t), stream, *args, *work);
    return status;
}

lw_status_t lwk_cuda_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cuda_kmeans_bytes(args));
    if (status != LW_OK)
        return status;
    kmeans_work_t work;
    carve(&work, args, args->workspace);
    cudaStream_t on = (cudaStream_t)stream;
    LWK_BY_CHUNKS(args->head_dim, {
        status = launch_rows<CHUNKS>(args, &work, on);
        if (status == LW_OK)
            status = launch_rounds<CHUNKS>(args, &work, on);
        if (status == LW_OK)
            status = launch_result<CHUNKS>(args, &work, on);
    });
    return status;
}

uint64_t lwk_cuda_build_workspace_bytes(const lwk_build_t *args)
{
    uint64_t most = lw_max_u64(lwk_cuda_kmeans_bytes(args), lwk_cuda_outliers_bytes(args));
    return lw_max_u64(most, lwk_cuda_moments_bytes(args));
}
