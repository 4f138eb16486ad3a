/* admit.c - once a step, after its last layer: releases the step's tickets in order, keeps what deserves a
 * place in the cache, and makes room for it. The only op besides publish and retire that changes a placement
 * other than REMOTE to PENDING. Serves every backend whose memory is host memory. */
#include <stdbool.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"

/* Victims are sought among so many pages from the hand on: the one whose entry was wanted longest ago goes.
 * Close to LRU, and the work for one page is bounded. */
#define EVICT_LOOK 32u

static lwk_page_class_t *class_of(lwk_store_t *store, const lwk_tile_t *tile, uint32_t entry)
{
    return &store->pages[entry < tile->cluster_count ? 0 : 1];
}

static void free_page(lwk_page_class_t *pages, uint32_t page)
{
    pages->owner[page].tile = UINT32_MAX;
    pages->free_list[pages->free_count++] = page;
}

static void evict(lwk_store_t *store, lwk_page_owner_t owner)
{
    lwk_tile_t *tile = &store->tiles[owner.tile];
    lwk_page_class_t *pages = class_of(store, tile, owner.entry);
    if (owner.entry < tile->cluster_count)
        for (uint32_t i = 0; i < lwk_cluster_pages(tile->sizes[owner.entry]); i++)
            free_page(pages, tile->pages[tile->page_base[owner.entry] + i]);
    else
        free_page(pages, lwk_place_number(tile->place[owner.entry]));
    tile->place[owner.entry] = lwk_place(LWK_PLACE_REMOTE, 0);
    store->counters->evicted++;
}

/* Frees at least one page of a class; false when every page is in use by this step. */
static bool make_room(lwk_store_t *store, lwk_page_class_t *pages)
{
    for (uint32_t seen = 0; seen < pages->count;) {
        lwk_page_owner_t victim = {.tile = UINT32_MAX};
        uint32_t oldest = store->step;
        for (uint32_t i = 0; i < EVICT_LOOK && seen < pages->count; i++, seen++) {
            lwk_page_owner_t owner = pages->owner[pages->hand];
            pages->hand = pages->hand + 1 == pages->count ? 0 : pages->hand + 1;
            if (owner.tile == UINT32_MAX)
                continue;
            uint32_t stamp = store->tiles[owner.tile].stamp[owner.entry];
            if (stamp < oldest) {
                oldest = stamp;
                victim = owner;
            }
        }
        if (victim.tile != UINT32_MAX) {
            evict(store, victim);
            return true;
        }
    }
    return false;
}

static uint32_t take_page(lwk_page_class_t *pages, uint32_t tile, uint32_t entry)
{
    uint32_t page = pages->free_list[--pages->free_count];
    pages->owner[page] = (lwk_page_owner_t){.tile = tile, .entry = entry};
    return page;
}

static bool keep(lwk_store_t *store, uint32_t number, uint32_t entry, const uint8_t *record)
{
    lwk_tile_t *tile = &store->tiles[number];
    lwk_page_class_t *pages = class_of(store, tile, entry);
    uint32_t size = lwk_entry_size(tile, entry);
    uint32_t wanted = entry < tile->cluster_count ? lwk_cluster_pages(size) : 1;
    if (wanted > pages->count)
        return false;
    while (pages->free_count < wanted)
        if (!make_room(store, pages))
            return false;
    uint64_t row_bytes = lwk_row_bytes(&store->shape), page_bytes = lwk_page_bytes(&store->shape, pages);
    uint32_t page = 0;
    for (uint32_t i = 0; i < wanted; i++) {
        uint32_t first = i * pages->tokens,
                 count = size - first < pages->tokens ? size - first : pages->tokens;
        page = take_page(pages, number, entry);
        uint8_t *to = pages->bytes + page * page_bytes;
        memcpy(to, record + first * row_bytes, count * row_bytes);
        memcpy(to + pages->tokens * row_bytes, record + (size + first) * row_bytes, count * row_bytes);
        if (entry < tile->cluster_count)
            tile->pages[tile->page_base[entry] + i] = page;
    }
    tile->place[entry] = lwk_place(LWK_PLACE_CACHED, entry < tile->cluster_count ? 0 : page);
    return true;
}

static void release(lwk_store_t *store, uint64_t number, uint64_t arrival)
{
    const lwk_ticket_t *ticket = &store->tickets[number & (store->ticket_capacity - 1)];
    uint32_t tile_number = lwk_tile_number(&store->shape, ticket->row, ticket->layer, ticket->head);
    lwk_tile_t *tile = &store->tiles[tile_number];
    bool failed = (uint32_t)arrival == LWK_LANDING_FAILED;
    store->counters->tickets_failed += failed;
    /* After a retire the row may be empty, or hold another range whose entry never heard of this ticket. */
    if (ticket->entry >= lwk_tile_entries(tile) ||
        tile->place[ticket->entry] != lwk_place(LWK_PLACE_PENDING, (uint32_t)number))
        return;
    tile->place[ticket->entry] = lwk_place(LWK_PLACE_REMOTE, 0);
    if (failed || !(ticket->flags & LWK_TICKET_ADMIT))
        return;
    const uint8_t *record = store->landing + (uint64_t)(uint32_t)arrival * LWK_LANDING_UNIT;
    if (keep(store, tile_number, ticket->entry, record))
        store->counters->admitted++;
    else
        store->counters->admit_refused++;
}

static void tell_outcomes(const lwk_step_t *step)
{
    lwk_store_t *store = step->store;
    if (store->outcomes == NULL || store->step_done == NULL)
        return;
    uint64_t *row = store->outcomes + (size_t)(store->step % LWK_OUTCOME_STEPS) * store->session_capacity;
    for (uint32_t s = 0; s < step->session_count; s++)
        if (step->slots[s] != LWK_SLOT_NONE)
            __atomic_store_n(&row[step->slots[s]], lwk_outcome(store->step, step->sessions[step->slots[s]].error),
                             __ATOMIC_RELAXED);
    __atomic_store_n(store->step_done, store->step, __ATOMIC_RELEASE);
}

lw_status_t lwk_ref_admit(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    if (step->store == NULL)
        return LW_ERR_INVALID;
    lwk_store_t *store = step->store;
    uint64_t tail = *store->ticket_tail, head = *store->ticket_head;
    while (tail < head) {
        uint64_t arrival =
            __atomic_load_n(&store->arrivals[tail & (store->ticket_capacity - 1)], __ATOMIC_ACQUIRE);
        if (!lwk_has_arrived(arrival, tail))
            break; /* a prefetch that is still under way: released by a later step */
        release(store, tail, arrival);
        tail++;
    }
    __atomic_store_n(store->ticket_tail, tail, __ATOMIC_RELEASE);
    if (step->layer + 1 == store->shape.layer_count)
        tell_outcomes(step);
    return LW_OK;
}

lw_status_t lwk_ref_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream)
{
    if (args->store == NULL || args->row >= args->range_capacity)
        return LW_ERR_INVALID;
    lwk_store_t *store = args->store;
    uint32_t per_row = store->shape.layer_count * store->shape.kv_head_count;
    for (uint32_t i = 0; i < per_row; i++) {
        uint32_t number = args->row * per_row + i;
        lwk_tile_t *tile = &store->tiles[number];
        for (uint32_t e = 0; e < lwk_tile_entries(tile); e++)
            if (lwk_place_kind(tile->place[e]) == LWK_PLACE_CACHED)
                evict(store, (lwk_page_owner_t){.tile = number, .entry = e});
        memset(tile, 0, sizeof *tile);
    }
    return LW_OK;
}
