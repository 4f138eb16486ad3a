/* server_ctl.c - between the data threads and the control side: questions out, answers and endings in,
 * figures shown.
 *
 * Questions come from data threads and are only queued; answers come on the agent thread and go into the
 * asking worker's ring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "storaged/server_private.h"

#define PEM_BYTES_MAX (1u << 20)

/* ---- questions ---- */
static void tell(lwd_server_t *server, uint32_t worker, const lwd_news_t *news)
{
    /* An answer always finds room. */
    lw_status_t status = lwd_worker_tell(server->workers[worker], news);
    LW_ASSERT(status == LW_OK);
}

static void on_checked(void *arg, lw_status_t status, const uint64_t *origins, const uint32_t *cuts,
                       uint32_t count)
{
    const lwd_server_ask_t *ask = arg;
    lwd_news_t news = {.kind = LWD_NEWS_CHECKED, .status = status, .ticket = ask->ticket};
    if (status == LW_OK) {
        news.checked.count = count < LWD_ORIGINS_MAX ? count : LWD_ORIGINS_MAX;
        memcpy(news.checked.origins, origins, news.checked.count * sizeof(*origins));
        memcpy(news.checked.cuts, cuts, news.checked.count * sizeof(*cuts));
    }
    tell(ask->server, ask->worker, &news);
}

static void on_orphans(void *arg, lw_status_t status, const bool *dead, uint32_t count)
{
    const lwd_server_ask_t *ask = arg;
    lwd_news_t news = {.kind = LWD_NEWS_ORPHANS, .status = status, .ticket = ask->ticket};
    if (status == LW_OK) {
        news.orphans.count = count < LWD_SUSPECTS_MAX ? count : LWD_SUSPECTS_MAX;
        memcpy(news.orphans.dead, dead, news.orphans.count * sizeof(*dead));
    }
    tell(ask->server, ask->worker, &news);
}

static void on_expired(void *arg, lw_status_t status, uint64_t bytes_freed)
{
    (void)arg;
    if (status == LW_OK)
        LW_DEBUG("server", "the catalogue evicted sessions of %llu bytes", (unsigned long long)bytes_freed);
}

static lw_status_t ask_check(lwd_server_t *server, const lwd_ask_t *ask)
{
    uint32_t index = (uint32_t)ask->ticket;
    LW_ASSERT(index < server->options.data_requests);
    lwd_server_ask_t *slot = &server->asks[ask->worker * server->options.data_requests + index];
    *slot = (lwd_server_ask_t){server, ask->worker, ask->ticket};
    lwd_ctl_check_t check = {.session_id = ask->session_id, .write = ask->write, .term = ask->term};
    memcpy(check.token, ask->token, sizeof(check.token));
    return lwd_ctl_check_async(server->ctl, &check, on_checked, slot);
}

lw_status_t lwd_server_ask(void *arg, const lwd_ask_t *ask)
{
    lwd_server_t *server = arg;
    switch (ask->kind) {
    case LWD_ASK_CHECK: return ask_check(server, ask);
    case LWD_ASK_SPACE: return lwd_ctl_expire_async(server->ctl, ask->bytes, on_expired, server);
    case LWD_ASK_ORPHANS:
        server->orphans_ask = (lwd_server_ask_t){server, ask->worker, ask->ticket};
        return lwd_ctl_orphans_async(server->ctl, ask->names, ask->name_count, on_orphans,
                                     &server->orphans_ask);
    }
    return LW_ERR_INVALID;
}

/* ---- what the control side calls ---- */
static void on_ended(void *arg, const lwd_ended_t *rows, uint32_t count)
{
    lwd_server_t *server = arg;
    for (uint32_t i = 0; i < count; i++) {
        lwd_news_t news = {.kind = LWD_NEWS_ENDED};
        news.ended.origin = rows[i].origin;
        news.ended.rank = rows[i].rank;
        news.ended.from_token = rows[i].from_token;
        news.ended.generation_max = rows[i].generation_max;
        while (lwd_worker_tell(server->workers[0], &news) != LW_OK && !atomic_load(&server->stopping)) {
            const struct timespec pause = {.tv_nsec =
                                               1000000}; /* the data thread has many endings before it */
            (void)nanosleep(&pause, NULL);
        }
    }
}

static void on_usage(void *arg, uint64_t *used_bytes_out, uint64_t *free_bytes_out)
{
    const lwd_server_t *server = arg;
    *used_bytes_out = atomic_load_explicit(&server->stats[0].arena_used_bytes, memory_order_relaxed);
    *free_bytes_out = atomic_load_explicit(&server->stats[0].arena_free_bytes, memory_order_relaxed);
}

static void on_view(void *arg, uint64_t fleet_id, uint64_t epoch)
{
    (void)fleet_id;
    (void)epoch;
    lwd_server_move_view(arg);
}

static size_t metrics_text(void *arg, char *text, size_t text_bytes)
{
    const lwd_server_t *server = arg;
    const void *blocks[LWD_THREADS_MAX + 1];
    uint32_t count = server->thread_count;
    size_t row_count;
    const lw_stat_row_t *rows = lwd_stat_rows(&row_count);
    for (uint32_t i = 0; i < server->thread_count; i++)
        blocks[i] = &server->stats[i];
    if (server->move_stats != NULL)
        blocks[count++] = server->move_stats;
    return lw_stat_prometheus(LWD_STATS_PREFIX, rows, row_count, blocks, count, text, text_bytes);
}

static bool ready(void *arg, char *reasons, size_t reasons_bytes)
{
    const lwd_server_t *server = arg;
    if (atomic_load(&server->stopping)) {
        (void)snprintf(reasons, reasons_bytes, "the daemon is stopping\n");
        return false;
    }
    if (atomic_load_explicit(&server->node.fleet_id, memory_order_relaxed) == 0) {
        uint32_t restoring = lwd_shard_restoring(server->shard);
        (void)snprintf(reasons, reasons_bytes, "the catalogue was not reached yet\n");
        if (restoring > 0)
            (void)snprintf(reasons, reasons_bytes, "the catalogue has not answered for %u restored segments yet\n",
                           restoring);
        return false;
    }
    return true;
}

static size_t status_text(void *arg, char *text, size_t text_bytes)
{
    lwd_server_t *server = arg;
    char *dump = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&dump, &bytes);
    if (out == NULL)
        return 0;
    pthread_mutex_lock(&server->options_lock);
    lw_options_dump(lwd_option_table(), &server->options, out);
    pthread_mutex_unlock(&server->options_lock);
    (void)fclose(out);
    if (text_bytes > 0)
        (void)snprintf(text, text_bytes, "%s", dump);
    free(dump);
    return bytes;
}

/* ---- start and end ---- */
static lw_status_t read_pem(const char *option, const char *path, char **text_out, lw_error_t *error)
{
    if (path[0] == '\0')
        return LW_OK;
    FILE *file = fopen(path, "re");
    char *text = file != NULL ? calloc(1, PEM_BYTES_MAX) : NULL;
    size_t bytes = text != NULL ? fread(text, 1, PEM_BYTES_MAX, file) : 0;
    if (file != NULL)
        (void)fclose(file);
    if (bytes == 0 || bytes == PEM_BYTES_MAX) { /* the last byte ends the text */
        free(text);
        return lw_fail(error, LW_ERR_INVALID, "%s is \"%s\", which %s", option, path,
                       bytes == 0 ? "cannot be read" : "is larger than a file of certificates should be (1 MiB)");
    }
    *text_out = text;
    return LW_OK;
}

/* "etcd://endpoints/prefix?ca=...": "" for a static fleet. */
static void etcd_where(const lwd_options_t *options, char *text, size_t text_bytes)
{
    const char *const files[3][2] = {{"ca", options->etcd_ca}, {"cert", options->etcd_cert}, {"key", options->etcd_key}};
    char mark = '?';
    text[0] = '\0';
    if (options->etcd_endpoints[0] == '\0')
        return;
    size_t used = (size_t)snprintf(text, text_bytes, "etcd://%s/%s", options->etcd_endpoints, options->etcd_prefix);
    for (size_t i = 0; i < LW_ARRAY_SIZE(files); i++) {
        if (files[i][1][0] == '\0')
            continue;
        used += (size_t)snprintf(text + used, text_bytes - used, "%c%s=%s", mark, files[i][0], files[i][1]);
        mark = '&';
    }
}

lw_status_t lwd_server_ctl_start(lwd_server_t *server, lw_error_t *error)
{
    const lwd_options_t *options = &server->options;
    char where[5 * LW_OPTION_STRING_MAX + 64];
    etcd_where(options, where, sizeof(where));
    lw_status_t status = read_pem("ctl.tls_ca", options->ctl_tls_ca, &server->pem[0], error);
    if (status == LW_OK)
        status = read_pem("ctl.tls_cert", options->ctl_tls_cert, &server->pem[1], error);
    if (status == LW_OK)
        status = read_pem("ctl.tls_key", options->ctl_tls_key, &server->pem[2], error);
    if (status != LW_OK)
        return status;
    lwd_ctl_params_t params = {
        .listen = options->ctl_listen,
        .advertise = options->ctl_advertise,
        .data = server->data_address[0],
        .zone = options->fleet_zone,
        .weight = (uint32_t)options->fleet_weight,
        .node_id = options->fleet_node_id,
        .incarnation = server->node.incarnation,
        .fleet = options->fleet_nodes,
        .etcd = where,
        .catalogue_path = options->catalogue_path,
        .ca_pem = server->pem[0],
        .cert_pem = server->pem[1],
        .key_pem = server->pem[2],
        .http = options->ctl_http,
        .callbacks = {.arg = server,
                      .on_ended = on_ended,
                      .on_view = on_view,
                      .usage = on_usage,
                      .metrics_text = metrics_text,
                      .ready = ready,
                      .status_text = status_text,
                      .moves_text = lwd_server_moves_text},
    };
    lw_error_t cause = {0};
    status = lwd_ctl_start(&params, &server->ctl, &cause);
    if (status != LW_OK)
        return lw_fail(error, status, "control plane (ctl.*, fleet.*, etcd.*, catalogue.path): %s", cause.text);
    const char *control =
        options->ctl_advertise[0] != '\0' ? options->ctl_advertise : lwd_ctl_address(server->ctl);
    server->node.node_id = options->fleet_node_id != 0 ? options->fleet_node_id : lwd_ctl_node_id(control);
    return LW_OK;
}

void lwd_server_ctl_stop(lwd_server_t *server)
{
    if (server->ctl != NULL)
        lwd_ctl_stop(server->ctl, server->options.stop_grace_us);
    server->ctl = NULL;
    for (size_t i = 0; i < LW_ARRAY_SIZE(server->pem); i++)
        free(server->pem[i]);
}

void lwd_server_ctl_sync(lwd_server_t *server)
{
    lwd_node_t *node = &server->node;
    atomic_store_explicit(&node->epoch, lwd_ctl_epoch(server->ctl), memory_order_relaxed);
    atomic_store_explicit(&node->writable, lwd_ctl_writable(server->ctl), memory_order_relaxed);
    uint64_t fleet_id = lwd_ctl_fleet_id(server->ctl);
    lwd_shard_set_fleet(server->shard, fleet_id);
    /* Last, because peers are greeted from here on: not before the catalogue has answered for every segment of an
     * earlier life. */
    if (lwd_shard_restoring(server->shard) == 0)
        atomic_store_explicit(&node->fleet_id, fleet_id, memory_order_release);
}
