/* plan.h - who replaces which copy: the rule, without I/O, clock or memory of its own. Pure; any thread. */
#ifndef LWD_MOVE_PLAN_H
#define LWD_MOVE_PLAN_H

#include "storaged/move/move.h"

typedef struct lwd_plan {
    lw_view_t view; /* nodes that are gone for less than the grace count as UP in it; owned */
    uint16_t own;   /* this node's index */
    bool known;     /* this node is in the view */
    /* By node index. UP, DRAINING, or DOWN (gone for longer than the grace, or in no view). */
    uint8_t state[LW_NODES_MAX];
    bool alive[LW_NODES_MAX]; /* can be read from now */
} lwd_plan_t;

/* Why this node should pull a copy of `name`, whose copies are on nodes[replicas]; *from_out: the node that it replaces.
 * Nodes with the same view never give the same `from`. rebalance: is that asked for, too? */
lwd_move_reason_t lwd_plan_choose(const lwd_plan_t *plan, const lw_segment_name_t *name, const uint16_t *nodes,
                                  uint32_t replicas, bool rebalance, uint16_t *from_out);
/* Nodes that can be read from, this one left out, beginning with another one for each name. Returns how many. */
uint32_t lwd_plan_sources(const lwd_plan_t *plan, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                          uint16_t *sources_out);

#endif /* LWD_MOVE_PLAN_H */
