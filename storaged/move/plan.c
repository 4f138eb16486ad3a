/* plan.c - the rule of moves. Copies that must go are ordered (gone, being emptied, misplaced), and so are the nodes of the
 * segment's placement that lack one (best first); the first takes the place of the first. Placement has as many nodes as
 * there are copies, or all that are UP, so every copy that must go finds one where there is one. */
#include "storaged/move/plan.h"

static bool holds(const uint16_t *nodes, uint32_t replicas, uint16_t index)
{
    for (uint32_t r = 0; r < replicas; r++)
        if (nodes[r] == index)
            return true;
    return false;
}

static uint8_t state_of(const lwd_plan_t *plan, uint16_t index)
{
    return index < LW_NODES_MAX ? plan->state[index] : LW_NODE_DOWN;
}

/* This node's place among the placement's nodes that lack a copy; replicas: none. */
static uint32_t own_turn(const lwd_plan_t *plan, const uint16_t *ideal, uint32_t ideal_count, const uint16_t *nodes,
                         uint32_t replicas)
{
    uint32_t turn = 0;
    for (uint32_t i = 0; i < ideal_count; i++) {
        if (holds(nodes, replicas, ideal[i]))
            continue;
        if (ideal[i] == plan->own)
            return turn;
        turn++;
    }
    return replicas;
}

lwd_move_reason_t lwd_plan_choose(const lwd_plan_t *plan, const lw_segment_name_t *name, const uint16_t *nodes,
                                  uint32_t replicas, bool rebalance, uint16_t *from_out)
{
    static const lwd_move_reason_t reasons[] = {LWD_MOVE_REPAIR, LWD_MOVE_DRAIN, LWD_MOVE_REBALANCE};
    static const uint8_t states[] = {LW_NODE_DOWN, LW_NODE_DRAINING, LW_NODE_UP};
    uint32_t position[LW_REPLICAS_MAX];
    uint16_t ideal[LW_REPLICAS_MAX];
    bool urgent = false;
    for (uint32_t r = 0; r < replicas; r++)
        urgent = urgent || state_of(plan, nodes[r]) != LW_NODE_UP;
    if (!plan->known || plan->state[plan->own] != LW_NODE_UP || (!urgent && !rebalance) ||
        holds(nodes, replicas, plan->own))
        return LWD_MOVE_NONE;
    uint32_t count = lw_place(&plan->view, name, replicas, position);
    for (uint32_t i = 0; i < count; i++)
        ideal[i] = plan->view.nodes[position[i]].index;
    uint32_t turn = own_turn(plan, ideal, count, nodes, replicas);
    for (uint32_t kind = 0; kind < LW_ARRAY_SIZE(reasons); kind++)
        for (uint32_t r = 0; r < replicas; r++) {
            uint8_t state = state_of(plan, nodes[r]);
            if (state != states[kind] || (state == LW_NODE_UP && (!rebalance || holds(ideal, count, nodes[r]))))
                continue;
            if (turn-- == 0) {
                *from_out = nodes[r];
                return reasons[kind];
            }
        }
    return LWD_MOVE_NONE;
}

uint32_t lwd_plan_sources(const lwd_plan_t *plan, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                          uint16_t *sources_out)
{
    uint32_t count = 0, first = (uint32_t)(lw_segment_name_hash(name) % replicas);
    for (uint32_t r = 0; r < replicas; r++) {
        uint16_t node = nodes[(first + r) % replicas];
        if (node < LW_NODES_MAX && node != plan->own && plan->alive[node])
            sources_out[count++] = node;
    }
    return count;
}
