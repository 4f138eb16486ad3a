/* etcd.h - a client of etcd's v3 API: reads, transactions, leases, watches, over several endpoints.
 *
 * A handle uses one endpoint at a time and goes on to the next when that one does not answer; its watches and its
 * keep-alives follow. Calls block, never past the moment that the caller gives (`until_us`, of the real clock's now_us). A
 * handle belongs to one thread at a time, and so do its watches; several handles are fine.
 *
 * Statuses: ERR_FLEET: nobody answered in time (and after that most calls fail at once until somebody does); a transaction
 * that writes may have happened all the same. ERR_STALE: the
 * revision asked for is compacted away. ERR_INVALID, ERR_EXHAUSTED (etcd's space quota), ERR_PERMISSION: refused, nothing
 * happened. Error texts name the endpoint and the first key.
 */
#ifndef LWD_ETCD_H
#define LWD_ETCD_H

#include <stdbool.h>

#include "base/error.h"

typedef struct lwd_etcd lwd_etcd_t;
typedef struct lwd_etcd_watch lwd_etcd_watch_t;

#define LWD_ETCD_ENDPOINTS_MAX 8u
#define LWD_ETCD_KEY_MAX 192u              /* bytes of a key with its terminator; keys are text */
#define LWD_ETCD_OPS_MAX 120u              /* operations, and comparisons, of a transaction; etcd's own default is 128 */
#define LWD_ETCD_REQUEST_MAX (1400u << 10) /* bytes of a transaction's values; etcd's own limit is 1.5 MiB a request */
#define LWD_ETCD_TRY_US 1000000ull         /* an endpoint that has not answered for this long is left for the next one */
#define LWD_ETCD_AWAY_US 200000ull         /* how long a call waits while etcd is away; most then fail at once */

/* Strings are borrowed for the call. PEM texts all NULL: plaintext. */
typedef struct lwd_etcd_params {
    const char *endpoints; /* "host:port,host:port" */
    const char *ca_pem, *cert_pem, *key_pem;
    uint64_t timeout_us; /* lwd_etcd_timeout_us */
} lwd_etcd_params_t;

/* Checks the parameters and connects to nobody yet. */
LW_CHECK lw_status_t lwd_etcd_open(const lwd_etcd_params_t *params, lwd_etcd_t **etcd_out, lw_error_t *error);
/* The same from one text: "etcd://host:port,host:port/prefix?ca=FILE&cert=FILE&key=FILE", the files' part left out for
 * plaintext; "timeout_ms=N" among them: lwd_etcd_timeout_us. prefix_out gets LWD_ETCD_PREFIX_MAX bytes: the text before all keys of this fleet. */
#define LWD_ETCD_PREFIX_MAX 64u
LW_CHECK lw_status_t lwd_etcd_open_where(const char *where, lwd_etcd_t **etcd_out, char *prefix_out, lw_error_t *error);
/* Its watches must be closed. NULL is fine. */
void lwd_etcd_close(lwd_etcd_t *etcd);
/* The endpoint in use, "host:port"; lives as long as the handle. */
const char *lwd_etcd_endpoint(const lwd_etcd_t *etcd);
/* How long one operation of a user of this handle may take, as its text says; 0: it does not say. */
uint64_t lwd_etcd_timeout_us(const lwd_etcd_t *etcd);
/* The moment timeout_us from now, for until_us. */
uint64_t lwd_etcd_until(uint64_t timeout_us);

/* ---- reading and writing ---- */

typedef struct lwd_etcd_kv {
    char key[LWD_ETCD_KEY_MAX];
    const uint8_t *value; /* owned by the reply or the events that hold this */
    size_t value_bytes;
    int64_t create_revision, mod_revision, lease;
} lwd_etcd_kv_t;

typedef struct lwd_etcd_compare {
    const char *key;
    int64_t mod_revision; /* what it must be; 0: the key must not exist */
} lwd_etcd_compare_t;

typedef enum lwd_etcd_op_kind { LWD_ETCD_RANGE, LWD_ETCD_PUT, LWD_ETCD_DELETE } lwd_etcd_op_kind_t;

/* Borrowed for the call. `end` NULL: the one key; else keys >= key and < end. */
typedef struct lwd_etcd_op {
    lwd_etcd_op_kind_t kind;
    const char *key, *end;
    const void *value; /* PUT */
    size_t value_bytes;
    int64_t lease;     /* PUT: 0: none */
    int64_t limit, revision, min_mod_revision; /* RANGE; 0: none, now, none */
    bool by_revision;  /* RANGE: ascending by mod_revision instead of by key */
    bool keys_only;
} lwd_etcd_op_t;

typedef struct lwd_etcd_txn {
    const lwd_etcd_compare_t *compares;
    const lwd_etcd_op_t *ops;
    uint32_t compare_count, op_count;
} lwd_etcd_txn_t;

/* What came back; freed with lwd_etcd_reply_free. The keys of all RANGE operations one after another. */
typedef struct lwd_etcd_reply {
    int64_t revision; /* of the store when this was answered */
    bool succeeded;   /* all comparisons held; else no operation was done */
    uint32_t count, range_count;
    lwd_etcd_kv_t *kvs; /* [count] */
    struct {
        uint32_t first, count;
        bool more; /* the limit left some out */
    } ranges[LWD_ETCD_OPS_MAX];
    void *message;
} lwd_etcd_reply_t;

/* Does the operations when all comparisons hold. What only reads without comparing is asked again, of the other endpoints
 * too, until until_us; a transaction that compares or writes is sent once. */
LW_CHECK lw_status_t lwd_etcd_txn(lwd_etcd_t *etcd, const lwd_etcd_txn_t *txn, uint64_t until_us,
                                  lwd_etcd_reply_t **reply_out, lw_error_t *error);
void lwd_etcd_reply_free(lwd_etcd_reply_t *reply);
/* Forgets the history before `revision`: for tests. Whoever runs etcd decides how much of it is kept. */
LW_CHECK lw_status_t lwd_etcd_compact(lwd_etcd_t *etcd, int64_t revision, uint64_t until_us, lw_error_t *error);
/* The first key after all that begin with `prefix`: writes LWD_ETCD_KEY_MAX bytes at most into `end` and returns it. */
const char *lwd_etcd_prefix_end(const char *prefix, char *end);

/* ---- leases ---- */

LW_CHECK lw_status_t lwd_etcd_grant(lwd_etcd_t *etcd, uint32_t ttl_s, uint64_t until_us, int64_t *lease_out,
                                    lw_error_t *error);
/* Keeps a lease alive, once. ERR_NOT_FOUND: it is over. */
LW_CHECK lw_status_t lwd_etcd_keep(lwd_etcd_t *etcd, int64_t lease, uint64_t until_us, uint32_t *ttl_s_out,
                                   lw_error_t *error);
/* Ends a lease and the keys under it. ERR_NOT_FOUND: it was over. */
LW_CHECK lw_status_t lwd_etcd_revoke(lwd_etcd_t *etcd, int64_t lease, uint64_t until_us, lw_error_t *error);

/* ---- watches ---- */

typedef struct lwd_etcd_event {
    bool deleted; /* kv: key and mod_revision only */
    lwd_etcd_kv_t kv;
} lwd_etcd_event_t;

typedef struct lwd_etcd_events { /* freed with lwd_etcd_events_free */
    lwd_etcd_event_t *rows;      /* in the order of their revisions, which are whole: no revision is cut in two */
    uint32_t count;
    int64_t revision; /* everything up to here is told */
    void *message;
} lwd_etcd_events_t;

/* Changes of keys >= key and < end from from_revision on (inclusive, above 0). Does not wait for etcd. */
LW_CHECK lw_status_t lwd_etcd_watch_open(lwd_etcd_t *etcd, const char *key, const char *end, int64_t from_revision,
                                         lwd_etcd_watch_t **watch_out, lw_error_t *error);
/* Waits for the next events. ERR_TIMEOUT: none within timeout_us. ERR_STALE: what should come next is compacted away; close
 * the watch, read everything again and watch from there. A stream that breaks is opened again where it stopped, by itself;
 * ERR_FLEET: that has not worked within timeout_us: call again. */
LW_CHECK lw_status_t lwd_etcd_watch_next(lwd_etcd_watch_t *watch, uint64_t timeout_us, lwd_etcd_events_t *events_out,
                                         lw_error_t *error);
void lwd_etcd_events_free(lwd_etcd_events_t *events);
void lwd_etcd_watch_close(lwd_etcd_watch_t *watch); /* NULL is fine */

#endif /* LWD_ETCD_H */
