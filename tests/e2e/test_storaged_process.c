/* storaged as an operator meets it: options, start, readiness, reload, end. Arguments: the program, the
 * source folder. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "e2e/process.h"

static const char *program, *source;

#define BASE                                                                                                 \
    "--mem.arena_bytes", "16m", "--data.listen", "127.0.0.1:0", "--ctl.listen", "127.0.0.1:0", "--ctl.http", \
        "127.0.0.1:0", "--catalogue.path", ":memory:"

/* Must refuse to start with exit status 2 (options) or 1 (machine), and say these words. */
static void refused(const char *const *argv, int exit_status, const char *words[3])
{
    process_t process;
    assert_false(process_start(&process, argv));
    const char *errors = process_errors(&process);
    for (int i = 0; i < 3 && words[i] != NULL; i++) {
        if (strstr(errors, words[i]) == NULL)
            fail_msg("\"%s\" is not in: %s", words[i], errors);
    }
    assert_int_equal(process.exit_status, exit_status);
}

static void test_each_bad_option_is_refused_with_its_name_value_and_bounds(void **state)
{
    static const char *const bad[][4] = {
        {"--mem.arena_bytes", "1m", "mem.arena_bytes", "16m"},
        {"--mem.arena_bytes", "lots", "mem.arena_bytes", "lots"},
        {"--mem.huge_pages", "4m", "mem.huge_pages", "thp"},
        {"--mem.numa_node", "-3", "mem.numa_node", "-3"},
        {"--mem.prefault", "maybe", "mem.prefault", "maybe"},
        {"--data.threads", "0", "data.threads", "1"},
        {"--data.threads", "65", "data.threads", "64"},
        {"--data.transports", "pigeon", "data.transports", "pigeon"},
        {"--data.spin_us", "5", "data.spin_us", "5"},
        {"--data.spin_us", "1s", "data.spin_us", "10ms"},
        {"--data.reply_bytes", "1k", "data.reply_bytes", "4m"},
        {"--data.connections", "0", "data.connections", "1"},
        {"--data.requests", "1", "data.requests", "16"},
        {"--data.attachments", "100", "data.attachments_per_connection", "100"},
        {"--data.listen", "nowhere", "data.listen", "nowhere"},
        {"--data.listen", "127.0.0.1:99999", "data.listen", "99999"},
        {"--data.listen", "0.0.0.0:7402", "data.listen", "data.advertise"},
        {"--data.listen", "[::]:7402", "data.listen", "data.advertise"},
        {"--data.advertise", "0.0.0.0:1", "data.advertise", "0.0.0.0:1"},
        {"--ctl.listen", "0.0.0.0:0", "ctl.listen", "ctl.advertise"},
        {"--ctl.http", "x", "ctl.http", "x"},
        {"--ctl.tls_cert", "/nowhere", "ctl.tls_cert", "ctl.tls_key"},
        {"--ctl.tls_ca", "/nowhere", "ctl.tls_ca", "/nowhere"},
        {"--store.sessions", "1", "store.sessions", "16"},
        {"--lease.us", "1ms", "lease.us", "100ms"},
        {"--fleet.weight", "0", "fleet.weight", "1"},
        {"--log.level", "loud", "log.level", "loud"},
        {"--data.bogus", "1", "data.bogus", ""},
        {"--bogus", "1", "--bogus", ""},
    };
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        const char *const argv[] = {program, BASE, bad[i][0], bad[i][1], NULL};
        refused(argv, 2, (const char *[3]){bad[i][2], bad[i][3], NULL});
    }
}

static void test_what_the_machine_refuses_is_named_too(void **state)
{
    (void)state;
    const char *const no_file[] = {program, BASE, "--catalogue.path", "/nonexistent/x.sqlite", NULL};
    refused(no_file, 1, (const char *[3]){"catalogue.path", "/nonexistent/x.sqlite", NULL});
    const char *const no_key[] = {program,        BASE, "--ctl.tls_cert", "/nonexistent", "--ctl.tls_key",
                                  "/nonexistent", NULL};
    refused(no_key, 1, (const char *[3]){"ctl.tls_cert", "/nonexistent", NULL});
    const char *const other_host[] = {program, BASE, "--data.listen", "192.0.2.1:7402", NULL};
    refused(other_host, 1, (const char *[3]){"data.listen", "192.0.2.1:7402", NULL});
    const char *const not_in_fleet[] = {program, BASE, "--fleet.nodes", "127.0.0.1:9,127.0.0.1:10", NULL};
    refused(not_in_fleet, 1, (const char *[3]){"fleet.*", "127.0.0.1:9", NULL});
    const char *const no_config[] = {program, BASE, "--config", "/nonexistent.conf", NULL};
    refused(no_config, 2, (const char *[3]){"/nonexistent.conf", NULL, NULL});
}

static void test_an_address_in_use_is_refused(void **state)
{
    process_t first;
    char address[128];
    (void)state;
    const char *const argv[] = {program, BASE, NULL};
    assert_true(process_start(&first, argv));
    assert_true(process_ready_text(&first, "data", address, sizeof(address)));
    const char *const same[] = {program, BASE, "--data.listen", address, NULL};
    refused(same, 1, (const char *[3]){"data.listen", address, NULL});
    assert_true(process_ready_text(&first, "control", address, sizeof(address)));
    const char *const same_control[] = {program, BASE, "--ctl.listen", address, NULL};
    refused(same_control, 1, (const char *[3]){address, NULL, NULL});
    assert_int_equal(process_end(&first, SIGTERM), 0);
}

/* Output of a run that ends by itself. */
static char *output_of(const char *arguments)
{
    char command[1024];
    char *text = calloc(1, 65536);
    snprintf(command, sizeof(command), "env -i %s %s", program, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t bytes = fread(text, 1, 65535, pipe);
    assert_true(bytes > 0);
    assert_int_equal(pclose(pipe), 0);
    return text;
}

static void test_a_dumped_configuration_reads_back_as_it_was(void **state)
{
    char path[] = "/tmp/lw-conf-XXXXXX", arguments[256];
    (void)state;
    char *dump =
        output_of("--data.threads 3 --mem.arena_bytes 32m --lease.us 3s --fleet.zone rack-7 --dump-config");
    assert_non_null(strstr(dump, "data.threads = 3"));
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, dump, strlen(dump)) == (ssize_t)strlen(dump));
    close(fd);
    snprintf(arguments, sizeof(arguments), "--config %s --dump-config", path);
    char *again = output_of(arguments);
    assert_string_equal(dump, again);
    unlink(path);
    free(dump);
    free(again);
}

static void same_as_file(const char *arguments, const char *path)
{
    char full[512];
    snprintf(full, sizeof(full), "%s/%s", source, path);
    FILE *file = fopen(full, "r");
    assert_non_null(file);
    char *stored = calloc(1, 65536), *made = output_of(arguments);
    assert_true(fread(stored, 1, 65535, file) > 0);
    fclose(file);
    if (strcmp(stored, made) != 0)
        fail_msg("%s is out of date: write it with storaged %s", path, arguments);
    free(stored);
    free(made);
}

static void test_the_generated_pages_are_up_to_date(void **state)
{
    (void)state;
    same_as_file("--reference", "docs/reference/options-storaged.md");
    same_as_file("--stats-reference", "docs/reference/stats-storaged.md");
    same_as_file("--dump-config", "deploy/storaged.conf");
}

static void test_version_and_help_say_what_they_should(void **state)
{
    (void)state;
    char *version = output_of("--version"), *json = output_of("--version --json"),
         *help = output_of("--help");
    assert_memory_equal(version, "storaged ", 9);
    assert_non_null(strstr(json, "\"version\":\""));
    assert_non_null(strstr(help, "--data.listen"));
    free(version);
    free(json);
    free(help);
}

/* One GET; the answer's text in a static buffer. */
static const char *http_get(const char *address, const char *path)
{
    static char answer[65536];
    char request[256], host[64];
    snprintf(host, sizeof(host), "%s", address);
    char *colon = strrchr(host, ':');
    *colon = '\0';
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    assert_int_equal(inet_pton(AF_INET, host, &to.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    snprintf(request, sizeof(request), "GET %s HTTP/1.0\r\n\r\n", path);
    assert_int_equal(write(fd, request, strlen(request)), strlen(request));
    size_t used = 0;
    for (;;) {
        ssize_t got = read(fd, answer + used, sizeof(answer) - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    answer[used] = '\0';
    close(fd);
    return answer;
}

static void test_a_started_node_is_ready_and_shows_every_figure(void **state)
{
    process_t process;
    char http[128], path[] = "/tmp/lw-ready-XXXXXX";
    (void)state;
    close(mkstemp(path));
    unlink(path);
    const char *const argv[] = {program, BASE, "--ready-file", path, "--json", NULL};
    assert_true(process_start(&process, argv));
    FILE *file = fopen(path, "r"); /* it was there before the descriptor was written */
    char line[1024] = "";
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    unlink(path);
    assert_string_equal(line, process.ready);
    assert_true(process_ready_text(&process, "http", http, sizeof(http)));
    assert_non_null(strstr(http_get(http, "/readyz"), " 200 "));
    assert_non_null(strstr(http_get(http, "/healthz"), " 200 "));
    const char *metrics = http_get(http, "/metrics");
    assert_non_null(strstr(metrics, "\nstoraged_arena_bytes 16777216"));
    assert_non_null(strstr(metrics, "\nstoraged_arena_free_bytes 16777216"));
#define STAT(kind, name, help)                                                             \
    if (strstr(metrics, "# HELP storaged_" #name) == NULL && strstr(#name, "_us") == NULL) \
        fail_msg("no storaged_" #name);
#include "storaged/stats.def"
#undef STAT
    uint64_t moved = 0; /* what only a thread of its own can move */
    for (int i = 0; i < 1000 && moved != 7; i++) {
        metrics = http_get(http, "/metrics");
        moved |= strstr(metrics, "\nstoraged_sleeps 0\n") == NULL ? 1 : 0;
        moved |= strstr(metrics, "\nstoraged_cpu_us 0\n") == NULL ? 2 : 0;
        moved |= strstr(metrics, "\nstoraged_rounds 0\n") == NULL ? 4 : 0;
    }
    assert_int_equal(moved, 7);
    assert_int_equal(process_end(&process, SIGTERM), 0);
}

static void test_sigint_ends_it_too(void **state)
{
    process_t process;
    (void)state;
    const char *const argv[] = {program, BASE, NULL};
    assert_true(process_start(&process, argv));
    assert_int_equal(process_end(&process, SIGINT), 0);
}

static void write_config(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_sighup_reloads_live_options_and_refuses_bad_ones(void **state)
{
    process_t process;
    char path[] = "/tmp/lw-conf-XXXXXX";
    (void)state;
    close(mkstemp(path));
    write_config(path, "lease.us = 5s\n");
    const char *const argv[] = {program, BASE, "--config", path, NULL};
    assert_true(process_start(&process, argv));
    write_config(path, "lease.us = 7s\ndata.threads = 2\n");
    assert_int_equal(kill(process.pid, SIGHUP), 0);
    assert_true(process_wait_error(&process, "lease.us was reloaded"));
    assert_true(process_wait_error(&process, "data.threads has changed and needs a restart"));
    write_config(path, "lease.us = 1us\n");
    assert_int_equal(kill(process.pid, SIGHUP), 0);
    assert_true(process_wait_error(&process, "reload refused, nothing has changed"));
    assert_non_null(strstr(process_errors(&process), "100ms"));
    assert_int_equal(process_end(&process, SIGTERM), 0);
    unlink(path);
}

static void test_after_kill_9_all_ports_are_free_again(void **state)
{
    process_t process;
    char data[128], control[128], http[128];
    (void)state;
    const char *const argv[] = {program, BASE, NULL};
    assert_true(process_start(&process, argv));
    assert_true(process_ready_text(&process, "data", data, sizeof(data)));
    assert_true(process_ready_text(&process, "control", control, sizeof(control)));
    assert_true(process_ready_text(&process, "http", http, sizeof(http)));
    assert_int_equal(process_end(&process, SIGKILL), 1000 + SIGKILL);
    const char *const again[] = {program, BASE, "--data.listen", data, "--ctl.listen", control, "--ctl.http",
                                 http,    NULL};
    assert_true(process_start(&process, again));
    assert_non_null(strstr(http_get(http, "/readyz"), " 200 "));
    assert_int_equal(process_end(&process, SIGTERM), 0);
}

static void test_an_advertised_address_is_what_others_are_told(void **state)
{
    process_t process;
    char text[128];
    (void)state;
    const char *const argv[] = {
        program, BASE, "--data.listen", "0.0.0.0:0", "--data.advertise", "127.0.0.1:0", "--data.threads",
        "2",     NULL};
    assert_true(process_start(&process, argv));
    assert_true(process_ready_text(&process, "data", text, sizeof(text)));
    assert_memory_equal(text, "127.0.0.1:", 10);
    assert_true(atoi(text + 10) > 0); /* the bound port */
    assert_non_null(strstr(process.ready, "\"lanes\":[\""));
    assert_int_equal(process_end(&process, SIGTERM), 0);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    program = argv[1];
    source = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_bad_option_is_refused_with_its_name_value_and_bounds),
        cmocka_unit_test(test_what_the_machine_refuses_is_named_too),
        cmocka_unit_test(test_an_address_in_use_is_refused),
        cmocka_unit_test(test_a_dumped_configuration_reads_back_as_it_was),
        cmocka_unit_test(test_the_generated_pages_are_up_to_date),
        cmocka_unit_test(test_version_and_help_say_what_they_should),
        cmocka_unit_test(test_a_started_node_is_ready_and_shows_every_figure),
        cmocka_unit_test(test_sigint_ends_it_too),
        cmocka_unit_test(test_sighup_reloads_live_options_and_refuses_bad_ones),
        cmocka_unit_test(test_after_kill_9_all_ports_are_free_again),
        cmocka_unit_test(test_an_advertised_address_is_what_others_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
