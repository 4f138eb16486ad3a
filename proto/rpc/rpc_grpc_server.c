/* rpc_grpc_server.c - serving calls: methods found by path, one completion-queue thread, answers from any thread.
 *
 * A call holds one reference for its handler (dropped by reply/finish) and one for each batch in flight. gRPC's own call
 * object is let go as soon as the call is over (its close batch done) and nothing is in flight, even while a handler keeps
 * ours. Stopping counts those objects (gRPC's own shutdown notification may come while some live): the completion queue is
 * shut down only when none is left that a handler could still start a batch on.
 */
#include "rpc/rpc_grpc_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct rpc_out rpc_out_t; /* a message that waits to be sent */

struct rpc_out {
    rpc_out_t *next;
    grpc_byte_buffer *message;
};

typedef struct rpc_core rpc_core_t;

/* What calls need of their server; lives until the last of them is gone. */
struct rpc_core {
    pthread_mutex_t lock; /* references, live, shut_down */
    pthread_cond_t changed;
    unsigned references;
    unsigned live; /* calls offered to gRPC or given by it and not let go */
    bool shut_down; /* gRPC's shutdown notification came */
    grpc_server *grpc;
    grpc_completion_queue *queue;
    size_t method_count;
    lw_rpc_method_t methods[LW_RPC_METHODS_MAX]; /* paths owned */
};

struct lw_rpc_server {
    rpc_core_t *core;
    pthread_t thread;
    lw_rpc_tag_t shutdown_tag;
    char address[192];
};

struct lw_rpc_call {
    rpc_core_t *core;
    const lw_rpc_method_t *method; /* NULL: unknown path */
    lw_rpc_tag_t request_tag, read_tag, close_tag, send_tag;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *request;
    gpr_timespec deadline;
    char peer[64];
    char *peer_uris; /* one after the other, an empty one at the end; NULL: none */

    pthread_mutex_t lock; /* everything below */
    grpc_call *grpc;      /* NULL once the call is over */
    unsigned references;  /* handler and batches */
    unsigned batches;     /* in flight */
    int canceled_by_peer; /* written by gRPC until the close batch is done */
    bool closed, canceled;
    bool sending, metadata_sent, finish_asked, finish_sent;
    unsigned out_count;
    rpc_out_t *out_head, **out_tail;
    grpc_status_code code;
    char status_value[16];
    grpc_slice status_text;
    grpc_metadata trailing;
};

static void rpc_core_ref(rpc_core_t *core)
{
    pthread_mutex_lock(&core->lock);
    core->references++;
    pthread_mutex_unlock(&core->lock);
}

static void rpc_core_unref(rpc_core_t *core)
{
    pthread_mutex_lock(&core->lock);
    bool last = --core->references == 0;
    pthread_mutex_unlock(&core->lock);
    if (!last)
        return;
    for (size_t i = 0; i < core->method_count; i++)
        free((void *)core->methods[i].path);
    pthread_cond_destroy(&core->changed);
    pthread_mutex_destroy(&core->lock);
    free(core);
}

static void rpc_core_let_go(rpc_core_t *core)
{
    pthread_mutex_lock(&core->lock);
    if (--core->live == 0)
        pthread_cond_broadcast(&core->changed);
    pthread_mutex_unlock(&core->lock);
}

static void rpc_call_destroy(lw_rpc_call_t *call)
{
    LW_ASSERT(!call->grpc && call->batches == 0);
    while (call->out_head) {
        rpc_out_t *out = call->out_head;
        call->out_head = out->next;
        grpc_byte_buffer_destroy(out->message);
        free(out);
    }
    if (call->request)
        grpc_byte_buffer_destroy(call->request);
    free(call->peer_uris);
    grpc_call_details_destroy(&call->details);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_slice_unref(call->status_text);
    pthread_mutex_destroy(&call->lock);
    rpc_core_unref(call->core);
    free(call);
}

/* Drops one reference; the lock is held on entry and released. */
static void rpc_call_unref_unlock(lw_rpc_call_t *call)
{
    grpc_call *over = NULL;
    rpc_core_t *core = call->core;
    rpc_core_ref(core); /* another thread may drop the call's own while this one is between locks */
    if (call->closed && call->batches == 0) {
        over = call->grpc;
        call->grpc = NULL;
    }
    bool last = --call->references == 0;
    pthread_mutex_unlock(&call->lock);
    if (over) {
        grpc_call_unref(over);
        rpc_core_let_go(core);
    }
    if (last)
        rpc_call_destroy(call);
    rpc_core_unref(core);
}

static void rpc_call_start(lw_rpc_call_t *call, const grpc_op *ops, size_t count, lw_rpc_tag_t *tag)
{
    call->references++;
    call->batches++;
    grpc_call_error started = grpc_call_start_batch(call->grpc, ops, count, lw_rpc_tag_hand(tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK); /* fails only for a batch that is malformed */
}

/* Sends what waits, one batch at a time. With the lock held. */
static void rpc_call_pump(lw_rpc_call_t *call)
{
    if (call->sending || call->finish_sent || !call->grpc || (!call->out_head && !call->finish_asked))
        return;
    grpc_op ops[3];
    memset(ops, 0, sizeof(ops));
    size_t count = 0;
    if (!call->metadata_sent)
        ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    call->metadata_sent = true;
    rpc_out_t *out = call->out_head;
    if (out) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = out->message;
        call->out_head = out->next;
        if (!call->out_head)
            call->out_tail = &call->out_head;
        call->out_count--;
    }
    if (!call->out_head && call->finish_asked) {
        ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[count].data.send_status_from_server.status = call->code;
        ops[count].data.send_status_from_server.status_details = &call->status_text;
        if (call->status_value[0]) {
            call->trailing.key = grpc_slice_from_static_string(LW_RPC_STATUS_KEY);
            call->trailing.value = grpc_slice_from_static_string(call->status_value);
            ops[count].data.send_status_from_server.trailing_metadata_count = 1;
            ops[count].data.send_status_from_server.trailing_metadata = &call->trailing;
        }
        count++;
        call->finish_sent = true;
    }
    call->sending = true;
    rpc_call_start(call, ops, count, &call->send_tag);
    if (out) {
        grpc_byte_buffer_destroy(out->message);
        free(out);
    }
}

static void rpc_send_done(void *owner, bool ok)
{
    lw_rpc_call_t *call = owner;
    pthread_mutex_lock(&call->lock);
    call->batches--;
    call->sending = false;
    if (!ok)
        call->canceled = true;
    rpc_call_pump(call);
    rpc_call_unref_unlock(call);
}

static void rpc_close_done(void *owner, bool ok)
{
    lw_rpc_call_t *call = owner;
    (void)ok;
    pthread_mutex_lock(&call->lock);
    call->batches--;
    call->closed = true;
    if (call->canceled_by_peer)
        call->canceled = true;
    rpc_call_unref_unlock(call);
}

/* Queues the status; the handler's reference goes with it. */
static void rpc_call_end(lw_rpc_call_t *call, lw_status_t status, const char *text, grpc_byte_buffer *message)
{
    rpc_out_t *out = message ? calloc(1, sizeof(*out)) : NULL;
    pthread_mutex_lock(&call->lock);
    LW_ASSERT(!call->finish_asked);
    if (message && !out)
        status = LW_ERR_NO_MEMORY;
    if (out) {
        out->message = message;
        *call->out_tail = out;
        call->out_tail = &out->next;
        call->out_count++;
    } else if (message) {
        grpc_byte_buffer_destroy(message);
    }
    call->code = lw_rpc_code_of_status(status);
    if (status != LW_OK) {
        snprintf(call->status_value, sizeof(call->status_value), "%d", (int)status);
        call->status_text = grpc_slice_from_copied_string(text && text[0] ? text : lw_status_text(status));
    }
    call->finish_asked = true;
    rpc_call_pump(call);
    rpc_call_unref_unlock(call);
}

void lw_rpc_reply(lw_rpc_call_t *call, lw_status_t status, const char *text, const void *reply, size_t reply_bytes)
{
    if (status == LW_OK && reply_bytes > LW_RPC_MESSAGE_MAX) {
        status = LW_ERR_INVALID;
        text = "the reply would be larger than a message may be";
    }
    rpc_call_end(call, status, text, status == LW_OK ? lw_rpc_buffer(reply, reply_bytes) : NULL);
}

void lw_rpc_finish(lw_rpc_call_t *call, lw_status_t status, const char *text)
{
    rpc_call_end(call, status, text, NULL);
}

lw_status_t lw_rpc_write(lw_rpc_call_t *call, const void *message, size_t bytes)
{
    if (bytes > LW_RPC_MESSAGE_MAX)
        return LW_ERR_INVALID;
    rpc_out_t *out = calloc(1, sizeof(*out));
    if (!out)
        return LW_ERR_NO_MEMORY;
    lw_status_t status = LW_OK;
    pthread_mutex_lock(&call->lock);
    LW_ASSERT(!call->finish_asked);
    if (call->canceled || call->closed)
        status = LW_ERR_CANCELED;
    else if (call->out_count >= LW_RPC_WRITES_MAX)
        status = LW_ERR_BUSY;
    if (status == LW_OK) {
        out->message = lw_rpc_buffer(message, bytes);
        *call->out_tail = out;
        call->out_tail = &out->next;
        call->out_count++;
        rpc_call_pump(call);
    } else {
        free(out);
    }
    pthread_mutex_unlock(&call->lock);
    return status;
}

bool lw_rpc_canceled(const lw_rpc_call_t *call)
{
    lw_rpc_call_t *mutable = (lw_rpc_call_t *)call;
    pthread_mutex_lock(&mutable->lock);
    bool canceled = call->canceled || call->closed;
    pthread_mutex_unlock(&mutable->lock);
    return canceled;
}

uint64_t lw_rpc_time_left_us(const lw_rpc_call_t *call)
{
    if (gpr_time_cmp(call->deadline, gpr_inf_future(call->deadline.clock_type)) == 0)
        return UINT64_MAX;
    gpr_timespec left = gpr_time_sub(call->deadline, gpr_now(call->deadline.clock_type));
    if (left.tv_sec < 0)
        return 0;
    return (uint64_t)left.tv_sec * 1000000u + (uint64_t)left.tv_nsec / 1000u;
}

const char *lw_rpc_peer(const lw_rpc_call_t *call)
{
    return call->peer;
}

bool lw_rpc_peer_has(const lw_rpc_call_t *call, const char *uri)
{
    for (const char *at = call->peer_uris; at && *at; at += strlen(at) + 1)
        if (strcmp(at, uri) == 0)
            return true;
    return false;
}

/* ---- accepting ---- */

static const lw_rpc_method_t *rpc_method_find(const rpc_core_t *core, grpc_slice path)
{
    for (size_t i = 0; i < core->method_count; i++)
        if (grpc_slice_str_cmp(path, core->methods[i].path) == 0)
            return &core->methods[i];
    return NULL;
}

/* A URI with a NUL in it would read as a shorter one; it is left out, and so is what memory has no room for. */
static void rpc_uris_read(lw_rpc_call_t *call, const grpc_auth_context *context)
{
    size_t bytes = 0;
    grpc_auth_property_iterator all =
        grpc_auth_context_find_properties_by_name(context, GRPC_PEER_URI_PROPERTY_NAME);
    for (const grpc_auth_property *uri; (uri = grpc_auth_property_iterator_next(&all));) {
        if (uri->value_length == 0 || memchr(uri->value, 0, uri->value_length))
            continue;
        char *longer = realloc(call->peer_uris, bytes + uri->value_length + 2);
        if (!longer)
            return;
        memcpy(longer + bytes, uri->value, uri->value_length);
        bytes += uri->value_length + 1;
        longer[bytes - 1] = longer[bytes] = 0;
        call->peer_uris = longer;
    }
}

static void rpc_peer_read(lw_rpc_call_t *call)
{
    grpc_auth_context *context = grpc_call_auth_context(call->grpc);
    if (!context)
        return;
    grpc_auth_property_iterator names = grpc_auth_context_find_properties_by_name(context, GRPC_X509_CN_PROPERTY_NAME);
    const grpc_auth_property *name = grpc_auth_property_iterator_next(&names);
    if (name && name->value_length < sizeof(call->peer))
        memcpy(call->peer, name->value, name->value_length);
    rpc_uris_read(call, context);
    grpc_auth_context_release(context);
}

static void rpc_read_done(void *owner, bool ok)
{
    lw_rpc_call_t *call = owner;
    lw_rpc_bytes_t request = {0};
    lw_status_t status = LW_ERR_INVALID;
    if (ok && call->request)
        status = lw_rpc_flatten(call->request, &request);
    pthread_mutex_lock(&call->lock);
    call->batches--;
    call->references++; /* the handler's */
    rpc_call_unref_unlock(call);
    if (!call->method) {
        lw_rpc_finish(call, LW_ERR_UNSUPPORTED, "no such method");
    } else if (status != LW_OK) {
        lw_rpc_finish(call, status, "the call carries no message that can be read");
    } else {
        call->method->serve(call->method->arg, call, request.data, request.bytes);
    }
    lw_rpc_bytes_free(&request);
}

static void rpc_accept(rpc_core_t *core);

static void rpc_request_done(void *owner, bool ok)
{
    lw_rpc_call_t *call = owner;
    if (!ok) { /* the server is shutting down */
        rpc_core_let_go(call->core);
        rpc_call_destroy(call);
        return;
    }
    rpc_accept(call->core);
    call->method = rpc_method_find(call->core, call->details.method);
    call->deadline = gpr_convert_clock_type(call->details.deadline, GPR_CLOCK_MONOTONIC);
    rpc_peer_read(call);
    grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->canceled_by_peer};
    grpc_op read = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->request};
    pthread_mutex_lock(&call->lock);
    rpc_call_start(call, &close, 1, &call->close_tag);
    rpc_call_start(call, &read, 1, &call->read_tag);
    pthread_mutex_unlock(&call->lock);
}

/* Offers gRPC a place for the next call. Without memory no further call is accepted, and those that come time out. */
static void rpc_accept(rpc_core_t *core)
{
    lw_rpc_call_t *call = calloc(1, sizeof(*call));
    if (!call)
        return;
    call->core = core;
    call->request_tag = (lw_rpc_tag_t){.done = rpc_request_done, .owner = call};
    call->read_tag = (lw_rpc_tag_t){.done = rpc_read_done, .owner = call};
    call->close_tag = (lw_rpc_tag_t){.done = rpc_close_done, .owner = call};
    call->send_tag = (lw_rpc_tag_t){.done = rpc_send_done, .owner = call};
    call->out_tail = &call->out_head;
    call->status_text = grpc_empty_slice();
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    pthread_mutex_init(&call->lock, NULL);
    pthread_mutex_lock(&core->lock);
    core->references++;
    core->live++;
    pthread_mutex_unlock(&core->lock);
    grpc_call_error asked = grpc_server_request_call(core->grpc, &call->grpc, &call->details, &call->metadata,
                                                     core->queue, core->queue, lw_rpc_tag_hand(&call->request_tag));
    LW_ASSERT(asked == GRPC_CALL_OK);
}

/* ---- the server ---- */

static void *rpc_server_thread(void *arg)
{
    lw_rpc_server_t *server = arg;
    lw_rpc_grpc_loop(server->core->queue);
    return NULL;
}

static void rpc_shutdown_done(void *owner, bool ok)
{
    rpc_core_t *core = owner;
    (void)ok;
    pthread_mutex_lock(&core->lock);
    core->shut_down = true;
    pthread_cond_broadcast(&core->changed);
    pthread_mutex_unlock(&core->lock);
}

static grpc_server_credentials *rpc_server_credentials(const lw_rpc_tls_t *tls)
{
    if (!tls || (!tls->ca_pem && !tls->cert_pem && !tls->key_pem))
        return grpc_insecure_server_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {.private_key = tls->key_pem, .cert_chain = tls->cert_pem};
    return grpc_ssl_server_credentials_create_ex(tls->ca_pem, &pair, 1,
                                                 tls->ca_pem
                                                     ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                     : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
                                                 NULL);
}

static lw_status_t rpc_core_create(const lw_rpc_method_t *methods, size_t method_count, rpc_core_t **core_out,
                                   lw_error_t *error)
{
    if (method_count > LW_RPC_METHODS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "%zu methods, at most %u", method_count, LW_RPC_METHODS_MAX);
    rpc_core_t *core = calloc(1, sizeof(*core));
    if (!core)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a server");
    core->references = 1;
    pthread_mutex_init(&core->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&core->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    lw_status_t status = LW_OK;
    for (size_t i = 0; i < method_count && status == LW_OK; i++) {
        for (size_t j = 0; j < i; j++)
            if (strcmp(methods[i].path, methods[j].path) == 0)
                status = lw_fail(error, LW_ERR_INVALID, "method %s comes twice", methods[i].path);
        if (status != LW_OK)
            break;
        core->methods[i] = methods[i];
        core->methods[i].path = strdup(methods[i].path);
        if (!core->methods[i].path)
            status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a server");
        else
            core->method_count++;
    }
    if (status != LW_OK) {
        rpc_core_unref(core);
        return status;
    }
    *core_out = core;
    return LW_OK;
}

static grpc_server *rpc_server_create(void)
{
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, .value.integer = (int)LW_RPC_MESSAGE_MAX},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, .value.integer = (int)LW_RPC_MESSAGE_MAX},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_CONCURRENT_STREAMS, .value.integer = (int)LW_RPC_STREAMS_MAX},
        /* Else a second daemon on the same port would bind without a word and take half of the connections. */
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ALLOW_REUSEPORT, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, .value.integer = 5000},
    };
    grpc_channel_args list = {.num_args = LW_ARRAY_SIZE(args), .args = args};
    return grpc_server_create(&list, NULL);
}

lw_status_t lw_rpc_serve(const char *address, const lw_rpc_tls_t *tls, const lw_rpc_method_t *methods,
                         size_t method_count, lw_rpc_server_t **server_out, lw_error_t *error)
{
    const char *colon = address ? strrchr(address, ':') : NULL;
    lw_rpc_server_t *server = NULL;
    if (!colon || colon == address || !colon[1] || strlen(address) + 6 >= sizeof(server->address))
        return lw_fail(error, LW_ERR_INVALID, "address '%s' is not host:port", address ? address : "");
    if (tls && !tls->cert_pem != !tls->key_pem)
        return lw_fail(error, LW_ERR_INVALID, "TLS: a certificate and its key come together");
    if (tls && tls->ca_pem && !tls->cert_pem)
        return lw_fail(error, LW_ERR_INVALID, "TLS: a server that checks clients needs a certificate of its own");
    lw_rpc_grpc_init();
    rpc_core_t *core = NULL;
    lw_status_t status = rpc_core_create(methods, method_count, &core, error);
    if (status != LW_OK)
        return status;
    grpc_server_credentials *credentials = NULL;
    server = calloc(1, sizeof(*server));
    if (!server) {
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a server");
        goto drop_core;
    }
    server->core = core;
    server->shutdown_tag = (lw_rpc_tag_t){.done = rpc_shutdown_done, .owner = core};
    credentials = rpc_server_credentials(tls);
    if (!credentials) {
        status = lw_fail(error, LW_ERR_INVALID, "TLS texts for %s cannot be used", address);
        goto free_server;
    }
    core->grpc = rpc_server_create();
    core->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(core->grpc, core->queue, NULL);
    int port = grpc_server_add_http2_port(core->grpc, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0) {
        status = tls && tls->cert_pem
                     ? lw_fail(error, LW_ERR_UNREACHABLE, "cannot listen on %s (address in use, or TLS texts unusable)", address)
                     : lw_fail(error, LW_ERR_UNREACHABLE, "cannot listen on %s", address);
    } else {
        snprintf(server->address, sizeof(server->address), "%.*s:%d", (int)(colon - address), address, port);
        grpc_server_start(core->grpc);
        rpc_accept(core);
        if (pthread_create(&server->thread, NULL, rpc_server_thread, server) == 0) {
            *server_out = server;
            return LW_OK;
        }
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the server on %s", address);
    }
    grpc_server_shutdown_and_notify(core->grpc, core->queue, lw_rpc_tag_hand(&server->shutdown_tag));
    grpc_server_cancel_all_calls(core->grpc);
    grpc_completion_queue_shutdown(core->queue);
    lw_rpc_grpc_loop(core->queue);
    grpc_server_destroy(core->grpc);
    grpc_completion_queue_destroy(core->queue);
free_server:
    free(server);
drop_core:
    rpc_core_unref(core);
    return status;
}

const char *lw_rpc_server_address(const lw_rpc_server_t *server)
{
    return server->address;
}

/* Waits until gRPC has shut down and no call of it is left, at most until `until`; NULL: without limit. */
static bool rpc_server_wait(rpc_core_t *core, const struct timespec *until)
{
    pthread_mutex_lock(&core->lock);
    while (!core->shut_down || core->live) {
        if (!until)
            pthread_cond_wait(&core->changed, &core->lock);
        else if (pthread_cond_timedwait(&core->changed, &core->lock, until) == ETIMEDOUT)
            break;
    }
    bool done = core->shut_down && core->live == 0;
    pthread_mutex_unlock(&core->lock);
    return done;
}

void lw_rpc_server_stop(lw_rpc_server_t *server, uint64_t grace_us)
{
    if (!server)
        return;
    rpc_core_t *core = server->core;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(grace_us / 1000000);
    until.tv_nsec += (long)(grace_us % 1000000) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    grpc_server_shutdown_and_notify(core->grpc, core->queue, lw_rpc_tag_hand(&server->shutdown_tag));
    if (!rpc_server_wait(core, &until)) {
        grpc_server_cancel_all_calls(core->grpc);
        rpc_server_wait(core, NULL); /* each call's close batch ends now, and with it gRPC's hold on the call */
    }
    grpc_completion_queue_shutdown(core->queue);
    pthread_join(server->thread, NULL);
    grpc_server_destroy(core->grpc);
    grpc_completion_queue_destroy(core->queue);
    core->grpc = NULL;
    core->queue = NULL;
    rpc_core_unref(core);
    free(server);
}
