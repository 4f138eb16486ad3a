/* test_fabric_gather.c - the fabric's copies: every byte arrives, and none beside them is touched. */
#include "fabric/fabric_gather.h"
#include "test_support.h"

#define ROOM 20000u
#define AROUND 256u

static uint8_t from[ROOM + AROUND], into[ROOM + 2 * AROUND];

static void check_around(const uint8_t *begin, size_t bytes, uint8_t filler)
{
    for (const uint8_t *at = into; at < into + sizeof(into); at++)
        if (at < begin || at >= begin + bytes)
            assert_int_equal(*at, filler);
}

static void land_once(lw_prng_t *prng, size_t bytes)
{
    uint8_t filler = (uint8_t)lw_prng_u64(prng);
    const uint8_t *data = from + lw_prng_below(prng, AROUND);
    uint8_t *to = into + lw_prng_below(prng, AROUND);
    memset(into, filler, sizeof(into));
    lw_fabric_land(to, data, bytes);
    assert_memory_equal(to, data, bytes);
    check_around(to, bytes, filler);
}

static void test_landing_writes_its_bytes_and_no_others(void **state)
{
    lw_prng_t prng = test_prng("land");
    test_fill(&prng, from, sizeof(from));
    for (size_t bytes = 0; bytes < 200; bytes++)
        land_once(&prng, bytes);
    for (int i = 0; i < 200; i++)
        land_once(&prng, lw_prng_below(&prng, ROOM + 1));
}

static void test_gathered_pieces_lie_behind_each_other(void **state)
{
    lw_prng_t prng = test_prng("gather");
    test_fill(&prng, from, sizeof(from));
    for (int i = 0; i < 100; i++) {
        lw_iov_t pieces[16];
        uint8_t filler = (uint8_t)lw_prng_u64(&prng);
        size_t bytes = 0;
        for (size_t p = 0; p < LW_ARRAY_SIZE(pieces); p++) {
            size_t length = lw_prng_below(&prng, ROOM / LW_ARRAY_SIZE(pieces));
            pieces[p] = (lw_iov_t){from + lw_prng_below(&prng, ROOM - length), length};
            bytes += length;
        }
        memset(into, filler, sizeof(into));
        lw_fabric_gather(into + AROUND, pieces, LW_ARRAY_SIZE(pieces));
        size_t at = 0;
        for (size_t p = 0; p < LW_ARRAY_SIZE(pieces); at += pieces[p++].bytes)
            assert_memory_equal(into + AROUND + at, pieces[p].data, pieces[p].bytes);
        check_around(into + AROUND, bytes, filler);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_landing_writes_its_bytes_and_no_others),
        cmocka_unit_test(test_gathered_pieces_lie_behind_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
