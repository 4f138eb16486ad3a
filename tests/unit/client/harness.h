/* harness.h - a handle over the fake store and a catalogue in this process, random keys and values, and exact
 * attention in double precision to compare with. For the client's unit tests. */
#ifndef CLIENT_HARNESS_H
#define CLIENT_HARNESS_H

#include "base/prng.h"
#include "client/ctx.h"
#include "sim/control_sim.h"

typedef struct harness {
    lw_control_sim_fleet_t fleet;
    lw_node_t nodes[3];
    lw_model_t model;
    struct lw *kv;
    lw_prng_t prng;
    uint64_t time_us; /* of the test's clock: stands still unless moved */
    lw_clock_t clock;
    uint32_t step_timeout_us; /* of harness_step; 0: the library's */
    uint32_t replicas;        /* of harness_session; 0: the library's */
    uint64_t attend_us;       /* real time that harness_step spent in lw_attend, so far */
} harness_t;

/* The tokens of one test sequence, all layers: what was appended, to compare with. fp32. */
typedef struct sequence {
    uint32_t count, capacity;
    float *keys, *values; /* [token][layer][head][head_dim] */
} sequence_t;

typedef struct harness_params {
    const char *backend; /* NULL: LW_TEST_BACKEND, else "ref", or "cpu" in a quick run; "queue": queue_backend.h */
    const char *config;
    uint32_t layers, heads, group, head_dim; /* 0: 2, 2, 2, 16 */
    uint32_t sessions_max, tokens_max;       /* 0: 4, 16,384 */
    uint64_t device_bytes;                   /* 0: the option's */
    uint32_t replicas;                       /* of sessions; 0: the library's default */
    bool local;                              /* no fleet: records stay in this process */
    bool impatient; /* a fleet without room fails a seal after 300 ms, or 5 s of the real clock; it stays silent for an hour */
} harness_params_t;

void harness_model(harness_t *h, const harness_params_t *params);
/* harness_sim.c; the end-to-end tests have their own. */
void harness_open(harness_t *h, const harness_params_t *params, uint64_t seed);
void harness_close(harness_t *h);
/* A session with fp32 index entries, segments of 1,024 tokens and this policy. */
lw_session_t *harness_session(harness_t *h, uint32_t policy, uint32_t segment_tokens);

void sequence_init(sequence_t *sequence, const harness_t *h, uint32_t capacity);
void sequence_fini(sequence_t *sequence);
/* Draws `tokens` new tokens: keys around a few topics, so that clusters mean something. */
void sequence_grow(sequence_t *sequence, harness_t *h, uint32_t tokens);
/* Appends tokens first .. first + count - 1 of the sequence by lw_prefill, in chunks. */
void harness_prefill(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t first,
                     uint32_t count, uint32_t chunk);
/* Runs the keeper until nothing is under way. */
void harness_settle(harness_t *h);
/* Waits until the device has done everything and rows that nobody holds are free. */
void harness_drain(harness_t *h);
/* lw_attend, and on an asynchronous backend the time until its output is there. */
lw_status_t harness_attend(harness_t *h, const lw_step_t *step, lw_tensor_t *out);
/* On an asynchronous backend: waits for the session's steps; tells a failure as its next call would. */
lw_status_t harness_ended(harness_t *h, lw_session_t *session);

/* One step: appends the sequence's tokens from session's count on, T of them; queries drawn, or zero. out and
 * lse are [layer][token][query head]. A quick run compares some 16 of the tokens, the last among them: exact_lse of the
 * others is NAN, and the errors below pass over them. */
typedef struct result {
    float *out, *lse; /* what the library said */
    double *exact_out, *exact_lse;
    uint32_t rows, head_dim;
} result_t;
lw_status_t harness_step(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens,
                         bool zero_query, result_t *result_out);
lw_status_t harness_extend(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens,
                           result_t *result_out);
void result_fini(result_t *result);
/* One row of exact attention over the sequence's first `visible` tokens; out_out[head_dim]. */
void harness_exact(const harness_t *h, const sequence_t *sequence, uint32_t layer, uint32_t query_head,
                   uint32_t visible, const float *query, double *out_out, double *lse_out);
/* Largest |out - exact| and |lse - exact|. */
double result_out_error(const result_t *result);
double result_lse_error(const result_t *result);
uint32_t harness_tokens(lw_session_t *session);
uint32_t harness_sealed(lw_session_t *session);

#endif /* CLIENT_HARNESS_H */
