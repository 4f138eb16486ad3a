/* catalogue_etcd_private.h - what the files of the catalogue on etcd share.
 *
 * Keys, below the fleet's prefix (ids are 16 hexadecimal digits, so that they sort as numbers):
 *
 *   cat/s/<session>            the session: shape, state, term, owner, where each rank's manifest ends
 *   cat/s/<session>/k/<child>  a fork that reads some of it: its cut. Changed together with the row above, always
 *   cat/s/<session>/r/<client> a reader. Likewise
 *   cat/m/<session>/<rank>     the manifest of one rank, at most ETCD_MANIFEST_MAX bytes
 *   cat/c/<client>             a client: incarnation, and all its leases: renewing them writes this one key
 *   cat/o/<handle>             number of the last transaction of an open handle: tells whether a lost one happened
 *   cat/fleet, cat/epoch, cat/next, cat/members, cat/nodetoken
 *   log/<handle>-<n>           endings; a row's serial is its key's revision * 256 + its place in the value
 *   nodes/<index>/drain        there: the node is to be emptied
 *
 * Names: lwd_kv_* is the catalogue's, lwd_etcd_* the client below it.
 *
 * An operation is one snapshot and one transaction: what it reads it reads at one revision; what its decision rests on is
 * compared with that revision when it writes. If a comparison fails, everything is read and decided again.
 */
#ifndef LWD_CATALOGUE_ETCD_PRIVATE_H
#define LWD_CATALOGUE_ETCD_PRIVATE_H

#include "storaged/catalogue/catalogue_private.h"
#include "storaged/etcd/etcd.h"

#define ETCD_OP_US 1500000ull           /* an operation ends within this, whatever etcd does; timeout_ms of `where` replaces it */
#define ETCD_TRIES_MAX 64u              /* of one operation when others change the same keys */
#define ETCD_MANIFEST_MAX (1u << 20)    /* bytes of a manifest */
#define ETCD_LEASES_MAX 16384u          /* of one client */
#define ETCD_BATCH 40u                  /* sessions that one transaction touches; more are done in several */
#define ETCD_IDS 16u                    /* session ids that a handle takes at a time */
#define ETCD_PAGE 512u                  /* keys of one page of a scan */

struct lwd_catalogue {
    lwd_etcd_t *etcd;
    char prefix[64];
    uint64_t handle;         /* random */
    uint64_t number;         /* of the last transaction that this handle sent */
    int64_t marker_revision; /* of cat/o/<handle>; 0: not there */
    bool marker_unknown;     /* a transaction's outcome was never learnt: read the marker before the next */
    uint64_t next_id, ids_end;
    uint64_t fleet_id, retries;
};

typedef struct etcd_lease { /* one of a client's */
    uint64_t session_id, until_us, used_us;
    uint32_t term; /* 0: a reader's */
} etcd_lease_t;

typedef struct etcd_client {
    uint64_t id, incarnation, seen_us;
    etcd_lease_t *leases; /* owned by the operation */
    uint32_t count, capacity;
    int64_t mod_revision; /* 0: not there */
    bool changed, gone, guard;
} etcd_client_t;

typedef struct etcd_session {
    lwd_session_row_t row; /* lease_until_us, used_us and readers as the clients' keys have them */
    uint32_t kept, ends[LWD_RANKS_MAX];
    bool fenced; /* a node was told that the writer's lease has run out: no commit of this term any more, whoever's clock
                    says what */
    int64_t mod_revision;
    bool changed, gone, guard;
} etcd_session_t;

typedef struct etcd_manifest {
    uint64_t session_id;
    uint16_t rank;
    uint32_t count, layers;
    uint8_t *rows; /* encoded, owned by the operation */
    size_t bytes, capacity;
    int64_t mod_revision;
    bool changed;
} etcd_manifest_t;

typedef struct etcd_row { /* a range inside a manifest */
    uint32_t first_token, token_count, generation, flags, replicas;
    uint64_t bytes;
    size_t at; /* offset in the manifest's rows */
} etcd_row_t;

typedef struct etcd_text { /* another key to write or delete */
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX]; /* end "": the one key */
    uint8_t value[1024];
    size_t value_bytes;
    int64_t mod_revision;
    bool loaded, write, remove;
} etcd_text_t;

typedef struct etcd_op {
    lwd_catalogue_t *cat;
    uint64_t until_us;
    int64_t revision; /* of the snapshot; 0: nothing was read yet */
    etcd_session_t **sessions;
    etcd_client_t **clients;
    etcd_manifest_t **manifests;
    etcd_text_t **texts;
    uint32_t session_count, client_count, manifest_count, text_count;
    lwd_ended_t ended[8];
    uint32_t ended_count;
    bool again; /* the snapshot was compacted away: take another */
    lw_error_t *error;
    void *arg; /* of the body */
} etcd_op_t;

/* The body of an operation: reads, decides, changes objects; no effect outside the op and *op->arg, since it may run several
 * times. LW_INPROGRESS: write what is changed so far and run again. */
typedef lw_status_t (*etcd_body_fn)(etcd_op_t *op);

/* ---- catalogue_etcd_op.c ---- */
/* Runs the body until it has happened once. */
LW_CHECK lw_status_t lwd_kv_op_run(lwd_catalogue_t *cat, etcd_body_fn body, void *arg, lw_error_t *error);
/* The same within a moment given by the caller. */
LW_CHECK lw_status_t lwd_kv_op_run_until(lwd_catalogue_t *cat, etcd_body_fn body, void *arg, uint64_t until_us,
                                           lw_error_t *error);
/* Objects at the snapshot; loaded once an operation. Absent ones: mod_revision 0 (a session: *out NULL). */
LW_CHECK lw_status_t lwd_kv_client_load(etcd_op_t *op, uint64_t id, etcd_client_t **out);
LW_CHECK lw_status_t lwd_kv_session_load(etcd_op_t *op, uint64_t id, etcd_session_t **out);
LW_CHECK lw_status_t lwd_kv_manifest_load(etcd_op_t *op, const etcd_session_t *session, uint16_t rank,
                                            etcd_manifest_t **out);
/* A short value (at most 1 KiB) under a key of its own; writing it compares it. */
LW_CHECK lw_status_t lwd_kv_text_load(etcd_op_t *op, const char *key, etcd_text_t **out);
/* A session that is new. */
LW_CHECK lw_status_t lwd_kv_session_add(etcd_op_t *op, uint64_t id, etcd_session_t **out);
/* Writes or deletes a key (or all from key to end) without looking at it. */
LW_CHECK lw_status_t lwd_kv_put(etcd_op_t *op, const char *key, const void *value, size_t value_bytes);
LW_CHECK lw_status_t lwd_kv_delete(etcd_op_t *op, const char *key, const char *end);
/* All keys below, at the snapshot; freed with lwd_etcd_reply_free. limit 0: none. end NULL: what begins with key. */
LW_CHECK lw_status_t lwd_kv_read(etcd_op_t *op, const char *key, const char *end, uint32_t limit,
                                   lwd_etcd_reply_t **out);
/* Loads many sessions with few questions. */
LW_CHECK lw_status_t lwd_kv_sessions_fetch(etcd_op_t *op, const uint64_t *ids, uint32_t count);
/* Adds to the log of endings; at most 8 an operation. */
void lwd_kv_log_ending(etcd_op_t *op, uint64_t origin, uint16_t rank, uint32_t from_token, uint32_t generation_max);
/* "<prefix>/cat/s/<id>" and the like into text[LWD_ETCD_KEY_MAX]; returns text. */
const char *lwd_kv_key(const lwd_catalogue_t *cat, char *text, const char *format, ...) LW_PRINTF(3, 4);
/* The same as `lw_fail`, for bodies. */
#define ETCD_FAIL(op, status, ...) lw_fail((op)->error, status, __VA_ARGS__)

/* ---- catalogue_etcd_value.c: bytes of the values. False: they make no sense (or there is no memory) ---- */
#define ETCD_SESSION_BYTES_MAX 1024u
size_t lwd_kv_session_pack(const etcd_session_t *session, uint8_t *out);
bool lwd_kv_session_unpack(const uint8_t *value, size_t bytes, etcd_session_t *out);
size_t lwd_kv_client_bytes(const etcd_client_t *client);
void lwd_kv_client_pack(const etcd_client_t *client, uint8_t *out);
bool lwd_kv_client_unpack(const uint8_t *value, size_t bytes, etcd_client_t *out);
#define ETCD_MANIFEST_HEAD 12u
void lwd_kv_manifest_pack_head(const etcd_manifest_t *manifest, uint8_t out[ETCD_MANIFEST_HEAD]);
bool lwd_kv_manifest_unpack(const uint8_t *value, size_t bytes, etcd_manifest_t *out);
/* The row at *at, and on to the next; false: the end. Start with *at = 0. */
bool lwd_kv_row_next(const etcd_manifest_t *manifest, size_t *at, etcd_row_t *row);
void lwd_kv_row_full(const etcd_manifest_t *manifest, const etcd_row_t *row, lwd_range_t *out);
/* Puts a range at the end; false: no memory. */
bool lwd_kv_row_add(etcd_manifest_t *manifest, const lwd_range_t *range);
void lwd_kv_row_set(etcd_manifest_t *manifest, const etcd_row_t *row, const lwd_range_t *range); /* flags and nodes */
size_t lwd_kv_ended_pack(const lwd_ended_t *rows, uint32_t count, uint8_t *out);
uint32_t lwd_kv_ended_unpack(const uint8_t *value, size_t bytes, uint64_t revision, lwd_ended_t rows[8]);
/* When an operation that begins now must end. */
static inline uint64_t etcd_op_until(const lwd_catalogue_t *cat)
{
    uint64_t given = lwd_etcd_timeout_us(cat->etcd);
    return lwd_etcd_until(given ? given : ETCD_OP_US);
}
static inline uint32_t etcd_row_end(const etcd_row_t *row)
{
    return row->first_token + row->token_count;
}

/* ---- catalogue_etcd_session.c ---- */
lw_status_t lwd_kv_no_session(etcd_op_t *op, uint64_t session_id);
/* ERR_NOT_FOUND unless it can be opened, read and forked; tenant NULL: any. */
LW_CHECK lw_status_t lwd_kv_session_open(etcd_op_t *op, const char *tenant, uint64_t id, etcd_session_t **out);
LW_CHECK lw_status_t lwd_kv_session_parent(etcd_op_t *op, const etcd_session_t *session, etcd_session_t **out);
void lwd_kv_session_set_state(etcd_session_t *session, lwd_session_state_t state);
/* Takes a lease off a client, and what it stood for off its session. */
LW_CHECK lw_status_t lwd_kv_lease_end(etcd_op_t *op, etcd_client_t *client, uint32_t at);
etcd_lease_t *lwd_kv_lease_find(const etcd_client_t *client, uint64_t session_id, uint32_t term);
LW_CHECK lw_status_t lwd_kv_writer(etcd_op_t *op, etcd_session_t *session, uint32_t term, uint64_t now);
/* Counts readers and takes their use into used_us. */
LW_CHECK lw_status_t lwd_kv_session_readers(etcd_op_t *op, etcd_session_t *session);

typedef struct etcd_scan { /* all sessions, by id; a page at a time */
    etcd_op_t *op;
    char key[LWD_ETCD_KEY_MAX];
    lwd_etcd_reply_t *page;
    uint32_t at;
    bool more;
} etcd_scan_t;
typedef struct etcd_scanned {
    etcd_session_t session; /* with readers and their use */
    uint32_t needed;        /* largest cut of its forks */
} etcd_scanned_t;
void lwd_kv_scan_start(etcd_op_t *op, uint64_t after_id, etcd_scan_t *scan);
/* ERR_NOT_FOUND: the end. All clients must be loaded. */
LW_CHECK lw_status_t lwd_kv_scan_next(etcd_scan_t *scan, etcd_scanned_t *out);
void lwd_kv_scan_stop(etcd_scan_t *scan);
LW_CHECK lw_status_t lwd_kv_clients_load_all(etcd_op_t *op);

lw_status_t lwd_kv_create(lwd_catalogue_t *, const lwd_create_t *, uint64_t now, lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_kv_open_session(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool write,
                                  uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                  lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_kv_renew(lwd_catalogue_t *, uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                           uint32_t *renewed_out, lw_error_t *);
lw_status_t lwd_kv_release(lwd_catalogue_t *, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                             uint64_t now, lw_error_t *);
lw_status_t lwd_kv_fork(lwd_catalogue_t *, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                          uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now, lwd_session_row_t *,
                          lw_error_t *);
lw_status_t lwd_kv_pin(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *);
lw_status_t lwd_kv_get(lwd_catalogue_t *, const char *tenant, uint64_t session_id, lwd_session_row_t *, lw_error_t *);
lw_status_t lwd_kv_list(lwd_catalogue_t *, const char *tenant, uint64_t after_id, uint32_t capacity,
                          lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *);

/* ---- catalogue_etcd_range.c ---- */
/* Largest end <= limit where a range that is not raw ends in every rank. */
LW_CHECK lw_status_t lwd_kv_cut(etcd_op_t *op, etcd_session_t *session, uint32_t limit, uint32_t *cut_out);
void lwd_kv_count_tokens(etcd_session_t *session);
lw_status_t lwd_kv_commit(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t term, const lwd_range_t *,
                            uint32_t count, uint64_t now, lw_error_t *);
lw_status_t lwd_kv_ranges(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t from_token, uint32_t capacity,
                            lwd_range_t *, uint32_t *count_out, lw_error_t *);
lw_status_t lwd_kv_check(lwd_catalogue_t *, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                           uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                           uint32_t *count_out, lw_error_t *);

/* ---- catalogue_etcd_move.c ---- */
lw_status_t lwd_kv_orphans(lwd_catalogue_t *, uint16_t node_index, const lw_segment_name_t *names, uint32_t count,
                             uint64_t now, bool *dead, lw_error_t *);
lw_status_t lwd_kv_placed(lwd_catalogue_t *, const lwd_placed_key_t *after, uint32_t capacity, lwd_placed_t *rows,
                            uint32_t *count_out, lw_error_t *);
lw_status_t lwd_kv_move(lwd_catalogue_t *, const lw_segment_name_t *name, uint16_t from, uint16_t to, lw_error_t *);

/* ---- catalogue_etcd_end.c ---- */
lw_status_t lwd_kv_drop(lwd_catalogue_t *, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *);
lw_status_t lwd_kv_expire(lwd_catalogue_t *, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out, lw_error_t *);
lw_status_t lwd_kv_ended(lwd_catalogue_t *, uint64_t after, uint32_t capacity, lwd_ended_t *rows, uint32_t *count_out,
                           lw_error_t *);
lw_status_t lwd_kv_trim(lwd_catalogue_t *, uint64_t serial, lw_error_t *);

#endif /* LWD_CATALOGUE_ETCD_PRIVATE_H */
