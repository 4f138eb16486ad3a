/* log_fmt.h - the bytes of the log on disk. Little-endian; a block is 4,096 bytes; what a table leaves out is zero.
 *
 *   block 0           super block                    zone z begins at block 1 + z * (zone_bytes / 4096)
 *   offset size field                                and holds records back to back:
 *        0    8 magic                                   record header   one block
 *        8    4 version                                 segment         bytes, up to the next block
 *       12    4 zone_count
 *       16    8 zone_bytes                           record header
 *       24    8 log_id      random                   offset size field
 *       32   28 reserved    0                             0    8 magic
 *       60    4 check       of bytes 0-59                 8    4 version
 *                                                        12    4 index        in its zone: 0, 1, 2, ...
 *                                                        16    8 log_id
 *                                                        24    8 zone_use     times that any zone was begun, till then
 *                                                        32   24 name         wire/segment_name.h
 *                                                        56    8 bytes        of the segment
 *                                                        64    8 fleet_id     whose session ids these are
 *                                                        72   52 reserved     0
 *                                                       124    4 check        of bytes 0-123, seeded with log_id
 *
 * A record's segment is written first, and its header when that is done: a header speaks of bytes that were written. The
 * segment carries its own checksums (wire/segment_fmt.h: header, tables, every record), and they are compared whenever it is
 * read back, so that a disk that lied about the order, or forgot, costs that one segment. A zone's records end at the first
 * block that is not the next header of the same use; what lies behind is of earlier uses. */
#ifndef LWD_TIER_LOG_FMT_H
#define LWD_TIER_LOG_FMT_H

#include <assert.h>
#include <stddef.h>

#include "base/error.h"
#include "base/limits.h"
#include "wire/segment_fmt.h"

#define LWD_LOG_MAGIC 0x31474F4C4457ull     /* "WDLOG1" */
#define LWD_LOG_RECORD_MAGIC 0x31434552574Cull /* "LWREC1" */
#define LWD_LOG_VERSION 1u
#define LWD_LOG_BLOCK 4096u
#define LWD_LOG_ZONES_MAX 4096u

typedef struct lwd_log_super {
    uint64_t magic;
    uint32_t version, zone_count;
    uint64_t zone_bytes, log_id;
    uint8_t reserved[28];
    uint32_t check;
} lwd_log_super_t;
static_assert(sizeof(lwd_log_super_t) == 64, "log super block is 64 bytes");

typedef struct lwd_log_record {
    uint64_t magic;
    uint32_t version, index;
    uint64_t log_id, zone_use;
    lw_segment_name_t name;
    uint64_t bytes, fleet_id;
    uint8_t reserved[52];
    uint32_t check;
} lwd_log_record_t;
static_assert(sizeof(lwd_log_record_t) == 128, "log record header is 128 bytes");

static inline void lwd_log_super_seal(lwd_log_super_t *super)
{
    super->check = lw_record_check(LWD_LOG_MAGIC, super, offsetof(lwd_log_super_t, check));
}
/* ERR_NOT_FOUND: no log; ERR_VERSION; ERR_CORRUPT; ERR_INVALID: impossible sizes. */
LW_CHECK static inline lw_status_t lwd_log_super_check(const lwd_log_super_t *super)
{
    if (super->magic != LWD_LOG_MAGIC)
        return LW_ERR_NOT_FOUND;
    if (super->version != LWD_LOG_VERSION)
        return LW_ERR_VERSION;
    if (super->check != lw_record_check(LWD_LOG_MAGIC, super, offsetof(lwd_log_super_t, check)))
        return LW_ERR_CORRUPT;
    return super->zone_count == 0 || super->zone_count > LWD_LOG_ZONES_MAX || super->zone_bytes < 2 * LWD_LOG_BLOCK ||
                   super->zone_bytes % LWD_LOG_BLOCK != 0
               ? LW_ERR_INVALID
               : LW_OK;
}

/* Bytes that a record of a segment takes in its zone. */
static inline uint64_t lwd_log_record_space(uint64_t bytes)
{
    return LWD_LOG_BLOCK + lw_align_up(bytes, LWD_LOG_BLOCK);
}
static inline void lwd_log_record_seal(lwd_log_record_t *record)
{
    record->check = lw_record_check(record->log_id, record, offsetof(lwd_log_record_t, check));
}
/* Is this the next header? index and, for index > 0, use are what the zone's earlier records say; room is what is left of
 * the zone from this block on. */
LW_CHECK static inline lw_status_t lwd_log_record_check(const lwd_log_record_t *record, uint64_t log_id, uint32_t index,
                                                        uint64_t use, uint64_t room)
{
    if (record->magic != LWD_LOG_RECORD_MAGIC || record->log_id != log_id || record->index != index ||
        (index > 0 && record->zone_use != use))
        return LW_ERR_NOT_FOUND;
    if (record->version != LWD_LOG_VERSION)
        return LW_ERR_VERSION;
    if (record->check != lw_record_check(record->log_id, record, offsetof(lwd_log_record_t, check)))
        return LW_ERR_CORRUPT;
    return record->bytes < sizeof(lw_segment_header_t) || record->bytes > LW_SEGMENT_BYTES_MAX ||
                   lwd_log_record_space(record->bytes) > room
               ? LW_ERR_INVALID
               : LW_OK;
}

#endif /* LWD_TIER_LOG_FMT_H */
