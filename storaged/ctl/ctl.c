/* ctl.c - builds a node's control plane and takes it down: parameters, the fleet's list, the order of things. */
#include "storaged/ctl/ctl_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* ---- parameters ---- */

uint64_t lwd_ctl_node_id(const char *advertise)
{
    uint64_t hash = 0xCBF29CE484222325ull; /* FNV-1a */
    for (const char *at = advertise; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 0x100000001B3ull;
    return hash ? hash : 1;
}

static bool address_is_wildcard(const char *address)
{
    return strncmp(address, "0.0.0.0:", 8) == 0 || strncmp(address, "[::]:", 5) == 0 || address[0] == '*';
}

static lw_status_t ctl_parse_fleet(lwd_ctl_t *ctl, const char *list, lw_error_t *error)
{
    while (list && *list) {
        size_t bytes = strcspn(list, ", ");
        if (bytes >= LW_ADDRESS_MAX)
            return lw_fail(error, LW_ERR_INVALID, "fleet: an address is %zu bytes long", bytes);
        if (bytes) {
            if (ctl->fleet_count == LWD_CTL_FLEET_MAX)
                return lw_fail(error, LW_ERR_INVALID, "fleet: more than %u nodes", LWD_CTL_FLEET_MAX);
            if (!memchr(list, ':', bytes))
                return lw_fail(error, LW_ERR_INVALID, "fleet: '%.*s' is not host:port", (int)bytes, list);
            memcpy(ctl->fleet[ctl->fleet_count++], list, bytes);
        }
        list += bytes + strspn(list + bytes, ", ");
    }
    return LW_OK;
}

/* Finds this node in the list; a node without a list is a fleet of its own. */
static lw_status_t ctl_find_self(lwd_ctl_t *ctl, lw_error_t *error)
{
    if (ctl->fleet_count == 0)
        memcpy(ctl->fleet[ctl->fleet_count++], ctl->advertise, sizeof(ctl->advertise));
    for (uint32_t i = 0; i < ctl->fleet_count; i++)
        if (strcmp(ctl->fleet[i], ctl->advertise) == 0) {
            ctl->own_index = i;
            ctl->holder = i == 0;
            return LW_OK;
        }
    return lw_fail(error, LW_ERR_INVALID, "this node's address %s is not in the fleet's list (%s and %u more)",
                   ctl->advertise, ctl->fleet[0], ctl->fleet_count - 1);
}

static lw_status_t ctl_copy(char *to, size_t bytes, const char *text, const char *name, lw_error_t *error)
{
    if (text && strlen(text) >= bytes)
        return lw_fail(error, LW_ERR_INVALID, "%s is %zu bytes long, at most %zu", name, strlen(text), bytes - 1);
    snprintf(to, bytes, "%s", text ? text : "");
    return LW_OK;
}

static lw_status_t ctl_set_params(lwd_ctl_t *ctl, const lwd_ctl_params_t *params, lw_error_t *error)
{
    ctl->clock = params->clock ? params->clock : lw_clock_real();
    ctl->callbacks = params->callbacks;
    ctl->ops = params->catalogue;
#ifdef LW_HAVE_SQLITE
    if (!ctl->ops)
        ctl->ops = lwd_catalogue_sqlite();
#endif
    if (params->etcd && params->etcd[0]) {
        ctl->ops = lwd_catalogue_etcd();
        if (params->fleet && params->fleet[0])
            return lw_fail(error, LW_ERR_INVALID, "fleet: a list of nodes (%s) and etcd exclude each other", params->fleet);
    }
    ctl->weight = params->weight ? params->weight : 100;
    ctl->started_us = ctl_now(ctl);
    ctl->mutual = params->ca_pem != NULL;
    ctl->incarnation = params->incarnation ? params->incarnation : ctl_unix(ctl);
    if (!params->listen || !params->listen[0])
        return lw_fail(error, LW_ERR_INVALID, "ctl: no address to listen on");
    bool advertised = params->advertise && params->advertise[0];
    if (!advertised && address_is_wildcard(params->listen))
        return lw_fail(error, LW_ERR_INVALID, "ctl: listening on %s needs an address to advertise", params->listen);
    if (params->data && address_is_wildcard(params->data))
        return lw_fail(error, LW_ERR_INVALID, "ctl: the data address %s cannot be told to clients", params->data);
    lw_status_t status = ctl_copy(ctl->advertise, sizeof(ctl->advertise), params->advertise, "advertise", error);
    if (status == LW_OK)
        status = ctl_copy(ctl->data, sizeof(ctl->data), params->data, "data address", error);
    if (status == LW_OK)
        status = ctl_copy(ctl->zone, sizeof(ctl->zone), params->zone, "zone", error);
    return status == LW_OK ? ctl_parse_fleet(ctl, params->fleet, error) : status;
}

/* ---- starting ---- */

static lw_status_t ctl_listen(lwd_ctl_t *ctl, const lwd_ctl_params_t *params, ctl_bound_t *bound, lw_error_t *error)
{
    const struct { const ctl_method_t *rows; size_t count; } tables[] = {
        {ctl_session_methods, LW_ARRAY_SIZE(ctl_session_methods)},
        {ctl_fleet_methods, LW_ARRAY_SIZE(ctl_fleet_methods)},
        {ctl_move_methods, LW_ARRAY_SIZE(ctl_move_methods)},
        {ctl_admin_methods, LW_ARRAY_SIZE(ctl_admin_methods)},
        {ctl_health_methods, LW_ARRAY_SIZE(ctl_health_methods)},
    };
    lw_rpc_method_t methods[LW_RPC_METHODS_MAX];
    size_t count = 0;
    for (size_t t = 0; t < LW_ARRAY_SIZE(tables); t++)
        for (size_t i = 0; i < tables[t].count; i++, count++) {
            LW_ASSERT(count < LW_RPC_METHODS_MAX);
            bound[count] = (ctl_bound_t){ctl, &tables[t].rows[i]};
            methods[count] = (lw_rpc_method_t){.path = tables[t].rows[i].path, .streaming = tables[t].rows[i].streaming,
                                               .serve = lwd_ctl_serve, .arg = &bound[count]};
        }
    const lw_rpc_tls_t tls = {.ca_pem = params->ca_pem, .cert_pem = params->cert_pem, .key_pem = params->key_pem};
    return lw_rpc_serve(params->listen, &tls, methods, count, &ctl->server, error);
}

static lw_status_t ctl_open_catalogue(lwd_ctl_t *ctl, const lwd_ctl_params_t *params, lw_error_t *error)
{
    if (!ctl->ops)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "this build has no SQLite: it cannot hold the catalogue");
    bool on_etcd = params->etcd && params->etcd[0];
    lw_status_t status = ctl->ops->open(on_etcd ? params->etcd : params->catalogue_path, &ctl->catalogue, error);
    if (status != LW_OK)
        return status;
    return on_etcd ? lwd_ctl_fleet_etcd_start(ctl, params->etcd, error) : lwd_ctl_fleet_start(ctl, error);
}

static lw_status_t ctl_connect(lwd_ctl_t *ctl, const lwd_ctl_params_t *params, lw_error_t *error)
{
    const lw_rpc_tls_t tls = {.ca_pem = params->ca_pem, .cert_pem = params->cert_pem, .key_pem = params->key_pem};
    bool plain = !params->cert_pem && !params->ca_pem;
    return lw_rpc_connect(ctl->fleet[0], plain ? NULL : &tls, &ctl->channel, error);
}

static void ctl_locks_init(lwd_ctl_t *ctl)
{
    pthread_mutex_init(&ctl->send_lock, NULL);
    pthread_mutex_init(&ctl->view_lock, NULL);
    pthread_mutex_init(&ctl->job_lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&ctl->job_changed, &attributes);
    pthread_condattr_destroy(&attributes);
    ctl->jobs_tail = &ctl->jobs;
}

static void ctl_free(lwd_ctl_t *ctl)
{
    lwd_ctl_etcd_stop(ctl->etcd);
    if (ctl->catalogue)
        ctl->ops->close(ctl->catalogue);
    pthread_cond_destroy(&ctl->job_changed);
    pthread_mutex_destroy(&ctl->job_lock);
    pthread_mutex_destroy(&ctl->view_lock);
    pthread_mutex_destroy(&ctl->send_lock);
    free(ctl->view.nodes);
    free(ctl->bound);
    free(ctl);
}

static void ctl_disconnect(lwd_ctl_t *ctl)
{
    pthread_mutex_lock(&ctl->send_lock);
    lw_rpc_channel_t *channel = ctl->channel;
    ctl->channel = NULL;
    pthread_mutex_unlock(&ctl->send_lock);
    lw_rpc_disconnect(channel);
}

lw_status_t lwd_ctl_start(const lwd_ctl_params_t *params, lwd_ctl_t **ctl_out, lw_error_t *error)
{
    lwd_ctl_t *ctl = calloc(1, sizeof(*ctl));
    if (!ctl)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the control plane");
    ctl_locks_init(ctl);
    lw_status_t status = ctl_set_params(ctl, params, error);
    ctl->bound = calloc(LW_RPC_METHODS_MAX, sizeof(*ctl->bound));
    if (status == LW_OK && !ctl->bound)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the control plane");
    if (status != LW_OK)
        goto free_ctl;
    /* Calls that come before the control thread runs wait in its queue. */
    status = ctl_listen(ctl, params, ctl->bound, error);
    if (status != LW_OK)
        goto free_ctl;
    if (!ctl->advertise[0])
        snprintf(ctl->advertise, sizeof(ctl->advertise), "%s", lw_rpc_server_address(ctl->server));
    ctl->node_id = params->node_id ? params->node_id : lwd_ctl_node_id(ctl->advertise);
    status = ctl_find_self(ctl, error);
    if (status == LW_OK)
        status = ctl->holder ? ctl_open_catalogue(ctl, params, error) : ctl_connect(ctl, params, error);
    if (status != LW_OK)
        goto close_server;
    if (params->http && params->http[0]) {
#ifdef LW_HAVE_MHD
        status = lwd_ctl_http_start(ctl, params->http, &ctl->http, error);
#else
        status = lw_fail(error, LW_ERR_UNSUPPORTED, "this build has no libmicrohttpd: no HTTP on %s", params->http);
#endif
        if (status != LW_OK)
            goto close_server;
    }
    status = lwd_ctl_agent_start(ctl, &ctl->agent, error);
    if (status != LW_OK)
        goto stop_http;
    status = lwd_ctl_control_start(ctl, error);
    if (status != LW_OK)
        goto stop_agent;
    *ctl_out = ctl;
    return LW_OK;

stop_agent:
    lwd_ctl_refuse_jobs(ctl);
    ctl_disconnect(ctl);
    lwd_ctl_agent_stop(ctl->agent);
stop_http:
#ifdef LW_HAVE_MHD
    lwd_ctl_http_stop(ctl->http);
#endif
close_server:
    lwd_ctl_refuse_jobs(ctl);
    ctl_disconnect(ctl);
    lw_rpc_server_stop(ctl->server, 0);
free_ctl:
    ctl_free(ctl);
    return status;
}

void lwd_ctl_stop(lwd_ctl_t *ctl, uint64_t grace_us)
{
    if (!ctl)
        return;
    atomic_store(&ctl->stopping, true);
    lw_rpc_server_stop(ctl->server, grace_us); /* the control thread goes on answering, and ends the streams */
    lwd_ctl_control_stop(ctl);
    ctl_disconnect(ctl);
    lwd_ctl_agent_stop(ctl->agent);
#ifdef LW_HAVE_MHD
    lwd_ctl_http_stop(ctl->http);
#endif
    ctl_free(ctl);
}

void lwd_ctl_drain(lwd_ctl_t *ctl)
{
    atomic_store(&ctl->draining, true);
    lwd_ctl_agent_kick(ctl->agent);
}

/* ---- what others ask ---- */

const char *lwd_ctl_address(const lwd_ctl_t *ctl)
{
    return lw_rpc_server_address(ctl->server);
}

const char *lwd_ctl_http_address(const lwd_ctl_t *ctl)
{
#ifdef LW_HAVE_MHD
    return ctl->http ? lwd_ctl_http_bound(ctl->http) : "";
#else
    (void)ctl;
    return "";
#endif
}

bool lwd_ctl_holds_catalogue(const lwd_ctl_t *ctl)
{
    return ctl->holder;
}

uint64_t lwd_ctl_epoch(const lwd_ctl_t *ctl)
{
    return atomic_load_explicit(&ctl->epoch, memory_order_relaxed);
}

uint64_t lwd_ctl_fleet_id(const lwd_ctl_t *ctl)
{
    return atomic_load_explicit(&ctl->fleet_id, memory_order_relaxed);
}

bool lwd_ctl_writable(const lwd_ctl_t *ctl)
{
    uint64_t synced = atomic_load_explicit(&ctl->synced_us, memory_order_relaxed), now = ctl_now(ctl);
    return synced != 0 && (now < synced || now - synced < LWD_CTL_FENCE_US);
}

bool lwd_ctl_node_token(lwd_ctl_t *ctl, uint8_t token_out[LW_TOKEN_BYTES])
{
    static const uint8_t none[LW_TOKEN_BYTES];
    pthread_mutex_lock(&ctl->view_lock);
    memcpy(token_out, ctl->node_token, LW_TOKEN_BYTES);
    pthread_mutex_unlock(&ctl->view_lock);
    return memcmp(token_out, none, LW_TOKEN_BYTES) != 0;
}

lw_view_t *lwd_ctl_view_copy(lwd_ctl_t *ctl)
{
    pthread_mutex_lock(&ctl->view_lock);
    size_t node_bytes = ctl->view.node_count * sizeof(lw_node_t);
    lw_view_t *copy = malloc(lw_align_up(sizeof(*copy), 16) + node_bytes); /* one block: free() takes both */
    if (copy) {
        *copy = ctl->view;
        copy->nodes = (lw_node_t *)((char *)copy + lw_align_up(sizeof(*copy), 16));
        if (node_bytes)
            memcpy(copy->nodes, ctl->view.nodes, node_bytes);
    }
    pthread_mutex_unlock(&ctl->view_lock);
    return copy;
}
