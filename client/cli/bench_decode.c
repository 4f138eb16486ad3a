/* bench_decode.c - `longwave bench decode`: opens, fills, steps, compares, reports. */
#include <string.h>

#include "client/cli/bench.h"
#include "client/cli/commands.h"

static lw_status_t run(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    lw_status_t status = lwc_bench_open(bench, error);
    if (status == LW_OK)
        status = lwc_bench_bandwidth(&bench->device, &result->bandwidth_gbps, error);
    if (status == LW_OK)
        status = lwc_bench_steps(bench, result, error);
    if (status == LW_OK)
        status = lwc_bench_report(bench, result, error);
    return status;
}

static int decode(int argc, char **argv)
{
    static lwc_bench_t bench;
    static lwc_bench_result_t result;
    lw_error_t error = {0};
    int usage_status = lwc_bench_parse(argc, argv, &bench.options);
    if (usage_status >= 0)
        return usage_status;
    lw_status_t status = run(&bench, &result, &error);
    if (status != LW_OK)
        fprintf(stderr, "longwave bench: %s\n", error.text);
    lwc_bench_result_fini(&result);
    lwc_bench_close(&bench);
    return status == LW_OK ? 0 : 1;
}

int lwc_cmd_bench(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "decode") == 0)
        return decode(argc - 1, argv + 1);
    bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fputs("longwave bench WHAT [options]\n\n"
          "  decode     decode steps of attention over synthetic K and V\n\n"
          "longwave bench WHAT --help says more.\n",
          help ? stdout : stderr);
    return help ? 0 : 2;
}
