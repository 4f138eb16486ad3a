#include "test_support.h"

static void test_the_first_numbers_of_a_seed_never_change(void **state)
{
    lw_prng_t prng;

    /* splitmix64 from state 0, as its authors publish it. */
    lw_prng_seed(&prng, 0);
    assert_true(lw_prng_u64(&prng) == 0xE220A8397B1DCDAFull);
    assert_true(lw_prng_u64(&prng) == 0x6E789E6AA1B965F4ull);
    assert_true(lw_prng_u64(&prng) == 0x06C45D188009454Full);
}

static void test_below_stays_below_and_reaches_every_value(void **state)
{
    lw_prng_t prng = test_prng("prng");
    unsigned seen[7] = {0};

    for (int i = 0; i < 7000; i++) {
        seen[lw_prng_below(&prng, 7)]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_true(seen[i] > 700 && seen[i] < 1300); /* ten standard deviations */
    }
    assert_int_equal(lw_prng_below(&prng, 1), 0);
}

static void test_unit_is_in_zero_to_one(void **state)
{
    lw_prng_t prng = test_prng("prng");
    double sum = 0;

    for (int i = 0; i < 10000; i++) {
        double value = lw_prng_unit(&prng);
        assert_true(value >= 0.0 && value < 1.0);
        sum += value;
    }
    assert_true(sum > 4700 && sum < 5300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_numbers_of_a_seed_never_change),
        cmocka_unit_test(test_below_stays_below_and_reaches_every_value),
        cmocka_unit_test(test_unit_is_in_zero_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
