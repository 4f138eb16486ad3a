/* claim.c - ATTACH: a connection proves a session's token and gets handles for its segments.
 *
 * Session 0 with the fleet's node token is another node: it may read every segment, and write none.
 *
 * The walk: names land in the request's buffer -> the catalogue is asked -> names of other origins are struck
 * out -> the owner looks the rest up -> handles are opened and sent. Foreign and unknown names look the same
 * to the client. */
#include <string.h>

#include "storaged/net/net_private.h"

/* The request's buffer: names as they landed, references, the reply's list. */
static uint64_t refs_offset(const lw_msg_t *msg)
{
    return lw_align_up(lw_wire_bulk_offset(lw_msg_list_bytes(msg)), 64);
}

static uint64_t attached_offset(const lw_msg_t *msg)
{
    return refs_offset(msg) + lw_align_up(msg->body.attach.name_count * sizeof(lwd_ref_t), 64);
}

static void refuse(lwd_request_t *request, lw_status_t status)
{
    lw_count(&lwd_stats(request->worker)->attach_refused, 1);
    /* A wrong token and a session that does not exist look alike. */
    lwd_request_answer(request, status == LW_ERR_PERMISSION ? LW_ERR_NOT_FOUND : status);
}

/* No early exit: the time must not tell how much of the token was right. */
static bool node_token_right(const lwd_node_t *node, const uint8_t *token)
{
    uint64_t right[2], shown[2];
    static_assert(sizeof(right) == LW_TOKEN_BYTES, "net: a token is two numbers");
    for (int i = 0; i < 2; i++)
        right[i] = atomic_load_explicit(&node->node_token[i], memory_order_relaxed);
    memcpy(shown, token, sizeof(shown));
    return right[0] != 0 && right[1] != 0 && ((right[0] ^ shown[0]) | (right[1] ^ shown[1])) == 0;
}

static void ask(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    const lw_msg_attach_t *attach = &request->msg.body.attach;
    if (attach->session_id == 0) {
        if (attach->write != 0 || !node_token_right(worker->params.node, attach->token)) {
            refuse(request, LW_ERR_PERMISSION);
            return;
        }
        for (uint32_t i = 0; i < attach->name_count; i++)
            request->refs[i].slot = 0;
        request->peer->node = true;
        lwd_change_submit(request, LWD_CHANGE_ATTACH);
        return;
    }
    lwd_ask_t question = {
        .kind = LWD_ASK_CHECK,
        .worker = worker->params.index,
        .ticket = (uint64_t)request->turn << 32 | request->index,
        .session_id = attach->session_id,
        .write = attach->write != 0,
        .term = attach->term,
    };
    memcpy(question.token, attach->token, sizeof(question.token));
    lw_status_t status = worker->params.ask(worker->params.ask_arg, &question);
    if (status != LW_OK)
        refuse(request, status);
}

static void landed(void *arg, lw_status_t status)
{
    lwd_request_t *request = arg;
    lwd_worker_t *worker = request->worker;
    lw_error_t error = {0};
    if (status != LW_OK || request->peer->conn == NULL) {
        lwd_request_release(request);
        return;
    }
    lw_msg_t *msg = &request->msg;
    if (lw_msg_decode_lists(msg, request->names, lw_msg_list_bytes(msg), &error) != LW_OK) {
        lwd_malformed(worker, request->peer, &error);
        lwd_request_release(request);
        return;
    }
    ask(request);
}

void lwd_serve_attach(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, const lw_fabric_msg_t *arrived)
{
    lw_count(&lwd_stats(worker)->attach_requests, 1);
    lwd_request_t *request = lwd_request_acquire(worker, peer, msg);
    if (request == NULL) {
        lwd_reply_status(worker, peer, LW_MSG_ATTACH, msg->header.request_id, LW_ERR_BUSY);
        return;
    }
    uint32_t count = msg->body.attach.name_count;
    if (count == 0) {
        request->names = NULL;
        request->refs = NULL;
        ask(request);
        return;
    }
    uint8_t *buffer = lwd_request_buffer(request, attached_offset(msg) + count * sizeof(lw_msg_attached_t));
    if (buffer == NULL) {
        lwd_request_answer(request, LW_ERR_BUSY);
        return;
    }
    request->names = (lw_segment_name_t *)buffer;
    request->refs = (lwd_ref_t *)(buffer + refs_offset(msg));
    worker->params.fabric->recv(worker->fabric, arrived, buffer, NULL, landed, request);
}

static bool allowed(const lwd_news_t *news, const lw_segment_name_t *name)
{
    for (uint32_t i = 0; i < news->checked.count; i++) {
        if (news->checked.origins[i] == name->origin && name->first_token < news->checked.cuts[i])
            return true;
    }
    return false;
}

/* The first proof that the catalogue confirms tells the owner, too, for whom this connection writes. */
static void submit(lwd_request_t *request)
{
    lwd_peer_t *peer = request->peer;
    request->first = request->msg.body.attach.write != 0 && !peer->up && !peer->rising;
    if (request->first) {
        peer->rising = true;
        request->client_id = peer->client_id;
        request->incarnation = peer->incarnation;
    }
    lwd_change_submit(request, LWD_CHANGE_ATTACH);
}

void lwd_attach_checked(lwd_worker_t *worker, const lwd_news_t *news)
{
    uint32_t index = (uint32_t)news->ticket;
    lwd_request_t *request = index < worker->params.request_max ? &worker->requests[index] : NULL;
    if (request == NULL || request->turn != (uint32_t)(news->ticket >> 32) || request->type != LW_MSG_ATTACH)
        return;
    if (request->peer->conn == NULL) {
        lwd_request_release(request);
    } else if (request->canceled) {
        lwd_request_answer(request, LW_ERR_CANCELED);
    } else if (news->status != LW_OK) {
        refuse(request, news->status);
    } else {
        for (uint32_t i = 0; i < request->msg.body.attach.name_count; i++)
            request->refs[i].slot = allowed(news, &request->names[i]) ? 0 : LWD_SLOT_NONE;
        submit(request);
    }
}

void lwd_attach_done(lwd_request_t *request)
{
    lwd_worker_t *worker = request->worker;
    lwd_peer_t *peer = request->peer;
    const lw_msg_attach_t *attach = &request->msg.body.attach;
    if (request->first) {
        peer->rising = false;
        peer->up = request->status == LW_OK;
    }
    if (peer->conn == NULL) { /* it closed meanwhile */
        if (request->first && peer->up)
            worker->byes++;
        lwd_request_release(request);
        return;
    }
    lw_status_t status = request->status;
    if (status == LW_OK && attach->write != 0 && !peer->up) /* the first proof found no room */
        status = LW_ERR_EXHAUSTED;
    if (status == LW_OK && attach->write != 0)
        status = lwd_attach_prove(worker->attach, peer->index, attach->session_id, attach->term);
    if (status != LW_OK) {
        refuse(request, status);
        return;
    }
    lw_msg_t reply = {.header.type = LW_MSG_ATTACH_REPLY};
    reply.body.attach_reply.name_count = attach->name_count;
    reply.body.attach_reply.epoch = atomic_load_explicit(&worker->params.node->epoch, memory_order_relaxed);
    if (attach->name_count == 0) {
        lwd_request_reply(request, &reply);
        return;
    }
    lw_msg_attached_t *list =
        (lw_msg_attached_t *)(worker->reply + request->buffer + attached_offset(&request->msg));
    uint32_t missing = 0;
    for (uint32_t i = 0; i < attach->name_count; i++) {
        list[i] = (lw_msg_attached_t){.status = LW_ERR_NOT_FOUND};
        if (request->refs[i].slot != LWD_SLOT_NONE)
            list[i].status =
                lwd_attach_open(worker->attach, peer->index, request->refs[i], false, &list[i].handle);
        missing += list[i].status == LW_ERR_NOT_FOUND ? 1 : 0;
    }
    lw_count(&lwd_stats(worker)->attach_names, attach->name_count);
    lw_count(&lwd_stats(worker)->attach_not_found, missing);
    lw_gauge(&lwd_stats(worker)->attachments, lwd_attach_count(worker->attach));
    uint32_t bytes = lw_msg_list_bytes(&reply);
    lw_iov_t piece = {list, bytes};
    lwd_request_send(request, &reply, list, bytes, &piece, 1, LW_SEND_AUTO);
}
