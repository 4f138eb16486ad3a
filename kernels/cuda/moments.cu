/* moments.cu - a range's own sums for the second-order corrections, over the tokens that are not outliers.
 * What it computes is kernels/ref/moments.c: sum (k - c)(k - c)' and sum (v - u)(k - c)'.
 *
 * Residuals are written as two fp16 numbers each (22 digits, relative to the largest so far), and multiplied
 * on the matrix units as high high + high low + low high; a part of MOMENTS_SPAN tokens is summed in fp32,
 * parts in double and in order. Flops 12 n d^2 a job, bytes 2 n d 2 of rows once. Floor: the matrix units,
 * about half of it reached by rows that wait. */
#include "kernels/cuda/build.cuh"
#include "kernels/cuda/build_work.h"

#define MOMENTS_SPAN 512u /* tokens of one part */
#define MOMENTS_TILE 32u  /* tokens in shared memory at a time */
#define MOMENTS_EACH (MOMENTS_TILE / BUILD_WARPS)
#define MOMENTS_ZERO (-1000) /* exponent before the first residual */

typedef struct moments_work {
    uint32_t parts;
    float *sums;       /* [job][part][2][W][W] key key, value key */
    int32_t *exponent; /* [job][part][2] of keys, of values: the sums are of residuals times 2^-exponent */
} moments_work_t;

static uint64_t carve(moments_work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t jobs = args->job_count, width = lwk_build_width(args->head_dim);
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->parts = (uint32_t)lw_div_up(args->token_count, MOMENTS_SPAN);
    work->sums = (float *)lwk_carve_take(&at, jobs * work->parts * 2 * width * width * sizeof(float));
    work->exponent = (int32_t *)lwk_carve_take(&at, jobs * work->parts * 2 * sizeof(int32_t));
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cuda_moments_bytes(const lwk_build_t *args)
{
    moments_work_t work;
    return carve(&work, args, NULL);
}

template <int W> struct moments_shape {
    enum {
        SIDE = W <= 128 ? W : 128, /* of the square of sums that a block makes */
        COLUMN_WARPS = 2,
        ROW_WARPS = (int)BUILD_WARPS / COLUMN_WARPS,
        ROW_TILES = SIDE / 16 / ROW_WARPS,
        COLUMN_TILES = SIDE / 8 / COLUMN_WARPS,
        STRIDE = W + 8,
    };
    uint16_t part[4][MOMENTS_TILE][STRIDE]; /* key high, key low, value high, value low */
    uint16_t token[MOMENTS_SPAN], cluster[MOMENTS_SPAN];
    uint32_t largest[2]; /* bits of the largest residual of the tile */
};

/* x as high + low. */
LWK_DEVICE void moments_split(float x, float y, uint32_t *high, uint32_t *low)
{
    *high = lwk_pack2(x, y, LW_DTYPE_FP16);
    float2 rounded = lwk_unpack2(*high, LW_DTYPE_FP16);
    *low = lwk_pack2(x - rounded.x, y - rounded.y, LW_DTYPE_FP16);
}

/* Residuals of this warp's tokens of a tile; zero beyond the part's tokens. */
template <int CHUNKS>
LWK_DEVICE void moments_read(const lwk_build_t *args, const moments_shape<64 * CHUNKS> *s, uint32_t job,
                             uint32_t first, uint32_t count, float2 residual[2][MOMENTS_EACH][CHUNKS])
{
    const uint32_t d = args->head_dim;
#pragma unroll
    for (uint32_t e = 0; e < MOMENTS_EACH; e++) {
        uint32_t i = first + build_warp() * MOMENTS_EACH + e;
        if (i < count) {
            size_t row = lwk_build_row(args, job, s->token[i]);
            size_t mean = ((size_t)job * args->cluster_capacity + s->cluster[i]) * d;
            float2 x[CHUNKS], y[CHUNKS];
            build_load_row<CHUNKS>(args->keys, args->dtype, row, d, residual[0][e]);
            build_load_row<CHUNKS>(args->values, args->dtype, row, d, residual[1][e]);
            build_load_row<CHUNKS>(args->centroids, LW_DTYPE_FP32, mean, d, x);
            build_load_row<CHUNKS>(args->value_means, LW_DTYPE_FP32, mean, d, y);
#pragma unroll
            for (int k = 0; k < CHUNKS; k++) {
                residual[0][e][k].x -= x[k].x;
                residual[0][e][k].y -= x[k].y;
                residual[1][e][k].x -= y[k].x;
                residual[1][e][k].y -= y[k].y;
            }
        } else {
#pragma unroll
            for (int k = 0; k < CHUNKS; k++)
                residual[0][e][k] = residual[1][e][k] = make_float2(0, 0);
        }
    }
}

/* 2^exponent, 0 or the largest power where that is out of reach. */
LWK_DEVICE float moments_power(int exponent)
{
    return exponent < -126 ? 0 : __uint_as_float((uint32_t)(min(exponent, 127) + 127) << 23);
}

/* Grid (parts, squares of the sums, jobs). */
template <int CHUNKS>
LWK_KERNEL(256, 1)
void moments_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(moments_work_t) work)
{
    typedef moments_shape<64 * CHUNKS> shape;
    LWK_SHARED(shape, s);
    const int W = 64 * CHUNKS, ROWS = shape::ROW_TILES, COLUMNS = shape::COLUMN_TILES;
    const uint32_t job = blockIdx.z, n = args.token_count, lane = build_lane(), warp = build_warp();
    const uint32_t members = n - args.outlier_count[job], begin = blockIdx.x * MOMENTS_SPAN;
    const uint32_t count = begin >= members ? 0 : min(members - begin, MOMENTS_SPAN);
    const uint32_t sides = W / shape::SIDE;
    const uint32_t row_warp = warp % shape::ROW_WARPS, column_warp = warp / shape::ROW_WARPS;
    const uint32_t first_row = blockIdx.y / sides * shape::SIDE + row_warp * 16 * ROWS;
    const uint32_t first_column = blockIdx.y % sides * shape::SIDE + column_warp * 8 * COLUMNS;
    float sum[2][ROWS][COLUMNS][4];
    int exponent[2] = {MOMENTS_ZERO, MOMENTS_ZERO};
#pragma unroll
    for (int which = 0; which < 2; which++)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sum[which][r][c][e] = 0;
    for (uint32_t i = threadIdx.x; i < count; i += BUILD_THREADS) {
        uint32_t token = args.order[(size_t)job * n + begin + i];
        s->token[i] = (uint16_t)token;
        s->cluster[i] = args.assign[(size_t)job * n + token];
    }

    for (uint32_t first = 0; first < count; first += MOMENTS_TILE) {
        float2 residual[2][MOMENTS_EACH][CHUNKS];
        __syncthreads();
        if (threadIdx.x < 2)
            s->largest[threadIdx.x] = 0;
        moments_read<CHUNKS>(&args, s, job, first, count, residual);
        __syncthreads();
#pragma unroll
        for (int which = 0; which < 2; which++) {
            uint32_t largest = 0;
#pragma unroll
            for (uint32_t e = 0; e < MOMENTS_EACH; e++)
#pragma unroll
                for (int k = 0; k < CHUNKS; k++)
                    largest = max(largest, max(__float_as_uint(fabsf(residual[which][e][k].x)),
                                               __float_as_uint(fabsf(residual[which][e][k].y))));
            largest = __reduce_max_sync(LWK_WARP_ALL, largest);
            if (lane == 0 && largest > 0)
                atomicMax(&s->largest[which], largest);
        }
        __syncthreads();
        int was[2] = {exponent[0], exponent[1]};
#pragma unroll
        for (int which = 0; which < 2; which++) {
            if (s->largest[which] > 0)
                exponent[which] = max(exponent[which], ilogbf(__uint_as_float(s->largest[which])) + 1);
#pragma unroll
            for (uint32_t e = 0; e < MOMENTS_EACH; e++)
#pragma unroll
                for (int k = 0; k < CHUNKS; k++) {
                    uint32_t i = warp * MOMENTS_EACH + e, j = 64 * k + 2 * lane, high, low;
                    moments_split(ldexpf(residual[which][e][k].x, -exponent[which]),
                                  ldexpf(residual[which][e][k].y, -exponent[which]), &high, &low);
                    *(uint32_t *)&s->part[2 * which][i][j] = high;
                    *(uint32_t *)&s->part[2 * which + 1][i][j] = low;
                }
        }
        if (was[0] != exponent[0] || was[1] != exponent[1]) {
            float scale[2] = {moments_power(2 * (was[0] - exponent[0])),
                              moments_power(was[0] - exponent[0] + was[1] - exponent[1])};
#pragma unroll
            for (int which = 0; which < 2; which++)
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            sum[which][r][c][e] *= scale[which];
        }
        __syncthreads();

        /* Rows of the sums are channels of the left factor, which lies token by token: read transposed. */
#pragma unroll
        for (uint32_t k = 0; k < MOMENTS_TILE; k += 16) {
            uint32_t left[4][ROWS][4];
#pragma unroll
            for (int part = 0; part < 4; part++)
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    lwk_ldmatrix_x4_trans(
                        left[part][r],
                        &s->part[part][k + lane / 16 * 8 + lane % 8][first_row + 16 * r + lane / 8 % 2 * 8]);
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 2) {
                uint32_t high[4], low[4]; /* two tiles of 8 columns, two halves of the tokens each */
                uint32_t token = k + lane / 8 % 2 * 8 + lane % 8,
                         column = first_column + 8 * c + lane / 16 * 8;
                lwk_ldmatrix_x4_trans(high, &s->part[0][token][column]);
                lwk_ldmatrix_x4_trans(low, &s->part[1][token][column]);
#pragma unroll
                for (int which = 0; which < 2; which++)
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
#pragma unroll
                        for (int t = 0; t < 2; t++) {
                            lwk_mma_16816(sum[which][r][c + t], left[2 * which][r], high + 2 * t,
                                          LW_DTYPE_FP16);
                            lwk_mma_16816(sum[which][r][c + t], left[2 * which][r], low + 2 * t,
                                          LW_DTYPE_FP16);
                            lwk_mma_16816(sum[which][r][c + t], left[2 * which + 1][r], high + 2 * t,
                                          LW_DTYPE_FP16);
                        }
            }
        }
    }

    const size_t part = (size_t)job * work.parts + blockIdx.x;
    if (threadIdx.x < 2)
        work.exponent[2 * part + threadIdx.x] = threadIdx.x == 0 ? exponent[0] : exponent[1];
#pragma unroll
    for (int which = 0; which < 2; which++)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t row = first_row + 16 * r + 8 * half + lane / 4,
                             column = first_column + 8 * c + lane % 4 * 2;
                    *(float2 *)(work.sums + ((2 * part + which) * W + row) * W + column) =
                        make_float2(sum[which][r][c][2 * half], sum[which][r][c][2 * half + 1]);
                }
}

/* Grid (parts of the elements, jobs): sums over the parts in double and in order. */
LWK_KERNEL(256, 4)
void moments_sum_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(moments_work_t) work, uint32_t width)
{
    const uint32_t job = blockIdx.y, d = args.head_dim, at = blockIdx.x * BUILD_THREADS + threadIdx.x;
    if (at >= 2 * d * d)
        return;
    const uint32_t which = at / (d * d), row = at / d % d, column = at % d;
    double sum = 0;
    for (uint32_t p = 0; p < work.parts; p++) {
        size_t part = (size_t)job * work.parts + p;
        int exponent = work.exponent[2 * part] + work.exponent[2 * part + which];
        sum += ldexp((double)work.sums[((2 * part + which) * width + row) * width + column], exponent);
    }
    args.moment_sums[job * (2 + 2 * (size_t)d * d) + 2 + at] = sum;
}

/* Grid (jobs), one warp: tokens, and the sum of squares, which is the trace. */
LWK_KERNEL(32, 1) void moments_trace_kernel(LWK_ARGS(lwk_build_t) args)
{
    const uint32_t d = args.head_dim;
    double *sums = args.moment_sums + blockIdx.x * (2 + 2 * (size_t)d * d), trace = 0;
    for (uint32_t j = build_lane(); j < d; j += 32)
        trace += sums[2 + (size_t)j * d + j];
    trace = build_warp_sum(trace);
    if (build_lane() == 0) {
        sums[0] = args.token_count - args.outlier_count[blockIdx.x];
        sums[1] = trace;
    }
}

template <int CHUNKS>
static lw_status_t launch(const lwk_build_t *args, const moments_work_t *work, cudaStream_t stream)
{
    typedef moments_shape<64 * CHUNKS> shape;
    const uint32_t jobs = args->job_count, sides = 64 * CHUNKS / shape::SIDE,
                   elements = 2 * args->head_dim * args->head_dim;
    lw_status_t status = lwk_launch("moments", moments_kernel<CHUNKS>, dim3(work->parts, sides * sides, jobs),
                                    BUILD_THREADS, sizeof(shape), stream, *args, *work);
    if (status == LW_OK)
        status = lwk_launch("moments sum", moments_sum_kernel,
                            dim3((elements + BUILD_THREADS - 1) / BUILD_THREADS, jobs), BUILD_THREADS, 0,
                            stream, *args, *work, 64 * CHUNKS);
    if (status == LW_OK)
        status = lwk_launch("moments trace", moments_trace_kernel, dim3(jobs), 32, 0, stream, *args);
    return status;
}

lw_status_t lwk_cuda_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cuda_moments_bytes(args));
    if (status != LW_OK)
        return status;
    moments_work_t work;
    carve(&work, args, args->workspace);
    LWK_BY_CHUNKS(args->head_dim, status = launch<CHUNKS>(args, &work, (cudaStream_t)stream));
    return status;
}
