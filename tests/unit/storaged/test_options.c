/* options.c - a configuration that cannot work is refused, and the refusal names the option, its value and
 * what would be right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "storaged/options.h"

static lwd_options_t defaults(void)
{
    lwd_options_t options;
    lw_error_t error;
    memset(&options, 0, sizeof(options));
    assert_int_equal(lw_options_default(lwd_option_table(), &options, &error), LW_OK);
    return options;
}

static void set(lwd_options_t *options, const char *option, const char *value)
{
    lw_error_t error = {0};
    if (lw_options_set(lwd_option_table(), option, value, options, &error) != LW_OK)
        fail_msg("%s", error.text);
}

static void assert_says(const lw_error_t *error, const char *word)
{
    if (strstr(error->text, word) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", word, error->text);
}

typedef struct bad {
    const char *option, *value, *wants;
    const char *other, *other_value; /* set before; NULL: none */
} bad_t;

static const bad_t cross[] = {
    {"mem.huge_pages", "4k", "auto, 1g, 2m, thp or none", NULL, NULL},
    {"mem.huge_pages", "", "auto, 1g, 2m, thp or none", NULL, NULL},
    {"mem.numa_node", "-1", "interleave or a number of 0 to 1023", NULL, NULL},
    {"mem.numa_node", "1024", "interleave or a number of 0 to 1023", NULL, NULL},
    {"mem.numa_node", "1x", "interleave or a number of 0 to 1023", NULL, NULL},
    {"mem.numa_node", "", "interleave or a number of 0 to 1023", NULL, NULL},
    {"mem.numa_node", "99999999999999999999", "interleave or a number of 0 to 1023", NULL, NULL},
    {"log.level", "loud", "error, warn, info or debug", NULL, NULL},
    {"log.level", "", "error, warn, info or debug", NULL, NULL},
    {"data.transports", "ib", "auto, tcp, shm or rdma", NULL, NULL},
    {"data.transports", "tcp,shm", "auto, tcp, shm or rdma", NULL, NULL},
    {"data.listen", "127.0.0.1", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", ":7402", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:-1", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:65536", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:74 02", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:18446744073709551617", "host:port with a port of 0 to 65535", NULL, NULL},
    {"data.listen", "127.0.0.1:65535", "65535 to each of the 2 data.threads", "data.threads", "2"},
    {"data.listen", "0.0.0.0:7402", "data.advertise must say", NULL, NULL},
    {"data.listen", "[::]:7402", "data.advertise must say", NULL, NULL},
    {"data.listen", "*:7402", "data.advertise must say", NULL, NULL},
    {"data.advertise", "0.0.0.0:7402", "an address that others can reach", "data.listen", "0.0.0.0:7402"},
    {"data.advertise", "10.0.0.7", "host:port with a port of 0 to 65535", "data.listen", "0.0.0.0:7402"},
    {"ctl.listen", "localhost", "host:port with a port of 0 to 65535", NULL, NULL},
    {"ctl.listen", "0.0.0.0:7401", "ctl.advertise must say", NULL, NULL},
    {"ctl.advertise", "[::]:1", "an address that others can reach", NULL, NULL},
    {"ctl.advertise", "x", "host:port with a port of 0 to 65535", NULL, NULL},
    {"ctl.http", "7403", "host:port with a port of 0 to 65535", NULL, NULL},
    {"ctl.tls_cert", "node.pem", "set both or neither", NULL, NULL},
    {"ctl.tls_key", "node.key", "set both or neither", NULL, NULL},
    {"ctl.tls_ca", "ca.pem", "without ctl.tls_cert and ctl.tls_key", NULL, NULL},
    {"data.attachments_per_connection", "100", "at most data.attachments, which is 64", "data.attachments",
     "64"},
};

static void test_what_one_value_cannot_say_is_refused_with_option_value_and_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(cross); i++) {
        const bad_t *bad = &cross[i];
        lwd_options_t options = defaults();
        lwd_choices_t choices, before;
        lw_error_t error = {0};
        if (bad->other != NULL)
            set(&options, bad->other, bad->other_value);
        set(&options, bad->option, bad->value);
        memset(&choices, 0x5a, sizeof(choices));
        before = choices;
        if (lwd_options_check(&options, &choices, &error) != LW_ERR_INVALID)
            fail_msg("%s = \"%s\" is accepted", bad->option, bad->value);
        assert_says(&error, bad->option);
        assert_says(&error, bad->value);
        assert_says(&error, bad->wants);
        assert_memory_equal(&choices, &before, sizeof(choices)); /* written only on success */
    }
}

/* For each row of options.def with bounds: the values just outside. */
static void test_every_bound_is_refused_with_option_value_and_bounds(void **state)
{
    (void)state;
    const lw_option_table_t *table = lwd_option_table();
    static const char *const bad_of[] = {[LW_OPTION_BOOL] = "perhaps",
                                         [LW_OPTION_UINT] = "1.5",
                                         [LW_OPTION_BYTES] = "12 apples",
                                         [LW_OPTION_USEC] = "7"};
    unsigned bounded = 0;
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];
        char name[64], value[LW_OPTION_STRING_MAX + 8];
        lwd_options_t options = defaults();
        lw_error_t error = {0};
        snprintf(name, sizeof(name), "%s.%s", row->group, row->name);
        memset(value, 'v', sizeof(value));
        value[LW_OPTION_STRING_MAX] = '\0'; /* one too long */
        const char *bad = row->kind == LW_OPTION_STRING ? value : bad_of[row->kind];
        assert_int_equal(lw_options_set(table, name, bad, &options, &error), LW_ERR_INVALID);
        assert_says(&error, name);
        assert_says(&error, row->kind == LW_OPTION_STRING ? "vvvv" : bad);
        const char *bounds[] = {row->min_text, row->max_text};
        for (size_t side = 0; side < LW_ARRAY_SIZE(bounds); side++) {
            if (bounds[side] == NULL || bounds[side][0] == '\0' || strcmp(bounds[side], "0") == 0)
                continue;
            /* a bound stands as in "16m": the number before is below it, the number after above */
            unsigned long long number;
            int digits;
            assert_int_equal(sscanf(bounds[side], "%llu%n", &number, &digits), 1);
            snprintf(value, sizeof(value), "%llu%s", side == 0 ? number - 1 : number + 1,
                     bounds[side] + digits);
            error = (lw_error_t){0};
            assert_int_equal(lw_options_set(table, name, value, &options, &error), LW_ERR_INVALID);
            assert_says(&error, name);
            assert_says(&error, value);
            assert_says(&error, bounds[side]);
            assert_int_equal(lw_options_set(table, name, bounds[side], &options, &error), LW_OK);
            bounded++;
        }
    }
    assert_in_range(bounded, 20, 200);
}

static void test_the_defaults_and_ordinary_settings_pass(void **state)
{
    (void)state;
    static const char *const fine[][2] = {
        {"mem.huge_pages", "thp"},       {"mem.numa_node", "0"},           {"mem.numa_node", "1023"},
        {"log.level", "debug"},          {"data.transports", "rdma"},      {"data.listen", "[::1]:0"},
        {"data.listen", "node-7:65535"}, {"ctl.advertise", "node-7:7401"}, {"ctl.http", ""},
        {"ctl.http", "0.0.0.0:0"},
    };
    lwd_options_t options = defaults();
    lwd_choices_t choices;
    lw_error_t error = {0};
    if (lwd_options_check(&options, &choices, &error) != LW_OK)
        fail_msg("%s", error.text);
    assert_int_equal(choices.numa_node, -1);
    assert_int_equal(choices.log_level, LW_LOG_INFO);
    for (size_t i = 0; i < LW_ARRAY_SIZE(fine); i++) {
        options = defaults();
        set(&options, fine[i][0], fine[i][1]);
        if (lwd_options_check(&options, &choices, &error) != LW_OK)
            fail_msg("%s = %s: %s", fine[i][0], fine[i][1], error.text);
    }
    set(&options, "mem.numa_node", "7");
    set(&options, "data.listen", "0.0.0.0:7402");
    set(&options, "data.advertise", "10.0.0.7:7402");
    set(&options, "ctl.tls_ca", "ca");
    set(&options, "ctl.tls_cert", "cert");
    set(&options, "ctl.tls_key", "key");
    assert_int_equal(lwd_options_check(&options, &choices, &error), LW_OK);
    assert_int_equal(choices.numa_node, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_one_value_cannot_say_is_refused_with_option_value_and_bounds),
        cmocka_unit_test(test_every_bound_is_refused_with_option_value_and_bounds),
        cmocka_unit_test(test_the_defaults_and_ordinary_settings_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
