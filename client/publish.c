/* publish.c - committed ranges enter a session's list; rows come and go with their holders. Caller's thread,
 * between steps. */
#include "client/ctx.h"

#include <string.h>

#include "base/log.h"

lw_status_t lwc_publish_range(struct lw_session *session, uint32_t row, const lwk_tile_t *tiles,
                              const uint8_t *moments, lw_error_t *error)
{
    struct lw *kv = session->kv;
    const lwc_range_row_t *range = &kv->directory.rows[row];

    if (session->range_count == kv->sizes.ranges_max ||
        session->entry_count + range->entry_slots > kv->sizes.entry_capacity)
        return lw_fail(error, LW_ERR_EXHAUSTED,
                       "session has %u ranges and %u entries a head: open with a larger tokens_max",
                       session->range_count, session->entry_count);
    lwk_publish_t publish = {.shape = kv->model.shape,
                             .range_capacity = kv->sizes.range_capacity,
                             .store = kv->store_dev,
                             .session = &kv->rows[session->slot],
                             .row = row,
                             .entry_slots = range->entry_slots,
                             .tiles = tiles,
                             .token_count = range->token_count,
                             .moments = moments};
    lw_status_t status = kv->device.backend->publish(kv->device.dev, &publish, kv->stream);
    if (status != LW_OK)
        return lw_fail(error, status, "op publish of tokens %u..%u: %s", range->first_token,
                       range->first_token + range->token_count - 1, lw_status_text(status));
    session->rows[session->range_count++] = row;
    session->entry_count += range->entry_slots;
    session->sealed += range->token_count;
    return LW_OK;
}

static struct lw_session *other_holder(struct lw_session *session, uint32_t row)
{
    struct lw *kv = session->kv;

    for (uint32_t slot = 0; slot < kv->sizes.sessions_max; slot++) {
        struct lw_session *other = &kv->sessions[slot];
        if (!other->open || other == session)
            continue;
        for (uint32_t i = 0; i < other->range_count; i++)
            if (other->rows[i] == row)
                return other;
    }
    return NULL;
}

/* ---- rows that nobody holds any more ---- */

static void free_row(struct lw *kv, uint32_t row)
{
    for (uint32_t layer = 0; layer < kv->model.layers; layer++) {
        lwc_arena_give(&kv->arena, lwc_directory_runs(&kv->directory, row)[layer]);
        if (kv->local.on)
            lwc_local_give(kv, kv->local.runs[(size_t)row * kv->model.layers + layer]);
    }
    kv->directory.rows[row].holders = 0;
}

/* Rows wait in two lists: those behind the event that was recorded last, and those that come behind the next one. */
void lwc_publish_bury(struct lw *kv)
{
    lwc_graves_t *graves = &kv->graves;
    lw_error_t error = {.text = ""};

    if (graves->old != LWC_GRAVE_NONE && lwc_device_passed(&kv->device, graves->passed)) {
        for (uint32_t row = graves->old, next; row != LWC_GRAVE_NONE; row = next) {
            next = kv->directory.rows[row].next_grave;
            free_row(kv, row);
        }
        graves->old = LWC_GRAVE_NONE;
    }
    if (graves->old == LWC_GRAVE_NONE && graves->fresh != LWC_GRAVE_NONE) {
        lw_status_t status = lwc_device_record(&kv->device, graves->passed, kv->stream, &error);
        if (status != LW_OK) {
            LW_WARN("client", "rows of closed sessions stay: %s", error.text);
            return;
        }
        graves->old = graves->fresh;
        graves->fresh = LWC_GRAVE_NONE;
    }
}

static void bury(struct lw *kv, uint32_t row)
{
    lwc_range_row_t *range = &kv->directory.rows[row];

    if (!kv->device.async) {
        free_row(kv, row);
        return;
    }
    range->holders = LWC_ROW_BURIED;
    range->next_grave = kv->graves.fresh;
    kv->graves.fresh = row;
}

void lwc_publish_release(struct lw_session *session, uint32_t row)
{
    struct lw *kv = session->kv;
    lwc_range_row_t *range = &kv->directory.rows[row];
    lw_error_t error = {.text = ""};

    LW_ASSERT(range->holders > 0 && range->holders != LWC_ROW_BURIED);
    if (--range->holders > 0) {
        struct lw_session *other = range->registrar == session->slot ? other_holder(session, row) : NULL;
        if (other && lwc_directory_register(kv, row, other->slot, &error) != LW_OK)
            LW_WARN("client", "range of token %u is not readable any more: %s", range->first_token,
                    error.text);
        return;
    }
    lwk_retire_t retire = {.shape = kv->model.shape,
                           .range_capacity = kv->sizes.range_capacity,
                           .store = kv->store_dev,
                           .row = row};
    lw_status_t status = kv->device.backend->retire(kv->device.dev, &retire, kv->stream);
    if (status != LW_OK)
        LW_WARN("client", "op retire: %s", lw_status_text(status));
    if (range->registrar != UINT32_MAX)
        lwc_directory_unregister(kv, row);
    bury(kv, row);
}

/* ---- the keeper's results ---- */

/* What the job found out moves to the row. */
static void fill_row(struct lw *kv, const lwc_job_t *job)
{
    lwc_range_row_t *range = &kv->directory.rows[job->task.row];

    range->name = job->name;
    range->first_token = job->task.first_token;
    range->token_count = job->task.token_count;
    range->entry_slots = job->entry_slots;
    range->replicas = job->replicas;
    range->stored_bytes = job->stored_bytes;
    range->index_bytes = job->index_bytes;
    range->clusters = job->clusters;
    range->outliers = job->outliers;
    memcpy(lwc_directory_nodes(&kv->directory, job->task.row), job->node_index,
           (size_t)kv->model.layers * LW_REPLICAS_MAX * sizeof(uint16_t));
    memcpy(lwc_directory_bytes(&kv->directory, job->task.row), job->segment_bytes,
           kv->model.layers * sizeof(uint64_t));
    memcpy(lwc_directory_runs(&kv->directory, job->task.row), job->runs,
           kv->model.layers * sizeof(lwc_run_t));
    if (kv->local.on)
        memcpy(&kv->local.runs[(size_t)job->task.row * kv->model.layers], job->local,
               kv->model.layers * sizeof(lwc_run_t));
}

static void publish_job(struct lw *kv, const lwc_job_t *job)
{
    struct lw_session *session = job->task.session;
    lw_error_t error = {.text = ""};

    fill_row(kv, job);
    lw_status_t status = lwc_directory_register(kv, job->task.row, session->slot, &error);
    if (status == LW_OK)
        status = lwc_publish_range(session, job->task.row, job->tiles, job->has_moments ? job->moments : NULL,
                                   &error);
    if (status != LW_OK) {
        lwc_keep_fail(&session->keep, status, error.text);
        lwc_publish_release(session, job->task.row);
        return;
    }
    session->raw_first = session->raw_end = 0;
    session->raw_stale = false;
    lwc_route_attach(kv, job->task.row * kv->model.layers, kv->model.layers,
                     lwc_now(kv) + kv->options.client_ship_timeout);
}

static void take_result(struct lw *kv, const lwc_job_t *job)
{
    struct lw_session *session = job->task.session;

    session->task_busy = false;
    if (job->task.kind == LWC_TASK_RAW) {
        if (job->status == LW_OK) {
            session->raw_first = job->task.first_token;
            session->raw_end = job->task.first_token + job->task.token_count;
            session->raw_stale = session->raw_end > session->token_count;
        }
        return;
    }
    if (job->status == LW_OK)
        publish_job(kv, job);
    else
        kv->directory.rows[job->task.row].holders =
            0; /* nothing of it is on the device; the keeper gave its runs back */
}

/* Its pinned tiles and moments are the device's until it has read them. */
static void park(struct lw *kv, lwc_job_t *job)
{
    lw_error_t error;

    lwc_keeper_take(&kv->keeper, job);
    if (lwc_device_record(&kv->device, job->published, kv->stream, &error) != LW_OK)
        LW_WARN("client", "publishing: %s", error.text);
}

unsigned lwc_publish_ready(struct lw *kv)
{
    unsigned count = 0;
    lwc_job_t *job;

    if (kv->step.state != LWC_STEP_IDLE)
        return 0;
    lwc_publish_bury(kv);
    lwc_keeper_return(&kv->keeper);
    while ((job = lwc_keeper_result(&kv->keeper)) != NULL) {
        struct lw_session *session = job->task.session;
        take_result(kv, job);
        park(kv, job);
        lwc_keeper_return(&kv->keeper);
        lwc_session_cut(session);
        count++;
    }
    return count;
}
