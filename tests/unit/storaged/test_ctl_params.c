/* test_ctl_params.c - parameters that a node's control plane does not start with; each refusal names the value. */
#include "test_ctl_support.h"

#include "base/log.h"

static seen_t seen;

static void quiet(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)level, (void)component, (void)line; /* SQLite's complaints are asked for here */
}

static void refused(const lwd_ctl_params_t *params, lw_status_t status, const char *word)
{
    lwd_ctl_t *ctl = NULL;
    lw_error_t error = {0};
    assert_int_equal(lwd_ctl_start(params, &ctl, &error), status);
    assert_null(ctl);
    if (!strstr(error.text, word))
        fail_msg("'%s' does not name '%s'", error.text, word);
}

static void test_addresses_that_nobody_could_use_are_refused(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    params.listen = "";
    refused(&params, LW_ERR_INVALID, "listen");
    params.listen = "nonsense";
    refused(&params, LW_ERR_INVALID, "nonsense");
    params.listen = "0.0.0.0:0"; /* a wildcard and nothing to advertise */
    refused(&params, LW_ERR_INVALID, "0.0.0.0:0");
    params = node_params(&seen);
    params.data = "0.0.0.0:7000";
    refused(&params, LW_ERR_INVALID, "0.0.0.0:7000");
    params = node_params(&seen);
    params.zone = "a zone with a name that is far too long for its field";
    refused(&params, LW_ERR_INVALID, "zone");
}

static void test_a_fleet_without_this_node_or_with_doubles_is_refused(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    params.advertise = "127.0.0.1:7001";
    params.fleet = "127.0.0.1:7002,127.0.0.1:7003";
    refused(&params, LW_ERR_INVALID, "127.0.0.1:7001");
    params.fleet = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7002";
    refused(&params, LW_ERR_INVALID, "127.0.0.1:7002");
    params.fleet = "127.0.0.1:7001,elsewhere";
    refused(&params, LW_ERR_INVALID, "elsewhere");
    char many[LWD_CTL_FLEET_MAX * 20 + 64] = "";
    for (unsigned i = 0; i <= LWD_CTL_FLEET_MAX; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), "127.0.0.1:%u,", 7001 + i);
    params.fleet = many;
    refused(&params, LW_ERR_INVALID, "64");
}

static void test_an_http_address_that_cannot_be_bound_is_refused(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
#ifdef LW_HAVE_MHD
    static const char *const bad[] = {"localhost", "somewhere.invalid:80", "127.0.0.1:x", "127.0.0.1:70000", ":80"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        params.http = bad[i];
        refused(&params, LW_ERR_INVALID, bad[i]);
    }
#else
    params.http = "127.0.0.1:0";
    refused(&params, LW_ERR_UNSUPPORTED, "libmicrohttpd");
#endif
}

static void test_a_port_in_use_is_refused(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    lwd_ctl_t *ctl = node_start(&params);
    seen_t other;
    lwd_ctl_params_t again = node_params(&other);
    again.listen = lwd_ctl_address(ctl);
    refused(&again, LW_ERR_UNREACHABLE, lwd_ctl_address(ctl));
    lwd_ctl_stop(ctl, 0);
}

static void test_a_catalogue_that_cannot_be_opened_is_refused(void **state)
{
#ifdef LW_HAVE_SQLITE
    lwd_ctl_params_t params = node_params(&seen);
    lw_log_set_sink(quiet, NULL);
    params.catalogue = lwd_catalogue_sqlite();
    params.catalogue_path = "/nowhere/at/all.db";
    refused(&params, LW_ERR_IO, "/nowhere/at/all.db");
    lw_log_set_sink(NULL, NULL);
#else
    skip();
#endif
}

static void test_half_an_identity_is_refused(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    params.cert_pem = "certificate";
    refused(&params, LW_ERR_INVALID, "TLS");
}

static void test_a_node_id_depends_on_the_address_alone(void **state)
{
    assert_true(lwd_ctl_node_id("a:1") == lwd_ctl_node_id("a:1"));
    assert_true(lwd_ctl_node_id("a:1") != lwd_ctl_node_id("a:2"));
    assert_true(lwd_ctl_node_id("") != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_that_nobody_could_use_are_refused),
        cmocka_unit_test(test_a_fleet_without_this_node_or_with_doubles_is_refused),
        cmocka_unit_test(test_an_http_address_that_cannot_be_bound_is_refused),
        cmocka_unit_test(test_a_port_in_use_is_refused),
        cmocka_unit_test(test_a_catalogue_that_cannot_be_opened_is_refused),
        cmocka_unit_test(test_half_an_identity_is_refused),
        cmocka_unit_test(test_a_node_id_depends_on_the_address_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
