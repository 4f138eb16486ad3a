/* etcd_watch.c - a stream of changes that goes on where it stopped when the stream breaks.
 *
 * `next` is the first revision that the caller has not been told of. A new stream starts there, so that nothing is told twice
 * and nothing is left out; if etcd has compacted it away the caller must read everything again. */
#include "storaged/etcd/etcd_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

struct lwd_etcd_watch {
    lwd_etcd_t *etcd;
    lw_rpc_stream_t *stream; /* NULL: to be opened */
    uint32_t endpoint;
    char key[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    int64_t next;
    uint64_t retry_us; /* no new stream before */
};

lw_status_t lwd_etcd_watch_open(lwd_etcd_t *etcd, const char *key, const char *end, int64_t from_revision,
                                lwd_etcd_watch_t **watch_out, lw_error_t *error)
{
    if (strlen(key) >= LWD_ETCD_KEY_MAX || strlen(end) >= LWD_ETCD_KEY_MAX || from_revision <= 0)
        return lw_fail(error, LW_ERR_INVALID, "etcd: a watch of %s from revision %lld", key, (long long)from_revision);
    lwd_etcd_watch_t *watch = calloc(1, sizeof(*watch));
    if (!watch)
        return lw_fail(error, LW_ERR_NO_MEMORY, "etcd: no memory for a watch");
    watch->etcd = etcd;
    watch->next = from_revision;
    snprintf(watch->key, sizeof(watch->key), "%s", key);
    snprintf(watch->end, sizeof(watch->end), "%s", end);
    *watch_out = watch;
    return LW_OK;
}

void lwd_etcd_watch_close(lwd_etcd_watch_t *watch)
{
    if (!watch)
        return;
    lw_rpc_stream_close(watch->stream);
    free(watch);
}

/* Lets the stream go; the next one waits a little. */
static void watch_lose(lwd_etcd_watch_t *watch, bool next_endpoint)
{
    lw_rpc_stream_close(watch->stream);
    watch->stream = NULL;
    watch->retry_us = next_endpoint ? lwd_etcd_until(ETCD_RETRY_US) : 0;
    if (next_endpoint)
        lwd_etcd_next_endpoint(watch->etcd, watch->endpoint);
}

static lw_status_t watch_stream(lwd_etcd_watch_t *watch, lw_error_t *error)
{
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    uint8_t packed[2 * LWD_ETCD_KEY_MAX + 64];
    lw_rpc_channel_t *channel;
    create.key = etcd_bytes(watch->key);
    create.range_end = etcd_bytes(watch->end);
    create.start_revision = watch->next;
    create.progress_notify = true; /* keeps `next` near the present while nothing changes */
    request.create_request = &create;
    watch->endpoint = watch->etcd->current;
    lw_status_t status = lwd_etcd_channel(watch->etcd, &channel, error);
    if (status == LW_OK)
        status = lw_rpc_stream_open_both(channel, "/etcdserverpb.Watch/Watch", &watch->stream, error);
    if (status == LW_OK)
        status = lw_rpc_stream_send(watch->stream, packed, etcdserverpb__watch_request__pack(&request, packed), error);
    return status;
}

static lw_status_t events_read(Etcdserverpb__WatchResponse *message, lwd_etcd_events_t *out, lw_error_t *error)
{
    lwd_etcd_event_t *rows = calloc(message->n_events + 1, sizeof(*rows));
    if (!rows)
        return lw_fail(error, LW_ERR_NO_MEMORY, "etcd: no memory for %zu events", message->n_events);
    uint32_t count = 0;
    for (size_t i = 0; i < message->n_events; i++) {
        if (!message->events[i]->kv)
            continue;
        rows[count].deleted = message->events[i]->type == 1;
        lwd_etcd_kv_read(message->events[i]->kv, &rows[count++].kv);
    }
    *out = (lwd_etcd_events_t){.rows = rows, .count = count, .message = message,
                               .revision = count ? rows[count - 1].kv.mod_revision : 0};
    return LW_OK;
}

/* Takes one message in. OK: events. INPROGRESS: none for the caller. */
static lw_status_t watch_take(lwd_etcd_watch_t *watch, const lw_rpc_bytes_t *bytes, lwd_etcd_events_t *events_out,
                              lw_error_t *error)
{
    Etcdserverpb__WatchResponse *message = etcdserverpb__watch_response__unpack(NULL, bytes->bytes, bytes->data);
    lw_status_t status = LW_INPROGRESS;
    if (!message)
        return lw_fail(error, LW_ERR_IO, "an answer that makes no sense");
    if (message->canceled && message->compact_revision) {
        status = lw_fail(error, LW_ERR_STALE, "etcd %s: watch of %s: revision %lld is compacted away, %lld is the first left",
                         lwd_etcd_endpoint(watch->etcd), watch->key, (long long)watch->next,
                         (long long)message->compact_revision);
    } else if (message->canceled) {
        status = lw_fail(error, LW_ERR_IO, "%s", message->cancel_reason[0] ? message->cancel_reason : "canceled");
    } else if (message->n_events) {
        status = events_read(message, events_out, error);
        if (status == LW_OK) {
            watch->next = events_out->revision + 1;
            return LW_OK;
        }
    } else if (!message->created && message->header && message->header->revision >= watch->next) {
        watch->next = message->header->revision + 1; /* nothing for us up to there */
    }
    etcdserverpb__watch_response__free_unpacked(message, NULL);
    return status;
}

static void wait_until(uint64_t until_us)
{
    uint64_t now = lw_now_us(lw_clock_real()), us = until_us > now ? until_us - now : 0;
    const struct timespec wait = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    (void)nanosleep(&wait, NULL);
}

lw_status_t lwd_etcd_watch_next(lwd_etcd_watch_t *watch, uint64_t timeout_us, lwd_etcd_events_t *events_out,
                                lw_error_t *error)
{
    uint64_t until = lwd_etcd_until(timeout_us);
    for (;;) {
        lw_error_t cause = {0};
        lw_rpc_bytes_t bytes = {0};
        lw_status_t status = LW_OK;
        if (watch->stream && watch->endpoint != watch->etcd->current)
            watch_lose(watch, false); /* the handle has gone on to another endpoint */
        if (!watch->stream && watch->retry_us > until) {
            wait_until(until);
            return lw_fail(error, LW_ERR_FLEET, "etcd %s: watch of %s is not open", lwd_etcd_endpoint(watch->etcd), watch->key);
        }
        if (!watch->stream) {
            wait_until(watch->retry_us);
            status = watch_stream(watch, &cause);
        }
        uint64_t now = lw_now_us(lw_clock_real());
        if (status == LW_OK)
            status = lw_rpc_stream_next(watch->stream, until > now ? until - now : 0, &bytes, &cause);
        if (status == LW_ERR_TIMEOUT)
            return lw_fail(error, LW_ERR_TIMEOUT, "no change of %s", watch->key);
        if (status == LW_OK)
            status = watch_take(watch, &bytes, events_out, &cause);
        lw_rpc_bytes_free(&bytes);
        if (status == LW_OK)
            return LW_OK;
        if (status == LW_ERR_STALE)
            return lw_fail(error, status, "%s", cause.text);
        if (status != LW_INPROGRESS) {
            LW_INFO("etcd", "%s: watch of %s: %s", watch->etcd->endpoints[watch->endpoint], watch->key, cause.text);
            watch_lose(watch, true);
        }
    }
}

void lwd_etcd_events_free(lwd_etcd_events_t *events)
{
    if (events->message)
        etcdserverpb__watch_response__free_unpacked(events->message, NULL);
    free(events->rows);
    *events = (lwd_etcd_events_t){0};
}
