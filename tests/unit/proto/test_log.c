#include "test_support.h"

#include <pthread.h>

#include "base/log.h"

typedef struct seen {
    unsigned lines;
    lw_log_level_t level;
    char component[32], line[2048];
} seen_t;

static void keep(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    seen_t *seen = arg;

    seen->lines++;
    seen->level = level;
    snprintf(seen->component, sizeof(seen->component), "%s", component);
    snprintf(seen->line, sizeof(seen->line), "%s", line);
}

static int restore(void **state)
{
    lw_log_set_sink(NULL, NULL);
    lw_log_set_level(LW_LOG_WARN);
    return 0;
}

static void test_an_unknown_level_is_refused(void **state)
{
    lw_log_level_t level = LW_LOG_INFO;

    assert_int_equal(lw_log_level_parse("loud", &level), LW_ERR_INVALID);
    assert_int_equal(lw_log_level_parse("", &level), LW_ERR_INVALID);
    assert_int_equal(lw_log_level_parse("WARN", &level), LW_ERR_INVALID);
    assert_int_equal(level, LW_LOG_INFO);
    assert_int_equal(lw_log_level_parse("debug", &level), LW_OK);
    assert_int_equal(level, LW_LOG_DEBUG);
}

static void test_lines_above_the_level_are_dropped(void **state)
{
    seen_t seen = {0};

    lw_log_set_sink(keep, &seen);
    lw_log_set_level(LW_LOG_WARN);
    LW_INFO("test", "quiet");
    LW_DEBUG("test", "quiet");
    assert_int_equal(seen.lines, 0);
    LW_WARN("test", "number %d", 5);
    assert_int_equal(seen.lines, 1);
    assert_int_equal(seen.level, LW_LOG_WARN);
    assert_string_equal(seen.component, "test");
    assert_string_equal(seen.line, "number 5");
    lw_log_set_level(LW_LOG_DEBUG);
    LW_DEBUG("test", "loud");
    assert_int_equal(seen.lines, 2);
}

static void test_a_long_or_hostile_line_stays_one_line(void **state)
{
    seen_t seen = {0};
    char big[4000];

    lw_log_set_sink(keep, &seen);
    memset(big, 'y', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    LW_ERROR("test", "%s", big);
    assert_in_range(strlen(seen.line), 500, 1500);
    LW_ERROR("test", "a%sb", "\nERROR fake: line\r\x1b");
    assert_string_equal(seen.line, "a?ERROR fake: line??b");
}

static void test_a_rated_line_comes_once_and_tells_what_it_held_back(void **state)
{
    lw_log_rate_t rate = {0};
    seen_t seen = {0};

    lw_log_set_sink(keep, &seen);
    for (int i = 0; i < 100; i++) {
        lw_log_rated(&rate, LW_LOG_WARN, "test", "event %d", i);
    }
    assert_int_equal(seen.lines, 1);
    assert_string_equal(seen.line, "event 0");
    rate.last_us = lw_max_u64(lw_now_us(lw_clock_real()) - 1000001u, 1); /* a second later */
    lw_log_rated(&rate, LW_LOG_WARN, "test", "event %d", 100);
    assert_int_equal(seen.lines, 2);
    assert_string_equal(seen.line, "event 100 (99 more held back)");
    rate.last_us = lw_max_u64(lw_now_us(lw_clock_real()) - 1000001u, 1);
    lw_log_rated(&rate, LW_LOG_WARN, "test", "event %d", 101);
    assert_string_equal(seen.line, "event 101");
}

static void test_a_rated_line_below_the_level_is_not_counted(void **state)
{
    lw_log_rate_t rate = {0};
    seen_t seen = {0};

    lw_log_set_sink(keep, &seen);
    lw_log_rated(&rate, LW_LOG_DEBUG, "test", "quiet");
    assert_int_equal(seen.lines, 0);
    assert_int_equal(rate.held, 0);
    assert_int_equal(rate.last_us, 0);
}

static void test_the_count_of_held_lines_survives_a_long_line(void **state)
{
    lw_log_rate_t rate = {.last_us = 1, .held = 12};
    seen_t seen = {0};
    char big[4000];

    memset(big, 'z', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    lw_log_set_sink(keep, &seen);
    lw_log_rated(&rate, LW_LOG_ERROR, "test", "%s", big);
    assert_non_null(strstr(seen.line, " (12 more held back)"));
}

static lw_log_rate_t shared_rate;

static void *log_many(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        LW_WARN("test", "plain");
        lw_log_rated(&shared_rate, LW_LOG_WARN, "rated", "rated");
    }
    return arg;
}

static void count_lines(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    ((unsigned *)arg)[component[0] == 'r']++; /* not atomic: the log orders its lines */
}

static void test_threads_lose_no_line_and_no_held_count(void **state)
{
    unsigned lines[2] = {0, 0};
    pthread_t threads[4];

    lw_log_set_sink(count_lines, lines);
    shared_rate.last_us = UINT64_MAX / 2; /* the difference wraps to a large number: the first one may log */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, NULL), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(lines[0], 4000);
    assert_true(lines[1] >= 1 && shared_rate.held < 4000);
}

static void test_the_default_sink_writes_time_level_component_text(void **state)
{
    char path[] = "/tmp/lw_test_log_XXXXXX", text[256] = "";
    int file = mkstemp(path), saved = dup(2);

    assert_true(file >= 0 && saved >= 0);
    fflush(stderr);
    dup2(file, 2);
    LW_ERROR("disk", "gone");
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    assert_true(pread(file, text, sizeof(text) - 1, 0) > 0);
    close(file);
    unlink(path);
    assert_non_null(strstr(text, "Z error disk: gone\n"));
    assert_true(text[4] == '-' && text[10] == 'T');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_an_unknown_level_is_refused, restore),
        cmocka_unit_test_teardown(test_lines_above_the_level_are_dropped, restore),
        cmocka_unit_test_teardown(test_a_long_or_hostile_line_stays_one_line, restore),
        cmocka_unit_test_teardown(test_a_rated_line_comes_once_and_tells_what_it_held_back, restore),
        cmocka_unit_test_teardown(test_a_rated_line_below_the_level_is_not_counted, restore),
        cmocka_unit_test_teardown(test_the_count_of_held_lines_survives_a_long_line, restore),
        cmocka_unit_test_teardown(test_threads_lose_no_line_and_no_held_count, restore),
        cmocka_unit_test_teardown(test_the_default_sink_writes_time_level_component_text, restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
