/* restart_bench.c - how long a daemon is away: fills one whose arena is a file, kills it (SIGKILL), starts it again
 * over the same file, and fetches from it with the same client. Prints a table, or JSON with --json.
 *
 * The client keeps its session open and writes nothing after the kill, so that whatever is served then was never
 * sent a second time. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli/perftest.h"

#define VERIFY_BYTES (256ull << 20)
#define LEASE_US 600000000ull
#define LOG_SPARE_BYTES (512ull << 20)

typedef struct bench {
    const char *storaged, *directory, *transport;
    uint64_t store_bytes, arena_bytes, log_bytes;
    bool json, warm; /* warm: the arena is a file; otherwise only the log is left */
    char control[LW_ADDRESS_MAX], data[LW_ADDRESS_MAX];
    char arena_file[512], log_path[512], catalogue[512], arena_text[32], log_text[32];
    lwc_perf_child_t daemon;
    lwc_perf_options_t options;
    lwc_perf_client_t client;
    lwc_perf_row_t fill;
    double down_s, ready_s, first_fetch_s, verify_s;
    uint64_t refilled_bytes;
} bench_t;

static double now_s(void)
{
    return (double)lw_now_us(lw_clock_real()) / 1e6;
}

static lw_status_t start(bench_t *bench, lw_error_t *error)
{
    const char *argv[] = {bench->storaged,      "--ctl.listen",      bench->control,         "--ctl.http",
                          "",                   "--data.listen",     bench->data,            "--data.transports",
                          bench->transport,     "--mem.arena_bytes", bench->arena_text,      "--mem.arena_file",
                          bench->arena_file,    "--catalogue.path",  bench->catalogue,       "--ready-fd",
                          "%ready",             "--log.level",       bench->json ? "warn" : "info", "--tier.path",
                          bench->log_path,      "--tier.bytes",      bench->log_text,        "--stop.flush_us", "120s",
                          NULL};
    return lwc_perf_child_start(&bench->daemon, argv, error);
}

static lw_status_t first_life(bench_t *bench, lw_error_t *error)
{
    lw_status_t status = start(bench, error);
    /* The second life takes the first one's ports, so that the client finds it. */
    if (status == LW_OK)
        status = lwc_perf_child_text(&bench->daemon, "control", bench->control, sizeof(bench->control));
    bench->client.options = &bench->options;
    bench->client.daemon = &bench->daemon;
    if (status == LW_OK)
        status = lwc_perf_client_open(&bench->client, bench->control, error);
    if (status == LW_OK)
        snprintf(bench->data, sizeof(bench->data), "%s", bench->client.view.nodes[0].data);
    if (status == LW_OK)
        status = lwc_perf_fill(&bench->client, &bench->fill, error);
    return status;
}

/* The connections of the first life are gone when this returns; nothing is asked meanwhile. */
static void end_life(bench_t *bench, int signum)
{
    kill(bench->daemon.pid, signum);
    (void)waitpid(bench->daemon.pid, NULL, 0);
    bench->daemon.pid = 0;
}

static lw_status_t fetch(bench_t *bench, uint64_t bytes, double *seconds_out, lw_error_t *error)
{
    double begin = now_s();
    lw_status_t status = LW_ERR_UNREACHABLE;
    for (int i = 0; i < 100 && status != LW_OK && status != LW_ERR_CORRUPT; i++)
        status = lwc_perf_verify(&bench->client, bytes, error); /* the client is still finding the node again */
    *seconds_out = now_s() - begin;
    return status;
}

static lw_status_t second_life(bench_t *bench, lw_error_t *error)
{
    lwc_store_stats_t before, after;
    uint32_t renewed;
    lwc_store_stats(bench->client.store, &before);
    if (lwc_control_renew(bench->client.control, LEASE_US, &renewed, error) != LW_OK)
        return LW_ERR_STALE; /* the writer's lease keeps what it put */
    double killed = now_s();
    end_life(bench, bench->warm ? SIGKILL : SIGTERM);
    double begin = now_s();
    bench->down_s = begin - killed;
    lw_status_t status = start(bench, error);
    bench->ready_s = now_s() - begin;
    if (status == LW_OK)
        status = fetch(bench, 1, &bench->first_fetch_s, error);
    if (status == LW_OK)
        status = fetch(bench, VERIFY_BYTES, &bench->verify_s, error);
    lwc_store_stats(bench->client.store, &after);
    bench->refilled_bytes = after.bytes_put - before.bytes_put;
    return status;
}

static void report(const bench_t *bench)
{
    double gib = (double)bench->fill.bytes / (1u << 30);
    if (bench->json) {
        printf("{\"bench\":\"restart\",\"kind\":\"%s\",\"gib\":%.3f,\"segments\":%" PRIu64 ",\"end_s\":%.3f,"
               "\"ready_s\":%.3f,\"first_fetch_s\":%.4f,\"refilled_bytes\":%" PRIu64 ",\"verified_mib\":%llu,"
               "\"fill_gb_s\":%.2f}\n",
               bench->warm ? "warm" : "cold", gib, bench->fill.requests, bench->down_s, bench->ready_s,
               bench->first_fetch_s, bench->refilled_bytes, VERIFY_BYTES >> 20,
               (double)bench->fill.bytes / 1e9 / bench->fill.seconds);
        return;
    }
    printf("%s restart of a daemon that holds %.2f GiB in %" PRIu64 " segments\n", bench->warm ? "warm" : "cold", gib,
           bench->fill.requests);
    printf("  end of the first life (%s)   %8.3f s\n", bench->warm ? "SIGKILL" : "SIGTERM", bench->down_s);
    printf("  start until ready               %8.3f s\n", bench->ready_s);
    printf("  first fetch, every byte right   %8.4f s after that, the client's reconnect in it\n", bench->first_fetch_s);
    printf("  refilled over the network       %8" PRIu64 " bytes\n", bench->refilled_bytes);
    printf("  then %llu MiB at random, every byte right, in %.2f s\n", VERIFY_BYTES >> 20, bench->verify_s);
}

static int usage(void)
{
    fprintf(stderr, "restart_bench --storaged PATH --dir DIRECTORY [--mib N] [--cold] [--json]\n"
                    "  --dir: for the arena's file (tmpfs or hugetlbfs), the log and the catalogue; emptied at the end\n"
                    "  --mib: what the daemon holds (default 8192)\n"
                    "  --cold: SIGTERM instead of SIGKILL, and only the log on disk is left\n");
    return 2;
}

static bool take_arguments(bench_t *bench, int argc, char **argv)
{
    uint64_t mib = 8192;
    bench->warm = true;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            bench->json = true;
        else if (strcmp(argv[i], "--cold") == 0)
            bench->warm = false;
        else if (i + 1 == argc)
            return false;
        else if (strcmp(argv[i], "--storaged") == 0)
            bench->storaged = argv[++i];
        else if (strcmp(argv[i], "--dir") == 0)
            bench->directory = argv[++i];
        else if (strcmp(argv[i], "--mib") == 0)
            mib = strtoull(argv[++i], NULL, 10);
        else
            return false;
    }
    bench->store_bytes = mib << 20;
    bench->arena_bytes = bench->store_bytes + bench->store_bytes / 8 + (64ull << 20);
    bench->log_bytes = bench->warm ? 0 : bench->store_bytes + bench->store_bytes / 4 + LOG_SPARE_BYTES;
    return bench->storaged != NULL && bench->directory != NULL && mib >= 64 && mib < 1u << 20;
}

int main(int argc, char **argv)
{
    static bench_t bench = {.transport = "shm", .control = "127.0.0.1:0", .data = "127.0.0.1:0"};
    lw_error_t error = {0};
    if (!take_arguments(&bench, argc, argv))
        return usage();
    bench.options = (lwc_perf_options_t){.transport = bench.transport, .store_bytes = bench.store_bytes,
                                         .record_bytes = 8192, .depth = 4, .rounds = 1, .batches = {64},
                                         .batch_count = 1, .quiet = bench.json};
    snprintf(bench.arena_text, sizeof(bench.arena_text), "%" PRIu64, bench.arena_bytes);
    snprintf(bench.log_text, sizeof(bench.log_text), "%" PRIu64, lw_max_u64(bench.log_bytes, LOG_SPARE_BYTES));
    if (bench.warm)
        snprintf(bench.arena_file, sizeof(bench.arena_file), "%s/arena.%d", bench.directory, getpid());
    else
        snprintf(bench.log_path, sizeof(bench.log_path), "%s/log.%d", bench.directory, getpid());
    snprintf(bench.catalogue, sizeof(bench.catalogue), "%s/catalogue.%d", bench.directory, getpid());
    lw_status_t status = first_life(&bench, &error);
    if (status == LW_OK)
        status = second_life(&bench, &error);
    if (status == LW_OK)
        report(&bench);
    else
        fprintf(stderr, "restart_bench: %s: %s\n", lw_status_text(status), error.text);
    lwc_perf_client_close(&bench.client);
    lwc_perf_child_stop(&bench.daemon);
    (void)unlink(bench.arena_file);
    (void)unlink(bench.log_path);
    (void)unlink(bench.catalogue);
    return status == LW_OK && bench.refilled_bytes == 0 ? 0 : 1;
}
