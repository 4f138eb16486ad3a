/* placement.h - which nodes hold a segment: weighted rendezvous hashing over the view (highest random weight; Thaler and
 * Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005). Pure, the same answer on both sides. The writer
 * chooses with it; readers follow the manifest only (DESIGN D8). */
#ifndef LW_WIRE_PLACEMENT_H
#define LW_WIRE_PLACEMENT_H

#include "base/limits.h"
#include "wire/segment_name.h"

typedef enum lw_node_state { LW_NODE_UP = 1, LW_NODE_DRAINING = 2, LW_NODE_DOWN = 3 } lw_node_state_t;

typedef struct lw_node {
    uint64_t id, incarnation;
    uint32_t state; /* lw_node_state_t; only UP nodes are chosen */
    uint32_t weight; /* share of new segments; 0: none */
    uint16_t index; /* stable small number used in manifests; stays for ever */
    char zone[32];
    char control[LW_ADDRESS_MAX]; /* gRPC */
    char data[LW_ADDRESS_MAX];    /* data plane, lane 0; further lanes are told in HELLO_REPLY's successor */
} lw_node_t;

typedef struct lw_view {
    uint64_t epoch, fleet_id;
    uint32_t node_count;
    lw_node_t *nodes; /* [node_count], by ascending index; owned by whoever built the view */
} lw_view_t;

/* Chooses up to `replicas` UP nodes on distinct zones where zones allow it; writes positions in view->nodes, best first.
 * Returns how many it found (0 when no node is UP). Layers of one range spread: the key is (origin, rank, layer, first).
 * Where there are fewer zones than replicas, zones are shared evenly. replicas <= LW_REPLICAS_MAX, node_count <=
 * LW_NODES_MAX. */
uint32_t lw_place(const lw_view_t *view, const lw_segment_name_t *name, uint32_t replicas, uint32_t *position_out);

#endif /* LW_WIRE_PLACEMENT_H */
