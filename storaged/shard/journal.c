/* journal.c - rows of the arena's journal. The owner of the segments writes them; nothing here allocates. */
#include "storaged/shard/journal.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "base/limits.h"
#include "wire/segment_fmt.h"

static uint32_t header_check(const lwd_journal_header_t *header)
{
    return lw_record_check(LWD_JOURNAL_MAGIC, header, offsetof(lwd_journal_header_t, check));
}

static uint32_t row_check(const lwd_journal_t *journal, const lwd_journal_row_t *row)
{
    uint32_t check = lw_record_check(journal->header->arena_id, row, offsetof(lwd_journal_row_t, check));
    return check != 0 ? check : 1; /* 0 is a free row */
}

uint64_t lwd_journal_layout(void)
{
    const uint32_t parts[] = {LW_SEGMENT_VERSION,
                              sizeof(lw_segment_header_t),
                              sizeof(lw_segment_head_t),
                              LW_SEGMENT_PART_ALIGN,
                              LW_SEGMENT_RAW_ROWS,
                              LW_SINK_TOKENS,
                              sizeof(lwd_journal_row_t),
                              LWD_JOURNAL_ROWS};
    return (uint64_t)LWD_JOURNAL_VERSION << 32 | lw_record_check(LW_SEGMENT_MAGIC, parts, sizeof(parts));
}

uint64_t lwd_journal_bytes(uint64_t arena_bytes, uint32_t unit_bytes)
{
    return LWD_JOURNAL_ROWS + arena_bytes / unit_bytes * sizeof(lwd_journal_row_t);
}

void lwd_journal_format(void *memory, uint64_t arena_bytes, uint64_t arena_offset, uint32_t unit_bytes,
                        uint64_t arena_id)
{
    memset(memory, 0, lwd_journal_bytes(arena_bytes, unit_bytes));
    lwd_journal_header_t header = {
        .magic = LWD_JOURNAL_MAGIC,
        .version = LWD_JOURNAL_VERSION,
        .unit_bytes = unit_bytes,
        .layout = lwd_journal_layout(),
        .arena_bytes = arena_bytes,
        .arena_offset = arena_offset,
        .arena_id = arena_id,
    };
    header.check = header_check(&header);
    memcpy(memory, &header, sizeof(header));
}

static lw_status_t differs(lw_error_t *error, const char *what, uint64_t stored, uint64_t wanted)
{
    return lw_fail(error, LW_ERR_INVALID, "the journal is of an arena whose %s is %llu, and not %llu", what,
                   (unsigned long long)stored, (unsigned long long)wanted);
}

lw_status_t lwd_journal_open(void *memory, uint64_t bytes, uint64_t arena_bytes, uint64_t arena_offset,
                             uint32_t unit_bytes, lwd_journal_t *journal_out, lw_error_t *error)
{
    lwd_journal_header_t *header = memory;
    if (bytes < LWD_JOURNAL_ROWS || header->magic != LWD_JOURNAL_MAGIC)
        return lw_fail(error, LW_ERR_NOT_FOUND, "there is no journal");
    if (header->version != LWD_JOURNAL_VERSION)
        return lw_fail(error, LW_ERR_VERSION, "the journal has version %u, and this build writes %u",
                       header->version, LWD_JOURNAL_VERSION);
    if (header->check != header_check(header))
        return lw_fail(error, LW_ERR_CORRUPT, "the journal's header has a wrong checksum");
    if (header->layout != lwd_journal_layout())
        return lw_fail(error, LW_ERR_VERSION, "the journal's layout hash is %016llx, and this build's %016llx",
                       (unsigned long long)header->layout, (unsigned long long)lwd_journal_layout());
    if (header->arena_bytes != arena_bytes)
        return differs(error, "size", header->arena_bytes, arena_bytes);
    if (header->arena_offset != arena_offset)
        return differs(error, "place in the file", header->arena_offset, arena_offset);
    if (header->unit_bytes != unit_bytes)
        return differs(error, "unit", header->unit_bytes, unit_bytes);
    if (bytes < lwd_journal_bytes(arena_bytes, unit_bytes))
        return lw_fail(error, LW_ERR_INVALID, "the journal has %llu bytes, and its rows need %llu",
                       (unsigned long long)bytes, (unsigned long long)lwd_journal_bytes(arena_bytes, unit_bytes));
    *journal_out = (lwd_journal_t){
        .header = header,
        .rows = (lwd_journal_row_t *)((uint8_t *)memory + LWD_JOURNAL_ROWS),
        .count = arena_bytes / unit_bytes,
    };
    return LW_OK;
}

static _Atomic uint32_t *check_of(lwd_journal_t *journal, uint64_t offset)
{
    uint64_t unit = offset / journal->header->unit_bytes;
    LW_ASSERT(unit < journal->count);
    return (_Atomic uint32_t *)&journal->rows[unit].check;
}

void lwd_journal_put(lwd_journal_t *journal, const lwd_journal_row_t *row)
{
    _Atomic uint32_t *check = check_of(journal, row->offset);
    lwd_journal_row_t *at = &journal->rows[row->offset / journal->header->unit_bytes];
    atomic_store_explicit(check, 0, memory_order_seq_cst);
    memcpy(at, row, offsetof(lwd_journal_row_t, check));
    at->reserved = 0;
    atomic_store_explicit(check, row_check(journal, at), memory_order_seq_cst);
}

void lwd_journal_clear(lwd_journal_t *journal, uint64_t offset)
{
    atomic_store_explicit(check_of(journal, offset), 0, memory_order_seq_cst);
}

lw_status_t lwd_journal_read(const lwd_journal_t *journal, uint64_t unit, lwd_journal_row_t *row_out)
{
    const lwd_journal_header_t *header = journal->header;
    const lwd_journal_row_t *row = &journal->rows[unit];
    if (row->check == 0)
        return LW_ERR_NOT_FOUND;
    if (row->check != row_check(journal, row) || row->reserved != 0 ||
        row->offset != unit * header->unit_bytes || row->bytes < sizeof(lw_segment_header_t) ||
        row->bytes > LW_SEGMENT_BYTES_MAX || row->bytes > header->arena_bytes - row->offset)
        return LW_ERR_CORRUPT;
    *row_out = *row;
    return LW_OK;
}
