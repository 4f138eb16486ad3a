/* kmeans.c - segmented spherical k-means, the plain version. Called by the thread that seals a range.
 *
 * Keys lose their mean; clusters are directions. A token goes to the direction with the largest inner
 * product, ties to the lower cluster; a direction is the mean of its members, normalised. A direction that
 * loses all members stays where it was. The result is the plain mean of the members that the last round
 * found, oversized clusters cut, empty ones dropped. */
#include <math.h>

#include "kernels/build_split.h"
#include "kernels/ref/build.h"
#include "kernels/ref/build_private.h"

typedef struct work {
    float *rows;           /* [n][d] keys without their mean, scaled by a power of two */
    float *directions;     /* [clusters][d] */
    double *sums;          /* [clusters][d] */
    double *mean;          /* [d] */
    uint32_t *counts;      /* [clusters] */
    uint32_t *starts;      /* [clusters] */
    lwk_ranked_t *members; /* [n] */
    double *split;         /* [3][d] */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t n = args->token_count, d = args->head_dim, clusters = args->cluster_capacity;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->rows = lwk_carve_take(&at, n * d * sizeof *work->rows);
    work->directions = lwk_carve_take(&at, clusters * d * sizeof *work->directions);
    work->sums = lwk_carve_take(&at, clusters * d * sizeof *work->sums);
    work->mean = lwk_carve_take(&at, d * sizeof *work->mean);
    work->counts = lwk_carve_take(&at, clusters * sizeof *work->counts);
    work->starts = lwk_carve_take(&at, clusters * sizeof *work->starts);
    work->members = lwk_carve_take(&at, n * sizeof *work->members);
    work->split = lwk_carve_take(&at, 3 * d * sizeof *work->split);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_ref_kmeans_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

/* Directions do not depend on the scale, so the rows are brought near 1: no square of theirs can overflow. */
static void load_rows(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim;
    double largest = 0;
    int exponent = 0;
    for (uint32_t j = 0; j < d; j++) {
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += lwk_load(args->keys, args->dtype, lwk_build_row(args, job, i) + j);
        work->mean[j] = sum / n;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < d; j++) {
            double x = lwk_load(args->keys, args->dtype, lwk_build_row(args, job, i) + j) - work->mean[j];
            largest = fmax(largest, fabs(x));
        }
    frexp(largest, &exponent);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < d; j++) {
            double x = lwk_load(args->keys, args->dtype, lwk_build_row(args, job, i) + j) - work->mean[j];
            work->rows[(size_t)i * d + j] = (float)ldexp(x, -exponent);
        }
}

static void normalise(const double *from, uint32_t d, float *direction_out)
{
    double square = 0;
    for (uint32_t j = 0; j < d; j++)
        square += from[j] * from[j];
    double scale = square > 0 ? 1 / sqrt(square) : 0;
    for (uint32_t j = 0; j < d; j++)
        direction_out[j] = (float)(from[j] * scale);
}

static void seed(const lwk_build_t *args, uint32_t clusters, work_t *work)
{
    uint32_t d = args->head_dim;
    for (uint32_t c = 0; c < clusters; c++) {
        size_t token = (size_t)((uint64_t)c * args->token_count / clusters);
        for (uint32_t j = 0; j < d; j++)
            work->sums[j] = work->rows[token * d + j];
        normalise(work->sums, d, work->directions + (size_t)c * d);
    }
}

static uint32_t nearest(const float *row, const float *directions, uint32_t clusters, uint32_t d)
{
    uint32_t best = 0;
    double most = -INFINITY;
    for (uint32_t c = 0; c < clusters; c++) {
        double dot = 0;
        for (uint32_t j = 0; j < d; j++)
            dot += (double)row[j] * directions[(size_t)c * d + j];
        if (dot > most) {
            most = dot;
            best = c;
        }
    }
    return best;
}

/* Returns how many tokens moved. */
static uint32_t assign_all(const lwk_build_t *args, uint32_t clusters, const work_t *work, uint16_t *assign)
{
    uint32_t d = args->head_dim, moved = 0;
    for (uint32_t i = 0; i < args->token_count; i++) {
        uint16_t to = (uint16_t)nearest(work->rows + (size_t)i * d, work->directions, clusters, d);
        moved += assign[i] != to;
        assign[i] = to;
    }
    return moved;
}

static void count_members(const lwk_build_t *args, uint32_t clusters, const uint16_t *assign,
                          uint32_t *counts_out)
{
    for (uint32_t c = 0; c < clusters; c++)
        counts_out[c] = 0;
    for (uint32_t i = 0; i < args->token_count; i++)
        counts_out[assign[i]]++;
}

static void turn_directions(const lwk_build_t *args, uint32_t clusters, const uint16_t *assign, work_t *work)
{
    uint32_t d = args->head_dim;
    count_members(args, clusters, assign, work->counts);
    for (size_t at = 0; at < (size_t)clusters * d; at++)
        work->sums[at] = 0;
    for (uint32_t i = 0; i < args->token_count; i++)
        for (uint32_t j = 0; j < d; j++)
            work->sums[(size_t)assign[i] * d + j] += work->rows[(size_t)i * d + j];
    for (uint32_t c = 0; c < clusters; c++)
        if (work->counts[c] > 0)
            normalise(work->sums + (size_t)c * d, d, work->directions + (size_t)c * d);
}

static void write_centroids(const lwk_build_t *args, uint32_t job, uint32_t clusters, const uint16_t *assign,
                            work_t *work)
{
    uint32_t d = args->head_dim;
    uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    float *centroids = args->centroids + (size_t)job * args->cluster_capacity * d;
    count_members(args, clusters, assign, work->counts);
    for (size_t at = 0; at < (size_t)clusters * d; at++)
        work->sums[at] = 0;
    for (uint32_t i = 0; i < args->token_count; i++)
        for (uint32_t j = 0; j < d; j++)
            work->sums[(size_t)assign[i] * d + j] +=
                lwk_load(args->keys, args->dtype, lwk_build_row(args, job, i) + j);
    for (uint32_t c = 0; c < clusters; c++) {
        sizes[c] = (uint16_t)work->counts[c];
        for (uint32_t j = 0; j < d; j++)
            centroids[(size_t)c * d + j] = (float)(work->sums[(size_t)c * d + j] / work->counts[c]);
    }
}

static void cluster_job(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim, clusters = lwk_build_seed_count(args);
    uint16_t *assign = args->assign + (size_t)job * n;
    load_rows(args, job, work);
    seed(args, clusters, work);
    for (uint32_t i = 0; i < n; i++)
        assign[i] = UINT16_MAX;
    /* When nothing moves, further rounds would not change anything. */
    for (uint32_t round = 0; assign_all(args, clusters, work, assign) > 0 && round + 1 < args->iterations;
         round++)
        turn_directions(args, clusters, assign, work);
    count_members(args, clusters, assign, work->counts);
    lwk_split_t split = {
        .rows = work->rows,
        .head_dim = d,
        .size_max = lwk_build_size_max(args),
        .assign = assign,
        .direction = work->split,
        .low = work->split + d,
        .high = work->split + 2 * d,
    };
    clusters = lwk_split_all(&split, n, clusters, work->counts, work->starts, work->members);
    write_centroids(args, job, clusters, assign, work);
    args->cluster_count[job] = clusters;
    args->outlier_count[job] = 0;
}

lw_status_t lwk_ref_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_ref_kmeans_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++)
        cluster_job(args, job, &work);
    return LW_OK;
}

uint64_t lwk_ref_build_workspace_bytes(const lwk_build_t *args)
{
    uint64_t most = lwk_ref_kmeans_bytes(args);
    most = lw_max_u64(most, lwk_ref_outliers_bytes(args));
    most = lw_max_u64(most, lwk_ref_moments_bytes(args));
    return lw_max_u64(most, lwk_ref_encode_bytes(args));
}
