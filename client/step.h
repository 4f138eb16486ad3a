/* step.h - the running step: S sessions, T tokens each, layer after layer. Caller's thread.
 *
 * Host backends (step.c): a layer is over when its records have arrived and finish has run.
 *   IDLE --layer 0 accepted--> FLYING --arrived, finished--> BETWEEN --next layer accepted--> FLYING ... last --> IDLE
 *   FLYING --failure, cancel, deadline--> IDLE, the step's tokens taken back
 *
 * Asynchronous backends (step_async.c): a layer is over for the caller when all its ops are enqueued.
 *   IDLE --layer 0 enqueued--> BETWEEN --next layer enqueued--> ... last --> IDLE
 *   BETWEEN --an op refused--> IDLE, the step's tokens taken back
 * How it ended is known later (outcome.h). Steps over bound batch slots (bind.h) have no state here at all.
 */
#ifndef LWC_STEP_H
#define LWC_STEP_H

#include "client/session.h"

typedef enum lwc_step_state { LWC_STEP_IDLE, LWC_STEP_FLYING, LWC_STEP_BETWEEN } lwc_step_state_t;

typedef struct lwc_step {
    lwc_step_state_t state;
    uint32_t layer; /* FLYING: that layer; BETWEEN: the next one */
    uint32_t session_count, query_tokens;
    struct lw_session *sessions[LW_BATCH_MAX];
    lwk_step_t args;     /* of the layer in flight */
    uint32_t *slots;     /* device, [LW_BATCH_MAX] */
    uint32_t written[LW_BATCH_MAX], written_count; /* what was last written there */
    uint32_t *tree_mask; /* device, [LW_QUERY_TOKENS_MAX] */
    uint32_t mask[LW_QUERY_TOKENS_MAX], mask_tokens; /* what was last written there */
    int32_t *errors;     /* host backends: pinned, [LW_BATCH_MAX]: error words of the sessions */
    void *scratch;       /* device */
    uint64_t scratch_bytes;
    uint64_t deadline_us, wait_began_us, wait_us;
    void *stream;
    lw_status_t enqueue_status; /* an op refused: told once everything in flight has landed */
    lw_error_t enqueue_error;
    bool canceled;
    lw_op_t *op; /* NULL: the caller blocks */
} lwc_step_t;

LW_CHECK lw_status_t lwc_step_init(struct lw *kv, lw_error_t *error);
void lwc_step_fini(struct lw *kv);
/* Checks, appends, scores, selects and starts fetching. Host: LW_INPROGRESS: in flight. Asynchronous: LW_OK: enqueued. */
LW_CHECK lw_status_t lwc_step_begin(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, lw_op_t *op,
                                    lw_error_t *error);
/* Host: finishes the layer once everything has arrived or failed. LW_INPROGRESS: not yet. */
LW_CHECK lw_status_t lwc_step_poll(struct lw *kv, lw_error_t *error);
LW_CHECK lw_status_t lwc_step_prefetch(struct lw *kv, const lw_step_t *from, lw_error_t *error);
/* Drops an unfinished step; its tokens are taken back. Nothing may be in flight on a host backend. */
void lwc_step_reset(struct lw *kv);

/* ---- step_args.c: what both kinds of backends share ---- */
/* Everything about a call that can be refused without looking at the running step. */
LW_CHECK lw_status_t lwc_step_check(struct lw *kv, const lw_step_t *from, lw_error_t *error);
/* The ops' arguments over `slots` (device). out NULL: a prefetch. */
LW_CHECK lw_status_t lwc_step_args(struct lw *kv, const lw_step_t *from, const lw_tensor_t *out,
                                   const uint32_t *slots, lwk_step_t *args_out, lw_error_t *error);
/* How long a layer's records may take. */
uint32_t lwc_step_wait_us(const lw_step_t *from);
typedef lw_status_t (*lwc_step_op_t)(lwk_dev_t *, const lwk_step_t *, void *);
/* One op, with words when it refuses. */
LW_CHECK lw_status_t lwc_step_run(struct lw *kv, const char *name, lwc_step_op_t op, const lwk_step_t *args,
                                  void *stream, lw_error_t *error);
/* Tells the device which sessions take part, when they are others than last time. */
LW_CHECK lw_status_t lwc_step_slots(struct lw *kv, const lw_step_t *from, lw_error_t *error);
/* Whether the steady zone takes `tokens` more of this session; waits for that until `until` when `block`. */
LW_CHECK lw_status_t lwc_step_room(struct lw *kv, struct lw_session *session, uint32_t tokens, uint64_t until,
                                   bool block, lw_error_t *error);

/* ---- step_async.c ---- */
LW_CHECK lw_status_t lwc_step_enqueue(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, bool block,
                                      lw_error_t *error);
/* What comes before a step that is about to be enqueued or replayed: outcomes, publishing, cuts, room. Sessions that are
 * NULL are left out. */
LW_CHECK lw_status_t lwc_step_ready(struct lw *kv, struct lw_session *const *sessions, uint32_t count,
                                    uint32_t tokens, uint64_t until, bool block, lw_error_t *error);
/* The ops of one layer; *ops_out of them were enqueued, all unless it fails. admit too after the last and where client.admit_layers asks for it. */
LW_CHECK lw_status_t lwc_layer_enqueue(struct lw *kv, const lwk_step_t *args, void *stream, uint32_t *ops_out,
                                       lw_error_t *error);
void lwc_step_reset_async(struct lw *kv);

#endif /* LWC_STEP_H */
