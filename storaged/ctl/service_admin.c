/* service_admin.c - longwave.v1.Admin: this node's account of itself. Control thread; never sent on. */
#include "storaged/ctl/ctl_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pb/admin.pb-c.h"

#ifndef LW_VERSION
#define LW_VERSION "0.1.0"
#endif

static size_t metrics_write(void *arg, char *text, size_t bytes)
{
    return lwd_ctl_metrics(arg, text, bytes);
}

static void serve_status(lwd_ctl_t *ctl, ctl_job_t *job)
{
    char reasons[1024] = "";
    Longwave__V1__StatusReply reply = LONGWAVE__V1__STATUS_REPLY__INIT;
    reply.node_id = ctl->node_id;
    reply.incarnation = ctl->incarnation;
    reply.fleet_id = atomic_load(&ctl->fleet_id);
    reply.epoch = atomic_load(&ctl->epoch);
    reply.uptime_us = ctl_now(ctl) - ctl->started_us;
    reply.ready = lwd_ctl_ready(ctl, reasons, sizeof(reasons));
    reply.holds_catalogue = ctl->holder;
    reply.version = (char *)LW_VERSION;
    reply.control = ctl->advertise;
    reply.data = ctl->data;
    reply.reasons = reasons;
    pthread_mutex_lock(&ctl->view_lock);
    reply.used_bytes = ctl->used_bytes;
    reply.free_bytes = ctl->free_bytes;
    pthread_mutex_unlock(&ctl->view_lock);
    char *metrics = lwd_ctl_text(metrics_write, ctl);
    char *options = ctl->callbacks.status_text ? lwd_ctl_text(ctl->callbacks.status_text, ctl->callbacks.arg) : NULL;
    if (metrics)
        reply.metrics = metrics;
    char *moves = ctl->callbacks.moves_text ? lwd_ctl_text(ctl->callbacks.moves_text, ctl->callbacks.arg) : NULL;
    if (options)
        reply.options = options;
    if (moves)
        reply.moves = moves;
    size_t bytes = longwave__v1__status_reply__get_packed_size(&reply);
    uint8_t *packed = malloc(bytes + 1);
    if (packed)
        longwave__v1__status_reply__pack(&reply, packed);
    lwd_ctl_answer(job, packed ? LW_OK : LW_ERR_NO_MEMORY, NULL, packed, bytes);
    free(packed);
    free(metrics);
    free(moves);
    free(options);
}

static void serve_set_log_level(lwd_ctl_t *ctl, ctl_job_t *job)
{
    (void)ctl;
    Longwave__V1__SetLogLevelRequest *request =
        longwave__v1__set_log_level_request__unpack(NULL, job->request_bytes, job->request);
    lw_log_level_t level;
    lw_error_t error;
    if (!request || lw_log_level_parse(request->level, &level) != LW_OK) {
        lw_fail(&error, LW_ERR_INVALID, "level is '%.20s', must be error, warn, info or debug",
                request ? request->level : "");
        lwd_ctl_fail(job, &error);
    } else {
        lw_log(LW_LOG_WARN, "ctl", "log level set to %s by %s", request->level,
               job->call && lw_rpc_peer(job->call)[0] ? lw_rpc_peer(job->call) : "a client");
        lw_log_set_level(level);
        lwd_ctl_answer(job, LW_OK, NULL, "", 0);
    }
    if (request)
        longwave__v1__set_log_level_request__free_unpacked(request, NULL);
}

/* Any node takes it and asks the holder itself: operators need no node's certificate. */
static void drain_done(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    (void)reply;
    lwd_ctl_answer(arg, status, status == LW_OK ? NULL : text, "", 0);
}

static void serve_drain(lwd_ctl_t *ctl, ctl_job_t *job)
{
    lw_log(LW_LOG_WARN, "ctl", "a drain was asked for by %s",
           job->call && lw_rpc_peer(job->call)[0] ? lw_rpc_peer(job->call) : "a client");
    lw_status_t status = lwd_ctl_ask(ctl, lwd_ctl_method("/longwave.v1.Fleet/Drain"), job->request, job->request_bytes,
                                     CTL_FORWARD_US, drain_done, job);
    if (status != LW_OK)
        lwd_ctl_answer(job, status, NULL, NULL, 0);
}

const ctl_method_t ctl_admin_methods[3] = {
    {.path = "/longwave.v1.Admin/Status", .access = CTL_FOR_ADMIN, .local = true, .run = serve_status},
    {.path = "/longwave.v1.Admin/SetLogLevel", .access = CTL_FOR_ADMIN, .local = true, .run = serve_set_log_level},
    {.path = "/longwave.v1.Admin/Drain", .access = CTL_FOR_ADMIN, .local = true, .run = serve_drain},
};
