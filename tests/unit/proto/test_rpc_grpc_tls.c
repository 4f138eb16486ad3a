/* test_rpc_grpc_tls.c - TLS and mTLS, with certificates made on the spot; skips where openssl is not there. */
#include "test_rpc_support.h"
#include "test_tls_certs.h"

static test_certs_t certs;
static test_kept_t kept = TEST_KEPT_INIT;
static lw_rpc_server_t *server;

static int serve_tls(void **state)
{
    const lw_rpc_tls_t tls = {.cert_pem = certs.server_cert, .key_pem = certs.server_key};
    server = test_server(&tls, &kept);
    return 0;
}

static int serve_mtls(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca, .cert_pem = certs.server_cert, .key_pem = certs.server_key};
    server = test_server(&tls, &kept);
    return 0;
}

static int stop(void **state)
{
    lw_rpc_server_stop(server, SECOND);
    return 0;
}

static lw_status_t ask_text(const lw_rpc_tls_t *tls, const char *method, const char *text, char *answer)
{
    lw_rpc_channel_t *channel = test_channel(lw_rpc_server_address(server), tls);
    lw_rpc_bytes_t reply = {0};
    lw_status_t status = lw_rpc_call(channel, method, text, strlen(text), 10 * SECOND, &reply, NULL);
    if (status == LW_OK && answer && reply.bytes < 64) {
        memcpy(answer, reply.data, reply.bytes);
        answer[reply.bytes] = 0;
    }
    lw_rpc_bytes_free(&reply);
    lw_rpc_disconnect(channel);
    return status;
}

static lw_status_t ask(const lw_rpc_tls_t *tls, const char *method, char *answer)
{
    return ask_text(tls, method, "hello", answer);
}

static void test_half_an_identity_is_refused(void **state)
{
    const lw_rpc_tls_t no_key = {.cert_pem = certs.server_cert};
    const lw_rpc_tls_t only_ca = {.ca_pem = certs.ca};
    const lw_rpc_tls_t garbage = {.cert_pem = "not a certificate", .key_pem = "not a key"};
    lw_rpc_server_t *none = NULL;
    lw_rpc_channel_t *no_channel = NULL;
    assert_int_equal(lw_rpc_serve("127.0.0.1:0", &no_key, NULL, 0, &none, NULL), LW_ERR_INVALID);
    assert_int_equal(lw_rpc_serve("127.0.0.1:0", &only_ca, NULL, 0, &none, NULL), LW_ERR_INVALID);
    assert_true(lw_rpc_serve("127.0.0.1:0", &garbage, NULL, 0, &none, NULL) < 0);
    assert_int_equal(lw_rpc_connect("127.0.0.1:1", &no_key, &no_channel, NULL), LW_ERR_INVALID);
    assert_null(none);
    assert_null(no_channel);
}

static void test_plaintext_to_a_tls_port_is_refused(void **state)
{
    assert_int_equal(ask(NULL, "/test.Test/Echo", NULL), LW_ERR_UNREACHABLE);
}

static void test_a_server_of_another_authority_is_refused(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.other_ca};
    assert_int_equal(ask(&tls, "/test.Test/Echo", NULL), LW_ERR_UNREACHABLE);
}

static void test_a_server_of_another_name_is_refused(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca, .server_name = "somebody.else"};
    assert_int_equal(ask(&tls, "/test.Test/Echo", NULL), LW_ERR_UNREACHABLE);
}

static void test_tls_works_and_names_nobody(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca};
    char answer[64] = "";
    assert_int_equal(ask(&tls, "/test.Test/Echo", answer), LW_OK);
    assert_string_equal(answer, "hello");
    assert_int_equal(ask(&tls, "/test.Test/Peer", answer), LW_OK);
    assert_string_equal(answer, "");
    assert_int_equal(ask_text(&tls, "/test.Test/Has", "longwave://node", answer), LW_OK);
    assert_string_equal(answer, "no");
    const lw_rpc_tls_t named = {.ca_pem = certs.ca, .server_name = "localhost"};
    assert_int_equal(ask(&named, "/test.Test/Echo", NULL), LW_OK);
}

static void test_mtls_refuses_a_client_without_a_certificate(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca};
    assert_int_equal(ask(&tls, "/test.Test/Echo", NULL), LW_ERR_UNREACHABLE);
}

static void test_mtls_refuses_a_stranger(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca, .cert_pem = certs.stranger_cert, .key_pem = certs.stranger_key};
    assert_int_equal(ask(&tls, "/test.Test/Echo", NULL), LW_ERR_UNREACHABLE);
}

static void test_mtls_works_and_tells_the_clients_name(void **state)
{
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca, .cert_pem = certs.client_cert, .key_pem = certs.client_key};
    char answer[64] = "";
    assert_int_equal(ask(&tls, "/test.Test/Peer", answer), LW_OK);
    assert_string_equal(answer, "client");
}

static void test_mtls_tells_exactly_the_uris_of_the_certificate(void **state)
{
    static const struct {
        const char *uri, *answer;
    } cases[] = {
        {"longwave://tenant/acme", "yes"},  {"longwave://tenant/default", "yes"}, {"longwave://node", "no"},
        {"longwave://tenant/acm", "no"},    {"longwave://tenant/acme2", "no"},    {"longwave://tenant/", "no"},
        {"LONGWAVE://tenant/acme", "no"},   {"localhost", "no"},                  {"", "no"},
        {"longwave://tenant/other", "no"},
    };
    const lw_rpc_tls_t tls = {.ca_pem = certs.ca, .cert_pem = certs.client_cert, .key_pem = certs.client_key};
    const lw_rpc_tls_t bare = {.ca_pem = certs.ca, .cert_pem = certs.bare_cert, .key_pem = certs.bare_key};
    for (size_t i = 0; i < LW_ARRAY_SIZE(cases); i++) {
        char answer[64] = "";
        assert_int_equal(ask_text(&tls, "/test.Test/Has", cases[i].uri, answer), LW_OK);
        assert_string_equal(answer, cases[i].answer);
        assert_int_equal(ask_text(&bare, "/test.Test/Has", cases[i].uri, answer), LW_OK);
        assert_string_equal(answer, "no");
    }
}

int main(void)
{
    if (!test_certs_make(&certs)) {
        printf("skipped: no openssl command that makes certificates\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_an_identity_is_refused),
        cmocka_unit_test_setup_teardown(test_plaintext_to_a_tls_port_is_refused, serve_tls, stop),
        cmocka_unit_test_setup_teardown(test_a_server_of_another_authority_is_refused, serve_tls, stop),
        cmocka_unit_test_setup_teardown(test_a_server_of_another_name_is_refused, serve_tls, stop),
        cmocka_unit_test_setup_teardown(test_tls_works_and_names_nobody, serve_tls, stop),
        cmocka_unit_test_setup_teardown(test_mtls_refuses_a_client_without_a_certificate, serve_mtls, stop),
        cmocka_unit_test_setup_teardown(test_mtls_refuses_a_stranger, serve_mtls, stop),
        cmocka_unit_test_setup_teardown(test_mtls_works_and_tells_the_clients_name, serve_mtls, stop),
        cmocka_unit_test_setup_teardown(test_mtls_tells_exactly_the_uris_of_the_certificate, serve_mtls, stop),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_certs_free(&certs);
    return failed;
}
