/* shard.h - what a node knows about its segments: a state machine without I/O, clock or threads of its own.
 *
 * It is called with decoded requests and the time, and answers with a status; what it wants from the
 * catalogue (room, the fate of a dead writer's segments) is collected with the take functions. One data
 * thread owns it and makes all changes; functions marked [any] only read published slots and may run on any
 * data thread between two of its quiet points.
 *
 * All memory is allocated by create. The arena, both allocators, guards and stats are borrowed for the
 * shard's life.
 */
#ifndef LWD_SHARD_H
#define LWD_SHARD_H

#include "base/error.h"
#include "base/limits.h"
#include "storaged/mem/extent.h"
#include "storaged/shard/guard.h"
#include "storaged/shard/journal.h"
#include "storaged/shard/segment.h"
#include "storaged/stats.h"

#define LWD_RETRY_FULL_MS 200u        /* RESERVE on a full node: when to come back */
#define LWD_RETRY_DYING_MS 5u         /* the same while freed segments wait for their last reader */
#define LWD_TICK_US 1000u             /* between two passes of the reaper */
#define LWD_TICK_SLOTS 64u            /* slots that a pass looks at */
#define LWD_ORPHAN_ASK_US 60000000ull /* between two questions about one segment or reservation */
#define LWD_SUSPECTS_MAX 64u          /* names of one question */
#define LWD_RESTORE_ASK_US 1000000ull /* between two questions about one restored segment */
#define LWD_HEAT_SCAN 512u            /* slots among which the coldest is chosen */
#define LWD_FREE_SHARE 16u            /* with a log: this share of the arena is kept free */
#define LWD_TERM_ENDED UINT32_MAX     /* fence of a session that has ended */

typedef struct lwd_shard lwd_shard_t;

typedef struct lwd_shard_params {
    uint8_t *arena, *book; /* bases of the two ranges below */
    lwd_extents_t *extents, *book_extents;
    uint32_t segment_max, origin_max, client_max;
    uint64_t lease_us; /* a writer without a connection for this long is dead */
    lwd_guards_t *guards;
    lwd_stats_t *stats; /* of the owner's thread */
    lwd_journal_t *journal; /* of the arena; NULL: it dies with the process */
} lwd_shard_params_t;

LW_CHECK lw_status_t lwd_shard_create(const lwd_shard_params_t *params, lwd_shard_t **shard_out);
void lwd_shard_destroy(lwd_shard_t *shard);
void lwd_shard_set_lease(lwd_shard_t *shard, uint64_t lease_us); /* [any] */

/* ---- writers ---- */
/* A connection that calls itself this client, in this incarnation, has proved its right to write a session.
 * The two only say which reservations live with the connection: one incarnation takes nothing from another,
 * since anybody can name any. ERR_EXHAUSTED: too many clients. */
LW_CHECK lw_status_t lwd_shard_client_up(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation);
/* A connection that was up has closed. */
void lwd_shard_client_down(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us);
/* The catalogue has granted `term` for writing `origin`: reservations of older terms are freed, older terms
 * refused from now on. ERR_STALE: a newer one was granted; ERR_EXHAUSTED: too many origins. */
LW_CHECK lw_status_t lwd_shard_grant(lwd_shard_t *shard, uint64_t origin, uint32_t term);

/* ---- two-phase put ---- */
typedef struct lwd_reserve {
    uint64_t client_id, incarnation;
    lw_segment_name_t name;
    uint64_t bytes;
} lwd_reserve_t;
typedef struct lwd_reserved {
    lwd_ref_t ref;
    bool committed;          /* the name was written before */
    uint32_t retry_after_ms; /* with ERR_EXHAUSTED */
} lwd_reserved_t;
/* Idempotent by name and size. ERR_STALE (the client proved nothing, or its term is old), ERR_EXISTS (other
 * size), ERR_INVALID (can never fit), ERR_EXHAUSTED (reserved_out->retry_after_ms is set, and room is
 * wanted). */
LW_CHECK lw_status_t lwd_shard_reserve(lwd_shard_t *shard, const lwd_reserve_t *reserve,
                                       lwd_reserved_t *reserved_out);
/* [any] Where a chunk may land; the slot is borrowed until write_end. ERR_STALE (freed), ERR_EXISTS (written
 * already, or being verified), ERR_INVALID (outside the segment). */
LW_CHECK lw_status_t lwd_shard_write_begin(lwd_shard_t *shard, lwd_ref_t ref, uint64_t offset, uint64_t bytes,
                                           uint8_t **into_out);
void lwd_shard_write_end(lwd_shard_t *shard, lwd_ref_t ref); /* [any] */
/* COMMIT in three parts, so that the middle one may run on any thread. begin: RESERVED -> VERIFYING, or
 * ERR_BUSY while chunks are landing, ERR_INVALID for a wrong size, ERR_STALE; *done_out is true when it was
 * written before. */
LW_CHECK lw_status_t lwd_shard_commit_begin(lwd_shard_t *shard, lwd_ref_t ref, uint64_t bytes,
                                            bool *done_out);
/* [any, between begin and end] Structure, name and every checksum. ERR_INVALID, ERR_CORRUPT, ERR_VERSION. */
LW_CHECK lw_status_t lwd_shard_commit_verify(lwd_shard_t *shard, lwd_ref_t ref, lw_error_t *error);
/* With the verdict: VERIFYING -> WRITTEN (record table built; ERR_EXHAUSTED when the bookkeeping area is
 * full) or back to RESERVED. Returns what the writer is told. */
LW_CHECK lw_status_t lwd_shard_commit_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t verdict,
                                          uint64_t now_us);
/* All three, for callers with one thread. */
LW_CHECK lw_status_t lwd_shard_commit(lwd_shard_t *shard, lwd_ref_t ref, uint64_t bytes, uint64_t now_us,
                                      lw_error_t *error);
/* Frees a reservation; ERR_STALE when it is gone, ERR_EXISTS when it was written. */
LW_CHECK lw_status_t lwd_shard_abort(lwd_shard_t *shard, lwd_ref_t ref);

/* ---- what an earlier life left (restore.c) ---- */
typedef struct lwd_restore {
    lw_segment_name_t name;
    uint64_t bytes, fleet_id;
    uint64_t offset;     /* in the arena, verified; LWD_EXTENT_NONE: not there */
    uint32_t log_record; /* LWD_LOG_NONE: not there */
} lwd_restore_t;
/* Before the first round, extents of the arena in ascending order. Takes the extent and holds the segment until the
 * catalogue has said that it lives; nobody finds it before. A name that is here already only learns its place in
 * the log. ERR_EXISTS: the extent overlaps another, or the log's record is not needed; ERR_EXHAUSTED: no slot, or
 * no room for its tables. */
LW_CHECK lw_status_t lwd_shard_restore(lwd_shard_t *shard, const lwd_restore_t *restore);
/* [any] The fleet that the catalogue belongs to. Restored segments are asked about from then on; those of another
 * fleet are freed. */
void lwd_shard_set_fleet(lwd_shard_t *shard, uint64_t fleet_id);
uint64_t lwd_shard_fleet(const lwd_shard_t *shard); /* [any] */
/* [any] Restored segments that the catalogue was not asked about yet. */
uint32_t lwd_shard_restoring(const lwd_shard_t *shard);

/* ---- the log on disk (spill.c) ---- */
/* Cold segments may leave memory from now on. `forget` is told of records that are needed no more, on the owner's
 * thread. Before the first round. */
void lwd_shard_set_log(lwd_shard_t *shard, void (*forget)(void *arg, uint32_t record), void *arg);
typedef struct lwd_spill {
    lwd_ref_t ref;
    lw_segment_name_t name;
    const uint8_t *data; /* stays until spill_end */
    uint64_t bytes;
} lwd_spill_t;
/* The coldest segment to be written to the log now; false: enough memory is free, or on its way. all: any segment that
 * is not in the log yet (before an orderly end). */
bool lwd_shard_spill_take(lwd_shard_t *shard, bool all, lwd_spill_t *spill_out);
/* How it went: OK with the log's record. False: the segment was freed meanwhile, the record is not needed.
 * ERR_EXHAUSTED: the log is full, evictions follow until lwd_shard_log_room. ERR_INVALID: it can never be in the log. */
bool lwd_shard_spill_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t status, uint32_t record);
void lwd_shard_log_room(lwd_shard_t *shard); /* the log has room again */
/* [any] Committed here, and not in memory. */
bool lwd_shard_absent(const lwd_shard_t *shard, lwd_ref_t ref);
/* Wants an absent segment back. True: nothing to wait for, it can be read or was freed. */
bool lwd_shard_want(lwd_shard_t *shard, lwd_ref_t ref, uint64_t now_us);
typedef struct lwd_load {
    lwd_ref_t ref;
    uint32_t record;
    uint8_t *into; /* room for bytes, up to the next arena unit; stays until load_end */
    uint64_t bytes;
} lwd_load_t;
/* The next wanted segment for which there is room. */
bool lwd_shard_load_take(lwd_shard_t *shard, lwd_load_t *load_out);
/* The bytes have landed and were read without an error (`status`); they are verified here. A copy that is not what
 * it was is freed; ERR_STALE: it was freed meanwhile. */
LW_CHECK lw_status_t lwd_shard_load_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t status, uint64_t now_us,
                                        lw_error_t *error);
/* Grows whenever something that somebody may wait for has changed. */
uint64_t lwd_shard_settled(const lwd_shard_t *shard);

/* ---- reading ---- */
/* A committed segment by name, wherever its bytes are. ERR_NOT_FOUND. */
LW_CHECK lw_status_t lwd_shard_find(const lwd_shard_t *shard, const lw_segment_name_t *name,
                                    lwd_ref_t *ref_out);
/* [any] The slot number's segment, or NULL for a number out of range; check it with lwd_shard_readable. */
lwd_segment_t *lwd_shard_slot(const lwd_shard_t *shard, uint32_t slot);
/* [any] The segment while it is written and of that generation; NULL: freed. Good until the next quiet point.
 */
lwd_segment_t *lwd_shard_readable(const lwd_shard_t *shard, lwd_ref_t ref);

/* ---- endings ---- */
/* The catalogue says that segments of origin are dead: this rank (UINT16_MAX: all), first_token >=
 * from_token, generation
 * <= generation_max. With everything dead, later RESERVEs of that origin are refused. Returns how many were
 * freed. */
uint32_t lwd_shard_end(lwd_shard_t *shard, uint64_t origin, uint16_t rank, uint32_t from_token,
                       uint32_t generation_max);
/* The catalogue's answer about suspects. */
void lwd_shard_orphans(lwd_shard_t *shard, const lw_segment_name_t *names, const bool *dead, uint32_t count,
                       uint64_t now_us);

/* ---- copies from other nodes ---- */
/* Room for a copy of a segment that a manifest has, held: no term is asked for or raised, and until pulled() neither a
 * new term nor a lease nor a verdict takes it away; an ending does. It lands and is verified as a writer's does.
 * ERR_EXISTS: it is written here already, *ref_out and the hold are as with OK. ERR_BUSY (a writer or another move is at
 * it), ERR_STALE (its session has ended), ERR_INVALID (can never fit), ERR_EXHAUSTED. */
LW_CHECK lw_status_t lwd_shard_pull(lwd_shard_t *shard, const lw_segment_name_t *name, uint64_t bytes,
                                    lwd_ref_t *ref_out);
/* The move is over: frees what was not written. placed: a manifest has the copy here; otherwise the catalogue is asked
 * about it soon. Fine for a copy that is gone. */
void lwd_shard_pulled(lwd_shard_t *shard, lwd_ref_t ref, bool placed, uint64_t now_us);
/* A written copy that turned out to be wrong is unpublished; false when there is none or a move holds it. */
bool lwd_shard_distrust(lwd_shard_t *shard, lwd_ref_t ref);
/* Scan number `scan` (ascending, from 1) found these names placed on this node. have_out[i]: there is a copy, perhaps
 * unfinished. */
void lwd_shard_placed(lwd_shard_t *shard, const lw_segment_name_t *names, uint32_t count, uint64_t scan, bool *have_out);
/* Scan `scan`, begun at began_us, is over: copies written before it that it did not find are asked about a lease after
 * that was noticed. */
void lwd_shard_scanned(lwd_shard_t *shard, uint64_t scan, uint64_t began_us);

/* ---- time ---- */
/* Recycles freed extents, reclaims dead writers' reservations, looks for suspects, refreshes gauges. Bounded;
 * call it once a round. */
void lwd_shard_tick(lwd_shard_t *shard, uint64_t now_us);
/* Bytes that RESERVE could not get since the last take; 0: none. */
uint64_t lwd_shard_take_want(lwd_shard_t *shard);
/* Names of written segments whose writer is gone, and of reservations that are old, at most `capacity`; ask
 * the catalogue about them. */
uint32_t lwd_shard_take_suspects(lwd_shard_t *shard, lw_segment_name_t *names, uint32_t capacity);

typedef struct lwd_shard_usage {
    uint64_t arena_bytes, arena_used_bytes, book_used_bytes;
    uint32_t segments, reservations, dying, segment_max;
    uint32_t spilled, restored; /* committed and not in memory; not confirmed yet */
} lwd_shard_usage_t;
void lwd_shard_usage(const lwd_shard_t *shard, lwd_shard_usage_t *usage_out);
/* Name index, lists, counts, states and both allocators agree. Linear time; for tests and the simulator. */
bool lwd_shard_check(const lwd_shard_t *shard);

#endif /* LWD_SHARD_H */
