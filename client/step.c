/* step.c - the layer step on host backends: five ops in order, fetches between select and finish, admit at the step's end;
 * and what every step begins with. Caller's thread. Between lwc_step_begin and the step's completion nothing allocates and
 * no lock is taken.
 */
#include <string.h>

#include "client/ctx.h"

static lw_status_t check_running(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    const lwc_step_t *step = &kv->step;

    if (step->state == LWC_STEP_FLYING)
        return lw_fail(error, LW_ERR_BUSY, "layer %u is in flight", step->layer);
    uint32_t wanted = step->state == LWC_STEP_IDLE ? 0 : step->layer;
    if (from->layer != wanted)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be %u: the layers of a step come in order",
                       from->layer, wanted);
    if (step->state == LWC_STEP_IDLE)
        return LW_OK;
    if (from->session_count != step->session_count || from->query.tokens != step->query_tokens ||
        memcmp(from->sessions, step->sessions, step->session_count * sizeof(*step->sessions)) != 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "sessions or query.tokens differ from those of layer 0 of this step");
    return LW_OK;
}

/* ---- layer 0 ---- */

static lw_status_t begin_step(struct lw *kv, const lw_step_t *from, bool block, uint64_t until,
                              lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lw_status_t status = LW_OK;

    (void)lwc_publish_ready(kv);
    for (uint32_t s = 0; s < from->session_count && status == LW_OK; s++) {
        if (from->sessions[s]->prefilling)
            lwc_session_cut_tail(from->sessions[s]);
        status = lwc_step_room(kv, from->sessions[s], from->query.tokens, until, block, error);
    }
    if (status == LW_OK)
        status = lwc_step_slots(kv, from, error);
    if (status != LW_OK)
        return status;
    step->session_count = from->session_count;
    step->query_tokens = from->query.tokens;
    for (uint32_t s = 0; s < from->session_count; s++) {
        step->sessions[s] = from->sessions[s];
        step->sessions[s]->stepping = true;
    }
    return LW_OK;
}

/* ---- the ops ---- */

static lw_status_t enqueue(struct lw *kv, void *stream, lw_error_t *error)
{
    const lwk_backend_t *backend = kv->device.backend;
    const lwk_step_t *args = &kv->step.args;
    lw_status_t status = lwc_step_run(kv, "prepare", backend->prepare, args, stream, error);

    if (status == LW_OK)
        status = lwc_step_run(kv, "score", backend->score, args, stream, error);
    if (status == LW_OK)
        status = lwc_step_run(kv, "select", backend->select, args, stream, error);
    if (status != LW_OK)
        return status;
    lwc_tickets_collect(&kv->tickets, kv->step.deadline_us);
    if (kv->store)
        (void)lwc_store_round(kv->store, lwc_now(kv)); /* requests leave before the hits are attended */
    return lwc_step_run(kv, "attend", backend->attend, args, stream, error);
}

lw_status_t lwc_step_begin(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, lw_op_t *op,
                           lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lwk_step_t args;
    lw_status_t status = lwc_step_check(kv, from, error);

    if (status == LW_OK && !from->sessions)
        return lwc_bound_enqueue(kv, from, out, error);
    if (status == LW_OK)
        status = check_running(kv, from, error);
    if (status == LW_OK && kv->device.async)
        return lwc_step_enqueue(kv, from, out, op == NULL, error);
    if (status == LW_OK)
        status = lwc_step_args(kv, from, out, step->slots, &args, error);
    if (status != LW_OK)
        return status;
    uint64_t until = lwc_now(kv) + args.wait_us;
    if (from->layer == 0) {
        status = begin_step(kv, from, op == NULL, until, error);
        if (status != LW_OK)
            return status;
    }
    step->args = args;
    step->layer = from->layer;
    step->stream = from->stream;
    step->deadline_us = until;
    step->canceled = false;
    step->op = op;
    step->state = LWC_STEP_FLYING;
    lwc_tickets_clear(&kv->tickets);
    status = enqueue(kv, from->stream, error);
    step->wait_began_us = lwc_now(kv);
    if (status != LW_OK) {
        step->enqueue_status = status;
        step->enqueue_error = *error;
    } else {
        step->enqueue_status = LW_OK;
    }
    return LW_INPROGRESS;
}

/* ---- completion ---- */

static lw_status_t read_errors(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;

    for (uint32_t s = 0; s < step->session_count; s++) {
        const uint8_t *row = (const uint8_t *)&kv->rows[step->sessions[s]->slot];
        lw_status_t status =
            lwc_device_copy(&kv->device, &step->errors[s], row + offsetof(lwk_session_t, error),
                            sizeof(int32_t), step->stream, error);
        if (status != LW_OK)
            return status;
        if (step->errors[s] != LW_OK)
            return lw_fail(error, (lw_status_t)step->errors[s], "session %llu, layer %u: %s",
                           (unsigned long long)step->sessions[s]->info.session_id, step->args.layer,
                           lw_status_text(step->errors[s]));
    }
    return LW_OK;
}

/* The layer's outcome, the most telling cause first. */
static lw_status_t outcome(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lw_status_t status;

    if (step->enqueue_status != LW_OK) {
        *error = step->enqueue_error;
        return step->enqueue_status;
    }
    status = lwc_step_run(kv, "finish", kv->device.backend->finish, &step->args, step->stream, error);
    if (kv->tickets.failed != LW_OK)
        return lw_fail(error, kv->tickets.failed, "layer %u: %s", step->args.layer, kv->tickets.error.text);
    if (status == LW_OK)
        status = read_errors(kv, error);
    if (status == LW_OK && step->canceled)
        status = lw_fail(error, LW_ERR_CANCELED, "layer %u was canceled", step->args.layer);
    return status;
}

static lw_status_t admit(struct lw *kv, lw_error_t *error)
{
    lw_status_t status =
        lwc_step_run(kv, "admit", kv->device.backend->admit, &kv->step.args, kv->step.stream, error);

    lwc_tickets_release(&kv->tickets);
    return status;
}

static void end_step(struct lw *kv)
{
    lwc_step_t *step = &kv->step;

    step->state = LWC_STEP_IDLE;
    for (uint32_t s = 0; s < step->session_count; s++) {
        struct lw_session *session = step->sessions[s];
        session->stepping = false;
        session->token_count += step->query_tokens;
        lwc_session_cut(session);
    }
}

void lwc_step_reset(struct lw *kv)
{
    lwc_step_t *step = &kv->step;
    lw_error_t error;

    if (step->state == LWC_STEP_IDLE)
        return;
    if (kv->device.async) {
        lwc_step_reset_async(kv);
        return;
    }
    (void)admit(kv, &error);
    for (uint32_t s = 0; s < step->session_count; s++) {
        struct lw_session *session = step->sessions[s];
        session->stepping = false;
        lw_status_t status = lwc_session_write_tokens(session, session->token_count, &error);
        if (status != LW_OK)
            lwc_keep_fail(&session->keep, status, error.text);
    }
    step->state = LWC_STEP_IDLE;
    lwc_take_view(kv); /* what failed may have moved */
}

lw_status_t lwc_step_poll(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;

    LW_ASSERT(step->state == LWC_STEP_FLYING);
    if (kv->tickets.waiting_layer[step->args.layer] > 0)
        return LW_INPROGRESS;
    step->wait_us += lwc_now(kv) - step->wait_began_us;
    lw_status_t status = outcome(kv, error);
    bool last = step->args.layer + 1 == kv->model.layers;
    if (status == LW_OK && (last || lwc_tickets_tight(&kv->tickets)))
        status = admit(kv, error);
    if (status != LW_OK) {
        lwc_step_reset(kv);
        return status;
    }
    if (last) {
        end_step(kv);
    } else {
        step->state = LWC_STEP_BETWEEN;
        step->layer = step->args.layer + 1;
    }
    return LW_OK;
}

/* ---- prefetch ---- */

static lw_status_t check_prefetch(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    const lwc_step_t *step = &kv->step;
    lw_status_t status = lwc_step_check(kv, from, error);

    if (status != LW_OK || !from->sessions)
        return status;
    if (step->state == LWC_STEP_FLYING)
        return lw_fail(error, LW_ERR_BUSY, "layer %u is in flight", step->layer);
    if (step->state == LWC_STEP_BETWEEN &&
        (from->session_count != step->session_count ||
         memcmp(from->sessions, step->sessions, step->session_count * sizeof(*step->sessions)) != 0))
        return lw_fail(error, LW_ERR_INVALID, "sessions differ from those of the running step");
    return LW_OK;
}

lw_status_t lwc_step_prefetch(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    const lwk_backend_t *backend = kv->device.backend;
    lwk_step_t args;
    lw_status_t status = check_prefetch(kv, from, error);

    if (status == LW_OK && from->sessions)
        status = lwc_stream_use(kv, from->stream, error);
    if (status == LW_OK)
        status = lwc_step_args(kv, from, NULL, from->sessions ? kv->step.slots : kv->bound.slots, &args, error);
    if (status == LW_OK && from->sessions && kv->step.state == LWC_STEP_IDLE)
        status = lwc_step_slots(kv, from, error);
    if (status == LW_OK)
        status = lwc_step_run(kv, "prepare", backend->prepare, &args, from->stream, error);
    if (status == LW_OK)
        status = lwc_step_run(kv, "score", backend->score, &args, from->stream, error);
    if (status == LW_OK)
        status = lwc_step_run(kv, "select", backend->select, &args, from->stream, error);
    if (kv->device.async)
        return status;
    lwc_tickets_collect(&kv->tickets, lwc_now(kv) + args.wait_us);
    if (status == LW_OK && kv->store)
        (void)lwc_store_round(kv->store, lwc_now(kv));
    return status;
}
