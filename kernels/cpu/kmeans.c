/* kmeans.c - segmented spherical k-means for the cpu backend: as kernels/ref/kmeans.c, with the inner
 * products in fp32 and in register tiles. Called by the thread that seals a range. */
#include <math.h>
#include <string.h>

#include "kernels/build_split.h"
#include "kernels/cpu/build.h"
#include "kernels/cpu/build_private.h"

typedef struct work {
    float *rows;           /* [n up to a tile][d] keys; then without their mean, scaled by a power of two */
    float *panels;         /* [clusters up to a pair of panels / 16][d][16] directions */
    double *sums;          /* [clusters][d] */
    double *mean;          /* [d] */
    uint32_t *counts;      /* [clusters] */
    uint32_t *starts;      /* [clusters] */
    lwk_ranked_t *members; /* [n] */
    double *split;         /* [3][d] */
    uint16_t *zeros;       /* [n] */
} work_t;

static uint32_t panel_count_of(uint32_t clusters)
{
    return (uint32_t)lw_div_up(clusters, LWK_PANEL * LWK_PANELS_STEP) * LWK_PANELS_STEP;
}

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t n = args->token_count, d = args->head_dim, clusters = args->cluster_capacity;
    uint64_t padded = lw_div_up(n, LWK_TOKEN_TILE) * LWK_TOKEN_TILE;
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->rows = lwk_carve_take(&at, padded * d * sizeof *work->rows);
    work->panels = lwk_carve_take(&at, (uint64_t)panel_count_of((uint32_t)clusters) * LWK_PANEL * d *
                                           sizeof *work->panels);
    work->sums = lwk_carve_take(&at, clusters * d * sizeof *work->sums);
    work->mean = lwk_carve_take(&at, d * sizeof *work->mean);
    work->counts = lwk_carve_take(&at, clusters * sizeof *work->counts);
    work->starts = lwk_carve_take(&at, clusters * sizeof *work->starts);
    work->members = lwk_carve_take(&at, n * sizeof *work->members);
    work->split = lwk_carve_take(&at, 3 * d * sizeof *work->split);
    work->zeros = lwk_carve_take(&at, n * sizeof *work->zeros);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cpu_kmeans_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

/* Takes the mean off and brings the rows near 1, so that no square can overflow; the padding rows become 0.
 */
static void load_rows(const lwk_build_t *args, uint32_t job, const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim;
    uint32_t padded = (uint32_t)lw_div_up(n, LWK_TOKEN_TILE) * LWK_TOKEN_TILE;
    double lanes[8] = {0}, largest = 0;
    int exponent = 0;
    lwk_cpu_build_load(args, isa, args->keys, job, work->rows);
    memset(work->zeros, 0, n * sizeof *work->zeros);
    memset(work->mean, 0, d * sizeof *work->mean);
    isa->add_rows(work->mean, work->rows, work->zeros, NULL, n, d);
    for (uint32_t j = 0; j < d; j++)
        work->mean[j] /= n;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < d; j += 8)
            for (uint32_t l = 0; l < 8; l++) {
                double size = fabs(work->rows[(size_t)i * d + j + l] - work->mean[j + l]);
                lanes[l] = size > lanes[l] ? size : lanes[l];
            }
    for (uint32_t l = 0; l < 8; l++)
        largest = fmax(largest, lanes[l]);
    frexp(largest, &exponent);
    double scale = ldexp(1, -exponent);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < d; j++)
            work->rows[(size_t)i * d + j] = (float)((work->rows[(size_t)i * d + j] - work->mean[j]) * scale);
    memset(work->rows + (size_t)n * d, 0, (size_t)(padded - n) * d * sizeof *work->rows);
}

static float *direction(const work_t *work, uint32_t cluster, uint32_t d)
{
    return work->panels + (size_t)(cluster / LWK_PANEL) * LWK_PANEL * d + cluster % LWK_PANEL;
}

/* Normalises row c of sums into its panel lane. */
static void set_direction(work_t *work, uint32_t c, uint32_t d)
{
    const double *from = work->sums + (size_t)c * d;
    float *to = direction(work, c, d);
    double square = 0;
    for (uint32_t j = 0; j < d; j++)
        square += from[j] * from[j];
    double scale = square > 0 ? 1 / sqrt(square) : 0;
    for (uint32_t j = 0; j < d; j++)
        to[(size_t)j * LWK_PANEL] = (float)(from[j] * scale);
}

/* The lanes past the last cluster repeat it: they tie with it, and the lower number wins. */
static void pad_directions(work_t *work, uint32_t clusters, uint32_t d)
{
    const float *last = direction(work, clusters - 1, d);
    for (uint32_t c = clusters; c < panel_count_of(clusters) * LWK_PANEL; c++)
        for (uint32_t j = 0; j < d; j++)
            direction(work, c, d)[(size_t)j * LWK_PANEL] = last[(size_t)j * LWK_PANEL];
}

static void seed(const lwk_build_t *args, uint32_t clusters, work_t *work)
{
    uint32_t d = args->head_dim;
    for (uint32_t c = 0; c < clusters; c++) {
        size_t token = (size_t)((uint64_t)c * args->token_count / clusters);
        for (uint32_t j = 0; j < d; j++)
            work->sums[(size_t)c * d + j] = work->rows[token * d + j];
        set_direction(work, c, d);
    }
    pad_directions(work, clusters, d);
}

static void count_members(const lwk_build_t *args, uint32_t clusters, const uint16_t *assign,
                          uint32_t *counts_out)
{
    memset(counts_out, 0, clusters * sizeof *counts_out);
    for (uint32_t i = 0; i < args->token_count; i++)
        counts_out[assign[i]]++;
}

static void turn_directions(const lwk_build_t *args, uint32_t clusters, const uint16_t *assign,
                            const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t d = args->head_dim;
    count_members(args, clusters, assign, work->counts);
    memset(work->sums, 0, (size_t)clusters * d * sizeof *work->sums);
    isa->add_rows(work->sums, work->rows, assign, NULL, args->token_count, d);
    for (uint32_t c = 0; c < clusters; c++)
        if (work->counts[c] > 0)
            set_direction(work, c, d);
    pad_directions(work, clusters, d);
}

static void write_centroids(const lwk_build_t *args, uint32_t job, uint32_t clusters, const uint16_t *assign,
                            const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t d = args->head_dim;
    uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    float *centroids = args->centroids + (size_t)job * args->cluster_capacity * d;
    count_members(args, clusters, assign, work->counts);
    memset(work->sums, 0, (size_t)clusters * d * sizeof *work->sums);
    lwk_cpu_build_load(args, isa, args->keys, job, work->rows);
    isa->add_rows(work->sums, work->rows, assign, NULL, args->token_count, d);
    for (uint32_t c = 0; c < clusters; c++) {
        sizes[c] = (uint16_t)work->counts[c];
        for (uint32_t j = 0; j < d; j++)
            centroids[(size_t)c * d + j] = (float)(work->sums[(size_t)c * d + j] / work->counts[c]);
    }
}

static void cluster_job(const lwk_build_t *args, uint32_t job, const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t n = args->token_count, d = args->head_dim, clusters = lwk_build_seed_count(args);
    uint16_t *assign = args->assign + (size_t)job * n;
    load_rows(args, job, isa, work);
    seed(args, clusters, work);
    memset(assign, 0xFF, n * sizeof *assign);
    for (uint32_t round = 0;
         isa->assign(work->rows, n, d, work->panels, panel_count_of(clusters), assign) > 0 &&
         round + 1 < args->iterations;
         round++)
        turn_directions(args, clusters, assign, isa, work);
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
    write_centroids(args, job, clusters, assign, isa, work);
    args->cluster_count[job] = clusters;
    args->outlier_count[job] = 0;
}

lw_status_t lwk_cpu_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cpu_kmeans_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++)
        cluster_job(args, job, lwk_cpu_build_isa(), &work);
    return LW_OK;
}
