/* known.c - a hash by (id, part) with chains through the rows, and the list of idle rows. */
#include "storaged/shard/known.h"

#include <stdlib.h>

static uint32_t *bucket_of(const lwd_known_t *known, uint64_t id, uint64_t part)
{
    uint64_t mixed = (id ^ part * 0xBF58476D1CE4E5B9ull) * 0x9E3779B97F4A7C15ull;
    return &known->buckets[(uint32_t)(mixed >> 32) & known->mask];
}

lw_status_t lwd_known_init(lwd_known_t *known, uint32_t capacity)
{
    uint32_t buckets = 1;
    while (buckets < capacity)
        buckets *= 2;
    *known =
        (lwd_known_t){.capacity = capacity, .mask = buckets - 1, .idle_first = LWD_NIL, .idle_last = LWD_NIL};
    known->links = calloc(capacity, sizeof(*known->links));
    known->buckets = malloc(buckets * sizeof(*known->buckets));
    if (known->links == NULL || known->buckets == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < buckets; i++)
        known->buckets[i] = LWD_NIL;
    return LW_OK;
}

void lwd_known_fini(lwd_known_t *known)
{
    free(known->links);
    free(known->buckets);
}

uint32_t lwd_known_find(const lwd_known_t *known, uint64_t id, uint64_t part)
{
    uint32_t row = *bucket_of(known, id, part);
    while (row != LWD_NIL && (known->links[row].id != id || known->links[row].part != part))
        row = known->links[row].hash_next;
    return row;
}

void lwd_known_idle(lwd_known_t *known, uint32_t row)
{
    lwd_known_link_t *link = &known->links[row];
    link->idle_next = LWD_NIL;
    link->idle_prev = known->idle_last;
    if (known->idle_last != LWD_NIL)
        known->links[known->idle_last].idle_next = row;
    else
        known->idle_first = row;
    known->idle_last = row;
}

void lwd_known_busy(lwd_known_t *known, uint32_t row)
{
    lwd_known_link_t *link = &known->links[row];
    if (link->idle_prev != LWD_NIL)
        known->links[link->idle_prev].idle_next = link->idle_next;
    else
        known->idle_first = link->idle_next;
    if (link->idle_next != LWD_NIL)
        known->links[link->idle_next].idle_prev = link->idle_prev;
    else
        known->idle_last = link->idle_prev;
}

static void forget(lwd_known_t *known, uint32_t row)
{
    uint32_t *at = bucket_of(known, known->links[row].id, known->links[row].part);
    while (*at != row)
        at = &known->links[*at].hash_next;
    *at = known->links[row].hash_next;
    lwd_known_busy(known, row);
}

uint32_t lwd_known_add(lwd_known_t *known, uint64_t id, uint64_t part)
{
    uint32_t row = known->idle_first;
    if (known->used < known->capacity)
        row = known->used++;
    else if (row == LWD_NIL)
        return LWD_NIL;
    else
        forget(known, row);
    uint32_t *bucket = bucket_of(known, id, part);
    known->links[row] = (lwd_known_link_t){.id = id, .part = part, .hash_next = *bucket};
    *bucket = row;
    lwd_known_idle(known, row);
    return row;
}
