/* spill.c - which segments leave memory for the log, and how they come back. Owner thread.
 *
 * A segment is written to the log while it is read from (it is immutable), then unpublished, and its memory is free
 * once every reader has passed a quiet point. One that is in the log already leaves without being written again. */
#include "storaged/shard/shard_private.h"

#include "wire/segment_fmt.h"

#define HOT 16u         /* of heat: 131 ms */
#define NEED_US 500000u /* who did not get room comes back within this, or has given up */

void lwd_shard_set_log(lwd_shard_t *shard, void (*forget)(void *arg, uint32_t record), void *arg)
{
    shard->log_forget = forget;
    shard->log_arg = arg;
}

void lwd_shard_log_room(lwd_shard_t *shard)
{
    shard->log_full = false;
}

uint64_t lwd_shard_settled(const lwd_shard_t *shard)
{
    return shard->settled;
}

/* ---- out ---- */
static void leave(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_slot_list_remove(shard, &shard->written, slot);
    shard->leaving_bytes += segment->bytes;
    lwd_segment_move(segment, LWD_SEGMENT_LEAVING);
    segment->retired = lwd_guard_retire(shard->params.guards);
    lwd_slot_list_push(shard, &shard->leaving, slot);
}

void lwd_segment_unload(lwd_shard_t *shard, lwd_segment_t *segment)
{
    if (segment->extent_offset != LWD_EXTENT_NONE)
        lwd_extents_free(shard->params.extents, segment->extent_offset);
    if (segment->book_offset != LWD_EXTENT_NONE)
        lwd_extents_free(shard->params.book_extents, segment->book_offset);
    segment->extent_offset = segment->book_offset = LWD_EXTENT_NONE;
    segment->extent = NULL;
    segment->heads = NULL;
    segment->records = NULL;
}

void lwd_leaving_run(lwd_shard_t *shard, uint32_t most)
{
    uint32_t slot = shard->leaving.first;
    for (uint32_t i = 0; i < most && slot != LWD_SLOT_NONE; i++) {
        lwd_segment_t *segment = &shard->slots[slot];
        uint32_t next = segment->list_next;
        if (!lwd_guard_passed(shard->params.guards, segment->retired))
            return; /* the others were retired later */
        lwd_slot_list_remove(shard, &shard->leaving, slot);
        if (atomic_load_explicit(&segment->borrows, memory_order_seq_cst) == 0) {
            shard->leaving_bytes -= segment->bytes;
            if (shard->params.journal != NULL)
                lwd_journal_clear(shard->params.journal, segment->extent_offset);
            lwd_segment_unload(shard, segment);
            shard->spilled++;
            lwd_segment_move(segment, LWD_SEGMENT_SPILLED);
        } else { /* a slow transfer must not hide the ones behind it */
            segment->retired = lwd_guard_retire(shard->params.guards);
            lwd_slot_list_push(shard, &shard->leaving, slot);
        }
        slot = next;
    }
}

typedef enum victims { ANY, IN_LOG, NOT_IN_LOG } victims_t;

/* The coldest of the next `most` slots, or just the first one that is not in the log; LWD_SLOT_NONE: none of them can
 * leave. */
static uint32_t coldest(lwd_shard_t *shard, uint32_t most, victims_t kind)
{
    uint32_t best = LWD_SLOT_NONE, best_heat = 0;
    most = (uint32_t)lw_min_u64(most, shard->written.count);
    for (uint32_t i = 0; i < most; i++) {
        uint32_t slot = shard->written.first;
        const lwd_segment_t *segment = &shard->slots[slot];
        lwd_slot_list_remove(shard, &shard->written, slot); /* the next look begins behind it */
        lwd_slot_list_push(shard, &shard->written, slot);
        if (segment->writing || segment->held)
            continue;
        bool in_log = segment->log_record != LWD_LOG_NONE;
        if (kind == IN_LOG ? !in_log : segment->stays || (kind == NOT_IN_LOG && in_log))
            continue;
        if (kind == NOT_IN_LOG)
            return slot;
        uint32_t heat = atomic_load_explicit(&segment->heat, memory_order_relaxed);
        if (best == LWD_SLOT_NONE || heat < best_heat) {
            best = slot;
            best_heat = heat;
        }
    }
    return best;
}

void lwd_shard_note_want(lwd_shard_t *shard, uint64_t bytes)
{
    bool log = shard->log_forget != NULL && shard->free.count > 0;
    if (log) {
        shard->need_bytes = lw_max_u64(shard->need_bytes, bytes);
        shard->need_until_us = shard->now_us + NEED_US;
        shard->refused = true;
    }
    /* The catalogue is asked to evict only when nothing more can leave for the log. */
    if (!log || shard->written.count == 0 || (shard->log_full && coldest(shard, LWD_HEAT_SCAN, IN_LOG) == LWD_SLOT_NONE))
        shard->want_bytes += bytes;
}

uint64_t lwd_segment_bytes_max(const lwd_shard_t *shard)
{
    lwd_extents_usage_t usage;
    lwd_extents_usage(shard->params.extents, &usage);
    return lw_min_u64(LW_SEGMENT_BYTES_MAX, shard->log_forget == NULL ? usage.bytes : usage.bytes / 2);
}

uint64_t lwd_load_room(const lwd_shard_t *shard, uint64_t new_bytes)
{
    /* Restored segments may be of a time without a log, and larger. */
    return lw_min_u64(lw_max_u64(shard->largest_bytes, new_bytes), lwd_segment_bytes_max(shard));
}

bool lwd_load_room_left(lwd_shard_t *shard, uint64_t new_bytes)
{
    if (shard->log_forget == NULL)
        return true;
    uint64_t offset = lwd_extents_alloc(shard->params.extents, lwd_load_room(shard, new_bytes));
    if (offset == LWD_EXTENT_NONE)
        return false;
    lwd_extents_free(shard->params.extents, offset);
    shard->largest_bytes = lw_max_u64(shard->largest_bytes, new_bytes); /* it will be made */
    return true;
}

/* Is more memory wanted than is free or soon will be? */
static bool pressed(lwd_shard_t *shard)
{
    lwd_extents_usage_t usage;
    lwd_extents_usage(shard->params.extents, &usage);
    lwd_extents_usage_t book;
    lwd_extents_usage(shard->params.book_extents, &book);
    uint64_t coming = shard->leaving_bytes + shard->writing_bytes, unused = usage.bytes - usage.used_bytes;
    if (shard->refused && coming == 0) { /* whatever the sums below say: it was not enough, or not in one piece */
        shard->refused = false;
        return true;
    }
    if (usage.largest_free_bytes >= shard->need_bytes || shard->now_us >= shard->need_until_us)
        shard->need_bytes = 0;
    else if (coming == 0)
        return true; /* enough may be free, but not in one piece */
    if (coming == 0 && book.bytes - book.used_bytes < book.bytes / LWD_FREE_SHARE)
        return true;
    return unused + coming < lw_max_u64(usage.bytes / LWD_FREE_SHARE, shard->need_bytes);
}

static void write_begin(lwd_shard_t *shard, uint32_t slot, lwd_spill_t *spill_out)
{
    lwd_segment_t *segment = &shard->slots[slot];
    segment->writing = true;
    shard->writing_bytes += segment->bytes;
    lwd_segment_borrow(segment);
    *spill_out = (lwd_spill_t){
        .ref = {slot, lwd_segment_generation(segment)},
        .name = segment->name,
        .data = segment->extent,
        .bytes = segment->bytes,
    };
}

/* Served in the last moments: leaves only when somebody waits for room. */
static bool is_hot(const lwd_shard_t *shard, uint32_t slot)
{
    return atomic_load_explicit(&shard->slots[slot].heat, memory_order_relaxed) + HOT >=
           (uint32_t)(shard->now_us >> LWD_HEAT_SHIFT);
}

bool lwd_shard_spill_take(lwd_shard_t *shard, bool all, lwd_spill_t *spill_out)
{
    while (all ? !shard->log_full : pressed(shard)) {
        uint32_t slot = all ? coldest(shard, UINT32_MAX, NOT_IN_LOG)
                            : coldest(shard, LWD_HEAT_SCAN, shard->log_full ? IN_LOG : ANY);
        if (slot == LWD_SLOT_NONE || (!all && shard->need_bytes == 0 && is_hot(shard, slot)))
            return false;
        if (shard->slots[slot].log_record == LWD_LOG_NONE) {
            write_begin(shard, slot, spill_out);
            return true;
        }
        leave(shard, slot);
    }
    return false;
}

bool lwd_shard_spill_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t status, uint32_t record)
{
    lwd_segment_t *segment = &shard->slots[ref.slot];
    lwd_segment_release(segment); /* it kept the slot from being recycled: bytes are still its own */
    shard->writing_bytes -= segment->bytes;
    segment->writing = false;
    if (status == LW_ERR_EXHAUSTED)
        shard->log_full = true;
    if (status == LW_ERR_INVALID)
        segment->stays = true;
    if (lwd_segment_live(shard, ref) == NULL)
        return false;
    if (status != LW_OK)
        return false;
    segment->log_record = record;
    lw_count(&shard->params.stats->spills, 1);
    lw_count(&shard->params.stats->spill_bytes, segment->bytes);
    leave(shard, ref.slot);
    return true;
}

/* ---- back ---- */
bool lwd_shard_absent(const lwd_shard_t *shard, lwd_ref_t ref)
{
    if (ref.slot >= shard->params.segment_max)
        return false;
    uint64_t word = atomic_load_explicit(&shard->slots[ref.slot].word, memory_order_acquire);
    lwd_segment_state_t state = (lwd_segment_state_t)(word & 0xff);
    return word >> 8 == ref.generation && lwd_segment_is_committed(state) && state != LWD_SEGMENT_WRITTEN;
}

bool lwd_shard_want(lwd_shard_t *shard, lwd_ref_t ref, uint64_t now_us)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL)
        return true;
    lwd_segment_touch(segment, now_us); /* what somebody waits for is not the coldest */
    switch (lwd_segment_state(segment)) {
    case LWD_SEGMENT_LEAVING:
        lwd_slot_list_remove(shard, &shard->leaving, ref.slot);
        shard->leaving_bytes -= segment->bytes;
        lwd_slot_list_push(shard, &shard->written, ref.slot);
        lwd_segment_move(segment, LWD_SEGMENT_WRITTEN);
        return true;
    case LWD_SEGMENT_SPILLED:
        if (!segment->wanted) {
            segment->wanted = true;
            lwd_slot_list_push(shard, &shard->wanted, ref.slot);
        }
        return false;
    case LWD_SEGMENT_LOADING: return false;
    default: return true;
    }
}

bool lwd_shard_load_take(lwd_shard_t *shard, lwd_load_t *load_out)
{
    uint32_t slot = shard->wanted.first;
    if (slot == LWD_SLOT_NONE)
        return false;
    lwd_segment_t *segment = &shard->slots[slot];
    uint64_t offset = lwd_extents_alloc(shard->params.extents, segment->bytes);
    if (offset == LWD_EXTENT_NONE) {
        lwd_shard_note_want(shard, segment->bytes);
        return false;
    }
    lwd_slot_list_remove(shard, &shard->wanted, slot);
    segment->wanted = false;
    segment->extent = shard->params.arena + offset;
    segment->extent_offset = offset;
    shard->spilled--;
    shard->loading++;
    lwd_segment_move(segment, LWD_SEGMENT_LOADING);
    lwd_segment_borrow(segment);
    *load_out = (lwd_load_t){
        .ref = {slot, lwd_segment_generation(segment)},
        .record = segment->log_record,
        .into = segment->extent,
        .bytes = segment->bytes,
    };
    return true;
}

/* No room for the tables now: back to the log, and wanted again. */
static lw_status_t load_again(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_segment_unload(shard, segment);
    shard->loading--;
    shard->spilled++;
    lwd_segment_move(segment, LWD_SEGMENT_SPILLED);
    segment->wanted = true;
    lwd_slot_list_push(shard, &shard->wanted, slot);
    lwd_shard_note_want(shard, segment->bytes);
    return LW_ERR_EXHAUSTED;
}

lw_status_t lwd_shard_load_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t status, uint64_t now_us,
                               lw_error_t *error)
{
    lwd_segment_release(&shard->slots[ref.slot]);
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL)
        return LW_ERR_STALE;
    LW_ASSERT(lwd_segment_state(segment) == LWD_SEGMENT_LOADING);
    if (status == LW_OK)
        status = lwd_shard_commit_verify(shard, ref, error);
    if (status != LW_OK) {
        lwd_segment_kill(shard, ref.slot);
        lw_count(&shard->params.stats->loads_failed, 1);
        return status;
    }
    if (lwd_segment_build_table(shard, segment) != LW_OK)
        return load_again(shard, ref.slot);
    shard->loading--;
    lwd_slot_list_push(shard, &shard->written, ref.slot);
    shard->settled++;
    lwd_segment_touch(segment, now_us);
    lwd_segment_journal(shard, segment);
    lwd_segment_move(segment, LWD_SEGMENT_WRITTEN);
    lw_count(&shard->params.stats->loads, 1);
    lw_count(&shard->params.stats->load_bytes, segment->bytes);
    return LW_OK;
}
