/* test_fetch.c - callbacks that fetch again while the store is giving wants back: every want is answered
 * once. The node is a few lines over the simulated fabric: it greets, and has no segments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/store/store_private.h"
#include "fabric/fabric_sim.h"

#define LANDING_BYTES 65536u
#define SEGMENTS 4u
#define TAGS 64u
#define FLEET 7u

static uint64_t now_us = 1000;
static uint64_t read_clock(void *arg)
{
    return now_us;
}

typedef struct {
    lw_sim_net_t *net;
    lw_clock_t clock;
    lw_fabric_t *node;
    lw_node_t nodes[1];
    lw_view_t view;
    uint8_t *landing;
    lwc_store_t *store;
    uint32_t answers[TAGS], tag, again; /* again: fetches that callbacks still start */
    lw_status_t last;
} rig_t;

static void node_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    lw_error_t error;
    lw_msg_t asked, reply = {0};
    uint8_t head[LW_MSG_HEAD_MAX];
    assert_int_equal(lw_msg_decode_head(msg->head, msg->head_bytes, msg->data_bytes, &asked, &error), LW_OK);
    reply.header.fleet_id = FLEET;
    reply.header.request_id = asked.header.request_id;
    if (asked.header.type == LW_MSG_HELLO) {
        reply.header.type = LW_MSG_HELLO_REPLY;
        reply.body.hello_reply = (lw_msg_hello_reply_t){.version = LW_WIRE_VERSION,
                                                        .fleet_id = FLEET,
                                                        .node_id = 1,
                                                        .attach_limit = 64,
                                                        .fetch_entry_limit = 64};
    } else {
        assert_int_equal(asked.header.type, LW_MSG_ATTACH);
        reply.header.type = LW_MSG_ATTACH_REPLY;
        reply.body.attach_reply.status = LW_ERR_NOT_FOUND;
    }
    uint32_t head_bytes = lw_msg_encode(&reply, NULL, 0, head);
    assert_int_equal(lw_fabric_sim()->send(conn, head, head_bytes, NULL, 0, LW_SEND_AUTO, NULL, NULL), LW_OK);
}

static void node_accept(void *arg, lw_conn_t *conn) {}
static void node_closed(void *arg, lw_conn_t *conn, lw_status_t status) {}

static void open_node(rig_t *rig)
{
    lw_error_t error;
    lw_fabric_params_t params = {.handler = {node_message, node_accept, node_closed, rig}};
    lw_fabric_sim_use(rig->net, "node");
    assert_int_equal(lw_fabric_sim()->open(&params, &rig->node, &error), LW_OK);
    assert_int_equal(lw_fabric_sim()->listen(rig->node, "node:1", &error), LW_OK);
}

static int set_up(void **state)
{
    rig_t *rig = calloc(1, sizeof(*rig));
    lw_error_t error;
    rig->clock = *lw_clock_real();
    rig->clock.now_us = read_clock;
    rig->landing = aligned_alloc(64, LANDING_BYTES);
    assert_int_equal(lw_sim_net_create(1, &rig->net), LW_OK);
    open_node(rig);
    rig->nodes[0] =
        (lw_node_t){.id = 1, .incarnation = 1, .state = LW_NODE_UP, .weight = 1, .data = "node:1"};
    rig->view = (lw_view_t){.epoch = 1, .fleet_id = FLEET, .node_count = 1, .nodes = rig->nodes};
    lwc_store_params_t params = {.fabric = lw_fabric_sim(),
                                 .clock = &rig->clock,
                                 .client_id = 1,
                                 .incarnation = 1,
                                 .segment_capacity = SEGMENTS,
                                 .session_capacity = 1,
                                 .wants_max = TAGS,
                                 .puts_max = 1,
                                 .landing = rig->landing,
                                 .landing_bytes = LANDING_BYTES};
    lw_fabric_sim_use(rig->net, "client");
    assert_int_equal(lwc_store_create(&params, &rig->store, &error), LW_OK);
    assert_int_equal(lwc_store_set_view(rig->store, &rig->view, &error), LW_OK);
    uint8_t token[LW_TOKEN_BYTES] = {1};
    assert_int_equal(lwc_store_session(rig->store, 0, 1, token, false, 0), LW_OK);
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    rig_t *rig = *state;
    lwc_store_destroy(rig->store);
    lw_fabric_sim()->close(rig->node);
    lw_sim_net_destroy(rig->net);
    free(rig->landing);
    free(rig);
    return 0;
}

static void know_segments(rig_t *rig, uint16_t node_index)
{
    for (uint32_t key = 0; key < SEGMENTS; key++) {
        lw_segment_name_t name = {.origin = 1, .first_token = 256 * key};
        assert_int_equal(lwc_store_segment(rig->store, key, 0, &name, 64, &node_index, 1), LW_OK);
    }
}

static void on_arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record);

static void fetch(rig_t *rig, uint32_t count)
{
    lwc_want_t wants[SEGMENTS];
    for (uint32_t i = 0; i < count; i++)
        wants[i] = (lwc_want_t){.segment = i, .rows = 1, .tag = rig->tag++};
    assert_int_equal(lwc_store_fetch(rig->store, wants, count, now_us + 1000000, false, on_arrived, rig),
                     LW_OK);
}

static void on_arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record)
{
    rig_t *rig = arg;
    assert_true(tag < TAGS);
    assert_null(record);
    rig->answers[tag]++;
    rig->last = status;
    if (rig->again > 0) {
        rig->again--;
        fetch(rig, 2);
    }
}

static void run(rig_t *rig)
{
    for (uint32_t round = 0; round < 20000 && lwc_store_wants_in_flight(rig->store) > 0; round++) {
        now_us += 200;
        lw_sim_net_round(rig->net, now_us);
        lw_fabric_sim()->progress(rig->node);
        lwc_store_round(rig->store, now_us);
    }
    assert_int_equal(lwc_store_wants_in_flight(rig->store), 0);
    for (uint32_t tag = 0; tag < TAGS; tag++)
        assert_int_equal(rig->answers[tag], tag < rig->tag);
}

static void test_fetch_in_a_callback_of_an_absent_segment_is_answered_once(void **state)
{
    rig_t *rig = *state;
    know_segments(rig, 0);
    rig->again = 8;
    fetch(rig, SEGMENTS);
    run(rig);
    assert_int_equal(rig->again, 0);
    assert_int_equal(rig->last, LW_ERR_SESSION_LOST);
}

static void test_fetch_in_a_callback_of_a_node_outside_the_view_is_answered_once(void **state)
{
    rig_t *rig = *state;
    know_segments(rig, 3);
    rig->again = 8;
    fetch(rig, SEGMENTS);
    run(rig);
    assert_int_equal(rig->last, LW_ERR_UNREACHABLE);
}

static void test_fetch_in_a_callback_at_the_deadline_is_answered_once(void **state)
{
    rig_t *rig = *state;
    know_segments(rig, 0);
    lw_sim_net_partition(rig->net, "client", "node", true);
    rig->again = 8;
    fetch(rig, SEGMENTS);
    run(rig);
    assert_int_equal(rig->last, LW_ERR_UNREACHABLE);
}

static void test_destroying_a_store_answers_what_waits(void **state)
{
    rig_t *rig = *state;
    know_segments(rig, 0);
    fetch(rig, SEGMENTS);
    lwc_store_destroy(rig->store);
    rig->store = NULL;
    for (uint32_t tag = 0; tag < SEGMENTS; tag++)
        assert_int_equal(rig->answers[tag], 1);
    assert_int_equal(rig->last, LW_ERR_CANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fetch_in_a_callback_of_an_absent_segment_is_answered_once,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fetch_in_a_callback_of_a_node_outside_the_view_is_answered_once,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fetch_in_a_callback_at_the_deadline_is_answered_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_destroying_a_store_answers_what_waits, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
