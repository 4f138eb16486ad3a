/* RESERVE, chunks, ABORT: what is refused first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/fault.h"
#include "unit/storaged/shard_place.h"

#define MIB (1u << 20)

static void test_a_full_arena_is_exhausted_with_a_time_to_come_back_and_room_is_wanted(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    (void)state;
    place_init(&place, &(place_params_t){0});
    for (uint16_t i = 0; i < 4; i++) {
        lw_segment_name_t name = place_name(1, i, 0, 1);
        assert_int_equal(place_reserve(&place, &name, 4 * MIB, &reserved), LW_OK);
    }
    lw_segment_name_t more = place_name(1, 9, 0, 1);
    assert_int_equal(lwd_shard_take_want(place.shard), 0);
    assert_int_equal(place_reserve(&place, &more, 4 * MIB, &reserved), LW_ERR_EXHAUSTED);
    assert_int_equal(reserved.retry_after_ms, LWD_RETRY_FULL_MS);
    assert_int_equal(lwd_shard_take_want(place.shard), 4 * MIB);
    assert_int_equal(lwd_shard_take_want(place.shard), 0);
    assert_int_equal(place_count(&place.stats.reserves_refused_full), 1);
    place_fini(&place);
}

static void test_freed_room_is_reserved_again_after_a_quiet_point(void **state)
{
    place_t place;
    lwd_reserved_t first, second;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t a = place_name(1, 0, 0, 1), b = place_name(1, 1, 0, 1);
    assert_int_equal(place_reserve(&place, &a, 16 * MIB, &first), LW_OK);
    assert_int_equal(lwd_shard_abort(place.shard, first.ref), LW_OK);
    assert_int_equal(place_reserve(&place, &b, 16 * MIB, &second), LW_ERR_EXHAUSTED);
    assert_int_equal(second.retry_after_ms, LWD_RETRY_DYING_MS);
    place_round(&place, 10);
    assert_int_equal(place_reserve(&place, &b, 16 * MIB, &second), LW_OK);
    place_fini(&place);
}

static void test_a_full_segment_table_is_exhausted(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    (void)state;
    place_init(&place, &(place_params_t){.segment_max = 3});
    for (uint16_t i = 0; i < 4; i++) {
        lw_segment_name_t name = place_name(1, i, 0, 1);
        assert_int_equal(place_reserve(&place, &name, 1000, &reserved), i < 3 ? LW_OK : LW_ERR_EXHAUSTED);
    }
    place_fini(&place);
}

static void test_more_sessions_than_the_table_holds_are_exhausted_until_one_is_empty(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    (void)state;
    place_init(&place, &(place_params_t){.origin_max = 2});
    lw_segment_name_t a = place_name(1, 0, 0, 1), b = place_name(2, 0, 0, 1), c = place_name(3, 0, 0, 1);
    assert_int_equal(place_reserve(&place, &a, 1000, &reserved), LW_OK);
    assert_int_equal(place_reserve(&place, &b, 1000, &reserved), LW_OK);
    assert_int_equal(lwd_shard_grant(place.shard, 3, 1), LW_ERR_EXHAUSTED);
    lwd_reserved_t refused;
    assert_int_equal(place_reserve(&place, &c, 1000, &refused), LW_ERR_EXHAUSTED);
    assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
    assert_int_equal(place_reserve(&place, &c, 1000, &reserved), LW_OK);
    place_fini(&place);
}

static void test_sizes_that_can_never_fit_are_invalid(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)state;
    place_init(&place, &(place_params_t){0});
    assert_int_equal(place_reserve(&place, &name, 0, &reserved), LW_ERR_INVALID);
    assert_int_equal(place_reserve(&place, &name, sizeof(lw_segment_header_t) - 1, &reserved),
                     LW_ERR_INVALID);
    assert_int_equal(place_reserve(&place, &name, 16 * MIB + 1, &reserved), LW_ERR_INVALID);
    assert_int_equal(place_reserve(&place, &name, UINT64_MAX, &reserved), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_take_want(place.shard), 0);
    place_fini(&place);
}

static void test_a_lower_term_than_was_granted_is_stale(void **state)
{
    place_t place;
    lwd_reserved_t old, reserved;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t old_name = place_name(1, 0, 0, 3), again = place_name(1, 1, 0, 3),
                      new_name = place_name(1, 0, 0, 4);
    assert_int_equal(lwd_shard_grant(place.shard, 1, 3), LW_OK);
    assert_int_equal(place_reserve(&place, &old_name, 1000, &old), LW_OK);
    assert_int_equal(lwd_shard_grant(place.shard, 1, 4), LW_OK);
    assert_int_equal(place_reserve(&place, &again, 1000, &reserved), LW_ERR_STALE);
    assert_int_equal(place_count(&place.stats.reserves_refused_stale), 1);
    /* the old writer's reservation is gone with its term */
    uint8_t *into;
    assert_int_equal(lwd_shard_write_begin(place.shard, old.ref, 0, 10, &into), LW_ERR_STALE);
    assert_int_equal(place_count(&place.stats.reserves_reclaimed), 1);
    assert_int_equal(place_reserve(&place, &new_name, 1000, &reserved), LW_OK);
    assert_int_equal(lwd_shard_grant(place.shard, 1, 3), LW_ERR_STALE);
    place_fini(&place);
}

static void test_another_incarnation_takes_nothing_from_a_writer(void **state)
{
    place_t place;
    lwd_reserved_t old, reserved;
    lwd_shard_usage_t usage;
    const uint64_t others[] = {0, 2, UINT64_MAX};
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1), other = place_name(1, 1, 0, 1);
    assert_int_equal(place_reserve(&place, &name, 1000, &old), LW_OK);
    for (size_t i = 0; i < LW_ARRAY_SIZE(others); i++)
        assert_int_equal(lwd_shard_client_up(place.shard, 1, others[i]), LW_OK);
    place_round(&place, 3 * PLACE_LEASE_US);
    for (size_t i = 0; i < LW_ARRAY_SIZE(others); i++)
        lwd_shard_client_down(place.shard, 1, others[i], place.now_us);
    place_round(&place, 3 * PLACE_LEASE_US);
    assert_int_equal(place_reserve(&place, &other, 1000, &reserved), LW_OK);
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.reservations, 2);
    assert_int_equal(lwd_shard_abort(place.shard, old.ref), LW_OK);
    place_fini(&place);
}

static void test_a_client_that_proved_nothing_cannot_reserve(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lwd_reserve_t reserve = {
        .client_id = 77, .incarnation = 1, .name = place_name(1, 0, 0, 1), .bytes = 1000};
    (void)state;
    place_init(&place, &(place_params_t){0});
    assert_int_equal(lwd_shard_reserve(place.shard, &reserve, &reserved), LW_ERR_STALE);
    place_fini(&place);
}

static void test_more_clients_than_the_table_holds_are_exhausted_until_one_leaves(void **state)
{
    place_t place;
    (void)state;
    place_init(&place, &(place_params_t){.client_max = 2});
    assert_int_equal(lwd_shard_client_up(place.shard, 2, 1), LW_OK);
    assert_int_equal(lwd_shard_client_up(place.shard, 3, 1), LW_ERR_EXHAUSTED);
    lwd_shard_client_down(place.shard, 2, 1, place.now_us);
    assert_int_equal(lwd_shard_client_up(place.shard, 3, 1), LW_OK);
    assert_int_equal(lwd_shard_client_up(place.shard, 3, 1), LW_OK); /* a second connection */
    place_fini(&place);
}

static void test_the_same_name_and_size_give_the_same_reservation(void **state)
{
    place_t place;
    lwd_reserved_t first, second;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    assert_int_equal(place_reserve(&place, &name, 1000, &first), LW_OK);
    assert_int_equal(place_reserve(&place, &name, 1000, &second), LW_OK);
    assert_memory_equal(&first.ref, &second.ref, sizeof(first.ref));
    assert_false(second.committed);
    assert_int_equal(place_reserve(&place, &name, 1001, &second), LW_ERR_EXISTS);
    assert_int_equal(place_count(&place.stats.reserves_repeated), 1);
    assert_int_equal(place_count(&place.stats.reserves_refused_exists), 1);
    place_fini(&place);
}

static void test_a_written_name_is_reserved_as_committed(void **state)
{
    place_t place;
    lwd_reserved_t again;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref = place_put(&place, &name);
    uint64_t bytes = lwd_shard_readable(place.shard, ref)->bytes;
    assert_int_equal(place_reserve(&place, &name, bytes, &again), LW_OK);
    assert_true(again.committed);
    assert_memory_equal(&again.ref, &ref, sizeof(ref));
    assert_int_equal(lwd_shard_abort(place.shard, ref), LW_ERR_EXISTS);
    uint8_t *into;
    assert_int_equal(lwd_shard_write_begin(place.shard, ref, 0, 10, &into), LW_ERR_EXISTS);
    place_fini(&place);
}

static void test_chunks_outside_the_segment_are_invalid(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    uint8_t *into;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    assert_int_equal(place_reserve(&place, &name, 1000, &reserved), LW_OK);
    assert_int_equal(lwd_shard_write_begin(place.shard, reserved.ref, 0, 1001, &into), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_write_begin(place.shard, reserved.ref, 1001, 0, &into), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_write_begin(place.shard, reserved.ref, UINT64_MAX, 2, &into), LW_ERR_INVALID);
    assert_int_equal(lwd_shard_write_begin(place.shard, (lwd_ref_t){9999, 1}, 0, 1, &into), LW_ERR_STALE);
    assert_int_equal(lwd_shard_write_begin(place.shard, reserved.ref, 990, 10, &into), LW_OK);
    lwd_shard_write_end(place.shard, reserved.ref);
    place_fini(&place);
}

static void test_a_chunk_in_flight_keeps_an_aborted_extent_from_reuse(void **state)
{
    place_t place;
    lwd_reserved_t reserved, other;
    uint8_t *into;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_segment_name_t name = place_name(1, 0, 0, 1), next = place_name(1, 1, 0, 1);
    assert_int_equal(place_reserve(&place, &name, 16 * MIB, &reserved), LW_OK);
    assert_int_equal(lwd_shard_write_begin(place.shard, reserved.ref, 0, 1000, &into), LW_OK);
    assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
    for (int i = 0; i < 5; i++)
        place_round(&place, 2000);
    assert_int_equal(place_reserve(&place, &next, 16 * MIB, &other), LW_ERR_EXHAUSTED);
    lwd_shard_write_end(place.shard, reserved.ref);
    place_round(&place, 2000);
    place_round(&place, 2000);
    assert_int_equal(place_reserve(&place, &next, 16 * MIB, &other), LW_OK);
    place_fini(&place);
}

#ifdef LW_FAULTS
static void test_the_fault_point_refuses_as_if_full(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    (void)state;
    place_init(&place, &(place_params_t){0});
    lw_fault_reset(1);
    lw_fault_enable(LW_FAULT_RESERVE_FULL, 1.0);
    assert_int_equal(place_reserve(&place, &name, 1000, &reserved), LW_ERR_EXHAUSTED);
    lw_fault_reset(1);
    place_fini(&place);
}
#endif

static void forget(void *arg, uint32_t record)
{
    (void)arg;
    (void)record;
}

/* With a log there must be room to read the largest segment into. What was refused counts for nothing. */
static void test_with_a_log_a_refused_size_takes_no_room_from_others(void **state)
{
    place_t place;
    lwd_reserved_t reserved;
    (void)state;
    place_init(&place, &(place_params_t){0});
    lwd_shard_set_log(place.shard, forget, NULL);
    lw_segment_name_t a = place_name(1, 0, 0, 1), b = place_name(1, 1, 0, 1), c = place_name(1, 2, 0, 1);
    assert_int_equal(place_reserve(&place, &a, 8 * MIB + 1, &reserved), LW_ERR_INVALID);
    assert_int_equal(place_reserve(&place, &a, 6 * MIB, &reserved), LW_OK);
    assert_int_equal(place_reserve(&place, &b, 8 * MIB, &reserved), LW_ERR_EXHAUSTED);
    assert_int_equal(place_reserve(&place, &c, 4 * MIB, &reserved), LW_OK); /* 6 MiB are left, as large as the largest */
    assert_int_equal(place_reserve(&place, &b, 4 * MIB, &reserved), LW_ERR_EXHAUSTED);
    place_fini(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_arena_is_exhausted_with_a_time_to_come_back_and_room_is_wanted),
        cmocka_unit_test(test_freed_room_is_reserved_again_after_a_quiet_point),
        cmocka_unit_test(test_a_full_segment_table_is_exhausted),
        cmocka_unit_test(test_more_sessions_than_the_table_holds_are_exhausted_until_one_is_empty),
        cmocka_unit_test(test_sizes_that_can_never_fit_are_invalid),
        cmocka_unit_test(test_with_a_log_a_refused_size_takes_no_room_from_others),
        cmocka_unit_test(test_a_lower_term_than_was_granted_is_stale),
        cmocka_unit_test(test_another_incarnation_takes_nothing_from_a_writer),
        cmocka_unit_test(test_a_client_that_proved_nothing_cannot_reserve),
        cmocka_unit_test(test_more_clients_than_the_table_holds_are_exhausted_until_one_leaves),
        cmocka_unit_test(test_the_same_name_and_size_give_the_same_reservation),
        cmocka_unit_test(test_a_written_name_is_reserved_as_committed),
        cmocka_unit_test(test_chunks_outside_the_segment_are_invalid),
        cmocka_unit_test(test_a_chunk_in_flight_keeps_an_aborted_extent_from_reuse),
#ifdef LW_FAULTS
        cmocka_unit_test(test_the_fault_point_refuses_as_if_full),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
