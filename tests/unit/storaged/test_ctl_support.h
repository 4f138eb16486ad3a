/* test_ctl_support.h - nodes with a control plane, for tests: start, wait, HTTP, a recorder for callbacks. */
#ifndef TEST_CTL_SUPPORT_H
#define TEST_CTL_SUPPORT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/longwave_types.h"
#include "storaged/ctl/ctl.h"

#define SECOND 1000000ull

/* What a node's callbacks saw. */
typedef struct seen {
    pthread_mutex_t lock;
    lwd_ended_t ended[64];
    unsigned ended_count, view_count;
    uint64_t epoch;
    atomic_bool not_ready;
} seen_t;

static inline void seen_ended(void *arg, const lwd_ended_t *rows, uint32_t count)
{
    seen_t *seen = arg;
    pthread_mutex_lock(&seen->lock);
    for (uint32_t i = 0; i < count && seen->ended_count < 64; i++)
        seen->ended[seen->ended_count++] = rows[i];
    pthread_mutex_unlock(&seen->lock);
}

static inline void seen_view(void *arg, uint64_t fleet_id, uint64_t epoch)
{
    seen_t *seen = arg;
    pthread_mutex_lock(&seen->lock);
    seen->view_count++;
    seen->epoch = epoch;
    pthread_mutex_unlock(&seen->lock);
}

static inline void seen_usage(void *arg, uint64_t *used_bytes_out, uint64_t *free_bytes_out)
{
    *used_bytes_out = 1000;
    *free_bytes_out = 24000;
}

static inline size_t seen_metrics(void *arg, char *text, size_t text_bytes)
{
    int written = snprintf(text, text_bytes, "# TYPE storaged_test counter\nstoraged_test 17\n");
    return (size_t)written;
}

static inline bool seen_ready(void *arg, char *reasons, size_t reasons_bytes)
{
    seen_t *seen = arg;
    bool ready = !atomic_load(&seen->not_ready);
    if (!ready)
        snprintf(reasons, reasons_bytes, "the \"arena\" is not registered\nand neither is the moon");
    return ready;
}

static inline size_t seen_options(void *arg, char *text, size_t text_bytes)
{
    int written = snprintf(text, text_bytes, "arena.bytes = 16m\n");
    return (size_t)written;
}

static inline unsigned seen_endings_of(seen_t *seen, uint64_t origin)
{
    unsigned count = 0;
    pthread_mutex_lock(&seen->lock);
    for (unsigned i = 0; i < seen->ended_count; i++)
        count += seen->ended[i].origin == origin;
    pthread_mutex_unlock(&seen->lock);
    return count;
}

static inline lwd_ctl_params_t node_params(seen_t *seen)
{
    lwd_ctl_params_t params = {.listen = "127.0.0.1:0", .data = "127.0.0.1:4242", .zone = "z1",
                               .catalogue_path = ":memory:", .catalogue = lwd_catalogue_sim()};
    memset(seen, 0, sizeof(*seen));
    pthread_mutex_init(&seen->lock, NULL);
    params.callbacks = (lwd_ctl_callbacks_t){.arg = seen, .on_ended = seen_ended, .on_view = seen_view,
                                             .usage = seen_usage, .metrics_text = seen_metrics, .ready = seen_ready,
                                             .status_text = seen_options};
    return params;
}

static inline lwd_ctl_t *node_start(const lwd_ctl_params_t *params)
{
    lwd_ctl_t *ctl = NULL;
    lw_error_t error = {0};
    if (lwd_ctl_start(params, &ctl, &error) != LW_OK)
        fail_msg("start: %s", error.text);
    return ctl;
}

/* Waits until `condition` holds; fails the test after a bound that only a fault can reach. */
#define WAIT_FOR(condition)                                                         \
    do {                                                                            \
        uint64_t wait_until = lw_now_us(lw_clock_real()) + 30 * SECOND;             \
        while (!(condition)) {                                                      \
            if (lw_now_us(lw_clock_real()) > wait_until)                            \
                fail_msg("line %d: waited in vain for %s", __LINE__, #condition);   \
            sched_yield();                                                          \
        }                                                                           \
    } while (0)

/* A port that was free a moment ago, as "127.0.0.1:port". */
static inline void free_address(char *address, size_t bytes)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof(at);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
    close(fd);
    snprintf(address, bytes, "127.0.0.1:%u", ntohs(at.sin_port));
}

/* One HTTP exchange; returns the status code and the body in `body`. */
static inline int http(const char *address, const char *method, const char *path, char *body, size_t body_bytes)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
    char text[65536];
    size_t got = 0;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    int bytes = snprintf(text, sizeof(text), "%s %s HTTP/1.0\r\nHost: x\r\n\r\n", method, path);
    assert_int_equal(send(fd, text, (size_t)bytes, MSG_NOSIGNAL), bytes);
    ssize_t n;
    while (got < sizeof(text) - 1 && (n = recv(fd, text + got, sizeof(text) - 1 - got, 0)) > 0)
        got += (size_t)n;
    close(fd);
    text[got] = 0;
    const char *blank = strstr(text, "\r\n\r\n");
    snprintf(body, body_bytes, "%s", blank ? blank + 4 : "");
    return got > 12 ? atoi(text + 9) : 0;
}

#endif /* TEST_CTL_SUPPORT_H */
