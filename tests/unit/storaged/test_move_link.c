/* Connections of the mover to its sources: what becomes of a job whose connection ends while nothing is asked on it. The
 * network is a table of this file; nothing waits and nothing runs by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "storaged/move/move_private.h"

#define CONNS 8u
#define OWN 0u
#define SOURCES 2u /* nodes 1 and 2 */

struct lw_conn {
    bool open, closing, dies; /* dies: right behind the answer to ATTACH */
    void *user;
    uint32_t waits; /* for an answer, lw_msg_type_t of the question; 0: nothing */
    uint64_t request_id;
};

static struct net {
    lw_fabric_handler_t handler;
    struct lw_conn conns[CONNS];
    uint32_t conn_count, attaches;
    uint64_t payload[64];
} net;

static lwd_move_t *move;
static lwd_stats_t stats;

/* ---- the network ---- */
static lw_status_t net_open(const lw_fabric_params_t *params, lw_fabric_t **fabric_out, lw_error_t *error)
{
    (void)error;
    net.handler = params->handler;
    *fabric_out = (lw_fabric_t *)&net;
    return LW_OK;
}

static void net_close(lw_fabric_t *fabric) { (void)fabric; }

static lw_status_t net_connect(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out, lw_error_t *error)
{
    (void)fabric;
    (void)address;
    (void)error;
    assert_true(net.conn_count < CONNS);
    *conn_out = &net.conns[net.conn_count++];
    (*conn_out)->open = true;
    return LW_OK;
}

static void net_close_conn(lw_conn_t *conn) { conn->closing = true; }
static void net_set_user(lw_conn_t *conn, void *user) { conn->user = user; }
static void *net_user(const lw_conn_t *conn) { return conn->user; }

static lw_status_t net_send(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces,
                            uint32_t piece_count, lw_send_mode_t mode, lw_fabric_done_t done, void *arg)
{
    lw_msg_t msg;
    lw_error_t error;
    (void)mode;
    (void)done;
    (void)arg;
    assert_non_null(conn);
    assert_true(conn->open && !conn->closing);
    assert_int_equal(lw_msg_decode_head(head, head_bytes, piece_count > 0 ? pieces[0].bytes : 0, &msg, &error), LW_OK);
    net.attaches += msg.header.type == LW_MSG_ATTACH;
    conn->waits = msg.header.type;
    conn->request_id = msg.header.request_id;
    return LW_OK;
}

static void net_recv(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                     lw_fabric_done_t done, void *arg)
{
    (void)fabric;
    (void)region;
    memcpy(into, msg->data, msg->data_bytes);
    done(arg, LW_OK);
}

static void answer(lw_conn_t *conn)
{
    lw_msg_t msg = {.header = {.request_id = conn->request_id}};
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_attached_t attached = {.handle = 1ull << 48};
    if (conn->waits == LW_MSG_HELLO) {
        msg.header.type = LW_MSG_HELLO_REPLY;
        msg.body.hello_reply = (lw_msg_hello_reply_t){.version = LW_WIRE_VERSION,
                                                      .attach_limit = LW_ATTACH_NAMES_MAX,
                                                      .fetch_entry_limit = LW_FETCH_ENTRIES_MAX};
    } else {
        assert_int_equal(conn->waits, LW_MSG_ATTACH);
        msg.header.type = LW_MSG_ATTACH_REPLY;
        msg.body.attach_reply.name_count = 1;
        memcpy(net.payload, &attached, sizeof(attached));
    }
    uint32_t list_bytes = lw_msg_list_bytes(&msg);
    const lw_fabric_msg_t arrived = {.head = head,
                                     .head_bytes = lw_msg_encode(&msg, net.payload, list_bytes, head),
                                     .data = net.payload,
                                     .data_bytes = list_bytes};
    bool dies = conn->waits == LW_MSG_ATTACH && conn->dies;
    conn->waits = 0;
    net.handler.on_message(net.handler.arg, conn, &arrived);
    conn->closing = conn->closing || dies;
}

/* Everything that is on its way arrives, answers to READ apart; then connections end. */
static unsigned net_progress(lw_fabric_t *fabric)
{
    (void)fabric;
    unsigned events = 0;
    for (uint32_t i = 0; i < net.conn_count; i++) {
        lw_conn_t *conn = &net.conns[i];
        if (conn->open && !conn->closing && conn->waits != 0 && conn->waits != LW_MSG_READ) {
            answer(conn);
            events++;
        }
        if (conn->open && conn->closing) {
            conn->open = false;
            net.handler.on_closed(net.handler.arg, conn, LW_ERR_UNREACHABLE);
            events++;
        }
    }
    return events;
}

static const lw_fabric_ops_t ops = {
    .open = net_open, .close = net_close, .connect = net_connect, .close_conn = net_close_conn, .set_user = net_set_user,
    .user = net_user, .send = net_send, .recv = net_recv, .progress = net_progress,
};

/* ---- the node ---- */
static lw_status_t submit(void *arg, lwd_task_t *task)
{
    (void)arg;
    (void)task;
    return LW_ERR_BUSY; /* no test goes so far as to need its shard */
}

/* One segment with two copies, the first of them on a node that is being emptied. */
static lw_status_t placed(void *arg, const lwd_placed_key_t *after, uint32_t capacity)
{
    (void)arg;
    (void)after;
    (void)capacity;
    lwd_placed_t row = {.layers = 1,
                        .range = {.origin = 7, .token_count = 64, .generation = 1, .replicas = 2, .node_index = {1, 2}}};
    lwd_move_tell_placed(move, LW_OK, &row, 1);
    return LW_OK;
}

static int setup(void **state)
{
    (void)state;
    memset(&net, 0, sizeof(net));
    memset(&stats, 0, sizeof(stats));
    const lwd_move_params_t params = {
        .fabric = &ops, .node_id = 100, .incarnation = 1, .stats = &stats,
        .limits = {.bytes_s = LWD_MOVE_BYTES_S_MIN, .rebalance_after_us = UINT64_MAX, .scan_us = 3600000000ull, .in_flight = 1},
        .submit = submit, .placed = placed,
    };
    lw_error_t error;
    assert_int_equal(lwd_move_create(&params, &move, &error), LW_OK);
    lw_node_t nodes[1 + SOURCES] = {{.id = 100, .state = LW_NODE_UP, .weight = 100, .index = OWN},
                                    {.id = 101, .state = LW_NODE_DRAINING, .weight = 100, .index = 1},
                                    {.id = 102, .state = LW_NODE_UP, .weight = 100, .index = 2}};
    const lw_view_t view = {.epoch = 1, .fleet_id = 1, .node_count = 1 + SOURCES, .nodes = nodes};
    const uint8_t token[LW_TOKEN_BYTES] = {1};
    lwd_move_set_view(move, &view);
    lwd_move_set_token(move, token);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lwd_move_destroy(move);
    return 0;
}

static void rounds(uint32_t count)
{
    static uint64_t now_us = 1000000;
    for (uint32_t i = 0; i < count; i++)
        (void)lwd_move_round(move, now_us += 10000);
}

/* Both sources, one after the other, give a handle and are gone before anything is read by it. */
static void test_a_source_that_ends_while_nothing_is_asked_of_it_is_left(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < CONNS; i++)
        net.conns[i].dies = true;
    rounds(60);
    assert_int_equal(net.attaches, SOURCES);
    assert_int_equal(atomic_load(&stats.moves_failed), 1);
    assert_int_equal(move->job_count, 0);
}

static void test_a_connection_full_of_handles_is_replaced(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 60 && net.conn_count == 0; i++)
        rounds(1);
    assert_int_equal(net.conn_count, 1);
    move->links[MOVE_LINKS_MAX - 1].attached = MOVE_ATTACHED_MAX;
    assert_int_equal(move->links[MOVE_LINKS_MAX - 1].state, MOVE_LINK_GREETING);
    rounds(8);
    assert_false(net.conns[0].open);
    assert_int_equal(net.conn_count, 2);
    assert_int_equal(net.attaches, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_source_that_ends_while_nothing_is_asked_of_it_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_connection_full_of_handles_is_replaced, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
