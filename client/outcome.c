/* outcome.c - enters steps, takes their outcomes, tells failures; see outcome.h. */
#include "client/ctx.h"

lw_status_t lwc_outcomes_init(struct lw *kv, lw_error_t *error)
{
    lwc_outcomes_t *outcomes = &kv->outcomes;

    if (!kv->device.async)
        return LW_OK;
    lw_status_t status = lwc_device_alloc(
        &kv->device, LWK_MEMORY_PINNED, (uint64_t)LWK_OUTCOME_STEPS * kv->sizes.sessions_max * sizeof(uint64_t),
        "outcomes of steps", (void **)&outcomes->words, error);
    if (status == LW_OK)
        status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, 64, "outcomes of steps",
                                  (void **)&outcomes->done, error);
    return status;
}

void lwc_outcomes_fini(struct lw *kv)
{
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->outcomes.words);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->outcomes.done);
}

static lwc_flight_t *flight(struct lw *kv, uint32_t step)
{
    return &kv->outcomes.flights[step % LWK_OUTCOME_STEPS];
}

bool lwc_outcomes_room(const struct lw *kv)
{
    return kv->outcomes.entered - kv->outcomes.taken < LWK_OUTCOME_STEPS - 1;
}

void lwc_outcomes_enter(struct lw *kv)
{
    LW_ASSERT(lwc_outcomes_room(kv));
    kv->outcomes.entered++;
    flight(kv, kv->outcomes.entered)->count = 0;
}

void lwc_outcomes_join(struct lw *kv, struct lw_session *session, uint32_t tokens)
{
    lwc_flight_t *newest = flight(kv, kv->outcomes.entered);

    newest->tokens = tokens;
    newest->slots[newest->count] = session->slot;
    newest->before[newest->count++] = session->token_count;
    if (session->flying++ == 0)
        session->confirmed = session->token_count;
    session->token_count += tokens;
}

static void take_one(struct lw *kv, uint32_t step, uint32_t i)
{
    const lwc_flight_t *from = flight(kv, step);
    struct lw_session *session = &kv->sessions[from->slots[i]];
    uint64_t word = __atomic_load_n(
        &kv->outcomes.words[(size_t)(step % LWK_OUTCOME_STEPS) * kv->sizes.sessions_max + session->slot],
        __ATOMIC_RELAXED);

    if (!session->open || (int32_t)(step - session->ignored_step) <= 0)
        return;
    int32_t status = word == 0 || (uint32_t)(word >> 32) != step ? LW_ERR_DEVICE : (int32_t)(uint32_t)word;
    session->flying--;
    if (status != LW_OK && session->step_status == LW_OK) {
        session->step_status = (lw_status_t)status;
        session->failed_tokens = from->before[i];
        lwc_route_cause(kv, &session->step_cause);
        if (status == LW_ERR_SESSION_LOST && session->step_cause.status != LW_OK)
            session->step_status = session->step_cause.status; /* the ops only know that a record did not come */
    }
    if (session->step_status != LW_OK)
        return;
    uint32_t after = session->flying == 0 ? session->token_count : from->before[i] + from->tokens;
    session->confirmed = (uint32_t)lw_min_u64(after, session->token_count);
}

void lwc_outcomes_take(struct lw *kv)
{
    if (!kv->device.async)
        return;
    uint32_t done = __atomic_load_n(kv->outcomes.done, __ATOMIC_ACQUIRE);
    while ((int32_t)(done - kv->outcomes.taken) > 0 && kv->outcomes.taken != kv->outcomes.entered) {
        uint32_t step = ++kv->outcomes.taken;
        for (uint32_t i = 0; i < flight(kv, step)->count; i++)
            take_one(kv, step, i);
    }
}

lw_status_t lwc_outcomes_tell(struct lw_session *session, lw_error_t *error)
{
    struct lw *kv = session->kv;

    if (session->step_status == LW_OK)
        return LW_OK;
    uint32_t tokens = (uint32_t)lw_min_u64(session->failed_tokens, session->token_count);
    lw_status_t status = lwc_session_write_tokens(session, tokens, error);
    if (status != LW_OK)
        return status;
    status = session->step_status;
    session->token_count = session->confirmed = tokens;
    session->step_status = LW_OK;
    session->flying = 0;
    session->ignored_step = kv->outcomes.entered;
    return lw_fail(error, status, "session %llu, a step at token %u: %.160s",
                   (unsigned long long)session->info.session_id, tokens,
                   session->step_cause.status != LW_OK ? session->step_cause.text : lw_status_text(status));
}
