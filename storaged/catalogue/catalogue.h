/* catalogue.h - the fleet's memory of sessions: who exists, who may write, where the ranges are.
 *
 * A table with three implementations: SQLite (held by the first node of a static fleet), etcd (used by all nodes at once) and
 * a simulated one. One conformance test runs over all. Calls are synchronous and may touch the disk: they run on
 * the control thread, never on a data thread. Outputs are written only on success. Times are unix microseconds, passed in.
 * A handle belongs to one thread at a time.
 *
 * Life of a session: ACTIVE (its lease is alive) -> IDLE (lease expired or closed: readable, reopenable, evictable) ->
 * EVICTING (chosen to make room, by compare-and-swap from IDLE) -> ENDED. RETAINED: dropped, but children still read some
 * of its ranges; it cannot be opened, read or forked itself. ENDED sessions stay as tombstones until every node has been
 * told.
 *
 * A writer is *live* while its session is ACTIVE, its term is the session's and lease_until_us > now. Only a live writer
 * commits, and only a live writer's uncommitted segments are spared by orphans(): both use one rule, and a lease that ran
 * out can never be renewed, so what a node freed as an orphan cannot be committed afterwards. Readers' leases keep a
 * session from eviction and TTL, not from drop.
 *
 * A client is (id, incarnation). The first call with a later incarnation ends every lease of the earlier ones; a call with
 * an earlier one answers ERR_STALE.
 */
#ifndef LWD_CATALOGUE_H
#define LWD_CATALOGUE_H

#include <stdbool.h>

#include "base/error.h"
#include "base/limits.h"
#include "wire/segment_name.h"
#include "wire/session.h"

typedef struct lwd_catalogue lwd_catalogue_t;

typedef enum lwd_session_state {
    LWD_SESSION_ACTIVE = 1,
    LWD_SESSION_IDLE,
    LWD_SESSION_EVICTING,
    LWD_SESSION_RETAINED,
    LWD_SESSION_ENDED,
} lwd_session_state_t;

typedef lw_session_shape_t lwd_session_shape_t;

typedef struct lwd_session_row {
    uint64_t session_id;
    char tenant[64];
    lwd_session_shape_t shape;
    lwd_session_state_t state;
    uint32_t term;           /* of the last writer */
    uint64_t lease_client, lease_incarnation, lease_until_us; /* 0 when idle */
    uint64_t ttl_us, created_us, used_us;                     /* ttl 0: none */
    uint64_t parent_id;      /* 0: none */
    uint32_t cut_tokens;     /* fork: tokens taken from the parent */
    uint32_t token_count;    /* committed, parent's included */
    uint64_t bytes;          /* own committed bytes, all replicas */
    bool pinned;
    uint32_t readers;        /* clients with a reader's lease, as of the last expire() */
    uint8_t token[LW_TOKEN_BYTES]; /* data-plane token */
} lwd_session_row_t;

typedef lw_session_range_t lwd_range_t;

typedef struct lwd_ended { /* what a node is told to free */
    uint64_t serial;       /* position in the log of endings */
    uint64_t origin;
    uint32_t from_token;   /* segments of origin with first_token >= this are dead (0: all) */
    uint32_t generation_max; /* only segments of this generation or older (UINT32_MAX: all) */
    uint16_t rank;         /* only this rank's segments (LWD_RANK_ALL: all) */
} lwd_ended_t;
#define LWD_RANK_ALL UINT16_MAX
#define LWD_NODE_ANY UINT16_MAX
#define LWD_FORK_DEPTH_MAX 64u  /* sessions in a line of forks */

typedef struct lwd_placed_key { /* where a row of `placed` stands; all zero: before the first */
    uint64_t origin;
    uint16_t rank;
    uint32_t first_token;
} lwd_placed_key_t;

typedef struct lwd_placed { /* a range as nodes see it: what is where, whoever's manifest it is in */
    uint16_t rank;
    uint32_t layers;   /* node_index holds layers * replicas entries */
    lwd_range_t range; /* with its origin */
} lwd_placed_t;

typedef struct lwd_create {
    const char *tenant;
    lwd_session_shape_t shape;
    uint64_t client_id, incarnation, lease_us, ttl_us;
} lwd_create_t;

typedef struct lwd_catalogue_ops {
    const char *name;
    /* `where`: a file path for SQLite (":memory:" allowed), "etcd://..." for etcd, ignored by sim. */
    LW_CHECK lw_status_t (*open)(const char *where, lwd_catalogue_t **out, lw_error_t *error);
    void (*close)(lwd_catalogue_t *);

    LW_CHECK lw_status_t (*create)(lwd_catalogue_t *, const lwd_create_t *, uint64_t now, lwd_session_row_t *row_out,
                                   lw_error_t *);
    /* Opens for writing (new term, lease taken; ERR_BUSY while another client's lease lives) or for reading. */
    LW_CHECK lw_status_t (*open_session)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool write,
                                         uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                         lwd_session_row_t *row_out, lw_error_t *);
    /* Renews every lease of a client; ERR_STALE when its incarnation was superseded. */
    LW_CHECK lw_status_t (*renew)(lwd_catalogue_t *, uint64_t client_id, uint64_t incarnation, uint64_t lease_us,
                                  uint64_t now, uint32_t *renewed_out, lw_error_t *);
    /* Gives up one session's lease (close) : ACTIVE -> IDLE; a reader's lease just ends. OK when there is none. */
    LW_CHECK lw_status_t (*release)(lwd_catalogue_t *, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                                    uint64_t now, lw_error_t *);
    /* Child shares the parent's ranges up to its last committed one whose end <= max_tokens (0: all), the same end in every
     * rank; raw tails are not shared. ERR_EXHAUSTED when the line of forks would be longer than LWD_FORK_DEPTH_MAX. */
    LW_CHECK lw_status_t (*fork)(lwd_catalogue_t *, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                                 uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                 lwd_session_row_t *row_out, lw_error_t *);
    LW_CHECK lw_status_t (*pin)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *);
    LW_CHECK lw_status_t (*drop)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *);
    LW_CHECK lw_status_t (*get)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, lwd_session_row_t *row_out,
                                lw_error_t *);
    /* Up to `capacity` rows with id > after_id, ascending, ended ones left out. tenant NULL: all. */
    LW_CHECK lw_status_t (*list)(lwd_catalogue_t *, const char *tenant, uint64_t after_id, uint32_t capacity,
                                 lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *);

    /* Adds ranges in one transaction; ERR_STALE unless the writer is live; ERR_INVALID unless each begins where the
     * manifest ends and has generation == term. Idempotent: ranges already there with the same contents are OK. A range
     * that begins where a raw tail of an *earlier* term begins replaces it (the old one goes to the log of endings);
     * nothing can follow a raw tail. ERR_EXISTS: another range, or a raw tail of this term, begins there (segment names
     * hold term and first token, so a replacement within one term would reuse a name). */
    LW_CHECK lw_status_t (*commit)(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t term,
                                   const lwd_range_t *ranges, uint32_t count, uint64_t now, lw_error_t *);
    /* The manifest, parent's part first, ascending by first_token; up to capacity ranges beginning at or after
     * from_token. */
    LW_CHECK lw_status_t (*ranges)(lwd_catalogue_t *, uint64_t session_id, uint16_t rank, uint32_t from_token,
                                   uint32_t capacity, lwd_range_t *ranges, uint32_t *count_out, lw_error_t *);

    /* For nodes: may (session, token, write term) touch the data plane? Gives the origins that it may read, each up to a
     * token. ERR_PERMISSION for a wrong token, ERR_NOT_FOUND for none (callers answer both alike), ERR_STALE for an old
     * term. */
    LW_CHECK lw_status_t (*check)(lwd_catalogue_t *, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                                  uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                                  uint32_t *count_out, lw_error_t *);
    /* For nodes: which of these segment names may node `node_index` free? dead[i] = true for those that are in no manifest
     * and have no live writer, and for those whose range is committed with that copy on other nodes only (LWD_NODE_ANY: a
     * range in a manifest spares all its names). */
    LW_CHECK lw_status_t (*orphans)(lwd_catalogue_t *, uint16_t node_index, const lw_segment_name_t *names,
                                    uint32_t count, uint64_t now, bool *dead, lw_error_t *);
    /* For nodes: every range of every manifest, each once (not again for forks), those of retained sessions too. Up to
     * `capacity` rows after `after`, ascending by (origin, rank, first_token); fewer: the end. No snapshot over pages. */
    LW_CHECK lw_status_t (*placed)(lwd_catalogue_t *, const lwd_placed_key_t *after, uint32_t capacity,
                                   lwd_placed_t *rows, uint32_t *count_out, lw_error_t *);
    /* For nodes: the copy of one segment is on node `to` now, no longer on `from`. Compare-and-swap: ERR_STALE when no
     * manifest has the range at that generation, `from` does not hold this layer, or `to` does already. Counts and bytes
     * stay as they are; the range's flags get LW_RANGE_MOVED, and from then on a repeated commit of it is the same one
     * wherever it says that the copies are. */
    LW_CHECK lw_status_t (*move)(lwd_catalogue_t *, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                                 lw_error_t *);
    /* Moves idle, unpinned sessions, least recently used first, to EVICTING and on to ENDED until about `bytes` are freed;
     * sessions with live children are left alone. Also turns expired leases to IDLE and expired TTLs to ENDED (bytes may
     * be 0 for that alone). */
    LW_CHECK lw_status_t (*expire)(lwd_catalogue_t *, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out, lw_error_t *);
    /* Endings with serial > after, ascending. */
    LW_CHECK lw_status_t (*ended)(lwd_catalogue_t *, uint64_t after, uint32_t capacity, lwd_ended_t *rows,
                                  uint32_t *count_out, lw_error_t *);
    /* Every node has been told of endings up to `serial`: forgets them, and the tombstones whose last ending they hold. */
    LW_CHECK lw_status_t (*trim)(lwd_catalogue_t *, uint64_t serial, lw_error_t *);

    /* The fleet's id (random at creation of the catalogue, never 0) and the last epoch that was stored. */
    LW_CHECK lw_status_t (*fleet)(lwd_catalogue_t *, uint64_t *fleet_id_out, uint64_t *epoch_out, lw_error_t *);
    /* Stores a larger epoch; ERR_STALE for one that is not larger. */
    LW_CHECK lw_status_t (*set_epoch)(lwd_catalogue_t *, uint64_t epoch, lw_error_t *);
    /* Compares the configured control addresses with the stored ones, position = node index, and stores new ones.
     * ERR_INVALID when an address sits at another index than before: manifests refer to nodes by index. */
    LW_CHECK lw_status_t (*members)(lwd_catalogue_t *, const char *const *control, uint32_t count, lw_error_t *);
    /* What nodes show each other to read any segment: random, the same for the catalogue's whole life. For nodes only. */
    LW_CHECK lw_status_t (*node_token)(lwd_catalogue_t *, uint8_t token_out[LW_TOKEN_BYTES], lw_error_t *);
    /* Is a node to be emptied? Kept until it is taken back. ERR_INVALID from LW_NODES_MAX on. */
    LW_CHECK lw_status_t (*set_drain)(lwd_catalogue_t *, uint16_t node_index, bool drain, lw_error_t *);
    LW_CHECK lw_status_t (*drain)(lwd_catalogue_t *, uint16_t node_index, bool *drain_out, lw_error_t *);
} lwd_catalogue_ops_t;

const lwd_catalogue_ops_t *lwd_catalogue_sqlite(void);
const lwd_catalogue_ops_t *lwd_catalogue_sim(void);
/* On etcd; where: as lwd_etcd_open_where takes it. Any number of handles and nodes at once. Calls end within about 1.5 s:
 * ERR_FLEET when etcd does not answer (what was to be written may be so all the same: ask again). */
const lwd_catalogue_ops_t *lwd_catalogue_etcd(void);

#endif /* LWD_CATALOGUE_H */
