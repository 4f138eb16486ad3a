/* tier.h - segments on disk: an append-only log in one file, cut into zones that are used again when nothing in them is
 * needed any more.
 *
 * Everything but open and close is called by one thread and never waits for the disk: append and load begin, round says what
 * has ended. A *record* is a segment in the log; its number stays the same while compaction moves it. All memory is allocated
 * by open. */
#ifndef LWD_TIER_H
#define LWD_TIER_H

#include "storaged/io/disk.h"
#include "wire/segment_name.h"

#define LWD_TIER_LOADS_MAX 16u  /* reads in flight */
#define LWD_TIER_EVENTS_MAX (LWD_TIER_LOADS_MAX + 2)
#define LWD_TIER_BYTES_MIN (64ull << 20)
#define LWD_TIER_CHUNK_BYTES (1u << 20) /* of compaction's copies */
#define LWD_TIER_NONE UINT32_MAX

typedef struct lwd_tier lwd_tier_t;

typedef struct lwd_tier_params {
    const lwd_disk_ops_t *disk;
    const char *path;
    uint64_t bytes;      /* of the file */
    uint64_t zone_bytes; /* 0: chosen; a segment must fit in a zone */
    uint32_t record_max;
    void (*notify)(void *arg); /* any thread: round has something to say */
    void *arg;
} lwd_tier_params_t;

typedef struct lwd_tier_record {
    lw_segment_name_t name;
    uint64_t bytes, fleet_id;
} lwd_tier_record_t;

typedef struct lwd_tier_usage {
    uint64_t bytes, live_bytes, dead_bytes; /* of zones; of records that are needed; of what compaction would free */
    uint64_t compacted_bytes, errors;
    uint32_t records, zones, free_zones;
} lwd_tier_usage_t;

/* Opens the file, or makes it, and looks through every zone for what an earlier life left. A log of another geometry, or
 * none that can be read, is begun anew, with a log line. Blocks; main thread. */
LW_CHECK lw_status_t lwd_tier_open(const lwd_tier_params_t *params, lwd_tier_t **tier_out, lw_error_t *error);
/* Waits for what is in flight. */
void lwd_tier_close(lwd_tier_t *tier);
/* After open: record numbers go from 0 to record_max - 1. False: no such record. */
bool lwd_tier_record(const lwd_tier_t *tier, uint32_t record, lwd_tier_record_t *record_out);

typedef enum lwd_tier_what { LWD_TIER_APPENDED = 1, LWD_TIER_LOADED } lwd_tier_what_t;
typedef struct lwd_tier_event {
    lwd_tier_what_t what;
    lw_status_t status; /* OK, ERR_EXHAUSTED (the disk is full), ERR_IO */
    uint32_t record;    /* APPENDED with OK: the new one, the caller's from now on */
    uint64_t cookie;    /* as given */
} lwd_tier_event_t;

/* Begins to write a segment; `data`, with room for whole blocks, stays until the event. ERR_BUSY: another append is under
 * way, or compaction is making room; ERR_EXHAUSTED: the log is full of what is needed; ERR_INVALID: larger than a zone. */
LW_CHECK lw_status_t lwd_tier_append(lwd_tier_t *tier, const lwd_tier_record_t *record, const void *data,
                                     uint64_t cookie);
/* Begins to read a segment into `into`, which has room for whole blocks and stays until the event. What was read is to be
 * verified by the caller. ERR_BUSY: too many reads are in flight. */
LW_CHECK lw_status_t lwd_tier_load(lwd_tier_t *tier, uint32_t record, void *into, uint64_t cookie);
/* The record is needed no more; also while it is being read or moved. */
void lwd_tier_forget(lwd_tier_t *tier, uint32_t record);
/* What has ended since the last call, at most LWD_TIER_EVENTS_MAX; moves compaction on. */
uint32_t lwd_tier_round(lwd_tier_t *tier, lwd_tier_event_t *events);
/* Would an append find room, now or after compaction? */
bool lwd_tier_has_room(const lwd_tier_t *tier);
/* Nothing is in flight. */
bool lwd_tier_idle(const lwd_tier_t *tier);
void lwd_tier_usage(const lwd_tier_t *tier, lwd_tier_usage_t *usage_out);
/* Zones, records and counts agree. Linear time; for tests. */
bool lwd_tier_check(const lwd_tier_t *tier);

#endif /* LWD_TIER_H */
