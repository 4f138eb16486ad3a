/* restore.c - segments that an earlier life of the node left in the arena or in the log. Owner thread. */
#include "storaged/shard/shard_private.h"

#include "base/log.h"
#include "wire/segment_fmt.h"

/* The name came from the arena already; the log has it, too. */
static lw_status_t restore_again(lwd_segment_t *segment, const lwd_restore_t *restore)
{
    if (restore->log_record == LWD_LOG_NONE || segment->log_record != LWD_LOG_NONE ||
        segment->bytes != restore->bytes)
        return LW_ERR_EXISTS;
    segment->log_record = restore->log_record;
    return LW_OK;
}

lw_status_t lwd_shard_restore(lwd_shard_t *shard, const lwd_restore_t *restore)
{
    uint64_t hash = lw_segment_name_hash(&restore->name);
    uint32_t slot = lwd_index_find(shard, &restore->name, hash);
    if (slot != LWD_SLOT_NONE)
        return restore_again(&shard->slots[slot], restore);
    lwd_origin_t *origin = lwd_origin_get(&shard->origins, restore->name.origin);
    if (origin == NULL || shard->free.count == 0)
        return LW_ERR_EXHAUSTED;
    if (restore->offset != LWD_EXTENT_NONE &&
        lwd_extents_take(shard->params.extents, restore->offset, restore->bytes) != LW_OK)
        return LW_ERR_EXISTS;
    slot = lwd_slot_fill(shard, origin, &restore->name, hash, restore->bytes, restore->offset);
    lwd_segment_t *segment = &shard->slots[slot];
    segment->log_record = restore->log_record;
    segment->fleet_id = restore->fleet_id;
    shard->largest_bytes = lw_max_u64(shard->largest_bytes, restore->bytes);
    origin->term = (uint32_t)lw_max_u64(origin->term, restore->name.generation);
    lwd_slot_list_push(shard, &shard->restored, slot);
    atomic_store_explicit(&shard->restoring, shard->restored.count, memory_order_release);
    lwd_segment_move(segment, LWD_SEGMENT_RESTORED);
    if (segment->extent != NULL && lwd_segment_build_table(shard, segment) != LW_OK) {
        segment->log_record = LWD_LOG_NONE; /* stays the caller's, who restores it without its place in memory */
        lwd_segment_kill(shard, slot);
        return LW_ERR_EXHAUSTED;
    }
    lw_count(&shard->params.stats->restores, 1);
    return LW_OK;
}

void lwd_shard_set_fleet(lwd_shard_t *shard, uint64_t fleet_id)
{
    atomic_store_explicit(&shard->fleet_id, fleet_id, memory_order_relaxed);
}

uint64_t lwd_shard_fleet(const lwd_shard_t *shard)
{
    return atomic_load_explicit(&shard->fleet_id, memory_order_relaxed);
}

uint32_t lwd_shard_restoring(const lwd_shard_t *shard)
{
    return atomic_load_explicit(&shard->restoring, memory_order_acquire);
}

void lwd_restored_suspects(lwd_shard_t *shard, uint64_t now_us)
{
    uint64_t fleet_id = atomic_load_explicit(&shard->fleet_id, memory_order_relaxed);
    uint32_t foreign = 0;
    if (fleet_id == 0)
        return;
    for (uint32_t i = 0; i < LWD_TICK_SLOTS && shard->restored.count > 0; i++) {
        uint32_t slot = shard->restored.first;
        lwd_segment_t *segment = &shard->slots[slot];
        if (segment->fleet_id != fleet_id) {
            lwd_segment_kill(shard, slot);
            lw_count(&shard->params.stats->restores_dropped, 1);
            foreign++;
            continue;
        }
        if (now_us < segment->ask_us || shard->suspect_count == LWD_SUSPECTS_MAX)
            break; /* the others were asked about later */
        segment->ask_us = now_us + LWD_RESTORE_ASK_US;
        lwd_suspect_add(shard, segment);
        lwd_slot_list_remove(shard, &shard->restored, slot);
        lwd_slot_list_push(shard, &shard->restored, slot);
    }
    if (foreign > 0)
        LW_WARN("shard", "%u restored segments are of another fleet than %016llx: dropped", foreign,
                (unsigned long long)fleet_id);
}

void lwd_segment_confirm(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_slot_list_remove(shard, &shard->restored, slot);
    if (segment->extent != NULL) {
        lwd_slot_list_push(shard, &shard->written, slot);
        lwd_segment_move(segment, LWD_SEGMENT_WRITTEN);
    } else {
        shard->spilled++;
        lwd_segment_move(segment, LWD_SEGMENT_SPILLED);
    }
    /* Last: who sees none left may let clients in. */
    atomic_store_explicit(&shard->restoring, shard->restored.count, memory_order_release);
}
