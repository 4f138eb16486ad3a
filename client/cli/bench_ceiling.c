/* bench_ceiling.c - what a transport gives at best, measured beside the steps: perftest's ceiling over a
 * fleet, a gather by the device from pinned memory in local mode. */
#include "client/cli/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#ifdef LWC_CLI_PERFTEST
#include "client/cli/perftest.h"
#endif

#define RECORD_BYTES 8192u

/* ---- over a fleet ---- */

#ifdef LWC_CLI_PERFTEST
#define STORE_BYTES (256ull << 20)
#define ROUNDS 5u
#define ROUND_S 0.2

static lw_status_t fleet_ceiling(lwc_bench_t *bench, double *gbps_out, lw_error_t *error)
{
    lwc_perf_options_t options = {.transport = bench->options.transport,
                                  .record_bytes = RECORD_BYTES,
                                  .batches = {256},
                                  .batch_count = 1,
                                  .depth = 4,
                                  .store_bytes = STORE_BYTES,
                                  .seconds = ROUND_S,
                                  .modes = {[LWC_PERF_CEILING] = true},
                                  .quiet = true};
    static lwc_perf_child_t nobody;
    lwc_perf_client_t client = {.options = &options, .daemon = &nobody};
    lwc_perf_row_t row;
    double gbps[ROUNDS];
    lw_status_t status = lwc_perf_client_open(&client, bench->options.fleet, error);
    if (status == LW_OK)
        status = lwc_perf_fill(&client, &row, error);
    for (uint32_t i = 0; i < ROUNDS && status == LW_OK; i++) {
        status = lwc_perf_fetch(&client, LWC_PERF_CEILING, options.batches[0], ROUND_S, &row, error);
        gbps[i] = row.seconds > 0 ? (double)row.bytes / row.seconds / 1e9 : 0;
    }
    lwc_perf_client_close(&client);
    if (status == LW_OK)
        *gbps_out = lwc_bench_percentile(gbps, ROUNDS, 0.5);
    return status;
}
#else
static lw_status_t fleet_ceiling(lwc_bench_t *bench, double *gbps_out, lw_error_t *error)
{
    return lw_fail(error, LW_ERR_UNSUPPORTED, "--ceiling: built without perftest");
}
#endif

/* ---- in this process ---- */

#define RECORDS 8192u /* of a gather: 64 MiB */
#define HOST_BYTES (512ull << 20)
#define GATHERS 10u

typedef struct {
    uint8_t *host, *into;
    const uint8_t **from;
    uint32_t *bytes;
    uint64_t *to;
} gathering_t;

static lw_status_t gathering_init(lwc_bench_device_t *device, gathering_t *g, lw_error_t *error)
{
    uint64_t records = (uint64_t)RECORDS * RECORD_BYTES;
    lw_status_t status = lwc_bench_alloc(device, LWK_MEMORY_PINNED, HOST_BYTES, (void **)&g->host, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_DEVICE, records, (void **)&g->into, error);
    if (status == LW_OK)
        status =
            lwc_bench_alloc(device, LWK_MEMORY_PINNED, RECORDS * sizeof(*g->from), (void **)&g->from, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_PINNED, RECORDS * sizeof(*g->bytes), (void **)&g->bytes,
                                 error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_PINNED, RECORDS * sizeof(*g->to), (void **)&g->to, error);
    lw_prng_t prng;
    lw_prng_seed(&prng, 1);
    for (uint32_t i = 0; i < RECORDS && status == LW_OK; i++) {
        g->from[i] = g->host + lw_prng_below(&prng, HOST_BYTES / RECORD_BYTES) * RECORD_BYTES;
        g->bytes[i] = RECORD_BYTES;
        g->to[i] = (uint64_t)i * RECORD_BYTES;
    }
    return status;
}

static void gathering_fini(lwc_bench_device_t *device, gathering_t *g)
{
    void *pinned[] = {g->host, (void *)g->from, g->bytes, g->to};
    for (size_t i = 0; i < LW_ARRAY_SIZE(pinned); i++)
        if (pinned[i])
            device->backend->free(device->dev, LWK_MEMORY_PINNED, pinned[i]);
    if (g->into)
        device->backend->free(device->dev, LWK_MEMORY_DEVICE, g->into);
}

static lw_status_t local_ceiling(lwc_bench_t *bench, double *gbps_out, lw_error_t *error)
{
    lwc_bench_device_t *device = &bench->device;
    gathering_t g = {0};
    double best_s = 1e9;
    lw_status_t status = gathering_init(device, &g, error);
    lwk_gather_t args = {.count = RECORDS, .from = g.from, .bytes = g.bytes, .to = g.to, .into = g.into};
    for (uint32_t i = 0; i < GATHERS && status == LW_OK; i++) {
        uint64_t began_ns = lwc_bench_now_ns();
        status = device->backend->gather(device->dev, &args, device->stream);
        if (status != LW_OK)
            lw_fail(error, status, "--ceiling: backend '%s' gathers nothing", device->backend->name);
        if (status == LW_OK)
            status = lwc_bench_wait(device, error);
        double s = (double)(lwc_bench_now_ns() - began_ns) / 1e9;
        best_s = s < best_s ? s : best_s;
    }
    gathering_fini(device, &g);
    if (status == LW_OK)
        *gbps_out = (double)RECORDS * RECORD_BYTES / best_s / 1e9;
    return status;
}

lw_status_t lwc_bench_ceiling(lwc_bench_t *bench, double *gbps_out, lw_error_t *error)
{
    return bench->options.fleet ? fleet_ceiling(bench, gbps_out, error)
                                : local_ceiling(bench, gbps_out, error);
}
