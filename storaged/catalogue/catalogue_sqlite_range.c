/* catalogue_sqlite_range.c - manifests: commit, ranges, and what a connection may read (check). */
#include "storaged/catalogue/catalogue_sqlite_private.h"

void lwd_sql_range_read(sqlite3_stmt *st, lwd_range_t *range)
{
    range->origin = sql_u64(st, 0);
    range->first_token = sql_u32(st, 1);
    range->token_count = sql_u32(st, 2);
    range->generation = sql_u32(st, 3);
    range->flags = sql_u32(st, 4);
    range->replicas = sql_u32(st, 5);
    range->bytes = sql_u64(st, 6);
    size_t bytes = (size_t)sqlite3_column_bytes(st, 7);
    memset(range->node_index, 0, sizeof(range->node_index));
    if (bytes <= sizeof(range->node_index) && bytes > 0)
        memcpy(range->node_index, sqlite3_column_blob(st, 7), bytes);
}

lw_status_t lwd_sql_range_find(lwd_catalogue_t *cat, sqlite3_stmt *statement, lwd_range_t *out, bool *found_out,
                              lw_error_t *error)
{
    int stepped = lwd_sql_step(statement);
    if (stepped < 0)
        return lwd_sql_failed(cat, "reading a range", error);
    *found_out = stepped == 1;
    if (stepped == 1) {
        lwd_sql_range_read(statement, out);
        sqlite3_reset(statement);
    }
    return LW_OK;
}

lw_status_t lwd_sql_count_tokens(lwd_catalogue_t *cat, sql_session_t *session, lw_error_t *error)
{
    uint32_t least = UINT32_MAX;
    lw_status_t status = LW_OK;
    for (uint32_t rank = 0; rank < session->row.shape.rank_count && status == LW_OK; rank++) {
        lwd_range_t last;
        bool found = false;
        status = lwd_sql_range_find(cat, lwd_sql_bind(cat, SQL_RANGE_LAST, "uu", session->row.session_id, (uint64_t)rank), &last,
                            &found, error);
        uint32_t end = found ? lwd_range_end(&last) : session->row.cut_tokens;
        if (end < least)
            least = end;
    }
    session->row.token_count = least;
    return status;
}

/* Does a range that is not raw end at `token`, in every rank of the merged manifest? Goes up the line of forks. */
static lw_status_t range_is_boundary(lwd_catalogue_t *cat, const sql_session_t *session, uint32_t token, bool *is_out,
                                     lw_error_t *error)
{
    sql_session_t at = *session, parent;
    bool has = true;
    while (token < at.row.cut_tokens) {
        lw_status_t status = lwd_sql_session_parent(cat, &at, &parent, &has, error);
        if (status != LW_OK)
            return status;
        at = parent; /* there is one: its cut is above zero */
    }
    *is_out = true;
    if (token == at.row.cut_tokens)
        return LW_OK;
    for (uint32_t rank = 0; rank < at.row.shape.rank_count && *is_out; rank++) {
        uint64_t one = 0;
        lw_status_t status = lwd_sql_value(
            cat, lwd_sql_bind(cat, SQL_RANGE_BOUNDARY, "uuu", at.row.session_id, (uint64_t)rank, (uint64_t)token), 0, &one,
            error);
        if (status != LW_OK)
            return status;
        *is_out = one != 0;
    }
    return LW_OK;
}

lw_status_t lwd_sql_cut(lwd_catalogue_t *cat, const sql_session_t *session, uint32_t limit, uint32_t *cut_out,
                    lw_error_t *error)
{
    sql_session_t at = *session, parent;
    lw_status_t status = LW_OK;
    for (;;) {
        /* Own ends of rank 0, from the last one down. */
        uint64_t end = 0;
        bool is = false;
        while (status == LW_OK) {
            status = lwd_sql_value(cat, lwd_sql_bind(cat, SQL_RANGE_ENDS, "uu", at.row.session_id, (uint64_t)limit), 0, &end,
                               error);
            if (status != LW_OK || end == 0)
                break;
            status = range_is_boundary(cat, session, (uint32_t)end, &is, error);
            if (status == LW_OK && is) {
                *cut_out = (uint32_t)end;
                return LW_OK;
            }
            limit = (uint32_t)end - 1;
        }
        if (status != LW_OK)
            return status;
        bool has;
        status = lwd_sql_session_parent(cat, &at, &parent, &has, error);
        if (status != LW_OK)
            return status;
        if (!has) {
            *cut_out = 0;
            return LW_OK;
        }
        if (limit > at.row.cut_tokens)
            limit = at.row.cut_tokens;
        at = parent;
    }
}

/* ---- commit ---- */

static lw_status_t range_insert(lwd_catalogue_t *cat, const sql_session_t *session, uint16_t rank,
                                const lwd_range_t *range, lw_error_t *error)
{
    uint64_t count = 0;
    lw_status_t status =
        lwd_sql_value(cat, lwd_sql_bind(cat, SQL_RANGE_COUNT, "uu", session->row.session_id, (uint64_t)rank), 0, &count, error);
    if (status == LW_OK && count >= LW_RANGES_MAX)
        return lw_fail(error, LW_ERR_EXHAUSTED, "the session has %llu ranges", (unsigned long long)count);
    if (status != LW_OK)
        return status;
    int node_bytes = (int)(session->row.shape.layer_count * range->replicas * sizeof(uint16_t));
    return lwd_sql_run(cat,
                   lwd_sql_bind(cat, SQL_RANGE_INSERT, "uuuuuuuub", session->row.session_id, (uint64_t)rank,
                            (uint64_t)range->first_token, (uint64_t)range->token_count, (uint64_t)range->generation,
                            (uint64_t)range->flags, (uint64_t)range->replicas, range->bytes,
                            (const void *)range->node_index, node_bytes),
                   error);
}

/* Takes the raw tail away that `range` replaces, and tells the nodes. */
static lw_status_t range_replace(lwd_catalogue_t *cat, sql_session_t *session, uint16_t rank, const lwd_range_t *old,
                                 lw_error_t *error)
{
    uint64_t serial;
    lw_status_t status = lwd_sql_run(cat,
                                 lwd_sql_bind(cat, SQL_RANGE_DELETE, "uuu", session->row.session_id, (uint64_t)rank,
                                          (uint64_t)old->first_token),
                                 error);
    if (status == LW_OK)
        status = lwd_sql_log_ending(cat, session->row.session_id, rank, old->first_token, old->generation, &serial, error);
    session->row.bytes -= old->bytes * old->replicas;
    return status;
}

static lw_status_t commit_one(lwd_catalogue_t *cat, sql_session_t *session, uint16_t rank, const lwd_range_t *range,
                              lw_error_t *error)
{
    uint64_t id = session->row.session_id;
    lwd_range_t last, same;
    bool has_last = false, found = false;
    lw_status_t status = lwd_sql_range_find(cat, lwd_sql_bind(cat, SQL_RANGE_LAST, "uu", id, (uint64_t)rank), &last, &has_last, error);
    if (status == LW_OK)
        status = lwd_sql_range_find(cat, lwd_sql_bind(cat, SQL_RANGE_AT, "uuu", id, (uint64_t)rank, (uint64_t)range->first_token),
                            &same, &found, error);
    if (status != LW_OK)
        return status;
    if (found && lwd_range_same(&same, range, session->row.shape.layer_count))
        return LW_OK;
    uint32_t end = has_last ? lwd_range_end(&last) : session->row.cut_tokens;
    if (found) {
        if (same.first_token != last.first_token || !(same.flags & LW_RANGE_RAW) || same.generation >= range->generation)
            return lw_fail(error, LW_ERR_EXISTS, "another range of term %u begins at token %u", same.generation,
                           range->first_token);
        status = range_replace(cat, session, rank, &same, error);
        if (status != LW_OK)
            return status;
    } else if (has_last && last.flags & LW_RANGE_RAW) {
        return lw_fail(error, LW_ERR_INVALID, "range begins at token %u, the raw tail that it must replace at %u",
                       range->first_token, last.first_token);
    } else if (range->first_token != end) {
        return lw_fail(error, LW_ERR_INVALID, "range begins at token %u, the manifest ends at %u", range->first_token, end);
    }
    status = range_insert(cat, session, rank, range, error);
    session->row.bytes += range->bytes * range->replicas;
    return status;
}

lw_status_t lwd_sqlite_commit(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t term,
                          const lwd_range_t *ranges, uint32_t count, uint64_t now, lw_error_t *error)
{
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t session;
    status = lwd_sql_session_open(cat, NULL, session_id, &session, error);
    if (status == LW_OK)
        status = lwd_sql_writer(&session, term, now, error);
    if (status == LW_OK)
        status = lwd_catalogue_check_ranges(&session.row.shape, rank, term, ranges, count, error);
    for (uint32_t i = 0; i < count && status == LW_OK; i++)
        status = commit_one(cat, &session, rank, &ranges[i], error);
    if (status == LW_OK)
        status = lwd_sql_count_tokens(cat, &session, error);
    if (status == LW_OK) {
        session.row.used_us = now;
        status = lwd_sql_session_store(cat, &session, error);
    }
    return lwd_sql_end(cat, status, error);
}

/* ---- reading ---- */

/* The line of forks from the root down to a session; of each, the token up to which it counts. */
typedef struct line {
    uint64_t ids[LWD_FORK_DEPTH_MAX];
    uint32_t limits[LWD_FORK_DEPTH_MAX];
    uint32_t count;
} line_t;

static lw_status_t line_load(lwd_catalogue_t *cat, const sql_session_t *session, line_t *line, lw_error_t *error)
{
    sql_session_t at = *session, parent;
    uint32_t limit = UINT32_MAX;
    line->count = 0;
    for (;;) {
        LW_ASSERT(line->count < LWD_FORK_DEPTH_MAX); /* fork() refuses longer ones */
        line->ids[line->count] = at.row.session_id;
        line->limits[line->count++] = limit;
        if (at.row.cut_tokens < limit)
            limit = at.row.cut_tokens;
        bool has;
        lw_status_t status = lwd_sql_session_parent(cat, &at, &parent, &has, error);
        if (status != LW_OK || !has)
            return status;
        at = parent;
    }
}

lw_status_t lwd_sqlite_ranges(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t from_token,
                          uint32_t capacity, lwd_range_t *ranges, uint32_t *count_out, lw_error_t *error)
{
    sql_session_t session;
    lw_status_t status = lwd_sql_session_open(cat, NULL, session_id, &session, error);
    if (status != LW_OK)
        return status;
    if (rank >= session.row.shape.rank_count)
        return lw_fail(error, LW_ERR_INVALID, "rank is %u, the session has %u", rank, session.row.shape.rank_count);
    line_t line;
    status = line_load(cat, &session, &line, error);
    uint32_t count = 0;
    for (uint32_t i = line.count; status == LW_OK && i-- > 0 && count < capacity;) {
        sqlite3_stmt *list = lwd_sql_bind(cat, SQL_RANGE_LIST, "uuuuu", line.ids[i], (uint64_t)rank, (uint64_t)from_token,
                                      (uint64_t)line.limits[i], (uint64_t)(capacity - count));
        int stepped;
        while ((stepped = lwd_sql_step(list)) == 1)
            lwd_sql_range_read(list, &ranges[count++]);
        if (stepped < 0)
            status = lwd_sql_failed(cat, "reading ranges", error);
    }
    if (status == LW_OK)
        *count_out = count;
    return status;
}

lw_status_t lwd_sqlite_check(lwd_catalogue_t *cat, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                         uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                         uint32_t *count_out, lw_error_t *error)
{
    sql_session_t session;
    lw_status_t status = lwd_sql_session_open(cat, NULL, session_id, &session, error);
    if (status != LW_OK)
        return status;
    if (!lwd_token_equal(token, session.row.token))
        return lw_fail(error, LW_ERR_PERMISSION, "session %llu: wrong token", (unsigned long long)session_id);
    if (write)
        status = lwd_sql_writer(&session, term, now, error);
    line_t line;
    if (status == LW_OK)
        status = line_load(cat, &session, &line, error);
    if (status != LW_OK)
        return status;
    if (line.count > capacity)
        return lw_fail(error, LW_ERR_EXHAUSTED, "more than %u origins", capacity);
    memcpy(origins, line.ids, line.count * sizeof(*origins));
    memcpy(cuts, line.limits, line.count * sizeof(*cuts));
    *count_out = line.count;
    return LW_OK;
}
