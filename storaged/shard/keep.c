/* keep.c - copies that come from another node instead of a writer, and copies that no manifest places here any more.
 * Owner thread. */
#include "storaged/shard/shard_private.h"
#include "wire/segment_fmt.h"

lw_status_t lwd_shard_pull(lwd_shard_t *shard, const lw_segment_name_t *name, uint64_t bytes, lwd_ref_t *ref_out)
{
    if (bytes < sizeof(lw_segment_header_t) || bytes > lwd_segment_bytes_max(shard))
        return LW_ERR_INVALID;
    lwd_origin_t *origin = lwd_origin_get(&shard->origins, name->origin);
    if (origin == NULL)
        return LW_ERR_EXHAUSTED;
    if (origin->term == LWD_TERM_ENDED)
        return LW_ERR_STALE;
    uint64_t hash = lw_segment_name_hash(name);
    uint32_t slot = lwd_index_find(shard, name, hash);
    bool here = slot != LWD_SLOT_NONE;
    if (here && (shard->slots[slot].held || !lwd_segment_is_committed(lwd_segment_state(&shard->slots[slot]))))
        return LW_ERR_BUSY;
    if (!here)
        slot = lwd_segment_make(shard, origin, name, hash, bytes);
    if (slot == LWD_SLOT_NONE)
        return LW_ERR_EXHAUSTED;
    shard->slots[slot].held = true;
    *ref_out = (lwd_ref_t){slot, lwd_segment_generation(&shard->slots[slot])};
    return here ? LW_ERR_EXISTS : LW_OK;
}

void lwd_shard_pulled(lwd_shard_t *shard, lwd_ref_t ref, bool placed, uint64_t now_us)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL) /* its session ended */
        return;
    segment->held = false;
    segment->asked = 0; /* a verdict that is on its way is older than what has just happened */
    if (!lwd_segment_is_committed(lwd_segment_state(segment))) {
        lwd_segment_kill(shard, ref.slot);
        return;
    }
    segment->unplaced_us = 0;
    segment->ask_us = now_us;
    if (placed) {
        segment->seen = lw_max_u64(shard->scan, 1);
        segment->ask_us += atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    }
}

bool lwd_shard_distrust(lwd_shard_t *shard, lwd_ref_t ref)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL || segment->held || !lwd_segment_is_committed(lwd_segment_state(segment)))
        return false;
    lwd_segment_kill(shard, ref.slot);
    return true;
}

void lwd_shard_placed(lwd_shard_t *shard, const lw_segment_name_t *names, uint32_t count, uint64_t scan, bool *have_out)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = lwd_index_find(shard, &names[i], lw_segment_name_hash(&names[i]));
        have_out[i] = slot != LWD_SLOT_NONE;
        if (slot == LWD_SLOT_NONE)
            continue;
        shard->slots[slot].seen = scan;
        shard->slots[slot].unplaced_us = 0;
    }
}

void lwd_shard_scanned(lwd_shard_t *shard, uint64_t scan, uint64_t began_us)
{
    shard->scan = scan;
    shard->scan_began_us = began_us;
}
