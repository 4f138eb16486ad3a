/* backend_ref.c - the table of the reference backend. */
#include "kernels/ref/ref.h"

#include "kernels/host.h"
#include "kernels/ref/build.h"
#include "kernels/stubs.h"

struct lwk_dev {
    unsigned ordinal;
};

static lwk_dev_t ref_dev;

static lw_status_t ref_open(unsigned ordinal, lwk_dev_t **dev_out, lw_error_t *error)
{
    if (ordinal != 0)
        return lw_fail(error, LW_ERR_INVALID, "ref: ordinal is %u; only device 0 exists", ordinal);
    *dev_out = &ref_dev;
    return LW_OK;
}

static void ref_close(lwk_dev_t *dev) {}

static const char *ref_describe(lwk_dev_t *dev)
{
    return "reference, one thread";
}

static const lwk_backend_t ref_table = {
    .size = sizeof(lwk_backend_t),
    .version = LWK_BACKEND_VERSION,
    .name = "ref",
    .caps = 0,
    .open = ref_open,
    .close = ref_close,
    .describe = ref_describe,
    LWK_HOST_ROWS,
    .workspace_bytes = lwk_ref_workspace_bytes,
    .prepare = lwk_ref_prepare,
    .score = lwk_ref_score,
    .select = lwk_ref_select,
    .attend = lwk_ref_attend,
    .finish = lwk_ref_finish,
    .admit = lwk_ref_admit,
    .publish = lwk_ref_publish,
    .retire = lwk_ref_retire,
    .append = lwk_ref_append,
    .extend = lwk_ref_extend,
    .build_workspace_bytes = lwk_ref_build_workspace_bytes,
    .kmeans = lwk_ref_kmeans,
    .outliers = lwk_ref_outliers,
    .moments = lwk_ref_moments,
    .encode = lwk_ref_encode,
    .pack = lwk_ref_pack,
    .unpack = lwk_ref_unpack,
    .gather = lwk_ref_gather,
};

const lwk_backend_t *lwk_ref_backend(void)
{
    return &ref_table;
}
