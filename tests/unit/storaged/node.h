/* node.h - one storage node in this process, over the simulated network, with a catalogue that the test
 * plays. */
#ifndef LW_TEST_NODE_H
#define LW_TEST_NODE_H

#include "fabric/fabric_sim.h"
#include "storaged/mem/arena.h"
#include "storaged/net/net.h"
#include "unit/storaged/data_client.h"
#include "unit/storaged/segment_make.h"

#define NODE_WORKERS_MAX 3u

typedef struct node_params {
    uint64_t arena_bytes; /* 0: 16 MiB */
    uint32_t workers;     /* 0: 1 */
    uint32_t segment_max, connection_max, request_max, attachment_max,
        attachments_per_connection_max; /* 0: plenty */
    uint64_t lease_us;                  /* 0: 1 s */
    uint64_t seed;
    unsigned (*duty)(void *arg, uint64_t now_us); /* of worker 0 */
    void *duty_arg;
} node_params_t;

typedef struct node {
    lw_sim_net_t *net;
    uint8_t *arena, *book;
    lwd_extents_t *extents, *book_extents;
    lwd_guards_t *guards;
    lwd_stats_t *stats; /* [workers] */
    lwd_shard_t *shard;
    lwd_node_t node;
    uint32_t worker_count;
    lwd_worker_t *workers[NODE_WORKERS_MAX];
    uint64_t now_us;
    lw_clock_t clock;
    /* the catalogue, played by the test */
    lw_status_t check_status; /* answer to CHECK */
    bool check_later;         /* keep CHECK questions until node_answer() */
    uint64_t fork_of;         /* another origin that sessions may read ... */
    uint32_t fork_cut;        /* ... up to this token */
    lwd_ask_t kept[16];
    uint32_t kept_count;
    uint64_t space_asked;
    uint32_t orphans_asked;
    bool orphans_dead;
    uint32_t asks;
} node_t;

void node_start(node_t *node, const node_params_t *params);
void node_stop(node_t *node);
/* One round of the net and of every worker, and a little later. The pump of data_client_open. */
void node_pump(void *node);
void node_pass(node_t *node, uint64_t us); /* time, in rounds of at most 1 ms */
void node_answer(node_t *node);
/* A client of this node; worker says whose listener. Greets unless client_id is 0. */
void node_client(node_t *node, data_client_t *client, uint32_t worker, uint64_t client_id,
                 uint64_t incarnation);

#endif /* LW_TEST_NODE_H */
