/* Endings, dead writers, orphans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "unit/storaged/shard_place.h"

static bool written(const place_t *place, const lw_segment_name_t *name)
{
    lwd_ref_t ref;
    return lwd_shard_find(place->shard, name, &ref) == LW_OK;
}

static void test_a_gone_writers_reservation_is_reclaimed_after_the_lease_and_not_before(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lwd_shard_usage_t usage;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)state;
    place_init(&place, &(place_params_t){0});
    assert_int_equal(place_reserve(&place, &name, 1000, &reserved), LW_OK);
    place_round(&place, 10 * PLACE_LEASE_US); /* connected: may take as long as it wants */
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    place_round(&place, PLACE_LEASE_US - 1);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.reservations, 1);
    place_round(&place, LWD_TICK_US);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.reservations, 0);
    assert_int_equal(place_count(&place.stats.reserves_reclaimed), 1);
    assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_ERR_STALE);
    place_round(&place, LWD_TICK_US);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.arena_used_bytes, 0);
    place_fini(&place);
}

static void test_a_writer_that_comes_back_in_time_keeps_its_reservation(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)state;
    place_init(&place, &(place_params_t){0});
    assert_int_equal(place_reserve(&place, &name, 1000, &reserved), LW_OK);
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    place_round(&place, PLACE_LEASE_US / 2);
    assert_int_equal(lwd_shard_client_up(place.shard, 1, 1), LW_OK);
    place_round(&place, 5 * PLACE_LEASE_US);
    assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
    place_fini(&place);
}

static void test_the_last_of_several_connections_counts(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)state;
    place_init(&place, &(place_params_t){0});
    assert_int_equal(lwd_shard_client_up(place.shard, 1, 1), LW_OK);
    assert_int_equal(place_reserve(&place, &name, 1000, &reserved), LW_OK);
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    place_round(&place, 5 * PLACE_LEASE_US);
    assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
    place_fini(&place);
}

static void test_an_ended_session_is_freed_and_cannot_come_back(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t mine = place_name(1, 0, 0, 1), other = place_name(2, 0, 0, 1),
                      later = place_name(1, 1, 0, 9);
    lwd_ref_t ref = place_put(&place, &mine);
    (void)place_put(&place, &other);
    assert_int_equal(lwd_shard_end(place.shard, 1, UINT16_MAX, 0, UINT32_MAX), 1);
    assert_false(written(&place, &mine));
    assert_null(lwd_shard_readable(place.shard, ref));
    assert_true(written(&place, &other));
    assert_int_equal(place_reserve(&place, &later, 1000, &reserved), LW_ERR_STALE);
    assert_int_equal(lwd_shard_end(place.shard, 1, UINT16_MAX, 0, UINT32_MAX), 0); /* told twice */
    assert_int_equal(lwd_shard_end(place.shard, 1234, 0, 5, 1), 0);                /* never heard of */
    assert_int_equal(place_count(&place.stats.evictions), 1);
    place_fini(&place);
}

static void test_an_ending_takes_only_its_tokens_generations_and_rank(void **state)
{
    place_t place;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t before = place_name(1, 0, 1024, 2), at = place_name(1, 0, 2048, 2),
                      after = place_name(1, 0, 3072, 1);
    lw_segment_name_t young = place_name(1, 0, 4096, 3), rank = place_name(1, 0, 5120, 1);
    rank.rank = 1;
    const lw_segment_name_t *all[] = {&after, &rank, &before, &at, &young};
    for (size_t i = 0; i < LW_ARRAY_SIZE(all); i++)
        (void)place_put(&place, all[i]);
    assert_int_equal(lwd_shard_end(place.shard, 1, 0, 2048, 2), 2);
    assert_true(written(&place, &before));
    assert_false(written(&place, &at));
    assert_false(written(&place, &after));
    assert_true(written(&place, &young));
    assert_true(written(&place, &rank));
    place_fini(&place);
}

static void test_a_freed_extent_waits_for_every_reader(void **state)
{
    place_t place;
    lwd_shard_usage_t usage;
    (void)state;
    place_init(&place, &(place_params_t){.threads = 2});
    lwd_guard_quiet(&place.guards, 1); /* another data thread, in the middle of its round */
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref = place_put(&place, &name);
    lwd_segment_t *seen = lwd_shard_readable(place.shard, ref);
    assert_non_null(seen);
    lwd_segment_borrow(seen); /* it sends from place */
    assert_int_equal(lwd_shard_end(place.shard, 1, UINT16_MAX, 0, UINT32_MAX), 1);
    for (int i = 0; i < 3; i++)
        place_round(&place, 2000);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.dying, 1);
    lwd_guard_quiet(&place.guards, 1);
    for (int i = 0; i < 3; i++)
        place_round(&place, 2000);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.dying, 1); /* quiet, but the send is still out */
    lwd_segment_release(seen);
    lwd_guard_offline(&place.guards, 1);
    for (int i = 0; i < 3; i++)
        place_round(&place, 2000);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.dying, 0);
    assert_int_equal(usage.arena_used_bytes, 0);
    assert_int_equal(usage.book_used_bytes, 0);
    place_fini(&place);
}

static void test_a_slow_send_does_not_hold_up_others(void **state)
{
    place_t place;
    lwd_shard_usage_t usage;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t slow = place_name(1, 0, 0, 1), quick = place_name(1, 1, 0, 1);
    lwd_segment_t *held = lwd_shard_readable(place.shard, place_put(&place, &slow));
    (void)place_put(&place, &quick);
    lwd_segment_borrow(held);
    assert_int_equal(lwd_shard_end(place.shard, 1, UINT16_MAX, 0, UINT32_MAX), 2);
    for (int i = 0; i < 4; i++)
        place_round(&place, 2000);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.dying, 1);
    lwd_segment_release(held);
    place_round(&place, 2000);
    place_round(&place, 2000);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.dying, 0);
    place_fini(&place);
}

static void test_orphans_are_asked_for_only_when_their_writer_is_gone(void **state)
{
    place_t place;
    lw_segment_name_t names[LWD_SUSPECTS_MAX];
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)place_put(&place, &name);
    place_round(&place, 10 * PLACE_LEASE_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX), 0);
    lwd_shard_client_down(place.shard, 1, 1, place.now_us);
    place_round(&place, 2 * PLACE_LEASE_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX), 1);
    assert_true(lw_segment_name_equal(&names[0], &name));
    bool alive = false, dead = true;
    lwd_shard_orphans(place.shard, names, &alive, 1, place.now_us);
    assert_true(written(&place, &name));
    place_round(&place, LWD_ORPHAN_ASK_US / 2);
    assert_int_equal(lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX), 0); /* not so soon */
    place_round(&place, LWD_ORPHAN_ASK_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX), 1);
    lwd_shard_orphans(place.shard, names, &dead, 1, place.now_us);
    assert_false(written(&place, &name));
    assert_int_equal(place_count(&place.stats.orphans_freed), 1);
    lwd_shard_orphans(place.shard, names, &dead, 1, place.now_us); /* told twice */
    place_fini(&place);
}

static void test_a_newer_term_makes_the_older_ones_segments_suspects(void **state)
{
    place_t place;
    lw_segment_name_t names[LWD_SUSPECTS_MAX];
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)place_put(&place, &name);
    assert_int_equal(lwd_shard_grant(place.shard, 1, 2), LW_OK);
    place_round(&place, 2 * PLACE_LEASE_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, names, LWD_SUSPECTS_MAX), 1);
    assert_true(written(&place, &name)); /* it may be in the manifest */
    place_fini(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_gone_writers_reservation_is_reclaimed_after_the_lease_and_not_before),
        cmocka_unit_test(test_a_writer_that_comes_back_in_time_keeps_its_reservation),
        cmocka_unit_test(test_the_last_of_several_connections_counts),
        cmocka_unit_test(test_an_ended_session_is_freed_and_cannot_come_back),
        cmocka_unit_test(test_an_ending_takes_only_its_tokens_generations_and_rank),
        cmocka_unit_test(test_a_freed_extent_waits_for_every_reader),
        cmocka_unit_test(test_a_slow_send_does_not_hold_up_others),
        cmocka_unit_test(test_orphans_are_asked_for_only_when_their_writer_is_gone),
        cmocka_unit_test(test_a_newer_term_makes_the_older_ones_segments_suspects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
