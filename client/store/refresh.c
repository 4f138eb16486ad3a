/* refresh.c - the store's side of the mailbox: when a session's manifest is to be read again, and what becomes of the answer.
 *
 * Asked for when a replica fails (at most once a second for each session), at once when every replica has failed and wants are
 * parked (again at most once a second), and after the fleet has changed: copies move for a while then, so it is asked with
 * growing pauses until nothing has changed for a minute. */
#include <string.h>

#include "base/log.h"
#include "client/store/store_private.h"

#define EVERY_US 1000000ull
#define FOLLOW_MAX_US 32000000ull
#define PLACES_A_ROUND 32u /* of an answer: a round stays short */

bool lwc_refresh_can(const lwc_store_t *store, const lwc_segment_t *segment)
{
    return store->params.refresh && segment && !segment->gone && !store->closing;
}

void lwc_refresh_want(lwc_store_t *store, const lwc_segment_t *segment, bool urgent)
{
    if (!lwc_refresh_can(store, segment))
        return;
    lwc_refresh_slot_t *slot = &store->refreshes[segment->session_slot];
    slot->wanted = true;
    slot->urgent = slot->urgent || urgent;
}

void lwc_refresh_fleet_changed(lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->params.session_capacity; i++) {
        store->refreshes[i].follow_us = EVERY_US;
        store->refreshes[i].follow_at_us = store->now_us + EVERY_US;
    }
}

static void ask(lwc_store_t *store, uint32_t at)
{
    lwc_refresh_slot_t *slot = &store->refreshes[at];
    lwc_refresh_cell_t *cell = &store->params.refresh->cells[at];
    uint64_t now = store->now_us;
    bool follow = slot->follow_us > 0 && now >= slot->follow_at_us;
    bool wanted = slot->wanted && now >= slot->wanted_at_us, urgent = slot->urgent && now >= slot->urgent_at_us;
    if (!(follow || wanted || urgent) || atomic_load_explicit(&cell->state, memory_order_acquire) != LWC_REFRESH_IDLE)
        return;
    if (urgent)
        slot->urgent_at_us = now + EVERY_US;
    slot->wanted_at_us = now + EVERY_US;
    slot->follow_at_us = lw_max_u64(slot->follow_at_us, now + EVERY_US);
    slot->wanted = slot->urgent = slot->changed = false;
    slot->asking = true;
    slot->asked_us = now;
    slot->applied = 0;
    cell->session_id = store->sessions[at].session_id;
    memcpy(cell->token, store->sessions[at].token, LW_TOKEN_BYTES);
    store->stats.refreshes++;
    atomic_store_explicit(&cell->state, LWC_REFRESH_ASKED, memory_order_release);
}

/* ---- answers ---- */

/* This session's row: another one of this process, a fork or a second handle, may have a row of the same name. */
static lwc_segment_t *find_row(lwc_store_t *store, lwc_refresh_slot_t *slot, const lwc_place_t *place, uint32_t *row_out)
{
    uint32_t at = (uint32_t)(slot - store->refreshes);
    uint32_t layers = store->params.refresh->layers, rows = store->params.segment_capacity / layers;
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t row = slot->hint + i < rows ? slot->hint + i : slot->hint + i - rows;
        lwc_segment_t *segment = &store->segments[row * layers];
        if (!segment->used || segment->session_slot != at || segment->name.origin != place->origin ||
            segment->name.first_token != place->first_token || segment->name.generation != place->generation)
            continue;
        slot->hint = row + 1 < rows ? row + 1 : 0; /* a session's rows are mostly neighbours */
        *row_out = row;
        return segment;
    }
    return NULL;
}

static void apply(lwc_store_t *store, lwc_refresh_slot_t *slot, const lwc_place_t *place, const uint16_t *nodes)
{
    uint32_t layers = store->params.refresh->layers, row;
    lwc_segment_t *segment = find_row(store, slot, place, &row);
    if (!segment)
        return; /* it was published since, or nobody reads it here */
    segment->confirmed_us = slot->asked_us;
    for (uint32_t layer = 0; layer < layers; layer++)
        if (lwc_segment_move(store, row * layers + layer, nodes + (size_t)layer * LW_REPLICAS_MAX, place->replicas)) {
            slot->changed = true;
            store->stats.segments_moved++;
        }
}

/* Rows that were known when the question was asked and that the manifest does not have: the session was dropped or evicted. */
static void sweep(lwc_store_t *store, uint32_t at)
{
    uint32_t layers = store->params.refresh->layers, rows = store->params.segment_capacity / layers, gone = 0;
    uint64_t asked_us = store->refreshes[at].asked_us;
    for (uint32_t row = 0; row < rows; row++) {
        lwc_segment_t *segment = &store->segments[row * layers];
        if (!segment->used || segment->session_slot != at || segment->known_us >= asked_us ||
            segment->confirmed_us == asked_us || segment->gone)
            continue;
        gone++;
        for (uint32_t layer = 0; layer < layers; layer++) {
            segment[layer].gone = true;
            segment[layer].moves++;
        }
        store->moves++;
    }
    if (gone > 0)
        LW_WARN("store", "session %llu: %u ranges are in no manifest any more: it was dropped or evicted",
                (unsigned long long)store->sessions[at].session_id, gone);
}

static void finish(lwc_store_t *store, uint32_t at, lwc_refresh_cell_t *cell)
{
    lwc_refresh_slot_t *slot = &store->refreshes[at];
    bool known = cell->status == LW_OK || cell->status == LW_ERR_NOT_FOUND;
    bool ours = store->sessions[at].used && store->sessions[at].session_id == cell->session_id;
    slot->asking = false;
    if (ours && known)
        sweep(store, at);
    atomic_store_explicit(&cell->state, LWC_REFRESH_IDLE, memory_order_release);
    store->events++;
    if (!ours)
        return;
    if (known && slot->follow_us > 0) {
        slot->follow_us = slot->changed ? EVERY_US : slot->follow_us < FOLLOW_MAX_US ? 2 * slot->follow_us : 0;
        slot->follow_at_us = store->now_us + slot->follow_us;
    }
    if (known)
        lwc_parked_try(store, at, slot->asked_us);
    else
        slot->wanted = slot->urgent = true;
}

static void take(lwc_store_t *store, uint32_t at)
{
    lwc_refresh_slot_t *slot = &store->refreshes[at];
    lwc_refresh_t *refresh = store->params.refresh;
    lwc_refresh_cell_t *cell = &refresh->cells[at];
    if (atomic_load_explicit(&cell->state, memory_order_acquire) != LWC_REFRESH_ANSWERED)
        return;
    uint32_t count = cell->status == LW_OK && store->sessions[at].used &&
                             store->sessions[at].session_id == cell->session_id ? cell->count : 0;
    for (uint32_t i = 0; i < PLACES_A_ROUND && slot->applied < count; i++, slot->applied++)
        apply(store, slot, &cell->places[slot->applied],
              cell->nodes + (size_t)slot->applied * refresh->layers * LW_REPLICAS_MAX);
    if (slot->applied >= count)
        finish(store, at, cell);
}

void lwc_refreshes_scan(lwc_store_t *store)
{
    if (!store->params.refresh)
        return;
    for (uint32_t at = 0; at < store->params.session_capacity; at++) {
        if (store->refreshes[at].asking)
            take(store, at);
        else if (store->sessions[at].used)
            ask(store, at);
    }
}
