/* build.h - the build ops of the `cpu` backend: the same results as `ref` up to the rounding of inner
 * products, an order of magnitude sooner. Contracts, errors and threads are those of kernels/ref/build.h;
 * each call runs on the calling thread. */
#ifndef LWK_CPU_BUILD_H
#define LWK_CPU_BUILD_H

#include "kernels/backend.h"

uint64_t lwk_cpu_build_workspace_bytes(const lwk_build_t *args);
lw_status_t lwk_cpu_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cpu_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cpu_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cpu_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cpu_pack(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_cpu_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream);

#endif /* LWK_CPU_BUILD_H */
