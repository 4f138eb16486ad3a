/* metrics.h - what is measured for each (query, query head), gathered by layer and over all. */
#ifndef EVAL_METRICS_H
#define EVAL_METRICS_H

#include <stdio.h>

#include "bench/eval/exact.h"
#include "bench/eval/host.h"
#include "bench/eval/policies.h"

/* Means over the (query, query head) pairs of a layer, or of all. */
typedef struct eval_figures {
    double e_mean, e_p95, e_p99, e_over; /* norm(o_hat - o) / norm(o); share of pairs above 0.3 */
    double lse_bias, lse_error;          /* mean of lse_hat - lse, of its absolute value */
    double top_share;   /* pairs whose largest-logit token was attended exactly, of those whose token lies in
                           the index */
    double top_indexed; /* share of pairs whose largest-logit token lies in the index */
    double mass;        /* share of the attention weight that was attended exactly */
    double exact_share; /* tokens attended exactly, steady zone included, of all */
    double retrieved_share;        /* tokens retrieved, of those in the index */
    double entries, fetched_bytes; /* of one query, layer and KV head */
} eval_figures_t;

typedef struct eval_result {
    eval_figures_t layer[EVAL_LAYERS], all;
    double index_bytes;            /* a token and KV head */
    double build_seconds, step_us; /* processor time: all build ops; one layer step */
    uint32_t entries;
} eval_result_t;

eval_result_t eval_measure(const eval_tensors_t *tensors, eval_host_t *host, const eval_policy_t *row,
                           const eval_zone_t *zone, const eval_exact_t *exact, uint32_t query_step);

void eval_print_head(FILE *to);
void eval_print_row(FILE *to, const eval_policy_t *row, uint32_t segment_tokens, const eval_result_t *result);
void eval_print_layers(FILE *to, const eval_policy_t *row, uint32_t segment_tokens,
                       const eval_result_t *result);
void eval_print_json(FILE *to, const eval_policy_t *row, uint32_t segment_tokens,
                     const eval_result_t *result);

#endif /* EVAL_METRICS_H */
