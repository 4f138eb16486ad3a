/* keeper.c - the background thread's frame: tasks in, results out, leases, views. What happens to a task is
 * in ship.c. */
#include "client/keeper.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "client/ctx.h"

#define VIEW_EVERY_US 1000000ull
#define VIEW_BACKOFF_MAX_US 8000000ull
#define IDLE_WAIT_US 5000ull
#define BUSY_WAIT_US 500ull
#define KEEPER_LANDING_BYTES (64u << 10)

static lw_status_t job_init(lwc_keeper_t *keeper, lwc_job_t *job, lw_error_t *error)
{
    const lwc_model_t *model = &keeper->kv->model;
    const lwc_device_t *device = &keeper->kv->device;
    uint64_t streams = (uint64_t)model->layers * model->heads;
    lw_status_t status = lwc_device_alloc(device, LWK_MEMORY_PINNED, streams * sizeof(lwk_tile_t),
                                          "sealed tiles", (void **)&job->tiles, error);

    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_PINNED, model->layers * model->moments_bytes,
                                  "sealed moments", (void **)&job->moments, error);
    if (status == LW_OK)
        status = lwc_device_event(device, &job->published, error);
    job->node_index = calloc((size_t)model->layers * LW_REPLICAS_MAX, sizeof(*job->node_index));
    job->runs = calloc(model->layers, sizeof(*job->runs));
    job->local = calloc(model->layers, sizeof(*job->local));
    job->segment_bytes = calloc(model->layers, sizeof(*job->segment_bytes));
    job->sums = calloc(streams * model->sums_count, sizeof(*job->sums));
    if (status == LW_OK && (!job->node_index || !job->runs || !job->local || !job->segment_bytes || !job->sums))
        status = lw_fail(error, LW_ERR_NO_MEMORY, "keeper: out of memory for a job");
    return status;
}

static void job_fini(lwc_keeper_t *keeper, lwc_job_t *job)
{
    lwc_device_free(&keeper->kv->device, LWK_MEMORY_PINNED, job->tiles);
    lwc_device_free(&keeper->kv->device, LWK_MEMORY_PINNED, job->moments);
    lwc_device_event_free(&keeper->kv->device, job->published);
    free(job->node_index);
    free(job->runs);
    free(job->local);
    free(job->segment_bytes);
    free(job->sums);
}

static lw_status_t parcels_init(lwc_keeper_t *keeper, lw_error_t *error)
{
    struct lw *kv = keeper->kv;
    lw_status_t status = LW_OK;

    keeper->parcel_count = kv->local.on ? 0 : (uint32_t)kv->options.client_extents;
    keeper->parcels = calloc(keeper->parcel_count + 1, sizeof(*keeper->parcels));
    if (!keeper->parcels)
        return lw_fail(error, LW_ERR_NO_MEMORY, "keeper: out of memory");
    for (uint32_t i = 0; i < keeper->parcel_count && status == LW_OK; i++) {
        keeper->parcels[i].keeper = keeper;
        status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, kv->sizes.extent_bytes, "segment extent",
                                  (void **)&keeper->parcels[i].extent, error);
    }
    return status;
}

static lw_status_t store_init(lwc_keeper_t *keeper, lw_error_t *error)
{
    struct lw *kv = keeper->kv;
    lw_status_t status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, KEEPER_LANDING_BYTES,
                                          "keeper's landing memory", (void **)&keeper->landing, error);
    lwc_store_params_t params = {.fabric = kv->env.fabric,
                                 .transports = kv->options.client_transports,
                                 .clock = kv->env.clock,
                                 .client_id = kv->control->client_id,
                                 .incarnation = kv->control->incarnation,
                                 .lane = 1,
                                 .segment_capacity = 1,
                                 .session_capacity = kv->sizes.sessions_max,
                                 .wants_max = 64,
                                 .puts_max = keeper->parcel_count,
                                 .landing = keeper->landing,
                                 .landing_bytes = KEEPER_LANDING_BYTES,
                                 .hedge_us = kv->options.client_hedge};

    return status == LW_OK ? lwc_store_create(&params, &keeper->store, error) : status;
}

static unsigned renew(lwc_keeper_t *keeper, uint64_t now_us);
static unsigned reread(lwc_keeper_t *keeper);

/* Earlier layers travel, and leases are kept, while the device works on this one. */
static void while_sealing(void *arg)
{
    lwc_keeper_t *keeper = arg;
    uint64_t now = lwc_now(keeper->kv);

    if (!keeper->store)
        return;
    (void)lwc_store_round(keeper->store, now);
    (void)renew(keeper, now);
    (void)reread(keeper);
}

lw_status_t lwc_keeper_init(lwc_keeper_t *keeper, struct lw *kv, lw_error_t *error)
{
    memset(keeper, 0, sizeof(*keeper));
    keeper->kv = kv;
    keeper->task_capacity = 1;
    while (keeper->task_capacity < kv->sizes.sessions_max)
        keeper->task_capacity *= 2;
    keeper->tasks = calloc(keeper->task_capacity, sizeof(*keeper->tasks));
    keeper->total = calloc(kv->model.heads * kv->model.sums_count, sizeof(*keeper->total));
    if (!keeper->tasks || !keeper->total)
        return lw_fail(error, LW_ERR_NO_MEMORY, "keeper: out of memory");
    lw_status_t status = LW_OK;
    for (uint32_t i = 0; i < LWC_JOBS && status == LW_OK; i++)
        status = job_init(keeper, &keeper->jobs[i], error);
    if (status == LW_OK)
        status = parcels_init(keeper, error);
    if (status == LW_OK)
        status = lwc_seal_init(&keeper->seal, &kv->device, &kv->model, kv->keeper_stream,
                               (uint32_t)kv->options.index_iterations, error);
    keeper->seal.idle = while_sealing;
    keeper->seal.idle_arg = keeper;
    keeper->seal.unchecked = kv->local.on;
    keeper->seal.timeout_us = kv->options.client_ship_timeout;
    if (status == LW_OK && !kv->local.on)
        status = store_init(keeper, error);
    uint64_t now = lwc_now(kv);
    keeper->renewed_us = now;
    keeper->renew_at_us = now + kv->options.client_lease / 3;
    keeper->view_at_us = now + VIEW_EVERY_US;
    return status;
}

void lwc_keeper_fini(lwc_keeper_t *keeper)
{
    if (keeper->threaded) {
        atomic_store(&keeper->stop, true);
        pthread_join(keeper->thread, NULL);
    }
    if (keeper->store)
        lwc_store_destroy(keeper->store);
    lwc_view_mail_free(atomic_exchange(&keeper->view_mail, NULL));
    lwc_seal_fini(&keeper->seal);
    for (uint32_t i = 0; i < keeper->parcel_count && keeper->parcels; i++)
        lwc_device_free(&keeper->kv->device, LWK_MEMORY_PINNED, keeper->parcels[i].extent);
    for (uint32_t i = 0; i < LWC_JOBS; i++)
        job_fini(keeper, &keeper->jobs[i]);
    lwc_device_free(&keeper->kv->device, LWK_MEMORY_PINNED, keeper->landing);
    free(keeper->parcels);
    free(keeper->tasks);
    free(keeper->total);
    memset(keeper, 0, sizeof(*keeper));
}

/* ---- leases and views ---- */

static unsigned renew(lwc_keeper_t *keeper, uint64_t now_us)
{
    uint64_t lease = keeper->kv->options.client_lease;
    uint32_t renewed = 0;
    lw_error_t error = {.text = ""};

    if (now_us < keeper->renew_at_us)
        return 0;
    lw_status_t status = lwc_control_renew(keeper->kv->control, lease, &renewed, &error);
    if (status == LW_OK) {
        keeper->renewed_us = now_us;
        keeper->renew_at_us = now_us + lease / 3;
        return 1;
    }
    keeper->renew_at_us = now_us + lease / 10;
    if (now_us - keeper->renewed_us > lease) {
        LW_WARN("client", "the lease ran out: %s", error.text);
        keeper->renewed_us = now_us; /* once a lease is enough */
    }
    return 1;
}

static unsigned reread(lwc_keeper_t *keeper)
{
    return lwc_reread_round(&keeper->kv->refresh, keeper->kv->control, (uint16_t)keeper->kv->model.rank);
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3ull; /* FNV-1a */
    return hash;
}

static uint64_t view_hash(const lw_view_t *view)
{
    uint64_t hash = hash_bytes(0xCBF29CE484222325ull, &view->epoch, sizeof(view->epoch));

    for (uint32_t i = 0; i < view->node_count; i++) {
        const lw_node_t *node = &view->nodes[i];
        hash = hash_bytes(hash, &node->id, sizeof(node->id));
        hash = hash_bytes(hash, &node->incarnation, sizeof(node->incarnation));
        hash = hash_bytes(hash, &node->state, sizeof(node->state));
        hash = hash_bytes(hash, &node->weight, sizeof(node->weight));
        hash = hash_bytes(hash, &node->index, sizeof(node->index));
        hash = hash_bytes(hash, node->data, strnlen(node->data, sizeof(node->data)));
    }
    return hash;
}

void lwc_view_mail_free(lw_view_t *view)
{
    if (view)
        lwc_view_free(view);
    free(view);
}

lw_view_t *lwc_keeper_take_view(lwc_keeper_t *keeper)
{
    if (!atomic_load_explicit(&keeper->view_mail, memory_order_relaxed))
        return NULL;
    return atomic_exchange_explicit(&keeper->view_mail, NULL, memory_order_acq_rel);
}

static unsigned refresh_view(lwc_keeper_t *keeper, uint64_t now_us)
{
    if (now_us < keeper->view_at_us)
        return 0;
    lw_view_t *view = calloc(1, sizeof(*view));
    lw_error_t error;
    if (!view || lwc_control_fleet_get(keeper->kv->control, view, &error) != LW_OK) {
        keeper->view_backoff_us = keeper->view_backoff_us ? 2 * keeper->view_backoff_us : VIEW_EVERY_US;
        keeper->view_backoff_us = lw_min_u64(keeper->view_backoff_us, VIEW_BACKOFF_MAX_US);
        keeper->view_at_us = now_us + keeper->view_backoff_us;
        free(view);
        return 1;
    }
    keeper->view_backoff_us = 0;
    keeper->view_at_us = now_us + VIEW_EVERY_US;
    uint64_t hash = view_hash(view);
    if (hash == keeper->view_hash) {
        lwc_view_mail_free(view);
        return 0;
    }
    if (lwc_store_set_view(keeper->store, view, &error) != LW_OK) {
        LW_WARN("client", "view at epoch %llu is not usable: %s", (unsigned long long)view->epoch,
                error.text);
        lwc_view_mail_free(view);
        return 1;
    }
    keeper->view_hash = hash;
    lwc_view_mail_free(atomic_exchange_explicit(&keeper->view_mail, view, memory_order_acq_rel));
    return 1;
}

/* ---- tasks ---- */

void lwc_keeper_submit(lwc_keeper_t *keeper, const lwc_task_t *task)
{
    uint32_t head = atomic_load_explicit(&keeper->task_head, memory_order_relaxed);

    LW_ASSERT(head - atomic_load_explicit(&keeper->task_tail, memory_order_acquire) < keeper->task_capacity);
    keeper->tasks[head & (keeper->task_capacity - 1)] = *task;
    atomic_store_explicit(&keeper->task_head, head + 1, memory_order_release);
}

static unsigned take_task(lwc_keeper_t *keeper)
{
    uint32_t tail = atomic_load_explicit(&keeper->task_tail, memory_order_relaxed);
    lwc_job_t *job = &keeper->jobs[keeper->job_next];

    if (tail == atomic_load_explicit(&keeper->task_head, memory_order_acquire) ||
        atomic_load_explicit(&job->state, memory_order_acquire) != LWC_JOB_FREE)
        return 0;
    job->task = keeper->tasks[tail & (keeper->task_capacity - 1)];
    atomic_store_explicit(&keeper->task_tail, tail + 1, memory_order_release);
    atomic_store_explicit(&job->state, LWC_JOB_BUSY, memory_order_relaxed);
    keeper->job = job;
    keeper->stage = LWC_STAGE_BEGIN;
    return 1;
}

lwc_job_t *lwc_keeper_result(lwc_keeper_t *keeper)
{
    lwc_job_t *job = &keeper->jobs[keeper->result_next];
    return atomic_load_explicit(&job->state, memory_order_acquire) == LWC_JOB_DONE ? job : NULL;
}

void lwc_keeper_take(lwc_keeper_t *keeper, lwc_job_t *job)
{
    LW_ASSERT(job == &keeper->jobs[keeper->result_next]);
    keeper->result_next = (keeper->result_next + 1) % LWC_JOBS;
    atomic_store_explicit(&job->state, LWC_JOB_TAKEN, memory_order_relaxed);
}

void lwc_keeper_return(lwc_keeper_t *keeper)
{
    for (;;) {
        lwc_job_t *job = &keeper->jobs[keeper->return_next];
        if (atomic_load_explicit(&job->state, memory_order_relaxed) != LWC_JOB_TAKEN ||
            !lwc_device_passed(&keeper->kv->device, job->published))
            return;
        keeper->return_next = (keeper->return_next + 1) % LWC_JOBS;
        atomic_store_explicit(&job->state, LWC_JOB_FREE, memory_order_release);
    }
}

unsigned lwc_keeper_round(lwc_keeper_t *keeper, uint64_t now_us)
{
    unsigned events = 0;

    if (keeper->store)
        events = lwc_store_round(keeper->store, now_us) + renew(keeper, now_us) + refresh_view(keeper, now_us) +
                 reread(keeper);
    events += keeper->job ? lwc_job_advance(keeper, now_us) : take_task(keeper);
    return events;
}

static void *keeper_main(void *arg)
{
    lwc_keeper_t *keeper = arg;

    while (!atomic_load_explicit(&keeper->stop, memory_order_relaxed))
        if (lwc_keeper_round(keeper, lwc_now(keeper->kv)) == 0) {
            uint64_t wait_us = keeper->job ? BUSY_WAIT_US : IDLE_WAIT_US;
            if (keeper->store)
                lwc_store_wait(keeper->store, wait_us);
            else
                lwc_device_nap(wait_us);
        }
    return NULL;
}

lw_status_t lwc_keeper_start(lwc_keeper_t *keeper, lw_error_t *error)
{
    if (pthread_create(&keeper->thread, NULL, keeper_main, keeper) != 0)
        return lw_fail(error, LW_ERR_EXHAUSTED, "the keeper's thread cannot be started");
    keeper->threaded = true;
    return LW_OK;
}
