/* moments.c - kernels/ref/moments.c as blocks of tokens: residuals in fp32, outer products in register tiles,
 * block sums added in double. Called by the thread that seals a range, after outliers. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/build.h"
#include "kernels/cpu/build_private.h"

#define BLOCK 128u /* tokens whose products are added in fp32 before they join the double sums */

typedef struct work {
    float *key, *value; /* [BLOCK][stride] residuals, scaled by powers of two */
    double *scaled;     /* [d * d] */
} work_t;

static uint32_t stride_of(const lwk_build_t *args)
{
    return (uint32_t)lw_div_up(args->head_dim, LWK_OUTER_COLUMNS) * LWK_OUTER_COLUMNS;
}

static uint64_t carve(work_t *work, const lwk_build_t *args, void *workspace)
{
    uint64_t bytes = (uint64_t)BLOCK * stride_of(args) * sizeof(float);
    lwk_carve_t at = {workspace == NULL ? NULL : lwk_workspace_base(workspace), 0};
    work->key = lwk_carve_take(&at, bytes);
    work->value = lwk_carve_take(&at, bytes);
    work->scaled = lwk_carve_take(&at, (uint64_t)args->head_dim * args->head_dim * sizeof *work->scaled);
    return at.used + LWK_WORKSPACE_SLACK;
}

uint64_t lwk_cpu_moments_bytes(const lwk_build_t *args)
{
    work_t work;
    return carve(&work, args, NULL);
}

#define LANES 8u /* running maxima of the residuals */

/* Brings a block near 1, so that products of huge numbers stay finite. Returns the exponent taken out. */
static int rescale(float *block, uint32_t rows, uint32_t stride, const float lanes[LANES])
{
    float largest = 0;
    int exponent = 0;
    for (uint32_t l = 0; l < LANES; l++)
        largest = fmaxf(largest, lanes[l]);
    frexpf(largest, &exponent);
    if (exponent > -20 && exponent < 20)
        return 0;
    for (size_t at = 0; at < (size_t)rows * stride; at++)
        block[at] = ldexpf(block[at], -exponent);
    return exponent;
}

static void add_product(const lwk_cpu_build_isa_t *isa, const lwk_build_t *args, const work_t *work,
                        const float *left, uint32_t tokens, int exponent, double *sums)
{
    size_t d = args->head_dim;
    if (exponent == 0) {
        isa->outer(left, work->key, tokens, args->head_dim, stride_of(args), sums);
        return;
    }
    memset(work->scaled, 0, d * d * sizeof *work->scaled);
    isa->outer(left, work->key, tokens, args->head_dim, stride_of(args), work->scaled);
    for (size_t at = 0; at < d * d; at++)
        sums[at] += ldexp(work->scaled[at], exponent);
}

static void sum_job(const lwk_build_t *args, uint32_t job, const lwk_cpu_build_isa_t *isa, work_t *work)
{
    uint32_t d = args->head_dim, stride = stride_of(args), n = args->token_count - args->outlier_count[job];
    size_t element = lwk_dtype_bytes(args->dtype);
    const uint16_t *assign = args->assign + (size_t)job * args->token_count;
    const uint32_t *order = args->order + (size_t)job * args->token_count;
    double *sums = args->moment_sums + (size_t)job * (2 + 2 * (size_t)d * d);
    memset(sums, 0, (2 + 2 * (size_t)d * d) * sizeof *sums);
    memset(work->key, 0, (size_t)BLOCK * stride * sizeof *work->key);
    memset(work->value, 0, (size_t)BLOCK * stride * sizeof *work->value);
    for (uint32_t first = 0; first < n; first += BLOCK) {
        uint32_t tokens = n - first < BLOCK ? n - first : BLOCK;
        float largest_key[LANES] = {0}, largest_value[LANES] = {0};
        for (uint32_t t = 0; t < tokens; t++) {
            uint32_t token = order[first + t];
            size_t mean = ((size_t)job * args->cluster_capacity + assign[token]) * d,
                   row = lwk_build_row(args, job, token);
            isa->residual((const uint8_t *)args->keys + row * element, args->dtype, args->centroids + mean, d,
                          work->key + (size_t)t * stride, largest_key);
            isa->residual((const uint8_t *)args->values + row * element, args->dtype,
                          args->value_means + mean, d, work->value + (size_t)t * stride, largest_value);
        }
        int key_exponent = rescale(work->key, tokens, stride, largest_key);
        int value_exponent = rescale(work->value, tokens, stride, largest_value);
        add_product(isa, args, work, work->key, tokens, 2 * key_exponent, sums + 2);
        add_product(isa, args, work, work->value, tokens, key_exponent + value_exponent,
                    sums + 2 + (size_t)d * d);
    }
    sums[0] = n;
    for (size_t j = 0; j < d; j++)
        sums[1] += sums[2 + j * d + j];
}

lw_status_t lwk_cpu_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status == LW_OK)
        status = lwk_build_check(args, lwk_cpu_moments_bytes(args));
    if (status != LW_OK)
        return status;
    work_t work;
    carve(&work, args, args->workspace);
    for (uint32_t job = 0; job < args->job_count; job++)
        sum_job(args, job, lwk_cpu_build_isa(), &work);
    return LW_OK;
}
