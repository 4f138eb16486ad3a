/* service_session.c - longwave.v1.Session over the catalogue. Runs on the control thread of the node that holds it. */
#include "storaged/ctl/ctl_private.h"

#include <stdlib.h>
#include <string.h>

#include "storaged/ctl/pb.h"

#define REPLY(job, type, message)                                                  \
    do {                                                                           \
        size_t packed_bytes = longwave__v1__##type##__get_packed_size(message);    \
        uint8_t *packed = malloc(packed_bytes + 1);                                \
        if (packed)                                                                \
            longwave__v1__##type##__pack(message, packed);                         \
        lwd_ctl_answer(job, packed ? LW_OK : LW_ERR_NO_MEMORY, NULL, packed, packed_bytes); \
        free(packed);                                                              \
    } while (0)

/* Declares `request`, or answers the job and returns. */
#define REQUEST(type, ctype)                                                                                     \
    Longwave__V1__##ctype *request = longwave__v1__##type##__unpack(NULL, job->request_bytes, job->request);     \
    if (!request) {                                                                                              \
        lw_count(&ctl->stats[0].calls_failed, 1);                                                                \
        lwd_ctl_answer(job, LW_ERR_INVALID, "the request is no " #ctype, NULL, 0);                                   \
        return;                                                                                                  \
    }                                                                                                            \
    lw_error_t error = {.status = LW_OK}

static lw_status_t client_read(const Longwave__V1__Client *client, lw_error_t *error)
{
    if (!client)
        return lw_fail(error, LW_ERR_INVALID, "client is missing");
    size_t bytes = strlen(client->tenant);
    if (bytes == 0 || bytes >= sizeof(((lwd_session_row_t *)0)->tenant))
        return lw_fail(error, LW_ERR_INVALID, "tenant is %zu bytes long, must be 1 to 63", bytes);
    return LW_OK;
}

static void reply_session(lwd_ctl_t *ctl, ctl_job_t *job, lw_status_t status, lwd_session_row_t *row,
                          const lw_error_t *error)
{
    if (status != LW_OK) {
        lwd_ctl_fail(job, error);
        return;
    }
    ctl_pb_session_t session;
    lwd_ctl_pb_session(row, ctl_unix(ctl), true, &session);
    Longwave__V1__SessionReply reply = LONGWAVE__V1__SESSION_REPLY__INIT;
    reply.session = &session.info;
    REPLY(job, session_reply, &reply);
}

static void reply_done(ctl_job_t *job, lw_status_t status, const lw_error_t *error)
{
    if (status != LW_OK)
        lwd_ctl_fail(job, error);
    else
        lwd_ctl_answer(job, LW_OK, NULL, "", 0); /* Done has no fields: no bytes */
}

static void serve_create(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(create_request, CreateRequest);
    lwd_session_row_t row;
    lwd_create_t create = {.lease_us = request->lease_us, .ttl_us = request->ttl_us};
    lw_status_t status = client_read(request->client, &error);
    if (status == LW_OK)
        status = lw_pb_shape_read(request->shape, &create.shape, &error);
    if (status == LW_OK) {
        create.tenant = request->client->tenant;
        create.client_id = request->client->client_id;
        create.incarnation = request->client->incarnation;
        status = ctl->ops->create(ctl->catalogue, &create, ctl_unix(ctl), &row, &error);
    }
    reply_session(ctl, job, status, &row, &error);
    longwave__v1__create_request__free_unpacked(request, NULL);
}

static void serve_open(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(open_request, OpenRequest);
    lwd_session_row_t row;
    const Longwave__V1__Client *client = request->client;
    lw_status_t status = client_read(client, &error);
    if (status == LW_OK)
        status = ctl->ops->open_session(ctl->catalogue, client->tenant, request->session_id, request->write != 0,
                                        client->client_id, client->incarnation, request->lease_us, ctl_unix(ctl), &row,
                                        &error);
    reply_session(ctl, job, status, &row, &error);
    longwave__v1__open_request__free_unpacked(request, NULL);
}

static void serve_renew(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(renew_request, RenewRequest);
    Longwave__V1__RenewReply reply = LONGWAVE__V1__RENEW_REPLY__INIT;
    const Longwave__V1__Client *client = request->client;
    lw_status_t status = client_read(client, &error);
    if (status == LW_OK)
        status = ctl->ops->renew(ctl->catalogue, client->client_id, client->incarnation, request->lease_us,
                                 ctl_unix(ctl), &reply.renewed, &error);
    if (status == LW_OK)
        REPLY(job, renew_reply, &reply);
    else
        lwd_ctl_fail(job, &error);
    longwave__v1__renew_request__free_unpacked(request, NULL);
}

static void serve_release(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(release_request, ReleaseRequest);
    const Longwave__V1__Client *client = request->client;
    lwd_session_row_t row;
    lw_status_t status = client_read(client, &error);
    if (status == LW_OK)
        status = ctl->ops->get(ctl->catalogue, client->tenant, request->session_id, &row, &error);
    if (status == LW_OK)
        status = ctl->ops->release(ctl->catalogue, request->session_id, client->client_id, client->incarnation,
                                   ctl_unix(ctl), &error);
    reply_done(job, status, &error);
    longwave__v1__release_request__free_unpacked(request, NULL);
}

static void serve_fork(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(fork_request, ForkRequest);
    lwd_session_row_t row;
    const Longwave__V1__Client *client = request->client;
    lw_status_t status = client_read(client, &error);
    if (status == LW_OK)
        status = ctl->ops->fork(ctl->catalogue, client->tenant, request->parent_id, request->max_tokens,
                                client->client_id, client->incarnation, request->lease_us, ctl_unix(ctl), &row, &error);
    reply_session(ctl, job, status, &row, &error);
    longwave__v1__fork_request__free_unpacked(request, NULL);
}

static void serve_pin(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(pin_request, PinRequest);
    lw_status_t status = client_read(request->client, &error);
    if (status == LW_OK)
        status = ctl->ops->pin(ctl->catalogue, request->client->tenant, request->session_id, request->pinned != 0, &error);
    reply_done(job, status, &error);
    longwave__v1__pin_request__free_unpacked(request, NULL);
}

static void serve_drop(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(drop_request, DropRequest);
    lw_status_t status = client_read(request->client, &error);
    if (status == LW_OK)
        status = ctl->ops->drop(ctl->catalogue, request->client->tenant, request->session_id, ctl_unix(ctl), &error);
    reply_done(job, status, &error);
    longwave__v1__drop_request__free_unpacked(request, NULL);
}

static void serve_get(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(get_request, GetRequest);
    lwd_session_row_t row;
    lw_status_t status = client_read(request->client, &error);
    if (status == LW_OK)
        status = ctl->ops->get(ctl->catalogue, request->client->tenant, request->session_id, &row, &error);
    reply_session(ctl, job, status, &row, &error);
    longwave__v1__get_request__free_unpacked(request, NULL);
}

static lw_status_t list_reply(lwd_ctl_t *ctl, ctl_job_t *job, const Longwave__V1__ListRequest *request,
                              lw_error_t *error)
{
    uint32_t capacity = request->capacity < CTL_PAGE_MAX ? request->capacity : CTL_PAGE_MAX, count = 0;
    lwd_session_row_t *rows = calloc(capacity + 1, sizeof(*rows));
    ctl_pb_session_t *sessions = calloc(capacity + 1, sizeof(*sessions));
    Longwave__V1__SessionInfo **pointers = calloc(capacity + 1, sizeof(*pointers));
    lw_status_t status = rows && sessions && pointers ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a list");
    if (status == LW_OK)
        status = ctl->ops->list(ctl->catalogue, request->client->tenant, request->after_id, capacity, rows, &count, error);
    if (status == LW_OK) {
        Longwave__V1__ListReply reply = LONGWAVE__V1__LIST_REPLY__INIT;
        for (uint32_t i = 0; i < count; i++) {
            lwd_ctl_pb_session(&rows[i], ctl_unix(ctl), false, &sessions[i]);
            pointers[i] = &sessions[i].info;
        }
        reply.n_sessions = count;
        reply.sessions = pointers;
        REPLY(job, list_reply, &reply);
    }
    free(pointers);
    free(sessions);
    free(rows);
    return status;
}

static void serve_list(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(list_request, ListRequest);
    lw_status_t status = client_read(request->client, &error);
    if (status == LW_OK)
        status = list_reply(ctl, job, request, &error);
    if (status != LW_OK)
        lwd_ctl_fail(job, &error);
    longwave__v1__list_request__free_unpacked(request, NULL);
}

/* A wrong token and a session that does not exist are answered alike. `row` may be NULL. */
static lw_status_t token_check(lwd_ctl_t *ctl, uint64_t session_id, const ProtobufCBinaryData *token, bool write,
                               uint32_t term, Longwave__V1__CheckReply *reply, lwd_session_row_t *row, lw_error_t *error)
{
    static _Thread_local uint64_t origins[LWD_FORK_DEPTH_MAX];
    static _Thread_local uint32_t cuts[LWD_FORK_DEPTH_MAX];
    uint32_t count = 0;
    if (token->len != LW_TOKEN_BYTES)
        return lw_fail(error, LW_ERR_INVALID, "token is %zu bytes long, must be %u", token->len, LW_TOKEN_BYTES);
    lw_status_t status = ctl->ops->check(ctl->catalogue, session_id, token->data, write, term, ctl_unix(ctl), origins,
                                         cuts, LWD_FORK_DEPTH_MAX, &count, error);
    if (status == LW_ERR_NOT_FOUND || status == LW_ERR_PERMISSION)
        return lw_fail(error, LW_ERR_PERMISSION, "session %llu: no such session, or not its token",
                       (unsigned long long)session_id);
    if (status == LW_OK && row)
        status = ctl->ops->get(ctl->catalogue, NULL, session_id, row, error);
    if (status == LW_OK && reply) {
        reply->n_origins = reply->n_cuts = count;
        reply->origins = origins;
        reply->cuts = cuts;
    }
    return status;
}

static lw_status_t commit_ranges(lwd_ctl_t *ctl, const Longwave__V1__CommitRequest *request,
                                 const lwd_session_row_t *row, lw_error_t *error)
{
    if (request->rank > UINT16_MAX || request->n_ranges == 0 || request->n_ranges > LW_RANGES_MAX)
        return lw_fail(error, LW_ERR_INVALID, "rank %u with %zu ranges; at most %u ranges", request->rank,
                       request->n_ranges, LW_RANGES_MAX);
    lwd_range_t *ranges = calloc(request->n_ranges, sizeof(*ranges));
    if (!ranges)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %zu ranges", request->n_ranges);
    lw_status_t status = LW_OK;
    for (size_t i = 0; i < request->n_ranges && status == LW_OK; i++)
        status = lw_pb_range_read(request->ranges[i], row->shape.layer_count, &ranges[i], error);
    if (status == LW_OK)
        status = ctl->ops->commit(ctl->catalogue, request->session_id, (uint16_t)request->rank, request->term, ranges,
                                  (uint32_t)request->n_ranges, ctl_unix(ctl), error);
    free(ranges);
    return status;
}

static void serve_commit(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(commit_request, CommitRequest);
    lwd_session_row_t row;
    lw_status_t status =
        token_check(ctl, request->session_id, &request->token, true, request->term, NULL, &row, &error);
    if (status == LW_OK)
        status = commit_ranges(ctl, request, &row, &error);
    reply_done(job, status, &error);
    longwave__v1__commit_request__free_unpacked(request, NULL);
}

static lw_status_t ranges_reply(lwd_ctl_t *ctl, ctl_job_t *job, const Longwave__V1__RangesRequest *request,
                                const lwd_session_row_t *row, lw_error_t *error)
{
    uint32_t capacity = request->capacity < CTL_PAGE_MAX ? request->capacity : CTL_PAGE_MAX, count = 0;
    uint32_t layers = row->shape.layer_count, stride = layers * LW_REPLICAS_MAX;
    if (request->rank > UINT16_MAX)
        return lw_fail(error, LW_ERR_INVALID, "rank is %u", request->rank);
    lwd_range_t *ranges = calloc(capacity + 1, sizeof(*ranges));
    uint32_t *nodes = calloc((size_t)stride * (capacity + 1), sizeof(*nodes));
    Longwave__V1__Range *messages = calloc(capacity + 1, sizeof(*messages)), **pointers = calloc(capacity + 1, sizeof(*pointers));
    lw_status_t status = ranges && nodes && messages && pointers
                             ? LW_OK
                             : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %u ranges", capacity);
    if (status == LW_OK)
        status = ctl->ops->ranges(ctl->catalogue, request->session_id, (uint16_t)request->rank, request->from_token,
                                  capacity, ranges, &count, error);
    if (status == LW_OK) {
        Longwave__V1__RangesReply reply = LONGWAVE__V1__RANGES_REPLY__INIT;
        for (uint32_t i = 0; i < count; i++) {
            lw_pb_range(&ranges[i], layers, nodes + (size_t)stride * i, &messages[i]);
            pointers[i] = &messages[i];
        }
        reply.n_ranges = count;
        reply.ranges = pointers;
        REPLY(job, ranges_reply, &reply);
    }
    free(pointers);
    free(messages);
    free(nodes);
    free(ranges);
    return status;
}

static void serve_ranges(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(ranges_request, RangesRequest);
    lwd_session_row_t row;
    lw_status_t status = token_check(ctl, request->session_id, &request->token, false, 0, NULL, &row, &error);
    if (status == LW_OK)
        status = ranges_reply(ctl, job, request, &row, &error);
    if (status != LW_OK)
        lwd_ctl_fail(job, &error);
    longwave__v1__ranges_request__free_unpacked(request, NULL);
}

static void serve_check(lwd_ctl_t *ctl, ctl_job_t *job)
{
    REQUEST(check_request, CheckRequest);
    Longwave__V1__CheckReply reply = LONGWAVE__V1__CHECK_REPLY__INIT;
    lw_status_t status = token_check(ctl, request->session_id, &request->token, request->write != 0, request->term,
                                     &reply, NULL, &error);
    if (status == LW_OK)
        REPLY(job, check_reply, &reply);
    else
        lwd_ctl_fail(job, &error);
    longwave__v1__check_request__free_unpacked(request, NULL);
}

const ctl_method_t ctl_session_methods[12] = {
    {.path = "/longwave.v1.Session/Create", .run = serve_create}, /* twice would make two sessions */
    {.path = "/longwave.v1.Session/Open", .repeat = true, .run = serve_open},
    {.path = "/longwave.v1.Session/Renew", .repeat = true, .run = serve_renew},
    {.path = "/longwave.v1.Session/Release", .repeat = true, .run = serve_release},
    {.path = "/longwave.v1.Session/Fork", .run = serve_fork},
    {.path = "/longwave.v1.Session/Pin", .repeat = true, .run = serve_pin},
    {.path = "/longwave.v1.Session/Drop", .run = serve_drop},
    {.path = "/longwave.v1.Session/List", .repeat = true, .run = serve_list},
    {.path = "/longwave.v1.Session/Get", .repeat = true, .run = serve_get},
    {.path = "/longwave.v1.Session/Commit", .access = CTL_FOR_ANY, .repeat = true, .run = serve_commit},
    {.path = "/longwave.v1.Session/Ranges", .access = CTL_FOR_ANY, .repeat = true, .run = serve_ranges},
    {.path = "/longwave.v1.Session/Check", .access = CTL_FOR_NODE, .repeat = true, .run = serve_check},
};
