/* test_ctl_etcd.c - three control planes on one etcd, in one process: who is in the view, who answers, and etcd going away. */
#include "test_ctl_support.h"

#include <signal.h>

#include "base/log.h"
#include "client/control/control.h"
#include "etcd_process.h"

#define LEASE (60 * SECOND)
#define NODES 3u

typedef struct node {
    seen_t seen;
    char address[64], where[96];
    lwd_ctl_params_t params;
    lwd_ctl_t *ctl;
} node_t;

static node_t nodes[NODES];
static etcd_process_t etcd;
static lw_error_t error;

static void quiet(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)level, (void)component, (void)line; /* nodes that come and go are what this test makes */
}

static void node_prepare(node_t *node, unsigned fleet)
{
    free_address(node->address, sizeof(node->address));
    snprintf(node->where, sizeof(node->where), "etcd://%s/fleet-%u", etcd.endpoint, fleet);
    node->params = node_params(&node->seen);
    node->params.listen = node->address;
    node->params.etcd = node->where;
    node->params.catalogue = NULL;
}

static int setup(void **state)
{
    static unsigned fleet;
    if (!getenv("LW_TEST_LOG"))
        lw_log_set_sink(quiet, NULL);
    fleet++;
    for (unsigned i = 0; i < NODES; i++) {
        nodes[i].ctl = NULL;
        node_prepare(&nodes[i], fleet);
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
    for (unsigned i = NODES; i-- > 0;)
        stop(&nodes[i]);
    lw_log_set_sink(NULL, NULL);
    return 0;
}

static void start_all(void)
{
    for (unsigned i = 0; i < NODES; i++) { /* one after another: the first has index 0 */
        nodes[i].ctl = node_start(&nodes[i].params);
        WAIT_FOR(lwd_ctl_epoch(nodes[i].ctl) != 0);
    }
}

/* Does the node see its fleet in these states ("UUD": up, up, down; G: draining)? */
static bool view_is(node_t *node, const char *states)
{
    lw_view_t *view = lwd_ctl_view_copy(node->ctl);
    bool is = view->node_count == strlen(states);
    for (uint32_t i = 0; i < view->node_count && is; i++)
        is = view->nodes[i].index == i &&
             view->nodes[i].state == (uint32_t)(states[i] == 'U' ? LW_NODE_UP : states[i] == 'D' ? LW_NODE_DOWN : LW_NODE_DRAINING);
    free(view);
    return is;
}

/* The same view under the same epoch on all of them. */
static bool views_agree(const char *states)
{
    lw_view_t *first = lwd_ctl_view_copy(nodes[0].ctl);
    bool agree = true;
    for (unsigned i = 0; i < NODES && agree; i++) {
        lw_view_t *view = lwd_ctl_view_copy(nodes[i].ctl);
        agree = view_is(&nodes[i], states) && view->epoch == first->epoch && view->fleet_id == first->fleet_id &&
                memcmp(view->nodes, first->nodes, view->node_count * sizeof(*view->nodes)) == 0;
        free(view);
    }
    free(first);
    return agree;
}

static uint64_t incarnation_of(node_t *node, uint32_t index)
{
    lw_view_t *view = lwd_ctl_view_copy(node->ctl);
    uint64_t incarnation = index < view->node_count ? view->nodes[index].incarnation : 0;
    free(view);
    return incarnation;
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

/* ---- what is refused ---- */

static void test_a_list_of_nodes_and_etcd_exclude_each_other(void **state)
{
    lwd_ctl_t *none = NULL;
    nodes[0].params.fleet = nodes[0].address;
    assert_int_equal(lwd_ctl_start(&nodes[0].params, &none, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "etcd"));
    nodes[0].params.fleet = NULL;
    nodes[0].params.etcd = "etcd://127.0.0.1:1";
    assert_int_equal(lwd_ctl_start(&nodes[0].params, &none, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "prefix"));
}

static void test_an_id_that_a_live_node_has_is_refused_and_free_once_that_has_stopped(void **state)
{
    lwd_ctl_t *none = NULL;
    nodes[0].params.node_id = nodes[1].params.node_id = 77;
    nodes[0].ctl = node_start(&nodes[0].params);
    assert_int_equal(lwd_ctl_start(&nodes[1].params, &none, &error), LW_ERR_EXISTS);
    assert_non_null(strstr(error.text, nodes[0].address));
    WAIT_FOR(view_is(&nodes[0], "U"));
    WAIT_FOR(lwd_ctl_writable(nodes[0].ctl));
    stop(&nodes[0]);
    nodes[1].ctl = node_start(&nodes[1].params); /* the same node, somewhere else */
    WAIT_FOR(view_is(&nodes[1], "U"));
}

/* ---- what works ---- */

static void test_all_nodes_see_one_view_and_each_keeps_its_index(void **state)
{
    start_all();
    WAIT_FOR(views_agree("UUU"));
    for (unsigned i = 0; i < NODES; i++) {
        assert_true(lwd_ctl_holds_catalogue(nodes[i].ctl));
        WAIT_FOR(lwd_ctl_writable(nodes[i].ctl));
    }
    uint64_t before = incarnation_of(&nodes[0], 1), epoch = lwd_ctl_epoch(nodes[0].ctl);
    stop(&nodes[1]); /* gives its lease up */
    WAIT_FOR(view_is(&nodes[0], "UDU") && view_is(&nodes[2], "UDU"));
    assert_true(lwd_ctl_epoch(nodes[0].ctl) > epoch);
    WAIT_FOR(lwd_ctl_epoch(nodes[0].ctl) == lwd_ctl_epoch(nodes[2].ctl));
    nodes[1].ctl = node_start(&nodes[1].params);
    WAIT_FOR(views_agree("UUU"));
    assert_true(incarnation_of(&nodes[0], 1) > before);
    lwd_ctl_drain(nodes[2].ctl);
    WAIT_FOR(views_agree("UUG"));
}

static void test_any_node_answers_for_any_session_and_all_learn_of_its_end(void **state)
{
    start_all();
    WAIT_FOR(views_agree("UUU"));
    lwc_control_t *controls[NODES];
    lwc_session_info_t info, again;
    lwc_node_status_t status;
    uint32_t count = 0;
    for (unsigned i = 0; i < NODES; i++)
        controls[i] = client(nodes[i].address);
    assert_int_equal(create(controls[0], &info), LW_OK);
    lwc_range_t range = {.token_count = 1024, .generation = 1, .replicas = 1, .bytes = 1000}, found;
    if (lwc_control_commit(controls[1], &info, 0, &range, 1, &error) != LW_OK)
        fail_msg("%s", error.text);
    assert_int_equal(lwc_control_ranges(controls[2], &info, 0, 0, 1, &found, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(found.token_count, 1024);
    assert_int_equal(lwc_control_get(controls[1], info.session_id, &again, &error), LW_OK);
    assert_int_equal(again.token_count, 1024);
    assert_int_equal(lwc_control_admin_status(controls[2], NULL, &status, &error), LW_OK);
    assert_true(status.ready && status.holds_catalogue);
    lwc_node_status_free(&status);
    assert_int_equal(lwc_control_drop(controls[2], info.session_id, &error), LW_OK);
    for (unsigned i = 0; i < NODES; i++)
        WAIT_FOR(seen_endings_of(&nodes[i].seen, info.session_id) == 1);
    /* All have said so, and the log is empty for the next one that asks. */
    uint32_t left = 1;
    lwd_catalogue_t *cat = NULL;
    lwd_ended_t ended;
    assert_int_equal(lwd_catalogue_etcd()->open(nodes[0].where, &cat, &error), LW_OK);
    WAIT_FOR(lwd_catalogue_etcd()->ended(cat, 0, 1, &ended, &left, &error) == LW_OK && left == 0);
    lwd_catalogue_etcd()->close(cat);
    for (unsigned i = 0; i < NODES; i++)
        lwc_control_close(controls[i]);
}

static void test_a_drain_is_kept_and_seen_by_all(void **state)
{
    start_all();
    WAIT_FOR(views_agree("UUU"));
    lwc_control_t *control = client(nodes[2].address);
    assert_int_equal(lwc_control_drain(control, 1, true, &error), LW_OK);
    WAIT_FOR(views_agree("UGU"));
    stop(&nodes[1]);
    WAIT_FOR(view_is(&nodes[0], "UDU"));
    nodes[1].ctl = node_start(&nodes[1].params);
    WAIT_FOR(views_agree("UGU")); /* a restart does not end it */
    assert_int_equal(lwc_control_drain(control, 1, false, &error), LW_OK);
    WAIT_FOR(views_agree("UUU"));
    lwc_control_close(control);
}

static void test_a_node_that_starts_without_etcd_joins_when_it_comes(void **state)
{
    etcd_process_kill(&etcd);
    nodes[0].ctl = node_start(&nodes[0].params);
    assert_false(lwd_ctl_writable(nodes[0].ctl));
    assert_int_equal(lwd_ctl_epoch(nodes[0].ctl), 0);
    etcd_process_start(&etcd);
    WAIT_FOR(view_is(&nodes[0], "U"));
    WAIT_FOR(lwd_ctl_writable(nodes[0].ctl));
}

/* etcd stops, or is killed and started again on its data: the view stays, writes are refused and come back, and what was
 * written is there. */
static void test_nothing_is_lost_when_etcd_goes_and_comes_back(void **state)
{
    start_all();
    WAIT_FOR(views_agree("UUU"));
    lwc_control_t *control = client(nodes[1].address);
    lwc_session_info_t info, again;
    uint32_t renewed;
    assert_int_equal(create(control, &info), LW_OK);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t epoch = lwd_ctl_epoch(nodes[0].ctl), start = lw_now_us(lw_clock_real());
        if (round == 0)
            etcd_process_signal(&etcd, SIGSTOP);
        else
            etcd_process_kill(&etcd);
        WAIT_FOR(!lwd_ctl_writable(nodes[0].ctl) && !lwd_ctl_writable(nodes[2].ctl));
        print_message("writes refused %.1f s after etcd %s\n", (double)(lw_now_us(lw_clock_real()) - start) / 1e6,
                      round ? "was killed" : "was stopped");
        assert_int_equal(lwc_control_get(control, info.session_id, &again, &error), LW_ERR_FLEET);
        assert_true(view_is(&nodes[0], "UUU") && view_is(&nodes[1], "UUU")); /* as it was */
        assert_int_equal(lwd_ctl_epoch(nodes[0].ctl), epoch);
        start = lw_now_us(lw_clock_real());
        if (round == 0)
            etcd_process_signal(&etcd, SIGCONT);
        else
            etcd_process_start(&etcd);
        WAIT_FOR(lwd_ctl_writable(nodes[0].ctl) && lwd_ctl_writable(nodes[1].ctl) && lwd_ctl_writable(nodes[2].ctl));
        WAIT_FOR(views_agree("UUU"));
        print_message("writes again and one view %.1f s after it came back\n",
                      (double)(lw_now_us(lw_clock_real()) - start) / 1e6);
        WAIT_FOR(lwc_control_get(control, info.session_id, &again, &error) == LW_OK);
        assert_int_equal(again.state, LWC_SESSION_ACTIVE);
        assert_int_equal(lwc_control_renew(control, LEASE, &renewed, &error), LW_OK);
        assert_int_equal(renewed, 1);
    }
    lwc_control_close(control);
}

int main(void)
{
    if (!etcd_process_found()) {
        printf("skipped: no etcd command\n");
        return 77;
    }
    etcd_process_start(&etcd);
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_a_list_of_nodes_and_etcd_exclude_each_other),
        CASE(test_an_id_that_a_live_node_has_is_refused_and_free_once_that_has_stopped),
        CASE(test_all_nodes_see_one_view_and_each_keeps_its_index),
        CASE(test_any_node_answers_for_any_session_and_all_learn_of_its_end),
        CASE(test_a_drain_is_kept_and_seen_by_all),
        CASE(test_a_node_that_starts_without_etcd_joins_when_it_comes),
        CASE(test_nothing_is_lost_when_etcd_goes_and_comes_back),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    etcd_process_remove(&etcd);
    return failed;
}
