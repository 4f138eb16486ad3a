/* test_ctl_fleet.c - nodes that forward to the one with the catalogue: when it is away, when it comes back, when one falls
 * silent; plain and with mTLS, where certificates say who may do what. */
#include "test_ctl_support.h"

#include "base/log.h"
#include "client/control/control.h"
#include "rpc/rpc.h"
#include "unit/proto/test_tls_certs.h"

#define LEASE (60 * SECOND)

typedef struct node {
    seen_t seen;
    char address[64];
    lwd_ctl_params_t params;
    lwd_ctl_t *ctl;
} node_t;

static node_t nodes[3];
static char fleet[256], file[64];
static lw_error_t error;

static void quiet(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)level, (void)component, (void)line; /* nodes that fall silent are what this test makes */
}

static int setup(void **state)
{
    lw_log_set_sink(quiet, NULL);
    fleet[0] = 0;
    snprintf(file, sizeof(file), "/tmp/lw-ctl-XXXXXX");
    int fd = mkstemp(file);
    if (fd < 0)
        return -1;
    close(fd);
    for (unsigned i = 0; i < 3; i++) {
        do /* the kernel may give a port twice */
            free_address(nodes[i].address, sizeof(nodes[i].address));
        while ((i > 0 && strcmp(nodes[i].address, nodes[0].address) == 0) ||
               (i > 1 && strcmp(nodes[i].address, nodes[1].address) == 0));
        snprintf(fleet + strlen(fleet), sizeof(fleet) - strlen(fleet), "%s%s", i ? "," : "", nodes[i].address);
    }
    for (unsigned i = 0; i < 3; i++) {
        nodes[i].params = node_params(&nodes[i].seen);
        nodes[i].params.listen = nodes[i].address;
        nodes[i].params.fleet = fleet;
        nodes[i].ctl = NULL;
#ifdef LW_HAVE_SQLITE
        nodes[i].params.catalogue = lwd_catalogue_sqlite();
        nodes[i].params.catalogue_path = file;
#endif
    }
    return 0;
}

static void stop(node_t *node)
{
    lwd_ctl_stop(node->ctl, SECOND);
    node->ctl = NULL;
}

static int teardown(void **state)
{
    static const char *const tails[] = {"", "-wal", "-shm", "-journal"};
    for (unsigned i = 3; i-- > 0;)
        stop(&nodes[i]);
    for (size_t i = 0; i < LW_ARRAY_SIZE(tails); i++) {
        char name[96];
        snprintf(name, sizeof(name), "%s%s", file, tails[i]);
        unlink(name);
    }
    lw_log_set_sink(NULL, NULL);
    return 0;
}

static lwc_control_t *client(const char *seeds)
{
    lwc_control_params_t params = {.size = sizeof(params), .seeds = seeds, .timeout_us = 10 * SECOND};
    lwc_control_t *control = NULL;
    if (lwc_control_open(&params, &control, &error) != LW_OK)
        fail_msg("open: %s", error.text);
    return control;
}

static lw_status_t create(lwc_control_t *control, lwc_session_info_t *info)
{
    const lwc_shape_t shape = {.model_id = "m", .layer_count = 1, .kv_head_count = 1, .query_head_count = 1,
                               .head_dim = 64, .dtype = LW_DTYPE_BF16, .rank_count = 1, .segment_tokens = 1024,
                               .replicas = 1};
    return lwc_control_create(control, &shape, LEASE, 0, info, &error);
}

/* Does the node see its fleet in these states ("UUD": up, up, down)? */
static bool view_is(node_t *node, const char *states)
{
    lw_view_t *view = lwd_ctl_view_copy(node->ctl);
    bool is = view->node_count == strlen(states);
    for (uint32_t i = 0; i < view->node_count && is; i++)
        is = view->nodes[i].state == (uint32_t)(states[i] == 'U' ? LW_NODE_UP : states[i] == 'D' ? LW_NODE_DOWN : LW_NODE_DRAINING);
    free(view);
    return is;
}

static void checked(void *arg, lw_status_t status, const uint64_t *origins, const uint32_t *cuts, uint32_t count)
{
    atomic_store((_Atomic int *)arg, status);
}

static void test_without_the_holder_nothing_is_written_and_all_say_so(void **state)
{
    nodes[1].ctl = node_start(&nodes[1].params);
    assert_false(lwd_ctl_holds_catalogue(nodes[1].ctl));
    lwc_control_t *control = client(nodes[1].address);
    lwc_session_info_t info;
    lw_view_t view;
    lwc_node_status_t status;
    assert_int_equal(create(control, &info), LW_ERR_FLEET);
    assert_non_null(strstr(error.text, nodes[0].address));
    assert_int_equal(lwc_control_get(control, 1, &info, &error), LW_ERR_FLEET); /* after its retries */
    assert_int_equal(lwc_control_fleet_get(control, &view, &error), LW_ERR_FLEET);
    assert_false(lwd_ctl_writable(nodes[1].ctl));
    assert_int_equal(lwd_ctl_epoch(nodes[1].ctl), 0);
    assert_int_equal(lwc_control_admin_status(control, NULL, &status, &error), LW_OK); /* this it answers itself */
    assert_false(status.ready);
    assert_false(status.holds_catalogue);
    assert_non_null(strstr(status.reasons, "not been reached"));
    lwc_node_status_free(&status);
    _Atomic int answer = 1;
    lwd_ctl_check_t what = {.session_id = 1};
    assert_int_equal(lwd_ctl_check_async(nodes[1].ctl, &what, checked, &answer), LW_OK);
    WAIT_FOR(atomic_load(&answer) != 1);
    assert_int_equal(atomic_load(&answer), LW_ERR_FLEET);
    nodes[0].ctl = node_start(&nodes[0].params); /* it comes */
    WAIT_FOR(create(control, &info) == LW_OK);
    WAIT_FOR(view_is(&nodes[1], "UUD"));
    lwc_control_close(control);
}

static void test_every_node_answers_for_the_fleet(void **state)
{
    for (unsigned i = 0; i < 3; i++)
        nodes[i].ctl = node_start(&nodes[i].params);
    for (unsigned i = 0; i < 3; i++)
        WAIT_FOR(view_is(&nodes[i], "UUU"));
    assert_int_equal(lwd_ctl_fleet_id(nodes[2].ctl), lwd_ctl_fleet_id(nodes[0].ctl));
    lwc_control_t *first = client(nodes[2].address), *second = client(nodes[1].address);
    lwc_session_info_t info, seen_by_second;
    assert_int_equal(create(first, &info), LW_OK);
    assert_int_equal(lwc_control_get(second, info.session_id, &seen_by_second, &error), LW_OK);
    assert_int_equal(seen_by_second.lease_client, first->client_id);
    lwc_session_info_t again;
    assert_int_equal(lwc_control_open_session(second, info.session_id, true, LEASE, &again, &error), LW_ERR_BUSY);
    assert_int_equal(lwc_control_drop(second, info.session_id, &error), LW_OK);
    for (unsigned i = 0; i < 3; i++) /* each node is told what to free */
        WAIT_FOR(seen_endings_of(&nodes[i].seen, info.session_id) == 1);
    assert_int_equal(lwc_control_get(second, info.session_id, &again, &error), LW_ERR_NOT_FOUND);
    lwc_control_close(first);
    lwc_control_close(second);
}

static void test_a_silent_node_is_down_and_up_again_at_later_epochs(void **state)
{
    for (unsigned i = 0; i < 2; i++)
        nodes[i].ctl = node_start(&nodes[i].params);
    WAIT_FOR(view_is(&nodes[0], "UUD"));
    uint64_t up = lwd_ctl_epoch(nodes[0].ctl);
    stop(&nodes[1]);
    WAIT_FOR(view_is(&nodes[0], "UDD"));
    uint64_t down = lwd_ctl_epoch(nodes[0].ctl);
    assert_true(down > up);
    nodes[1].ctl = node_start(&nodes[1].params);
    WAIT_FOR(view_is(&nodes[0], "UUD") && view_is(&nodes[1], "UUD"));
    assert_true(lwd_ctl_epoch(nodes[0].ctl) > down);
    lwd_ctl_drain(nodes[1].ctl);
    WAIT_FOR(view_is(&nodes[0], "UGD"));
}

static void test_when_the_holder_goes_nodes_keep_their_view_and_stop_writing(void **state)
{
    nodes[0].ctl = node_start(&nodes[0].params);
    nodes[1].ctl = node_start(&nodes[1].params);
    WAIT_FOR(view_is(&nodes[1], "UUD") && lwd_ctl_writable(nodes[1].ctl));
    char seeds[160];
    snprintf(seeds, sizeof(seeds), "%s,%s", nodes[0].address, nodes[1].address);
    lwc_control_t *control = client(seeds);
    lwc_session_info_t info, after;
    assert_int_equal(create(control, &info), LW_OK);
    uint64_t fleet_id = lwd_ctl_fleet_id(nodes[1].ctl), epoch = lwd_ctl_epoch(nodes[1].ctl);
    stop(&nodes[0]);
    lw_view_t view;
    assert_int_equal(lwc_control_fleet_get(control, &view, &error), LW_OK); /* from the other seed */
    assert_int_equal(view.node_count, 3);
    lwc_view_free(&view);
    assert_int_equal(lwc_control_get(control, info.session_id, &after, &error), LW_ERR_FLEET);
    WAIT_FOR(!lwd_ctl_writable(nodes[1].ctl));
#ifdef LW_HAVE_SQLITE
    nodes[0].ctl = node_start(&nodes[0].params); /* with the same file */
    WAIT_FOR(lwd_ctl_writable(nodes[1].ctl) && view_is(&nodes[1], "UUD"));
    assert_int_equal(lwd_ctl_fleet_id(nodes[1].ctl), fleet_id);
    assert_true(lwd_ctl_epoch(nodes[1].ctl) > epoch);
    WAIT_FOR(lwc_control_get(control, info.session_id, &after, &error) == LW_OK);
    assert_memory_equal(after.token, info.token, LW_TOKEN_BYTES);
#endif
    lwc_control_close(control);
}

static void test_a_list_in_another_order_is_refused(void **state)
{
#ifdef LW_HAVE_SQLITE
    nodes[0].ctl = node_start(&nodes[0].params);
    stop(&nodes[0]);
    char swapped[256];
    snprintf(swapped, sizeof(swapped), "%s,%s,%s", nodes[1].address, nodes[0].address, nodes[2].address);
    nodes[1].params.fleet = swapped; /* now the second is first and would hold the file */
    lwd_ctl_t *ctl = NULL;
    assert_int_equal(lwd_ctl_start(&nodes[1].params, &ctl, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, nodes[1].address));
    assert_null(ctl);
#else
    skip();
#endif
}

static void test_a_fleet_with_mtls_lets_only_its_own_in(void **state)
{
    test_certs_t certs;
    if (!test_certs_make(&certs))
        skip();
    for (unsigned i = 0; i < 2; i++) {
        nodes[i].params.ca_pem = certs.ca;
        nodes[i].params.cert_pem = certs.server_cert;
        nodes[i].params.key_pem = certs.server_key;
        nodes[i].ctl = node_start(&nodes[i].params);
    }
    WAIT_FOR(view_is(&nodes[1], "UUD")); /* nodes show their own certificate to each other */
    lwc_control_params_t params = {.size = sizeof(params), .seeds = nodes[1].address, .timeout_us = 5 * SECOND,
                                   .ca_pem = certs.ca, .cert_pem = certs.client_cert, .key_pem = certs.client_key};
    lwc_control_t *control = NULL;
    lwc_session_info_t info;
    assert_int_equal(lwc_control_open(&params, &control, &error), LW_OK);
    assert_int_equal(create(control, &info), LW_OK);
    lwc_control_close(control);
    params.cert_pem = certs.stranger_cert;
    params.key_pem = certs.stranger_key;
    assert_int_equal(lwc_control_open(&params, &control, &error), LW_OK);
    assert_int_equal(create(control, &info), LW_ERR_UNREACHABLE);
    lwc_control_close(control);
    control = client(nodes[1].address); /* plaintext */
    assert_int_equal(create(control, &info), LW_ERR_UNREACHABLE);
    lwc_control_close(control);
    test_certs_free(&certs);
}

/* ---- what certificates allow ---- */

typedef struct who {
    const char *name, *cert, *key;
    bool acme, other, node, admin; /* what it may: name these tenants, make nodes' calls, operators' */
} who_t;

static lw_status_t bare_call(const char *address, const test_certs_t *certs, const who_t *who, const char *path)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs->ca, .cert_pem = who->cert, .key_pem = who->key};
    lw_rpc_channel_t *channel = NULL;
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_connect(address, &tls, &channel, &error), LW_OK);
    lw_status_t status = lw_rpc_call(channel, path, "", 0, 10 * SECOND, &reply, &error);
    lw_rpc_bytes_free(&reply);
    lw_rpc_disconnect(channel);
    return status;
}

static void may_name(const char *address, const test_certs_t *certs, const who_t *who, const char *tenant, bool may)
{
    lwc_control_params_t params = {.size = sizeof(params), .seeds = address, .tenant = tenant, .timeout_us = 10 * SECOND,
                                   .ca_pem = certs->ca, .cert_pem = who->cert, .key_pem = who->key};
    lwc_control_t *control = NULL;
    lwc_session_info_t info, rows[8];
    lw_view_t view;
    uint32_t count;
    const lw_status_t allowed = may ? LW_OK : LW_ERR_PERMISSION;
    assert_int_equal(lwc_control_open(&params, &control, &error), LW_OK);
    assert_int_equal(create(control, &info), allowed);
    if (!may && (strstr(error.text, tenant) == NULL || strstr(error.text, who->name) == NULL))
        fail_msg("\"%s\" names not both %s and %s", error.text, who->name, tenant);
    assert_int_equal(lwc_control_list(control, 0, 8, rows, &count, &error), allowed);
    assert_int_equal(lwc_control_renew(control, LEASE, &count, &error), allowed);
    assert_int_equal(lwc_control_drop(control, may ? info.session_id : 1, &error), allowed);
    assert_int_equal(lwc_control_fleet_get(control, &view, &error), LW_OK); /* anybody of the authority may see that */
    lwc_view_free(&view);
    lwc_control_close(control);
}

static void test_a_certificate_says_for_which_tenants_and_in_which_role(void **state)
{
    test_certs_t certs;
    if (!test_certs_make(&certs))
        skip();
    const who_t whos[] = {
        {"client", certs.client_cert, certs.client_key, true, false, false, false},
        {"bare", certs.bare_cert, certs.bare_key, false, false, false, false},
        {"server", certs.server_cert, certs.server_key, true, true, true, false},
        {"admin", certs.admin_cert, certs.admin_key, true, true, false, true},
    };
    static const char *const for_nodes[] = {"/longwave.v1.Fleet/Sync", "/longwave.v1.Fleet/Orphans",
                                            "/longwave.v1.Fleet/Expire", "/longwave.v1.Session/Check"};
    static const char *const for_admins[] = {"/longwave.v1.Admin/Status", "/longwave.v1.Admin/SetLogLevel"};
    for (unsigned i = 0; i < 2; i++) {
        nodes[i].params.ca_pem = certs.ca;
        nodes[i].params.cert_pem = certs.server_cert;
        nodes[i].params.key_pem = certs.server_key;
        nodes[i].ctl = node_start(&nodes[i].params);
    }
    WAIT_FOR(view_is(&nodes[1], "UUD") && view_is(&nodes[0], "UUD"));
    for (unsigned n = 0; n < 2; n++) { /* the holder, and a node that sends calls on as itself */
        for (size_t w = 0; w < LW_ARRAY_SIZE(whos); w++) {
            const who_t *who = &whos[w];
            may_name(nodes[n].address, &certs, who, "acme", who->acme);
            may_name(nodes[n].address, &certs, who, "other", who->other);
            may_name(nodes[n].address, &certs, who, "acme2", who->other);
            may_name(nodes[n].address, &certs, who, "acm", who->other);
            for (size_t i = 0; i < LW_ARRAY_SIZE(for_nodes); i++)
                assert_int_equal(
                    bare_call(nodes[n].address, &certs, who, for_nodes[i]) != LW_ERR_PERMISSION, who->node);
            for (size_t i = 0; i < LW_ARRAY_SIZE(for_admins); i++)
                assert_int_equal(
                    bare_call(nodes[n].address, &certs, who, for_admins[i]) != LW_ERR_PERMISSION, who->admin);
        }
    }
    test_certs_free(&certs);
}

static bool heartbeats_failed(const test_certs_t *certs, const node_t *node)
{
    lwc_control_params_t params = {.size = sizeof(params), .seeds = node->address, .timeout_us = 5 * SECOND,
                                   .ca_pem = certs->ca, .cert_pem = certs->admin_cert, .key_pem = certs->admin_key};
    lwc_control_t *control = NULL;
    lwc_node_status_t status;
    assert_int_equal(lwc_control_open(&params, &control, &error), LW_OK);
    if (lwc_control_admin_status(control, NULL, &status, &error) != LW_OK)
        fail_msg("%s", error.text);
    const char *count = strstr(status.metrics, "\nstoraged_ctl_syncs_failed ");
    count = count ? strchr(count, ' ') + 1 : "0";
    bool failed = strtoull(count, NULL, 10) >= 2;
    lwc_node_status_free(&status);
    lwc_control_close(control);
    return failed;
}

/* Nodes whose certificate does not say so are no nodes. */
static void test_a_node_with_a_clients_certificate_stays_outside(void **state)
{
    test_certs_t certs;
    if (!test_certs_make(&certs))
        skip();
    for (unsigned i = 0; i < 2; i++) {
        nodes[i].params.ca_pem = certs.ca;
        nodes[i].params.cert_pem = i == 0 ? certs.server_cert : certs.client_cert;
        nodes[i].params.key_pem = i == 0 ? certs.server_key : certs.client_key;
        nodes[i].ctl = node_start(&nodes[i].params);
    }
    WAIT_FOR(view_is(&nodes[0], "UDD"));
    WAIT_FOR(heartbeats_failed(&certs, &nodes[1]));
    assert_true(view_is(&nodes[0], "UDD"));
    lwc_control_params_t params = {.size = sizeof(params), .seeds = nodes[1].address, .timeout_us = 5 * SECOND,
                                   .ca_pem = certs.ca, .cert_pem = certs.client_cert, .key_pem = certs.client_key};
    lwc_control_t *control = NULL;
    lwc_session_info_t info;
    assert_int_equal(lwc_control_open(&params, &control, &error), LW_OK);
    assert_int_equal(create(control, &info), LW_OK); /* sent on under a certificate of the same tenant */
    lwc_control_close(control);
    assert_int_equal(lwd_ctl_epoch(nodes[1].ctl), 0); /* no heartbeat of it was ever answered */
    assert_false(lwd_ctl_writable(nodes[1].ctl));
    test_certs_free(&certs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_without_the_holder_nothing_is_written_and_all_say_so),
        CASE(test_a_list_in_another_order_is_refused),
        CASE(test_a_silent_node_is_down_and_up_again_at_later_epochs),
        CASE(test_when_the_holder_goes_nodes_keep_their_view_and_stop_writing),
        CASE(test_every_node_answers_for_the_fleet),
        CASE(test_a_fleet_with_mtls_lets_only_its_own_in),
        CASE(test_a_certificate_says_for_which_tenants_and_in_which_role),
        CASE(test_a_node_with_a_clients_certificate_stays_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
