/* test_ops.h - the three modes of test_ops. Private to it. */
#ifndef OPS_TEST_OPS_H
#define OPS_TEST_OPS_H

#include <stdint.h>

#include "ops/variants.h"

/* Every row of the matrix whose name contains `filter` (of those one in `every`; the seed says which), on one
 * variant, against `ref` and against exact attention. Returns the number of failures; adds to *rows_out how many
 * rows ran. */
int ops_matrix(const ops_variant_t *variant, const lwk_backend_t *backend, uint64_t seed, const char *filter,
               uint32_t every, int *rows_out);
/* Times the ops on one variant and prints each beside the time that reading its bytes takes. */
void ops_perf(const ops_variant_t *variant, const lwk_backend_t *backend, uint64_t seed, const char *filter);

#endif /* OPS_TEST_OPS_H */
