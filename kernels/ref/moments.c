/* moments.c - a range's own sums for the second-order corrections, over the tokens that are not outliers. The
 * plain version. Called by the thread that seals a range, after outliers. */
#include "kernels/ref/build.h"
#include "kernels/ref/build_private.h"

typedef struct work {
    double *key, *value; /* [d] residuals of one token */
} work_t;

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->key = lwk_carve_take(&at, args->head_dim * sizeof *work->key);
    work->value = lwk_carve_take(&at, args->head_dim * sizeof *work->value);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_ref_moments_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

static void add_token(const lwk_build_t *args, uint32_t job, uint32_t token, uint32_t cluster, work_t *work,
                      double *sums)
{
    uint32_t d = args->head_dim;
    size_t row = lwk_build_row(args, job, token);
    size_t mean = ((size_t)job * args->cluster_capacity + cluster) * d;
    double *key_key = sums + 2, *value_key = sums + 2 + (size_t)d * d;
    for (uint32_t j = 0; j < d; j++) {
        work->key[j] = (double)lwk_load(args->keys, args->dtype, row + j) - args->centroids[mean + j];
        work->value[j] = (double)lwk_load(args->values, args->dtype, row + j) - args->value_means[mean + j];
        sums[1] += work->key[j] * work->key[j];
    }
    sums[0] += 1;
    for (uint32_t a = 0; a < d; a++)
        for (uint32_t b = 0; b < d; b++) {
            key_key[(size_t)a * d + b] += work->key[a] * work->key[b];
            value_key[(size_t)a * d + b] += work->value[a] * work->key[b];
        }
}

static void sum_job(const lwk_build_t *args, uint32_t job, work_t *work)
{
    size_t d = args->head_dim, stride = 2 + 2 * d * d;
    double *sums = args->moment_sums + job * stride;
    const uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    const uint32_t *order = args->order + (size_t)job * args->token_count;
    for (size_t at = 0; at < stride; at++)
        sums[at] = 0;
    for (uint32_t c = 0; c < args->cluster_count[job]; c++)
        for (uint32_t i = 0; i < sizes[c]; i++)
            add_token(args, job, *order++, c, work, sums);
}

lw_status_t lwk_ref_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_ref_moments_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++)
        sum_job(args, job, &work);
    return LW_OK;
}
