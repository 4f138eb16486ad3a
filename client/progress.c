/* progress.c - the only place where accepted operations complete. Caller's thread. */
#include "client/ctx.h"

#include "base/log.h"

#define WAIT_NAP_US 50u

void lwc_op_complete(struct lw *kv, lw_op_t *op, lw_status_t status)
{
    lwc_op_remove(&kv->ops, op);
    op->status = status;
}

/* LW_INPROGRESS: not yet. */
static lw_status_t poll_op(struct lw *kv, lw_op_t *op)
{
    lwc_op_words_t *words = lwc_op_words(op);
    lw_status_t status = LW_INPROGRESS;

    switch ((lwc_op_kind_t)words->kind) {
    case LWC_OP_DONE: status = (lw_status_t)words->status; break;
    case LWC_OP_STEP: status = lwc_step_poll(kv, &kv->error); break;
    case LWC_OP_FLUSH:
        if (words->canceled)
            status = LW_ERR_CANCELED;
        else
            status = lwc_flush_poll((struct lw_session *)(uintptr_t)words->object, &kv->error);
        if (status == LW_INPROGRESS && lwc_now(kv) >= words->deadline_us)
            status = lw_fail(&kv->error, LW_ERR_TIMEOUT, "the flush was not done in time");
        break;
    }
    return status;
}

void lwc_take_view(struct lw *kv)
{
    if (!kv->store) /* the courier's, or none */
        return;
    lw_view_t *view = lwc_keeper_take_view(&kv->keeper);
    lw_error_t error = {.text = ""};

    if (view && lwc_store_set_view(kv->store, view, &error) != LW_OK)
        LW_WARN("client", "the view at epoch %llu was not taken: %s", (unsigned long long)view->epoch,
                error.text);
    lwc_view_mail_free(view);
}

/* Steps that ended since the last call may have made a range whole. */
static void cut_confirmed(struct lw *kv)
{
    for (uint32_t slot = 0; kv->device.async && slot < kv->sizes.sessions_max; slot++)
        if (kv->sessions[slot].open && !kv->sessions[slot].stepping)
            lwc_session_cut(&kv->sessions[slot]);
}

unsigned lwc_progress(struct lw *kv)
{
    unsigned completed = 0;
    lw_op_t *next = NULL;

    if (kv->step.state == LWC_STEP_IDLE)
        lwc_take_view(kv);
    if (kv->store)
        (void)lwc_store_round(kv->store, lwc_now(kv));
    if (!kv->env.keeper_thread)
        (void)lwc_keeper_round(&kv->keeper, lwc_now(kv));
    lwc_outcomes_take(kv);
    (void)lwc_publish_ready(kv);
    cut_confirmed(kv);
    for (lw_op_t *op = kv->ops.first; op; op = next) {
        next = (lw_op_t *)(uintptr_t)lwc_op_words(op)->next;
        lw_status_t status = poll_op(kv, op);
        if (status == LW_INPROGRESS)
            continue;
        lwc_op_complete(kv, op, status);
        completed++;
    }
    return completed;
}

void lwc_wait(struct lw *kv, uint64_t wait_us)
{
    if (!kv->env.keeper_thread) {
        unsigned events = kv->store ? lwc_store_round(kv->store, lwc_now(kv)) : 0;
        events += lwc_keeper_round(&kv->keeper, lwc_now(kv));
        if (events > 0)
            return;
    }
    if (kv->store)
        (void)lwc_store_wait(kv->store, wait_us);
    else
        lwc_device_nap(lw_min_u64(wait_us, WAIT_NAP_US));
}
