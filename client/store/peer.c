/* peer.c - one connection for each node: made when first needed, greeted with HELLO, watched by pings while requests wait,
 * remade with growing pauses. A peer that is silent too long is disconnected, because transports notice neither hung nor
 * unreachable peers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "client/store/store_private.h"

lwc_peer_t *lwc_peer(const lwc_store_t *store, uint16_t node_index)
{
    return node_index < store->peer_count ? store->peer[node_index] : NULL;
}

lw_status_t lwc_peer_update(lwc_store_t *store, const lw_node_t *node)
{
    if (node->index >= LW_NODES_MAX)
        return lwc_store_fail(store, LW_ERR_INVALID, "view: node index %u, at most %u", node->index, LW_NODES_MAX - 1);
    lwc_peer_t *peer = store->peer[node->index];
    if (peer && node->data[0] == '\0') { /* a catalogue that has just started has not heard from it yet */
        peer->node.state = node->state;
        peer->in_view = true;
        return LW_OK;
    }
    if (!peer) {
        peer = calloc(1, sizeof(*peer));
        if (!peer)
            return LW_ERR_NO_MEMORY;
        peer->session_serial = calloc(store->params.session_capacity, sizeof(uint32_t));
        if (!peer->session_serial) {
            free(peer);
            return LW_ERR_NO_MEMORY;
        }
        peer->store = store;
        store->peer[node->index] = peer;
        if (node->index >= store->peer_count)
            store->peer_count = node->index + 1u;
    } else if (strcmp(peer->node.data, node->data) != 0 || peer->node.incarnation != node->incarnation) {
        /* A restarted or moved node: the old connection means nothing. */
        if (peer->state == LWC_PEER_CONNECTING || peer->state == LWC_PEER_READY)
            lwc_peer_disconnect(peer, "the node was restarted");
        peer->retry_at_us = 0;
    }
    peer->node = *node;
    peer->in_view = true;
    return LW_OK;
}

static void backoff(lwc_peer_t *peer)
{
    peer->state = LWC_PEER_WAITING;
    peer->retry_us = peer->retry_us ? lw_min_u64(peer->retry_us * 2, LWC_RETRY_MAX_US) : LWC_RETRY_FIRST_US;
    peer->retry_at_us = peer->store->now_us + peer->retry_us;
}

static void send_hello(lwc_peer_t *peer)
{
    lwc_store_t *store = peer->store;
    lwc_request_t *request = lwc_request_new(store, LWC_REQUEST_HELLO, peer, peer->connect_by_us);
    if (!request) {
        lwc_peer_disconnect(peer, "no free request for HELLO");
        return;
    }
    lw_msg_t msg = {.header.type = LW_MSG_HELLO,
                    .body.hello = {.version_min = LW_WIRE_VERSION,
                                   .version_max = LW_WIRE_VERSION,
                                   .client_id = store->params.client_id,
                                   .incarnation = store->params.incarnation,
                                   .lane = store->params.lane}};
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

static void start(lwc_peer_t *peer)
{
    lwc_store_t *store = peer->store;
    lw_error_t error = {0};
    lw_status_t status = store->ops->connect(store->fabric, peer->node.data, &peer->conn, &error);
    if (status != LW_OK) {
        snprintf(peer->cause, sizeof(peer->cause), "%.150s", error.text);
        peer->conn = NULL;
        backoff(peer);
        return;
    }
    store->ops->set_user(peer->conn, peer);
    if (++peer->serial == 0)
        peer->serial = 1;
    peer->state = LWC_PEER_CONNECTING;
    peer->heard_us = peer->pinged_us = store->now_us;
    peer->connect_by_us = store->now_us + LWC_CONNECT_TIMEOUT_US;
    store->stats.reconnects += peer->serial > 1;
    send_hello(peer);
}

bool lwc_peer_ready(lwc_peer_t *peer)
{
    if (peer->state == LWC_PEER_READY)
        return true;
    if (peer->in_view && !peer->store->closing &&
        (peer->state == LWC_PEER_IDLE ||
         (peer->state == LWC_PEER_WAITING && peer->store->now_us >= peer->retry_at_us)))
        start(peer);
    return false;
}

void lwc_peer_heard(lwc_peer_t *peer)
{
    peer->heard_us = peer->store->now_us;
    peer->late = false;
}

void lwc_peer_hello_reply(lwc_request_t *request, const lw_msg_t *msg)
{
    lwc_peer_t *peer = request->peer;
    int32_t status = msg->body.hello_reply.status;
    lwc_request_end(request);
    if (status != LW_OK) {
        char cause[96];
        snprintf(cause, sizeof(cause), "HELLO refused: %s", lw_status_text(status));
        lwc_peer_disconnect(peer, cause);
        return;
    }
    peer->state = LWC_PEER_READY;
    peer->late = false;
    peer->retry_us = 0;
    peer->stats.connected = true;
    snprintf(peer->stats.transport, sizeof(peer->stats.transport), "%s", peer->store->ops->transport_text(peer->conn));
}

void lwc_peer_disconnect(lwc_peer_t *peer, const char *cause)
{
    if (peer->state != LWC_PEER_CONNECTING && peer->state != LWC_PEER_READY)
        return;
    snprintf(peer->cause, sizeof(peer->cause), "%s", cause);
    peer->state = LWC_PEER_CLOSING;
    peer->stats.connected = false;
    peer->store->ops->close_conn(peer->conn);
}

void lwc_peer_closed(lwc_peer_t *peer, lw_status_t status)
{
    if (peer->state != LWC_PEER_CLOSING)
        snprintf(peer->cause, sizeof(peer->cause), "%s", lw_status_text(status));
    LW_DEBUG("store", "node %u at %s disconnected: %s", peer->node.index, peer->node.data, peer->cause);
    peer->conn = NULL;
    peer->stats.connected = false;
    backoff(peer);
    lwc_requests_lost(peer);
}

static void ping(lwc_peer_t *peer)
{
    lwc_store_t *store = peer->store;
    lwc_request_t *request =
        lwc_request_new(store, LWC_REQUEST_PING, peer, store->now_us + LWC_SILENT_US + LWC_PING_EVERY_US);
    if (!request)
        return;
    peer->pinged_us = store->now_us;
    store->stats.pings++;
    lw_msg_t msg = {.header.type = LW_MSG_PING, .body.ping.sent_us = store->now_us};
    lwc_request_send(request, &msg, NULL, 0, NULL, 0);
}

void lwc_peer_scan(lwc_peer_t *peer)
{
    uint64_t now = peer->store->now_us;
    char cause[96];
    switch (peer->state) {
    case LWC_PEER_IDLE:
    case LWC_PEER_WAITING: /* a replica that is not connected cannot be asked when another one is late */
        if (peer->store->copies[peer->node.index] > 0 && peer->node.state != LW_NODE_DOWN)
            (void)lwc_peer_ready(peer);
        break;
    case LWC_PEER_CONNECTING:
        if (now >= peer->connect_by_us)
            lwc_peer_disconnect(peer, "no answer to HELLO");
        break;
    case LWC_PEER_READY:
        if (!peer->in_view && peer->requests == 0) {
            lwc_peer_disconnect(peer, "the node left the fleet");
        } else if (peer->requests == 0 && !peer->late) {
            peer->heard_us = now;
        } else if (peer->requests == 0) { /* nobody asks a late peer anything; this finds out whether it is there */
            ping(peer);
        } else if (now - peer->heard_us >= LWC_SILENT_US) {
            snprintf(cause, sizeof(cause), "silent for %llu ms", (unsigned long long)(now - peer->heard_us) / 1000);
            lwc_peer_disconnect(peer, cause);
        } else if (now - peer->heard_us >= LWC_PING_EVERY_US && now - peer->pinged_us >= LWC_PING_EVERY_US) {
            ping(peer);
        }
        break;
    default:
        break;
    }
}

void lwc_peer_destroy(lwc_peer_t *peer)
{
    if (!peer)
        return;
    free(peer->session_serial);
    free(peer);
}
