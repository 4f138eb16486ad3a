#include "test_support.h"

#include "wire/segment_name.h"

static void test_every_field_changes_hash_and_equality(void **state)
{
    lw_prng_t prng = test_prng("segment_name");
    lw_segment_name_t name;

    test_fill(&prng, &name, sizeof(name));
    for (unsigned bit = 0; bit < sizeof(name) * 8; bit++) {
        lw_segment_name_t other = name;

        ((uint8_t *)&other)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(lw_segment_name_equal(&name, &other));
        assert_true(lw_segment_name_hash(&name) != lw_segment_name_hash(&other));
    }
    lw_segment_name_t same = name;
    assert_true(lw_segment_name_equal(&name, &same));
    assert_true(lw_segment_name_hash(&name) == lw_segment_name_hash(&same));
}

static void test_the_longest_text_fits(void **state)
{
    lw_segment_name_t name = {UINT64_MAX, UINT16_MAX, UINT16_MAX, UINT32_MAX, UINT32_MAX, 0};
    char text[LW_SEGMENT_NAME_TEXT_BYTES];

    assert_ptr_equal(lw_segment_name_text(&name, text), text);
    assert_string_equal(text, "18446744073709551615/65535/65535@4294967295.4294967295");
    name = (lw_segment_name_t){.origin = 7, .rank = 1, .layer = 2, .first_token = 1024, .generation = 3};
    assert_string_equal(lw_segment_name_text(&name, text), "7/1/2@1024.3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_changes_hash_and_equality),
        cmocka_unit_test(test_the_longest_text_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
