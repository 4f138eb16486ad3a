/* catalogue_etcd_end.c - how sessions end on etcd: drop, TTL, eviction; the log of endings that nodes are told.
 *
 * A session that ends leaves no tombstone: its keys go and an ending is logged, in one transaction. Its parent is looked at
 * in the next one, since a whole line of forks may end with it; what a node that dies in between leaves undone, the next
 * expire() finds and does. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum end_reason { END_DROP, END_TTL, END_EVICT, END_SETTLE } end_reason_t;

typedef struct end { /* the end of one session, and what it came to */
    end_reason_t reason;
    const char *tenant;
    uint64_t session_id, now;
    uint64_t freed, parent_id; /* parent_id: one whose need has changed; 0: none */
    bool ended, had_parent;
} end_t;

/* Ends the readers' leases; INPROGRESS: some are left. */
static lw_status_t end_readers(etcd_op_t *op, const etcd_session_t *session, bool *had_out)
{
    char key[LWD_ETCD_KEY_MAX];
    uint64_t id = session->row.session_id;
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_kv_read(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/r/", (unsigned long long)id), NULL,
                                       ETCD_BATCH, &reply);
    *had_out = status == LW_OK && reply->count > 0;
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        etcd_client_t *client;
        status = lwd_kv_client_load(op, strtoull(reply->kvs[i].key + strlen(key), NULL, 16), &client);
        etcd_lease_t *lease = status == LW_OK ? lwd_kv_lease_find(client, id, 0) : NULL;
        if (lease)
            status = lwd_kv_lease_end(op, client, (uint32_t)(lease - client->leases));
        else if (status == LW_OK)
            status = lwd_kv_delete(op, reply->kvs[i].key, NULL);
    }
    bool more = status == LW_OK && reply->ranges[0].more;
    lwd_etcd_reply_free(reply);
    return more ? LW_INPROGRESS : status;
}

/* Largest cut of the forks that are not over. */
static lw_status_t end_needed(etcd_op_t *op, uint64_t id, uint32_t *needed_out)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status =
        lwd_kv_read(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/k/", (unsigned long long)id), NULL, 0, &reply);
    *needed_out = 0;
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        char text[16] = "";
        memcpy(text, reply->kvs[i].value, lw_min_u64(reply->kvs[i].value_bytes, sizeof(text) - 1));
        uint32_t cut = (uint32_t)strtoul(text, NULL, 10);
        *needed_out = cut > *needed_out ? cut : *needed_out;
    }
    lwd_etcd_reply_free(reply);
    return status;
}

/* Counts what goes beyond `keep`, and where the ranks end then. Their keys stay as they are until the session's end. */
static lw_status_t end_cut_off(etcd_op_t *op, etcd_session_t *session, uint32_t keep, uint64_t *freed_out)
{
    for (uint32_t rank = 0; rank < session->row.shape.rank_count; rank++) {
        etcd_manifest_t *manifest;
        etcd_row_t row;
        size_t at = 0;
        uint32_t end = session->row.cut_tokens;
        lw_status_t status = lwd_kv_manifest_load(op, session, (uint16_t)rank, &manifest);
        if (status != LW_OK)
            return status;
        while (lwd_kv_row_next(manifest, &at, &row)) {
            if (etcd_row_end(&row) > keep)
                *freed_out += row.bytes * row.replicas;
            else
                end = etcd_row_end(&row);
        }
        session->ends[rank] = end;
    }
    session->row.bytes -= *freed_out;
    lwd_kv_count_tokens(session);
    return LW_OK;
}

/* The keys of a session that nobody needs any more, and its place among its parent's forks. */
static lw_status_t end_remove(etcd_op_t *op, etcd_session_t *session, uint64_t *parent_out)
{
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    const lwd_session_row_t *row = &session->row;
    etcd_session_t *parent;
    session->gone = true;
    lwd_etcd_prefix_end(lwd_kv_key(op->cat, key, "cat/m/%016llx/", (unsigned long long)row->session_id), end);
    lw_status_t status = lwd_kv_delete(op, key, end);
    if (status == LW_OK)
        status = lwd_kv_session_parent(op, session, &parent);
    if (status != LW_OK || !parent)
        return status;
    parent->changed = true; /* with every change of its forks */
    if (parent->row.state == LWD_SESSION_RETAINED)
        *parent_out = row->parent_id;
    return lwd_kv_delete(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/k/%016llx", (unsigned long long)row->parent_id,
                                            (unsigned long long)row->session_id), NULL);
}

/* May it end for this reason, as things stand now? */
static bool end_may(const end_t *end, const etcd_session_t *session, uint32_t needed)
{
    const lwd_session_row_t *row = &session->row;
    switch (end->reason) {
    case END_DROP: return true;
    case END_TTL:
        return row->state == LWD_SESSION_IDLE && !row->pinned && row->ttl_us && row->used_us + row->ttl_us <= end->now &&
               row->readers == 0;
    case END_EVICT: return row->state == LWD_SESSION_IDLE && !row->pinned && row->readers == 0 && needed == 0;
    case END_SETTLE: return row->state == LWD_SESSION_RETAINED && needed != session->kept;
    }
    return false;
}

static lw_status_t end_find(etcd_op_t *op, const end_t *end, etcd_session_t **out)
{
    if (end->reason == END_DROP)
        return lwd_kv_session_open(op, end->tenant, end->session_id, out);
    lw_status_t status = lwd_kv_session_load(op, end->session_id, out);
    if (status == LW_OK && *out && end->reason != END_SETTLE)
        status = lwd_kv_session_readers(op, *out);
    return status;
}

static lw_status_t end_writer(etcd_op_t *op, etcd_session_t *session)
{
    etcd_client_t *client;
    if (session->row.state != LWD_SESSION_ACTIVE)
        return LW_OK;
    lw_status_t status = lwd_kv_client_load(op, session->row.lease_client, &client);
    etcd_lease_t *lease =
        status == LW_OK ? lwd_kv_lease_find(client, session->row.session_id, session->row.term) : NULL;
    return lease ? lwd_kv_lease_end(op, client, (uint32_t)(lease - client->leases)) : status;
}

static lw_status_t end_body(etcd_op_t *op)
{
    end_t *end = op->arg;
    etcd_session_t *session;
    uint32_t needed = 0;
    bool had_readers;
    end->freed = end->parent_id = 0;
    end->ended = end->had_parent = false;
    lw_status_t status = end_find(op, end, &session);
    if (status != LW_OK || !session)
        return status;
    uint64_t id = session->row.session_id;
    status = end_needed(op, id, &needed);
    if (status != LW_OK || !end_may(end, session, needed))
        return status;
    status = end_readers(op, session, &had_readers);
    if (status == LW_OK)
        status = end_writer(op, session);
    if (status == LW_OK)
        status = end_cut_off(op, session, needed, &end->freed);
    if (status != LW_OK)
        return status;
    lwd_kv_log_ending(op, id, LWD_RANK_ALL, needed, UINT32_MAX);
    end->ended = true;
    end->had_parent = session->row.parent_id != 0;
    session->kept = needed;
    session->row.pinned = false;
    if (needed == 0)
        return end_remove(op, session, &end->parent_id);
    lwd_kv_session_set_state(session, LWD_SESSION_RETAINED);
    return LW_OK;
}

/* Ends a session, then what it alone had kept. */
static lw_status_t end_run(lwd_catalogue_t *cat, end_t *end, uint64_t *freed, uint64_t until_us, lw_error_t *error)
{
    lw_status_t status = lwd_kv_op_run_until(cat, end_body, end, until_us, error);
    uint64_t parent_id = end->parent_id;
    *freed += status == LW_OK ? end->freed : 0;
    while (status == LW_OK && parent_id) {
        end_t parent = {.reason = END_SETTLE, .session_id = parent_id};
        status = lwd_kv_op_run_until(cat, end_body, &parent, until_us, error);
        *freed += status == LW_OK ? parent.freed : 0;
        parent_id = parent.parent_id;
    }
    return status;
}

lw_status_t lwd_kv_drop(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *error)
{
    uint64_t freed = 0;
    end_t end = {.reason = END_DROP, .tenant = tenant, .session_id = session_id, .now = now};
    return end_run(cat, &end, &freed, etcd_op_until(cat), error);
}

/* ---- expire ---- */

typedef struct sweep { /* one pass over everything: what it found to do */
    lwd_catalogue_t *cat;
    uint64_t now, until_us;
    uint64_t *ids; /* owned: sessions to end, or clients with leases that ran out */
    uint64_t *used;
    uint32_t count;
    uint64_t client_id; /* of one step */
    end_reason_t reason;
} sweep_t;

static lw_status_t sweep_note(etcd_op_t *op, sweep_t *sweep, uint64_t id, uint64_t used_us)
{
    if (sweep->count % 64 == 0) {
        uint64_t *ids = realloc(sweep->ids, (sweep->count + 64) * sizeof(*ids));
        if (ids)
            sweep->ids = ids;
        uint64_t *used = ids ? realloc(sweep->used, (sweep->count + 64) * sizeof(*used)) : NULL;
        if (!used)
            return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for a list of sessions");
        sweep->used = used;
    }
    sweep->ids[sweep->count] = id;
    sweep->used[sweep->count++] = used_us;
    return LW_OK;
}

/* Clients that have a lease that ran out, or none and were not heard of for long. */
static lw_status_t clients_body(etcd_op_t *op)
{
    sweep_t *sweep = op->arg;
    sweep->count = 0;
    lw_status_t status = lwd_kv_clients_load_all(op);
    for (uint32_t i = 0; i < op->client_count && status == LW_OK; i++) {
        const etcd_client_t *client = op->clients[i];
        bool over = client->count == 0 && client->seen_us + LWD_CLIENT_KEPT_US <= sweep->now;
        for (uint32_t l = 0; l < client->count; l++)
            over = over || client->leases[l].until_us <= sweep->now;
        if (over)
            status = sweep_note(op, sweep, client->id, 0);
    }
    return status;
}

static lw_status_t client_body(etcd_op_t *op)
{
    const sweep_t *sweep = op->arg;
    etcd_client_t *client;
    uint32_t done = 0;
    lw_status_t status = lwd_kv_client_load(op, sweep->client_id, &client);
    if (status != LW_OK || client->mod_revision == 0)
        return status;
    for (uint32_t l = 0; l < client->count && status == LW_OK && done < ETCD_BATCH;) {
        if (client->leases[l].until_us > sweep->now) {
            l++;
            continue;
        }
        status = lwd_kv_lease_end(op, client, l);
        done++;
    }
    client->gone = client->count == 0 && client->seen_us + LWD_CLIENT_KEPT_US <= sweep->now;
    return status == LW_OK && done == ETCD_BATCH ? LW_INPROGRESS : status;
}

static bool sweep_wants(const sweep_t *sweep, const etcd_scanned_t *found)
{
    const lwd_session_row_t *row = &found->session.row;
    switch (sweep->reason) {
    case END_SETTLE: return row->state == LWD_SESSION_RETAINED && found->needed != found->session.kept;
    case END_TTL:
        return row->state == LWD_SESSION_IDLE && !row->pinned && row->ttl_us && row->used_us + row->ttl_us <= sweep->now &&
               row->readers == 0;
    case END_EVICT:
        return row->state == LWD_SESSION_IDLE && !row->pinned && row->readers == 0 && found->needed == 0 &&
               (row->bytes > 0 || row->parent_id);
    case END_DROP: break;
    }
    return false;
}

static lw_status_t sessions_body(etcd_op_t *op)
{
    sweep_t *sweep = op->arg;
    etcd_scan_t scan;
    etcd_scanned_t found;
    sweep->count = 0;
    lw_status_t status = lwd_kv_clients_load_all(op);
    lwd_kv_scan_start(op, 0, &scan);
    while (status == LW_OK) {
        status = lwd_kv_scan_next(&scan, &found);
        if (status == LW_OK && sweep_wants(sweep, &found))
            status = sweep_note(op, sweep, found.session.row.session_id, found.session.row.used_us);
    }
    lwd_kv_scan_stop(&scan);
    return status == LW_ERR_NOT_FOUND ? LW_OK : status;
}

static lw_status_t expire_leases(sweep_t *sweep, lw_error_t *error)
{
    lw_status_t status = lwd_kv_op_run_until(sweep->cat, clients_body, sweep, sweep->until_us, error);
    for (uint32_t i = 0; i < sweep->count && status == LW_OK; i++) {
        sweep->client_id = sweep->ids[i];
        status = lwd_kv_op_run_until(sweep->cat, client_body, sweep, sweep->until_us, error);
    }
    return status;
}

/* Which of those that were found comes next: for eviction the least recently used, else the first. */
static uint32_t sweep_next(const sweep_t *sweep)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < sweep->count && sweep->reason == END_EVICT; i++)
        if (sweep->used[i] < sweep->used[best])
            best = i;
    return best;
}

/* Ends what the sweep's reason finds until `bytes` are freed. */
static lw_status_t expire_sessions(sweep_t *sweep, end_reason_t reason, uint64_t bytes, uint64_t *freed, lw_error_t *error)
{
    bool again = true;
    lw_status_t status = LW_OK;
    sweep->reason = reason;
    while (again && *freed < bytes && status == LW_OK) {
        again = false;
        status = lwd_kv_op_run_until(sweep->cat, sessions_body, sweep, sweep->until_us, error);
        while (status == LW_OK && sweep->count && *freed < bytes) {
            uint32_t at = sweep_next(sweep);
            end_t end = {.reason = reason, .session_id = sweep->ids[at], .now = sweep->now};
            sweep->count--;
            memmove(&sweep->ids[at], &sweep->ids[at + 1], (sweep->count - at) * sizeof(*sweep->ids));
            memmove(&sweep->used[at], &sweep->used[at + 1], (sweep->count - at) * sizeof(*sweep->used));
            status = end_run(sweep->cat, &end, freed, sweep->until_us, error);
            again = again || (reason == END_EVICT && end.ended && end.had_parent);
            if (again) /* a parent may have lost its last fork: it may be the oldest now */
                sweep->count = 0;
        }
    }
    return status;
}

lw_status_t lwd_kv_expire(lwd_catalogue_t *cat, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out,
                            lw_error_t *error)
{
    uint64_t freed = 0;
    sweep_t sweep = {.cat = cat, .now = now, .until_us = etcd_op_until(cat)};
    lw_status_t status = expire_leases(&sweep, error);
    if (status == LW_OK)
        status = expire_sessions(&sweep, END_SETTLE, UINT64_MAX, &freed, error);
    if (status == LW_OK)
        status = expire_sessions(&sweep, END_TTL, UINT64_MAX, &freed, error);
    if (status == LW_OK)
        status = expire_sessions(&sweep, END_EVICT, bytes, &freed, error);
    free(sweep.ids);
    free(sweep.used);
    if (status != LW_OK && freed == 0)
        return status; /* what was freed is freed, whatever came after */
    *bytes_freed_out = freed;
    return LW_OK;
}

/* ---- the log of endings ---- */


lw_status_t lwd_kv_ended(lwd_catalogue_t *cat, uint64_t after, uint32_t capacity, lwd_ended_t *rows, uint32_t *count_out,
                           lw_error_t *error)
{
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    uint32_t count = 0;
    const lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = lwd_kv_key(cat, key, "log/"),
                                 .end = lwd_etcd_prefix_end(key, end), .min_mod_revision = (int64_t)(after / 256),
                                 .by_revision = true, .limit = (int64_t)capacity + 1};
    const lwd_etcd_txn_t txn = {.ops = &range, .op_count = 1};
    lw_status_t status = lwd_etcd_txn(cat->etcd, &txn, etcd_op_until(cat), &reply, error);
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        const lwd_etcd_kv_t *kv = &reply->kvs[i];
        lwd_ended_t found[8];
        uint32_t found_count = lwd_kv_ended_unpack(kv->value, kv->value_bytes, (uint64_t)kv->mod_revision, found);
        for (uint32_t f = 0; f < found_count && count < capacity; f++)
            if (found[f].serial > after)
                rows[count++] = found[f];
    }
    lwd_etcd_reply_free(reply);
    if (status == LW_OK)
        *count_out = count;
    return status;
}

typedef struct trim {
    uint64_t serial;
} trim_t;

static lw_status_t trim_body(etcd_op_t *op)
{
    const trim_t *trim = op->arg;
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    uint32_t done = 0;
    /* The oldest ones, however long the log has become: all of it may be more than one answer takes. */
    const lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = lwd_kv_key(op->cat, key, "log/"),
                                 .end = lwd_etcd_prefix_end(key, end), .by_revision = true, .limit = ETCD_BATCH};
    const lwd_etcd_txn_t txn = {.ops = &range, .op_count = 1};
    lw_status_t status = lwd_etcd_txn(op->cat->etcd, &txn, op->until_us, &reply, op->error);
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        const lwd_etcd_kv_t *kv = &reply->kvs[i];
        lwd_ended_t rows[8];
        uint32_t count = lwd_kv_ended_unpack(kv->value, kv->value_bytes, (uint64_t)kv->mod_revision, rows);
        if (count && rows[count - 1].serial > trim->serial)
            break;
        status = lwd_kv_delete(op, kv->key, NULL);
        done++;
    }
    lwd_etcd_reply_free(reply);
    return status == LW_OK && done == ETCD_BATCH ? LW_INPROGRESS : status;
}

lw_status_t lwd_kv_trim(lwd_catalogue_t *cat, uint64_t serial, lw_error_t *error)
{
    trim_t trim = {.serial = serial};
    return lwd_kv_op_run(cat, trim_body, &trim, error);
}
