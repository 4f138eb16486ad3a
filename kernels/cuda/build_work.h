/* build_work.h - workspaces of the CUDA build ops; each op knows its own. */
#ifndef LWK_CUDA_BUILD_WORK_H
#define LWK_CUDA_BUILD_WORK_H

#include "kernels/build_args.h"

uint64_t lwk_cuda_kmeans_bytes(const lwk_build_t *args);
uint64_t lwk_cuda_outliers_bytes(const lwk_build_t *args);
uint64_t lwk_cuda_moments_bytes(const lwk_build_t *args);

#endif /* LWK_CUDA_BUILD_WORK_H */
