/* journal.h - which committed segments lie where in an arena that outlives its process: one row for each unit of
 * the arena, in the head of the arena's file. Plain memory here; who maps it is mem/arena_file.h.
 *
 *   header, 64 bytes at 0                         row, 64 bytes at LWD_JOURNAL_ROWS + 64 * unit
 *   offset size field                             offset size field
 *        0    8 magic                                  0   24 name          wire/segment_name.h
 *        8    4 version                               24    8 offset        of the extent, in the arena
 *       12    4 unit_bytes    of an extent            32    8 bytes         of the segment
 *       16    8 layout        lwd_journal_layout()    40    8 fleet_id      whose session ids these are
 *       24    8 arena_bytes                           48    4 header_check  the segment's own
 *       32    8 arena_offset  where the arena begins  52    4 table_check   the segment's own
 *       40    8 arena_id      random                  56    4 reserved      0
 *       48   12 reserved      0                       60    4 check         of bytes 0-59, seeded with arena_id
 *       60    4 check         of bytes 0-59
 *
 * The row of unit u speaks of the extent that begins at unit u; check 0: none does. A row is written with its check
 * last and taken away by its check alone, so that a process that dies in between leaves a free row or a torn one,
 * never a wrong one. Little-endian. */
#ifndef LWD_SHARD_JOURNAL_H
#define LWD_SHARD_JOURNAL_H

#include <assert.h>

#include "base/error.h"
#include "wire/segment_name.h"

#define LWD_JOURNAL_MAGIC 0x314C4E524A4457ull /* "WDJRNL1" */
#define LWD_JOURNAL_VERSION 1u
#define LWD_JOURNAL_ROWS 4096u /* where rows begin */

typedef struct lwd_journal_header {
    uint64_t magic;
    uint32_t version, unit_bytes;
    uint64_t layout, arena_bytes, arena_offset, arena_id;
    uint32_t reserved[3];
    uint32_t check;
} lwd_journal_header_t;
static_assert(sizeof(lwd_journal_header_t) == 64, "journal header is 64 bytes");

typedef struct lwd_journal_row {
    lw_segment_name_t name;
    uint64_t offset, bytes, fleet_id;
    uint32_t header_check, table_check, reserved, check;
} lwd_journal_row_t;
static_assert(sizeof(lwd_journal_row_t) == 64, "journal row is 64 bytes");

/* A view of a journal's memory, which is borrowed. One thread. */
typedef struct lwd_journal {
    lwd_journal_header_t *header;
    lwd_journal_row_t *rows; /* [count] */
    uint64_t count;
} lwd_journal_t;

/* Bytes of a journal over an arena. */
uint64_t lwd_journal_bytes(uint64_t arena_bytes, uint32_t unit_bytes);
/* Hash of everything that the bytes of a segment and of a row depend on in this build. */
uint64_t lwd_journal_layout(void);
/* Writes a new journal without rows over `bytes` of memory that are zero or will be overwritten. */
void lwd_journal_format(void *memory, uint64_t arena_bytes, uint64_t arena_offset, uint32_t unit_bytes,
                        uint64_t arena_id);
/* Takes a journal that is there. ERR_NOT_FOUND: no journal (no magic); ERR_VERSION: of another format;
 * ERR_CORRUPT: header check; ERR_INVALID: another arena's size or place. The error says which and both values.
 * `bytes` is the whole memory; rows are looked at by lwd_journal_read only. */
LW_CHECK lw_status_t lwd_journal_open(void *memory, uint64_t bytes, uint64_t arena_bytes, uint64_t arena_offset,
                                      uint32_t unit_bytes, lwd_journal_t *journal_out, lw_error_t *error);

/* The segment lies at row->offset from now on. Everything but row->check is the caller's. */
void lwd_journal_put(lwd_journal_t *journal, const lwd_journal_row_t *row);
void lwd_journal_clear(lwd_journal_t *journal, uint64_t offset);
/* Row of one unit. ERR_NOT_FOUND: free; ERR_CORRUPT: torn, flipped, of another arena, or an extent that does not
 * lie in this one. */
LW_CHECK lw_status_t lwd_journal_read(const lwd_journal_t *journal, uint64_t unit, lwd_journal_row_t *row_out);

#endif /* LWD_SHARD_JOURNAL_H */
