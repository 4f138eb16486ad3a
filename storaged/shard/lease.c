/* lease.c - which writers are alive: clients by their connections. Owner thread. */
#include <stdlib.h>

#include "storaged/shard/shard_private.h"

static uint32_t bucket_of(uint64_t id, uint32_t mask)
{
    return (uint32_t)((id * 0x9E3779B97F4A7C15ull) >> 32) & mask;
}

lw_status_t lwd_clients_init(lwd_client_table_t *table, uint32_t capacity)
{
    uint32_t buckets = 1;
    while (buckets < capacity)
        buckets *= 2;
    *table = (lwd_client_table_t){
        .capacity = capacity, .mask = buckets - 1, .idle_first = LWD_NIL, .idle_last = LWD_NIL};
    table->rows = calloc(capacity, sizeof(*table->rows));
    table->buckets = malloc(buckets * sizeof(*table->buckets));
    if (table->rows == NULL || table->buckets == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < buckets; i++)
        table->buckets[i] = LWD_NIL;
    return LW_OK;
}

void lwd_clients_fini(lwd_client_table_t *table)
{
    free(table->rows);
    free(table->buckets);
}

lwd_client_t *lwd_client_find(const lwd_client_table_t *table, uint64_t id)
{
    uint32_t row = table->buckets[bucket_of(id, table->mask)];
    while (row != LWD_NIL && table->rows[row].id != id)
        row = table->rows[row].hash_next;
    return row == LWD_NIL ? NULL : &table->rows[row];
}

static void idle_push(lwd_client_table_t *table, uint32_t row)
{
    lwd_client_t *client = &table->rows[row];
    client->idle_next = LWD_NIL;
    client->idle_prev = table->idle_last;
    if (table->idle_last != LWD_NIL)
        table->rows[table->idle_last].idle_next = row;
    else
        table->idle_first = row;
    table->idle_last = row;
}

static void idle_remove(lwd_client_table_t *table, uint32_t row)
{
    lwd_client_t *client = &table->rows[row];
    if (client->idle_prev != LWD_NIL)
        table->rows[client->idle_prev].idle_next = client->idle_next;
    else
        table->idle_first = client->idle_next;
    if (client->idle_next != LWD_NIL)
        table->rows[client->idle_next].idle_prev = client->idle_prev;
    else
        table->idle_last = client->idle_prev;
}

static lwd_client_t *client_get(lwd_client_table_t *table, uint64_t id)
{
    lwd_client_t *found = lwd_client_find(table, id);
    if (found != NULL)
        return found;
    uint32_t row;
    if (table->used < table->capacity) {
        row = table->used++;
    } else {
        row = table->idle_first;
        if (row == LWD_NIL)
            return NULL;
        uint32_t *link = &table->buckets[bucket_of(table->rows[row].id, table->mask)];
        while (*link != row)
            link = &table->rows[*link].hash_next;
        *link = table->rows[row].hash_next;
        idle_remove(table, row);
    }
    lwd_client_t *client = &table->rows[row];
    uint32_t *bucket = &table->buckets[bucket_of(id, table->mask)];
    *client = (lwd_client_t){.id = id, .hash_next = *bucket};
    *bucket = row;
    idle_push(table, row);
    return client;
}

/* Frees the reservations of earlier incarnations at once: their writer can never come back. */
static void free_superseded(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation)
{
    uint32_t slot = shard->reserved.first;
    while (slot != LWD_SLOT_NONE) {
        lwd_segment_t *segment = &shard->slots[slot];
        uint32_t next = segment->list_next;
        if (segment->client_id == client_id && segment->incarnation < incarnation) {
            lwd_segment_kill(shard, slot);
            lw_count(&shard->params.stats->reserves_reclaimed, 1);
        }
        slot = next;
    }
}

lw_status_t lwd_shard_client_up(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation)
{
    lwd_client_t *client = client_get(&shard->clients, client_id);
    if (client == NULL)
        return LW_ERR_EXHAUSTED;
    if (incarnation < client->incarnation)
        return LW_ERR_STALE;
    if (client->connections == 0)
        idle_remove(&shard->clients, (uint32_t)(client - shard->clients.rows));
    if (incarnation > client->incarnation) {
        free_superseded(shard, client_id, incarnation);
        client->incarnation = incarnation;
        client->connections = 0; /* the old incarnation's connections count no more */
    }
    client->connections++;
    return LW_OK;
}

void lwd_shard_client_down(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us)
{
    lwd_client_t *client = lwd_client_find(&shard->clients, client_id);
    if (client == NULL || client->incarnation != incarnation || client->connections == 0)
        return;
    if (--client->connections == 0) {
        client->gone_us = now_us;
        idle_push(&shard->clients, (uint32_t)(client - shard->clients.rows));
    }
}

bool lwd_writer_gone(const lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us)
{
    const lwd_client_t *client = lwd_client_find(&shard->clients, client_id);
    if (client == NULL || client->incarnation != incarnation)
        return true;
    uint64_t lease_us = atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    return client->connections == 0 && now_us - client->gone_us >= lease_us;
}
