/* flush.c - brings every token of a session into the fleet: whole units as ranges, the rest as a raw tail.
 * Caller's thread. */
#include "client/ctx.h"

lw_status_t lwc_flush_poll(struct lw_session *session, lw_error_t *error)
{
    lwc_outcomes_take(session->kv);
    (void)lwc_publish_ready(session->kv);
    lw_status_t status = lwc_session_fault(session, error);
    if (status == LW_OK)
        status = lwc_outcomes_tell(session, error);
    if (status != LW_OK)
        return status;
    if (session->read_only)
        return lw_fail(error, LW_ERR_PERMISSION, "the session was opened read-only");
    if (session->task_busy || session->flying > 0)
        return LW_INPROGRESS;
    lwc_session_cut_tail(session);
    if (session->task_busy)
        return LW_INPROGRESS;
    return lwc_session_cut_raw(session) ? LW_INPROGRESS : lwc_session_fault(session, error);
}
