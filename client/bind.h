/* bind.h - batch slots that sessions are bound to between replays of a captured step. Asynchronous backends; caller's
 * thread.
 *
 * A step over bound slots (lw_step_t.sessions NULL) is enqueued, or captured, without any account of it. lw_replay says
 * that one such step is about to run: it does what layer 0 of other steps does first, and counts. */
#ifndef LWC_BIND_H
#define LWC_BIND_H

#include "client/step.h"

typedef struct lwc_bound {
    struct lw_session *sessions[LW_BATCH_MAX]; /* NULL: empty */
    uint32_t *slots;                           /* device, [LW_BATCH_MAX] */
    bool dirty;                                /* the device's copy is older */
    uint32_t layer;                            /* of a bound step: the next one */
} lwc_bound_t;

LW_CHECK lw_status_t lwc_bound_init(struct lw *kv, lw_error_t *error);
void lwc_bound_fini(struct lw *kv);
LW_CHECK lw_status_t lwc_bind(struct lw *kv, uint32_t slot, struct lw_session *session, lw_error_t *error);
void lwc_unbind(struct lw_session *session);
LW_CHECK lw_status_t lwc_replay(struct lw *kv, uint32_t count, uint32_t tokens, void *stream, lw_error_t *error);
/* Only enqueues: may run while the stream is being captured. */
LW_CHECK lw_status_t lwc_bound_enqueue(struct lw *kv, const lw_step_t *from, const lw_tensor_t *out,
                                       lw_error_t *error);

#endif /* LWC_BIND_H */
