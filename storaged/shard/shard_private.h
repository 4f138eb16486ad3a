/* shard_private.h - what the files of this folder share: the shard's tables. */
#ifndef LWD_SHARD_PRIVATE_H
#define LWD_SHARD_PRIVATE_H

#include "storaged/shard/known.h"
#include "storaged/shard/shard.h"

/* Slots chained by list_next/list_prev. */
typedef struct lwd_slot_list {
    uint32_t first, last, count;
} lwd_slot_list_t;

/* What is known of a session's segments here. One for each origin with segments, and for recent ones without.
 */
typedef struct lwd_origin {
    uint32_t term;  /* highest granted; LWD_TERM_ENDED after its end */
    uint32_t first; /* segment slot */
    uint32_t count; /* 0: idle */
} lwd_origin_t;

/* A client in one incarnation that has proved a right to write and is connected, or was lately. */
typedef struct lwd_client {
    uint64_t gone_us;     /* when the last connection closed */
    uint32_t connections; /* 0: idle */
} lwd_client_t;

typedef struct lwd_origin_table {
    lwd_known_t known;
    lwd_origin_t *rows;
} lwd_origin_table_t;

typedef struct lwd_client_table {
    lwd_known_t known;
    lwd_client_t *rows;
} lwd_client_table_t;

struct lwd_shard {
    lwd_shard_params_t params;
    lwd_segment_t *slots;
    uint32_t *index; /* open addressing by name: slot + 1, 0 empty */
    uint32_t index_mask;
    lwd_slot_list_t free, reserved, written, dying;
    lwd_slot_list_t restored, leaving, wanted; /* wanted: spilled slots that somebody waits for */
    uint32_t spilled, loading;
    _Atomic uint32_t restoring; /* restored.count, for other threads */
    _Atomic uint64_t fleet_id;  /* 0: the catalogue was not reached yet */
    void (*log_forget)(void *arg, uint32_t record); /* NULL: no log */
    void *log_arg;
    bool log_full;
    uint64_t largest_bytes;                /* of any segment that may be in the log */
    uint64_t need_bytes, need_until_us;    /* the largest extent that could not be had lately */
    bool refused;                          /* since a victim was last looked for */
    uint64_t leaving_bytes, writing_bytes; /* arena bytes that will be free soon */
    uint64_t settled;
    lwd_origin_table_t origins;
    lwd_client_table_t clients;
    _Atomic uint64_t lease_us; /* the control side may change it */
    uint64_t next_tick_us, now_us; /* now: of the last tick */
    uint64_t want_bytes;
    uint32_t written_cursor;
    lw_segment_name_t suspects[LWD_SUSPECTS_MAX];
    uint32_t suspect_count;
    uint32_t question; /* number of the last one that was taken; there is one at a time */
    uint64_t scan, scan_began_us; /* the last scan of the manifests that is over; 0: none yet */
    uint32_t *scratch; /* record offsets of one head while a table is built */
};

/* shard.c */
void lwd_slot_list_push(lwd_shard_t *shard, lwd_slot_list_t *list, uint32_t slot);
void lwd_slot_list_remove(lwd_shard_t *shard, lwd_slot_list_t *list, uint32_t slot);
void lwd_segment_move(lwd_segment_t *segment, lwd_segment_state_t to);
uint32_t lwd_index_find(const lwd_shard_t *shard, const lw_segment_name_t *name, uint64_t hash);
void lwd_index_insert(lwd_shard_t *shard, uint32_t slot);
/* RESERVED, VERIFYING or WRITTEN -> DYING: out of the index at once, memory later. */
void lwd_segment_kill(lwd_shard_t *shard, uint32_t slot);
/* Takes a free slot and an extent for a name that is not here, RESERVED; LWD_SLOT_NONE: no room. The caller says who
 * writes it. */
uint32_t lwd_segment_make(lwd_shard_t *shard, lwd_origin_t *origin, const lw_segment_name_t *name, uint64_t hash,
                          uint64_t bytes);
/* Recycles what nobody holds any more; looks at no more than `most` slots. */
void lwd_shard_recycle(lwd_shard_t *shard, uint32_t most);
/* Fills a free slot: name, extent, index, origin; its state stays FREE. `offset` LWD_EXTENT_NONE: no extent. */
uint32_t lwd_slot_fill(lwd_shard_t *shard, lwd_origin_t *origin, const lw_segment_name_t *name, uint64_t hash,
                       uint64_t bytes, uint64_t offset);
/* Notes a refusal: room is wanted, from the log or from the catalogue. */
void lwd_shard_note_want(lwd_shard_t *shard, uint64_t bytes);
/* The owner's view of a live segment of that generation; NULL: freed. */
lwd_segment_t *lwd_segment_live(const lwd_shard_t *shard, lwd_ref_t ref);

/* commit.c: record tables of a verified segment; ERR_EXHAUSTED. */
LW_CHECK lw_status_t lwd_segment_build_table(lwd_shard_t *shard, lwd_segment_t *segment);
void lwd_segment_journal(lwd_shard_t *shard, const lwd_segment_t *segment);

/* reap.c: into the next question to the catalogue; there must be room */
void lwd_suspect_add(lwd_shard_t *shard, lwd_segment_t *segment);

/* restore.c */
void lwd_restored_suspects(lwd_shard_t *shard, uint64_t now_us);
void lwd_segment_confirm(lwd_shard_t *shard, uint32_t slot); /* RESTORED: the catalogue knows it */

/* spill.c */
/* With a log: could the largest segment still come back from it? New ones never take the last room, or what is in a
 * full log could not be read. */
bool lwd_load_room_left(lwd_shard_t *shard, uint64_t new_bytes);
/* Bytes that must be free for that, when `new_bytes` is the size of one more segment. */
uint64_t lwd_load_room(const lwd_shard_t *shard, uint64_t new_bytes);
/* The largest segment that is taken: all of the arena; with a log half of it, since another one must fit beside it. */
uint64_t lwd_segment_bytes_max(const lwd_shard_t *shard);
void lwd_leaving_run(lwd_shard_t *shard, uint32_t most);
/* Gives memory and tables of a segment back; the readers have passed. */
void lwd_segment_unload(lwd_shard_t *shard, lwd_segment_t *segment);

/* origin.c */
LW_CHECK lw_status_t lwd_origins_init(lwd_origin_table_t *table, uint32_t capacity);
void lwd_origins_fini(lwd_origin_table_t *table);
lwd_origin_t *lwd_origin_find(const lwd_origin_table_t *table, uint64_t id);
/* Finds or makes; takes the place of the oldest origin without segments when full; NULL when none is left. */
lwd_origin_t *lwd_origin_get(lwd_origin_table_t *table, uint64_t id);
void lwd_origin_link(lwd_shard_t *shard, lwd_origin_t *origin, uint32_t slot);
void lwd_origin_unlink(lwd_shard_t *shard, uint32_t slot);

/* lease.c */
LW_CHECK lw_status_t lwd_clients_init(lwd_client_table_t *table, uint32_t capacity);
void lwd_clients_fini(lwd_client_table_t *table);
lwd_client_t *lwd_client_find(const lwd_client_table_t *table, uint64_t id, uint64_t incarnation);
/* Has the writer been without a connection for the lease time? */
bool lwd_writer_gone(const lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us);

#endif /* LWD_SHARD_PRIVATE_H */
