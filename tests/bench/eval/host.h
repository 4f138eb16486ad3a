/* host.h - a handle in miniature for needle_eval: builds the index of the captured tensors with a backend's
 * build ops, runs layer steps through its table, and answers every ticket from the packed records. Nothing is
 * ever cached, so that each retrieved entry is a fetch. For backends whose memory is host memory (ref, cpu).
 * One thread. */
#ifndef EVAL_HOST_H
#define EVAL_HOST_H

#include "bench/eval/tensors.h"
#include "kernels/backend.h"

#define EVAL_RANGES_MAX 16u

typedef struct eval_index_spec {
    uint32_t segment_tokens, index_end;
    uint32_t outlier_ppm, cluster_encoding, outlier_encoding, cluster_tokens;
} eval_index_spec_t;

typedef struct eval_host eval_host_t; /* opaque */

/* Ends the process with a message when memory or an op fails: there is nothing to measure then. */
eval_host_t *eval_host_create(const lwk_backend_t *backend, const eval_tensors_t *tensors,
                              const eval_index_spec_t *spec);
void eval_host_destroy(eval_host_t *host);

double eval_host_index_bytes(const eval_host_t *host);   /* a token and KV head */
double eval_host_build_seconds(const eval_host_t *host); /* processor time of all build ops */
uint32_t eval_host_entries(const eval_host_t *host);     /* on average of the KV heads */

/* What one layer step gave. Valid until the next call. */
typedef struct eval_step {
    const float *out; /* [EVAL_HEADS][d] */
    const float *lse; /* [EVAL_HEADS] */
} eval_step_t;

void eval_host_begin(eval_host_t *host, const eval_zone_t *zone, const lwk_policy_t *policy, uint32_t query);
/* Layers in order; after the last one the query is done. */
eval_step_t eval_host_layer(eval_host_t *host, uint32_t query, uint32_t layer);
/* Tokens that the last layer step retrieved for a KV head; returns how many. tokens_out: [EVAL_TOKENS]. */
uint32_t eval_host_retrieved(const eval_host_t *host, uint32_t kv_head, uint32_t *tokens_out,
                             uint32_t *entries_out);

#endif /* EVAL_HOST_H */
