#include "test_support.h"

#include <inttypes.h>

#include "test_options.h"

static lw_status_t set(const char *name, const char *value, test_options_t *options, lw_error_t *error)
{
    return lw_options_set(&test_table, name, value, options, error);
}

static void test_values_that_are_no_values_are_refused(void **state)
{
    static const struct {
        const char *name, *value, *words;
    } bad[] = {
        {"shard.any", "", "'' is not a whole number"},
        {"shard.any", "-1", "'-1' is not a whole number"},
        {"shard.any", "+1", "is not a whole number"},
        {"shard.any", "1.5", "is not a whole number"},
        {"shard.any", "0x10", "is not a whole number"},
        {"shard.any", " 1", "is not a whole number"},
        {"shard.any", "1k", "is not a whole number"},
        {"shard.any", "18446744073709551616", "is not a whole number"},
        {"mem.slice_bytes", "16x", "is not a size"},
        {"mem.slice_bytes", "k", "is not a size"},
        {"mem.slice_bytes", "16mb", "is not a size"},
        {"mem.slice_bytes", "16777216t", "is not a size"},
        {"mem.slice_bytes", "auto", "is not a size"},
        {"mem.slice_bytes", "4095", "out of bounds: 4k to 3g"},
        {"mem.slice_bytes", "3221225473", "out of bounds: 4k to 3g"},
        {"mem.arena_bytes", "automatic", "or auto"},
        {"mem.arena_bytes", "1k", "out of bounds: 16m to 16t"},
        {"shard.lease_us", "30", "is not a time with its unit"},
        {"shard.lease_us", "30 s", "is not a time"},
        {"shard.lease_us", "auto", "is not a time"},
        {"shard.late_us", "now", "or auto"},
        {"shard.lease_us", "30d", "is not a time"},
        {"shard.lease_us", "0", "out of bounds: 1s to 1h"},
        {"shard.lease_us", "3600001ms", "out of bounds: 1s to 1h"},
        {"shard.lease_us", "9999999999999999h", "is not a time"},
        {"net.verify", "", "is not true or false"},
        {"net.verify", "2", "is not true or false"},
        {"net.label", "two\nlines", "control character at byte 3"},
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        test_options_t options, before;
        lw_error_t error;

        memset(&options, 0x11, sizeof(options));
        before = options;
        assert_int_equal(set(bad[i].name, bad[i].value, &options, &error), LW_ERR_INVALID);
        assert_names(error, bad[i].name);
        assert_names(error, bad[i].words);
        assert_memory_equal(&options, &before, sizeof(options)); /* a refused value changes nothing */
    }
}

static void test_units_multiply(void **state)
{
    static const struct {
        const char *name, *value;
        uint64_t wanted;
    } good[] = {
        {"mem.slice_bytes", "4096", 4096},
        {"mem.slice_bytes", "4k", 4096},
        {"mem.slice_bytes", "5M", 5u << 20},
        {"mem.slice_bytes", "3g", 3ull << 30},
        {"mem.arena_bytes", "16t", 16ull << 40},
        {"mem.arena_bytes", "auto", UINT64_MAX},
        {"shard.late_us", "auto", UINT64_MAX},
        {"shard.late_us", "0us", 0},
        {"shard.lease_us", "1h", 3600000000u},
        {"shard.lease_us", "2m", 120000000u},
        {"shard.lease_us", "1s", 1000000u},
        {"shard.lease_us", "1500ms", 1500000u},
        {"shard.lease_us", "1000001us", 1000001u},
        {"shard.any", "18446744073709551615", UINT64_MAX},
        {"shard.any", "007", 7},
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(good); i++) {
        test_options_t options;
        uint64_t *field = NULL;

        assert_int_equal(set(good[i].name, good[i].value, &options, NULL), LW_OK);
        for (size_t row = 0; row < test_table.row_count; row++) {
            if (strstr(good[i].name, test_rows[row].name) != NULL) {
                field = (uint64_t *)(void *)((char *)&options + test_rows[row].offset);
            }
        }
        assert_non_null(field);
        assert_true(*field == good[i].wanted);
    }
}

static void test_booleans_have_six_spellings(void **state)
{
    static const char *const yes[] = {"true", "yes", "1", "TRUE"}, *const no[] = {"false", "no", "0", "No"};
    test_options_t options;

    for (int i = 0; i < 4; i++) {
        assert_int_equal(set("net.verify", yes[i], &options, NULL), LW_OK);
        assert_true(options.net_verify);
        assert_int_equal(set("net.verify", no[i], &options, NULL), LW_OK);
        assert_false(options.net_verify);
    }
}

static void test_a_text_fills_its_field_but_for_the_terminator(void **state)
{
    test_options_t options;
    lw_error_t error;
    char value[LW_OPTION_STRING_MAX + 1];

    memset(value, 'v', sizeof(value));
    value[LW_OPTION_STRING_MAX] = '\0';
    assert_int_equal(set("net.label", value, &options, &error), LW_ERR_INVALID);
    assert_names(error, "has 256 bytes, at most 255");
    value[LW_OPTION_STRING_MAX - 1] = '\0';
    assert_int_equal(set("net.label", value, &options, &error), LW_OK);
    assert_string_equal(options.net_label, value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_that_are_no_values_are_refused),
        cmocka_unit_test(test_units_multiply),
        cmocka_unit_test(test_booleans_have_six_spellings),
        cmocka_unit_test(test_a_text_fills_its_field_but_for_the_terminator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
