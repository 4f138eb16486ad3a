/* test_fabric_address.c - address texts, good and bad. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <netdb.h>
#include <string.h>

#include "base/limits.h"
#include "fabric/fabric_address.h"

static void test_texts_that_are_no_addresses_are_refused(void **state)
{
    static const char *const bad[] = {
        "",           ":80",  "127.0.0.1", "127.0.0.1:", "1.2.3.4:x", "1.2.3.4:65536", "1.2.3.4:99999999999",
        "1.2.3.4:-1", "[::1]"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        struct sockaddr_storage address;
        socklen_t bytes;
        lw_error_t error = {0};
        assert_int_equal(lw_fabric_address_parse(bad[i], &address, &bytes, &error), LW_ERR_INVALID);
        assert_non_null(strstr(error.text, bad[i]));
    }
    char longest[300];
    memset(longest, '1', sizeof(longest));
    memcpy(longest + 290, ":80", 4);
    struct sockaddr_storage address;
    socklen_t bytes;
    assert_int_equal(lw_fabric_address_parse(longest, &address, &bytes, NULL), LW_ERR_INVALID);
    assert_int_equal(lw_fabric_address_parse(NULL, &address, &bytes, NULL), LW_ERR_INVALID);
}

static void test_numeric_addresses_come_back_as_they_were(void **state)
{
    static const char *const good[] = {"127.0.0.1:0", "10.0.0.7:65535", "[::1]:8080", "[fe80::1]:1"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(good); i++) {
        struct sockaddr_storage address;
        socklen_t bytes;
        char text[LW_ADDRESS_MAX];
        assert_int_equal(lw_fabric_address_parse(good[i], &address, &bytes, NULL), LW_OK);
        assert_int_equal(lw_fabric_address_text(&address, text, sizeof(text)), LW_OK);
        assert_string_equal(text, good[i]);
        assert_int_equal(lw_fabric_address_text(&address, text, strlen(good[i])), LW_ERR_INVALID);
    }
}

static void test_localhost_is_looked_up(void **state)
{
    struct sockaddr_storage address;
    socklen_t bytes;
    struct addrinfo *found = NULL;
    if (getaddrinfo("localhost", NULL, NULL, &found) != 0)
        skip(); /* a bare root file system, without /etc/hosts */
    freeaddrinfo(found);
    assert_int_equal(lw_fabric_address_parse("localhost:7", &address, &bytes, NULL), LW_OK);
    assert_true(bytes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_that_are_no_addresses_are_refused),
        cmocka_unit_test(test_numeric_addresses_come_back_as_they_were),
        cmocka_unit_test(test_localhost_is_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
