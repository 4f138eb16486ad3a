/* The allocator against a model, from a seed; its edges first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "storaged/mem/extent.h"

static uint64_t seed;

static void test_sizes_outside_the_bounds_are_refused(void **state)
{
    lwd_extents_t *extents = NULL;
    (void)state;
    assert_int_equal(lwd_extents_create(4096, 3000, &extents), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_create(4096, 0, &extents), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_create(4095, 4096, &extents), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_create(((uint64_t)LWD_EXTENT_UNITS_MAX + 1) * 16, 16, &extents),
                     LW_ERR_INVALID);
    assert_null(extents);
    lwd_extents_destroy(NULL);
}

static void test_more_than_there_is_has_no_place(void **state)
{
    lwd_extents_t *extents;
    (void)state;
    assert_int_equal(lwd_extents_create(16 * 4096, 4096, &extents), LW_OK);
    assert_int_equal(lwd_extents_alloc(extents, 16 * 4096 + 1), LWD_EXTENT_NONE);
    assert_int_equal(lwd_extents_alloc(extents, UINT64_MAX), LWD_EXTENT_NONE);
    assert_int_equal(lwd_extents_alloc(extents, 16 * 4096), 0);
    assert_int_equal(lwd_extents_alloc(extents, 1), LWD_EXTENT_NONE);
    assert_true(lwd_extents_check(extents));
    lwd_extents_free(extents, 0);
    assert_int_equal(lwd_extents_alloc(extents, 15 * 4096 + 1), 0);
    lwd_extents_destroy(extents);
}

static void test_the_last_fitting_run_is_found_in_a_full_range(void **state)
{
    lwd_extents_t *extents;
    (void)state;
    /* One free run of 37 units among live ones: its class also holds smaller runs, so only the exact search
     * finds it. */
    assert_int_equal(lwd_extents_create(4096 * 200, 4096, &extents), LW_OK);
    uint64_t a = lwd_extents_alloc(extents, 4096 * 80), b = lwd_extents_alloc(extents, 4096 * 37);
    uint64_t c = lwd_extents_alloc(extents, 4096 * 83);
    assert_true(a != LWD_EXTENT_NONE && c != LWD_EXTENT_NONE);
    lwd_extents_free(extents, b);
    assert_int_equal(lwd_extents_alloc(extents, 4096 * 37), b);
    lwd_extents_destroy(extents);
}

static void test_freed_neighbours_become_one_run(void **state)
{
    lwd_extents_t *extents;
    uint64_t at[8];
    (void)state;
    assert_int_equal(lwd_extents_create(8 * 4096, 4096, &extents), LW_OK);
    for (int i = 0; i < 8; i++)
        at[i] = lwd_extents_alloc(extents, 4096);
    const int order[] = {1, 5, 3, 7, 2, 6, 0, 4};
    for (int i = 0; i < 8; i++) {
        lwd_extents_free(extents, at[order[i]]);
        assert_true(lwd_extents_check(extents));
    }
    lwd_extents_usage_t usage;
    lwd_extents_usage(extents, &usage);
    assert_int_equal(usage.free_run_count, 1);
    assert_int_equal(usage.used_bytes, 0);
    assert_int_equal(usage.largest_free_bytes, 8 * 4096);
    lwd_extents_destroy(extents);
}

#define UNITS 700u
#define LIVE_MAX 300u

typedef struct live {
    uint64_t at, bytes;
} live_t;

/* Marks units in the model; fails when one is taken already. */
static void mark(uint8_t *model, const live_t *live, uint8_t from, uint8_t to)
{
    for (uint64_t u = live->at / 256; u < (live->at + live->bytes + 255) / 256; u++) {
        assert_true(u < UNITS);
        assert_int_equal(model[u], from);
        model[u] = to;
    }
}

static uint32_t longest_free(const uint8_t *model)
{
    uint32_t longest = 0, run = 0;
    for (uint32_t u = 0; u < UNITS; u++) {
        run = model[u] == 0 ? run + 1 : 0;
        longest = run > longest ? run : longest;
    }
    return longest;
}

static void test_random_use_agrees_with_a_model(void **state)
{
    lw_prng_t prng;
    lwd_extents_t *extents;
    live_t live[LIVE_MAX];
    uint8_t model[UNITS] = {0};
    uint32_t count = 0, refused = 0;
    (void)state;
    lw_prng_seed(&prng, seed);
    assert_int_equal(lwd_extents_create(UNITS * 256, 256, &extents), LW_OK);
    for (uint32_t step = 0; step < 30000; step++) {
        bool grow = lw_prng_below(&prng, 100) < (step / 3000 % 2 == 0 ? 60 : 40);
        if (grow && count < LIVE_MAX) {
            live_t next = {.bytes =
                               1 + lw_prng_below(&prng, lw_prng_below(&prng, 8) == 0 ? 256 * 90 : 256 * 6)};
            next.at = lwd_extents_alloc(extents, next.bytes);
            if (next.at == LWD_EXTENT_NONE) { /* refusing is right only when no run is long enough */
                assert_true(longest_free(model) < (next.bytes + 255) / 256);
                refused++;
                continue;
            }
            assert_int_equal(lwd_extents_bytes(extents, next.at), lw_align_up(next.bytes, 256));
            mark(model, &next, 0, 1);
            live[count++] = next;
        } else if (count > 0) {
            uint32_t victim = (uint32_t)lw_prng_below(&prng, count);
            mark(model, &live[victim], 1, 0);
            lwd_extents_free(extents, live[victim].at);
            live[victim] = live[--count];
        }
        if (step % 64 == 0)
            assert_true(lwd_extents_check(extents));
    }
    assert_true(refused > 10); /* the model was full often enough to mean something */
    while (count > 0)
        lwd_extents_free(extents, live[--count].at);
    lwd_extents_usage_t usage;
    lwd_extents_usage(extents, &usage);
    assert_int_equal(usage.free_run_count, 1);
    assert_true(lwd_extents_check(extents));
    lwd_extents_destroy(extents);
}

static void test_extents_of_an_earlier_life_are_taken_where_they_were(void **state)
{
    lwd_extents_t *extents;
    (void)state;
    assert_int_equal(lwd_extents_create(64 * 1024, 1024, &extents), LW_OK);
    assert_int_equal(lwd_extents_take(extents, 2048, 3000), LW_OK); /* units 2, 3, 4 */
    assert_int_equal(lwd_extents_take(extents, 4096, 1), LW_ERR_EXISTS);
    assert_int_equal(lwd_extents_take(extents, 1024, 1025), LW_ERR_EXISTS);
    assert_int_equal(lwd_extents_take(extents, 5120, 1), LW_OK);
    assert_int_equal(lwd_extents_take(extents, 63 * 1024, 1024), LW_OK);
    assert_int_equal(lwd_extents_take(extents, 0, 2048), LW_OK); /* out of order is slower, and right */
    assert_int_equal(lwd_extents_take(extents, 63 * 1024, 1025), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_take(extents, 64 * 1024, 1), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_take(extents, 6 * 1024 + 1, 1), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_take(extents, 6 * 1024, 0), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_take(extents, UINT64_MAX - 1023, 1024), LW_ERR_INVALID);
    assert_int_equal(lwd_extents_bytes(extents, 2048), 3072);
    assert_true(lwd_extents_check(extents));
    lwd_extents_usage_t usage;
    lwd_extents_usage(extents, &usage);
    assert_int_equal(usage.used_bytes, 7 * 1024);
    assert_int_equal(usage.extent_count, 4);
    lwd_extents_free(extents, 2048);
    lwd_extents_free(extents, 0);
    assert_true(lwd_extents_check(extents));
    assert_int_equal(lwd_extents_take(extents, 1024, 2048), LW_OK);
    assert_int_equal(lwd_extents_alloc(extents, 57 * 1024), 6 * 1024);
    assert_true(lwd_extents_check(extents));
    lwd_extents_destroy(extents);
}

/* Takes what a random history left live, in ascending order, into a fresh allocator. */
static void test_a_random_history_is_taken_over_whole(void **state)
{
    lwd_extents_t *before, *after;
    uint64_t live[400];
    uint32_t count = 0;
    lw_prng_t prng;
    (void)state;
    lw_prng_seed(&prng, seed);
    assert_int_equal(lwd_extents_create(4096 * 64, 64, &before), LW_OK);
    assert_int_equal(lwd_extents_create(4096 * 64, 64, &after), LW_OK);
    for (int step = 0; step < 3000; step++) {
        uint64_t at = count < 400 ? lwd_extents_alloc(before, 1 + lw_prng_below(&prng, 3000)) : LWD_EXTENT_NONE;
        if (at != LWD_EXTENT_NONE && lw_prng_below(&prng, 2) == 0) {
            live[count++] = at;
        } else if (at != LWD_EXTENT_NONE) {
            lwd_extents_free(before, at);
        } else {
            uint32_t victim = (uint32_t)lw_prng_below(&prng, count);
            lwd_extents_free(before, live[victim]);
            live[victim] = live[--count];
        }
    }
    for (uint64_t at = 0; at < 4096 * 64; at += 64) {
        for (uint32_t i = 0; i < count; i++) {
            if (live[i] == at)
                assert_int_equal(lwd_extents_take(after, at, lwd_extents_bytes(before, at)), LW_OK);
        }
    }
    lwd_extents_usage_t old, new;
    lwd_extents_usage(before, &old);
    lwd_extents_usage(after, &new);
    assert_int_equal(old.used_bytes, new.used_bytes);
    assert_int_equal(old.free_run_count, new.free_run_count);
    assert_true(lwd_extents_check(after));
    lwd_extents_destroy(before);
    lwd_extents_destroy(after);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_outside_the_bounds_are_refused),
        cmocka_unit_test(test_more_than_there_is_has_no_place),
        cmocka_unit_test(test_the_last_fitting_run_is_found_in_a_full_range),
        cmocka_unit_test(test_freed_neighbours_become_one_run),
        cmocka_unit_test(test_extents_of_an_earlier_life_are_taken_where_they_were),
        cmocka_unit_test(test_a_random_history_is_taken_over_whole),
        cmocka_unit_test(test_random_use_agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
