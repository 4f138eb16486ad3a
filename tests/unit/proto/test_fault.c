#include "test_support.h"

#include <pthread.h>

#include "base/fault.h"

#define DRAWS 2000

static unsigned draw(lw_fault_t fault, bool *fired)
{
    unsigned count = 0;

    for (int i = 0; i < DRAWS; i++) {
        bool fires = lw_fault_fires(fault);
        count += fires;
        if (fired != NULL) {
            fired[i] = fires;
        }
    }
    return count;
}

static void test_bad_text_enables_nothing(void **state)
{
    static const char *const bad[] = {"REPLY_DROP",
                                      "REPLY_DROP=",
                                      "NO_SUCH=1",
                                      "REPLY_DROP=2",
                                      "REPLY_DROP=-0.1",
                                      "REPLY_DROP=nan",
                                      "REPLY_DROP=1x",
                                      "=1",
                                      ";",
                                      "RESERVE_FULL=1;REPLY_DROP=oops"};

    lw_fault_reset(1);
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        assert_int_equal(lw_fault_enable_text(bad[i]), LW_ERR_INVALID);
        for (int fault = 0; fault < LW_FAULT_COUNT; fault++) {
            assert_int_equal(draw((lw_fault_t)fault, NULL), 0);
        }
    }
}

static void test_text_enables_what_it_names(void **state)
{
    lw_fault_reset(1);
    assert_int_equal(lw_fault_enable_text(""), LW_OK);
    assert_int_equal(lw_fault_enable_text("REPLY_DROP=1;RESERVE_FULL=0.5;"), LW_OK);
    assert_int_equal(draw(LW_FAULT_REPLY_DROP, NULL), DRAWS);
    assert_in_range(draw(LW_FAULT_RESERVE_FULL, NULL), DRAWS / 3, DRAWS * 2 / 3);
    assert_int_equal(draw(LW_FAULT_CHECKSUM_SKIP, NULL), 0);
    assert_int_equal(lw_fault_enable_text("REPLY_DROP=0"), LW_OK);
    assert_false(LW_FAULT(REPLY_DROP));
    assert_int_equal(lw_fault_enable_text("RESERVE_FULL=1"), LW_OK);
    assert_true(LW_FAULT(RESERVE_FULL));
}

static void test_a_seed_repeats_its_draws_and_another_differs(void **state)
{
    lw_prng_t prng = test_prng("fault");
    uint64_t seed = lw_prng_u64(&prng);
    bool first[DRAWS], again[DRAWS], other[DRAWS];

    lw_fault_reset(seed);
    lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 0.3);
    assert_in_range(draw(LW_FAULT_REPLY_CORRUPT, first), DRAWS / 5, DRAWS * 2 / 5);
    lw_fault_reset(seed);
    lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 0.3);
    lw_fault_enable(LW_FAULT_REPLY_DROP, 0.5);
    draw(LW_FAULT_REPLY_DROP, other); /* another point's draws do not shift this one's */
    draw(LW_FAULT_REPLY_CORRUPT, again);
    assert_memory_equal(first, again, sizeof(first));
    assert_memory_not_equal(first, other, sizeof(first));
    lw_fault_reset(seed + 1);
    lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 0.3);
    draw(LW_FAULT_REPLY_CORRUPT, other);
    assert_memory_not_equal(first, other, sizeof(first));
}

static void test_points_of_one_seed_do_not_fire_together(void **state)
{
    bool drop[DRAWS], full[DRAWS];

    lw_fault_reset(5);
    lw_fault_enable(LW_FAULT_REPLY_DROP, 0.5);
    lw_fault_enable(LW_FAULT_RESERVE_FULL, 0.5);
    draw(LW_FAULT_REPLY_DROP, drop);
    draw(LW_FAULT_RESERVE_FULL, full);
    assert_memory_not_equal(drop, full, sizeof(drop));
}

static void test_reset_turns_every_point_off(void **state)
{
    lw_fault_enable(LW_FAULT_REPLY_DROP, 1.0);
    lw_fault_reset(7);
    assert_int_equal(draw(LW_FAULT_REPLY_DROP, NULL), 0);
}

static void *draw_all(void *arg)
{
    *(unsigned *)arg = draw(LW_FAULT_REPLY_DROP, NULL);
    return NULL;
}

static void test_threads_share_one_sequence_of_draws(void **state)
{
    unsigned alone = 0, counts[4], together = 0;
    pthread_t threads[4];

    lw_fault_reset(99);
    lw_fault_enable(LW_FAULT_REPLY_DROP, 0.25);
    for (int i = 0; i < 4; i++) {
        alone += draw(LW_FAULT_REPLY_DROP, NULL);
    }
    lw_fault_reset(99);
    lw_fault_enable(LW_FAULT_REPLY_DROP, 0.25);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, draw_all, &counts[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        together += counts[i];
    }
    assert_int_equal(alone, together);
}

static void enable_beyond_one(void *arg) { lw_fault_enable(LW_FAULT_REPLY_DROP, 1.5); }

static void test_a_chance_beyond_one_is_our_mistake(void **state)
{
    assert_true(test_aborts(enable_beyond_one, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_text_enables_nothing),
        cmocka_unit_test(test_text_enables_what_it_names),
        cmocka_unit_test(test_a_seed_repeats_its_draws_and_another_differs),
        cmocka_unit_test(test_points_of_one_seed_do_not_fire_together),
        cmocka_unit_test(test_reset_turns_every_point_off),
        cmocka_unit_test(test_threads_share_one_sequence_of_draws),
        cmocka_unit_test(test_a_chance_beyond_one_is_our_mistake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
