/* tier_private.h - the log's tables, shared by log.c (append, load, forget), recover.c and compact.c. */
#ifndef LWD_TIER_PRIVATE_H
#define LWD_TIER_PRIVATE_H

#include "storaged/tier/log_fmt.h"
#include "storaged/tier/tier.h"

/* One for each record that the log can hold. */
typedef struct tier_record {
    lwd_tier_record_t is;
    uint64_t offset;     /* of its header, in the file */
    uint32_t zone;       /* LWD_TIER_NONE: free */
    uint32_t next, prev; /* of its zone; next also chains free ones */
} tier_record_t;

typedef struct tier_zone {
    uint64_t used, live; /* bytes written; bytes of records that are needed */
    uint64_t use;        /* of the log's count of begun zones; 0: never */
    uint32_t index;      /* of the next record */
    uint32_t first;      /* record */
    uint32_t reads;      /* in flight: it is not begun anew before they end */
} tier_zone_t;

typedef struct tier_load {
    lwd_disk_op_t op;
    uint64_t cookie;
    uint32_t zone; /* LWD_TIER_NONE: not in use */
} tier_load_t;

typedef enum tier_writer_state {
    TIER_IDLE,
    TIER_APPEND_DATA,
    TIER_APPEND_HEADER,
    TIER_COPY_READ,
    TIER_COPY_WRITE,
    TIER_COPY_HEADER
} tier_writer_state_t;

/* The one thing that writes: an append, or compaction's copy of one record. */
typedef struct tier_writer {
    tier_writer_state_t state;
    lwd_disk_op_t op;
    uint8_t *header;       /* a block */
    uint8_t *chunk;        /* compaction's */
    uint32_t zone, record; /* where to; copy: which */
    uint64_t offset;       /* of the new header, in the file */
    uint64_t at;           /* copy: bytes that are there */
    lwd_tier_record_t is;
    uint64_t cookie;
    uint32_t from; /* copy: the zone that is being emptied, with a read counted */
} tier_writer_t;

struct lwd_tier {
    lwd_disk_t *disk;
    const lwd_disk_ops_t *ops;
    uint64_t zone_bytes, log_id, uses;
    uint32_t zone_count, record_max, record_count, free_record;
    uint32_t open_zone; /* LWD_TIER_NONE: the next append begins one */
    tier_zone_t *zones;
    tier_record_t *records;
    tier_load_t loads[LWD_TIER_LOADS_MAX];
    uint32_t loading;
    tier_writer_t writer;
    uint32_t compacting; /* zone being emptied; LWD_TIER_NONE */
    uint64_t compacted_bytes, errors;
    uint64_t copies_failed; /* in a row */
    bool changed;           /* compaction may have something to do */
    bool cramped;           /* no zone was left for its next copy: one whose records are all forgotten must come first */
};

static inline uint64_t tier_zone_offset(const lwd_tier_t *tier, uint32_t zone)
{
    return LWD_LOG_BLOCK + zone * tier->zone_bytes;
}
/* A zone that may be begun: never used, or empty and not read. */
static inline bool tier_zone_free(const lwd_tier_t *tier, uint32_t zone)
{
    return zone != tier->open_zone && tier->zones[zone].live == 0 && tier->zones[zone].reads == 0;
}

/* log.c */
uint32_t lwd_tier_record_new(lwd_tier_t *tier, const lwd_tier_record_t *is, uint32_t zone, uint64_t offset);
void lwd_tier_record_move(lwd_tier_t *tier, uint32_t record, uint32_t zone, uint64_t offset);
/* Room for a record in the open zone, or in one that is begun for it, leaving `keep` zones free. False: none. */
bool lwd_tier_place(lwd_tier_t *tier, uint64_t bytes, uint32_t keep);
void lwd_tier_write_header(lwd_tier_t *tier, tier_writer_state_t state);
/* The record's bytes are in its zone; the zone goes on behind them. */
void lwd_tier_placed(lwd_tier_t *tier);
void lwd_tier_write_failed(lwd_tier_t *tier);
uint32_t lwd_tier_free_zones(const lwd_tier_t *tier);

/* recover.c */
LW_CHECK lw_status_t lwd_tier_recover(lwd_tier_t *tier, const lwd_tier_params_t *params, lw_error_t *error);

/* compact.c */
/* The zone that compaction would empty next; LWD_TIER_NONE: none is worth it. */
uint32_t lwd_tier_victim(const lwd_tier_t *tier);
void lwd_tier_compact(lwd_tier_t *tier);   /* begins a copy when one is due */
void lwd_tier_copy_step(lwd_tier_t *tier); /* the writer's operation has ended */

#endif /* LWD_TIER_PRIVATE_H */
