/* shard_place.h - a shard with an arena of its own, for tests that call it directly. */
#ifndef LW_TEST_SHARD_PLACE_H
#define LW_TEST_SHARD_PLACE_H

#include "storaged/mem/arena.h"
#include "storaged/shard/shard.h"
#include "unit/storaged/segment_make.h"

#define PLACE_LEASE_US 1000000u

typedef struct place {
    uint8_t *arena, *book;
    lwd_extents_t *extents, *book_extents;
    lwd_guards_t guards;
    lwd_stats_t stats;
    lwd_shard_t *shard;
    uint64_t now_us;
    uint8_t *head; /* of the journal; NULL: none */
    lwd_journal_t journal;
    lwd_shard_params_t params;
    uint64_t arena_bytes, book_bytes;
    uint32_t threads;
} place_t;

typedef struct place_params {
    uint64_t arena_bytes, book_bytes;                      /* 0: 16 MiB, 1 MiB */
    uint32_t segment_max, origin_max, client_max, threads; /* 0: 64, 16, 8, 1 */
    bool journal;
} place_params_t;

void place_init(place_t *place, const place_params_t *params);
void place_fini(place_t *place);
/* The process dies and another one finds the same arena and journal: nothing else is left. */
void place_restart(place_t *place);
/* The first thread passes a quiet point, and the reaper runs, as once a round. */
void place_round(place_t *place, uint64_t us);
lw_segment_name_t place_name(uint64_t origin, uint16_t layer, uint32_t first, uint32_t generation);
/* RESERVE of client 1, incarnation 1. */
lw_status_t place_reserve(place_t *place, const lw_segment_name_t *name, uint64_t bytes,
                          lwd_reserved_t *reserved_out);
/* Reserves, writes and commits a small valid segment; returns its reference. */
lwd_ref_t place_put(place_t *place, const lw_segment_name_t *name);
uint64_t place_count(const lw_counter_t *counter);

#endif /* LW_TEST_SHARD_PLACE_H */
