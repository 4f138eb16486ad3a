/* harness.h - a handle in miniature for the tests of the step path: it owns every buffer that the ops need,
 * cuts ranges from token rows that it keeps, answers tickets as a progress thread would, and knows what exact
 * attention would have said.
 *
 * Device memory is reached through the backend's copy only, so that the same tests serve a backend whose
 * memory is not ours. A failed allocation or op that must work ends the process. One thread. */
#ifndef OPS_HARNESS_H
#define OPS_HARNESS_H

#include <stdbool.h>

#include "base/prng.h"
#include "kernels/backend.h"
#include "ops/synth.h"

typedef enum ops_clustering {
    OPS_CLUSTER_RANDOM,     /* any token in any cluster, sizes from 1 to 3 times the average */
    OPS_CLUSTER_CONTIGUOUS, /* runs of cluster_tokens */
    OPS_CLUSTER_KMEANS,     /* the build ops of `ref` */
    OPS_CLUSTER_HALF, /* half of the tokens in one cluster, the rest contiguous; one cluster of size zero */
} ops_clustering_t;

typedef enum ops_data {
    OPS_DATA_SYNTH, /* synth.h */
    OPS_DATA_GAUSS, /* independent normal numbers, keys scaled so that logits have deviation ~1.5 */
    OPS_DATA_EQUAL, /* all keys equal */
    OPS_DATA_HARSH, /* logits of about +-80 for queries from ops_query() */
    OPS_DATA_SINKS, /* a head whose mass is all in the sinks */
} ops_data_t;

typedef struct ops_config {
    const lwk_backend_t *backend;
    uint64_t seed;
    lwk_shape_t shape;                           /* scale 0: 1 / sqrt(d) */
    uint32_t session_count;                      /* default 1 */
    uint32_t query_tokens;                       /* default 1 */
    uint32_t token_count;                        /* tokens that sessions can have */
    uint32_t cluster_encoding, outlier_encoding; /* default FP32 */
    uint32_t outlier_ppm;
    uint32_t cluster_tokens; /* default 16 */
    ops_clustering_t clustering;
    ops_data_t data;
    lwk_policy_t policy;
    uint32_t steady_rows;     /* default LW_STEADY_TOKENS_MIN */
    uint32_t item_capacity;   /* default: all entries */
    uint32_t ticket_capacity; /* default: enough for everything */
    uint32_t page_count[2];   /* default: enough for everything; UINT32_MAX: none */
    uint32_t admit_window;
    uint32_t local_every; /* every so-manieth range has its records in pinned memory: 1: all; 0: none */
} ops_config_t;

/* One (range row, layer, KV head) as the storage side keeps it. */
typedef struct ops_part {
    uint32_t cluster_count, outlier_count, row_count;
    uint16_t *sizes;   /* [clusters] */
    uint32_t *order;   /* [row_count] token of each stored row, counted from the range's first stored token */
    uint64_t *offsets; /* [clusters + outliers] of the record in records, in bytes */
    uint8_t *records;
    uint8_t *index;
    uint32_t index_bytes;
    double *moment_sums;
    lwk_tile_t tile; /* as published: device pointers */
} ops_part_t;

typedef struct ops_range {
    uint32_t row, stream, token_first, token_count; /* token_first includes the sinks for the first range */
    uint32_t stored_first;                          /* first token that lies in a cluster */
    ops_part_t *parts;                              /* [L][J] */
} ops_range_t;

#define OPS_RANGES_MAX 64u

typedef struct ops_rig {
    ops_config_t config;
    const lwk_backend_t *backend;
    lwk_dev_t *dev;
    lwk_dims_t dims;
    lwk_store_t store_host;  /* as written at create; pointers are device or pinned ones */
    lwk_store_t *store;      /* device */
    lwk_session_t *sessions; /* device */
    uint32_t *slots;         /* device */
    void *scratch_memory;
    lwk_scratch_t scratch;
    /* pinned */
    lwk_ticket_t *tickets;
    uint64_t *ticket_head, *ticket_tail, *arrivals;
    uint8_t *landing;
    uint64_t landing_bytes, landing_at; /* of landed records; local ones lie behind them */
    uint64_t local_bytes, local_at;
    lwk_counters_t *counters;
    uint64_t answered; /* tickets answered so far */
    /* host */
    lw_prng_t prng;
    lw_synth_t *synth;
    float **keys, **values; /* [stream] of [L][J][token_count][d]; rounded to the dtype */
    ops_range_t ranges[OPS_RANGES_MAX];
    uint32_t range_count;
    uint32_t *session_stream; /* [session_count] which token rows a session's tokens are */
    /* step buffers: device; and where results are read back to */
    void *query, *key, *value, *out;
    float *out_fp32, *lse;      /* device */
    float *query_host;          /* [S][T][H][d], rounded to the dtype: what the last step asked */
    float *out_host, *lse_host; /* [S][T][H][d], [S][T][H] */
    void *out_dtype_host;       /* [S][T][H][d] dtype */
    const uint32_t *tree_mask;  /* device copy, or NULL */
    uint32_t tree_mask_host[LW_QUERY_TOKENS_MAX];
    /* faults that the ticket answers play */
    uint64_t fail_ticket, drop_ticket; /* UINT64_MAX: none */
    bool hold_prefetch;                /* leave PREFETCH tickets unanswered */
} ops_rig_t;

ops_rig_t *ops_rig_create(const ops_config_t *config);
void ops_rig_destroy(ops_rig_t *rig);

/* Device <-> host. */
void ops_put(ops_rig_t *rig, void *device, const void *host, size_t bytes);
void ops_get(ops_rig_t *rig, void *host, const void *device, size_t bytes);
lwk_session_t ops_session(ops_rig_t *rig, uint32_t s);
void ops_set_session(ops_rig_t *rig, uint32_t s, const lwk_session_t *session);
void ops_set_policy(ops_rig_t *rig, uint32_t s, const lwk_policy_t *policy);

/* Gives session s the first token_count tokens: sinks and ring; ranges published so far stay. */
void ops_fill(ops_rig_t *rig, uint32_t s, uint32_t token_count);
/* Cuts the next `count` tokens after sealed_count into a new range, publishes it to the session, and returns
 * its number. */
uint32_t ops_seal(ops_rig_t *rig, uint32_t s, uint32_t count);
/* Publishes an existing range to another session (a fork). */
void ops_share(ops_rig_t *rig, uint32_t s, uint32_t range);

/* Queries for the next step of every session, by kind of data; zero: all 0. */
void ops_query(ops_rig_t *rig, uint32_t layer);
void ops_query_zero(ops_rig_t *rig);
/* One layer step with the prepared queries: prepare .. finish. The next T tokens of each session are
 * appended. admit runs after the last layer. Status of the first op that failed. */
lw_status_t ops_step(ops_rig_t *rig, uint32_t layer);
/* Parts of it, for tests that look in between. */
lwk_step_t ops_step_args(ops_rig_t *rig, uint32_t layer);
void ops_load_step(ops_rig_t *rig, uint32_t layer);
void ops_answer(ops_rig_t *rig);
void ops_read_step(ops_rig_t *rig);
lw_status_t ops_admit(ops_rig_t *rig);

/* Exact attention of (session, query token, query head) over what it sees, in double, with the step's tokens
 * counted. */
void ops_exact(ops_rig_t *rig, uint32_t s, uint32_t layer, uint32_t t, uint32_t query_head, double *out,
               double *lse);

/* Largest error of the step's fp32 output against exact attention, norm(o_hat - o) / norm(o), and of lse. */
typedef struct ops_errors {
    double out, lse, lse_bias; /* lse_bias: largest of (lse_hat - lse) */
} ops_errors_t;
ops_errors_t ops_errors(ops_rig_t *rig, uint32_t layer);

const char *ops_dtype_name(uint32_t dtype);
const char *ops_encoding_name(uint32_t encoding);
/* The default policy: 1.8% of tokens, expected maximum, both corrections. */
lwk_policy_t ops_policy(void);
lwk_policy_t ops_policy_full(void);

#endif /* OPS_HARNESS_H */
