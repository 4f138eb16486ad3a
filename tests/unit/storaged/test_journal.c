/* The arena's journal: torn, flipped and foreign rows are never believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "storaged/shard/journal.h"

#define UNIT 65536u
#define ARENA (32u * UNIT)
#define PLACE (2u << 20)

typedef struct fixture {
    uint8_t *memory;
    uint64_t bytes;
    lwd_journal_t journal;
} fixture_t;

static void start(fixture_t *fixture, uint64_t arena_id)
{
    fixture->bytes = lwd_journal_bytes(ARENA, UNIT);
    fixture->memory = aligned_alloc(4096, lw_align_up(fixture->bytes, 4096));
    assert_non_null(fixture->memory);
    memset(fixture->memory, 0xA5, fixture->bytes);
    lwd_journal_format(fixture->memory, ARENA, PLACE, UNIT, arena_id);
    assert_int_equal(lwd_journal_open(fixture->memory, fixture->bytes, ARENA, PLACE, UNIT, &fixture->journal, NULL),
                     LW_OK);
    assert_int_equal(fixture->journal.count, 32);
}

static lwd_journal_row_t row_at(uint64_t unit)
{
    return (lwd_journal_row_t){.name = {.origin = 7, .rank = 1, .layer = 3, .first_token = 8192, .generation = 2},
                               .offset = unit * UNIT,
                               .bytes = 100000,
                               .fleet_id = 0x1234567890abcdefull,
                               .header_check = 5,
                               .table_check = 6};
}

static void test_a_row_is_there_until_it_is_cleared(void **state)
{
    fixture_t fixture;
    lwd_journal_row_t found;
    (void)state;
    start(&fixture, 1);
    for (uint64_t unit = 0; unit < 32; unit++)
        assert_int_equal(lwd_journal_read(&fixture.journal, unit, &found), LW_ERR_NOT_FOUND);
    lwd_journal_row_t row = row_at(4);
    lwd_journal_put(&fixture.journal, &row);
    assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_OK);
    assert_memory_equal(&found, &row, offsetof(lwd_journal_row_t, check));
    row.name.layer = 9; /* the extent's next tenant */
    lwd_journal_put(&fixture.journal, &row);
    assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_OK);
    assert_int_equal(found.name.layer, 9);
    lwd_journal_clear(&fixture.journal, 4 * UNIT);
    assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_ERR_NOT_FOUND);
    free(fixture.memory);
}

static void test_a_row_torn_at_any_byte_is_free_or_torn_and_never_another(void **state)
{
    fixture_t fixture;
    lwd_journal_row_t found, row = row_at(4), old;
    (void)state;
    start(&fixture, 1);
    for (int again = 0; again < 2; again++) { /* over nothing, and over an earlier tenant's row */
        uint8_t before[64], after[64];
        memcpy(before, &fixture.journal.rows[4], 64);
        row.name.layer = (uint16_t)(again + 20);
        lwd_journal_put(&fixture.journal, &row);
        memcpy(after, &fixture.journal.rows[4], 64);
        for (size_t cut = 0; cut < 60; cut++) { /* put clears the check first and writes it last */
            memcpy(&fixture.journal.rows[4], before, 60);
            fixture.journal.rows[4].check = 0;
            memcpy(&fixture.journal.rows[4], after, cut);
            assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_ERR_NOT_FOUND);
        }
        for (size_t cut = 1; cut < 64; cut++) { /* a machine that writes in whatever order */
            memcpy(&old, before, 64);
            memcpy(&fixture.journal.rows[4], after, 64);
            memcpy(&fixture.journal.rows[4], before, cut);
            lw_status_t status = lwd_journal_read(&fixture.journal, 4, &found);
            if (memcmp(&fixture.journal.rows[4], after, 64) != 0 && memcmp(&fixture.journal.rows[4], before, 64) != 0)
                assert_true(status == LW_ERR_CORRUPT || status == LW_ERR_NOT_FOUND);
        }
        memcpy(&fixture.journal.rows[4], after, 64);
        assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_OK);
    }
    free(fixture.memory);
}

static void test_every_flipped_bit_of_a_row_is_noticed(void **state)
{
    fixture_t fixture;
    lwd_journal_row_t found, row = row_at(4);
    (void)state;
    start(&fixture, 1);
    lwd_journal_put(&fixture.journal, &row);
    uint8_t *bytes = (uint8_t *)&fixture.journal.rows[4];
    for (int bit = 0; bit < 512; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_ERR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(lwd_journal_read(&fixture.journal, 4, &found), LW_OK);
    free(fixture.memory);
}

static void test_every_flipped_bit_of_the_header_is_refused(void **state)
{
    fixture_t fixture;
    lwd_journal_t found;
    (void)state;
    start(&fixture, 1);
    for (int bit = 0; bit < 512; bit++) {
        lw_error_t error = {0};
        fixture.memory[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(lwd_journal_open(fixture.memory, fixture.bytes, ARENA, PLACE, UNIT, &found, &error),
                             LW_OK);
        assert_true(error.text[0] != '\0');
        fixture.memory[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(fixture.memory);
}

static void test_a_journal_of_another_size_or_place_is_refused_with_both_numbers(void **state)
{
    fixture_t fixture;
    lwd_journal_t found;
    lw_error_t error = {0};
    (void)state;
    start(&fixture, 1);
    assert_int_equal(lwd_journal_open(fixture.memory, fixture.bytes, ARENA + UNIT, PLACE, UNIT, &found, &error),
                     LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "2097152"));
    assert_non_null(strstr(error.text, "2162688"));
    assert_int_equal(lwd_journal_open(fixture.memory, fixture.bytes, ARENA, PLACE * 2, UNIT, &found, &error),
                     LW_ERR_INVALID);
    assert_int_equal(lwd_journal_open(fixture.memory, fixture.bytes, ARENA, PLACE, UNIT * 2, &found, &error),
                     LW_ERR_INVALID);
    assert_int_equal(lwd_journal_open(fixture.memory, fixture.bytes - 1, ARENA, PLACE, UNIT, &found, &error),
                     LW_ERR_INVALID);
    assert_int_equal(lwd_journal_open(fixture.memory, 4095, ARENA, PLACE, UNIT, &found, &error), LW_ERR_NOT_FOUND);
    memset(fixture.memory, 0, 4096);
    assert_int_equal(lwd_journal_open(fixture.memory, fixture.bytes, ARENA, PLACE, UNIT, &found, &error),
                     LW_ERR_NOT_FOUND);
    free(fixture.memory);
}

static void test_a_row_of_another_arena_is_not_believed(void **state)
{
    fixture_t mine, theirs;
    lwd_journal_row_t found, row = row_at(4);
    (void)state;
    start(&mine, 1);
    start(&theirs, 2);
    lwd_journal_put(&theirs.journal, &row);
    memcpy(&mine.journal.rows[4], &theirs.journal.rows[4], 64);
    assert_int_equal(lwd_journal_read(&mine.journal, 4, &found), LW_ERR_CORRUPT);
    lwd_journal_put(&mine.journal, &row); /* nor one that was moved to another unit */
    memcpy(&mine.journal.rows[5], &mine.journal.rows[4], 64);
    assert_int_equal(lwd_journal_read(&mine.journal, 5, &found), LW_ERR_CORRUPT);
    free(mine.memory);
    free(theirs.memory);
}

static void test_an_extent_outside_the_arena_is_not_believed(void **state)
{
    fixture_t fixture;
    lwd_journal_row_t found, row = row_at(31);
    const uint64_t wrong[] = {0, 127, UNIT + 1, ARENA, LW_SEGMENT_BYTES_MAX + 1, UINT64_MAX};
    (void)state;
    start(&fixture, 1);
    for (size_t i = 0; i < LW_ARRAY_SIZE(wrong); i++) {
        row.bytes = wrong[i];
        lwd_journal_put(&fixture.journal, &row);
        assert_int_equal(lwd_journal_read(&fixture.journal, 31, &found), LW_ERR_CORRUPT);
    }
    row.bytes = UNIT;
    lwd_journal_put(&fixture.journal, &row);
    assert_int_equal(lwd_journal_read(&fixture.journal, 31, &found), LW_OK);
    free(fixture.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_torn_at_any_byte_is_free_or_torn_and_never_another),
        cmocka_unit_test(test_every_flipped_bit_of_a_row_is_noticed),
        cmocka_unit_test(test_every_flipped_bit_of_the_header_is_refused),
        cmocka_unit_test(test_a_journal_of_another_size_or_place_is_refused_with_both_numbers),
        cmocka_unit_test(test_a_row_of_another_arena_is_not_believed),
        cmocka_unit_test(test_an_extent_outside_the_arena_is_not_believed),
        cmocka_unit_test(test_a_row_is_there_until_it_is_cleared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
