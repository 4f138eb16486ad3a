/* A process dies and another one takes its arena up: what was committed is there, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "storaged/keep/restore.h"
#include "unit/storaged/shard_place.h"

#define FLEET 99u

static uint64_t seed;

/* A place with a journal whose shard knows its fleet, as a serving daemon's does. */
static void start(place_t *place, uint32_t segment_max)
{
    place_init(place, &(place_params_t){.journal = true, .segment_max = segment_max});
    lwd_shard_set_fleet(place->shard, FLEET);
}

static lwd_restored_t restart(place_t *place, uint32_t threads)
{
    lwd_restored_t restored;
    place_restart(place);
    assert_int_equal(
        lwd_restore_arena(place->shard, &place->journal, place->arena, threads, &restored, NULL), LW_OK);
    assert_true(lwd_shard_check(place->shard));
    assert_int_equal(lwd_shard_restoring(place->shard), restored.segments);
    return restored;
}

/* The catalogue answers every question; names of `dead` origin are dead. Returns how many were asked about. */
static uint32_t answer(place_t *place, uint64_t dead_origin)
{
    lw_segment_name_t names[LWD_SUSPECTS_MAX];
    bool dead[LWD_SUSPECTS_MAX];
    uint32_t asked = 0, count;
    for (int round = 0; round < 20; round++) {
        place_round(place, LWD_TICK_US);
        count = lwd_shard_take_suspects(place->shard, names, LWD_SUSPECTS_MAX);
        for (uint32_t i = 0; i < count; i++)
            dead[i] = names[i].origin == dead_origin;
        lwd_shard_orphans(place->shard, names, dead, count, place->now_us);
        asked += count;
    }
    return asked;
}

static bool found(const place_t *place, const lw_segment_name_t *name, lwd_ref_t *ref_out)
{
    return lwd_shard_find(place->shard, name, ref_out) == LW_OK;
}

static void test_what_was_committed_is_served_again_byte_for_byte(void **state)
{
    place_t place;
    lwd_ref_t ref;
    lw_segment_name_t names[20];
    uint8_t *copies[20];
    (void)state;
    start(&place, 64);
    for (uint16_t i = 0; i < 20; i++) {
        names[i] = place_name(1 + i % 3, i, 0, 1);
        ref = place_put(&place, &names[i]);
        const lwd_segment_t *segment = lwd_shard_readable(place.shard, ref);
        copies[i] = malloc(segment->bytes);
        memcpy(copies[i], segment->extent, segment->bytes);
    }
    lwd_restored_t restored = restart(&place, 3);
    assert_int_equal(restored.segments, 20);
    assert_int_equal(restored.dropped, 0);
    for (uint16_t i = 0; i < 20; i++)
        assert_false(found(&place, &names[i], &ref)); /* the catalogue has not been asked yet */
    assert_int_equal(answer(&place, 0), 0); /* and cannot be, before it was reached */
    lwd_shard_set_fleet(place.shard, FLEET);
    assert_int_equal(answer(&place, 0), 20);
    assert_int_equal(lwd_shard_restoring(place.shard), 0);
    for (uint16_t i = 0; i < 20; i++) {
        assert_true(found(&place, &names[i], &ref));
        const lwd_segment_t *segment = lwd_shard_readable(place.shard, ref);
        assert_memory_equal(segment->extent, copies[i], segment->bytes);
        uint32_t bytes;
        const uint8_t *record = segment_record(copies[i], 0, 3, &bytes);
        assert_int_equal(segment->records[segment->heads[0].first + 3].offset, record - copies[i]);
        free(copies[i]);
    }
    assert_int_equal(restart(&place, 1).segments, 20); /* and again */
    lwd_shard_set_fleet(place.shard, FLEET);
    assert_int_equal(answer(&place, 0), 20);
    lw_segment_name_t more = place_name(9, 0, 0, 1);
    (void)place_put(&place, &more); /* and new ones find room beside them */
    place_fini(&place);
}

static void test_reservations_and_freed_segments_do_not_come_back(void **state)
{
    place_t place;
    lwd_ref_t ref;
    lwd_reserved_t reserved;
    (void)state;
    start(&place, 64);
    lw_segment_name_t kept = place_name(1, 0, 0, 1), ended = place_name(2, 0, 0, 1), open = place_name(1, 1, 0, 1);
    (void)place_put(&place, &kept);
    (void)place_put(&place, &ended);
    assert_int_equal(place_reserve(&place, &open, 5000, &reserved), LW_OK);
    assert_int_equal(lwd_shard_end(place.shard, 2, UINT16_MAX, 0, UINT32_MAX), 1);
    assert_int_equal(restart(&place, 1).segments, 1); /* although nobody had recycled the ended one yet */
    lwd_shard_set_fleet(place.shard, FLEET);
    assert_int_equal(answer(&place, 0), 1);
    assert_true(found(&place, &kept, &ref));
    assert_false(found(&place, &ended, &ref));
    assert_false(found(&place, &open, &ref));
    place_fini(&place);
}

static void test_a_session_that_was_dropped_meanwhile_does_not_come_back(void **state)
{
    place_t place;
    lwd_ref_t ref;
    (void)state;
    start(&place, 64);
    lw_segment_name_t alive = place_name(1, 0, 0, 1), dropped = place_name(2, 0, 0, 1), told = place_name(3, 0, 0, 1);
    (void)place_put(&place, &alive);
    (void)place_put(&place, &dropped);
    (void)place_put(&place, &told);
    assert_int_equal(restart(&place, 1).segments, 3);
    lwd_shard_set_fleet(place.shard, FLEET);
    assert_int_equal(lwd_shard_end(place.shard, 3, UINT16_MAX, 0, UINT32_MAX), 1); /* by the log of endings */
    assert_int_equal(answer(&place, 2), 2);                                       /* or by the answer */
    assert_true(found(&place, &alive, &ref));
    assert_false(found(&place, &dropped, &ref));
    assert_false(found(&place, &told, &ref));
    assert_int_equal(lwd_shard_restoring(place.shard), 0);
    lwd_shard_usage_t usage;
    lwd_shard_usage(place.shard, &usage);
    assert_int_equal(usage.segments, 1);
    assert_int_equal(restart(&place, 1).segments, 1);
    place_fini(&place);
}

static void test_a_question_without_an_answer_is_asked_again(void **state)
{
    place_t place;
    lw_segment_name_t name = place_name(1, 0, 0, 1), asked;
    (void)state;
    start(&place, 64);
    (void)place_put(&place, &name);
    assert_int_equal(restart(&place, 1).segments, 1);
    lwd_shard_set_fleet(place.shard, FLEET);
    place_round(&place, LWD_TICK_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, &asked, 1), 1);
    place_round(&place, LWD_RESTORE_ASK_US / 2);
    assert_int_equal(lwd_shard_take_suspects(place.shard, &asked, 1), 0);
    place_round(&place, LWD_RESTORE_ASK_US / 2 + LWD_TICK_US);
    assert_int_equal(lwd_shard_take_suspects(place.shard, &asked, 1), 1);
    lwd_reserved_t reserved; /* its writer is put off meanwhile, too */
    assert_int_equal(place_reserve(&place, &name, 5000, &reserved), LW_ERR_BUSY);
    place_fini(&place);
}

static void test_segments_of_another_fleet_are_dropped_unasked(void **state)
{
    place_t place;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_ref_t ref;
    (void)state;
    start(&place, 64);
    (void)place_put(&place, &name);
    assert_int_equal(restart(&place, 1).segments, 1);
    lwd_shard_set_fleet(place.shard, FLEET + 1);
    assert_int_equal(answer(&place, 0), 0);
    assert_false(found(&place, &name, &ref));
    assert_int_equal(lwd_shard_restoring(place.shard), 0);
    assert_int_equal(place_count(&place.stats.restores_dropped), 1);
    place_fini(&place);
}

/* Flips a bit anywhere in a segment: it is dropped, the others are not. Bytes between parts are not served. */
static void test_a_flipped_bit_drops_its_segment_alone(void **state)
{
    lw_prng_t prng;
    (void)state;
    lw_prng_seed(&prng, seed);
    for (int round = 0; round < 60; round++) {
        place_t place;
        lw_segment_name_t name = place_name(1, 0, 0, 1), other = place_name(1, 1, 0, 1);
        lwd_ref_t ref;
        start(&place, 64);
        ref = place_put(&place, &name);
        (void)place_put(&place, &other);
        lwd_segment_t *segment = lwd_shard_readable(place.shard, ref);
        uint32_t bytes;
        const uint8_t *record = segment_record(segment->extent, 0, (uint32_t)lw_prng_below(&prng, 15), &bytes);
        uint64_t at = round % 2 == 0 ? (uint64_t)(record - segment->extent) + lw_prng_below(&prng, bytes)
                                     : lw_prng_below(&prng, sizeof(lw_segment_header_t));
        segment->extent[at] ^= (uint8_t)(1u << lw_prng_below(&prng, 8));
        lwd_restored_t restored = restart(&place, 2);
        assert_int_equal(restored.segments, 1);
        assert_int_equal(restored.dropped, 1);
        lwd_shard_set_fleet(place.shard, FLEET);
        (void)answer(&place, 0);
        assert_false(found(&place, &name, &ref));
        assert_true(found(&place, &other, &ref));
        restored = restart(&place, 2); /* it is not found a second time */
        assert_int_equal(restored.segments, 1);
        assert_int_equal(restored.dropped, 0);
        place_fini(&place);
    }
}

static void test_a_torn_row_drops_its_segment_alone(void **state)
{
    place_t place;
    lw_segment_name_t name = place_name(1, 0, 0, 1), other = place_name(1, 1, 0, 1);
    (void)state;
    start(&place, 64);
    (void)place_put(&place, &name);
    (void)place_put(&place, &other);
    place.journal.rows[0].bytes++;
    lwd_restored_t restored = restart(&place, 1);
    assert_int_equal(restored.segments, 1);
    assert_int_equal(restored.dropped, 1);
    place_fini(&place);
}

/* The journal of one arena beside the bytes of another: same sizes, other segments. */
static void test_a_journal_over_another_arenas_bytes_restores_nothing(void **state)
{
    place_t mine, theirs;
    (void)state;
    start(&mine, 64);
    start(&theirs, 64);
    for (uint16_t i = 0; i < 8; i++) {
        lw_segment_name_t a = place_name(1, i, 0, 1), b = place_name(2, i, 0, 1);
        (void)place_put(&mine, &a);
        (void)place_put(&theirs, &b);
    }
    memcpy(mine.head, theirs.head, lwd_journal_bytes(mine.arena_bytes, LWD_ARENA_UNIT_BYTES));
    lwd_restored_t restored = restart(&mine, 1);
    assert_int_equal(restored.segments, 0);
    assert_int_equal(restored.dropped, 8);
    place_fini(&mine);
    place_fini(&theirs);
}

/* Two rows over the same bytes: no history of ours writes them, so only the first can be right. */
static void test_overlapping_extents_are_dropped(void **state)
{
    place_t place;
    lw_segment_name_t name = place_name(1, 0, 0, 1);
    lwd_journal_row_t row;
    (void)state;
    start(&place, 64);
    lwd_ref_t ref = place_put(&place, &name);
    const lwd_segment_t *segment = lwd_shard_readable(place.shard, ref);
    uint64_t bytes = segment->bytes; /* the segment itself goes with its shard */
    assert_int_equal(lwd_journal_read(&place.journal, 0, &row), LW_OK);
    memcpy(place.arena + (1 << 20), segment->extent, bytes); /* the same segment once more */
    row.offset = 1 << 20;
    lwd_journal_put(&place.journal, &row);
    lwd_restored_t restored = restart(&place, 1);
    assert_int_equal(restored.segments, 1);
    assert_int_equal(restored.dropped, 1);
    lwd_restore_t again = {place_name(1, 5, 0, 1), bytes, FLEET, 0, LWD_LOG_NONE};
    assert_int_equal(lwd_shard_restore(place.shard, &again), LW_ERR_EXISTS);
    place_fini(&place);
}

static void test_a_daemon_with_fewer_slots_keeps_as_many_as_it_can(void **state)
{
    place_t place;
    (void)state;
    start(&place, 64);
    for (uint16_t i = 0; i < 10; i++) {
        lw_segment_name_t name = place_name(1, i, 0, 1);
        (void)place_put(&place, &name);
    }
    place.params.segment_max = 6;
    lwd_restored_t restored = restart(&place, 1);
    assert_int_equal(restored.segments, 6);
    assert_int_equal(restored.dropped, 4);
    assert_int_equal(place_count(&place.stats.restores), 6);
    place_fini(&place);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    lw_log_set_level(LW_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_flipped_bit_drops_its_segment_alone),
        cmocka_unit_test(test_a_torn_row_drops_its_segment_alone),
        cmocka_unit_test(test_a_journal_over_another_arenas_bytes_restores_nothing),
        cmocka_unit_test(test_overlapping_extents_are_dropped),
        cmocka_unit_test(test_segments_of_another_fleet_are_dropped_unasked),
        cmocka_unit_test(test_a_session_that_was_dropped_meanwhile_does_not_come_back),
        cmocka_unit_test(test_reservations_and_freed_segments_do_not_come_back),
        cmocka_unit_test(test_a_question_without_an_answer_is_asked_again),
        cmocka_unit_test(test_a_daemon_with_fewer_slots_keeps_as_many_as_it_can),
        cmocka_unit_test(test_what_was_committed_is_served_again_byte_for_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
