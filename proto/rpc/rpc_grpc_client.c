/* rpc_grpc_client.c - channels, unary calls and server streams. Called from any thread; completions run on the channel's
 * own thread, which does nothing else.
 *
 * A unary call is one batch. A stream has three: the request, the status (pending until the end), and one read at a time,
 * started again only when the message before it was taken: the transport's flow control does the rest. A stream that goes
 * both ways has one write at a time as well.
 */
#include "rpc/rpc_grpc_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct rpc_active rpc_active_t; /* a call that disconnect() must be able to cancel */

struct rpc_active {
    rpc_active_t *next, **link; /* in the channel's list; under its lock */
    grpc_call *call;
};

struct lw_rpc_channel {
    grpc_channel *grpc;
    grpc_completion_queue *queue;
    pthread_t thread;
    pthread_mutex_t lock; /* the list below */
    pthread_cond_t idle;
    rpc_active_t *active;
    bool closing;
    char address[192];
};

/* What a call's end brings. */
typedef struct rpc_end {
    grpc_metadata_array trailing;
    grpc_status_code code;
    grpc_slice details;
    const char *core_text; /* gRPC's own description of a local failure; owned, freed with gpr_free */
} rpc_end_t;

typedef struct rpc_unary {
    lw_rpc_tag_t tag;
    rpc_active_t active;
    lw_rpc_channel_t *channel;
    grpc_metadata_array initial;
    grpc_byte_buffer *reply;
    rpc_end_t end;
    lw_rpc_done_fn done;
    void *arg;
} rpc_unary_t;

typedef struct rpc_sent { /* a message that waits to be sent */
    struct rpc_sent *next;
    grpc_byte_buffer *message;
} rpc_sent_t;

struct lw_rpc_stream {
    lw_rpc_tag_t request_tag, read_tag, send_tag, end_tag;
    rpc_active_t active;
    lw_rpc_channel_t *channel;
    pthread_mutex_t lock; /* everything below; never held while calling into gRPC's batches' completion */
    pthread_cond_t changed;
    grpc_metadata_array initial;
    grpc_byte_buffer *message; /* arrived, not taken yet */
    rpc_sent_t *out_head, **out_tail; /* the first one is in flight while `sending` */
    unsigned out_count;
    rpc_end_t end;
    unsigned batches;          /* in flight */
    bool both, reading, sending, read_ended, ended, canceled;
};

static void rpc_end_init(rpc_end_t *end)
{
    grpc_metadata_array_init(&end->trailing);
    end->details = grpc_empty_slice();
}

static void rpc_end_fini(rpc_end_t *end)
{
    grpc_metadata_array_destroy(&end->trailing);
    grpc_slice_unref(end->details);
    gpr_free((void *)end->core_text);
}

/* Our server's exact status when it sent one that agrees with the gRPC code, else what the code means. */
static lw_status_t rpc_end_status(const rpc_end_t *end)
{
    if (end->code == GRPC_STATUS_OK)
        return LW_OK;
    for (size_t i = 0; i < end->trailing.count; i++) {
        const grpc_metadata *row = &end->trailing.metadata[i];
        if (grpc_slice_str_cmp(row->key, LW_RPC_STATUS_KEY) != 0)
            continue;
        char text[16] = "";
        size_t bytes = GRPC_SLICE_LENGTH(row->value);
        if (bytes >= sizeof(text))
            break;
        memcpy(text, GRPC_SLICE_START_PTR(row->value), bytes);
        long value = strtol(text, NULL, 10);
        if (value < 0 && value > -128 && lw_rpc_code_of_status((lw_status_t)value) == end->code)
            return (lw_status_t)value;
    }
    return lw_rpc_status_of_code(end->code);
}

static void rpc_end_text(const rpc_end_t *end, char *text, size_t text_bytes)
{
    size_t bytes = GRPC_SLICE_LENGTH(end->details);
    if (bytes >= text_bytes)
        bytes = text_bytes - 1;
    memcpy(text, GRPC_SLICE_START_PTR(end->details), bytes);
    text[bytes] = 0;
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] < 0x20)
            text[i] = ' ';
}

/* False when the channel is closing. */
static bool rpc_active_add(lw_rpc_channel_t *channel, rpc_active_t *active)
{
    pthread_mutex_lock(&channel->lock);
    bool open = !channel->closing;
    if (open) {
        active->next = channel->active;
        active->link = &channel->active;
        if (active->next)
            active->next->link = &active->next;
        channel->active = active;
    }
    pthread_mutex_unlock(&channel->lock);
    return open;
}

static void rpc_active_remove(lw_rpc_channel_t *channel, rpc_active_t *active)
{
    pthread_mutex_lock(&channel->lock);
    *active->link = active->next;
    if (active->next)
        active->next->link = active->link;
    if (!channel->active)
        pthread_cond_broadcast(&channel->idle);
    pthread_mutex_unlock(&channel->lock);
}

static void *rpc_channel_thread(void *arg)
{
    lw_rpc_channel_t *channel = arg;
    lw_rpc_grpc_loop(channel->queue);
    return NULL;
}

static grpc_channel_credentials *rpc_channel_credentials(const lw_rpc_tls_t *tls)
{
    if (!tls || (!tls->ca_pem && !tls->cert_pem && !tls->key_pem))
        return grpc_insecure_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {.private_key = tls->key_pem, .cert_chain = tls->cert_pem};
    return grpc_ssl_credentials_create(tls->ca_pem, tls->cert_pem ? &pair : NULL, NULL, NULL);
}

static grpc_channel *rpc_channel_create(const char *address, const lw_rpc_tls_t *tls)
{
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, .value.integer = (int)LW_RPC_MESSAGE_MAX},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, .value.integer = (int)LW_RPC_MESSAGE_MAX},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ENABLE_HTTP_PROXY, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, .value.integer = 1},
        /* A daemon that restarts should be found again soon: the C core's own backoff starts at a second. */
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, .value.integer = 100},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, .value.integer = 500},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, .value.integer = 1000},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_KEEPALIVE_TIME_MS, .value.integer = 10000},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_KEEPALIVE_TIMEOUT_MS, .value.integer = 5000},
        {.type = GRPC_ARG_STRING, .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)(tls ? tls->server_name : NULL)},
    };
    size_t count = LW_ARRAY_SIZE(args);
    if (!tls || !tls->server_name)
        count--;
    grpc_channel_credentials *credentials = rpc_channel_credentials(tls);
    if (!credentials)
        return NULL;
    grpc_channel_args list = {.num_args = count, .args = args};
    grpc_channel *channel = grpc_channel_create(address, credentials, &list);
    grpc_channel_credentials_release(credentials);
    return channel;
}

lw_status_t lw_rpc_connect(const char *address, const lw_rpc_tls_t *tls, lw_rpc_channel_t **channel_out,
                           lw_error_t *error)
{
    const char *colon = address ? strrchr(address, ':') : NULL;
    if (!colon || colon == address || !colon[1])
        return lw_fail(error, LW_ERR_INVALID, "address '%s' is not host:port", address ? address : "");
    if (strlen(address) >= sizeof(((lw_rpc_channel_t *)0)->address))
        return lw_fail(error, LW_ERR_INVALID, "address is %zu bytes long", strlen(address));
    if (tls && !tls->cert_pem != !tls->key_pem)
        return lw_fail(error, LW_ERR_INVALID, "TLS: a certificate and its key come together");
    lw_rpc_grpc_init();
    lw_rpc_channel_t *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a channel");
    snprintf(channel->address, sizeof(channel->address), "%s", address);
    channel->grpc = rpc_channel_create(address, tls);
    if (!channel->grpc) {
        free(channel);
        return lw_fail(error, LW_ERR_INVALID, "TLS texts for %s cannot be used", address);
    }
    channel->queue = grpc_completion_queue_create_for_next(NULL);
    pthread_mutex_init(&channel->lock, NULL);
    pthread_cond_init(&channel->idle, NULL);
    if (pthread_create(&channel->thread, NULL, rpc_channel_thread, channel) != 0) {
        grpc_completion_queue_shutdown(channel->queue);
        lw_rpc_grpc_loop(channel->queue);
        grpc_completion_queue_destroy(channel->queue);
        grpc_channel_destroy(channel->grpc);
        pthread_cond_destroy(&channel->idle);
        pthread_mutex_destroy(&channel->lock);
        free(channel);
        return lw_fail(error, LW_ERR_NO_MEMORY, "no thread for the channel to %s", address);
    }
    *channel_out = channel;
    return LW_OK;
}

void lw_rpc_disconnect(lw_rpc_channel_t *channel)
{
    if (!channel)
        return;
    pthread_mutex_lock(&channel->lock);
    channel->closing = true;
    for (rpc_active_t *active = channel->active; active; active = active->next)
        grpc_call_cancel(active->call, NULL);
    while (channel->active)
        pthread_cond_wait(&channel->idle, &channel->lock);
    pthread_mutex_unlock(&channel->lock);
    grpc_completion_queue_shutdown(channel->queue);
    pthread_join(channel->thread, NULL);
    grpc_completion_queue_destroy(channel->queue);
    grpc_channel_destroy(channel->grpc);
    pthread_cond_destroy(&channel->idle);
    pthread_mutex_destroy(&channel->lock);
    free(channel);
}

static grpc_call *rpc_call_create(lw_rpc_channel_t *channel, const char *method, uint64_t timeout_us)
{
    grpc_slice path = grpc_slice_from_copied_string(method);
    grpc_call *call = grpc_channel_create_call(channel->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, channel->queue, path, NULL,
                                               lw_rpc_deadline(timeout_us), NULL);
    grpc_slice_unref(path);
    return call;
}

/* ---- unary ---- */

static void rpc_unary_destroy(rpc_unary_t *unary)
{
    if (unary->active.call)
        grpc_call_unref(unary->active.call);
    grpc_metadata_array_destroy(&unary->initial);
    if (unary->reply)
        grpc_byte_buffer_destroy(unary->reply);
    rpc_end_fini(&unary->end);
    free(unary);
}

static void rpc_unary_done(void *owner, bool ok)
{
    rpc_unary_t *unary = owner;
    lw_rpc_channel_t *channel = unary->channel;
    lw_rpc_bytes_t reply = {0};
    char text[sizeof(((lw_error_t *)0)->text)] = "";
    lw_status_t status = ok ? rpc_end_status(&unary->end) : LW_ERR_IO;
    if (status != LW_OK) {
        rpc_end_text(&unary->end, text, sizeof(text));
    } else if (!unary->reply) {
        status = LW_ERR_IO;
        snprintf(text, sizeof(text), "%s answered OK without a message", channel->address);
    } else {
        status = lw_rpc_flatten(unary->reply, &reply);
        if (status != LW_OK)
            snprintf(text, sizeof(text), "reply of %s cannot be read", channel->address);
    }
    unary->done(unary->arg, status, text, &reply);
    lw_rpc_bytes_free(&reply);
    rpc_active_remove(channel, &unary->active); /* last: disconnect() waits for this */
    rpc_unary_destroy(unary);
}

lw_status_t lw_rpc_call_async(lw_rpc_channel_t *channel, const char *method, const void *request, size_t request_bytes,
                              uint64_t timeout_us, lw_rpc_done_fn done, void *arg, lw_error_t *error)
{
    if (request_bytes > LW_RPC_MESSAGE_MAX)
        return lw_fail(error, LW_ERR_INVALID, "request of %zu bytes is larger than %u", request_bytes, LW_RPC_MESSAGE_MAX);
    rpc_unary_t *unary = calloc(1, sizeof(*unary));
    if (!unary)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a call");
    unary->tag = (lw_rpc_tag_t){.done = rpc_unary_done, .owner = unary};
    unary->channel = channel;
    unary->done = done;
    unary->arg = arg;
    grpc_metadata_array_init(&unary->initial);
    rpc_end_init(&unary->end);
    unary->active.call = rpc_call_create(channel, method, timeout_us);
    if (!rpc_active_add(channel, &unary->active)) {
        rpc_unary_destroy(unary);
        return lw_fail(error, LW_ERR_CANCELED, "the channel to %s is closing", channel->address);
    }
    grpc_byte_buffer *message = lw_rpc_buffer(request, request_bytes);
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &unary->initial},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &unary->reply},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
         .data.recv_status_on_client = {.trailing_metadata = &unary->end.trailing,
                                        .status = &unary->end.code,
                                        .status_details = &unary->end.details,
                                        .error_string = &unary->end.core_text}},
    };
    grpc_call_error started = grpc_call_start_batch(unary->active.call, ops, LW_ARRAY_SIZE(ops), lw_rpc_tag_hand(&unary->tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK); /* fails only for a batch that is malformed */
    grpc_byte_buffer_destroy(message);
    return LW_OK;
}

typedef struct rpc_wait {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    lw_rpc_bytes_t reply;
    lw_error_t error;
} rpc_wait_t;

static void rpc_wait_done(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    rpc_wait_t *wait = arg;
    pthread_mutex_lock(&wait->lock);
    wait->error.status = status;
    snprintf(wait->error.text, sizeof(wait->error.text), "%s", text);
    wait->reply = *reply;
    *reply = (lw_rpc_bytes_t){0};
    wait->done = true;
    pthread_cond_signal(&wait->changed);
    pthread_mutex_unlock(&wait->lock);
}

lw_status_t lw_rpc_call(lw_rpc_channel_t *channel, const char *method, const void *request, size_t request_bytes,
                        uint64_t timeout_us, lw_rpc_bytes_t *reply_out, lw_error_t *error)
{
    rpc_wait_t wait = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    lw_status_t status =
        lw_rpc_call_async(channel, method, request, request_bytes, timeout_us, rpc_wait_done, &wait, error);
    if (status != LW_OK)
        return status;
    pthread_mutex_lock(&wait.lock);
    while (!wait.done) /* bounded by the call's deadline */
        pthread_cond_wait(&wait.changed, &wait.lock);
    pthread_mutex_unlock(&wait.lock);
    pthread_mutex_destroy(&wait.lock);
    pthread_cond_destroy(&wait.changed);
    if (wait.error.status != LW_OK) {
        lw_rpc_bytes_free(&wait.reply);
        return lw_fail(error, wait.error.status, "%s", wait.error.text);
    }
    *reply_out = wait.reply;
    return LW_OK;
}

/* ---- streams ---- */

/* Called with the lock held by a completion; frees nothing: close() waits for batches == 0. */
static void rpc_stream_batch_ended(lw_rpc_stream_t *stream)
{
    stream->batches--;
    bool last = stream->batches == 0;
    pthread_cond_broadcast(&stream->changed);
    lw_rpc_channel_t *channel = stream->channel;
    if (last) /* under the stream's lock, so that close() cannot free it before: lock order stream, channel */
        rpc_active_remove(channel, &stream->active);
    pthread_mutex_unlock(&stream->lock);
}

static void rpc_stream_request_done(void *owner, bool ok)
{
    lw_rpc_stream_t *stream = owner;
    (void)ok; /* a failure ends the call: its status tells */
    pthread_mutex_lock(&stream->lock);
    rpc_stream_batch_ended(stream);
}

static void rpc_stream_read_done(void *owner, bool ok)
{
    lw_rpc_stream_t *stream = owner;
    pthread_mutex_lock(&stream->lock);
    stream->reading = false;
    if (!ok || !stream->message)
        stream->read_ended = true;
    rpc_stream_batch_ended(stream);
}

static void rpc_stream_end_done(void *owner, bool ok)
{
    lw_rpc_stream_t *stream = owner;
    (void)ok;
    pthread_mutex_lock(&stream->lock);
    stream->ended = true;
    rpc_stream_batch_ended(stream);
}

/* With the lock held. Not started once the status batch is over: nothing can come then, and a stream without batches is
 * out of the channel's list. */
static void rpc_stream_read(lw_rpc_stream_t *stream)
{
    if (stream->reading || stream->read_ended || stream->message)
        return;
    if (stream->batches == 0) {
        stream->read_ended = true;
        return;
    }
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &stream->message};
    stream->reading = true;
    stream->batches++;
    grpc_call_error started = grpc_call_start_batch(stream->active.call, &op, 1, lw_rpc_tag_hand(&stream->read_tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK);
}

/* With the lock held. A stream that is over sends nothing more. */
static void rpc_stream_send_next(lw_rpc_stream_t *stream)
{
    if (stream->sending || !stream->out_head || stream->ended || stream->batches == 0)
        return;
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = stream->out_head->message};
    stream->sending = true;
    stream->batches++;
    grpc_call_error started = grpc_call_start_batch(stream->active.call, &op, 1, lw_rpc_tag_hand(&stream->send_tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK);
}

static void rpc_stream_out_pop(lw_rpc_stream_t *stream)
{
    rpc_sent_t *first = stream->out_head;
    stream->out_head = first->next;
    if (!stream->out_head)
        stream->out_tail = &stream->out_head;
    stream->out_count--;
    grpc_byte_buffer_destroy(first->message);
    free(first);
}

static void rpc_stream_send_done(void *owner, bool ok)
{
    lw_rpc_stream_t *stream = owner;
    pthread_mutex_lock(&stream->lock);
    stream->sending = false;
    rpc_stream_out_pop(stream);
    if (ok)
        rpc_stream_send_next(stream); /* else the call is ending: its status tells */
    rpc_stream_batch_ended(stream);
}

lw_status_t lw_rpc_stream_send(lw_rpc_stream_t *stream, const void *message, size_t bytes, lw_error_t *error)
{
    if (!stream->both)
        return lw_fail(error, LW_ERR_INVALID, "the stream's one request was sent when it was opened");
    if (bytes > LW_RPC_MESSAGE_MAX)
        return lw_fail(error, LW_ERR_INVALID, "message of %zu bytes is larger than %u", bytes, LW_RPC_MESSAGE_MAX);
    rpc_sent_t *sent = calloc(1, sizeof(*sent));
    if (!sent)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a message");
    sent->message = lw_rpc_buffer(message, bytes);
    lw_status_t status = LW_OK;
    pthread_mutex_lock(&stream->lock);
    if (stream->canceled || stream->ended || stream->batches == 0)
        status = lw_fail(error, LW_ERR_CANCELED, "the stream is over");
    else if (stream->out_count >= LW_RPC_WRITES_MAX)
        status = lw_fail(error, LW_ERR_BUSY, "%u messages wait to be sent", stream->out_count);
    if (status == LW_OK) {
        *stream->out_tail = sent;
        stream->out_tail = &sent->next;
        stream->out_count++;
        rpc_stream_send_next(stream);
    }
    pthread_mutex_unlock(&stream->lock);
    if (status != LW_OK) {
        grpc_byte_buffer_destroy(sent->message);
        free(sent);
    }
    return status;
}

static void rpc_stream_destroy(lw_rpc_stream_t *stream)
{
    while (stream->out_head)
        rpc_stream_out_pop(stream);
    if (stream->active.call)
        grpc_call_unref(stream->active.call);
    if (stream->message)
        grpc_byte_buffer_destroy(stream->message);
    grpc_metadata_array_destroy(&stream->initial);
    rpc_end_fini(&stream->end);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

/* message NULL: none goes out with the start, and the way out stays open. */
static void rpc_stream_start(lw_rpc_stream_t *stream, grpc_byte_buffer *message)
{
    grpc_op first[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &stream->initial},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
    };
    grpc_op last = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                    .data.recv_status_on_client = {.trailing_metadata = &stream->end.trailing,
                                                   .status = &stream->end.code,
                                                   .status_details = &stream->end.details,
                                                   .error_string = &stream->end.core_text}};
    pthread_mutex_lock(&stream->lock);
    stream->batches = 2;
    grpc_call_error started = grpc_call_start_batch(stream->active.call, &last, 1, lw_rpc_tag_hand(&stream->end_tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK);
    started = grpc_call_start_batch(stream->active.call, first, message ? 4 : 2, lw_rpc_tag_hand(&stream->request_tag), NULL);
    LW_ASSERT(started == GRPC_CALL_OK);
    rpc_stream_read(stream);
    pthread_mutex_unlock(&stream->lock);
}

static lw_status_t rpc_stream_create(lw_rpc_channel_t *channel, const char *method, lw_rpc_stream_t **stream_out,
                                     lw_error_t *error)
{
    lw_rpc_stream_t *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a stream");
    stream->request_tag = (lw_rpc_tag_t){.done = rpc_stream_request_done, .owner = stream};
    stream->read_tag = (lw_rpc_tag_t){.done = rpc_stream_read_done, .owner = stream};
    stream->send_tag = (lw_rpc_tag_t){.done = rpc_stream_send_done, .owner = stream};
    stream->end_tag = (lw_rpc_tag_t){.done = rpc_stream_end_done, .owner = stream};
    stream->channel = channel;
    stream->out_tail = &stream->out_head;
    grpc_metadata_array_init(&stream->initial);
    rpc_end_init(&stream->end);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&stream->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    stream->active.call = rpc_call_create(channel, method, UINT64_MAX);
    if (!rpc_active_add(channel, &stream->active)) {
        rpc_stream_destroy(stream);
        return lw_fail(error, LW_ERR_CANCELED, "the channel to %s is closing", channel->address);
    }
    *stream_out = stream;
    return LW_OK;
}

lw_status_t lw_rpc_stream_open(lw_rpc_channel_t *channel, const char *method, const void *request, size_t request_bytes,
                               lw_rpc_stream_t **stream_out, lw_error_t *error)
{
    if (request_bytes > LW_RPC_MESSAGE_MAX)
        return lw_fail(error, LW_ERR_INVALID, "request of %zu bytes is larger than %u", request_bytes, LW_RPC_MESSAGE_MAX);
    lw_status_t status = rpc_stream_create(channel, method, stream_out, error);
    if (status != LW_OK)
        return status;
    grpc_byte_buffer *message = lw_rpc_buffer(request, request_bytes);
    rpc_stream_start(*stream_out, message);
    grpc_byte_buffer_destroy(message);
    return LW_OK;
}

lw_status_t lw_rpc_stream_open_both(lw_rpc_channel_t *channel, const char *method, lw_rpc_stream_t **stream_out,
                                    lw_error_t *error)
{
    lw_status_t status = rpc_stream_create(channel, method, stream_out, error);
    if (status != LW_OK)
        return status;
    (*stream_out)->both = true;
    rpc_stream_start(*stream_out, NULL);
    return LW_OK;
}

static struct timespec rpc_until(uint64_t timeout_us)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    timeout_us = lw_min_u64(timeout_us, 365ull * 24 * 3600 * 1000000);
    until.tv_sec += (time_t)(timeout_us / 1000000);
    until.tv_nsec += (long)(timeout_us % 1000000) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return until;
}

lw_status_t lw_rpc_stream_next(lw_rpc_stream_t *stream, uint64_t timeout_us, lw_rpc_bytes_t *message_out,
                               lw_error_t *error)
{
    struct timespec until = rpc_until(timeout_us);
    lw_status_t status;
    char text[sizeof(((lw_error_t *)0)->text)] = "";
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        if (stream->canceled) {
            status = lw_fail(error, LW_ERR_CANCELED, "the stream was canceled");
            break;
        }
        if (stream->message && !stream->reading) {
            grpc_byte_buffer *message = stream->message;
            stream->message = NULL;
            status = lw_rpc_flatten(message, message_out);
            grpc_byte_buffer_destroy(message);
            rpc_stream_read(stream);
            if (status != LW_OK)
                lw_fail(error, status, "a message cannot be read");
            break;
        }
        if (stream->ended && stream->read_ended) {
            status = rpc_end_status(&stream->end);
            rpc_end_text(&stream->end, text, sizeof(text));
            status = status == LW_OK ? lw_fail(error, LW_ERR_NOT_FOUND, "the stream has ended")
                                     : lw_fail(error, status, "%s", text);
            break;
        }
        if (pthread_cond_timedwait(&stream->changed, &stream->lock, &until) == ETIMEDOUT && !stream->message &&
            !(stream->ended && stream->read_ended)) {
            status = lw_fail(error, LW_ERR_TIMEOUT, "no message within %llu us", (unsigned long long)timeout_us);
            break;
        }
    }
    pthread_mutex_unlock(&stream->lock);
    return status;
}

void lw_rpc_stream_cancel(lw_rpc_stream_t *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->canceled = true;
    grpc_call_cancel(stream->active.call, NULL);
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

void lw_rpc_stream_close(lw_rpc_stream_t *stream)
{
    if (!stream)
        return;
    lw_rpc_stream_cancel(stream);
    pthread_mutex_lock(&stream->lock);
    while (stream->batches > 0)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    rpc_stream_destroy(stream);
}
