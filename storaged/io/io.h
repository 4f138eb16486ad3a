/* io.h - the main thread's loop as a table: timers and signals, and a way to wake it. Callbacks run on its
 * thread. */
#ifndef LWD_IO_H
#define LWD_IO_H

#include "base/error.h"

typedef struct lwd_io lwd_io_t;

#define LWD_IO_WATCHES_MAX 16u /* timers and signals of one loop */

typedef void (*lwd_io_fn)(void *arg);

typedef struct lwd_io_ops {
    const char *name; /* "uv" */
    LW_CHECK lw_status_t (*create)(lwd_io_t **io_out, lw_error_t *error);
    /* The loop must not be running. */
    void (*destroy)(lwd_io_t *io);
    /* Calls fn each time the signal comes. */
    LW_CHECK lw_status_t (*signal)(lwd_io_t *io, int signum, lwd_io_fn fn, void *arg, lw_error_t *error);
    /* Calls fn every period_us (in whole milliseconds, at least one). */
    LW_CHECK lw_status_t (*timer)(lwd_io_t *io, uint64_t period_us, lwd_io_fn fn, void *arg,
                                  lw_error_t *error);
    /* Runs until stop(). */
    void (*run)(lwd_io_t *io);
    /* From a callback. */
    void (*stop)(lwd_io_t *io);
} lwd_io_ops_t;

const lwd_io_ops_t *lwd_io_uv(void);

#endif /* LWD_IO_H */
