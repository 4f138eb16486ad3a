#include "test_support.h"

static void test_an_unknown_status_has_words(void **state)
{
    assert_string_equal(lw_status_text(-1000), "unknown status");
    assert_string_equal(lw_status_name(2), "UNKNOWN");
}

static void test_every_status_has_its_own_code_and_words(void **state)
{
    static const struct {
        int code;
        const char *name, *text;
    } all[] = {
#define XX(name, code, text) {code, #name, text},
        LW_STATUS_MAP(XX)
#undef XX
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(all); i++) {
        assert_string_equal(lw_status_name(all[i].code), all[i].name);
        assert_string_equal(lw_status_text(all[i].code), all[i].text);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(all[i].code, all[j].code);
            assert_string_not_equal(all[i].text, all[j].text);
        }
    }
}

static void broken(void *arg) { LW_ASSERT(arg != NULL); }

static void test_a_broken_assertion_ends_the_process_in_any_build(void **state)
{
    int there;

    assert_true(test_aborts(broken, NULL));
    assert_false(test_aborts(broken, &there));
}

static void test_align_and_divide_round_up(void **state)
{
    lw_prng_t prng = test_prng("base");

    for (int i = 0; i < 1000; i++) {
        uint64_t value = lw_prng_u64(&prng) >> 8, align = 1ull << lw_prng_below(&prng, 20);
        uint64_t up = lw_align_up(value, align);

        assert_true(up >= value && up - value < align && up % align == 0);
        assert_int_equal(lw_div_up(value, align), up / align);
    }
    assert_int_equal(lw_div_up(0, 7), 0);
    assert_int_equal(lw_min_u64(1, UINT64_MAX), 1);
    assert_int_equal(lw_max_u64(1, 2), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_unknown_status_has_words),
        cmocka_unit_test(test_every_status_has_its_own_code_and_words),
        cmocka_unit_test(test_a_broken_assertion_ends_the_process_in_any_build),
        cmocka_unit_test(test_align_and_divide_round_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
