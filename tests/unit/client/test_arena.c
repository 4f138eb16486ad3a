/* test_arena.c - runs of index memory: none overlaps, none is lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/prng.h"
#include "client/arena.h"

static lwc_arena_t make(uint64_t bytes, uint32_t runs)
{
    lwc_arena_t arena;
    lw_error_t error;
    assert_int_equal(lwc_arena_init(&arena, NULL, bytes, runs, &error), LW_OK);
    return arena;
}

static void test_a_run_larger_than_the_arena_is_refused(void **state)
{
    (void)state;
    lwc_arena_t arena = make(1024, 4);
    lwc_run_t run;
    assert_int_equal(lwc_arena_take(&arena, 1025, &run), LW_ERR_EXHAUSTED);
    assert_int_equal(lwc_arena_take(&arena, 1024, &run), LW_OK);
    assert_int_equal(lwc_arena_take(&arena, 1, &run), LW_ERR_EXHAUSTED);
    lwc_arena_fini(&arena);
}

static void test_given_runs_join_their_neighbours(void **state)
{
    (void)state;
    lwc_arena_t arena = make(64 * 4, 4);
    lwc_run_t run[4], whole;
    for (int i = 0; i < 4; i++)
        assert_int_equal(lwc_arena_take(&arena, 1, &run[i]), LW_OK);
    lwc_arena_give(&arena, run[0]);
    lwc_arena_give(&arena, run[2]);
    assert_int_equal(arena.hole_count, 2);
    assert_int_equal(lwc_arena_take(&arena, 128, &whole), LW_ERR_EXHAUSTED);
    lwc_arena_give(&arena, run[1]);
    assert_int_equal(arena.hole_count, 1);
    lwc_arena_give(&arena, run[3]);
    assert_int_equal(lwc_arena_used(&arena), 0);
    assert_int_equal(lwc_arena_take(&arena, 256, &whole), LW_OK);
    lwc_arena_fini(&arena);
}

#define RUNS 60
static void test_random_takes_and_gives_never_overlap_and_lose_nothing(void **state)
{
    (void)state;
    uint64_t seed = (uint64_t)time(NULL);
    lw_prng_t prng;
    lwc_arena_t arena = make(1 << 16, RUNS);
    lwc_run_t runs[RUNS] = {{0, 0}};
    static uint8_t owner[1 << 16];
    printf("seed %llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    for (int i = 0; i < 20000; i++) {
        uint32_t k = (uint32_t)lw_prng_below(&prng, RUNS);
        if (runs[k].bytes > 0) {
            for (uint64_t b = 0; b < runs[k].bytes; b++) {
                assert_int_equal(owner[runs[k].offset + b], k + 1);
                owner[runs[k].offset + b] = 0;
            }
            lwc_arena_give(&arena, runs[k]);
            runs[k] = (lwc_run_t){0, 0};
        } else if (lwc_arena_take(&arena, 1 + lw_prng_below(&prng, 3000), &runs[k]) == LW_OK) {
            assert_int_equal(runs[k].offset % LWC_ARENA_ALIGN, 0);
            for (uint64_t b = 0; b < runs[k].bytes; b++) {
                assert_int_equal(owner[runs[k].offset + b], 0);
                owner[runs[k].offset + b] = (uint8_t)(k + 1);
            }
        } else {
            runs[k] = (lwc_run_t){0, 0};
        }
    }
    for (uint32_t k = 0; k < RUNS; k++)
        lwc_arena_give(&arena, runs[k]);
    assert_int_equal(lwc_arena_used(&arena), 0);
    assert_int_equal(arena.hole_count, 1);
    lwc_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_run_larger_than_the_arena_is_refused),
        cmocka_unit_test(test_given_runs_join_their_neighbours),
        cmocka_unit_test(test_random_takes_and_gives_never_overlap_and_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
