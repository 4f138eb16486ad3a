/* link.c - connections to sources, and the requests in flight on them. A source that owes an answer for too long is
 * disconnected, as transports notice neither hung nor unreachable peers; its requests end when the connection has. */
#include <string.h>

#include "storaged/move/move_private.h"

/* ---- requests ---- */
static move_request_t *request_new(move_link_t *link, move_request_kind_t kind, move_job_t *job)
{
    lwd_move_t *move = link->move;
    for (uint32_t i = 0; i < MOVE_REQUESTS_MAX; i++) {
        move_request_t *request = &move->requests[i];
        if (request->kind != MOVE_REQUEST_FREE)
            continue;
        request->move = move;
        request->kind = kind;
        request->link = link;
        request->job = job;
        request->lands = false;
        if (link->requests++ == 0)
            link->heard_us = move->now_us;
        if (job != NULL)
            job->requests++;
        return request;
    }
    return NULL;
}

static void request_end(move_request_t *request)
{
    request->link->requests--;
    request->link->heard_us = request->link->used_us = request->move->now_us;
    if (request->job != NULL)
        request->job->requests--;
    request->kind = MOVE_REQUEST_FREE;
    request->turn++;
    request->job = NULL;
}

/* Tells the job, as the last thing of a request. */
static void request_done(move_request_t *request, lw_status_t status)
{
    move_job_t *job = request->job;
    move_request_kind_t kind = request->kind;
    uint64_t offset = request->offset, bytes = request->bytes, handle = 0;
    if (kind == MOVE_REQUEST_ATTACH && status == LW_OK)
        handle = request->reply.attached[0].handle;
    request_end(request);
    if (kind == MOVE_REQUEST_ATTACH)
        lwd_job_attached(job, status, handle);
    else if (kind == MOVE_REQUEST_SIZE)
        lwd_job_sized(job, status, bytes);
    else if (kind == MOVE_REQUEST_CHUNK)
        lwd_job_chunk(job, status, offset, bytes);
}

static void request_send(move_request_t *request, lw_msg_t *msg, const void *lists)
{
    lwd_move_t *move = request->move;
    uint8_t head[LW_MSG_HEAD_MAX];
    msg->header.fleet_id = move->plan.view.fleet_id;
    msg->header.request_id = (uint64_t)request->turn << 32 | (uint32_t)(request - move->requests);
    uint32_t list_bytes = lw_msg_list_bytes(msg);
    uint32_t head_bytes = lw_msg_encode(msg, lists, list_bytes, head);
    lw_iov_t piece = {lists, list_bytes};
    lw_status_t status = move->params.fabric->send(request->link->conn, head, head_bytes, &piece, list_bytes > 0 ? 1 : 0,
                                                   LW_SEND_COPY, NULL, NULL);
    if (status != LW_OK) /* the connection is ending, and ends this request */
        move->params.fabric->close_conn(request->link->conn);
}

/* ---- links ---- */
static void link_close(move_link_t *link)
{
    if (link->state != MOVE_LINK_GREETING && link->state != MOVE_LINK_READY)
        return;
    link->state = MOVE_LINK_CLOSING;
    link->move->params.fabric->close_conn(link->conn);
}

static void link_start(move_link_t *link, const char *address)
{
    lwd_move_t *move = link->move;
    lw_error_t error = {0};
    link->state = MOVE_LINK_WAITING;
    link->retry_us = move->now_us + MOVE_RETRY_US;
    link->requests = link->attached = 0;
    if (move->params.fabric->connect(move->fabric, address, &link->conn, &error) != LW_OK) {
        lwd_move_failed(move, "node %u at %s: %s", link->node, address, error.text);
        return;
    }
    move->params.fabric->set_user(link->conn, link);
    link->state = MOVE_LINK_GREETING;
    link->used_us = link->heard_us = move->now_us;
    move_request_t *request = request_new(link, MOVE_REQUEST_HELLO, NULL);
    if (request == NULL) {
        link_close(link);
        return;
    }
    lw_msg_t msg = {.header.type = LW_MSG_HELLO,
                    .body.hello = {.version_min = LW_WIRE_VERSION,
                                   .version_max = LW_WIRE_VERSION,
                                   .client_id = move->params.node_id,
                                   .incarnation = move->params.incarnation}};
    request_send(request, &msg, NULL);
}

/* It has taken up as many handles as it may: once its last job is done with it, a new connection begins with none. */
static void link_replace(move_link_t *link)
{
    if (link->requests > 0 || lwd_jobs_use(link))
        return;
    link->retry_us = 0;
    link_close(link);
}

static const lw_node_t *node_of(const lwd_move_t *move, uint16_t index)
{
    for (uint32_t i = 0; i < move->plan.view.node_count; i++)
        if (move->nodes[i].index == index)
            return &move->nodes[i];
    return NULL;
}

move_link_t *lwd_link_get(lwd_move_t *move, uint16_t node, bool *failed_out)
{
    move_link_t *link = NULL, *free_one = NULL;
    *failed_out = false;
    for (uint32_t i = 0; i < MOVE_LINKS_MAX && link == NULL; i++) {
        move_link_t *at = &move->links[i];
        if (at->state != MOVE_LINK_FREE && at->node == node)
            link = at;
        else if (at->state == MOVE_LINK_FREE)
            free_one = at;
    }
    const lw_node_t *row = node_of(move, node);
    if (row == NULL || !move->plan.alive[node]) {
        *failed_out = true;
        return NULL;
    }
    if (link != NULL) {
        *failed_out = link->state == MOVE_LINK_WAITING;
        if (link->state == MOVE_LINK_READY && link->attached >= MOVE_ATTACHED_MAX)
            link_replace(link);
        return link->state == MOVE_LINK_READY && link->attached < MOVE_ATTACHED_MAX ? link : NULL;
    }
    if (free_one == NULL)
        return NULL;
    free_one->move = move;
    free_one->node = node;
    link_start(free_one, row->data);
    return NULL;
}

void lwd_links_accept(void *arg, lw_conn_t *conn)
{
    lwd_move_t *move = arg; /* it does not listen */
    move->params.fabric->close_conn(conn);
}

void lwd_links_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    lwd_move_t *move = arg;
    move_link_t *link = move->params.fabric->user(conn);
    if (link == NULL)
        return;
    bool ours = link->state == MOVE_LINK_CLOSING;
    if (!ours)
        lwd_move_failed(move, "node %u: connection lost: %s", link->node, lw_status_text(status));
    for (uint32_t i = 0; i < MOVE_REQUESTS_MAX; i++) {
        move_request_t *request = &move->requests[i];
        if (request->kind != MOVE_REQUEST_FREE && request->link == link)
            request_done(request, LW_ERR_UNREACHABLE);
    }
    lwd_jobs_unlink(link);
    link->conn = NULL;
    link->state = ours && link->retry_us == 0 ? MOVE_LINK_FREE : MOVE_LINK_WAITING;
    link->retry_us = move->now_us + MOVE_RETRY_US;
}

unsigned lwd_links_step(lwd_move_t *move)
{
    unsigned events = 0;
    for (uint32_t i = 0; i < MOVE_LINKS_MAX; i++) {
        move_link_t *link = &move->links[i];
        if (link->state == MOVE_LINK_WAITING && move->now_us >= link->retry_us) {
            link->state = MOVE_LINK_FREE;
            events++;
        } else if (link->requests > 0 && move->now_us - link->heard_us >= MOVE_SILENT_US &&
                   (link->state == MOVE_LINK_READY || link->state == MOVE_LINK_GREETING)) {
            lwd_move_failed(move, "node %u owes an answer for %u ms", link->node, MOVE_SILENT_US / 1000);
            link->retry_us = 1; /* closed for a cause: jobs look elsewhere for a while */
            link_close(link);
            events++;
        } else if (link->state == MOVE_LINK_READY && link->requests == 0 &&
                   move->now_us - link->used_us >= MOVE_IDLE_US && !lwd_jobs_use(link)) {
            link->retry_us = 0;
            link_close(link);
            events++;
        }
    }
    return events;
}

/* ---- asking ---- */
bool lwd_link_attach(move_link_t *link, move_job_t *job)
{
    move_request_t *request = request_new(link, MOVE_REQUEST_ATTACH, job);
    if (request == NULL)
        return false;
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH, .body.attach = {.name_count = 1}}; /* session 0: a node */
    memcpy(msg.body.attach.token, link->move->token, LW_TOKEN_BYTES);
    link->attached++;
    request_send(request, &msg, &job->name);
    return true;
}

static void send_read(move_request_t *request, uint64_t handle, uint64_t offset, uint64_t bytes)
{
    request->bytes = bytes;
    lw_msg_t msg = {.header.type = LW_MSG_READ,
                    .body.read = {.handle = handle, .offset = offset, .bytes = (uint32_t)bytes}};
    request_send(request, &msg, NULL);
}

bool lwd_link_size(move_link_t *link, move_job_t *job)
{
    move_request_t *request = link->state == MOVE_LINK_READY ? request_new(link, MOVE_REQUEST_SIZE, job) : NULL;
    if (request != NULL)
        send_read(request, job->handle, 0, 64); /* the reply says how large the segment is */
    return request != NULL;
}

bool lwd_link_chunk(move_link_t *link, move_job_t *job, uint64_t offset, uint64_t bytes)
{
    move_request_t *request = link->state == MOVE_LINK_READY ? request_new(link, MOVE_REQUEST_CHUNK, job) : NULL;
    if (request == NULL)
        return false;
    request->offset = offset;
    send_read(request, job->handle, offset, bytes);
    return true;
}

void lwd_link_doubt(move_link_t *link, uint64_t handle, uint64_t bytes)
{
    bool ready = link != NULL && link->state == MOVE_LINK_READY;
    move_request_t *request = ready ? request_new(link, MOVE_REQUEST_DOUBT, NULL) : NULL;
    if (request == NULL)
        return;
    lw_msg_t msg = {.header.type = LW_MSG_COMMIT, .body.commit = {.handle = handle, .bytes = bytes}};
    request_send(request, &msg, NULL);
}

/* ---- answers ---- */
static void hello_answered(move_request_t *request, const lw_msg_t *msg)
{
    move_link_t *link = request->link;
    lw_status_t status = (lw_status_t)msg->body.hello_reply.status;
    request_end(request);
    if (status == LW_OK) {
        link->state = MOVE_LINK_READY;
        link->retry_us = 0;
        return;
    }
    lwd_move_failed(link->move, "node %u refused HELLO: %s", link->node, lw_status_text(status));
    link_close(link);
}

static void lists_landed(void *arg, lw_status_t status)
{
    move_request_t *request = arg;
    lw_error_t error;
    if (status != LW_OK)
        return; /* the connection is ending, and ends this request */
    status = lw_msg_decode_lists(&request->reply, request->landing, sizeof(request->landing), &error);
    if (status == LW_OK && request->reply.body.attach_reply.name_count != 1)
        status = LW_ERR_INVALID;
    if (status == LW_OK)
        status = (lw_status_t)request->reply.attached[0].status;
    if (status == LW_ERR_EXHAUSTED) /* the source's limit for a connection is the smaller one */
        request->link->attached = MOVE_ATTACHED_MAX;
    request_done(request, status);
}

static void size_landed(void *arg, lw_status_t status)
{
    move_request_t *request = arg;
    if (status == LW_OK) {
        request->bytes = request->reply.body.read_reply.segment_bytes;
        request_done(request, LW_OK);
    }
}

static void chunk_landed(void *arg, lw_status_t status)
{
    move_request_t *request = arg;
    lwd_shard_write_end(request->move->params.shard, request->job->ref);
    if (status == LW_OK)
        request_done(request, LW_OK);
}

static void chunk_answered(move_request_t *request, const lw_fabric_msg_t *msg)
{
    lwd_move_t *move = request->move;
    move_job_t *job = request->job;
    uint8_t *into = NULL;
    lw_status_t status = msg->data_bytes == request->bytes ? LW_OK : LW_ERR_INVALID;
    if (status == LW_OK)
        status = lwd_shard_write_begin(move->params.shard, job->ref, request->offset, request->bytes, &into);
    request->lands = status == LW_OK;
    if (status != LW_OK)
        request_done(request, status);
    else
        move->params.fabric->recv(move->fabric, msg, into, NULL, chunk_landed, request);
}

/* The status of a reply as a whole, whatever its type. */
static lw_status_t status_of(const lw_msg_t *msg)
{
    switch (msg->header.type) {
    case LW_MSG_ATTACH_REPLY: return (lw_status_t)msg->body.attach_reply.status;
    case LW_MSG_READ_REPLY: return (lw_status_t)msg->body.read_reply.status;
    case LW_MSG_HELLO_REPLY: return (lw_status_t)msg->body.hello_reply.status;
    default: return (lw_status_t)msg->body.status_reply.status;
    }
}

static uint16_t type_for(move_request_kind_t kind)
{
    switch (kind) {
    case MOVE_REQUEST_HELLO: return LW_MSG_HELLO_REPLY;
    case MOVE_REQUEST_ATTACH: return LW_MSG_ATTACH_REPLY;
    case MOVE_REQUEST_SIZE:
    case MOVE_REQUEST_CHUNK: return LW_MSG_READ_REPLY;
    default: return LW_MSG_STATUS_REPLY;
    }
}

static void answered(move_request_t *request, const lw_msg_t *reply, const lw_fabric_msg_t *msg)
{
    lwd_move_t *move = request->move;
    lw_status_t status = status_of(reply);
    request->link->heard_us = move->now_us;
    if (request->kind == MOVE_REQUEST_HELLO) {
        hello_answered(request, reply);
    } else if (request->kind == MOVE_REQUEST_DOUBT) {
        request_end(request);
    } else if (status != LW_OK) {
        request_done(request, status);
    } else if (request->kind == MOVE_REQUEST_CHUNK) {
        chunk_answered(request, msg);
    } else if (msg->data_bytes > sizeof(request->landing) || msg->data_bytes == 0) {
        request_done(request, LW_ERR_INVALID);
    } else {
        memset(request->landing, 0, sizeof(request->landing));
        request->reply = *reply;
        request->lands = true;
        move->params.fabric->recv(move->fabric, msg, request->landing, NULL,
                                  request->kind == MOVE_REQUEST_SIZE ? size_landed : lists_landed, request);
    }
}

void lwd_links_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    lwd_move_t *move = arg;
    move_link_t *link = move->params.fabric->user(conn);
    lw_msg_t reply;
    lw_error_t error = {0};
    if (link == NULL || link->state == MOVE_LINK_CLOSING)
        return;
    lw_status_t status = lw_msg_decode_head(msg->head, msg->head_bytes, msg->data_bytes, &reply, &error);
    uint32_t index = (uint32_t)reply.header.request_id;
    move_request_t *request = status == LW_OK && index < MOVE_REQUESTS_MAX ? &move->requests[index] : NULL;
    if (request == NULL || request->kind == MOVE_REQUEST_FREE || request->lands || request->link != link ||
        request->turn != (uint32_t)(reply.header.request_id >> 32) || type_for(request->kind) != reply.header.type) {
        lwd_move_failed(move, "node %u answers what was not asked: %s", link->node,
                        status != LW_OK ? error.text : "a reply without a request");
        link_close(link);
        return;
    }
    answered(request, &reply, msg);
}
