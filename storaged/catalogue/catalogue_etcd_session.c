/* catalogue_etcd_session.c - sessions, clients and their leases on etcd: create, open, renew, release, fork, pin, get, list.
 *
 * A lease stands twice: in its client's key with its time, so that renewing all of a client's leases writes one key, and in
 * the session (its writer in the row, each reader as a key below it). Both change in one transaction, always. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

lw_status_t lwd_kv_no_session(etcd_op_t *op, uint64_t session_id)
{
    return ETCD_FAIL(op, LW_ERR_NOT_FOUND, "session %llu: no such session", (unsigned long long)session_id);
}

lw_status_t lwd_kv_session_open(etcd_op_t *op, const char *tenant, uint64_t id, etcd_session_t **out)
{
    etcd_session_t *session;
    *out = NULL;
    lw_status_t status = lwd_kv_session_load(op, id, &session);
    if (status != LW_OK)
        return status;
    if (!session || !lwd_session_open(&session->row) || (tenant && strcmp(tenant, session->row.tenant) != 0))
        return lwd_kv_no_session(op, id);
    *out = session;
    return LW_OK;
}

lw_status_t lwd_kv_session_parent(etcd_op_t *op, const etcd_session_t *session, etcd_session_t **out)
{
    *out = NULL;
    return session->row.parent_id && session->row.cut_tokens ? lwd_kv_session_load(op, session->row.parent_id, out)
                                                             : LW_OK;
}

void lwd_kv_session_set_state(etcd_session_t *session, lwd_session_state_t state)
{
    LW_ASSERT(lwd_session_may_move(session->row.state, state));
    session->row.state = state;
    session->changed = true;
    if (state != LWD_SESSION_ACTIVE) {
        session->row.lease_client = 0;
        session->row.lease_incarnation = 0;
        session->row.lease_until_us = 0;
    }
}

lw_status_t lwd_kv_writer(etcd_op_t *op, etcd_session_t *session, uint32_t term, uint64_t now)
{
    unsigned long long id = session->row.session_id;
    if (term != session->row.term)
        return ETCD_FAIL(op, LW_ERR_STALE, "session %llu: term is %u, not %u", id, session->row.term, term);
    if (session->fenced || !lwd_session_live(&session->row, now))
        return ETCD_FAIL(op, LW_ERR_STALE, "session %llu: the lease of term %u has ended", id, term);
    return LW_OK;
}

/* ---- leases ---- */

etcd_lease_t *lwd_kv_lease_find(const etcd_client_t *client, uint64_t session_id, uint32_t term)
{
    for (uint32_t i = 0; i < client->count; i++)
        if (client->leases[i].session_id == session_id && client->leases[i].term == term)
            return &client->leases[i];
    return NULL;
}

static lw_status_t lease_add(etcd_op_t *op, etcd_client_t *client, const etcd_lease_t *lease)
{
    if (client->count >= ETCD_LEASES_MAX)
        return ETCD_FAIL(op, LW_ERR_EXHAUSTED, "client %llx holds %u leases", (unsigned long long)client->id, client->count);
    if (client->count == client->capacity) {
        uint32_t capacity = 2 * client->capacity + 4;
        etcd_lease_t *grown = realloc(client->leases, capacity * sizeof(*grown));
        if (!grown)
            return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for a lease");
        client->leases = grown;
        client->capacity = capacity;
    }
    client->leases[client->count++] = *lease;
    client->changed = true;
    return LW_OK;
}

static void lease_remove(etcd_client_t *client, uint32_t at)
{
    memmove(&client->leases[at], &client->leases[at + 1], (client->count - at - 1) * sizeof(*client->leases));
    client->count--;
    client->changed = true;
}

static lw_status_t reader_key_delete(etcd_op_t *op, uint64_t session_id, uint64_t client_id)
{
    char key[LWD_ETCD_KEY_MAX];
    return lwd_kv_delete(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/r/%016llx", (unsigned long long)session_id,
                                            (unsigned long long)client_id), NULL);
}

lw_status_t lwd_kv_lease_end(etcd_op_t *op, etcd_client_t *client, uint32_t at)
{
    const etcd_lease_t lease = client->leases[at];
    etcd_session_t *session;
    lw_status_t status = lwd_kv_session_load(op, lease.session_id, &session);
    lease_remove(client, at);
    if (status != LW_OK || !session)
        return status;
    session->row.used_us = lw_max_u64(session->row.used_us, lease.used_us);
    session->changed = true;
    if (lease.term == 0)
        return reader_key_delete(op, lease.session_id, client->id);
    if (session->row.state == LWD_SESSION_ACTIVE && session->row.lease_client == client->id &&
        session->row.term == lease.term)
        lwd_kv_session_set_state(session, LWD_SESSION_IDLE);
    return LW_OK;
}

/* Takes one lease away where there is one. */
static lw_status_t lease_drop(etcd_op_t *op, etcd_client_t *client, uint64_t session_id, uint32_t term)
{
    etcd_lease_t *lease = lwd_kv_lease_find(client, session_id, term);
    return lease ? lwd_kv_lease_end(op, client, (uint32_t)(lease - client->leases)) : LW_OK;
}

/* ---- clients ---- */

static lw_status_t client_check(etcd_op_t *op, uint64_t id, uint64_t incarnation, etcd_client_t **out)
{
    lw_status_t status = lwd_kv_client_load(op, id, out);
    if (status == LW_OK && (*out)->mod_revision && (*out)->incarnation > incarnation)
        return ETCD_FAIL(op, LW_ERR_STALE, "client %llx: incarnation %llu was superseded by %llu", (unsigned long long)id,
                         (unsigned long long)incarnation, (unsigned long long)(*out)->incarnation);
    return status;
}

/* Remembers the incarnation; a new one ends the leases of the one before. INPROGRESS: some of them are left. */
static lw_status_t client_touch(etcd_op_t *op, etcd_client_t *client, uint64_t incarnation, uint64_t now)
{
    client->seen_us = now;
    client->changed = true;
    if (client->mod_revision && client->incarnation == incarnation)
        return LW_OK;
    for (uint32_t done = 0; client->count && done < ETCD_BATCH; done++) {
        lw_status_t status = lwd_kv_lease_end(op, client, client->count - 1);
        if (status != LW_OK)
            return status;
    }
    if (client->count)
        return LW_INPROGRESS;
    client->incarnation = incarnation;
    return LW_OK;
}

/* ---- readers ---- */

lw_status_t lwd_kv_session_readers(etcd_op_t *op, etcd_session_t *session)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    uint64_t id = session->row.session_id;
    lw_status_t status =
        lwd_kv_read(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/r/", (unsigned long long)id), NULL, 0, &reply);
    if (status == LW_OK && reply->count > 4)
        status = lwd_kv_clients_load_all(op);
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        etcd_client_t *client;
        status = lwd_kv_client_load(op, strtoull(reply->kvs[i].key + strlen(key), NULL, 16), &client);
        const etcd_lease_t *lease = status == LW_OK ? lwd_kv_lease_find(client, id, 0) : NULL;
        if (lease)
            session->row.used_us = lw_max_u64(session->row.used_us, lease->used_us);
    }
    if (status == LW_OK)
        session->row.readers = reply->count;
    lwd_etcd_reply_free(reply);
    return status;
}

/* ---- create ---- */

static lw_status_t ids_body(etcd_op_t *op)
{
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    uint64_t *first = op->arg;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "cat/next"), &text);
    if (status != LW_OK)
        return status;
    text->value[lw_min_u64(text->value_bytes, sizeof(text->value) - 1)] = 0;
    *first = text->mod_revision ? strtoull((const char *)text->value, NULL, 10) : 1;
    text->value_bytes = (size_t)snprintf((char *)text->value, sizeof(text->value), "%llu",
                                         (unsigned long long)(*first + ETCD_IDS));
    text->write = true;
    return LW_OK;
}

/* Never the same twice, over all handles. */
static lw_status_t take_id(etcd_op_t *op, uint64_t *id)
{
    lwd_catalogue_t *cat = op->cat;
    if (*id)
        return LW_OK; /* of the try before */
    if (cat->next_id == cat->ids_end) {
        uint64_t first = 0;
        lw_status_t status = lwd_kv_op_run_until(cat, ids_body, &first, op->until_us, op->error);
        if (status != LW_OK)
            return status;
        cat->next_id = first;
        cat->ids_end = first + ETCD_IDS;
    }
    *id = cat->next_id++;
    return LW_OK;
}

typedef struct call { /* arguments of a call, and what it found */
    const lwd_create_t *create;
    const char *tenant;
    uint64_t session_id, client_id, incarnation, lease_us, ttl_us, now, id;
    uint32_t max_tokens, capacity, count;
    bool write, pinned;
    uint8_t token[LW_TOKEN_BYTES];
    lwd_session_row_t *row;
} call_t;

static lw_status_t session_new(etcd_op_t *op, call_t *call, etcd_client_t *client, const char *tenant,
                               const lwd_session_shape_t *shape, etcd_session_t **out)
{
    etcd_session_t *session;
    lw_status_t status = take_id(op, &call->id);
    if (status == LW_OK)
        status = lwd_kv_session_add(op, call->id, &session);
    if (status != LW_OK)
        return status;
    lwd_session_row_t *row = &session->row;
    snprintf(row->tenant, sizeof(row->tenant), "%s", tenant);
    row->shape = *shape;
    row->state = LWD_SESSION_ACTIVE;
    row->term = 1;
    row->lease_client = call->client_id;
    row->lease_incarnation = call->incarnation;
    row->lease_until_us = call->now + call->lease_us;
    row->ttl_us = call->ttl_us;
    row->created_us = row->used_us = call->now;
    memcpy(row->token, call->token, LW_TOKEN_BYTES);
    session->changed = true;
    *out = session;
    const etcd_lease_t lease = {.session_id = call->id, .until_us = row->lease_until_us, .used_us = call->now, .term = 1};
    return lease_add(op, client, &lease);
}

static lw_status_t token_draw(call_t *call, lw_error_t *error)
{
    if (getrandom(call->token, LW_TOKEN_BYTES, 0) != (ssize_t)LW_TOKEN_BYTES)
        return lw_fail(error, LW_ERR_IO, "no random bytes: errno %d", errno);
    return LW_OK;
}

static lw_status_t create_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_client_t *client;
    etcd_session_t *session;
    lw_status_t status = client_check(op, call->client_id, call->incarnation, &client);
    if (status == LW_OK)
        status = client_touch(op, client, call->incarnation, call->now);
    if (status == LW_OK)
        status = session_new(op, call, client, call->create->tenant, &call->create->shape, &session);
    if (status == LW_OK)
        *call->row = session->row;
    return status;
}

lw_status_t lwd_kv_create(lwd_catalogue_t *cat, const lwd_create_t *create, uint64_t now, lwd_session_row_t *row_out,
                            lw_error_t *error)
{
    lwd_session_row_t row;
    call_t call = {.create = create, .client_id = create->client_id, .incarnation = create->incarnation,
                   .lease_us = create->lease_us, .ttl_us = create->ttl_us, .now = now, .row = &row};
    lw_status_t status = lwd_catalogue_check_create(create, error);
    if (status == LW_OK)
        status = token_draw(&call, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, create_body, &call, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

/* ---- open ---- */

static lw_status_t open_write(etcd_op_t *op, const call_t *call, etcd_client_t *client, etcd_session_t *session)
{
    lwd_session_row_t *row = &session->row;
    lw_status_t status = LW_OK;
    if (row->state == LWD_SESSION_ACTIVE) { /* its own lease, or one that ran out and nobody has swept yet */
        etcd_client_t *before;
        status = lwd_kv_client_load(op, row->lease_client, &before);
        if (status == LW_OK)
            status = lease_drop(op, before, row->session_id, row->term);
    }
    if (status != LW_OK)
        return status;
    row->term++;
    session->fenced = false;
    lwd_kv_session_set_state(session, LWD_SESSION_ACTIVE);
    row->lease_client = call->client_id;
    row->lease_incarnation = call->incarnation;
    row->lease_until_us = call->now + call->lease_us;
    const etcd_lease_t lease = {.session_id = row->session_id, .until_us = row->lease_until_us, .used_us = call->now,
                                .term = row->term};
    return lease_add(op, client, &lease);
}

static lw_status_t open_read(etcd_op_t *op, const call_t *call, etcd_client_t *client, etcd_session_t *session)
{
    char key[LWD_ETCD_KEY_MAX];
    uint64_t id = session->row.session_id;
    etcd_lease_t *held = lwd_kv_lease_find(client, id, 0);
    const etcd_lease_t lease = {.session_id = id, .until_us = call->now + call->lease_us, .used_us = call->now};
    if (held) {
        *held = lease;
        return LW_OK;
    }
    session->row.readers++;
    lw_status_t status = lease_add(op, client, &lease);
    return status == LW_OK ? lwd_kv_put(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/r/%016llx", (unsigned long long)id,
                                                           (unsigned long long)client->id), "", 0)
                           : status;
}

/* The readers' keys as they were before this operation, less the one that it may have ended. */
static lw_status_t open_count(etcd_op_t *op, const call_t *call, const etcd_client_t *client, bool was_reader,
                              etcd_session_t *session)
{
    lw_status_t status = lwd_kv_session_readers(op, session);
    bool is_reader = lwd_kv_lease_find(client, call->session_id, 0) != NULL;
    if (status == LW_OK && was_reader && !is_reader)
        session->row.readers--;
    return status;
}

static lw_status_t open_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_client_t *client;
    etcd_session_t *session;
    lw_status_t status = client_check(op, call->client_id, call->incarnation, &client);
    if (status == LW_OK)
        status = lwd_kv_session_open(op, call->tenant, call->session_id, &session);
    if (status != LW_OK)
        return status;
    const lwd_session_row_t *row = &session->row;
    if (call->write && lwd_session_live(row, call->now) && row->lease_client != call->client_id)
        return ETCD_FAIL(op, LW_ERR_BUSY, "session %llu: client %llx writes it", (unsigned long long)call->session_id,
                         (unsigned long long)row->lease_client);
    bool was_reader = lwd_kv_lease_find(client, call->session_id, 0) != NULL;
    status = client_touch(op, client, call->incarnation, call->now);
    if (status == LW_OK)
        status = open_count(op, call, client, was_reader, session);
    if (status != LW_OK)
        return status;
    session->row.used_us = call->now;
    session->changed = true;
    status = call->write ? open_write(op, call, client, session) : open_read(op, call, client, session);
    if (status == LW_OK) {
        session->row.used_us = call->now;
        *call->row = session->row;
    }
    return status;
}

lw_status_t lwd_kv_open_session(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool write,
                                  uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                  lwd_session_row_t *row_out, lw_error_t *error)
{
    lwd_session_row_t row;
    call_t call = {.tenant = tenant, .session_id = session_id, .write = write, .client_id = client_id,
                   .incarnation = incarnation, .lease_us = lease_us, .now = now, .row = &row};
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, open_body, &call, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

/* ---- renew and release ---- */

static lw_status_t renew_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_client_t *client;
    lw_status_t status = client_check(op, call->client_id, call->incarnation, &client);
    if (status == LW_OK)
        status = client_touch(op, client, call->incarnation, call->now);
    call->count = 0;
    for (uint32_t i = 0; status == LW_OK && i < client->count; i++) {
        etcd_lease_t *lease = &client->leases[i];
        if (lease->until_us <= call->now)
            continue;
        lease->until_us = call->now + call->lease_us;
        lease->used_us = call->now;
        call->count++;
    }
    return status;
}

lw_status_t lwd_kv_renew(lwd_catalogue_t *cat, uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                           uint32_t *renewed_out, lw_error_t *error)
{
    call_t call = {.client_id = client_id, .incarnation = incarnation, .lease_us = lease_us, .now = now};
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, renew_body, &call, error);
    if (status == LW_OK)
        *renewed_out = call.count;
    return status;
}

static lw_status_t release_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_client_t *client;
    etcd_session_t *session;
    lw_status_t status = client_check(op, call->client_id, call->incarnation, &client);
    if (status == LW_OK)
        status = lwd_kv_session_open(op, NULL, call->session_id, &session);
    if (status == LW_OK)
        status = client_touch(op, client, call->incarnation, call->now);
    if (status == LW_OK && session->row.state == LWD_SESSION_ACTIVE && session->row.lease_client == call->client_id)
        status = lease_drop(op, client, call->session_id, session->row.term);
    return status == LW_OK ? lease_drop(op, client, call->session_id, 0) : status;
}

lw_status_t lwd_kv_release(lwd_catalogue_t *cat, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                             uint64_t now, lw_error_t *error)
{
    call_t call = {.session_id = session_id, .client_id = client_id, .incarnation = incarnation, .now = now};
    return lwd_kv_op_run(cat, release_body, &call, error);
}

/* ---- fork ---- */

/* Sessions in the line of forks that ends here, this one included. */
static lw_status_t fork_depth(etcd_op_t *op, etcd_session_t *session, uint32_t *depth_out)
{
    lw_status_t status = LW_OK;
    *depth_out = 0;
    while (session && status == LW_OK) {
        ++*depth_out;
        status = lwd_kv_session_parent(op, session, &session);
    }
    return status;
}

static lw_status_t fork_child(etcd_op_t *op, call_t *call, etcd_client_t *client, const etcd_session_t *parent, uint32_t cut)
{
    char key[LWD_ETCD_KEY_MAX], text[16];
    etcd_session_t *child;
    call->ttl_us = parent->row.ttl_us;
    lw_status_t status = session_new(op, call, client, parent->row.tenant, &parent->row.shape, &child);
    if (status != LW_OK)
        return status;
    child->row.parent_id = parent->row.session_id;
    child->row.cut_tokens = child->row.token_count = cut;
    for (uint32_t rank = 0; rank < child->row.shape.rank_count; rank++)
        child->ends[rank] = cut;
    *call->row = child->row;
    if (cut == 0)
        return LW_OK; /* it needs nothing of its parent */
    int bytes = snprintf(text, sizeof(text), "%u", cut);
    return lwd_kv_put(op, lwd_kv_key(op->cat, key, "cat/s/%016llx/k/%016llx", (unsigned long long)parent->row.session_id,
                                         (unsigned long long)call->id), text, (size_t)bytes);
}

static lw_status_t fork_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_client_t *client;
    etcd_session_t *parent;
    uint32_t depth = 0, cut = 0;
    lw_status_t status = client_check(op, call->client_id, call->incarnation, &client);
    if (status == LW_OK)
        status = lwd_kv_session_open(op, call->tenant, call->session_id, &parent);
    if (status == LW_OK)
        status = fork_depth(op, parent, &depth);
    if (status == LW_OK && depth + 1 > LWD_FORK_DEPTH_MAX)
        return ETCD_FAIL(op, LW_ERR_EXHAUSTED, "session %llu is the end of a line of %u forks",
                         (unsigned long long)call->session_id, depth);
    if (status == LW_OK)
        status = lwd_kv_cut(op, parent, call->max_tokens ? call->max_tokens : UINT32_MAX, &cut);
    if (status == LW_OK)
        status = client_touch(op, client, call->incarnation, call->now);
    if (status != LW_OK)
        return status;
    parent->row.used_us = call->now;
    parent->changed = true; /* with every change of its forks */
    return fork_child(op, call, client, parent, cut);
}

lw_status_t lwd_kv_fork(lwd_catalogue_t *cat, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                          uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                          lwd_session_row_t *row_out, lw_error_t *error)
{
    lwd_session_row_t row;
    call_t call = {.tenant = tenant, .session_id = parent_id, .max_tokens = max_tokens, .client_id = client_id,
                   .incarnation = incarnation, .lease_us = lease_us, .now = now, .row = &row};
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = token_draw(&call, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, fork_body, &call, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

/* ---- pin, get, list ---- */

static lw_status_t pin_body(etcd_op_t *op)
{
    const call_t *call = op->arg;
    etcd_session_t *session;
    lw_status_t status = lwd_kv_session_open(op, call->tenant, call->session_id, &session);
    if (status == LW_OK) {
        session->row.pinned = call->pinned;
        session->changed = true;
    }
    return status;
}

lw_status_t lwd_kv_pin(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *error)
{
    call_t call = {.tenant = tenant, .session_id = session_id, .pinned = pinned};
    return lwd_kv_op_run(cat, pin_body, &call, error);
}

static lw_status_t get_body(etcd_op_t *op)
{
    const call_t *call = op->arg;
    etcd_session_t *session;
    lw_status_t status = lwd_kv_session_load(op, call->session_id, &session);
    if (status != LW_OK)
        return status;
    if (!session || (call->tenant && strcmp(call->tenant, session->row.tenant) != 0))
        return lwd_kv_no_session(op, call->session_id);
    status = lwd_kv_session_readers(op, session);
    if (status == LW_OK)
        *call->row = session->row;
    return status;
}

lw_status_t lwd_kv_get(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, lwd_session_row_t *row_out,
                         lw_error_t *error)
{
    lwd_session_row_t row;
    call_t call = {.tenant = tenant, .session_id = session_id, .row = &row};
    lw_status_t status = lwd_kv_op_run(cat, get_body, &call, error);
    if (status == LW_OK)
        *row_out = row;
    return status;
}

static lw_status_t list_body(etcd_op_t *op)
{
    call_t *call = op->arg;
    etcd_scan_t scan;
    etcd_scanned_t found;
    call->count = 0;
    lw_status_t status = lwd_kv_clients_load_all(op);
    lwd_kv_scan_start(op, call->session_id, &scan);
    while (status == LW_OK && call->count < call->capacity) {
        status = lwd_kv_scan_next(&scan, &found);
        if (status == LW_OK && (!call->tenant || strcmp(call->tenant, found.session.row.tenant) == 0))
            call->row[call->count++] = found.session.row;
    }
    lwd_kv_scan_stop(&scan);
    return status == LW_ERR_NOT_FOUND ? LW_OK : status;
}

lw_status_t lwd_kv_list(lwd_catalogue_t *cat, const char *tenant, uint64_t after_id, uint32_t capacity,
                          lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *error)
{
    call_t call = {.tenant = tenant, .session_id = after_id, .capacity = capacity, .row = rows};
    lw_status_t status = lwd_kv_op_run(cat, list_body, &call, error);
    if (status == LW_OK)
        *count_out = call.count;
    return status;
}
