/* entry.h - one index entry as numbers: its key, its value mean, its spread, and what they say about one
 * query head. Private to kernels/ref. */
#ifndef LWK_REF_ENTRY_H
#define LWK_REF_ENTRY_H

#include <stdbool.h>

#include "kernels/view.h"

/* The reference computes in this type. */
typedef double real;

typedef struct ref_tile {
    const lwk_tile_t *tile;
    lwk_index_layout_t at;
    uint32_t head_dim;
} ref_tile_t;

/* What does not change from entry to entry of a tile, for one (query token, query head). */
typedef struct ref_query {
    const lwk_policy_t *policy;
    const float *query; /* [d], fp32, not scaled */
    real scale, soft_cap;
    real spread; /* variance of the logit for spread 1 */
    real noise;  /* scale^2 |channel * q|^2 / 24 of this tile */
} ref_query_t;

/* ops.h names them: spread', variance, A, R. */
typedef struct ref_terms {
    real spread, variance, mass, rank;
    real slope;
} ref_terms_t;

ref_tile_t lwk_ref_tile_open(const lwk_tile_t *tile, uint32_t head_dim);
ref_query_t lwk_ref_query_open(const lwk_step_t *step, const lwk_session_t *session, const ref_tile_t *tile,
                           size_t query_row);

/* Adds the key, or the value mean of a cluster, to row_out[head_dim]. */
void lwk_ref_entry_key(const ref_tile_t *tile, uint32_t entry, real *row_out);
void lwk_ref_cluster_value(const ref_tile_t *tile, uint32_t cluster, real *row_out);
uint32_t lwk_ref_outlier_parent(const ref_tile_t *tile, uint32_t entry);

/* c tanh(x / c), or x. */
real lwk_ref_soft_cap(real x, real soft_cap);
/* Entry of size > 0 with this (soft-capped) logit. */
ref_terms_t lwk_ref_entry_terms(const ref_tile_t *tile, const ref_query_t *query, uint32_t entry, real logit);

#endif /* LWK_REF_ENTRY_H */
