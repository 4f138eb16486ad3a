/* catalogue_sqlite_move.c - where copies are, as nodes ask and change it: orphans, placed, move. */
#include "storaged/catalogue/catalogue_sqlite_private.h"

/* The range that a name is of, at any generation. */
static lw_status_t range_of(lwd_catalogue_t *cat, const lw_segment_name_t *name, lwd_range_t *out, bool *found_out,
                            lw_error_t *error)
{
    sqlite3_stmt *at =
        lwd_sql_bind(cat, SQL_RANGE_AT, "uuu", name->origin, (uint64_t)name->rank, (uint64_t)name->first_token);
    return lwd_sql_range_find(cat, at, out, found_out, error);
}

static lw_status_t orphan_one(lwd_catalogue_t *cat, uint16_t node_index, const lw_segment_name_t *name, uint64_t now,
                              bool *dead_out, lw_error_t *error)
{
    sql_session_t session;
    lw_status_t status = lwd_sql_session_load(cat, name->origin, &session, NULL);
    if (status == LW_ERR_NOT_FOUND) {
        *dead_out = true;
        return LW_OK;
    }
    lwd_range_t range;
    bool found = false;
    if (status == LW_OK)
        status = range_of(cat, name, &range, &found, error);
    if (status != LW_OK)
        return status;
    const lwd_session_row_t *row = &session.row;
    if (found && range.generation == name->generation)
        *dead_out = node_index != LWD_NODE_ANY &&
                    !lwd_range_holds(&range, row->shape.layer_count, name->layer, node_index);
    else
        *dead_out = name->rank >= row->shape.rank_count || !lwd_session_live(row, now) || name->generation < row->term;
    return LW_OK;
}

lw_status_t lwd_sqlite_orphans(lwd_catalogue_t *cat, uint16_t node_index, const lw_segment_name_t *names, uint32_t count,
                               uint64_t now, bool *dead, lw_error_t *error)
{
    lw_status_t status = lwd_sql_begin(cat, error); /* one snapshot for all of them */
    for (uint32_t i = 0; i < count && status == LW_OK; i++)
        status = orphan_one(cat, node_index, &names[i], now, &dead[i], error);
    return lwd_sql_end(cat, status, error);
}

lw_status_t lwd_sqlite_placed(lwd_catalogue_t *cat, const lwd_placed_key_t *after, uint32_t capacity, lwd_placed_t *rows,
                              uint32_t *count_out, lw_error_t *error)
{
    sqlite3_stmt *list = lwd_sql_bind(cat, SQL_RANGE_PLACED, "uuuu", after->origin, (uint64_t)after->rank,
                                      (uint64_t)after->first_token, (uint64_t)capacity);
    uint32_t count = 0;
    int stepped;
    while ((stepped = lwd_sql_step(list)) == 1) {
        lwd_placed_t *row = &rows[count++];
        lwd_sql_range_read(list, &row->range);
        row->layers = (uint32_t)sqlite3_column_bytes(list, 7) / (row->range.replicas * (uint32_t)sizeof(uint16_t));
        row->rank = (uint16_t)sql_u32(list, 8);
    }
    if (stepped < 0)
        return lwd_sql_failed(cat, "listing what is placed where", error);
    *count_out = count;
    return LW_OK;
}

static lw_status_t move_range(lwd_catalogue_t *cat, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                              lw_error_t *error)
{
    sql_session_t session;
    lwd_range_t range;
    bool found = false;
    lw_status_t status = range_of(cat, name, &range, &found, error);
    if (status == LW_OK && !found)
        return lw_fail(error, LW_ERR_STALE, "no manifest has the segment");
    if (status == LW_OK)
        status = lwd_sql_session_load(cat, name->origin, &session, error);
    if (status == LW_OK)
        status = lwd_range_move(&range, session.row.shape.layer_count, name, from, to, error);
    if (status != LW_OK)
        return status;
    int node_bytes = (int)(session.row.shape.layer_count * range.replicas * sizeof(uint16_t));
    return lwd_sql_run(cat,
                       lwd_sql_bind(cat, SQL_RANGE_MOVE, "uuuub", name->origin, (uint64_t)name->rank,
                                    (uint64_t)name->first_token, (uint64_t)range.flags, (const void *)range.node_index,
                                    node_bytes),
                       error);
}

lw_status_t lwd_sqlite_move(lwd_catalogue_t *cat, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                            lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_node(to, error);
    if (status == LW_OK)
        status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    return lwd_sql_end(cat, move_range(cat, name, from, to, error), error);
}
