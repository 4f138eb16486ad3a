/* outliers.c - kernels/ref/outliers.c with its three passes over the rows (distances, means, distances) in
 * vector loops. Called by the thread that seals a range, after kmeans. */
#include <float.h>
#include <string.h>

#include "kernels/cpu/build.h"
#include "kernels/cpu/build_private.h"

typedef struct work {
    float *rows;          /* [n][d] keys, then values */
    double *distance;     /* [n] */
    lwk_ranked_t *ranked; /* [n] */
    uint32_t *keeper;     /* [clusters] the member nearest the mean */
    uint8_t *is_outlier;  /* [n] */
    uint32_t *starts[2];  /* [clusters] of members, of outliers */
    uint32_t *counts[2];  /* [clusters] members; members and outliers */
    double *sums;         /* [clusters][d] */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t n = args->token_count, d = args->head_dim, clusters = args->cluster_capacity;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->rows = lwk_carve_take(&at, n * d * sizeof *work->rows);
    work->distance = lwk_carve_take(&at, n * sizeof *work->distance);
    work->ranked = lwk_carve_take(&at, n * sizeof *work->ranked);
    work->keeper = lwk_carve_take(&at, clusters * sizeof *work->keeper);
    work->is_outlier = lwk_carve_take(&at, n * sizeof *work->is_outlier);
    work->starts[0] = lwk_carve_take(&at, clusters * sizeof *work->starts[0]);
    work->starts[1] = lwk_carve_take(&at, clusters * sizeof *work->starts[1]);
    work->counts[0] = lwk_carve_take(&at, clusters * sizeof *work->counts[0]);
    work->counts[1] = lwk_carve_take(&at, clusters * sizeof *work->counts[1]);
    work->sums = lwk_carve_take(&at, clusters * d * sizeof *work->sums);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cpu_outliers_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

static void find_keepers(const uint16_t *assign, uint32_t n, uint32_t clusters, work_t *work)
{
    for (uint32_t c = 0; c < clusters; c++)
        work->keeper[c] = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *keeper = &work->keeper[assign[i]];
        if (*keeper == UINT32_MAX || work->distance[i] < work->distance[*keeper])
            *keeper = i;
    }
}

static uint32_t choose(const lwk_build_t *args, const uint16_t *assign, work_t *work)
{
    uint32_t n = args->token_count, candidates = 0, most = lwk_build_outlier_max(args);
    memset(work->is_outlier, 0, n);
    if (most == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        if (work->keeper[assign[i]] != i && work->distance[i] > 0)
            work->ranked[candidates++] = (lwk_ranked_t){-work->distance[i], i};
    lwk_ranked_sort(work->ranked, candidates);
    uint32_t count = candidates < most ? candidates : most;
    for (uint32_t r = 0; r < count; r++)
        work->is_outlier[work->ranked[r].token] = 1;
    return count;
}

/* One counting sort for members and outliers: both ascend by cluster, then by token. */
static void write_order(const lwk_build_t *args, uint32_t job, const uint16_t *assign, work_t *work)
{
    uint32_t n = args->token_count, clusters = args->cluster_count[job], at = 0;
    uint32_t *order = args->order + (size_t)job * n;
    uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    uint16_t *parents = args->parents + (size_t)job * args->outlier_capacity;
    memset(work->starts[0], 0, clusters * sizeof(uint32_t));
    memset(work->starts[1], 0, clusters * sizeof(uint32_t));
    for (uint32_t i = 0; i < n; i++)
        work->starts[work->is_outlier[i]][assign[i]]++;
    for (uint32_t c = 0; c < clusters; c++) {
        work->counts[0][c] = work->starts[0][c];
        work->counts[1][c] = work->starts[0][c] + work->starts[1][c];
        sizes[c] = (uint16_t)work->counts[0][c];
        work->starts[0][c] = at;
        at += sizes[c];
    }
    for (uint32_t c = 0; c < clusters; c++) {
        uint32_t count = work->starts[1][c];
        work->starts[1][c] = at;
        at += count;
        for (uint32_t o = 0; o < count; o++)
            *parents++ = (uint16_t)c;
    }
    for (uint32_t i = 0; i < n; i++)
        order[work->starts[work->is_outlier[i]][assign[i]]++] = i;
}

/* counts: tokens of each cluster that are not skipped. */
static void write_means(const lwk_build_t *args, uint32_t job, const uint16_t *assign,
                        const lwk_cpu_build_isa_t *isa, work_t *work, const uint8_t *skip,
                        const uint32_t *counts, float *means_out)
{
    uint32_t d = args->head_dim, clusters = args->cluster_count[job];
    memset(work->sums, 0, (size_t)clusters * d * sizeof *work->sums);
    isa->add_rows(work->sums, work->rows, assign, skip, args->token_count, d);
    for (uint32_t c = 0; c < clusters; c++)
        for (size_t at = (size_t)c * d; at < (size_t)(c + 1) * d; at++)
            means_out[at] = (float)(work->sums[at] / counts[c]);
}

static void write_spreads(const lwk_build_t *args, uint32_t job, const uint16_t *assign, work_t *work)
{
    const uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    float *spreads = args->spreads + (size_t)job * args->cluster_capacity;
    memset(work->sums, 0, args->cluster_count[job] * sizeof *work->sums);
    for (uint32_t i = 0; i < args->token_count; i++)
        if (!work->is_outlier[i])
            work->sums[assign[i]] += work->distance[i];
    for (uint32_t c = 0; c < args->cluster_count[job]; c++) {
        double spread = work->sums[c] / sizes[c];
        spreads[c] = spread < FLT_MAX ? (float)spread : FLT_MAX;
    }
}

static void choose_job(const lwk_build_t *args, uint32_t job, const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim;
    const uint16_t *assign = args->assign + (size_t)job * n;
    float *centroids = args->centroids + (size_t)job * args->cluster_capacity * d;
    lwk_cpu_build_load(args, isa, args->keys, job, work->rows);
    isa->distances(work->rows, centroids, assign, n, d, work->distance);
    find_keepers(assign, n, args->cluster_count[job], work);
    args->outlier_count[job] = choose(args, assign, work);
    write_order(args, job, assign, work);
    write_means(args, job, assign, isa, work, work->is_outlier, work->counts[0], centroids);
    isa->distances(work->rows, centroids, assign, n, d, work->distance);
    write_spreads(args, job, assign, work);
    lwk_cpu_build_load(args, isa, args->values, job, work->rows);
    write_means(args, job, assign, isa, work, NULL, work->counts[1],
                args->value_means + (size_t)job * args->cluster_capacity * d);
}

lw_status_t lwk_cpu_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cpu_outliers_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++)
        choose_job(args, job, lwk_cpu_build_isa(), &work);
    return LW_OK;
}
