/* store.c - creating a store, the round that moves everything, and what it tells about itself. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/store/store_private.h"

static void on_accept(void *arg, lw_conn_t *conn)
{
    lwc_store_t *store = arg; /* a store does not listen */
    store->ops->close_conn(conn);
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    lwc_store_t *store = arg;
    lwc_peer_t *peer = store->ops->user(conn);
    store->events++;
    if (peer && peer->conn == conn)
        lwc_peer_closed(peer, status);
}

static lw_status_t check(const lwc_store_params_t *params, lw_error_t *error)
{
    if (!params->fabric)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "store: no fabric: this build has no UCX");
    if (params->segment_capacity == 0 || params->session_capacity == 0 || params->wants_max == 0 || params->puts_max == 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "store: segment_capacity %u, session_capacity %u, wants_max %u, puts_max %u: none may be 0",
                       params->segment_capacity, params->session_capacity, params->wants_max, params->puts_max);
    if (params->refresh && (params->refresh->session_capacity != params->session_capacity || params->refresh->layers == 0))
        return lw_fail(error, LW_ERR_INVALID, "store: a refresh of %u sessions and %u layers for %u sessions",
                       params->refresh->session_capacity, params->refresh->layers, params->session_capacity);
    if (params->segment_capacity > 1u << 28)
        return lw_fail(error, LW_ERR_INVALID, "store: segment_capacity %u, at most %u", params->segment_capacity, 1u << 28);
    if (!params->landing || params->landing_bytes < LW_WIRE_BULK_ALIGN || (uintptr_t)params->landing % LW_WIRE_BULK_ALIGN)
        return lw_fail(error, LW_ERR_INVALID, "store: landing memory of %llu bytes at %p: at least 64, 64-byte aligned",
                       (unsigned long long)params->landing_bytes, (void *)params->landing);
    return LW_OK;
}

static bool allocate(lwc_store_t *store)
{
    const lwc_store_params_t *params = &store->params;
    uint64_t requests = 2 * LWC_BATCH_COUNT + (uint64_t)params->puts_max * LW_REPLICAS_MAX * (LWC_PUT_WINDOW + 1);
    store->request_capacity = (uint32_t)lw_min_u64(requests, LW_REQUESTS_MAX);
    store->attach_capacity = params->segment_capacity * LW_REPLICAS_MAX;
    store->requests = calloc(store->request_capacity, sizeof(*store->requests));
    store->batches = calloc(LWC_BATCH_COUNT, sizeof(*store->batches));
    store->batch_free = calloc(LWC_BATCH_COUNT, sizeof(lwc_batch_t *));
    store->sessions = calloc(params->session_capacity, sizeof(*store->sessions));
    store->segments = calloc(params->segment_capacity, sizeof(*store->segments));
    store->refreshes = calloc(params->session_capacity, sizeof(*store->refreshes));
    store->attach_queue = calloc(store->attach_capacity, sizeof(*store->attach_queue));
    store->puts = calloc(params->puts_max, sizeof(*store->puts));
    store->reads = calloc(params->puts_max, sizeof(*store->reads));
    if (!store->requests || !store->batches || !store->batch_free || !store->sessions || !store->segments || !store->refreshes ||
        !store->attach_queue || !store->puts || !store->reads)
        return false;
    for (uint32_t i = 0; i < LWC_BATCH_COUNT; i++)
        store->batch_free[store->batch_free_count++] = &store->batches[i];
    return lwc_landing_init(&store->landing, params->landing, params->landing_bytes, 4 * LWC_BATCH_COUNT) == LW_OK;
}

static void release(lwc_store_t *store)
{
    lwc_landing_fini(&store->landing);
    for (uint32_t i = 0; i < store->peer_count; i++)
        lwc_peer_destroy(store->peer[i]);
    free(store->view.nodes);
    free(store->reads);
    free(store->puts);
    free(store->attach_queue);
    free(store->refreshes);
    free(store->segments);
    free(store->sessions);
    free(store->batch_free);
    free(store->batches);
    free(store->requests);
    free(store);
}

lw_status_t lwc_store_create(const lwc_store_params_t *params, lwc_store_t **store_out, lw_error_t *error)
{
    lw_status_t status = check(params, error);
    if (status != LW_OK)
        return status;
    lwc_store_t *store = calloc(1, sizeof(*store));
    if (!store)
        return lw_fail(error, LW_ERR_NO_MEMORY, "store: out of memory");
    store->params = *params;
    store->ops = params->fabric;
    if (!allocate(store)) {
        status = lw_fail(error, LW_ERR_NO_MEMORY, "store: out of memory for %u segments", params->segment_capacity);
        goto err_release;
    }
    lw_fabric_params_t fabric_params = {.transports = params->transports,
                                        .handler = {.on_message = lwc_on_message,
                                                    .on_accept = on_accept,
                                                    .on_closed = on_closed,
                                                    .arg = store}};
    status = store->ops->open(&fabric_params, &store->fabric, error);
    if (status != LW_OK)
        goto err_release;
    store->now_us = lw_now_us(params->clock);
    store->hedge_due_us = UINT64_MAX;
    store->hedge_credit = LWC_HEDGE_CREDIT_FIRST;
    *store_out = store;
    return LW_OK;

err_release:
    release(store);
    return status;
}

/* The fabric has completed everything by now: whoever still waits is told. */
static void cancel_users(lwc_store_t *store)
{
    for (uint32_t i = 0; i < store->params.puts_max; i++) {
        if (store->puts[i].used)
            store->puts[i].done(store->puts[i].arg, LW_ERR_CANCELED);
        if (store->reads[i].used)
            store->reads[i].done(store->reads[i].arg, LW_ERR_CANCELED);
    }
    for (uint32_t w = 0; w < LWC_ATTACH_WAITERS; w++)
        if (store->waiters[w].used)
            store->waiters[w].done(store->waiters[w].arg, LW_ERR_CANCELED);
}

void lwc_store_destroy(lwc_store_t *store)
{
    if (!store)
        return;
    store->closing = true;
    store->kicking = true; /* nothing is sent any more */
    lwc_request_list_t *lists[] = {&store->waiting, &store->away};
    for (size_t i = 0; i < LW_ARRAY_SIZE(lists); i++)
        for (lwc_request_t *request = lwc_requests_first(lists[i]); request; request = lwc_requests_next(lists[i]))
            if (request->kind == LWC_REQUEST_FETCH && request->state != LWC_ZOMBIE)
                lwc_fetch_expire(request, LW_ERR_CANCELED);
    store->ops->close(store->fabric);
    cancel_users(store);
    release(store);
}

lw_status_t lwc_store_set_view(lwc_store_t *store, const lw_view_t *view, lw_error_t *error)
{
    lw_node_t *nodes = malloc(lw_max_u64(view->node_count, 1) * sizeof(*nodes));
    if (!nodes)
        return lw_fail(error, LW_ERR_NO_MEMORY, "view: out of memory for %u nodes", view->node_count);
    memcpy(nodes, view->nodes, view->node_count * sizeof(*nodes));
    for (uint32_t i = 0; i < store->peer_count; i++)
        if (store->peer[i])
            store->peer[i]->in_view = false;
    for (uint32_t i = 0; i < view->node_count; i++) {
        lw_status_t status = lwc_peer_update(store, &nodes[i]);
        if (status != LW_OK) {
            free(nodes);
            return lw_fail(error, status, "%s", lwc_store_last_error(store));
        }
    }
    if (store->view.epoch != 0 && store->view.epoch != view->epoch)
        lwc_refresh_fleet_changed(store);
    free(store->view.nodes);
    store->view = *view;
    store->view.nodes = nodes;
    return LW_OK;
}

const lw_view_t *lwc_store_view(const lwc_store_t *store)
{
    return &store->view;
}

unsigned lwc_store_round(lwc_store_t *store, uint64_t now_us)
{
    store->events = 0;
    store->now_us = lw_max_u64(store->now_us, now_us);
    unsigned moved = store->ops->progress(store->fabric);
    lwc_fetches_kick(store);
    if (store->now_us - store->scanned_us >= LWC_SCAN_EVERY_US || store->events > 0) {
        store->scanned_us = store->now_us;
        lwc_requests_scan(store);
        lwc_puts_scan(store);
        lwc_reads_scan(store);
        lwc_refreshes_scan(store);
        lwc_waiters_scan(store);
        for (uint32_t i = 0; i < store->peer_count; i++)
            if (store->peer[i])
                lwc_peer_scan(store->peer[i]);
        lwc_attach_flush(store);
    }
    return moved + store->events;
}

unsigned lwc_store_wait(lwc_store_t *store, uint64_t wait_us)
{
    const lw_clock_t *clock = store->params.clock;
    unsigned happened = lwc_store_round(store, lw_now_us(clock));
    if (happened > 0)
        return happened;
    /* Waking for the scan keeps deadlines and reconnects alive whatever the fabric does; hedges are wanted in time. */
    uint64_t due_us = store->hedge_due_us > store->now_us ? store->hedge_due_us - store->now_us : 0;
    wait_us = lw_min_u64(wait_us, lw_min_u64(lw_max_u64(due_us, LWC_SCAN_EVERY_US), LWC_SCAN_EVERY_US * 5));
    happened = lw_fabric_wait(store->ops, store->fabric, store->params.spin_us, wait_us);
    return happened + lwc_store_round(store, lw_now_us(clock));
}

void lwc_store_stats(const lwc_store_t *store, lwc_store_stats_t *stats_out)
{
    *stats_out = store->stats;
}

lw_status_t lwc_store_node_stats(const lwc_store_t *store, uint16_t node_index, lwc_node_stats_t *stats_out)
{
    lwc_peer_t *peer = lwc_peer(store, node_index);
    if (!peer)
        return LW_ERR_NOT_FOUND;
    *stats_out = peer->stats;
    return LW_OK;
}

lw_status_t lwc_store_fail(lwc_store_t *store, lw_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(store->error.text, sizeof(store->error.text), format, args);
    va_end(args);
    store->error.status = status;
    return status;
}

const char *lwc_store_last_error(const lwc_store_t *store)
{
    return store->error.text;
}
