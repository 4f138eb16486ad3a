/* test_policy.c - what named policies mean and what may be changed about them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "client/policy.h"

static lw_error_t error;

static void refused(lw_session_params_t params, const char *words)
{
    lwk_policy_t policy;
    lwc_index_shape_t shape;
    lw_status_t status = lwc_policy_make(&params, 16, &policy, &error);
    if (status == LW_OK)
        status = lwc_index_shape_make(&params, &shape, &error);
    assert_int_equal(status, LW_ERR_INVALID);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
}

static void test_absurd_values_are_refused_by_name_and_value(void **state)
{
    (void)state;
    refused((lw_session_params_t){.policy = 6}, "policy is 6");
    refused((lw_session_params_t){.retrieve_ppm = 1000001}, "retrieve_ppm is 1000001");
    refused((lw_session_params_t){.estimate_ppm = 2000000}, "estimate_ppm is 2000000");
    refused((lw_session_params_t){.accuracy_ppm = 1000001}, "accuracy_ppm is 1000001");
    refused((lw_session_params_t){.outlier_ppm = 125001}, "outlier_ppm is 125001");
    refused((lw_session_params_t){.cluster_tokens = 3}, "cluster_tokens is 3");
    refused((lw_session_params_t){.segment_tokens = 1000}, "segment_tokens is 1000");
    refused((lw_session_params_t){.segment_tokens = 9216}, "segment_tokens is 9216");
    refused((lw_session_params_t){.cluster_encoding = 5}, "cluster_encoding is 5");
    refused((lw_session_params_t){.outlier_encoding = 9}, "outlier_encoding is 9");
    refused((lw_session_params_t){.correct = 8}, "correct is 8");
    refused((lw_session_params_t){.correct = LW_CORRECT_NONE | LW_CORRECT_VALUE}, "correct is 5");
    refused((lw_session_params_t){.rank_mean = 2}, "rank_mean is 2");
}

static void test_the_papers_policy_is_the_papers(void **state)
{
    (void)state;
    lw_session_params_t params = {.policy = LW_POLICY_PAPER};
    lwk_policy_t policy;
    lwc_index_shape_t shape;
    assert_int_equal(lwc_policy_make(&params, 16, &policy, &error), LW_OK);
    assert_int_equal(lwc_index_shape_make(&params, &shape, &error), LW_OK);
    assert_int_equal(policy.rank, LWK_RANK_MEAN);
    assert_int_equal(policy.budget, LWK_BUDGET_CLUSTERS);
    assert_int_equal(policy.retrieve_ppm, 18000);
    assert_int_equal(policy.estimate_ppm, 232000);
    assert_int_equal(policy.correct, 0);
    assert_int_equal(shape.outlier_ppm, 0);
    assert_int_equal(shape.segment_tokens, 8192);
}

static void test_an_explicit_zero_is_not_the_default(void **state)
{
    (void)state;
    lw_session_params_t params = {.retrieve_ppm = LW_PPM_NONE, .outlier_ppm = LW_PPM_NONE, .correct = LW_CORRECT_NONE};
    lwk_policy_t policy;
    lwc_index_shape_t shape;
    assert_int_equal(lwc_policy_make(&params, 16, &policy, &error), LW_OK);
    assert_int_equal(lwc_index_shape_make(&params, &shape, &error), LW_OK);
    assert_int_equal(policy.retrieve_ppm, 0);
    assert_int_equal(policy.correct, 0);
    assert_int_equal(shape.outlier_ppm, 0);
    params = (lw_session_params_t){0};
    assert_int_equal(lwc_policy_make(&params, 16, &policy, &error), LW_OK);
    assert_int_equal(lwc_index_shape_make(&params, &shape, &error), LW_OK);
    assert_true((policy.retrieve_ppm > 0 || policy.accuracy_ppm > 0) && shape.outlier_ppm > 0);
    assert_int_equal(policy.correct, 0);
    params.correct = LW_CORRECT_VARIANCE | LW_CORRECT_VALUE;
    assert_int_equal(lwc_policy_make(&params, 16, &policy, &error), LW_OK);
    assert_int_equal(policy.correct, LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE);
}

static void test_accuracy_chooses_the_error_budget(void **state)
{
    (void)state;
    lw_session_params_t params = {.accuracy_ppm = 500000};
    lwk_policy_t policy;
    assert_int_equal(lwc_policy_make(&params, 16, &policy, &error), LW_OK);
    assert_int_equal(policy.budget, LWK_BUDGET_ERROR);
    assert_int_equal(policy.accuracy_ppm, 500000);
    assert_int_equal(policy.floor_entries, LWC_ACCURACY_FLOOR);
    assert_int_equal(policy.cap_ppm, LWC_ACCURACY_CAP_PPM);
    assert_true(lwc_policy_is_asked(&params));
    params = (lw_session_params_t){.ttl_us = 5};
    assert_false(lwc_policy_is_asked(&params));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absurd_values_are_refused_by_name_and_value),
        cmocka_unit_test(test_the_papers_policy_is_the_papers),
        cmocka_unit_test(test_an_explicit_zero_is_not_the_default),
        cmocka_unit_test(test_accuracy_chooses_the_error_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
