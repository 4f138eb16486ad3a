/* gather.c - copies records from where they are stored to landing memory. Serves every backend whose memory
 * is host memory. */
#include <string.h>

#include "kernels/ref/ref.h"

lw_status_t lwk_ref_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream)
{
    if (args->count > 0 &&
        (args->from == NULL || args->bytes == NULL || args->to == NULL || args->into == NULL))
        return LW_ERR_INVALID;
    for (uint32_t i = 0; i < args->count; i++)
        memcpy(args->into + args->to[i], args->from[i], args->bytes[i]);
    return LW_OK;
}
