/* etcd.c - handles, endpoints, and one call: who is asked, for how long, what a failure is called. */
#include "storaged/etcd/etcd_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

static lw_status_t parse_endpoints(lwd_etcd_t *etcd, const char *list, lw_error_t *error)
{
    while (list && *list) {
        size_t bytes = strcspn(list, ", ");
        const char *colon = memchr(list, ':', bytes);
        if (bytes && (!colon || bytes >= sizeof(etcd->endpoints[0])))
            return lw_fail(error, LW_ERR_INVALID, "etcd: endpoint '%.*s' is not host:port", (int)lw_min_u64(bytes, 100), list);
        if (bytes && etcd->endpoint_count == LWD_ETCD_ENDPOINTS_MAX)
            return lw_fail(error, LW_ERR_INVALID, "etcd: more than %u endpoints", LWD_ETCD_ENDPOINTS_MAX);
        if (bytes)
            memcpy(etcd->endpoints[etcd->endpoint_count++], list, bytes);
        list += bytes + strspn(list + bytes, ", ");
    }
    return etcd->endpoint_count ? LW_OK : lw_fail(error, LW_ERR_INVALID, "etcd: no endpoint");
}

static char *copy_text(const char *text, bool *failed)
{
    char *copy = text ? strdup(text) : NULL;
    *failed = *failed || (text && !copy);
    return copy;
}

lw_status_t lwd_etcd_open(const lwd_etcd_params_t *params, lwd_etcd_t **etcd_out, lw_error_t *error)
{
    lwd_etcd_t *etcd = calloc(1, sizeof(*etcd));
    if (!etcd)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a client of etcd");
    bool failed = false;
    lw_status_t status = parse_endpoints(etcd, params->endpoints, error);
    etcd->timeout_us = params->timeout_us;
    etcd->ca_pem = copy_text(params->ca_pem, &failed);
    etcd->cert_pem = copy_text(params->cert_pem, &failed);
    etcd->key_pem = copy_text(params->key_pem, &failed);
    if (status == LW_OK && failed)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a client of etcd");
    lw_rpc_channel_t *channel;
    if (status == LW_OK)
        status = lwd_etcd_channel(etcd, &channel, error); /* TLS texts that cannot be used are an error now */
    if (status != LW_OK) {
        lwd_etcd_close(etcd);
        return status;
    }
    *etcd_out = etcd;
    return LW_OK;
}

void lwd_etcd_close(lwd_etcd_t *etcd)
{
    if (!etcd)
        return;
    lw_rpc_stream_close(etcd->keep);
    for (uint32_t i = 0; i < etcd->endpoint_count; i++)
        lw_rpc_disconnect(etcd->channels[i]);
    free(etcd->ca_pem);
    free(etcd->cert_pem);
    free(etcd->key_pem);
    free(etcd);
}

const char *lwd_etcd_endpoint(const lwd_etcd_t *etcd)
{
    return etcd->endpoints[etcd->current];
}

uint64_t lwd_etcd_timeout_us(const lwd_etcd_t *etcd)
{
    return etcd->timeout_us;
}

uint64_t lwd_etcd_until(uint64_t timeout_us)
{
    return lw_now_us(lw_clock_real()) + timeout_us;
}

lw_status_t lwd_etcd_channel(lwd_etcd_t *etcd, lw_rpc_channel_t **channel_out, lw_error_t *error)
{
    lw_rpc_channel_t **channel = &etcd->channels[etcd->current];
    if (!*channel) {
        const lw_rpc_tls_t tls = {.ca_pem = etcd->ca_pem, .cert_pem = etcd->cert_pem, .key_pem = etcd->key_pem};
        bool plain = !tls.ca_pem && !tls.cert_pem && !tls.key_pem;
        lw_status_t status = lw_rpc_connect(lwd_etcd_endpoint(etcd), plain ? NULL : &tls, channel, error);
        if (status != LW_OK)
            return status;
    }
    *channel_out = *channel;
    return LW_OK;
}

void lwd_etcd_next_endpoint(lwd_etcd_t *etcd, uint32_t from)
{
    if (etcd->current == from)
        etcd->current = (from + 1) % etcd->endpoint_count;
}

uint64_t lwd_etcd_patience(lwd_etcd_t *etcd, uint64_t until_us)
{
    uint64_t now = lw_now_us(lw_clock_real());
    if (!etcd->away)
        return until_us;
    if (now - etcd->probed_us < ETCD_PROBE_EVERY_US)
        return now;
    etcd->probed_us = now;
    return ++etcd->probes % ETCD_PROBES_SHORT ? lw_min_u64(until_us, now + LWD_ETCD_AWAY_US) : until_us;
}

void lwd_etcd_answered(lwd_etcd_t *etcd, bool answered)
{
    if (!answered && !etcd->away)
        etcd->probed_us = lw_now_us(lw_clock_real());
    etcd->away = !answered;
}

lw_status_t lwd_etcd_failed(const lwd_etcd_t *etcd, const char *method, const char *about, const lw_error_t *cause,
                            lw_error_t *error)
{
    lw_status_t status = cause->status;
    if (strstr(cause->text, "compacted"))
        status = LW_ERR_STALE;
    else if (status == LW_ERR_UNREACHABLE || status == LW_ERR_TIMEOUT || status == LW_ERR_CANCELED || status == LW_ERR_IO)
        status = LW_ERR_FLEET;
    const char *name = strrchr(method, '/');
    return lw_fail(error, status, "etcd %s: %s %s: %.120s", lwd_etcd_endpoint(etcd), name ? name + 1 : method, about,
                   cause->text[0] ? cause->text : lw_status_text(cause->status));
}

static void pause_us(uint64_t us)
{
    const struct timespec wait = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    (void)nanosleep(&wait, NULL); /* a signal ends it early, which is fine */
}

/* One try at the current endpoint. */
static lw_status_t call_try(lwd_etcd_t *etcd, const etcd_call_t *call, const uint8_t *packed, size_t bytes,
                            uint64_t timeout_us, lw_rpc_bytes_t *reply_out, lw_error_t *cause)
{
    lw_rpc_channel_t *channel;
    lw_status_t status = lwd_etcd_channel(etcd, &channel, cause);
    if (status == LW_OK)
        status = lw_rpc_call(channel, call->method, packed, bytes, timeout_us, reply_out, cause);
    return status;
}

lw_status_t lwd_etcd_call(lwd_etcd_t *etcd, const etcd_call_t *call, uint64_t until_us, lw_rpc_bytes_t *reply_out,
                          lw_error_t *error)
{
    size_t bytes = protobuf_c_message_get_packed_size(call->request);
    uint8_t *packed = malloc(bytes + 1);
    if (!packed)
        return lw_fail(error, LW_ERR_NO_MEMORY, "etcd: no memory for a request of %zu bytes", bytes);
    protobuf_c_message_pack(call->request, packed);
    until_us = lwd_etcd_patience(etcd, until_us);
    uint32_t tries = 0;
    lw_status_t status;
    for (;;) {
        lw_error_t cause = {.status = LW_ERR_TIMEOUT, .text = "nobody has answered lately"};
        uint64_t now = lw_now_us(lw_clock_real()), left = until_us > now ? until_us - now : 0;
        status = left ? call_try(etcd, call, packed, bytes, lw_min_u64(left, LWD_ETCD_TRY_US), reply_out, &cause)
                      : LW_ERR_TIMEOUT;
        if (status == LW_OK)
            break;
        status = lwd_etcd_failed(etcd, call->method, call->about, &cause, error);
        if (status != LW_ERR_FLEET)
            break; /* an answer, if not the one hoped for */
        lwd_etcd_next_endpoint(etcd, etcd->current);
        now = lw_now_us(lw_clock_real());
        if (call->once || now + ETCD_RETRY_US >= until_us)
            break;
        if (++tries % etcd->endpoint_count == 0)
            pause_us(ETCD_RETRY_US);
    }
    lwd_etcd_answered(etcd, status != LW_ERR_FLEET);
    free(packed);
    return status;
}

void lwd_etcd_kv_read(const Etcdserverpb__KeyValue *message, lwd_etcd_kv_t *out)
{
    size_t bytes = lw_min_u64(message->key.len, sizeof(out->key) - 1); /* longer ones are not ours */
    memset(out, 0, sizeof(*out));
    if (bytes)
        memcpy(out->key, message->key.data, bytes);
    out->value = message->value.data;
    out->value_bytes = message->value.len;
    out->create_revision = message->create_revision;
    out->mod_revision = message->mod_revision;
    out->lease = message->lease;
}

const char *lwd_etcd_prefix_end(const char *prefix, char *end)
{
    snprintf(end, LWD_ETCD_KEY_MAX, "%s", prefix);
    end[strlen(end) - 1]++; /* keys are text: the last byte is never 255 */
    return end;
}
