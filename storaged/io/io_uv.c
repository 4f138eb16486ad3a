/* io_uv.c - the main thread's loop over libuv; the only file that includes uv.h. */
#include <stdlib.h>
#include <uv.h>

#include "storaged/io/io.h"

typedef struct watch {
    union {
        uv_handle_t handle;
        uv_signal_t signal;
        uv_timer_t timer;
    } uv;
    lwd_io_fn fn;
    void *arg;
} watch_t;

struct lwd_io {
    uv_loop_t loop;
    watch_t watch[LWD_IO_WATCHES_MAX];
    uint32_t count;
};

static lw_status_t io_create(lwd_io_t **io_out, lw_error_t *error)
{
    lwd_io_t *io = calloc(1, sizeof(*io));
    if (io == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the main loop");
    int rc = uv_loop_init(&io->loop);
    if (rc != 0) {
        free(io);
        return lw_fail(error, LW_ERR_IO, "main loop: %s", uv_strerror(rc));
    }
    *io_out = io;
    return LW_OK;
}

static void io_destroy(lwd_io_t *io)
{
    if (io == NULL)
        return;
    for (uint32_t i = 0; i < io->count; i++)
        uv_close(&io->watch[i].uv.handle, NULL);
    (void)uv_run(&io->loop, UV_RUN_DEFAULT); /* lets the handles close */
    int rc = uv_loop_close(&io->loop);
    LW_ASSERT(rc == 0);
    free(io);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    watch_t *watch = handle->data;
    (void)signum;
    watch->fn(watch->arg);
}

static void on_timer(uv_timer_t *handle)
{
    watch_t *watch = handle->data;
    watch->fn(watch->arg);
}

static watch_t *watch_next(lwd_io_t *io, lwd_io_fn fn, void *arg)
{
    LW_ASSERT(io->count < LWD_IO_WATCHES_MAX);
    watch_t *watch = &io->watch[io->count];
    watch->fn = fn;
    watch->arg = arg;
    return watch;
}

static lw_status_t io_signal(lwd_io_t *io, int signum, lwd_io_fn fn, void *arg, lw_error_t *error)
{
    watch_t *watch = watch_next(io, fn, arg);
    int rc = uv_signal_init(&io->loop, &watch->uv.signal);
    if (rc == 0) {
        io->count++;
        watch->uv.signal.data = watch;
        rc = uv_signal_start(&watch->uv.signal, on_signal, signum);
    }
    return rc == 0 ? LW_OK : lw_fail(error, LW_ERR_IO, "signal %d: %s", signum, uv_strerror(rc));
}

static lw_status_t io_timer(lwd_io_t *io, uint64_t period_us, lwd_io_fn fn, void *arg, lw_error_t *error)
{
    watch_t *watch = watch_next(io, fn, arg);
    uint64_t period_ms = lw_max_u64(period_us / 1000, 1);
    int rc = uv_timer_init(&io->loop, &watch->uv.timer);
    if (rc == 0) {
        io->count++;
        watch->uv.timer.data = watch;
        rc = uv_timer_start(&watch->uv.timer, on_timer, period_ms, period_ms);
    }
    return rc == 0 ? LW_OK : lw_fail(error, LW_ERR_IO, "timer: %s", uv_strerror(rc));
}

static void io_run(lwd_io_t *io)
{
    (void)uv_run(&io->loop, UV_RUN_DEFAULT);
}

static void io_stop(lwd_io_t *io)
{
    uv_stop(&io->loop);
}

const lwd_io_ops_t *lwd_io_uv(void)
{
    static const lwd_io_ops_t ops = {
        .name = "uv",
        .create = io_create,
        .destroy = io_destroy,
        .signal = io_signal,
        .timer = io_timer,
        .run = io_run,
        .stop = io_stop,
    };
    return &ops;
}
