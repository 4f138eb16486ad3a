/* arguments.c - the command line, and where options come from; the last tests run the program itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "storaged/arguments.h"

#define WORDS_MAX 8

static const char *program; /* a storaged */

typedef struct line {
    lwd_arguments_t args;
    char *words[WORDS_MAX], *argv[WORDS_MAX + 1], *scratch[WORDS_MAX + 1];
    lw_error_t error;
    lw_status_t status;
} line_t;

/* Takes a NULL-ended list of words, as after the program's name. */
static void take(line_t *line, const char *const *words)
{
    int argc = 1;
    *line = (line_t){0};
    line->words[0] = (char *)(uintptr_t) "storaged";
    while (words[argc - 1] != NULL) {
        line->words[argc] = (char *)(uintptr_t)words[argc - 1];
        argc++;
    }
    line->args.argv = line->argv;
    line->args.scratch = line->scratch;
    line->status = lwd_arguments_take(argc, line->words, &line->args, &line->error);
}

/* A configuration file; `path` is a template of mkstemp. */
static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
}

static void assert_says(const char *text, const char *word)
{
    if (strstr(text, word) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", word, text);
}

static void load_fails(const char *const *words, const char *const *says)
{
    line_t line;
    lwd_options_t options;
    take(&line, words);
    assert_int_equal(line.status, LW_OK);
    assert_int_not_equal(lwd_arguments_load(&line.args, &options, &line.error), LW_OK);
    for (; *says != NULL; says++)
        assert_says(line.error.text, *says);
}
#define WORDS(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

static void test_a_word_without_its_value_and_a_bad_descriptor_are_refused(void **state)
{
    static const char *const valued[] = {"--config", "--ready-file", "--ready-fd"};
    static const char *const fds[] = {"", "x", "-1", "3x"};
    line_t line;
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(valued); i++) {
        take(&line, WORDS(valued[i]));
        assert_int_equal(line.status, LW_ERR_INVALID);
        assert_says(line.error.text, valued[i]);
    }
    for (size_t i = 0; i < LW_ARRAY_SIZE(fds); i++) {
        char quoted[16];
        snprintf(quoted, sizeof(quoted), "\"%s\"", fds[i]);
        take(&line, WORDS("--ready-fd", fds[i]));
        assert_int_equal(line.status, LW_ERR_INVALID);
        assert_says(line.error.text, "--ready-fd");
        assert_says(line.error.text, quoted);
        assert_says(line.error.text, "descriptor");
    }
}

static void test_unknown_words_and_options_are_refused_by_name(void **state)
{
    (void)state;
    load_fails(WORDS("serve"), WORDS("\"serve\"", "--help"));
    load_fails(WORDS("--verbose"), WORDS("\"--verbose\"", "--help"));
    load_fails(WORDS("--data.no_such=1"), WORDS("data.no_such"));
    load_fails(WORDS("--data.threads"), WORDS("data.threads", "missing"));
}

static void test_a_bad_value_is_refused_with_its_source_option_and_bounds(void **state)
{
    char path[] = "/tmp/lw_arguments_XXXXXX";
    (void)state;
    write_file(path, "# fine\ndata.threads = 65\n");
    load_fails(WORDS("--data.threads=0"), WORDS("data.threads", "'0'", "1 to 64"));
    load_fails(WORDS("--config", path), WORDS(path, "line 2", "data.threads", "'65'", "1 to 64"));
    load_fails(WORDS("--config", "/no/such/file"), WORDS("/no/such/file"));
    assert_int_equal(setenv("LW_DATA_THREADS", "many", 1), 0);
    load_fails(WORDS("--json"), WORDS("LW_DATA_THREADS", "data.threads", "'many'", "1 to 64"));
    assert_int_equal(unsetenv("LW_DATA_THREADS"), 0);
    assert_int_equal(unlink(path), 0);
}

static void test_the_last_source_wins_and_loading_again_gives_the_same(void **state)
{
    char path[] = "/tmp/lw_arguments_XXXXXX";
    line_t line;
    lwd_options_t options;
    (void)state;
    write_file(path, "data.threads=2\nstore.sessions=20\nfleet.weight=5\n");
    assert_int_equal(setenv("LW_STORE_SESSIONS", "30", 1), 0);
    assert_int_equal(setenv("LW_FLEET_WEIGHT", "6", 1), 0);
    take(&line, WORDS("--fleet.weight", "7", "--json", "--config", path, "--ready-fd", "9"));
    assert_int_equal(line.status, LW_OK);
    assert_true(line.args.announce.json);
    assert_int_equal(line.args.announce.ready_fd, 9);
    assert_null(line.args.announce.ready_file);
    for (int round = 0; round < 2; round++) {
        if (lwd_arguments_load(&line.args, &options, &line.error) != LW_OK)
            fail_msg("%s", line.error.text);
        assert_int_equal(options.data_threads, 2);
        assert_int_equal(options.store_sessions, 30);
        assert_int_equal(options.fleet_weight, 7);
        assert_int_equal(options.data_connections, 1024);
    }
    assert_int_equal(unsetenv("LW_STORE_SESSIONS"), 0);
    assert_int_equal(unsetenv("LW_FLEET_WEIGHT"), 0);
    assert_int_equal(unlink(path), 0);
}

/* What the program prints, both streams together; returns its exit status. */
static int run_program(const char *environment, const char *flags, char *text, size_t bytes)
{
    char command[1024];
    snprintf(command, sizeof(command), "%s '%s' %s 2>&1", environment, program, flags);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t got = fread(text, 1, bytes - 1, pipe);
    text[got] = '\0';
    while (fgetc(pipe) != EOF)
        continue;
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_help_and_version_do_not_mind_a_bad_configuration(void **state)
{
    static const char *const flags[][2] = {{"--help", "--dump-config"},
                                           {"--version", "storaged "},
                                           {"--version --json", "\"version\""},
                                           {"--reference", "data.threads"},
                                           {"--stats-reference", "storaged_requests"},
                                           {"--help --no-such-word", "--data.threads"},
                                           {"--help --data.threads=99", "--data.threads"}};
    static char text[1 << 16];
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(flags); i++) {
        if (run_program("LW_DATA_THREADS=none LW_LOG_LEVEL=loud", flags[i][0], text, sizeof(text)) != 0)
            fail_msg("%s: %s", flags[i][0], text);
        assert_says(text, flags[i][1]);
        assert_null(strstr(text, "'none'"));
    }
}

static void test_dump_and_start_refuse_a_bad_configuration_by_name(void **state)
{
    static const char *const flags[] = {"--dump-config", "--mem.arena_bytes=16m"};
    static char text[1 << 16];
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(flags); i++) {
        assert_int_equal(run_program("LW_DATA_THREADS=none", flags[i], text, sizeof(text)), 2);
        assert_says(text, "LW_DATA_THREADS");
        assert_says(text, "'none'");
        assert_says(text, "1 to 64");
        assert_int_equal(run_program("LW_LOG_LEVEL=loud", flags[i], text, sizeof(text)), 2);
        assert_says(text, "log.level is \"loud\", must be error, warn, info or debug");
    }
    assert_int_equal(run_program("LW_DATA_THREADS=3", "--dump-config", text, sizeof(text)), 0);
    assert_says(text, "data.threads = 3");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_word_without_its_value_and_a_bad_descriptor_are_refused),
        cmocka_unit_test(test_unknown_words_and_options_are_refused_by_name),
        cmocka_unit_test(test_a_bad_value_is_refused_with_its_source_option_and_bounds),
        cmocka_unit_test(test_the_last_source_wins_and_loading_again_gives_the_same),
        cmocka_unit_test(test_help_and_version_do_not_mind_a_bad_configuration),
        cmocka_unit_test(test_dump_and_start_refuse_a_bad_configuration_by_name),
    };
    program = argc > 1 ? argv[1] : "storaged";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
