/* pull.c - one job: room here, the bytes from a source, the verification, the manifest, and letting go.
 *
 *   QUEUED -> LINKING -> ATTACHING -> SIZING -> ROOM -> READING -> BEGINNING -> (verify) -> ENDING -> CHANGING -> LEAVING
 *
 * A source that fails, or whose bytes are wrong, sends the job back to LINKING with the next one; after the last one it
 * leaves. A segment that is here already goes from ROOM to CHANGING. What a manifest has here already skips CHANGING.
 * A change whose answer was lost is asked for again, and STALE may then mean that the first one was made: the copy is kept
 * unplaced, and the shard asks the catalogue about it. */
#include "base/fault.h"
#include "storaged/move/move_private.h"

static const char *reason_text(lwd_move_reason_t reason)
{
    static const char *const texts[] = {"none", "missing", "repair", "drain", "rebalance"};
    return reason < LW_ARRAY_SIZE(texts) ? texts[reason] : "unknown";
}

bool lwd_job_add(lwd_move_t *move, lwd_move_reason_t reason, const lw_segment_name_t *name, uint16_t from,
                 const uint16_t *sources, uint32_t source_count)
{
    move_job_t *job = NULL;
    for (uint32_t i = 0; i < MOVE_JOBS_MAX; i++) {
        move_job_t *at = &move->jobs[i];
        if (at->state == MOVE_JOB_FREE)
            job = at;
        else if (lw_segment_name_equal(&at->name, name))
            return true;
    }
    if (job == NULL)
        return false;
    uint32_t turn = job->turn + 1; /* an answer that still comes finds another turn */
    pthread_mutex_lock(&move->lock);
    *job = (move_job_t){.move = move, .state = MOVE_JOB_QUEUED, .reason = reason, .name = *name, .from = from,
                        .source_count = source_count, .turn = turn, .serial = move->job_serial++};
    pthread_mutex_unlock(&move->lock);
    memcpy(job->sources, sources, source_count * sizeof(*sources));
    move->job_count++;
    return true;
}

static void job_free(move_job_t *job)
{
    lwd_move_t *move = job->move;
    job->state = MOVE_JOB_FREE;
    move->job_count--;
    move->active--;
}

/* ---- tasks ---- */
static void run_room(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_job_t *job = (move_job_t *)task;
    (void)now_us;
    job->status = lwd_shard_pull(shard, &job->name, job->bytes, &job->ref);
}

static void run_begin(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_job_t *job = (move_job_t *)task;
    (void)now_us;
    job->status = lwd_shard_commit_begin(shard, job->ref, job->bytes, &job->written);
}

static void run_end(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_job_t *job = (move_job_t *)task;
    job->status = lwd_shard_commit_end(shard, job->ref, job->status, now_us);
}

static void run_leave(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_job_t *job = (move_job_t *)task;
    lwd_shard_pulled(shard, job->ref, job->placed, now_us);
}

/* Hands the task over; when too many wait, the next round tries again. */
static bool job_submit(move_job_t *job, void (*run)(lwd_task_t *, lwd_shard_t *, uint64_t))
{
    if (!job->running) {
        job->task.run = run;
        job->running = job->move->params.submit(job->move->params.arg, &job->task) == LW_OK;
        return false;
    }
    if (!atomic_load_explicit(&job->task.done, memory_order_acquire))
        return false;
    job->running = false;
    return true;
}

/* ---- ends ---- */
static void job_leave(move_job_t *job, bool placed)
{
    job->placed = placed;
    job->link = NULL;
    if (job->held)
        job->state = MOVE_JOB_LEAVING;
    else
        job_free(job);
}

static void job_fail(move_job_t *job, lw_status_t status)
{
    lwd_move_t *move = job->move;
    char name[LW_SEGMENT_NAME_TEXT_BYTES];
    lw_count(&move->params.stats->moves_failed, 1);
    move->scan.failed++;
    lwd_move_failed(move, "%s of segment %s from node %u: %s", reason_text(job->reason),
                    lw_segment_name_text(&job->name, name), job->sources[lw_min_u64(job->source, job->source_count - 1)],
                    lw_status_text(status));
    job_leave(job, false);
}

static void job_done(move_job_t *job)
{
    lw_count(&job->move->params.stats->moves_done, 1);
    job_leave(job, true);
}

/* This source will not do. */
static void next_source(move_job_t *job)
{
    lw_status_t status = job->status;
    job->failed = false;
    job->link = NULL;
    job->asked = job->again_count = 0;
    if (++job->source < job->source_count)
        job->state = MOVE_JOB_LINKING;
    else
        job_fail(job, status);
}

/* ---- answers of links ---- */
static void source_failed(move_job_t *job, lw_status_t status)
{
    if (!job->failed)
        job->status = status;
    job->failed = true;
}

void lwd_job_attached(move_job_t *job, lw_status_t status, uint64_t handle)
{
    job->handle = handle;
    if (status != LW_OK)
        source_failed(job, status);
}

void lwd_job_sized(move_job_t *job, lw_status_t status, uint64_t bytes)
{
    if (status == LW_OK && job->held && bytes != job->bytes)
        status = LW_ERR_CORRUPT; /* the sources do not agree */
    if (status != LW_OK)
        source_failed(job, status);
    else
        job->bytes = bytes;
}

void lwd_job_chunk(move_job_t *job, lw_status_t status, uint64_t offset, uint64_t bytes)
{
    if (status == LW_OK) {
        lw_count(&job->move->params.stats->moves_bytes, bytes);
    } else if (status == LW_ERR_BUSY) { /* the source has no room for the reply now */
        job->again[job->again_count++] = offset;
        job->again_us = job->move->now_us + MOVE_BUSY_US;
    } else {
        source_failed(job, status);
    }
}

bool lwd_jobs_use(const move_link_t *link)
{
    for (uint32_t i = 0; i < MOVE_JOBS_MAX; i++)
        if (link->move->jobs[i].state != MOVE_JOB_FREE && link->move->jobs[i].link == link)
            return true;
    return false;
}

void lwd_jobs_unlink(const move_link_t *link)
{
    for (uint32_t i = 0; i < MOVE_JOBS_MAX; i++)
        if (link->move->jobs[i].link == link)
            link->move->jobs[i].link = NULL;
}

/* The source has failed, or its connection ended while nothing was asked of it. Not while a task runs. */
static bool source_gone(move_job_t *job)
{
    if (job->link == NULL)
        source_failed(job, LW_ERR_UNREACHABLE);
    return job->failed;
}

/* ---- steps ---- */
static unsigned job_link(move_job_t *job)
{
    bool failed;
    job->link = lwd_link_get(job->move, job->sources[job->source], &failed);
    if (failed) {
        job->status = LW_ERR_UNREACHABLE;
        next_source(job);
        return 1;
    }
    if (job->link == NULL || !lwd_link_attach(job->link, job))
        return 0;
    job->state = MOVE_JOB_ATTACHING;
    return 1;
}

static unsigned job_attached(move_job_t *job)
{
    if (job->requests > 0)
        return 0;
    if (source_gone(job)) {
        next_source(job);
        return 1;
    }
    if (!lwd_link_size(job->link, job))
        return 0;
    job->state = MOVE_JOB_SIZING;
    return 1;
}

static unsigned job_sized(move_job_t *job)
{
    if (job->requests > 0)
        return 0;
    if (job->failed)
        next_source(job);
    else
        job->state = job->held ? MOVE_JOB_READING : MOVE_JOB_ROOM;
    return 1;
}

static void job_change(move_job_t *job)
{
    lwd_move_t *move = job->move;
    if (job->reason == LWD_MOVE_MISSING) {
        job_done(job);
        return;
    }
    job->link = NULL; /* nothing more is read */
    pthread_mutex_lock(&move->lock);
    job->answered = false;
    pthread_mutex_unlock(&move->lock);
    uint64_t ticket = (uint64_t)job->turn << 32 | (uint32_t)(job - move->jobs);
    job->changes++;
    bool asked = move->params.move(move->params.arg, ticket, &job->name, job->from, move->plan.own) == LW_OK;
    job->again_us = move->now_us + MOVE_RETRY_US;
    job->state = asked ? MOVE_JOB_CHANGING : MOVE_JOB_PAUSING;
}

static unsigned job_room(move_job_t *job)
{
    if (!job_submit(job, run_room))
        return 0;
    job->held = job->status == LW_OK || job->status == LW_ERR_EXISTS;
    if (job->status == LW_OK && LW_FAULT(MOVE_EARLY))
        job_change(job);
    else if (job->status == LW_OK)
        job->state = MOVE_JOB_READING;
    else if (job->status == LW_ERR_EXISTS)
        job_change(job);
    else
        job_fail(job, job->status);
    return 1;
}

static bool job_wants(const move_job_t *job)
{
    return !job->failed && (job->asked < job->bytes || job->again_count > 0);
}

static unsigned job_read(move_job_t *job)
{
    lwd_move_t *move = job->move;
    unsigned events = 0;
    while (job_wants(job) && !source_gone(job) && job->requests + job->again_count < MOVE_WINDOW + (job->again_count > 0) &&
           move->allowance > 0 && move->now_us >= job->again_us) {
        bool again = job->again_count > 0;
        uint64_t offset = again ? job->again[job->again_count - 1] : job->asked;
        uint64_t bytes = lw_min_u64(job->bytes - offset, MOVE_CHUNK_BYTES);
        if (!lwd_link_chunk(job->link, job, offset, bytes))
            break;
        if (again)
            job->again_count--;
        else
            job->asked += bytes;
        move->allowance -= (int64_t)bytes;
        events++;
    }
    if (job->requests > 0 || job_wants(job))
        return events;
    if (job->failed)
        next_source(job);
    else
        job->state = MOVE_JOB_BEGINNING;
    return events + 1;
}

/* The copy is here and verified, or its bytes are wrong. */
static unsigned job_end(move_job_t *job)
{
    lwd_move_t *move = job->move;
    if (!job_submit(job, run_end))
        return 0;
    if (job->status == LW_OK) {
        job_change(job);
    } else if (job->status == LW_ERR_STALE || job->status == LW_ERR_EXHAUSTED) {
        job_fail(job, job->status); /* its session ended; or no room for the record table */
    } else {
        lw_count(&move->params.stats->moves_corrupt, 1);
        lwd_move_failed(move, "node %u has a copy with wrong bytes: %s", job->sources[job->source],
                        lw_status_text(job->status));
        lwd_link_doubt(job->link, job->handle, job->bytes);
        next_source(job);
    }
    return 1;
}

static unsigned job_begin(move_job_t *job)
{
    lwd_move_t *move = job->move;
    lw_error_t error = {0};
    if (!job_submit(job, run_begin))
        return 0;
    if (job->status == LW_ERR_BUSY) /* a chunk's borrow is being given back */
        return 0;
    if (job->status != LW_OK) {
        job_fail(job, job->status);
        return 1;
    }
    if (job->written) { /* by its writer, at the same time */
        job_change(job);
        return 1;
    }
    job->status = lwd_shard_commit_verify(move->params.shard, job->ref, &error);
    job->state = MOVE_JOB_ENDING;
    return 1;
}

static unsigned job_changed(move_job_t *job)
{
    lwd_move_t *move = job->move;
    pthread_mutex_lock(&move->lock);
    bool answered = job->answered;
    job->status = answered ? job->answer : job->status;
    pthread_mutex_unlock(&move->lock);
    if (!answered)
        return 0;
    if (job->status == LW_OK) {
        job_done(job);
    } else if (job->status == LW_ERR_STALE) {
        lw_count(&move->params.stats->moves_stale, 1);
        job_leave(job, false);
    } else if (job->changes < MOVE_CHANGES_MAX) {
        job->state = MOVE_JOB_PAUSING;
    } else {
        job_fail(job, job->status);
    }
    return 1;
}

static unsigned job_step(move_job_t *job)
{
    switch (job->state) {
    case MOVE_JOB_FREE:
    case MOVE_JOB_QUEUED: return 0;
    case MOVE_JOB_LINKING: return job_link(job);
    case MOVE_JOB_ATTACHING: return job_attached(job);
    case MOVE_JOB_SIZING: return job_sized(job);
    case MOVE_JOB_ROOM: return job_room(job);
    case MOVE_JOB_READING: return job_read(job);
    case MOVE_JOB_BEGINNING: return job_begin(job);
    case MOVE_JOB_ENDING: return job_end(job);
    case MOVE_JOB_CHANGING: return job_changed(job);
    case MOVE_JOB_PAUSING:
        if (job->move->now_us >= job->again_us)
            job_change(job);
        return 0;
    case MOVE_JOB_LEAVING:
        if (!job_submit(job, run_leave))
            return 0;
        job_free(job);
        return 1;
    }
    return 0;
}

/* The most urgent one, the oldest of its kind; of rebalancing only one at a time. */
static move_job_t *next_job(lwd_move_t *move)
{
    move_job_t *best = NULL;
    for (uint32_t i = 0; i < MOVE_JOBS_MAX; i++) {
        move_job_t *job = &move->jobs[i];
        if (job->state != MOVE_JOB_QUEUED || (job->reason == LWD_MOVE_REBALANCE && move->active > 0))
            continue;
        if (best == NULL || job->reason < best->reason || (job->reason == best->reason && job->serial < best->serial))
            best = job;
    }
    return best;
}

/* What may be asked for since the last round; at most what a tenth of a second brings, and one chunk. */
static void fill_allowance(lwd_move_t *move)
{
    uint64_t rate = move->limits.bytes_s, past = lw_min_u64(move->now_us - move->filled_us, 100000);
    bool slow = move->params.busy != NULL && move->params.busy(move->params.arg);
    for (uint32_t i = 0; i < MOVE_JOBS_MAX && !slow && move->active == 1; i++)
        slow = move->jobs[i].state > MOVE_JOB_QUEUED && move->jobs[i].reason == LWD_MOVE_REBALANCE;
    rate = slow ? rate / 4 : rate;
    move->filled_us = move->now_us;
    int64_t most = (int64_t)(rate / 10) + MOVE_CHUNK_BYTES;
    move->allowance += (int64_t)(rate / 1000 * past / 1000);
    if (move->allowance > most)
        move->allowance = most;
}

unsigned lwd_jobs_step(lwd_move_t *move)
{
    unsigned events = 0;
    if (move->job_count == 0)
        return 0;
    fill_allowance(move);
    while (move->active < move->limits.in_flight) {
        move_job_t *job = next_job(move);
        if (job == NULL)
            break;
        job->state = MOVE_JOB_LINKING;
        move->active++;
        events++;
    }
    for (uint32_t i = 0; i < MOVE_JOBS_MAX; i++)
        events += job_step(&move->jobs[i]);
    return events;
}
