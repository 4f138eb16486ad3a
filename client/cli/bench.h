/* bench.h - what the files of `longwave bench` share.
 *
 * A *bench* is a handle with sessions that hold synthetic K and V in a model's shape, and the buffers of one
 * decode step: every layer's query, key, value and output in the device's memory. The library is used through
 * longwave.h alone; the table of kernels/backend.h gives memory and streams, so that no GPU library is needed
 * here. One thread calls; data are generated on several. */
#ifndef LWC_CLI_BENCH_H
#define LWC_CLI_BENCH_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "client/cli/json.h"
#include "client/examples/llama/gpu.h"
#include "client/include/longwave.h"
#include "client/synth/synth.h"
#include "kernels/backend.h"

#define LWC_BENCH_BATCH_MAX 64u
#define LWC_BENCH_STEPS_MAX 100000u

/* ---- bench_shape.c ---- */

/* "llama3-8b", "llama3-70b-tp8", "qwen2.5-7b", "smollm2", "tiny": the shape of one rank. False: unknown. */
bool lwc_bench_shape(const char *name, llama_shape_t *shape_out);
void lwc_bench_shapes(FILE *out); /* a line for each */

/* ---- bench_options.c ---- */

typedef enum lwc_bench_baseline { LWC_BENCH_BASELINE_NONE, LWC_BENCH_BASELINE_FULL } lwc_bench_baseline_t;

typedef struct lwc_bench_options {
    const char *shape_name, *backend, *fleet, *transport, *config, *json, *trace, *storaged;
    llama_shape_t shape; /* with --layers */
    uint32_t context, batch, steps, warm_up, threads, samples;
    uint32_t cache_ppm; /* share of the KV that the block cache holds */
    uint32_t hits_ppm;  /* wanted hit ratio; LW_PPM_NONE: what drifting queries give */
    lw_session_params_t policy;
    const char *policy_name;
    lwc_bench_baseline_t baseline;
    bool graph, ceiling, quiet;
    bool whole; /* `bench tokens`: the model's products too */
    uint64_t seed;
} lwc_bench_options_t;

/* -1: go on; otherwise the exit status. */
int lwc_bench_parse(int argc, char **argv, lwc_bench_options_t *options);
bool lwc_bench_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *value_out);

/* ---- bench_device.c: memory and order on the device that the handle uses ---- */

typedef struct lwc_bench_device {
    const lwk_backend_t *backend;
    lwk_dev_t *dev;
    void *stream;
    lwk_event_t *event;
} lwc_bench_device_t;

LW_CHECK lw_status_t lwc_bench_device_open(const char *backend, lwc_bench_device_t *device,
                                           lw_error_t *error);
void lwc_bench_device_close(lwc_bench_device_t *device);
LW_CHECK lw_status_t lwc_bench_alloc(lwc_bench_device_t *device, lwk_memory_t kind, uint64_t bytes,
                                     void **ptr_out, lw_error_t *error);
LW_CHECK lw_status_t lwc_bench_copy(lwc_bench_device_t *device, void *to, const void *from, uint64_t bytes,
                                    lw_error_t *error);
uint64_t lwc_bench_now_ns(void);
/* Until everything on the stream is done. */
LW_CHECK lw_status_t lwc_bench_wait(lwc_bench_device_t *device, lw_error_t *error);
/* Bytes read and written a second by a large copy within the device's memory, GB/s: what floors are counted
 * with. */
LW_CHECK lw_status_t lwc_bench_bandwidth(lwc_bench_device_t *device, double *gbps_out, lw_error_t *error);

/* ---- bench_threads.c ---- */

/* Calls task(arg, i) for i < count on up to `threads` threads, this one included; returns when all are done.
 */
void lwc_bench_parallel(uint32_t threads, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg);

/* ---- bench_kv.c: the sessions and what they hold ---- */

typedef struct lwc_bench_ingest {
    uint64_t tokens;   /* of all sessions */
    double made_s;     /* waiting for the generator */
    double appended_s; /* lw_prefill, the wait for room in the steady zone included */
    double flushed_s;
    uint64_t index_bytes, stored_bytes, clusters, outliers, sealed_tokens;
} lwc_bench_ingest_t;

typedef struct lwc_bench {
    lwc_bench_options_t options;
    lwc_bench_device_t device;
    lw_t *kv;
    lw_session_t *sessions[LWC_BENCH_BATCH_MAX];
    lw_synth_t *texts[LWC_BENCH_BATCH_MAX]; /* [0] owns the tables */
    uint32_t tokens;                        /* each session's, as decoding goes on */
    /* One step: [layer] of query [batch][query heads][d], key and value [batch][kv heads][d]; out as query.
     * bf16. */
    uint16_t *inputs, *outputs;                 /* device */
    uint16_t *inputs_staging, *outputs_staging; /* pinned */
    uint64_t query_elements, key_elements;      /* of one layer */
    bool async;                                 /* the device runs beside this thread */
    double fresh;                               /* of the timed steps, see lwc_bench_inputs */
    lwk_graph_t *graph; /* of a step over bound slots; NULL: steps are enqueued one by one */
    lwc_bench_ingest_t ingest;
} lwc_bench_t;

/* Opens the handle and the sessions and fills them up to options.context. */
LW_CHECK lw_status_t lwc_bench_open(lwc_bench_t *bench, lw_error_t *error);
void lwc_bench_close(lwc_bench_t *bench);
uint64_t lwc_bench_layer_elements(const lwc_bench_t *bench);
lw_tensor_t lwc_bench_tensor(const lwc_bench_t *bench, void *data, uint32_t heads);
/* Says how far something is, at most twice a second. */
void lwc_bench_show(const lwc_bench_t *bench, const char *what, uint64_t done, uint64_t total);

/* ---- bench_step.c: one step of all layers ---- */

/* Binds the sessions and, with --graph, captures a step; again after stamping was switched. */
LW_CHECK lw_status_t lwc_bench_capture(lwc_bench_t *bench, lw_error_t *error);
/* One layer over the step's buffers: eagerly over the sessions, or over bound slots. */
LW_CHECK lw_status_t lwc_bench_attend(lwc_bench_t *bench, uint32_t layer, bool bound, lw_error_t *error);
/* What must come before each run of a step over bound slots; waits while the library is busy. */
LW_CHECK lw_status_t lwc_bench_announce(lwc_bench_t *bench, lw_error_t *error);
/* A step from the inputs that are there; waits for its end and checks it. */
LW_CHECK lw_status_t lwc_bench_step(lwc_bench_t *bench, double *us_out, lw_error_t *error);
LW_CHECK lw_status_t lwc_bench_check_sessions(lwc_bench_t *bench, lw_error_t *error);

/* ---- bench_inputs.c: queries, keys and values of the next token ---- */

/* fresh: share of (session, layer, KV head) that look for something new; below 0: drifting queries. Into
 * inputs_staging, and from there to `to` (device, as inputs). */
LW_CHECK lw_status_t lwc_bench_inputs(lwc_bench_t *bench, uint32_t step, double fresh, uint16_t *to,
                                      lw_error_t *error);

/* ---- bench_phase.c: when each op of a step ran ---- */

#define LWC_BENCH_OPS 6u
extern const char *const lwc_bench_op_names[LWC_BENCH_OPS];

/* Stands between the library and its backend from here on; before lw_open. */
void lwc_bench_phase_install(void);
/* Makes room for stamps. ERR_UNSUPPORTED: the device's clock cannot be read (the runner's library is
 * missing). */
LW_CHECK lw_status_t lwc_bench_phase_init(lwc_bench_t *bench, lw_error_t *error);
void lwc_bench_phase_fini(lwc_bench_t *bench);
void lwc_bench_phase_switch(bool on); /* ops enqueued or captured from here on write stamps */
/* Begin (0) or end (1) of an op of the last stamped step, in ns of this host's clock. 0: it did not run. */
uint64_t lwc_bench_phase_ns(uint32_t layer, uint32_t op, uint32_t end);

/* ---- bench_trace.c ---- */

void lwc_bench_trace_watch(void); /* fetches too, from here on; before lw_open */
void lwc_bench_trace_clear(void);
/* The last stamped step. */
LW_CHECK lw_status_t lwc_bench_trace_write(const lwc_bench_t *bench, const char *path, lw_error_t *error);

/* ---- bench_steps.c ---- */

typedef struct lwc_bench_times {
    uint32_t count;
    double *step_us; /* [count], one decode step of all layers */
} lwc_bench_times_t;

typedef struct lwc_bench_error {
    uint32_t count;
    double *relative; /* [count]: norm(o_hat - o) / norm(o) of one query head */
    double alone;     /* mean, had attention been over the steady zone alone */
} lwc_bench_error_t;

typedef struct lwc_bench_result {
    lwc_bench_times_t times, full; /* full: us of a layer step */
    lwc_bench_error_t error;
    lw_attr_t before, after;
    double bandwidth_gbps, ceiling_gbps;
    char full_name[96];
    uint32_t full_layers; /* with K and V of their own */
    uint32_t phase_count;
    double phase_us[LWC_BENCH_OPS]; /* of a layer step, mean */
    double phase_step_us;           /* a stamped step */
    double token_us, full_token_us; /* `bench tokens`: of a whole step; 0: not measured */
    uint64_t runner_bytes;
} lwc_bench_result_t;

LW_CHECK lw_status_t lwc_bench_steps(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error);
/* A few more steps with stamps, for the time of each op and the timeline. */
LW_CHECK lw_status_t lwc_bench_phases(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error);
LW_CHECK lw_status_t lwc_bench_traffic(lwc_bench_t *bench, lw_attr_t *attr, lw_error_t *error);
void lwc_bench_result_fini(lwc_bench_result_t *result);
double lwc_bench_percentile(const double *values, uint32_t count,
                            double share); /* of any order; NaN of none */

/* ---- bench_exact.c ---- */

/* Compares a sample of the outputs of the step just taken with exact attention over what the generator made.
 */
LW_CHECK lw_status_t lwc_bench_check(lwc_bench_t *bench, lwc_bench_error_t *out, lw_error_t *error);

/* ---- bench_baseline.c ---- */

/* Times full attention over the same shape, context and batch. ERR_UNSUPPORTED where there is no kernel for
 * it. */
LW_CHECK lw_status_t lwc_bench_full(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error);

/* ---- bench_ceiling.c ---- */

/* What the transport gives at best in this run, GB/s: large answers from one contiguous place of one daemon,
 * or, local, a kernel's gather of 8 KiB records from pinned memory. */
LW_CHECK lw_status_t lwc_bench_ceiling(lwc_bench_t *bench, double *gbps_out, lw_error_t *error);

/* ---- bench_tokens.c ---- */

/* Whole decode steps: the model's products with attention through the library, then with full attention. */
LW_CHECK lw_status_t lwc_bench_tokens(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error);

/* ---- bench_report.c ---- */

LW_CHECK lw_status_t lwc_bench_report(const lwc_bench_t *bench, const lwc_bench_result_t *result,
                                      lw_error_t *error);

/* ---- bench_agree.c: built with the model runner ---- */

int lwc_bench_agree(int argc, char **argv);

#endif /* LWC_CLI_BENCH_H */
