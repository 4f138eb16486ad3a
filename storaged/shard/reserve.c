/* reserve.c - the first phase of a put: room for a name, and chunks landing in it. */
#include "base/fault.h"
#include "storaged/shard/shard_private.h"
#include "wire/segment_fmt.h"

lw_status_t lwd_shard_grant(lwd_shard_t *shard, uint64_t origin_id, uint32_t term)
{
    lwd_origin_t *origin = lwd_origin_get(&shard->origins, origin_id);
    if (origin == NULL)
        return LW_ERR_EXHAUSTED;
    if (term < origin->term)
        return LW_ERR_STALE;
    if (term == origin->term)
        return LW_OK;
    origin->term = term;
    uint32_t slot = origin->first;
    while (slot != LWD_SLOT_NONE) {
        lwd_segment_t *segment = &shard->slots[slot];
        uint32_t next = segment->origin_next;
        lwd_segment_state_t state = lwd_segment_state(segment);
        bool writes = (state == LWD_SEGMENT_RESERVED || state == LWD_SEGMENT_VERIFYING) && !segment->held;
        if (writes && segment->name.generation < term) {
            lwd_segment_kill(shard, slot);
            lw_count(&shard->params.stats->reserves_reclaimed, 1);
        }
        slot = next;
    }
    return LW_OK;
}

uint32_t lwd_segment_make(lwd_shard_t *shard, lwd_origin_t *origin, const lw_segment_name_t *name, uint64_t hash,
                          uint64_t bytes)
{
    lwd_shard_recycle(shard, LWD_TICK_SLOTS);
    if (LW_FAULT(RESERVE_FULL) || shard->free.count == 0)
        return LWD_SLOT_NONE;
    uint64_t offset = lwd_extents_alloc(shard->params.extents, bytes);
    if (offset == LWD_EXTENT_NONE)
        return LWD_SLOT_NONE;
    if (!lwd_load_room_left(shard, bytes)) {
        lwd_extents_free(shard->params.extents, offset);
        return LWD_SLOT_NONE;
    }
    uint32_t slot = lwd_slot_fill(shard, origin, name, hash, bytes, offset);
    lwd_slot_list_push(shard, &shard->reserved, slot);
    lwd_segment_move(&shard->slots[slot], LWD_SEGMENT_RESERVED);
    return slot;
}

/* RESERVE for a name that is here already. */
static lw_status_t reserve_again(lwd_shard_t *shard, uint32_t slot, const lwd_reserve_t *reserve,
                                 lwd_reserved_t *reserved_out)
{
    lwd_segment_t *segment = &shard->slots[slot];
    if (lwd_segment_state(segment) == LWD_SEGMENT_RESTORED)
        return LW_ERR_BUSY; /* the catalogue is being asked whether it lives */
    if (segment->bytes != reserve->bytes) {
        lw_count(&shard->params.stats->reserves_refused_exists, 1);
        return LW_ERR_EXISTS;
    }
    lw_count(&shard->params.stats->reserves_repeated, 1);
    segment->client_id = reserve->client_id; /* the latest writer keeps it alive */
    segment->incarnation = reserve->incarnation;
    *reserved_out = (lwd_reserved_t){
        .ref = {slot, lwd_segment_generation(segment)},
        .committed = lwd_segment_is_committed(lwd_segment_state(segment)),
    };
    return LW_OK;
}

static lw_status_t no_room(lwd_shard_t *shard, uint64_t bytes, lwd_reserved_t *reserved_out)
{
    lw_count(&shard->params.stats->reserves_refused_full, 1);
    lwd_shard_note_want(shard, shard->log_forget == NULL ? bytes : bytes + lwd_load_room(shard, bytes));
    bool soon = shard->dying.count > 0 || shard->leaving.count > 0 ||
                (shard->log_forget != NULL && !shard->log_full && shard->written.count > 0);
    reserved_out->retry_after_ms = soon ? LWD_RETRY_DYING_MS : LWD_RETRY_FULL_MS;
    return LW_ERR_EXHAUSTED;
}

lw_status_t lwd_shard_reserve(lwd_shard_t *shard, const lwd_reserve_t *reserve, lwd_reserved_t *reserved_out)
{
    const lw_segment_name_t *name = &reserve->name;
    *reserved_out = (lwd_reserved_t){0};
    if (reserve->bytes < sizeof(lw_segment_header_t) || reserve->bytes > lwd_segment_bytes_max(shard))
        return LW_ERR_INVALID;
    const lwd_client_t *client = lwd_client_find(&shard->clients, reserve->client_id, reserve->incarnation);
    lwd_origin_t *origin = lwd_origin_get(&shard->origins, name->origin);
    if (origin == NULL)
        return no_room(shard, reserve->bytes, reserved_out);
    if (client == NULL || name->generation < origin->term) {
        lw_count(&shard->params.stats->reserves_refused_stale, 1);
        return LW_ERR_STALE;
    }
    uint64_t hash = lw_segment_name_hash(name);
    uint32_t slot = lwd_index_find(shard, name, hash);
    if (slot != LWD_SLOT_NONE)
        return reserve_again(shard, slot, reserve, reserved_out);
    slot = lwd_segment_make(shard, origin, name, hash, reserve->bytes);
    if (slot == LWD_SLOT_NONE)
        return no_room(shard, reserve->bytes, reserved_out);
    lwd_segment_t *segment = &shard->slots[slot];
    segment->client_id = reserve->client_id;
    segment->incarnation = reserve->incarnation;
    origin->term = name->generation;
    lw_count(&shard->params.stats->reserves, 1);
    reserved_out->ref = (lwd_ref_t){slot, lwd_segment_generation(segment)};
    return LW_OK;
}

lw_status_t lwd_shard_write_begin(lwd_shard_t *shard, lwd_ref_t ref, uint64_t offset, uint64_t bytes,
                                  uint8_t **into_out)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL)
        return LW_ERR_STALE;
    if (offset > segment->bytes || bytes > segment->bytes - offset)
        return LW_ERR_INVALID;
    /* Borrow first, then look again: commit_begin publishes VERIFYING first and then looks for borrowers, so
     * that one of the two always sees the other. */
    lwd_segment_borrow(segment);
    uint64_t word = atomic_load_explicit(&segment->word, memory_order_seq_cst);
    if (word != lwd_segment_word(ref.generation, LWD_SEGMENT_RESERVED)) {
        lwd_segment_release(segment);
        return word >> 8 == ref.generation ? LW_ERR_EXISTS : LW_ERR_STALE;
    }
    *into_out = segment->extent + offset;
    return LW_OK;
}

void lwd_shard_write_end(lwd_shard_t *shard, lwd_ref_t ref)
{
    lwd_segment_release(&shard->slots[ref.slot]);
}

lw_status_t lwd_shard_abort(lwd_shard_t *shard, lwd_ref_t ref)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL)
        return LW_ERR_STALE;
    if (lwd_segment_state(segment) != LWD_SEGMENT_RESERVED && lwd_segment_state(segment) != LWD_SEGMENT_VERIFYING)
        return LW_ERR_EXISTS;
    lwd_segment_kill(shard, ref.slot);
    lw_count(&shard->params.stats->aborts, 1);
    return LW_OK;
}
