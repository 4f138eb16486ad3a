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

/* The catalogue calls a written copy dead. One that a manifest had placed here serves on for a lease after that was
 * noticed, for readers whose directory is older. */
static bool may_go(const lwd_shard_t *shard, lwd_segment_t *segment, uint64_t now_us)
{
    uint64_t lease_us = atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    if (segment->seen == 0)
        return true;
    if (segment->unplaced_us == 0)
        segment->unplaced_us = now_us;
    segment->ask_us = segment->unplaced_us + lease_us;
    return now_us >= segment->ask_us;
}

void lwd_shard_orphans(lwd_shard_t *shard, const lw_segment_name_t *names, const bool *dead, uint32_t count,
                       uint64_t now_us)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = lwd_index_find(shard, &names[i], lw_segment_name_hash(&names[i]));
        if (slot == LWD_SLOT_NONE)
            continue;
        lwd_segment_t *segment = &shard->slots[slot];
        lwd_segment_state_t state = lwd_segment_state(segment);
        bool committed = lwd_segment_is_committed(state);
        /* A move has taken it up since it was asked about; and may have done with it, so that the next question has it. */
        if (segment->asked == 0 || segment->asked > shard->question || segment->held)
            continue;
        segment->asked = 0;
        if (!dead[i]) {
            segment->ask_us = now_us + LWD_ORPHAN_ASK_US;
            if (state == LWD_SEGMENT_RESTORED)
                lwd_segment_confirm(shard, slot);
        } else if (!committed || may_go(shard, segment, now_us)) {
            lwd_segment_kill(shard, slot);
            lw_count(committed || state == LWD_SEGMENT_RESTORED ? &shard->params.stats->orphans_freed
                                                                : &shard->params.stats->reserves_reclaimed,
                     1);
        }
    }
}

void lwd_suspect_add(lwd_shard_t *shard, lwd_segment_t *segment)
{
    LW_ASSERT(shard->suspect_count < LWD_SUSPECTS_MAX);
    segment->asked = shard->question + 1;
    shard->suspects[shard->suspect_count++] = segment->name;
}

static void suspect(lwd_shard_t *shard, lwd_segment_t *segment, uint64_t now_us)
{
    segment->ask_us = now_us + LWD_ORPHAN_ASK_US;
    lwd_suspect_add(shard, segment);
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
        bool held = segment->held; /* by a move, which gives it back itself */
        if (!held && lwd_writer_gone(shard, segment->client_id, segment->incarnation, now_us)) {
            lwd_segment_kill(shard, slot);
            lw_count(&shard->params.stats->reserves_reclaimed, 1);
        } else {
            if (!held && now_us >= segment->ask_us && shard->suspect_count < LWD_SUSPECTS_MAX)
                suspect(shard, segment, now_us);
            lwd_slot_list_remove(shard, &shard->reserved, slot);
            lwd_slot_list_push(shard, &shard->reserved, slot);
        }
    }
}

/* Has the last scan gone by without finding this copy in a manifest, and that a lease ago? */
static bool unplaced(const lwd_shard_t *shard, lwd_segment_t *segment, uint64_t now_us)
{
    if (segment->seen >= shard->scan || segment->written_us >= shard->scan_began_us)
        return false;
    uint64_t lease_us = atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    if (segment->unplaced_us == 0) { /* what was asked before was asked too early */
        segment->unplaced_us = now_us;
        segment->ask_us = lw_min_u64(segment->ask_us, now_us + lease_us);
    }
    return now_us - segment->unplaced_us >= lease_us;
}

/* A written segment that no manifest has here, or whose writer can no longer commit it, and which the catalogue was
 * not asked about lately. */
static bool suspicious(const lwd_shard_t *shard, lwd_segment_t *segment, uint64_t now_us)
{
    if (!lwd_segment_is_committed(lwd_segment_state(segment)) || segment->held)
        return false;
    bool nowhere = unplaced(shard, segment, now_us);
    if (now_us < segment->ask_us)
        return false;
    return nowhere || shard->origins.rows[segment->origin].term > segment->name.generation ||
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
    lw_gauge(&stats->segments_spilled, usage.spilled);
    lw_gauge(&stats->segments_restored, usage.restored);
}

void lwd_shard_tick(lwd_shard_t *shard, uint64_t now_us)
{
    shard->now_us = now_us;
    if (shard->dying.count > 0)
        lwd_shard_recycle(shard, LWD_TICK_SLOTS);
    if (shard->leaving.count > 0)
        lwd_leaving_run(shard, LWD_TICK_SLOTS);
    if (now_us < shard->next_tick_us)
        return;
    shard->next_tick_us = now_us + LWD_TICK_US;
    reap_reserved(shard, now_us);
    lwd_restored_suspects(shard, now_us);
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
    shard->question += count > 0 ? 1 : 0;
    memcpy(names, shard->suspects + shard->suspect_count, count * sizeof(*names));
    return count;
}
