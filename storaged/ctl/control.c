/* control.c - jobs and the control thread: runs them on the catalogue, sends them on to its holder, keeps streams fed. */
#include "storaged/ctl/ctl_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

const ctl_method_t *lwd_ctl_method(const char *path)
{
    const struct { const ctl_method_t *rows; size_t count; } tables[] = {
        {ctl_session_methods, LW_ARRAY_SIZE(ctl_session_methods)},
        {ctl_fleet_methods, LW_ARRAY_SIZE(ctl_fleet_methods)},
        {ctl_move_methods, LW_ARRAY_SIZE(ctl_move_methods)},
        {ctl_admin_methods, LW_ARRAY_SIZE(ctl_admin_methods)},
        {ctl_health_methods, LW_ARRAY_SIZE(ctl_health_methods)},
    };
    for (size_t t = 0; t < LW_ARRAY_SIZE(tables); t++)
        for (size_t i = 0; i < tables[t].count; i++)
            if (strcmp(tables[t].rows[i].path, path) == 0)
                return &tables[t].rows[i];
    return NULL;
}

static ctl_job_t *job_create(lwd_ctl_t *ctl, const ctl_method_t *method, const void *request, size_t bytes)
{
    ctl_job_t *job = malloc(sizeof(*job) + bytes);
    if (!job)
        return NULL;
    memset(job, 0, sizeof(*job));
    job->ctl = ctl;
    job->method = method;
    job->request_bytes = bytes;
    if (bytes)
        memcpy(job->request, request, bytes);
    return job;
}

void lwd_ctl_answer(ctl_job_t *job, lw_status_t status, const char *text, const void *reply, size_t reply_bytes)
{
    if (!text && status != LW_OK)
        text = lw_status_text(status);
    if (job->call && job->method->streaming) {
        LW_ASSERT(status != LW_OK);
        lw_rpc_finish(job->call, status, text);
    } else if (job->call) {
        lw_rpc_reply(job->call, status, text, reply, reply_bytes);
    } else {
        lw_rpc_bytes_t bytes = {.data = (uint8_t *)reply, .bytes = reply_bytes}; /* borrowed: done copies */
        job->done(job->done_arg, status, text ? text : "", &bytes);
    }
    free(job);
}

/* False: too many wait, or the thread has stopped; the job is still the caller's. */
static bool job_push(lwd_ctl_t *ctl, ctl_job_t *job, lw_status_t *status_out)
{
    pthread_mutex_lock(&ctl->job_lock);
    bool taken = !ctl->jobs_closed && ctl->job_count < CTL_JOBS_MAX;
    *status_out = ctl->jobs_closed ? LW_ERR_CANCELED : LW_ERR_BUSY;
    if (taken) {
        job->next = NULL;
        *ctl->jobs_tail = job;
        ctl->jobs_tail = &job->next;
        ctl->job_count++;
        pthread_cond_signal(&ctl->job_changed);
    }
    pthread_mutex_unlock(&ctl->job_lock);
    return taken;
}

/* A call that may be done twice is tried again for a while when etcd does not answer; false: it is the caller's still. */
static bool job_again(ctl_job_t *job, lw_status_t why)
{
    lwd_ctl_t *ctl = job->ctl;
    lw_status_t ignored;
    uint64_t next = ctl_now(ctl) + CTL_RETRY_US;
    if (!ctl->etcd || why != LW_ERR_FLEET || !job->call || !job->method->repeat || next >= job->give_up_us)
        return false;
    job->not_before_us = next;
    return job_push(ctl, job, &ignored);
}

void lwd_ctl_fail(ctl_job_t *job, const lw_error_t *error)
{
    if (job_again(job, error->status))
        return;
    lw_count(&job->ctl->stats[0].calls_failed, 1);
    lwd_ctl_answer(job, error->status, error->text, NULL, 0);
}

void lwd_ctl_serve(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    const ctl_bound_t *bound = arg;
    lwd_ctl_t *ctl = bound->ctl;
    ctl_job_t *job = job_create(ctl, bound->method, request, bytes);
    if (!job) {
        lw_rpc_finish(call, LW_ERR_NO_MEMORY, NULL);
        return;
    }
    job->call = call;
    job->give_up_us = ctl_now(ctl) + lw_min_u64(lw_rpc_time_left_us(call), CTL_FORWARD_US);
    lw_status_t status;
    if (!job_push(ctl, job, &status))
        lwd_ctl_answer(job, status, status == LW_ERR_BUSY ? "too many requests wait here" : "the node is stopping", NULL, 0);
}

/* ---- sending on ---- */

static void forward_done(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    ctl_job_t *job = arg;
    lwd_ctl_t *ctl = job->ctl;
    if (status == LW_ERR_UNREACHABLE) {
        uint64_t now = ctl_now(ctl);
        lw_status_t ignored;
        job->not_before_us = now + CTL_RETRY_US;
        if (job->method->repeat && job->call && job->not_before_us < job->give_up_us && job_push(ctl, job, &ignored))
            return;
        char why[sizeof(((lw_error_t *)0)->text)];
        snprintf(why, sizeof(why), "the catalogue's node %s is away: %s", ctl->fleet[0], text);
        lwd_ctl_answer(job, LW_ERR_FLEET, why, NULL, 0);
        return;
    }
    lwd_ctl_answer(job, status, text, reply->data, reply->bytes);
}

static lw_status_t channel_call(lwd_ctl_t *ctl, const char *path, const void *request, size_t bytes, uint64_t timeout_us,
                                lw_rpc_done_fn done, void *arg, lw_error_t *error)
{
    pthread_mutex_lock(&ctl->send_lock);
    lw_status_t status = ctl->channel ? lw_rpc_call_async(ctl->channel, path, request, bytes, timeout_us, done, arg, error)
                                      : lw_fail(error, LW_ERR_CANCELED, "the node is stopping");
    pthread_mutex_unlock(&ctl->send_lock);
    return status;
}

static void job_forward(lwd_ctl_t *ctl, ctl_job_t *job)
{
    uint64_t now = ctl_now(ctl);
    lw_error_t error = {.status = LW_ERR_TIMEOUT, .text = "the call's deadline passed before it was sent on"};
    lw_count(job->not_before_us ? &ctl->stats[0].forward_retries : &ctl->stats[0].calls_forwarded, 1);
    if (now >= job->give_up_us ||
        channel_call(ctl, job->method->path, job->request, job->request_bytes, job->give_up_us - now, forward_done, job,
                     &error) != LW_OK)
        lwd_ctl_fail(job, &error);
}

lw_status_t lwd_ctl_ask(lwd_ctl_t *ctl, const ctl_method_t *method, const void *request, size_t bytes, uint64_t timeout_us,
                    lw_rpc_done_fn done, void *arg)
{
    lw_error_t error;
    if (!ctl->holder)
        return channel_call(ctl, method->path, request, bytes, timeout_us, done, arg, &error);
    ctl_job_t *job = job_create(ctl, method, request, bytes);
    if (!job)
        return LW_ERR_NO_MEMORY;
    job->done = done;
    job->done_arg = arg;
    job->give_up_us = ctl_now(ctl) + timeout_us;
    lw_status_t status;
    if (job_push(ctl, job, &status))
        return LW_OK;
    free(job);
    return status;
}

/* ---- streams ---- */

void lwd_ctl_watch(ctl_job_t *job, bool health, const char *service)
{
    lwd_ctl_t *ctl = job->ctl;
    if (ctl->watch_count == CTL_WATCHES_MAX) {
        lwd_ctl_answer(job, LW_ERR_EXHAUSTED, "too many streams are open on this node", NULL, 0);
        return;
    }
    ctl_watch_t *watch = &ctl->watches[ctl->watch_count++];
    memset(watch, 0, sizeof(*watch));
    watch->call = job->call;
    watch->health = health;
    snprintf(watch->service, sizeof(watch->service), "%s", service);
    free(job);
}

static void watches_feed(lwd_ctl_t *ctl)
{
    unsigned kept = 0;
    bool stopping = atomic_load(&ctl->stopping);
    for (unsigned i = 0; i < ctl->watch_count; i++) {
        ctl_watch_t *watch = &ctl->watches[i];
        bool going = !lw_rpc_canceled(watch->call) &&
                     (watch->health ? lwd_ctl_health_watch(ctl, watch) : lwd_ctl_fleet_watch(ctl, watch));
        if (!going || stopping)
            lw_rpc_finish(watch->call, LW_ERR_UNREACHABLE, "the node is stopping");
        else
            ctl->watches[kept++] = *watch;
    }
    ctl->watch_count = kept;
    lw_gauge(&ctl->stats[0].watches, kept);
}

/* ---- the thread ---- */

static void job_run(lwd_ctl_t *ctl, ctl_job_t *job)
{
    lw_error_t error;
    lw_count(&ctl->stats[0].calls, job->not_before_us == 0);
    if (job->call && lw_rpc_canceled(job->call))
        lwd_ctl_answer(job, LW_ERR_CANCELED, NULL, NULL, 0);
    else if (ctl->etcd && job->not_before_us && ctl_now(ctl) >= job->give_up_us)
        lwd_ctl_answer(job, LW_ERR_FLEET, "etcd does not answer", NULL, 0);
    else if (lwd_ctl_access(ctl, job, &error) != LW_OK)
        lwd_ctl_fail(job, &error);
    else if (ctl->holder || job->method->local)
        job->method->run(ctl, job);
    else
        job_forward(ctl, job);
}

/* Takes the first job that is due; NULL after at most a tick. */
static ctl_job_t *job_take(lwd_ctl_t *ctl, uint64_t until)
{
    ctl_job_t *job = NULL;
    pthread_mutex_lock(&ctl->job_lock);
    for (;;) {
        uint64_t now = ctl_now(ctl), next = until;
        ctl_job_t **at = &ctl->jobs;
        while (*at && (*at)->not_before_us > now && !ctl->jobs_closed) {
            next = lw_min_u64(next, (*at)->not_before_us);
            at = &(*at)->next;
        }
        job = *at;
        if (job) {
            *at = job->next;
            if (!job->next)
                ctl->jobs_tail = at;
            ctl->job_count--;
            break;
        }
        if (now >= until || ctl->jobs_closed)
            break;
        struct timespec to;
        clock_gettime(CLOCK_MONOTONIC, &to);
        uint64_t left = next - now;
        to.tv_sec += (time_t)(left / 1000000);
        to.tv_nsec += (long)(left % 1000000) * 1000;
        if (to.tv_nsec >= 1000000000) {
            to.tv_sec++;
            to.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&ctl->job_changed, &ctl->job_lock, &to);
    }
    pthread_mutex_unlock(&ctl->job_lock);
    return job;
}

static void control_tick(lwd_ctl_t *ctl)
{
    atomic_store(&ctl->ticked_us, ctl_now(ctl));
    if (ctl->holder)
        lwd_ctl_fleet_tick(ctl);
    watches_feed(ctl);
}

static void *control_thread(void *arg)
{
    lwd_ctl_t *ctl = arg;
    uint64_t tick = ctl_now(ctl);
    bool closed = false;
    while (!closed) {
        ctl_job_t *job = job_take(ctl, tick);
        bool stream = job && job->method->streaming; /* its first message should not wait for a tick */
        if (job)
            job_run(ctl, job);
        uint64_t now = ctl_now(ctl);
        if (now >= tick || stream) {
            control_tick(ctl);
            tick = now + CTL_TICK_US;
        }
        pthread_mutex_lock(&ctl->job_lock);
        closed = ctl->jobs_closed;
        pthread_mutex_unlock(&ctl->job_lock);
    }
    lwd_ctl_refuse_jobs(ctl);
    watches_feed(ctl);
    return NULL;
}

void lwd_ctl_refuse_jobs(lwd_ctl_t *ctl)
{
    pthread_mutex_lock(&ctl->job_lock);
    ctl->jobs_closed = true;
    pthread_mutex_unlock(&ctl->job_lock);
    ctl_job_t *job;
    while ((job = job_take(ctl, 0)))
        lwd_ctl_answer(job, LW_ERR_CANCELED, "the node is stopping", NULL, 0);
}

lw_status_t lwd_ctl_control_start(lwd_ctl_t *ctl, lw_error_t *error)
{
    if (pthread_create(&ctl->thread, NULL, control_thread, ctl) != 0)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the control plane");
    return LW_OK;
}

void lwd_ctl_control_stop(lwd_ctl_t *ctl)
{
    pthread_mutex_lock(&ctl->job_lock);
    ctl->jobs_closed = true;
    pthread_cond_broadcast(&ctl->job_changed);
    pthread_mutex_unlock(&ctl->job_lock);
    pthread_join(ctl->thread, NULL);
}
