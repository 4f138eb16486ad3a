/* catalogue_sqlite.c - the catalogue in an SQLite file: opening, its schema, the fleet's own rows, the table of calls.
 *
 * WAL with synchronous = NORMAL: a commit survives the process, a power cut may lose the last ones, and so it does with the
 * segments in memory that they speak of. The file is held exclusively: a second daemon on it is refused. Used by the
 * control thread alone. */
#include "storaged/catalogue/catalogue_sqlite_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/log.h"

static const char schema[] =
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE members (node_index INTEGER PRIMARY KEY, control TEXT NOT NULL UNIQUE);"
    "CREATE TABLE clients (client_id INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL, seen_us INTEGER NOT NULL);"
    "CREATE TABLE sessions (session_id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, model_id TEXT NOT NULL,"
    " layer_count INTEGER NOT NULL, kv_head_count INTEGER NOT NULL, query_head_count INTEGER NOT NULL,"
    " head_dim INTEGER NOT NULL, dtype INTEGER NOT NULL, rank_count INTEGER NOT NULL, segment_tokens INTEGER NOT NULL,"
    " replicas INTEGER NOT NULL, cluster_encoding INTEGER NOT NULL, outlier_encoding INTEGER NOT NULL,"
    " outlier_ppm INTEGER NOT NULL, cluster_tokens INTEGER NOT NULL, state INTEGER NOT NULL, term INTEGER NOT NULL,"
    " lease_client INTEGER NOT NULL, lease_incarnation INTEGER NOT NULL, lease_until_us INTEGER NOT NULL,"
    " ttl_us INTEGER NOT NULL, created_us INTEGER NOT NULL, used_us INTEGER NOT NULL, parent_id INTEGER NOT NULL,"
    " cut_tokens INTEGER NOT NULL, token_count INTEGER NOT NULL, bytes INTEGER NOT NULL, pinned INTEGER NOT NULL,"
    " token BLOB NOT NULL, kept INTEGER NOT NULL, ended_serial INTEGER NOT NULL);"
    "CREATE INDEX sessions_by_parent ON sessions (parent_id) WHERE parent_id <> 0;"
    "CREATE INDEX sessions_by_client ON sessions (lease_client) WHERE lease_client <> 0;"
    "CREATE INDEX sessions_by_use ON sessions (state, used_us, session_id);"
    "CREATE TABLE readers (session_id INTEGER NOT NULL, client_id INTEGER NOT NULL, until_us INTEGER NOT NULL,"
    " PRIMARY KEY (session_id, client_id)) WITHOUT ROWID;"
    "CREATE INDEX readers_by_client ON readers (client_id);"
    "CREATE TABLE ranges (session_id INTEGER NOT NULL, rank INTEGER NOT NULL, first_token INTEGER NOT NULL,"
    " token_count INTEGER NOT NULL, generation INTEGER NOT NULL, flags INTEGER NOT NULL, replicas INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, node_index BLOB NOT NULL, PRIMARY KEY (session_id, rank, first_token)) WITHOUT ROWID;"
    "CREATE TABLE ended (serial INTEGER PRIMARY KEY AUTOINCREMENT, origin INTEGER NOT NULL, rank INTEGER NOT NULL,"
    " from_token INTEGER NOT NULL, generation_max INTEGER NOT NULL);";

static lw_status_t sqlite_exec(lwd_catalogue_t *cat, const char *text, const char *doing, lw_error_t *error)
{
    return sqlite3_exec(cat->db, text, NULL, NULL, NULL) == SQLITE_OK ? LW_OK : lwd_sql_failed(cat, doing, error);
}

static lw_status_t sqlite_version(lwd_catalogue_t *cat, int *version_out, lw_error_t *error)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(cat->db, "PRAGMA user_version", -1, &statement, NULL) != SQLITE_OK)
        return lwd_sql_failed(cat, "reading the schema's version", error);
    lw_status_t status = sqlite3_step(statement) == SQLITE_ROW ? LW_OK : lwd_sql_failed(cat, "reading the schema's version", error);
    if (status == LW_OK)
        *version_out = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return status;
}

/* A new file gets the schema and the fleet's id, in one transaction. */
static lw_status_t sqlite_create_schema(lwd_catalogue_t *cat, lw_error_t *error)
{
    uint64_t fleet_id = 0;
    if (getrandom(&fleet_id, sizeof(fleet_id), 0) != (ssize_t)sizeof(fleet_id))
        return lw_fail(error, LW_ERR_IO, "no random bytes: errno %d", errno);
    char last[160];
    snprintf(last, sizeof(last), "INSERT INTO meta VALUES ('fleet_id', %lld), ('epoch', 0); PRAGMA user_version = %d; COMMIT",
             (long long)(int64_t)(fleet_id | 1), SQL_SCHEMA_VERSION);
    lw_status_t status = sqlite_exec(cat, "BEGIN IMMEDIATE", "creating the catalogue", error);
    if (status == LW_OK)
        status = sqlite_exec(cat, schema, "creating the catalogue", error);
    return status == LW_OK ? sqlite_exec(cat, last, "creating the catalogue", error) : status;
}

static void sqlite_close(lwd_catalogue_t *cat)
{
    if (!cat)
        return;
    for (unsigned i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(cat->statements[i]);
    if (sqlite3_close(cat->db) != SQLITE_OK)
        LW_WARN("catalogue", "close: %s", sqlite3_errmsg(cat->db));
    free(cat);
}

static lw_status_t sqlite_open(const char *where, lwd_catalogue_t **out, lw_error_t *error)
{
    if (!where || !where[0])
        return lw_fail(error, LW_ERR_INVALID, "the catalogue has no file");
    lwd_catalogue_t *cat = calloc(1, sizeof(*cat));
    if (!cat)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a catalogue");
    lw_status_t status = LW_OK;
    if (sqlite3_open_v2(where, &cat->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        status = lw_fail(error, LW_ERR_IO, "catalogue %s: %s", where, cat->db ? sqlite3_errmsg(cat->db) : "no memory");
        goto close;
    }
    sqlite3_busy_timeout(cat->db, 500);
    int version = 0;
    status = sqlite_exec(cat, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                              "PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY; BEGIN IMMEDIATE; COMMIT",
                         "opening (held by another process, or no catalogue?)", error);
    if (status == LW_OK)
        status = sqlite_version(cat, &version, error);
    if (status == LW_OK && version == 0)
        status = sqlite_create_schema(cat, error);
    else if (status == LW_OK && version != SQL_SCHEMA_VERSION)
        status = lw_fail(error, LW_ERR_VERSION, "catalogue %s has schema %d, this program knows %d", where, version,
                         SQL_SCHEMA_VERSION);
    if (status == LW_OK)
        status = lwd_sql_prepare(cat, error);
    if (status != LW_OK)
        goto close;
    *out = cat;
    return LW_OK;
close:
    sqlite_close(cat);
    return status;
}

static lw_status_t sqlite_meta(lwd_catalogue_t *cat, const char *name, uint64_t *out, lw_error_t *error)
{
    return lwd_sql_value(cat, lwd_sql_bind(cat, SQL_META_GET, "s", name), 0, out, error);
}

static lw_status_t sqlite_fleet(lwd_catalogue_t *cat, uint64_t *fleet_id_out, uint64_t *epoch_out, lw_error_t *error)
{
    uint64_t fleet_id = 0, epoch = 0;
    lw_status_t status = sqlite_meta(cat, "fleet_id", &fleet_id, error);
    if (status == LW_OK)
        status = sqlite_meta(cat, "epoch", &epoch, error);
    if (status != LW_OK)
        return status;
    *fleet_id_out = fleet_id;
    *epoch_out = epoch;
    return LW_OK;
}

static lw_status_t sqlite_set_epoch(lwd_catalogue_t *cat, uint64_t epoch, lw_error_t *error)
{
    uint64_t last = 0;
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    status = sqlite_meta(cat, "epoch", &last, error);
    if (status == LW_OK && epoch <= last)
        status = lw_fail(error, LW_ERR_STALE, "epoch %llu is not after %llu", (unsigned long long)epoch,
                         (unsigned long long)last);
    if (status == LW_OK)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_META_SET, "su", "epoch", epoch), error);
    return lwd_sql_end(cat, status, error);
}

static lw_status_t sqlite_members(lwd_catalogue_t *cat, const char *const *control, uint32_t count, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_members(control, count, error);
    if (status != LW_OK)
        return status;
    status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        uint64_t index = i;
        status = lwd_sql_value(cat, lwd_sql_bind(cat, SQL_MEMBER_AT, "s", control[i]), i, &index, error);
        if (status == LW_OK && index != i)
            status = lw_fail(error, LW_ERR_INVALID, "node %s was number %llu of the fleet and is now %u: the list may only "
                             "grow at its end", control[i], (unsigned long long)index, i);
    }
    for (uint32_t i = 0; i < count && status == LW_OK; i++)
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_MEMBER_SET, "us", (uint64_t)i, control[i]), error);
    return lwd_sql_end(cat, status, error);
}

/* Two numbers of the fleet's own rows; drawn at the first call, so that older files get theirs too. */
static lw_status_t node_token_in(lwd_catalogue_t *cat, uint64_t halves[2], lw_error_t *error)
{
    static const char *const names[2] = {"node_token_low", "node_token_high"};
    for (int i = 0; i < 2; i++) {
        lw_status_t status = sqlite_meta(cat, names[i], &halves[i], error);
        if (status != LW_OK)
            return status;
        if (halves[i])
            continue;
        if (getrandom(&halves[i], sizeof(halves[i]), 0) != (ssize_t)sizeof(halves[i]))
            return lw_fail(error, LW_ERR_IO, "no random bytes: errno %d", errno);
        halves[i] |= 1; /* zero means none yet */
        status = lwd_sql_run(cat, lwd_sql_bind(cat, SQL_META_SET, "su", names[i], halves[i]), error);
        if (status != LW_OK)
            return status;
    }
    return LW_OK;
}

static lw_status_t sqlite_node_token(lwd_catalogue_t *cat, uint8_t token_out[LW_TOKEN_BYTES], lw_error_t *error)
{
    uint64_t halves[2] = {0, 0};
    static_assert(sizeof(halves) == LW_TOKEN_BYTES, "catalogue: a token is two numbers");
    lw_status_t status = lwd_sql_begin(cat, error);
    if (status != LW_OK)
        return status;
    status = lwd_sql_end(cat, node_token_in(cat, halves, error), error);
    if (status == LW_OK)
        memcpy(token_out, halves, LW_TOKEN_BYTES);
    return status;
}

static void drain_name(uint16_t node_index, char text[24])
{
    snprintf(text, 24, "drain_%u", node_index);
}

static lw_status_t sqlite_set_drain(lwd_catalogue_t *cat, uint16_t node_index, bool drain, lw_error_t *error)
{
    char name[24];
    drain_name(node_index, name);
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    return status == LW_OK ? lwd_sql_run(cat, lwd_sql_bind(cat, SQL_META_SET, "su", name, (uint64_t)drain), error) : status;
}

static lw_status_t sqlite_drain(lwd_catalogue_t *cat, uint16_t node_index, bool *drain_out, lw_error_t *error)
{
    char name[24];
    uint64_t value = 0;
    drain_name(node_index, name);
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    if (status == LW_OK)
        status = sqlite_meta(cat, name, &value, error);
    if (status == LW_OK)
        *drain_out = value != 0;
    return status;
}

const lwd_catalogue_ops_t *lwd_catalogue_sqlite(void)
{
    static const lwd_catalogue_ops_t ops = {
        .name = "sqlite", .open = sqlite_open, .close = sqlite_close,
        .create = lwd_sqlite_create, .open_session = lwd_sqlite_open_session, .renew = lwd_sqlite_renew, .release = lwd_sqlite_release,
        .fork = lwd_sqlite_fork, .pin = lwd_sqlite_pin, .drop = lwd_sqlite_drop, .get = lwd_sqlite_get, .list = lwd_sqlite_list,
        .commit = lwd_sqlite_commit, .ranges = lwd_sqlite_ranges, .check = lwd_sqlite_check, .orphans = lwd_sqlite_orphans,
        .placed = lwd_sqlite_placed, .move = lwd_sqlite_move,
        .expire = lwd_sqlite_expire, .ended = lwd_sqlite_ended, .trim = lwd_sqlite_trim,
        .fleet = sqlite_fleet, .set_epoch = sqlite_set_epoch, .members = sqlite_members,
        .node_token = sqlite_node_token, .set_drain = sqlite_set_drain, .drain = sqlite_drain,
    };
    return &ops;
}
