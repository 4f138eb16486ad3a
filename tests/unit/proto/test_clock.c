#include "test_support.h"

#include <time.h>

static void test_the_monotonic_clock_never_goes_back(void **state)
{
    uint64_t last = lw_now_us(lw_clock_real());

    assert_true(last > 0);
    for (int i = 0; i < 10000; i++) {
        uint64_t now = lw_now_us(lw_clock_real());
        assert_true(now >= last);
        last = now;
    }
}

static void test_the_wall_clock_agrees_with_libc_in_microseconds(void **state)
{
    uint64_t before = (uint64_t)time(NULL);
    uint64_t now = lw_clock_real()->unix_us(lw_clock_real()->self) / 1000000u;
    uint64_t after = (uint64_t)time(NULL);

    assert_true(now + 1 >= before && now <= after + 1); /* time() may lag by a tick */
}

static uint64_t told(void *self) { return *(uint64_t *)self; }

static void test_a_simulated_clock_takes_the_place_of_the_real_one(void **state)
{
    uint64_t now = 42;
    lw_clock_t clock = {.now_us = told, .unix_us = told, .self = &now};

    assert_int_equal(lw_now_us(&clock), 42);
    now = 43;
    assert_int_equal(lw_now_us(&clock), 43);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_monotonic_clock_never_goes_back),
        cmocka_unit_test(test_the_wall_clock_agrees_with_libc_in_microseconds),
        cmocka_unit_test(test_a_simulated_clock_takes_the_place_of_the_real_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
