/* catalogue_etcd_op.c - one operation on etcd: a snapshot, a decision, one transaction, and again when somebody was faster.
 *
 * A transaction whose answer is lost may have happened. Every one therefore also writes the handle's marker key, and
 * compares it: only this handle writes it. op_settle() writes the marker once more; if that works, the lost transaction has
 * not happened and never will, since its comparison fails from now on; if it does not, the marker says which one was last. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/prng.h"

const char *lwd_kv_key(const lwd_catalogue_t *cat, char *text, const char *format, ...)
{
    int bytes = snprintf(text, LWD_ETCD_KEY_MAX, "%s/", cat->prefix);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text + bytes, LWD_ETCD_KEY_MAX - (size_t)bytes, format, args);
    va_end(args);
    return text;
}

/* ---- what an operation holds ---- */

static void op_reset(etcd_op_t *op)
{
    for (uint32_t i = 0; i < op->session_count; i++)
        free(op->sessions[i]);
    for (uint32_t i = 0; i < op->client_count; i++) {
        free(op->clients[i]->leases);
        free(op->clients[i]);
    }
    for (uint32_t i = 0; i < op->manifest_count; i++) {
        free(op->manifests[i]->rows);
        free(op->manifests[i]);
    }
    for (uint32_t i = 0; i < op->text_count; i++)
        free(op->texts[i]);
    free(op->sessions);
    free(op->clients);
    free(op->manifests);
    free(op->texts);
    *op = (etcd_op_t){.cat = op->cat, .until_us = op->until_us, .error = op->error, .arg = op->arg};
}

static lw_status_t no_memory(etcd_op_t *op)
{
    return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for an operation on the catalogue");
}

/* A zeroed object of `bytes`, put at the end of a list that doubles; NULL: no memory. */
static void *op_add(void ***list, uint32_t *count, size_t bytes)
{
    if ((*count & (*count - 1)) == 0) { /* 0 or a power of two: full */
        void **grown = realloc(*list, (*count ? 2u * *count : 1u) * sizeof(**list));
        if (!grown)
            return NULL;
        *list = grown;
    }
    void *object = calloc(1, bytes);
    if (object)
        (*list)[(*count)++] = object;
    return object;
}

/* ---- reading ---- */

/* Asks for some ranges at the snapshot; the first question of an operation makes the snapshot. */
static lw_status_t op_ask(etcd_op_t *op, lwd_etcd_op_t *ranges, uint32_t count, lwd_etcd_reply_t **out)
{
    for (uint32_t i = 0; i < count; i++)
        ranges[i].revision = op->revision;
    const lwd_etcd_txn_t txn = {.ops = ranges, .op_count = count};
    lw_status_t status = lwd_etcd_txn(op->cat->etcd, &txn, op->until_us, out, op->error);
    if (status == LW_ERR_STALE) {
        op->again = true;
        return LW_ERR_FLEET;
    }
    if (status == LW_OK && op->revision == 0)
        op->revision = (*out)->revision;
    return status;
}

lw_status_t lwd_kv_read(etcd_op_t *op, const char *key, const char *end, uint32_t limit, lwd_etcd_reply_t **out)
{
    char last[LWD_ETCD_KEY_MAX];
    lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = key, .end = end ? end : lwd_etcd_prefix_end(key, last),
                           .limit = limit};
    return op_ask(op, &range, 1, out);
}

static lw_status_t read_one(etcd_op_t *op, const char *key, lwd_etcd_reply_t **out)
{
    lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = key};
    return op_ask(op, &range, 1, out);
}

static lw_status_t makes_no_sense(etcd_op_t *op, const char *key)
{
    return ETCD_FAIL(op, LW_ERR_CORRUPT, "etcd %s: the value of %s makes no sense", lwd_etcd_endpoint(op->cat->etcd), key);
}

static etcd_client_t *client_find(const etcd_op_t *op, uint64_t id)
{
    for (uint32_t i = 0; i < op->client_count; i++)
        if (op->clients[i]->id == id)
            return op->clients[i];
    return NULL;
}

/* kv NULL: it is not there. */
static lw_status_t client_take(etcd_op_t *op, uint64_t id, const lwd_etcd_kv_t *kv, etcd_client_t **out)
{
    etcd_client_t *client = op_add((void ***)&op->clients, &op->client_count, sizeof(*client));
    if (!client)
        return no_memory(op);
    client->id = id;
    if (kv) {
        client->mod_revision = kv->mod_revision;
        if (!lwd_kv_client_unpack(kv->value, kv->value_bytes, client))
            return makes_no_sense(op, kv->key);
    }
    *out = client;
    return LW_OK;
}

lw_status_t lwd_kv_client_load(etcd_op_t *op, uint64_t id, etcd_client_t **out)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    *out = client_find(op, id);
    if (*out)
        return LW_OK;
    lw_status_t status = read_one(op, lwd_kv_key(op->cat, key, "cat/c/%016llx", (unsigned long long)id), &reply);
    if (status == LW_OK)
        status = client_take(op, id, reply->count ? &reply->kvs[0] : NULL, out);
    lwd_etcd_reply_free(reply);
    return status;
}

lw_status_t lwd_kv_clients_load_all(etcd_op_t *op)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_kv_read(op, lwd_kv_key(op->cat, key, "cat/c/"), NULL, 0, &reply);
    for (uint32_t i = 0; status == LW_OK && i < reply->count; i++) {
        etcd_client_t *client;
        uint64_t id = strtoull(reply->kvs[i].key + strlen(key), NULL, 16);
        if (!client_find(op, id))
            status = client_take(op, id, &reply->kvs[i], &client);
    }
    lwd_etcd_reply_free(reply);
    return status;
}

static etcd_session_t *session_find(const etcd_op_t *op, uint64_t id)
{
    for (uint32_t i = 0; i < op->session_count; i++)
        if (op->sessions[i]->row.session_id == id)
            return op->sessions[i];
    return NULL;
}

lw_status_t lwd_kv_session_add(etcd_op_t *op, uint64_t id, etcd_session_t **out)
{
    etcd_session_t *session = op_add((void ***)&op->sessions, &op->session_count, sizeof(*session));
    if (!session)
        return no_memory(op);
    session->row.session_id = id;
    *out = session;
    return LW_OK;
}

static lw_status_t session_take(etcd_op_t *op, uint64_t id, const lwd_etcd_kv_t *kv, etcd_session_t **out)
{
    lw_status_t status = lwd_kv_session_add(op, id, out);
    if (status != LW_OK || !kv)
        return status;
    if (!lwd_kv_session_unpack(kv->value, kv->value_bytes, *out))
        return makes_no_sense(op, kv->key);
    (*out)->row.session_id = id;
    (*out)->mod_revision = kv->mod_revision;
    return LW_OK;
}

/* Until when the writer's lease lasts, from its client's key. */
static lw_status_t session_lease(etcd_op_t *op, etcd_session_t *session)
{
    lwd_session_row_t *row = &session->row;
    etcd_client_t *client;
    if (row->state != LWD_SESSION_ACTIVE)
        return LW_OK;
    lw_status_t status = lwd_kv_client_load(op, row->lease_client, &client);
    if (status != LW_OK)
        return status;
    const etcd_lease_t *lease = lwd_kv_lease_find(client, row->session_id, row->term);
    row->lease_until_us = lease ? lease->until_us : 0;
    row->used_us = lw_max_u64(row->used_us, lease ? lease->used_us : 0);
    return LW_OK;
}

lw_status_t lwd_kv_session_load(etcd_op_t *op, uint64_t id, etcd_session_t **out)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = LW_OK;
    etcd_session_t *session = session_find(op, id);
    if (!session) {
        status = read_one(op, lwd_kv_key(op->cat, key, "cat/s/%016llx", (unsigned long long)id), &reply);
        if (status == LW_OK)
            status = session_take(op, id, reply->count ? &reply->kvs[0] : NULL, &session);
        if (status == LW_OK)
            status = session_lease(op, session);
        lwd_etcd_reply_free(reply);
    }
    if (status == LW_OK)
        *out = session->mod_revision || session->changed ? session : NULL;
    return status;
}

/* One question for up to LWD_ETCD_OPS_MAX sessions. */
static lw_status_t sessions_ask(etcd_op_t *op, const uint64_t *ids, uint32_t count)
{
    char (*keys)[LWD_ETCD_KEY_MAX] = calloc(count, sizeof(*keys));
    lwd_etcd_op_t ranges[LWD_ETCD_OPS_MAX];
    lwd_etcd_reply_t *reply = NULL;
    if (!keys)
        return no_memory(op);
    for (uint32_t i = 0; i < count; i++)
        ranges[i] = (lwd_etcd_op_t){.kind = LWD_ETCD_RANGE,
                                    .key = lwd_kv_key(op->cat, keys[i], "cat/s/%016llx", (unsigned long long)ids[i])};
    lw_status_t status = op_ask(op, ranges, count, &reply);
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        etcd_session_t *session;
        bool there = reply->ranges[i].count > 0;
        if (!session_find(op, ids[i]))
            status = session_take(op, ids[i], there ? &reply->kvs[reply->ranges[i].first] : NULL, &session);
    }
    lwd_etcd_reply_free(reply);
    free(keys);
    return status;
}

lw_status_t lwd_kv_sessions_fetch(etcd_op_t *op, const uint64_t *ids, uint32_t count)
{
    lw_status_t status = LW_OK;
    for (uint32_t at = 0; at < count && status == LW_OK; at += LWD_ETCD_OPS_MAX)
        status = sessions_ask(op, ids + at, (uint32_t)lw_min_u64(count - at, LWD_ETCD_OPS_MAX));
    if (status == LW_OK && count > 4)
        status = lwd_kv_clients_load_all(op);
    for (uint32_t i = 0; i < op->session_count && status == LW_OK; i++)
        status = session_lease(op, op->sessions[i]);
    return status;
}

/* Takes what a retained session no longer needs out of its manifest: its key is only deleted at the session's end. */
static void manifest_cut_off(etcd_manifest_t *manifest, uint32_t keep)
{
    etcd_row_t row;
    size_t at = 0;
    uint32_t count = 0;
    while (lwd_kv_row_next(manifest, &at, &row) && etcd_row_end(&row) <= keep)
        count++;
    if (count < manifest->count)
        manifest->bytes = row.at;
    manifest->count = count;
}

lw_status_t lwd_kv_manifest_load(etcd_op_t *op, const etcd_session_t *session, uint16_t rank, etcd_manifest_t **out)
{
    char key[LWD_ETCD_KEY_MAX];
    uint64_t id = session->row.session_id;
    lwd_etcd_reply_t *reply = NULL;
    for (uint32_t i = 0; i < op->manifest_count; i++)
        if (op->manifests[i]->session_id == id && op->manifests[i]->rank == rank) {
            *out = op->manifests[i];
            return LW_OK;
        }
    lw_status_t status = read_one(op, lwd_kv_key(op->cat, key, "cat/m/%016llx/%04x", (unsigned long long)id, rank), &reply);
    if (status != LW_OK)
        return status;
    etcd_manifest_t *manifest = op_add((void ***)&op->manifests, &op->manifest_count, sizeof(*manifest));
    if (manifest) {
        manifest->session_id = id;
        manifest->rank = rank;
        manifest->layers = session->row.shape.layer_count;
    }
    if (!manifest) {
        status = no_memory(op);
    } else if (reply->count) {
        manifest->mod_revision = reply->kvs[0].mod_revision;
        if (!lwd_kv_manifest_unpack(reply->kvs[0].value, reply->kvs[0].value_bytes, manifest))
            status = makes_no_sense(op, key);
        else if (session->row.state == LWD_SESSION_RETAINED)
            manifest_cut_off(manifest, session->kept);
    }
    lwd_etcd_reply_free(reply);
    *out = manifest;
    return status;
}

lw_status_t lwd_kv_text_load(etcd_op_t *op, const char *key, etcd_text_t **out)
{
    lwd_etcd_reply_t *reply = NULL;
    etcd_text_t *text = op_add((void ***)&op->texts, &op->text_count, sizeof(*text));
    if (!text)
        return no_memory(op);
    snprintf(text->key, sizeof(text->key), "%s", key);
    text->loaded = true;
    lw_status_t status = read_one(op, key, &reply);
    if (status == LW_OK && reply->count) {
        text->value_bytes = lw_min_u64(reply->kvs[0].value_bytes, sizeof(text->value));
        if (text->value_bytes)
            memcpy(text->value, reply->kvs[0].value, text->value_bytes);
        text->mod_revision = reply->kvs[0].mod_revision;
    }
    lwd_etcd_reply_free(reply);
    *out = text;
    return status;
}

/* The entry of a key that is written without being read: one a key, since a transaction may not name a key twice. */
static etcd_text_t *text_of(etcd_op_t *op, const char *key)
{
    for (uint32_t i = 0; i < op->text_count; i++)
        if (!op->texts[i]->end[0] && strcmp(op->texts[i]->key, key) == 0)
            return op->texts[i];
    etcd_text_t *text = op_add((void ***)&op->texts, &op->text_count, sizeof(*text));
    if (text)
        snprintf(text->key, sizeof(text->key), "%s", key);
    return text;
}

lw_status_t lwd_kv_put(etcd_op_t *op, const char *key, const void *value, size_t value_bytes)
{
    etcd_text_t *text = text_of(op, key);
    if (!text)
        return no_memory(op);
    LW_ASSERT(value_bytes <= sizeof(text->value));
    if (value_bytes)
        memcpy(text->value, value, value_bytes);
    text->value_bytes = value_bytes;
    text->write = true;
    text->remove = false;
    return LW_OK;
}

lw_status_t lwd_kv_delete(etcd_op_t *op, const char *key, const char *end)
{
    etcd_text_t *text = text_of(op, key);
    if (!text)
        return no_memory(op);
    snprintf(text->end, sizeof(text->end), "%s", end ? end : "");
    text->write = false;
    text->remove = true;
    return LW_OK;
}

void lwd_kv_log_ending(etcd_op_t *op, uint64_t origin, uint16_t rank, uint32_t from_token, uint32_t generation_max)
{
    LW_ASSERT(op->ended_count < LW_ARRAY_SIZE(op->ended));
    op->ended[op->ended_count++] =
        (lwd_ended_t){.origin = origin, .rank = rank, .from_token = from_token, .generation_max = generation_max};
}

/* ---- writing ---- */

typedef struct batch { /* a transaction being put together */
    lwd_etcd_compare_t compares[LWD_ETCD_OPS_MAX];
    lwd_etcd_op_t ops[LWD_ETCD_OPS_MAX];
    uint32_t compare_count, op_count;
    char (*keys)[LWD_ETCD_KEY_MAX];
    void *values[LWD_ETCD_OPS_MAX];
    uint32_t key_count, value_count;
} batch_t;

static bool batch_full(const batch_t *batch)
{
    return batch->compare_count + 4 > LWD_ETCD_OPS_MAX || batch->op_count + 4 > LWD_ETCD_OPS_MAX;
}

static void batch_compare(batch_t *batch, const char *key, int64_t mod_revision)
{
    batch->compares[batch->compare_count++] = (lwd_etcd_compare_t){key, mod_revision};
}

/* value NULL: deletes. */
static void batch_write(batch_t *batch, const char *key, const void *value, size_t bytes)
{
    batch->ops[batch->op_count++] =
        (lwd_etcd_op_t){.kind = value ? LWD_ETCD_PUT : LWD_ETCD_DELETE, .key = key, .value = value, .value_bytes = bytes};
}

static uint8_t *batch_value(batch_t *batch, size_t bytes)
{
    uint8_t *value = malloc(bytes + 1);
    if (value)
        batch->values[batch->value_count++] = value;
    return value;
}

static bool batch_session(etcd_op_t *op, batch_t *batch, const etcd_session_t *session)
{
    if (!session->changed && !session->gone && !session->guard)
        return true;
    const char *key = lwd_kv_key(op->cat, batch->keys[batch->key_count++], "cat/s/%016llx",
                                   (unsigned long long)session->row.session_id);
    batch_compare(batch, key, session->mod_revision);
    if (session->gone) {
        batch_write(batch, key, NULL, 0);
    } else if (session->changed) {
        uint8_t *value = batch_value(batch, ETCD_SESSION_BYTES_MAX);
        if (!value)
            return false;
        batch_write(batch, key, value, lwd_kv_session_pack(session, value));
    }
    return true;
}

static bool batch_client(etcd_op_t *op, batch_t *batch, const etcd_client_t *client)
{
    if (!client->changed && !client->gone && !client->guard)
        return true;
    const char *key =
        lwd_kv_key(op->cat, batch->keys[batch->key_count++], "cat/c/%016llx", (unsigned long long)client->id);
    batch_compare(batch, key, client->mod_revision);
    if (client->gone) {
        batch_write(batch, key, NULL, 0);
    } else if (client->changed) {
        size_t bytes = lwd_kv_client_bytes(client);
        uint8_t *value = batch_value(batch, bytes);
        if (!value)
            return false;
        lwd_kv_client_pack(client, value);
        batch_write(batch, key, value, bytes);
    }
    return true;
}

static bool batch_manifest(etcd_op_t *op, batch_t *batch, const etcd_manifest_t *manifest)
{
    if (!manifest->changed)
        return true;
    const char *key = lwd_kv_key(op->cat, batch->keys[batch->key_count++], "cat/m/%016llx/%04x",
                                   (unsigned long long)manifest->session_id, manifest->rank);
    uint8_t *value = batch_value(batch, ETCD_MANIFEST_HEAD + manifest->bytes);
    if (!value)
        return false;
    lwd_kv_manifest_pack_head(manifest, value);
    memcpy(value + ETCD_MANIFEST_HEAD, manifest->rows, manifest->bytes);
    batch_compare(batch, key, manifest->mod_revision);
    batch_write(batch, key, value, ETCD_MANIFEST_HEAD + manifest->bytes);
    return true;
}

static void batch_text(batch_t *batch, const etcd_text_t *text)
{
    if (text->loaded && (text->write || text->remove))
        batch_compare(batch, text->key, text->mod_revision);
    if (text->write)
        batch_write(batch, text->key, text->value, text->value_bytes);
    if (text->remove) {
        batch_write(batch, text->key, NULL, 0);
        if (text->end[0])
            batch->ops[batch->op_count - 1].end = text->end;
    }
}

static bool batch_ended(etcd_op_t *op, batch_t *batch)
{
    uint8_t *value = op->ended_count ? batch_value(batch, 256) : NULL;
    if (op->ended_count == 0)
        return true;
    if (!value)
        return false;
    const char *key = lwd_kv_key(op->cat, batch->keys[batch->key_count++], "log/%016llx-%llu",
                                   (unsigned long long)op->cat->handle, (unsigned long long)op->cat->number);
    batch_write(batch, key, value, lwd_kv_ended_pack(op->ended, op->ended_count, value));
    return true;
}

/* Everything that the operation changes; then what it was decided on. */
static lw_status_t batch_fill(etcd_op_t *op, batch_t *batch)
{
    bool fine = true;
    for (uint32_t i = 0; i < op->session_count && fine && !batch_full(batch); i++)
        fine = batch_session(op, batch, op->sessions[i]);
    for (uint32_t i = 0; i < op->client_count && fine && !batch_full(batch); i++)
        fine = batch_client(op, batch, op->clients[i]);
    for (uint32_t i = 0; i < op->manifest_count && fine && !batch_full(batch); i++)
        fine = batch_manifest(op, batch, op->manifests[i]);
    for (uint32_t i = 0; i < op->text_count && !batch_full(batch); i++)
        batch_text(batch, op->texts[i]);
    LW_ASSERT(!batch_full(batch)); /* bodies keep to ETCD_BATCH */
    return fine && batch_ended(op, batch) ? LW_OK : no_memory(op);
}

static const char *marker_key(const lwd_catalogue_t *cat, char *text)
{
    return lwd_kv_key(cat, text, "cat/o/%016llx", (unsigned long long)cat->handle);
}

/* Reads the marker as it is now; *number_out: of the last transaction that happened. */
static lw_status_t marker_read(etcd_op_t *op, uint64_t *number_out)
{
    char key[LWD_ETCD_KEY_MAX];
    const lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = marker_key(op->cat, key)};
    const lwd_etcd_txn_t txn = {.ops = &range, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_etcd_txn(op->cat->etcd, &txn, op->until_us, &reply, op->error);
    if (status != LW_OK)
        return status;
    op->cat->marker_revision = reply->count ? reply->kvs[0].mod_revision : 0;
    op->cat->marker_unknown = false;
    *number_out = 0;
    if (reply->count && reply->kvs[0].value_bytes == sizeof(*number_out))
        memcpy(number_out, reply->kvs[0].value, sizeof(*number_out)); /* no other process reads it: any byte order does */
    lwd_etcd_reply_free(reply);
    return LW_OK;
}

/* Writes the marker alone. */
static lw_status_t marker_write(etcd_op_t *op, bool *written_out)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_catalogue_t *cat = op->cat;
    uint64_t number = ++cat->number;
    const lwd_etcd_compare_t compare = {marker_key(cat, key), cat->marker_revision};
    const lwd_etcd_op_t put = {.kind = LWD_ETCD_PUT, .key = key, .value = &number, .value_bytes = sizeof(number)};
    const lwd_etcd_txn_t txn = {.compares = &compare, .compare_count = 1, .ops = &put, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_etcd_txn(cat->etcd, &txn, op->until_us, &reply, op->error);
    if (status != LW_OK)
        return status;
    *written_out = reply->succeeded;
    if (reply->succeeded)
        cat->marker_revision = reply->revision;
    lwd_etcd_reply_free(reply);
    return LW_OK;
}

/* Did transaction `number`, whose answer was lost, happen? When this is OK it is settled for good. */
static lw_status_t op_settle(etcd_op_t *op, uint64_t number, bool *happened_out)
{
    lw_status_t status;
    bool written = false;
    uint64_t last = 0;
    *happened_out = false;
    do
        status = marker_write(op, &written);
    while (status == LW_ERR_FLEET && lwd_etcd_until(0) < op->until_us);
    if (status == LW_OK && !written) {
        status = marker_read(op, &last);
        *happened_out = last == number;
    }
    if (status != LW_OK)
        op->cat->marker_unknown = true;
    return status;
}

/* One transaction. *done_out false: somebody else was faster. */
static lw_status_t op_send(etcd_op_t *op, batch_t *batch, bool *done_out)
{
    char key[LWD_ETCD_KEY_MAX];
    lwd_catalogue_t *cat = op->cat;
    lwd_etcd_reply_t *reply = NULL;
    uint64_t number = ++cat->number;
    lw_status_t status = batch_fill(op, batch);
    if (status != LW_OK || batch->op_count == 0) {
        *done_out = true;
        return status;
    }
    batch_compare(batch, marker_key(cat, key), cat->marker_revision);
    batch_write(batch, key, &number, sizeof(number));
    const lwd_etcd_txn_t txn = {.compares = batch->compares, .compare_count = batch->compare_count, .ops = batch->ops,
                                .op_count = batch->op_count};
    status = lwd_etcd_txn(cat->etcd, &txn, op->until_us, &reply, op->error);
    if (status == LW_ERR_FLEET)
        return op_settle(op, number, done_out);
    if (status == LW_OK) {
        *done_out = reply->succeeded;
        if (reply->succeeded)
            cat->marker_revision = reply->revision;
        else
            cat->marker_unknown = true; /* it may be the marker that differs */
    }
    lwd_etcd_reply_free(reply);
    return status;
}

static lw_status_t op_write(etcd_op_t *op, bool *done_out)
{
    uint32_t objects = op->session_count + op->client_count + op->manifest_count + 1;
    batch_t *batch = calloc(1, sizeof(*batch));
    lw_status_t status = LW_OK;
    if (batch)
        batch->keys = calloc(objects, sizeof(*batch->keys));
    if (!batch || !batch->keys)
        status = no_memory(op);
    else
        status = op_send(op, batch, done_out);
    for (uint32_t i = 0; batch && i < batch->value_count; i++)
        free(batch->values[i]);
    if (batch)
        free(batch->keys);
    free(batch);
    return status;
}

/* A moment whose length differs from handle to handle, so that the same ones do not meet again. */
static void op_step_back(lwd_catalogue_t *cat, uint32_t tries)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, cat->handle ^ ++cat->retries);
    uint64_t us = lw_prng_below(&prng, 500ull << lw_min_u64(tries, 6));
    const struct timespec wait = {.tv_nsec = (long)us * 1000};
    (void)nanosleep(&wait, NULL);
}

lw_status_t lwd_kv_op_run_until(lwd_catalogue_t *cat, etcd_body_fn body, void *arg, uint64_t until_us, lw_error_t *error)
{
    lw_error_t ignored;
    etcd_op_t op = {.cat = cat, .until_us = until_us, .error = error ? error : &ignored, .arg = arg};
    lw_status_t status = LW_OK;
    for (uint32_t tries = 0; tries < ETCD_TRIES_MAX; tries++) {
        uint64_t number;
        bool done = true, again;
        status = cat->marker_unknown ? marker_read(&op, &number) : LW_OK;
        if (status == LW_OK)
            status = body(&op);
        again = op.again;
        bool more = status == LW_INPROGRESS;
        if (status == LW_OK || more)
            status = op_write(&op, &done);
        op_reset(&op);
        if (again || (status == LW_OK && !done)) {
            op_step_back(cat, tries);
            status = lw_fail(op.error, LW_ERR_BUSY, "catalogue: others change the same keys all the time");
            if (lwd_etcd_until(0) >= until_us)
                break;
            continue;
        }
        if (status != LW_OK || !more)
            break;
        tries = 0; /* a part of it is done */
    }
    return status;
}

lw_status_t lwd_kv_op_run(lwd_catalogue_t *cat, etcd_body_fn body, void *arg, lw_error_t *error)
{
    return lwd_kv_op_run_until(cat, body, arg, etcd_op_until(cat), error);
}
