#include "test_messages.h"

static test_message_t message;

/* Sets one field of a good message to a value beyond its rule: the error must name it. */
#define REFUSED(TYPE, member, field, value, words)                                  \
    do {                                                                            \
        lw_error_t error_;                                                          \
        good(LW_MSG_##TYPE);                                                        \
        message.msg.body.member.field = (value);                                    \
        assert_int_equal(lw_msg_check_body(&message.msg, &error_), LW_ERR_INVALID); \
        assert_names(error_, #TYPE ": " #field " is ");                             \
        assert_names(error_, words);                                                \
    } while (0)
/* And to the last value that is good. */
#define TAKEN(TYPE, member, field, value)                               \
    do {                                                                \
        good(LW_MSG_##TYPE);                                            \
        message.msg.body.member.field = (value);                        \
        assert_int_equal(lw_msg_check_body(&message.msg, NULL), LW_OK); \
    } while (0)

static lw_prng_t random_source;

/* A random good message; replies with status OK. */
static void good(uint16_t type)
{
    do {
        test_random_message(&random_source, type, 2, &message);
    } while ((type == LW_MSG_HELLO_REPLY || type == LW_MSG_ATTACH_REPLY || type == LW_MSG_FETCH_REPLY ||
              type == LW_MSG_READ_REPLY || type == LW_MSG_RESERVE_REPLY || type == LW_MSG_STATUS_REPLY) &&
             message.msg.body.status_reply.status != LW_OK);
}

static void test_reserved_words_must_be_zero(void **state)
{
    random_source = test_prng("msg_check");
    REFUSED(HELLO, hello, reserved, 1, "is 1, must be 0");
    REFUSED(ATTACH, attach, reserved, 2, "is 2, must be 0");
    REFUSED(RESERVE, reserve, name.reserved, 3, "is 3, must be 0");
    REFUSED(RESERVE_REPLY, reserve_reply, reserved, 4, "is 4, must be 0");
    REFUSED(WRITE, write, reserved, 5, "is 5, must be 0");
    REFUSED(STATUS_REPLY, status_reply, reserved, 6, "is 6, must be 0");
    REFUSED(READ, read, reserved, 7, "is 7, must be 0");
    REFUSED(ATTEND, attend, reserved, 8, "is 8, must be 0");
}

static void test_flags_know_two_values(void **state)
{
    random_source = test_prng("msg_check");
    REFUSED(ATTACH, attach, write, 2, "must be 0 to 1");
    REFUSED(PING_REPLY, ping_reply, draining, 2, "must be 0 to 1");
    REFUSED(RESERVE_REPLY, reserve_reply, committed, 0x80000000u, "must be 0 to 1");
    REFUSED(FETCH, fetch, flags, 2, "must be 0 to 1");
    REFUSED(FETCH_REPLY, fetch_reply, moved, 2, "must be 0 to 1");
}

static void test_a_reply_is_never_in_progress(void **state)
{
    random_source = test_prng("msg_check");
    REFUSED(HELLO_REPLY, hello_reply, status, LW_INPROGRESS, "0 or negative");
    REFUSED(ATTACH_REPLY, attach_reply, status, 2, "0 or negative");
    REFUSED(RESERVE_REPLY, reserve_reply, status, 3, "0 or negative");
    REFUSED(STATUS_REPLY, status_reply, status, 4, "0 or negative");
    REFUSED(FETCH_REPLY, fetch_reply, status, INT32_MAX, "0 or negative");
    REFUSED(READ_REPLY, read_reply, status, 1, "0 or negative");
    TAKEN(STATUS_REPLY, status_reply, status, INT32_MIN);
}

static void test_each_limit_is_reached_and_not_passed(void **state)
{
    random_source = test_prng("msg_check");
    TAKEN(ATTACH, attach, name_count, LW_ATTACH_NAMES_MAX);
    REFUSED(ATTACH, attach, name_count, LW_ATTACH_NAMES_MAX + 1, "must be 0 to 16384");
    TAKEN(ATTACH_REPLY, attach_reply, name_count, LW_ATTACH_NAMES_MAX);
    REFUSED(ATTACH_REPLY, attach_reply, name_count, LW_ATTACH_NAMES_MAX + 1, "must be 0 to 16384");
    TAKEN(FETCH, fetch, run_count, LW_FETCH_RUNS_MAX);
    REFUSED(FETCH, fetch, run_count, LW_FETCH_RUNS_MAX + 1, "must be 0 to 8192");
    TAKEN(FETCH, fetch, entry_count, LW_FETCH_ENTRIES_MAX);
    REFUSED(FETCH, fetch, entry_count, LW_FETCH_ENTRIES_MAX + 1, "must be 0 to 65536");
    TAKEN(FETCH_REPLY, fetch_reply, run_count, LW_FETCH_RUNS_MAX);
    REFUSED(FETCH_REPLY, fetch_reply, run_count, LW_FETCH_RUNS_MAX + 1, "must be 0 to 8192");
    TAKEN(FETCH_REPLY, fetch_reply, record_count, LW_FETCH_ENTRIES_MAX);
    REFUSED(FETCH_REPLY, fetch_reply, record_count, LW_FETCH_ENTRIES_MAX + 1, "must be 0 to 65536");
    TAKEN(FETCH_REPLY, fetch_reply, bulk_bytes, LW_MSG_BULK_MAX);
    REFUSED(FETCH_REPLY, fetch_reply, bulk_bytes, LW_MSG_BULK_MAX + 1ull, "must be 0 to 67108864");
    TAKEN(RESERVE, reserve, bytes, LW_SEGMENT_BYTES_MAX);
    REFUSED(RESERVE, reserve, bytes, LW_SEGMENT_BYTES_MAX + 1, "must be 1 to 1073741824");
    REFUSED(RESERVE, reserve, bytes, 0, "must be 1");
    REFUSED(COMMIT, commit, bytes, LW_SEGMENT_BYTES_MAX + 1, "must be 1 to 1073741824");
    REFUSED(COMMIT, commit, bytes, 0, "must be 1");
    REFUSED(WRITE, write, bytes, LW_WRITE_CHUNK_BYTES + 1, "must be 1 to 1048576");
    REFUSED(WRITE, write, bytes, 0, "must be 1");
    REFUSED(WRITE, write, offset, LW_SEGMENT_BYTES_MAX, "must be 0 to");
    REFUSED(WRITE, write, offset, UINT64_MAX, "must be 0 to");
    REFUSED(READ, read, bytes, LW_MSG_BULK_MAX + 1, "must be 0 to 67108864");
    REFUSED(READ, read, offset, LW_SEGMENT_BYTES_MAX + 1, "must be 0 to");
    REFUSED(READ_REPLY, read_reply, bytes, LW_MSG_BULK_MAX + 1, "must be 0 to 67108864");
    REFUSED(READ_REPLY, read_reply, segment_bytes, LW_SEGMENT_BYTES_MAX + 1, "to 1073741824");
    REFUSED(HELLO, hello, version_min, 0, "must be 1");
    REFUSED(HELLO, hello, version_max, 0, "must be ");
    REFUSED(HELLO_REPLY, hello_reply, version, 65536, "must be 1 to 65535");
    REFUSED(HELLO_REPLY, hello_reply, attach_limit, LW_ATTACH_NAMES_MAX + 1, "must be 1 to 16384");
    REFUSED(HELLO_REPLY, hello_reply, fetch_entry_limit, 0, "must be 1 to 65536");
    REFUSED(PING_REPLY, ping_reply, arena_free_bytes, UINT64_MAX, "must be 0 to");
}

static void test_a_failed_reply_carries_nothing(void **state)
{
    lw_msg_t msg;
    lw_error_t error;

    memset(&msg, 0, sizeof(msg));
    msg.header.type = LW_MSG_FETCH_REPLY;
    msg.body.fetch_reply.status = LW_ERR_STALE;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_OK);
    msg.body.fetch_reply.bulk_bytes = 1;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_ERR_INVALID);
    assert_names(error, "FETCH_REPLY: bulk_bytes is 1, must be 0 to 0");
    msg.body.fetch_reply.bulk_bytes = 0;
    msg.body.fetch_reply.record_count = 1;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_ERR_INVALID);
    msg.body.fetch_reply.record_count = 0;
    msg.body.fetch_reply.run_count = 1;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_ERR_INVALID);
    memset(&msg.body, 0, sizeof(msg.body));
    msg.header.type = LW_MSG_READ_REPLY;
    msg.body.read_reply.status = LW_ERR_NOT_FOUND;
    msg.body.read_reply.bytes = 4;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_ERR_INVALID);
    assert_names(error, "READ_REPLY: bytes is 4");
    memset(&msg.body, 0, sizeof(msg.body));
    msg.header.type = LW_MSG_ATTACH_REPLY;
    msg.body.attach_reply.status = LW_ERR_PERMISSION;
    msg.body.attach_reply.name_count = 1;
    assert_int_equal(lw_msg_check_body(&msg, &error), LW_ERR_INVALID);
}

static void test_an_unknown_type_has_no_good_body(void **state)
{
    lw_msg_t msg;

    memset(&msg, 0, sizeof(msg));
    assert_int_equal(lw_msg_check_body(&msg, NULL), LW_ERR_INVALID);
    msg.header.type = LW_MSG_TYPE_END;
    assert_int_equal(lw_msg_check_body(&msg, NULL), LW_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserved_words_must_be_zero),
        cmocka_unit_test(test_flags_know_two_values),
        cmocka_unit_test(test_a_reply_is_never_in_progress),
        cmocka_unit_test(test_each_limit_is_reached_and_not_passed),
        cmocka_unit_test(test_a_failed_reply_carries_nothing),
        cmocka_unit_test(test_an_unknown_type_has_no_good_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
