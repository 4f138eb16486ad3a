/* catalogue_etcd.c - the catalogue on etcd: handles, the fleet's own keys, the table of calls. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/log.h"

/* Nothing is asked of etcd yet: a node starts while etcd is away. */
static lw_status_t etcd_open(const char *where, lwd_catalogue_t **out, lw_error_t *error)
{
    lwd_catalogue_t *cat = calloc(1, sizeof(*cat));
    if (!cat)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a catalogue");
    lw_status_t status = LW_OK;
    if (getrandom(&cat->handle, sizeof(cat->handle), 0) != (ssize_t)sizeof(cat->handle))
        status = lw_fail(error, LW_ERR_IO, "no random bytes: errno %d", errno);
    if (status == LW_OK)
        status = lwd_etcd_open_where(where, &cat->etcd, cat->prefix, error);
    if (status != LW_OK) {
        free(cat);
        return status;
    }
    *out = cat;
    return LW_OK;
}

/* The handle's marker goes with it. */
static void marker_delete(lwd_catalogue_t *cat)
{
    char key[LWD_ETCD_KEY_MAX];
    lw_error_t error;
    lwd_etcd_reply_t *reply = NULL;
    const lwd_etcd_op_t op = {.kind = LWD_ETCD_DELETE,
                              .key = lwd_kv_key(cat, key, "cat/o/%016llx", (unsigned long long)cat->handle)};
    const lwd_etcd_txn_t txn = {.ops = &op, .op_count = 1};
    if (cat->marker_revision && lwd_etcd_txn(cat->etcd, &txn, lwd_etcd_until(LWD_ETCD_AWAY_US), &reply, &error) != LW_OK)
        LW_INFO("catalogue", "a marker stays: %s", error.text);
    lwd_etcd_reply_free(reply);
}

static void etcd_close(lwd_catalogue_t *cat)
{
    if (!cat)
        return;
    marker_delete(cat);
    lwd_etcd_close(cat->etcd);
    free(cat);
}

/* ---- the fleet's own keys ---- */

typedef struct fleet { /* of a call */
    const char *name;
    uint8_t bytes[LW_TOKEN_BYTES];
    uint64_t epoch;
    uint16_t node_index;
    bool drain;
    const char *const *control;
    uint32_t count;
} fleet_t;

/* Random bytes that are drawn once for the whole life of the fleet. */
static lw_status_t random_body(etcd_op_t *op)
{
    fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "cat/%s", fleet->name), &text);
    if (status != LW_OK)
        return status;
    if (text->mod_revision == 0) {
        if (getrandom(text->value, LW_TOKEN_BYTES, 0) != (ssize_t)LW_TOKEN_BYTES)
            return ETCD_FAIL(op, LW_ERR_IO, "no random bytes: errno %d", errno);
        text->value[0] |= 1; /* zero means none */
        text->value_bytes = LW_TOKEN_BYTES;
        text->write = true;
    } else if (text->value_bytes != LW_TOKEN_BYTES) {
        return ETCD_FAIL(op, LW_ERR_CORRUPT, "the value of %s makes no sense", key);
    }
    memcpy(fleet->bytes, text->value, LW_TOKEN_BYTES);
    return LW_OK;
}

static uint64_t text_number(etcd_text_t *text)
{
    text->value[lw_min_u64(text->value_bytes, sizeof(text->value) - 1)] = 0;
    return text->mod_revision ? strtoull((const char *)text->value, NULL, 10) : 0;
}

static lw_status_t epoch_body(etcd_op_t *op)
{
    fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "cat/epoch"), &text);
    if (status == LW_OK)
        fleet->epoch = text_number(text);
    return status;
}

static lw_status_t etcd_fleet(lwd_catalogue_t *cat, uint64_t *fleet_id_out, uint64_t *epoch_out, lw_error_t *error)
{
    fleet_t fleet = {.name = "fleet"};
    lw_status_t status = lwd_kv_op_run(cat, random_body, &fleet, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, epoch_body, &fleet, error);
    if (status != LW_OK)
        return status;
    memcpy(fleet_id_out, fleet.bytes, sizeof(*fleet_id_out));
    *epoch_out = fleet.epoch;
    return LW_OK;
}

static lw_status_t etcd_node_token(lwd_catalogue_t *cat, uint8_t token_out[LW_TOKEN_BYTES], lw_error_t *error)
{
    fleet_t fleet = {.name = "nodetoken"};
    lw_status_t status = lwd_kv_op_run(cat, random_body, &fleet, error);
    if (status == LW_OK)
        memcpy(token_out, fleet.bytes, LW_TOKEN_BYTES);
    return status;
}

static lw_status_t set_epoch_body(etcd_op_t *op)
{
    const fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "cat/epoch"), &text);
    if (status != LW_OK)
        return status;
    if (fleet->epoch <= text_number(text))
        return ETCD_FAIL(op, LW_ERR_STALE, "epoch %llu is not after %llu", (unsigned long long)fleet->epoch,
                         (unsigned long long)text_number(text));
    text->value_bytes =
        (size_t)snprintf((char *)text->value, sizeof(text->value), "%llu", (unsigned long long)fleet->epoch);
    text->write = true;
    return LW_OK;
}

static lw_status_t etcd_set_epoch(lwd_catalogue_t *cat, uint64_t epoch, lw_error_t *error)
{
    fleet_t fleet = {.epoch = epoch};
    return lwd_kv_op_run(cat, set_epoch_body, &fleet, error);
}

/* Writes the addresses that have changed, a batch at a time. */
static lw_status_t members_body(etcd_op_t *op)
{
    const fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    uint32_t written = 0;
    bool *same = calloc(fleet->count, sizeof(*same));
    if (!same)
        return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for %u members", fleet->count);
    lw_status_t status = lwd_kv_read(op, lwd_kv_key(op->cat, key, "cat/members/"), NULL, 0, &reply);
    uint32_t known = status == LW_OK ? reply->count : 0;
    for (uint32_t at = 0; status == LW_OK && at < fleet->count * known; at++) {
        uint32_t i = at / known;
        const lwd_etcd_kv_t *kv = &reply->kvs[at % known];
        uint32_t index = (uint32_t)strtoul(kv->key + strlen(key), NULL, 10);
        const char *control = fleet->control[i];
        bool equal = strlen(control) == kv->value_bytes && memcmp(control, kv->value, kv->value_bytes) == 0;
        if (equal && i != index)
            status = ETCD_FAIL(op, LW_ERR_INVALID, "node %s was number %u of the fleet and is now %u: the list may only "
                               "grow at its end", control, index, i);
        same[i] = same[i] || equal;
    }
    for (uint32_t i = 0; i < fleet->count && status == LW_OK && written < ETCD_BATCH; i++) {
        if (same[i])
            continue;
        written++;
        status = lwd_kv_put(op, lwd_kv_key(op->cat, key, "cat/members/%04u", i), fleet->control[i],
                              strlen(fleet->control[i]));
    }
    free(same);
    lwd_etcd_reply_free(reply);
    return status == LW_OK && written == ETCD_BATCH ? LW_INPROGRESS : status;
}

static lw_status_t etcd_members(lwd_catalogue_t *cat, const char *const *control, uint32_t count, lw_error_t *error)
{
    fleet_t fleet = {.control = control, .count = count};
    lw_status_t status = lwd_catalogue_check_members(control, count, error);
    return status == LW_OK ? lwd_kv_op_run(cat, members_body, &fleet, error) : status;
}

static lw_status_t drain_body(etcd_op_t *op)
{
    fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "nodes/%04u/drain", fleet->node_index), &text);
    if (status == LW_OK)
        fleet->drain = text->mod_revision != 0;
    return status;
}

static lw_status_t set_drain_body(etcd_op_t *op)
{
    const fleet_t *fleet = op->arg;
    char key[LWD_ETCD_KEY_MAX];
    etcd_text_t *text;
    lw_status_t status = lwd_kv_text_load(op, lwd_kv_key(op->cat, key, "nodes/%04u/drain", fleet->node_index), &text);
    if (status != LW_OK)
        return status;
    text->value_bytes = 0;
    text->write = fleet->drain && text->mod_revision == 0; /* a change of it is a new epoch */
    text->remove = !fleet->drain && text->mod_revision != 0;
    return LW_OK;
}

static lw_status_t etcd_set_drain(lwd_catalogue_t *cat, uint16_t node_index, bool drain, lw_error_t *error)
{
    fleet_t fleet = {.node_index = node_index, .drain = drain};
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    return status == LW_OK ? lwd_kv_op_run(cat, set_drain_body, &fleet, error) : status;
}

static lw_status_t etcd_drain(lwd_catalogue_t *cat, uint16_t node_index, bool *drain_out, lw_error_t *error)
{
    fleet_t fleet = {.node_index = node_index};
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    if (status == LW_OK)
        status = lwd_kv_op_run(cat, drain_body, &fleet, error);
    if (status == LW_OK)
        *drain_out = fleet.drain;
    return status;
}

const lwd_catalogue_ops_t *lwd_catalogue_etcd(void)
{
    static const lwd_catalogue_ops_t ops = {
        .name = "etcd", .open = etcd_open, .close = etcd_close,
        .create = lwd_kv_create, .open_session = lwd_kv_open_session, .renew = lwd_kv_renew, .release = lwd_kv_release,
        .fork = lwd_kv_fork, .pin = lwd_kv_pin, .drop = lwd_kv_drop, .get = lwd_kv_get, .list = lwd_kv_list,
        .commit = lwd_kv_commit, .ranges = lwd_kv_ranges, .check = lwd_kv_check, .orphans = lwd_kv_orphans,
        .placed = lwd_kv_placed, .move = lwd_kv_move,
        .expire = lwd_kv_expire, .ended = lwd_kv_ended, .trim = lwd_kv_trim,
        .fleet = etcd_fleet, .set_epoch = etcd_set_epoch, .members = etcd_members,
        .node_token = etcd_node_token, .set_drain = etcd_set_drain, .drain = etcd_drain,
    };
    return &ops;
}
