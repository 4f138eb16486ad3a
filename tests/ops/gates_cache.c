/* gates_cache.c - placement: who is admitted, who is evicted, what happens when tickets or pages run out,
 * when a fetch fails or is late, with prefetch, and after a retire. */
#include "ops/gates_private.h"

#include <stdlib.h>

#include "kernels/view.h"

static ops_config_t cache_config(void)
{
    ops_config_t config = gates_config();
    config.admit_window = 4;
    config.outlier_ppm = 60000;
    config.policy.retrieve_ppm = 60000;
    return config;
}

/* Both layers, with one admit; errors of the step go to the caller. */
static void step(ops_rig_t *rig)
{
    for (uint32_t layer = 0; layer < rig->config.shape.layer_count; layer++) {
        ops_query(rig, layer);
        assert_int_equal(ops_step(rig, layer), LW_OK);
    }
}

/* Every page is either on the free list or owned by the cached entry that points back to it. */
static void check_pages(ops_rig_t *rig)
{
    lwk_store_t store;
    ops_get(rig, &store, rig->store, sizeof store);
    uint32_t per_row = store.shape.layer_count * store.shape.kv_head_count;
    uint32_t owned[2] = {0, 0};
    for (uint32_t i = 0; i < rig->range_count * per_row; i++) {
        const ops_part_t *part = &rig->ranges[i / per_row].parts[i % per_row];
        uint32_t entries = part->cluster_count + part->outlier_count,
                 *place = malloc(entries * sizeof *place);
        ops_get(rig, place, part->tile.place, entries * sizeof *place);
        for (uint32_t e = 0; e < entries; e++) {
            assert_int_not_equal(lwk_place_kind(place[e]), LWK_PLACE_PENDING);
            if (lwk_place_kind(place[e]) != LWK_PLACE_CACHED)
                continue;
            uint32_t which = e < part->cluster_count ? 0 : 1;
            uint32_t count = which == 0 ? lwk_cluster_pages(part->sizes[e]) : 1;
            for (uint32_t k = 0; k < count; k++) {
                uint32_t page = lwk_place_number(place[e]);
                uint16_t base = 0;
                if (which == 0) {
                    ops_get(rig, &base, part->tile.page_base + e, sizeof base);
                    ops_get(rig, &page, part->tile.pages + base + k, sizeof page);
                }
                lwk_page_owner_t owner;
                ops_get(rig, &owner, store.pages[which].owner + page, sizeof owner);
                assert_int_equal(owner.tile, rig->ranges[i / per_row].row * per_row + i % per_row);
                assert_int_equal(owner.entry, e);
            }
            owned[which] += count;
        }
        free(place);
    }
    for (int which = 0; which < 2; which++)
        assert_int_equal(owned[which] + store.pages[which].free_count, store.pages[which].count);
}

static void test_first_touch_is_not_admitted_and_second_is(void **state)
{
    ops_config_t config = cache_config();
    config.policy = ops_policy_full(); /* the same entries at every step */
    ops_rig_t *rig = gates_rig(&config, 500, 70);
    step(rig);
    assert_int_equal(rig->counters->admitted, 0);
    uint64_t misses = rig->counters->misses;
    assert_true(misses > 0);
    step(rig);
    assert_int_equal(rig->counters->misses, 2 * misses);
    assert_int_equal(rig->counters->admitted, misses);
    check_pages(rig);
    step(rig);
    assert_int_equal(rig->counters->misses, 2 * misses);
    assert_int_equal(rig->counters->hits, misses);
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5)); /* all from pages */
    ops_rig_destroy(rig);
}

static void test_a_touch_outside_the_window_is_a_first_one(void **state)
{
    ops_config_t config = cache_config();
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 300, 70);
    lwk_policy_t full = config.policy, none = config.policy;
    none.retrieve_ppm = 0;
    step(rig);
    ops_set_policy(rig, 0, &none);
    for (int i = 0; i < 4; i++)
        step(rig);
    ops_set_policy(rig, 0, &full);
    step(rig); /* five steps later; the window is four */
    assert_int_equal(rig->counters->admitted, 0);
    step(rig);
    assert_true(rig->counters->admitted > 0);
    ops_rig_destroy(rig);
}

static void test_a_small_cache_stays_correct_while_it_evicts(void **state)
{
    ops_config_t config = cache_config();
    config.admit_window = 0;
    config.page_count[0] = 24;
    config.page_count[1] = 10;
    ops_rig_t *rig = gates_rig(&config, 1500, 80);
    for (int round = 0; round < 12; round++) {
        step(rig);
        check_pages(rig);
        assert_true(ops_gate_zero_query(rig, false));
    }
    assert_true(rig->counters->evicted > 0);
    assert_true(rig->counters->admitted > rig->counters->evicted);
    assert_int_equal(*rig->ticket_head, *rig->ticket_tail);
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    for (int round = 0; round < 3; round++)
        assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    assert_true(rig->counters->admit_refused > 0); /* everything is in use: nothing may be evicted */
    check_pages(rig);
    ops_rig_destroy(rig);
}

static void test_no_cache_at_all_works(void **state)
{
    ops_config_t config = cache_config();
    config.admit_window = 0;
    config.page_count[0] = config.page_count[1] = UINT32_MAX;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 300, 70);
    for (int round = 0; round < 2; round++)
        assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    assert_int_equal(rig->counters->hits, 0);
    assert_int_equal(rig->counters->admitted, 0);
    ops_rig_destroy(rig);
}

/* Steps, evictions and all, with entries that are wanted at every step: those must not be the victims. */
static void test_what_is_wanted_at_every_step_stays(void **state)
{
    ops_config_t config = cache_config();
    config.admit_window = 48;
    config.data = OPS_DATA_SYNTH;
    config.page_count[0] = 160;
    config.page_count[1] = 60;
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    for (int round = 0; round < 40; round++)
        step(rig);
    check_pages(rig);
    assert_true(rig->counters->evicted > 0);
    assert_true(rig->counters->hits > rig->counters->misses / 4);
    ops_rig_destroy(rig);
}

static void test_a_failed_fetch_is_the_sessions_error(void **state)
{
    ops_config_t config = cache_config();
    config.admit_window = 0;
    ops_rig_t *rig = gates_rig(&config, 600, 70);
    rig->fail_ticket = 1;
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(ops_session(rig, 0).error, LW_ERR_SESSION_LOST);
    ops_query(rig, 1);
    assert_int_equal(ops_step(rig, 1), LW_OK);
    assert_int_equal(ops_session(rig, 0).error, LW_ERR_SESSION_LOST); /* stays until the next step */
    assert_int_equal(rig->counters->tickets_failed, 1);
    assert_int_equal(*rig->ticket_head, *rig->ticket_tail);
    check_pages(rig);
    rig->fail_ticket = UINT64_MAX;
    assert_true(ops_gate_zero_query(rig, false)); /* and the next step is whole again */
    assert_int_equal(ops_session(rig, 0).error, 0);
    ops_rig_destroy(rig);
}

static void test_a_late_fetch_is_a_timeout(void **state)
{
    ops_config_t config = cache_config();
    ops_rig_t *rig = gates_rig(&config, 600, 70);
    rig->drop_ticket = 0;
    ops_query(rig, 0);
    lwk_step_t args = ops_step_args(rig, 0);
    args.wait_us = 1000;
    ops_load_step(rig, 0);
    const lwk_backend_t *b = rig->backend;
    assert_int_equal(b->prepare(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->score(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->select(rig->dev, &args, NULL), LW_OK);
    ops_answer(rig);
    assert_int_equal(b->attend(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->finish(rig->dev, &args, NULL), LW_OK);
    ops_read_step(rig);
    assert_int_equal(ops_session(rig, 0).error, LW_ERR_TIMEOUT);
    assert_int_equal(ops_admit(rig), LW_OK);
    assert_int_equal(*rig->ticket_tail, 0); /* nothing is released past an open ticket */
    ops_rig_destroy(rig);
}

static void test_a_full_ticket_ring_falls_back_to_the_estimate_and_says_so(void **state)
{
    ops_config_t config = cache_config();
    config.ticket_capacity = 4;
    config.policy.retrieve_ppm = 500000;
    config.admit_window = 0;
    config.outlier_ppm = 0;
    ops_rig_t *rig = gates_rig(&config, 900, 70);
    ops_query_zero(rig);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(ops_session(rig, 0).error, LW_ERR_EXHAUSTED);
    assert_int_equal(*rig->ticket_head, 4);
    assert_true(ops_errors(rig, 0).lse < 2e-5); /* nothing is lost: what has no ticket is estimated */
    assert_true(ops_errors(rig, 0).out < 2e-5);
    assert_int_equal(ops_admit(rig), LW_OK);
    assert_int_equal(*rig->ticket_tail, 4);
    ops_rig_destroy(rig);
}

static void test_ticket_numbers_outlive_their_thirty_bits(void **state)
{
    ops_config_t config = cache_config();
    config.ticket_capacity = 2048;
    config.admit_window = 0;
    config.page_count[0] = config.page_count[1] = 2; /* so that every step misses */
    ops_rig_t *rig = gates_rig(&config, 600, 70);
    *rig->ticket_head = *rig->ticket_tail = rig->answered = (1ull << 32) - 20;
    for (int round = 0; round < 8; round++)
        assert_true(ops_gate_zero_query(rig, false));
    assert_true(*rig->ticket_head > 1ull << 32);
    *rig->ticket_head = *rig->ticket_tail = rig->answered = (5ull << 30) - 20;
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    assert_int_equal(*rig->ticket_head, *rig->ticket_tail);
    check_pages(rig);
    ops_rig_destroy(rig);
}

static void prefetch(ops_rig_t *rig, uint32_t layer)
{
    lwk_step_t args = ops_step_args(rig, layer);
    args.flags = LWK_STEP_PREFETCH;
    ops_load_step(rig, layer);
    assert_int_equal(rig->backend->prepare(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(rig->backend->score(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(rig->backend->select(rig->dev, &args, NULL), LW_OK);
    (void)ops_session(rig, 0); /* a copy waits for the op */
    ops_answer(rig);
}

static void test_prefetched_entries_are_pending_for_the_step_itself(void **state)
{
    ops_config_t config = cache_config();
    config.shape.layer_count = 1;
    ops_rig_t *rig = gates_rig(&config, 900, 70);
    ops_query(rig, 0);
    prefetch(rig, 0);
    assert_int_equal(ops_session(rig, 0).token_count, 970); /* nothing was appended */
    uint64_t issued = *rig->ticket_head;
    assert_true(issued > 0);
    assert_true(rig->tickets[0].flags & LWK_TICKET_PREFETCH);
    assert_int_equal(rig->counters->head_steps, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(rig->counters->pending, issued);
    assert_int_equal(rig->counters->misses, 0);
    assert_int_equal(rig->counters->admitted, 0); /* a guess is not a touch */
    assert_int_equal(*rig->ticket_tail, issued);
    ops_rig_destroy(rig);
}

static void test_an_open_prefetch_is_released_by_a_later_step(void **state)
{
    ops_config_t config = cache_config();
    config.shape.layer_count = 1;
    ops_rig_t *rig = gates_rig(&config, 900, 70);
    rig->hold_prefetch = true;
    ops_query(rig, 0);
    prefetch(rig, 0);
    uint64_t issued = *rig->ticket_head;
    lwk_policy_t policy = ops_policy(), none = policy;
    none.retrieve_ppm = 0;
    ops_set_policy(rig, 0, &none);
    assert_true(ops_gate_zero_query(rig, false)); /* does not want them: nothing to wait for */
    assert_int_equal(*rig->ticket_tail, 0);
    rig->hold_prefetch = false;
    rig->answered = 0;
    ops_answer(rig);
    assert_true(ops_gate_zero_query(rig, false));
    assert_int_equal(*rig->ticket_tail, issued);
    check_pages(rig);
    ops_rig_destroy(rig);
}

static void test_a_retired_row_gives_back_its_pages_and_forgets_its_tickets(void **state)
{
    ops_config_t config = cache_config();
    config.policy = ops_policy_full();
    config.admit_window = 0;
    ops_rig_t *rig = gates_rig(&config, 500, 70);
    step(rig);
    lwk_store_t store;
    ops_get(rig, &store, rig->store, sizeof store);
    assert_true(store.pages[0].free_count < store.pages[0].count);
    for (uint32_t i = 0; i < rig->range_count; i++) {
        lwk_retire_t args = {.shape = rig->config.shape,
                             .range_capacity = OPS_RANGES_MAX,
                             .store = rig->store,
                             .row = rig->ranges[i].row};
        assert_int_equal(rig->backend->retire(rig->dev, &args, NULL), LW_OK);
    }
    ops_get(rig, &store, rig->store, sizeof store);
    for (int which = 0; which < 2; which++)
        assert_int_equal(store.pages[which].free_count, store.pages[which].count);
    ops_rig_destroy(rig);
}

static void test_a_ticket_of_a_retired_row_is_released_without_effect(void **state)
{
    ops_config_t config = cache_config();
    config.shape.layer_count = 1;
    config.admit_window = 0;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 300, 70);
    ops_query(rig, 0);
    prefetch(rig, 0);
    assert_true(*rig->ticket_head > 0);
    for (uint32_t i = 0; i < rig->range_count; i++) {
        lwk_retire_t args = {.shape = rig->config.shape,
                             .range_capacity = OPS_RANGES_MAX,
                             .store = rig->store,
                             .row = rig->ranges[i].row};
        assert_int_equal(rig->backend->retire(rig->dev, &args, NULL), LW_OK);
    }
    assert_int_equal(ops_admit(rig), LW_OK);
    assert_int_equal(*rig->ticket_tail, *rig->ticket_head);
    assert_int_equal(rig->counters->admitted, 0);
    lwk_store_t store;
    ops_get(rig, &store, rig->store, sizeof store);
    for (int which = 0; which < 2; which++)
        assert_int_equal(store.pages[which].free_count, store.pages[which].count);
    ops_rig_destroy(rig);
}

const struct CMUnitTest gates_cache_tests[] = {
    cmocka_unit_test(test_a_failed_fetch_is_the_sessions_error),
    cmocka_unit_test(test_a_late_fetch_is_a_timeout),
    cmocka_unit_test(test_a_full_ticket_ring_falls_back_to_the_estimate_and_says_so),
    cmocka_unit_test(test_first_touch_is_not_admitted_and_second_is),
    cmocka_unit_test(test_a_touch_outside_the_window_is_a_first_one),
    cmocka_unit_test(test_a_small_cache_stays_correct_while_it_evicts),
    cmocka_unit_test(test_no_cache_at_all_works),
    cmocka_unit_test(test_what_is_wanted_at_every_step_stays),
    cmocka_unit_test(test_ticket_numbers_outlive_their_thirty_bits),
    cmocka_unit_test(test_prefetched_entries_are_pending_for_the_step_itself),
    cmocka_unit_test(test_an_open_prefetch_is_released_by_a_later_step),
    cmocka_unit_test(test_a_retired_row_gives_back_its_pages_and_forgets_its_tickets),
    cmocka_unit_test(test_a_ticket_of_a_retired_row_is_released_without_effect),
};
const size_t gates_cache_count = LW_ARRAY_SIZE(gates_cache_tests);
