/* node.c - one simulated storaged: arena, shard and worker of the product; what the control side does for a real one (checking
 * tokens, endings, making room) is done here over the simulated catalogue, after a random delay. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define BOOK_BYTES (1u << 20)
#define SYNC_US 500000ull

static lw_status_t on_ask(void *arg, const lwd_ask_t *ask)
{
    sim_node_t *node = arg;
    for (uint32_t i = 0; i < SIM_ASKS; i++) {
        sim_ask_t *slot = &node->asks[i];
        if (slot->used)
            continue;
        slot->used = true;
        slot->ask = *ask;
        if (ask->name_count > 0)
            memcpy(slot->names, ask->names, ask->name_count * sizeof(*ask->names));
        slot->due_us = node->world->now_us + 100 + sim_below(node->world, 5000);
        return LW_OK;
    }
    return LW_ERR_BUSY;
}

static bool answer(sim_node_t *node, sim_ask_t *slot)
{
    sim_world_t *world = node->world;
    const lwd_ask_t *ask = &slot->ask;
    lwd_news_t news = {.ticket = ask->ticket};
    uint64_t freed;
    switch (ask->kind) {
    case LWD_ASK_CHECK:
        news.kind = LWD_NEWS_CHECKED;
        news.status = world->catalogue_ops->check(world->catalogue, ask->session_id, ask->token, ask->write, ask->term,
                                                  world->now_us, news.checked.origins, news.checked.cuts, LWD_ORIGINS_MAX,
                                                  &news.checked.count, NULL);
        break;
    case LWD_ASK_ORPHANS:
        news.kind = LWD_NEWS_ORPHANS;
        news.orphans.count = ask->name_count;
        news.status = world->catalogue_ops->orphans(world->catalogue, node->index, slot->names, ask->name_count,
                                                    world->now_us, news.orphans.dead, NULL);
        break;
    case LWD_ASK_SPACE:
        if (world->catalogue_ops->expire(world->catalogue, ask->bytes, world->now_us, &freed, NULL) == LW_OK && freed > 0)
            world->stats.evictions++;
        return true;
    }
    return lwd_worker_tell(node->worker, &news) == LW_OK;
}

static void sync_endings(sim_node_t *node)
{
    sim_world_t *world = node->world;
    lwd_ended_t rows[64];
    uint32_t count = 0;
    if (world->catalogue_ops->ended(world->catalogue, node->ended_serial, 64, rows, &count, NULL) != LW_OK)
        return;
    for (uint32_t i = 0; i < count; i++) {
        lwd_news_t news = {.kind = LWD_NEWS_ENDED,
                           .ended = {.origin = rows[i].origin,
                                     .from_token = rows[i].from_token,
                                     .generation_max = rows[i].generation_max,
                                     .rank = rows[i].rank}};
        if (lwd_worker_tell(node->worker, &news) != LW_OK)
            return; /* the rest at the next sync */
        node->ended_serial = rows[i].serial;
    }
}

static lw_status_t make_shard(sim_node_t *node)
{
    sim_world_t *world = node->world;
    lwd_shard_params_t params = {.arena = node->arena,
                                 .book = node->book,
                                 .segment_max = world->ample ? 1024 : 64,
                                 .origin_max = 256,
                                 .client_max = 32,
                                 .lease_us = SIM_LEASE_US,
                                 .guards = &node->guards,
                                 .stats = &node->stats};
    lw_status_t status = lwd_extents_create(world->arena_bytes, 1024, &node->extents);
    if (status == LW_OK)
        status = lwd_extents_create(BOOK_BYTES, 256, &node->book_extents);
    params.extents = node->extents;
    params.book_extents = node->book_extents;
    lwd_guards_init(&node->guards, 1);
    return status == LW_OK ? lwd_shard_create(&params, &node->shard) : status;
}

static lw_status_t make_worker(sim_node_t *node)
{
    sim_world_t *world = node->world;
    lw_error_t error = {0};
    char listen[32];
    snprintf(listen, sizeof(listen), "%s:%u", node->host, 7000u);
    lwd_worker_params_t params = {.fabric = lw_fabric_sim(),
                                  .listen = listen,
                                  .shard = node->shard,
                                  .guards = &node->guards,
                                  .node = &node->node,
                                  .stats = &node->stats,
                                  .clock = &world->clock,
                                  .arena = node->arena,
                                  .arena_bytes = world->arena_bytes,
                                  .reply_bytes = LWD_REPLY_BYTES_MIN,
                                  .connection_max = 24,
                                  .request_max = 64,
                                  .attachment_max = 1024,
                                  .attachments_per_connection_max = 512,
                                  .change_max = 64,
                                  .ask = on_ask,
                                  .ask_arg = node};
    lw_fabric_sim_use(world->net, node->host);
    lw_status_t status = lwd_worker_create(&params, &node->worker, &error);
    if (status != LW_OK)
        fprintf(stderr, "sim: node %u: %s\n", node->index, error.text);
    return status;
}

lw_status_t sim_node_start(sim_node_t *node)
{
    sim_world_t *world = node->world;
    memset(node->asks, 0, sizeof(node->asks));
    memset(&node->stats, 0, sizeof(node->stats));
    node->incarnation++;
    node->ended_serial = 0;
    node->node = (lwd_node_t){.node_id = node->index + 1u, .incarnation = node->incarnation};
    atomic_store(&node->node.fleet_id, world->view.fleet_id);
    atomic_store(&node->node.epoch, world->view.epoch);
    atomic_store(&node->node.writable, true);
    node->arena = aligned_alloc(4096, world->arena_bytes);
    node->book = aligned_alloc(4096, BOOK_BYTES);
    if (!node->arena || !node->book)
        return LW_ERR_NO_MEMORY;
    memset(node->arena, 0xA5, world->arena_bytes);
    lw_status_t status = make_shard(node);
    if (status == LW_OK)
        status = make_worker(node);
    if (status == LW_OK && world->moves)
        status = sim_move_start(node);
    if (status != LW_OK)
        return status;
    node->started_us = world->now_us;
    snprintf(node->address, sizeof(node->address), "%s", lwd_worker_address(node->worker));
    node->up = true;
    node->sync_us = 0;
    node->stalled_until_us = 0;
    node->disturbed_us = world->now_us;
    return LW_OK;
}

void sim_node_stop(sim_node_t *node)
{
    sim_move_stop(node);
    lwd_worker_destroy(node->worker);
    lwd_shard_destroy(node->shard);
    lwd_extents_destroy(node->extents);
    lwd_extents_destroy(node->book_extents);
    free(node->arena);
    free(node->book);
    node->worker = NULL;
    node->shard = NULL;
    node->extents = node->book_extents = NULL;
    node->arena = node->book = NULL;
    node->up = false;
}

void sim_node_round(sim_node_t *node)
{
    sim_world_t *world = node->world;
    for (uint32_t i = 0; i < SIM_ASKS; i++)
        if (node->asks[i].used && node->asks[i].due_us <= world->now_us && answer(node, &node->asks[i]))
            node->asks[i].used = false;
    if (world->now_us >= node->sync_us) {
        node->sync_us = world->now_us + SYNC_US;
        atomic_store(&node->node.epoch, world->view.epoch);
        sync_endings(node);
    }
    lwd_worker_round(node->worker, world->now_us);
    if (node->move)
        sim_move_round(node);
}

bool sim_node_holds(const sim_node_t *node, const lw_segment_name_t *name)
{
    lwd_ref_t ref;
    return node->up && lwd_shard_find(node->shard, name, &ref) == LW_OK;
}

uint64_t sim_node_used_bytes(const sim_node_t *node)
{
    lwd_shard_usage_t usage;
    lwd_shard_usage(node->shard, &usage);
    return usage.arena_used_bytes;
}
