/* stubs.h - what a backend puts in the slots that it does not serve: each answers ERR_UNSUPPORTED and touches
 * nothing. */
#ifndef LWK_STUBS_H
#define LWK_STUBS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

lw_status_t lwk_no_step(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_no_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream);
lw_status_t lwk_no_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream);
lw_status_t lwk_no_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream);
lw_status_t lwk_no_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream);
lw_status_t lwk_no_build(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_no_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream);
lw_status_t lwk_no_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream);
uint64_t lwk_no_build_workspace_bytes(const lwk_build_t *args);
lw_status_t lwk_no_capture_begin(lwk_dev_t *dev, void *stream);
lw_status_t lwk_no_capture_end(lwk_dev_t *dev, void *stream, lwk_graph_t **graph_out);
lw_status_t lwk_no_graph_launch(lwk_graph_t *graph, void *stream);
void lwk_no_graph_destroy(lwk_graph_t *graph);

#ifdef __cplusplus
}
#endif

#endif /* LWK_STUBS_H */
