/* fabric_sim.c - fabrics in the simulated network: the same table as UCX, moved by the seed instead of a
 * wire.
 *
 * Whether a payload travels with its message or stays with the sender until the receiver asks (rendezvous),
 * and whether a receive finishes at once or later, is drawn from the net's seed: callers have to be right for
 * each of them. A payload that stays is copied when it is received, so that a sender who touches it too early
 * is found out. */
#include "fabric/fabric_sim_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGE_BYTES 8192u
#define PROGRESS_EVENTS_MAX 64u

static struct {
    lw_sim_net_t *net;
    char host[LW_ADDRESS_MAX];
} current; /* where open() makes fabrics; the simulator has one thread */

void lw_fabric_sim_use(lw_sim_net_t *net, const char *host)
{
    current.net = net;
    snprintf(current.host, sizeof(current.host), "%s", host);
}

lw_conn_t *lw_sim_conn_create(lw_fabric_t *fabric)
{
    lw_conn_t *conn = calloc(1, sizeof(*conn));
    LW_ASSERT(conn != NULL);
    conn->fabric = fabric;
    lw_sim_list_init(&conn->sends);
    lw_sim_list_add(&fabric->conns, &conn->link);
    return conn;
}

void lw_sim_send_finish(lw_sim_send_t *send, lw_status_t status)
{
    send->status = status;
    lw_sim_list_remove(&send->link);
    lw_sim_list_add(&send->conn->fabric->ready, &send->link);
}

static unsigned run_ready(lw_fabric_t *fabric)
{
    unsigned ran = 0;
    while (!lw_sim_list_empty(&fabric->ready)) {
        lw_sim_send_t *send = (lw_sim_send_t *)fabric->ready.next;
        lw_fabric_done_t done = send->done;
        void *arg = send->arg;
        lw_status_t status = send->status;
        lw_sim_list_remove(&send->link);
        free(send);
        if (done != NULL)
            done(arg, status);
        ran++;
    }
    return ran;
}

/* ---- sending ---- */

static uint8_t *copy_pieces(const lw_iov_t *pieces, uint32_t piece_count, uint8_t *into)
{
    for (uint32_t i = 0; i < piece_count; i++) {
        if (pieces[i].bytes > 0)
            memcpy(into, pieces[i].data, pieces[i].bytes);
        into += pieces[i].bytes;
    }
    return into;
}

static uint8_t *copy_payload(const lw_sim_send_t *send, size_t bytes)
{
    uint8_t *data = malloc(bytes + 1); /* one more: no payload is no special case */
    LW_ASSERT(data != NULL);
    copy_pieces(send->pieces, send->piece_count, data);
    return data;
}

static void flip_bit(uint8_t *data, uint64_t at)
{
    data[at / 8] ^= (uint8_t)(1u << (at % 8));
}

static lw_sim_event_t *make_message(lw_conn_t *conn, const void *head, size_t head_bytes, size_t data_bytes)
{
    lw_sim_event_t *event = lw_sim_event_create(LW_SIM_MESSAGE, conn);
    if (head_bytes > 0)
        memcpy(event->head, head, head_bytes);
    event->head_bytes = head_bytes;
    event->data_bytes = data_bytes;
    return event;
}

/* Draws what happens to a message and posts it. */
static void launch(lw_conn_t *conn, lw_sim_event_t *event, lw_sim_send_t *send)
{
    lw_sim_net_t *net = conn->fabric->net;
    bool rendezvous =
        event->data_bytes > 0 && lw_sim_chance(net, event->data_bytes > LARGE_BYTES ? 0.75 : 0.1);
    if (lw_sim_chance(net, net->faults.drop))
        lw_sim_net_break(conn, net->faults.close_after_us);
    if (conn->lost) {
        lw_sim_event_destroy(event);
        if (!rendezvous)
            lw_sim_send_finish(send, LW_OK); /* it had left */
        return;
    }
    if (event->data_bytes > 0 && lw_sim_chance(net, net->faults.corrupt)) {
        event->flip = true;
        event->flip_at = lw_prng_below(&net->prng, event->data_bytes * 8);
    }
    if (lw_sim_chance(net, net->faults.duplicate)) {
        lw_sim_event_t *again = make_message(conn, event->head, event->head_bytes, event->data_bytes);
        again->data = copy_payload(send, event->data_bytes);
        lw_sim_net_post(net, conn, again);
    }
    if (rendezvous) {
        event->send = send;
    } else {
        event->data = copy_payload(send, event->data_bytes);
        if (event->flip)
            flip_bit(event->data, event->flip_at);
        lw_sim_send_finish(send, LW_OK);
    }
    lw_sim_net_post(net, conn, event);
}

static lw_status_t sim_send(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces,
                            uint32_t piece_count, lw_send_mode_t mode, lw_fabric_done_t done, void *arg)
{
    if (conn->ending || conn->fabric->crashed)
        return conn->status != LW_OK ? conn->status : LW_ERR_CANCELED;
    size_t bytes = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        bytes += pieces[i].bytes;
    if (head_bytes > LW_MSG_HEAD_MAX || bytes > LW_FABRIC_PAYLOAD_MAX)
        return LW_ERR_INVALID;
    lw_sim_send_t *send = malloc(sizeof(*send) + piece_count * sizeof(lw_iov_t));
    if (send == NULL)
        return LW_ERR_NO_MEMORY;
    lw_sim_list_init(&send->link);
    send->conn = conn;
    send->done = done;
    send->arg = arg;
    send->status = LW_INPROGRESS;
    send->piece_count = piece_count;
    if (piece_count > 0)
        memcpy(send->pieces, pieces, piece_count * sizeof(lw_iov_t));
    lw_sim_list_add(&conn->sends, &send->link);
    launch(conn, make_message(conn, head, head_bytes, bytes), send);
    return LW_OK;
}

/* ---- receiving ---- */

/* Fetches a payload that lay with its sender; the event is over afterwards. */
static void land(lw_sim_event_t *event)
{
    lw_status_t status = LW_OK;
    if (event->send != NULL) {
        copy_pieces(event->send->pieces, event->send->piece_count, event->into);
        if (event->flip)
            flip_bit(event->into, event->flip_at);
        lw_sim_send_finish(event->send, LW_OK);
    } else {
        status = LW_ERR_UNREACHABLE;
    }
    lw_fabric_done_t done = event->done;
    void *arg = event->arg;
    lw_sim_event_destroy(event);
    if (done != NULL)
        done(arg, status);
}

typedef struct arrival { /* a message inside on_message; what msg->handle points to */
    lw_sim_event_t *event;
    bool asked, kept; /* kept: recv took the event over */
} arrival_t;

static void sim_recv(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                     lw_fabric_done_t done, void *arg)
{
    arrival_t *arrival = msg->handle;
    lw_sim_event_t *event = arrival->event;
    LW_ASSERT(!arrival->asked);
    arrival->asked = true;
    if (event->send == NULL) { /* travelled with its message, which the caller may still look at */
        if (event->data_bytes > 0)
            memcpy(into, event->data, event->data_bytes);
        if (done != NULL)
            done(arg, LW_OK);
        return;
    }
    arrival->kept = true;
    event->into = into;
    event->done = done;
    event->arg = arg;
    lw_sim_list_add(&fabric->landing, &event->link);
    if (lw_sim_chance(fabric->net, 0.5))
        land(event);
}

static void sim_recv_watched(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                             lw_fabric_landed_t landed, lw_fabric_done_t done, void *arg)
{
    sim_recv(fabric, msg, into, region, done, arg); /* all of it at once */
}

static bool sim_recv_cancel(lw_conn_t *conn, const void *arg)
{
    lw_fabric_t *fabric = conn->fabric;
    for (lw_sim_link_t *at = fabric->landing.next; at != &fabric->landing; at = at->next) {
        lw_sim_event_t *event = (lw_sim_event_t *)at;
        if (event->conn != conn || event->arg != arg)
            continue;
        if (conn->ending || lw_sim_chance(fabric->net, 0.5))
            return false;
        if (event->send != NULL)
            lw_sim_send_finish(event->send, LW_OK);
        lw_sim_event_destroy(event);
        return true;
    }
    return false;
}

static void deliver_message(lw_fabric_t *fabric, lw_sim_event_t *event)
{
    arrival_t arrival = {.event = event};
    if (!event->conn->ending) {
        lw_fabric_msg_t msg = {
            .head = event->head,
            .head_bytes = event->head_bytes,
            .data = event->data,
            .data_bytes = event->data_bytes,
            .handle = &arrival,
        };
        fabric->handler.on_message(fabric->handler.arg, event->conn, &msg);
    }
    if (arrival.kept)
        return;
    if (event->send != NULL)
        lw_sim_send_finish(event->send, LW_OK); /* nobody wanted the payload */
    lw_sim_event_destroy(event);
}

/* ---- connections ---- */

static lw_status_t sim_connect(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out,
                               lw_error_t *error)
{
    if (fabric->closing || fabric->crashed)
        return lw_fail(error, LW_ERR_CANCELED, "the fabric is closing");
    if (strrchr(address, ':') == NULL || strlen(address) >= LW_ADDRESS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "address '%.80s' is not host:port", address);
    lw_conn_t *conn = lw_sim_conn_create(fabric);
    conn->announced = true;
    lw_sim_event_t *event = lw_sim_event_create(LW_SIM_CONNECT, conn);
    snprintf(event->address, sizeof(event->address), "%s", address);
    lw_sim_net_post(fabric->net, conn, event);
    *conn_out = conn;
    return LW_OK;
}

static void end_conn(lw_conn_t *conn, lw_status_t status)
{
    if (conn->ending)
        return;
    conn->ending = true;
    conn->status = status;
}

/* Removes what waits for conn in its own fabric; receives that have begun are told. */
static void drop_arrivals(lw_conn_t *conn, lw_status_t status)
{
    lw_fabric_t *fabric = conn->fabric;
    lw_sim_link_t *next;
    for (lw_sim_link_t *at = fabric->inbox.next; at != &fabric->inbox; at = next) {
        next = at->next;
        if (((lw_sim_event_t *)at)->conn == conn)
            lw_sim_event_destroy((lw_sim_event_t *)at);
    }
    for (lw_sim_link_t *at = fabric->landing.next; at != &fabric->landing;) {
        lw_sim_event_t *event = (lw_sim_event_t *)at;
        at = at->next;
        if (event->conn != conn)
            continue;
        lw_fabric_done_t done = event->done;
        void *arg = event->arg;
        lw_sim_event_destroy(event);
        if (done != NULL)
            done(arg, status);
        at = fabric->landing.next; /* the callback may have changed the list */
    }
}

static void finish_conn(lw_conn_t *conn)
{
    lw_fabric_t *fabric = conn->fabric;
    lw_status_t status = conn->status == LW_OK ? LW_ERR_CANCELED : conn->status;
    lw_sim_net_detach(conn);
    drop_arrivals(conn, status);
    while (!lw_sim_list_empty(&conn->sends))
        lw_sim_send_finish((lw_sim_send_t *)conn->sends.next, status);
    run_ready(fabric);
    lw_sim_list_remove(&conn->link);
    if (conn->announced && fabric->handler.on_closed != NULL)
        fabric->handler.on_closed(fabric->handler.arg, conn, conn->status);
    free(conn);
}

static unsigned finish_ending(lw_fabric_t *fabric)
{
    unsigned ended = 0;
    for (lw_sim_link_t *at = fabric->conns.next; at != &fabric->conns;) {
        lw_conn_t *conn = (lw_conn_t *)at;
        at = at->next;
        if (!conn->ending)
            continue;
        finish_conn(conn);
        ended++;
        at = fabric->conns.next; /* callbacks may have changed the list */
    }
    return ended;
}

/* ---- the fabric ---- */

static lw_status_t sim_open(const lw_fabric_params_t *params, lw_fabric_t **fabric_out, lw_error_t *error)
{
    if (current.net == NULL)
        return lw_fail(error, LW_ERR_INVALID, "no simulated net was chosen");
    lw_fabric_t *fabric = calloc(1, sizeof(*fabric));
    if (fabric == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a fabric");
    fabric->net = current.net;
    fabric->handler = params->handler;
    snprintf(fabric->host, sizeof(fabric->host), "%s", current.host);
    lw_sim_list_init(&fabric->conns);
    lw_sim_list_init(&fabric->inbox);
    lw_sim_list_init(&fabric->landing);
    lw_sim_list_init(&fabric->ready);
    lw_sim_list_add(&current.net->fabrics, &fabric->link);
    *fabric_out = fabric;
    return LW_OK;
}

static void sim_close(lw_fabric_t *fabric)
{
    fabric->closing = true;
    fabric->address[0] = '\0';
    run_ready(fabric);
    for (lw_sim_link_t *at = fabric->conns.next; at != &fabric->conns; at = at->next)
        end_conn((lw_conn_t *)at, LW_ERR_CANCELED);
    finish_ending(fabric);
    while (!lw_sim_list_empty(&fabric->inbox))
        lw_sim_event_destroy((lw_sim_event_t *)fabric->inbox.next);
    lw_sim_list_remove(&fabric->link);
    free(fabric);
}

static bool address_taken(const lw_sim_net_t *net, const char *address)
{
    for (lw_sim_link_t *at = net->fabrics.next; at != &net->fabrics; at = at->next)
        if (strcmp(((lw_fabric_t *)at)->address, address) == 0)
            return true;
    return false;
}

static lw_status_t sim_listen(lw_fabric_t *fabric, const char *address, lw_error_t *error)
{
    if (fabric->address[0] != '\0')
        return lw_fail(error, LW_ERR_INVALID, "listen '%s': this fabric listens already", address);
    const char *colon = strrchr(address, ':');
    if (colon == NULL || strlen(address) >= LW_ADDRESS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "address '%.80s' is not host:port", address);
    int port = atoi(colon + 1);
    char text[LW_ADDRESS_MAX + 16];
    snprintf(text, sizeof(text), "%.*s:%u", (int)(colon - address), address,
             port != 0 ? (unsigned)port : fabric->net->next_port++);
    if (strlen(text) >= LW_ADDRESS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "address '%.80s' is too long", address);
    if (address_taken(fabric->net, text))
        return lw_fail(error, LW_ERR_EXISTS, "listen '%s': address already in use", text);
    memcpy(fabric->address, text, strlen(text) + 1);
    return LW_OK;
}

static lw_status_t sim_address(lw_fabric_t *fabric, char *text, size_t text_bytes)
{
    if (fabric->address[0] == '\0')
        return LW_ERR_NOT_FOUND;
    int bytes = snprintf(text, text_bytes, "%s", fabric->address);
    return (size_t)bytes < text_bytes ? LW_OK : LW_ERR_INVALID;
}

static void sim_close_conn(lw_conn_t *conn)
{
    end_conn(conn, LW_OK);
}
static void sim_set_user(lw_conn_t *conn, void *user)
{
    conn->user = user;
}
static void *sim_user(const lw_conn_t *conn)
{
    return conn->user;
}

static lw_status_t sim_register(lw_fabric_t *fabric, void *memory, size_t bytes, lw_region_t **region_out,
                                lw_error_t *error)
{
    lw_region_t *region = calloc(1, sizeof(*region));
    if (region == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a region");
    region->fabric = fabric;
    *region_out = region;
    return LW_OK;
}

static void sim_unregister(lw_region_t *region)
{
    free(region);
}

static void handle(lw_fabric_t *fabric, lw_sim_event_t *event)
{
    lw_conn_t *conn = event->conn;
    lw_sim_list_remove(&event->link);
    switch (event->kind) {
    case LW_SIM_ACCEPT:
        lw_sim_event_destroy(event);
        if (conn->ending)
            return;
        conn->announced = true;
        if (fabric->handler.on_accept != NULL)
            fabric->handler.on_accept(fabric->handler.arg, conn);
        return;
    case LW_SIM_MESSAGE: deliver_message(fabric, event); return;
    case LW_SIM_CLOSE:
        end_conn(conn, event->status);
        lw_sim_event_destroy(event);
        return;
    case LW_SIM_CONNECT: break;
    }
    LW_ASSERT(!"a connect event never gets into an inbox");
}

static unsigned sim_progress(lw_fabric_t *fabric)
{
    if (fabric->crashed)
        return 0;
    unsigned events = run_ready(fabric);
    unsigned landings = 0; /* those of this call wait for the next one */
    for (lw_sim_link_t *at = fabric->landing.next; at != &fabric->landing; at = at->next)
        landings++;
    for (; landings > 0 && !lw_sim_list_empty(&fabric->landing); landings--, events++)
        land((lw_sim_event_t *)fabric->landing.next);
    for (unsigned i = 0; i < PROGRESS_EVENTS_MAX && !lw_sim_list_empty(&fabric->inbox); i++, events++)
        handle(fabric, (lw_sim_event_t *)fabric->inbox.next);
    events += run_ready(fabric);
    events += finish_ending(fabric);
    return events;
}

static int sim_event_fd(lw_fabric_t *fabric)
{
    return -1;
}

static bool sim_arm(lw_fabric_t *fabric)
{
    return lw_sim_list_empty(&fabric->inbox) && lw_sim_list_empty(&fabric->landing) &&
           lw_sim_list_empty(&fabric->ready);
}

static const char *sim_transport_text(const lw_conn_t *conn)
{
    return "sim";
}

const lw_fabric_ops_t *lw_fabric_sim(void)
{
    static const lw_fabric_ops_t ops = {
        .name = "sim",
        .open = sim_open,
        .close = sim_close,
        .listen = sim_listen,
        .address = sim_address,
        .connect = sim_connect,
        .close_conn = sim_close_conn,
        .set_user = sim_set_user,
        .user = sim_user,
        .send = sim_send,
        .recv = sim_recv,
        .recv_watched = sim_recv_watched,
        .recv_cancel = sim_recv_cancel,
        .register_memory = sim_register,
        .unregister = sim_unregister,
        .progress = sim_progress,
        .event_fd = sim_event_fd,
        .arm = sim_arm,
        .transport_text = sim_transport_text,
    };
    return &ops;
}
