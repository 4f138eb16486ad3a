/* ctx.c - makes and unmakes a handle. Everything that the step path touches is allocated here or at session
 * open. */
#include "client/ctx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define STEP_STORE_READS 8u

static lw_status_t device_open(struct lw *kv, const lw_open_params_t *params, lw_error_t *error)
{
    kv->device.backend = kv->env.backend ? kv->env.backend : lwk_backend_find(params->backend);
    kv->device.clock = kv->env.clock;
    if (!kv->device.backend)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "backend '%s' is not known or does not work here",
                       params->backend ? params->backend : "");
    if (kv->device.backend->version != LWK_BACKEND_VERSION ||
        kv->device.backend->size < sizeof(lwk_backend_t))
        return lw_fail(error, LW_ERR_VERSION, "backend '%s' has version %u, this library wants %u",
                       kv->device.backend->name, kv->device.backend->version, LWK_BACKEND_VERSION);
    kv->device.async = (kv->device.backend->caps & LWK_CAP_ASYNC) != 0;
    if (params->progress > LW_PROGRESS_THREAD)
        return lw_fail(error, LW_ERR_INVALID, "progress is %u, must be a lw_progress_mode_t", params->progress);
    if (params->progress == (kv->device.async ? LW_PROGRESS_CALLER : LW_PROGRESS_THREAD))
        return lw_fail(error, LW_ERR_UNSUPPORTED, "progress is %u: backend '%s' %s", params->progress,
                       kv->device.backend->name,
                       kv->device.async ? "needs a thread that never waits for it" : "has no progress thread");
    lw_status_t status = kv->device.backend->open(params->device, &kv->device.dev, error);
    if (status != LW_OK)
        return status;
    snprintf(kv->device_text, sizeof(kv->device_text), "%s", kv->device.backend->describe(kv->device.dev));
    status = kv->device.backend->stream_create(kv->device.dev, &kv->own_stream);
    kv->stream = kv->own_stream;
    if (status == LW_OK)
        status = kv->device.backend->stream_create(kv->device.dev, &kv->keeper_stream);
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "streams of backend '%s'", kv->device.backend->name);
}

static lw_status_t memory_open(struct lw *kv, lw_error_t *error)
{
    const lwc_model_t *model = &kv->model;
    const lwc_sizes_t *sizes = &kv->sizes;
    uint64_t streams = (uint64_t)model->layers * model->heads;
    const struct {
        void **memory;
        lwk_memory_t kind;
        uint64_t bytes;
        const char *what;
    } parts[] = {
        {(void **)&kv->store_dev, LWK_MEMORY_DEVICE, sizeof(lwk_store_t), "store"},
        {(void **)&kv->tiles, LWK_MEMORY_DEVICE, sizes->range_capacity * streams * sizeof(lwk_tile_t),
         "tile table"},
        {(void **)&kv->rows, LWK_MEMORY_DEVICE, sizes->sessions_max * sizeof(lwk_session_t), "session rows"},
        {(void **)&kv->index, LWK_MEMORY_DEVICE, sizes->index_bytes, "wave index (index.bytes)"},
        {(void **)&kv->counters, LWK_MEMORY_PINNED, sizeof(lwk_counters_t), "counters"},
        {(void **)&kv->moments_staging, LWK_MEMORY_PINNED, model->layers * model->moments_bytes,
         "moments staging"},
        {(void **)&kv->moments_zero, LWK_MEMORY_DEVICE, model->layers * model->moments_bytes, "moments"},
        {(void **)&kv->tiles_staging, LWK_MEMORY_PINNED, streams * sizeof(lwk_tile_t), "tiles staging"},
    };
    lw_status_t status = LW_OK;

    for (size_t i = 0; i < LW_ARRAY_SIZE(parts) && status == LW_OK; i++)
        status = lwc_device_alloc(&kv->device, parts[i].kind, parts[i].bytes, parts[i].what, parts[i].memory,
                                  error);
    if (status == LW_OK)
        status = lwc_stream_init(kv, error);
    if (status == LW_OK)
        status = lwc_outcomes_init(kv, error);
    if (status == LW_OK)
        status = lwc_bound_init(kv, error);
    if (status == LW_OK)
        status = lwc_device_event(&kv->device, &kv->graves.passed, error);
    if (status == LW_OK)
        status = lwc_arena_init(&kv->arena, kv->index, sizes->index_bytes,
                                sizes->range_capacity * model->layers, error);
    if (status == LW_OK)
        status = lwc_cache_init(&kv->cache, &kv->device, model, sizes->cache_bytes,
                                kv->options.cache_single_ppm, kv->at.settled, kv->stream, error);
    if (status == LW_OK)
        status = lwc_directory_init(&kv->directory, sizes->range_capacity, model->layers, error);
    if (status == LW_OK)
        status = lwc_tickets_init(&kv->tickets, &kv->device, model, sizes, kv->local.on, error);
    return status == LW_OK ? lwc_local_init(kv, error) : status;
}

static void memory_close(struct lw *kv)
{
    lwc_local_fini(kv);
    lwc_tickets_fini(&kv->tickets);
    lwc_directory_fini(&kv->directory);
    lwc_cache_fini(&kv->cache, &kv->device);
    lwc_arena_fini(&kv->arena);
    lwc_device_event_free(&kv->device, kv->graves.passed);
    lwc_bound_fini(kv);
    lwc_outcomes_fini(kv);
    lwc_stream_fini(kv);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->moments_zero);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->tiles_staging);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->moments_staging);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->counters);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->index);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->rows);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->tiles);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->store_dev);
}

/* The ops' view of the handle, written to the device once. */
static lw_status_t store_device_write(struct lw *kv, lw_error_t *error)
{
    lwk_store_t store = {.shape = kv->model.shape,
                         .tiles = kv->tiles,
                         .range_capacity = kv->sizes.range_capacity,
                         .admit_window = (uint32_t)kv->options.cache_admit_window,
                         .ticket_capacity = kv->sizes.ticket_capacity,
                         .pages = {kv->cache.classes[0], kv->cache.classes[1]},
                         .tickets = kv->tickets.ring,
                         .ticket_head = kv->tickets.head,
                         .ticket_tail = kv->tickets.tail,
                         .arrivals = kv->tickets.arrivals,
                         .landing = kv->tickets.landing,
                         .counters = kv->counters,
                         .outcomes = kv->outcomes.words,
                         .step_done = kv->outcomes.done,
                         .session_capacity = kv->sizes.sessions_max};

    return lwc_stream_note(kv, kv->store_dev, &store, sizeof(store), error);
}

static lw_status_t sessions_open(struct lw *kv, lw_error_t *error)
{
    kv->sessions = calloc(kv->sizes.sessions_max, sizeof(*kv->sessions));
    if (!kv->sessions)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for %u sessions", kv->sizes.sessions_max);
    for (uint32_t slot = 0; slot < kv->sizes.sessions_max; slot++) {
        kv->sessions[slot].kv = kv;
        kv->sessions[slot].slot = slot;
        kv->sessions[slot].rows = calloc(kv->sizes.ranges_max, sizeof(uint32_t));
        if (!kv->sessions[slot].rows)
            return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for %u sessions", kv->sizes.sessions_max);
    }
    return LW_OK;
}

static void sessions_close(struct lw *kv)
{
    for (uint32_t slot = 0; kv->sessions && slot < kv->sizes.sessions_max; slot++) {
        LW_ASSERT(!kv->sessions[slot].open);
        lwc_steady_fini(&kv->sessions[slot].steady);
        lwc_device_event_free(&kv->device, kv->sessions[slot].keep.cut);
        free(kv->sessions[slot].keep.sums);
        free(kv->sessions[slot].rows);
    }
    free(kv->sessions);
}

#define PEM_BYTES_MAX (1u << 20)

/* A PEM file named by an option; NULL for an empty name. The caller frees it. */
static lw_status_t read_pem(const char *option, const char *path, char **text_out, lw_error_t *error)
{
    *text_out = NULL;
    if (path[0] == '\0')
        return LW_OK;
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, PEM_BYTES_MAX + 1);
    size_t bytes = file && text ? fread(text, 1, PEM_BYTES_MAX, file) : 0;
    bool more = bytes == PEM_BYTES_MAX && fgetc(file) != EOF;
    if (file)
        fclose(file);
    if (bytes == 0 || more) {
        free(text);
        return more ? lw_fail(error, LW_ERR_INVALID, "%s: '%s' is larger than %u bytes", option, path, PEM_BYTES_MAX)
                    : lw_fail(error, LW_ERR_IO, "%s: '%s' cannot be read", option, path);
    }
    *text_out = text;
    return LW_OK;
}

static lw_status_t control_open(struct lw *kv, const lw_open_params_t *params, lw_error_t *error)
{
    char *ca = NULL, *cert = NULL, *key = NULL;

    if (kv->env.control) {
        kv->control = kv->env.control;
        return LW_OK;
    }
    if (kv->local.on)
        return lwc_control_local(kv->tenant, &kv->control, error);
    lw_status_t status = read_pem("tls.ca", kv->options.tls_ca, &ca, error);
    if (status == LW_OK)
        status = read_pem("tls.cert", kv->options.tls_cert, &cert, error);
    if (status == LW_OK)
        status = read_pem("tls.key", kv->options.tls_key, &key, error);
    lwc_control_params_t control = {.size = sizeof(control),
                                    .seeds = params->fleet ? params->fleet : kv->options.client_fleet,
                                    .tenant = kv->tenant,
                                    .timeout_us = kv->options.client_control_timeout,
                                    .ca_pem = ca,
                                    .cert_pem = cert,
                                    .key_pem = key,
                                    .server_name =
                                        kv->options.tls_server_name[0] ? kv->options.tls_server_name : NULL};
    if (status == LW_OK && control.seeds[0] == '\0')
        status = lw_fail(error, LW_ERR_INVALID,
                         "fleet is empty: name the nodes in lw_open or in option client.fleet");
    if (status == LW_OK)
        status = lwc_control_open(&control, &kv->control, error);
    free(ca);
    free(cert);
    free(key);
    return status;
}

static lw_status_t keeper_open(struct lw *kv, lw_error_t *error)
{
    kv->keeper_made = true;
    return lwc_keeper_init(&kv->keeper, kv, error);
}

/* The step's store and the tickets go to the progress thread. */
static lw_status_t courier_open(struct lw *kv, lw_error_t *error)
{
    lw_status_t status = lwc_courier_init(&kv->courier, kv->store, &kv->tickets, &kv->keeper, kv->env.clock,
                                          kv->sizes.range_capacity * kv->model.layers,
                                          kv->options.client_progress_spin, error);
    if (status != LW_OK)
        return status;
    kv->store = NULL;
    kv->courier_made = true;
    return lwc_courier_start(&kv->courier, error);
}

static_assert(LWC_AUTO == LWC_HEDGE_AUTO, "client.hedge goes to the store as it is");

static lw_status_t fleet_open(struct lw *kv, lw_error_t *error)
{
    lw_view_t view;
    lwc_store_params_t params = {.fabric = kv->env.fabric,
                                 .transports = kv->options.client_transports,
                                 .clock = kv->env.clock,
                                 .client_id = kv->control->client_id,
                                 .incarnation = kv->control->incarnation,
                                 .lane = 0,
                                 .segment_capacity = kv->sizes.range_capacity * kv->model.layers,
                                 .session_capacity = kv->sizes.sessions_max,
                                 .wants_max = kv->sizes.ticket_capacity,
                                 .puts_max = STEP_STORE_READS,
                                 .landing = kv->tickets.landing,
                                 .landing_bytes = kv->tickets.landing_bytes,
                                 .spin_us = kv->options.client_spin,
                                 .hedge_us = kv->options.client_hedge,
                                 .refresh = &kv->refresh};

    if (!kv->env.fabric)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "this library was built without a fabric (UCX)");
    lw_status_t status = lwc_refresh_init(&kv->refresh, kv->sizes.sessions_max, kv->model.layers, error);
    if (status != LW_OK)
        return status;
    status = lwc_control_fleet_get(kv->control, &view, error);
    if (status != LW_OK)
        return status;
    status = lwc_store_create(&params, &kv->store, error);
    if (status == LW_OK)
        status = lwc_store_set_view(kv->store, &view, error);
    kv->tickets.store = kv->store;
    if (status == LW_OK)
        status = keeper_open(kv, error);
    if (status == LW_OK)
        status = lwc_store_set_view(kv->keeper.store, &view, error);
    lwc_view_free(&view);
    if (status == LW_OK && kv->device.async)
        status = courier_open(kv, error);
    return status;
}

/* Whether there is a fleet at all. Local records lie in what tickets call landing memory. */
static lw_status_t choose_local(struct lw *kv, const lw_open_params_t *params, lw_error_t *error)
{
    const char *fleet = params->fleet ? params->fleet : kv->options.client_fleet;

    kv->local.on = strcmp(fleet, "local") == 0;
    if (!kv->local.on)
        return LW_OK;
    kv->sizes.landing_bytes = lw_align_up(kv->options.local_bytes, 64);
    if (kv->sizes.landing_bytes > (1ull << 32) * LWK_LANDING_UNIT)
        return lw_fail(error, LW_ERR_INVALID, "local.bytes is %llu, at most %llu",
                       (unsigned long long)kv->options.local_bytes, (1ull << 32) * LWK_LANDING_UNIT);
    return LW_OK;
}

static lw_status_t open_parts(struct lw *kv, const lw_open_params_t *params, lw_error_t *error)
{
    lw_status_t status = lwc_options_load(params->config, &kv->options, error);

    if (status == LW_OK)
        status = lwc_model_make(&params->model, &kv->model, error);
    if (status == LW_OK)
        status = lwc_sizes_make(&kv->model, params, &kv->options, &kv->sizes, error);
    if (status == LW_OK)
        status = device_open(kv, params, error);
    if (status == LW_OK)
        status = choose_local(kv, params, error);
    if (status == LW_OK && kv->device.async && !kv->local.on)
        lwc_sizes_make_async(&kv->model, &kv->options, &kv->sizes);
    if (status == LW_OK)
        status = memory_open(kv, error);
    if (status == LW_OK)
        status = store_device_write(kv, error);
    if (status == LW_OK)
        status = lwc_step_init(kv, error);
    if (status == LW_OK)
        status = lwc_extend_init(kv, error);
    if (status == LW_OK)
        status = sessions_open(kv, error);
    if (status == LW_OK)
        status = control_open(kv, params, error);
    if (status == LW_OK)
        status = kv->local.on ? keeper_open(kv, error) : fleet_open(kv, error);
    if (status == LW_OK && kv->env.keeper_thread)
        status = lwc_keeper_start(&kv->keeper, error);
    return status;
}

lw_status_t lwc_ctx_open(const lw_open_params_t *params, const lwc_env_t *env, struct lw **kv_out,
                         lw_error_t *error)
{
    const char *tenant = params->tenant ? params->tenant : "default";
    if (strlen(tenant) >= LWC_TENANT_MAX)
        return lw_fail(error, LW_ERR_INVALID, "tenant has %zu bytes, at most %u", strlen(tenant),
                       LWC_TENANT_MAX - 1);
    struct lw *kv = calloc(1, sizeof(*kv));
    if (!kv)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory");
    kv->env = *env;
    kv->graves.old = kv->graves.fresh = LWC_GRAVE_NONE;
    memcpy(kv->tenant, tenant, strlen(tenant));
    lw_status_t status = open_parts(kv, params, error);
    if (status != LW_OK) {
        lwc_ctx_close(kv);
        return status;
    }
    LW_INFO("client",
            "open: backend %s (%s), %u layers, %u+%u heads of %u, index %llu MiB, cache %llu MiB, landing "
            "%llu MiB",
            kv->device.backend->name, kv->device_text, kv->model.layers, kv->model.heads,
            kv->model.query_heads, kv->model.head_dim, (unsigned long long)(kv->sizes.index_bytes >> 20),
            (unsigned long long)(kv->cache.bytes >> 20), (unsigned long long)(kv->sizes.landing_bytes >> 20));
    *kv_out = kv;
    return LW_OK;
}

/* What is enqueued ends soon when all its records are refused; until then the device reads this memory. */
static void drain(struct lw *kv)
{
    lw_error_t error;

    if (!kv->device.async || !kv->at.settled)
        return;
    if (kv->courier_made)
        lwc_courier_refuse(&kv->courier);
    if (lwc_stream_settle(kv, &error) != LW_OK)
        LW_WARN("client", "closing: %s", error.text);
}

void lwc_ctx_close(struct lw *kv)
{
    drain(kv);
    if (kv->courier_made)
        lwc_courier_fini(&kv->courier);
    if (kv->keeper_made)
        lwc_keeper_fini(&kv->keeper);
    sessions_close(kv);
    if (kv->store)
        lwc_store_destroy(kv->store);
    lwc_refresh_fini(&kv->refresh);
    if (kv->control)
        lwc_control_close(kv->control);
    else if (kv->env.control)
        lwc_control_close(kv->env.control);
    if (kv->device.dev) {
        lwc_extend_fini(kv);
        lwc_step_fini(kv);
        memory_close(kv);
        if (kv->keeper_stream)
            kv->device.backend->stream_destroy(kv->device.dev, kv->keeper_stream);
        if (kv->own_stream)
            kv->device.backend->stream_destroy(kv->device.dev, kv->own_stream);
        kv->device.backend->close(kv->device.dev);
    }
    free(kv);
}
