/* Shard and log together, over a disk in memory: cold segments leave, wanted ones come back, byte for byte, and a
 * restart finds them. */
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
#include "storaged/io/disk_sim.h"
#include "storaged/keep/keep.h"
#include "storaged/keep/restore.h"
#include "storaged/tier/log_fmt.h"
#include "unit/storaged/shard_place.h"

#define FLEET 99u
#define ZONE (256u << 10)
#define SLOTS 256u

static uint64_t seed;

typedef struct fixture {
    place_t place;
    lwd_disk_sim_t sim;
    lwd_tier_t *tier;
    lwd_keep_t *keep;
} fixture_t;

static void open_log(fixture_t *fixture)
{
    lwd_tier_params_t params = {.disk = lwd_disk_sim_ops(), .path = "log", .bytes = fixture->sim.size,
                                .zone_bytes = ZONE, .record_max = SLOTS};
    lwd_disk_sim_use(&fixture->sim);
    assert_int_equal(lwd_tier_open(&params, &fixture->tier, NULL), LW_OK);
    lwd_keep_params_t keep = {fixture->place.shard, fixture->tier, &fixture->place.stats};
    assert_int_equal(lwd_keep_create(&keep, &fixture->keep), LW_OK);
}

/* An arena of 16 units, each of which holds one segment, and a log of `zones`. */
static void start(fixture_t *fixture, uint32_t zones, bool journal)
{
    memset(fixture, 0, sizeof(*fixture));
    place_init(&fixture->place,
               &(place_params_t){.arena_bytes = 1 << 20, .segment_max = SLOTS, .journal = journal});
    lwd_shard_set_fleet(fixture->place.shard, FLEET);
    fixture->sim = (lwd_disk_sim_t){.size = LWD_LOG_BLOCK + (uint64_t)zones * ZONE, .torn_after = UINT64_MAX};
    fixture->sim.bytes = calloc(1, fixture->sim.size);
    assert_non_null(fixture->sim.bytes);
    open_log(fixture);
}

static void stop(fixture_t *fixture)
{
    assert_true(lwd_shard_check(fixture->place.shard));
    assert_true(lwd_tier_check(fixture->tier));
    lwd_tier_close(fixture->tier);
    place_fini(&fixture->place);
    lwd_keep_destroy(fixture->keep);
    free(fixture->sim.bytes);
}

static void pass(fixture_t *fixture, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        (void)lwd_keep_round(fixture->keep, fixture->place.now_us);
        place_round(&fixture->place, LWD_TICK_US);
    }
}

/* The catalogue says that everything lives. */
static void confirm(fixture_t *fixture)
{
    lw_segment_name_t names[LWD_SUSPECTS_MAX];
    const bool dead[LWD_SUSPECTS_MAX] = {false};
    for (int i = 0; i < 20; i++) {
        place_round(&fixture->place, LWD_TICK_US);
        uint32_t count = lwd_shard_take_suspects(fixture->place.shard, names, LWD_SUSPECTS_MAX);
        lwd_shard_orphans(fixture->place.shard, names, dead, count, fixture->place.now_us);
    }
    assert_int_equal(lwd_shard_restoring(fixture->place.shard), 0);
}

/* The process dies; the disk stays, and with a journal the arena. */
static void crash(fixture_t *fixture)
{
    lwd_restored_t restored;
    lwd_tier_close(fixture->tier);
    place_restart(&fixture->place);
    lwd_keep_destroy(fixture->keep);
    fixture->sim.write_fails = fixture->sim.read_fails = LW_OK;
    if (fixture->place.head != NULL)
        assert_int_equal(lwd_restore_arena(fixture->place.shard, &fixture->place.journal, fixture->place.arena, 1,
                                           &restored, NULL),
                         LW_OK);
    open_log(fixture);
    lwd_restore_log(fixture->place.shard, fixture->tier, SLOTS, &restored);
    assert_true(lwd_shard_check(fixture->place.shard));
    lwd_shard_set_fleet(fixture->place.shard, FLEET);
    confirm(fixture);
}

static lw_segment_name_t name_of(uint32_t i)
{
    return place_name(1 + i % 5, (uint16_t)i, 0, 1);
}

/* Waits for room as a client does. */
static bool put(fixture_t *fixture, uint32_t i)
{
    lw_segment_name_t name = name_of(i);
    for (int tries = 0; tries < 200; tries++) {
        lwd_reserved_t reserved;
        lw_status_t status = place_reserve(&fixture->place, &name, 60000, &reserved);
        if (status == LW_OK) {
            assert_int_equal(lwd_shard_abort(fixture->place.shard, reserved.ref), LW_OK);
            place_round(&fixture->place, LWD_TICK_US);
            (void)place_put(&fixture->place, &name);
            return true;
        }
        assert_int_equal(status, LW_ERR_EXHAUSTED);
        pass(fixture, 2);
    }
    return false;
}

/* Wants it and waits; compares what is read with what was written. */
static bool readable(fixture_t *fixture, uint32_t i)
{
    lw_segment_name_t name = name_of(i);
    lwd_ref_t ref;
    if (lwd_shard_find(fixture->place.shard, &name, &ref) != LW_OK)
        return false;
    for (int tries = 0; tries < 200 && !lwd_shard_want(fixture->place.shard, ref, fixture->place.now_us); tries++) {
        place_round(&fixture->place, LWD_TICK_US); /* the order of a data thread's round: the log's, waiters, the tick */
        (void)lwd_keep_round(fixture->keep, fixture->place.now_us);
    }
    const lwd_segment_t *segment = lwd_shard_readable(fixture->place.shard, ref);
    if (segment == NULL)
        return false;
    const segment_shape_t shape = {.heads = 1, .clusters = 10, .outliers = 5, .rows_max = 9, .head_dim = 16};
    uint64_t bytes;
    uint8_t *want = segment_make(&name, &shape, lw_segment_name_hash(&name), &bytes);
    assert_int_equal(bytes, segment->bytes);
    assert_memory_equal(segment->extent, want, bytes);
    free(want);
    return true;
}

static void test_a_damaged_copy_is_freed_and_never_served(void **state)
{
    fixture_t fixture;
    uint32_t lost = 0;
    (void)state;
    start(&fixture, 16, false);
    for (uint32_t i = 0; i < 60; i++)
        assert_true(put(&fixture, i));
    pass(&fixture, 50);
    for (uint64_t at = LWD_LOG_BLOCK; at < fixture.sim.size; at += 700) /* in every segment, and between them */
        fixture.sim.bytes[at] ^= 0x40;
    for (uint32_t i = 0; i < 60; i++)
        lost += readable(&fixture, i) ? 0 : 1; /* compares when it is served */
    assert_true(lost >= 40 && lost < 60);      /* those in memory are whole */
    assert_int_equal(place_count(&fixture.place.stats.loads_failed), lost);
    for (uint32_t i = 0; i < 60; i++)
        lost -= readable(&fixture, i) ? 0 : 1;
    assert_int_equal(lost, 0); /* freed: NOT_FOUND, so that another replica is asked */
    stop(&fixture);
}

static void test_a_disk_that_cannot_be_read_frees_the_copy(void **state)
{
    fixture_t fixture;
    (void)state;
    start(&fixture, 16, false);
    for (uint32_t i = 0; i < 40; i++)
        assert_true(put(&fixture, i));
    pass(&fixture, 50);
    fixture.sim.read_fails = LW_ERR_IO;
    assert_false(readable(&fixture, 0));
    fixture.sim.read_fails = LW_OK;
    assert_false(readable(&fixture, 0));
    assert_true(readable(&fixture, 1));
    stop(&fixture);
}

static void test_a_disk_that_refuses_writes_leaves_segments_in_memory_and_asks_for_evictions(void **state)
{
    fixture_t fixture;
    uint32_t stored = 0;
    (void)state;
    start(&fixture, 16, false);
    fixture.sim.write_fails = LW_ERR_EXHAUSTED;
    while (stored < 30 && put(&fixture, stored))
        stored++;
    assert_true(stored >= 15 && stored <= 16);
    assert_true(lwd_shard_take_want(fixture.place.shard) > 0);
    for (uint32_t i = 0; i < stored; i++)
        assert_true(readable(&fixture, i));
    fixture.sim.write_fails = LW_OK;
    pass(&fixture, 2000); /* the pause after a failure is over */
    assert_true(put(&fixture, stored));
    stop(&fixture);
}

static void test_only_a_full_log_leads_to_evictions(void **state)
{
    fixture_t fixture;
    uint32_t stored = 0;
    (void)state;
    start(&fixture, 4, false);
    while (stored < SLOTS && put(&fixture, stored)) {
        stored++;
        if (stored < 40) /* 3 zones hold more than this */
            assert_int_equal(lwd_shard_take_want(fixture.place.shard), 0);
    }
    assert_true(stored > 40 && stored < SLOTS);
    assert_true(lwd_shard_take_want(fixture.place.shard) > 0);
    for (uint32_t i = 0; i < stored; i++)
        assert_true(readable(&fixture, i));
    assert_true(lwd_shard_end(fixture.place.shard, 1, UINT16_MAX, 0, UINT32_MAX) > 0); /* one of five sessions */
    pass(&fixture, 500);
    for (uint32_t i = stored; i < stored + 5; i++)
        assert_true(i % 5 == 0 || put(&fixture, i)); /* and there is room again */
    stop(&fixture);
}

static void test_everything_put_can_be_read_and_the_cold_ones_left_first(void **state)
{
    fixture_t fixture;
    lwd_shard_usage_t usage;
    (void)state;
    start(&fixture, 16, false);
    for (uint32_t i = 0; i < 100; i++) {
        assert_true(put(&fixture, i));
        fixture.place.now_us += 200000; /* each is warmer than those before */
        if (i >= 3)
            for (uint32_t hot = 0; hot < 3; hot++)
                assert_true(readable(&fixture, hot)); /* but these are asked for all the time */
    }
    pass(&fixture, 100);
    assert_int_equal(place_count(&fixture.place.stats.loads), 0); /* so that they never left */
    lwd_shard_usage(fixture.place.shard, &usage);
    assert_int_equal(usage.segments + usage.spilled, 100);
    assert_true(usage.spilled >= 84);
    for (uint32_t i = 0; i < 100; i++)
        assert_true(readable(&fixture, i));
    assert_true(place_count(&fixture.place.stats.loads) >= 84);
    assert_true(place_count(&fixture.place.stats.spill_bytes) > 0 && place_count(&fixture.place.stats.load_bytes) > 0);
    uint64_t spills = place_count(&fixture.place.stats.spills);
    for (uint32_t i = 0; i < 80; i++)
        assert_true(readable(&fixture, i));
    assert_true(place_count(&fixture.place.stats.spills) <= spills + 16); /* what is in the log is not written again */
    assert_true(place_count(&fixture.place.stats.log_live_bytes) > 0);
    stop(&fixture);
}

static void test_a_restart_finds_the_log_and_what_an_orderly_end_wrote(void **state)
{
    fixture_t fixture;
    (void)state;
    start(&fixture, 16, false);
    for (uint32_t i = 0; i < 60; i++)
        assert_true(put(&fixture, i));
    for (int i = 0; i < 1000 && !lwd_keep_flush(fixture.keep, fixture.place.now_us); i++)
        fixture.place.now_us += 100;
    assert_true(lwd_keep_flush(fixture.keep, fixture.place.now_us));
    crash(&fixture);
    for (uint32_t i = 0; i < 60; i++)
        assert_true(readable(&fixture, i));
    stop(&fixture);
}

/* With a journal nothing that was committed is lost wherever the process dies. */
static void test_crashes_at_any_step_lose_nothing_when_the_arena_is_a_file(void **state)
{
    lw_prng_t prng;
    fixture_t fixture;
    bool stored[120] = {false};
    (void)state;
    lw_prng_seed(&prng, seed);
    start(&fixture, 16, true);
    for (int step = 0; step < 3000; step++) {
        uint32_t i = (uint32_t)lw_prng_below(&prng, 120);
        uint64_t what = lw_prng_below(&prng, 1000);
        if (what < 400) {
            if (!stored[i])
                stored[i] = put(&fixture, i);
        } else if (what < 900) {
            assert_int_equal(readable(&fixture, i), stored[i]);
        } else if (what < 905) {
            uint64_t origin = 1 + lw_prng_below(&prng, 5);
            for (uint32_t j = 0; j < 120; j++)
                stored[j] = stored[j] && name_of(j).origin != origin;
            (void)lwd_shard_end(fixture.place.shard, origin, 0, 0, 1000);
        } else if (what < 990) {
            pass(&fixture, (unsigned)lw_prng_below(&prng, 4));
        } else {
            fixture.sim.hold = what % 2 == 0; /* some die with operations in flight */
            pass(&fixture, (unsigned)lw_prng_below(&prng, 3));
            fixture.sim.hold = false;
            crash(&fixture);
            for (uint32_t j = 0; j < 120; j++) /* the catalogue said that all live: ended ones may be back from the log */
                if (!stored[j] && readable(&fixture, j))
                    stored[j] = true;
        }
    }
    for (uint32_t i = 0; i < 120; i++)
        assert_int_equal(readable(&fixture, i), stored[i]);
    stop(&fixture);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    lw_log_set_level(LW_LOG_ERROR + 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_damaged_copy_is_freed_and_never_served),
        cmocka_unit_test(test_a_disk_that_cannot_be_read_frees_the_copy),
        cmocka_unit_test(test_a_disk_that_refuses_writes_leaves_segments_in_memory_and_asks_for_evictions),
        cmocka_unit_test(test_only_a_full_log_leads_to_evictions),
        cmocka_unit_test(test_everything_put_can_be_read_and_the_cold_ones_left_first),
        cmocka_unit_test(test_a_restart_finds_the_log_and_what_an_orderly_end_wrote),
        cmocka_unit_test(test_crashes_at_any_step_lose_nothing_when_the_arena_is_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
