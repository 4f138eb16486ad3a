/* Copies from other nodes: holds, and what no manifest places here any more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "unit/storaged/shard_place.h"

static place_t place;

static int setup(void **state)
{
    (void)state;
    place_init(&place, &(place_params_t){0});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    place_fini(&place);
    return 0;
}

static bool here(const lw_segment_name_t *name)
{
    lwd_ref_t ref;
    return lwd_shard_find(place.shard, name, &ref) == LW_OK;
}

/* Time in steps that let the reaper see every slot. */
static void pass(uint64_t us)
{
    for (uint64_t passed = 0; passed < us; passed += 10 * LWD_TICK_US)
        place_round(&place, 10 * LWD_TICK_US);
}

/* The catalogue is asked about one name, or none. */
static uint32_t suspects(lw_segment_name_t *names)
{
    return lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX);
}

static void test_neither_a_new_term_nor_a_lease_nor_a_verdict_takes_a_held_copy(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), asked[LWD_SUSPECTS_MAX];
    lwd_ref_t ref, again;
    const bool dead = true;
    (void)state;
    assert_int_equal(lwd_shard_grant(place.shard, 1, 3), LW_OK); /* a copy may be older than the term */
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_OK);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &again), LW_ERR_BUSY);
    assert_int_equal(lwd_shard_grant(place.shard, 1, 4), LW_OK);
    pass(3 * PLACE_LEASE_US);
    pass(LWD_ORPHAN_ASK_US);
    assert_int_equal(suspects(asked), 0);
    lwd_shard_orphans(place.shard, &name, &dead, 1, place.now_us);
    uint8_t *into;
    assert_int_equal(lwd_shard_write_begin(place.shard, ref, 0, 1000, &into), LW_OK);
    lwd_shard_write_end(place.shard, ref);
    lwd_shard_pulled(place.shard, ref, false, place.now_us); /* nothing was written: freed */
    assert_int_equal(lwd_shard_write_begin(place.shard, ref, 0, 1000, &into), LW_ERR_STALE);
    lwd_shard_pulled(place.shard, ref, false, place.now_us); /* gone: fine */
}

static void test_an_ending_takes_a_held_copy_and_keeps_it_out(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref;
    bool done;
    (void)state;
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_OK);
    assert_int_equal(lwd_shard_end(place.shard, 1, UINT16_MAX, 0, UINT32_MAX), 1);
    assert_int_equal(lwd_shard_commit_begin(place.shard, ref, 1000, &done), LW_ERR_STALE);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_ERR_STALE);
}

static void test_what_cannot_fit_or_finds_no_room_is_told(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), other = place_name(1, 1, 0, 1);
    lwd_ref_t ref;
    (void)state;
    assert_int_equal(lwd_shard_pull(place.shard, &name, 10, &ref), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 17u << 20, &ref), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 12u << 20, &ref), LW_OK);
    assert_int_equal(lwd_shard_pull(place.shard, &other, 12u << 20, &ref), LW_ERR_EXHAUSTED);
}

static void test_a_copy_that_is_here_is_held_and_a_late_verdict_does_not_count(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), asked[LWD_SUSPECTS_MAX];
    const bool dead = true;
    lwd_ref_t ref, written = place_put(&place, &name);
    (void)state;
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    pass(3 * PLACE_LEASE_US);
    assert_int_equal(suspects(asked), 1); /* the question is on its way */
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_ERR_EXISTS);
    assert_int_equal(ref.slot, written.slot);
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us);
    assert_true(here(&name));
    lwd_shard_pulled(place.shard, ref, true, place.now_us);
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us); /* a verdict from before the move */
    assert_true(here(&name));
    assert_false(lwd_shard_distrust(place.shard, (lwd_ref_t){ref.slot, ref.generation + 1}));
    assert_true(lwd_shard_distrust(place.shard, ref));
    assert_false(here(&name));
}

static void test_a_copy_that_no_scan_finds_goes_a_lease_after_that_was_noticed(void **state)
{
    lw_segment_name_t kept = place_name(1, 0, 0, 1), gone = place_name(1, 1, 0, 1), fresh = place_name(1, 2, 0, 1);
    lw_segment_name_t asked[LWD_SUSPECTS_MAX];
    const lw_segment_name_t both[2] = {kept, gone};
    const bool dead = true, alive = false;
    bool have[2];
    (void)state;
    place_put(&place, &kept);
    place_put(&place, &gone);
    pass(PLACE_LEASE_US);
    lwd_shard_placed(place.shard, both, 2, 1, have);
    assert_true(have[0] && have[1]);
    lwd_shard_scanned(place.shard, 1, place.now_us);
    pass(3 * PLACE_LEASE_US);
    assert_int_equal(suspects(asked), 0); /* its writer lives, and the scan found both */
    lwd_shard_placed(place.shard, &kept, 1, 2, have);
    uint64_t began = place.now_us;
    place_round(&place, 1000);
    place_put(&place, &fresh); /* written after the scan began */
    lwd_shard_scanned(place.shard, 2, began);
    pass(PLACE_LEASE_US - 20 * LWD_TICK_US);
    assert_int_equal(suspects(asked), 0);
    pass(40 * LWD_TICK_US);
    assert_int_equal(suspects(asked), 1);
    assert_true(lw_segment_name_equal(&asked[0], &gone));
    lwd_shard_orphans(place.shard, asked, &alive, 1, place.now_us); /* its writer may still commit it */
    pass(LWD_ORPHAN_ASK_US + 20 * LWD_TICK_US);
    assert_int_equal(suspects(asked), 1);
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us);
    assert_false(here(&gone));
    assert_true(here(&kept) && here(&fresh));
}

static void test_a_copy_that_was_placed_serves_on_for_a_lease_after_a_verdict(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), asked[LWD_SUSPECTS_MAX];
    const bool dead = true;
    bool have;
    (void)state;
    place_put(&place, &name);
    lwd_shard_placed(place.shard, &name, 1, 1, &have);
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    pass(2 * PLACE_LEASE_US);
    assert_int_equal(suspects(asked), 1); /* its writer is gone */
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us); /* its range is committed, elsewhere by now */
    assert_true(here(&name));
    pass(PLACE_LEASE_US + 20 * LWD_TICK_US);
    assert_int_equal(suspects(asked), 1);
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us);
    assert_false(here(&name));
}

static void test_a_copy_that_lost_the_race_is_asked_about_soon(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), asked[LWD_SUSPECTS_MAX];
    const bool dead = true;
    lwd_ref_t ref, written = place_put(&place, &name);
    (void)state;
    (void)written;
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    pass(2 * PLACE_LEASE_US);
    (void)suspects(asked);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_ERR_EXISTS);
    lwd_shard_pulled(place.shard, ref, false, place.now_us);
    pass(20 * LWD_TICK_US);
    assert_int_equal(suspects(asked), 1);
    lwd_shard_orphans(place.shard, asked, &dead, 1, place.now_us);
    assert_false(here(&name));
}

/* The question came before the move, its verdict after the copy was asked about again. */
static void test_a_verdict_of_an_earlier_question_does_not_count(void **state)
{
    lw_segment_name_t name = place_name(1, 0, 0, 1), first[LWD_SUSPECTS_MAX], second[LWD_SUSPECTS_MAX];
    const bool dead = true, alive = false;
    lwd_ref_t ref, written = place_put(&place, &name);
    (void)state;
    (void)written;
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    pass(2 * PLACE_LEASE_US);
    assert_int_equal(suspects(first), 1);
    assert_int_equal(lwd_shard_pull(place.shard, &name, 1000, &ref), LW_ERR_EXISTS);
    lwd_shard_pulled(place.shard, ref, false, place.now_us); /* the manifest has it here; that answer was lost */
    pass(20 * LWD_TICK_US);
    lwd_shard_orphans(place.shard, first, &dead, 1, place.now_us);
    assert_true(here(&name));
    assert_int_equal(suspects(second), 1);
    lwd_shard_orphans(place.shard, second, &alive, 1, place.now_us);
    assert_true(here(&name));
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_neither_a_new_term_nor_a_lease_nor_a_verdict_takes_a_held_copy),
        CASE(test_an_ending_takes_a_held_copy_and_keeps_it_out),
        CASE(test_what_cannot_fit_or_finds_no_room_is_told),
        CASE(test_a_copy_that_is_here_is_held_and_a_late_verdict_does_not_count),
        CASE(test_a_copy_that_no_scan_finds_goes_a_lease_after_that_was_noticed),
        CASE(test_a_copy_that_was_placed_serves_on_for_a_lease_after_a_verdict),
        CASE(test_a_copy_that_lost_the_race_is_asked_about_soon),
        CASE(test_a_verdict_of_an_earlier_question_does_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
