#include "test_support.h"

#include "wire/header.h"

static void test_every_flipped_bit_of_a_header_changes_its_checksum(void **state)
{
    lw_prng_t prng = test_prng("header");
    lw_wire_header_t header;

    test_fill(&prng, &header, sizeof(header));
    uint32_t crc = lw_wire_header_crc(&header);
    for (unsigned bit = 32; bit < sizeof(header) * 8; bit++) {
        ((uint8_t *)&header)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(lw_wire_header_crc(&header), crc);
        ((uint8_t *)&header)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    header.header_crc++; /* not covered by itself */
    assert_int_equal(lw_wire_header_crc(&header), crc);
}

static void test_the_body_checksum_covers_body_and_lists_apart(void **state)
{
    lw_prng_t prng = test_prng("header");
    uint8_t bytes[200];

    test_fill(&prng, bytes, sizeof(bytes));
    uint32_t crc = lw_wire_body_crc(bytes, 40, bytes + 40, 100);
    for (unsigned bit = 0; bit < 140 * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(lw_wire_body_crc(bytes, 40, bytes + 40, 100), crc);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_not_equal(lw_wire_body_crc(bytes, 48, bytes + 48, 92), crc); /* the border counts too */
    assert_int_not_equal(lw_wire_body_crc(bytes, 40, NULL, 0), crc);
}

static void test_bulk_begins_at_the_next_multiple_of_64(void **state)
{
    assert_int_equal(lw_wire_bulk_offset(0), 0);
    assert_int_equal(lw_wire_bulk_offset(1), 64);
    assert_int_equal(lw_wire_bulk_offset(64), 64);
    assert_int_equal(lw_wire_bulk_offset(65), 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_flipped_bit_of_a_header_changes_its_checksum),
        cmocka_unit_test(test_the_body_checksum_covers_body_and_lists_apart),
        cmocka_unit_test(test_bulk_begins_at_the_next_multiple_of_64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
