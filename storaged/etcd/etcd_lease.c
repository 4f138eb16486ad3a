/* etcd_lease.c - leases: granted, kept, revoked. Keep-alives share one stream, opened again when it broke or when the handle
 * has gone on to another endpoint. */
#include "storaged/etcd/etcd_private.h"

#include <string.h>

#include "base/clock.h"

lw_status_t lwd_etcd_grant(lwd_etcd_t *etcd, uint32_t ttl_s, uint64_t until_us, int64_t *lease_out, lw_error_t *error)
{
    Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    request.ttl = ttl_s;
    lw_rpc_bytes_t bytes = {0};
    const etcd_call_t call = {.method = "/etcdserverpb.Lease/LeaseGrant", .about = "a lease", .request = &request.base};
    lw_status_t status = lwd_etcd_call(etcd, &call, until_us, &bytes, error);
    if (status != LW_OK)
        return status;
    Etcdserverpb__LeaseGrantResponse *reply = etcdserverpb__lease_grant_response__unpack(NULL, bytes.bytes, bytes.data);
    if (!reply || reply->id == 0)
        status = lw_fail(error, LW_ERR_FLEET, "etcd %s: no lease: %s", lwd_etcd_endpoint(etcd),
                         reply && reply->error[0] ? reply->error : "an answer that makes no sense");
    else
        *lease_out = reply->id;
    if (reply)
        etcdserverpb__lease_grant_response__free_unpacked(reply, NULL);
    lw_rpc_bytes_free(&bytes);
    return status;
}

lw_status_t lwd_etcd_revoke(lwd_etcd_t *etcd, int64_t lease, uint64_t until_us, lw_error_t *error)
{
    Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
    request.id = lease;
    lw_rpc_bytes_t bytes = {0};
    const etcd_call_t call = {.method = "/etcdserverpb.Lease/LeaseRevoke", .about = "a lease", .request = &request.base};
    lw_status_t status = lwd_etcd_call(etcd, &call, until_us, &bytes, error);
    lw_rpc_bytes_free(&bytes);
    return status;
}

static lw_status_t keep_open(lwd_etcd_t *etcd, lw_error_t *error)
{
    if (etcd->keep && etcd->keep_endpoint == etcd->current)
        return LW_OK;
    lw_rpc_stream_close(etcd->keep);
    etcd->keep = NULL;
    lw_rpc_channel_t *channel;
    lw_status_t status = lwd_etcd_channel(etcd, &channel, error);
    if (status == LW_OK)
        status = lw_rpc_stream_open_both(channel, "/etcdserverpb.Lease/LeaseKeepAlive", &etcd->keep, error);
    etcd->keep_endpoint = etcd->current;
    return status;
}

/* Sends one keep-alive and takes answers until one speaks of this lease: an earlier one may have been given up on. */
static lw_status_t keep_try(lwd_etcd_t *etcd, int64_t lease, uint64_t until_us, uint32_t *ttl_s_out, lw_error_t *error)
{
    Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
    uint8_t packed[32];
    request.id = lease;
    lw_status_t status = keep_open(etcd, error);
    if (status == LW_OK)
        status = lw_rpc_stream_send(etcd->keep, packed, etcdserverpb__lease_keep_alive_request__pack(&request, packed), error);
    bool found = false;
    while (status == LW_OK && !found) {
        lw_rpc_bytes_t bytes = {0};
        uint64_t now = lw_now_us(lw_clock_real());
        status = lw_rpc_stream_next(etcd->keep, until_us > now ? until_us - now : 0, &bytes, error);
        if (status != LW_OK)
            return status;
        Etcdserverpb__LeaseKeepAliveResponse *reply =
            etcdserverpb__lease_keep_alive_response__unpack(NULL, bytes.bytes, bytes.data);
        if (!reply)
            status = lw_fail(error, LW_ERR_IO, "an answer that makes no sense");
        found = reply && reply->id == lease;
        if (found)
            *ttl_s_out = reply->ttl > 0 ? (uint32_t)reply->ttl : 0;
        if (reply)
            etcdserverpb__lease_keep_alive_response__free_unpacked(reply, NULL);
        lw_rpc_bytes_free(&bytes);
    }
    return status;
}

lw_status_t lwd_etcd_keep(lwd_etcd_t *etcd, int64_t lease, uint64_t until_us, uint32_t *ttl_s_out, lw_error_t *error)
{
    until_us = lwd_etcd_patience(etcd, until_us);
    for (uint32_t tries = 0;; tries++) {
        lw_error_t cause = {0};
        uint32_t ttl_s = 0;
        uint64_t try_until = lw_min_u64(until_us, lwd_etcd_until(LWD_ETCD_TRY_US));
        lw_status_t status = keep_try(etcd, lease, try_until, &ttl_s, &cause);
        if (status == LW_OK) {
            lwd_etcd_answered(etcd, true);
            *ttl_s_out = ttl_s;
            return ttl_s ? LW_OK : lw_fail(error, LW_ERR_NOT_FOUND, "etcd %s: the lease is over", lwd_etcd_endpoint(etcd));
        }
        cause.status = status == LW_ERR_NOT_FOUND ? LW_ERR_UNREACHABLE : status; /* a stream that ended is no answer */
        (void)lwd_etcd_failed(etcd, "LeaseKeepAlive", "a lease", &cause, error);
        lw_rpc_stream_close(etcd->keep);
        etcd->keep = NULL;
        lwd_etcd_next_endpoint(etcd, etcd->current);
        if (tries + 1 >= 2 * etcd->endpoint_count || lw_now_us(lw_clock_real()) >= until_us) {
            lwd_etcd_answered(etcd, false);
            return error ? error->status : LW_ERR_FLEET;
        }
    }
}
