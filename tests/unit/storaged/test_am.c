/* Messages in: malformed ones end their connection and nothing else; order, PING, CANCEL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "unit/storaged/node_fixture.h"

#include "base/log.h"

static unsigned lines;
static void count_line(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)component, (void)line;
    lines += level <= LW_LOG_WARN ? 1 : 0;
}

/* One valid request of a type, with its lists. */
static uint32_t valid_request(lw_msg_type_t type, uint64_t fleet, uint64_t handle, uint8_t *head,
                              uint8_t *payload, uint32_t *payload_bytes)
{
    lw_msg_t msg = {.header = {.type = (uint16_t)type, .fleet_id = fleet, .request_id = 77}};
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    const lw_msg_fetch_run_t run = {.handle = handle, .head = 0, .count = 2};
    const uint16_t entries[2] = {1, 2};
    *payload_bytes = 0;
    switch (type) {
    case LW_MSG_HELLO: msg.body.hello = (lw_msg_hello_t){1, 1, 6, 1, 0, 0}; break;
    case LW_MSG_ATTACH:
        msg.body.attach = (lw_msg_attach_t){.session_id = 1, .name_count = 1};
        memcpy(payload, &name, sizeof(name));
        *payload_bytes = sizeof(name);
        break;
    case LW_MSG_RESERVE: msg.body.reserve = (lw_msg_reserve_t){.name = name, .bytes = 1000}; break;
    case LW_MSG_WRITE:
        msg.body.write = (lw_msg_write_t){handle, 0, 16, 0};
        *payload_bytes = 16;
        memset(payload, 1, 16);
        break;
    case LW_MSG_COMMIT: msg.body.commit = (lw_msg_commit_t){handle, 1000}; break;
    case LW_MSG_ABORT: msg.body.abort = (lw_msg_abort_t){handle}; break;
    case LW_MSG_FETCH:
        msg.body.fetch = (lw_msg_fetch_t){1, 2, 0, 0};
        memcpy(payload, &run, sizeof(run));
        memcpy(payload + sizeof(run), entries, sizeof(entries));
        *payload_bytes = sizeof(run) + sizeof(entries);
        break;
    case LW_MSG_READ: msg.body.read = (lw_msg_read_t){handle, 0, 100, 0}; break;
    default: break;
    }
    return lw_msg_encode(&msg, payload, lw_msg_list_bytes(&msg), head);
}

static const lw_msg_type_t requests[] = {LW_MSG_HELLO, LW_MSG_PING,   LW_MSG_ATTACH, LW_MSG_RESERVE,
                                         LW_MSG_WRITE, LW_MSG_COMMIT, LW_MSG_ABORT,  LW_MSG_FETCH,
                                         LW_MSG_READ,  LW_MSG_ATTEND, LW_MSG_CANCEL};

/* Sends raw bytes on a fresh connection and says whether the daemon closed it. */
static bool closes(fixture_t *fixture, lw_msg_type_t type, const uint8_t *head, size_t head_bytes,
                   const uint8_t *payload, size_t payload_bytes)
{
    data_client_t client;
    node_client(&fixture->node, &client, 0, type == LW_MSG_HELLO ? 0 : 6, 1);
    data_client_raw(&client, head, head_bytes, payload, payload_bytes);
    data_client_step(&client, 600);
    bool closed = client.conn == NULL;
    data_client_close(&client);
    node_pump(&fixture->node);
    return closed;
}

static void test_every_truncated_request_closes_its_connection(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t head[LW_MSG_HEAD_MAX], payload[256] = {0};
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    lw_prng_t prng;
    lw_prng_seed(&prng, fixture_seed);
    for (size_t i = 0; i < LW_ARRAY_SIZE(requests); i++) {
        uint32_t payload_bytes,
            head_bytes = valid_request(requests[i], 99, handle, head, payload, &payload_bytes);
        uint64_t before = fixture_count(&fixture->node.stats[0].malformed);
        assert_true(
            closes(fixture, requests[i], head, lw_prng_below(&prng, head_bytes), payload, payload_bytes));
        assert_int_equal(fixture_count(&fixture->node.stats[0].malformed), before + 1);
        if (payload_bytes > 0)
            assert_true(
                closes(fixture, requests[i], head, head_bytes, payload, lw_prng_below(&prng, payload_bytes)));
    }
    assert_non_null(fixture->client.conn); /* nobody else was hurt */
    assert_int_equal(data_read(&fixture->client, handle, 0, 100), LW_OK);
    free(segment);
}

static void test_every_flipped_bit_of_a_head_closes_its_connection(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t head[LW_MSG_HEAD_MAX], payload[256] = {0};
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    lw_prng_t prng;
    lw_prng_seed(&prng, fixture_seed);
    for (size_t i = 0; i < LW_ARRAY_SIZE(requests); i++) {
        for (int flips = 0; flips < 6; flips++) {
            uint32_t payload_bytes,
                head_bytes = valid_request(requests[i], 99, handle, head, payload, &payload_bytes);
            uint64_t bit = lw_prng_below(&prng, head_bytes * 8);
            head[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            assert_true(closes(fixture, requests[i], head, head_bytes, payload, payload_bytes));
        }
    }
    free(segment);
}

static void test_a_flipped_bit_of_a_list_closes_its_connection(void **state)
{
    fixture_t *fixture = *state;
    uint8_t head[LW_MSG_HEAD_MAX], payload[256] = {0};
    const lw_msg_type_t with_lists[] = {LW_MSG_ATTACH, LW_MSG_FETCH};
    for (size_t i = 0; i < LW_ARRAY_SIZE(with_lists); i++) {
        uint32_t payload_bytes,
            head_bytes = valid_request(with_lists[i], 99, 1, head, payload, &payload_bytes);
        payload[3] ^= 4;
        assert_true(closes(fixture, with_lists[i], head, head_bytes, payload, payload_bytes));
    }
}

static void test_replies_and_unknown_types_are_no_requests(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t msg = {.header = {.type = LW_MSG_STATUS_REPLY, .fleet_id = 99, .request_id = 1}};
    uint8_t head[LW_MSG_HEAD_MAX];
    uint32_t bytes = lw_msg_encode(&msg, NULL, 0, head);
    assert_true(closes(fixture, LW_MSG_STATUS_REPLY, head, bytes, NULL, 0));
    memset(head, 0xab, sizeof(head));
    assert_true(closes(fixture, LW_MSG_PING, head, sizeof(head), NULL, 0));
    assert_true(closes(fixture, LW_MSG_PING, head, 1, NULL, 0));
}

static void test_anything_before_hello_and_a_second_hello_close_the_connection(void **state)
{
    fixture_t *fixture = *state;
    uint8_t head[LW_MSG_HEAD_MAX], payload[256] = {0};
    uint32_t payload_bytes, head_bytes = valid_request(LW_MSG_PING, 99, 0, head, payload, &payload_bytes);
    assert_true(
        closes(fixture, LW_MSG_HELLO, head, head_bytes, NULL, 0)); /* "HELLO" here: greets nobody first */
    head_bytes = valid_request(LW_MSG_HELLO, 99, 0, head, payload, &payload_bytes);
    assert_true(closes(fixture, LW_MSG_PING, head, head_bytes, NULL, 0));
}

static void test_a_message_for_another_fleet_closes_the_connection(void **state)
{
    fixture_t *fixture = *state;
    uint8_t head[LW_MSG_HEAD_MAX], payload[256] = {0};
    uint32_t payload_bytes, head_bytes = valid_request(LW_MSG_PING, 98, 0, head, payload, &payload_bytes);
    assert_true(closes(fixture, LW_MSG_PING, head, head_bytes, NULL, 0));
}

static void test_many_malformed_messages_make_one_log_line(void **state)
{
    fixture_t *fixture = *state;
    uint8_t head[8] = {0};
    lines = 0;
    uint64_t before = lw_now_us(lw_clock_real());
    lw_log_set_level(LW_LOG_WARN);
    lw_log_set_sink(count_line, NULL);
    for (int i = 0; i < 10; i++)
        assert_true(closes(fixture, LW_MSG_PING, head, sizeof(head), NULL, 0));
    lw_log_set_sink(NULL, NULL);
    lw_log_set_level(LW_LOG_ERROR);
    assert_int_equal(fixture_count(&fixture->node.stats[0].malformed), 10);
    assert_in_range(lines, 1, 2 + (lw_now_us(lw_clock_real()) - before) / 1000000); /* one a second */
}

static void test_hello_is_refused_for_versions_and_fleet(void **state)
{
    fixture_t *fixture = *state;
    data_client_t client;
    lw_msg_t msg = {.header.type = LW_MSG_HELLO};
    node_client(&fixture->node, &client, 0, 0, 0);
    msg.body.hello = (lw_msg_hello_t){2, 9, 6, 1, 0, 0};
    assert_true(data_client_call(&client, &msg, NULL, 0));
    assert_int_equal(client.reply.body.hello_reply.status, LW_ERR_VERSION);
    client.fleet_id = 98;
    assert_int_equal(data_hello(&client, 6, 1), LW_ERR_PERMISSION);
    atomic_store(&fixture->node.node.fleet_id, 0);
    client.fleet_id = 0;
    assert_int_equal(data_hello(&client, 6, 1), LW_ERR_FLEET);
    atomic_store(&fixture->node.node.fleet_id, 99);
    assert_int_equal(fixture_count(&fixture->node.stats[0].hello_refused), 3);
    assert_int_equal(data_hello(&client, 6, 1), LW_OK); /* and after all that it may still greet */
    assert_int_equal(client.reply.body.hello_reply.node_id, 7);
    data_client_close(&client);
}

static void test_a_connection_that_never_says_hello_is_closed_and_its_slot_free(void **state)
{
    fixture_t fixture = {0};
    data_client_t mute[2], late;
    (void)state;
    node_start(&fixture.node, &(node_params_t){.connection_max = 2, .seed = fixture_seed});
    for (size_t i = 0; i < LW_ARRAY_SIZE(mute); i++)
        node_client(&fixture.node, &mute[i], 0, 0, 0);
    node_pass(&fixture.node, LWD_HELLO_US / 2);
    node_client(&fixture.node, &late, 0, 0, 0);
    assert_int_equal(data_hello(&late, 6, 1), LW_ERR_UNREACHABLE); /* the table is full of them */
    data_client_close(&late);
    node_pass(&fixture.node, LWD_HELLO_US / 2 - 100000);
    assert_int_equal(fixture_count(&fixture.node.stats[0].hello_late), 0);
    node_pass(&fixture.node, 100000 + 2 * LWD_HELLO_LOOK_US);
    assert_int_equal(fixture_count(&fixture.node.stats[0].hello_late), 2);
    for (size_t i = 0; i < LW_ARRAY_SIZE(mute); i++) {
        data_client_step(&mute[i], 100);
        assert_null(mute[i].conn);
        assert_int_equal(mute[i].closes, 1);
        data_client_close(&mute[i]);
    }
    node_client(&fixture.node, &late, 0, 6, 1);
    node_pass(&fixture.node, 3 * LWD_HELLO_US); /* silence after HELLO is allowed */
    lw_msg_t ping = {.header.type = LW_MSG_PING};
    assert_true(data_client_call(&late, &ping, NULL, 0));
    assert_int_equal(fixture_count(&fixture.node.stats[0].hello_late), 2);
    data_client_close(&late);
    assert_true(lwd_worker_check(fixture.node.workers[0]));
    node_stop(&fixture.node);
}

static void test_a_refused_hello_does_not_buy_more_time(void **state)
{
    fixture_t *fixture = *state;
    data_client_t client;
    node_client(&fixture->node, &client, 0, 0, 0);
    for (uint64_t waited = 0; waited < LWD_HELLO_US; waited += LWD_HELLO_US / 4) {
        lw_msg_t hello = {.header.type = LW_MSG_HELLO};
        hello.body.hello =
            (lw_msg_hello_t){.version_min = LW_WIRE_VERSION + 1, .version_max = LW_WIRE_VERSION + 1};
        assert_true(data_client_call(&client, &hello, NULL, 0));
        node_pass(&fixture->node, LWD_HELLO_US / 4);
    }
    node_pass(&fixture->node, 2 * LWD_HELLO_LOOK_US);
    data_client_step(&client, 100);
    assert_null(client.conn);
    assert_int_equal(fixture_count(&fixture->node.stats[0].hello_late), 1);
    data_client_close(&client);
}

static void test_a_ping_comes_back_with_the_arena_and_the_senders_time(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t msg = {.header.type = LW_MSG_PING};
    msg.body.ping.sent_us = 123456789;
    node_pass(&fixture->node, 5000);
    assert_true(data_client_call(&fixture->client, &msg, NULL, 0));
    const lw_msg_ping_reply_t *reply = &fixture->client.reply.body.ping_reply;
    assert_int_equal(reply->sent_us, 123456789);
    assert_int_equal(reply->arena_bytes, 16u << 20);
    assert_int_equal(reply->arena_free_bytes, 16u << 20);
    assert_int_equal(reply->epoch, 1);
    assert_int_equal(reply->draining, 0);
}

static void test_attend_is_not_supported_yet_and_says_so(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t msg = {.header.type = LW_MSG_ATTEND};
    assert_true(data_client_call(&fixture->client, &msg, NULL, 0));
    assert_int_equal(fixture->client.reply.body.status_reply.status, LW_ERR_UNSUPPORTED);
}

static void test_a_cancelled_attach_is_answered_canceled(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH}, cancel = {.header.type = LW_MSG_CANCEL};
    attach.body.attach = (lw_msg_attach_t){.session_id = 1};
    fixture->node.check_later = true;
    uint64_t request = data_client_send(&fixture->client, &attach, NULL, 0);
    data_client_step(&fixture->client, 300);
    cancel.body.cancel.request_id = request;
    (void)data_client_send(&fixture->client, &cancel, NULL, 0);
    data_client_step(&fixture->client, 300);
    fixture->client.waiting_for = request;
    node_answer(&fixture->node);
    assert_true(data_client_wait(&fixture->client, request));
    assert_int_equal(fixture->client.reply.body.attach_reply.status, LW_ERR_CANCELED);
    cancel.body.cancel.request_id = 424242; /* unknown: nothing happens */
    (void)data_client_send(&fixture->client, &cancel, NULL, 0);
    data_client_step(&fixture->client, 300);
    assert_non_null(fixture->client.conn);
}

#ifdef LW_FAULTS
static void test_the_fault_point_drops_a_reply(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t msg = {.header.type = LW_MSG_PING};
    lw_fault_enable(LW_FAULT_REPLY_DROP, 1.0);
    fixture->client.tries_max = 500;
    assert_false(data_client_call(&fixture->client, &msg, NULL, 0));
    lw_fault_reset(0);
    assert_true(data_client_call(&fixture->client, &msg, NULL, 0));
}
#endif

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    lw_log_set_level(LW_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        CASE(test_every_truncated_request_closes_its_connection),
        CASE(test_every_flipped_bit_of_a_head_closes_its_connection),
        CASE(test_a_flipped_bit_of_a_list_closes_its_connection),
        CASE(test_replies_and_unknown_types_are_no_requests),
        CASE(test_anything_before_hello_and_a_second_hello_close_the_connection),
        CASE(test_a_message_for_another_fleet_closes_the_connection),
        CASE(test_many_malformed_messages_make_one_log_line),
        CASE(test_hello_is_refused_for_versions_and_fleet),
        cmocka_unit_test(test_a_connection_that_never_says_hello_is_closed_and_its_slot_free),
        CASE(test_a_refused_hello_does_not_buy_more_time),
        CASE(test_a_ping_comes_back_with_the_arena_and_the_senders_time),
        CASE(test_attend_is_not_supported_yet_and_says_so),
        CASE(test_a_cancelled_attach_is_answered_canceled),
#ifdef LW_FAULTS
        CASE(test_the_fault_point_drops_a_reply),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
