/* unpack.c - puts the records of one head back into token order. The plain version. Called when rows of a
 * stored segment are needed as they were: exact extension, fork, repair. */
#include <string.h>

#include "kernels/build_args.h"
#include "kernels/ref/build.h"
#include "kernels/view.h"

static const uint8_t *take_rows(const uint8_t *from, const uint32_t *tokens, uint32_t count, size_t bytes,
                                void *rows)
{
    for (uint32_t i = 0; i < count; i++, from += bytes)
        memcpy((uint8_t *)rows + tokens[i] * bytes, from, bytes);
    return from;
}

lw_status_t lwk_ref_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream)
{
    (void)dev, (void)stream;
    lw_status_t status = lwk_unpack_check(args);
    if (status != LW_OK)
        return status;
    size_t bytes = (size_t)lwk_dtype_bytes(args->dtype) * args->head_dim;
    const uint8_t *from = args->records;
    const uint32_t *tokens = args->order;
    for (uint32_t e = 0; e < args->cluster_count + args->outlier_count; e++) {
        uint32_t size = e < args->cluster_count ? args->sizes[e] : 1;
        from = take_rows(from, tokens, size, bytes, args->keys);
        from = take_rows(from, tokens, size, bytes, args->values);
        tokens += size;
    }
    return LW_OK;
}
