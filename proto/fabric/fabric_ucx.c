/* fabric_ucx.c - the fabric over UCX: opening and closing, listening, progress, sleeping. The table is at the
 * end.
 *
 * Everything runs on the thread that owns the fabric (the worker is in single-thread mode). UCX's callbacks
 * only note what happened; closing endpoints is left to reap(), outside of them. */
#include "fabric/fabric_ucx_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/fabric_address.h"

#define SENDER_WAKES_US 200u /* while sends wait for a shared-memory peer */
#define ENDING_WAKES_US 50000u
#define PROGRESS_ROUNDS_MAX 64u  /* bound of one progress call */
#define CLOSE_ROUNDS_US 1000000u /* how long close() waits for graceful ends */

static uint64_t monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void close_event_fd(lw_fabric_t *fabric)
{
    if (fabric->timer_fd >= 0)
        (void)close(fabric->timer_fd);
    if (fabric->event_fd >= 0)
        (void)close(fabric->event_fd);
}

static ucs_status_t set_handler(lw_fabric_t *fabric, unsigned id, ucp_am_recv_callback_t callback)
{
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS,
        .id = id,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = callback,
        .arg = fabric,
    };
    return ucp_worker_set_am_recv_handler(fabric->worker, &handler);
}

/* Nothing of UCX wakes a sender when the queue to a shared-memory peer has room again, nor anybody when an
 * ending connection's time is over: a timer does. */
static bool make_event_fd(lw_fabric_t *fabric)
{
    int worker_fd;
    struct epoll_event readable = {.events = EPOLLIN};
    fabric->event_fd = epoll_create1(EPOLL_CLOEXEC);
    fabric->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fabric->event_fd >= 0 && fabric->timer_fd >= 0 &&
        ucp_worker_get_efd(fabric->worker, &worker_fd) == UCS_OK &&
        epoll_ctl(fabric->event_fd, EPOLL_CTL_ADD, worker_fd, &readable) == 0 &&
        epoll_ctl(fabric->event_fd, EPOLL_CTL_ADD, fabric->timer_fd, &readable) == 0)
        return true;
    close_event_fd(fabric);
    return false;
}

static void set_timer(lw_fabric_t *fabric, uint64_t us) /* 0: stops it */
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(us / 1000000u), .tv_nsec = (long)(us % 1000000u) * 1000}};
    fabric->timer_set = timerfd_settime(fabric->timer_fd, 0, &when, NULL) == 0 && us > 0;
}

static lw_status_t create_worker(lw_fabric_t *fabric, lw_error_t *error)
{
    ucp_worker_params_t params = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SINGLE,
    };
    ucs_status_t status = ucp_worker_create(fabric->shared->context, &params, &fabric->worker);
    if (status != UCS_OK)
        return lw_fail(error, lw_ucx_status(status), "UCX worker: %s", ucs_status_string(status));

    status = set_handler(fabric, LW_UCX_AM_ID, lw_ucx_on_message);
    if (status == UCS_OK)
        status = set_handler(fabric, LW_UCX_AM_READY_ID, lw_ucx_on_ready);
    if (status == UCS_OK)
        status = set_handler(fabric, LW_UCX_AM_PART_ID, lw_ucx_on_part);
    if (status == UCS_OK && !make_event_fd(fabric))
        status = UCS_ERR_IO_ERROR;
    if (status != UCS_OK) {
        ucp_worker_destroy(fabric->worker);
        return lw_fail(error, lw_ucx_status(status), "UCX worker: %s", ucs_status_string(status));
    }
    return LW_OK;
}

static lw_status_t ucx_open(const lw_fabric_params_t *params, lw_fabric_t **fabric_out, lw_error_t *error)
{
    lw_fabric_t *fabric = calloc(1, sizeof(*fabric));
    if (fabric == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a fabric");
    fabric->handler = params->handler;
    lw_ucx_list_init(&fabric->open);
    lw_ucx_list_init(&fabric->ending);
    lw_ucx_list_init(&fabric->ready);
    lw_ucx_list_init(&fabric->free_ops);

    lw_status_t status = lw_ucx_context_acquire(params->transports, &fabric->shared, error);
    if (status != LW_OK)
        goto err_fabric;
    status = create_worker(fabric, error);
    if (status != LW_OK)
        goto err_context;
    *fabric_out = fabric;
    return LW_OK;

err_context:
    lw_ucx_context_release(fabric->shared);
err_fabric:
    free(fabric);
    return status;
}

/* The listener goes last, right before the worker: UCX 1.13 keeps sockets that were accepted and have said nothing yet, and
 * one that speaks after its listener is gone makes UCX's own thread read freed memory. Until then peers are rejected. */
static void end_listener(lw_fabric_t *fabric)
{
    if (fabric->listener != NULL)
        ucp_listener_destroy(fabric->listener);
    fabric->listener = NULL;
}

static void ucx_close(lw_fabric_t *fabric)
{
    fabric->closing = true;
    while (!lw_ucx_list_empty(&fabric->open))
        lw_ucx_conn_end((lw_conn_t *)fabric->open.next, LW_ERR_CANCELED);
    uint64_t end_us = monotonic_us() + CLOSE_ROUNDS_US;
    while (!lw_ucx_list_empty(&fabric->ending) && monotonic_us() < end_us) {
        (void)ucp_worker_progress(fabric->worker);
        lw_ucx_run_ready(fabric);
        lw_ucx_reap(fabric);
    }
    while (!lw_ucx_list_empty(&fabric->ending)) /* a peer that does not answer, or sits in this very thread */
        lw_ucx_conn_abandon((lw_conn_t *)fabric->ending.next);
    lw_ucx_run_ready(fabric);
    if (fabric->worker_lost) {
        end_listener(fabric);
        LW_WARN("fabric",
                "a shared-memory peer did not answer: its worker's memory stays until the process ends");
        return;
    }
    close_event_fd(fabric);
    end_listener(fabric);
    ucp_worker_destroy(fabric->worker);
    lw_ucx_ops_fini(fabric);
    lw_ucx_context_release(fabric->shared);
    free(fabric->map);
    free(fabric);
}

static lw_status_t ucx_listen(lw_fabric_t *fabric, const char *address, lw_error_t *error)
{
    if (fabric->listener != NULL)
        return lw_fail(error, LW_ERR_INVALID, "listen '%s': this fabric listens already", address);
    struct sockaddr_storage where;
    socklen_t where_bytes;
    lw_status_t parsed = lw_fabric_address_parse(address, &where, &where_bytes, error);
    if (parsed != LW_OK)
        return parsed;
    ucp_listener_params_t params = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .sockaddr = {.addr = (const struct sockaddr *)&where, .addrlen = where_bytes},
        .conn_handler = {.cb = lw_ucx_accept, .arg = fabric},
    };
    ucs_status_t status = ucp_listener_create(fabric->worker, &params, &fabric->listener);
    if (status == UCS_OK)
        return LW_OK;
    fabric->listener = NULL;
    if (status == UCS_ERR_BUSY)
        return lw_fail(error, LW_ERR_EXISTS, "listen '%s': address already in use", address);
    return lw_fail(error, LW_ERR_IO, "listen '%s': %s", address, ucs_status_string(status));
}

static lw_status_t ucx_address(lw_fabric_t *fabric, char *text, size_t text_bytes)
{
    if (fabric->listener == NULL)
        return LW_ERR_NOT_FOUND;
    ucp_listener_attr_t attr = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    if (ucp_listener_query(fabric->listener, &attr) != UCS_OK)
        return LW_ERR_IO;
    return lw_fabric_address_text(&attr.sockaddr, text, text_bytes);
}

static lw_status_t ucx_connect(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out,
                               lw_error_t *error)
{
    return lw_ucx_connect(fabric, address, conn_out, error);
}

static void ucx_close_conn(lw_conn_t *conn)
{
    if (conn->state == LW_CONN_OPEN)
        lw_ucx_conn_end(conn, LW_OK);
}

static void ucx_set_user(lw_conn_t *conn, void *user)
{
    conn->user = user;
}
static void *ucx_user(const lw_conn_t *conn)
{
    return conn->user;
}

static lw_status_t ucx_register(lw_fabric_t *fabric, void *memory, size_t bytes, lw_region_t **region_out,
                                lw_error_t *error)
{
    lw_region_t *region = calloc(1, sizeof(*region));
    if (region == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a region");
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = memory,
        .length = bytes,
    };
    ucs_status_t status = ucp_mem_map(fabric->shared->context, &params, &region->memory);
    if (status != UCS_OK) {
        free(region);
        return lw_fail(error, LW_ERR_EXHAUSTED,
                       "registering %zu bytes: %s (is the memlock limit large enough?)", bytes,
                       ucs_status_string(status));
    }
    region->fabric = fabric;
    *region_out = region;
    return LW_OK;
}

static void ucx_unregister(lw_region_t *region)
{
    if (region == NULL)
        return;
    (void)ucp_mem_unmap(region->fabric->shared->context, region->memory);
    free(region);
}

static unsigned ucx_progress(lw_fabric_t *fabric)
{
    unsigned events = 0;
    for (unsigned i = 0; i < PROGRESS_ROUNDS_MAX; i++) {
        unsigned did = ucp_worker_progress(fabric->worker);
        events += did;
        if (did == 0)
            break;
    }
    events += lw_ucx_run_ready(fabric);
    if (!lw_ucx_list_empty(&fabric->ending))
        events += lw_ucx_reap(fabric);
    return events;
}

static int ucx_event_fd(lw_fabric_t *fabric)
{
    return fabric->event_fd;
}

static bool ucx_arm(lw_fabric_t *fabric)
{
    if (!lw_ucx_list_empty(&fabric->ready) || lw_ucx_reap_due(fabric))
        return false;
    if (ucp_worker_arm(fabric->worker) != UCS_OK)
        return false;
    uint64_t wake_us = 0;
    if (fabric->shared->shm && fabric->sends > 0)
        wake_us = SENDER_WAKES_US;
    else if (!lw_ucx_list_empty(&fabric->ending))
        wake_us = ENDING_WAKES_US;
    if (wake_us > 0 || fabric->timer_set)
        set_timer(fabric, wake_us);
    return true;
}

const lw_fabric_ops_t *lw_fabric_ucx(void)
{
    static const lw_fabric_ops_t ops = {
        .name = "ucx",
        .open = ucx_open,
        .close = ucx_close,
        .listen = ucx_listen,
        .address = ucx_address,
        .connect = ucx_connect,
        .close_conn = ucx_close_conn,
        .set_user = ucx_set_user,
        .user = ucx_user,
        .send = lw_ucx_send,
        .recv = lw_ucx_recv,
        .recv_watched = lw_ucx_recv_watched,
        .recv_cancel = lw_ucx_stream_cancel,
        .register_memory = ucx_register,
        .unregister = ucx_unregister,
        .progress = ucx_progress,
        .event_fd = ucx_event_fd,
        .arm = ucx_arm,
        .transport_text = lw_ucx_transport_text,
    };
    return &ops;
}
