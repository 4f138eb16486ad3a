/* origin.c - sessions as this node sees them: their segments here, and the highest term that may write. Owner
 * thread.
 *
 * Endings walk one origin's segments instead of all. Origins without segments are kept as long as there is
 * room, for their fence. */
#include <stdlib.h>

#include "storaged/shard/shard_private.h"

static uint32_t bucket_of(uint64_t id, uint32_t mask)
{
    return (uint32_t)((id * 0x9E3779B97F4A7C15ull) >> 32) & mask;
}

lw_status_t lwd_origins_init(lwd_origin_table_t *table, uint32_t capacity)
{
    uint32_t buckets = 1;
    while (buckets < capacity)
        buckets *= 2;
    *table = (lwd_origin_table_t){
        .capacity = capacity, .mask = buckets - 1, .idle_first = LWD_NIL, .idle_last = LWD_NIL};
    table->rows = calloc(capacity, sizeof(*table->rows));
    table->buckets = malloc(buckets * sizeof(*table->buckets));
    if (table->rows == NULL || table->buckets == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < buckets; i++)
        table->buckets[i] = LWD_NIL;
    return LW_OK;
}

void lwd_origins_fini(lwd_origin_table_t *table)
{
    free(table->rows);
    free(table->buckets);
}

lwd_origin_t *lwd_origin_find(const lwd_origin_table_t *table, uint64_t id)
{
    uint32_t row = table->buckets[bucket_of(id, table->mask)];
    while (row != LWD_NIL && table->rows[row].id != id)
        row = table->rows[row].hash_next;
    return row == LWD_NIL ? NULL : &table->rows[row];
}

static void idle_push(lwd_origin_table_t *table, uint32_t row)
{
    lwd_origin_t *origin = &table->rows[row];
    origin->idle_next = LWD_NIL;
    origin->idle_prev = table->idle_last;
    if (table->idle_last != LWD_NIL)
        table->rows[table->idle_last].idle_next = row;
    else
        table->idle_first = row;
    table->idle_last = row;
}

static void idle_remove(lwd_origin_table_t *table, uint32_t row)
{
    lwd_origin_t *origin = &table->rows[row];
    if (origin->idle_prev != LWD_NIL)
        table->rows[origin->idle_prev].idle_next = origin->idle_next;
    else
        table->idle_first = origin->idle_next;
    if (origin->idle_next != LWD_NIL)
        table->rows[origin->idle_next].idle_prev = origin->idle_prev;
    else
        table->idle_last = origin->idle_prev;
}

static void forget(lwd_origin_table_t *table, uint32_t row)
{
    uint32_t *link = &table->buckets[bucket_of(table->rows[row].id, table->mask)];
    while (*link != row)
        link = &table->rows[*link].hash_next;
    *link = table->rows[row].hash_next;
    idle_remove(table, row);
}

lwd_origin_t *lwd_origin_get(lwd_origin_table_t *table, uint64_t id)
{
    lwd_origin_t *found = lwd_origin_find(table, id);
    if (found != NULL)
        return found;
    uint32_t row;
    if (table->used < table->capacity) {
        row = table->used++;
    } else {
        row = table->idle_first;
        if (row == LWD_NIL)
            return NULL;
        forget(table, row);
    }
    lwd_origin_t *origin = &table->rows[row];
    uint32_t *bucket = &table->buckets[bucket_of(id, table->mask)];
    *origin = (lwd_origin_t){.id = id, .first = LWD_SLOT_NONE, .hash_next = *bucket};
    *bucket = row;
    idle_push(table, row);
    return origin;
}

void lwd_origin_link(lwd_shard_t *shard, lwd_origin_t *origin, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    uint32_t row = (uint32_t)(origin - shard->origins.rows);
    if (origin->count++ == 0)
        idle_remove(&shard->origins, row);
    segment->origin = row;
    segment->origin_prev = LWD_SLOT_NONE;
    segment->origin_next = origin->first;
    if (origin->first != LWD_SLOT_NONE)
        shard->slots[origin->first].origin_prev = slot;
    origin->first = slot;
}

void lwd_origin_unlink(lwd_shard_t *shard, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    lwd_origin_t *origin = &shard->origins.rows[segment->origin];
    if (segment->origin_prev != LWD_SLOT_NONE)
        shard->slots[segment->origin_prev].origin_next = segment->origin_next;
    else
        origin->first = segment->origin_next;
    if (segment->origin_next != LWD_SLOT_NONE)
        shard->slots[segment->origin_next].origin_prev = segment->origin_prev;
    LW_ASSERT(origin->count > 0);
    if (--origin->count == 0)
        idle_push(&shard->origins, segment->origin);
}
