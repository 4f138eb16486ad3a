/* shard.c - slots, the name index, and the way of a segment out: kill, quiet point, recycle. Owner thread. */
#include "storaged/shard/shard.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "storaged/shard/shard_private.h"

/* ---- lists of slots ---- */
void lwd_slot_list_push(lwd_shard_t *shard, lwd_slot_list_t *list, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    segment->list_next = LWD_SLOT_NONE;
    segment->list_prev = list->last;
    if (list->last != LWD_SLOT_NONE)
        shard->slots[list->last].list_next = slot;
    else
        list->first = slot;
    list->last = slot;
    list->count++;
}

void lwd_slot_list_remove(lwd_shard_t *shard, lwd_slot_list_t *list, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    if (segment->list_prev != LWD_SLOT_NONE)
        shard->slots[segment->list_prev].list_next = segment->list_next;
    else
        list->first = segment->list_next;
    if (segment->list_next != LWD_SLOT_NONE)
        shard->slots[segment->list_next].list_prev = segment->list_prev;
    else
        list->last = segment->list_prev;
    LW_ASSERT(list->count > 0);
    list->count--;
}

/* ---- name index ---- */
uint32_t lwd_index_find(const lwd_shard_t *shard, const lw_segment_name_t *name, uint64_t hash)
{
    for (uint32_t at = (uint32_t)hash & shard->index_mask; shard->index[at] != 0;
         at = (at + 1) & shard->index_mask) {
        const lwd_segment_t *segment = &shard->slots[shard->index[at] - 1];
        if (segment->name_hash == hash && lw_segment_name_equal(&segment->name, name))
            return shard->index[at] - 1;
    }
    return LWD_SLOT_NONE;
}

void lwd_index_insert(lwd_shard_t *shard, uint32_t slot)
{
    uint32_t at = (uint32_t)shard->slots[slot].name_hash & shard->index_mask;
    while (shard->index[at] != 0)
        at = (at + 1) & shard->index_mask;
    shard->index[at] = slot + 1;
}

/* Removes without tombstones: later entries of the run move up into the gap when their home allows it. */
static void index_remove(lwd_shard_t *shard, uint32_t slot)
{
    uint32_t mask = shard->index_mask;
    uint32_t gap = (uint32_t)shard->slots[slot].name_hash & mask;
    while (shard->index[gap] != slot + 1) {
        LW_ASSERT(shard->index[gap] != 0);
        gap = (gap + 1) & mask;
    }
    for (uint32_t at = (gap + 1) & mask; shard->index[at] != 0; at = (at + 1) & mask) {
        uint32_t home = (uint32_t)shard->slots[shard->index[at] - 1].name_hash & mask;
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            shard->index[gap] = shard->index[at];
            gap = at;
        }
    }
    shard->index[gap] = 0;
}

/* ---- life ---- */
lw_status_t lwd_shard_create(const lwd_shard_params_t *params, lwd_shard_t **shard_out)
{
    LW_ASSERT(params->segment_max > 0 && params->origin_max > 0 && params->client_max > 0);
    lwd_shard_t *shard = calloc(1, sizeof(*shard));
    if (shard == NULL)
        return LW_ERR_NO_MEMORY;
    shard->params = *params;
    atomic_init(&shard->lease_us, params->lease_us);
    uint32_t index_size = 16;
    while (index_size < 2 * (uint64_t)params->segment_max)
        index_size *= 2;
    shard->index_mask = index_size - 1;
    shard->index = calloc(index_size, sizeof(*shard->index));
    shard->slots = aligned_alloc(64, params->segment_max * sizeof(*shard->slots));
    shard->scratch = malloc((65536 + 1) * sizeof(*shard->scratch));
    lw_status_t origins = lwd_origins_init(&shard->origins, params->origin_max);
    lw_status_t clients = lwd_clients_init(&shard->clients, params->client_max);
    if (shard->index == NULL || shard->slots == NULL || shard->scratch == NULL || origins != LW_OK ||
        clients != LW_OK) {
        lwd_shard_destroy(shard);
        return LW_ERR_NO_MEMORY;
    }
    memset(shard->slots, 0, params->segment_max * sizeof(*shard->slots));
    shard->free = (lwd_slot_list_t){LWD_SLOT_NONE, LWD_SLOT_NONE, 0};
    shard->reserved = shard->written = shard->dying = shard->free;
    shard->restored = shard->leaving = shard->wanted = shard->free;
    for (uint32_t slot = 0; slot < params->segment_max; slot++) {
        atomic_init(&shard->slots[slot].word, lwd_segment_word(1, LWD_SEGMENT_FREE));
        lwd_slot_list_push(shard, &shard->free, slot);
    }
    *shard_out = shard;
    return LW_OK;
}

void lwd_shard_destroy(lwd_shard_t *shard)
{
    if (shard == NULL)
        return;
    lwd_origins_fini(&shard->origins);
    lwd_clients_fini(&shard->clients);
    free(shard->index);
    free(shard->slots);
    free(shard->scratch);
    free(shard);
}

void lwd_shard_set_lease(lwd_shard_t *shard, uint64_t lease_us)
{
    atomic_store_explicit(&shard->lease_us, lease_us, memory_order_relaxed);
}

void lwd_segment_move(lwd_segment_t *segment, lwd_segment_state_t to)
{
    LW_ASSERT(lwd_segment_may_move(lwd_segment_state(segment), to));
    uint64_t word = lwd_segment_word(lwd_segment_generation(segment), to);
    atomic_store_explicit(&segment->word, word, memory_order_seq_cst);
}

/* Out of the list and the count that its state stands for. */
static void leave_list(lwd_shard_t *shard, uint32_t slot, lwd_segment_state_t state)
{
    lwd_segment_t *segment = &shard->slots[slot];
    switch (state) {
    case LWD_SEGMENT_WRITTEN: lwd_slot_list_remove(shard, &shard->written, slot); break;
    case LWD_SEGMENT_RESERVED:
    case LWD_SEGMENT_VERIFYING: lwd_slot_list_remove(shard, &shard->reserved, slot); break;
    case LWD_SEGMENT_RESTORED:
        lwd_slot_list_remove(shard, &shard->restored, slot);
        atomic_store_explicit(&shard->restoring, shard->restored.count, memory_order_release);
        break;
    case LWD_SEGMENT_LEAVING:
        lwd_slot_list_remove(shard, &shard->leaving, slot);
        shard->leaving_bytes -= segment->bytes;
        break;
    case LWD_SEGMENT_SPILLED:
        if (segment->wanted)
            lwd_slot_list_remove(shard, &shard->wanted, slot);
        segment->wanted = false;
        shard->spilled--;
        break;
    case LWD_SEGMENT_LOADING: shard->loading--; break;
    default: break;
    }
}

void lwd_segment_kill(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_segment_state_t state = lwd_segment_state(segment);
    LW_ASSERT(lwd_segment_may_move(state, LWD_SEGMENT_DYING));
    leave_list(shard, slot, state);
    index_remove(shard, slot);
    lwd_origin_unlink(shard, slot);
    if (shard->params.journal != NULL && segment->extent != NULL)
        lwd_journal_clear(shard->params.journal, segment->extent_offset);
    if (segment->log_record != LWD_LOG_NONE && shard->log_forget != NULL)
        shard->log_forget(shard->log_arg, segment->log_record);
    segment->log_record = LWD_LOG_NONE;
    shard->settled++;
    /* Every handle to it is stale from here on. */
    uint32_t generation = lwd_segment_generation(segment) + (LW_FAULT(GENERATION_REUSE) ? 0 : 1);
    atomic_store_explicit(&segment->word, lwd_segment_word(generation, LWD_SEGMENT_DYING),
                          memory_order_seq_cst);
    segment->retired = lwd_guard_retire(shard->params.guards);
    lwd_slot_list_push(shard, &shard->dying, slot);
}

static void recycle_one(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_segment_unload(shard, segment);
    lwd_slot_list_remove(shard, &shard->dying, slot);
    lwd_segment_move(segment, LWD_SEGMENT_FREE);
    lwd_slot_list_push(shard, &shard->free, slot);
}

void lwd_shard_recycle(lwd_shard_t *shard, uint32_t most)
{
    uint32_t slot = shard->dying.first;
    for (uint32_t i = 0; i < most && slot != LWD_SLOT_NONE; i++) {
        lwd_segment_t *segment = &shard->slots[slot];
        uint32_t next = segment->list_next;
        if (!lwd_guard_passed(shard->params.guards, segment->retired))
            return; /* the others were retired later */
        if (atomic_load_explicit(&segment->borrows, memory_order_seq_cst) == 0) {
            recycle_one(shard, slot);
        } else { /* a slow transfer must not hide the ones behind it */
            lwd_slot_list_remove(shard, &shard->dying, slot);
            segment->retired = lwd_guard_retire(shard->params.guards);
            lwd_slot_list_push(shard, &shard->dying, slot);
        }
        slot = next;
    }
}

uint32_t lwd_slot_fill(lwd_shard_t *shard, lwd_origin_t *origin, const lw_segment_name_t *name, uint64_t hash,
                       uint64_t bytes, uint64_t offset)
{
    uint32_t slot = shard->free.first;
    lwd_slot_list_remove(shard, &shard->free, slot);
    lwd_segment_t *segment = &shard->slots[slot];
    LW_ASSERT(atomic_load(&segment->borrows) == 0);
    segment->extent = offset != LWD_EXTENT_NONE ? shard->params.arena + offset : NULL;
    segment->bytes = bytes;
    segment->head_count = 0;
    segment->name = *name;
    segment->name_hash = hash;
    segment->extent_offset = offset;
    segment->book_offset = LWD_EXTENT_NONE;
    segment->client_id = segment->incarnation = 0;
    segment->ask_us = segment->written_us = segment->seen = segment->unplaced_us = 0;
    segment->held = false;
    segment->asked = 0;
    segment->log_record = LWD_LOG_NONE;
    segment->writing = segment->wanted = segment->stays = false;
    segment->fleet_id = 0;
    atomic_store_explicit(&segment->heat, 0, memory_order_relaxed);
    lwd_origin_link(shard, origin, slot);
    lwd_index_insert(shard, slot);
    return slot;
}

lwd_segment_t *lwd_segment_live(const lwd_shard_t *shard, lwd_ref_t ref)
{
    if (ref.slot >= shard->params.segment_max)
        return NULL;
    lwd_segment_t *segment = &shard->slots[ref.slot];
    uint64_t word = atomic_load_explicit(&segment->word, memory_order_acquire);
    lwd_segment_state_t state = (lwd_segment_state_t)(word & 0xff);
    if (word >> 8 != ref.generation || state == LWD_SEGMENT_FREE || state == LWD_SEGMENT_DYING)
        return NULL;
    return segment;
}

/* ---- reading ---- */
lw_status_t lwd_shard_find(const lwd_shard_t *shard, const lw_segment_name_t *name, lwd_ref_t *ref_out)
{
    uint32_t slot = lwd_index_find(shard, name, lw_segment_name_hash(name));
    if (slot == LWD_SLOT_NONE || !lwd_segment_is_committed(lwd_segment_state(&shard->slots[slot])))
        return LW_ERR_NOT_FOUND;
    *ref_out = (lwd_ref_t){slot, lwd_segment_generation(&shard->slots[slot])};
    return LW_OK;
}

lwd_segment_t *lwd_shard_slot(const lwd_shard_t *shard, uint32_t slot)
{
    return slot < shard->params.segment_max ? &shard->slots[slot] : NULL;
}

lwd_segment_t *lwd_shard_readable(const lwd_shard_t *shard, lwd_ref_t ref)
{
    if (ref.slot >= shard->params.segment_max)
        return NULL;
    lwd_segment_t *segment = &shard->slots[ref.slot];
    uint64_t word = atomic_load_explicit(&segment->word, memory_order_acquire);
    return word == lwd_segment_word(ref.generation, LWD_SEGMENT_WRITTEN) ? segment : NULL;
}

/* ---- figures ---- */
void lwd_shard_usage(const lwd_shard_t *shard, lwd_shard_usage_t *usage_out)
{
    lwd_extents_usage_t arena, book;
    lwd_extents_usage(shard->params.extents, &arena);
    lwd_extents_usage(shard->params.book_extents, &book);
    *usage_out = (lwd_shard_usage_t){
        .arena_bytes = arena.bytes,
        .arena_used_bytes = arena.used_bytes,
        .book_used_bytes = book.used_bytes,
        .segments = shard->written.count,
        .reservations = shard->reserved.count,
        .dying = shard->dying.count,
        .segment_max = shard->params.segment_max,
        .spilled = shard->spilled + shard->loading,
        .restored = shard->restored.count,
    };
}

/* One slot's part of lwd_shard_check; adds to the counts of its state and its extents. */
static bool slot_check(const lwd_shard_t *shard, uint32_t slot, uint32_t *count, uint64_t *extent_count)
{
    const lwd_segment_t *segment = &shard->slots[slot];
    lwd_segment_state_t state = lwd_segment_state(segment);
    if (state >= LWD_SEGMENT_STATE_COUNT)
        return false;
    count[state]++;
    if (state == LWD_SEGMENT_FREE)
        return segment->extent == NULL && atomic_load(&segment->borrows) == 0;
    bool in_memory = segment->extent_offset != LWD_EXTENT_NONE;
    *extent_count += in_memory ? 1 : 0;
    if (in_memory != (segment->extent != NULL) ||
        (in_memory && (segment->extent != shard->params.arena + segment->extent_offset ||
                       lwd_extents_bytes(shard->params.extents, segment->extent_offset) < segment->bytes)))
        return false;
    bool indexed = lwd_index_find(shard, &segment->name, segment->name_hash) == slot;
    if (state == LWD_SEGMENT_DYING)
        return !indexed;
    if (state == LWD_SEGMENT_SPILLED ? in_memory : !in_memory && state != LWD_SEGMENT_RESTORED)
        return false;
    if (!in_memory && segment->log_record == LWD_LOG_NONE)
        return false;
    bool tables = state == LWD_SEGMENT_WRITTEN || state == LWD_SEGMENT_LEAVING ||
                  (state == LWD_SEGMENT_RESTORED && in_memory);
    if (tables != (segment->heads != NULL))
        return false;
    return indexed && shard->origins.known.links[segment->origin].id == segment->name.origin;
}

bool lwd_shard_check(const lwd_shard_t *shard)
{
    uint32_t count[LWD_SEGMENT_STATE_COUNT] = {0};
    uint64_t extent_count = 0, linked = 0;
    for (uint32_t slot = 0; slot < shard->params.segment_max; slot++) {
        if (!slot_check(shard, slot, count, &extent_count))
            return false;
    }
    for (uint32_t row = 0; row < shard->origins.known.used; row++)
        linked += shard->origins.rows[row].count;
    lwd_extents_usage_t usage;
    lwd_extents_usage(shard->params.extents, &usage);
    uint32_t held = count[LWD_SEGMENT_RESERVED] + count[LWD_SEGMENT_VERIFYING];
    return count[LWD_SEGMENT_FREE] == shard->free.count && held == shard->reserved.count &&
           count[LWD_SEGMENT_DYING] == shard->dying.count && count[LWD_SEGMENT_WRITTEN] == shard->written.count &&
           count[LWD_SEGMENT_RESTORED] == shard->restored.count &&
           count[LWD_SEGMENT_LEAVING] == shard->leaving.count && count[LWD_SEGMENT_SPILLED] == shard->spilled &&
           count[LWD_SEGMENT_LOADING] == shard->loading &&
           linked == (uint64_t)held + shard->written.count + shard->restored.count + shard->leaving.count +
                         shard->spilled + shard->loading && usage.extent_count == extent_count &&
           lwd_extents_check(shard->params.extents) && lwd_extents_check(shard->params.book_extents);
}
