/* harness_private.h - what harness.c and harness_range.c share. */
#ifndef OPS_HARNESS_PRIVATE_H
#define OPS_HARNESS_PRIVATE_H

#include "ops/harness.h"

void ops_must(int ok, const char *what);
void *ops_host(size_t bytes); /* zeroed; free() */
void *ops_device(ops_rig_t *rig, lwk_memory_t kind, size_t bytes);
/* Until all that was enqueued on the default stream is done. */
void ops_wait(const lwk_backend_t *backend, lwk_dev_t *dev);
float ops_gauss(lw_prng_t *prng);
/* First float of a token's row in rig->keys[stream] and rig->values[stream]. */
size_t ops_row_at(const ops_rig_t *rig, uint32_t layer, uint32_t head, uint32_t token);
void ops_to_dtype(const ops_rig_t *rig, const float *from, void *to, size_t to_at, uint32_t count);
void ops_range_free(ops_rig_t *rig, ops_range_t *range);

#endif /* OPS_HARNESS_PRIVATE_H */
