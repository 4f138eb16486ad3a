/* server.c - builds the modules in order, runs the main loop, and takes everything down in reverse. Main
 * thread. */
#include "storaged/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "storaged/mem/numa.h"
#include "storaged/server_private.h"

#define SYNC_US 20000u /* how often the main thread looks at the control side and at stopping workers */
#define SEGMENTS_MIN 1024u
#define SEGMENTS_MAX (1u << 20)

uint32_t lwd_server_segment_max(const lwd_options_t *options, uint64_t arena_bytes)
{
    if (options->store_segments != 0)
        return (uint32_t)options->store_segments;
    uint64_t units = (arena_bytes + (options->tier_path[0] != '\0' ? options->tier_bytes : 0)) / LWD_ARENA_UNIT_BYTES;
    return (uint32_t)lw_min_u64(lw_max_u64(units, SEGMENTS_MIN), SEGMENTS_MAX);
}

/* ---- building ---- */
static lw_status_t build_memory(lwd_server_t *server, lw_error_t *error)
{
    lwd_arena_params_t params = {
        .bytes = lwd_server_arena_bytes(&server->options),
        .pages = server->choices.pages,
        .numa_node = server->choices.numa_node,
        .prefault = server->options.mem_prefault,
    };
    lw_status_t status = lwd_server_arena(server, &params, error);
    if (status == LW_OK &&
        lwd_extents_create(server->arena.bytes, LWD_ARENA_UNIT_BYTES, &server->extents) != LW_OK)
        status = lw_fail(error, LW_ERR_INVALID, "mem.arena_bytes is %llu: no allocator for it",
                         (unsigned long long)server->arena.bytes);
    if (status == LW_OK)
        status =
            lwd_extents_create(server->arena.book_bytes, LWD_ARENA_BOOK_UNIT_BYTES, &server->book_extents);
    return status;
}

static lw_status_t build_shard(lwd_server_t *server, lw_error_t *error)
{
    const lwd_options_t *options = &server->options;
    server->stats = aligned_alloc(64, lw_align_up(server->thread_count * sizeof(*server->stats), 64));
    server->guards = aligned_alloc(64, sizeof(*server->guards));
    server->asks = calloc(server->thread_count * options->data_requests, sizeof(*server->asks));
    if (server->stats == NULL || server->guards == NULL || server->asks == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the daemon's tables");
    memset(server->stats, 0, server->thread_count * sizeof(*server->stats));
    lwd_guards_init(server->guards, server->thread_count);
    lwd_shard_params_t params = {
        .arena = server->arena.base,
        .book = server->arena.book,
        .extents = server->extents,
        .book_extents = server->book_extents,
        .segment_max = lwd_server_segment_max(options, server->arena.bytes),
        .origin_max = (uint32_t)options->store_sessions,
        .client_max = (uint32_t)(2 * options->data_connections * server->thread_count),
        .lease_us = options->lease_us,
        .guards = server->guards,
        .stats = &server->stats[0],
        .journal = server->arena_file.head != NULL ? &server->journal : NULL,
    };
    lw_status_t status = lwd_shard_create(&params, &server->shard);
    if (status != LW_OK)
        return lw_fail(error, status, "no memory for %u segments (store.segments)", params.segment_max);
    status = lwd_server_restore(server, error);
    lwd_shard_tick(server->shard, lw_now_us(lw_clock_real())); /* figures are right before the first round */
    return status;
}

/* The listener of data thread `index`: ports count up from data.listen's, or are all free to choose. */
static void listen_address(const char *first, uint32_t index, char *text)
{
    const char *colon = strrchr(first, ':');
    unsigned long port = strtoul(colon + 1, NULL, 10);
    (void)snprintf(text, LW_ADDRESS_MAX, "%.*s:%lu", (int)(colon - first), first,
                   port == 0 ? 0 : port + index);
}

/* What clients are told: the advertised host with the thread's port, or the bound address. */
static void advertised_address(const lwd_server_t *server, uint32_t index, char *text)
{
    const char *advertise = server->options.data_advertise;
    const char *bound = lwd_worker_address(server->workers[index]);
    if (advertise[0] == '\0') {
        (void)snprintf(text, LW_ADDRESS_MAX, "%s", bound);
        return;
    }
    const char *colon = strrchr(advertise, ':');
    unsigned long port = strtoul(colon + 1, NULL, 10);
    if (port == 0) /* the port is the bound one */
        (void)snprintf(text, LW_ADDRESS_MAX, "%.*s%s", (int)(colon - advertise), advertise,
                       strrchr(bound, ':'));
    else
        (void)snprintf(text, LW_ADDRESS_MAX, "%.*s:%lu", (int)(colon - advertise), advertise, port + index);
}

static lw_status_t build_worker(lwd_server_t *server, uint32_t index, lw_error_t *error)
{
    const lwd_options_t *options = &server->options;
    char *listen = server->data_listen[index];
    listen_address(options->data_listen, index, listen);
    lwd_worker_params_t params = {
        .fabric = lw_fabric_ucx(),
        .transports = options->data_transports,
        .listen = listen,
        .index = index,
        .owner = index == 0 ? NULL : server->workers[0],
        .shard = server->shard,
        .guards = server->guards,
        .node = &server->node,
        .stats = &server->stats[index],
        .clock = lw_clock_real(),
        .arena = server->arena.base,
        .arena_bytes = server->arena.bytes,
        .reply_bytes = options->data_reply_bytes,
        .connection_max = (uint32_t)options->data_connections,
        .request_max = (uint32_t)options->data_requests,
        .attachment_max = (uint32_t)options->data_attachments,
        .attachments_per_connection_max = (uint32_t)options->data_attachments_per_connection,
        .change_max = (uint32_t)(options->data_requests * (server->thread_count - 1)),
        .ask = lwd_server_ask,
        .ask_arg = server,
        .duty = index == 0 && server->keep != NULL ? lwd_server_duty : NULL,
        .duty_arg = server,
    };
    if (params.fabric == NULL)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "this storaged was built without UCX");
    lw_error_t cause = {0};
    lw_status_t status = lwd_worker_create(&params, &server->workers[index], &cause);
    if (status != LW_OK)
        return lw_fail(error, status, "data thread %u with data.listen \"%s\" and data.transports \"%s\": %s",
                       index, listen, options->data_transports, cause.text);
    advertised_address(server, index, server->data_listen[index]);
    server->data_address[index] = server->data_listen[index];
    return LW_OK;
}

typedef struct thread_start {
    lwd_server_t *server;
    uint32_t index;
} thread_start_t;

static void *thread_main(void *arg)
{
    thread_start_t start = *(thread_start_t *)arg;
    free(arg);
    lwd_numa_run_on(start.server->choices.numa_node);
    lwd_loop_run(start.server->workers[start.index], lw_clock_real(), &start.server->spin_us);
    return NULL;
}

static lw_status_t start_threads(lwd_server_t *server, lw_error_t *error)
{
    for (uint32_t i = 0; i < server->thread_count; i++) {
        thread_start_t *start = malloc(sizeof(*start));
        if (start == NULL)
            return lw_fail(error, LW_ERR_NO_MEMORY, "no memory to start data thread %u", i);
        *start = (thread_start_t){server, i};
        int rc = pthread_create(&server->threads[i], NULL, thread_main, start);
        if (rc != 0) {
            free(start);
            return lw_fail(error, LW_ERR_NO_MEMORY, "data thread %u: %s", i, strerror(rc));
        }
        server->threads_started++;
    }
    return LW_OK;
}

/* ---- running ---- */
static void announce(lwd_server_t *server)
{
    lwd_server_addresses_t addresses = {
        .control = lwd_ctl_address(server->ctl),
        .http = lwd_ctl_http_address(server->ctl),
        .data = server->data_address,
        .data_count = server->thread_count,
        .node_id = server->node.node_id,
        .fleet_id = atomic_load(&server->node.fleet_id),
        .pages = lwd_pages_text(server->arena.pages),
        .arena_bytes = server->arena.bytes,
    };
    server->phase = LWD_SERVER_READY;
    if (server->params.on_ready != NULL)
        server->params.on_ready(server->params.arg, &addresses);
}

/* The other workers first: they need the owner to finish. */
static void look_at_stopping(lwd_server_t *server)
{
    for (uint32_t i = 1; i < server->thread_count; i++) {
        if (!lwd_worker_stopped(server->workers[i]))
            return;
    }
    if (!server->owner_told) {
        server->owner_told = true;
        lwd_worker_stop(server->workers[0], server->stop_at_us);
    }
    if (lwd_worker_stopped(server->workers[0]))
        lwd_io_uv()->stop(server->io);
}

static void begin_stopping(lwd_server_t *server)
{
    LW_INFO("server", "stopping: finishing what is in flight");
    server->phase = LWD_SERVER_STOPPING;
    atomic_store(&server->stopping, true);
    atomic_store(&server->node.draining, true);
    server->stop_at_us = lw_now_us(lw_clock_real()) + server->options.stop_grace_us;
    for (uint32_t i = 1; i < server->thread_count; i++)
        lwd_worker_stop(server->workers[i], server->stop_at_us);
    look_at_stopping(server);
}

/* Empty once a scan of a view that says so of this node finds nothing placed here. */
static void look_at_draining(lwd_server_t *server)
{
    bool late = lw_now_us(lw_clock_real()) >= server->drain_until_us;
    if (!late && !lwd_server_move_empty(server))
        return;
    if (late)
        LW_WARN("server", "stop.drain_us has passed: this node still holds copies that manifests name");
    begin_stopping(server);
}

static void on_timer(void *arg)
{
    lwd_server_t *server = arg;
    lwd_server_ctl_sync(server);
    lwd_server_move_sync(server);
    if (server->phase == LWD_SERVER_STARTING && atomic_load(&server->node.fleet_id) != 0)
        announce(server);
    if (server->phase == LWD_SERVER_DRAINING)
        look_at_draining(server);
    if (server->phase == LWD_SERVER_STOPPING)
        look_at_stopping(server);
}

static void on_stop_signal(void *arg)
{
    lwd_server_t *server = arg;
    if (server->phase == LWD_SERVER_STOPPING)
        return;
    bool drains = server->options.stop_drain_us > 0 && server->phase == LWD_SERVER_READY &&
                  lwd_server_move_others(server);
    lwd_ctl_drain(server->ctl);
    if (!drains) { /* a second signal ends a drain */
        begin_stopping(server);
        return;
    }
    LW_INFO("server", "draining: others copy what is placed here");
    server->phase = LWD_SERVER_DRAINING;
    server->drain_until_us = lw_now_us(lw_clock_real()) + server->options.stop_drain_us;
}

/* Only rows marked LIVE take effect. */
static void apply_live(lwd_server_t *server, const lwd_options_t *fresh, const lwd_choices_t *choices)
{
    const lw_option_table_t *table = lwd_option_table();
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];
        size_t bytes = row->kind == LW_OPTION_BOOL     ? sizeof(bool)
                       : row->kind == LW_OPTION_STRING ? LW_OPTION_STRING_MAX
                                                       : sizeof(uint64_t);
        uint8_t *now = (uint8_t *)&server->options + row->offset;
        const uint8_t *next = (const uint8_t *)fresh + row->offset;
        bool same = row->kind == LW_OPTION_STRING ? strcmp((const char *)now, (const char *)next) == 0
                                                  : memcmp(now, next, bytes) == 0;
        if (same)
            continue;
        if (row->reload == LW_OPTION_LIVE) {
            memcpy(now, next, bytes);
            LW_INFO("server", "%s.%s was reloaded", row->group, row->name);
        } else {
            LW_WARN("server", "%s.%s has changed and needs a restart", row->group, row->name);
        }
    }
    server->choices.log_level = choices->log_level;
    lw_log_set_level(choices->log_level);
    atomic_store(&server->spin_us, server->options.data_spin_us);
    lwd_shard_set_lease(server->shard, server->options.lease_us);
    lwd_server_move_limits(server);
}

static void on_reload_signal(void *arg)
{
    lwd_server_t *server = arg;
    lwd_options_t fresh;
    lwd_choices_t choices;
    lw_error_t error = {0};
    if (server->params.reload == NULL)
        return;
    if (server->params.reload(server->params.arg, &fresh, &error) != LW_OK ||
        lwd_options_check(&fresh, &choices, &error) != LW_OK) {
        LW_ERROR("server", "reload refused, nothing has changed: %s", error.text);
        return;
    }
    pthread_mutex_lock(&server->options_lock);
    apply_live(server, &fresh, &choices);
    pthread_mutex_unlock(&server->options_lock);
}

static lw_status_t build_loop(lwd_server_t *server, lw_error_t *error)
{
    const lwd_io_ops_t *io = lwd_io_uv();
    lw_status_t status = io->create(&server->io, error);
    if (status == LW_OK)
        status = io->signal(server->io, SIGTERM, on_stop_signal, server, error);
    if (status == LW_OK)
        status = io->signal(server->io, SIGINT, on_stop_signal, server, error);
    if (status == LW_OK)
        status = io->signal(server->io, SIGHUP, on_reload_signal, server, error);
    if (status == LW_OK)
        status = io->timer(server->io, SYNC_US, on_timer, server, error);
    return status;
}

static lw_status_t build(lwd_server_t *server, lw_error_t *error)
{
    lw_status_t status = lwd_options_check(&server->options, &server->choices, error);
    if (status == LW_OK)
        status = build_memory(server, error);
    if (status == LW_OK)
        status = build_shard(server, error);
    for (uint32_t i = 0; status == LW_OK && i < server->thread_count; i++)
        status = build_worker(server, i, error);
    if (status == LW_OK)
        status = build_loop(server, error);
    if (status == LW_OK)
        status = lwd_server_move_prepare(server, error);
    if (status == LW_OK)
        status = lwd_server_ctl_start(server, error);
    if (status == LW_OK)
        status = start_threads(server, error);
    if (status == LW_OK)
        status = lwd_server_move_start(server, error);
    return status;
}

static void tear_down(lwd_server_t *server)
{
    atomic_store(&server->stopping, true);
    lwd_server_move_stop(server);
    for (uint32_t i = 0; i < server->threads_started; i++)
        lwd_worker_stop(server->workers[i], 1);
    for (uint32_t i = 0; i < server->threads_started; i++)
        (void)pthread_join(server->threads[i], NULL);
    lwd_server_ctl_stop(server);
    lwd_server_move_destroy(server);
    if (server->threads_started == server->thread_count)
        lwd_server_flush(server);
    lwd_server_tier_close(server); /* before what its transfers read from */
    for (uint32_t i = server->thread_count; i-- > 0;)
        lwd_worker_destroy(server->workers[i]);
    if (server->io != NULL)
        lwd_io_uv()->destroy(server->io);
    lwd_shard_destroy(server->shard);
    lwd_server_keep_fini(server);
    lwd_extents_destroy(server->extents);
    lwd_extents_destroy(server->book_extents);
    lwd_arena_fini(&server->arena);
    free(server->asks);
    free(server->guards);
    free(server->stats);
}

lw_status_t lwd_server_run(const lwd_server_params_t *params, lw_error_t *error)
{
    lwd_server_t *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the daemon");
    server->params = *params;
    server->options = *params->options;
    server->thread_count = (uint32_t)server->options.data_threads;
    server->arena_file.fd = -1;
    server->node.incarnation = lw_clock_real()->unix_us(lw_clock_real()->self);
    atomic_init(&server->spin_us, server->options.data_spin_us);
    pthread_mutex_init(&server->options_lock, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    lw_status_t status = build(server, error);
    if (status == LW_OK) {
        lw_log_set_level(server->choices.log_level);
        lwd_io_uv()->run(server->io);
    }
    tear_down(server);
    pthread_mutex_destroy(&server->options_lock);
    free(server);
    return status;
}
