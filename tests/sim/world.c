/* world.c - time, faults and the end: what the seed has in store for a fleet. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_US 6000000ull
#define WIND_DOWN_US 30000000ull
#define CHECK_EVERY 512u
#define WHOLE_US 10000000ull /* from the last fault to full replication, at most */
#define WHOLE_TICKS 500u

static uint64_t now_of(void *self)
{
    return ((sim_world_t *)self)->now_us;
}

void sim_violation(sim_world_t *world, const char *format, ...)
{
    va_list args;
    if (world->violated)
        return;
    world->violated = true;
    va_start(args, format);
    vsnprintf(world->violation, sizeof(world->violation), format, args);
    va_end(args);
}

void sim_trace(sim_world_t *world, const char *format, ...)
{
    va_list args;
    if (!world->trace)
        return;
    printf("%10.3f ms  ", (double)world->now_us / 1000);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

bool sim_chance(sim_world_t *world, double chance)
{
    return lw_prng_unit(&world->prng) < chance;
}

uint64_t sim_below(sim_world_t *world, uint64_t bound)
{
    return lw_prng_below(&world->prng, bound);
}

void sim_view_changed(sim_world_t *world)
{
    world->view.epoch++;
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        lw_node_t *row = &world->view_nodes[i];
        const sim_node_t *node = &world->nodes[i];
        row->id = i + 1;
        row->index = (uint16_t)i;
        row->incarnation = node->incarnation;
        row->state = !node->up ? LW_NODE_DOWN : node->draining ? LW_NODE_DRAINING : LW_NODE_UP;
        row->weight = 100;
        snprintf(row->data, sizeof(row->data), "%s", node->address);
    }
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (world->nodes[i].up && world->nodes[i].move)
            lwd_move_set_view(world->nodes[i].move, &world->view);
    for (uint32_t c = 0; c < SIM_CLIENTS; c++) {
        lw_error_t error = {0};
        sim_client_t *client = &world->clients[c];
        if (client->up && lwc_store_set_view(client->store, &world->view, &error) != LW_OK)
            sim_violation(world, "client %u: view: %s", c, error.text);
    }
}

/* ---- creation ---- */

/* What kind of run this is comes from the seed too: some are calm, some corrupt, some crash, some are short of memory. */
static void choose_faults(sim_world_t *world)
{
    lw_sim_faults_t faults = {.delay_min_us = 20, .delay_max_us = 50 + (uint32_t)sim_below(world, 5000)};
    if (sim_chance(world, 0.4))
        faults.drop = 0.0005 + 0.002 * lw_prng_unit(&world->prng);
    if (sim_chance(world, 0.3)) {
        world->corrupts = true;
        faults.corrupt = 0.001 + 0.02 * lw_prng_unit(&world->prng);
    }
    faults.close_after_us = 1000 + (uint32_t)sim_below(world, 20000);
    world->calm = sim_chance(world, 0.2);
    world->replicas = sim_chance(world, 0.5) ? SIM_REPLICAS : 1;
    world->arena_bytes = (sim_chance(world, 0.3) ? 96u : 1024u) << 10;
    world->moves = sim_chance(world, 0.6);
    world->ample = world->moves && world->arena_bytes > 96u << 10 && sim_chance(world, 0.7);
    if (world->ample)
        world->arena_bytes = 8u << 20;
    world->move_limits = (lwd_move_limits_t){.bytes_s = (1u << 20) + sim_below(world, 64u << 20),
                                             .repair_after_us = 10000 + sim_below(world, 400000),
                                             .rebalance_after_us = sim_chance(world, 0.5) ? 300000 : UINT64_MAX,
                                             .scan_us = 100000 + sim_below(world, 900000),
                                             .in_flight = 1 + (uint32_t)sim_below(world, 6)};
    lw_sim_net_faults(world->net, &faults);
    world->lossy = faults.drop > 0;
    if (sim_chance(world, 0.3)) {
        lw_fault_enable(LW_FAULT_REPLY_DROP, 0.003);
        world->lossy = true;
    }
    if (sim_chance(world, 0.3))
        lw_fault_enable(LW_FAULT_RESERVE_FULL, 0.05);
    if (world->corrupts && sim_chance(world, 0.5))
        lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 0.01);
}

lw_status_t sim_world_create(uint64_t seed, bool trace, sim_world_t **world_out)
{
    sim_world_t *world = calloc(1, sizeof(*world));
    lw_error_t error = {0};
    if (!world)
        return LW_ERR_NO_MEMORY;
    world->seed = seed;
    world->trace = trace;
    world->now_us = 1000000;
    world->end_us = world->now_us + RUN_US;
    world->clock = (lw_clock_t){.now_us = now_of, .unix_us = now_of, .self = world};
    world->catalogue_ops = lwd_catalogue_sim();
    world->view = (lw_view_t){.fleet_id = 77, .node_count = SIM_NODES, .nodes = world->view_nodes};
    lw_prng_seed(&world->prng, seed);
    lw_status_t status = lw_sim_net_create(seed, &world->net);
    if (status == LW_OK)
        status = world->catalogue_ops->open("", &world->catalogue, &error);
    if (status != LW_OK)
        goto err_destroy;
    choose_faults(world);
    for (uint32_t i = 0; i < SIM_NODES && status == LW_OK; i++) {
        sim_node_t *node = &world->nodes[i];
        node->world = world;
        node->index = (uint16_t)i;
        snprintf(node->host, sizeof(node->host), "node%u", i);
        status = sim_node_start(node);
    }
    sim_view_changed(world);
    for (uint32_t c = 0; c < SIM_CLIENTS && status == LW_OK; c++) {
        world->clients[c].world = world;
        world->clients[c].index = c;
        status = sim_client_start(&world->clients[c]);
    }
    if (status != LW_OK)
        goto err_destroy;
    *world_out = world;
    return LW_OK;

err_destroy:
    sim_world_destroy(world);
    return status;
}

void sim_world_destroy(sim_world_t *world)
{
    for (uint32_t c = 0; c < SIM_CLIENTS; c++)
        if (world->clients[c].up)
            sim_client_stop(&world->clients[c]);
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (world->nodes[i].up)
            sim_node_stop(&world->nodes[i]);
    if (world->catalogue)
        world->catalogue_ops->close(world->catalogue);
    if (world->net)
        lw_sim_net_destroy(world->net);
    free(world);
}

/* ---- faults ---- */

static void stop_node(sim_world_t *world, sim_node_t *node, uint64_t away_us)
{
    lw_sim_net_crash(world->net, node->host);
    sim_node_stop(node);
    node->draining = false;
    node->restart_us = world->now_us + away_us;
    sim_view_changed(world);
}

static void crash_node(sim_world_t *world, sim_node_t *node)
{
    bool for_good = world->moves && sim_chance(world, 0.4);
    sim_trace(world, for_good ? "node %u dies for good" : "node %u dies", node->index);
    world->stats.crashes++;
    world->stats.losses += for_good;
    stop_node(world, node, for_good ? 2 * RUN_US : 1000 + sim_below(world, 1500000));
}

static uint32_t nodes_up(const sim_world_t *world)
{
    uint32_t up = 0;
    for (uint32_t i = 0; i < SIM_NODES; i++)
        up += world->nodes[i].up && !world->nodes[i].draining;
    return up;
}

/* A node that is to leave goes when its mover says that nothing is placed on it. */
static void drain(sim_world_t *world, sim_node_t *node)
{
    lwd_move_status_t status;
    lwd_shard_usage_t usage;
    if (!node->draining) {
        sim_trace(world, "node %u is drained", node->index);
        node->draining = true;
        sim_view_changed(world);
        return;
    }
    lwd_move_status(node->move, &status);
    lwd_shard_usage(node->shard, &usage);
    if (status.empty_scans < 2 || usage.reservations > 0 || world->now_us < node->stalled_until_us)
        return;
    sim_trace(world, "node %u is empty and leaves", node->index);
    world->stats.drains++;
    stop_node(world, node, 1000 + sim_below(world, 1500000));
}

static void restart_node(sim_world_t *world, sim_node_t *node)
{
    if (sim_node_start(node) != LW_OK) {
        sim_violation(world, "node %u does not start again", node->index);
        return;
    }
    sim_trace(world, "node %u is back", node->index);
    sim_view_changed(world);
}

static void crash_client(sim_world_t *world, sim_client_t *client)
{
    char host[16];
    snprintf(host, sizeof(host), "client%u", client->index);
    sim_trace(world, "client %u dies", client->index);
    world->stats.client_crashes++;
    lw_sim_net_crash(world->net, host);
    sim_client_stop(client);
    client->restart_us = world->now_us + 1000 + sim_below(world, 500000);
}

static void partition(sim_world_t *world, bool cut)
{
    for (uint32_t c = 0; c < SIM_CLIENTS; c++)
        for (uint32_t i = 0; i < SIM_NODES; i++) {
            char host[16];
            snprintf(host, sizeof(host), "client%u", c);
            if (!cut || sim_chance(world, 0.3))
                lw_sim_net_partition(world->net, host, world->nodes[i].host, cut);
        }
    world->stats.partitions += cut;
    for (uint32_t i = 0; i < SIM_NODES; i++)
        world->nodes[i].disturbed_us = cut ? UINT64_MAX / 2 : world->now_us;
    world->heal_us = cut ? world->now_us + 10000 + sim_below(world, 1200000) : 0;
    sim_trace(world, cut ? "some are cut off" : "healed");
}

static void stall(sim_world_t *world, sim_node_t *node)
{
    node->stalled_until_us = world->now_us + 10000 + sim_below(world, 2500000);
    node->disturbed_us = node->stalled_until_us;
    world->stats.stalls++;
    sim_trace(world, "node %u stops for %llu ms", node->index,
              (unsigned long long)(node->stalled_until_us - world->now_us) / 1000);
}

static void inject(sim_world_t *world)
{
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (!world->nodes[i].up && world->now_us >= world->nodes[i].restart_us)
            restart_node(world, &world->nodes[i]);
    for (uint32_t c = 0; c < SIM_CLIENTS; c++)
        if (!world->clients[c].up && world->now_us >= world->clients[c].restart_us &&
            sim_client_start(&world->clients[c]) != LW_OK)
            sim_violation(world, "client %u does not start again", c);
    if (world->heal_us && world->now_us >= world->heal_us)
        partition(world, false);
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (world->nodes[i].up && world->nodes[i].draining)
            drain(world, &world->nodes[i]);
    if (world->calm || world->now_us >= world->end_us)
        return;
    if (sim_chance(world, 0.00004)) {
        sim_node_t *node = &world->nodes[sim_below(world, SIM_NODES)];
        if (node->up)
            crash_node(world, node);
    }
    if (world->moves && sim_chance(world, 0.00004)) {
        sim_node_t *node = &world->nodes[sim_below(world, SIM_NODES)];
        if (node->up && !node->draining && nodes_up(world) > SIM_REPLICAS)
            drain(world, node);
    }
    if (sim_chance(world, 0.00004)) {
        sim_node_t *node = &world->nodes[sim_below(world, SIM_NODES)];
        if (node->up && world->now_us >= node->stalled_until_us)
            stall(world, node);
    }
    if (sim_chance(world, 0.00004)) {
        sim_client_t *client = &world->clients[sim_below(world, SIM_CLIENTS)];
        if (client->up)
            crash_client(world, client);
    }
    if (!world->heal_us && sim_chance(world, 0.00005))
        partition(world, true);
}

/* ---- checking ---- */

static void check_tables(sim_world_t *world)
{
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        const sim_node_t *node = &world->nodes[i];
        if (!node->up)
            continue;
        if (!lwd_shard_check(node->shard) || !lwd_extents_check(node->extents) || !lwd_worker_check(node->worker))
            sim_violation(world, "node %u: its tables do not agree", i);
    }
    sim_check_placed(world);
}

static void tick(sim_world_t *world)
{
    world->now_us += SIM_TICK_US;
    world->stats.ticks++;
    inject(world);
    lw_sim_net_round(world->net, world->now_us);
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (world->nodes[i].up && world->now_us >= world->nodes[i].stalled_until_us)
            sim_node_round(&world->nodes[i]);
    for (uint32_t c = 0; c < SIM_CLIENTS; c++)
        if (world->clients[c].up)
            sim_client_round(&world->clients[c]);
    if (world->stats.ticks % CHECK_EVERY == 0)
        check_tables(world);
}

static bool all_quiet(const sim_world_t *world)
{
    for (uint32_t c = 0; c < SIM_CLIENTS; c++)
        if (!world->clients[c].up || !sim_client_idle(&world->clients[c]))
            return false;
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (!world->nodes[i].up || sim_node_used_bytes(&world->nodes[i]) > 0 ||
            lwd_worker_in_flight(world->nodes[i].worker) > 0)
            return false;
    return true;
}

static void faults_off(sim_world_t *world)
{
    lw_sim_faults_t none = {.delay_min_us = 20, .delay_max_us = 200};
    lw_sim_net_faults(world->net, &none);
    lw_fault_enable(LW_FAULT_REPLY_DROP, 0);
    lw_fault_enable(LW_FAULT_RESERVE_FULL, 0);
    lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 0);
    if (world->heal_us)
        partition(world, false);
}

/* Whoever is gone for good stays gone: the others must have every segment again as often as was promised. */
static void become_whole(sim_world_t *world)
{
    char why[200] = "";
    uint64_t until = world->now_us + WHOLE_US;
    bool whole = false;
    if (nodes_up(world) < world->replicas)
        return;
    while (!world->violated && !whole && world->now_us < until) {
        for (uint32_t i = 0; i < WHOLE_TICKS && !world->violated; i++)
            tick(world);
        whole = sim_all_whole(world, why, sizeof(why));
    }
    if (!whole)
        sim_violation(world, "%llu s after the last fault: %s", (unsigned long long)(WHOLE_US / 1000000), why);
}

/* Everybody drops everything, leases of the dead run out, and every arena must end up empty. */
static void wind_down(sim_world_t *world)
{
    for (uint32_t i = 0; i < SIM_NODES; i++)
        if (!world->nodes[i].up)
            world->nodes[i].restart_us = world->now_us;
    uint64_t until = world->now_us + WIND_DOWN_US, expire_us = world->now_us + 2 * SIM_LEASE_US;
    while (!world->violated && world->now_us < until && !all_quiet(world)) {
        tick(world);
        for (uint32_t c = 0; c < SIM_CLIENTS; c++)
            if (world->clients[c].up)
                sim_client_drop_all(&world->clients[c]);
        if (world->now_us >= expire_us) { /* what dead clients left behind is idle by now, and goes */
            uint64_t freed;
            lw_error_t error = {0};
            expire_us = world->now_us + SIM_LEASE_US;
            if (world->catalogue_ops->expire(world->catalogue, UINT64_MAX / 2, world->now_us, &freed, &error) != LW_OK)
                sim_violation(world, "expire: %s", error.text);
        }
    }
    for (uint32_t i = 0; i < SIM_NODES && !world->violated; i++)
        if (world->nodes[i].up && sim_node_used_bytes(&world->nodes[i]) > 0)
            sim_violation(world, "node %u still holds %llu bytes after everything was dropped", i,
                          (unsigned long long)sim_node_used_bytes(&world->nodes[i]));
    if (!world->violated && !all_quiet(world))
        sim_violation(world, "something is still in flight %llu s after the end",
                      (unsigned long long)(WIND_DOWN_US / 1000000));
}

bool sim_world_run(sim_world_t *world)
{
    while (!world->violated && world->now_us < world->end_us)
        tick(world);
    faults_off(world);
    if (!world->violated && world->ample)
        become_whole(world);
    if (!world->violated)
        wind_down(world);
    check_tables(world);
    for (uint32_t c = 0; c < SIM_CLIENTS; c++) {
        lwc_store_stats_t stats;
        if (!world->clients[c].up)
            continue;
        lwc_store_stats(world->clients[c].store, &stats);
        world->stats.checksum_failures += stats.checksum_failures;
        world->stats.hedges += stats.hedges;
        world->stats.hedges_won += stats.hedges_won;
        world->stats.reroutes += stats.reroutes;
    }
    return !world->violated;
}
