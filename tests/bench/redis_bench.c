/* redis_bench.c - pipelined MGETs of a Redis server, measured as perftest measures the store: records at
 * random places, a number of requests in flight, one client thread. Driven over stdin by store.py: one round
 * for each line.
 *
 *   redis_bench PORT SERVER_PID RECORD_BYTES BATCH DEPTH STORE_MIB SECONDS
 */
#define _GNU_SOURCE /* clock_gettime */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "client/cli/perftest.h"

#define BATCH_MAX 4096u
#define DEPTH_MAX 64u
#define KEY_BYTES 12u
#define KEY_ROOM 24u

typedef struct bench {
    redisContext *redis;
    lwc_perf_child_t server; /* for its CPU time */
    uint32_t record_bytes, batch, depth;
    uint64_t key_count, wrong;
    double seconds;
    lw_prng_t prng;
    const char *argv[BATCH_MAX + 1];
    size_t argv_bytes[BATCH_MAX + 1];
    char keys[BATCH_MAX][KEY_ROOM];
    double asked_s[DEPTH_MAX];
} bench_t;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool take_status(redisContext *redis)
{
    void *reply;
    if (redisGetReply(redis, &reply) != REDIS_OK)
        return false;
    freeReplyObject(reply);
    return true;
}

static bool fill(bench_t *bench)
{
    char key[KEY_ROOM];
    char *value = malloc(bench->record_bytes);
    bool fine = value != NULL;
    uint32_t unanswered = 0;
    for (uint64_t i = 0; i < bench->key_count && fine; i++) {
        snprintf(key, sizeof(key), "k%011llu", (unsigned long long)i);
        memset(value, (int)(i & 0xff), bench->record_bytes);
        const char *argv[] = {"SET", key, value};
        const size_t bytes[] = {3, KEY_BYTES, bench->record_bytes};
        fine = redisAppendCommandArgv(bench->redis, 3, argv, bytes) == REDIS_OK;
        unanswered++;
        if (unanswered == 64)
            for (; unanswered > 0 && fine; unanswered--)
                fine = take_status(bench->redis);
    }
    for (; unanswered > 0 && fine; unanswered--)
        fine = take_status(bench->redis);
    free(value);
    return fine;
}

static bool ask(bench_t *bench)
{
    for (uint32_t i = 0; i < bench->batch; i++)
        snprintf(bench->keys[i], sizeof(bench->keys[i]), "k%011llu",
                 (unsigned long long)lw_prng_below(&bench->prng, bench->key_count));
    if (redisAppendCommandArgv(bench->redis, (int)bench->batch + 1, bench->argv, bench->argv_bytes) !=
        REDIS_OK)
        return false;
    for (int written = 0; !written;)
        if (redisBufferWrite(bench->redis, &written) != REDIS_OK)
            return false;
    return true;
}

static bool take(bench_t *bench)
{
    redisReply *reply = NULL;
    if (redisGetReply(bench->redis, (void **)&reply) != REDIS_OK)
        return false;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != bench->batch)
        bench->wrong++;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++)
        bench->wrong +=
            reply->element[i]->type != REDIS_REPLY_STRING || reply->element[i]->len != bench->record_bytes;
    freeReplyObject(reply);
    return true;
}

static bool run(bench_t *bench, lwc_perf_row_t *row, uint32_t *latency_ns100)
{
    uint64_t latencies = 0, asked = 0;
    *row = (lwc_perf_row_t){.mode = LWC_PERF_FETCH, .batch = bench->batch};
    double client_cpu_s = lwc_perf_cpu_s(), server_cpu_s = lwc_perf_child_cpu_s(&bench->server),
           begin_s = now_s();
    for (; asked < bench->depth; asked++) {
        bench->asked_s[asked % bench->depth] = now_s();
        if (!ask(bench))
            return false;
    }
    for (uint64_t taken = 0; taken < asked; taken++) {
        if (!take(bench))
            return false;
        double now = now_s();
        if (latencies < 1u << 20)
            latency_ns100[latencies++] = (uint32_t)((now - bench->asked_s[taken % bench->depth]) * 1e7);
        row->requests++;
        row->records += bench->batch;
        row->bytes += (uint64_t)bench->batch * bench->record_bytes;
        if (now - begin_s < bench->seconds) {
            bench->asked_s[asked % bench->depth] = now;
            asked++;
            if (!ask(bench))
                return false;
        }
    }
    row->seconds = now_s() - begin_s;
    row->client_cpu_s = lwc_perf_cpu_s() - client_cpu_s;
    row->server_cpu_s = lwc_perf_child_cpu_s(&bench->server) - server_cpu_s;
    lwc_perf_row_latency(row, latency_ns100, latencies);
    return bench->wrong == 0;
}

int main(int argc, char **argv)
{
    static bench_t bench;
    static uint32_t latency_ns100[1 << 20];
    if (argc != 8) {
        fprintf(stderr, "redis_bench PORT SERVER_PID RECORD_BYTES BATCH DEPTH STORE_MIB SECONDS\n");
        return 2;
    }
    bench.server.pid = (pid_t)atoi(argv[2]);
    bench.record_bytes = (uint32_t)atoi(argv[3]);
    bench.batch = (uint32_t)atoi(argv[4]);
    bench.depth = (uint32_t)atoi(argv[5]);
    bench.seconds = atof(argv[7]);
    if (bench.record_bytes == 0 || bench.batch == 0 || bench.batch > BATCH_MAX || bench.depth == 0 ||
        bench.depth > DEPTH_MAX)
        return 2;
    bench.key_count = (strtoull(argv[6], NULL, 10) << 20) / bench.record_bytes;
    bench.argv[0] = "MGET";
    bench.argv_bytes[0] = 4;
    for (uint32_t i = 0; i < bench.batch; i++) {
        bench.argv[i + 1] = bench.keys[i];
        bench.argv_bytes[i + 1] = KEY_BYTES;
    }
    lw_prng_seed(&bench.prng, 1);
    bench.redis = redisConnect("127.0.0.1", atoi(argv[1]));
    if (bench.redis == NULL || bench.redis->err != 0 || !fill(&bench)) {
        fprintf(stderr, "redis_bench: %s\n", bench.redis != NULL ? bench.redis->errstr : "no memory");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        lwc_perf_row_t row;
        if (!run(&bench, &row, latency_ns100)) {
            fprintf(stderr, "redis_bench: %s, %llu wrong values\n", bench.redis->errstr,
                    (unsigned long long)bench.wrong);
            return 1;
        }
        lwc_perf_print_row_json(&row);
    }
    redisFree(bench.redis);
    return 0;
}
