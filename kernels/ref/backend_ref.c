/* backend_ref.c - the table of the reference backend. */
#include "kernels/ref/ref.h"

#include "kernels/host.h"
#include "kernels/stubs.h"
#ifdef LWK_BUILD_OPS
#include "kernels/ref/build.h"
#endif

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
    .alloc = lwk_host_alloc,
    .free = lwk_host_free,
    .register_host = lwk_host_register,
    .unregister_host = lwk_host_unregister,
    .copy = lwk_host_copy,
    .stream_create = lwk_host_stream_create,
    .stream_destroy = lwk_host_stream_destroy,
    .event_create = lwk_host_event_create,
    .event_destroy = lwk_host_event_destroy,
    .event_record = lwk_host_event_record,
    .event_query = lwk_host_event_query,
    .capture_begin = lwk_no_capture_begin,
    .capture_end = lwk_no_capture_end,
    .graph_launch = lwk_no_graph_launch,
    .graph_destroy = lwk_no_graph_destroy,
    .warm_up = lwk_host_warm_up,
    .workspace_bytes = lwk_ref_workspace_bytes,
    .prepare = lwk_ref_prepare,
    .score = lwk_ref_score,
    .select = lwk_ref_select,
    .attend = lwk_ref_attend,
    .finish = lwk_ref_finish,
    .admit = lwk_ref_admit,
    .publish = lwk_ref_publish,
    .retire = lwk_ref_retire,
    .extend = lwk_ref_extend,
#ifdef LWK_BUILD_OPS
    .build_workspace_bytes = lwk_ref_build_workspace_bytes,
    .kmeans = lwk_ref_kmeans,
    .outliers = lwk_ref_outliers,
    .moments = lwk_ref_moments,
    .encode = lwk_ref_encode,
    .pack = lwk_ref_pack,
    .unpack = lwk_ref_unpack,
#else
    .build_workspace_bytes = lwk_no_build_workspace_bytes,
    .kmeans = lwk_no_build,
    .outliers = lwk_no_build,
    .moments = lwk_no_build,
    .encode = lwk_no_build,
    .pack = lwk_no_build,
    .unpack = lwk_no_unpack,
#endif
    .gather = lwk_ref_gather,
};

const lwk_backend_t *lwk_ref_backend(void)
{
    return &ref_table;
}
