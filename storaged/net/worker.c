/* worker.c - the life of a worker and the body of its thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storaged/net/net_private.h"

#define SHOW_US 1000u /* between two looks at the gauges */

static void on_accept(void *arg, lw_conn_t *conn)
{
    lwd_peer_accept(arg, conn);
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    lwd_worker_t *worker = arg;
    lwd_peer_t *peer = worker->params.fabric->user(conn);
    (void)status;
    if (peer != NULL)
        lwd_peer_closed(worker, peer);
}

static lw_status_t check_params(const lwd_worker_params_t *params, lw_error_t *error)
{
    if (params->reply_bytes < LWD_REPLY_BYTES_MIN)
        return lw_fail(error, LW_ERR_INVALID, "reply buffers of %llu bytes are fewer than the minimum of %u",
                       (unsigned long long)params->reply_bytes, LWD_REPLY_BYTES_MIN);
    if (params->connection_max == 0 || params->request_max == 0 || params->attachment_max == 0 ||
        params->attachments_per_connection_max == 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "a worker needs room for connections, requests and attachments");
    return LW_OK;
}

/* Everything but the fabric. */
static lw_status_t allocate(lwd_worker_t *worker)
{
    const lwd_worker_params_t *params = &worker->params;
    lwd_attach_params_t attach = {
        .shard = params->shard,
        .capacity = params->attachment_max,
        .life = (uint16_t)(params->node->incarnation >> 16), /* 65 ms, where incarnations are times */
        .per_connection_max = params->attachments_per_connection_max,
        .connection_max = params->connection_max,
    };
    if (lwd_peers_init(worker) != LW_OK || lwd_attach_create(&attach, &worker->attach) != LW_OK ||
        lwd_extents_create(params->reply_bytes, LWD_REPLY_UNIT_BYTES, &worker->reply_extents) != LW_OK ||
        lwd_ring_init(&worker->answers, params->request_max + 1, sizeof(lwd_news_t)) != LW_OK ||
        lwd_ring_init(&worker->endings, LWD_NEWS_MAX, sizeof(lwd_news_t)) != LW_OK ||
        lwd_ring_init(&worker->changes, params->change_max + 1, sizeof(lwd_request_t *)) != LW_OK ||
        lwd_ring_init(&worker->tasks, LWD_TASKS_MAX, sizeof(lwd_task_t *)) != LW_OK ||
        lwd_ring_init(&worker->returned, params->request_max, sizeof(lwd_request_t *)) != LW_OK)
        return LW_ERR_NO_MEMORY;
    worker->reply_mapped = lw_align_up(params->reply_bytes, 2u << 20);
    void *reply =
        mmap(NULL, worker->reply_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reply == MAP_FAILED)
        return LW_ERR_NO_MEMORY;
    worker->reply = reply;
    (void)madvise(reply, worker->reply_mapped, MADV_HUGEPAGE);
    memset(reply, 0, params->reply_bytes); /* no request waits for a page */
    worker->lists = aligned_alloc(64, LW_MSG_LIST_MAX + 64);
    worker->pieces = malloc((LW_FETCH_ENTRIES_MAX + 1) * sizeof(*worker->pieces));
    worker->checks = malloc(LW_FETCH_ENTRIES_MAX * sizeof(*worker->checks));
    worker->run_status = malloc(LW_FETCH_RUNS_MAX * sizeof(*worker->run_status));
    worker->borrows = malloc(LW_FETCH_RUNS_MAX * sizeof(*worker->borrows));
    if (worker->lists == NULL || worker->pieces == NULL || worker->checks == NULL ||
        worker->run_status == NULL || worker->borrows == NULL)
        return LW_ERR_NO_MEMORY;
    return LW_OK;
}

static lw_status_t open_fabric(lwd_worker_t *worker, lw_error_t *error)
{
    const lw_fabric_ops_t *ops = worker->params.fabric;
    lw_fabric_params_t params = {
        .transports = worker->params.transports,
        .handler = {.on_message = lwd_on_message,
                    .on_accept = on_accept,
                    .on_closed = on_closed,
                    .arg = worker},
    };
    lw_status_t status = ops->open(&params, &worker->fabric, error);
    if (status == LW_OK)
        status = ops->listen(worker->fabric, worker->params.listen, error);
    if (status == LW_OK)
        status = ops->address(worker->fabric, worker->address, sizeof(worker->address));
    if (status == LW_OK)
        status = lwd_slices_register(worker);
    return status;
}

lw_status_t lwd_worker_create(const lwd_worker_params_t *params, lwd_worker_t **worker_out, lw_error_t *error)
{
    lw_status_t status = check_params(params, error);
    if (status != LW_OK)
        return status;
    lwd_worker_t *worker = aligned_alloc(64, lw_align_up(sizeof(*worker), 64));
    if (worker == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a data thread");
    memset(worker, 0, sizeof(*worker));
    worker->params = *params;
    worker->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (worker->wake_fd < 0)
        status = lw_fail(error, LW_ERR_IO, "eventfd: %s", strerror(errno));
    if (status == LW_OK) {
        status = allocate(worker);
        if (status != LW_OK)
            (void)lw_fail(error, status, "no memory for the tables of data thread %u", params->index);
    }
    if (status == LW_OK)
        status = open_fabric(worker, error);
    if (status != LW_OK) {
        lwd_worker_destroy(worker);
        return status;
    }
    *worker_out = worker;
    return LW_OK;
}

void lwd_worker_destroy(lwd_worker_t *worker)
{
    if (worker == NULL)
        return;
    atomic_store_explicit(&worker->stopped, true, memory_order_relaxed);
    if (worker->fabric != NULL) {
        lwd_slices_unregister(worker);
        worker->params.fabric->close(worker->fabric);
    }
    lwd_attach_destroy(worker->attach);
    lwd_extents_destroy(worker->reply_extents);
    lwd_ring_fini(&worker->answers);
    lwd_ring_fini(&worker->endings);
    lwd_ring_fini(&worker->changes);
    lwd_ring_fini(&worker->returned);
    lwd_ring_fini(&worker->tasks);
    if (worker->reply != NULL)
        (void)munmap(worker->reply, worker->reply_mapped);
    if (worker->wake_fd >= 0)
        (void)close(worker->wake_fd);
    free(worker->lists);
    free(worker->pieces);
    free(worker->checks);
    free(worker->run_status);
    free(worker->borrows);
    free(worker->peers);
    free(worker->requests);
    free(worker);
}

const char *lwd_worker_address(const lwd_worker_t *worker)
{
    return worker->address;
}

/* ---- news from other threads ---- */
void lwd_worker_wake(lwd_worker_t *worker)
{
    /* Both sides exchange `asleep`. Either ours comes first, and the sleeper, who looks at its rings after
     * its own, sees what we pushed; or we find it asleep. */
    if (atomic_exchange_explicit(&worker->asleep, false, memory_order_seq_cst))
        (void)eventfd_write(worker->wake_fd, 1);
}

lw_status_t lwd_worker_tell(lwd_worker_t *worker, const lwd_news_t *news)
{
    bool pushed = lwd_ring_push(news->kind == LWD_NEWS_ENDED ? &worker->endings : &worker->answers, news);
    if (!pushed && news->kind == LWD_NEWS_ENDED)
        return LW_ERR_BUSY;
    LW_ASSERT(pushed); /* one answer for each question, and a request asks one at a time */
    lwd_worker_wake(worker);
    return LW_OK;
}

lw_status_t lwd_worker_submit(lwd_worker_t *owner, lwd_task_t *task)
{
    LW_ASSERT(lwd_is_owner(owner));
    atomic_store_explicit(&task->done, false, memory_order_relaxed);
    if (!lwd_ring_push(&owner->tasks, &task))
        return LW_ERR_BUSY;
    lwd_worker_wake(owner);
    return LW_OK;
}

void lwd_worker_nudge(lwd_worker_t *worker)
{
    atomic_store_explicit(&worker->nudged, true, memory_order_seq_cst);
    lwd_worker_wake(worker);
}

static unsigned run_tasks(lwd_worker_t *worker)
{
    lwd_task_t *task;
    unsigned ran = 0;
    for (; ran < LWD_ROUND_NEWS_MAX && lwd_ring_pop(&worker->tasks, &task); ran++) {
        task->run(task, worker->params.shard, worker->now_us);
        atomic_store_explicit(&task->done, true, memory_order_release);
    }
    return ran;
}

static void hear_one(lwd_worker_t *worker, const lwd_news_t *news)
{
    lwd_shard_t *shard = worker->params.shard;
    switch (news->kind) {
    case LWD_NEWS_CHECKED: lwd_attach_checked(worker, news); break;
    case LWD_NEWS_ORPHANS:
        if (news->status == LW_OK)
            lwd_shard_orphans(shard, worker->suspects, news->orphans.dead, news->orphans.count,
                              worker->now_us);
        worker->orphans_asked = false;
        break;
    case LWD_NEWS_ENDED:
        (void)lwd_shard_end(shard, news->ended.origin, news->ended.rank, news->ended.from_token,
                            news->ended.generation_max);
        break;
    }
}

static unsigned hear(lwd_worker_t *worker)
{
    lwd_news_t news;
    unsigned heard = 0;
    for (; heard < LWD_ROUND_NEWS_MAX && lwd_ring_pop(&worker->answers, &news); heard++)
        hear_one(worker, &news);
    for (; heard < LWD_ROUND_NEWS_MAX && lwd_ring_pop(&worker->endings, &news); heard++)
        hear_one(worker, &news);
    return heard;
}

/* ---- the owner's duties ---- */
static void ask_for_room(lwd_worker_t *worker)
{
    if (worker->now_us < worker->next_space_ask_us)
        return;
    uint64_t bytes = lwd_shard_take_want(worker->params.shard);
    if (bytes == 0)
        return;
    worker->next_space_ask_us = worker->now_us + LWD_SPACE_ASK_US;
    lwd_ask_t ask = {.kind = LWD_ASK_SPACE, .worker = worker->params.index, .bytes = bytes};
    if (worker->params.ask(worker->params.ask_arg, &ask) == LW_OK)
        lw_count(&lwd_stats(worker)->space_wanted, 1);
}

static void ask_about_orphans(lwd_worker_t *worker)
{
    if (worker->orphans_asked)
        return;
    worker->suspect_count = lwd_shard_take_suspects(worker->params.shard, worker->suspects, LWD_SUSPECTS_MAX);
    if (worker->suspect_count == 0)
        return;
    lwd_ask_t ask = {
        .kind = LWD_ASK_ORPHANS,
        .worker = worker->params.index,
        .names = worker->suspects,
        .name_count = worker->suspect_count,
    };
    worker->orphans_asked = true;
    if (worker->params.ask(worker->params.ask_arg, &ask) != LW_OK)
        worker->orphans_asked = false; /* they become suspects again later */
}

/* ---- the body ---- */
static void look_at_stop(lwd_worker_t *worker)
{
    uint64_t stop_at_us = atomic_load_explicit(&worker->stop_at_us, memory_order_relaxed);
    if (stop_at_us != 0 && (worker->now_us >= stop_at_us || lwd_worker_in_flight(worker) == 0))
        atomic_store_explicit(&worker->stopped, true, memory_order_release);
}

static void show(lwd_worker_t *worker)
{
    lwd_extents_usage_t usage;
    if (worker->now_us < worker->next_show_us)
        return;
    worker->next_show_us = worker->now_us + SHOW_US;
    lwd_extents_usage(worker->reply_extents, &usage);
    lw_gauge(&lwd_stats(worker)->reply_used_bytes, usage.used_bytes);
    lw_gauge(&lwd_stats(worker)->requests_in_flight, worker->request_count);
}

unsigned lwd_worker_round(lwd_worker_t *worker, uint64_t now_us)
{
    lwd_guard_quiet(worker->params.guards, worker->params.index);
    worker->now_us = now_us;
    unsigned events = hear(worker);
    if (lwd_is_owner(worker))
        events += lwd_changes_run(worker) + run_tasks(worker);
    events += lwd_changes_returned(worker);
    events += worker->params.fabric->progress(worker->fabric);
    if (worker->byes > 0)
        lwd_peers_say_bye(worker);
    lwd_hello_expire(worker);
    if (lwd_is_owner(worker)) {
        if (worker->params.duty != NULL) {
            atomic_store_explicit(&worker->nudged, false, memory_order_seq_cst);
            events += worker->params.duty(worker->params.duty_arg, now_us);
        }
        events += lwd_waits_run(worker);
        lwd_shard_tick(worker->params.shard, now_us);
        ask_for_room(worker);
        ask_about_orphans(worker);
    }
    lw_count(&lwd_stats(worker)->rounds, 1);
    show(worker);
    look_at_stop(worker);
    return events;
}

void lwd_worker_stop(lwd_worker_t *worker, uint64_t deadline_us)
{
    atomic_store_explicit(&worker->stop_at_us, lw_max_u64(deadline_us, 1), memory_order_relaxed);
    lwd_worker_wake(worker);
}

bool lwd_worker_stopped(const lwd_worker_t *worker)
{
    return atomic_load_explicit(&worker->stopped, memory_order_acquire);
}

uint32_t lwd_worker_in_flight(const lwd_worker_t *worker)
{
    return worker->request_count + worker->small_sends;
}

bool lwd_worker_check(const lwd_worker_t *worker)
{
    uint32_t used = 0, free_requests = 0, owned = 0, strangers = 0;
    for (uint32_t i = 0; i < worker->params.connection_max; i++) {
        const lwd_peer_t *peer = &worker->peers[i];
        uint32_t mine = 0;
        for (const lwd_request_t *request = peer->requests; request != NULL; request = request->next) {
            if (request->peer != peer)
                return false;
            mine++;
        }
        if (mine != peer->in_flight || (peer->state == LWD_PEER_FREE && (mine > 0 || peer->conn != NULL)))
            return false;
        owned += mine;
        used += peer->state != LWD_PEER_FREE ? 1 : 0;
        strangers += peer->state == LWD_PEER_NEW ? 1 : 0;
    }
    for (const lwd_request_t *request = worker->request_free; request != NULL; request = request->next)
        free_requests++;
    return used == worker->peer_count && strangers == worker->strangers && owned <= worker->request_count &&
           free_requests + worker->request_count == worker->params.request_max &&
           lwd_extents_check(worker->reply_extents) && lwd_attach_check(worker->attach);
}
