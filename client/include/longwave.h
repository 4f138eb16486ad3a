/* longwave.h - the whole public surface of the client library.
 *
 * Objects     lw_t (one per GPU worker and model) owns lw_session_t (one per request).
 *             Close children first; lw_close() with live children asserts.
 * Threads     A lw_t and everything under it belong to one thread at a time. Two lw_t share nothing mutable.
 *             A handle has one thread of its own that seals, ships and renews leases; none of its work is on the
 *             step path. On a host backend the caller's thread drives fetches inside lw_attend and lw_progress; on an
 *             asynchronous one (CUDA) a second thread does, beside the GPU.
 * Streams     On an asynchronous backend calls enqueue on the `stream` that they are given, sessions' calls on the one that
 *             the handle was given last; a change of streams is ordered on the device. Tensors are read and written in the
 *             stream's order, and a stream lives until the handle is closed or has another. lw_attend, lw_prefetch and
 *             lw_replay never wait for the device: they say that work was accepted, lw_step_status how it ended.
 *             While a stream is being captured only steps over bound slots may be called.
 * Async       Calls taking a lw_op_t return LW_INPROGRESS and finish inside lw_progress(). Pass NULL to block.
 *             The caller owns the op's memory and must not touch or move it until it completes.
 * Ownership   Inputs are borrowed until the call returns, tensors until the op completes. The library never frees
 *             memory it did not allocate.
 * Outputs     Come last, end in _out, and are written only on success.
 * Errors      lw_last_error() has the cause of a handle's last failed call in words.
 */
#ifndef LONGWAVE_H
#define LONGWAVE_H

#include <stddef.h>
#include <stdint.h>

#include "longwave_status.h" /* from proto/base/, installed beside this file */
#include "longwave_types.h"

#define LW_API_VERSION 1u
#define LW_API __attribute__((visibility("default")))
#ifndef LW_CHECK
#define LW_CHECK __attribute__((warn_unused_result))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lw lw_t;                 /* opaque */
typedef struct lw_session lw_session_t; /* opaque */

/* Completion record: fixed size, caller-owned, so submitting never allocates. */
typedef struct lw_op {
    int32_t status; /* lw_status_t; LW_INPROGRESS until done */
    uint32_t reserved;
    void *user_data; /* never read by the library */
    uint64_t priv[6];
} lw_op_t;

/* Input structs: first field is sizeof the struct as the caller knew it, zero in any field means the default, new fields
 * go at the end. A larger size is accepted when the bytes beyond are zero, else ERR_VERSION. */
#define LW_PARAMS(type) { .size = sizeof(type) }

/* Shape of the model that a handle serves; all its sessions share it. Names in errors are these fields' names. */
typedef struct lw_model {
    uint32_t size;
    uint32_t layer_count;      /* 1..256 */
    uint32_t kv_head_count;    /* 1..64: of this tensor-parallel rank */
    uint32_t query_head_count; /* a multiple of kv_head_count, at most 16 times it */
    uint32_t head_dim;         /* a multiple of 8, 8..256 */
    uint32_t dtype;            /* lw_dtype_t; 0: BF16 */
    float scale;               /* softmax scale; 0: 1 / sqrt(head_dim) */
    float soft_cap;            /* 0: none */
    const char *model_id;      /* name and weights' identity: part of every prefix key; required, at most 127 bytes */
    uint32_t rank, rank_count; /* tensor parallelism; 0, 0: alone */
} lw_model_t;

/* Who drives fetches. Host backends: the caller, inside the calls that need them. Asynchronous backends: a thread of the
 * handle, which never waits for the device; the caller is refused there. */
typedef enum lw_progress_mode {
    LW_PROGRESS_DEFAULT = 0, /* what the backend needs */
    LW_PROGRESS_CALLER = 1,
    LW_PROGRESS_THREAD = 2,
} lw_progress_mode_t;

typedef struct lw_open_params {
    uint32_t size;
    uint32_t device;        /* accelerator ordinal, ignored on host backends */
    const char *backend;    /* "cuda", "cpu", "ref"; NULL: best available */
    const char *fleet;      /* control addresses "host:port,host:port"; NULL: option client.fleet. "local": none, the KV
                               stays in this process (option local.bytes), sessions end when they are closed */
    const char *config;     /* "group.name=value;..." over the environment; NULL: none */
    const char *tenant;     /* NULL: "default" */
    uint64_t device_bytes;  /* device memory for the block cache; 0: option cache.bytes */
    lw_model_t model;
    uint32_t sessions_max;  /* sessions open at once; 0: 8 */
    uint32_t tokens_max;    /* longest session; 0: 131,072 */
    uint32_t progress;      /* lw_progress_mode_t */
    uint32_t reserved;
} lw_open_params_t;

/* Named policies: how much is attended exactly, how the rest is estimated (docs/decisions/0006-four-token-clusters.md). */
typedef enum lw_policy {
    LW_POLICY_DEFAULT = 0,      /* LW_POLICY_EXPECTED_MAX with the defaults below */
    LW_POLICY_EXPECTED_MAX = 1, /* an error target (or a fixed budget by expected maximum), all of the rest estimated */
    LW_POLICY_PAPER = 2,        /* RetroInfer's: 1.8% of clusters by centroid, 23.2% estimated, no outliers, no corrections */
    LW_POLICY_FULL = 3,         /* every cluster retrieved: exact, slow, for tests */
    LW_POLICY_NOTHING = 4,      /* nothing retrieved: a control */
    LW_POLICY_STEADY = 5,       /* the steady zone alone: a control */
} lw_policy_t;

#define LW_PPM_NONE UINT32_MAX /* an explicit zero where 0 means the default */

typedef struct lw_session_params {
    uint32_t size;
    uint32_t replicas;       /* copies of each segment; 0: 2 where the fleet has 2 nodes that are up when the session is created, else 1 */
    uint64_t session_id;     /* 0: create; else reopen */
    uint32_t read_only;      /* reopen without taking the write lease */
    uint32_t policy;         /* lw_policy_t */
    uint64_t ttl_us;         /* 0: lives until dropped or evicted */
    uint32_t accuracy_ppm;   /* target for the expected error of a head's output; 0: the policy's, or the fixed budget */
    uint32_t retrieve_ppm;   /* fixed budget: share of tokens retrieved; 0: adaptive, where the policy has a target */
    uint32_t estimate_ppm;   /* share of the others estimated; 0: all */
    uint32_t outlier_ppm;    /* share of tokens with an index entry of their own */
    uint32_t cluster_tokens; /* average size, 4..256; 0: the policy's */
    uint32_t segment_tokens; /* prefill segment: a multiple of 1,024 up to 8,192; 0: 8,192 */
    uint32_t cluster_encoding, outlier_encoding; /* lw_encoding_t of index entries */
    uint32_t correct;        /* 0: the policy's (none); else LW_CORRECT_* */
    uint32_t rank_mean;      /* 1: rank by centroid logits instead of the expected maximum */
} lw_session_params_t;
#define LW_CORRECT_NONE 1u
#define LW_CORRECT_VARIANCE 2u
#define LW_CORRECT_VALUE 4u

/* [session][token][head][head_dim] with strides in elements, head_dim contiguous, in the open device's memory. Strides of 0
 * mean dense in that order. */
typedef struct lw_tensor {
    void *data;
    uint32_t sessions, tokens, heads, head_dim;
    int64_t session_stride, token_stride, head_stride;
} lw_tensor_t;

/* One layer of one decode step for `session_count` sequences. Layers come in order, 0 first; a step ends with the last. */
typedef struct lw_step {
    uint32_t size;
    uint32_t layer;
    lw_session_t *const *sessions; /* NULL, on asynchronous backends: whoever is bound to batch slots 0..session_count-1 when
                                      the step runs; it only enqueues, can be captured, and lw_replay announces each run */
    uint32_t session_count;
    uint32_t timeout_us;        /* the step fails after this; 0: 5 s */
    uint32_t estimate_after_us; /* reserved: must be 0 in this version (late clusters are waited for) */
    lw_tensor_t query, key, value;
    const uint32_t *tree_mask;  /* [tokens] bit u: query token t sees new token u; NULL: causal */
    float *lse_out;             /* optional [sessions][tokens][query heads] */
    void *stream;               /* cudaStream_t, or NULL on host backends */
} lw_step_t;

/* Output structs: a mask instead of a size, because each field costs work. Set the bits you want. */
#define LW_ATTR_FLEET (1ull << 0)
#define LW_ATTR_BACKEND (1ull << 1)
#define LW_ATTR_MEMORY (1ull << 2)
#define LW_ATTR_TRAFFIC (1ull << 3)
#define LW_ATTR_ATTENTION (1ull << 4)
#define LW_ATTR_NODES (1ull << 5)
#define LW_ATTR_REPLICAS (1ull << 6)

#define LW_ATTR_NODES_MAX 64u
typedef struct lw_node_attr {
    uint64_t node_id;
    uint32_t up;
    char address[128];
    uint64_t bytes_stored; /* of this handle's open sessions */
    uint64_t bytes_fetched, fetches;
} lw_node_attr_t;

typedef struct lw_attr {
    uint64_t field_mask;
    /* FLEET */
    uint64_t fleet_id, fleet_epoch;
    /* BACKEND: strings owned by the lw_t */
    const char *backend, *device;
    /* MEMORY: bytes */
    uint64_t index_bytes, cache_bytes, cache_used_bytes, steady_bytes, scratch_bytes, landing_bytes, host_bytes;
    /* TRAFFIC, since open */
    uint64_t bytes_fetched, bytes_shipped, fetch_requests, records_fetched, fetch_retries, checksum_failures;
    uint64_t fetch_wait_us; /* time that steps waited for arrivals */
    /* ATTENTION, since open; sums over sessions, layers and KV heads */
    uint64_t layer_steps, selections;
    uint64_t entries_indexed, entries_retrieved, entries_estimated;
    uint64_t tokens_indexed, tokens_retrieved, tokens_steady;
    uint64_t hits, misses, hit_tokens, miss_tokens, admitted, evicted;
    /* NODES */
    uint32_t node_count;
    lw_node_attr_t nodes[LW_ATTR_NODES_MAX];
    /* REPLICAS, since open: late requests that another replica was asked, too; those that it answered first; those over
     * the budget; records that moved because their node was not connected or did not attach */
    uint64_t hedges, hedges_won, hedges_denied, reroutes;
} lw_attr_t;

#define LW_SESSION_ATTR_TOKENS (1ull << 0)
#define LW_SESSION_ATTR_INDEX (1ull << 1)
typedef struct lw_session_attr {
    uint64_t field_mask;
    uint64_t session_id;
    uint32_t token_count, sealed_tokens, committed_tokens, range_count; /* TOKENS */
    uint32_t term, reserved;
    uint64_t index_bytes, stored_bytes, clusters, outliers;             /* INDEX: all layers and heads */
} lw_session_attr_t;

/* ---- process ---------------------------------------------------------- */
LW_API LW_CHECK lw_status_t lw_open(const lw_open_params_t *params, lw_t **kv_out);
LW_API void lw_close(lw_t *kv);
LW_API LW_CHECK lw_status_t lw_query(lw_t *kv, lw_attr_t *attr);
/* Drives fetches, completions and publishing; returns operations completed. */
LW_API unsigned lw_progress(lw_t *kv);
/* Cause of the last failed call on this handle, or of the last failed lw_open of this thread (kv NULL). Never NULL. */
LW_API const char *lw_last_error(const lw_t *kv);

/* ---- session ---------------------------------------------------------- */
LW_API LW_CHECK lw_status_t lw_session_open(lw_t *kv, const lw_session_params_t *params, lw_session_t **session_out);
/* Shares everything committed with the parent; unsealed tokens are copied. `params` may set another policy for the child
 * (policy, accuracy_ppm, retrieve_ppm, estimate_ppm, correct, rank_mean and ttl_us; 0 in all of them, or NULL: the
 * parent's policy). What the index is made of comes from the parent: other values there are ERR_INVALID. The parent must
 * not be inside a step. */
LW_API LW_CHECK lw_status_t lw_session_fork(lw_session_t *parent, const lw_session_params_t *params,
                                            lw_session_t **child_out);
LW_API LW_CHECK lw_status_t lw_session_pin(lw_session_t *session, uint32_t pinned);
/* Ends the session in the fleet; close the handle afterwards. */
LW_API LW_CHECK lw_status_t lw_session_drop(lw_session_t *session);
/* Gives up the lease; the session stays in the fleet, idle. Unflushed tokens are lost: flush first to keep them. */
LW_API void lw_session_close(lw_session_t *session);
LW_API LW_CHECK lw_status_t lw_session_query(lw_session_t *session, lw_session_attr_t *attr);

/* ---- data path -------------------------------------------------------- */
/* Appends K and V of `tokens` new tokens of one layer, without attention: the engine attends by itself while it prefills.
 * All layers take the same tokens, in order, before the next chunk. With an op, BUSY when the steady zone is full: progress
 * and retry; without, the call waits (option client.room_timeout). Up to 1,984 tokens a chunk fit as soon as what is being
 * sealed is committed; larger ones make segments shorter than segment_tokens. */
LW_API LW_CHECK lw_status_t lw_prefill(lw_session_t *session, uint32_t layer, const lw_tensor_t *key,
                                       const lw_tensor_t *value, void *stream, lw_op_t *op);
/* Appends `tokens` new tokens of one layer and attends exactly: causal among themselves, over everything stored. At most
 * client.extend_tokens at once. After a failure the chunk is dropped: start again with layer 0. timeout_us 0: option
 * client.ship_timeout. */
LW_API LW_CHECK lw_status_t lw_extend(lw_session_t *session, uint32_t layer, const lw_tensor_t *query,
                                      const lw_tensor_t *key, const lw_tensor_t *value, lw_tensor_t *attn_out,
                                      uint32_t timeout_us, void *stream, lw_op_t *op);
/* One layer step: appends, attends, [sessions][tokens][query heads][head_dim] to attn_out. After a failure the output is
 * undefined and the step's tokens are taken back: start again with layer 0, or close. On an asynchronous backend it answers
 * as soon as the layer is enqueued, with or without an op; see lw_step_status. */
LW_API LW_CHECK lw_status_t lw_attend(lw_t *kv, const lw_step_t *step, lw_tensor_t *attn_out, lw_op_t *op);
/* Starts fetching what a guessed query of a coming layer step would retrieve. */
LW_API LW_CHECK lw_status_t lw_prefetch(lw_t *kv, const lw_step_t *step, lw_op_t *op);
/* Asynchronous backends: puts a session into a batch slot (0..63) of steps over bound slots, from the next lw_replay on;
 * NULL: empties it. A session is in one slot at a time; closing it empties the slot. */
LW_API LW_CHECK lw_status_t lw_bind(lw_t *kv, uint32_t slot, lw_session_t *session);
/* Asynchronous backends: announces one run of a step over batch slots 0..slot_count-1 that appends `tokens` to each bound
 * session; the run must follow, on this stream: graph launch or eager calls. Publishes, makes room, counts, and tells an
 * earlier failure of one of the sessions (then nothing was announced, as after any error). BUSY: no room yet, or 63 steps
 * have not ended: progress and retry. */
LW_API LW_CHECK lw_status_t lw_replay(lw_t *kv, uint32_t slot_count, uint32_t tokens, void *stream);
/* How a session's steps ended, without waiting: OK: all of them well; INPROGRESS: some have not ended; an error: the first
 * failure that was not told yet. The session's next step, append, fork, truncate or flush tells it: that call does nothing
 * else, and the tokens of the failed step and of all later ones are taken back. */
LW_API LW_CHECK lw_status_t lw_step_status(lw_t *kv, lw_session_t *session, lw_status_t *status_out);
/* Takes back the newest tokens, down to token_count, which must lie in the steady zone. */
LW_API LW_CHECK lw_status_t lw_session_truncate(lw_session_t *session, uint32_t token_count);
/* Done when every token is committed: whole units as segments, the rest as a raw tail. */
LW_API LW_CHECK lw_status_t lw_session_flush(lw_session_t *session, lw_op_t *op);
LW_API void lw_op_cancel(lw_t *kv, lw_op_t *op); /* still completes once */

/* ---- diagnostics ------------------------------------------------------ */
LW_API const char *lw_status_string(lw_status_t status);
LW_API const char *lw_version(void);

#ifdef __cplusplus
}
#endif
#endif /* LONGWAVE_H */
