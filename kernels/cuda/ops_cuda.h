/* ops_cuda.h - the ops of the CUDA backend as C functions, one for each slot of the table that a GPU serves. What they
 * do, and on which memory, is in kernels/ops.h; `stream` is a cudaStream_t. They enqueue, and return LW_OK,
 * LW_ERR_INVALID or LW_ERR_DEVICE. One thread at a time for each device, the build ops on a second one. */
#ifndef LWK_OPS_CUDA_H
#define LWK_OPS_CUDA_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The table; NULL when this machine has no device that it can use. What dlsym() finds as lwk_backend_cuda. */
__attribute__((visibility("default"))) const lwk_backend_t *lwk_backend_cuda(void);

uint64_t lwk_cuda_workspace_bytes(const lwk_dims_t *dims);
lw_status_t lwk_cuda_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cuda_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cuda_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cuda_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cuda_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cuda_admit(lwk_dev_t *dev, const lwk_step_t *step, void *stream);

lw_status_t lwk_cuda_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream);
lw_status_t lwk_cuda_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream);
lw_status_t lwk_cuda_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream);
lw_status_t lwk_cuda_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream);

uint64_t lwk_cuda_build_workspace_bytes(const lwk_build_t *args);
lw_status_t lwk_cuda_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cuda_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cuda_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cuda_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cuda_pack(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cuda_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream);
lw_status_t lwk_cuda_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream);

#ifdef __cplusplus
}
#endif

#endif /* LWK_OPS_CUDA_H */
