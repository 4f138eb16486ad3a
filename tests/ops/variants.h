/* variants.h - the backends under test: `ref`, and `cpu` once for each instruction set that this processor
 * has. */
#ifndef OPS_VARIANTS_H
#define OPS_VARIANTS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

typedef struct ops_variant {
    const char *name;    /* "cpu-avx2" */
    const char *backend; /* "cpu" */
    const char *level;   /* value of LWK_CPU_LEVEL; NULL: none */
} ops_variant_t;

#define OPS_VARIANTS 5u
extern const ops_variant_t ops_variants[OPS_VARIANTS];

/* Makes the environment such that opening the backend gives this variant; NULL when this machine cannot run
 * it. */
const lwk_backend_t *ops_variant_use(const ops_variant_t *variant);

/* LW_SEED from the environment, or a new one; printed. */
uint64_t ops_seed(void);

#endif /* OPS_VARIANTS_H */
