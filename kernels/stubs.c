/* stubs.c - the functions behind the slots that a backend does not serve. Any thread. */
#include "kernels/stubs.h"

lw_status_t lwk_no_step(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_build(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
uint64_t lwk_no_build_workspace_bytes(const lwk_build_t *args)
{
    return 0;
}
lw_status_t lwk_no_capture_begin(lwk_dev_t *dev, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_capture_end(lwk_dev_t *dev, void *stream, lwk_graph_t **graph_out)
{
    return LW_ERR_UNSUPPORTED;
}
lw_status_t lwk_no_graph_launch(lwk_graph_t *graph, void *stream)
{
    return LW_ERR_UNSUPPORTED;
}
void lwk_no_graph_destroy(lwk_graph_t *graph) {}
