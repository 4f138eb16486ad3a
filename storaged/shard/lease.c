/* lease.c - which writers are alive: clients by their connections. Owner thread. */
#include <stdlib.h>

#include "storaged/shard/shard_private.h"

lw_status_t lwd_clients_init(lwd_client_table_t *table, uint32_t capacity)
{
    table->rows = calloc(capacity, sizeof(*table->rows));
    lw_status_t status = lwd_known_init(&table->known, capacity);
    return table->rows == NULL ? LW_ERR_NO_MEMORY : status;
}

void lwd_clients_fini(lwd_client_table_t *table)
{
    lwd_known_fini(&table->known);
    free(table->rows);
}

lwd_client_t *lwd_client_find(const lwd_client_table_t *table, uint64_t id, uint64_t incarnation)
{
    uint32_t row = lwd_known_find(&table->known, id, incarnation);
    return row == LWD_NIL ? NULL : &table->rows[row];
}

static lwd_client_t *client_get(lwd_client_table_t *table, uint64_t id, uint64_t incarnation)
{
    lwd_client_t *found = lwd_client_find(table, id, incarnation);
    if (found != NULL)
        return found;
    uint32_t row = lwd_known_add(&table->known, id, incarnation);
    if (row == LWD_NIL)
        return NULL;
    table->rows[row] = (lwd_client_t){.connections = 0};
    return &table->rows[row];
}

lw_status_t lwd_shard_client_up(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation)
{
    lwd_client_t *client = client_get(&shard->clients, client_id, incarnation);
    if (client == NULL)
        return LW_ERR_EXHAUSTED;
    if (client->connections++ == 0)
        lwd_known_busy(&shard->clients.known, (uint32_t)(client - shard->clients.rows));
    return LW_OK;
}

void lwd_shard_client_down(lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us)
{
    lwd_client_t *client = lwd_client_find(&shard->clients, client_id, incarnation);
    if (client == NULL || client->connections == 0)
        return;
    if (--client->connections == 0) {
        client->gone_us = now_us;
        lwd_known_idle(&shard->clients.known, (uint32_t)(client - shard->clients.rows));
    }
}

bool lwd_writer_gone(const lwd_shard_t *shard, uint64_t client_id, uint64_t incarnation, uint64_t now_us)
{
    const lwd_client_t *client = lwd_client_find(&shard->clients, client_id, incarnation);
    if (client == NULL)
        return true;
    uint64_t lease_us = atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    return client->connections == 0 && now_us - client->gone_us >= lease_us;
}
