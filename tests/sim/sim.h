/* sim.h - a fleet and its clients in one process and one thread, from one seed: the daemon's real shard and network code, the
 * client's real store code, over the simulated fabric and catalogue, with a clock that this program moves.
 *
 * A world owns the time, the net, the catalogue, the nodes and the clients. Every tick moves messages, gives each node and client
 * one round, injects what the seed has in store, and checks. A violation prints the seed and what happened, and ends the run. */
#ifndef LW_TESTS_SIM_H
#define LW_TESTS_SIM_H

#include <stdbool.h>

#include "base/fault.h"
#include "base/prng.h"
#include "client/store/store.h"
#include "fabric/fabric_sim.h"
#include "storaged/catalogue/catalogue.h"
#include "storaged/move/move.h"
#include "storaged/net/net.h"

#define SIM_NODES 4u
#define SIM_CLIENTS 3u
#define SIM_SEGMENTS 96u  /* a client knows at most */
#define SIM_SESSIONS 6u   /* of a client at once */
#define SIM_LAYERS 2u
#define SIM_HEADS 2u
#define SIM_REPLICAS 2u   /* of a segment, at most: a run has 1 or 2 */
#define SIM_DIM 16u
#define SIM_LEASE_US 3000000ull
#define SIM_TICK_US 200ull
#define SIM_ASKS 256u

typedef struct sim_world sim_world_t;

/* A question of a node to the catalogue, answered after a while. */
typedef struct sim_ask {
    bool used;
    uint64_t due_us;
    lwd_ask_t ask;
    lw_segment_name_t names[LWD_SUSPECTS_MAX];
} sim_ask_t;

/* The same of its mover. */
typedef struct sim_move_ask {
    bool used, page;
    uint64_t due_us, ticket;
    lwd_placed_key_t after;
    lw_segment_name_t name;
    uint16_t from, to;
} sim_move_ask_t;
#define SIM_MOVE_ASKS 32u

typedef struct sim_node {
    sim_world_t *world;
    uint16_t index;
    bool up;
    uint64_t incarnation, restart_us, sync_us, ended_serial;
    uint64_t stalled_until_us; /* stopped, as by SIGSTOP: its connections stay */
    uint64_t disturbed_us;     /* when it was last down, stopped or cut off */
    char host[16], address[LW_ADDRESS_MAX];
    uint8_t *arena, *book;
    lwd_extents_t *extents, *book_extents;
    lwd_guards_t guards;
    lwd_stats_t stats;
    lwd_node_t node;
    lwd_shard_t *shard;
    lwd_worker_t *worker;
    sim_ask_t asks[SIM_ASKS];
    bool draining;        /* in the view; it leaves once nothing is placed on it */
    uint64_t started_us;
    lwd_move_t *move;
    lwd_stats_t move_stats;
    sim_move_ask_t move_asks[SIM_MOVE_ASKS];
} sim_node_t;

/* A segment that a client has put, or is putting. */
typedef struct sim_segment {
    bool used, acknowledged; /* in a manifest: must be readable while one of its nodes lives on and its session is not over */
    bool known;              /* to the store's directory */
    uint32_t session;        /* index in the client's sessions */
    lw_segment_name_t name;
    uint32_t replicas;
    uint16_t node[SIM_REPLICAS];
    uint64_t node_incarnation[SIM_REPLICAS]; /* when it was put */
    void *extent;
    uint64_t bytes;
    bool putting, reading;
    lw_status_t put_status;
    uint8_t *readback;
    uint64_t readback_bytes;
    uint64_t deadline_us;
} sim_segment_t;

typedef enum sim_session_state { SIM_NONE, SIM_OPEN, SIM_OVER } sim_session_state_t;
typedef struct sim_session {
    sim_session_state_t state;
    lwd_session_row_t row;
    uint32_t next_token, segments_pending, range_first_segment;
    bool range_open;
    uint64_t over_us; /* when it was dropped, or may have been evicted */
} sim_session_t;

typedef struct sim_fetch {
    bool used;
    uint64_t asked_us, deadline_us, tag_first;
    uint32_t count, left;
    struct {
        uint32_t segment;
        uint16_t head, entry;
        uint32_t rows;
        bool answered, lively; /* lively: when asked, the segment had to be readable */
    } want[16];
} sim_fetch_t;

typedef struct sim_client {
    sim_world_t *world;
    uint32_t index;
    bool up;
    uint64_t client_id, incarnation, started_us, restart_us, renew_us, tag, released;
    uint8_t *landing;
    lwc_store_t *store;
    sim_session_t sessions[SIM_SESSIONS];
    sim_segment_t segments[SIM_SEGMENTS];
    sim_fetch_t fetches[8];
} sim_client_t;

typedef struct sim_stats {
    uint64_t ticks, puts, puts_failed, commits, fetches, records, records_failed, reads, crashes, client_crashes, partitions, stalls,
        drops, evictions, checksum_failures, hedges, hedges_won, reroutes, moves, moves_failed, drains, losses;
} sim_stats_t;

struct sim_world {
    uint64_t seed, now_us, end_us;
    bool trace, violated, corrupts, calm;
    bool lossy; /* messages or replies get lost, so anything may come late */
    char violation[400];
    lw_prng_t prng;
    lw_clock_t clock;
    lw_sim_net_t *net;
    const lwd_catalogue_ops_t *catalogue_ops;
    lwd_catalogue_t *catalogue;
    sim_node_t nodes[SIM_NODES];
    sim_client_t clients[SIM_CLIENTS];
    lw_node_t view_nodes[SIM_NODES];
    lw_view_t view;
    uint64_t arena_bytes, heal_us;
    uint32_t replicas;
    bool moves;   /* copies are repaired, drained and rebalanced */
    bool ample;   /* arenas and tables have room for everything */
    lwd_move_limits_t move_limits;
    sim_stats_t stats;
};

/* ---- world.c ---- */
LW_CHECK lw_status_t sim_world_create(uint64_t seed, bool trace, sim_world_t **world_out);
void sim_world_destroy(sim_world_t *world);
/* Runs to the end: first with faults, then calm, then everything is dropped and must be gone. False: a violation. */
bool sim_world_run(sim_world_t *world);
void sim_violation(sim_world_t *world, const char *format, ...) LW_PRINTF(2, 3);
void sim_trace(sim_world_t *world, const char *format, ...) LW_PRINTF(2, 3);
bool sim_chance(sim_world_t *world, double chance);
uint64_t sim_below(sim_world_t *world, uint64_t bound);
void sim_view_changed(sim_world_t *world);

/* ---- node.c ---- */
LW_CHECK lw_status_t sim_node_start(sim_node_t *node);
void sim_node_stop(sim_node_t *node); /* as after kill -9: peers were told by the net already, or are by closing */
void sim_node_round(sim_node_t *node);
/* Is this copy written here, and readable? */
bool sim_node_holds(const sim_node_t *node, const lw_segment_name_t *name);
uint64_t sim_node_used_bytes(const sim_node_t *node);

/* ---- move.c: movers, and what manifests and arenas must agree on ---- */
LW_CHECK lw_status_t sim_move_start(sim_node_t *node);
void sim_move_stop(sim_node_t *node);
void sim_move_round(sim_node_t *node);
/* Each copy that a manifest names is on its node, unless that was restarted lately. */
void sim_check_placed(sim_world_t *world);
/* Every copy is on a node that is up, all of a segment's on different ones, with the right bytes. */
bool sim_all_whole(sim_world_t *world, char *why, size_t why_bytes);

/* ---- client.c ---- */
LW_CHECK lw_status_t sim_client_start(sim_client_t *client);
void sim_client_stop(sim_client_t *client);
void sim_client_round(sim_client_t *client);
void sim_client_drop_all(sim_client_t *client);
bool sim_client_idle(const sim_client_t *client);

/* ---- content.c: what every byte of a segment must be, from its name alone ---- */
/* A sealed segment with random cluster sizes; malloc'ed. */
void *sim_content_make(sim_world_t *world, const lw_segment_name_t *name, uint64_t *bytes_out);
/* Rows and bytes of one record of the true segment. */
uint32_t sim_content_record(const void *extent, uint32_t head, uint32_t entry, const uint8_t **bytes_out);
uint32_t sim_content_entries(const void *extent, uint32_t head);

#endif /* LW_TESTS_SIM_H */
