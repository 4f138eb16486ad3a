/* replica_rig.h - a store over the simulated fabric, with nodes that are a few lines each: they hold every segment, and a
 * test may stop, kill, delay or spoil them. One thread, a clock that run() moves. */
#ifndef REPLICA_RIG_H
#define REPLICA_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/store/store_private.h"
#include "fabric/fabric_sim.h"

#define RIG_NODES 3u
#define RIG_SEGMENTS 4u
#define RIG_SESSIONS 2u /* of which the first is used */
#define RIG_TAGS 8192u
#define RIG_ROW_BYTES 64u
#define RIG_TICK_US 100u
#define RIG_HELD 64u

typedef struct rig rig_t;

typedef struct rig_held { /* a FETCH that is answered later */
    lw_conn_t *conn;
    uint64_t due_us;
    lw_msg_t msg;
    size_t bytes;
    uint8_t lists[4096];
} rig_held_t;

typedef struct rig_node {
    rig_t *rig;
    uint32_t index;
    lw_fabric_t *fabric;
    bool stopped; /* as by SIGSTOP */
    bool killed;
    bool spoils;  /* a byte of each record */
    bool absent;  /* says that it has no segment */
    bool deaf_to_attach;
    uint64_t delay_us; /* of answers to FETCH */
    rig_held_t held[RIG_HELD];
    uint32_t fetches, cancels, reads; /* seen */
} rig_node_t;

struct rig {
    uint64_t now_us;
    lw_clock_t clock;
    lw_sim_net_t *net;
    rig_node_t node[RIG_NODES];
    lw_node_t rows[RIG_NODES];
    lw_view_t view;
    uint8_t *landing;
    lwc_store_t *store;
    uint32_t tags;             /* given out */
    uint8_t answers[RIG_TAGS]; /* for each tag */
    lw_status_t status[RIG_TAGS];
    uint32_t key[RIG_TAGS], entry[RIG_TAGS];
    const uint8_t *record[RIG_TAGS];
    uint64_t answered_us; /* when the last one came */
};

/* hedge_us as in lwc_store_params_t; landing_bytes of landing memory. Every segment is on nodes 0 and 1, in this order. */
void rig_open(rig_t *rig, uint64_t seed, uint64_t hedge_us, uint64_t landing_bytes);
/* The same with a mailbox for where segments have moved to: one session, one layer. */
void rig_open_refresh(rig_t *rig, uint64_t seed, uint64_t hedge_us, uint64_t landing_bytes, lwc_refresh_t *refresh);
void rig_close(rig_t *rig);
/* Connects to nodes 0 and 1 and attaches every segment on both. */
void rig_warm_up(rig_t *rig);
/* Wants of one segment, entries 0.., `rows` rows each; returns the first tag. */
uint32_t rig_fetch(rig_t *rig, uint32_t key, uint32_t count, uint32_t rows, uint64_t time_us);
lw_segment_name_t rig_name(uint32_t key);
void rig_run_us(rig_t *rig, uint64_t us);
/* Until nothing is in flight, at most `us`. Returns how long it took. */
uint64_t rig_finish(rig_t *rig, uint64_t us);
/* Every want given out so far was answered once, those from `first` on with OK and with their true bytes. */
void rig_check(const rig_t *rig, uint32_t first);
lwc_store_stats_t rig_stats(const rig_t *rig);

#endif /* REPLICA_RIG_H */
