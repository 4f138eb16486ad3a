/* server.h - one storaged: builds the modules, joins them, runs until SIGTERM. The one place that knows all
 * of them. */
#ifndef LWD_SERVER_H
#define LWD_SERVER_H

#include "storaged/options.h"

typedef struct lwd_server lwd_server_t;

/* Where the daemon can be reached, with real ports. Strings live as long as the server. */
typedef struct lwd_server_addresses {
    const char *control, *http; /* http: "" without */
    const char *const *data;    /* one for each data thread */
    uint32_t data_count;
    uint64_t node_id, fleet_id;
    const char *pages; /* what the arena got */
    uint64_t arena_bytes;
} lwd_server_addresses_t;

typedef struct lwd_server_params {
    const lwd_options_t *options; /* checked; copied */
    /* Main thread, once: listeners are bound, memory is registered, the catalogue was reached. */
    void (*on_ready)(void *arg, const lwd_server_addresses_t *addresses);
    /* Main thread, on SIGHUP: reads the configuration again into *options_out. NULL: SIGHUP changes nothing.
     */
    lw_status_t (*reload)(void *arg, lwd_options_t *options_out, lw_error_t *error);
    void *arg;
} lwd_server_params_t;

/* Starts, serves, and returns after SIGTERM or SIGINT: OK when everything in flight was finished or its grace
 * was over. Errors name the option at fault. Main thread, once per process at a time. */
LW_CHECK lw_status_t lwd_server_run(const lwd_server_params_t *params, lw_error_t *error);

/* Bytes that mem.arena_bytes stands for: with auto, half of what is left at the time of the call. */
uint64_t lwd_server_arena_bytes(const lwd_options_t *options);
/* Segments that store.segments stands for with an arena of that size (and the log, if there is one). */
uint32_t lwd_server_segment_max(const lwd_options_t *options, uint64_t arena_bytes);

#endif /* LWD_SERVER_H */
