/* encode.cu - writes the index part of each job in its encodings. What it computes is kernels/ref/encode.c,
 * rounded alike.
 *
 * Three launches: zeros (the gaps between parts are zero), centers and channels of coded rows, rows. Bytes:
 * the means twice, the index once. The counts are read on the device, so a stride must have room for the most
 * that there can be. */
#include "kernels/cuda/build.cuh"

#define MEASURE_THREADS 1024u
#define MEASURE_WARPS (MEASURE_THREADS / 32)

LWK_DEVICE lwk_index_layout_t layout_of(const lwk_build_t *args, uint32_t job)
{
    return lwk_index_layout(args->cluster_encoding, args->outlier_encoding, args->cluster_count[job],
                            args->outlier_count[job], args->head_dim);
}

/* The key of outlier o, an element number in args->keys. */
LWK_DEVICE size_t outlier_row(const lwk_build_t *args, uint32_t job, uint32_t outliers, uint32_t o)
{
    const uint32_t *tokens = args->order + (size_t)(job + 1) * args->token_count - outliers;
    return lwk_build_row(args, job, tokens[o]);
}

/* Grid (blocks, jobs). */
LWK_KERNEL(256, 4) void zero_kernel(LWK_ARGS(lwk_build_t) args)
{
    const uint32_t job = blockIdx.y, bytes = layout_of(&args, job).bytes;
    uint8_t *index = args.index + job * args.index_stride;
    for (uint32_t at = 16 * (blockIdx.x * BUILD_THREADS + threadIdx.x); at < bytes;
         at += 16 * BUILD_THREADS * gridDim.x)
        *(uint4 *)(index + at) = make_uint4(0, 0, 0, 0);
}

/* ---- centers and channels ---- */

/* Adds up each warp's part in warp order; afterwards sum[j] holds it for all j < d. */
template <int CHUNKS> LWK_DEVICE void add_warps(double *sum, const double mine[CHUNKS][2], uint32_t d)
{
    __syncthreads();
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        if (j < d) {
            sum[build_warp() * d + j] = mine[k][0];
            sum[build_warp() * d + j + 1] = mine[k][1];
        }
    }
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < d; j += MEASURE_THREADS) {
        double all = 0;
        for (uint32_t warp = 0; warp < MEASURE_WARPS; warp++)
            all += sum[warp * d + j];
        sum[j] = all;
    }
    __syncthreads();
}

/* Adds a row's numbers, or the squares of their distances to the mean. */
template <int CHUNKS>
LWK_DEVICE void add_measure(double sum[CHUNKS][2], const float2 x[CHUNKS], const float2 mean[CHUNKS],
                            int pass)
{
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        double a = pass == 0 ? (double)x[k].x : (double)x[k].x - mean[k].x;
        double b = pass == 0 ? (double)x[k].y : (double)x[k].y - mean[k].y;
        sum[k][0] += pass == 0 ? a : a * a;
        sum[k][1] += pass == 0 ? b : b * b;
    }
}

/* Grid (2: keys, values; jobs). Warp w takes rows w, w + 32, ..., first the clusters', then the outliers'. */
template <int CHUNKS> LWK_KERNEL(1024, 1) void measure_kernel(LWK_ARGS(lwk_build_t) args)
{
    LWK_SHARED(double, sum); /* [MEASURE_WARPS][d] */
    const uint32_t job = blockIdx.y, d = args.head_dim, outliers = args.outlier_count[job];
    const bool values = blockIdx.x == 1;
    const lwk_index_layout_t at = layout_of(&args, job);
    const uint32_t clusters = lwk_encoding_is_coded(args.cluster_encoding) ? args.cluster_count[job] : 0;
    const uint32_t singles = lwk_encoding_is_coded(args.outlier_encoding) && !values ? outliers : 0;
    const uint32_t count = clusters + singles;
    const float *rows =
        (values ? args.value_means : args.centroids) + (size_t)job * args.cluster_capacity * d;
    float *center =
        (float *)(args.index + job * args.index_stride + (values ? at.value_center : at.key_center));
    float *channel =
        (float *)(args.index + job * args.index_stride + (values ? at.value_channel : at.key_channel));
    float2 mean[CHUNKS];
    if (count == 0)
        return;
    for (int pass = 0; pass < 2; pass++) {
        double mine[CHUNKS][2] = {};
#pragma unroll 4
        for (uint32_t i = build_warp(); i < clusters; i += MEASURE_WARPS) {
            float2 x[CHUNKS];
            build_load_row<CHUNKS>(rows, LW_DTYPE_FP32, (size_t)i * d, d, x);
            add_measure<CHUNKS>(mine, x, mean, pass);
        }
#pragma unroll 4
        for (uint32_t i = build_warp(); i < singles; i += MEASURE_WARPS) {
            float2 x[CHUNKS];
            build_load_row<CHUNKS>(args.keys, args.dtype, outlier_row(&args, job, outliers, i), d, x);
            add_measure<CHUNKS>(mine, x, mean, pass);
        }
        add_warps<CHUNKS>(sum, mine, d);
        if (pass == 0) {
#pragma unroll
            for (int k = 0; k < CHUNKS; k++) {
                uint32_t j = 64 * k + 2 * build_lane();
                mean[k] = j < d ? make_float2((float)(sum[j] / count), (float)(sum[j + 1] / count))
                                : make_float2(0, 0);
                if (j < d && build_warp() == 0)
                    *(float2 *)(center + j) = mean[k];
            }
        } else {
            for (uint32_t j = threadIdx.x; j < d; j += MEASURE_THREADS) {
                double deviation = sqrt(sum[j] / count);
                channel[j] = deviation > 0
                                 ? (float)fmin(fmax(deviation, 1.1754943508222875e-38), 3.4028234663852886e38)
                                 : 1;
            }
        }
    }
}

/* ---- rows ---- */

LWK_DEVICE uint32_t code_of(double x, int most)
{
    return (uint32_t)(x > most ? most : x < -most ? -most : (int)rint(x));
}

/* One row: the scale puts its largest channel at the last code. A scale is never 0 unless the row is. */
template <int CHUNKS>
LWK_DEVICE void encode_coded(uint32_t encoding, const float2 x[CHUNKS], const float *center,
                             const float *channel, uint32_t d, uint8_t *codes, uint16_t *scale_out)
{
    const int most = encoding == LW_ENCODING_INT8 ? 127 : 7;
    double a[CHUNKS], b[CHUNKS], largest = 0;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        a[k] = j < d ? ((double)x[k].x - center[j]) / channel[j] : 0;
        b[k] = j < d ? ((double)x[k].y - center[j + 1]) / channel[j + 1] : 0;
        largest = fmax(largest, fmax(fabs(a[k]), fabs(b[k])));
    }
    for (int step = 16; step > 0; step /= 2)
        largest = fmax(largest, __shfl_xor_sync(LWK_WARP_ALL, largest, step));
    uint16_t stored = lwk_f32_to_f16((float)(largest / most));
    if (stored == 0 && largest > 0)
        stored = 1;
    if (build_lane() == 0)
        *scale_out = stored;
    double scale = lwk_f16_to_f32(stored);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        uint32_t first = scale > 0 ? code_of(a[k] / scale, most) : 0,
                 second = scale > 0 ? code_of(b[k] / scale, most) : 0;
        if (j < d && encoding == LW_ENCODING_INT8)
            *(uint16_t *)(codes + j) = (uint16_t)((first & 255) | (second & 255) << 8);
        else if (j < d)
            codes[j / 2] = (uint8_t)((first & 15) | (second & 15) << 4);
    }
}

template <int CHUNKS>
LWK_DEVICE void encode_plain(uint32_t encoding, const float2 x[CHUNKS], uint32_t d, uint8_t *to)
{
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        uint32_t j = 64 * k + 2 * build_lane();
        if (j < d && encoding == LW_ENCODING_FP32)
            *(float2 *)(to + 4 * j) = x[k];
        else if (j < d)
            *(uint32_t *)(to + 2 * j) = lwk_pack2(x[k].x, x[k].y, LW_DTYPE_BF16);
    }
}

template <int CHUNKS>
LWK_DEVICE void encode_row(uint32_t encoding, const float2 x[CHUNKS], uint32_t d, uint8_t *index,
                           uint32_t center, uint32_t channel, uint32_t at, uint32_t scales, uint32_t i)
{
    uint8_t *to = index + at + (size_t)i * lwk_encoded_row_bytes(encoding, d);
    if (lwk_encoding_is_coded(encoding))
        encode_coded<CHUNKS>(encoding, x, (const float *)(index + center), (const float *)(index + channel),
                             d, to, (uint16_t *)(index + scales) + i);
    else
        encode_plain<CHUNKS>(encoding, x, d, to);
}

LWK_DEVICE uint16_t spread_of(float spread)
{
    uint16_t coded = lwk_f32_to_bf16(spread);
    return coded == 0x7F80u ? 0x7F7Fu : coded; /* the largest finite number rather than infinity */
}

/* Grid (eight entries of the capacities, jobs): a warp writes a cluster's key, value mean and spread, or an
 * outlier's key and parent. */
template <int CHUNKS> LWK_KERNEL(256, 2) void encode_kernel(LWK_ARGS(lwk_build_t) args)
{
    const uint32_t job = blockIdx.y, d = args.head_dim, i = blockIdx.x * BUILD_WARPS + build_warp();
    const uint32_t clusters = args.cluster_count[job], outliers = args.outlier_count[job];
    uint8_t *index = args.index + job * args.index_stride;
    if (i >= clusters + outliers)
        return;
    const lwk_index_layout_t at = layout_of(&args, job);
    float2 x[CHUNKS];
    if (i < clusters) {
        size_t from = (size_t)job * args.cluster_capacity + i;
        build_load_row<CHUNKS>(args.centroids, LW_DTYPE_FP32, from * d, d, x);
        encode_row<CHUNKS>(args.cluster_encoding, x, d, index, at.key_center, at.key_channel, at.cluster_keys,
                           at.cluster_key_scales, i);
        build_load_row<CHUNKS>(args.value_means, LW_DTYPE_FP32, from * d, d, x);
        encode_row<CHUNKS>(args.cluster_encoding, x, d, index, at.value_center, at.value_channel,
                           at.cluster_values, at.cluster_value_scales, i);
        if (build_lane() == 0)
            ((uint16_t *)(index + at.cluster_spreads))[i] = spread_of(args.spreads[from]);
    } else {
        uint32_t o = i - clusters;
        build_load_row<CHUNKS>(args.keys, args.dtype, outlier_row(&args, job, outliers, o), d, x);
        encode_row<CHUNKS>(args.outlier_encoding, x, d, index, at.key_center, at.key_channel, at.outlier_keys,
                           at.outlier_key_scales, o);
        if (build_lane() == 0)
            ((uint16_t *)(index + at.outlier_parents))[o] =
                args.parents[(size_t)job * args.outlier_capacity + o];
    }
}

/* ---- host ---- */

/* Most entries that a job can have. */
static uint32_t most_clusters(const lwk_build_t *args)
{
    return (uint32_t)lw_min_u64(args->cluster_capacity, args->token_count);
}

static lw_status_t check(const lwk_build_t *args)
{
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK && (lwk_encoded_row_bytes(args->cluster_encoding, args->head_dim) == 0 ||
                            lwk_encoded_row_bytes(args->outlier_encoding, args->head_dim) == 0))
        status = LW_ERR_INVALID;
    if (status == LW_OK && (args->index_stride % 16 != 0 ||
                            args->index_stride < lwk_index_layout(args->cluster_encoding,
                                                                  args->outlier_encoding, most_clusters(args),
                                                                  lwk_build_outlier_max(args), args->head_dim)
                                                     .bytes))
        status = LW_ERR_INVALID;
    return status;
}

template <int CHUNKS> static lw_status_t launch(const lwk_build_t *args, cudaStream_t stream)
{
    const uint32_t jobs = args->job_count, entries = most_clusters(args) + lwk_build_outlier_max(args);
    lw_status_t status =
        lwk_launch("encode zero", zero_kernel, dim3(16, jobs), BUILD_THREADS, 0, stream, *args);
    if (status == LW_OK &&
        (lwk_encoding_is_coded(args->cluster_encoding) || lwk_encoding_is_coded(args->outlier_encoding)))
        status = lwk_launch("encode measure", measure_kernel<CHUNKS>, dim3(2, jobs), MEASURE_THREADS,
                            MEASURE_WARPS * args->head_dim * sizeof(double), stream, *args);
    if (status == LW_OK)
        status = lwk_launch("encode rows", encode_kernel<CHUNKS>,
                            dim3((entries + BUILD_WARPS - 1) / BUILD_WARPS, jobs), BUILD_THREADS, 0, stream,
                            *args);
    return status;
}

lw_status_t lwk_cuda_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = check(args);
    if (status != LW_OK)
        return status;
    LWK_BY_CHUNKS(args->head_dim, status = launch<CHUNKS>(args, (cudaStream_t)stream));
    return status;
}
