#include "test_messages.h"

static test_message_t message, larger;

static uint32_t encode(const test_message_t *from, uint8_t *head)
{
    return lw_msg_encode(&from->msg, from->lists, from->list_bytes, head);
}

/* Both halves; the payload's bulk need not exist, only be counted. */
static lw_status_t decode(const void *head, size_t head_bytes, const void *lists, size_t list_bytes,
                          uint64_t payload_bytes, lw_msg_t *msg_out, lw_error_t *error)
{
    lw_status_t status = lw_msg_decode_head(head, head_bytes, payload_bytes, msg_out, error);

    return status == LW_OK ? lw_msg_decode_lists(msg_out, lists, list_bytes, error) : status;
}

/* Recomputes both checksums of a head after a test has changed it. */
static void reseal(uint8_t *head, uint32_t head_bytes, const void *lists)
{
    lw_wire_header_t header;

    memcpy(&header, head, sizeof(header));
    header.body_crc =
        lw_wire_body_crc(head + sizeof(header), head_bytes - sizeof(header), lists, header.list_bytes);
    header.header_crc = lw_wire_header_crc(&header);
    memcpy(head, &header, sizeof(header));
}

static void test_a_head_cut_at_any_byte_is_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX + 1];
    lw_msg_t msg;

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        test_random_message(&prng, type, 3, &message);
        uint32_t bytes = encode(&message, head);
        for (size_t cut = 0; cut <= sizeof(head); cut++) {
            uint8_t *exact = malloc(cut > 0 ? cut : 1); /* a read behind the cut is seen by the sanitizer */
            memset(exact, 0, cut > 0 ? cut : 1);
            memcpy(exact, head, lw_min_u64(cut, bytes));
            lw_status_t status = lw_msg_decode_head(exact, cut, test_payload_bytes(&message), &msg, NULL);
            assert_int_equal(status, cut == bytes ? LW_OK : LW_ERR_INVALID);
            free(exact);
        }
    }
}

static void test_lists_cut_at_any_byte_are_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        test_random_message(&prng, type, 3, &message);
        uint32_t bytes = encode(&message, head);
        assert_int_equal(lw_msg_decode_head(head, bytes, test_payload_bytes(&message), &msg, NULL), LW_OK);
        for (size_t cut = 0; cut < message.list_bytes; cut++) {
            lw_msg_t copy = msg;
            lw_error_t error;
            uint8_t *exact = malloc(cut > 0 ? cut : 1);
            memcpy(exact, message.lists, cut);
            assert_int_equal(lw_msg_decode_lists(&copy, exact, cut, &error), LW_ERR_INVALID);
            assert_names(error, "ends before its lists");
            assert_memory_equal(&copy, &msg, sizeof(msg)); /* nothing points into what was refused */
            free(exact);
        }
    }
}

static void test_every_flipped_bit_of_a_head_is_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        test_random_message(&prng, type, 2, &message);
        uint32_t bytes = encode(&message, head);
        for (uint32_t bit = 0; bit < bytes * 8; bit++) {
            lw_error_t error;
            head[bit / 8] ^= (uint8_t)(1u << bit % 8);
            lw_status_t status = decode(head, bytes, message.lists, message.list_bytes,
                                        test_payload_bytes(&message), &msg, &error);
            assert_int_equal(status, LW_ERR_INVALID);
            assert_true(error.text[0] != '\0');
            head[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(
            decode(head, bytes, message.lists, message.list_bytes, test_payload_bytes(&message), &msg, NULL),
            LW_OK);
    }
}

static void test_every_flipped_bit_of_a_list_or_its_padding_is_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        test_random_message(&prng, type, 3, &message);
        uint32_t bytes = encode(&message, head), padded = lw_wire_bulk_offset(message.list_bytes);
        uint64_t payload = lw_msg_bulk_bytes(&message.msg) > 0 ? test_payload_bytes(&message) : padded;
        for (uint32_t bit = 0; bit < padded * 8; bit++) {
            lw_error_t error;
            message.lists[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(decode(head, bytes, message.lists, padded, payload, &msg, &error),
                             LW_ERR_INVALID);
            assert_names(error, bit / 8 < message.list_bytes ? "body_crc" : "padding byte");
            message.lists[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(decode(head, bytes, message.lists, padded, payload, &msg, NULL), LW_OK);
    }
}

static void test_a_foreign_version_is_told_apart_from_damage(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_error_t error;
    lw_msg_t msg;

    test_random_message(&prng, LW_MSG_PING, 0, &message);
    uint32_t bytes = encode(&message, head);
    head[12] = 2;
    reseal(head, bytes, NULL);
    assert_int_equal(lw_msg_decode_head(head, bytes, 0, &msg, &error), LW_ERR_VERSION);
    assert_names(error, "wire version is 2, this is 1");
}

static void test_an_unknown_type_is_refused_with_good_checksums(void **state)
{
    static const uint16_t unknown[] = {0, LW_MSG_TYPE_END, 255, 65535};
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_error_t error;
    lw_msg_t msg;

    for (size_t i = 0; i < LW_ARRAY_SIZE(unknown); i++) {
        test_random_message(&prng, LW_MSG_PING, 0, &message);
        uint32_t bytes = encode(&message, head);
        memcpy(head + 14, &unknown[i], 2);
        reseal(head, bytes, NULL);
        assert_int_equal(lw_msg_decode_head(head, bytes, 0, &msg, &error), LW_ERR_INVALID);
        assert_names(error, "type");
        assert_int_equal(lw_msg_body_bytes(unknown[i]), 0);
        assert_string_equal(lw_msg_type_text(unknown[i]), "unknown");
    }
}

/* An attacker can compute checksums: what the counts say must not be believed either. */
static void test_counts_that_lie_are_refused_with_good_checksums(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    for (int round = 0; round < 20000; round++) {
        uint16_t type = (uint16_t)(1 + lw_prng_below(&prng, LW_MSG_TYPE_END - 1));
        test_random_message(&prng, type, 1 + (uint32_t)lw_prng_below(&prng, 3), &message);
        uint32_t bytes = encode(&message, head), list_bytes = message.list_bytes;
        uint64_t payload = test_payload_bytes(&message);
        uint8_t *exact = aligned_alloc(64, lw_align_up(list_bytes + 1, 64));

        for (int i = (int)lw_prng_below(&prng, 4); i >= 0;
             i--) { /* some 32-bit words of head become extreme or random */
            static const uint32_t extremes[] = {0,          1,       0x7fffffff, 0x80000000,
                                                0xffffffff, 0x10000, 0x0aaaaaab};
            uint32_t at = 8 + 4 * (uint32_t)lw_prng_below(&prng, (bytes - 8) / 4);
            uint32_t value = lw_prng_below(&prng, 4) == 0
                                 ? (uint32_t)lw_prng_u64(&prng)
                                 : extremes[lw_prng_below(&prng, LW_ARRAY_SIZE(extremes))];
            if (at != 12) { /* version and type have tests of their own */
                memcpy(head + at, &value, 4);
            }
        }
        memcpy(exact, message.lists, list_bytes);
        lw_wire_header_t header;
        memcpy(&header, head, sizeof(header));
        if (header.list_bytes <= list_bytes) {
            reseal(head, bytes, exact);
        } else { /* the checksum of what is not there cannot be right; the head's own can */
            header.header_crc = lw_wire_header_crc(&header);
            memcpy(head, &header, sizeof(header));
        }
        if (decode(head, bytes, exact, list_bytes, payload, &msg, NULL) == LW_OK) {
            assert_int_equal(lw_msg_check_body(&msg, NULL), LW_OK);
            assert_true(lw_msg_list_bytes(&msg) <= list_bytes);
        }
        free(exact);
    }
}

static void test_a_payload_of_another_length_is_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_error_t error;
    lw_msg_t msg;

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        test_random_message(&prng, type, 3, &message);
        uint32_t bytes = encode(&message, head);
        uint64_t payload = test_payload_bytes(&message);
        bool bulk = lw_msg_bulk_bytes(&message.msg) > 0;

        if (payload > 0) {
            assert_int_equal(lw_msg_decode_head(head, bytes, payload - 1, &msg, &error), LW_ERR_INVALID);
            assert_names(error, "payload of");
        }
        uint64_t most = bulk ? payload : lw_wire_bulk_offset(message.list_bytes);
        assert_int_equal(lw_msg_decode_head(head, bytes, most, &msg, &error), LW_OK);
        assert_int_equal(lw_msg_decode_head(head, bytes, most + 1, &msg, &error), LW_ERR_INVALID);
        assert_int_equal(lw_msg_decode_head(head, bytes, UINT64_MAX, &msg, &error), LW_ERR_INVALID);
    }
}

static void test_elements_that_break_a_rule_are_named(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_error_t error;
    lw_msg_t msg;

    test_random_message(&prng, LW_MSG_ATTACH, 4, &message);
    ((lw_segment_name_t *)(void *)message.lists)[2].reserved = 9;
    uint32_t bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "ATTACH: names[2].reserved is 9");

    do {
        test_random_message(&prng, LW_MSG_ATTACH_REPLY, 2, &message);
    } while (message.list_bytes == 0);
    lw_msg_attached_t *attached = (void *)message.lists;
    attached[1].reserved = 3;
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "attached[1].reserved is 3");
    attached[1] = (lw_msg_attached_t){.status = LW_ERR_NOT_FOUND, .handle = 5};
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "attached[1].status is -8 with handle 5");

    test_random_message(&prng, LW_MSG_FETCH, 3, &message);
    lw_msg_fetch_run_t *runs = (void *)message.lists;
    runs[1].count++;
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "counts of the runs add up to");
    runs[1].count--;
    runs[0].count = 1;
    message.msg.body.fetch.entry_count = runs[1].count + runs[2].count + 2; /* an entry that no run has */
    message.list_bytes = lw_msg_list_bytes(&message.msg);
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "counts of the runs add up to");
    runs[0].count++;
    runs[0].reserved = 1;
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "runs[0].reserved is 1");

    do {
        test_random_message(&prng, LW_MSG_FETCH_REPLY, 2, &message);
    } while (message.list_bytes == 0);
    ((int32_t *)(void *)message.lists)[1] = LW_INPROGRESS;
    bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, lw_wire_bulk_offset(message.list_bytes),
                            test_payload_bytes(&message), &msg, &error),
                     LW_ERR_INVALID);
    assert_names(error, "run_status[1] is 1");
}

static void test_misaligned_heads_decode_and_misaligned_lists_are_refused(void **state)
{
    lw_prng_t prng = test_prng("msg");
    _Alignas(8) uint8_t head[LW_MSG_HEAD_MAX + 8];
    lw_error_t error;
    lw_msg_t msg;

    for (unsigned shift = 0; shift < 8; shift++) {
        test_random_message(&prng, LW_MSG_FETCH, 3, &message);
        uint32_t bytes = encode(&message, head + shift);
        uint8_t *lists = aligned_alloc(64, lw_align_up(message.list_bytes + 8, 64));
        memcpy(lists + shift, message.lists, message.list_bytes);
        lw_status_t status =
            decode(head + shift, bytes, lists + shift, message.list_bytes, message.list_bytes, &msg, &error);
        assert_int_equal(status, shift == 0 ? LW_OK : LW_ERR_INVALID);
        if (shift != 0) {
            assert_names(error, "8-byte aligned");
        }
        free(lists);
    }
}

static void test_a_message_comes_out_as_it_went_in(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX], again[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    for (int round = 0; round < 200; round++) {
        for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
            test_random_message(&prng, type, (uint32_t)lw_prng_below(&prng, 50), &message);
            uint32_t bytes = encode(&message, head);
            uint32_t padded = lw_wire_bulk_offset(message.list_bytes);

            assert_int_equal(bytes, sizeof(lw_wire_header_t) + lw_msg_body_bytes(type));
            assert_int_equal(
                decode(head, bytes, message.lists, padded, test_payload_bytes(&message), &msg, NULL), LW_OK);
            assert_int_equal(msg.header.type, type);
            assert_true(msg.header.fleet_id == message.msg.header.fleet_id);
            assert_true(msg.header.request_id == message.msg.header.request_id);
            assert_memory_equal(&msg.body, &message.msg.body, lw_msg_body_bytes(type));
            assert_int_equal(lw_msg_encode(&msg, message.lists, message.list_bytes, again), bytes);
            assert_memory_equal(head, again, bytes);
        }
    }
}

static void test_lists_point_where_the_counts_say(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    test_random_message(&prng, LW_MSG_FETCH, 5, &message);
    uint32_t bytes = encode(&message, head);
    assert_int_equal(decode(head, bytes, message.lists, message.list_bytes, message.list_bytes, &msg, NULL),
                     LW_OK);
    assert_ptr_equal(msg.runs, message.lists);
    assert_ptr_equal(msg.entries, message.lists + 5 * 16);
    assert_null(msg.names);
    do {
        test_random_message(&prng, LW_MSG_FETCH_REPLY, 3, &message);
    } while (message.list_bytes == 0);
    bytes = encode(&message, head);
    assert_int_equal(
        decode(head, bytes, message.lists, message.list_bytes, test_payload_bytes(&message), &msg, NULL),
        LW_OK);
    assert_ptr_equal(msg.run_status, message.lists);
    assert_ptr_equal(msg.checksums, message.lists + 3 * 4);
}

static void test_the_longest_lists_pass_and_one_more_is_our_mistake(void **state)
{
    lw_prng_t prng = test_prng("msg");
    uint8_t head[LW_MSG_HEAD_MAX];
    lw_msg_t msg;

    test_random_message(&prng, LW_MSG_ATTACH, LW_ATTACH_NAMES_MAX, &larger);
    uint32_t bytes = encode(&larger, head);
    assert_int_equal(decode(head, bytes, larger.lists, larger.list_bytes, larger.list_bytes, &msg, NULL),
                     LW_OK);

    test_random_message(&prng, LW_MSG_FETCH, LW_FETCH_RUNS_MAX, &larger);
    lw_msg_fetch_run_t *runs = (void *)larger.lists;
    for (uint32_t i = 0; i < LW_FETCH_RUNS_MAX; i++) {
        runs[i].count = LW_FETCH_ENTRIES_MAX / LW_FETCH_RUNS_MAX;
    }
    larger.msg.body.fetch.entry_count = LW_FETCH_ENTRIES_MAX;
    larger.list_bytes = lw_msg_list_bytes(&larger.msg);
    assert_int_equal(larger.list_bytes, LW_FETCH_RUNS_MAX * 16u + LW_FETCH_ENTRIES_MAX * 2u);
    bytes = encode(&larger, head);
    assert_int_equal(decode(head, bytes, larger.lists, larger.list_bytes, larger.list_bytes, &msg, NULL),
                     LW_OK);
    assert_ptr_equal(msg.entries, larger.lists + LW_FETCH_RUNS_MAX * 16u);
}

static void encode_too_many(void *arg)
{
    uint8_t head[LW_MSG_HEAD_MAX];

    encode(arg, head);
}

static void test_encoding_what_no_peer_would_take_asserts(void **state)
{
    lw_prng_t prng = test_prng("msg");

    test_random_message(&prng, LW_MSG_ATTACH, 1, &message);
    message.msg.body.attach.name_count = LW_ATTACH_NAMES_MAX + 1;
    message.list_bytes = lw_msg_list_bytes(&message.msg);
    assert_true(test_aborts(encode_too_many, &message));
    test_random_message(&prng, LW_MSG_ATTACH, 2, &message);
    message.list_bytes -= 24; /* the lists are not what the body says */
    assert_true(test_aborts(encode_too_many, &message));
    message.msg.header.type = 0;
    assert_true(test_aborts(encode_too_many, &message));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_head_cut_at_any_byte_is_refused),
        cmocka_unit_test(test_lists_cut_at_any_byte_are_refused),
        cmocka_unit_test(test_every_flipped_bit_of_a_head_is_refused),
        cmocka_unit_test(test_every_flipped_bit_of_a_list_or_its_padding_is_refused),
        cmocka_unit_test(test_a_foreign_version_is_told_apart_from_damage),
        cmocka_unit_test(test_an_unknown_type_is_refused_with_good_checksums),
        cmocka_unit_test(test_counts_that_lie_are_refused_with_good_checksums),
        cmocka_unit_test(test_a_payload_of_another_length_is_refused),
        cmocka_unit_test(test_elements_that_break_a_rule_are_named),
        cmocka_unit_test(test_misaligned_heads_decode_and_misaligned_lists_are_refused),
        cmocka_unit_test(test_a_message_comes_out_as_it_went_in),
        cmocka_unit_test(test_lists_point_where_the_counts_say),
        cmocka_unit_test(test_the_longest_lists_pass_and_one_more_is_our_mistake),
        cmocka_unit_test(test_encoding_what_no_peer_would_take_asserts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
