/* api.c - the entry points: read the caller's structs, call inward, keep the cause of a failure. */
#include "client/ctx.h"

#include <stdio.h>
#include <string.h>

#ifndef LWC_VERSION
#define LWC_VERSION "unknown"
#endif

#define WAIT_US 1000u

static __thread lw_error_t open_error;

/* Reads a versioned input struct: shorter ones end in zeros, longer ones must. */
static lw_status_t read_params(const char *name, const void *from, void *to, uint32_t known,
                               lw_error_t *error)
{
    uint32_t size;

    if (!from)
        return lw_fail(error, LW_ERR_INVALID, "%s is NULL", name);
    memcpy(&size, from, sizeof(size));
    if (size < sizeof(size))
        return lw_fail(error, LW_ERR_INVALID, "%s.size is %u: set it to sizeof (LW_PARAMS)", name, size);
    for (uint32_t i = known; i < size; i++)
        if (((const uint8_t *)from)[i] != 0)
            return lw_fail(error, LW_ERR_VERSION, "%s has a field at byte %u that this library does not know",
                           name, i);
    memset(to, 0, known);
    memcpy(to, from, size < known ? size : known);
    return LW_OK;
}

/* Keeps the words of a failure at the handle. */
static lw_status_t leave(lw_t *kv, lw_status_t status, const lw_error_t *error)
{
    if (status < 0)
        kv->error = *error;
    return status;
}

static bool session_is_open(const lw_session_t *session)
{
    return session && session->kv && session->open;
}

/* ---- process ---- */

lw_status_t lw_open(const lw_open_params_t *params, lw_t **kv_out)
{
    lwc_env_t env = {.fabric = lw_fabric_ucx(), .clock = lw_clock_real(), .keeper_thread = true};
    lw_open_params_t known;
    lw_status_t status = read_params("lw_open_params_t", params, &known, sizeof(known), &open_error);

    if (status == LW_OK && !kv_out)
        status = lw_fail(&open_error, LW_ERR_INVALID, "kv_out is NULL");
    if (status == LW_OK && known.model.size != 0 && known.model.size != sizeof(known.model))
        status = lw_fail(&open_error, LW_ERR_VERSION, "lw_model_t.size is %u, this library knows %zu",
                         known.model.size, sizeof(known.model));
    if (status == LW_OK)
        status = lwc_ctx_open(&known, &env, kv_out, &open_error);
    return status;
}

void lw_close(lw_t *kv)
{
    if (!kv)
        return;
    LW_ASSERT(!kv->ops.first);
    for (uint32_t slot = 0; slot < kv->sizes.sessions_max; slot++)
        LW_ASSERT(!kv->sessions[slot].open);
    lwc_ctx_close(kv);
}

lw_status_t lw_query(lw_t *kv, lw_attr_t *attr)
{
    lw_error_t error;
    return leave(kv, attr ? lwc_query(kv, attr, &error) : lw_fail(&error, LW_ERR_INVALID, "attr is NULL"),
                 &error);
}

unsigned lw_progress(lw_t *kv)
{
    return lwc_progress(kv);
}

const char *lw_last_error(const lw_t *kv)
{
    return kv ? kv->error.text : open_error.text;
}

/* ---- session ---- */

lw_status_t lw_session_open(lw_t *kv, const lw_session_params_t *params, lw_session_t **session_out)
{
    lw_session_params_t known = LW_PARAMS(lw_session_params_t);
    lw_error_t error;
    lw_status_t status =
        params ? read_params("lw_session_params_t", params, &known, sizeof(known), &error) : LW_OK;

    if (status == LW_OK && !session_out)
        status = lw_fail(&error, LW_ERR_INVALID, "session_out is NULL");
    if (status == LW_OK)
        status = lwc_session_open(kv, &known, session_out, &error);
    return leave(kv, status, &error);
}

lw_status_t lw_session_fork(lw_session_t *parent, const lw_session_params_t *params, lw_session_t **child_out)
{
    lw_session_params_t known;
    lw_error_t error;

    if (!session_is_open(parent) || !child_out)
        return LW_ERR_INVALID;
    lw_status_t status =
        params ? read_params("lw_session_params_t", params, &known, sizeof(known), &error) : LW_OK;
    if (status == LW_OK)
        status = lwc_session_fork(parent, params ? &known : NULL, child_out, &error);
    return leave(parent->kv, status, &error);
}

lw_status_t lw_session_pin(lw_session_t *session, uint32_t pinned)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    return leave(session->kv,
                 lwc_control_pin(session->kv->control, session->info.session_id, pinned != 0, &error),
                 &error);
}

lw_status_t lw_session_drop(lw_session_t *session)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    lw_status_t status = lwc_control_drop(session->kv->control, session->info.session_id, &error);
    if (status == LW_OK) {
        session->dropped = true;
        atomic_store_explicit(&session->keep.abandon, 1, memory_order_release);
    }
    return leave(session->kv, status, &error);
}

void lw_session_close(lw_session_t *session)
{
    if (session_is_open(session))
        lwc_session_close(session);
}

lw_status_t lw_session_query(lw_session_t *session, lw_session_attr_t *attr)
{
    lw_error_t error;

    if (!session_is_open(session) || !attr)
        return LW_ERR_INVALID;
    return leave(session->kv, lwc_session_query(session, attr, &error), &error);
}

lw_status_t lw_session_truncate(lw_session_t *session, uint32_t token_count)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    return leave(session->kv, lwc_session_truncate(session, token_count, &error), &error);
}

/* ---- data path ---- */

/* A call that did its work at once, for an op that completes in the next lw_progress. */
static lw_status_t hand_over(lw_t *kv, lw_status_t status, lw_op_t *op)
{
    if (status != LW_OK || !op)
        return status;
    lwc_op_accept(&kv->ops, op, LWC_OP_DONE);
    return LW_INPROGRESS;
}

lw_status_t lw_prefill(lw_session_t *session, uint32_t layer, const lw_tensor_t *key,
                       const lw_tensor_t *value, void *stream, lw_op_t *op)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    lw_status_t status = key && value ? lwc_prefill(session, layer, key, value, stream, op == NULL, &error)
                                      : lw_fail(&error, LW_ERR_INVALID, "key or value is NULL");
    return hand_over(session->kv, leave(session->kv, status, &error), op);
}

lw_status_t lw_extend(lw_session_t *session, uint32_t layer, const lw_tensor_t *query, const lw_tensor_t *key,
                      const lw_tensor_t *value, lw_tensor_t *attn_out, uint32_t timeout_us, void *stream,
                      lw_op_t *op)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    lw_status_t status = query && key && value && attn_out
                             ? lwc_extend_run(session, layer, query, key, value, attn_out, timeout_us, stream,
                                              op == NULL, &error)
                             : lw_fail(&error, LW_ERR_INVALID, "query, key, value or attn_out is NULL");
    return hand_over(session->kv, leave(session->kv, status, &error), op);
}

lw_status_t lw_attend(lw_t *kv, const lw_step_t *step, lw_tensor_t *attn_out, lw_op_t *op)
{
    lw_error_t error;
    lw_step_t known;
    lw_status_t status = read_params("lw_step_t", step, &known, sizeof(known), &error);

    if (status == LW_OK && !attn_out)
        status = lw_fail(&error, LW_ERR_INVALID, "attn_out is NULL");
    if (status == LW_OK)
        status = lwc_step_begin(kv, &known, attn_out, op, &error);
    if (status != LW_INPROGRESS)
        return hand_over(kv, leave(kv, status, &error), op);
    if (op) {
        lwc_op_accept(&kv->ops, op, LWC_OP_STEP);
        return LW_INPROGRESS;
    }
    while ((status = lwc_step_poll(kv, &error)) == LW_INPROGRESS)
        lwc_wait(kv, WAIT_US);
    return leave(kv, status, &error);
}

lw_status_t lw_prefetch(lw_t *kv, const lw_step_t *step, lw_op_t *op)
{
    lw_error_t error;
    lw_step_t known;
    lw_status_t status = read_params("lw_step_t", step, &known, sizeof(known), &error);

    if (status == LW_OK)
        status = lwc_step_prefetch(kv, &known, &error);
    return hand_over(kv, leave(kv, status, &error), op);
}

lw_status_t lw_bind(lw_t *kv, uint32_t slot, lw_session_t *session)
{
    lw_error_t error;

    return leave(kv, lwc_bind(kv, slot, session, &error), &error);
}

lw_status_t lw_replay(lw_t *kv, uint32_t slot_count, uint32_t tokens, void *stream)
{
    lw_error_t error;

    return leave(kv, lwc_replay(kv, slot_count, tokens, stream, &error), &error);
}

lw_status_t lw_step_status(lw_t *kv, lw_session_t *session, lw_status_t *status_out)
{
    lw_error_t error;

    if (!session_is_open(session) || session->kv != kv || !status_out)
        return leave(kv, lw_fail(&error, LW_ERR_INVALID, "session or status_out"), &error);
    lwc_outcomes_take(kv);
    *status_out = session->step_status != LW_OK ? session->step_status
                  : session->flying > 0         ? LW_INPROGRESS
                                                : LW_OK;
    return LW_OK;
}

static lw_status_t flush_blocking(lw_session_t *session, lw_error_t *error)
{
    lw_t *kv = session->kv;
    uint64_t until = lwc_now(kv) + 3 * kv->options.client_ship_timeout;
    lw_status_t status;

    while ((status = lwc_flush_poll(session, error)) == LW_INPROGRESS) {
        if (lwc_now(kv) >= until)
            return lw_fail(error, LW_ERR_TIMEOUT, "the flush was not done in time");
        lwc_wait(kv, WAIT_US);
    }
    return status;
}

lw_status_t lw_session_flush(lw_session_t *session, lw_op_t *op)
{
    lw_error_t error;

    if (!session_is_open(session))
        return LW_ERR_INVALID;
    lw_t *kv = session->kv;
    if (session->stepping || session->append_kind != LWC_APPEND_NONE)
        return leave(
            kv, lw_fail(&error, LW_ERR_BUSY, "the session is between layers: finish the step or chunk first"),
            &error);
    if (!op)
        return leave(kv, flush_blocking(session, &error), &error);
    lwc_op_accept(&kv->ops, op, LWC_OP_FLUSH);
    lwc_op_words(op)->object = (uint64_t)(uintptr_t)session;
    lwc_op_words(op)->deadline_us = lwc_now(kv) + 3 * kv->options.client_ship_timeout;
    return LW_INPROGRESS;
}

void lw_op_cancel(lw_t *kv, lw_op_t *op)
{
    for (lw_op_t *at = kv->ops.first; at; at = (lw_op_t *)(uintptr_t)lwc_op_words(at)->next) {
        if (at != op)
            continue;
        lwc_op_words(op)->canceled = 1;
        if (lwc_op_words(op)->kind == LWC_OP_STEP)
            kv->step.canceled = true;
    }
}

/* ---- diagnostics ---- */

const char *lw_status_string(lw_status_t status)
{
    return lw_status_text(status);
}

const char *lw_version(void)
{
    return LWC_VERSION;
}
