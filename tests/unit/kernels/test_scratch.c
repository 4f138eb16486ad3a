/* test_scratch.c - the layout of a step's scratch memory: parts that are large enough, aligned, and nobody
 * else's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/view.h"

#include "kernels/backend.h"

static lwk_dims_t some_dims(void)
{
    return (lwk_dims_t){
        .shape = {.layer_count = 3, .kv_head_count = 2, .group = 3, .head_dim = 72, .dtype = LW_DTYPE_BF16},
        .session_count = 5,
        .query_tokens = 4,
        .entry_capacity = 1001,
        .range_list_capacity = 7,
        .item_capacity = 33,
        .steady_rows = 3072};
}

typedef struct part {
    const void *at;
    uint64_t bytes;
} part_t;

static void test_parts_are_aligned_large_enough_and_apart(void **state)
{
    lwk_dims_t dims = some_dims();
    uint64_t total = lwk_scratch_bytes(&dims, 12345);
    uint8_t *memory = NULL;
    assert_int_equal(posix_memalign((void **)&memory, 64, total), 0);
    lwk_scratch_t s = lwk_scratch_carve(&dims, memory, 12345);
    uint64_t rows = 5 * 4 * 6, kv = 5 * 2, slots = s.partial_capacity;
    part_t parts[] = {
        {s.workspace, 12345}, /* first: its address does not depend on the step's dims */
        {s.query, rows * 72 * 4},
        {s.spread, rows * 4},
        {s.shift, rows * 72 * 4},
        {s.logit, rows * 1001 * 4},
        {s.tile_max, rows * 56 * 4}, /* 7 ranges of 8 parts */
        {s.tile_sum, rows * 56 * 4},
        {s.mark, kv * 1001},
        {s.items, kv * 33 * sizeof(lwk_item_t)},
        {s.item_count, kv * 4},
        {s.partial, rows * slots * sizeof(lwk_partial_t)},
        {s.partial_out, rows * slots * 72 * 4},
    };
    const uint8_t *end = memory;
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++) {
        assert_int_equal((uintptr_t)parts[i].at % 64, 0);
        assert_true((const uint8_t *)parts[i].at >= end);
        end = (const uint8_t *)parts[i].at + parts[i].bytes;
    }
    assert_true(end <= memory + total);
    assert_int_equal(s.workspace_bytes, 12345);
    free(memory);
}

/* Ranges, steady tiles, tiles of hits and tiles of arrivals never share a partial slot, at the largest of
 * each. */
static void test_partial_slots_of_different_kinds_never_meet(void **state)
{
    for (uint32_t items = 1; items < 200; items += 31)
        for (uint32_t steady = 64; steady <= 4096; steady += 448) {
            lwk_dims_t dims = some_dims();
            dims.item_capacity = items;
            dims.steady_rows = steady;
            uint8_t nothing[1];
            lwk_scratch_t s = lwk_scratch_carve(&dims, nothing, 0); /* addresses only */
            uint32_t steady_tiles = (steady + LW_SINK_TOKENS + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
            uint32_t item_tiles = (items + LWK_ITEM_TILE - 1) / LWK_ITEM_TILE;
            assert_true(lwk_slot_steady(&s, 0) >= lwk_part_slots(dims.range_list_capacity, dims.shape.kv_head_count));
            assert_true(lwk_slot_steady(&s, steady_tiles - 1) < lwk_slot_hits(&s, 0));
            assert_true(lwk_slot_hits(&s, item_tiles - 1) < lwk_slot_arrivals(&s, 0));
            assert_true(lwk_slot_arrivals(&s, item_tiles - 1) < s.partial_capacity);
        }
}

/* Whatever the number of ranges up to the capacity, there are slots for all of their parts. */
static void test_parts_have_slots_at_every_length(void **state)
{
    for (uint32_t heads = 1; heads <= 64; heads = heads * 2 + 1)
        for (uint32_t capacity = 1; capacity < 300; capacity += 7)
            for (uint32_t ranges = 1; ranges <= capacity; ranges++) {
                uint32_t parts = lwk_parts(ranges, heads);
                assert_true(parts >= 1 && parts <= LWK_PARTS_MAX && (parts & (parts - 1)) == 0);
                assert_true(lwk_part_slot(ranges - 1, parts - 1, parts) < lwk_part_slots(capacity, heads));
            }
}

/* Every cluster and every outlier lies in one part, an outlier in its parent's. */
static void test_parts_cover_a_tile_once(void **state)
{
    for (uint32_t clusters = 1; clusters < 700; clusters += 37) {
        uint16_t parents[1500], eighths[LWK_PARTS_MAX - 1];
        uint32_t outliers = 0;
        for (uint32_t c = 0; c < clusters; c++)
            for (uint32_t i = 0; i < (c * 2654435761u >> 30); i++)
                if (outliers < LW_ARRAY_SIZE(parents))
                    parents[outliers++] = (uint16_t)c;
        for (uint32_t i = 1; i < LWK_PARTS_MAX; i++)
            eighths[i - 1] = (uint16_t)lwk_outliers_below(parents, outliers, lwk_eighth(clusters, i));
        for (uint32_t parts = 1; parts <= LWK_PARTS_MAX; parts *= 2) {
            uint32_t cluster = 0, outlier = 0;
            for (uint32_t i = 0; i < parts; i++) {
                lwk_part_t p = lwk_part(clusters, outliers, eighths, i, parts);
                assert_int_equal(p.cluster_first, cluster);
                assert_int_equal(p.outlier_first, outlier);
                for (uint32_t o = p.outlier_first; o < p.outlier_end; o++)
                    assert_true(parents[o] >= p.cluster_first && parents[o] < p.cluster_end);
                cluster = p.cluster_end;
                outlier = p.outlier_end;
            }
            assert_int_equal(cluster, clusters);
            assert_int_equal(outlier, outliers);
        }
    }
}

static void test_ticket_numbers_are_rebuilt_from_thirty_bits(void **state)
{
    uint64_t released[] = {0, 5, (1ull << 30) - 3, (1ull << 32) - 3, 7ull << 40};
    for (size_t i = 0; i < LW_ARRAY_SIZE(released); i++)
        for (uint64_t ahead = 0; ahead < 100; ahead += 9) {
            uint32_t place = lwk_place(LWK_PLACE_PENDING, (uint32_t)(released[i] + ahead));
            assert_int_equal(lwk_place_kind(place), LWK_PLACE_PENDING);
            assert_true(lwk_ticket_number(released[i], lwk_place_number(place)) == released[i] + ahead);
        }
}

static void test_an_arrival_is_of_one_ticket_only(void **state)
{
    uint64_t word = lwk_arrival(41, 99);
    assert_true(lwk_has_arrived(word, 41));
    assert_false(lwk_has_arrived(word, 42));
    assert_false(lwk_has_arrived(word, 41 + 4096)); /* the next use of the ring's place */
    assert_false(lwk_has_arrived(0, 0));            /* memory as it was allocated */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_are_aligned_large_enough_and_apart),
        cmocka_unit_test(test_partial_slots_of_different_kinds_never_meet),
        cmocka_unit_test(test_parts_have_slots_at_every_length),
        cmocka_unit_test(test_parts_cover_a_tile_once),
        cmocka_unit_test(test_ticket_numbers_are_rebuilt_from_thirty_bits),
        cmocka_unit_test(test_an_arrival_is_of_one_ticket_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
