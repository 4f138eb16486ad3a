/* fabric_ucx_conn.c - connections of the UCX fabric: how they begin, and how each of them ends exactly once.
 *
 *   OPEN --close_conn, error--> ENDING --reap--> CLOSING --endpoint gone--> DRAINING --nothing left--> closed
 *
 * Between CLOSING and the end UCX completes what it holds, mostly at once. It gets CLOSE_LIMIT_US for that;
 * then the connection's operations are completed here and left to UCX as orphans, so that a silent peer
 * delays nobody for long.
 *
 * Messages are held back until both ends have exchanged a word that they hear each other: UCX 1.13 aborts the
 * process now and then when an endpoint is lost, or its lanes are chosen, while large sends are queued on it.
 *
 * Shared memory is a case of its own: no failure handling, no closing by force, and an abort when an endpoint
 * goes while something is queued on it. So such a connection waits in ENDING until its operations are over
 * (the peer goes on answering, and we go on dropping what it sends), and is closed gracefully then. A peer
 * that does not answer within the limit leaves its endpoint behind, unclosed, and its worker is not destroyed
 * any more. */
#define _GNU_SOURCE /* open_memstream */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fabric/fabric_address.h"
#include "fabric/fabric_ucx_private.h"

#define CLOSE_LIMIT_US 900000u
#define DRAIN_LIMIT_US 50000u /* some receives never hear of their connection's end from UCX */
#define MAP_SIZE_MIN 64u

static uint64_t monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- endpoint -> connection ---- */

static uint32_t map_slot(const lw_fabric_t *fabric, ucp_ep_h ep)
{
    uint64_t hash = ((uint64_t)(uintptr_t)ep >> 4) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(hash >> 32) & (fabric->map_size - 1);
}

lw_conn_t *lw_ucx_conn_find(const lw_fabric_t *fabric, ucp_ep_h ep)
{
    if (fabric->map_used == 0)
        return NULL;
    for (uint32_t at = map_slot(fabric, ep); fabric->map[at] != NULL; at = (at + 1) & (fabric->map_size - 1))
        if (fabric->map[at]->ep == ep)
            return fabric->map[at];
    return NULL;
}

static void map_put(lw_fabric_t *fabric, lw_conn_t *conn)
{
    uint32_t at = map_slot(fabric, conn->ep);
    while (fabric->map[at] != NULL)
        at = (at + 1) & (fabric->map_size - 1);
    fabric->map[at] = conn;
    fabric->map_used++;
}

/* At most half full, so that probes stay short and always find an end. */
static lw_status_t map_reserve(lw_fabric_t *fabric)
{
    if ((fabric->map_used + 1) * 2 <= fabric->map_size)
        return LW_OK;
    uint32_t old_size = fabric->map_size;
    lw_conn_t **old = fabric->map;
    uint32_t size = old_size == 0 ? MAP_SIZE_MIN : old_size * 2;
    lw_conn_t **map = calloc(size, sizeof(*map));
    if (map == NULL)
        return LW_ERR_NO_MEMORY;
    fabric->map = map;
    fabric->map_size = size;
    fabric->map_used = 0;
    for (uint32_t i = 0; i < old_size; i++)
        if (old[i] != NULL)
            map_put(fabric, old[i]);
    free(old);
    return LW_OK;
}

static void map_remove(lw_fabric_t *fabric, const lw_conn_t *conn)
{
    uint32_t mask = fabric->map_size - 1;
    uint32_t at = map_slot(fabric, conn->ep);
    while (fabric->map[at] != conn) {
        if (fabric->map[at] == NULL)
            return;
        at = (at + 1) & mask;
    }
    fabric->map[at] = NULL;
    fabric->map_used--;
    for (uint32_t next = (at + 1) & mask; fabric->map[next] != NULL; next = (next + 1) & mask) {
        lw_conn_t *moved = fabric->map[next]; /* close the gap for what probed past it */
        fabric->map[next] = NULL;
        fabric->map_used--;
        map_put(fabric, moved);
    }
}

/* ---- beginning ---- */

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    lw_conn_t *conn = lw_ucx_conn_find(arg, ep);
    if (conn == NULL)
        return; /* ended already, UCX was still closing it */
    conn->failed = true;
    LW_DEBUG("fabric", "connection lost: %s", ucs_status_string(status));
    if (conn->state == LW_CONN_OPEN)
        lw_ucx_conn_end(conn, LW_ERR_UNREACHABLE);
}

/* Makes a connection from endpoint parameters that say whom to connect to, or whose request to accept. */
static lw_status_t create(lw_fabric_t *fabric, ucp_ep_params_t *params, lw_conn_t **conn_out,
                          lw_error_t *error)
{
    if (fabric->closing)
        return lw_fail(error, LW_ERR_CANCELED, "the fabric is closing");
    lw_conn_t *conn = calloc(1, sizeof(*conn));
    if (conn == NULL || map_reserve(fabric) != LW_OK) {
        free(conn);
        return lw_fail(error, LW_ERR_NO_MEMORY, "a connection");
    }
    conn->fabric = fabric;
    lw_ucx_list_init(&conn->ops);
    params->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params->err_handler.cb = on_error;
    params->err_handler.arg = fabric;
    params->err_mode = fabric->shared->shm ? UCP_ERR_HANDLING_MODE_NONE : UCP_ERR_HANDLING_MODE_PEER;
    ucs_status_t status = ucp_ep_create(fabric->worker, params, &conn->ep);
    if (status != UCS_OK) {
        free(conn);
        return lw_fail(error, LW_ERR_UNREACHABLE, "UCX endpoint: %s", ucs_status_string(status));
    }
    map_put(fabric, conn);
    lw_ucx_list_add(&fabric->open, &conn->link);
    conn->accepted = (params->field_mask & UCP_EP_PARAM_FIELD_CONN_REQUEST) != 0;
    if (!conn->accepted)
        lw_ucx_send_ready(conn);
    *conn_out = conn;
    return LW_OK;
}

lw_status_t lw_ucx_connect(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out, lw_error_t *error)
{
    struct sockaddr_storage where;
    socklen_t where_bytes;
    lw_status_t status = lw_fabric_address_parse(address, &where, &where_bytes, error);
    if (status != LW_OK)
        return status;
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .sockaddr = {.addr = (const struct sockaddr *)&where, .addrlen = where_bytes},
    };
    return create(fabric, &params, conn_out, error);
}

void lw_ucx_accept(ucp_conn_request_h request, void *arg)
{
    lw_fabric_t *fabric = arg;
    if (fabric->closing) {
        (void)ucp_listener_reject(fabric->listener, request);
        return;
    }
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST, .conn_request = request};
    lw_conn_t *conn;
    lw_error_t error;
    if (create(fabric, &params, &conn, &error) != LW_OK) {
        LW_WARN("fabric", "a peer could not be accepted: %s", error.text);
        return;
    }
    if (fabric->handler.on_accept != NULL)
        fabric->handler.on_accept(fabric->handler.arg, conn);
}

/* ---- ending ---- */

void lw_ucx_conn_end(lw_conn_t *conn, lw_status_t status)
{
    conn->state = LW_CONN_ENDING;
    conn->status = status;
    conn->close_deadline_us = monotonic_us() + CLOSE_LIMIT_US;
    lw_ucx_cancel_early(conn, status == LW_OK ? LW_ERR_CANCELED : status);
    lw_ucx_list_remove(&conn->link);
    lw_ucx_list_add(&conn->fabric->ending, &conn->link);
}

/* The last step: nothing of the connection is left afterwards. */
static void finish(lw_conn_t *conn)
{
    lw_fabric_t *fabric = conn->fabric;
    lw_ucx_orphan_ops(conn, conn->status == LW_OK ? LW_ERR_CANCELED : conn->status);
    lw_ucx_run_ready(fabric);
    map_remove(fabric, conn);
    lw_ucx_list_remove(&conn->link);
    if (fabric->handler.on_closed != NULL)
        fabric->handler.on_closed(fabric->handler.arg, conn, conn->status);
    free(conn);
}

static void begin_close(lw_conn_t *conn)
{
    conn->state = LW_CONN_CLOSING;
    if (conn->fabric->closing && conn->fabric->shared->shm)
        return; /* goes with the worker, without asking the peer */
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS};
    param.flags = conn->fabric->shared->shm ? 0 : UCP_EP_CLOSE_FLAG_FORCE;
    void *request = ucp_ep_close_nbx(conn->ep, &param);
    conn->close_request = UCS_PTR_IS_PTR(request) ? request : NULL;
}

static bool may_close(const lw_conn_t *conn)
{
    return !conn->fabric->shared->shm || conn->failed || (conn->ready && lw_ucx_list_empty(&conn->ops));
}

static bool is_gone(const lw_conn_t *conn)
{
    return conn->close_request == NULL || ucp_request_check_status(conn->close_request) != UCS_INPROGRESS;
}

/* Takes conn as far as it goes now; true when it has ended (and is freed). */
static bool advance(lw_conn_t *conn)
{
    if (conn->state == LW_CONN_ENDING && may_close(conn))
        begin_close(conn);
    if (conn->state == LW_CONN_CLOSING && is_gone(conn)) {
        conn->state = LW_CONN_DRAINING;
        conn->close_deadline_us = lw_min_u64(conn->close_deadline_us, monotonic_us() + DRAIN_LIMIT_US);
    }
    bool over = conn->state == LW_CONN_DRAINING && lw_ucx_list_empty(&conn->ops);
    if (!over && monotonic_us() < conn->close_deadline_us)
        return false;
    lw_ucx_conn_abandon(conn);
    return true;
}

void lw_ucx_conn_abandon(lw_conn_t *conn)
{
    if (conn->state == LW_CONN_ENDING && may_close(conn))
        begin_close(conn);
    bool left_behind = conn->state == LW_CONN_ENDING || !is_gone(conn);
    if (left_behind && conn->fabric->shared->shm)
        conn->fabric->worker_lost = true;
    if (conn->close_request != NULL)
        ucp_request_free(conn->close_request); /* UCX goes on without us if it has to */
    conn->close_request = NULL;
    finish(conn);
}

unsigned lw_ucx_reap(lw_fabric_t *fabric)
{
    unsigned ended = 0;
    lw_ucx_link_t *last = fabric->ending.prev; /* what callbacks add waits for the next round */
    for (bool more = !lw_ucx_list_empty(&fabric->ending); more;) {
        lw_ucx_link_t *at = fabric->ending.next;
        more = at != last;
        lw_ucx_list_remove(at); /* to the end: each is looked at once */
        lw_ucx_list_add(&fabric->ending, at);
        ended += advance((lw_conn_t *)at);
    }
    return ended;
}

bool lw_ucx_reap_due(const lw_fabric_t *fabric)
{
    if (lw_ucx_list_empty(&fabric->ending))
        return false;
    uint64_t now_us = monotonic_us();
    for (const lw_ucx_link_t *at = fabric->ending.next; at != &fabric->ending; at = at->next) {
        const lw_conn_t *conn = (const lw_conn_t *)at;
        bool can_move = (conn->state == LW_CONN_ENDING && may_close(conn)) ||
                        (conn->state == LW_CONN_CLOSING && is_gone(conn)) ||
                        (conn->state == LW_CONN_DRAINING && lw_ucx_list_empty(&conn->ops));
        if (can_move || now_us >= conn->close_deadline_us)
            return true;
    }
    return false; /* UCX's event descriptor wakes us when it gets on */
}

/* ---- words ---- */

/* UCX describes an endpoint's lanes line by line: "lane[0]:  2:tcp/lo.0 md[1] -> ... am". Collects what
 * carries messages and bulk. */
static void read_lanes(char *words, char *text, size_t text_bytes)
{
    text[0] = '\0';
    for (char *line = strtok(words, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *lane = strstr(line, "lane[");
        char *name = lane != NULL ? strchr(lane, ':') : NULL;
        name = name != NULL ? strchr(name + 1, ':') : NULL;
        if (name == NULL)
            continue;
        name++;
        size_t bytes = strcspn(name, " .");
        char part[32];
        snprintf(part, sizeof(part), "%.*s", (int)bytes, name);
        if (bytes == 0 || strstr(text, part) != NULL)
            continue;
        size_t used = strlen(text);
        snprintf(text + used, text_bytes - used, "%s%s", used > 0 ? "+" : "", part);
    }
}

void lw_ucx_conn_classify(lw_conn_t *conn)
{
    char *words = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&words, &bytes);
    if (out == NULL)
        return;
    ucp_ep_print_info(conn->ep, out);
    fclose(out);
    read_lanes(words, conn->transport, sizeof(conn->transport));
    free(words);
    if (conn->fabric->shared->shm)
        conn->kind = LW_UCX_KIND_SHM;
    else if (strncmp(conn->transport, "tcp/", 4) == 0 && strchr(conn->transport, '+') == NULL)
        conn->kind = LW_UCX_KIND_TCP;
    else
        conn->kind = LW_UCX_KIND_OTHER;
}

const char *lw_ucx_transport_text(const lw_conn_t *conn)
{
    return conn->transport[0] != '\0' ? conn->transport : "not connected yet";
}
