/* step_async.c - the layer step on asynchronous backends: everything is enqueued, nothing is waited for. The courier
 * fetches beside it; how the step ended is read later. Caller's thread; allocates nothing, takes no lock, asks the device
 * nothing. */
#include "client/ctx.h"

/* Records that failed, perhaps after the device had given up on them, are released before anybody wants them again: the
 * next step asks for them anew instead of meeting the old failure. */
static lw_status_t release_failed(struct lw *kv, lw_error_t *error)
{
    uint64_t failures = atomic_load_explicit(&kv->courier.failures, memory_order_acquire);
    lwk_step_t args = kv->step.args;
    lw_error_t told;

    if (failures == kv->failures_seen || !args.store)
        return LW_OK;
    kv->failures_seen = failures;
    lwc_route_cause(kv, &told); /* belongs to what was told */
    args.layer = 0;             /* not a step's end */
    return lwc_step_run(kv, "admit", kv->device.backend->admit, &args, kv->stream, error);
}

lw_status_t lwc_step_ready(struct lw *kv, struct lw_session *const *sessions, uint32_t count, uint32_t tokens,
                           uint64_t until, bool block, lw_error_t *error)
{
    lw_status_t status = LW_OK;

    lwc_outcomes_take(kv);
    for (uint32_t s = 0; s < count && status == LW_OK; s++)
        if (sessions[s])
            status = lwc_outcomes_tell(sessions[s], error);
    if (status == LW_OK)
        status = release_failed(kv, error);
    if (status == LW_OK && !lwc_outcomes_room(kv))
        status = lw_fail(error, LW_ERR_BUSY, "%u steps are enqueued and have not ended", LWK_OUTCOME_STEPS - 1);
    if (status != LW_OK)
        return status;
    (void)lwc_publish_ready(kv);
    for (uint32_t s = 0; s < count && status == LW_OK; s++) {
        if (!sessions[s])
            continue;
        if (sessions[s]->prefilling)
            lwc_session_cut_tail(sessions[s]);
        else
            lwc_session_cut(sessions[s]);
        status = lwc_step_room(kv, sessions[s], tokens, until, block, error);
    }
    return status;
}

static lw_status_t begin_step(struct lw *kv, const lw_step_t *from, bool block, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    uint64_t wait_us = lwc_step_wait_us(from);
    lw_status_t status = lwc_step_ready(kv, from->sessions, from->session_count, from->query.tokens,
                                        lwc_now(kv) + wait_us, block, error);

    if (status == LW_OK)
        status = lwc_step_slots(kv, from, error);
    if (status != LW_OK)
        return status;
    atomic_store_explicit(&kv->courier.wait_us, wait_us, memory_order_relaxed);
    step->session_count = from->session_count;
    step->query_tokens = from->query.tokens;
    step->state = LWC_STEP_BETWEEN;
    for (uint32_t s = 0; s < from->session_count; s++) {
        step->sessions[s] = from->sessions[s];
        step->sessions[s]->stepping = true;
    }
    return LW_OK;
}

lw_status_t lwc_layer_enqueue(struct lw *kv, const lwk_step_t *args, void *stream, uint32_t *ops_out,
                              lw_error_t *error)
{
    const lwk_backend_t *backend = kv->device.backend;
    const struct {
        const char *name;
        lwc_step_op_t op;
    } ops[] = {{"prepare", backend->prepare},
               {"score", backend->score},
               {"select", backend->select},
               {"attend", backend->attend},
               {"finish", backend->finish},
               {"admit", backend->admit}};
    uint32_t every = (uint32_t)kv->options.client_admit_layers;
    bool admits = args->layer + 1 == kv->model.layers || (every > 0 && (args->layer + 1) % every == 0);
    lw_status_t status = LW_OK;

    *ops_out = 0;
    for (size_t i = 0; i < LW_ARRAY_SIZE(ops) - !admits && status == LW_OK; i++) {
        status = lwc_step_run(kv, ops[i].name, ops[i].op, args, stream, error);
        *ops_out += status == LW_OK;
    }
    return status;
}

static void end_step(struct lw *kv)
{
    lwc_step_t *step = &kv->step;

    step->state = LWC_STEP_IDLE;
    for (uint32_t s = 0; s < step->session_count; s++) {
        step->sessions[s]->stepping = false;
        lwc_outcomes_join(kv, step->sessions[s], step->query_tokens);
    }
}

lw_status_t lwc_step_enqueue(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, bool block,
                             lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    uint32_t ops = 0;
    lwk_step_t args;
    lw_status_t status = lwc_stream_use(kv, from->stream, error);

    if (status == LW_OK)
        status = lwc_step_args(kv, from, out, step->slots, &args, error);
    if (status == LW_OK && from->layer == 0)
        status = begin_step(kv, from, block, error);
    if (status != LW_OK)
        return status;
    step->args = args;
    status = lwc_layer_enqueue(kv, &args, from->stream, &ops, error);
    if (from->layer == 0 && ops > 0) /* prepare counts the steps on the device */
        lwc_outcomes_enter(kv);
    if (status != LW_OK) {
        lwc_step_reset_async(kv);
        return status;
    }
    step->layer = from->layer + 1;
    if (step->layer == kv->model.layers)
        end_step(kv);
    return LW_OK;
}

void lwc_step_reset_async(struct lw *kv)
{
    lwc_step_t *step = &kv->step;
    lw_error_t error;

    if (step->state == LWC_STEP_IDLE)
        return;
    /* What the layers so far have asked for is released; the step ends without an outcome. */
    lw_status_t status =
        lwc_step_run(kv, "admit", kv->device.backend->admit, &step->args, kv->stream, &error);
    for (uint32_t s = 0; s < step->session_count; s++) {
        struct lw_session *session = step->sessions[s];
        session->stepping = false;
        if (status == LW_OK)
            status = lwc_session_write_tokens(session, session->token_count, &error);
        if (status != LW_OK)
            lwc_keep_fail(&session->keep, status, error.text);
    }
    step->state = LWC_STEP_IDLE;
}
