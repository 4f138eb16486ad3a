/* bind.c - binding sessions to batch slots, announcing replays, enqueuing steps over bound slots. See bind.h. */
#include "client/ctx.h"

lw_status_t lwc_bound_init(struct lw *kv, lw_error_t *error)
{
    kv->bound.dirty = true; /* an empty slot is not 0 */
    return lwc_device_alloc(&kv->device, LWK_MEMORY_DEVICE, LW_BATCH_MAX * sizeof(uint32_t), "bound batch slots",
                            (void **)&kv->bound.slots, error);
}

void lwc_bound_fini(struct lw *kv)
{
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->bound.slots);
}

lw_status_t lwc_bind(struct lw *kv, uint32_t slot, struct lw_session *session, lw_error_t *error)
{
    if (!kv->device.async)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "backend '%s' has no bound batch slots",
                       kv->device.backend->name);
    if (slot >= LW_BATCH_MAX)
        return lw_fail(error, LW_ERR_INVALID, "slot is %u, must be below %u", slot, LW_BATCH_MAX);
    if (session && (session->kv != kv || !session->open))
        return lw_fail(error, LW_ERR_INVALID, "session is not an open session of this handle");
    for (uint32_t other = 0; session && other < LW_BATCH_MAX; other++)
        if (other != slot && kv->bound.sessions[other] == session)
            return lw_fail(error, LW_ERR_INVALID, "session is bound to slot %u already", other);
    kv->bound.dirty |= kv->bound.sessions[slot] != session;
    kv->bound.sessions[slot] = session;
    return LW_OK;
}

void lwc_unbind(struct lw_session *session)
{
    struct lw *kv = session->kv;

    for (uint32_t slot = 0; slot < LW_BATCH_MAX; slot++)
        if (kv->bound.sessions[slot] == session) {
            kv->bound.sessions[slot] = NULL;
            kv->bound.dirty = true;
        }
}

static lw_status_t check_replay(struct lw *kv, uint32_t count, uint32_t tokens, lw_error_t *error)
{
    lw_status_t status = LW_OK;

    if (!kv->device.async)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "backend '%s' has no bound batch slots",
                       kv->device.backend->name);
    if (count == 0 || count > LW_BATCH_MAX)
        return lw_fail(error, LW_ERR_INVALID, "slot_count is %u, must be 1..%u", count, LW_BATCH_MAX);
    if (tokens == 0 || tokens > LW_QUERY_TOKENS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "tokens is %u, must be 1..%u", tokens, LW_QUERY_TOKENS_MAX);
    if (kv->step.state != LWC_STEP_IDLE)
        return lw_fail(error, LW_ERR_BUSY, "a step is between its layers: finish it first");
    for (uint32_t slot = 0; slot < count && status == LW_OK; slot++) {
        struct lw_session *session = kv->bound.sessions[slot];
        if (!session)
            continue;
        if (session->append_kind != LWC_APPEND_NONE)
            return lw_fail(error, LW_ERR_BUSY, "the session of slot %u is between the layers of lw_prefill or "
                                               "lw_extend", slot);
        status = lwc_session_fault(session, error);
    }
    return status;
}

static lw_status_t write_slots(struct lw *kv, lw_error_t *error)
{
    uint32_t slots[LW_BATCH_MAX];

    if (!kv->bound.dirty)
        return LW_OK;
    for (uint32_t slot = 0; slot < LW_BATCH_MAX; slot++)
        slots[slot] = kv->bound.sessions[slot] ? kv->bound.sessions[slot]->slot : LWK_SLOT_NONE;
    lw_status_t status = lwc_stream_note(kv, kv->bound.slots, slots, sizeof(slots), error);
    kv->bound.dirty = status != LW_OK;
    return status;
}

lw_status_t lwc_replay(struct lw *kv, uint32_t count, uint32_t tokens, void *stream, lw_error_t *error)
{
    lw_status_t status = check_replay(kv, count, tokens, error);

    if (status == LW_OK)
        status = lwc_stream_use(kv, stream, error);
    if (status == LW_OK)
        status = lwc_step_ready(kv, kv->bound.sessions, count, tokens, 0, false, error);
    if (status == LW_OK)
        status = write_slots(kv, error);
    if (status != LW_OK)
        return status;
    lwc_outcomes_enter(kv);
    for (uint32_t slot = 0; slot < count; slot++)
        if (kv->bound.sessions[slot])
            lwc_outcomes_join(kv, kv->bound.sessions[slot], tokens);
    return LW_OK;
}

lw_status_t lwc_bound_enqueue(struct lw *kv, const lw_step_t *from, const lw_tensor_t *out, lw_error_t *error)
{
    uint32_t ops;
    lwk_step_t args;

    if (from->layer != 0 && from->layer != kv->bound.layer)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be %u: the layers of a step come in order",
                       from->layer, kv->bound.layer);
    lw_status_t status = lwc_step_args(kv, from, out, kv->bound.slots, &args, error);
    if (status != LW_OK)
        return status;
    kv->step.args = args;
    atomic_store_explicit(&kv->courier.wait_us, args.wait_us, memory_order_relaxed);
    status = lwc_layer_enqueue(kv, &args, from->stream, &ops, error);
    kv->bound.layer = status == LW_OK ? from->layer + 1 : 0;
    return status;
}
