#include "unit/proto/test_support.h"

#include "client/examples/llama/unicode.h"

static void test_invalid_bytes_stand_alone(void **state)
{
    static const char *const wrong[] = {
        "\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x80\x80",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
        "\xe2\x82",     "\xf0\x9f\x98",     "\xe2x\x82"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(wrong); i++) {
        size_t length = 0;
        assert_int_equal(llama_utf8_next(wrong[i], strlen(wrong[i]), &length), LLAMA_INVALID_BYTE);
        assert_int_equal(length, 1);
    }
}

static void test_each_length_decodes(void **state)
{
    size_t length;
    assert_int_equal(llama_utf8_next("A", 1, &length), 'A');
    assert_int_equal(llama_utf8_next("\xc3\xa9", 2, &length), 0xe9);
    assert_int_equal(length, 2);
    assert_int_equal(llama_utf8_next("\xe2\x82\xac", 3, &length), 0x20ac);
    assert_int_equal(length, 3);
    assert_int_equal(llama_utf8_next("\xf0\x9f\x98\x80", 4, &length), 0x1f600);
    assert_int_equal(length, 4);
}

static void test_put_is_the_inverse_of_next(void **state)
{
    for (uint32_t code_point = 0; code_point < 0x10000; code_point++) {
        char text[4];
        size_t length;
        if (code_point >= 0xd800 && code_point < 0xe000)
            continue;
        size_t written = llama_utf8_put(code_point, text);
        assert_int_equal(llama_utf8_next(text, written, &length), code_point);
        assert_int_equal(length, written);
    }
}

static void test_classes_of_known_characters(void **state)
{
    static const struct {
        uint32_t code_point;
        llama_class_t class;
    } known[] = {{'a', LLAMA_CLASS_LETTER},
                 {'Z', LLAMA_CLASS_LETTER},
                 {'_', LLAMA_CLASS_OTHER},
                 {'7', LLAMA_CLASS_NUMBER},
                 {' ', LLAMA_CLASS_SPACE},
                 {'\n', LLAMA_CLASS_SPACE},
                 {0xe9, LLAMA_CLASS_LETTER},
                 {0xbd, LLAMA_CLASS_NUMBER},
                 {0xa0, LLAMA_CLASS_SPACE},
                 {0x301, LLAMA_CLASS_OTHER},
                 {0x65e5, LLAMA_CLASS_LETTER},
                 {0x663, LLAMA_CLASS_NUMBER},
                 {0x3000, LLAMA_CLASS_SPACE},
                 {0x200b, LLAMA_CLASS_OTHER},
                 {0x1f600, LLAMA_CLASS_OTHER},
                 {0x2167, LLAMA_CLASS_NUMBER},
                 {LLAMA_INVALID_BYTE, LLAMA_CLASS_OTHER}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(known); i++)
        assert_int_equal(llama_class_of(known[i].code_point), known[i].class);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invalid_bytes_stand_alone),
        cmocka_unit_test(test_each_length_decodes),
        cmocka_unit_test(test_put_is_the_inverse_of_next),
        cmocka_unit_test(test_classes_of_known_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
