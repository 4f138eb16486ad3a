/* The log on disk, over a disk in memory: torn writes, flipped bits, no space, crashes anywhere. Faults first. */
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
#include "base/prng.h"
#include "storaged/io/disk_sim.h"
#include "storaged/tier/log_fmt.h"
#include "storaged/tier/tier.h"
#include "unit/storaged/segment_make.h"

#define ZONE (256u << 10)
#define ZONES 8u
#define FLEET 99u
#define BUFFER_BYTES (64u << 10)

static uint64_t seed;

typedef struct fixture {
    lwd_disk_sim_t sim;
    lwd_tier_t *tier;
    uint8_t *buffer; /* block-aligned */
} fixture_t;

static void open_log(fixture_t *fixture)
{
    lwd_tier_params_t params = {.disk = lwd_disk_sim_ops(),
                                .path = "log",
                                .bytes = LWD_LOG_BLOCK + ZONES * (uint64_t)ZONE,
                                .zone_bytes = ZONE,
                                .record_max = 256};
    lw_error_t error = {0};
    lwd_disk_sim_use(&fixture->sim);
    assert_int_equal(lwd_tier_open(&params, &fixture->tier, &error), LW_OK);
    assert_true(lwd_tier_check(fixture->tier));
}

static void start(fixture_t *fixture)
{
    memset(fixture, 0, sizeof(*fixture));
    fixture->sim = (lwd_disk_sim_t){.size = LWD_LOG_BLOCK + ZONES * (uint64_t)ZONE, .torn_after = UINT64_MAX};
    fixture->sim.bytes = calloc(1, fixture->sim.size);
    fixture->buffer = aligned_alloc(LWD_LOG_BLOCK, BUFFER_BYTES);
    assert_true(fixture->sim.bytes != NULL && fixture->buffer != NULL);
    open_log(fixture);
}

static void stop(fixture_t *fixture)
{
    assert_true(lwd_tier_check(fixture->tier));
    lwd_tier_close(fixture->tier);
    free(fixture->sim.bytes);
    free(fixture->buffer);
}

/* The process dies where it stands; the plug is in again. */
static void crash(fixture_t *fixture)
{
    lwd_tier_close(fixture->tier);
    fixture->sim.torn_after = UINT64_MAX;
    fixture->sim.write_fails = fixture->sim.read_fails = LW_OK;
    open_log(fixture);
}

static lw_segment_name_t name_of(uint32_t i)
{
    return (lw_segment_name_t){.origin = 1, .layer = (uint16_t)i, .first_token = i * 1024, .generation = 1};
}

static uint8_t *make(uint32_t i, uint64_t *bytes_out)
{
    const segment_shape_t shape = {.heads = 1, .clusters = 10 + i % 30, .outliers = 5, .rows_max = 9, .head_dim = 16};
    lw_segment_name_t name = name_of(i);
    return segment_make(&name, &shape, i, bytes_out);
}

/* Begins to append segment i, whose bytes are in the fixture's buffer until it ends. */
static lw_status_t append(fixture_t *fixture, uint32_t i)
{
    uint64_t bytes;
    uint8_t *segment = make(i, &bytes);
    assert_true(bytes < BUFFER_BYTES);
    memcpy(fixture->buffer, segment, bytes);
    free(segment);
    lwd_tier_record_t record = {name_of(i), bytes, FLEET};
    return lwd_tier_append(fixture->tier, &record, fixture->buffer, i);
}

/* Rounds until something ends; its event. False: nothing did in a hundred. */
static bool await(fixture_t *fixture, lwd_tier_event_t *event)
{
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    for (int i = 0; i < 100; i++) {
        uint32_t count = lwd_tier_round(fixture->tier, events);
        assert_true(count <= 1);
        if (count == 1) {
            *event = events[0];
            return true;
        }
    }
    return false;
}

static uint32_t put(fixture_t *fixture, uint32_t i)
{
    lwd_tier_event_t event;
    assert_int_equal(append(fixture, i), LW_OK);
    assert_true(await(fixture, &event));
    assert_int_equal(event.what, LWD_TIER_APPENDED);
    assert_int_equal(event.cookie, i);
    assert_int_equal(event.status, LW_OK);
    return event.record;
}

/* Loads a record and compares: OK, or what the segment's own checks say. */
static lw_status_t load(fixture_t *fixture, uint32_t record, uint32_t i)
{
    lwd_tier_event_t event;
    uint64_t bytes;
    lw_error_t error = {0};
    memset(fixture->buffer, 0xA5, BUFFER_BYTES);
    assert_int_equal(lwd_tier_load(fixture->tier, record, fixture->buffer, 7), LW_OK);
    assert_true(await(fixture, &event));
    assert_int_equal(event.what, LWD_TIER_LOADED);
    if (event.status != LW_OK)
        return event.status;
    uint8_t *segment = make(i, &bytes);
    lw_status_t status = lw_segment_verify(fixture->buffer, bytes, &error);
    if (status == LW_OK)
        assert_memory_equal(fixture->buffer, segment, bytes);
    free(segment);
    return status;
}

static uint32_t find(const fixture_t *fixture, uint32_t i)
{
    lw_segment_name_t name = name_of(i);
    uint32_t found = LWD_TIER_NONE;
    for (uint32_t record = 0; record < 256; record++) {
        lwd_tier_record_t is;
        if (!lwd_tier_record(fixture->tier, record, &is) || !lw_segment_name_equal(&is.name, &name))
            continue;
        assert_int_equal(found, LWD_TIER_NONE); /* one copy of a name */
        assert_int_equal(is.fleet_id, FLEET);
        found = record;
    }
    return found;
}

/* The plug is pulled after every 512 bytes of a record: the one before it is whole, and it is there whole or not at all. */
static void test_a_write_torn_anywhere_leaves_the_record_whole_or_absent(void **state)
{
    uint64_t bytes;
    (void)state;
    free(make(1, &bytes));
    uint64_t space = lwd_log_record_space(bytes);
    for (uint64_t cut = 0; cut <= space; cut += 512) {
        fixture_t fixture;
        start(&fixture);
        (void)put(&fixture, 0);
        fixture.sim.torn_after = cut;
        (void)put(&fixture, 1);
        crash(&fixture);
        assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_OK);
        uint32_t record = find(&fixture, 1);
        /* the header's 128 bytes come last */
        assert_int_equal(record != LWD_TIER_NONE, cut >= space - LWD_LOG_BLOCK + 512);
        if (record != LWD_TIER_NONE)
            assert_int_equal(load(&fixture, record, 1), LW_OK);
        (void)put(&fixture, 2); /* and the log goes on behind it */
        crash(&fixture);
        assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_OK);
        assert_int_equal(load(&fixture, find(&fixture, 2), 2), LW_OK);
        stop(&fixture);
    }
}

/* A disk that put the header down and lost the rest, from any 512 bytes on. */
static void test_bytes_that_a_disk_forgot_are_noticed_when_they_are_loaded(void **state)
{
    uint64_t bytes;
    (void)state;
    free(make(1, &bytes));
    for (uint64_t cut = 0; cut < bytes; cut += 512) {
        fixture_t fixture;
        start(&fixture);
        uint32_t first = put(&fixture, 0);
        (void)put(&fixture, 1);
        uint64_t before;
        free(make(0, &before));
        uint64_t at = LWD_LOG_BLOCK + lwd_log_record_space(before) + LWD_LOG_BLOCK;
        memset(fixture.sim.bytes + at + cut, 0x5A, lw_align_up(bytes, LWD_LOG_BLOCK) - cut);
        crash(&fixture);
        assert_int_not_equal(load(&fixture, find(&fixture, 1), 1), LW_OK);
        assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_OK);
        (void)first;
        stop(&fixture);
    }
}

static void test_a_flipped_bit_is_never_served(void **state)
{
    lw_prng_t prng;
    fixture_t fixture;
    uint64_t bytes;
    (void)state;
    lw_prng_seed(&prng, seed);
    start(&fixture);
    (void)put(&fixture, 0);
    free(make(0, &bytes));
    for (int bit = 0; bit < 128 * 8; bit++) { /* the header: not believed */
        uint8_t *at = fixture.sim.bytes + LWD_LOG_BLOCK + bit / 8;
        *at ^= (uint8_t)(1u << bit % 8);
        crash(&fixture);
        assert_int_equal(find(&fixture, 0), LWD_TIER_NONE);
        *at ^= (uint8_t)(1u << bit % 8);
    }
    for (int round = 0; round < 300; round++) { /* the segment: noticed, or between parts, where nothing is read */
        uint64_t bit = lw_prng_below(&prng, bytes * 8);
        uint8_t *at = fixture.sim.bytes + 2 * LWD_LOG_BLOCK + bit / 8;
        *at ^= (uint8_t)(1u << bit % 8);
        crash(&fixture);
        assert_int_equal(lwd_tier_load(fixture.tier, find(&fixture, 0), fixture.buffer, 0), LW_OK);
        lwd_tier_event_t event;
        assert_true(await(&fixture, &event));
        if (lw_segment_verify(fixture.buffer, bytes, NULL) == LW_OK) {
            uint8_t *segment = make(0, &bytes);
            for (uint32_t e = 0; e < 15; e++) {
                uint32_t record_bytes;
                const uint8_t *want = segment_record(segment, 0, e, &record_bytes);
                assert_memory_equal(fixture.buffer + (want - segment), want, record_bytes);
            }
            free(segment);
        }
        *at ^= (uint8_t)(1u << bit % 8);
    }
    stop(&fixture);
}

static void test_a_full_or_broken_disk_is_said_and_the_log_goes_on_after_it(void **state)
{
    const lw_status_t fails[] = {LW_ERR_EXHAUSTED, LW_ERR_IO};
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(fails); i++) {
        fixture_t fixture;
        lwd_tier_event_t event;
        lwd_tier_usage_t usage;
        start(&fixture);
        (void)put(&fixture, 0);
        fixture.sim.write_fails = fails[i];
        for (uint32_t j = 1; j < 4; j++) {
            assert_int_equal(append(&fixture, j), LW_OK);
            assert_true(await(&fixture, &event));
            assert_int_equal(event.status, fails[i]);
            assert_int_equal(find(&fixture, j), LWD_TIER_NONE);
        }
        lwd_tier_usage(fixture.tier, &usage);
        assert_int_equal(usage.errors, 3);
        fixture.sim.write_fails = LW_OK;
        (void)put(&fixture, 4);
        fixture.sim.read_fails = LW_ERR_IO;
        assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_ERR_IO);
        fixture.sim.read_fails = LW_OK;
        crash(&fixture);
        assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_OK);
        assert_int_equal(load(&fixture, find(&fixture, 4), 4), LW_OK);
        stop(&fixture);
    }
}

/* Rounds until compaction has copied something more into the zone that is kept for it. */
static void copy_into_the_last_zone(fixture_t *fixture)
{
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    lwd_tier_usage_t usage;
    uint64_t before = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(lwd_tier_round(fixture->tier, events), 0);
        lwd_tier_usage(fixture->tier, &usage);
        if (usage.free_zones == 0 && before == UINT64_MAX)
            before = usage.compacted_bytes;
        if (before != UINT64_MAX && usage.compacted_bytes > before)
            return;
    }
    fail_msg("compaction has taken no zone");
}

/* One write of compaction fails and closes the zone that was kept for it: there is no room then, and that is said, until the
 * records of some zone are all forgotten. */
static void test_compaction_that_lost_its_zone_is_no_room_and_no_endless_wait(void **state)
{
    fixture_t fixture;
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    uint32_t records[256], count = 0;
    lw_status_t status = LW_ERR_BUSY;
    (void)state;
    start(&fixture);
    while (count < 256 && (status = append(&fixture, count)) == LW_OK) {
        assert_true(await(&fixture, &events[0]));
        records[count++] = events[0].record;
    }
    assert_int_equal(status, LW_ERR_EXHAUSTED);
    for (uint32_t i = 0; i < count; i += 3)
        lwd_tier_forget(fixture.tier, records[i]);
    copy_into_the_last_zone(&fixture);
    fixture.sim.write_fails = LW_ERR_IO;
    for (int i = 0; i < 4; i++)
        assert_int_equal(lwd_tier_round(fixture.tier, events), 0);
    fixture.sim.write_fails = LW_OK;
    status = LW_ERR_BUSY;
    for (int i = 0; i < 100 && status == LW_ERR_BUSY; i++) {
        status = append(&fixture, 255);
        assert_int_equal(lwd_tier_round(fixture.tier, events), 0);
    }
    assert_int_equal(status, LW_ERR_EXHAUSTED);
    assert_false(lwd_tier_has_room(fixture.tier));
    for (uint32_t i = 0; i < count; i++)
        if (i % 3 != 0)
            lwd_tier_forget(fixture.tier, records[i]);
    assert_true(lwd_tier_has_room(fixture.tier));
    (void)put(&fixture, 255);
    stop(&fixture);
}

/* All bytes are on the disk, and the process dies before it has taken note. */
static void test_a_crash_between_write_and_index_loses_nothing_that_was_promised(void **state)
{
    fixture_t fixture;
    (void)state;
    start(&fixture);
    (void)put(&fixture, 0);
    fixture.sim.hold = true;
    assert_int_equal(append(&fixture, 1), LW_OK);
    fixture.sim.hold = false;
    crash(&fixture); /* nothing of it was written */
    assert_int_equal(find(&fixture, 1), LWD_TIER_NONE);
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    assert_int_equal(append(&fixture, 1), LW_OK);
    (void)lwd_tier_round(fixture.tier, events); /* its header is written, and nobody was told */
    crash(&fixture);
    assert_int_equal(load(&fixture, find(&fixture, 1), 1), LW_OK);
    assert_int_equal(load(&fixture, find(&fixture, 0), 0), LW_OK);
    stop(&fixture);
}

static void test_what_does_not_fit_is_refused(void **state)
{
    fixture_t fixture;
    lwd_tier_record_t huge = {name_of(0), ZONE, FLEET};
    uint32_t stored = 0;
    (void)state;
    start(&fixture);
    assert_int_equal(lwd_tier_append(fixture.tier, &huge, fixture.buffer, 0), LW_ERR_INVALID);
    fixture.sim.hold = true;
    assert_int_equal(append(&fixture, 500), LW_OK);
    assert_int_equal(append(&fixture, 501), LW_ERR_BUSY); /* one at a time */
    fixture.sim.hold = false;
    crash(&fixture);
    lw_status_t status = LW_OK;
    for (; stored < 256; stored++) {
        lwd_tier_event_t event;
        status = append(&fixture, stored);
        if (status != LW_OK)
            break;
        assert_true(await(&fixture, &event));
        assert_int_equal(event.status, LW_OK);
    }
    assert_int_equal(status, LW_ERR_EXHAUSTED); /* zones or records */
    assert_false(lwd_tier_has_room(fixture.tier));
    for (uint32_t i = 0; i < stored; i++)
        assert_int_equal(load(&fixture, find(&fixture, i), i), LW_OK);
    stop(&fixture);
}

static void test_another_geometry_is_begun_anew_and_a_foreign_file_is_left_alone(void **state)
{
    fixture_t fixture;
    lwd_tier_t *tier;
    lw_error_t error = {0};
    (void)state;
    start(&fixture);
    (void)put(&fixture, 0);
    lwd_tier_close(fixture.tier);
    lwd_tier_params_t params = {.disk = lwd_disk_sim_ops(), .path = "log", .bytes = fixture.sim.size - 2 * ZONE,
                                .zone_bytes = ZONE, .record_max = 256};
    assert_int_equal(lwd_tier_open(&params, &fixture.tier, &error), LW_OK);
    assert_int_equal(find(&fixture, 0), LWD_TIER_NONE);
    crash(&fixture); /* and back: its records carry another log's id */
    assert_int_equal(find(&fixture, 0), LWD_TIER_NONE);
    lwd_tier_close(fixture.tier);
    memcpy(fixture.sim.bytes, "somebody's thesis", 17);
    params.bytes = fixture.sim.size;
    assert_int_equal(lwd_tier_open(&params, &tier, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "left alone"));
    assert_memory_equal(fixture.sim.bytes, "somebody's thesis", 17);
    free(fixture.sim.bytes);
    free(fixture.buffer);
}

static void test_a_record_may_be_forgotten_while_it_is_read(void **state)
{
    fixture_t fixture;
    (void)state;
    start(&fixture);
    uint32_t record = put(&fixture, 0);
    fixture.sim.hold = true;
    assert_int_equal(lwd_tier_load(fixture.tier, record, fixture.buffer, 3), LW_OK);
    lwd_tier_forget(fixture.tier, record);
    assert_true(lwd_tier_check(fixture.tier));
    assert_false(lwd_tier_idle(fixture.tier));
    fixture.sim.hold = false;
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    assert_int_equal(lwd_tier_round(fixture.tier, events), 0);
    assert_int_equal(append(&fixture, 1), LW_OK); /* the submission runs what was held, too */
    uint32_t ended = lwd_tier_round(fixture.tier, events);
    assert_int_equal(ended + lwd_tier_round(fixture.tier, events), 2);
    assert_true(lwd_tier_idle(fixture.tier));
    assert_int_equal(find(&fixture, 0), LWD_TIER_NONE);
    stop(&fixture);
}

/* Many times the log's size goes through it; crashes come at any of the disk's steps. What was said to be stored and was
 * not forgotten is always there. */
static void test_random_use_with_crashes_agrees_with_a_model(void **state)
{
    fixture_t fixture;
    lw_prng_t prng;
    bool stored[600] = {false};
    uint32_t live = 0, crashes = 0, next = 0, refused = 0;
    (void)state;
    lw_prng_seed(&prng, seed);
    start(&fixture);
    for (int step = 0; step < 4000; step++) {
        uint32_t pick = (uint32_t)lw_prng_below(&prng, 600);
        uint64_t what = lw_prng_below(&prng, 100);
        lwd_tier_event_t event;
        if (what < 55 && live < 90) {
            while (stored[next])
                next = (next + 1) % 600;
            lw_status_t status = append(&fixture, next);
            if (status == LW_OK && await(&fixture, &event)) {
                assert_int_equal(event.status, LW_OK);
                stored[next] = true;
                live++;
            } else {
                refused++;
                (void)await(&fixture, &event); /* compaction goes on */
            }
        } else if (what < 85 && stored[pick]) {
            assert_int_equal(load(&fixture, find(&fixture, pick), pick), LW_OK);
        } else if (what < 97 && stored[pick]) {
            lwd_tier_forget(fixture.tier, find(&fixture, pick));
            stored[pick] = false;
            live--;
        } else if (what >= 98) { /* in the middle of whatever compaction is at */
            fixture.sim.hold = true;
            lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
            (void)lwd_tier_round(fixture.tier, events);
            fixture.sim.hold = false;
            crash(&fixture);
            crashes++;
            for (uint32_t i = 0; i < 600; i++) { /* forgotten ones may be back: the catalogue is asked about them */
                uint32_t record = find(&fixture, i);
                if (stored[i])
                    assert_int_equal(load(&fixture, record, i), LW_OK);
                else if (record != LWD_TIER_NONE)
                    lwd_tier_forget(fixture.tier, record);
            }
        }
        if (step % 64 == 0)
            assert_true(lwd_tier_check(fixture.tier));
    }
    lwd_tier_usage_t usage;
    lwd_tier_usage(fixture.tier, &usage);
    assert_int_equal(usage.records, live);
    assert_true(crashes > 20);
    assert_true(usage.compacted_bytes > 0 || refused > 0);
    stop(&fixture);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    lw_log_set_level(LW_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_torn_anywhere_leaves_the_record_whole_or_absent),
        cmocka_unit_test(test_bytes_that_a_disk_forgot_are_noticed_when_they_are_loaded),
        cmocka_unit_test(test_a_flipped_bit_is_never_served),
        cmocka_unit_test(test_a_full_or_broken_disk_is_said_and_the_log_goes_on_after_it),
        cmocka_unit_test(test_compaction_that_lost_its_zone_is_no_room_and_no_endless_wait),
        cmocka_unit_test(test_a_crash_between_write_and_index_loses_nothing_that_was_promised),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_another_geometry_is_begun_anew_and_a_foreign_file_is_left_alone),
        cmocka_unit_test(test_a_record_may_be_forgotten_while_it_is_read),
        cmocka_unit_test(test_random_use_with_crashes_agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
