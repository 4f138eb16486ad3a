/* reap.c - what goes away by itself: ended sessions, dead writers' reservations and orphans. Owner thread. */
#include "storaged/shard/shard_private.h"

uint32_t lwd_shard_end(lwd_shard_t *shard, uint64_t origin_id, uint16_t rank, uint32_t from_token,
                       uint32_t generation_max)
{
    bool all = rank == UINT16_MAX && from_token == 0 && generation_max == UINT32_MAX;
    lwd_origin_t *origin =
        all ? lwd_origin_get(&shard->origins, origin_id) : lwd_origin_find(&shard->origins, origin_id);
    if (origin == NULL)
        return 0;
    if (all)
        origin->term = LWD_TERM_ENDED;
    uint32_t freed = 0, slot = origin->first;
    while (slot != LWD_SLOT_NONE) {
        const lwd_segment_t *segment = &shard->slots[slot];
        uint32_t next = segment->origin_next;
        if ((rank == UINT16_MAX || segment->name.rank == rank) && segment->name.first_token >= from_token &&
            segment->name.generation <= generation_max) {
            lwd_segment_kill(shard, slot);
            freed++;
        }
        slot = next;
    }
    lw_count(&shard->params.stats->evictions, freed);
    return freed;
}

void lwd_shard_orphans(lwd_shard_t *shard, const lw_segment_name_t *names, const bool *dead, uint32_t count,
                       uint64_t now_us)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = lwd_index_find(shard, &names[i], lw_segment_name_hash(&names[i]));
        if (slot == LWD_SLOT_NONE)
            continue;
        if (dead[i]) {
            bool was_written = lwd_segment_state(&shard->slots[slot]) == LWD_SEGMENT_WRITTEN;
            lwd_segment_kill(shard, slot);
            lw_count(was_written ? &shard->params.stats->orphans_freed
                                 : &shard->params.stats->reserves_reclaimed,
                     1);
        } else {
            shard->slots[slot].ask_us = now_us + LWD_ORPHAN_ASK_US;
        }
    }
}

static void suspect(lwd_shard_t *shard, lwd_segment_t *segment, uint64_t now_us)
{
    segment->ask_us = now_us + LWD_ORPHAN_ASK_US;
    shard->suspects[shard->suspect_count++] = segment->name;
}

/* Looks at some reservations, oldest first, moving those with a living writer to the end. A connection may
 * outlive its writer (a host that lost power closes none), so old ones are asked about. */
static void reap_reserved(lwd_shard_t *shard, uint64_t now_us)
{
    uint32_t most = shard->reserved.count < LWD_TICK_SLOTS ? shard->reserved.count : LWD_TICK_SLOTS;
    for (uint32_t i = 0; i < most; i++) {
        uint32_t slot = shard->reserved.first;
        lwd_segment_t *segment = &shard->slots[slot];
        if (segment->ask_us == 0)
            segment->ask_us = now_us + LWD_ORPHAN_ASK_US;
        if (lwd_writer_gone(shard, segment->client_id, segment->incarnation, now_us)) {
            lwd_segment_kill(shard, slot);
            lw_count(&shard->params.stats->reserves_reclaimed, 1);
        } else {
            if (now_us >= segment->ask_us && shard->suspect_count < LWD_SUSPECTS_MAX)
                suspect(shard, segment, now_us);
            lwd_slot_list_remove(shard, &shard->reserved, slot);
            lwd_slot_list_push(shard, &shard->reserved, slot);
        }
    }
}

/* A written segment whose writer can no longer commit it, and which the catalogue was not asked about lately.
 */
static bool suspicious(const lwd_shard_t *shard, const lwd_segment_t *segment, uint64_t now_us)
{
    if (lwd_segment_state(segment) != LWD_SEGMENT_WRITTEN || now_us < segment->ask_us)
        return false;
    return shard->origins.rows[segment->origin].term > segment->name.generation ||
           lwd_writer_gone(shard, segment->client_id, segment->incarnation, now_us);
}

static void find_suspects(lwd_shard_t *shard, uint64_t now_us)
{
    uint32_t most = shard->params.segment_max < LWD_TICK_SLOTS ? shard->params.segment_max : LWD_TICK_SLOTS;
    for (uint32_t i = 0; i < most && shard->suspect_count < LWD_SUSPECTS_MAX; i++) {
        lwd_segment_t *segment = &shard->slots[shard->written_cursor];
        shard->written_cursor = (shard->written_cursor + 1) % shard->params.segment_max;
        if (suspicious(shard, segment, now_us))
            suspect(shard, segment, now_us);
    }
}

static void show(lwd_shard_t *shard)
{
    lwd_stats_t *stats = shard->params.stats;
    lwd_shard_usage_t usage;
    lwd_shard_usage(shard, &usage);
    lw_gauge(&stats->arena_bytes, usage.arena_bytes);
    lw_gauge(&stats->arena_used_bytes, usage.arena_used_bytes);
    lw_gauge(&stats->arena_free_bytes, usage.arena_bytes - usage.arena_used_bytes);
    lw_gauge(&stats->book_used_bytes, usage.book_used_bytes);
    lw_gauge(&stats->segments, usage.segments);
    lw_gauge(&stats->reservations, usage.reservations);
    lw_gauge(&stats->segments_dying, usage.dying);
}

void lwd_shard_tick(lwd_shard_t *shard, uint64_t now_us)
{
    if (shard->dying.count > 0)
        lwd_shard_recycle(shard, LWD_TICK_SLOTS);
    if (now_us < shard->next_tick_us)
        return;
    shard->next_tick_us = now_us + LWD_TICK_US;
    reap_reserved(shard, now_us);
    find_suspects(shard, now_us);
    show(shard);
}

uint64_t lwd_shard_take_want(lwd_shard_t *shard)
{
    uint64_t bytes = shard->want_bytes;
    shard->want_bytes = 0;
    return bytes;
}

uint32_t lwd_shard_take_suspects(lwd_shard_t *shard, lw_segment_name_t *names, uint32_t capacity)
{
    uint32_t count = shard->suspect_count < capacity ? shard->suspect_count : capacity;
    shard->suspect_count -= count;
    memcpy(names, shard->suspects + shard->suspect_count, count * sizeof(*names));
    return count;
}
