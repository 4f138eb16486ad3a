/* encode.c - kernels/ref/encode.c with the coding in fp32 loops that the compiler vectorises; the measuring
 * stays in double. Called by the thread that seals a range, after outliers. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/build.h"
#include "kernels/cpu/build_private.h"

typedef struct work {
    float *outlier_keys; /* [outliers][d] */
    double *sum;         /* [d] */
    float *scaled;       /* [d] one row as multiples of its channels */
    float *inverse;      /* [d] 1 / channel */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t d = args->head_dim;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->outlier_keys = lwk_carve_take(&at, args->outlier_capacity * d * sizeof *work->outlier_keys);
    work->sum = lwk_carve_take(&at, d * sizeof *work->sum);
    work->scaled = lwk_carve_take(&at, d * sizeof *work->scaled);
    work->inverse = lwk_carve_take(&at, d * sizeof *work->inverse);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cpu_encode_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

/* Where rows that share a center and channels go in an index part. */
typedef struct coder {
    uint32_t encoding, head_dim;
    float *center, *channel;
    uint8_t *codes;
    uint16_t *scales;
} coder_t;

static void add_squares(const float *rows, uint32_t count, uint32_t d, const float *center, double *sum)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < d; j++) {
            double x = (double)rows[(size_t)i * d + j] - center[j];
            sum[j] += x * x;
        }
}

static void add_rows(const float *rows, uint32_t count, uint32_t d, double *sum)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < d; j++)
            sum[j] += rows[(size_t)i * d + j];
}

/* Center: the mean of both sets of rows; channel: their deviation from it. */
static void measure(const float *rows, uint32_t count, const float *more, uint32_t more_count,
                    const coder_t *to, double *sum)
{
    uint32_t d = to->head_dim, all = count + more_count;
    memset(sum, 0, d * sizeof *sum);
    add_rows(rows, count, d, sum);
    add_rows(more, more_count, d, sum);
    for (uint32_t j = 0; j < d; j++)
        to->center[j] = (float)(sum[j] / all);
    memset(sum, 0, d * sizeof *sum);
    add_squares(rows, count, d, to->center, sum);
    add_squares(more, more_count, d, to->center, sum);
    for (uint32_t j = 0; j < d; j++) {
        double deviation = sqrt(sum[j] / all);
        to->channel[j] = deviation > 0 ? (float)fmin(fmax(deviation, FLT_MIN), FLT_MAX) : 1;
    }
}

/* Rounds to nearest even by the adder: |x| is below 2^22. */
static int round_code(float x, float most)
{
    x = x > most ? most : x < -most ? -most : x;
    return (int)((x + 0x1.8p23f) - 0x1.8p23f);
}

static void encode_coded(const coder_t *to, const float *row, uint32_t at, const float *inverse,
                         float *scaled)
{
    uint32_t d = to->head_dim;
    float most = to->encoding == LW_ENCODING_INT8 ? 127 : 7, largest = 0;
    for (uint32_t j = 0; j < d; j++) {
        scaled[j] = (row[j] - to->center[j]) * inverse[j];
        float size = fabsf(scaled[j]);
        largest = size > largest ? size : largest;
    }
    uint16_t scale = lwk_f32_to_f16(largest / most);
    if (scale == 0 && largest > 0)
        scale = 1;
    to->scales[at] = scale;
    float per_code = scale == 0 ? 0 : 1 / lwk_f16_to_f32(scale);
    uint8_t *codes = to->codes + (size_t)at * lwk_encoded_row_bytes(to->encoding, d);
    if (to->encoding == LW_ENCODING_INT8)
        for (uint32_t j = 0; j < d; j++)
            codes[j] = (uint8_t)(int8_t)round_code(scaled[j] * per_code, most);
    else
        for (uint32_t j = 0; j < d; j += 2)
            codes[j / 2] = (uint8_t)((round_code(scaled[j] * per_code, most) & 15) |
                                     (round_code(scaled[j + 1] * per_code, most) & 15) << 4);
}

static void encode_rows(const coder_t *to, const float *rows, uint32_t count, work_t *work)
{
    uint32_t d = to->head_dim;
    if (to->encoding == LW_ENCODING_FP32) {
        memcpy(to->codes, rows, (size_t)count * d * sizeof *rows);
    } else if (to->encoding == LW_ENCODING_BF16) {
        for (size_t at = 0; at < (size_t)count * d; at++)
            ((uint16_t *)to->codes)[at] = lwk_f32_to_bf16(rows[at]);
    } else if (count > 0) {
        for (uint32_t j = 0; j < d; j++)
            work->inverse[j] = 1 / to->channel[j];
        for (uint32_t i = 0; i < count; i++)
            encode_coded(to, rows + (size_t)i * d, i, work->inverse, work->scaled);
    }
}

static void write_spreads(const float *spreads, uint32_t count, uint16_t *spreads_out)
{
    for (uint32_t c = 0; c < count; c++) {
        uint16_t coded = lwk_f32_to_bf16(spreads[c]);
        spreads_out[c] =
            coded == 0x7F80u ? 0x7F7Fu : coded; /* the largest finite number rather than infinity */
    }
}

static lw_status_t encode_job(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t d = args->head_dim, clusters = args->cluster_count[job], outliers = args->outlier_count[job];
    size_t first = (size_t)job * args->cluster_capacity;
    const float *keys = args->centroids + first * d, *values = args->value_means + first * d;
    const uint32_t *tokens = args->order + (size_t)(job + 1) * args->token_count - outliers;
    lwk_index_layout_t at =
        lwk_index_layout(args->cluster_encoding, args->outlier_encoding, clusters, outliers, d);
    uint8_t *index = args->index + job * args->index_stride;
    if (at.bytes > args->index_stride)
        return LW_ERR_INVALID;
    memset(index, 0, at.bytes);
    for (uint32_t o = 0; o < outliers; o++)
        lwk_load_row(args->keys, args->dtype, lwk_build_row(args, job, tokens[o]), d,
                     work->outlier_keys + (size_t)o * d);

    float *center = (float *)(index + at.key_center), *channel = (float *)(index + at.key_channel);
    coder_t key = {args->cluster_encoding,
                   d,
                   center,
                   channel,
                   index + at.cluster_keys,
                   (uint16_t *)(index + at.cluster_key_scales)};
    coder_t outlier = {args->outlier_encoding,
                       d,
                       center,
                       channel,
                       index + at.outlier_keys,
                       (uint16_t *)(index + at.outlier_key_scales)};
    coder_t value = {args->cluster_encoding,
                     d,
                     (float *)(index + at.value_center),
                     (float *)(index + at.value_channel),
                     index + at.cluster_values,
                     (uint16_t *)(index + at.cluster_value_scales)};
    uint32_t coded_clusters = lwk_encoding_is_coded(args->cluster_encoding) ? clusters : 0;
    uint32_t coded_outliers = lwk_encoding_is_coded(args->outlier_encoding) ? outliers : 0;
    if (coded_clusters + coded_outliers > 0)
        measure(keys, coded_clusters, work->outlier_keys, coded_outliers, &key, work->sum);
    if (coded_clusters > 0)
        measure(values, clusters, NULL, 0, &value, work->sum);
    encode_rows(&key, keys, clusters, work);
    encode_rows(&outlier, work->outlier_keys, outliers, work);
    encode_rows(&value, values, clusters, work);
    write_spreads(args->spreads + first, clusters, (uint16_t *)(index + at.cluster_spreads));
    memcpy(index + at.outlier_parents, args->parents + (size_t)job * args->outlier_capacity,
           2 * (size_t)outliers);
    return LW_OK;
}

lw_status_t lwk_cpu_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cpu_encode_bytes(args));
    if (status == LW_OK && (lwk_encoded_row_bytes(args->cluster_encoding, args->head_dim) == 0 ||
                            lwk_encoded_row_bytes(args->outlier_encoding, args->head_dim) == 0))
        status = LW_ERR_INVALID;
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count && status == LW_OK; job++)
        status = encode_job(args, job, &work);
    return status;
}
