/* test_rpc_grpc.c - unary calls and streams over plaintext: what fails first, then what works. */
#include "test_rpc_support.h"

#include "base/clock.h"
#include "base/prng.h"

static test_kept_t kept = TEST_KEPT_INIT;
static lw_rpc_server_t *server;
static lw_rpc_channel_t *channel;

static int setup(void **state)
{
    kept.count = 0;
    server = test_server(NULL, &kept);
    channel = test_channel(lw_rpc_server_address(server), NULL);
    return 0;
}

static int teardown(void **state)
{
    lw_rpc_disconnect(channel);
    lw_rpc_server_stop(server, SECOND);
    return 0;
}

static void test_addresses_without_a_port_are_refused(void **state)
{
    static const char *const bad[] = {"", "localhost", ":1", "localhost:"};
    lw_rpc_channel_t *none = NULL;
    lw_rpc_server_t *no_server = NULL;
    lw_error_t error;
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        assert_int_equal(lw_rpc_connect(bad[i], NULL, &none, &error), LW_ERR_INVALID);
        assert_int_equal(lw_rpc_serve(bad[i], NULL, NULL, 0, &no_server, &error), LW_ERR_INVALID);
    }
    assert_null(none);
    assert_null(no_server);
}

static void test_a_method_that_comes_twice_is_refused(void **state)
{
    const lw_rpc_method_t twice[] = {{.path = "/a/B", .serve = test_serve_echo}, {.path = "/a/B", .serve = test_serve_echo}};
    lw_rpc_server_t *none = NULL;
    lw_error_t error;
    assert_int_equal(lw_rpc_serve("127.0.0.1:0", NULL, twice, 2, &none, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "/a/B"));
    lw_rpc_method_t many[LW_RPC_METHODS_MAX + 1] = {{0}};
    assert_int_equal(lw_rpc_serve("127.0.0.1:0", NULL, many, LW_ARRAY_SIZE(many), &none, &error), LW_ERR_INVALID);
}

static void test_a_port_in_use_is_refused_by_name(void **state)
{
    lw_rpc_server_t *none = NULL;
    lw_error_t error;
    assert_int_equal(lw_rpc_serve(lw_rpc_server_address(server), NULL, NULL, 0, &none, &error), LW_ERR_UNREACHABLE);
    assert_non_null(strstr(error.text, lw_rpc_server_address(server)));
    assert_null(none);
}

static void test_nobody_listening_is_unreachable(void **state)
{
    lw_rpc_channel_t *nowhere = test_channel("127.0.0.1:1", NULL);
    lw_rpc_bytes_t reply = {0};
    lw_error_t error;
    assert_int_equal(lw_rpc_call(nowhere, "/test.Test/Echo", "x", 1, 5 * SECOND, &reply, &error), LW_ERR_UNREACHABLE);
    assert_true(error.text[0] != 0);
    assert_null(reply.data);
    lw_rpc_disconnect(nowhere);
}

static void test_an_unknown_method_is_unsupported(void **state)
{
    lw_rpc_bytes_t reply = {0};
    lw_error_t error;
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Nothing", "x", 1, 5 * SECOND, &reply, &error), LW_ERR_UNSUPPORTED);
    assert_string_equal(error.text, "no such method");
    assert_int_equal(lw_rpc_call(channel, "/Echo", "x", 1, 5 * SECOND, &reply, &error), LW_ERR_UNSUPPORTED);
}

static void test_every_status_arrives_as_it_was_sent_with_its_words(void **state)
{
    static const int statuses[] = {
#define XX(name, code, text) code,
        LW_STATUS_MAP(XX)
#undef XX
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(statuses); i++) {
        if (statuses[i] >= 0)
            continue;
        char text[16];
        snprintf(text, sizeof(text), "%d", statuses[i]);
        lw_rpc_bytes_t reply = {0};
        lw_error_t error = {0};
        assert_int_equal(lw_rpc_call(channel, "/test.Test/Fail", text, strlen(text), 5 * SECOND, &reply, &error),
                         statuses[i]);
        assert_string_equal(error.text, "the server's words");
        assert_int_equal(error.status, statuses[i]);
        assert_null(reply.data);
    }
}

static void test_a_call_ends_at_its_deadline_and_the_server_sees_it(void **state)
{
    lw_rpc_bytes_t reply = {0};
    lw_error_t error;
    uint64_t start = lw_now_us(lw_clock_real());
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Keep", "x", 1, SECOND / 2, &reply, &error), LW_ERR_TIMEOUT);
    uint64_t took = lw_now_us(lw_clock_real()) - start;
    assert_in_range(took, SECOND / 2 - 1000, 3 * SECOND);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    assert_true(lw_rpc_time_left_us(call) < SECOND);
    while (!lw_rpc_canceled(call)) /* the deadline is the server's too: bounded by the test's own limit */
        sched_yield();
    lw_rpc_reply(call, LW_OK, NULL, "late", 4);
}

static void test_an_oversized_request_is_refused_before_it_is_sent(void **state)
{
    uint8_t *big = calloc(1, LW_RPC_MESSAGE_MAX + 1);
    lw_rpc_bytes_t reply = {0};
    lw_error_t error;
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Echo", big, LW_RPC_MESSAGE_MAX + 1, 5 * SECOND, &reply, &error),
                     LW_ERR_INVALID);
    assert_null(reply.data);
    free(big);
}

static void test_the_largest_message_goes_both_ways(void **state)
{
    uint8_t *big = malloc(LW_RPC_MESSAGE_MAX);
    uint64_t seed = lw_now_us(lw_clock_real());
    print_message("seed %llu\n", (unsigned long long)seed);
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (size_t i = 0; i < LW_RPC_MESSAGE_MAX; i += 8) {
        uint64_t word = lw_prng_u64(&prng);
        memcpy(big + i, &word, 8);
    }
    lw_rpc_bytes_t reply = {0};
    lw_error_t error = {0};
    lw_status_t status =
        lw_rpc_call(channel, "/test.Test/Echo", big, LW_RPC_MESSAGE_MAX, 30 * SECOND, &reply, &error);
    if (status != LW_OK)
        fail_msg("%s", error.text);
    assert_int_equal(reply.bytes, LW_RPC_MESSAGE_MAX);
    assert_memory_equal(reply.data, big, LW_RPC_MESSAGE_MAX);
    lw_rpc_bytes_free(&reply);
    free(big);
}

static void test_an_empty_message_comes_back_empty(void **state)
{
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Echo", NULL, 0, 5 * SECOND, &reply, NULL), LW_OK);
    assert_int_equal(reply.bytes, 0);
    assert_non_null(reply.data);
    lw_rpc_bytes_free(&reply);
}

static void test_a_plaintext_peer_has_no_name(void **state)
{
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Peer", "x", 1, 5 * SECOND, &reply, NULL), LW_OK);
    assert_int_equal(reply.bytes, 0);
    lw_rpc_bytes_free(&reply);
}

static void *caller(void *arg)
{
    uint64_t *seed = arg;
    lw_prng_t prng;
    lw_prng_seed(&prng, *seed);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t words[64];
        size_t bytes = lw_prng_below(&prng, sizeof(words) + 1);
        for (unsigned w = 0; w < 64; w++)
            words[w] = lw_prng_u64(&prng);
        lw_rpc_bytes_t reply = {0};
        if (lw_rpc_call(channel, "/test.Test/Echo", words, bytes, 20 * SECOND, &reply, NULL) != LW_OK)
            return arg;
        bool same = reply.bytes == bytes && memcmp(reply.data, words, bytes) == 0;
        lw_rpc_bytes_free(&reply);
        if (!same)
            return arg;
    }
    return NULL;
}

static void test_threads_share_a_channel_and_get_their_own_answers(void **state)
{
    pthread_t threads[4];
    uint64_t seeds[4];
    for (unsigned i = 0; i < 4; i++) {
        seeds[i] = i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, caller, &seeds[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
}

static void test_a_stream_that_fails_tells_why_after_its_messages(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t message = {0};
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, &error), LW_OK);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    assert_int_equal(lw_rpc_write(call, "abc", 3), LW_OK);
    lw_rpc_finish(call, LW_ERR_QUOTA, "no more for you");
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_OK);
    assert_int_equal(message.bytes, 3);
    lw_rpc_bytes_free(&message);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_ERR_QUOTA);
    assert_string_equal(error.text, "no more for you");
    lw_rpc_stream_close(stream);
}

static void test_a_stream_on_an_unknown_method_is_unsupported(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t message = {0};
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/Nothing", "", 0, &stream, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_ERR_UNSUPPORTED);
    lw_rpc_stream_close(stream);
}

static void test_a_silent_stream_times_out_and_still_delivers_later(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t message = {0};
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, &error), LW_OK);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    assert_int_equal(lw_rpc_stream_next(stream, 20000, &message, &error), LW_ERR_TIMEOUT);
    assert_int_equal(lw_rpc_stream_next(stream, 0, &message, &error), LW_ERR_TIMEOUT);
    assert_int_equal(lw_rpc_write(call, "late", 4), LW_OK);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_OK);
    assert_int_equal(message.bytes, 4);
    lw_rpc_bytes_free(&message);
    lw_rpc_finish(call, LW_OK, NULL);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_ERR_NOT_FOUND);
    lw_rpc_stream_close(stream);
}

static void *canceler(void *arg)
{
    lw_rpc_stream_cancel(arg);
    return NULL;
}

static void test_cancel_from_another_thread_ends_next_and_the_server_learns_it(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t message = {0};
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, &error), LW_OK);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    assert_false(lw_rpc_canceled(call));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, canceler, stream), 0);
    assert_int_equal(lw_rpc_stream_next(stream, 30 * SECOND, &message, &error), LW_ERR_CANCELED);
    pthread_join(thread, NULL);
    while (!lw_rpc_canceled(call))
        sched_yield();
    assert_int_equal(lw_rpc_write(call, "x", 1), LW_ERR_CANCELED);
    lw_rpc_finish(call, LW_OK, NULL);
    lw_rpc_stream_close(stream);
}

static void test_a_stream_delivers_all_messages_in_order(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t message = {0};
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/Count", "200", 3, &stream, &error), LW_OK);
    for (uint32_t i = 0; i < 200; i++) {
        assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_OK);
        uint32_t value;
        assert_int_equal(message.bytes, sizeof(value));
        memcpy(&value, message.data, sizeof(value));
        assert_int_equal(value, i);
        lw_rpc_bytes_free(&message);
    }
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_ERR_NOT_FOUND);
    lw_rpc_stream_close(stream);
}

static void test_a_writer_that_outruns_its_reader_is_told_busy(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_error_t error = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, &error), LW_OK);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    uint8_t *chunk = calloc(1, 1u << 20);
    unsigned sent = 0;
    lw_status_t status;
    while ((status = lw_rpc_write(call, chunk, 1u << 20)) == LW_OK)
        sent++;
    free(chunk);
    assert_int_equal(status, LW_ERR_BUSY);
    assert_in_range(sent, LW_RPC_WRITES_MAX, LW_RPC_WRITES_MAX + 64); /* some left towards the client */
    lw_rpc_finish(call, LW_OK, NULL);
    lw_rpc_stream_close(stream);
}

static void test_only_a_stream_that_goes_both_ways_takes_messages(void **state)
{
    lw_rpc_stream_t *stream = NULL;
    lw_error_t error;
    lw_rpc_bytes_t message = {0};
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_send(stream, "x", 1, &error), LW_ERR_INVALID);
    lw_rpc_stream_close(stream);
    assert_int_equal(lw_rpc_stream_open_both(channel, "/test.Test/Count", &stream, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_next(stream, 1000, &message, &error), LW_ERR_TIMEOUT); /* it waits for a request */
    assert_int_equal(lw_rpc_stream_send(stream, "2", 1, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, &error), LW_OK);
    lw_rpc_bytes_free(&message);
    lw_rpc_stream_cancel(stream);
    assert_int_equal(lw_rpc_stream_send(stream, "2", 1, &error), LW_ERR_CANCELED);
    lw_rpc_stream_close(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_addresses_without_a_port_are_refused),
        CASE(test_a_method_that_comes_twice_is_refused),
        CASE(test_a_port_in_use_is_refused_by_name),
        CASE(test_nobody_listening_is_unreachable),
        CASE(test_an_unknown_method_is_unsupported),
        CASE(test_every_status_arrives_as_it_was_sent_with_its_words),
        CASE(test_a_call_ends_at_its_deadline_and_the_server_sees_it),
        CASE(test_an_oversized_request_is_refused_before_it_is_sent),
        CASE(test_a_stream_that_fails_tells_why_after_its_messages),
        CASE(test_a_stream_on_an_unknown_method_is_unsupported),
        CASE(test_a_silent_stream_times_out_and_still_delivers_later),
        CASE(test_cancel_from_another_thread_ends_next_and_the_server_learns_it),
        CASE(test_a_writer_that_outruns_its_reader_is_told_busy),
        CASE(test_the_largest_message_goes_both_ways),
        CASE(test_an_empty_message_comes_back_empty),
        CASE(test_a_plaintext_peer_has_no_name),
        CASE(test_threads_share_a_channel_and_get_their_own_answers),
        CASE(test_a_stream_delivers_all_messages_in_order),
        CASE(test_only_a_stream_that_goes_both_ways_takes_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
