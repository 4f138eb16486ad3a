/* build.h - the build ops of the `ref` backend: one plain loop after another, sums in double and in token
 * order.
 *
 * Contracts are those of lwk_build_t and lwk_unpack_t (kernels/ops.h). All are synchronous: `dev` and
 * `stream` are not used. ERR_INVALID for shapes that do not fit; nothing is written then. Any thread, one
 * call at a time for a workspace.
 */
#ifndef LWK_REF_BUILD_H
#define LWK_REF_BUILD_H

#include "kernels/backend.h"

/* The largest workspace that any of the ops below needs. */
uint64_t lwk_ref_build_workspace_bytes(const lwk_build_t *args);

/* Writes assign, cluster_count, sizes (of all tokens), centroids, and outlier_count = 0. */
lw_status_t lwk_ref_kmeans(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
/* Reads what kmeans wrote; writes outlier_count, parents, order, sizes, centroids and spreads without
 * outliers, and value_means with them. Must run also when outlier_ppm is 0. A token that lies on its centroid
 * never becomes an outlier. */
lw_status_t lwk_ref_outliers(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
/* Writes moment_sums from what the two before wrote. */
lw_status_t lwk_ref_moments(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
/* Writes index; ERR_INVALID when index_stride is smaller than a job's layout. */
lw_status_t lwk_ref_encode(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
/* Writes the records: token_count row pairs for each job. */
lw_status_t lwk_ref_pack(lwk_dev_t *dev, const lwk_build_t *args, void *stream);
lw_status_t lwk_ref_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream);

#endif /* LWK_REF_BUILD_H */
