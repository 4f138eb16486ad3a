/* members_etcd.h - who is in the fleet, from etcd: registration under a lease, and a watch that keeps the list current.
 *
 * Keys below the fleet's prefix, all text of "name value" lines; an index has four digits:
 *
 *   nodes/<index>        id, weight, zone, control, data; stays for ever: manifests name nodes by index
 *   nodes/<index>/drain  there: the node is to be emptied (written by the catalogue, set_drain)
 *   live/<index>         incarnation, draining; under the node's lease: it is there while the node lives
 *   told/<index>         serial of the last ending that the node has been told, and when
 *
 * A node is UP while its live key is there, DRAINING when that or the drain key says so, else DOWN. The epoch is the
 * revision of the last change below nodes/ and live/: every node sees the same changes, so all give a view the same number.
 *
 * One thread. Used by ctl's control thread, which takes the list over, and by service_fleet.c. */
#ifndef LWD_CTL_MEMBERS_ETCD_H
#define LWD_CTL_MEMBERS_ETCD_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "wire/placement.h"

#define CTL_ETCD_TTL_S 3u           /* of a node's lease: at most this and a second passes until a dead node is DOWN */
#define CTL_ETCD_KEEP_US 750000ull  /* between two keep-alives */
#define CTL_ETCD_POLL_US 50000ull   /* how long the thread waits for changes before it looks at other things */
#define CTL_ETCD_TOLD_US 1000000ull /* told/ is written, and read, at most this often */

typedef struct ctl_etcd ctl_etcd_t;

typedef struct ctl_etcd_params {
    const char *where;     /* lwd_etcd_open_where; borrowed for the call, like own */
    const lw_node_t *own;  /* id, incarnation, weight, zone, addresses */
    const lw_clock_t *clock;
    const atomic_bool *draining; /* the node is leaving; read all the time */
    _Atomic uint64_t *kept_us;   /* written: when the last keep-alive that was answered went out (clock's now_us) */
    uint32_t node_max;
} ctl_etcd_params_t;

/* Registers and starts the thread. While etcd is away this is OK, and registration follows when it is back. ERR_EXISTS:
 * a live node at another address has this id; ERR_EXHAUSTED: the fleet has node_max nodes. Takes up to 6 s. */
LW_CHECK lw_status_t lwd_ctl_etcd_start(const ctl_etcd_params_t *params, ctl_etcd_t **etcd_out, lw_error_t *error);
/* Ends the thread and the lease: the others see this node DOWN at once. NULL is fine. */
void lwd_ctl_etcd_stop(ctl_etcd_t *etcd);

/* Any thread. The list, by ascending index, when it has changed since *version; false: it has not, or this node is not in
 * it yet. nodes: room for node_max. */
bool lwd_ctl_etcd_take(ctl_etcd_t *etcd, uint64_t *version, lw_node_t *nodes, uint32_t *count_out, uint64_t *epoch_out,
                       uint32_t *own_index_out);
/* True once after each change of the log of endings, and at first. */
bool lwd_ctl_etcd_endings(ctl_etcd_t *etcd);
/* This node has been told of the endings up to `serial`. */
void lwd_ctl_etcd_told(ctl_etcd_t *etcd, uint64_t serial);
/* What every node has been told of; 0: not known. Nodes that have been gone for an hour do not count. */
uint64_t lwd_ctl_etcd_least_told(const ctl_etcd_t *etcd);
/* Another process has this node's id now: this one must not serve writes any more. */
bool lwd_ctl_etcd_superseded(const ctl_etcd_t *etcd);

#endif /* LWD_CTL_MEMBERS_ETCD_H */
