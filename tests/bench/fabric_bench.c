/* fabric_bench.c - how fast a fabric answers small requests with large payloads out of cold memory, by send
 * mode.
 *
 * Two processes on this machine: a server with a large region, and a client that asks and lands the answers.
 * This is the measurement behind the rules of LW_SEND_AUTO (docs/decisions/0002-send-modes.md). UCX's own
 * settings come from the environment, so UCX_RNDV_THRESH and friends can be tried. `longwave perftest`
 * measures the whole store. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, prctl */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/prng.h"
#include "fabric/fabric.h"

#define PIECES_MAX 4096u
#define DEPTH_MAX 32u
#define SPIN_US 100u

typedef enum source {
    SOURCE_CONTIGUOUS,
    SOURCE_STREAM,
    SOURCE_COPY,
    SOURCE_IOV,
    SOURCE_AUTO,
    SOURCE_END
} source_t;
static const char *const source_names[] = {"contiguous", "contiguous in 2", "copy", "iov", "auto"};

typedef struct question {
    uint32_t source, pieces, piece_bytes, slot;
} question_t;

static const lw_fabric_ops_t *ops;
static const char *transports = "tcp";
static uint64_t region_bytes = 1ull << 30;
static uint32_t piece_bytes = 8192, pieces = 64, depth = 1, rounds = 3;
static double round_s = 0.5;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

/* ---- server ---- */

static uint8_t *region;
static lw_fabric_t *server;
static lw_prng_t prng;

static const uint8_t *somewhere(uint64_t bytes)
{
    return region + lw_prng_below(&prng, (region_bytes - bytes) / 4096) * 4096;
}

static void answer(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    static lw_iov_t iov[PIECES_MAX];
    question_t question;
    memcpy(&question, msg->head, sizeof(question));
    uint32_t count = 1;
    if (question.source <= SOURCE_STREAM) {
        uint64_t bytes = (uint64_t)question.pieces * question.piece_bytes;
        const uint8_t *extent = somewhere(bytes);
        iov[0] = (lw_iov_t){.data = extent, .bytes = bytes};
        if (question.source == SOURCE_STREAM) { /* as an answer with a list in front of its bytes is sent */
            iov[0].bytes = 64;
            iov[1] = (lw_iov_t){.data = extent + 64, .bytes = bytes - 64};
            count = 2;
        }
    } else {
        for (count = 0; count < question.pieces; count++)
            iov[count] = (lw_iov_t){.data = somewhere(question.piece_bytes), .bytes = question.piece_bytes};
    }
    static const lw_send_mode_t modes[] = {LW_SEND_AUTO, LW_SEND_AUTO, LW_SEND_COPY, LW_SEND_IOV,
                                           LW_SEND_AUTO};
    if (ops->send(conn, &question, sizeof(question), iov, count, modes[question.source], NULL, NULL) != LW_OK)
        fprintf(stderr, "server: send failed\n");
}

static void serve(int address_fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    region = mmap(NULL, region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        exit(2);
    (void)madvise(region, region_bytes, MADV_HUGEPAGE);
    memset(region, 0x5A, region_bytes);
    lw_prng_seed(&prng, 1);
    lw_fabric_params_t params = {.transports = transports, .handler = {.on_message = answer}};
    lw_error_t error = {0};
    char address[128];
    if (ops->open(&params, &server, &error) != LW_OK || ops->listen(server, "127.0.0.1:0", &error) != LW_OK ||
        ops->address(server, address, sizeof(address)) != LW_OK) {
        fprintf(stderr, "server: %s\n", error.text);
        exit(2);
    }
    if (write(address_fd, address, sizeof(address)) != (ssize_t)sizeof(address))
        exit(2);
    for (;;)
        lw_fabric_wait(ops, server, SPIN_US, 1000000);
}

/* ---- client ---- */

static lw_fabric_t *client;
static lw_conn_t *conn;
static source_t current;
static bool asking;
static uint32_t in_flight;
static uint64_t answers, asked_us[DEPTH_MAX];
static uint8_t *landing[DEPTH_MAX];
static uint32_t latencies_us[1 << 20];
static uint64_t latency_count;

static void ask(uint32_t slot)
{
    question_t question = {.source = current, .pieces = pieces, .piece_bytes = piece_bytes, .slot = slot};
    asked_us[slot] = now_us();
    if (ops->send(conn, &question, sizeof(question), NULL, 0, LW_SEND_AUTO, NULL, NULL) == LW_OK)
        in_flight++;
}

static void on_landed(void *arg, lw_status_t status)
{
    uint32_t slot = (uint32_t)(uintptr_t)arg;
    in_flight--;
    answers += status == LW_OK;
    if (latency_count < LW_ARRAY_SIZE(latencies_us))
        latencies_us[latency_count++] = (uint32_t)(now_us() - asked_us[slot]);
    if (asking)
        ask(slot);
}

static void on_message(void *arg, lw_conn_t *from, const lw_fabric_msg_t *msg)
{
    question_t question;
    memcpy(&question, msg->head, sizeof(question));
    ops->recv(client, msg, landing[question.slot], NULL, on_landed, (void *)(uintptr_t)question.slot);
}

static void on_closed(void *arg, lw_conn_t *from, lw_status_t status)
{
    fprintf(stderr, "connection ended: %s\n", lw_status_text(status));
    exit(2);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* GB/s of one round. */
static double measure(source_t source, double seconds)
{
    current = source;
    asking = true;
    answers = latency_count = 0;
    uint64_t begin_us = now_us(), end_us = begin_us + (uint64_t)(seconds * 1e6);
    for (uint32_t slot = 0; slot < depth; slot++)
        ask(slot);
    while (now_us() < end_us)
        lw_fabric_wait(ops, client, SPIN_US, 100000);
    double gb = (double)answers * pieces * piece_bytes / 1e9;
    double elapsed_s = (double)(now_us() - begin_us) / 1e6;
    asking = false;
    while (in_flight > 0)
        lw_fabric_wait(ops, client, SPIN_US, 100000);
    qsort(latencies_us, latency_count, sizeof(latencies_us[0]), by_size);
    return gb / elapsed_s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(void)
{
    double speed[SOURCE_END][64];
    uint32_t p50_us[SOURCE_END] = {0};
    for (uint32_t round = 0; round < rounds; round++)
        for (source_t source = 0; source < SOURCE_END; source++) {
            (void)measure(source, round_s / 10);
            speed[source][round] = measure(source, round_s);
            p50_us[source] = latency_count > 0 ? latencies_us[latency_count / 2] : 0;
        }
    printf("%s (%s) %u x %u B, depth %u:", transports, ops->transport_text(conn), pieces, piece_bytes, depth);
    for (source_t source = 0; source < SOURCE_END; source++) {
        qsort(speed[source], rounds, sizeof(double), by_value);
        printf("  %s %.2f GB/s %u us", source_names[source], speed[source][rounds / 2], p50_us[source]);
    }
    printf("\n");
}

static const char usage[] =
    "fabric_bench [--transport tcp|shm] [--pieces N] [--piece-bytes N] [--depth 1..32] [--region-mib N]\n"
    "             [--rounds 1..64] [--seconds S]\n"
    "Answers of N pieces from random places of a region: from one extent (contiguous), from one extent in "
    "two pieces\n"
    "(contiguous in 2), copied together (copy), as a list (iov), and as the fabric chooses (auto). Prints "
    "medians over the\n"
    "rounds.\n";

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"transport", 1, NULL, 't'}, {"pieces", 1, NULL, 'n'},     {"piece-bytes", 1, NULL, 'b'},
        {"depth", 1, NULL, 'd'},     {"region-mib", 1, NULL, 'm'}, {"rounds", 1, NULL, 'r'},
        {"seconds", 1, NULL, 's'},   {"help", 0, NULL, 'h'},       {0},
    };
    for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (opt) {
        case 't': transports = optarg; break;
        case 'n': pieces = (uint32_t)atoi(optarg); break;
        case 'b': piece_bytes = (uint32_t)atoi(optarg); break;
        case 'd': depth = (uint32_t)atoi(optarg); break;
        case 'm': region_bytes = strtoull(optarg, NULL, 10) << 20; break;
        case 'r': rounds = (uint32_t)atoi(optarg); break;
        case 's': round_s = atof(optarg); break;
        default: fputs(usage, opt == 'h' ? stdout : stderr); exit(opt == 'h' ? 0 : 2);
        }
    }
    uint64_t bytes = (uint64_t)pieces * piece_bytes;
    if (pieces < 1 || pieces > PIECES_MAX || depth < 1 || depth > DEPTH_MAX || rounds < 1 || rounds > 64 ||
        bytes == 0 || bytes > LW_FABRIC_PAYLOAD_MAX || region_bytes < 2 * bytes || round_s <= 0) {
        fputs(usage, stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    ops = lw_fabric_ucx();
    if (ops == NULL)
        return 77;
    int address_fd[2];
    if (pipe(address_fd) != 0)
        return 2;
    pid_t pid = fork();
    if (pid == 0)
        serve(address_fd[1]);

    char address[128];
    lw_error_t error = {0};
    lw_fabric_params_t params = {.transports = transports,
                                 .handler = {.on_message = on_message, .on_closed = on_closed}};
    close(address_fd[1]);
    if (read(address_fd[0], address, sizeof(address)) != (ssize_t)sizeof(address) ||
        ops->open(&params, &client, &error) != LW_OK ||
        ops->connect(client, address, &conn, &error) != LW_OK) {
        fprintf(stderr, "client: %s\n", error.text);
        return 2;
    }
    for (uint32_t slot = 0; slot < depth; slot++) {
        landing[slot] = aligned_alloc(1 << 21, (((uint64_t)pieces * piece_bytes >> 21) + 1) << 21);
        memset(landing[slot], 0, (size_t)pieces * piece_bytes);
    }
    report();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
