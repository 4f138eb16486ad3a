/* exact.h - attention over every token, worked out apart from the product's kernels: what the policies are
 * compared with. */
#ifndef EVAL_EXACT_H
#define EVAL_EXACT_H

#include "bench/eval/tensors.h"

typedef struct eval_exact {
    double lse;
    double steady_mass; /* share of the weight that lies in the sinks and the recent tokens */
    float top_logit;
    uint32_t top_token; /* the one with the largest logit; the lower one of equals */
    float out[EVAL_HEAD_DIM];
} eval_exact_t;

/* [EVAL_LAYERS][EVAL_QUERIES][EVAL_HEADS], for every query_step-th query; the caller frees it. */
eval_exact_t *eval_exact_all(const eval_tensors_t *tensors, const eval_zone_t *zone, uint32_t query_step);

static inline size_t eval_exact_at(uint32_t layer, uint32_t query, uint32_t head)
{
    return ((size_t)layer * EVAL_QUERIES + query) * EVAL_HEADS + head;
}

#endif /* EVAL_EXACT_H */
