/* server_move.c - between the mover, the data threads and the control side: a thread for it, its questions out, views,
 * token and answers in. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/server_private.h"

#define BUSY_US 50000u /* the node counts as busy for this long after a request */

/* ---- what the mover asks ---- */
static bool on_busy(void *arg)
{
    lwd_server_t *server = arg;
    return lw_now_us(lw_clock_real()) < atomic_load_explicit(&server->busy_until_us, memory_order_relaxed);
}

static lw_status_t on_submit(void *arg, lwd_task_t *task)
{
    lwd_server_t *server = arg;
    return lwd_worker_submit(server->workers[0], task);
}

static void on_placed_answer(void *arg, lw_status_t status, const lwd_placed_t *rows, uint32_t count)
{
    lwd_server_t *server = arg;
    lwd_move_tell_placed(server->move, status, rows, count);
}

static lw_status_t on_placed(void *arg, const lwd_placed_key_t *after, uint32_t capacity)
{
    lwd_server_t *server = arg;
    return lwd_ctl_placed_async(server->ctl, after, capacity, on_placed_answer, server);
}

static void on_moved_answer(void *arg, lw_status_t status)
{
    lwd_server_change_t *change = arg;
    uint64_t ticket = change->ticket;
    lwd_server_t *server = change->server;
    atomic_store_explicit(&change->used, false, memory_order_release);
    lwd_move_tell_moved(server->move, ticket, status);
}

static lw_status_t on_move(void *arg, uint64_t ticket, const lw_segment_name_t *name, uint16_t from, uint16_t to)
{
    lwd_server_t *server = arg;
    lwd_server_change_t *change = NULL;
    for (size_t i = 0; i < LW_ARRAY_SIZE(server->changes) && change == NULL; i++)
        if (!atomic_load_explicit(&server->changes[i].used, memory_order_acquire))
            change = &server->changes[i];
    if (change == NULL)
        return LW_ERR_BUSY;
    change->server = server;
    change->ticket = ticket;
    atomic_store_explicit(&change->used, true, memory_order_relaxed);
    lw_status_t status = lwd_ctl_move_async(server->ctl, name, from, to, on_moved_answer, change);
    if (status != LW_OK)
        atomic_store_explicit(&change->used, false, memory_order_relaxed);
    return status;
}

/* ---- what it is told ---- */
static lwd_move_limits_t limits_of(const lwd_options_t *options)
{
    return (lwd_move_limits_t){
        .bytes_s = options->move_bytes_s,
        .repair_after_us = options->move_repair_after_us,
        .rebalance_after_us = options->move_rebalance ? options->move_rebalance_after_us : UINT64_MAX,
        .scan_us = options->move_scan_us,
        .in_flight = (uint32_t)options->move_in_flight,
    };
}

void lwd_server_move_limits(lwd_server_t *server)
{
    lwd_move_limits_t limits = limits_of(&server->options);
    if (server->move != NULL)
        lwd_move_set_limits(server->move, &limits);
}

void lwd_server_move_view(lwd_server_t *server)
{
    lwd_move_t *move = atomic_load_explicit(&server->move_told, memory_order_acquire);
    lw_view_t *view = move != NULL ? lwd_ctl_view_copy(server->ctl) : NULL;
    if (view != NULL && view->node_count > 0)
        lwd_move_set_view(move, view);
    free(view);
}

static uint64_t requests_served(const lwd_server_t *server)
{
    uint64_t served = 0;
    for (uint32_t i = 0; i < server->thread_count; i++)
        served += atomic_load_explicit(&server->stats[i].fetch_requests, memory_order_relaxed) +
                  atomic_load_explicit(&server->stats[i].write_requests, memory_order_relaxed);
    return served;
}

void lwd_server_move_sync(lwd_server_t *server)
{
    uint8_t token[LW_TOKEN_BYTES];
    uint64_t served = requests_served(server), now = lw_now_us(lw_clock_real());
    if (served != server->requests_seen)
        atomic_store_explicit(&server->busy_until_us, now + BUSY_US, memory_order_relaxed);
    server->requests_seen = served;
    if (server->move == NULL || !lwd_ctl_node_token(server->ctl, token) ||
        memcmp(token, server->node_token, sizeof(token)) == 0)
        return;
    uint64_t halves[2];
    memcpy(server->node_token, token, sizeof(token));
    memcpy(halves, token, sizeof(halves));
    for (int i = 0; i < 2; i++)
        atomic_store_explicit(&server->node.node_token[i], halves[i], memory_order_relaxed);
    lwd_move_set_token(server->move, token);
    lwd_server_move_view(server); /* one may have come before the mover was there */
}

bool lwd_server_move_others(lwd_server_t *server)
{
    lw_view_t *view = lwd_ctl_view_copy(server->ctl);
    bool others = false;
    for (uint32_t i = 0; view != NULL && i < view->node_count; i++)
        others = others || (view->nodes[i].state == LW_NODE_UP && view->nodes[i].id != server->node.node_id);
    free(view);
    return others;
}

/* Two scans: a writer with an older view may have committed during the first. */
bool lwd_server_move_empty(lwd_server_t *server)
{
    lwd_move_status_t status;
    lwd_move_status(server->move, &status);
    return status.empty_scans >= 2 &&
           atomic_load_explicit(&server->stats[0].reservations, memory_order_relaxed) == 0;
}

size_t lwd_server_moves_text(void *arg, char *text, size_t text_bytes)
{
    lwd_server_t *server = arg;
    lwd_move_status_t status = {0};
    lwd_move_t *move = atomic_load_explicit(&server->move_told, memory_order_acquire);
    if (move != NULL)
        lwd_move_status(move, &status);
    int bytes = snprintf(text, text_bytes,
                         "scans %llu\nplaced %llu\ndegraded %llu\nlost %llu\njobs %u\nlast_error %s\n",
                         (unsigned long long)status.scans, (unsigned long long)status.placed,
                         (unsigned long long)status.degraded, (unsigned long long)status.lost, status.jobs, status.error);
    return bytes < 0 ? 0 : (size_t)bytes;
}

/* ---- start and end ---- */
static void *move_main(void *arg)
{
    lwd_server_t *server = arg;
    lwd_move_run(server->move, lw_clock_real());
    return NULL;
}

lw_status_t lwd_server_move_prepare(lwd_server_t *server, lw_error_t *error)
{
    server->move_stats = aligned_alloc(64, lw_align_up(sizeof(*server->move_stats), 64));
    if (server->move_stats == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the mover's figures");
    memset(server->move_stats, 0, sizeof(*server->move_stats));
    return LW_OK;
}

lw_status_t lwd_server_move_start(lwd_server_t *server, lw_error_t *error)
{
    lwd_move_params_t params = {
        .fabric = lw_fabric_ucx(),
        .transports = server->options.data_transports,
        .node_id = server->node.node_id,
        .incarnation = server->node.incarnation,
        .shard = server->shard,
        .stats = server->move_stats,
        .limits = limits_of(&server->options),
        .arg = server,
        .busy = on_busy,
        .submit = on_submit,
        .placed = on_placed,
        .move = on_move,
    };
    lw_error_t cause = {0};
    lw_status_t status = lwd_move_create(&params, &server->move, &cause);
    if (status != LW_OK)
        return lw_fail(error, status, "the mover (move.*): %s", cause.text);
    atomic_store_explicit(&server->move_told, server->move, memory_order_release);
    if (pthread_create(&server->move_thread, NULL, move_main, server) != 0)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the mover");
    server->move_started = true;
    return LW_OK;
}

void lwd_server_move_stop(lwd_server_t *server)
{
    if (!server->move_started)
        return;
    lwd_move_stop(server->move);
    (void)pthread_join(server->move_thread, NULL);
    server->move_started = false;
}

void lwd_server_move_destroy(lwd_server_t *server)
{
    lwd_move_destroy(server->move);
    free(server->move_stats);
    server->move = NULL;
}
