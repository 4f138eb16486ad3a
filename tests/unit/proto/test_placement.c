#include "test_support.h"

#include "wire/placement.h"

#define SEGMENTS 20000

static lw_node_t nodes[LW_NODES_MAX];

static lw_view_t view_of(lw_prng_t *prng, uint32_t count, uint32_t zones)
{
    memset(nodes, 0, sizeof(nodes));
    for (uint32_t i = 0; i < count; i++) {
        nodes[i].id = lw_prng_u64(prng);
        nodes[i].state = LW_NODE_UP;
        nodes[i].weight = 100;
        nodes[i].index = (uint16_t)i;
        snprintf(nodes[i].zone, sizeof(nodes[i].zone), "zone-%u", i % zones);
    }
    return (lw_view_t){.epoch = 1, .node_count = count, .nodes = nodes};
}

static lw_segment_name_t name_of(uint32_t i)
{
    return (lw_segment_name_t){.origin = 1 + i / 320,
                               .layer = (uint16_t)(i % 32),
                               .first_token = i / 32 % 10 * 8192,
                               .generation = 1};
}

static void test_without_a_node_that_is_up_nothing_is_chosen(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 3, 3);
    lw_segment_name_t name = name_of(1);
    uint32_t position[LW_REPLICAS_MAX] = {99};

    nodes[0].state = LW_NODE_DRAINING;
    nodes[1].state = LW_NODE_DOWN;
    nodes[2].weight = 0;
    assert_int_equal(lw_place(&view, &name, 2, position), 0);
    view.node_count = 0;
    assert_int_equal(lw_place(&view, &name, 2, position), 0);
    assert_int_equal(position[0], 99);
}

static void test_fewer_nodes_than_replicas_gives_each_once(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 3, 1);
    lw_segment_name_t name = name_of(1);
    uint32_t position[LW_REPLICAS_MAX];

    assert_int_equal(lw_place(&view, &name, 4, position), 3);
    assert_int_equal((1u << position[0]) | (1u << position[1]) | (1u << position[2]), 7);
    assert_int_equal(lw_place(&view, &name, 0, position), 0);
}

static void test_the_answer_depends_on_ids_alone_and_not_on_their_order(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 40, 40);
    static lw_node_t backwards[40];
    lw_view_t other = {.epoch = 9, .node_count = 40, .nodes = backwards};

    for (uint32_t i = 0; i < 40; i++) {
        backwards[i] = nodes[39 - i];
    }
    for (uint32_t i = 0; i < 500; i++) {
        lw_segment_name_t name = name_of(i);
        uint32_t a[4], b[4];

        assert_int_equal(lw_place(&view, &name, 3, a), 3);
        name.generation = 77; /* a later term goes to the same nodes */
        assert_int_equal(lw_place(&other, &name, 3, b), 3);
        for (int r = 0; r < 3; r++) {
            assert_true(nodes[a[r]].id == backwards[b[r]].id);
        }
    }
}

static void test_the_answer_of_a_fixed_fleet_never_changes(void **state)
{
    static const uint32_t wanted[8] = {2, 3, 4, 1, 2, 4, 2, 3};
    lw_view_t view = {.node_count = 5, .nodes = nodes};

    memset(nodes, 0, sizeof(nodes));
    for (uint32_t i = 0; i < 5; i++) {
        nodes[i] = (lw_node_t){.id = 1000 + i, .state = LW_NODE_UP, .weight = 1 + i, .index = (uint16_t)i};
        snprintf(nodes[i].zone, sizeof(nodes[i].zone), "z%u", i);
    }
    for (uint32_t i = 0; i < 4; i++) {
        lw_segment_name_t name = name_of(i);
        uint32_t position[2];

        assert_int_equal(lw_place(&view, &name, 2, position), 2);
        assert_int_equal(position[0], wanted[2 * i]);
        assert_int_equal(position[1], wanted[2 * i + 1]);
    }
}

static void test_a_node_that_leaves_moves_only_its_own_segments(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 10, 10);
    uint32_t gone = (uint32_t)lw_prng_below(&prng, 10), moved = 0;
    static uint32_t before[SEGMENTS][2];

    for (uint32_t i = 0; i < SEGMENTS; i++) {
        lw_segment_name_t name = name_of(i);
        assert_int_equal(lw_place(&view, &name, 2, before[i]), 2);
    }
    nodes[gone].state = LW_NODE_DOWN;
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        lw_segment_name_t name = name_of(i);
        uint32_t after[2];

        assert_int_equal(lw_place(&view, &name, 2, after), 2);
        if (before[i][0] != gone && before[i][1] != gone) {
            assert_memory_equal(before[i], after, sizeof(after));
        } else {
            uint32_t kept = before[i][0] == gone ? before[i][1] : before[i][0];
            assert_true(after[0] == kept || after[1] == kept);
            moved++;
        }
    }
    assert_in_range(moved, SEGMENTS / 5 * 9 / 10, SEGMENTS / 5 * 11 / 10); /* two replicas over ten nodes */
}

static void test_weights_are_shares_of_segments(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 5, 5);
    static const uint32_t weights[5] = {1, 2, 3, 4, 10};
    uint32_t counts[5] = {0};

    for (uint32_t i = 0; i < 5; i++) {
        nodes[i].weight = weights[i];
    }
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        lw_segment_name_t name = name_of(i);
        uint32_t position;

        assert_int_equal(lw_place(&view, &name, 1, &position), 1);
        counts[position]++;
    }
    for (uint32_t i = 0; i < 5; i++) {
        double share = weights[i] / 20.0, wanted = SEGMENTS * share;
        double deviations = (counts[i] - wanted) * (counts[i] - wanted) / (SEGMENTS * share * (1 - share));

        if (deviations > 25.0) { /* five standard deviations */
            fail_msg("weight %u: %u segments of %u, wanted %.0f", weights[i], counts[i], SEGMENTS, wanted);
        }
    }
}

static void test_layers_of_one_range_spread_over_the_nodes(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 3, 3);
    uint32_t counts[3] = {0};

    for (uint32_t layer = 0; layer < 256; layer++) {
        lw_segment_name_t name = {.origin = 5, .layer = (uint16_t)layer};
        uint32_t position;
        assert_int_equal(lw_place(&view, &name, 1, &position), 1);
        counts[position]++;
    }
    for (int i = 0; i < 3; i++) {
        assert_in_range(counts[i], 45, 130);
    }
}

static void test_replicas_are_in_distinct_zones_while_zones_last(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, 12, 3);

    for (uint32_t i = 0; i < 2000; i++) {
        lw_segment_name_t name = name_of(i);
        uint32_t position[4], zones = 0, load[3] = {0};

        assert_int_equal(lw_place(&view, &name, 3, position), 3);
        for (int r = 0; r < 3; r++) {
            zones |= 1u << position[r] % 3;
        }
        assert_int_equal(zones, 7);
        assert_int_equal(lw_place(&view, &name, 4, position), 4);
        for (int r = 0; r < 4; r++) {
            load[position[r] % 3]++;
        }
        assert_true(load[0] <= 2 && load[1] <= 2 && load[2] <= 2); /* shared evenly */
    }
}

static void test_the_largest_fleet_is_placed(void **state)
{
    lw_prng_t prng = test_prng("placement");
    lw_view_t view = view_of(&prng, LW_NODES_MAX, LW_NODES_MAX);
    lw_segment_name_t name = name_of(3);
    uint32_t position[LW_REPLICAS_MAX];

    for (uint32_t i = 0; i < LW_NODES_MAX; i++) {
        nodes[i].weight = UINT32_MAX; /* the score must not overflow */
    }
    assert_int_equal(lw_place(&view, &name, LW_REPLICAS_MAX, position), LW_REPLICAS_MAX);
}

static void place_beyond(void *arg)
{
    lw_view_t view = {.node_count = LW_NODES_MAX + 1, .nodes = nodes};
    lw_segment_name_t name = name_of(1);
    uint32_t position[LW_REPLICAS_MAX];

    lw_place(&view, &name, 1, position);
}

static void test_a_view_beyond_the_limit_is_our_mistake(void **state)
{
    assert_true(test_aborts(place_beyond, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_node_that_is_up_nothing_is_chosen),
        cmocka_unit_test(test_fewer_nodes_than_replicas_gives_each_once),
        cmocka_unit_test(test_the_answer_depends_on_ids_alone_and_not_on_their_order),
        cmocka_unit_test(test_the_answer_of_a_fixed_fleet_never_changes),
        cmocka_unit_test(test_a_node_that_leaves_moves_only_its_own_segments),
        cmocka_unit_test(test_weights_are_shares_of_segments),
        cmocka_unit_test(test_layers_of_one_range_spread_over_the_nodes),
        cmocka_unit_test(test_replicas_are_in_distinct_zones_while_zones_last),
        cmocka_unit_test(test_the_largest_fleet_is_placed),
        cmocka_unit_test(test_a_view_beyond_the_limit_is_our_mistake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
