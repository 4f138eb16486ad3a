/* step.h - the running step: S sessions, T tokens each, layer after layer.
 *
 *   IDLE --layer 0 accepted--> FLYING --arrived, finished--> BETWEEN --next layer accepted--> FLYING ... last
 * --> IDLE FLYING --failure, cancel, deadline--> IDLE, the step's tokens taken back
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
    lwk_step_t args;         /* of the layer in flight */
    uint32_t *slots;         /* device, [LW_BATCH_MAX] */
    uint32_t *slots_staging; /* pinned, same */
    int32_t *errors;         /* pinned, [LW_BATCH_MAX]: error words of the sessions */
    void *scratch;           /* device */
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
/* Checks, appends, scores, selects and starts fetching. LW_INPROGRESS: in flight. */
LW_CHECK lw_status_t lwc_step_begin(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, lw_op_t *op,
                                    lw_error_t *error);
/* Finishes the layer once everything has arrived or failed. LW_INPROGRESS: not yet. */
LW_CHECK lw_status_t lwc_step_poll(struct lw *kv, lw_error_t *error);
LW_CHECK lw_status_t lwc_step_prefetch(struct lw *kv, const lw_step_t *from, lw_error_t *error);
/* Drops an unfinished step; its tokens are taken back. Nothing may be in flight. */
void lwc_step_reset(struct lw *kv);

#endif /* LWC_STEP_H */
