/* catalogue_sqlite_session.c - sessions as rows: create, open, renew, release, fork, pin, get, list. */
#include "storaged/catalogue/catalogue_sqlite_private.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

lw_status_t lwd_sql_no_session(lw_error_t *error, uint64_t session_id)
{
    return lw_fail(error, LW_ERR_NOT_FOUND, "session %llu: no such session", (unsigned long long)session_id);
}

static void text_copy(char *to, size_t bytes, sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    snprintf(to, bytes, "%s", text ? text : "");
}

/* From SESSION_COLUMNS, in their order. */
static void session_read(sqlite3_stmt *st, sql_session_t *out)
{
    memset(out, 0, sizeof(*out));
    lwd_session_row_t *row = &out->row;
    lwd_session_shape_t *shape = &row->shape;
    row->session_id = sql_u64(st, 0);
    text_copy(row->tenant, sizeof(row->tenant), st, 1);
    text_copy(shape->model_id, sizeof(shape->model_id), st, 2);
    uint32_t *const numbers[] = {&shape->layer_count, &shape->kv_head_count, &shape->query_head_count, &shape->head_dim,
                                 &shape->dtype, &shape->rank_count, &shape->segment_tokens, &shape->replicas,
                                 &shape->cluster_encoding, &shape->outlier_encoding, &shape->outlier_ppm,
                                 &shape->cluster_tokens};
    for (int i = 0; i < (int)LW_ARRAY_SIZE(numbers); i++)
        *numbers[i] = sql_u32(st, 3 + i);
    row->state = out->loaded = (lwd_session_state_t)sql_u32(st, 15);
    row->term = sql_u32(st, 16);
    row->lease_client = sql_u64(st, 17);
    row->lease_incarnation = sql_u64(st, 18);
    row->lease_until_us = sql_u64(st, 19);
    row->ttl_us = sql_u64(st, 20);
    row->created_us = sql_u64(st, 21);
    row->used_us = sql_u64(st, 22);
    row->parent_id = sql_u64(st, 23);
    row->cut_tokens = sql_u32(st, 24);
    row->token_count = sql_u32(st, 25);
    row->bytes = sql_u64(st, 26);
    row->pinned = sql_u32(st, 27) != 0;
    if (sqlite3_column_bytes(st, 28) == (int)LW_TOKEN_BYTES)
        memcpy(row->token, sqlite3_column_blob(st, 28), LW_TOKEN_BYTES);
    out->kept = sql_u32(st, 29);
    out->ended_serial = sql_u64(st, 30);
    row->readers = sql_u32(st, 31);
}

lw_status_t lwd_sql_session_load(lwd_catalogue_t *cat, uint64_t session_id, sql_session_t *out, lw_error_t *error)
{
    sqlite3_stmt *statement = lwd_sql_bind(cat, SQL_SESSION_GET, "u", session_id);
    int stepped = lwd_sql_step(statement);
    if (stepped < 0)
        return lwd_sql_failed(cat, "reading a session", error);
    if (stepped == 0)
        return lwd_sql_no_session(error, session_id);
    session_read(statement, out);
    sqlite3_reset(statement);
    return LW_OK;
}

lw_status_t lwd_sql_session_open(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, sql_session_t *out,
                             lw_error_t *error)
{
    lw_status_t status = lwd_sql_session_load(cat, session_id, out, error);
    if (status == LW_OK &&
        (!lwd_session_open(&out->row) || (tenant && strcmp(tenant, out->row.tenant) != 0)))
        return lwd_sql_no_session(error, session_id);
    return status;
}

lw_status_t lwd_sql_session_store(lwd_catalogue_t *cat, sql_session_t *session, lw_error_t *error)
{
    const lwd_session_row_t *row = &session->row;
    lw_status_t status = lwd_sql_run(
        cat,
        lwd_sql_bind(cat, SQL_SESSION_STORE, "uuuuuuuuuuuuu", row->session_id, (uint64_t)session->loaded,
                 (uint64_t)row->state, (uint64_t)row->term, row->lease_client, row->lease_incarnation,
                 row->lease_until_us, row->used_us, (uint64_t)row->token_count, row->bytes, (uint64_t)row->pinned,
                 (uint64_t)session->kept, session->ended_serial),
        error);
    if (status != LW_OK)
        return status;
    if (sqlite3_changes(cat->db) != 1)
        return lw_fail(error, LW_ERR_STALE, "session %llu has changed meanwhile", (unsigned long long)row->session_id);
    session->loaded = row->state;
    return LW_OK;
}

void lwd_sql_session_set_state(sql_session_t *session, lwd_session_state_t state)
{
    LW_ASSERT(lwd_session_may_move(session->row.state, state));
    session->row.state = state;
    if (state != LWD_SESSION_ACTIVE) {
        session->row.lease_client = 0;
        session->row.lease_incarnation = 0;
        session->row.lease_until_us = 0;
    }
}

lw_status_t lwd_sql_session_parent(lwd_catalogue_t *cat, const sql_session_t *session, sql_session_t *parent_out,
                               bool *has_out, lw_error_t *error)
{
    *has_out = session->row.parent_id != 0 && session->row.cut_tokens != 0;
    return *has_out ? lwd_sql_session_load(cat, session->row.parent_id, parent_out, error) : LW_OK;
}

lw_status_t lwd_sql_writer(const sql_session_t *session, uint32_t term, uint64_t now, lw_error_t *error)
{
    unsigned long long id = session->row.session_id;
    if (term != session->row.term)
        return lw_fail(error, LW_ERR_STALE, "session %llu: term is %u, not %u", id, session->row.term, term);
    if (!lwd_session_live(&session->row, now))
        return lw_fail(error, LW_ERR_STALE, "session %llu: the lease of term %u has ended", id, term);
    return LW_OK;
}

/* ---- clients ---- */

static lw_status_t client_check(lwd_catalogue_t *cat, uint64_t client_id, uint64_t incarnation, lw_error_t *error)
{
    uint64_t known = 0;
    lw_status_t status = lwd_sql_value(cat, lwd_sql_bind(cat, SQL_CLIENT_GET, "u", client_id), 0, &known, error);
    if (status == LW_OK && known > incarnation)
        return lw_fail(error, LW_ERR_STALE, "client %llx: incarnation %llu was superseded by %llu",
                       (unsigned long long)client_id, (unsigned long long)incarnation, (unsigned long long)known);
    return status;
}

/* Remembers the incarnation; a new one ends the leases of the one before. */
static lw_status_t client_touch(lwd_catalogue_t *cat, uint64_t client_id, uint64_t incarnation, uint64_t now,
                                lw_error_t *error)
{
    uint64_t known = incarnation;
    lw_status_t status = lwd_sql_value(cat, lwd_sql_bind(cat, SQL_CLIENT_GET, "u", client_id), incarnation, &known, error);
    if (status == LW_OK && known != incarnation) {
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_CLIENT_FENCE, "u", client_id), error);
        if (status == LW_OK)
            status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_CLIENT_FENCE_READERS, "u", client_id), error);
    }
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_CLIENT_SET, "uuu", client_id, incarnation, now), error);
    return status;
}

/* ---- the calls ---- */

typedef struct new_session {
    const char *tenant;
    const lwd_session_shape_t *shape;
    uint64_t client_id, incarnation, lease_us, ttl_us, parent_id;
    uint32_t cut;
} new_session_t;

static lw_status_t session_insert(lwd_catalogue_t *cat, const new_session_t *add, uint64_t now,
                                  lwd_session_row_t *row_out, lw_error_t *error)
{
    uint8_t token[LW_TOKEN_BYTES];
    if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token))
        return lw_fail(error, LW_ERR_IO, "no random bytes: errno %d", errno);
    lw_status_t status = client_touch(cat, add->client_id, add->incarnation, now, error);
    if (status != LW_OK)
        return status;
    const lwd_session_shape_t *s = add->shape;
    sqlite3_stmt *insert = lwd_sql_bind(
        cat, SQL_SESSION_INSERT, "ssuuuuuuuuuuuuuuuuuuuuub", add->tenant, s->model_id, (uint64_t)s->layer_count,
        (uint64_t)s->kv_head_count, (uint64_t)s->query_head_count, (uint64_t)s->head_dim, (uint64_t)s->dtype,
        (uint64_t)s->rank_count, (uint64_t)s->segment_tokens, (uint64_t)s->replicas, (uint64_t)s->cluster_encoding,
        (uint64_t)s->outlier_encoding, (uint64_t)s->outlier_ppm, (uint64_t)s->cluster_tokens, add->client_id,
        add->incarnation, now + add->lease_us, add->ttl_us, now, now, add->parent_id, (uint64_t)add->cut,
        (uint64_t)add->cut, (const void *)token, (int)sizeof(token));
    status = lwd_sql_run(cat, insert, error);
    sql_session_t session;
    if (status == LW_OK)
        status = lwd_sql_session_load(cat, (uint64_t)sqlite3_last_insert_rowid(cat->db), &session, error);
    if (status == LW_OK)
        *row_out = session.row;
    return status;
}

lw_status_t lwd_sqlite_create(lwd_catalogue_t *cat, const lwd_create_t *create, uint64_t now, lwd_session_row_t *row_out,
                          lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_create(create, error);
    if (status == LW_OK)
        status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    const new_session_t add = {.tenant = create->tenant, .shape = &create->shape, .client_id = create->client_id,
                               .incarnation = create->incarnation, .lease_us = create->lease_us,
                               .ttl_us = create->ttl_us};
    lwd_session_row_t row;
    status = client_check(cat, create->client_id, create->incarnation, error);
    if (status == LW_OK)
        status = session_insert(cat, &add, now, &row, error);
    status = lwd_sql_end(cat, status, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

static lw_status_t session_take(lwd_catalogue_t *cat, sql_session_t *session, bool write, uint64_t client_id,
                                uint64_t incarnation, uint64_t until, uint64_t now, lw_error_t *error)
{
    lw_status_t status = client_touch(cat, client_id, incarnation, now, error);
    if (status == LW_OK) /* touching may have ended this session's own lease */
        status = lwd_sql_session_load(cat, session->row.session_id, session, error);
    if (status != LW_OK)
        return status;
    session->row.used_us = now;
    if (write) {
        session->row.term++;
        lwd_sql_session_set_state(session, LWD_SESSION_ACTIVE);
        session->row.lease_client = client_id;
        session->row.lease_incarnation = incarnation;
        session->row.lease_until_us = until;
    } else {
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_READER_SET, "uuu", session->row.session_id, client_id, until), error);
    }
    return status == LW_OK ? lwd_sql_session_store(cat, session, error) : status;
}

lw_status_t lwd_sqlite_open_session(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool write,
                                uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                lwd_session_row_t *row_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t session;
    status = client_check(cat, client_id, incarnation, error);
    if (status == LW_OK)
        status = lwd_sql_session_open(cat, tenant, session_id, &session, error);
    if (status == LW_OK && write && lwd_session_live(&session.row, now) && session.row.lease_client != client_id)
        status = lw_fail(error, LW_ERR_BUSY, "session %llu: client %llx writes it", (unsigned long long)session_id,
                         (unsigned long long)session.row.lease_client);
    if (status == LW_OK)
        status = session_take(cat, &session, write, client_id, incarnation, now + lease_us, now, error);
    if (status == LW_OK)
        status = lwd_sql_session_load(cat, session_id, &session, error); /* with its readers counted */
    status = lwd_sql_end(cat, status, error);
    if (status == LW_OK)
        *row_out = session.row;
    return status;
}

lw_status_t lwd_sqlite_renew(lwd_catalogue_t *cat, uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                         uint32_t *renewed_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    uint32_t renewed = 0;
    status = client_check(cat, client_id, incarnation, error);
    if (status == LW_OK)
        status = client_touch(cat, client_id, incarnation, now, error);
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_RENEW, "uuu", client_id, now, now + lease_us), error);
    if (status == LW_OK) {
        renewed = (uint32_t)sqlite3_changes(cat->db);
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_RENEW_READERS_USED, "uu", client_id, now), error);
    }
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_RENEW_READERS, "uuu", client_id, now, now + lease_us), error);
    if (status == LW_OK)
        renewed += (uint32_t)sqlite3_changes(cat->db);
    status = lwd_sql_end(cat, status, error);
    if (status == LW_OK)
        *renewed_out = renewed;
    return status;
}

lw_status_t lwd_sqlite_release(lwd_catalogue_t *cat, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                           uint64_t now, lw_error_t *error)
{
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t session;
    status = client_check(cat, client_id, incarnation, error);
    if (status == LW_OK)
        status = lwd_sql_session_open(cat, NULL, session_id, &session, error);
    if (status == LW_OK)
        status = client_touch(cat, client_id, incarnation, now, error);
    if (status == LW_OK)
        status = lwd_sql_session_load(cat, session_id, &session, error);
    if (status == LW_OK && session.row.state == LWD_SESSION_ACTIVE && session.row.lease_client == client_id) {
        lwd_sql_session_set_state(&session, LWD_SESSION_IDLE);
        status = lwd_sql_session_store(cat, &session, error);
    }
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_READER_DROP, "uu", session_id, client_id), error);
    return lwd_sql_end(cat, status, error);
}

/* Sessions in the line of forks that ends here, this one included. */
static lw_status_t fork_depth(lwd_catalogue_t *cat, const sql_session_t *session, uint32_t *depth_out, lw_error_t *error)
{
    sql_session_t at = *session, parent;
    bool has = true;
    uint32_t depth = 0;
    lw_status_t status = LW_OK;
    while (status == LW_OK && has) {
        depth++;
        status = lwd_sql_session_parent(cat, &at, &parent, &has, error);
        if (status == LW_OK && has)
            at = parent;
    }
    *depth_out = depth;
    return status;
}

static lw_status_t fork_insert(lwd_catalogue_t *cat, sql_session_t *parent, uint32_t max_tokens, new_session_t *add,
                               uint64_t now, lwd_session_row_t *row_out, lw_error_t *error)
{
    uint32_t depth = 0;
    lw_status_t status = fork_depth(cat, parent, &depth, error);
    if (status == LW_OK && depth + 1 > LWD_FORK_DEPTH_MAX)
        status = lw_fail(error, LW_ERR_EXHAUSTED, "session %llu is the end of a line of %u forks",
                         (unsigned long long)parent->row.session_id, depth);
    if (status == LW_OK)
        status = lwd_sql_cut(cat, parent, max_tokens ? max_tokens : UINT32_MAX, &add->cut, error);
    parent->row.used_us = now;
    if (status == LW_OK)
        status = lwd_sql_session_store(cat, parent, error);
    add->tenant = parent->row.tenant;
    add->shape = &parent->row.shape;
    add->ttl_us = parent->row.ttl_us;
    add->parent_id = parent->row.session_id;
    return status == LW_OK ? session_insert(cat, add, now, row_out, error) : status;
}

lw_status_t lwd_sqlite_fork(lwd_catalogue_t *cat, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                        uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                        lwd_session_row_t *row_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t parent;
    lwd_session_row_t row;
    new_session_t add = {.client_id = client_id, .incarnation = incarnation, .lease_us = lease_us};
    status = client_check(cat, client_id, incarnation, error);
    if (status == LW_OK)
        status = lwd_sql_session_open(cat, tenant, parent_id, &parent, error);
    if (status == LW_OK)
        status = fork_insert(cat, &parent, max_tokens, &add, now, &row, error);
    status = lwd_sql_end(cat, status, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

lw_status_t lwd_sqlite_pin(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *error)
{
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    sql_session_t session;
    status = lwd_sql_session_open(cat, tenant, session_id, &session, error);
    if (status == LW_OK) {
        session.row.pinned = pinned;
        status = lwd_sql_session_store(cat, &session, error);
    }
    return lwd_sql_end(cat, status, error);
}

lw_status_t lwd_sqlite_get(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, lwd_session_row_t *row_out,
                       lw_error_t *error)
{
    sql_session_t session;
    lw_status_t status = lwd_sql_session_load(cat, session_id, &session, error);
    if (status != LW_OK)
        return status;
    if (session.row.state == LWD_SESSION_ENDED || (tenant && strcmp(tenant, session.row.tenant) != 0))
        return lwd_sql_no_session(error, session_id);
    *row_out = session.row;
    return LW_OK;
}

lw_status_t lwd_sqlite_list(lwd_catalogue_t *cat, const char *tenant, uint64_t after_id, uint32_t capacity,
                        lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *error)
{
    sqlite3_stmt *list =
        tenant ? lwd_sql_bind(cat, SQL_SESSION_LIST_TENANT, "uus", after_id, (uint64_t)capacity, tenant)
               : lwd_sql_bind(cat, SQL_SESSION_LIST, "uu", after_id, (uint64_t)capacity);
    uint32_t count = 0;
    int stepped;
    while ((stepped = lwd_sql_step(list)) == 1) {
        sql_session_t session;
        session_read(list, &session);
        rows[count++] = session.row;
    }
    if (stepped < 0)
        return lwd_sql_failed(cat, "listing sessions", error);
    *count_out = count;
    return LW_OK;
}
