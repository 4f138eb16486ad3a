#include "test_support.h"

#include "test_options.h"

static test_options_t defaults(void)
{
    test_options_t options;
    lw_error_t error;

    memset(&options, 0, sizeof(options));
    assert_int_equal(lw_options_default(&test_table, &options, &error), LW_OK);
    return options;
}

static lw_status_t read_text(const char *text, test_options_t *options, lw_error_t *error)
{
    return lw_options_text(&test_table, text, strlen(text), options, error);
}

static void test_a_bad_line_names_line_and_option(void **state)
{
    static const struct {
        const char *text, *words[2];
    } bad[] = {
        {"\n\nshard.threads = 0\n", {"line 3", "option shard.threads: '0' is out of bounds: 1 to 64"}},
        {"shard.threads = many", {"line 1", "'many' is not a whole number"}},
        {"shard.no_such = 1\n", {"line 1", "unknown option 'shard.no_such'"}},
        {"# fine\nthreads = 1\n", {"line 2", "unknown option 'threads'"}},
        {"shard.threads\n", {"line 1", "'shard.threads' is not 'group.name = value'"}},
        {" = 5\n", {"line 1", "unknown option ''"}},
        {"net.label = \"open\n", {"line 1", "option net.label: its quoted value does not end"}},
        {"net.label = \"a\" b\n", {"line 1", "option net.label: its quoted value does not end"}},
        {"net.label = \"a\\\"\n", {"line 1", "option net.label: its quoted value does not end"}},
        {"net.verify = maybe\n", {"line 1", "'maybe' is not true or false"}},
        {"shardXthreads = 1\n", {"line 1", "unknown option"}},
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        test_options_t options = defaults();
        lw_error_t error;

        assert_int_equal(read_text(bad[i].text, &options, &error), LW_ERR_INVALID);
        assert_int_equal(error.status, LW_ERR_INVALID);
        assert_names(error, bad[i].words[0]);
        assert_names(error, bad[i].words[1]);
    }
}

static void test_a_nul_byte_or_an_endless_line_is_refused(void **state)
{
    test_options_t options = defaults();
    lw_error_t error;
    char line[3000];

    assert_int_equal(lw_options_text(&test_table, "net.label = a\0b", 15, &options, &error), LW_ERR_INVALID);
    assert_names(error, "NUL");
    memset(line, 'x', sizeof(line));
    assert_int_equal(lw_options_text(&test_table, line, sizeof(line), &options, &error), LW_ERR_INVALID);
    assert_names(error, "3000 bytes");
    memcpy(line, "net.label=", 10);
    line[1023] = '\n';
    line[1024] = '#';
    assert_int_equal(lw_options_text(&test_table, line, 1030, &options, &error), LW_ERR_INVALID);
    assert_names(error, "has 1013 bytes, at most 255"); /* the longest line that is looked at */
    line[10 + 255] = '\n';
    assert_int_equal(lw_options_text(&test_table, line, 10 + 255 + 1, &options, &error), LW_OK);
    assert_int_equal(strlen(options.net_label), 255); /* the longest value that is taken */
}

static void test_files_that_cannot_be_read_say_why(void **state)
{
    test_options_t options = defaults();
    lw_error_t error;
    char path[] = "/tmp/lw_test_option_XXXXXX";
    int file = mkstemp(path);

    assert_int_equal(lw_options_file(&test_table, "/nonexistent/lw.conf", &options, &error),
                     LW_ERR_NOT_FOUND);
    assert_names(error, "/nonexistent/lw.conf");
    assert_int_equal(lw_options_file(&test_table, "/", &options, &error), LW_ERR_IO);
    assert_true(file >= 0);
    assert_int_equal(write(file, "net.verify = 2\n", 15), 15);
    assert_int_equal(lw_options_file(&test_table, path, &options, &error), LW_ERR_INVALID);
    assert_names(error, path);
    assert_names(error, "line 1: option net.verify: '2'");
    assert_int_equal(ftruncate(file, 2 << 20), 0);
    assert_int_equal(lw_options_file(&test_table, path, &options, &error), LW_ERR_INVALID);
    assert_names(error, "larger than");
    assert_int_equal(ftruncate(file, 0), 0);
    assert_int_equal(pwrite(file, "shard.threads = 7", 17, 0), 17);
    assert_int_equal(lw_options_file(&test_table, path, &options, NULL), LW_OK);
    assert_int_equal(options.shard_threads, 7);
    close(file);
    unlink(path);
}

static void test_comments_blanks_and_quotes_are_read_as_written(void **state)
{
    test_options_t options = defaults();

    assert_int_equal(read_text("  # all of it\r\n"
                               "\t shard.threads=3 # three\r\n"
                               "mem.slice_bytes\t=\t64K#\n" /* would be '64K#' */,
                               &options, NULL),
                     LW_ERR_INVALID);
    assert_int_equal(options.shard_threads, 3);
    assert_int_equal(read_text("net.label = a#b # c\nnet.listen = \" x # \\\"y\\\\ \" # z", &options, NULL),
                     LW_OK);
    assert_string_equal(options.net_label, "a#b");
    assert_string_equal(options.net_listen, " x # \"y\\ ");
    assert_int_equal(read_text("net.label =\nshard.low = 3\nshard.low = 4\n", &options, NULL), LW_OK);
    assert_string_equal(options.net_label, "");
    assert_int_equal(options.shard_low, 4); /* the later line wins */
    assert_int_equal(read_text("", &options, NULL), LW_OK);
}

static void test_bad_flags_are_refused_by_name(void **state)
{
    static const struct {
        const char *flag, *words;
    } bad[] = {
        {"--shard.nope=1", "unknown option 'shard.nope'"},
        {"--shard.threads=65", "option shard.threads: '65' is out of bounds: 1 to 64"},
        {"--shard.threads", "option shard.threads: its value is missing"},
        {"--shard.threads=", "option shard.threads: '' is not a whole number"},
        {"--a.b.c.d", "unknown option 'a.b.c.d'"},
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        test_options_t options = defaults();
        char flag[64], *argv[] = {"testd", flag, NULL};
        int argc = 2;
        lw_error_t error;

        snprintf(flag, sizeof(flag), "%s", bad[i].flag);
        assert_int_equal(lw_options_args(&test_table, &argc, argv, &options, &error), LW_ERR_INVALID);
        assert_names(error, bad[i].words);
    }
}

static void test_flags_are_taken_out_and_the_rest_stays(void **state)
{
    test_options_t options = defaults();
    char *argv[] = {"testd", "run", "--shard.threads=5", "--json=a.b", "--net.verify", "no", "--help",
                    "-x.y",  "--",  "--shard.threads=6", NULL};
    int argc = 10;

    assert_int_equal(lw_options_args(&test_table, &argc, argv, &options, NULL), LW_OK);
    assert_int_equal(options.shard_threads, 5);
    assert_false(options.net_verify);
    assert_int_equal(argc, 7);
    assert_string_equal(argv[0], "testd");
    assert_string_equal(argv[1], "run");
    assert_string_equal(argv[2], "--json=a.b");
    assert_string_equal(argv[3], "--help");
    assert_string_equal(argv[4], "-x.y");
    assert_string_equal(argv[5], "--");
    assert_string_equal(argv[6], "--shard.threads=6");
    assert_null(argv[7]);
}

static void test_the_last_source_wins(void **state)
{
    test_options_t options = defaults();
    char *argv[] = {"testd", "--shard.threads=9", NULL};
    int argc = 2;

    assert_int_equal(options.shard_threads, 2);
    assert_int_equal(read_text("shard.threads = 3\nshard.any = 3\nshard.low = 33\n", &options, NULL), LW_OK);
    setenv("LW_SHARD_THREADS", "6", 1);
    setenv("LW_SHARD_ANY", "6", 1);
    assert_int_equal(lw_options_env(&test_table, &options, NULL), LW_OK);
    assert_int_equal(lw_options_args(&test_table, &argc, argv, &options, NULL), LW_OK);
    assert_int_equal(options.shard_threads, 9);
    assert_int_equal(options.shard_any, 6);
    assert_int_equal(options.shard_low, 33);
    unsetenv("LW_SHARD_THREADS");
    unsetenv("LW_SHARD_ANY");
}

static void test_a_bad_environment_names_its_variable(void **state)
{
    test_options_t options = defaults();
    lw_error_t error;

    setenv("LW_SHARD_LEASE_US", "1ms", 1);
    assert_int_equal(lw_options_env(&test_table, &options, &error), LW_ERR_INVALID);
    assert_names(error,
                 "environment LW_SHARD_LEASE_US: option shard.lease_us: '1ms' is out of bounds: 1s to 1h");
    unsetenv("LW_SHARD_LEASE_US");
}

static void test_set_takes_one_option_by_name(void **state)
{
    test_options_t options = defaults();
    lw_error_t error;
    char long_name[300];

    assert_int_equal(lw_options_set(&test_table, "shard.low", "5", &options, &error), LW_OK);
    assert_int_equal(options.shard_low, 5);
    assert_int_equal(lw_options_set(&test_table, "shard.low", "2", &options, &error), LW_ERR_INVALID);
    assert_names(error, "at least 3");
    assert_int_equal(options.shard_low, 5);
    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    assert_int_equal(lw_options_set(&test_table, long_name, "2", &options, &error), LW_ERR_INVALID);
    assert_names(error, "nnn'... (--help");
}

static void test_a_wrong_default_is_found_at_start(void **state)
{
    static const lw_option_t row = {"a", "b", LW_OPTION_UINT, "7", "8", "9", LW_OPTION_LIVE, "", 0};
    const lw_option_table_t table = {"x", &row, 1};
    uint64_t field = 0;
    lw_error_t error;

    assert_int_equal(lw_options_default(&table, &field, &error), LW_ERR_INVALID);
    assert_names(error, "option a.b: '7' is out of bounds: 8 to 9");
}

static void test_random_text_never_writes_beside_the_fields(void **state)
{
    lw_prng_t prng = test_prng("option");
    static const char *const pieces[] = {"shard.threads",
                                         "net.label",
                                         "mem.arena_bytes",
                                         "=",
                                         "= ",
                                         "\"",
                                         "\\",
                                         "#",
                                         "\n",
                                         "auto",
                                         "12",
                                         "k",
                                         "x",
                                         " ",
                                         "\t",
                                         "."};

    for (int round = 0; round < 3000; round++) {
        test_options_t options = defaults();
        char text[4096];
        size_t bytes = 0;

        options.guard_before = options.guard_after = 0x6775617264ull;
        for (uint64_t i = lw_prng_below(&prng, 60); i > 0; i--) {
            const char *piece = pieces[lw_prng_below(&prng, LW_ARRAY_SIZE(pieces))];
            bytes += (size_t)snprintf(text + bytes, sizeof(text) - bytes, "%s", piece);
        }
        lw_status_t status = lw_options_text(&test_table, text, bytes, &options, NULL);
        assert_true(status == LW_OK || status == LW_ERR_INVALID);
        assert_true(options.guard_before == 0x6775617264ull && options.guard_after == 0x6775617264ull);
        assert_true(options.shard_threads >= 1 && options.shard_threads <= 64);
        assert_non_null(memchr(options.net_label, 0, sizeof(options.net_label)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_bad_line_names_line_and_option),
        cmocka_unit_test(test_a_nul_byte_or_an_endless_line_is_refused),
        cmocka_unit_test(test_files_that_cannot_be_read_say_why),
        cmocka_unit_test(test_comments_blanks_and_quotes_are_read_as_written),
        cmocka_unit_test(test_bad_flags_are_refused_by_name),
        cmocka_unit_test(test_flags_are_taken_out_and_the_rest_stays),
        cmocka_unit_test(test_the_last_source_wins),
        cmocka_unit_test(test_a_bad_environment_names_its_variable),
        cmocka_unit_test(test_set_takes_one_option_by_name),
        cmocka_unit_test(test_a_wrong_default_is_found_at_start),
        cmocka_unit_test(test_random_text_never_writes_beside_the_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
