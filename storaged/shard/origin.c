/* origin.c - sessions as this node sees them: their segments here, and the highest term that may write. Owner
 * thread.
 *
 * Endings walk one origin's segments instead of all. Origins without segments are kept as long as there is
 * room, for their fence. */
#include <stdlib.h>

#include "storaged/shard/shard_private.h"

lw_status_t lwd_origins_init(lwd_origin_table_t *table, uint32_t capacity)
{
    table->rows = calloc(capacity, sizeof(*table->rows));
    lw_status_t status = lwd_known_init(&table->known, capacity);
    return table->rows == NULL ? LW_ERR_NO_MEMORY : status;
}

void lwd_origins_fini(lwd_origin_table_t *table)
{
    lwd_known_fini(&table->known);
    free(table->rows);
}

lwd_origin_t *lwd_origin_find(const lwd_origin_table_t *table, uint64_t id)
{
    uint32_t row = lwd_known_find(&table->known, id, 0);
    return row == LWD_NIL ? NULL : &table->rows[row];
}

lwd_origin_t *lwd_origin_get(lwd_origin_table_t *table, uint64_t id)
{
    lwd_origin_t *found = lwd_origin_find(table, id);
    if (found != NULL)
        return found;
    uint32_t row = lwd_known_add(&table->known, id, 0);
    if (row == LWD_NIL)
        return NULL;
    table->rows[row] = (lwd_origin_t){.first = LWD_SLOT_NONE};
    return &table->rows[row];
}

void lwd_origin_link(lwd_shard_t *shard, lwd_origin_t *origin, uint32_t slot)
{
    lwd_segment_t *segment = &shard->slots[slot];
    uint32_t row = (uint32_t)(origin - shard->origins.rows);
    if (origin->count++ == 0)
        lwd_known_busy(&shard->origins.known, row);
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
        lwd_known_idle(&shard->origins.known, segment->origin);
}
