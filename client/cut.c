/* cut.c - when unsealed tokens become a range: at a segment's size while the engine prefills, whole units
 * otherwise; the newest LW_RECENT_TOKENS are never sealed. One range of a session is under way at a time.
 * Caller's thread. */
#include "client/ctx.h"

static bool may_cut(const struct lw_session *session)
{
    return !session->task_busy && !session->read_only && !session->dropped &&
           session->append_kind == LWC_APPEND_NONE &&
           atomic_load_explicit(&session->keep.fault, memory_order_relaxed) == LW_OK &&
           atomic_load_explicit(&session->keep.abandon, memory_order_relaxed) == 0;
}

static bool submit(struct lw_session *session, lwc_task_kind_t kind, uint32_t row, uint32_t first,
                   uint32_t count)
{
    lwc_task_t task = {
        .session = session, .kind = kind, .row = row, .first_token = first, .token_count = count};

    lw_error_t error = {.text = ""};
    lw_status_t status = lwc_device_record(&session->kv->device, session->keep.cut, session->kv->stream, &error);

    if (status != LW_OK) {
        lwc_keep_fail(&session->keep, status, error.text);
        return false;
    }
    session->task_busy = true;
    lwc_keeper_submit(&session->kv->keeper, &task);
    return true;
}

/* Tokens that the next range would take; 0: none yet. */
static uint32_t cut_tokens(const struct lw_session *session)
{
    uint32_t confirmed = lwc_session_confirmed(session);
    uint32_t unsealed = confirmed > session->cut ? confirmed - session->cut : 0;

    if (unsealed <= LW_RECENT_TOKENS)
        return 0;
    uint32_t sealable = (unsealed - LW_RECENT_TOKENS) / LW_UNIT_TOKENS * LW_UNIT_TOKENS;
    if (sealable >= session->shape.segment_tokens)
        return session->shape.segment_tokens;
    return session->prefilling ? 0 : sealable;
}

void lwc_session_cut(struct lw_session *session)
{
    uint32_t count = session->open && may_cut(session) ? cut_tokens(session) : 0;
    uint32_t row = 0;
    lw_error_t error = {.text = ""};

    if (count == 0)
        return;
    lw_status_t status = lwc_directory_take(&session->kv->directory, &row, &error);
    if (status != LW_OK) {
        lwc_keep_fail(&session->keep, status, error.text);
        return;
    }
    if (submit(session, LWC_TASK_RANGE, row, session->cut, count))
        session->cut += count;
    else
        session->kv->directory.rows[row].holders = 0;
}

void lwc_session_cut_tail(struct lw_session *session)
{
    session->prefilling = false;
    lwc_session_cut(session);
}

bool lwc_session_cut_raw(struct lw_session *session)
{
    bool written = session->raw_end == session->token_count && session->raw_first == session->sealed &&
                   !session->raw_stale;

    if (session->kv->local.on || !may_cut(session) || session->token_count == session->sealed || written)
        return false;
    return submit(session, LWC_TASK_RAW, 0, session->sealed, session->token_count - session->sealed);
}
