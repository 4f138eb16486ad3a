/* encode.c - writes the index part of each job in its encodings. The plain version. Called by the thread that
 * seals a range, after outliers.
 *
 * Coded rows lose their mean and a scale for each channel before they are rounded: the mean and loud channels
 * would otherwise use up the codes. Cluster keys and outlier keys share center and channels; value means have
 * their own. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/ref/build.h"
#include "kernels/ref/build_private.h"

typedef struct work {
    float *outlier_keys; /* [outliers][d] */
    double *sum;         /* [d] */
    float *row;          /* [d] */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t d = args->head_dim;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->outlier_keys = lwk_carve_take(&at, args->outlier_capacity * d * sizeof *work->outlier_keys);
    work->sum = lwk_carve_take(&at, d * sizeof *work->sum);
    work->row = lwk_carve_take(&at, d * sizeof *work->row);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_ref_encode_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

/* Up to two sets of rows that share a center and channels. */
typedef struct row_set {
    const float *rows[2];
    uint32_t count[2];
} row_set_t;

static void measure(const row_set_t *set, uint32_t d, double *sum, float *center_out, float *channel_out)
{
    uint32_t count = set->count[0] + set->count[1];
    for (uint32_t j = 0; j < d; j++)
        sum[j] = 0;
    for (int s = 0; s < 2; s++)
        for (uint32_t i = 0; i < set->count[s]; i++)
            for (uint32_t j = 0; j < d; j++)
                sum[j] += set->rows[s][(size_t)i * d + j];
    for (uint32_t j = 0; j < d; j++) {
        center_out[j] = count > 0 ? (float)(sum[j] / count) : 0;
        sum[j] = 0;
    }
    for (int s = 0; s < 2; s++)
        for (uint32_t i = 0; i < set->count[s]; i++)
            for (uint32_t j = 0; j < d; j++) {
                double x = (double)set->rows[s][(size_t)i * d + j] - center_out[j];
                sum[j] += x * x;
            }
    for (uint32_t j = 0; j < d; j++) {
        double deviation = count > 0 ? sqrt(sum[j] / count) : 0;
        channel_out[j] = deviation > 0 ? (float)fmin(fmax(deviation, FLT_MIN), FLT_MAX) : 1;
    }
}

static int code_of(double x, int most)
{
    return x > most ? most : x < -most ? -most : (int)rint(x);
}

/* One row: the scale puts its largest channel at the last code. A scale is never 0 unless the row is. */
static void encode_coded(uint32_t encoding, const float *row, const float *center, const float *channel,
                         uint32_t d, uint8_t *codes, uint16_t *scale_out)
{
    int most = encoding == LW_ENCODING_INT8 ? 127 : 7;
    double largest = 0;
    for (uint32_t j = 0; j < d; j++)
        largest = fmax(largest, fabs(((double)row[j] - center[j]) / channel[j]));
    *scale_out = lwk_f32_to_f16((float)(largest / most));
    if (*scale_out == 0 && largest > 0)
        *scale_out = 1;
    double scale = lwk_f16_to_f32(*scale_out);
    for (uint32_t j = 0; j < d; j++) {
        int code = scale > 0 ? code_of(((double)row[j] - center[j]) / channel[j] / scale, most) : 0;
        if (encoding == LW_ENCODING_INT8)
            codes[j] = (uint8_t)(int8_t)code;
        else if (j % 2 == 0)
            codes[j / 2] = (uint8_t)(code & 15);
        else
            codes[j / 2] |= (uint8_t)((code & 15) << 4);
    }
}

static void encode_plain(uint32_t encoding, const float *row, uint32_t d, uint8_t *to)
{
    if (encoding == LW_ENCODING_FP32)
        memcpy(to, row, d * sizeof *row);
    else
        for (uint32_t j = 0; j < d; j++)
            ((uint16_t *)to)[j] = lwk_f32_to_bf16(row[j]);
}

static void encode_rows(uint32_t encoding, const float *rows, uint32_t count, uint32_t d, uint8_t *index,
                        uint32_t center, uint32_t channel, uint32_t at, uint32_t scales)
{
    uint32_t bytes = lwk_encoded_row_bytes(encoding, d);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = index + at + (size_t)i * bytes;
        if (lwk_encoding_is_coded(encoding))
            encode_coded(encoding, rows + (size_t)i * d, (float *)(index + center),
                         (float *)(index + channel), d, to, (uint16_t *)(index + scales) + i);
        else
            encode_plain(encoding, rows + (size_t)i * d, d, to);
    }
}

static uint16_t spread_of(float spread)
{
    uint16_t coded = lwk_f32_to_bf16(spread);
    return coded == 0x7F80u ? 0x7F7Fu : coded; /* the largest finite number rather than infinity */
}

static lw_status_t encode_job(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t d = args->head_dim, clusters = args->cluster_count[job], outliers = args->outlier_count[job];
    const float *keys = args->centroids + (size_t)job * args->cluster_capacity * d;
    const float *values = args->value_means + (size_t)job * args->cluster_capacity * d;
    const float *spreads = args->spreads + (size_t)job * args->cluster_capacity;
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

    int coded_clusters = lwk_encoding_is_coded(args->cluster_encoding);
    int coded_outliers = lwk_encoding_is_coded(args->outlier_encoding) && outliers > 0;
    row_set_t key_set = {{keys, work->outlier_keys},
                         {coded_clusters ? clusters : 0, coded_outliers ? outliers : 0}};
    row_set_t value_set = {{values, NULL}, {clusters, 0}};
    if (coded_clusters || coded_outliers)
        measure(&key_set, d, work->sum, (float *)(index + at.key_center), (float *)(index + at.key_channel));
    if (coded_clusters)
        measure(&value_set, d, work->sum, (float *)(index + at.value_center),
                (float *)(index + at.value_channel));
    encode_rows(args->cluster_encoding, keys, clusters, d, index, at.key_center, at.key_channel,
                at.cluster_keys, at.cluster_key_scales);
    encode_rows(args->cluster_encoding, values, clusters, d, index, at.value_center, at.value_channel,
                at.cluster_values, at.cluster_value_scales);
    encode_rows(args->outlier_encoding, work->outlier_keys, outliers, d, index, at.key_center, at.key_channel,
                at.outlier_keys, at.outlier_key_scales);
    for (uint32_t c = 0; c < clusters; c++)
        ((uint16_t *)(index + at.cluster_spreads))[c] = spread_of(spreads[c]);
    memcpy(index + at.outlier_parents, args->parents + (size_t)job * args->outlier_capacity,
           2 * (size_t)outliers);
    return LW_OK;
}

lw_status_t lwk_ref_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_ref_encode_bytes(args));
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
