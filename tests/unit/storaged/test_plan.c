/* The rule of moves: who replaces which copy. Pure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/prng.h"
#include "storaged/move/plan.h"

#define NODES 9u

typedef struct fleet {
    lw_node_t nodes[NODES];
    lwd_plan_t plan;
} fleet_t;

static lw_prng_t prng;

/* All nodes UP, three zones. */
static void fleet_init(fleet_t *fleet, uint32_t count)
{
    memset(fleet, 0, sizeof(*fleet));
    memset(fleet->plan.state, LW_NODE_DOWN, sizeof(fleet->plan.state));
    for (uint32_t i = 0; i < count; i++) {
        fleet->nodes[i] = (lw_node_t){.id = 1000 + i * 7, .state = LW_NODE_UP, .weight = 100, .index = (uint16_t)(2 * i)};
        snprintf(fleet->nodes[i].zone, sizeof(fleet->nodes[i].zone), "z%u", i % 3);
        fleet->plan.state[2 * i] = LW_NODE_UP;
        fleet->plan.alive[2 * i] = true;
    }
    fleet->plan.view = (lw_view_t){.node_count = count, .nodes = fleet->nodes};
    fleet->plan.known = true;
}

static void set_state(fleet_t *fleet, uint32_t node, uint32_t state)
{
    fleet->nodes[node].state = state;
    fleet->plan.state[2 * node] = (uint8_t)state;
    fleet->plan.alive[2 * node] = state != LW_NODE_DOWN;
}

static lw_segment_name_t some_name(void)
{
    return (lw_segment_name_t){.origin = 1 + lw_prng_below(&prng, 1000), .layer = (uint16_t)lw_prng_below(&prng, 32),
                               .first_token = 1024 * (uint32_t)lw_prng_below(&prng, 100), .generation = 1};
}

static void place(const fleet_t *fleet, const lw_segment_name_t *name, uint32_t replicas, uint16_t *nodes)
{
    uint32_t position[LW_REPLICAS_MAX];
    assert_int_equal(lw_place(&fleet->plan.view, name, replicas, position), replicas);
    for (uint32_t r = 0; r < replicas; r++)
        nodes[r] = fleet->nodes[position[r]].index;
}

/* What each node says; returns how many would pull. froms and reasons by the node's position. */
static uint32_t ask_all(fleet_t *fleet, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                        bool rebalance, lwd_move_reason_t *reasons, uint16_t *froms)
{
    uint32_t pulling = 0;
    for (uint32_t i = 0; i < fleet->plan.view.node_count; i++) {
        fleet->plan.own = fleet->nodes[i].index;
        reasons[i] = lwd_plan_choose(&fleet->plan, name, nodes, replicas, rebalance, &froms[i]);
        pulling += reasons[i] != LWD_MOVE_NONE;
    }
    return pulling;
}

static void test_nobody_moves_what_is_where_it_belongs(void **state)
{
    fleet_t fleet;
    lwd_move_reason_t reasons[NODES];
    uint16_t nodes[3], froms[NODES];
    (void)state;
    fleet_init(&fleet, NODES);
    for (int i = 0; i < 200; i++) {
        lw_segment_name_t name = some_name();
        place(&fleet, &name, 3, nodes);
        assert_int_equal(ask_all(&fleet, &name, nodes, 3, true, reasons, froms), 0);
    }
}

static void test_each_copy_on_a_node_that_is_gone_finds_exactly_one_replacement(void **state)
{
    fleet_t fleet;
    lwd_move_reason_t reasons[NODES];
    uint16_t nodes[3], froms[NODES];
    (void)state;
    for (int i = 0; i < 500; i++) {
        fleet_init(&fleet, NODES);
        lw_segment_name_t name = some_name();
        uint32_t replicas = 1 + (uint32_t)lw_prng_below(&prng, 3), bad = 0;
        place(&fleet, &name, replicas, nodes);
        for (uint32_t n = 0; n < 4; n++)
            set_state(&fleet, (uint32_t)lw_prng_below(&prng, NODES),
                      lw_prng_below(&prng, 2) ? LW_NODE_DOWN : LW_NODE_DRAINING);
        for (uint32_t r = 0; r < replicas; r++)
            bad += fleet.plan.state[nodes[r]] != LW_NODE_UP;
        assert_int_equal(ask_all(&fleet, &name, nodes, replicas, false, reasons, froms), bad);
        for (uint32_t a = 0; a < NODES; a++) {
            if (reasons[a] == LWD_MOVE_NONE)
                continue;
            assert_int_equal(fleet.nodes[a].state, LW_NODE_UP);
            assert_int_equal(reasons[a], fleet.plan.state[froms[a]] == LW_NODE_DOWN ? LWD_MOVE_REPAIR : LWD_MOVE_DRAIN);
            for (uint32_t b = 0; b < a; b++)
                assert_true(reasons[b] == LWD_MOVE_NONE || froms[a] != froms[b]);
        }
    }
}

static void test_moves_end_where_placement_has_it_and_then_stop(void **state)
{
    fleet_t fleet;
    lwd_move_reason_t reasons[NODES];
    uint16_t nodes[3], ideal[3], froms[NODES];
    (void)state;
    for (int i = 0; i < 300; i++) {
        fleet_init(&fleet, NODES);
        lw_segment_name_t name = some_name();
        place(&fleet, &name, 3, nodes);
        set_state(&fleet, (uint32_t)lw_prng_below(&prng, NODES), LW_NODE_DOWN);
        set_state(&fleet, (uint32_t)lw_prng_below(&prng, NODES), LW_NODE_DRAINING);
        for (int round = 0; round < 4; round++) { /* all moves of one round are made, then looked at again */
            uint16_t next[3];
            ask_all(&fleet, &name, nodes, 3, true, reasons, froms);
            memcpy(next, nodes, sizeof(next));
            for (uint32_t n = 0; n < NODES; n++)
                for (uint32_t r = 0; r < 3; r++)
                    if (reasons[n] != LWD_MOVE_NONE && nodes[r] == froms[n])
                        next[r] = fleet.nodes[n].index;
            memcpy(nodes, next, sizeof(nodes));
        }
        place(&fleet, &name, 3, ideal);
        for (uint32_t r = 0; r < 3; r++)
            assert_true(nodes[r] == ideal[0] || nodes[r] == ideal[1] || nodes[r] == ideal[2]);
        assert_int_equal(ask_all(&fleet, &name, nodes, 3, true, reasons, froms), 0);
    }
}

static void test_what_is_urgent_goes_before_what_is_misplaced(void **state)
{
    fleet_t fleet;
    lwd_move_reason_t reasons[NODES];
    uint16_t ideal[2], nodes[2], froms[NODES];
    lw_segment_name_t name = some_name();
    (void)state;
    fleet_init(&fleet, NODES);
    place(&fleet, &name, 2, ideal);
    uint32_t gone = 0, misplaced = 0;
    while (2 * gone == ideal[0] || 2 * gone == ideal[1])
        gone++;
    while (misplaced == gone || 2 * misplaced == ideal[0] || 2 * misplaced == ideal[1])
        misplaced++;
    nodes[0] = (uint16_t)(2 * misplaced);
    nodes[1] = (uint16_t)(2 * gone);
    set_state(&fleet, gone, LW_NODE_DOWN); /* it was in no placement: that stays as it is */
    assert_int_equal(ask_all(&fleet, &name, nodes, 2, false, reasons, froms), 1);
    assert_int_equal(reasons[ideal[0] / 2], LWD_MOVE_REPAIR);
    assert_int_equal(froms[ideal[0] / 2], nodes[1]);
    assert_int_equal(ask_all(&fleet, &name, nodes, 2, true, reasons, froms), 2);
    assert_int_equal(reasons[ideal[0] / 2], LWD_MOVE_REPAIR);
    assert_int_equal(reasons[ideal[1] / 2], LWD_MOVE_REBALANCE);
    assert_int_equal(froms[ideal[1] / 2], nodes[0]);
}

static void test_too_few_nodes_move_nothing_and_a_stranger_does_nothing(void **state)
{
    fleet_t fleet;
    lwd_move_reason_t reasons[NODES];
    uint16_t nodes[2] = {0, 2}, froms[NODES], from;
    lw_segment_name_t name = some_name();
    (void)state;
    fleet_init(&fleet, 2);
    set_state(&fleet, 1, LW_NODE_DOWN);
    assert_int_equal(ask_all(&fleet, &name, nodes, 2, true, reasons, froms), 0);
    fleet_init(&fleet, NODES);
    set_state(&fleet, 1, LW_NODE_DOWN);
    fleet.plan.known = false;
    assert_int_equal(ask_all(&fleet, &name, nodes, 2, true, reasons, froms), 0);
    fleet.plan.known = true;
    nodes[1] = 1001; /* a node that no view has: gone */
    assert_int_equal(ask_all(&fleet, &name, nodes, 2, false, reasons, froms), 1);
    fleet.plan.own = nodes[0];
    assert_int_equal(lwd_plan_choose(&fleet.plan, &name, nodes, 2, true, &from), LWD_MOVE_NONE); /* has one */
}

static void test_sources_live_and_are_others(void **state)
{
    fleet_t fleet;
    uint16_t nodes[4] = {0, 2, 4, 6}, sources[LW_REPLICAS_MAX];
    lw_segment_name_t name = some_name();
    (void)state;
    fleet_init(&fleet, NODES);
    set_state(&fleet, 1, LW_NODE_DOWN);
    set_state(&fleet, 2, LW_NODE_DRAINING);
    fleet.plan.own = 0;
    assert_int_equal(lwd_plan_sources(&fleet.plan, &name, nodes, 4, sources), 2);
    assert_int_equal(sources[0] + sources[1], 4 + 6);
    nodes[2] = 1001;
    nodes[3] = UINT16_MAX;
    assert_int_equal(lwd_plan_sources(&fleet.plan, &name, nodes, 4, sources), 0);
}

int main(void)
{
    const char *given = getenv("LW_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    print_message("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_moves_what_is_where_it_belongs),
        cmocka_unit_test(test_each_copy_on_a_node_that_is_gone_finds_exactly_one_replacement),
        cmocka_unit_test(test_moves_end_where_placement_has_it_and_then_stop),
        cmocka_unit_test(test_what_is_urgent_goes_before_what_is_misplaced),
        cmocka_unit_test(test_too_few_nodes_move_nothing_and_a_stranger_does_nothing),
        cmocka_unit_test(test_sources_live_and_are_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
