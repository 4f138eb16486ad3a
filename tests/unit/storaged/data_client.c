#include "unit/storaged/data_client.h"

#include <stdlib.h>
#include <string.h>

static void landed(void *arg, lw_status_t status)
{
    data_client_t *client = arg;
    lw_error_t error;
    client->landing = false;
    if (status != LW_OK)
        return;
    if (lw_msg_decode_lists(&client->reply, client->payload, client->payload_bytes, &error) == LW_OK &&
        client->reply.header.request_id == client->waiting_for)
        client->replied = true;
}

static void on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    data_client_t *client = arg;
    lw_error_t error;
    lw_msg_t reply;
    (void)conn;
    if (lw_msg_decode_head(msg->head, msg->head_bytes, msg->data_bytes, &reply, &error) != LW_OK) {
        lw_assert_failed(__FILE__, __LINE__, error.text);
    }
    client->replies++;
    client->reply = reply;
    client->payload_bytes = msg->data_bytes;
    if (msg->data_bytes == 0) {
        if (reply.header.request_id == client->waiting_for)
            client->replied = true;
        return;
    }
    client->landing = true;
    client->ops->recv(client->fabric, msg, client->payload, NULL, landed, client);
}

static void on_accept(void *arg, lw_conn_t *conn)
{
    (void)arg, (void)conn;
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    data_client_t *client = arg;
    (void)conn, (void)status;
    client->conn = NULL;
    client->closes++;
}

void data_client_open(data_client_t *client, const lw_fabric_ops_t *ops, const char *transports,
                      const char *address, data_pump_t pump, void *pump_arg)
{
    lw_error_t error = {0};
    memset(client, 0, sizeof(*client));
    client->ops = ops;
    client->pump = pump;
    client->pump_arg = pump_arg;
    client->next_request = 1;
    client->tries_max = pump != NULL ? 20000 : 20000000;
    client->payload = aligned_alloc(64, LW_FABRIC_PAYLOAD_MAX);
    lw_fabric_params_t params = {
        .transports = transports,
        .handler = {.on_message = on_message, .on_accept = on_accept, .on_closed = on_closed, .arg = client},
    };
    lw_status_t status = ops->open(&params, &client->fabric, &error);
    LW_ASSERT(status == LW_OK && client->payload != NULL);
    status = ops->connect(client->fabric, address, &client->conn, &error);
    LW_ASSERT(status == LW_OK);
}

void data_client_close(data_client_t *client)
{
    if (client->fabric != NULL)
        client->ops->close(client->fabric);
    free(client->payload);
    client->fabric = NULL;
    client->payload = NULL;
}

void data_client_step(data_client_t *client, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        client->ops->progress(client->fabric);
        if (client->pump != NULL)
            client->pump(client->pump_arg);
    }
}

static void sent(void *arg, lw_status_t status)
{
    data_client_t *client = arg;
    (void)status;
    client->sending = false;
}

void data_client_raw(data_client_t *client, const void *head, size_t head_bytes, const void *payload,
                     size_t bytes)
{
    lw_iov_t piece = {payload, bytes};
    LW_ASSERT(!client->sending && client->conn != NULL);
    client->sending = true;
    if (client->ops->send(client->conn, head, head_bytes, &piece, bytes > 0 ? 1 : 0, LW_SEND_AUTO, sent,
                          client) != LW_OK)
        client->sending = false;
}

uint64_t data_client_send(data_client_t *client, lw_msg_t *msg, const void *payload, size_t bytes)
{
    uint8_t head[LW_MSG_HEAD_MAX];
    msg->header.fleet_id = client->fleet_id;
    msg->header.request_id = client->next_request++;
    uint32_t head_bytes = lw_msg_encode(msg, payload, lw_msg_list_bytes(msg), head);
    client->waiting_for = msg->header.request_id;
    client->replied = false;
    if (client->conn != NULL)
        data_client_raw(client, head, head_bytes, payload, bytes);
    return msg->header.request_id;
}

bool data_client_wait(data_client_t *client, uint64_t request)
{
    client->waiting_for = request;
    for (unsigned i = 0; i < client->tries_max; i++) {
        if (client->replied && !client->sending)
            return true;
        if (client->conn == NULL && !client->sending)
            return client->replied;
        data_client_step(client, 1);
    }
    return false;
}

bool data_client_call(data_client_t *client, lw_msg_t *msg, const void *payload, size_t bytes)
{
    if (client->conn == NULL)
        return false;
    return data_client_wait(client, data_client_send(client, msg, payload, bytes));
}

lw_status_t data_hello(data_client_t *client, uint64_t client_id, uint64_t incarnation)
{
    lw_msg_t msg = {.header.type = LW_MSG_HELLO};
    msg.body.hello = (lw_msg_hello_t){LW_WIRE_VERSION, LW_WIRE_VERSION, client_id, incarnation, 0, 0};
    if (!data_client_call(client, &msg, NULL, 0))
        return LW_ERR_UNREACHABLE;
    client->fleet_id = client->reply.body.hello_reply.fleet_id;
    return client->reply.body.hello_reply.status;
}

lw_status_t data_attach(data_client_t *client, uint64_t session, bool write, uint32_t term, uint8_t token0,
                        const lw_segment_name_t *names, uint32_t count, lw_msg_attached_t *attached_out)
{
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH};
    msg.body.attach =
        (lw_msg_attach_t){.session_id = session, .write = write, .term = term, .name_count = count};
    msg.body.attach.token[0] = token0;
    if (!data_client_call(client, &msg, names, count * sizeof(*names)))
        return LW_ERR_UNREACHABLE;
    if (client->reply.body.attach_reply.status == LW_OK && count > 0)
        memcpy(attached_out, client->reply.attached, count * sizeof(*attached_out));
    return client->reply.body.attach_reply.status;
}

lw_status_t data_reserve(data_client_t *client, const lw_segment_name_t *name, uint64_t bytes,
                         lw_msg_reserve_reply_t *reply_out)
{
    lw_msg_t msg = {.header.type = LW_MSG_RESERVE};
    msg.body.reserve = (lw_msg_reserve_t){.name = *name, .bytes = bytes, .epoch = 1};
    if (!data_client_call(client, &msg, NULL, 0))
        return LW_ERR_UNREACHABLE;
    *reply_out = client->reply.body.reserve_reply;
    return reply_out->status;
}

static lw_status_t status_call(data_client_t *client, lw_msg_t *msg, const void *payload, size_t bytes)
{
    if (!data_client_call(client, msg, payload, bytes))
        return LW_ERR_UNREACHABLE;
    LW_ASSERT(client->reply.header.type == LW_MSG_STATUS_REPLY);
    return client->reply.body.status_reply.status;
}

lw_status_t data_write(data_client_t *client, uint64_t handle, uint64_t offset, const void *bytes,
                       uint32_t count)
{
    lw_msg_t msg = {.header.type = LW_MSG_WRITE};
    msg.body.write = (lw_msg_write_t){handle, offset, count, 0};
    return status_call(client, &msg, bytes, count);
}

lw_status_t data_commit(data_client_t *client, uint64_t handle, uint64_t bytes)
{
    lw_msg_t msg = {.header.type = LW_MSG_COMMIT};
    msg.body.commit = (lw_msg_commit_t){handle, bytes};
    return status_call(client, &msg, NULL, 0);
}

lw_status_t data_abort(data_client_t *client, uint64_t handle)
{
    lw_msg_t msg = {.header.type = LW_MSG_ABORT};
    msg.body.abort = (lw_msg_abort_t){handle};
    return status_call(client, &msg, NULL, 0);
}

lw_status_t data_put(data_client_t *client, const uint8_t *segment, uint64_t bytes, uint64_t *handle_out)
{
    lw_msg_reserve_reply_t reserved;
    lw_status_t status = data_reserve(client, &lw_segment_header(segment)->name, bytes, &reserved);
    if (status != LW_OK)
        return status;
    *handle_out = reserved.handle;
    if (reserved.committed)
        return LW_OK;
    for (uint64_t at = 0; at < bytes && status == LW_OK; at += LW_WRITE_CHUNK_BYTES) {
        uint32_t chunk = (uint32_t)lw_min_u64(LW_WRITE_CHUNK_BYTES, bytes - at);
        status = data_write(client, reserved.handle, at, segment + at, chunk);
    }
    return status == LW_OK ? data_commit(client, reserved.handle, bytes) : status;
}

lw_status_t data_fetch(data_client_t *client, const lw_msg_fetch_run_t *runs, uint32_t run_count,
                       const uint16_t *entries, uint32_t flags)
{
    lw_msg_t msg = {.header.type = LW_MSG_FETCH};
    uint32_t entry_count = 0;
    for (uint32_t r = 0; r < run_count; r++)
        entry_count += runs[r].count;
    msg.body.fetch = (lw_msg_fetch_t){run_count, entry_count, 0, flags};
    uint32_t bytes = lw_msg_list_bytes(&msg);
    uint8_t *lists = calloc(1, bytes + 1);
    memcpy(lists, runs, run_count * sizeof(*runs));
    memcpy(lists + run_count * sizeof(*runs), entries, entry_count * sizeof(*entries));
    bool replied = data_client_call(client, &msg, lists, bytes);
    if (client->sending) /* the lists are still borrowed by a send that never ended */
        data_client_step(client, 1000);
    free(lists);
    return replied ? client->reply.body.fetch_reply.status : LW_ERR_UNREACHABLE;
}

const uint8_t *data_fetch_bulk(const data_client_t *client)
{
    return client->payload + lw_wire_bulk_offset(client->reply.header.list_bytes);
}

lw_status_t data_read(data_client_t *client, uint64_t handle, uint64_t offset, uint32_t bytes)
{
    lw_msg_t msg = {.header.type = LW_MSG_READ};
    msg.body.read = (lw_msg_read_t){handle, offset, bytes, 0};
    return data_client_call(client, &msg, NULL, 0) ? client->reply.body.read_reply.status
                                                   : LW_ERR_UNREACHABLE;
}
