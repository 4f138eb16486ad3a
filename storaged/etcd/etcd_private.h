/* etcd_private.h - what the files of storaged/etcd share. */
#ifndef LWD_ETCD_PRIVATE_H
#define LWD_ETCD_PRIVATE_H

#include "pb/etcd.pb-c.h"
#include "rpc/rpc.h"
#include "storaged/etcd/etcd.h"

#define ETCD_RETRY_US 50000u      /* between two tries when every endpoint failed at once */
#define ETCD_PROBE_EVERY_US 500000u /* while etcd is away one call is tried this often, the others fail at once */
#define ETCD_PROBES_SHORT 8u        /* one of so many is given its whole time: etcd may be slow instead of away */

struct lwd_etcd {
    char endpoints[LWD_ETCD_ENDPOINTS_MAX][192];
    lw_rpc_channel_t *channels[LWD_ETCD_ENDPOINTS_MAX]; /* opened on first use */
    uint32_t endpoint_count, current;
    char *ca_pem, *cert_pem, *key_pem; /* owned copies */
    uint64_t timeout_us;
    lw_rpc_stream_t *keep;             /* NULL: none open */
    uint32_t keep_endpoint;
    bool away;                         /* the last call was not answered */
    uint64_t probed_us;
    uint32_t probes;
};

typedef struct etcd_call {
    const char *method; /* "/etcdserverpb.KV/Txn" */
    const char *about;  /* key, for the error's text */
    const ProtobufCMessage *request;
    bool once; /* must not be sent twice */
} etcd_call_t;

/* Sends and waits; the reply's bytes are the caller's. */
LW_CHECK lw_status_t lwd_etcd_call(lwd_etcd_t *etcd, const etcd_call_t *call, uint64_t until_us, lw_rpc_bytes_t *reply_out,
                                   lw_error_t *error);
/* The channel of the current endpoint. */
LW_CHECK lw_status_t lwd_etcd_channel(lwd_etcd_t *etcd, lw_rpc_channel_t **channel_out, lw_error_t *error);
/* On to the next endpoint, unless somebody has gone on from `from` already. */
void lwd_etcd_next_endpoint(lwd_etcd_t *etcd, uint32_t from);
/* How long the next call may wait: until_us, or less while nobody answers. */
uint64_t lwd_etcd_patience(lwd_etcd_t *etcd, uint64_t until_us);
void lwd_etcd_answered(lwd_etcd_t *etcd, bool answered);
/* Gives a failure its status and words: what the other side's answer means for callers. */
lw_status_t lwd_etcd_failed(const lwd_etcd_t *etcd, const char *method, const char *about, const lw_error_t *cause,
                            lw_error_t *error);
void lwd_etcd_kv_read(const Etcdserverpb__KeyValue *message, lwd_etcd_kv_t *out);
static inline ProtobufCBinaryData etcd_bytes(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = text ? __builtin_strlen(text) : 0};
}

#endif /* LWD_ETCD_PRIVATE_H */
