/* build_private.h - workspaces of the ref build ops; each op knows its own. */
#ifndef LWK_REF_BUILD_PRIVATE_H
#define LWK_REF_BUILD_PRIVATE_H

#include "kernels/build_args.h"

uint64_t lwk_ref_kmeans_bytes(const lwk_build_t *args);
uint64_t lwk_ref_outliers_bytes(const lwk_build_t *args);
uint64_t lwk_ref_moments_bytes(const lwk_build_t *args);
uint64_t lwk_ref_encode_bytes(const lwk_build_t *args);

#endif /* LWK_REF_BUILD_PRIVATE_H */
