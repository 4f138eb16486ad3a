/* policies.h - the rows of needle_eval's table: one factor at a time around the default. */
#ifndef EVAL_POLICIES_H
#define EVAL_POLICIES_H

#include "bench/eval/host.h"

typedef struct eval_policy {
    const char *group, *name;
    uint32_t outlier_ppm, cluster_encoding, outlier_encoding, cluster_tokens;
    uint32_t recent; /* of the zone; 0: all tokens after the index */
    lwk_policy_t policy;
} eval_policy_t;

/* Fills rows_out[EVAL_POLICIES_MAX]; returns how many. */
#define EVAL_POLICIES_MAX 48u
uint32_t eval_policies(eval_policy_t *rows_out);

#endif /* EVAL_POLICIES_H */
