/* test_refresh.c - segments that are elsewhere: when the store asks for their manifest, what it does with the answer, and with
 * none. Every segment is on nodes 0 and 1 at first; the test is the reader of manifests. */
#include <stdio.h>

#include "base/clock.h"
#include "base/prng.h"
#include "replica_rig.h"

#define LANDING_BYTES (1u << 20)
#define SECOND 1000000ull
#define HEDGE_US 5000ull

static rig_t rig;
static lwc_refresh_t mail;
static lwc_refresh_cell_t cells[RIG_SESSIONS];
#define cell cells[0]
static lwc_place_t places[RIG_SEGMENTS];
static uint16_t nodes[RIG_SEGMENTS][LW_REPLICAS_MAX];

static int close_rig(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static void open_rig(void)
{
    memset(cells, 0, sizeof(cells));
    mail = (lwc_refresh_t){.session_capacity = RIG_SESSIONS, .layers = 1, .cells = cells};
    cell.places = places;
    cell.nodes = &nodes[0][0];
    rig_open_refresh(&rig, 1, HEDGE_US, LANDING_BYTES, &mail);
}

static bool asked(void)
{
    return atomic_load(&cell.state) == LWC_REFRESH_ASKED;
}

static void wait_for_question(uint64_t us)
{
    for (uint64_t end_us = rig.now_us + us; !asked() && rig.now_us < end_us;)
        rig_run_us(&rig, RIG_TICK_US);
    assert_true(asked());
}

static void answer(lw_status_t status)
{
    assert_true(asked());
    cell.status = status;
    atomic_store(&cell.state, LWC_REFRESH_ANSWERED);
}

/* The manifest without the keys of `vanished`: everything is on these two nodes. */
static void answer_nodes(uint16_t first, uint16_t second, uint32_t vanished)
{
    cell.count = 0;
    for (uint32_t key = 0; key < RIG_SEGMENTS; key++) {
        lw_segment_name_t name = rig_name(key);
        if (vanished >> key & 1)
            continue;
        places[cell.count] = (lwc_place_t){name.origin, name.first_token, name.generation, 2};
        nodes[cell.count][0] = first;
        nodes[cell.count++][1] = second;
    }
    answer(LW_OK);
}

static void free_copies(bool on_0, bool on_1)
{
    rig.node[0].absent = on_0;
    rig.node[1].absent = on_1;
}

static void assert_all(lw_status_t status)
{
    for (uint32_t tag = 0; tag < rig.tags; tag++) {
        assert_int_equal(rig.answers[tag], 1);
        assert_int_equal(rig.status[tag], status);
    }
}

static void assert_nothing_left(void)
{
    assert_int_equal(rig.store->batch_free_count, LWC_BATCH_COUNT);
    for (uint32_t i = 0; i < RIG_NODES; i++)
        assert_int_equal(rig.store->peer[i]->load_bytes, 0);
}

/* ---- faults first ---- */

static void test_without_an_answer_wants_end_at_their_deadline(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_fetch(&rig, 0, 8, 1, SECOND / 2);
    uint64_t took_us = rig_finish(&rig, SECOND);
    assert_in_range(took_us, SECOND / 2 - 1000, SECOND / 2 + 5000);
    assert_all(LW_ERR_TIMEOUT);
    assert_true(asked());
    assert_nothing_left();
}

static void test_a_control_plane_that_is_away_is_asked_twice_a_second_at_most(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_fetch(&rig, 0, 8, 1, 5 * SECOND);
    for (uint64_t end_us = rig.now_us + 4 * SECOND; rig.now_us < end_us; rig_run_us(&rig, RIG_TICK_US))
        if (asked())
            answer(LW_ERR_UNREACHABLE);
    assert_in_range(rig_stats(&rig).refreshes, 4, 10);
    assert_int_equal(lwc_store_wants_in_flight(rig.store), 8);
    wait_for_question(2 * SECOND); /* and then it is back */
    answer_nodes(2, 1, 0);
    rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
}

static void test_an_unchanged_manifest_means_that_the_records_are_lost(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_fetch(&rig, 0, 8, 1, 20 * SECOND);
    for (uint64_t begin_us = rig.now_us; lwc_store_wants_in_flight(rig.store) > 0; rig_run_us(&rig, RIG_TICK_US)) {
        assert_true(rig.now_us < begin_us + 3 * SECOND);
        if (asked())
            answer_nodes(0, 1, 0);
    }
    assert_all(LW_ERR_SESSION_LOST);
    assert_nothing_left();
}

static void test_a_session_that_is_no_more_is_lost(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_run_us(&rig, 1000);
    rig_fetch(&rig, 0, 8, 1, 20 * SECOND);
    wait_for_question(SECOND);
    answer(LW_ERR_NOT_FOUND);
    rig_run_us(&rig, 10000);
    assert_all(LW_ERR_SESSION_LOST);
    assert_non_null(strstr(lwc_store_last_error(rig.store), "dropped or evicted"));
    rig_fetch(&rig, 1, 1, 1, SECOND); /* later ones are told at once */
    assert_all(LW_ERR_SESSION_LOST);
}

static void test_only_the_vanished_range_is_lost(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_run_us(&rig, 1000);
    uint32_t lost = rig_fetch(&rig, 0, 1, 1, 20 * SECOND), moved = rig_fetch(&rig, 1, 1, 1, 20 * SECOND);
    wait_for_question(SECOND);
    rig_run_us(&rig, 10000);
    answer_nodes(2, 1, 1u << 0);
    for (uint64_t begin_us = rig.now_us; lwc_store_wants_in_flight(rig.store) > 0; rig_run_us(&rig, RIG_TICK_US)) {
        assert_true(rig.now_us < begin_us + 3 * SECOND);
        if (asked())
            answer_nodes(2, 1, 1u << 0);
    }
    assert_int_equal(rig.status[lost], LW_ERR_SESSION_LOST);
    assert_int_equal(rig.status[moved], LW_OK);
}

static void test_an_answer_for_the_slots_last_session_changes_nothing(void **state)
{
    const uint16_t where[] = {0, 1};
    uint8_t token[LW_TOKEN_BYTES] = {2};
    (void)state;
    open_rig();
    free_copies(true, true);
    rig_fetch(&rig, 0, 4, 1, SECOND / 4);
    wait_for_question(SECOND);
    rig_finish(&rig, SECOND);
    lwc_store_session_forget(rig.store, 0);
    assert_int_equal(lwc_store_session(rig.store, 0, 99, token, false, 0), LW_OK);
    lw_segment_name_t name = rig_name(0);
    lwc_store_segment_forget(rig.store, 0);
    assert_int_equal(lwc_store_segment(rig.store, 0, 0, &name, RIG_ROW_BYTES, where, 2), LW_OK);
    answer(LW_ERR_NOT_FOUND);
    rig_run_us(&rig, 10000);
    free_copies(false, false);
    rig_run_us(&rig, 2 * SECOND);
    uint32_t first = rig_fetch(&rig, 0, 1, 1, SECOND);
    rig_finish(&rig, SECOND);
    rig_check(&rig, first);
}

/* ---- moved ---- */

static void test_freed_copies_are_fetched_from_where_they_went(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, true);
    for (uint32_t key = 0; key < RIG_SEGMENTS; key++)
        rig_fetch(&rig, key, 16, 2, 5 * SECOND);
    for (uint64_t end_us = rig.now_us + 3 * SECOND; rig.now_us < end_us && lwc_store_wants_in_flight(rig.store) > 0;
         rig_run_us(&rig, RIG_TICK_US))
        if (asked())
            answer_nodes(2, 1, 0);
    rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
    assert_int_equal(rig_stats(&rig).segments_moved, RIG_SEGMENTS);
    assert_nothing_left();
}

static void test_one_freed_copy_is_noticed_without_a_failure(void **state)
{
    (void)state;
    open_rig();
    free_copies(true, false);
    rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
    wait_for_question(SECOND);
    answer_nodes(2, 1, 0);
    rig_run_us(&rig, 10000);
    assert_int_equal(rig.store->segments[0].replica[0].node_index, 2);
    assert_int_equal(rig.store->segments[0].replica[1].node_index, 1);
    rig.node[1].absent = true;
    rig.node[1].killed = true;
    lw_sim_net_crash(rig.net, "node1");
    uint32_t first = rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    rig_check(&rig, first);
}

static void test_wants_that_wait_for_dead_nodes_move(void **state)
{
    (void)state;
    open_rig();
    rig_warm_up(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        char host[16];
        snprintf(host, sizeof(host), "node%u", i);
        rig.node[i].killed = true;
        lw_sim_net_crash(rig.net, host);
    }
    rig_fetch(&rig, 0, 8, 1, 5 * SECOND);
    wait_for_question(4 * SECOND);
    answer_nodes(2, 1, 0);
    rig_finish(&rig, 2 * SECOND);
    rig_check(&rig, 0);
}

static void test_a_replica_that_stays_keeps_its_handle(void **state)
{
    (void)state;
    open_rig();
    rig_warm_up(&rig);
    const uint16_t other[] = {1, 2};
    uint32_t version = rig.store->segments[0].version;
    assert_true(lwc_segment_move(rig.store, 0, other, 2));
    const lwc_segment_t *segment = &rig.store->segments[0];
    assert_int_equal(segment->replica[0].node_index, 2); /* in the place of the one that left */
    assert_int_equal(segment->replica[0].state, LWC_DETACHED);
    assert_int_equal(segment->replica[1].node_index, 1);
    assert_int_equal(segment->replica[1].state, LWC_ATTACHED);
    assert_int_equal(segment->version, version + 1);
    const uint16_t same[] = {2, 1}, one[] = {1};
    assert_false(lwc_segment_move(rig.store, 0, same, 2)); /* order means nothing */
    assert_true(lwc_segment_move(rig.store, 0, one, 1));
    assert_int_equal(segment->replica[0].node_index, 1);
    assert_int_equal(segment->replica_count, 1);
    rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
}

static void read_done(void *arg, lw_status_t status)
{
    *(lw_status_t *)arg = status;
}

static void test_a_read_goes_where_the_segment_went(void **state)
{
    static uint8_t into[4096];
    lw_status_t status = LW_INPROGRESS;
    (void)state;
    open_rig();
    free_copies(true, true);
    assert_int_equal(lwc_store_read(rig.store, 0, 0, sizeof(into), into, sizeof(into), NULL, rig.now_us + 5 * SECOND,
                                    read_done, &status), LW_OK);
    for (uint64_t end_us = rig.now_us + 3 * SECOND; rig.now_us < end_us && status == LW_INPROGRESS;
         rig_run_us(&rig, RIG_TICK_US))
        if (asked())
            answer_nodes(2, 1, 0);
    assert_int_equal(status, LW_OK);
    assert_int_equal(rig.node[2].reads, 1);
}

static void test_a_changed_fleet_is_followed_until_nothing_moves(void **state)
{
    uint32_t questions = 0;
    lw_error_t error;
    (void)state;
    open_rig();
    rig_warm_up(&rig);
    rig.view.epoch = 2;
    assert_int_equal(lwc_store_set_view(rig.store, &rig.view, &error), LW_OK);
    for (uint64_t end_us = rig.now_us + 100 * SECOND; rig.now_us < end_us; rig_run_us(&rig, 10 * RIG_TICK_US))
        if (asked()) {
            questions++;
            answer_nodes(questions < 2 ? 0 : 2, 1, 0); /* the second answer has news */
        }
    assert_in_range(questions, 7, 9); /* after 1, 2; then 1, 2, 4, 8, 16, 32 s */
    assert_int_equal(rig.store->segments[3].replica[0].node_index, 2);
}

/* Segments move while they are fetched, to where they are: each want is answered once, with its true bytes. */
/* Two handles of one session in one process: the answer for the second is about its own row. */
static void test_an_answer_is_for_the_rows_of_its_own_handle(void **state)
{
    const uint8_t token[LW_TOKEN_BYTES] = {1};
    const uint16_t at_first[] = {0, 1};
    const lw_segment_name_t name = rig_name(0);
    (void)state;
    open_rig();
    assert_int_equal(lwc_store_session(rig.store, 1, 1, token, false, 0), LW_OK);
    assert_int_equal(lwc_store_segment(rig.store, 3, 1, &name, RIG_ROW_BYTES, at_first, 2), LW_OK);
    rig_run_us(&rig, RIG_TICK_US);
    rig.store->refreshes[1].wanted = true;
    for (uint64_t end_us = rig.now_us + SECOND; rig.now_us < end_us && atomic_load(&cells[1].state) != LWC_REFRESH_ASKED;)
        rig_run_us(&rig, RIG_TICK_US);
    assert_int_equal(atomic_load(&cells[1].state), LWC_REFRESH_ASKED);
    places[0] = (lwc_place_t){name.origin, name.first_token, name.generation, 2};
    nodes[0][0] = 2;
    nodes[0][1] = 1;
    cells[1].places = places;
    cells[1].nodes = &nodes[0][0];
    cells[1].count = 1;
    cells[1].status = LW_OK;
    atomic_store(&cells[1].state, LWC_REFRESH_ANSWERED);
    rig_run_us(&rig, SECOND / 10);
    assert_int_equal(atomic_load(&cells[1].state), LWC_REFRESH_IDLE);
    assert_false(rig.store->segments[3].gone);
    assert_int_equal(rig.store->segments[3].replica[0].node_index, 2);
    assert_int_equal(rig.store->segments[0].replica[0].node_index, 0);
}

static void test_moves_race_with_fetches(void **state)
{
    const char *given = getenv("LW_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    lw_prng_t prng;
    (void)state;
    printf("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    open_rig();
    for (uint32_t i = 0; i < 400; i++) {
        for (uint32_t n = 0; n < RIG_NODES; n++)
            rig.node[n].delay_us = lw_prng_below(&prng, 8) * 1000;
        uint16_t first = (uint16_t)lw_prng_below(&prng, RIG_NODES), second = (uint16_t)((first + 1) % RIG_NODES);
        const uint16_t to[] = {first, second};
        (void)lwc_segment_move(rig.store, (uint32_t)lw_prng_below(&prng, RIG_SEGMENTS), to,
                               1 + (uint32_t)lw_prng_below(&prng, 2));
        rig_fetch(&rig, (uint32_t)lw_prng_below(&prng, RIG_SEGMENTS), 1 + (uint32_t)lw_prng_below(&prng, 8), 1, 5 * SECOND);
        rig_run_us(&rig, lw_prng_below(&prng, 6000));
        if (lwc_store_wants_in_flight(rig.store) == 0)
            lwc_store_release(rig.store, rig.tags);
    }
    rig_finish(&rig, 10 * SECOND);
    for (uint32_t tag = 0; tag < rig.tags; tag++) {
        assert_int_equal(rig.answers[tag], 1);
        assert_int_equal(rig.status[tag], LW_OK);
    }
    rig_run_us(&rig, SECOND);
    assert_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_without_an_answer_wants_end_at_their_deadline, close_rig),
        cmocka_unit_test_teardown(test_a_control_plane_that_is_away_is_asked_twice_a_second_at_most, close_rig),
        cmocka_unit_test_teardown(test_an_unchanged_manifest_means_that_the_records_are_lost, close_rig),
        cmocka_unit_test_teardown(test_a_session_that_is_no_more_is_lost, close_rig),
        cmocka_unit_test_teardown(test_only_the_vanished_range_is_lost, close_rig),
        cmocka_unit_test_teardown(test_an_answer_for_the_slots_last_session_changes_nothing, close_rig),
        cmocka_unit_test_teardown(test_freed_copies_are_fetched_from_where_they_went, close_rig),
        cmocka_unit_test_teardown(test_one_freed_copy_is_noticed_without_a_failure, close_rig),
        cmocka_unit_test_teardown(test_wants_that_wait_for_dead_nodes_move, close_rig),
        cmocka_unit_test_teardown(test_a_replica_that_stays_keeps_its_handle, close_rig),
        cmocka_unit_test_teardown(test_a_read_goes_where_the_segment_went, close_rig),
        cmocka_unit_test_teardown(test_a_changed_fleet_is_followed_until_nothing_moves, close_rig),
        cmocka_unit_test_teardown(test_an_answer_is_for_the_rows_of_its_own_handle, close_rig),
        cmocka_unit_test_teardown(test_moves_race_with_fetches, close_rig),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
