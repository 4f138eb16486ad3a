/* ctx.h - the handle: every object of one lw_t, made at open. Private to client/. */
#ifndef LWC_CTX_H
#define LWC_CTX_H

#include "client/arena.h"
#include "client/bind.h"
#include "client/cache.h"
#include "client/courier.h"
#include "client/local.h"
#include "client/op.h"
#include "client/options.h"
#include "client/outcome.h"
#include "client/route.h"
#include "client/session.h"
#include "client/step.h"
#include "client/stream.h"
#include "client/tickets.h"

/* Where a handle's outside world comes from. lw_open: UCX, the machine's clock, gRPC, a thread. Tests and the
 * simulator: theirs. */
typedef struct lwc_env {
    const lw_fabric_ops_t *fabric;
    const lw_clock_t *clock;
    lwc_control_t *control; /* given away to the handle; NULL: opened over gRPC from the fleet's addresses */
    bool keeper_thread;     /* false: lw_progress and every call that waits run the keeper's rounds */
    const lwk_backend_t *backend; /* NULL: found by its name */
} lwc_env_t;

/* Exact attention of lw_extend. */
typedef struct lwc_extend {
    uint8_t *extents[2];    /* pinned: one segment is read while the other is attended; also used by reopen */
    uint8_t *keys, *values; /* device: rows of a segment, [heads][LW_SEGMENT_TOKENS_MAX][head_dim] */
    uint32_t *order;        /* 0, 1, 2 ... */
    lwk_partial_t *partial; /* device, [tokens][query heads] */
    float *partial_out;     /* device, [tokens][query heads][head_dim] */
    lwk_event_t *attended[2]; /* behind the ops that read extents[i] */
    uint32_t tokens_max;
} lwc_extend_t;

/* Rows that nobody holds and that the device may still read, in two lists (publish.c). */
#define LWC_GRAVE_NONE UINT32_MAX
typedef struct lwc_graves {
    uint32_t old, fresh; /* rows: old are free once `passed` has; fresh come after */
    lwk_event_t *passed;
} lwc_graves_t;

typedef struct lwc_totals {
    uint64_t fetch_wait_us;
} lwc_totals_t;

struct lw {
    lwc_env_t env;
    lwc_options_t options;
    lwc_model_t model;
    lwc_sizes_t sizes;
    lwc_device_t device;
    char tenant[LWC_TENANT_MAX];
    void *stream; /* that the caller's thread works on (stream.h) */
    void *own_stream, *keeper_stream;
    lwc_stream_t at;

    lwk_store_t *store_dev;    /* device */
    lwk_tile_t *tiles;         /* device, [range_capacity][L][J] */
    lwk_session_t *rows;       /* device, [sessions_max] */
    lwk_counters_t *counters;  /* pinned */
    uint8_t *index;            /* device: the arena's */
    uint8_t *moments_staging;  /* pinned, [L] of model.moments_bytes: reopen */
    uint8_t *moments_zero;     /* device, the same of a session without any */
    lwk_tile_t *tiles_staging; /* pinned, [L][J]: reopen */
    lwc_arena_t arena;
    lwc_cache_t cache;
    lwc_directory_t directory;
    lwc_tickets_t tickets;
    lwc_step_t step;
    lwc_outcomes_t outcomes;
    lwc_bound_t bound;
    lwc_extend_t extend;
    lwc_graves_t graves;
    lwc_local_t local;

    lwc_control_t *control;
    lwc_store_t *store;    /* host backends: the caller's; NULL: the courier's, or none */
    lwc_courier_t courier; /* asynchronous backends */
    lwc_store_answer_t answer;
    uint64_t failures_seen; /* of the courier's */
    lwc_refresh_t refresh; /* between the step's store and the keeper */
    lwc_keeper_t keeper;
    bool keeper_made, courier_made;

    struct lw_session *sessions; /* [sessions_max] */
    lwc_op_list_t ops;
    lwc_totals_t totals;
    uint64_t scratch_bytes;
    char device_text[64];
    lw_error_t error;
};

LW_CHECK lw_status_t lwc_ctx_open(const lw_open_params_t *params, const lwc_env_t *env, struct lw **kv_out,
                                  lw_error_t *error);
void lwc_ctx_close(struct lw *kv);

static inline uint64_t lwc_now(const struct lw *kv)
{
    return lw_now_us(kv->env.clock);
}

/* ---- progress.c ---- */
/* One pass over everything the caller's thread drives; returns operations completed. */
unsigned lwc_progress(struct lw *kv);
/* For calls that block: drives the caller's store (and, without a thread, the keeper) once and sleeps at most
 * wait_us. */
void lwc_wait(struct lw *kv, uint64_t wait_us);
/* A changed fleet reaches the step's store. It allocates, so it is taken by lw_progress, by calls that may
 * wait and after a failed step, never by a step that goes well. */
void lwc_take_view(struct lw *kv);
void lwc_op_complete(struct lw *kv, lw_op_t *op, lw_status_t status);

/* ---- append.c ---- */
LW_CHECK lw_status_t lwc_prefill(struct lw_session *session, uint32_t layer, const lw_tensor_t *key,
                                 const lw_tensor_t *value, void *stream, bool block, lw_error_t *error);
/* Shared with extend: checks, room, rows; after the last layer the tokens count. */
LW_CHECK lw_status_t lwc_append_begin(struct lw_session *session, lwc_append_kind_t kind, uint32_t layer,
                                      const lw_tensor_t *key, const lw_tensor_t *value, bool block,
                                      lw_error_t *error);
LW_CHECK lw_status_t lwc_append_rows(struct lw_session *session, uint32_t layer, const lw_tensor_t *key,
                                     const lw_tensor_t *value, void *stream, lw_error_t *error);
LW_CHECK lw_status_t lwc_append_end(struct lw_session *session, uint32_t layer, lw_error_t *error);
/* Checks a tensor against what it must be and fills strides left at 0. */
LW_CHECK lw_status_t lwc_tensor_check(const char *name, const lw_tensor_t *tensor, uint32_t sessions,
                                      uint32_t tokens, uint32_t heads, uint32_t head_dim,
                                      lw_tensor_t *dense_out, lw_error_t *error);

/* ---- extend.c ---- */
LW_CHECK lw_status_t lwc_extend_init(struct lw *kv, lw_error_t *error);
void lwc_extend_fini(struct lw *kv);
LW_CHECK lw_status_t lwc_extend_run(struct lw_session *session, uint32_t layer, const lw_tensor_t *query,
                                    const lw_tensor_t *key, const lw_tensor_t *value, const lw_tensor_t *out,
                                    uint32_t timeout_us, void *stream, bool block, lw_error_t *error);

/* ---- flush.c ---- */
/* Moves a flush on. LW_INPROGRESS: not yet; OK: every token is committed. */
LW_CHECK lw_status_t lwc_flush_poll(struct lw_session *session, lw_error_t *error);

/* ---- attr.c ---- */
LW_CHECK lw_status_t lwc_query(struct lw *kv, lw_attr_t *attr, lw_error_t *error);

#endif /* LWC_CTX_H */
