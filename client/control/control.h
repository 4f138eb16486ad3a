/* control.h - the fleet's control plane as the client library and the command see it: typed, blocking calls.
 *
 * A handle speaks for one client (tenant, client id, incarnation) to any node of the fleet; the nodes find the catalogue
 * themselves. Two implementations sit behind the table: gRPC (lwc_control_open) and a simulated one that the tests link
 * (tests/sim/control_sim.h). Never on the step path. All calls may be made from any thread, several at a time; each blocks
 * for at most the handle's timeout, which covers every seed that is tried. Outputs are written only on success. `error`
 * may be NULL; otherwise it names the seed that answered (or each that did not) and the cause.
 *
 * Statuses that every call may give: ERR_UNREACHABLE (no seed answered), ERR_TIMEOUT, ERR_FLEET (a node answered, but the
 * catalogue is away: retry later), ERR_INVALID (names the field), ERR_PERMISSION (TLS identity refused). Only those that
 * mean more are listed at the calls.
 *
 * How a writer works: create() or open(write) gives the session's term; every segment that it writes carries that term as
 * its generation, and so does every range that it commits. renew() at least three times in a lease keeps all its sessions;
 * a lease that ran out cannot be renewed: open(write) again, which gives a new term. A raw tail is replaced only by a
 * range of a *later* term (a segment's name holds its first token and its generation, so the replacement needs another
 * generation): call open(write) again before sealing or flushing over a raw tail. The same client may do so at any
 * time, its own lease is no obstacle.
 */
#ifndef LWC_CONTROL_H
#define LWC_CONTROL_H

#include <stdbool.h>

#include "base/error.h"
#include "base/limits.h"
#include "wire/placement.h"
#include "wire/session.h"

typedef struct lwc_control lwc_control_t;

#define LWC_TENANT_MAX 64u
#define LWC_LEASE_DEFAULT_US 10000000ull

typedef lw_session_shape_t lwc_shape_t;

typedef enum lwc_session_state {
    LWC_SESSION_ACTIVE = 1, /* a writer's lease is alive */
    LWC_SESSION_IDLE,       /* readable, can be opened again, can be evicted */
    LWC_SESSION_EVICTING,
    LWC_SESSION_RETAINED,   /* dropped; forks still read some of its ranges */
    LWC_SESSION_ENDED,
} lwc_session_state_t;
const char *lwc_session_state_text(uint32_t state); /* "active"; never NULL */

typedef struct lwc_session_info {
    uint64_t session_id;
    char tenant[LWC_TENANT_MAX];
    lwc_shape_t shape;
    uint32_t state;          /* lwc_session_state_t */
    uint32_t term;           /* of the last writer */
    uint64_t lease_us_left;  /* of the writer's lease as the catalogue saw it; 0: none */
    uint64_t lease_client;   /* 0: none */
    uint64_t ttl_us, created_us, used_us; /* unix microseconds; ttl counts from used_us, 0: none */
    uint64_t parent_id;      /* fork: what it was forked from; 0: none */
    uint32_t cut_tokens;     /* fork: tokens shared with the parent */
    uint32_t token_count;    /* committed, the parent's included; the smallest over its ranks */
    uint64_t bytes;          /* own committed bytes, all replicas */
    uint32_t readers;        /* clients that opened it for reading and whose leases are alive */
    bool pinned;
    uint8_t token[LW_TOKEN_BYTES]; /* for ATTACH; zero in list() */
} lwc_session_info_t;

typedef lw_session_range_t lwc_range_t;
#define LWC_RANGE_RAW LW_RANGE_RAW
#define LWC_RANGE_MOMENTS LW_RANGE_MOMENTS

/* A node's account of itself. Texts are owned by the struct: free with lwc_node_status_free. */
typedef struct lwc_node_status {
    uint64_t node_id, incarnation, fleet_id, epoch, uptime_us;
    uint64_t used_bytes, free_bytes; /* of its arenas */
    bool ready, holds_catalogue;
    char version[32], control[LW_ADDRESS_MAX], data[LW_ADDRESS_MAX];
    char *reasons; /* why it is not ready, one a line; "" when it is */
    char *metrics; /* Prometheus text: every counter */
    char *options; /* "group.name = value" lines */
    char *moves;   /* "name value" lines about copies between nodes; NULL: it says nothing of them */
} lwc_node_status_t;
void lwc_node_status_free(lwc_node_status_t *status);

typedef struct lwc_control_ops {
    const char *name;
    void (*close)(lwc_control_t *);
    LW_CHECK lw_status_t (*create)(lwc_control_t *, const lwc_shape_t *, uint64_t lease_us, uint64_t ttl_us,
                                   lwc_session_info_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*open)(lwc_control_t *, uint64_t session_id, bool write, uint64_t lease_us,
                                 lwc_session_info_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*renew)(lwc_control_t *, uint64_t lease_us, uint32_t *renewed_out, lw_error_t *);
    LW_CHECK lw_status_t (*release)(lwc_control_t *, uint64_t session_id, lw_error_t *);
    LW_CHECK lw_status_t (*fork)(lwc_control_t *, uint64_t parent_id, uint32_t max_tokens, uint64_t lease_us,
                                 lwc_session_info_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*pin)(lwc_control_t *, uint64_t session_id, bool pinned, lw_error_t *);
    LW_CHECK lw_status_t (*drop)(lwc_control_t *, uint64_t session_id, lw_error_t *);
    LW_CHECK lw_status_t (*list)(lwc_control_t *, uint64_t after_id, uint32_t capacity, lwc_session_info_t *rows,
                                 uint32_t *count_out, lw_error_t *);
    LW_CHECK lw_status_t (*get)(lwc_control_t *, uint64_t session_id, lwc_session_info_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*commit)(lwc_control_t *, const lwc_session_info_t *, uint16_t rank, const lwc_range_t *ranges,
                                   uint32_t count, lw_error_t *);
    LW_CHECK lw_status_t (*ranges)(lwc_control_t *, const lwc_session_info_t *, uint16_t rank, uint32_t from_token,
                                   uint32_t capacity, lwc_range_t *ranges, uint32_t *count_out, lw_error_t *);
    LW_CHECK lw_status_t (*fleet_get)(lwc_control_t *, lw_view_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*admin_status)(lwc_control_t *, const char *address, lwc_node_status_t *out, lw_error_t *);
    LW_CHECK lw_status_t (*set_log_level)(lwc_control_t *, const char *address, const char *level, lw_error_t *);
    LW_CHECK lw_status_t (*drain)(lwc_control_t *, uint32_t node_index, bool drain, lw_error_t *);
} lwc_control_ops_t;

/* Head of every implementation's handle. */
struct lwc_control {
    const lwc_control_ops_t *ops;
    uint64_t client_id, incarnation; /* for HELLO too */
};

typedef struct lwc_control_params {
    uint32_t size;
    const char *seeds;   /* "host:port,host:port": tried in turn from the last one that answered */
    const char *tenant;  /* NULL: "default" */
    uint64_t client_id, incarnation; /* 0: random id; incarnation 0: the time of the open in microseconds */
    uint64_t timeout_us; /* of one call, all seeds together; 0: 5 s */
    const char *ca_pem, *cert_pem, *key_pem; /* PEM texts; all NULL: plaintext. Borrowed for the call */
    const char *server_name; /* NULL: the seed's host */
} lwc_control_params_t;

/* Checks the parameters and prepares channels; the first call connects. ERR_UNSUPPORTED when built without gRPC. */
LW_CHECK lw_status_t lwc_control_open(const lwc_control_params_t *params, lwc_control_t **control_out, lw_error_t *error);

/* Calls in flight on other threads must have ended. Leases are not given up: release() them, or let them run out. */
static inline void lwc_control_close(lwc_control_t *control)
{
    if (control)
        control->ops->close(control);
}

/* A new session, opened for writing at term 1. */
LW_CHECK static inline lw_status_t lwc_control_create(lwc_control_t *control, const lwc_shape_t *shape, uint64_t lease_us,
                                                      uint64_t ttl_us, lwc_session_info_t *out, lw_error_t *error)
{
    return control->ops->create(control, shape, lease_us, ttl_us, out, error);
}
/* For writing: a new term and the lease; ERR_BUSY while another client's lease lives. For reading: a reader's lease, which
 * keeps the session from eviction. ERR_NOT_FOUND: no such session, or another tenant's. */
LW_CHECK static inline lw_status_t lwc_control_open_session(lwc_control_t *control, uint64_t session_id, bool write,
                                                            uint64_t lease_us, lwc_session_info_t *out,
                                                            lw_error_t *error)
{
    return control->ops->open(control, session_id, write, lease_us, out, error);
}
/* Renews every lease of this client that has not run out; *renewed_out counts them. ERR_STALE: a later incarnation of
 * this client id was seen, all leases of this one are gone. */
LW_CHECK static inline lw_status_t lwc_control_renew(lwc_control_t *control, uint64_t lease_us, uint32_t *renewed_out,
                                                     lw_error_t *error)
{
    return control->ops->renew(control, lease_us, renewed_out, error);
}
/* Gives this client's lease on a session up (close). Fine when there is none. ERR_NOT_FOUND: no such session. */
LW_CHECK static inline lw_status_t lwc_control_release(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    return control->ops->release(control, session_id, error);
}
/* A child that shares the parent's committed ranges up to the last one whose end is <= max_tokens (0: all) in every
 * rank; raw tails are never shared. out->cut_tokens tells the cut; the child is open for writing at term 1. */
LW_CHECK static inline lw_status_t lwc_control_fork(lwc_control_t *control, uint64_t parent_id, uint32_t max_tokens,
                                                    uint64_t lease_us, lwc_session_info_t *out, lw_error_t *error)
{
    return control->ops->fork(control, parent_id, max_tokens, lease_us, out, error);
}
LW_CHECK static inline lw_status_t lwc_control_pin(lwc_control_t *control, uint64_t session_id, bool pinned,
                                                   lw_error_t *error)
{
    return control->ops->pin(control, session_id, pinned, error);
}
LW_CHECK static inline lw_status_t lwc_control_drop(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    return control->ops->drop(control, session_id, error);
}
/* Up to `capacity` of the tenant's sessions with id > after_id, ascending; ended ones are left out. Fewer than capacity
 * may come although more exist: go on from the last id until *count_out is 0. */
LW_CHECK static inline lw_status_t lwc_control_list(lwc_control_t *control, uint64_t after_id, uint32_t capacity,
                                                    lwc_session_info_t *rows, uint32_t *count_out, lw_error_t *error)
{
    return control->ops->list(control, after_id, capacity, rows, count_out, error);
}
LW_CHECK static inline lw_status_t lwc_control_get(lwc_control_t *control, uint64_t session_id, lwc_session_info_t *out,
                                                   lw_error_t *error)
{
    return control->ops->get(control, session_id, out, error);
}
/* Adds ranges of one rank in one transaction: all or none. `session` gives id, term and token as create/open/fork returned
 * them. Each range begins where the manifest ends. Idempotent: sending the same ranges again is fine. ERR_STALE: the term
 * is over or the lease ran out. ERR_EXISTS: another range begins at that token, or a raw tail of this same term does.
 * ERR_INVALID: a gap; the text has both tokens. */
LW_CHECK static inline lw_status_t lwc_control_commit(lwc_control_t *control, const lwc_session_info_t *session,
                                                      uint16_t rank, const lwc_range_t *ranges, uint32_t count,
                                                      lw_error_t *error)
{
    return control->ops->commit(control, session, rank, ranges, count, error);
}
/* The manifest of one rank: ranges with first_token >= from_token, ascending, the parent's first. Fewer than capacity may
 * come although more exist: go on from the last one's end until *count_out is 0. `session` gives id and token. */
LW_CHECK static inline lw_status_t lwc_control_ranges(lwc_control_t *control, const lwc_session_info_t *session,
                                                      uint16_t rank, uint32_t from_token, uint32_t capacity,
                                                      lwc_range_t *ranges, uint32_t *count_out, lw_error_t *error)
{
    return control->ops->ranges(control, session, rank, from_token, capacity, ranges, count_out, error);
}
/* The fleet as the answering node knows it. The caller frees it with lwc_view_free. */
LW_CHECK static inline lw_status_t lwc_control_fleet_get(lwc_control_t *control, lw_view_t *out, lw_error_t *error)
{
    return control->ops->fleet_get(control, out, error);
}
/* `address`: the node to ask ("host:port" of its control plane); NULL: the first seed that answers. */
LW_CHECK static inline lw_status_t lwc_control_admin_status(lwc_control_t *control, const char *address,
                                                            lwc_node_status_t *out, lw_error_t *error)
{
    return control->ops->admin_status(control, address, out, error);
}
LW_CHECK static inline lw_status_t lwc_control_set_log_level(lwc_control_t *control, const char *address,
                                                             const char *level, lw_error_t *error)
{
    return control->ops->set_log_level(control, address, level, error);
}

/* Marks a node as to be emptied, or takes the mark back; kept in the catalogue. ERR_NOT_FOUND: the fleet has no such node;
 * ERR_UNSUPPORTED where there are no nodes to speak of. */
LW_CHECK static inline lw_status_t lwc_control_drain(lwc_control_t *control, uint32_t node_index, bool drain,
                                                     lw_error_t *error)
{
    return control->ops->drain(control, node_index, drain, error);
}

void lwc_view_free(lw_view_t *view); /* frees the nodes and zeroes the view */

#endif /* LWC_CONTROL_H */
