/* op.h - completion records of callers, in a list inside their private words. Caller's thread. */
#ifndef LWC_OP_H
#define LWC_OP_H

#include "client/include/longwave.h"

typedef enum lwc_op_kind {
    LWC_OP_DONE = 1, /* its work is over: told by the next lw_progress */
    LWC_OP_STEP,
    LWC_OP_FLUSH,
} lwc_op_kind_t;

/* What priv[] holds while the library has the op. */
typedef struct lwc_op_words {
    uint64_t next;   /* lw_op_t * */
    uint64_t kind;   /* lwc_op_kind_t */
    uint64_t object; /* FLUSH: the session */
    uint64_t deadline_us;
    int64_t status; /* DONE: what to tell */
    uint64_t canceled;
} lwc_op_words_t;

static inline lwc_op_words_t *lwc_op_words(lw_op_t *op)
{
    return (lwc_op_words_t *)op->priv;
}

typedef struct lwc_op_list {
    lw_op_t *first;
} lwc_op_list_t;

/* Accepts an op: status LW_INPROGRESS from here to its completion. */
void lwc_op_accept(lwc_op_list_t *list, lw_op_t *op, lwc_op_kind_t kind);
void lwc_op_remove(lwc_op_list_t *list, lw_op_t *op);

#endif /* LWC_OP_H */
