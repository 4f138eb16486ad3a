#include "test_support.h"

static void test_without_an_error_the_status_still_comes_back(void **state)
{
    assert_int_equal(lw_fail(NULL, LW_ERR_STALE, "%s", "words"), LW_ERR_STALE);
}

static void test_a_long_cause_is_cut_and_terminated(void **state)
{
    lw_error_t error;
    char big[1000];

    memset(&error, 0x5a, sizeof(error));
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    assert_int_equal(lw_fail(&error, LW_ERR_IO, "%s", big), LW_ERR_IO);
    assert_int_equal(strlen(error.text), sizeof(error.text) - 1);
}

static void test_control_characters_of_a_peer_do_not_reach_the_line(void **state)
{
    lw_error_t error;

    assert_int_equal(lw_fail(&error, LW_ERR_INVALID, "name '%s'", "a\nb\x1b[31m\x7f"), LW_ERR_INVALID);
    assert_string_equal(error.text, "name 'a?b?[31m?'");
    assert_int_equal(error.status, LW_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_an_error_the_status_still_comes_back),
        cmocka_unit_test(test_a_long_cause_is_cut_and_terminated),
        cmocka_unit_test(test_control_characters_of_a_peer_do_not_reach_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
