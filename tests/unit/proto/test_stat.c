#include "test_support.h"

#include "base/stat.h"

/* As a module writes its .def file. */
#define TEST_STATS(STAT)                                   \
    STAT(COUNTER, fetches, "Fetches served.")              \
    STAT(GAUGE, free_bytes, "Bytes free \\ now.\nReally.") \
    STAT(HISTOGRAM, wait_us, "Time waited.")

#define FIELD_COUNTER(name) lw_counter_t name;
#define FIELD_GAUGE(name) lw_counter_t name;
#define FIELD_HISTOGRAM(name) lw_histogram_t name;
typedef struct test_stats {
#define STAT(kind, name, help) FIELD_##kind(name)
    TEST_STATS(STAT)
#undef STAT
} test_stats_t;

static const lw_stat_row_t rows[] = {
#define STAT(kind, name, help) {LW_STAT_##kind, #name, help, offsetof(test_stats_t, name)},
    TEST_STATS(STAT)
#undef STAT
};

static char *show(const void *const *blocks, size_t count, char *text, size_t bytes)
{
    size_t need = lw_stat_prometheus("lw", rows, LW_ARRAY_SIZE(rows), blocks, count, text, bytes);

    assert_true(need < bytes);
    assert_int_equal(need, strlen(text));
    return text;
}

static void test_a_short_buffer_is_terminated_and_told_what_is_needed(void **state)
{
    test_stats_t stats = {0};
    const void *blocks[] = {&stats};
    char all[8192], part[8192];
    size_t need = lw_stat_prometheus("lw", rows, LW_ARRAY_SIZE(rows), blocks, 1, NULL, 0);

    show(blocks, 1, all, sizeof(all));
    assert_int_equal(need, strlen(all));
    for (size_t room = 1; room <= need; room++) {
        memset(part, '#', sizeof(part));
        assert_int_equal(lw_stat_prometheus("lw", rows, LW_ARRAY_SIZE(rows), blocks, 1, part, room), need);
        assert_int_equal(strlen(part), room - 1);
        assert_memory_equal(part, all, room - 1);
        assert_int_equal(part[room], '#'); /* nothing behind the room */
    }
}

static void test_each_metric_moves_its_own_line(void **state)
{
    test_stats_t stats = {0};
    const void *blocks[] = {&stats};
    char text[8192];

    show(blocks, 1, text, sizeof(text));
    assert_non_null(strstr(text, "\nlw_fetches 0\n"));
    assert_non_null(strstr(text, "# TYPE lw_fetches counter\n"));
    assert_non_null(strstr(text, "# TYPE lw_free_bytes gauge\n"));
    assert_non_null(strstr(text, "# HELP lw_free_bytes Bytes free \\\\ now.\\nReally.\n"));
    lw_count(&stats.fetches, 3);
    lw_count(&stats.fetches, 4);
    lw_gauge(&stats.free_bytes, 1000);
    lw_gauge(&stats.free_bytes, 900);
    show(blocks, 1, text, sizeof(text));
    assert_non_null(strstr(text, "\nlw_fetches 7\n"));
    assert_non_null(strstr(text, "\nlw_free_bytes 900\n"));
}

static void test_a_histogram_is_cumulative_and_in_seconds(void **state)
{
    test_stats_t stats = {0};
    const void *blocks[] = {&stats};
    char text[8192];

    lw_histogram_add(&stats.wait_us, 0);
    lw_histogram_add(&stats.wait_us, 1);
    lw_histogram_add(&stats.wait_us, 1000);
    lw_histogram_add(&stats.wait_us, 3000000);
    lw_histogram_add(&stats.wait_us, 1ull << 60); /* beyond the last bucket */
    show(blocks, 1, text, sizeof(text));
    assert_non_null(strstr(text, "# TYPE lw_wait_seconds histogram\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"1e-06\"} 1\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"2e-06\"} 2\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"0.000512\"} 2\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"0.001024\"} 3\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"4.194304\"} 4\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_bucket{le=\"+Inf\"} 5\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_count 5\n"));
    assert_non_null(
        strstr(text, "\nlw_wait_seconds_sum 1152921504609.847977\n")); /* sum of the five, exactly */
}

static void test_every_bucket_holds_its_powers_of_two(void **state)
{
    for (unsigned b = 1; b < LW_HISTOGRAM_BUCKETS - 1; b++) {
        lw_histogram_t histogram = {0};

        lw_histogram_add(&histogram, 1ull << (b - 1));
        lw_histogram_add(&histogram, (1ull << b) - 1);
        assert_int_equal(histogram.bucket[b], 2);
    }
}

static void test_blocks_of_threads_are_summed(void **state)
{
    test_stats_t one = {0}, two = {0};
    const void *blocks[] = {&one, &two};
    char text[8192];

    lw_count(&one.fetches, 5);
    lw_count(&two.fetches, 6);
    lw_histogram_add(&one.wait_us, 10);
    lw_histogram_add(&two.wait_us, 10);
    show(blocks, 2, text, sizeof(text));
    assert_non_null(strstr(text, "\nlw_fetches 11\n"));
    assert_non_null(strstr(text, "\nlw_wait_seconds_count 2\n"));
    show(blocks, 0, text, sizeof(text));
    assert_non_null(strstr(text, "\nlw_fetches 0\n"));
}

static void test_the_reference_page_has_a_row_for_each_metric(void **state)
{
    char *page = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&page, &bytes);

    lw_stat_reference("Counters", "lw", rows, LW_ARRAY_SIZE(rows), out);
    fclose(out);
    assert_non_null(strstr(page, "# Counters\n"));
    assert_non_null(strstr(page, "| `lw_fetches` | counter | Fetches served. |\n"));
    assert_non_null(strstr(page, "| `lw_wait_seconds` | histogram | Time waited. |\n"));
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_short_buffer_is_terminated_and_told_what_is_needed),
        cmocka_unit_test(test_each_metric_moves_its_own_line),
        cmocka_unit_test(test_a_histogram_is_cumulative_and_in_seconds),
        cmocka_unit_test(test_every_bucket_holds_its_powers_of_two),
        cmocka_unit_test(test_blocks_of_threads_are_summed),
        cmocka_unit_test(test_the_reference_page_has_a_row_for_each_metric),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
