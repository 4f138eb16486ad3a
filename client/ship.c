/* ship.c - what becomes of a task: a range is clustered layer by layer, each layer's segment is put on its
 * nodes, one transaction commits them all. The keeper's thread.
 *
 *   BEGIN --> BUILD (a layer at a time, while earlier layers travel) --> DRAIN --> COMMIT --> done
 *   any of them --error, abandoned--> DRAIN --> done with that status
 */
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "client/ctx.h"

#define BACKOFF_FIRST_US 20000ull
#define BACKOFF_MAX_US 2000000ull
#define MOMENTS_EVERY_TOKENS 8192u

void lwc_keep_fail(lwc_keep_t *keep, lw_status_t status, const char *text)
{
    if (atomic_load_explicit(&keep->fault, memory_order_relaxed) != LW_OK)
        return;
    snprintf(keep->fault_text, sizeof(keep->fault_text), "%s", text);
    keep->fault_text[sizeof(keep->fault_text) - 1] = '\0';
    atomic_store_explicit(&keep->fault, status, memory_order_release);
}

static void job_fail(lwc_keeper_t *keeper, lw_status_t status)
{
    if (keeper->job->status == LW_OK)
        keeper->job->status = status;
    keeper->stage = LWC_STAGE_DRAIN;
}

static uint32_t clustered_tokens(const lwc_task_t *task)
{
    return task->first_token == 0 ? task->token_count - LW_SINK_TOKENS : task->token_count;
}

/* ---- begin ---- */

/* A raw tail can only be replaced by a later term (control.h). */
static lw_status_t ensure_term(lwc_keeper_t *keeper, lwc_keep_t *keep)
{
    struct lw *kv = keeper->kv;
    lwc_session_info_t info;

    if (keep->raw_term != keep->info.term)
        return LW_OK;
    lw_status_t status = lwc_control_open_session(kv->control, keep->info.session_id, true,
                                                  kv->options.client_lease, &info, &keeper->error);
    if (status == LW_OK)
        keep->info = info;
    return status;
}

static lw_status_t register_session(lwc_keeper_t *keeper, lwc_keep_t *keep, uint32_t slot)
{
    if (keep->registered_term == keep->info.term || !keeper->store)
        return LW_OK;
    lw_status_t status = lwc_store_session(keeper->store, slot, keep->info.session_id, keep->info.token, true,
                                           keep->info.term);
    if (status != LW_OK)
        return lw_fail(&keeper->error, status, "%s", lwc_store_last_error(keeper->store));
    keep->registered_term = keep->info.term;
    return LW_OK;
}

static bool transient(lw_status_t status)
{
    return status == LW_ERR_FLEET || status == LW_ERR_UNREACHABLE || status == LW_ERR_TIMEOUT ||
           status == LW_ERR_BUSY || status == LW_ERR_EXHAUSTED;
}

/* Whether to try again later; sets when. */
static bool retry_later(lwc_keeper_t *keeper, lw_status_t status, uint64_t now_us)
{
    if (!transient(status) || now_us >= keeper->stage_deadline_us)
        return false;
    keeper->backoff_us =
        keeper->backoff_us ? lw_min_u64(2 * keeper->backoff_us, BACKOFF_MAX_US) : BACKOFF_FIRST_US;
    keeper->retry_at_us = now_us + keeper->backoff_us;
    lw_count(&keeper->stats.ship_retries, 1);
    return true;
}

static void enter(lwc_keeper_t *keeper, lwc_stage_t stage, uint64_t now_us)
{
    keeper->stage = stage;
    keeper->stage_deadline_us = now_us + keeper->kv->options.client_ship_timeout;
    keeper->retry_at_us = keeper->backoff_us = 0;
}

static void begin(lwc_keeper_t *keeper, uint64_t now_us)
{
    lwc_job_t *job = keeper->job;
    lwc_task_t *task = &job->task;
    lwc_keep_t *keep = &task->session->keep;

    if (keeper->stage_deadline_us == 0)
        enter(keeper, LWC_STAGE_BEGIN, now_us);
    job->status = LW_OK;
    job->stored_bytes = job->index_bytes = job->clusters = job->outliers = 0;
    job->entry_slots = 0;
    memset(job->runs, 0, keeper->kv->model.layers * sizeof(*job->runs));
    memset(job->local, 0, keeper->kv->model.layers * sizeof(*job->local));
    lw_status_t status = ensure_term(keeper, keep);
    if (status == LW_OK)
        status = register_session(keeper, keep, task->session->slot);
    if (status != LW_OK) {
        if (!retry_later(keeper, status, now_us))
            job_fail(keeper, status);
        return;
    }
    job->replicas = task->session->info.shape.replicas;
    job->name = (lw_segment_name_t){.origin = keep->info.session_id,
                                    .rank = (uint16_t)keeper->kv->model.rank,
                                    .first_token = task->first_token,
                                    .generation = keep->info.term};
    job->has_moments =
        task->kind == LWC_TASK_RANGE &&
        (!keep->moments_stored || keep->moments_tokens + clustered_tokens(task) >= MOMENTS_EVERY_TOKENS);
    keeper->layer = 0;
    keeper->built = false;
    enter(keeper, LWC_STAGE_BUILD, now_us);
}

/* ---- parcels ---- */

static void parcel_landed(void *arg, lw_status_t status)
{
    lwc_parcel_t *parcel = arg;
    parcel->flying = false;
    parcel->landed = status;
}

static lw_status_t choose_nodes(lwc_keeper_t *keeper, uint32_t layer)
{
    lwc_job_t *job = keeper->job;
    const lw_view_t *view = lwc_store_view(keeper->store);
    uint32_t position[LW_REPLICAS_MAX];
    lw_segment_name_t name = job->name;

    name.layer = (uint16_t)layer;
    uint32_t found = lw_place(view, &name, job->replicas, position);
    if (found < job->replicas)
        return lw_fail(&keeper->error, LW_ERR_EXHAUSTED,
                       "%u of the fleet's %u nodes can take segments, %u replicas wanted", found,
                       view->node_count, job->replicas);
    for (uint32_t r = 0; r < found; r++)
        job->node_index[layer * LW_REPLICAS_MAX + r] = view->nodes[position[r]].index;
    return LW_OK;
}

static void parcel_send(lwc_keeper_t *keeper, lwc_parcel_t *parcel, uint64_t now_us)
{
    lwc_job_t *job = keeper->job;
    uint64_t attempt =
        lw_min_u64(parcel->deadline_us, now_us + keeper->kv->options.client_ship_timeout / 6 + 1);
    lw_status_t status = choose_nodes(keeper, parcel->layer);

    parcel->retry_at_us = 0;
    if (status == LW_OK) {
        parcel->flying = true;
        parcel->landed = LW_INPROGRESS;
        status = lwc_store_put(keeper->store, job->task.session->slot, parcel->extent, parcel->bytes,
                               job->node_index + (size_t)parcel->layer * LW_REPLICAS_MAX, job->replicas,
                               attempt, parcel_landed, parcel);
        if (status != LW_OK)
            lw_fail(&keeper->error, status, "%s", lwc_store_last_error(keeper->store));
    }
    if (status != LW_OK) {
        parcel->flying = false;
        parcel->landed = status;
        parcel->cause = keeper->error;
    }
}

/* A parcel that came down: done, again later, or the job's failure. */
static unsigned parcel_settle(lwc_keeper_t *keeper, lwc_parcel_t *parcel, uint64_t now_us)
{
    if (parcel->landed == LW_OK) {
        lw_count(&keeper->stats.bytes_shipped, parcel->bytes * keeper->job->replicas);
        lw_count(&keeper->stats.segments_shipped, keeper->job->replicas);
        parcel->used = false;
        return 1;
    }
    if (keeper->job->status != LW_OK) {
        parcel->used = false;
        return 1;
    }
    if (parcel->retry_at_us == 0) {
        if (parcel->cause.status != parcel->landed &&
            (parcel->cause.status == LW_OK || parcel->landed != LW_ERR_TIMEOUT))
            lw_fail(&parcel->cause, parcel->landed, "%s", lwc_store_last_error(keeper->store));
        bool again = transient(parcel->landed) || parcel->landed == LW_ERR_STALE;
        if (!again || now_us >= parcel->deadline_us) {
            lw_fail(&keeper->error, parcel->cause.status, "layer %u of tokens %u..%u was not stored: %.160s",
                    parcel->layer, keeper->job->task.first_token,
                    keeper->job->task.first_token + keeper->job->task.token_count - 1, parcel->cause.text);
            parcel->used = false;
            job_fail(keeper, parcel->cause.status);
            return 1;
        }
        parcel->backoff_us =
            parcel->backoff_us ? lw_min_u64(2 * parcel->backoff_us, BACKOFF_MAX_US) : BACKOFF_FIRST_US;
        parcel->retry_at_us = now_us + parcel->backoff_us;
        keeper->view_at_us = lw_min_u64(keeper->view_at_us, parcel->retry_at_us);
        lw_count(&keeper->stats.ship_retries, 1);
        return 1;
    }
    if (now_us < parcel->retry_at_us)
        return 0;
    parcel_send(keeper, parcel, now_us);
    return 1;
}

static unsigned parcels_settle(lwc_keeper_t *keeper, uint64_t now_us, uint32_t *used_out)
{
    unsigned events = 0;

    *used_out = 0;
    for (uint32_t i = 0; i < keeper->parcel_count; i++) {
        lwc_parcel_t *parcel = &keeper->parcels[i];
        if (parcel->used && !parcel->flying)
            events += parcel_settle(keeper, parcel, now_us);
        *used_out += parcel->used;
    }
    return events;
}

static lwc_parcel_t *parcel_free(lwc_keeper_t *keeper)
{
    for (uint32_t i = 0; i < keeper->parcel_count; i++)
        if (!keeper->parcels[i].used)
            return &keeper->parcels[i];
    return NULL;
}

/* ---- build ---- */

static lwc_seal_job_t seal_job(lwc_keeper_t *keeper)
{
    lwc_job_t *job = keeper->job;
    const lwc_model_t *model = &keeper->kv->model;
    lwc_seal_job_t seal = {.name = job->name,
                           .token_count = job->task.token_count,
                           .shape = job->task.session->shape,
                           .steady = &job->task.session->steady,
                           .sums_out =
                               job->sums + (uint64_t)keeper->layer * model->heads * model->sums_count};

    seal.name.layer = (uint16_t)keeper->layer;
    if (job->has_moments)
        seal.moments = job->moments + keeper->layer * model->moments_bytes;
    return seal;
}

/* The session's sums with this range's, in stored form. */
static void make_moments(lwc_keeper_t *keeper, const lwc_seal_job_t *seal)
{
    const lwc_model_t *model = &keeper->kv->model;
    uint64_t count = model->heads * model->sums_count;

    if (!keeper->job->has_moments)
        return;
    memcpy(keeper->total, keeper->job->task.session->keep.sums + keeper->layer * count,
           count * sizeof(double));
    lwc_moments_add(keeper->total, seal->sums_out, model->heads, model->sums_count);
    lwc_moments_encode(keeper->total, model->heads, model->head_dim,
                       keeper->job->moments + keeper->layer * model->moments_bytes);
}

/* Where a layer's segment is written: a parcel that travels, or local memory, where it stays. */
static lw_status_t place_extent(lwc_keeper_t *keeper, const lwc_seal_job_t *seal, lwc_parcel_t *parcel,
                                uint8_t **extent_out, uint64_t *capacity_out)
{
    struct lw *kv = keeper->kv;
    lwc_run_t *run = &keeper->job->local[keeper->layer];
    uint64_t bytes = 0;
    lw_status_t status = LW_OK;

    if (parcel) {
        *extent_out = parcel->extent;
        *capacity_out = kv->sizes.extent_bytes;
        return LW_OK;
    }
    status = lwc_seal_size(&keeper->seal, seal, keeper->heads, &bytes, &keeper->error);
    if (status == LW_OK && run->bytes == 0)
        status = lwc_local_take(kv, bytes, run, &keeper->error);
    *extent_out = kv->local.arena.base + run->offset;
    *capacity_out = run->bytes;
    return status;
}

static void make_local(lwc_keeper_t *keeper, const uint8_t *extent)
{
    struct lw *kv = keeper->kv;
    lwk_tile_t *tiles = keeper->job->tiles + (size_t)keeper->layer * kv->model.heads;

    for (uint32_t j = 0; kv->local.on && j < kv->model.heads; j++)
        tiles[j].local = 1 + (uint64_t)(extent - kv->local.arena.base) + lw_segment_heads(extent)[j].records_offset;
}

static lw_status_t build_range(lwc_keeper_t *keeper, const lwc_seal_job_t *seal, lwc_parcel_t *parcel,
                               uint64_t *bytes_out)
{
    lwc_job_t *job = keeper->job;
    struct lw *kv = keeper->kv;
    uint8_t *extent = NULL;
    uint64_t capacity = 0;
    lw_status_t status = LW_OK;

    if (!keeper->built) {
        status = lwc_seal_build(&keeper->seal, seal, keeper->heads, &keeper->error);
        if (status != LW_OK)
            return status;
        make_moments(keeper, seal);
        keeper->built = true;
    }
    status = place_extent(keeper, seal, parcel, &extent, &capacity);
    if (status == LW_OK)
        status = lwc_tiles_place(&kv->device, &kv->arena, keeper->heads, kv->model.heads,
                                 seal->shape.cluster_encoding, seal->shape.outlier_encoding, kv->local.on,
                                 kv->keeper_stream, job->tiles + (size_t)keeper->layer * kv->model.heads,
                                 &job->runs[keeper->layer], &keeper->error);
    if (status == LW_OK)
        status = lwc_seal_write(&keeper->seal, seal, keeper->heads, extent, capacity, bytes_out, &keeper->error);
    if (status != LW_OK)
        return status;
    make_local(keeper, extent);
    for (uint32_t j = 0; j < kv->model.heads; j++) {
        uint32_t entries = keeper->heads[j].cluster_count + keeper->heads[j].outlier_count;
        job->entry_slots = (uint32_t)lw_max_u64(job->entry_slots, entries);
        job->clusters += keeper->heads[j].cluster_count;
        job->outliers += keeper->heads[j].outlier_count;
    }
    job->index_bytes += job->runs[keeper->layer].bytes;
    return LW_OK;
}

static void parcel_begin(lwc_keeper_t *keeper, lwc_parcel_t *parcel, uint64_t bytes, uint64_t now_us)
{
    parcel->bytes = bytes;
    parcel->used = true;
    parcel->layer = keeper->layer;
    parcel->deadline_us = now_us + keeper->kv->options.client_ship_timeout;
    parcel->backoff_us = 0;
    parcel->cause.status = LW_OK;
    parcel_send(keeper, parcel, now_us);
}

static unsigned build(lwc_keeper_t *keeper, uint64_t now_us)
{
    lwc_parcel_t *parcel = parcel_free(keeper);
    lwc_seal_job_t seal = seal_job(keeper);
    uint64_t bytes = 0;

    if ((!parcel && !keeper->kv->local.on) || now_us < keeper->retry_at_us)
        return 0;
    lw_status_t status = keeper->job->task.kind == LWC_TASK_RAW
                             ? lwc_seal_raw(&keeper->seal, &seal, parcel->extent,
                                            keeper->kv->sizes.extent_bytes, &bytes, &keeper->error)
                             : build_range(keeper, &seal, parcel, &bytes);
    if (status != LW_OK) {
        if (status != LW_ERR_EXHAUSTED || !retry_later(keeper, status, now_us))
            job_fail(keeper, status);
        return 1;
    }
    keeper->job->stored_bytes += bytes;
    keeper->job->segment_bytes[keeper->layer] = bytes;
    if (parcel)
        parcel_begin(keeper, parcel, bytes, now_us);
    keeper->built = false;
    if (++keeper->layer == keeper->kv->model.layers)
        enter(keeper, LWC_STAGE_DRAIN, now_us);
    else
        enter(keeper, LWC_STAGE_BUILD, now_us);
    return 1;
}

/* ---- commit ---- */

static void finish(lwc_keeper_t *keeper, lw_status_t status)
{
    lwc_job_t *job = keeper->job;
    lwc_keep_t *keep = &job->task.session->keep;
    const lwc_model_t *model = &keeper->kv->model;

    if (status == LW_OK && job->task.kind == LWC_TASK_RANGE) {
        lwc_moments_add(keep->sums, job->sums, (uint64_t)model->layers * model->heads, model->sums_count);
        keep->moments_tokens = job->has_moments ? 0 : keep->moments_tokens + clustered_tokens(&job->task);
        keep->moments_stored |= job->has_moments;
        keep->raw_term = 0;
    } else if (status == LW_OK) {
        keep->raw_term = keep->info.term;
    } else {
        for (uint32_t layer = 0; layer < model->layers; layer++) {
            lwc_arena_give(&keeper->kv->arena, job->runs[layer]);
            lwc_local_give(keeper->kv, job->local[layer]);
        }
        if (!atomic_load_explicit(&keep->abandon, memory_order_relaxed)) {
            LW_WARN("client", "session %llu: sealing tokens %u..%u failed: %s",
                    (unsigned long long)keep->info.session_id, job->task.first_token,
                    job->task.first_token + job->task.token_count - 1, keeper->error.text);
            lwc_keep_fail(keep, status, keeper->error.text);
        }
    }
    if (status == LW_OK)
        lw_count(&keeper->stats.ranges_committed, 1);
    job->status = status;
    keeper->job = NULL;
    keeper->stage = LWC_STAGE_NONE;
    keeper->stage_deadline_us = 0;
    keeper->job_next = (keeper->job_next + 1) % LWC_JOBS;
    atomic_store_explicit(&job->state, LWC_JOB_DONE, memory_order_release);
}

static unsigned commit(lwc_keeper_t *keeper, uint64_t now_us)
{
    lwc_job_t *job = keeper->job;
    lwc_range_t *range = &keeper->range;

    if (now_us < keeper->retry_at_us)
        return 0;
    if (LW_FAULT(SHIP_DROP_COMMIT)) {
        lw_fail(&keeper->error, LW_ERR_CANCELED, "fault point: the writer died between write and commit");
        finish(keeper, LW_ERR_CANCELED);
        return 1;
    }
    memset(range, 0, sizeof(*range));
    range->origin = job->name.origin;
    range->first_token = job->task.first_token;
    range->token_count = job->task.token_count;
    range->generation = job->name.generation;
    range->flags =
        (job->task.kind == LWC_TASK_RAW ? LWC_RANGE_RAW : 0) | (job->has_moments ? LWC_RANGE_MOMENTS : 0);
    range->replicas = job->replicas;
    range->bytes = job->stored_bytes;
    for (uint32_t layer = 0; layer < keeper->kv->model.layers; layer++)
        for (uint32_t r = 0; r < job->replicas; r++)
            range->node_index[layer * job->replicas + r] = job->node_index[layer * LW_REPLICAS_MAX + r];
    lw_status_t status = lwc_control_commit(keeper->kv->control, &job->task.session->keep.info,
                                            (uint16_t)keeper->kv->model.rank, range, 1, &keeper->error);
    if (status == LW_OK || !retry_later(keeper, status, now_us))
        finish(keeper, status);
    return 1;
}

unsigned lwc_job_advance(lwc_keeper_t *keeper, uint64_t now_us)
{
    uint32_t used;
    unsigned events = parcels_settle(keeper, now_us, &used);

    if (keeper->job->status == LW_OK && keeper->stage != LWC_STAGE_BEGIN &&
        atomic_load_explicit(&keeper->job->task.session->keep.abandon, memory_order_acquire))
        job_fail(keeper, LW_ERR_CANCELED);
    switch (keeper->stage) {
    case LWC_STAGE_BEGIN:
        if (now_us < keeper->retry_at_us ||
            !lwc_device_passed(&keeper->kv->device, keeper->job->task.session->keep.cut))
            return events; /* the tokens are not there yet */
        begin(keeper, now_us);
        return events + 1;
    case LWC_STAGE_BUILD: return events + build(keeper, now_us);
    case LWC_STAGE_DRAIN:
        if (used > 0)
            return events;
        if (keeper->job->status != LW_OK)
            finish(keeper, keeper->job->status);
        else
            enter(keeper, LWC_STAGE_COMMIT, now_us);
        return events + 1;
    case LWC_STAGE_COMMIT: return events + commit(keeper, now_us);
    default: return events;
    }
}
