#include "unit/storaged/shard_place.h"

#include <stdlib.h>
#include <string.h>

static uint64_t or_else(uint64_t value, uint64_t other)
{
    return value != 0 ? value : other;
}

/* A process's start. */
static void begin(place_t *place)
{
    lwd_guards_init(&place->guards, place->threads);
    memset(place->book, 0, place->book_bytes);
    memset(&place->stats, 0, sizeof(place->stats));
    lw_status_t status = lwd_extents_create(place->arena_bytes, LWD_ARENA_UNIT_BYTES, &place->extents);
    LW_ASSERT(status == LW_OK);
    status = lwd_extents_create(place->book_bytes, LWD_ARENA_BOOK_UNIT_BYTES, &place->book_extents);
    LW_ASSERT(status == LW_OK);
    place->params.extents = place->extents;
    place->params.book_extents = place->book_extents;
    if (place->head != NULL) {
        status = lwd_journal_open(place->head, lwd_journal_bytes(place->arena_bytes, LWD_ARENA_UNIT_BYTES),
                                  place->arena_bytes, 1 << 21, LWD_ARENA_UNIT_BYTES, &place->journal, NULL);
        LW_ASSERT(status == LW_OK);
    }
    status = lwd_shard_create(&place->params, &place->shard);
    LW_ASSERT(status == LW_OK);
    status = lwd_shard_client_up(place->shard, 1, 1);
    LW_ASSERT(status == LW_OK);
    lwd_guard_quiet(&place->guards, 0);
}

void place_restart(place_t *place)
{
    lwd_shard_destroy(place->shard);
    lwd_extents_destroy(place->extents);
    lwd_extents_destroy(place->book_extents);
    begin(place);
}

void place_init(place_t *place, const place_params_t *params)
{
    memset(place, 0, sizeof(*place));
    uint64_t arena_bytes = or_else(params->arena_bytes, 16u << 20),
             book_bytes = or_else(params->book_bytes, 1u << 20);
    place->now_us = 5000000;
    place->arena = aligned_alloc(1 << 16, arena_bytes);
    place->book = aligned_alloc(1 << 12, book_bytes);
    LW_ASSERT(place->arena != NULL && place->book != NULL);
    memset(place->arena, 0, arena_bytes);
    if (params->journal) {
        uint64_t head_bytes = lwd_journal_bytes(arena_bytes, LWD_ARENA_UNIT_BYTES);
        place->head = aligned_alloc(4096, lw_align_up(head_bytes, 4096));
        LW_ASSERT(place->head != NULL);
        lwd_journal_format(place->head, arena_bytes, 1 << 21, LWD_ARENA_UNIT_BYTES, 77);
    }
    place->params = (lwd_shard_params_t){
        .arena = place->arena,
        .book = place->book,
        .segment_max = (uint32_t)or_else(params->segment_max, 64),
        .origin_max = (uint32_t)or_else(params->origin_max, 16),
        .client_max = (uint32_t)or_else(params->client_max, 8),
        .lease_us = PLACE_LEASE_US,
        .guards = &place->guards,
        .stats = &place->stats,
        .journal = params->journal ? &place->journal : NULL,
    };
    place->arena_bytes = arena_bytes;
    place->book_bytes = book_bytes;
    place->threads = (uint32_t)or_else(params->threads, 1);
    begin(place);
}

void place_fini(place_t *place)
{
    LW_ASSERT(lwd_shard_check(place->shard));
    lwd_shard_destroy(place->shard);
    lwd_extents_destroy(place->extents);
    lwd_extents_destroy(place->book_extents);
    free(place->arena);
    free(place->book);
    free(place->head);
}

void place_round(place_t *place, uint64_t us)
{
    place->now_us += us;
    lwd_guard_quiet(&place->guards, 0);
    lwd_shard_tick(place->shard, place->now_us);
}

lw_segment_name_t place_name(uint64_t origin, uint16_t layer, uint32_t first, uint32_t generation)
{
    return (lw_segment_name_t){
        .origin = origin, .layer = layer, .first_token = first, .generation = generation};
}

lw_status_t place_reserve(place_t *place, const lw_segment_name_t *name, uint64_t bytes,
                          lwd_reserved_t *reserved_out)
{
    lwd_reserve_t reserve = {.client_id = 1, .incarnation = 1, .name = *name, .bytes = bytes};
    return lwd_shard_reserve(place->shard, &reserve, reserved_out);
}

lwd_ref_t place_put(place_t *place, const lw_segment_name_t *name)
{
    const segment_shape_t shape = {.heads = 1, .clusters = 10, .outliers = 5, .rows_max = 9, .head_dim = 16};
    uint64_t bytes;
    uint8_t *segment = segment_make(name, &shape, lw_segment_name_hash(name), &bytes), *into;
    lwd_reserved_t reserved;
    lw_status_t status = place_reserve(place, name, bytes, &reserved);
    LW_ASSERT(status == LW_OK && !reserved.committed);
    status = lwd_shard_write_begin(place->shard, reserved.ref, 0, bytes, &into);
    LW_ASSERT(status == LW_OK);
    memcpy(into, segment, bytes);
    lwd_shard_write_end(place->shard, reserved.ref);
    status = lwd_shard_commit(place->shard, reserved.ref, bytes, place->now_us, NULL);
    LW_ASSERT(status == LW_OK);
    free(segment);
    return reserved.ref;
}

uint64_t place_count(const lw_counter_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}
