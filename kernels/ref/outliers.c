/* outliers.c - gives the tokens farthest from their centroid entries of their own, then sums up the clusters
 * that remain. The plain version. Called by the thread that seals a range, after kmeans. */
#include <math.h>
#include <float.h>

#include "kernels/ref/build.h"
#include "kernels/ref/build_private.h"

typedef struct work {
    double *distance;              /* [n] |k - c|^2 to the centroid of all members */
    lwk_ranked_t *ranked;          /* [n] */
    uint32_t *keeper;              /* [clusters] the member nearest the mean */
    uint8_t *is_outlier;           /* [n] */
    uint32_t *starts;              /* [clusters] */
    uint32_t *bases;               /* [clusters] members and outliers */
    double *key_sums, *value_sums; /* [clusters][d] */
    double *spread_sums;           /* [clusters] */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t n = args->token_count, d = args->head_dim, clusters = args->cluster_capacity;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->distance = lwk_carve_take(&at, n * sizeof *work->distance);
    work->ranked = lwk_carve_take(&at, n * sizeof *work->ranked);
    work->keeper = lwk_carve_take(&at, clusters * sizeof *work->keeper);
    work->is_outlier = lwk_carve_take(&at, n * sizeof *work->is_outlier);
    work->starts = lwk_carve_take(&at, clusters * sizeof *work->starts);
    work->bases = lwk_carve_take(&at, clusters * sizeof *work->bases);
    work->key_sums = lwk_carve_take(&at, clusters * d * sizeof *work->key_sums);
    work->value_sums = lwk_carve_take(&at, clusters * d * sizeof *work->value_sums);
    work->spread_sums = lwk_carve_take(&at, clusters * sizeof *work->spread_sums);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_ref_outliers_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

static double distance_to(const lwk_build_t *args, uint32_t job, uint32_t i, const float *centroid)
{
    double sum = 0;
    for (uint32_t j = 0; j < args->head_dim; j++) {
        double gap = (double)lwk_load(args->keys, args->dtype, lwk_build_row(args, job, i) + j) - centroid[j];
        sum += gap * gap;
    }
    return sum;
}

static void measure(const lwk_build_t *args, uint32_t job, work_t *work)
{
    const float *centroids = args->centroids + (size_t)job * args->cluster_capacity * args->head_dim;
    const uint16_t *assign = args->assign + (size_t)job * args->token_count;
    for (uint32_t c = 0; c < args->cluster_count[job]; c++)
        work->keeper[c] = UINT32_MAX;
    for (uint32_t i = 0; i < args->token_count; i++) {
        uint32_t c = assign[i];
        work->distance[i] = distance_to(args, job, i, centroids + (size_t)c * args->head_dim);
        if (work->keeper[c] == UINT32_MAX || work->distance[i] < work->distance[work->keeper[c]])
            work->keeper[c] = i;
    }
}

/* Marks the farthest tokens, ties to the lower token. Returns how many. */
static uint32_t choose(const lwk_build_t *args, uint32_t job, work_t *work)
{
    const uint16_t *assign = args->assign + (size_t)job * args->token_count;
    uint32_t candidates = 0, most = lwk_build_outlier_max(args);
    for (uint32_t i = 0; i < args->token_count; i++) {
        work->is_outlier[i] = 0;
        if (work->keeper[assign[i]] != i && work->distance[i] > 0)
            work->ranked[candidates++] = (lwk_ranked_t){-work->distance[i], i};
    }
    lwk_ranked_sort(work->ranked, candidates);
    uint32_t count = candidates < most ? candidates : most;
    for (uint32_t r = 0; r < count; r++)
        work->is_outlier[work->ranked[r].token] = 1;
    return count;
}

/* Counting sort, stable: clusters with tokens ascending, then outliers by (parent, token). */
static void write_order(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t n = args->token_count, clusters = args->cluster_count[job], at = 0;
    const uint16_t *assign = args->assign + (size_t)job * n;
    uint32_t *order = args->order + (size_t)job * n;
    uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    uint16_t *parents = args->parents + (size_t)job * args->outlier_capacity;
    uint32_t records = 0;
    for (int outliers = 0; outliers <= 1; outliers++) {
        for (uint32_t c = 0; c < clusters; c++)
            work->starts[c] = 0;
        for (uint32_t i = 0; i < n; i++)
            if (work->is_outlier[i] == outliers)
                work->starts[assign[i]]++;
        for (uint32_t c = 0; c < clusters; c++) {
            uint32_t count = work->starts[c];
            work->starts[c] = at;
            at += count;
            if (!outliers)
                sizes[c] = (uint16_t)count;
            else
                for (uint32_t o = 0; o < count; o++)
                    parents[records++] = (uint16_t)c;
        }
        for (uint32_t i = 0; i < n; i++)
            if (work->is_outlier[i] == outliers)
                order[work->starts[assign[i]]++] = i;
    }
}

/* Key means and spreads of the members that stayed; value means of these and the outliers, which have no
 * value of their own in the index: what is estimated keeps the total of all values. */
static void summarise(const lwk_build_t *args, uint32_t job, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim, clusters = args->cluster_count[job];
    const uint16_t *assign = args->assign + (size_t)job * n;
    const uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    float *centroids = args->centroids + (size_t)job * args->cluster_capacity * d;
    float *value_means = args->value_means + (size_t)job * args->cluster_capacity * d;
    float *spreads = args->spreads + (size_t)job * args->cluster_capacity;
    for (size_t at = 0; at < (size_t)clusters * d; at++)
        work->key_sums[at] = work->value_sums[at] = 0;
    for (uint32_t c = 0; c < clusters; c++)
        work->bases[c] = 0;
    for (uint32_t i = 0; i < n; i++) {
        work->bases[assign[i]]++;
        for (uint32_t j = 0; j < d; j++) {
            size_t from = lwk_build_row(args, job, i) + j, to = (size_t)assign[i] * d + j;
            if (!work->is_outlier[i])
                work->key_sums[to] += lwk_load(args->keys, args->dtype, from);
            work->value_sums[to] += lwk_load(args->values, args->dtype, from);
        }
    }
    for (uint32_t c = 0; c < clusters; c++) {
        work->spread_sums[c] = 0;
        for (size_t at = (size_t)c * d; at < (size_t)(c + 1) * d; at++) {
            centroids[at] = (float)(work->key_sums[at] / sizes[c]);
            value_means[at] = (float)(work->value_sums[at] / work->bases[c]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (!work->is_outlier[i])
            work->spread_sums[assign[i]] += distance_to(args, job, i, centroids + (size_t)assign[i] * d);
    for (uint32_t c = 0; c < clusters; c++)
        spreads[c] = (float)fmin(work->spread_sums[c] / sizes[c], FLT_MAX);
}

lw_status_t lwk_ref_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_ref_outliers_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++) {
        measure(args, job, &work);
        args->outlier_count[job] = choose(args, job, &work);
        write_order(args, job, &work);
        summarise(args, job, &work);
    }
    return LW_OK;
}
