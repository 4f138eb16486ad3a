/* Handles mean something on their own connection only, and all tables are bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "storaged/shard/attach.h"
#include "unit/storaged/shard_place.h"

typedef struct fixture {
    place_t place;
    lwd_attach_t *attach;
} fixture_t;

static void start(fixture_t *fixture, uint32_t capacity, uint32_t per_connection)
{
    place_init(&fixture->place, &(place_params_t){0});
    lwd_attach_params_t params = {.shard = fixture->place.shard,
                                  .capacity = capacity,
                                  .per_connection_max = per_connection,
                                  .connection_max = 3};
    assert_int_equal(lwd_attach_create(&params, &fixture->attach), LW_OK);
}

static void stop(fixture_t *fixture)
{
    assert_true(lwd_attach_check(fixture->attach));
    lwd_attach_destroy(fixture->attach);
    place_fini(&fixture->place);
}

static void test_foreign_and_unknown_handles_look_alike(void **state)
{
    fixture_t fixture;
    lwd_ref_t ref, found;
    bool writer;
    uint64_t handle;
    (void)state;
    start(&fixture, 16, 16);
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    ref = place_put(&fixture.place, &name);
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref, false, &handle), LW_OK);
    assert_true(handle != 0);
    const uint64_t unknown[] = {0, 1, handle + 1, handle + (1ull << 32), UINT64_MAX >> 16, handle ^ (1ull << 47)};
    assert_int_equal(lwd_attach_resolve(fixture.attach, 1, handle, &found, &writer), LW_ERR_NOT_FOUND);
    for (size_t i = 0; i < LW_ARRAY_SIZE(unknown); i++)
        assert_int_equal(lwd_attach_resolve(fixture.attach, 0, unknown[i], &found, &writer),
                         LW_ERR_NOT_FOUND);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle, &found, &writer), LW_OK);
    assert_int_equal(found.slot, ref.slot);
    assert_false(writer);
    stop(&fixture);
}

static void test_a_handle_of_another_life_of_the_node_is_stale(void **state)
{
    fixture_t fixture;
    lwd_ref_t found;
    bool writer;
    uint64_t handle;
    (void)state;
    start(&fixture, 16, 16);
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref = place_put(&fixture.place, &name);
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref, false, &handle), LW_OK);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle ^ (1ull << 48), &found, &writer), LW_ERR_STALE);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle ^ (1ull << 63), &found, &writer), LW_ERR_STALE);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, UINT64_MAX, &found, &writer), LW_ERR_STALE);
    stop(&fixture);
}

static void test_a_proof_is_no_handle(void **state)
{
    fixture_t fixture;
    lwd_ref_t found;
    bool writer;
    uint32_t term;
    (void)state;
    start(&fixture, 4, 4);
    assert_int_equal(lwd_attach_proved(fixture.attach, 0, 9, &term), LW_ERR_PERMISSION);
    assert_int_equal(lwd_attach_prove(fixture.attach, 0, 9, 3), LW_OK);
    assert_int_equal(lwd_attach_prove(fixture.attach, 0, 9, 5), LW_OK);
    assert_int_equal(lwd_attach_proved(fixture.attach, 0, 9, &term), LW_OK);
    assert_int_equal(term, 5);
    assert_int_equal(lwd_attach_count(fixture.attach), 1);
    assert_int_equal(lwd_attach_proved(fixture.attach, 1, 9, &term), LW_ERR_PERMISSION);
    for (uint64_t index = 0; index < 4; index++) {
        for (uint64_t generation = 0; generation < 4; generation++)
            assert_int_equal(lwd_attach_resolve(fixture.attach, 0, generation << 32 | index, &found, &writer),
                             LW_ERR_NOT_FOUND);
    }
    stop(&fixture);
}

static void test_attaching_twice_gives_the_same_handle_and_keeps_the_right_to_write(void **state)
{
    fixture_t fixture;
    lwd_ref_t found;
    bool writer;
    uint64_t first, second;
    (void)state;
    start(&fixture, 16, 16);
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref = place_put(&fixture.place, &name);
    assert_int_equal(lwd_attach_open(fixture.attach, 2, ref, true, &first), LW_OK);
    assert_int_equal(lwd_attach_open(fixture.attach, 2, ref, false, &second), LW_OK);
    assert_int_equal(first, second);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 2, first, &found, &writer), LW_OK);
    assert_true(writer);
    stop(&fixture);
}

static void test_a_connections_share_is_bounded_and_handles_of_freed_segments_make_room(void **state)
{
    fixture_t fixture;
    lwd_ref_t ref[4], found;
    bool writer;
    uint64_t handle[4];
    (void)state;
    start(&fixture, 16, 3);
    for (uint16_t i = 0; i < 4; i++) {
        lw_segment_name_t name = place_name(1u + i / 3, i, 0, 1); /* the fourth is another session's */
        ref[i] = place_put(&fixture.place, &name);
        assert_int_equal(lwd_attach_open(fixture.attach, 0, ref[i], false, &handle[i]),
                         i < 3 ? LW_OK : LW_ERR_EXHAUSTED);
    }
    uint64_t other;
    assert_int_equal(lwd_attach_open(fixture.attach, 1, ref[3], false, &other),
                     LW_OK); /* another connection has its own */
    (void)lwd_shard_end(fixture.place.shard, 1, UINT16_MAX, 0, UINT32_MAX);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle[0], &found, &writer),
                     LW_OK); /* stale, still known */
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref[3], false, &handle[3]), LW_OK);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle[0], &found, &writer), LW_ERR_NOT_FOUND);
    stop(&fixture);
}

static void test_the_pool_is_bounded_over_all_connections(void **state)
{
    fixture_t fixture;
    uint64_t handle;
    (void)state;
    start(&fixture, 2, 2);
    for (uint16_t i = 0; i < 3; i++) {
        lw_segment_name_t name = place_name(1, i, 0, 1);
        lwd_ref_t ref = place_put(&fixture.place, &name);
        assert_int_equal(lwd_attach_open(fixture.attach, i, ref, false, &handle),
                         i < 2 ? LW_OK : LW_ERR_EXHAUSTED);
    }
    lwd_attach_close(fixture.attach, 0);
    assert_int_equal(lwd_attach_prove(fixture.attach, 2, 1, 1), LW_OK);
    assert_int_equal(lwd_attach_prove(fixture.attach, 2, 2, 1), LW_ERR_EXHAUSTED);
    stop(&fixture);
}

static void test_after_a_close_nothing_of_the_connection_is_left(void **state)
{
    fixture_t fixture;
    lwd_ref_t found;
    bool writer;
    uint32_t term;
    uint64_t handle;
    (void)state;
    start(&fixture, 8, 8);
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref = place_put(&fixture.place, &name);
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref, true, &handle), LW_OK);
    assert_int_equal(lwd_attach_prove(fixture.attach, 0, 1, 1), LW_OK);
    lwd_attach_close(fixture.attach, 0);
    assert_int_equal(lwd_attach_count(fixture.attach), 0);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, handle, &found, &writer), LW_ERR_NOT_FOUND);
    assert_int_equal(lwd_attach_proved(fixture.attach, 0, 1, &term), LW_ERR_PERMISSION);
    uint64_t again;
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref, false, &again), LW_OK);
    assert_int_not_equal(handle, again); /* an old handle never means a new attachment */
    stop(&fixture);
}

static void test_a_slots_next_segment_gets_a_handle_of_its_own(void **state)
{
    fixture_t fixture;
    lwd_ref_t found;
    bool writer;
    uint64_t old, fresh;
    (void)state;
    start(&fixture, 8, 8);
    lw_segment_name_t name = place_name(1, 0, 0, 1), next = place_name(2, 0, 0, 1);
    lwd_ref_t ref = place_put(&fixture.place, &name);
    assert_int_equal(lwd_attach_open(fixture.attach, 0, ref, true, &old), LW_OK);
    (void)lwd_shard_end(fixture.place.shard, 1, UINT16_MAX, 0, UINT32_MAX);
    lwd_ref_t reused = {ref.slot, ref.generation + 1};
    assert_int_equal(lwd_attach_open(fixture.attach, 0, reused, false, &fresh), LW_OK);
    assert_int_not_equal(old, fresh);
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, fresh, &found, &writer), LW_OK);
    assert_false(writer); /* the right to write did not come along */
    assert_int_equal(lwd_attach_resolve(fixture.attach, 0, old, &found, &writer), LW_ERR_NOT_FOUND);
    (void)place_put(&fixture.place, &next);
    stop(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_foreign_and_unknown_handles_look_alike),
        cmocka_unit_test(test_a_handle_of_another_life_of_the_node_is_stale),
        cmocka_unit_test(test_a_proof_is_no_handle),
        cmocka_unit_test(test_attaching_twice_gives_the_same_handle_and_keeps_the_right_to_write),
        cmocka_unit_test(test_a_connections_share_is_bounded_and_handles_of_freed_segments_make_room),
        cmocka_unit_test(test_the_pool_is_bounded_over_all_connections),
        cmocka_unit_test(test_after_a_close_nothing_of_the_connection_is_left),
        cmocka_unit_test(test_a_slots_next_segment_gets_a_handle_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
