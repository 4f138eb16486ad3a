#include "test_support.h"

#include "test_options.h"

typedef struct page {
    char *text;
    size_t bytes;
    FILE *out;
} page_t;

static void page_open(page_t *page)
{
    memset(page, 0, sizeof(*page));
    page->out = open_memstream(&page->text, &page->bytes);
    assert_non_null(page->out);
}

static void test_a_dump_is_a_file_that_reads_back_the_same(void **state)
{
    lw_prng_t prng = test_prng("option_show");
    static const char letters[] = "ab #\"\\=.,:/\t";

    for (int round = 0; round < 300; round++) {
        test_options_t options, again;
        page_t page;
        lw_error_t error;

        page_open(&page);
        memset(&options, 0, sizeof(options));
        memset(&again, 0, sizeof(again));
        assert_int_equal(lw_options_default(&test_table, &options, &error), LW_OK);
        options.mem_arena_bytes =
            lw_prng_below(&prng, 2) ? UINT64_MAX : (16ull << 20) + lw_prng_below(&prng, 1ull << 43);
        options.mem_slice_bytes = 4096ull << lw_prng_below(&prng, 19);
        options.shard_lease_us = 1000000 + lw_prng_below(&prng, 3599000000u);
        options.shard_any = lw_prng_u64(&prng);
        options.net_verify = lw_prng_below(&prng, 2) == 1;
        for (uint64_t i = 0, length = lw_prng_below(&prng, 256); i < length; i++) {
            options.net_label[i] =
                letters[lw_prng_below(&prng, sizeof(letters) - 2)]; /* no tab: it is a control character */
        }
        lw_options_dump(&test_table, &options, page.out);
        fclose(page.out);
        assert_int_equal(lw_options_default(&test_table, &again, &error), LW_OK);
        if (lw_options_text(&test_table, page.text, page.bytes, &again, &error) != LW_OK) {
            fail_msg("%s\n%s", error.text, page.text);
        }
        assert_memory_equal(&options, &again, sizeof(options));
        free(page.text);
    }
}

static void test_values_are_shown_in_their_largest_whole_unit(void **state)
{
    static const lw_option_t rows[] = {
        {"a", "size", LW_OPTION_BYTES, "0", "", "", LW_OPTION_LIVE, "Bytes.", 0},
        {"a", "time", LW_OPTION_USEC, "0", "", "", LW_OPTION_LIVE, "Time.", 8},
    };
    static const struct {
        uint64_t value;
        const char *size, *time;
    } wanted[] = {{0, "a.size = 0\n", "a.time = 0us\n"},
                  {1024, "a.size = 1k\n", "a.time = 1024us\n"},
                  {3ull << 30, "a.size = 3g\n", "a.time = 3221225472us\n"},
                  {7200000000u, "a.size = 7031250k\n", "a.time = 2h\n"},
                  {1500000, "a.size = 1500000\n", "a.time = 1500ms\n"}};
    const lw_option_table_t table = {"x", rows, 2};

    for (size_t i = 0; i < LW_ARRAY_SIZE(wanted); i++) {
        uint64_t fields[2] = {wanted[i].value, wanted[i].value};
        page_t page;

        page_open(&page);
        lw_options_dump(&table, fields, page.out);
        fclose(page.out);
        assert_non_null(strstr(page.text, wanted[i].size));
        assert_non_null(strstr(page.text, wanted[i].time));
        free(page.text);
    }
}

static void test_help_tells_flag_default_bounds_and_wraps(void **state)
{
    page_t page;

    page_open(&page);
    lw_options_help(&test_table, page.out);
    fclose(page.out);
    assert_non_null(strstr(page.text, "\nmem\n  --mem.arena_bytes=SIZE  (default auto, 16m to 16t)\n"));
    assert_non_null(
        strstr(page.text, "--shard.lease_us=TIME  (default 30s, 1s to 1h, read again on reload)\n"));
    assert_non_null(strstr(page.text, "--shard.low=NUMBER  (default 9, at least 3, read again on reload)\n"));
    assert_non_null(strstr(page.text, "--net.label=TEXT  (default empty)\n      Free text.\n"));
    for (char *line = strtok(page.text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_true(strlen(line) <= 112);
    }
    free(page.text);
}

static void test_the_reference_page_has_a_row_for_each_option(void **state)
{
    page_t page;

    page_open(&page);
    lw_options_reference(&test_table, page.out);
    fclose(page.out);
    for (size_t i = 0; i < test_table.row_count; i++) {
        char name[128];

        snprintf(name, sizeof(name), "\n| `%s.%s` | ", test_rows[i].group, test_rows[i].name);
        assert_non_null(strstr(page.text, name));
        assert_non_null(strstr(page.text, test_rows[i].help));
    }
    assert_non_null(strstr(page.text, "| `shard.lease_us` | time | 30s | 1s to 1h | reload | "));
    free(page.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dump_is_a_file_that_reads_back_the_same),
        cmocka_unit_test(test_values_are_shown_in_their_largest_whole_unit),
        cmocka_unit_test(test_help_tells_flag_default_bounds_and_wraps),
        cmocka_unit_test(test_the_reference_page_has_a_row_for_each_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
