#include "test_support.h"

#include "wire/checksum.h"

static void test_the_hash_of_nothing_is_the_published_one(void **state)
{
    assert_true(lw_checksum64(0, NULL, 0) == 0x2D06800538D394C2ull);
    assert_true(lw_checksum64(0, "x", 0) == 0x2D06800538D394C2ull);
    assert_true(lw_checksum64(1, NULL, 0) != 0x2D06800538D394C2ull);
}

static void test_alignment_does_not_change_the_hash_and_a_byte_does(void **state)
{
    lw_prng_t prng = test_prng("checksum");
    static uint8_t bytes[16384 + 64], moved[16384 + 64];

    test_fill(&prng, bytes, sizeof(bytes));
    for (int round = 0; round < 300; round++) {
        size_t count = 1 + lw_prng_below(&prng, 16384), shift = lw_prng_below(&prng, 64);
        uint64_t seed = lw_prng_u64(&prng), sum = lw_checksum64(seed, bytes, count);

        memcpy(moved + shift, bytes, count);
        assert_true(lw_checksum64(seed, moved + shift, count) == sum);
        moved[shift + lw_prng_below(&prng, count)] ^= 0x10;
        assert_true(lw_checksum64(seed, moved + shift, count) != sum);
        assert_true(lw_checksum64(seed + 1, bytes, count) != sum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_hash_of_nothing_is_the_published_one),
        cmocka_unit_test(test_alignment_does_not_change_the_hash_and_a_byte_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
