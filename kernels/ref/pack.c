/* pack.c - writes a job's rows in record order: a cluster's rows of K, then its rows of V; then the outliers,
 * one K row and one V row each. The plain version. Called by the thread that seals a range, after outliers.
 */
#include <string.h>

#include "kernels/ref/build.h"
#include "kernels/ref/build_private.h"

static uint8_t *put_rows(const lwk_build_t *args, uint32_t job, const void *rows, const uint32_t *tokens,
                         uint32_t count, uint8_t *to)
{
    size_t element = lwk_dtype_bytes(args->dtype), bytes = element * args->head_dim;
    for (uint32_t i = 0; i < count; i++, to += bytes)
        memcpy(to, (const uint8_t *)rows + lwk_build_row(args, job, tokens[i]) * element, bytes);
    return to;
}

static void pack_job(const lwk_build_t *args, uint32_t job)
{
    const uint16_t *sizes = args->sizes + (size_t)job * args->cluster_capacity;
    const uint32_t *tokens = args->order + (size_t)job * args->token_count;
    uint32_t clusters = args->cluster_count[job], entries = clusters + args->outlier_count[job];
    uint8_t *to = args->records[job];
    for (uint32_t e = 0; e < entries; e++) {
        uint32_t size = e < clusters ? sizes[e] : 1;
        to = put_rows(args, job, args->keys, tokens, size, to);
        to = put_rows(args, job, args->values, tokens, size, to);
        tokens += size;
    }
}

lw_status_t lwk_ref_pack(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_build_check(args, 0);
    if (status != LW_OK)
        return status;
    for (uint32_t job = 0; job < args->job_count; job++)
        pack_job(args, job);
    return LW_OK;
}
