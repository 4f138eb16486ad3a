/* test_ctl_http.c - /metrics, /healthz, /readyz: what is refused, what they say, and that every figure is shown. */
#include "test_ctl_support.h"

static seen_t seen;
static lwd_ctl_t *ctl;

static int setup(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    params.http = "127.0.0.1:0";
    ctl = node_start(&params);
    return 0;
}

static int teardown(void **state)
{
    lwd_ctl_stop(ctl, SECOND);
    return 0;
}

static int get(const char *path, char *body, size_t bytes)
{
    return http(lwd_ctl_http_address(ctl), "GET", path, body, bytes);
}

static void test_other_paths_and_methods_are_refused(void **state)
{
    char body[65536];
    assert_int_equal(get("/", body, sizeof(body)), 404);
    assert_int_equal(get("/metrics/", body, sizeof(body)), 404);
    assert_int_equal(http(lwd_ctl_http_address(ctl), "POST", "/metrics", body, sizeof(body)), 405);
    assert_int_equal(http(lwd_ctl_http_address(ctl), "DELETE", "/readyz", body, sizeof(body)), 405);
}

static void test_a_node_that_is_not_ready_says_why_in_json(void **state)
{
    char body[65536];
    WAIT_FOR(lwd_ctl_epoch(ctl) > 0);
    atomic_store(&seen.not_ready, true);
    assert_int_equal(get("/readyz", body, sizeof(body)), 503);
    assert_string_equal(body, "{\"ready\":false,\"reasons\":[\"the \\\"arena\\\" is not registered\","
                              "\"and neither is the moon\"]}\n");
    assert_int_equal(get("/healthz", body, sizeof(body)), 200); /* alive all the same */
    atomic_store(&seen.not_ready, false);
    assert_int_equal(get("/readyz", body, sizeof(body)), 200);
    assert_string_equal(body, "{\"ready\":true,\"reasons\":[]}\n");
    lwd_ctl_drain(ctl);
    assert_int_equal(get("/readyz", body, sizeof(body)), 503);
    assert_non_null(strstr(body, "draining"));
}

static void test_every_figure_is_shown_with_its_help_and_type(void **state)
{
    static const char *const names[] = {
#define STAT(kind, name, help) #name,
#include "storaged/ctl/ctl_stats.def"
#undef STAT
    };
    char body[65536], line[128];
    WAIT_FOR(lwd_ctl_epoch(ctl) > 0);
    assert_int_equal(get("/metrics", body, sizeof(body)), 200);
    assert_non_null(strstr(body, "storaged_test 17")); /* the server's own come first */
    for (size_t i = 0; i < LW_ARRAY_SIZE(names); i++) {
        snprintf(line, sizeof(line), "\n# HELP storaged_ctl_%s ", names[i]);
        if (!strstr(body, line) && !strstr(body, line + 1))
            fail_msg("%s is not shown", names[i]);
        snprintf(line, sizeof(line), "# TYPE storaged_ctl_%s ", names[i]);
        assert_non_null(strstr(body, line));
    }
    snprintf(line, sizeof(line), "storaged_ctl_view_epoch %llu\n", (unsigned long long)lwd_ctl_epoch(ctl));
    assert_non_null(strstr(body, line));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_other_paths_and_methods_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_is_not_ready_says_why_in_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_figure_is_shown_with_its_help_and_type, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
