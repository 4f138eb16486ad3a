/* rpc.h - control-plane calls: unary, server-streaming and, as a client, streams both ways, over gRPC core.
 *
 * Messages are bytes here (protobuf-c packs and unpacks them above). Never on the data path. A channel and a server
 * may be used from any thread; a server's handlers run on its one completion-queue thread and must not block: a handler
 * that needs time keeps the call and answers later, from any thread. Each channel and each server has one thread.
 * Built without gRPC there is no lw_rpc target; nothing here is a stand-in.
 */
#ifndef LW_RPC_H
#define LW_RPC_H

#include <stdbool.h>

#include "base/error.h"

#define LW_RPC_MESSAGE_MAX (16u << 20) /* bytes of one message, both ways; larger ones end the call */
#define LW_RPC_WRITES_MAX 256u         /* messages of one streaming call that wait to be sent */
#define LW_RPC_METHODS_MAX 64u         /* methods of one server */
#define LW_RPC_STREAMS_MAX 1024u       /* calls at once on one connection; further ones wait at the client */

typedef struct lw_rpc_channel lw_rpc_channel_t;
typedef struct lw_rpc_stream lw_rpc_stream_t;
typedef struct lw_rpc_server lw_rpc_server_t;
typedef struct lw_rpc_call lw_rpc_call_t; /* a call being served */

/* PEM texts, borrowed for the call. All NULL: plaintext. Client: ca (server's issuer), cert and key for mTLS.
 * Server: cert and key; ca set means that clients must show a certificate of it. */
typedef struct lw_rpc_tls {
    const char *ca_pem, *cert_pem, *key_pem;
    const char *server_name; /* client: the name to check instead of the address's host; NULL: the host */
} lw_rpc_tls_t;

/* Bytes that the receiver owns and frees with lw_rpc_bytes_free. */
typedef struct lw_rpc_bytes {
    uint8_t *data;
    size_t bytes;
} lw_rpc_bytes_t;
void lw_rpc_bytes_free(lw_rpc_bytes_t *bytes);

/* ---- client ---- */
LW_CHECK lw_status_t lw_rpc_connect(const char *address, const lw_rpc_tls_t *tls, lw_rpc_channel_t **channel_out,
                                    lw_error_t *error);
/* Calls in flight end with ERR_CANCELED, and their callbacks have run when this returns. Not from a callback. NULL is fine. */
void lw_rpc_disconnect(lw_rpc_channel_t *channel);
/* Blocks until the reply, at most timeout_us. `method` is "/longwave.v1.Session/Create". gRPC codes map to lw statuses
 * (DEADLINE_EXCEEDED ERR_TIMEOUT, UNAVAILABLE ERR_UNREACHABLE, NOT_FOUND, PERMISSION_DENIED/UNAUTHENTICATED ERR_PERMISSION,
 * RESOURCE_EXHAUSTED ERR_EXHAUSTED, INVALID_ARGUMENT ERR_INVALID, UNIMPLEMENTED ERR_UNSUPPORTED, ABORTED ERR_STALE,
 * ALREADY_EXISTS ERR_EXISTS, CANCELLED ERR_CANCELED; any other ERR_IO). A Longwave server also sends its own status as
 * trailing metadata ("lw-status"), which then wins, so that no status is blurred. The error carries the server's words. */
LW_CHECK lw_status_t lw_rpc_call(lw_rpc_channel_t *channel, const char *method, const void *request, size_t request_bytes,
                                 uint64_t timeout_us, lw_rpc_bytes_t *reply_out, lw_error_t *error);
/* The same without waiting: `done` runs exactly once on the channel's thread when this returned OK, and never otherwise.
 * It must not block. reply is borrowed for the callback (steal it by zeroing *reply); text is "" when status is OK. */
typedef void (*lw_rpc_done_fn)(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply);
LW_CHECK lw_status_t lw_rpc_call_async(lw_rpc_channel_t *channel, const char *method, const void *request,
                                       size_t request_bytes, uint64_t timeout_us, lw_rpc_done_fn done, void *arg,
                                       lw_error_t *error);
/* Server streaming: next() blocks up to timeout_us for one message (ERR_TIMEOUT: none yet; ERR_NOT_FOUND: the stream ended
 * well). cancel() may come from another thread and makes next() return ERR_CANCELED. */
LW_CHECK lw_status_t lw_rpc_stream_open(lw_rpc_channel_t *channel, const char *method, const void *request,
                                        size_t request_bytes, lw_rpc_stream_t **stream_out, lw_error_t *error);
LW_CHECK lw_status_t lw_rpc_stream_next(lw_rpc_stream_t *stream, uint64_t timeout_us, lw_rpc_bytes_t *message_out,
                                        lw_error_t *error);
/* Both ways: opened without a request; send() copies and queues a message (ERR_BUSY: LW_RPC_WRITES_MAX wait, ERR_CANCELED:
 * the stream is over, ERR_INVALID: it was opened with its one request). next() as above. */
LW_CHECK lw_status_t lw_rpc_stream_open_both(lw_rpc_channel_t *channel, const char *method, lw_rpc_stream_t **stream_out,
                                             lw_error_t *error);
LW_CHECK lw_status_t lw_rpc_stream_send(lw_rpc_stream_t *stream, const void *message, size_t bytes, lw_error_t *error);
void lw_rpc_stream_cancel(lw_rpc_stream_t *stream);
void lw_rpc_stream_close(lw_rpc_stream_t *stream); /* cancels what is still open; before lw_rpc_disconnect or after */

/* ---- server ---- */
typedef struct lw_rpc_method {
    const char *path; /* "/longwave.v1.Session/Create" */
    bool streaming;
    void (*serve)(void *arg, lw_rpc_call_t *call, const void *request, size_t request_bytes);
    void *arg;
} lw_rpc_method_t;

/* ERR_INVALID: address or PEM texts unusable, or a method twice; ERR_UNREACHABLE: cannot bind. Paths are copied. */
LW_CHECK lw_status_t lw_rpc_serve(const char *address, const lw_rpc_tls_t *tls, const lw_rpc_method_t *methods,
                                  size_t method_count, lw_rpc_server_t **server_out, lw_error_t *error);
/* The bound "host:port", with the real port. */
const char *lw_rpc_server_address(const lw_rpc_server_t *server);
/* Stops accepting, gives calls in flight grace_us, then cancels them; returns when the thread has ended. Calls that a
 * handler still keeps stay valid: answering them later does nothing and frees them. */
void lw_rpc_server_stop(lw_rpc_server_t *server, uint64_t grace_us);

/* Answers. Exactly one reply() for a unary call; any number of write() and one finish() for a streaming one. A status other
 * than OK carries `text`. `call` is gone after reply/finish. Any thread. */
void lw_rpc_reply(lw_rpc_call_t *call, lw_status_t status, const char *text, const void *reply, size_t reply_bytes);
/* Copies and queues one message. ERR_CANCELED: the client is gone; ERR_BUSY: LW_RPC_WRITES_MAX are waiting. */
LW_CHECK lw_status_t lw_rpc_write(lw_rpc_call_t *call, const void *message, size_t bytes);
void lw_rpc_finish(lw_rpc_call_t *call, lw_status_t status, const char *text);
/* The client has canceled or gone away, its deadline passed, or the server stopped. */
bool lw_rpc_canceled(const lw_rpc_call_t *call);
/* What is left until the client's deadline, in microseconds; UINT64_MAX: it set none. */
uint64_t lw_rpc_time_left_us(const lw_rpc_call_t *call);
/* Common name of the client's certificate, or "" without mTLS. Valid while the call lives. */
const char *lw_rpc_peer(const lw_rpc_call_t *call);
/* Does the client's certificate carry exactly this URI among its subject alternative names? Only certificates that the
 * server's authority signed come this far; false without mTLS. Pure; while the call lives. */
bool lw_rpc_peer_has(const lw_rpc_call_t *call, const char *uri);

#endif /* LW_RPC_H */
