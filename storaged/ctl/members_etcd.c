/* members_etcd.c - see members_etcd.h.
 *
 * The thread is always in one of three phases:
 *
 *   READ      read nodes/ and live/ at one revision, watch from the next one  -> REGISTER
 *   REGISTER  write this node's keys in one transaction that compares them    -> KEEP, or READ when they had changed
 *   KEEP      keep the lease, apply what the watch tells   -> REGISTER when the node begins to leave
 *                                                          -> READ when the lease or its key is gone, or the watch has
 *                                                             lost its place
 */
#include "storaged/ctl/members_etcd.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "storaged/etcd/etcd.h"

#define ETCD_CALL_US 1000000ull
#define TOLD_FORGET_US 3600000000ull
#define FIRST_AWAY_US 2000000ull /* a start waits for etcd this long, then goes on without */
#define NO_INDEX UINT32_MAX

typedef enum phase { PHASE_READ, PHASE_REGISTER, PHASE_KEEP } phase_t;

typedef struct entry { /* one index, as etcd has it */
    bool known, live, drain, draining;
    lw_node_t node;
    uint64_t incarnation;
    int64_t node_revision, live_revision;
} entry_t;

struct ctl_etcd {
    ctl_etcd_params_t params;
    lw_node_t own;
    char prefix[LWD_ETCD_PREFIX_MAX];
    pthread_t thread;
    atomic_bool stopping, endings, superseded;
    _Atomic uint64_t told, least_told;

    pthread_mutex_t lock; /* what others take */
    lw_node_t *nodes;     /* [node_max] */
    uint32_t node_count, shown_index;
    uint64_t epoch, version;

    /* The thread alone; start() before there is one. */
    lwd_etcd_t *client;
    lwd_etcd_watch_t *watch;
    phase_t phase;
    entry_t *entries; /* [node_max] */
    uint64_t seen_epoch;
    int64_t lease;    /* 0: none */
    uint32_t index;   /* of this node; NO_INDEX: none yet */
    bool draining;    /* as its live key says */
    uint64_t keep_us, told_us, told_written;
    uint32_t failures;
};

static uint64_t now_us(const ctl_etcd_t *etcd)
{
    return lw_now_us(etcd->params.clock);
}

static uint64_t unix_us(const ctl_etcd_t *etcd)
{
    return etcd->params.clock->unix_us(etcd->params.clock->self);
}

static const char *key_of(const ctl_etcd_t *etcd, char *text, const char *folder, uint32_t index)
{
    snprintf(text, LWD_ETCD_KEY_MAX, "%s/%s/%04u", etcd->prefix, folder, index);
    return text;
}

/* ---- values ---- */

/* The word after `name` at the beginning of a line; false: there is none, or it is too long. */
static bool value_text(const lwd_etcd_kv_t *kv, const char *name, char *text, size_t text_bytes)
{
    size_t name_bytes = strlen(name), at = 0;
    const char *value = (const char *)kv->value;
    while (at < kv->value_bytes) {
        const char *end = memchr(value + at, '\n', kv->value_bytes - at);
        size_t bytes = end ? (size_t)(end - value) - at : kv->value_bytes - at;
        if (bytes > name_bytes && memcmp(value + at, name, name_bytes) == 0 && value[at + name_bytes] == ' ') {
            bytes -= name_bytes + 1;
            if (bytes >= text_bytes)
                return false;
            memcpy(text, value + at + name_bytes + 1, bytes);
            text[bytes] = 0;
            return true;
        }
        at = end ? (size_t)(end - value) + 1 : kv->value_bytes;
    }
    return false;
}

static uint64_t value_number(const lwd_etcd_kv_t *kv, const char *name, int base)
{
    char text[32];
    return value_text(kv, name, text, sizeof(text)) ? strtoull(text, NULL, base) : 0;
}

static size_t node_value(const lw_node_t *node, char *text, size_t text_bytes)
{
    return (size_t)snprintf(text, text_bytes, "id %016llx\nweight %u\nzone %s\ncontrol %s\ndata %s\n",
                            (unsigned long long)node->id, node->weight, node->zone, node->control, node->data);
}

static bool node_read(const lwd_etcd_kv_t *kv, lw_node_t *out)
{
    memset(out, 0, sizeof(*out));
    out->id = value_number(kv, "id", 16);
    out->weight = (uint32_t)value_number(kv, "weight", 10);
    (void)value_text(kv, "zone", out->zone, sizeof(out->zone)); /* may be empty */
    (void)value_text(kv, "data", out->data, sizeof(out->data));
    return out->id && value_text(kv, "control", out->control, sizeof(out->control));
}

/* ---- the list ---- */

/* One key below nodes/ or live/; kv->value NULL with deleted. False: not one of ours. */
static bool apply_key(ctl_etcd_t *etcd, const lwd_etcd_kv_t *kv, bool deleted)
{
    const char *rest = kv->key + strlen(etcd->prefix) + 1;
    bool is_live = strncmp(rest, "live/", 5) == 0, is_node = strncmp(rest, "nodes/", 6) == 0;
    char *end = NULL;
    unsigned long index = is_live || is_node ? strtoul(rest + (is_live ? 5 : 6), &end, 10) : NO_INDEX;
    if (index >= etcd->params.node_max)
        return false;
    entry_t *entry = &etcd->entries[index];
    if (is_live) {
        entry->live = !deleted;
        entry->live_revision = deleted ? 0 : kv->mod_revision;
        entry->incarnation = deleted ? entry->incarnation : value_number(kv, "incarnation", 10);
        entry->draining = !deleted && value_number(kv, "draining", 10) != 0;
    } else if (strcmp(end, "/drain") == 0) {
        entry->drain = !deleted;
    } else {
        entry->known = !deleted && node_read(kv, &entry->node);
        entry->node_revision = deleted ? 0 : kv->mod_revision;
        if (!deleted && !entry->known)
            LW_ERROR("ctl", "etcd: the value of %s makes no sense", kv->key);
    }
    return true;
}

static void log_changes(const lw_node_t *before, uint32_t before_count, const lw_node_t *node)
{
    static const char *const texts[] = {"unknown", "up", "draining", "down"};
    uint32_t state = 0;
    for (uint32_t i = 0; i < before_count; i++)
        if (before[i].index == node->index)
            state = before[i].state;
    if (state != node->state)
        lw_log(node->state == LW_NODE_DOWN ? LW_LOG_WARN : LW_LOG_INFO, "ctl", "node %u at %s is %s", node->index,
               node->control, texts[node->state]);
}

/* Shows the list as it is now, once this node is in it. */
static void publish(ctl_etcd_t *etcd, uint64_t epoch)
{
    etcd->seen_epoch = lw_max_u64(etcd->seen_epoch, epoch);
    if (etcd->index == NO_INDEX || etcd->entries[etcd->index].incarnation != etcd->own.incarnation)
        return;
    pthread_mutex_lock(&etcd->lock);
    uint32_t count = 0;
    for (uint32_t i = 0; i < etcd->params.node_max; i++) {
        const entry_t *entry = &etcd->entries[i];
        if (!entry->known)
            continue;
        lw_node_t node = entry->node;
        node.index = (uint16_t)i;
        node.incarnation = entry->incarnation;
        node.state = !entry->live ? LW_NODE_DOWN : entry->drain || entry->draining ? LW_NODE_DRAINING : LW_NODE_UP;
        log_changes(etcd->nodes, etcd->node_count, &node);
        etcd->nodes[count++] = node; /* its old place, or one before it: log_changes looks by index */
    }
    etcd->node_count = count;
    etcd->shown_index = etcd->index;
    etcd->epoch = etcd->seen_epoch;
    etcd->version++;
    pthread_mutex_unlock(&etcd->lock);
}

/* ---- READ ---- */

static void watch_close(ctl_etcd_t *etcd)
{
    lwd_etcd_watch_close(etcd->watch);
    etcd->watch = NULL;
}

static lw_status_t phase_read(ctl_etcd_t *etcd, lw_error_t *error)
{
    char nodes[LWD_ETCD_KEY_MAX], nodes_end[LWD_ETCD_KEY_MAX], live[LWD_ETCD_KEY_MAX], live_end[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *reply = NULL;
    uint64_t epoch = 0;
    snprintf(nodes, sizeof(nodes), "%s/nodes/", etcd->prefix);
    snprintf(live, sizeof(live), "%s/live/", etcd->prefix);
    const lwd_etcd_op_t ops[2] = {
        {.kind = LWD_ETCD_RANGE, .key = live, .end = lwd_etcd_prefix_end(live, live_end)},
        {.kind = LWD_ETCD_RANGE, .key = nodes, .end = lwd_etcd_prefix_end(nodes, nodes_end)},
    };
    const lwd_etcd_txn_t txn = {.ops = ops, .op_count = 2};
    watch_close(etcd);
    lw_status_t status = lwd_etcd_txn(etcd->client, &txn, lwd_etcd_until(ETCD_CALL_US), &reply, error);
    if (status != LW_OK)
        return status;
    memset(etcd->entries, 0, etcd->params.node_max * sizeof(*etcd->entries));
    for (uint32_t i = 0; i < reply->count; i++)
        if (apply_key(etcd, &reply->kvs[i], false))
            epoch = lw_max_u64(epoch, (uint64_t)reply->kvs[i].mod_revision);
    /* From live/ to nodes/ in one watch: log/, where endings are, lies between, and everything else outside. */
    status = lwd_etcd_watch_open(etcd->client, live, nodes_end, reply->revision + 1, &etcd->watch, error);
    lwd_etcd_reply_free(reply);
    atomic_store(&etcd->endings, true);
    etcd->seen_epoch = lw_max_u64(etcd->seen_epoch, epoch);
    etcd->phase = PHASE_REGISTER;
    return status;
}

/* ---- REGISTER ---- */

/* This node's index: the one its id has, or the next one. */
static lw_status_t find_index(ctl_etcd_t *etcd, uint32_t *index_out, lw_error_t *error)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < etcd->params.node_max; i++) {
        const entry_t *entry = &etcd->entries[i];
        if (entry->known && entry->node.id == etcd->own.id) {
            *index_out = i;
            return LW_OK;
        }
        if (entry->known || entry->live)
            next = i + 1;
    }
    if (next >= etcd->params.node_max)
        return lw_fail(error, LW_ERR_EXHAUSTED, "the fleet below %s has %u nodes, which is all there may be", etcd->prefix,
                       etcd->params.node_max);
    *index_out = next;
    return LW_OK;
}

/* May this node take its place? A live key of an earlier process at the same address belongs to one that is gone: this one
 * listens there. */
static lw_status_t check_place(ctl_etcd_t *etcd, uint32_t index, lw_error_t *error)
{
    const entry_t *entry = &etcd->entries[index];
    if (!entry->live || entry->incarnation == etcd->own.incarnation)
        return LW_OK;
    bool same = strcmp(entry->node.control, etcd->own.control) == 0;
    if (same && entry->incarnation < etcd->own.incarnation)
        return LW_OK;
    if (same)
        atomic_store(&etcd->superseded, true);
    return lw_fail(error, LW_ERR_EXISTS, "node id %016llx is alive at %s as number %u of the fleet (incarnation %llu)",
                   (unsigned long long)etcd->own.id, entry->node.control, index, (unsigned long long)entry->incarnation);
}

static size_t live_value(const ctl_etcd_t *etcd, bool draining, char *text, size_t text_bytes)
{
    return (size_t)snprintf(text, text_bytes, "incarnation %llu\ndraining %d\n",
                            (unsigned long long)etcd->own.incarnation, draining);
}

/* Writes this node's keys. *done_out false: they are not as they were read. */
static lw_status_t write_place(ctl_etcd_t *etcd, uint32_t index, bool *done_out, lw_error_t *error)
{
    char node_key[LWD_ETCD_KEY_MAX], live_key[LWD_ETCD_KEY_MAX], node_text[512], live_text[96];
    const entry_t *entry = &etcd->entries[index];
    bool draining = atomic_load(etcd->params.draining);
    bool same = entry->known && entry->node.weight == etcd->own.weight &&
                strcmp(entry->node.zone, etcd->own.zone) == 0 && strcmp(entry->node.control, etcd->own.control) == 0 &&
                strcmp(entry->node.data, etcd->own.data) == 0;
    const lwd_etcd_compare_t compares[2] = {
        {key_of(etcd, node_key, "nodes", index), entry->node_revision},
        {key_of(etcd, live_key, "live", index), entry->live_revision},
    };
    const lwd_etcd_op_t ops[2] = {
        {.kind = LWD_ETCD_PUT, .key = live_key, .value = live_text, .lease = etcd->lease,
         .value_bytes = live_value(etcd, draining, live_text, sizeof(live_text))},
        {.kind = LWD_ETCD_PUT, .key = node_key, .value = node_text,
         .value_bytes = node_value(&etcd->own, node_text, sizeof(node_text))},
    };
    const lwd_etcd_txn_t txn = {.compares = compares, .compare_count = 2, .ops = ops, .op_count = same ? 1 : 2};
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_etcd_txn(etcd->client, &txn, lwd_etcd_until(ETCD_CALL_US), &reply, error);
    if (status != LW_OK)
        return status;
    *done_out = reply->succeeded;
    etcd->draining = draining;
    lwd_etcd_reply_free(reply);
    return LW_OK;
}

static lw_status_t phase_register(ctl_etcd_t *etcd, lw_error_t *error)
{
    uint32_t index = 0;
    bool done = false;
    etcd->phase = PHASE_READ; /* whatever goes wrong, and also when the keys had changed */
    lw_status_t status = find_index(etcd, &index, error);
    if (status == LW_OK)
        status = check_place(etcd, index, error);
    uint64_t sent = now_us(etcd);
    if (status == LW_OK && etcd->lease == 0)
        status = lwd_etcd_grant(etcd->client, CTL_ETCD_TTL_S, lwd_etcd_until(ETCD_CALL_US), &etcd->lease, error);
    if (status == LW_OK)
        status = write_place(etcd, index, &done, error);
    if (status == LW_ERR_NOT_FOUND) /* the lease, in the meantime */
        etcd->lease = 0;
    if (status != LW_OK || !done)
        return status;
    etcd->index = index; /* the watch brings the rest */
    etcd->keep_us = sent;
    etcd->phase = PHASE_KEEP;
    atomic_store(&etcd->superseded, false);
    atomic_store(etcd->params.kept_us, sent);
    return LW_OK;
}

/* ---- KEEP ---- */

static lw_status_t keep_lease(ctl_etcd_t *etcd, lw_error_t *error)
{
    uint32_t ttl;
    uint64_t sent = now_us(etcd);
    if (sent - etcd->keep_us < CTL_ETCD_KEEP_US)
        return LW_OK;
    lw_status_t status = lwd_etcd_keep(etcd->client, etcd->lease, lwd_etcd_until(CTL_ETCD_KEEP_US), &ttl, error);
    if (status == LW_OK) {
        etcd->keep_us = sent;
        atomic_store(etcd->params.kept_us, sent);
    } else if (status == LW_ERR_NOT_FOUND) {
        LW_WARN("ctl", "this node's lease on etcd has run out: registering again");
        etcd->lease = 0;
        etcd->phase = PHASE_READ;
        return LW_OK;
    }
    return status;
}

/* Changes that others made, and the echo of our own. */
static void apply_events(ctl_etcd_t *etcd, const lwd_etcd_events_t *events)
{
    uint64_t epoch = 0;
    for (uint32_t i = 0; i < events->count; i++) {
        const lwd_etcd_event_t *event = &events->rows[i];
        if (apply_key(etcd, &event->kv, event->deleted))
            epoch = (uint64_t)event->kv.mod_revision;
        else
            atomic_store(&etcd->endings, true);
    }
    if (epoch == 0)
        return;
    publish(etcd, epoch);
    const entry_t *own = &etcd->entries[etcd->index];
    if (!own->live || own->incarnation != etcd->own.incarnation) { /* for the others this node is gone, or another one */
        atomic_store(etcd->params.kept_us, 0);
        etcd->phase = PHASE_READ;
    }
}

static lw_status_t take_changes(ctl_etcd_t *etcd, lw_error_t *error)
{
    lwd_etcd_events_t events;
    lw_status_t status = lwd_etcd_watch_next(etcd->watch, CTL_ETCD_POLL_US, &events, error);
    if (status == LW_OK) {
        apply_events(etcd, &events);
        lwd_etcd_events_free(&events);
        return LW_OK;
    }
    if (status == LW_ERR_STALE) {
        etcd->phase = PHASE_READ; /* and this node's key is written again, so that all agree on an epoch after the gap */
        return LW_OK;
    }
    return status == LW_ERR_TIMEOUT ? LW_OK : status;
}

/* Endings that all nodes know of can go from the log; each node writes how far it is. */
static void write_told(ctl_etcd_t *etcd)
{
    char key[LWD_ETCD_KEY_MAX], text[64];
    uint64_t told = atomic_load(&etcd->told);
    lw_error_t error;
    lwd_etcd_reply_t *reply = NULL;
    int bytes = snprintf(text, sizeof(text), "serial %llu\ntime %llu\n", (unsigned long long)told,
                         (unsigned long long)unix_us(etcd));
    const lwd_etcd_op_t put = {.kind = LWD_ETCD_PUT, .key = key_of(etcd, key, "told", etcd->index), .value = text,
                               .value_bytes = (size_t)bytes};
    const lwd_etcd_txn_t txn = {.ops = &put, .op_count = 1};
    if (lwd_etcd_txn(etcd->client, &txn, lwd_etcd_until(ETCD_CALL_US), &reply, &error) == LW_OK)
        etcd->told_written = told;
    lwd_etcd_reply_free(reply);
}

static void read_told(ctl_etcd_t *etcd)
{
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    lw_error_t error;
    lwd_etcd_reply_t *reply = NULL;
    uint64_t least = UINT64_MAX, now = unix_us(etcd);
    snprintf(key, sizeof(key), "%s/told/", etcd->prefix);
    const lwd_etcd_op_t range = {.kind = LWD_ETCD_RANGE, .key = key, .end = lwd_etcd_prefix_end(key, end)};
    const lwd_etcd_txn_t txn = {.ops = &range, .op_count = 1};
    if (lwd_etcd_txn(etcd->client, &txn, lwd_etcd_until(ETCD_CALL_US), &reply, &error) != LW_OK)
        return;
    for (uint32_t i = 0; i < etcd->params.node_max; i++) {
        const entry_t *entry = &etcd->entries[i];
        const lwd_etcd_kv_t *found = NULL;
        for (uint32_t k = 0; entry->known && k < reply->count; k++)
            if (strtoul(reply->kvs[k].key + strlen(key), NULL, 10) == i)
                found = &reply->kvs[k];
        bool recent = found && value_number(found, "time", 10) + TOLD_FORGET_US > now;
        if (entry->known && (entry->live || recent))
            least = lw_min_u64(least, found ? value_number(found, "serial", 10) : 0);
    }
    lwd_etcd_reply_free(reply);
    atomic_store(&etcd->least_told, least == UINT64_MAX ? 0 : least);
}

static void look_at_told(ctl_etcd_t *etcd)
{
    uint64_t now = now_us(etcd);
    if (now - etcd->told_us < CTL_ETCD_TOLD_US)
        return;
    bool was_quiet = etcd->told_written == atomic_load(&etcd->told);
    etcd->told_us = now;
    if (!was_quiet)
        write_told(etcd);
    if (!was_quiet || atomic_load(&etcd->least_told) < etcd->told_written)
        read_told(etcd); /* nothing to read for while all are as far as this node */
}

static lw_status_t phase_keep(ctl_etcd_t *etcd, lw_error_t *error)
{
    lw_status_t status = take_changes(etcd, error);
    if (etcd->phase == PHASE_KEEP) {
        lw_status_t kept = keep_lease(etcd, error);
        status = kept != LW_OK ? kept : status;
    }
    if (etcd->phase != PHASE_KEEP || status != LW_OK)
        return status;
    if (etcd->draining != atomic_load(etcd->params.draining))
        etcd->phase = PHASE_REGISTER;
    look_at_told(etcd);
    return LW_OK;
}

/* ---- the thread ---- */

static void pause_us(uint64_t us)
{
    const struct timespec wait = {.tv_nsec = (long)us * 1000};
    (void)nanosleep(&wait, NULL);
}

static lw_status_t one_step(ctl_etcd_t *etcd, lw_error_t *error)
{
    switch (etcd->phase) {
    case PHASE_READ: return phase_read(etcd, error);
    case PHASE_REGISTER: return phase_register(etcd, error);
    case PHASE_KEEP: return phase_keep(etcd, error);
    }
    return LW_ERR_INVALID;
}

static void *members_thread(void *arg)
{
    ctl_etcd_t *etcd = arg;
    while (!atomic_load(&etcd->stopping)) {
        lw_error_t error = {0};
        lw_status_t status = one_step(etcd, &error);
        if (status == LW_OK) {
            if (etcd->failures > 3)
                LW_WARN("ctl", "etcd answers again");
            etcd->failures = 0;
            continue;
        }
        if (etcd->failures++ == 3) /* a state worth a line, once */
            LW_WARN("ctl", "%s", error.text);
        pause_us(atomic_load(&etcd->superseded) ? 10 * CTL_ETCD_POLL_US : CTL_ETCD_POLL_US);
    }
    return NULL;
}

/* The first registration, before there is a thread: an id that is taken is an error of the start. */
static lw_status_t register_first(ctl_etcd_t *etcd, lw_error_t *error)
{
    uint64_t until = lwd_etcd_until((CTL_ETCD_TTL_S + 2) * 1000000ull), away_until = lwd_etcd_until(FIRST_AWAY_US);
    bool taken = false;
    for (;;) {
        lw_status_t status = one_step(etcd, error);
        if (status == LW_OK && etcd->phase == PHASE_KEEP)
            return LW_OK;
        bool late = lwd_etcd_until(0) >= until;
        bool wait = status == LW_ERR_EXISTS && !late; /* a dead process's lease may still run */
        taken = taken || wait;
        if (wait || (status == LW_ERR_FLEET && lwd_etcd_until(0) < away_until)) {
            pause_us(CTL_ETCD_POLL_US);
            continue;
        }
        if (status == LW_ERR_FLEET || (status == LW_OK && late && !taken)) {
            LW_WARN("ctl", "not registered yet: %s", status == LW_OK ? "the keys change all the time" : error->text);
            return LW_OK; /* the thread goes on */
        }
        if (status != LW_OK)
            return status;
    }
}

static void members_free(ctl_etcd_t *etcd)
{
    watch_close(etcd);
    lwd_etcd_close(etcd->client);
    pthread_mutex_destroy(&etcd->lock);
    free(etcd->nodes);
    free(etcd->entries);
    free(etcd);
}

lw_status_t lwd_ctl_etcd_start(const ctl_etcd_params_t *params, ctl_etcd_t **etcd_out, lw_error_t *error)
{
    ctl_etcd_t *etcd = calloc(1, sizeof(*etcd));
    if (!etcd)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the fleet's members");
    pthread_mutex_init(&etcd->lock, NULL);
    etcd->params = *params;
    etcd->params.where = NULL; /* borrowed */
    etcd->params.own = NULL;
    etcd->own = *params->own;
    etcd->index = NO_INDEX;
    etcd->nodes = calloc(params->node_max, sizeof(*etcd->nodes));
    etcd->entries = calloc(params->node_max, sizeof(*etcd->entries));
    lw_status_t status = etcd->nodes && etcd->entries
                             ? LW_OK
                             : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %u members", params->node_max);
    if (status == LW_OK)
        status = lwd_etcd_open_where(params->where, &etcd->client, etcd->prefix, error);
    if (status == LW_OK)
        status = register_first(etcd, error);
    if (status == LW_OK && pthread_create(&etcd->thread, NULL, members_thread, etcd) != 0)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the fleet's members");
    if (status != LW_OK) {
        members_free(etcd);
        return status;
    }
    *etcd_out = etcd;
    return LW_OK;
}

void lwd_ctl_etcd_stop(ctl_etcd_t *etcd)
{
    lw_error_t error;
    if (!etcd)
        return;
    atomic_store(&etcd->stopping, true);
    pthread_join(etcd->thread, NULL);
    if (etcd->lease && lwd_etcd_revoke(etcd->client, etcd->lease, lwd_etcd_until(ETCD_CALL_US), &error) != LW_OK)
        LW_INFO("ctl", "the lease runs out by itself: %s", error.text);
    members_free(etcd);
}

/* ---- what others ask ---- */

bool lwd_ctl_etcd_take(ctl_etcd_t *etcd, uint64_t *version, lw_node_t *nodes, uint32_t *count_out, uint64_t *epoch_out,
                       uint32_t *own_index_out)
{
    pthread_mutex_lock(&etcd->lock);
    bool changed = etcd->version != *version;
    if (changed) {
        memcpy(nodes, etcd->nodes, etcd->node_count * sizeof(*nodes));
        *count_out = etcd->node_count;
        *epoch_out = etcd->epoch;
        *own_index_out = etcd->shown_index;
        *version = etcd->version;
    }
    pthread_mutex_unlock(&etcd->lock);
    return changed;
}

bool lwd_ctl_etcd_endings(ctl_etcd_t *etcd)
{
    return atomic_exchange(&etcd->endings, false);
}

void lwd_ctl_etcd_told(ctl_etcd_t *etcd, uint64_t serial)
{
    atomic_store(&etcd->told, serial);
}

uint64_t lwd_ctl_etcd_least_told(const ctl_etcd_t *etcd)
{
    return atomic_load(&etcd->least_told);
}

bool lwd_ctl_etcd_superseded(const ctl_etcd_t *etcd)
{
    return atomic_load(&etcd->superseded);
}
