/* test_hedge.c - replicas at reading: who is asked, who is asked second, and what becomes of the loser. Node 0 is every
 * segment's first replica, node 1 its second. */
#include <stdio.h>

#include "base/prng.h"
#include "replica_rig.h"

#define LANDING_BYTES (1u << 20)
#define SECOND 1000000ull
#define HEDGE_US 5000ull
#define RACES 400u

static rig_t rig;

static int close_rig(void **state)
{
    rig_close(&rig);
    return 0;
}

static void open_warm(uint64_t hedge_us)
{
    rig_open(&rig, 1, hedge_us, LANDING_BYTES);
    rig_warm_up(&rig);
}

/* ---- faults first ---- */

static void test_a_stopped_node_costs_the_hedge_delay(void **state)
{
    open_warm(HEDGE_US);
    rig.node[0].stopped = true;
    rig_fetch(&rig, 1, 32, 2, SECOND);
    uint64_t took_us = rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
    assert_in_range(took_us, HEDGE_US, HEDGE_US + 5 * LWC_SCAN_EVERY_US);
    lwc_store_stats_t stats = rig_stats(&rig);
    assert_int_equal(stats.hedges, 1);
    assert_int_equal(stats.hedges_won, 1);
    assert_int_equal(stats.timeouts, 0);
}

static void test_the_losers_late_answer_is_not_received(void **state)
{
    open_warm(HEDGE_US);
    rig.node[0].stopped = rig.node[0].spoils = true;
    rig_fetch(&rig, 1, 32, 2, SECOND);
    rig_finish(&rig, SECOND);
    lwc_store_stats_t before = rig_stats(&rig);
    rig.node[0].stopped = false;
    rig_run_us(&rig, 100000);
    assert_int_equal(rig.node[0].fetches, 1); /* it did answer */
    assert_int_equal(rig.node[0].cancels, 1);
    rig_check(&rig, 0); /* nothing came twice, and the records are as they were */
    assert_int_equal(rig_stats(&rig).checksum_failures, before.checksum_failures);
    assert_int_equal(rig.store->request_count, 0);
    assert_int_equal(rig.store->batch_free_count, LWC_BATCH_COUNT);
}

static void test_landing_memory_of_the_loser_is_free_at_once(void **state)
{
    rig_open(&rig, 1, HEDGE_US, 64u << 10);
    rig_warm_up(&rig);
    rig.node[0].stopped = true;
    for (int i = 0; i < 20; i++) { /* 20 times 16 KiB through 64 KiB, without the stopped node's leave */
        uint32_t first = rig_fetch(&rig, 1, 8, 32, SECOND);
        rig_finish(&rig, 100000);
        rig_check(&rig, first);
        lwc_store_release(rig.store, rig.tags);
    }
    assert_int_equal(rig.store->landing.count, 0);
}

static void test_a_stopped_node_is_asked_last_until_it_speaks(void **state)
{
    open_warm(HEDGE_US);
    rig.node[0].stopped = true;
    rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    for (int i = 0; i < 10; i++) {
        rig_fetch(&rig, 0, 8, 1, SECOND);
        assert_in_range(rig_finish(&rig, SECOND), 0, HEDGE_US - 1);
    }
    assert_int_equal(rig_stats(&rig).hedges, 1);
    rig.node[0].stopped = false;
    rig_run_us(&rig, 10000);
    uint32_t fetches = rig.node[0].fetches;
    rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    assert_int_equal(rig.node[0].fetches, fetches + 1);
    rig_check(&rig, 0);
}

static void test_a_late_node_that_owes_nothing_is_pinged(void **state)
{
    open_warm(HEDGE_US);
    lwc_peer_t *peer = rig.store->peer[0];
    peer->late = true; /* as after an answer that was given up in its middle */
    rig_run_us(&rig, 20000);
    assert_false(peer->late);
    assert_true(rig_stats(&rig).pings > 0);
    rig.node[0].stopped = peer->late = true;
    rig_run_us(&rig, LWC_SILENT_US + 100000);
    assert_int_not_equal(peer->state, LWC_PEER_READY);
}

static void test_a_hedge_that_gives_nothing_leaves_the_request_alone(void **state)
{
    for (int how = 0; how < 3; how++) {
        rig_open(&rig, 1, HEDGE_US, LANDING_BYTES);
        rig.node[1].absent = how == 0;
        rig_warm_up(&rig);
        rig.node[1].spoils = how == 1;
        rig.node[0].delay_us = 20000;
        rig_fetch(&rig, 2, 16, 3, SECOND);
        rig_run_us(&rig, 2 * HEDGE_US);
        if (how == 2) {
            lw_sim_net_crash(rig.net, "node1");
            rig.node[1].killed = true;
        }
        assert_in_range(rig_finish(&rig, SECOND), how < 2 ? 1 : 0, 20000);
        rig_check(&rig, 0);
        assert_int_equal(rig_stats(&rig).hedges, 1);
        assert_int_equal(rig_stats(&rig).hedges_won, how == 2 ? 1 : 0);
        if (how < 2)
            rig_close(&rig);
    }
}

static void test_both_replicas_silent_ends_at_the_deadline(void **state)
{
    open_warm(HEDGE_US);
    rig.node[0].stopped = rig.node[1].stopped = true;
    rig_fetch(&rig, 0, 8, 1, 50000);
    assert_in_range(rig_finish(&rig, SECOND), 50000, 52000);
    for (uint32_t tag = 0; tag < rig.tags; tag++) {
        assert_int_equal(rig.answers[tag], 1);
        assert_int_equal(rig.status[tag], LW_ERR_TIMEOUT);
    }
    rig.node[0].stopped = rig.node[1].stopped = false;
    rig_run_us(&rig, 100000);
    assert_int_equal(rig.store->request_count, 0);
    rig_fetch(&rig, 0, 8, 1, SECOND);
    rig_finish(&rig, SECOND);
    rig_check(&rig, 8);
}

static void test_a_killed_nodes_wants_go_on_at_once(void **state)
{
    open_warm(0);
    rig.node[0].delay_us = SECOND;
    rig_fetch(&rig, 3, 16, 1, SECOND);
    rig_run_us(&rig, 2000);
    lw_sim_net_crash(rig.net, "node0");
    rig.node[0].killed = true;
    assert_in_range(rig_finish(&rig, SECOND), 0, 50000);
    rig_check(&rig, 0);
}

static void test_wants_of_a_node_that_does_not_connect_move(void **state)
{
    rig_open(&rig, 1, 0, LANDING_BYTES);
    lw_sim_net_partition(rig.net, "client", "node0", true);
    rig_fetch(&rig, 0, 16, 1, SECOND);
    assert_in_range(rig_finish(&rig, SECOND), 0, 20000);
    rig_check(&rig, 0);
    assert_int_equal(rig_stats(&rig).reroutes, 16);
    assert_int_equal(rig_stats(&rig).hedges, 0);
}

static void test_wants_of_a_node_that_does_not_attach_move(void **state)
{
    rig_open(&rig, 1, HEDGE_US, LANDING_BYTES);
    rig.node[0].deaf_to_attach = true;
    rig_fetch(&rig, 0, 16, 1, SECOND);
    assert_in_range(rig_finish(&rig, SECOND), HEDGE_US, HEDGE_US + 20000);
    rig_check(&rig, 0);
    assert_int_equal(rig_stats(&rig).hedges, 0);
}

static void test_without_hedging_a_stopped_node_costs_its_silence(void **state)
{
    open_warm(0);
    rig.node[0].stopped = true;
    rig_fetch(&rig, 0, 8, 1, 5 * SECOND);
    assert_in_range(rig_finish(&rig, 5 * SECOND), LWC_SILENT_US, LWC_SILENT_US + 200000);
    rig_check(&rig, 0);
    assert_int_equal(rig_stats(&rig).hedges, 0);
}

static void read_done(void *arg, lw_status_t status)
{
    *(lw_status_t *)arg = status;
}

static void test_a_read_goes_on_with_the_connected_replica(void **state)
{
    static uint8_t into[4096];
    uint64_t bytes = 0;
    lw_status_t status = LW_INPROGRESS;
    rig_open(&rig, 1, 0, LANDING_BYTES);
    lw_sim_net_partition(rig.net, "client", "node0", true);
    assert_int_equal(lwc_store_read(rig.store, 1, 0, 0, into, sizeof(into), &bytes, rig.now_us + SECOND, read_done, &status),
                     LW_OK);
    rig_run_us(&rig, 50000);
    assert_int_equal(status, LW_OK);
    assert_int_equal(bytes, sizeof(into));
    assert_int_equal(rig.node[1].reads, 1);
}

static void test_a_put_to_a_node_that_is_down_ends_before_its_deadline(void **state)
{
    static _Alignas(64) uint8_t extent[4096];
    static const uint16_t nodes[] = {1, 0};
    lw_status_t status = LW_INPROGRESS;
    lw_error_t error;
    rig_open(&rig, 1, 0, LANDING_BYTES);
    ((lw_segment_header_t *)extent)->bytes = sizeof(extent);
    lw_sim_net_partition(rig.net, "client", "node0", true);
    assert_int_equal(lwc_store_put(rig.store, 0, extent, sizeof(extent), nodes, 2, rig.now_us + SECOND, read_done, &status),
                     LW_OK);
    rig.node[1].stopped = true;
    rig_run_us(&rig, 100000);
    assert_int_equal(status, LW_INPROGRESS); /* a node that does not answer may yet */
    rig.rows[0].state = LW_NODE_DOWN;
    assert_int_equal(lwc_store_set_view(rig.store, &rig.view, &error), LW_OK);
    rig_run_us(&rig, 10000);
    assert_int_equal(status, LW_ERR_UNREACHABLE);
}

/* ---- who is asked ---- */

static void test_an_idle_fleet_is_asked_in_the_manifests_order(void **state)
{
    open_warm(LWC_HEDGE_AUTO);
    for (int i = 0; i < 50; i++) {
        rig_fetch(&rig, (uint32_t)i % RIG_SEGMENTS, 16, 1, SECOND);
        rig_finish(&rig, SECOND);
    }
    rig_check(&rig, 0);
    assert_int_equal(rig.node[0].fetches, 50);
    assert_int_equal(rig.node[1].fetches, 0);
    assert_int_equal(rig_stats(&rig).hedges, 0);
}

static void test_a_loaded_replica_is_passed_over(void **state)
{
    open_warm(0);
    rig.node[0].delay_us = 100000;
    rig_fetch(&rig, 0, 400, 32, SECOND); /* 800 KiB: more than the slack */
    rig_run_us(&rig, 1000);
    assert_int_equal(rig.node[1].fetches, 1); /* what is over the slack went there at once */
    uint32_t first = rig_fetch(&rig, 0, 16, 32, SECOND);
    rig_run_us(&rig, 20000);
    for (uint32_t tag = first; tag < rig.tags; tag++)
        assert_int_equal(rig.answers[tag], 1);
    assert_int_equal(rig.answers[0], 0); /* the first fetch is still with node 0 */
    rig_finish(&rig, SECOND);
    rig_check(&rig, 0);
    assert_int_equal(rig.store->peer[0]->load_bytes + rig.store->peer[1]->load_bytes, 0);
}

/* ---- how much ---- */

static void test_hedges_stay_within_their_budget(void **state)
{
    open_warm(LWC_SCAN_EVERY_US);
    rig.node[0].delay_us = rig.node[1].delay_us = 4000; /* every answer is late */
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t tag = rig_fetch(&rig, 0, 1, 1, SECOND);
        rig_finish(&rig, SECOND);
        rig_check(&rig, tag);
        lwc_store_release(rig.store, rig.tags);
    }
    lwc_store_stats_t stats = rig_stats(&rig);
    assert_in_range(stats.hedges, 40, LWC_HEDGE_CREDIT_FIRST / LWC_HEDGE_COST + 1000 / LWC_HEDGE_COST);
    assert_true(stats.hedges_denied > 0);
    assert_int_equal(stats.fetch_requests, 1000 + stats.hedges);
}

static void test_the_delay_follows_what_answers_took(void **state)
{
    rig_open(&rig, 1, LWC_HEDGE_AUTO, LANDING_BYTES);
    lwc_peer_t *peer = rig.store->peer[2];
    assert_int_equal(lwc_late_after_us(peer), LWC_HEDGE_FIRST_US);
    for (uint32_t i = 0; i < LWC_LATENCY_SAMPLES; i++)
        lwc_latency_add(&peer->latency, i == 7 ? 90000 : 3000 + i);
    assert_int_equal(lwc_late_after_us(peer), 3000 + LWC_LATENCY_SAMPLES - 1); /* one of 128 is beyond */
    for (uint32_t i = 0; i < LWC_LATENCY_SAMPLES; i++)
        lwc_latency_add(&peer->latency, 10);
    assert_int_equal(lwc_late_after_us(peer), LWC_HEDGE_MIN_US);
    for (uint32_t i = 0; i < LWC_LATENCY_SAMPLES; i++)
        lwc_latency_add(&peer->latency, UINT64_MAX);
    assert_int_equal(lwc_late_after_us(peer), LWC_HEDGE_MAX_US);
}

/* Two replicas answer at random times, and all that is hedged races: every record once, and right. */
static void test_races_answer_each_want_once(void **state)
{
    const char *text = getenv("LW_TEST_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : lw_clock_real()->unix_us(NULL);
    lw_prng_t prng;
    printf("races: LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    rig_open(&rig, seed, 1, 256u << 10);
    lw_sim_faults_t faults = {.delay_min_us = 20, .delay_max_us = 1500};
    lw_sim_net_faults(rig.net, &faults);
    for (uint32_t i = 0; i < RACES; i++) {
        rig.store->hedge_credit = LWC_HEDGE_CREDIT_MAX;
        for (uint32_t n = 0; n < 2; n++) {
            rig.node[n].delay_us = lw_prng_below(&prng, 3000);
            rig.node[n].spoils = lw_prng_below(&prng, 8) == 0;
            rig.node[n].stopped = lw_prng_below(&prng, 16) == 0;
        }
        if (rig.node[0].spoils || rig.node[0].stopped) /* one copy stays good */
            rig.node[1].spoils = rig.node[1].stopped = false;
        uint32_t first = rig_fetch(&rig, (uint32_t)lw_prng_below(&prng, RIG_SEGMENTS), 1 + (uint32_t)lw_prng_below(&prng, 16),
                                   1 + (uint32_t)lw_prng_below(&prng, 40), 4 * SECOND);
        rig_finish(&rig, 4 * SECOND);
        rig_check(&rig, first);
        if (lw_prng_below(&prng, 3) == 0)
            lwc_store_release(rig.store, rig.tags);
        else if (rig.tags > first)
            lwc_store_release(rig.store, first);
    }
    rig.node[0].stopped = rig.node[1].stopped = false;
    lwc_store_release(rig.store, rig.tags);
    rig_run_us(&rig, SECOND);
    assert_true(rig_stats(&rig).hedges_won > 0);
    assert_int_equal(rig.store->request_count, 0);
    assert_int_equal(rig.store->batch_free_count, LWC_BATCH_COUNT);
    assert_int_equal(rig.store->landing.count, 0);
    assert_int_equal(rig.store->peer[0]->load_bytes + rig.store->peer[1]->load_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_stopped_node_costs_the_hedge_delay, close_rig),
        cmocka_unit_test_teardown(test_the_losers_late_answer_is_not_received, close_rig),
        cmocka_unit_test_teardown(test_landing_memory_of_the_loser_is_free_at_once, close_rig),
        cmocka_unit_test_teardown(test_a_stopped_node_is_asked_last_until_it_speaks, close_rig),
        cmocka_unit_test_teardown(test_a_late_node_that_owes_nothing_is_pinged, close_rig),
        cmocka_unit_test_teardown(test_a_hedge_that_gives_nothing_leaves_the_request_alone, close_rig),
        cmocka_unit_test_teardown(test_both_replicas_silent_ends_at_the_deadline, close_rig),
        cmocka_unit_test_teardown(test_a_killed_nodes_wants_go_on_at_once, close_rig),
        cmocka_unit_test_teardown(test_wants_of_a_node_that_does_not_connect_move, close_rig),
        cmocka_unit_test_teardown(test_wants_of_a_node_that_does_not_attach_move, close_rig),
        cmocka_unit_test_teardown(test_without_hedging_a_stopped_node_costs_its_silence, close_rig),
        cmocka_unit_test_teardown(test_a_read_goes_on_with_the_connected_replica, close_rig),
        cmocka_unit_test_teardown(test_a_put_to_a_node_that_is_down_ends_before_its_deadline, close_rig),
        cmocka_unit_test_teardown(test_an_idle_fleet_is_asked_in_the_manifests_order, close_rig),
        cmocka_unit_test_teardown(test_a_loaded_replica_is_passed_over, close_rig),
        cmocka_unit_test_teardown(test_hedges_stay_within_their_budget, close_rig),
        cmocka_unit_test_teardown(test_the_delay_follows_what_answers_took, close_rig),
        cmocka_unit_test_teardown(test_races_answer_each_want_once, close_rig),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
