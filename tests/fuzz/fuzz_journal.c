/* fuzz_journal.c - the head of an arena's file that an earlier life, or anybody, has left: an input is its bytes. Tried as it
 * is, and with the header's checksum and the rows' made right. */
#include <string.h>

#include "fuzz.h"
#include "storaged/shard/journal.h"
#include "wire/segment_fmt.h"

#define UNITS 16u
#define UNIT 65536u
#define PLACE (2u << 20)

static void try_one(uint8_t *bytes, size_t byte_count)
{
    lwd_journal_t journal;
    lw_error_t error = {0};
    if (lwd_journal_open(bytes, byte_count, UNITS * UNIT, PLACE, UNIT, &journal, &error) != LW_OK)
        return;
    FUZZ_REQUIRE(journal.count == UNITS);
    for (uint64_t unit = 0; unit < UNITS; unit++) {
        lwd_journal_row_t row, again;
        if (lwd_journal_read(&journal, unit, &row) != LW_OK)
            continue;
        FUZZ_REQUIRE(row.offset == unit * UNIT && row.bytes <= UNITS * UNIT - row.offset);
        FUZZ_REQUIRE(row.bytes >= sizeof(lw_segment_header_t));
        lwd_journal_put(&journal, &row);
        FUZZ_REQUIRE(lwd_journal_read(&journal, unit, &again) == LW_OK && memcmp(&row, &again, sizeof(row)) == 0);
        lwd_journal_clear(&journal, row.offset);
        FUZZ_REQUIRE(lwd_journal_read(&journal, unit, &again) == LW_ERR_NOT_FOUND);
    }
}

static void make_right(uint8_t *bytes, size_t byte_count)
{
    lwd_journal_header_t *header = (lwd_journal_header_t *)(void *)bytes;
    if (byte_count < LWD_JOURNAL_ROWS + UNITS * sizeof(lwd_journal_row_t))
        return;
    header->layout = lwd_journal_layout();
    header->check = lw_record_check(LWD_JOURNAL_MAGIC, header, offsetof(lwd_journal_header_t, check));
    lwd_journal_row_t *rows = (lwd_journal_row_t *)(void *)(bytes + LWD_JOURNAL_ROWS);
    for (unsigned i = 0; i < UNITS; i++)
        rows[i].check = lw_record_check(header->arena_id, &rows[i], offsetof(lwd_journal_row_t, check));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    fuzz_guard_t copy = fuzz_guard_copy(bytes, byte_count, 64);
    try_one(copy.bytes, byte_count);
    fuzz_guard_free(&copy);
    copy = fuzz_guard_copy(bytes, byte_count, 64);
    make_right(copy.bytes, byte_count);
    try_one(copy.bytes, byte_count);
    fuzz_guard_free(&copy);
    return 0;
}
