/* catalogue_sqlite_private.h - what the files of the SQLite catalogue share. The only place that includes sqlite3.h.
 *
 * Every call of the table is one transaction: lwd_sql_begin, work, lwd_sql_end(status), which commits or rolls back. A session is
 * loaded as a row, changed in memory and stored whole; the store compares the state that was loaded (compare-and-swap).
 * u64 values are stored as SQLite's signed integers with the same bits. */
#ifndef LWD_CATALOGUE_SQLITE_PRIVATE_H
#define LWD_CATALOGUE_SQLITE_PRIVATE_H

#include <sqlite3.h>

#include "storaged/catalogue/catalogue_private.h"

#define SQL_SCHEMA_VERSION 1

typedef enum sql_id {
    SQL_BEGIN, SQL_COMMIT, SQL_ROLLBACK,
    SQL_SESSION_INSERT, SQL_SESSION_GET, SQL_SESSION_STORE, SQL_SESSION_LIST, SQL_SESSION_LIST_TENANT,
    SQL_CLIENT_GET, SQL_CLIENT_SET, SQL_CLIENT_FENCE, SQL_CLIENT_FENCE_READERS, SQL_CLIENT_FORGET,
    SQL_RENEW, SQL_RENEW_READERS_USED, SQL_RENEW_READERS,
    SQL_READER_SET, SQL_READER_DROP, SQL_READERS_DROP, SQL_READERS_COUNT, SQL_READERS_EXPIRE,
    SQL_RANGE_INSERT, SQL_RANGE_AT, SQL_RANGE_LAST, SQL_RANGE_COUNT, SQL_RANGE_DELETE, SQL_RANGE_CUT_OFF,
    SQL_RANGE_CUT_OFF_BYTES, SQL_RANGE_LIST, SQL_RANGE_BOUNDARY, SQL_RANGE_ENDS,
    SQL_RANGE_PLACED, SQL_RANGE_MOVE,
    SQL_NEEDED, SQL_LEASES_EXPIRE, SQL_LEFT_EVICTING, SQL_TTL_OVER, SQL_VICTIM,
    SQL_ENDED_INSERT, SQL_ENDED_LIST, SQL_ENDED_TRIM, SQL_TOMBSTONES_TRIM,
    SQL_META_GET, SQL_META_SET, SQL_MEMBER_AT, SQL_MEMBER_SET,
    SQL_COUNT
} sql_id_t;

struct lwd_catalogue {
    sqlite3 *db;
    sqlite3_stmt *statements[SQL_COUNT];
};

typedef struct sql_session {
    lwd_session_row_t row;
    lwd_session_state_t loaded; /* state in the file */
    uint32_t kept;              /* RETAINED: tokens kept for children */
    uint64_t ended_serial;      /* ENDED: its last ending */
} sql_session_t;

/* ---- catalogue_sqlite_sql.c ---- */
/* Logs what SQLite says, once, and returns ERR_IO. */
lw_status_t lwd_sql_failed(lwd_catalogue_t *cat, const char *doing, lw_error_t *error);
LW_CHECK lw_status_t lwd_sql_prepare(lwd_catalogue_t *cat, lw_error_t *error);
LW_CHECK lw_status_t lwd_sql_begin(lwd_catalogue_t *cat, lw_error_t *error);
/* Commits when status is OK and the commit works, else rolls back; returns the final status. */
LW_CHECK lw_status_t lwd_sql_end(lwd_catalogue_t *cat, lw_status_t status, lw_error_t *error);
/* The statement, reset, with its arguments bound in order: "u" uint64_t, "s" const char *, "b" const void *, int bytes. */
sqlite3_stmt *lwd_sql_bind(lwd_catalogue_t *cat, sql_id_t id, const char *types, ...);
/* 1: a row, 0: the end, negative: failed (lwd_sql_failed is for the caller). */
int lwd_sql_step(sqlite3_stmt *statement);
/* Runs a statement that gives no rows. */
LW_CHECK lw_status_t lwd_sql_run(lwd_catalogue_t *cat, sqlite3_stmt *statement, lw_error_t *error);
/* First column of the first row, or `none` when there is no row. */
LW_CHECK lw_status_t lwd_sql_value(lwd_catalogue_t *cat, sqlite3_stmt *statement, uint64_t none, uint64_t *out,
                               lw_error_t *error);
static inline uint64_t sql_u64(sqlite3_stmt *statement, int column)
{
    return (uint64_t)sqlite3_column_int64(statement, column);
}
static inline uint32_t sql_u32(sqlite3_stmt *statement, int column)
{
    return (uint32_t)sqlite3_column_int64(statement, column);
}

/* ---- catalogue_sqlite_session.c: inside a transaction ---- */
LW_CHECK lw_status_t lwd_sql_session_load(lwd_catalogue_t *cat, uint64_t session_id, sql_session_t *out, lw_error_t *error);
/* ERR_NOT_FOUND unless it can be opened, read and forked; tenant NULL: any. */
LW_CHECK lw_status_t lwd_sql_session_open(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, sql_session_t *out,
                                      lw_error_t *error);
LW_CHECK lw_status_t lwd_sql_session_store(lwd_catalogue_t *cat, sql_session_t *session, lw_error_t *error);
void lwd_sql_session_set_state(sql_session_t *session, lwd_session_state_t state);
LW_CHECK lw_status_t lwd_sql_session_parent(lwd_catalogue_t *cat, const sql_session_t *session, sql_session_t *parent_out,
                                        bool *has_out, lw_error_t *error);
lw_status_t lwd_sql_no_session(lw_error_t *error, uint64_t session_id);
LW_CHECK lw_status_t lwd_sql_writer(const sql_session_t *session, uint32_t term, uint64_t now, lw_error_t *error);

lw_status_t lwd_sqlite_create(lwd_catalogue_t *, const lwd_create_t *, uint64_t now, lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_sqlite_open_session(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool write,
                                uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_sqlite_renew(lwd_catalogue_t *, uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                         uint32_t *renewed_out, lw_error_t *);
lw_status_t lwd_sqlite_release(lwd_catalogue_t *, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                           uint64_t now, lw_error_t *);
lw_status_t lwd_sqlite_fork(lwd_catalogue_t *, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                        uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now, lwd_session_row_t *,
                        lw_error_t *);
lw_status_t lwd_sqlite_pin(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *);
lw_status_t lwd_sqlite_get(lwd_catalogue_t *, const char *tenant, uint64_t session_id, lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_sqlite_list(lwd_catalogue_t *, const char *tenant, uint64_t after_id, uint32_t capacity,
                        lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *);

/* ---- catalogue_sqlite_range.c ---- */
/* Columns of SQL_RANGE_AT and its like into a range. */
void lwd_sql_range_read(sqlite3_stmt *statement, lwd_range_t *range);
/* The row of SQL_RANGE_AT or SQL_RANGE_LAST, if there is one. */
LW_CHECK lw_status_t lwd_sql_range_find(lwd_catalogue_t *cat, sqlite3_stmt *statement, lwd_range_t *out, bool *found_out,
                                        lw_error_t *error);
/* Recomputes row.token_count: the smallest end over the ranks. */
LW_CHECK lw_status_t lwd_sql_count_tokens(lwd_catalogue_t *cat, sql_session_t *session, lw_error_t *error);
/* Largest end <= limit where a range that is not raw ends in every rank. */
LW_CHECK lw_status_t lwd_sql_cut(lwd_catalogue_t *cat, const sql_session_t *session, uint32_t limit, uint32_t *cut_out,
                             lw_error_t *error);
lw_status_t lwd_sqlite_commit(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t term, const lwd_range_t *,
                          uint32_t count, uint64_t now, lw_error_t *);
lw_status_t lwd_sqlite_ranges(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t from_token, uint32_t capacity,
                          lwd_range_t *, uint32_t *count_out, lw_error_t *);
lw_status_t lwd_sqlite_check(lwd_catalogue_t *, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                         uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                         uint32_t *count_out, lw_error_t *);

/* ---- catalogue_sqlite_move.c ---- */
lw_status_t lwd_sqlite_orphans(lwd_catalogue_t *, uint16_t node_index, const lw_segment_name_t *names, uint32_t count,
                               uint64_t now, bool *dead, lw_error_t *);
lw_status_t lwd_sqlite_placed(lwd_catalogue_t *, const lwd_placed_key_t *after, uint32_t capacity, lwd_placed_t *rows,
                              uint32_t *count_out, lw_error_t *);
lw_status_t lwd_sqlite_move(lwd_catalogue_t *, const lw_segment_name_t *name, uint16_t from, uint16_t to, lw_error_t *);

/* ---- catalogue_sqlite_end.c ---- */
LW_CHECK lw_status_t lwd_sql_log_ending(lwd_catalogue_t *cat, uint64_t origin, uint16_t rank, uint32_t from_token,
                                    uint32_t generation_max, uint64_t *serial_out, lw_error_t *error);
lw_status_t lwd_sqlite_drop(lwd_catalogue_t *, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *);
lw_status_t lwd_sqlite_expire(lwd_catalogue_t *, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out, lw_error_t *);
lw_status_t lwd_sqlite_ended(lwd_catalogue_t *, uint64_t after, uint32_t capacity, lwd_ended_t *rows, uint32_t *count_out,
                         lw_error_t *);
lw_status_t lwd_sqlite_trim(lwd_catalogue_t *, uint64_t serial, lw_error_t *);

#endif /* LWD_CATALOGUE_SQLITE_PRIVATE_H */
