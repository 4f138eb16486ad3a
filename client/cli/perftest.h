/* perftest.h - what the files of `longwave perftest` share.
 *
 * One process, one thread, one store client; one daemon with one data thread. A *set* is a number of segments
 * with known contents; a *row* is one measured round. */
#ifndef LWC_CLI_PERFTEST_H
#define LWC_CLI_PERFTEST_H

#include <sys/types.h>

#include "base/prng.h"
#include "client/control/control.h"
#include "client/store/store.h"

#define LWC_PERF_HEADS 8u
#define LWC_PERF_HEAD_DIM 128u
#define LWC_PERF_ROW_BYTES 512u /* a K row and a V row of 128 bf16 */
#define LWC_PERF_TOKENS 1024u   /* of a segment */
#define LWC_PERF_BATCH_MAX 4096u
#define LWC_PERF_DEPTH_MAX 64u
#define LWC_PERF_ROUNDS_MAX 101u
#define LWC_PERF_BATCHES_MAX 8u

typedef enum lwc_perf_mode {
    LWC_PERF_FETCH,   /* records at random places */
    LWC_PERF_CEILING, /* the same request, answered from one contiguous cold extent */
    LWC_PERF_STREAM,  /* as many bytes from a contiguous cold extent over the bare fabric, no checksums */
    LWC_PERF_MIX,     /* records as the index makes them */
    LWC_PERF_PUT,
    LWC_PERF_MODES
} lwc_perf_mode_t;
const char *lwc_perf_mode_text(lwc_perf_mode_t mode);

typedef struct lwc_perf_options {
    const char *transport, *storaged, *fleet, *json;
    uint64_t store_bytes, mix_bytes;
    uint32_t record_bytes, depth, rounds;
    uint32_t batches[LWC_PERF_BATCHES_MAX], batch_count;
    bool modes[LWC_PERF_MODES];
    bool verify, from_stdin, quiet;
    double seconds;
} lwc_perf_options_t;

typedef struct lwc_perf_row {
    lwc_perf_mode_t mode;
    uint32_t batch;
    uint64_t bytes, records, requests, failures;
    double seconds, client_cpu_s, server_cpu_s;
    double p50_us, p99_us, p999_us;
} lwc_perf_row_t;

/* ---- perftest_daemon.c: a child process: storaged, or this program as a stream server ---- */
typedef struct lwc_perf_child {
    pid_t pid;        /* 0: none */
    char ready[1024]; /* the line that it wrote when it was ready */
} lwc_perf_child_t;

/* argv ends with NULL; "%ready" in it becomes the descriptor that the child writes its line to. */
LW_CHECK lw_status_t lwc_perf_child_start(lwc_perf_child_t *child, const char *const *argv,
                                          lw_error_t *error);
void lwc_perf_child_stop(lwc_perf_child_t *child);
/* The text behind "name":" in the line; ERR_NOT_FOUND. */
LW_CHECK lw_status_t lwc_perf_child_text(const lwc_perf_child_t *child, const char *name, char *text,
                                         size_t text_bytes);
double lwc_perf_child_cpu_s(const lwc_perf_child_t *child); /* all its threads; 0 where it is not known */
double lwc_perf_cpu_s(void);                                /* this process */
/* "storaged" beside this program, in the build tree or on the path, into text. */
void lwc_perf_find_storaged(char *text, size_t text_bytes);

/* ---- perftest_set.c: segments whose every byte is known ---- */
typedef struct lwc_perf_set {
    bool mixed;
    uint32_t first_key, segment_count;
    uint32_t clusters, outliers; /* of each head */
    uint64_t seed, segment_bytes, session_id, bytes;
    uint32_t term;
    uint16_t *sizes; /* mixed: [segment][head][clusters] */
    uint32_t rows;   /* not mixed: of every record */
} lwc_perf_set_t;

LW_CHECK lw_status_t lwc_perf_set_init(lwc_perf_set_t *set, bool mixed, uint32_t record_bytes, uint64_t bytes,
                                       uint32_t first_key, lw_error_t *error);
void lwc_perf_set_fini(lwc_perf_set_t *set);
lw_segment_name_t lwc_perf_set_name(const lwc_perf_set_t *set, uint32_t segment);
/* Builds and seals a segment into extent (set->segment_bytes, 64-byte aligned). */
void lwc_perf_set_build(const lwc_perf_set_t *set, uint32_t segment, uint8_t *extent);
uint32_t lwc_perf_set_rows(const lwc_perf_set_t *set, uint32_t segment, uint32_t head, uint32_t entry);
/* Whether every byte of a record is as it was built. */
bool lwc_perf_set_matches(const lwc_perf_set_t *set, uint32_t segment, uint32_t head, uint32_t entry,
                          const uint8_t *record);
/* A random record; of a mixed set every second one is an outlier. */
void lwc_perf_set_want(const lwc_perf_set_t *set, lw_prng_t *prng, uint32_t number, lwc_want_t *want);

/* ---- perftest_fetch.c: the store client ---- */
typedef struct lwc_perf_client {
    const lwc_perf_options_t *options;
    lwc_control_t *control;
    lwc_session_info_t session;
    lw_view_t view;
    lwc_store_t *store;
    uint8_t *landing;
    uint64_t landing_bytes, next_tag, renew_at_us;
    lwc_perf_set_t uniform, mixed;
    const lwc_perf_child_t *daemon;
    lw_prng_t prng;
} lwc_perf_client_t;

/* Opens a session at the fleet and a store client for it. `client` is zeroed, with options and daemon set. */
LW_CHECK lw_status_t lwc_perf_client_open(lwc_perf_client_t *client, const char *control, lw_error_t *error);
void lwc_perf_client_close(lwc_perf_client_t *client);
/* Puts the sets; `row_out` tells how fast, building apart. */
LW_CHECK lw_status_t lwc_perf_fill(lwc_perf_client_t *client, lwc_perf_row_t *row_out, lw_error_t *error);
/* One timed round. */
LW_CHECK lw_status_t lwc_perf_fetch(lwc_perf_client_t *client, lwc_perf_mode_t mode, uint32_t batch,
                                    double seconds, lwc_perf_row_t *row_out, lw_error_t *error);
/* Fetches and compares every byte, not timed. ERR_CORRUPT names the record. */
LW_CHECK lw_status_t lwc_perf_verify(lwc_perf_client_t *client, uint64_t bytes, lw_error_t *error);

/* ---- perftest_stream.c: the bare fabric ---- */
typedef struct lwc_perf_stream lwc_perf_stream_t;
LW_CHECK lw_status_t lwc_perf_stream_open(const lwc_perf_options_t *options, lwc_perf_stream_t **stream_out,
                                          lw_error_t *error);
void lwc_perf_stream_close(lwc_perf_stream_t *stream);
LW_CHECK lw_status_t lwc_perf_stream_run(lwc_perf_stream_t *stream, uint64_t message_bytes, double seconds,
                                         lwc_perf_row_t *row_out, lw_error_t *error);
int lwc_perf_stream_serve(int argc, char **argv); /* the child's main */

/* ---- perftest_report.c ---- */
void lwc_perf_row_latency(lwc_perf_row_t *row, uint32_t *latency_ns100, uint64_t count); /* sorts them */
void lwc_perf_print_row_json(const lwc_perf_row_t *row); /* one line, for programs */
/* Medians of `rows` by mode and batch: a table, and JSON where asked for. False when the file cannot be
 * written. */
bool lwc_perf_report(const lwc_perf_options_t *options, const lwc_perf_row_t *rows, uint32_t count);

#endif /* LWC_CLI_PERFTEST_H */
