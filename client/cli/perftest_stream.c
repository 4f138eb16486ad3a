/* perftest_stream.c - what the fabric alone gives: a server process answers each question with one contiguous
 * extent of cold memory, one plain UCX active message; no gathering, no checksums, no store. The child runs
 * this same program. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, prctl */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/perftest.h"

#define SPIN_US 100u
#define REGION_BYTES_MAX (2ull << 30)
#define CONNECT_US 10000000u
#define LATENCIES_MAX (4u << 20)
#define PROBE_BYTES 4096u

typedef struct question {
    uint64_t bytes;
    uint32_t slot, reserved;
} question_t;

/* ---- the server ---- */

typedef struct stream_server {
    const lw_fabric_ops_t *ops;
    uint8_t *region;
    uint64_t region_bytes;
    lw_prng_t prng;
} stream_server_t;

static void answer(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    stream_server_t *server = arg;
    question_t question;
    if (msg->head_bytes != sizeof(question))
        return;
    memcpy(&question, msg->head, sizeof(question));
    if (question.bytes == 0 || question.bytes > server->region_bytes / 2)
        return;
    uint64_t places = (server->region_bytes - question.bytes) / 4096;
    lw_iov_t piece = {server->region + 4096 * lw_prng_below(&server->prng, places), question.bytes};
    if (server->ops->send(conn, &question, sizeof(question), &piece, 1, LW_SEND_AUTO, NULL, NULL) != LW_OK)
        fprintf(stderr, "perftest: the stream server cannot send\n");
}

int lwc_perf_stream_serve(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stream_server_t server = {.ops = lw_fabric_ucx(), .region_bytes = strtoull(argv[2], NULL, 10)};
    lw_fabric_params_t params = {.transports = argv[1], .handler = {.on_message = answer, .arg = &server}};
    lw_fabric_t *fabric;
    lw_error_t error = {0};
    char address[LW_ADDRESS_MAX];
    if (server.ops == NULL)
        return 1;
    server.region =
        mmap(NULL, server.region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (server.region == MAP_FAILED)
        return 1;
    (void)madvise(server.region, server.region_bytes, MADV_HUGEPAGE);
    memset(server.region, 0x5A, server.region_bytes);
    lw_prng_seed(&server.prng, 1);
    if (server.ops->open(&params, &fabric, &error) != LW_OK ||
        server.ops->listen(fabric, "127.0.0.1:0", &error) != LW_OK ||
        server.ops->address(fabric, address, sizeof(address)) != LW_OK) {
        fprintf(stderr, "perftest: stream server: %s\n", error.text);
        return 1;
    }
    if (dprintf(atoi(argv[3]), "{\"data\":\"%s\"}\n", address) < 0)
        return 1;
    for (;;)
        lw_fabric_wait(server.ops, fabric, SPIN_US, 1000000);
}

/* ---- the client ---- */

struct lwc_perf_stream {
    const lwc_perf_options_t *options;
    const lw_fabric_ops_t *ops;
    lwc_perf_child_t child;
    lw_fabric_t *fabric;
    lw_conn_t *conn;
    bool asking, lost;
    uint32_t in_flight;
    uint64_t message_bytes;
    uint8_t *landing; /* a ring of about the store client's size, so that both find their memory as warm */
    uint64_t landing_bytes, landing_at;
    uint64_t asked_ns[LWC_PERF_DEPTH_MAX], latency_count;
    uint32_t *latency_ns100;
    lwc_perf_row_t row;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void ask(lwc_perf_stream_t *stream, uint32_t slot)
{
    question_t question = {.bytes = stream->message_bytes, .slot = slot};
    stream->asked_ns[slot] = now_ns();
    if (stream->ops->send(stream->conn, &question, sizeof(question), NULL, 0, LW_SEND_AUTO, NULL, NULL) ==
        LW_OK)
        stream->in_flight++;
    else
        stream->lost = true;
}

typedef struct slot_ref { /* what a landing has to know */
    lwc_perf_stream_t *stream;
    uint32_t slot;
} slot_ref_t;
static slot_ref_t slot_refs[LWC_PERF_DEPTH_MAX]; /* one stream at a time */

static void on_landed(void *arg, lw_status_t status)
{
    const slot_ref_t *ref = arg;
    lwc_perf_stream_t *stream = ref->stream;
    stream->in_flight--;
    if (status != LW_OK)
        return;
    stream->row.requests++;
    stream->row.bytes += stream->message_bytes;
    if (stream->latency_count < LATENCIES_MAX)
        stream->latency_ns100[stream->latency_count++] =
            (uint32_t)lw_min_u64((now_ns() - stream->asked_ns[ref->slot]) / 100, UINT32_MAX);
    if (stream->asking)
        ask(stream, ref->slot);
}

static void on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    lwc_perf_stream_t *stream = arg;
    question_t question;
    if (msg->head_bytes != sizeof(question) || msg->data_bytes != stream->message_bytes)
        return;
    memcpy(&question, msg->head, sizeof(question));
    if (question.slot >= stream->options->depth)
        return;
    slot_refs[question.slot] = (slot_ref_t){stream, question.slot};
    if (stream->landing_at + stream->message_bytes > stream->landing_bytes)
        stream->landing_at = 0;
    uint8_t *into = stream->landing + stream->landing_at;
    stream->landing_at += lw_align_up(stream->message_bytes, 4096);
    stream->ops->recv(stream->fabric, msg, into, NULL, on_landed, &slot_refs[question.slot]);
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    lwc_perf_stream_t *stream = arg;
    stream->conn = NULL;
    stream->lost = true;
}

lw_status_t lwc_perf_stream_open(const lwc_perf_options_t *options, lwc_perf_stream_t **stream_out,
                                 lw_error_t *error)
{
    lwc_perf_stream_t *stream = calloc(1, sizeof(*stream));
    char region[24], address[LW_ADDRESS_MAX];
    if (stream == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a stream");
    stream->options = options;
    stream->ops = lw_fabric_ucx();
    stream->latency_ns100 = malloc(LATENCIES_MAX * sizeof(uint32_t));
    uint64_t largest = 0;
    for (uint32_t i = 0; i < options->batch_count; i++)
        largest =
            lw_max_u64(largest, lw_align_up((uint64_t)options->batches[i] * options->record_bytes, 4096));
    stream->landing_bytes = (options->depth + 2) * largest;
    snprintf(region, sizeof(region), "%llu",
             (unsigned long long)lw_max_u64(4 * largest, lw_min_u64(options->store_bytes, REGION_BYTES_MAX)));
    const char *const argv[] = {"/proc/self/exe", "perftest", "--stream-server", options->transport, region,
                                "%ready",         NULL};
    lw_fabric_params_t params = {
        .transports = options->transport,
        .handler = {.on_message = on_message, .on_closed = on_closed, .arg = stream},
    };
    lw_status_t status =
        stream->ops == NULL ? lw_fail(error, LW_ERR_UNSUPPORTED, "this build has no UCX") : LW_OK;
    stream->landing =
        mmap(NULL, stream->landing_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stream->landing == MAP_FAILED || stream->latency_ns100 == NULL)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "landing memory of the stream");
    else
        memset(stream->landing, 0, stream->landing_bytes);
    if (status == LW_OK)
        status = lwc_perf_child_start(&stream->child, argv, error);
    if (status == LW_OK)
        status = lwc_perf_child_text(&stream->child, "data", address, sizeof(address));
    if (status == LW_OK)
        status = stream->ops->open(&params, &stream->fabric, error);
    if (status == LW_OK)
        status = stream->ops->connect(stream->fabric, address, &stream->conn, error);
    /* Until a connection is made UCX's own thread spins on it, which would take a core from whatever is measured
     * before the stream. */
    lwc_perf_row_t row;
    if (status == LW_OK)
        status = lwc_perf_stream_run(stream, PROBE_BYTES, 0.001, &row, error);
    if (status != LW_OK) {
        lwc_perf_stream_close(stream);
        return status;
    }
    *stream_out = stream;
    return LW_OK;
}

void lwc_perf_stream_close(lwc_perf_stream_t *stream)
{
    if (stream == NULL)
        return;
    if (stream->fabric != NULL)
        stream->ops->close(stream->fabric);
    lwc_perf_child_stop(&stream->child);
    if (stream->landing != NULL && stream->landing != MAP_FAILED)
        munmap(stream->landing, stream->landing_bytes);
    free(stream->latency_ns100);
    free(stream);
}

lw_status_t lwc_perf_stream_run(lwc_perf_stream_t *stream, uint64_t message_bytes, double seconds,
                                lwc_perf_row_t *row_out, lw_error_t *error)
{
    if (stream->lost)
        return lw_fail(error, LW_ERR_UNREACHABLE, "the stream server is gone");
    stream->row = (lwc_perf_row_t){.mode = LWC_PERF_STREAM};
    stream->message_bytes = message_bytes;
    stream->latency_count = 0;
    double client_cpu_s = lwc_perf_cpu_s(), server_cpu_s = lwc_perf_child_cpu_s(&stream->child);
    uint64_t begin_ns = now_ns(), end_ns = begin_ns + (uint64_t)(seconds * 1e9);
    stream->asking = true;
    for (uint32_t slot = 0; slot < stream->options->depth; slot++)
        ask(stream, slot);
    while (!stream->lost && now_ns() < end_ns)
        lw_fabric_wait(stream->ops, stream->fabric, SPIN_US, 1000);
    stream->asking = false;
    uint64_t drain_ns = now_ns() + CONNECT_US * 1000ull;
    while (!stream->lost && stream->in_flight > 0 && now_ns() < drain_ns)
        lw_fabric_wait(stream->ops, stream->fabric, SPIN_US, 1000);
    stream->row.seconds = (double)(now_ns() - begin_ns) / 1e9;
    stream->row.client_cpu_s = lwc_perf_cpu_s() - client_cpu_s;
    stream->row.server_cpu_s = lwc_perf_child_cpu_s(&stream->child) - server_cpu_s;
    lwc_perf_row_latency(&stream->row, stream->latency_ns100, stream->latency_count);
    *row_out = stream->row;
    if (stream->lost || stream->in_flight > 0)
        return lw_fail(error, LW_ERR_UNREACHABLE, "the stream server went away");
    return LW_OK;
}
