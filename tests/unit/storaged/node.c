#include "unit/storaged/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t node_now(void *self)
{
    return ((node_t *)self)->now_us;
}

static void answer_check(node_t *node, const lwd_ask_t *ask)
{
    lwd_news_t news = {.kind = LWD_NEWS_CHECKED, .status = node->check_status, .ticket = ask->ticket};
    news.checked.origins[0] = ask->session_id;
    news.checked.cuts[0] = UINT32_MAX;
    news.checked.origins[1] = node->fork_of;
    news.checked.cuts[1] = node->fork_cut;
    news.checked.count = node->fork_of != 0 ? 2 : 1;
    lw_status_t status = lwd_worker_tell(node->workers[ask->worker], &news);
    LW_ASSERT(status == LW_OK);
}

static lw_status_t on_ask(void *arg, const lwd_ask_t *ask)
{
    node_t *node = arg;
    node->asks++;
    if (ask->kind == LWD_ASK_SPACE) {
        node->space_asked += ask->bytes;
    } else if (ask->kind == LWD_ASK_ORPHANS) {
        lwd_news_t news = {.kind = LWD_NEWS_ORPHANS, .status = LW_OK, .ticket = ask->ticket};
        node->orphans_asked += ask->name_count;
        news.orphans.count = ask->name_count;
        for (uint32_t i = 0; i < ask->name_count; i++)
            news.orphans.dead[i] = node->orphans_dead;
        return lwd_worker_tell(node->workers[ask->worker], &news);
    } else if (node->check_later) {
        LW_ASSERT(node->kept_count < LW_ARRAY_SIZE(node->kept));
        node->kept[node->kept_count++] = *ask;
    } else {
        answer_check(node, ask);
    }
    return LW_OK;
}

void node_answer(node_t *node)
{
    for (uint32_t i = 0; i < node->kept_count; i++)
        answer_check(node, &node->kept[i]);
    node->kept_count = 0;
}

static uint64_t or_else(uint64_t value, uint64_t other)
{
    return value != 0 ? value : other;
}

void node_start(node_t *node, const node_params_t *params)
{
    memset(node, 0, sizeof(*node));
    node->now_us = 1000000;
    node->clock = (lw_clock_t){.now_us = node_now, .unix_us = node_now, .self = node};
    node->worker_count = (uint32_t)or_else(params->workers, 1);
    uint64_t arena_bytes = or_else(params->arena_bytes, 16u << 20), book_bytes = arena_bytes / 16;
    node->arena = aligned_alloc(1 << 16, arena_bytes);
    node->book = aligned_alloc(1 << 12, book_bytes);
    node->guards = aligned_alloc(64, sizeof(*node->guards));
    node->stats = aligned_alloc(64, lw_align_up(sizeof(*node->stats) * node->worker_count, 64));
    LW_ASSERT(node->arena != NULL && node->book != NULL && node->guards != NULL && node->stats != NULL);
    memset(node->stats, 0, sizeof(*node->stats) * node->worker_count);
    memset(node->arena, 0, arena_bytes);
    lwd_guards_init(node->guards, node->worker_count);
    lw_status_t status = lw_sim_net_create(params->seed, &node->net);
    LW_ASSERT(status == LW_OK);
    status = lwd_extents_create(arena_bytes, LWD_ARENA_UNIT_BYTES, &node->extents);
    LW_ASSERT(status == LW_OK);
    status = lwd_extents_create(book_bytes, LWD_ARENA_BOOK_UNIT_BYTES, &node->book_extents);
    LW_ASSERT(status == LW_OK);
    lwd_shard_params_t shard = {
        .arena = node->arena,
        .book = node->book,
        .extents = node->extents,
        .book_extents = node->book_extents,
        .segment_max = (uint32_t)or_else(params->segment_max, 1024),
        .origin_max = 256,
        .client_max = 64,
        .lease_us = or_else(params->lease_us, 1000000),
        .guards = node->guards,
        .stats = &node->stats[0],
    };
    status = lwd_shard_create(&shard, &node->shard);
    LW_ASSERT(status == LW_OK);
    node->node.node_id = 7;
    node->node.incarnation = 1;
    atomic_init(&node->node.fleet_id, 99);
    atomic_init(&node->node.epoch, 1);
    atomic_init(&node->node.writable, true);
    for (uint32_t i = 0; i < node->worker_count; i++) {
        char listen[LW_ADDRESS_MAX];
        lw_error_t error = {0};
        snprintf(listen, sizeof(listen), "node:%u", 100 + i);
        lwd_worker_params_t worker = {
            .fabric = lw_fabric_sim(),
            .listen = listen,
            .index = i,
            .owner = i == 0 ? NULL : node->workers[0],
            .shard = node->shard,
            .guards = node->guards,
            .node = &node->node,
            .stats = &node->stats[i],
            .clock = &node->clock,
            .arena = node->arena,
            .arena_bytes = arena_bytes,
            .reply_bytes = LWD_REPLY_BYTES_MIN,
            .connection_max = (uint32_t)or_else(params->connection_max, 16),
            .request_max = (uint32_t)or_else(params->request_max, 64),
            .attachment_max = (uint32_t)or_else(params->attachment_max, 1024),
            .attachments_per_connection_max = (uint32_t)or_else(params->attachments_per_connection_max, 512),
            .change_max = 256,
            .ask = on_ask,
            .ask_arg = node,
            .duty = i == 0 ? params->duty : NULL,
            .duty_arg = params->duty_arg,
        };
        lw_fabric_sim_use(node->net, "node");
        status = lwd_worker_create(&worker, &node->workers[i], &error);
        if (status != LW_OK)
            lw_assert_failed(__FILE__, __LINE__, error.text);
    }
}

void node_stop(node_t *node)
{
    for (uint32_t i = node->worker_count; i-- > 0;)
        lwd_worker_destroy(node->workers[i]);
    lwd_shard_destroy(node->shard);
    lwd_extents_destroy(node->extents);
    lwd_extents_destroy(node->book_extents);
    lw_sim_net_destroy(node->net);
    free(node->arena);
    free(node->book);
    free(node->guards);
    free(node->stats);
}

void node_pump(void *arg)
{
    node_t *node = arg;
    node->now_us += 20;
    lw_sim_net_round(node->net, node->now_us);
    for (uint32_t i = 0; i < node->worker_count; i++)
        lwd_worker_round(node->workers[i], node->now_us);
}

void node_pass(node_t *node, uint64_t us)
{
    uint64_t end = node->now_us + us;
    while (node->now_us < end) {
        node->now_us = lw_min_u64(node->now_us + 980, end);
        node_pump(node);
    }
}

void node_client(node_t *node, data_client_t *client, uint32_t worker, uint64_t client_id,
                 uint64_t incarnation)
{
    lw_fabric_sim_use(node->net, "client");
    data_client_open(client, lw_fabric_sim(), NULL, lwd_worker_address(node->workers[worker]), node_pump,
                     node);
    if (client_id != 0) {
        lw_status_t status = data_hello(client, client_id, incarnation);
        LW_ASSERT(status == LW_OK);
    }
}
