/* catalogue.h - the fleet's memory of sessions: who exists, who may write, where the ranges are.
 *
 * A table with two implementations here: SQLite (held by the first node of a static fleet) and a simulated one; a third on
 * etcd comes with the fleet. One conformance test runs over all. Calls are synchronous and may touch the disk: they run on
 * the control thread, never on a data thread. Outputs are written only on success. Times are unix microseconds, passed in.
 *
 * Life of a session: ACTIVE (its lease is alive) -> IDLE (lease expired or closed: readable, reopenable, evictable) ->
 * EVICTING (chosen to make room, by compare-and-swap from IDLE) -> ENDED. RETAINED: dropped, but children still read some
 * of its ranges. ENDED sessions stay as tombstones until every node has been told.
 */
#ifndef LWD_CATALOGUE_H
#define LWD_CATALOGUE_H

#include <stdbool.h>

#include "base/error.h"
#include "base/limits.h"
#include "wire/segment_name.h"

typedef struct lwd_catalogue lwd_catalogue_t;

typedef enum lwd_session_state {
    LWD_SESSION_ACTIVE = 1,
    LWD_SESSION_IDLE,
    LWD_SESSION_EVICTING,
    LWD_SESSION_RETAINED,
    LWD_SESSION_ENDED,
} lwd_session_state_t;

typedef struct lwd_session_shape {
    char model_id[LW_MODEL_ID_MAX];
    uint32_t layer_count, kv_head_count, query_head_count, head_dim, dtype;
    uint32_t rank_count;     /* tensor-parallel ranks; 1 for none */
    uint32_t segment_tokens; /* a prefill segment's size */
    uint32_t replicas;
    uint32_t cluster_encoding, outlier_encoding, outlier_ppm, cluster_tokens; /* how its index is built */
} lwd_session_shape_t;

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
    uint8_t token[LW_TOKEN_BYTES]; /* data-plane token */
} lwd_session_row_t;

/* One committed range of one rank: the segments of all layers over the same tokens. */
typedef struct lwd_range {
    uint64_t origin; /* session that wrote it (a fork lists its parent's ranges too) */
    uint32_t first_token, token_count, generation;
    uint32_t flags;  /* LWD_RANGE_* */
    uint32_t replicas;
    uint64_t bytes;  /* of all layers, one replica */
    uint16_t node_index[LW_LAYERS_MAX * LW_REPLICAS_MAX]; /* [layer][replica] */
} lwd_range_t;
#define LWD_RANGE_RAW 1u     /* raw tail, replaced by the next range that begins at the same token */
#define LWD_RANGE_MOMENTS 2u /* its segments carry moments */

typedef struct lwd_ended { /* what a node is told to free */
    uint64_t serial;       /* position in the log of endings */
    uint64_t origin;
    uint32_t from_token;   /* segments of origin with first_token >= this are dead (0: all) */
    uint32_t generation_max; /* only segments of this generation or older (UINT32_MAX: all) */
} lwd_ended_t;

typedef struct lwd_create {
    const char *tenant;
    lwd_session_shape_t shape;
    uint64_t client_id, incarnation, lease_us, ttl_us;
} lwd_create_t;

typedef struct lwd_catalogue_ops {
    const char *name;
    /* `where`: a file path for SQLite (":memory:" allowed), ignored by sim. */
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
    /* Gives up one session's lease (close) : ACTIVE -> IDLE. */
    LW_CHECK lw_status_t (*release)(lwd_catalogue_t *, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                                    uint64_t now, lw_error_t *);
    /* Child shares the parent's ranges up to its last committed one whose end <= max_tokens (0: all). */
    LW_CHECK lw_status_t (*fork)(lwd_catalogue_t *, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                                 uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                 lwd_session_row_t *row_out, lw_error_t *);
    LW_CHECK lw_status_t (*pin)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *);
    LW_CHECK lw_status_t (*drop)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, uint64_t now, lw_error_t *);
    LW_CHECK lw_status_t (*get)(lwd_catalogue_t *, const char *tenant, uint64_t session_id, lwd_session_row_t *row_out,
                                lw_error_t *);
    /* Up to `capacity` rows with id > after_id, ascending. tenant NULL: all. */
    LW_CHECK lw_status_t (*list)(lwd_catalogue_t *, const char *tenant, uint64_t after_id, uint32_t capacity,
                                 lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *);

    /* Adds ranges in one transaction; ERR_STALE when term is not the session's; ERR_INVALID unless each begins where the
     * manifest ends. Idempotent: ranges already there with the same generation and nodes are OK. */
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
    /* For nodes: which of these segment names are in no manifest and have no live writer? dead[i] = true for those. */
    LW_CHECK lw_status_t (*orphans)(lwd_catalogue_t *, const lw_segment_name_t *names, uint32_t count, uint64_t now,
                                    bool *dead, lw_error_t *);
    /* Moves idle, unpinned sessions, least recently used first, to EVICTING and on to ENDED until about `bytes` are freed;
     * sessions with live children are left alone. Also turns expired leases to IDLE and expired TTLs to ENDED (bytes may
     * be 0 for that alone). */
    LW_CHECK lw_status_t (*expire)(lwd_catalogue_t *, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out, lw_error_t *);
    /* Endings with serial > after, ascending. */
    LW_CHECK lw_status_t (*ended)(lwd_catalogue_t *, uint64_t after, uint32_t capacity, lwd_ended_t *rows,
                                  uint32_t *count_out, lw_error_t *);
} lwd_catalogue_ops_t;

const lwd_catalogue_ops_t *lwd_catalogue_sqlite(void);
const lwd_catalogue_ops_t *lwd_catalogue_sim(void);

#endif /* LWD_CATALOGUE_H */
