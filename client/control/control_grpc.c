/* control_grpc.c - the control-plane client over gRPC: packs, tries the seeds in turn, unpacks. Any thread; calls block. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "client/control/control_pb.h"
#include "rpc/rpc.h"

#define SEEDS_MAX 32u
#define TIMEOUT_DEFAULT_US 5000000ull
#define ONCE 1u /* a call that must not be sent again when its fate is unknown */

typedef struct grpc_seed {
    char address[LW_ADDRESS_MAX];
    lw_rpc_channel_t *channel; /* made at open, connects at the first call */
} grpc_seed_t;

typedef struct grpc_control {
    lwc_control_t head;
    char tenant[LWC_TENANT_MAX];
    uint64_t timeout_us;
    char *ca_pem, *cert_pem, *key_pem, *server_name; /* copies, for nodes that are no seeds */
    uint32_t seed_count;
    grpc_seed_t seeds[SEEDS_MAX];
    pthread_mutex_t lock; /* current */
    uint32_t current;     /* the seed that answered last */
} grpc_control_t;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static uint32_t current_get(grpc_control_t *control)
{
    pthread_mutex_lock(&control->lock);
    uint32_t current = control->current;
    pthread_mutex_unlock(&control->lock);
    return current;
}

static void current_set(grpc_control_t *control, uint32_t current)
{
    pthread_mutex_lock(&control->lock);
    control->current = current;
    pthread_mutex_unlock(&control->lock);
}

/* Adds "address: why; " to what has been tried. */
static void tried(char *list, size_t bytes, const char *address, const char *why)
{
    size_t used = strlen(list);
    int written = snprintf(list + used, bytes - used, "%s%s: %s", used ? "; " : "", address, why);
    if (written < 0 || (size_t)written >= bytes - used) /* the first reasons are worth the most */
        list[bytes - 1] = 0;
}

/* Whether a seed answers at all: asked before a call that must not be sent twice, so that one which is known to be away costs
 * nothing, and a connection that breaks under the call itself is not taken for one that never was. */
static lw_status_t probe(grpc_seed_t *seed, uint64_t timeout_us, lw_error_t *why)
{
    lw_rpc_bytes_t reply = {0};
    lw_status_t status = lw_rpc_call(seed->channel, "/longwave.v1.Fleet/Get", "", 0, timeout_us, &reply, why);
    if (status == LW_OK)
        lw_rpc_bytes_free(&reply);
    return status;
}

/* One call, from the seed that answered last; goes on to the next when one is unreachable, silent, or cut off from the
 * catalogue. The whole takes at most the handle's timeout. */
static lw_status_t seeds_call(grpc_control_t *control, const char *method, const uint8_t *request, size_t bytes,
                              unsigned flags, lw_rpc_bytes_t *reply, lw_error_t *error)
{
    uint64_t until = now_us() + control->timeout_us;
    uint32_t first = current_get(control);
    char list[sizeof(error->text)] = "";
    lw_status_t worst = LW_ERR_UNREACHABLE;
    for (uint32_t i = 0; i < control->seed_count; i++) {
        uint32_t at = (first + i) % control->seed_count;
        grpc_seed_t *seed = &control->seeds[at];
        uint64_t now = now_us(), left = until > now ? until - now : 0;
        lw_error_t why = {.text = ""};
        uint64_t share = left / (control->seed_count - i);
        lw_status_t status = flags & ONCE ? probe(seed, share / 4, &why) : LW_OK;
        bool sent = status != LW_ERR_UNREACHABLE && status != LW_ERR_TIMEOUT;
        if (sent) /* a probe that was answered has left at least three quarters */
            status = lw_rpc_call(seed->channel, method, request, bytes, share - (now_us() - now), reply, &why);
        bool next = status == LW_ERR_UNREACHABLE || status == LW_ERR_FLEET || status == LW_ERR_TIMEOUT;
        if (!next) {
            current_set(control, at);
            return status == LW_OK ? LW_OK : lw_fail(error, status, "%s: %s", seed->address, why.text);
        }
        tried(list, sizeof(list), seed->address, why.text);
        if (worst != LW_ERR_FLEET)
            worst = status;
        if (sent && status != LW_ERR_FLEET && flags & ONCE) { /* it may have happened */
            current_set(control, (at + 1) % control->seed_count);
            break;
        }
    }
    return lw_fail(error, worst, "%s", list);
}

static lw_status_t message_pack(const ProtobufCMessage *message, uint8_t **packed_out, size_t *bytes_out, lw_error_t *error)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(bytes + 1);
    if (!packed)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a request of %zu bytes", bytes);
    *bytes_out = protobuf_c_message_pack(message, packed);
    *packed_out = packed;
    return LW_OK;
}

static lw_status_t message_unpack(const ProtobufCMessageDescriptor *type, lw_rpc_bytes_t *bytes,
                                  ProtobufCMessage **out, lw_error_t *error)
{
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, bytes->bytes, bytes->data);
    lw_rpc_bytes_free(bytes);
    if (!message)
        return lw_fail(error, LW_ERR_IO, "the reply is no %s", type->short_name);
    *out = message;
    return LW_OK;
}

/* A call to one node: a seed's channel, or one of its own. */
static lw_status_t node_call(grpc_control_t *control, const char *address, const char *method, const uint8_t *request,
                             size_t bytes, lw_rpc_bytes_t *reply, lw_error_t *error)
{
    lw_rpc_channel_t *channel = NULL, *own = NULL;
    for (uint32_t i = 0; i < control->seed_count; i++)
        if (strcmp(control->seeds[i].address, address) == 0)
            channel = control->seeds[i].channel;
    if (!channel) {
        const lw_rpc_tls_t tls = {control->ca_pem, control->cert_pem, control->key_pem, control->server_name};
        lw_status_t status = lw_rpc_connect(address, &tls, &own, error);
        if (status != LW_OK)
            return status;
        channel = own;
    }
    lw_error_t why = {.text = ""};
    lw_status_t status = lw_rpc_call(channel, method, request, bytes, control->timeout_us, reply, &why);
    lw_rpc_disconnect(own);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "%s: %s", address, why.text);
}

/* address: the node to ask; NULL: the seeds in turn. *reply_out is freed with protobuf_c_message_free_unpacked. */
static lw_status_t ask_at(grpc_control_t *control, const char *address, const char *method,
                          const ProtobufCMessage *request, unsigned flags, const ProtobufCMessageDescriptor *type,
                          ProtobufCMessage **reply_out, lw_error_t *error)
{
    uint8_t *packed = NULL;
    size_t bytes = 0;
    lw_rpc_bytes_t reply = {0};
    lw_status_t status = message_pack(request, &packed, &bytes, error);
    if (status == LW_OK)
        status = address ? node_call(control, address, method, packed, bytes, &reply, error)
                         : seeds_call(control, method, packed, bytes, flags, &reply, error);
    free(packed);
    return status == LW_OK ? message_unpack(type, &reply, reply_out, error) : status;
}

static lw_status_t ask(grpc_control_t *control, const char *method, const ProtobufCMessage *request, unsigned flags,
                       const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply_out, lw_error_t *error)
{
    return ask_at(control, NULL, method, request, flags, type, reply_out, error);
}

static lw_status_t ask_done(grpc_control_t *control, const char *method, const ProtobufCMessage *request,
                            lw_error_t *error)
{
    ProtobufCMessage *reply = NULL;
    lw_status_t status = ask(control, method, request, 0, &longwave__v1__done__descriptor, &reply, error);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

static lw_status_t ask_session(grpc_control_t *control, const char *method, const ProtobufCMessage *request,
                               unsigned flags, lwc_session_info_t *out, lw_error_t *error)
{
    ProtobufCMessage *reply = NULL;
    lw_status_t status = ask(control, method, request, flags, &longwave__v1__session_reply__descriptor, &reply, error);
    if (status != LW_OK)
        return status;
    lwc_session_info_t info;
    status = lwc_pb_session_read(((Longwave__V1__SessionReply *)reply)->session, &info, error);
    if (status == LW_OK)
        *out = info;
    protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

static Longwave__V1__Client client_message(grpc_control_t *control)
{
    Longwave__V1__Client client = LONGWAVE__V1__CLIENT__INIT;
    client.tenant = control->tenant;
    client.client_id = control->head.client_id;
    client.incarnation = control->head.incarnation;
    return client;
}

/* Begins a call of the table that says who asks: declares control, client and request. */
#define REQUEST(UPPER, Type)                                        \
    grpc_control_t *control = (grpc_control_t *)head;               \
    Longwave__V1__Client client = client_message(control);          \
    Longwave__V1__##Type request = LONGWAVE__V1__##UPPER##__INIT;   \
    request.client = &client

/* ---- the table ---- */

static lw_status_t grpc_create(lwc_control_t *head, const lwc_shape_t *shape, uint64_t lease_us, uint64_t ttl_us,
                               lwc_session_info_t *out, lw_error_t *error)
{
    REQUEST(CREATE_REQUEST, CreateRequest);
    Longwave__V1__Shape shape_message;
    if (!memchr(shape->model_id, 0, sizeof(shape->model_id)))
        return lw_fail(error, LW_ERR_INVALID, "model_id is longer than %u bytes", LW_MODEL_ID_MAX - 1);
    lw_pb_shape(shape, &shape_message);
    request.shape = &shape_message;
    request.lease_us = lease_us;
    request.ttl_us = ttl_us;
    return ask_session(control, "/longwave.v1.Session/Create", &request.base, ONCE, out, error);
}

static lw_status_t grpc_open(lwc_control_t *head, uint64_t session_id, bool write, uint64_t lease_us,
                             lwc_session_info_t *out, lw_error_t *error)
{
    REQUEST(OPEN_REQUEST, OpenRequest);
    request.session_id = session_id;
    request.write = write;
    request.lease_us = lease_us;
    return ask_session(control, "/longwave.v1.Session/Open", &request.base, 0, out, error);
}

static lw_status_t grpc_renew(lwc_control_t *head, uint64_t lease_us, uint32_t *renewed_out, lw_error_t *error)
{
    REQUEST(RENEW_REQUEST, RenewRequest);
    request.lease_us = lease_us;
    ProtobufCMessage *reply = NULL;
    lw_status_t status = ask(control, "/longwave.v1.Session/Renew", &request.base, 0,
                             &longwave__v1__renew_reply__descriptor, &reply, error);
    if (status != LW_OK)
        return status;
    *renewed_out = ((Longwave__V1__RenewReply *)reply)->renewed;
    protobuf_c_message_free_unpacked(reply, NULL);
    return LW_OK;
}

static lw_status_t grpc_release(lwc_control_t *head, uint64_t session_id, lw_error_t *error)
{
    REQUEST(RELEASE_REQUEST, ReleaseRequest);
    request.session_id = session_id;
    return ask_done(control, "/longwave.v1.Session/Release", &request.base, error);
}

static lw_status_t grpc_fork(lwc_control_t *head, uint64_t parent_id, uint32_t max_tokens, uint64_t lease_us,
                             lwc_session_info_t *out, lw_error_t *error)
{
    REQUEST(FORK_REQUEST, ForkRequest);
    request.parent_id = parent_id;
    request.max_tokens = max_tokens;
    request.lease_us = lease_us;
    return ask_session(control, "/longwave.v1.Session/Fork", &request.base, ONCE, out, error);
}

static lw_status_t grpc_pin(lwc_control_t *head, uint64_t session_id, bool pinned, lw_error_t *error)
{
    REQUEST(PIN_REQUEST, PinRequest);
    request.session_id = session_id;
    request.pinned = pinned;
    return ask_done(control, "/longwave.v1.Session/Pin", &request.base, error);
}

static lw_status_t grpc_drop(lwc_control_t *head, uint64_t session_id, lw_error_t *error)
{
    REQUEST(DROP_REQUEST, DropRequest);
    request.session_id = session_id;
    return ask_done(control, "/longwave.v1.Session/Drop", &request.base, error);
}

static lw_status_t grpc_list(lwc_control_t *head, uint64_t after_id, uint32_t capacity, lwc_session_info_t *rows,
                             uint32_t *count_out, lw_error_t *error)
{
    REQUEST(LIST_REQUEST, ListRequest);
    request.after_id = after_id;
    request.capacity = capacity;
    ProtobufCMessage *message = NULL;
    lw_status_t status = ask(control, "/longwave.v1.Session/List", &request.base, 0,
                             &longwave__v1__list_reply__descriptor, &message, error);
    if (status != LW_OK)
        return status;
    const Longwave__V1__ListReply *reply = (const Longwave__V1__ListReply *)message;
    if (reply->n_sessions > capacity)
        status = lw_fail(error, LW_ERR_IO, "the reply has %zu sessions, %u were asked for", reply->n_sessions, capacity);
    for (size_t i = 0; i < reply->n_sessions && status == LW_OK; i++)
        status = lwc_pb_session_read(reply->sessions[i], &rows[i], error);
    if (status == LW_OK)
        *count_out = (uint32_t)reply->n_sessions;
    protobuf_c_message_free_unpacked(message, NULL);
    return status;
}

static lw_status_t grpc_get(lwc_control_t *head, uint64_t session_id, lwc_session_info_t *out, lw_error_t *error)
{
    REQUEST(GET_REQUEST, GetRequest);
    request.session_id = session_id;
    return ask_session(control, "/longwave.v1.Session/Get", &request.base, 0, out, error);
}

static lw_status_t grpc_commit(lwc_control_t *head, const lwc_session_info_t *session, uint16_t rank,
                               const lwc_range_t *ranges, uint32_t count, lw_error_t *error)
{
    grpc_control_t *control = (grpc_control_t *)head;
    uint32_t layers = session->shape.layer_count;
    if (count == 0 || count > LW_RANGES_MAX || layers == 0 || layers > LW_LAYERS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "commit of %u ranges over %u layers; 1 to %u ranges", count, layers,
                       LW_RANGES_MAX);
    for (uint32_t i = 0; i < count; i++)
        if (ranges[i].replicas == 0 || ranges[i].replicas > LW_REPLICAS_MAX)
            return lw_fail(error, LW_ERR_INVALID, "range %u has %u replicas, must be 1 to %u", i, ranges[i].replicas,
                           LW_REPLICAS_MAX);
    size_t stride = (size_t)layers * LW_REPLICAS_MAX;
    uint32_t *nodes = calloc(stride * count, sizeof(*nodes));
    Longwave__V1__Range *messages = calloc(count, sizeof(*messages)), **pointers = calloc(count, sizeof(*pointers));
    lw_status_t status = LW_ERR_NO_MEMORY;
    if (nodes && messages && pointers) {
        Longwave__V1__CommitRequest request = LONGWAVE__V1__COMMIT_REQUEST__INIT;
        for (uint32_t i = 0; i < count; i++) {
            lw_pb_range(&ranges[i], layers, nodes + stride * i, &messages[i]);
            pointers[i] = &messages[i];
        }
        request.session_id = session->session_id;
        request.token = (ProtobufCBinaryData){.data = (uint8_t *)session->token, .len = LW_TOKEN_BYTES};
        request.rank = rank;
        request.term = session->term;
        request.n_ranges = count;
        request.ranges = pointers;
        status = ask_done(control, "/longwave.v1.Session/Commit", &request.base, error);
    } else {
        lw_fail(error, status, "no memory for %u ranges", count);
    }
    free(pointers);
    free(messages);
    free(nodes);
    return status;
}

static lw_status_t grpc_ranges(lwc_control_t *head, const lwc_session_info_t *session, uint16_t rank,
                               uint32_t from_token, uint32_t capacity, lwc_range_t *ranges, uint32_t *count_out,
                               lw_error_t *error)
{
    grpc_control_t *control = (grpc_control_t *)head;
    Longwave__V1__RangesRequest request = LONGWAVE__V1__RANGES_REQUEST__INIT;
    request.session_id = session->session_id;
    request.token = (ProtobufCBinaryData){.data = (uint8_t *)session->token, .len = LW_TOKEN_BYTES};
    request.rank = rank;
    request.from_token = from_token;
    request.capacity = capacity;
    ProtobufCMessage *message = NULL;
    lw_status_t status = ask(control, "/longwave.v1.Session/Ranges", &request.base, 0,
                             &longwave__v1__ranges_reply__descriptor, &message, error);
    if (status != LW_OK)
        return status;
    const Longwave__V1__RangesReply *reply = (const Longwave__V1__RangesReply *)message;
    if (reply->n_ranges > capacity)
        status = lw_fail(error, LW_ERR_IO, "the reply has %zu ranges, %u were asked for", reply->n_ranges, capacity);
    for (size_t i = 0; i < reply->n_ranges && status == LW_OK; i++)
        status = lwc_pb_reply(lw_pb_range_read(reply->ranges[i], session->shape.layer_count, &ranges[i], error), error);
    if (status == LW_OK)
        *count_out = (uint32_t)reply->n_ranges;
    protobuf_c_message_free_unpacked(message, NULL);
    return status;
}

static lw_status_t grpc_fleet_get(lwc_control_t *head, lw_view_t *out, lw_error_t *error)
{
    grpc_control_t *control = (grpc_control_t *)head;
    Longwave__V1__GetViewRequest request = LONGWAVE__V1__GET_VIEW_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    lw_status_t status = ask(control, "/longwave.v1.Fleet/Get", &request.base, 0, &longwave__v1__view__descriptor,
                             &reply, error);
    if (status != LW_OK)
        return status;
    status = lwc_pb_reply(lw_pb_view_read((const Longwave__V1__View *)reply, out, error), error);
    protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

static lw_status_t grpc_admin_status(lwc_control_t *head, const char *address, lwc_node_status_t *out, lw_error_t *error)
{
    Longwave__V1__StatusRequest request = LONGWAVE__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    lw_status_t status = ask_at((grpc_control_t *)head, address, "/longwave.v1.Admin/Status", &request.base, 0,
                                &longwave__v1__status_reply__descriptor, &reply, error);
    if (status != LW_OK)
        return status;
    lwc_node_status_t node;
    status = lwc_pb_status_read((const Longwave__V1__StatusReply *)reply, &node, error);
    if (status == LW_OK)
        *out = node;
    protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

static lw_status_t grpc_set_log_level(lwc_control_t *head, const char *address, const char *level, lw_error_t *error)
{
    Longwave__V1__SetLogLevelRequest request = LONGWAVE__V1__SET_LOG_LEVEL_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.level = (char *)level;
    lw_status_t status = ask_at((grpc_control_t *)head, address, "/longwave.v1.Admin/SetLogLevel", &request.base, 0,
                                &longwave__v1__set_log_level_reply__descriptor, &reply, error);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

static lw_status_t grpc_drain(lwc_control_t *head, uint32_t node_index, bool drain, lw_error_t *error)
{
    Longwave__V1__DrainRequest request = LONGWAVE__V1__DRAIN_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.node = node_index;
    request.drain = drain;
    lw_status_t status = ask_at((grpc_control_t *)head, NULL, "/longwave.v1.Admin/Drain", &request.base, 0,
                                &longwave__v1__done__descriptor, &reply, error);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return status;
}

/* ---- open and close ---- */

static void grpc_close(lwc_control_t *head)
{
    grpc_control_t *control = (grpc_control_t *)head;
    for (uint32_t i = 0; i < control->seed_count; i++)
        lw_rpc_disconnect(control->seeds[i].channel);
    pthread_mutex_destroy(&control->lock);
    free(control->ca_pem);
    free(control->cert_pem);
    free(control->key_pem);
    free(control->server_name);
    free(control);
}

static lw_status_t text_copy(const char *text, char **copy_out, lw_error_t *error)
{
    if (!text)
        return LW_OK;
    *copy_out = strdup(text);
    return *copy_out ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a TLS text");
}

static lw_status_t seeds_parse(grpc_control_t *control, const char *list, lw_error_t *error)
{
    const lw_rpc_tls_t tls = {control->ca_pem, control->cert_pem, control->key_pem, control->server_name};
    lw_status_t status = LW_OK;
    while (list && *list && status == LW_OK) {
        size_t bytes = strcspn(list, ", ");
        if (bytes >= LW_ADDRESS_MAX)
            return lw_fail(error, LW_ERR_INVALID, "fleet: a seed is %zu bytes long", bytes);
        if (bytes) {
            if (control->seed_count == SEEDS_MAX)
                return lw_fail(error, LW_ERR_INVALID, "fleet: more than %u seeds", SEEDS_MAX);
            grpc_seed_t *seed = &control->seeds[control->seed_count];
            memcpy(seed->address, list, bytes);
            status = lw_rpc_connect(seed->address, &tls, &seed->channel, error);
            control->seed_count += status == LW_OK;
        }
        list += bytes + strspn(list + bytes, ", ");
    }
    if (status == LW_OK && control->seed_count == 0)
        return lw_fail(error, LW_ERR_INVALID, "fleet: no seed address (host:port,host:port)");
    return status;
}

static const lwc_control_ops_t grpc_ops = {
    .name = "grpc", .close = grpc_close, .create = grpc_create, .open = grpc_open, .renew = grpc_renew,
    .release = grpc_release, .fork = grpc_fork, .pin = grpc_pin, .drop = grpc_drop, .list = grpc_list, .get = grpc_get,
    .commit = grpc_commit, .ranges = grpc_ranges, .fleet_get = grpc_fleet_get, .admin_status = grpc_admin_status,
    .set_log_level = grpc_set_log_level, .drain = grpc_drain,
};

lw_status_t lwc_control_open(const lwc_control_params_t *params, lwc_control_t **control_out, lw_error_t *error)
{
    if (params->size != sizeof(*params))
        return lw_fail(error, LW_ERR_VERSION, "control parameters of %u bytes, %zu are known", params->size,
                       sizeof(*params));
    const char *tenant = params->tenant && params->tenant[0] ? params->tenant : "default";
    if (strlen(tenant) >= LWC_TENANT_MAX)
        return lw_fail(error, LW_ERR_INVALID, "tenant is %zu bytes long, at most %u", strlen(tenant), LWC_TENANT_MAX - 1);
    grpc_control_t *control = calloc(1, sizeof(*control));
    if (!control)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a control handle");
    pthread_mutex_init(&control->lock, NULL);
    memcpy(control->tenant, tenant, strlen(tenant));
    control->timeout_us = params->timeout_us ? params->timeout_us : TIMEOUT_DEFAULT_US;
    control->head = (lwc_control_t){.ops = &grpc_ops, .client_id = params->client_id, .incarnation = params->incarnation};
    lw_status_t status = LW_OK;
    while (control->head.client_id == 0 && status == LW_OK)
        if (getrandom(&control->head.client_id, sizeof(uint64_t), 0) != (ssize_t)sizeof(uint64_t))
            status = lw_fail(error, LW_ERR_IO, "no random bytes for a client id");
    if (control->head.incarnation == 0)
        control->head.incarnation = lw_clock_real()->unix_us(NULL);
    if (status == LW_OK)
        status = text_copy(params->ca_pem, &control->ca_pem, error);
    if (status == LW_OK)
        status = text_copy(params->cert_pem, &control->cert_pem, error);
    if (status == LW_OK)
        status = text_copy(params->key_pem, &control->key_pem, error);
    if (status == LW_OK)
        status = text_copy(params->server_name, &control->server_name, error);
    if (status == LW_OK)
        status = seeds_parse(control, params->seeds, error);
    if (status != LW_OK) {
        grpc_close(&control->head);
        return status;
    }
    *control_out = &control->head;
    return LW_OK;
}
