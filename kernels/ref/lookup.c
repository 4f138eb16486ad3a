/* lookup.c - from marks to items: where each chosen entry lies now, when it was last wanted, and a ticket for
 * each that is remote; and later, where a ticket's record landed. Serves every backend whose memory is host
 * memory. The only place that issues tickets. */
#include <stdbool.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"

typedef struct lookup {
    const lwk_step_t *step;
    lwk_store_t *store;
    lwk_session_t *session;
    uint32_t head, row; /* KV head; range row */
    lwk_tile_t *tile;
    uint64_t issued, released;
} lookup_t;

/* Second touch within the window. A touch by another session in this very step counts: the record is shared.
 */
static uint32_t admit_flag(const lookup_t *look, uint32_t entry)
{
    uint32_t stamp = look->tile->stamp[entry], window = look->store->admit_window;
    if (look->step->flags & LWK_STEP_PREFETCH)
        return 0;
    return window == 0 || (stamp != 0 && look->store->step - stamp <= window) ? LWK_TICKET_ADMIT : 0;
}

static int issue(lookup_t *look, uint32_t entry)
{
    lwk_store_t *store = look->store;
    if (look->issued - look->released >= store->ticket_capacity) {
        if (!(look->step->flags & LWK_STEP_PREFETCH)) /* a guess that finds no room costs nothing */
            lwk_session_fail(look->session, LW_ERR_EXHAUSTED);
        return 0;
    }
    bool local = look->tile->local != 0;
    store->tickets[look->issued & (store->ticket_capacity - 1)] = (lwk_ticket_t){
        .row = look->row,
        .layer = (uint16_t)look->step->layer,
        .head = (uint16_t)look->head,
        .entry = (uint16_t)entry,
        .size = (uint16_t)lwk_entry_size(look->tile, entry),
        .flags = admit_flag(look, entry) | (look->step->flags & LWK_STEP_PREFETCH ? LWK_TICKET_PREFETCH : 0) |
                 (local ? LWK_TICKET_LOCAL : 0),
    };
    if (local)
        __atomic_store_n(&store->arrivals[look->issued & (store->ticket_capacity - 1)],
                         lwk_arrival(look->issued, lwk_local_record(&store->shape, look->tile, entry)),
                         __ATOMIC_RELEASE);
    look->tile->place[entry] = lwk_place(LWK_PLACE_PENDING, (uint32_t)look->issued);
    look->issued++;
    return 1;
}

/* 0: no ticket is left. */
static int look_up(lookup_t *look, uint32_t entry, lwk_counters_t *counted)
{
    uint32_t size = lwk_entry_size(look->tile, entry), place = look->tile->place[entry];
    switch (lwk_place_kind(place)) {
    case LWK_PLACE_CACHED:
        counted->hits++;
        counted->hit_tokens += size;
        break;
    case LWK_PLACE_PENDING: {
        uint64_t ticket = lwk_ticket_number(look->released, lwk_place_number(place));
        __atomic_fetch_or(&look->store->tickets[ticket & (look->store->ticket_capacity - 1)].flags,
                          admit_flag(look, entry), __ATOMIC_RELAXED);
        counted->pending++;
        counted->pending_tokens += size;
        break;
    }
    default:
        if (!issue(look, entry))
            return 0;
        counted->misses++;
        counted->miss_tokens += size;
    }
    if (!(look->step->flags & LWK_STEP_PREFETCH))
        look->tile->stamp[entry] = look->store->step;
    return 1;
}

static void add_counters(lwk_counters_t *to, const lwk_counters_t *from)
{
    to->head_steps += from->head_steps;
    to->entries_indexed += from->entries_indexed;
    to->entries_retrieved += from->entries_retrieved;
    to->entries_estimated += from->entries_estimated;
    to->tokens_indexed += from->tokens_indexed;
    to->tokens_retrieved += from->tokens_retrieved;
    to->tokens_steady += from->tokens_steady;
    to->hits += from->hits;
    to->misses += from->misses;
    to->pending += from->pending;
    to->hit_tokens += from->hit_tokens;
    to->miss_tokens += from->miss_tokens;
    to->pending_tokens += from->pending_tokens;
}

/* Looks up every entry of one range that is marked; returns how many items it added. */
static uint32_t look_up_range(lookup_t *look, uint32_t range, uint8_t *mark, lwk_item_t *items,
                              lwk_counters_t *counted)
{
    uint32_t entries = lwk_tile_entries(look->tile), count = 0;
    for (uint32_t e = 0; e < entries; e++) {
        const uint8_t *next = memchr(mark + e, LWK_MARK_RETRIEVE, entries - e);
        if (next == NULL)
            break;
        e = (uint32_t)(next - mark);
        if (!look_up(look, e, counted)) {
            mark[e] = LWK_MARK_ESTIMATE;
            counted->entries_estimated++;
            continue;
        }
        uint32_t size = lwk_entry_size(look->tile, e);
        items[count++] = (lwk_item_t){
            .range = range, .entry = (uint16_t)e, .size = (uint16_t)size, .place = look->tile->place[e]};
        counted->tokens_retrieved += size;
    }
    return count;
}

void lwk_ref_lookup(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t indexed, uint32_t estimated)
{
    const lwk_scratch_t *scratch = &step->scratch;
    lwk_store_t *store = step->store;
    lookup_t look = {
        .step = step,
        .store = store,
        .session = lwk_step_session(step, s),
        .head = head,
        .issued = *store->ticket_head,
        .released = *store->ticket_tail,
    };
    size_t kv_row = lwk_kv_row(step, s, head);
    uint8_t *mark = scratch->mark + kv_row * scratch->entry_capacity;
    lwk_item_t *items = scratch->items + kv_row * scratch->item_capacity;
    lwk_counters_t counted = {.head_steps = 1,
                              .entries_indexed = indexed,
                              .entries_estimated = estimated,
                              .tokens_indexed = lwk_indexed_tokens(look.session),
                              .tokens_steady = lwk_steady_count(look.session)};
    uint32_t count = 0;
    for (uint32_t range = 0; range < look.session->range_count; range++) {
        lwk_range_ref_t ref = look.session->ranges[range];
        look.row = ref.row;
        look.tile = &store->tiles[lwk_tile_number(&step->shape, ref.row, step->layer, head)];
        count += look_up_range(&look, range, mark + ref.entry_base, items + count, &counted);
    }
    counted.entries_retrieved = count;
    int prefetch = (step->flags & LWK_STEP_PREFETCH) != 0;
    scratch->item_count[kv_row] = prefetch ? 0 : count;
    if (!prefetch)
        add_counters(store->counters, &counted);
    /* The doorbell: whoever sees the new head sees the tickets. */
    if (look.issued != *store->ticket_head)
        __atomic_store_n(store->ticket_head, look.issued, __ATOMIC_RELEASE);
}

/* The caller of a host backend enters finish when all arrivals are written, so what is missing now is late.
 */
const uint8_t *lwk_ref_landed(const lwk_step_t *step, lwk_session_t *session, const lwk_item_t *item)
{
    const lwk_store_t *store = step->store;
    uint64_t ticket = lwk_ticket_number(*store->ticket_tail, lwk_place_number(item->place));
    uint64_t arrival =
        __atomic_load_n(&store->arrivals[ticket & (store->ticket_capacity - 1)], __ATOMIC_ACQUIRE);
    if (!lwk_has_arrived(arrival, ticket)) {
        lwk_session_fail(session, LW_ERR_TIMEOUT);
        return NULL;
    }
    if ((uint32_t)arrival == LWK_LANDING_FAILED) {
        lwk_session_fail(session, LW_ERR_SESSION_LOST);
        return NULL;
    }
    return store->landing + (uint64_t)(uint32_t)arrival * LWK_LANDING_UNIT;
}
