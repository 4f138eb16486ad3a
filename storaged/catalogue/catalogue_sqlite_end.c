/* catalogue_sqlite_end.c - how sessions end: drop, TTL, eviction; the log of endings that nodes are told. */
#include "storaged/catalogue/catalogue_sqlite_private.h"

lw_status_t lwd_sql_log_ending(lwd_catalogue_t *cat, uint64_t origin, uint16_t rank, uint32_t from_token,
                           uint32_t generation_max, uint64_t *serial_out, lw_error_t *error)
{
    lw_status_t status = lwd_sql_run(cat,
                                 lwd_sql_bind(cat, SQL_ENDED_INSERT, "uuuu", origin, (uint64_t)rank, (uint64_t)from_token,
                                          (uint64_t)generation_max),
                                 error);
    if (status == LW_OK)
        *serial_out = (uint64_t)sqlite3_last_insert_rowid(cat->db);
    return status;
}

/* Takes own ranges that end after `keep` away. */
static lw_status_t session_cut_off(lwd_catalogue_t *cat, sql_session_t *session, uint32_t keep, uint64_t *freed_out,
                                   lw_error_t *error)
{
    uint64_t id = session->row.session_id, freed = 0;
    lw_status_t status =
        lwd_sql_value(cat, lwd_sql_bind(cat, SQL_RANGE_CUT_OFF_BYTES, "uu", id, (uint64_t)keep), 0, &freed, error);
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_RANGE_CUT_OFF, "uu", id, (uint64_t)keep), error);
    session->row.bytes -= freed;
    *freed_out += freed;
    return status == LW_OK ? lwd_sql_count_tokens(cat, session, error) : status;
}

/* Drops what nobody needs of a session without an owner, and goes on to its parent when it is over. */
static lw_status_t session_end(lwd_catalogue_t *cat, sql_session_t *session, uint64_t *freed_out, lw_error_t *error)
{
    sql_session_t at = *session, parent;
    for (;;) {
        uint64_t id = at.row.session_id, needed = 0, serial = 0;
        lw_status_t status = lwd_sql_value(cat, lwd_sql_bind(cat, SQL_NEEDED, "u", id), 0, &needed, error);
        if (status != LW_OK || (at.row.state == LWD_SESSION_RETAINED && needed == at.kept))
            return status;
        status = session_cut_off(cat, &at, (uint32_t)needed, freed_out, error);
        if (status == LW_OK)
            status = lwd_sql_log_ending(cat, id, LWD_RANK_ALL, (uint32_t)needed, UINT32_MAX, &serial, error);
        if (status == LW_OK)
            status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_READERS_DROP, "u", id), error);
        at.kept = (uint32_t)needed;
        at.row.pinned = false;
        at.ended_serial = needed ? 0 : serial;
        lwd_sql_session_set_state(&at, needed ? LWD_SESSION_RETAINED : LWD_SESSION_ENDED);
        if (status == LW_OK)
            status = lwd_sql_session_store(cat, &at, error);
        bool has = false;
        if (status == LW_OK && !needed)
            status = lwd_sql_session_parent(cat, &at, &parent, &has, error);
        if (status != LW_OK || !has || parent.row.state != LWD_SESSION_RETAINED)
            return status;
        at = parent;
    }
}

lw_status_t lwd_sqlite_drop(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *error)
{
    (void)now;
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t session;
    uint64_t freed = 0;
    status = lwd_sql_session_open(cat, tenant, session_id, &session, error);
    if (status == LW_OK)
        status = session_end(cat, &session, &freed, error);
    return lwd_sql_end(cat, status, error);
}

/* Ends the sessions that `pick` finds, one by one, until it finds none or `bytes` are freed. */
static lw_status_t end_picked(lwd_catalogue_t *cat, sql_id_t pick, uint64_t now, uint64_t bytes, uint64_t *freed,
                              lw_error_t *error)
{
    while (*freed < bytes) {
        uint64_t id = 0;
        lw_status_t status = lwd_sql_value(cat, lwd_sql_bind(cat, pick, pick == SQL_TTL_OVER ? "u" : "", now), 0, &id, error);
        if (status != LW_OK || id == 0)
            return status;
        sql_session_t session;
        status = lwd_sql_session_load(cat, id, &session, error);
        if (status == LW_OK && pick == SQL_VICTIM) {
            lwd_sql_session_set_state(&session, LWD_SESSION_EVICTING);
            status = lwd_sql_session_store(cat, &session, error); /* compares with IDLE */
        }
        if (status == LW_OK)
            status = session_end(cat, &session, freed, error);
        if (status != LW_OK)
            return status;
    }
    return LW_OK;
}

lw_status_t lwd_sqlite_expire(lwd_catalogue_t *cat, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out,
                          lw_error_t *error)
{
    uint64_t freed = 0, forget = now > LWD_CLIENT_KEPT_US ? now - LWD_CLIENT_KEPT_US : 0;
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_READERS_EXPIRE, "u", now), error);
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_LEASES_EXPIRE, "u", now), error);
    if (status == LW_OK)
        status = end_picked(cat, SQL_LEFT_EVICTING, now, UINT64_MAX, &freed, error);
    if (status == LW_OK)
        status = end_picked(cat, SQL_TTL_OVER, now, UINT64_MAX, &freed, error);
    if (status == LW_OK)
        status = end_picked(cat, SQL_VICTIM, now, bytes, &freed, error);
    if (status == LW_OK && forget)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_CLIENT_FORGET, "u", forget), error);
    status = lwd_sql_end(cat, status, error);
    if (status == LW_OK)
        *bytes_freed_out = freed;
    return status;
}

lw_status_t lwd_sqlite_ended(lwd_catalogue_t *cat, uint64_t after, uint32_t capacity, lwd_ended_t *rows, uint32_t *count_out,
                         lw_error_t *error)
{
    sqlite3_stmt *list = lwd_sql_bind(cat, SQL_ENDED_LIST, "uu", after, (uint64_t)capacity);
    uint32_t count = 0;
    int stepped;
    while ((stepped = lwd_sql_step(list)) == 1)
        rows[count++] = (lwd_ended_t){.serial = sql_u64(list, 0), .origin = sql_u64(list, 1),
                                      .rank = (uint16_t)sql_u32(list, 2), .from_token = sql_u32(list, 3),
                                      .generation_max = sql_u32(list, 4)};
    if (stepped < 0)
        return lwd_sql_failed(cat, "reading endings", error);
    *count_out = count;
    return LW_OK;
}

lw_status_t lwd_sqlite_trim(lwd_catalogue_t *cat, uint64_t serial, lw_error_t *error)
{
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_ENDED_TRIM, "u", serial), error);
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_TOMBSTONES_TRIM, "u", serial), error);
    return lwd_sql_end(cat, status, error);
}
