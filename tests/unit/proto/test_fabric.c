/* test_fabric.c - what every fabric promises, run over the simulated one, UCX tcp and UCX shared memory
 * ("sim", "tcp", "shm" as first argument). */
#include "fabric_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

#define UNUSED_ADDRESS "127.0.0.1:9" /* discard: nobody listens there */

static void test_refused_connection_closes_as_unreachable(void **state)
{
    rig_t *rig = *state;
    lw_conn_t *conn;
    lw_error_t error;
    assert_int_equal(rig->ops->connect(rig->client.fabric, UNUSED_ADDRESS, &conn, &error), LW_OK);
    rig->ops->set_user(conn, &rig->client);
    rig->client.conn = conn;
    assert_int_equal(rig_send(&rig->client, conn, 1000, 1, LW_SEND_AUTO),
                     LW_OK); /* queued, must still complete */
    assert_int_equal(rig_send(&rig->client, conn, 1 << 20, 3, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->client.closed == 1);
    assert_int_equal(rig->client.closed_status, LW_ERR_UNREACHABLE);
    assert_int_equal(rig_pending(&rig->client), 0);
}

static void test_bad_addresses_are_named(void **state)
{
    rig_t *rig = *state;
    static const char *const bad[] = {"", "nonsense", "127.0.0.1"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        lw_conn_t *conn;
        lw_error_t error = {0};
        assert_int_equal(rig->ops->connect(rig->client.fabric, bad[i], &conn, &error), LW_ERR_INVALID);
        assert_non_null(strstr(error.text, bad[i]));
    }
}

static void test_address_in_use_is_an_error_that_names_it(void **state)
{
    rig_t *rig = *state;
    lw_error_t error = {0};
    assert_int_equal(rig->ops->listen(rig->client.fabric, rig->address, &error), LW_ERR_EXISTS);
    assert_non_null(strstr(error.text, rig->address));
}

static void test_listening_twice_is_refused(void **state)
{
    rig_t *rig = *state;
    lw_error_t error = {0};
    assert_int_equal(rig->ops->listen(rig->server.fabric, rig->address, &error), LW_ERR_INVALID);
}

static void test_address_without_listener_is_not_found(void **state)
{
    rig_t *rig = *state;
    char text[128];
    assert_int_equal(rig->ops->address(rig->client.fabric, text, sizeof(text)), LW_ERR_NOT_FOUND);
}

static void test_oversized_head_or_payload_is_refused(void **state)
{
    rig_t *rig = *state;
    uint8_t head[LW_MSG_HEAD_MAX + 1] = {0};
    lw_iov_t piece = {.data = head, .bytes = LW_FABRIC_PAYLOAD_MAX + 1};
    assert_int_equal(rig->ops->send(rig->client.conn, head, sizeof(head), NULL, 0, LW_SEND_AUTO, NULL, NULL),
                     LW_ERR_INVALID);
    assert_int_equal(rig->ops->send(rig->client.conn, head, 8, &piece, 1, LW_SEND_AUTO, NULL, NULL),
                     LW_ERR_INVALID);
}

static void test_payloads_of_all_sizes_arrive_whole(void **state)
{
    rig_t *rig = *state;
    static const size_t sizes[] = {0, 1, 63, 512, 4096, 8192, 8193, 65537, 512 << 10, 2 << 20, (8 << 20) + 3};
    unsigned sent = 0;
    for (rig_taking_t taking = RIG_RECV; taking <= RIG_LOOK; taking++) {
        rig->server.taking = taking;
        for (size_t i = 0; i < LW_ARRAY_SIZE(sizes); i++) {
            assert_int_equal(rig_send(&rig->client, rig->client.conn, sizes[i], 1, LW_SEND_AUTO), LW_OK);
            sent++;
            rig_until(rig, rig->server.landed == sent && rig->client.sent == sent);
            assert_int_equal(rig->server.wrong, 0);
        }
    }
    assert_int_equal(rig->server.out_of_order, 0);
}

static void test_pieces_become_one_payload_in_each_mode(void **state)
{
    rig_t *rig = *state;
    static const uint32_t counts[] = {2, 3, 17, LW_FABRIC_IOV_MAX, LW_FABRIC_IOV_MAX + 1, 1000};
    static const size_t sizes[] = {0, 2000, 70000, 1 << 20};
    unsigned sent = 0;
    for (lw_send_mode_t mode = LW_SEND_AUTO; mode <= LW_SEND_IOV; mode++)
        for (size_t c = 0; c < LW_ARRAY_SIZE(counts); c++)
            for (size_t s = 0; s < LW_ARRAY_SIZE(sizes); s++, sent++)
                assert_int_equal(rig_send(&rig->client, rig->client.conn, sizes[s], counts[c], mode), LW_OK);
    rig_until(rig, rig->server.landed == sent && rig->client.sent == sent);
    assert_int_equal(rig->server.wrong, 0);
    assert_int_equal(rig->server.out_of_order, 0);
}

static void test_small_piece_in_front_of_a_large_one_arrives_with_it(void **state)
{
    rig_t *rig = *state;
    unsigned sent = 0;
    for (unsigned i = 0; i < 60; i++, sent++) {
        rig->server.taking = i % 3 == 0 ? RIG_DROP : i % 3 == 1 ? RIG_RECV : RIG_LOOK;
        size_t front = 1 + lw_prng_below(&rig->prng, 5000), rest = 60000 + lw_prng_below(&rig->prng, 600000);
        assert_int_equal(rig_send_front(&rig->client, rig->client.conn, front, rest), LW_OK);
        rig_until(rig, rig->server.messages == sent + 1 && rig_pending(&rig->client) == 0);
    }
    rig_until(rig, rig->server.landed == 40);
    assert_int_equal(rig->server.wrong, 0);
}

static void test_a_receive_that_is_given_up_writes_nothing_more(void **state)
{
    rig_t *rig = *state;
    unsigned sent = 0;
    for (unsigned i = 0; i < 60; i++, sent++) {
        size_t bytes = 1 + lw_prng_below(&rig->prng, 1u << 20);
        rig->server.taking = i % 2 == 0 ? RIG_RECV_AND_CANCEL : RIG_RECV;
        assert_int_equal(rig_send(&rig->client, rig->client.conn, bytes, 1 + i % 40, LW_SEND_AUTO), LW_OK);
        for (unsigned rounds = 0; i % 2 == 1 && rounds < i; rounds++)
            rig_round(rig);
        rig_cancel(&rig->server); /* somewhere in its middle, or before or after it */
        rig_until(rig, rig->server.messages == sent + 1 && rig_pending(&rig->client) == 0);
    }
    rig->server.taking = RIG_RECV; /* and the connection is still good */
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 300000, 30, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.landed + rig->server.canceled == sent + 1);
    assert_true(rig->server.canceled > 0);
    assert_int_equal(rig->server.wrong + rig->server.land_failed + rig->server.out_of_order, 0);
    assert_false(rig->ops->recv_cancel(rig->server.conn, rig));
}

static void test_dropped_payloads_complete_at_the_sender(void **state)
{
    rig_t *rig = *state;
    rig->server.taking = RIG_DROP;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(rig_send(&rig->client, rig->client.conn, 1u << i, 2, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.messages == 20 && rig_pending(&rig->client) == 0);
    assert_int_equal(rig->client.sent, 20);
    rig->server.taking = RIG_RECV; /* and the connection is still good */
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 100000, 1, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.landed == 1);
}

static void test_thousands_of_messages_both_ways_keep_their_order(void **state)
{
    rig_t *rig = *state;
    enum { COUNT = 4000, WINDOW = 64 };
    rig->server.echo = true;
    for (unsigned i = 0; i < COUNT; i++) {
        size_t bytes = lw_prng_below(&rig->prng, i % 50 == 0 ? 200000 : 3000);
        uint32_t pieces = 1 + (uint32_t)lw_prng_below(&rig->prng, 4);
        rig_until(rig, i < rig->client.landed + WINDOW);
        assert_int_equal(rig_send(&rig->client, rig->client.conn, bytes, pieces, LW_SEND_AUTO), LW_OK);
    }
    rig_until(rig, rig->client.landed == COUNT);
    rig_until(rig, rig_pending(&rig->client) == 0 && rig_pending(&rig->server) == 0);
    assert_int_equal(rig->server.landed, COUNT);
    assert_int_equal(rig->client.out_of_order + rig->server.out_of_order, 0);
    assert_int_equal(rig->client.wrong + rig->server.wrong, 0);
    assert_true(rig->client.bytes_in == rig->server.bytes_in);
}

static void send_a_mixture(rig_t *rig, rig_end_t *end)
{
    for (unsigned i = 0; i < 24;
         i++) { /* little enough to be over in the limit of an end, on a busy machine too */
        size_t bytes = lw_prng_below(&rig->prng, i % 4 == 0 ? 300000 : 20000);
        assert_int_equal(rig_send(end, end->conn, bytes, 1 + i % 5, (lw_send_mode_t)(i % 3)), LW_OK);
    }
}

static void test_closing_with_sends_outstanding_completes_each_once(void **state)
{
    rig_t *rig = *state;
    send_a_mixture(rig, &rig->client);
    send_a_mixture(rig, &rig->server);
    rig->ops->close_conn(rig->client.conn);
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 10, 1, LW_SEND_AUTO), LW_ERR_CANCELED);
    rig_until(rig, rig->client.closed == 1 && rig->server.closed == 1);
    assert_int_equal(rig->client.closed_status, LW_OK);
    assert_int_equal(rig->server.closed_status, LW_ERR_UNREACHABLE);
    assert_int_equal(rig_pending(&rig->client) + rig_pending(&rig->server), 0);
}

static void test_peer_fabric_closing_with_sends_outstanding_completes_each_once(void **state)
{
    rig_t *rig = *state;
    send_a_mixture(rig, &rig->client);
    send_a_mixture(rig, &rig->server);
    for (unsigned i = lw_prng_below(&rig->prng, 4); i > 0; i--)
        rig_round(rig);
    rig_close(&rig->server);
    assert_int_equal(rig->server.closed, 1);
    assert_int_equal(rig->server.closed_status, LW_ERR_CANCELED);
    assert_int_equal(rig_pending(&rig->server), 0);
    rig_until(rig, rig->client.closed == 1);
    assert_int_equal(rig->client.closed_status, LW_ERR_UNREACHABLE);
    assert_int_equal(rig_pending(&rig->client), 0);
}

static void test_closing_from_inside_a_message_is_safe(void **state)
{
    rig_t *rig = *state;
    rig->server.taking = RIG_CLOSE_INSIDE;
    send_a_mixture(rig, &rig->client);
    rig_until(rig, rig->client.closed == 1 && rig->server.closed == 1);
    assert_int_equal(rig->server.messages, 1); /* none after close_conn */
}

static void test_closing_during_a_receive_completes_the_receive_once(void **state)
{
    rig_t *rig = *state;
    rig->server.taking = RIG_RECV_AND_CLOSE;
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 8 << 20, 1, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->client.closed == 1 && rig->server.closed == 1);
    assert_int_equal(rig->server.landed + rig->server.land_failed, 1);
}

static void test_restarted_listener_takes_its_address_again(void **state)
{
    rig_t *rig = *state;
    send_a_mixture(rig, &rig->client);
    rig_close(&rig->server);
    rig_until(rig, rig->client.closed == 1);
    lw_error_t error = {0};
    rig_open(rig, &rig->server, "server");
    if (rig->ops->listen(rig->server.fabric, rig->address, &error) != LW_OK)
        fail_msg("listen again: %s", error.text);
    rig_connect(rig);
    unsigned landed = rig->server.landed;
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 300000, 4, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.landed == landed + 1);
}

static void test_connections_come_and_go(void **state)
{
    rig_t *rig = *state;
    for (unsigned i = 1; i <= 30; i++) {
        rig_connect(rig);
        unsigned landed = rig->server.landed;
        assert_int_equal(rig_send(&rig->client, rig->client.conn, 5000, 2, LW_SEND_AUTO), LW_OK);
        rig_until(rig, rig->server.landed == landed + 1 && rig_pending(&rig->client) == 0);
        rig->ops->close_conn(i % 2 ? rig->client.conn : rig->server.conn);
        rig_until(rig, rig->client.closed == i && rig->server.closed == i);
    }
}

static void test_registered_memory_is_given_back(void **state)
{
    rig_t *rig = *state;
    size_t bytes = 1 << 20;
    void *memory = aligned_alloc(4096, bytes);
    lw_region_t *region;
    lw_error_t error = {0};
    lw_status_t status = rig->ops->register_memory(rig->client.fabric, memory, bytes, &region, &error);
    if (status != LW_OK)
        assert_int_equal(status, LW_ERR_EXHAUSTED); /* a small memlock limit */
    else
        rig->ops->unregister(region);
    free(memory);
}

static void test_transport_is_what_was_asked_for(void **state)
{
    rig_t *rig = *state;
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 100, 1, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.landed == 1);
    const char *text = rig->ops->transport_text(rig->client.conn);
    if (rig_is("tcp"))
        assert_non_null(strstr(text, "tcp"));
    if (rig_is("shm"))
        assert_true(strstr(text, "posix") != NULL || strstr(text, "sysv") != NULL);
    if (rig_is("sim"))
        assert_string_equal(text, "sim");
}

static void test_waiting_ends_with_a_message_and_with_the_limit(void **state)
{
    rig_t *rig = *state;
    if (rig->ops->event_fd(rig->server.fabric) < 0)
        skip();
    assert_int_equal(rig_send(&rig->client, rig->client.conn, 100, 1, LW_SEND_AUTO), LW_OK);
    rig_until(rig, rig->server.messages == 1 && rig_pending(&rig->client) == 0); /* connecting is over */
    rig->server.progressing = rig->client.progressing = true;                    /* waits make progress */
    uint64_t begin_us = rig_now_us(rig);
    while (lw_fabric_wait(rig->ops, rig->server.fabric, 0, 20000) > 0)
        ;
    assert_true(rig_now_us(rig) - begin_us >= 15000);
    for (unsigned i = 2; i <= 20; i++) {
        assert_int_equal(rig_send(&rig->client, rig->client.conn, 100, 1, LW_SEND_AUTO), LW_OK);
        begin_us = rig_now_us(rig);
        while (rig->server.messages < i) {
            rig->client.progressing = rig->server.progressing = true;
            lw_fabric_wait(rig->ops, rig->server.fabric, i % 2 ? 0 : 50, 5000000);
            rig->ops->progress(rig->client.fabric);
        }
        assert_true(rig_now_us(rig) - begin_us < 4000000);
    }
}

static void test_unknown_transports_are_refused_by_name(void **state)
{
    rig_t *rig = *state;
    if (rig->net != NULL)
        skip();
    lw_fabric_params_t params = {.transports = "pigeon"};
    lw_fabric_t *fabric;
    lw_error_t error = {0};
    assert_int_equal(rig->ops->open(&params, &fabric, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "pigeon"));
}

int main(int argc, char **argv)
{
    rig_choose(argc, argv);
#define IDLE(test) cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
#define CONNECTED(test) cmocka_unit_test_setup_teardown(test, rig_setup_connected, rig_teardown)
    const struct CMUnitTest tests[] = {
        IDLE(test_refused_connection_closes_as_unreachable),
        IDLE(test_bad_addresses_are_named),
        IDLE(test_address_in_use_is_an_error_that_names_it),
        IDLE(test_listening_twice_is_refused),
        IDLE(test_address_without_listener_is_not_found),
        IDLE(test_unknown_transports_are_refused_by_name),
        CONNECTED(test_oversized_head_or_payload_is_refused),
        CONNECTED(test_payloads_of_all_sizes_arrive_whole),
        CONNECTED(test_pieces_become_one_payload_in_each_mode),
        CONNECTED(test_small_piece_in_front_of_a_large_one_arrives_with_it),
        CONNECTED(test_a_receive_that_is_given_up_writes_nothing_more),
        CONNECTED(test_dropped_payloads_complete_at_the_sender),
        CONNECTED(test_thousands_of_messages_both_ways_keep_their_order),
        CONNECTED(test_closing_with_sends_outstanding_completes_each_once),
        CONNECTED(test_peer_fabric_closing_with_sends_outstanding_completes_each_once),
        CONNECTED(test_closing_from_inside_a_message_is_safe),
        CONNECTED(test_closing_during_a_receive_completes_the_receive_once),
        CONNECTED(test_restarted_listener_takes_its_address_again),
        IDLE(test_connections_come_and_go),
        IDLE(test_registered_memory_is_given_back),
        CONNECTED(test_transport_is_what_was_asked_for),
        CONNECTED(test_waiting_ends_with_a_message_and_with_the_limit),
    };
    return cmocka_run_group_tests_name(argc > 1 ? argv[1] : "sim", tests, NULL, NULL);
}
