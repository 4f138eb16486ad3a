#include "unit/proto/test_support.h"

#include <math.h>

#include "client/examples/llama/llama.h"

static void test_greedy_takes_the_first_of_equals(void **state)
{
    assert_int_equal(llama_greedy((float[]){1, 3, 3, 2}, 4), 1);
    assert_int_equal(llama_greedy((float[]){-5}, 1), 0);
}

static void test_log_probability_of_known_odds(void **state)
{
    const float logits[] = {0, logf(3)}; /* odds 1 : 3 */
    assert_true(fabs(llama_log_probability(logits, 2, 0) - log(0.25)) < 1e-7);
    assert_true(fabs(llama_log_probability(logits, 2, 1) - log(0.75)) < 1e-7);
    const float far[] = {1000, -1000};
    assert_true(llama_log_probability(far, 2, 0) == 0 && llama_log_probability(far, 2, 1) == -2000);
}

static void test_kl_of_known_distributions(void **state)
{
    const float half[] = {5, 5}, quarter[] = {0, logf(3)}, shifted[] = {100, 100};
    double expected = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75);
    assert_true(fabs(llama_kl(half, quarter, 2) - expected) < 1e-7);
    assert_true(fabs(llama_kl(quarter, half, 2) - (0.25 * log(0.5) + 0.75 * log(1.5))) < 1e-7);
    assert_true(llama_kl(half, shifted, 2) < 1e-12); /* only differences of logits count */
}

static void test_kl_is_never_negative_and_nan_shows(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    for (int round = 0; round < 200; round++) {
        float a[50], b[50];
        for (int i = 0; i < 50; i++) {
            a[i] = (float)lw_prng_unit(&prng) * 20;
            b[i] = round & 1 ? a[i] + 1e-6f * (float)lw_prng_unit(&prng) : (float)lw_prng_unit(&prng) * 20;
        }
        assert_true(llama_kl(a, b, 50) >= 0);
        b[round % 50] = NAN;
        assert_true(isnan(llama_kl(a, b, 50)));
    }
}

static void test_agreement_adds_up(void **state)
{
    const float a[] = {2, 1, 0}, b[] = {2, 1.5f, 0}, c[] = {0, 1, 2}, broken[] = {NAN, 1, 0};
    llama_agreement_t agreement = {0};
    llama_agreement_add(&agreement, a, b, 3, 1);
    llama_agreement_add(&agreement, a, c, 3, UINT32_MAX);
    assert_int_equal(agreement.positions, 2);
    assert_int_equal(agreement.top1_equal, 1);
    assert_true(fabs(agreement.kl_sum - llama_kl(a, b, 3) - llama_kl(a, c, 3)) < 1e-12);
    assert_true(agreement.kl_max == llama_kl(a, c, 3));
    assert_true(agreement.expected_nll_sum == -llama_log_probability(a, 3, 1));
    assert_true(agreement.actual_nll_sum == -llama_log_probability(b, 3, 1));
    llama_agreement_add(&agreement, a, broken, 3, UINT32_MAX);
    llama_agreement_add(&agreement, a, b, 3, UINT32_MAX);
    assert_true(isnan(agreement.kl_sum) && isnan(agreement.kl_max));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_first_of_equals),
        cmocka_unit_test(test_log_probability_of_known_odds),
        cmocka_unit_test(test_kl_of_known_distributions),
        cmocka_unit_test(test_kl_is_never_negative_and_nan_shows),
        cmocka_unit_test(test_agreement_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
