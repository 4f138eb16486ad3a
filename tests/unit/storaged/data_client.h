/* data_client.h - a bare data-plane client for tests: one message, one reply, over any fabric. */
#ifndef LW_TEST_DATA_CLIENT_H
#define LW_TEST_DATA_CLIENT_H

#include "fabric/fabric.h"
#include "wire/msg.h"
#include "wire/segment_fmt.h"

/* Moves the other side (and the simulated net); called between progress calls. NULL: the other side moves by
 * itself. */
typedef void (*data_pump_t)(void *arg);

typedef struct data_client {
    const lw_fabric_ops_t *ops;
    lw_fabric_t *fabric;
    lw_conn_t *conn; /* NULL after it closed */
    data_pump_t pump;
    void *pump_arg;
    uint64_t fleet_id, next_request;
    unsigned tries_max; /* progress calls before a reply counts as missing */
    /* last reply */
    lw_msg_t reply;
    uint8_t *payload; /* 64-byte aligned, room for LW_FABRIC_PAYLOAD_MAX */
    size_t payload_bytes;
    bool replied, landing, sending;
    uint64_t waiting_for;
    unsigned closes, replies;
} data_client_t;

/* Connects. The caller has called lw_fabric_sim_use() for a simulated fabric. */
void data_client_open(data_client_t *client, const lw_fabric_ops_t *ops, const char *transports,
                      const char *address, data_pump_t pump, void *pump_arg);
void data_client_close(data_client_t *client);
/* Sends and waits for the reply; false when the connection closed or none came. msg->header.type and body are
 * inputs; lists or bulk in payload. */
bool data_client_call(data_client_t *client, lw_msg_t *msg, const void *payload, size_t bytes);
/* Sends and does not wait. Returns the request's id. */
uint64_t data_client_send(data_client_t *client, lw_msg_t *msg, const void *payload, size_t bytes);
/* Sends raw bytes as head and payload. */
void data_client_raw(data_client_t *client, const void *head, size_t head_bytes, const void *payload,
                     size_t bytes);
/* Lets things move until the reply to `request` came. */
bool data_client_wait(data_client_t *client, uint64_t request);
void data_client_step(data_client_t *client, unsigned times);

/* Each returns the reply's status, or LW_ERR_UNREACHABLE without a reply. */
lw_status_t data_hello(data_client_t *client, uint64_t client_id, uint64_t incarnation);
lw_status_t data_attach(data_client_t *client, uint64_t session, bool write, uint32_t term, uint8_t token0,
                        const lw_segment_name_t *names, uint32_t count, lw_msg_attached_t *attached_out);
lw_status_t data_reserve(data_client_t *client, const lw_segment_name_t *name, uint64_t bytes,
                         lw_msg_reserve_reply_t *reply_out);
lw_status_t data_write(data_client_t *client, uint64_t handle, uint64_t offset, const void *bytes,
                       uint32_t count);
lw_status_t data_commit(data_client_t *client, uint64_t handle, uint64_t bytes);
lw_status_t data_abort(data_client_t *client, uint64_t handle);
/* Reserve, write in chunks, commit. */
lw_status_t data_put(data_client_t *client, const uint8_t *segment, uint64_t bytes, uint64_t *handle_out);
/* One run list. The records are at client->payload + lw_wire_bulk_offset(list bytes). */
lw_status_t data_fetch(data_client_t *client, const lw_msg_fetch_run_t *runs, uint32_t run_count,
                       const uint16_t *entries, uint32_t flags);
const uint8_t *data_fetch_bulk(const data_client_t *client);
lw_status_t data_read(data_client_t *client, uint64_t handle, uint64_t offset, uint32_t bytes);

#endif /* LW_TEST_DATA_CLIENT_H */
