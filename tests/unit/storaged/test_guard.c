/* Quiet points: when a freed extent may be used again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "storaged/shard/guard.h"

static void test_threads_that_have_not_started_hold_nothing_up(void **state)
{
    lwd_guards_t guards;
    (void)state;
    lwd_guards_init(&guards, 3);
    assert_true(lwd_guard_passed(&guards, lwd_guard_retire(&guards)));
}

static void test_every_thread_must_pass_a_quiet_point_after_the_retirement(void **state)
{
    lwd_guards_t guards;
    (void)state;
    lwd_guards_init(&guards, 3);
    for (uint32_t i = 0; i < 3; i++)
        lwd_guard_quiet(&guards, i);
    uint64_t epoch = lwd_guard_retire(&guards);
    assert_false(lwd_guard_passed(&guards, epoch));
    lwd_guard_quiet(&guards, 0);
    lwd_guard_quiet(&guards, 2);
    assert_false(lwd_guard_passed(&guards, epoch));
    lwd_guard_quiet(&guards, 1);
    assert_true(lwd_guard_passed(&guards, epoch));
    assert_false(lwd_guard_passed(&guards, lwd_guard_retire(&guards)));
}

static void test_a_sleeping_thread_holds_nothing_up_and_counts_again_when_it_wakes(void **state)
{
    lwd_guards_t guards;
    (void)state;
    lwd_guards_init(&guards, 2);
    lwd_guard_quiet(&guards, 0);
    lwd_guard_quiet(&guards, 1);
    lwd_guard_offline(&guards, 1);
    uint64_t epoch = lwd_guard_retire(&guards);
    lwd_guard_quiet(&guards, 0);
    assert_true(lwd_guard_passed(&guards, epoch));
    lwd_guard_quiet(&guards, 1);
    assert_true(lwd_guard_passed(&guards, epoch)); /* it woke after the retirement */
    epoch = lwd_guard_retire(&guards);
    lwd_guard_quiet(&guards, 0);
    assert_false(lwd_guard_passed(&guards, epoch));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_that_have_not_started_hold_nothing_up),
        cmocka_unit_test(test_every_thread_must_pass_a_quiet_point_after_the_retirement),
        cmocka_unit_test(test_a_sleeping_thread_holds_nothing_up_and_counts_again_when_it_wakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
