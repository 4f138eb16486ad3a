/* catalogue_sqlite_sql.c - the statements of the SQLite catalogue, and the little that runs them. */
#include "storaged/catalogue/catalogue_sqlite_private.h"

#include <stdarg.h>

#include "base/log.h"

#define SESSION_COLUMNS                                                                                              \
    "session_id, tenant, model_id, layer_count, kv_head_count, query_head_count, head_dim, dtype, rank_count, "       \
    "segment_tokens, replicas, cluster_encoding, outlier_encoding, outlier_ppm, cluster_tokens, state, term, "        \
    "lease_client, lease_incarnation, lease_until_us, ttl_us, created_us, used_us, parent_id, cut_tokens, "           \
    "token_count, bytes, pinned, token, kept, ended_serial, "                                                        \
    "(SELECT count(*) FROM readers r WHERE r.session_id = sessions.session_id)"

/* States as numbers: 1 active, 2 idle, 3 evicting, 4 retained, 5 ended (lwd_session_state_t). */
static const char *const sql_texts[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",

    [SQL_SESSION_INSERT] =
        "INSERT INTO sessions (tenant, model_id, layer_count, kv_head_count, query_head_count, head_dim, dtype, "
        "rank_count, segment_tokens, replicas, cluster_encoding, outlier_encoding, outlier_ppm, cluster_tokens, state, "
        "term, lease_client, lease_incarnation, lease_until_us, ttl_us, created_us, used_us, parent_id, cut_tokens, "
        "token_count, bytes, pinned, token, kept, ended_serial) VALUES "
        "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,1,1,?,?,?,?,?,?,?,?,?,0,0,?,0,0)",
    [SQL_SESSION_GET] = "SELECT " SESSION_COLUMNS " FROM sessions WHERE session_id = ?",
    [SQL_SESSION_STORE] =
        "UPDATE sessions SET state = ?3, term = ?4, lease_client = ?5, lease_incarnation = ?6, lease_until_us = ?7, "
        "used_us = ?8, token_count = ?9, bytes = ?10, pinned = ?11, kept = ?12, ended_serial = ?13 "
        "WHERE session_id = ?1 AND state = ?2",
    [SQL_SESSION_LIST] = "SELECT " SESSION_COLUMNS
                         " FROM sessions WHERE session_id > ? AND state <> 5 ORDER BY session_id LIMIT ?",
    [SQL_SESSION_LIST_TENANT] = "SELECT " SESSION_COLUMNS " FROM sessions WHERE session_id > ? AND state <> 5 "
                                "AND tenant = ?3 ORDER BY session_id LIMIT ?2",

    [SQL_CLIENT_GET] = "SELECT incarnation FROM clients WHERE client_id = ?",
    [SQL_CLIENT_SET] = "INSERT INTO clients (client_id, incarnation, seen_us) VALUES (?1, ?2, ?3) "
                       "ON CONFLICT (client_id) DO UPDATE SET incarnation = ?2, seen_us = ?3",
    [SQL_CLIENT_FENCE] = "UPDATE sessions SET state = 2, lease_client = 0, lease_incarnation = 0, lease_until_us = 0 "
                         "WHERE lease_client = ? AND state = 1",
    [SQL_CLIENT_FENCE_READERS] = "DELETE FROM readers WHERE client_id = ?",
    [SQL_CLIENT_FORGET] = "DELETE FROM clients WHERE seen_us <= ? "
                          "AND client_id NOT IN (SELECT lease_client FROM sessions) "
                          "AND client_id NOT IN (SELECT client_id FROM readers)",

    [SQL_RENEW] = "UPDATE sessions SET lease_until_us = ?3, used_us = ?2 "
                  "WHERE lease_client = ?1 AND state = 1 AND lease_until_us > ?2",
    [SQL_RENEW_READERS_USED] = "UPDATE sessions SET used_us = ?2 WHERE session_id IN "
                               "(SELECT session_id FROM readers WHERE client_id = ?1 AND until_us > ?2)",
    [SQL_RENEW_READERS] = "UPDATE readers SET until_us = ?3 WHERE client_id = ?1 AND until_us > ?2",

    [SQL_READER_SET] = "INSERT OR REPLACE INTO readers (session_id, client_id, until_us) VALUES (?, ?, ?)",
    [SQL_READER_DROP] = "DELETE FROM readers WHERE session_id = ? AND client_id = ?",
    [SQL_READERS_DROP] = "DELETE FROM readers WHERE session_id = ?",
    [SQL_READERS_COUNT] = "SELECT count(*) FROM readers WHERE session_id = ?",
    [SQL_READERS_EXPIRE] = "DELETE FROM readers WHERE until_us <= ?",

    [SQL_RANGE_INSERT] = "INSERT INTO ranges (session_id, rank, first_token, token_count, generation, flags, replicas, "
                         "bytes, node_index) VALUES (?,?,?,?,?,?,?,?,?)",
    [SQL_RANGE_AT] = "SELECT session_id, first_token, token_count, generation, flags, replicas, bytes, node_index "
                     "FROM ranges WHERE session_id = ? AND rank = ? AND first_token = ?",
    [SQL_RANGE_LAST] = "SELECT session_id, first_token, token_count, generation, flags, replicas, bytes, node_index "
                       "FROM ranges WHERE session_id = ? AND rank = ? ORDER BY first_token DESC LIMIT 1",
    [SQL_RANGE_COUNT] = "SELECT count(*) FROM ranges WHERE session_id = ? AND rank = ?",
    [SQL_RANGE_DELETE] = "DELETE FROM ranges WHERE session_id = ? AND rank = ? AND first_token = ?",
    [SQL_RANGE_CUT_OFF] = "DELETE FROM ranges WHERE session_id = ? AND first_token + token_count > ?",
    [SQL_RANGE_CUT_OFF_BYTES] = "SELECT coalesce(sum(bytes * replicas), 0) FROM ranges "
                                "WHERE session_id = ? AND first_token + token_count > ?",
    [SQL_RANGE_LIST] = "SELECT session_id, first_token, token_count, generation, flags, replicas, bytes, node_index "
                       "FROM ranges WHERE session_id = ? AND rank = ? AND first_token >= ? "
                       "AND first_token + token_count <= ? ORDER BY first_token LIMIT ?",
    [SQL_RANGE_BOUNDARY] = "SELECT 1 FROM ranges WHERE session_id = ? AND rank = ? AND first_token + token_count = ? "
                           "AND flags & 1 = 0",
    [SQL_RANGE_ENDS] = "SELECT first_token + token_count FROM ranges WHERE session_id = ? AND rank = 0 "
                       "AND first_token + token_count <= ? ORDER BY first_token DESC LIMIT 1",
    [SQL_RANGE_PLACED] = "SELECT session_id, first_token, token_count, generation, flags, replicas, bytes, node_index, "
                         "rank FROM ranges WHERE (session_id, rank, first_token) > (?, ?, ?) "
                         "ORDER BY session_id, rank, first_token LIMIT ?",
    [SQL_RANGE_MOVE] = "UPDATE ranges SET flags = ?4, node_index = ?5 WHERE session_id = ?1 AND rank = ?2 "
                       "AND first_token = ?3",

    [SQL_NEEDED] = "SELECT coalesce(max(cut_tokens), 0) FROM sessions WHERE parent_id = ? AND state <> 5",
    [SQL_LEASES_EXPIRE] = "UPDATE sessions SET state = 2, lease_client = 0, lease_incarnation = 0, lease_until_us = 0 "
                          "WHERE state = 1 AND lease_until_us <= ?",
    [SQL_LEFT_EVICTING] = "SELECT session_id FROM sessions WHERE state = 3 ORDER BY session_id LIMIT 1",
    [SQL_TTL_OVER] = "SELECT session_id FROM sessions s WHERE state = 2 AND pinned = 0 AND ttl_us > 0 "
                     "AND used_us + ttl_us <= ? "
                     "AND NOT EXISTS (SELECT 1 FROM readers r WHERE r.session_id = s.session_id) "
                     "ORDER BY session_id LIMIT 1",
    [SQL_VICTIM] = "SELECT session_id FROM sessions s WHERE state = 2 AND pinned = 0 AND (bytes > 0 OR parent_id <> 0) "
                   "AND NOT EXISTS (SELECT 1 FROM readers r WHERE r.session_id = s.session_id) "
                   "AND NOT EXISTS (SELECT 1 FROM sessions c WHERE c.parent_id = s.session_id AND c.state <> 5 "
                   "AND c.cut_tokens > 0) ORDER BY used_us, session_id LIMIT 1",

    [SQL_ENDED_INSERT] = "INSERT INTO ended (origin, rank, from_token, generation_max) VALUES (?,?,?,?)",
    [SQL_ENDED_LIST] = "SELECT serial, origin, rank, from_token, generation_max FROM ended WHERE serial > ? "
                       "ORDER BY serial LIMIT ?",
    [SQL_ENDED_TRIM] = "DELETE FROM ended WHERE serial <= ?",
    [SQL_TOMBSTONES_TRIM] = "DELETE FROM sessions WHERE state = 5 AND ended_serial <= ?",

    [SQL_META_GET] = "SELECT value FROM meta WHERE name = ?",
    [SQL_META_SET] = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
    [SQL_MEMBER_AT] = "SELECT node_index FROM members WHERE control = ?",
    [SQL_MEMBER_SET] = "INSERT OR REPLACE INTO members (node_index, control) VALUES (?, ?)",
};

lw_status_t lwd_sql_failed(lwd_catalogue_t *cat, const char *doing, lw_error_t *error)
{
    LW_ERROR("catalogue", "%s: %s", doing, sqlite3_errmsg(cat->db));
    return lw_fail(error, LW_ERR_IO, "catalogue: %s: %s", doing, sqlite3_errmsg(cat->db));
}

lw_status_t lwd_sql_prepare(lwd_catalogue_t *cat, lw_error_t *error)
{
    for (unsigned i = 0; i < SQL_COUNT; i++)
        if (sqlite3_prepare_v3(cat->db, sql_texts[i], -1, SQLITE_PREPARE_PERSISTENT, &cat->statements[i], NULL) !=
            SQLITE_OK)
            return lwd_sql_failed(cat, sql_texts[i], error);
    return LW_OK;
}

sqlite3_stmt *lwd_sql_bind(lwd_catalogue_t *cat, sql_id_t id, const char *types, ...)
{
    sqlite3_stmt *statement = cat->statements[id];
    sqlite3_reset(statement);
    va_list args;
    va_start(args, types);
    for (int i = 1; *types; i++, types++) {
        int bound = SQLITE_ERROR;
        if (*types == 'u') {
            bound = sqlite3_bind_int64(statement, i, (sqlite3_int64)va_arg(args, uint64_t));
        } else if (*types == 's') {
            bound = sqlite3_bind_text(statement, i, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
        } else if (*types == 'b') {
            const void *data = va_arg(args, const void *);
            bound = sqlite3_bind_blob(statement, i, data, va_arg(args, int), SQLITE_TRANSIENT);
        }
        LW_ASSERT(bound == SQLITE_OK || bound == SQLITE_NOMEM); /* without memory the step fails */
    }
    va_end(args);
    return statement;
}

int lwd_sql_step(sqlite3_stmt *statement)
{
    int stepped = sqlite3_step(statement);
    if (stepped == SQLITE_ROW)
        return 1;
    sqlite3_reset(statement);
    return stepped == SQLITE_DONE ? 0 : -1;
}

lw_status_t lwd_sql_run(lwd_catalogue_t *cat, sqlite3_stmt *statement, lw_error_t *error)
{
    int stepped = lwd_sql_step(statement);
    return stepped == 0 ? LW_OK : lwd_sql_failed(cat, sqlite3_sql(statement), error);
}

lw_status_t lwd_sql_value(lwd_catalogue_t *cat, sqlite3_stmt *statement, uint64_t none, uint64_t *out, lw_error_t *error)
{
    int stepped = lwd_sql_step(statement);
    if (stepped < 0)
        return lwd_sql_failed(cat, sqlite3_sql(statement), error);
    *out = stepped ? sql_u64(statement, 0) : none;
    sqlite3_reset(statement);
    return LW_OK;
}

lw_status_t lwd_sql_begin(lwd_catalogue_t *cat, lw_error_t *error)
{
    return lwd_sql_run(cat, cat->statements[SQL_BEGIN], error);
}

lw_status_t lwd_sql_end(lwd_catalogue_t *cat, lw_status_t status, lw_error_t *error)
{
    if (status == LW_OK)
        status = lwd_sql_run(cat, cat->statements[SQL_COMMIT], error);
    if (status != LW_OK && !sqlite3_get_autocommit(cat->db)) {
        lw_error_t ignored;
        if (lwd_sql_run(cat, cat->statements[SQL_ROLLBACK], &ignored) != LW_OK)
            LW_WARN("catalogue", "rollback failed; SQLite has rolled back by itself");
    }
    return status;
}
