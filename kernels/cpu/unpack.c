/* unpack.c - the inverse of pack is bound by memory in its plain form already: records are read in order,
 * once. */
#include "kernels/cpu/build.h"
#include "kernels/ref/build.h"

lw_status_t lwk_cpu_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream)
{
    return lwk_ref_unpack(dev, args, stream);
}
