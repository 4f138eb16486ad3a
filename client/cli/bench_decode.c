/* bench_decode.c - `longwave bench`: opens, fills, steps, compares, reports. */
#include <string.h>

#include "client/cli/bench.h"
#include "client/cli/commands.h"

static lw_status_t run_decode(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    lw_status_t status = lwc_bench_steps(bench, result, error);
    if (status == LW_OK)
        status = lwc_bench_phases(bench, result, error);
    if (status == LW_OK && bench->options.baseline == LWC_BENCH_BASELINE_FULL)
        status = lwc_bench_full(bench, result, error);
    return status;
}

static lw_status_t run(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    lwc_bench_phase_install();
    if (bench->options.trace)
        lwc_bench_trace_watch();
    lw_status_t status = lwc_bench_open(bench, error);
    if (status == LW_OK)
        status = lwc_bench_bandwidth(&bench->device, &result->bandwidth_gbps, error);
    if (status == LW_OK && bench->options.ceiling)
        status = lwc_bench_ceiling(bench, &result->ceiling_gbps, error);
    if (status == LW_OK)
        status =
            bench->options.whole ? lwc_bench_tokens(bench, result, error) : run_decode(bench, result, error);
    return status == LW_OK ? lwc_bench_report(bench, result, error) : status;
}

static int bench_main(int argc, char **argv, bool whole)
{
    static lwc_bench_t bench;
    static lwc_bench_result_t result;
    lw_error_t error = {0};
    int usage_status = lwc_bench_parse(argc, argv, &bench.options);
    if (usage_status >= 0)
        return usage_status;
    bench.options.whole = whole;
    lw_status_t status = run(&bench, &result, &error);
    if (status != LW_OK)
        fprintf(stderr, "longwave bench: %s\n", error.text[0] ? error.text : lw_status_text(status));
    lwc_bench_result_fini(&result);
    lwc_bench_close(&bench);
    return status == LW_OK ? 0 : 1;
}

int lwc_cmd_bench(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "decode") == 0)
        return bench_main(argc - 1, argv + 1, false);
    if (argc >= 2 && strcmp(argv[1], "tokens") == 0)
        return bench_main(argc - 1, argv + 1, true);
#ifdef LWC_CLI_DEMO
    if (argc >= 2 && strcmp(argv[1], "agree") == 0)
        return lwc_bench_agree(argc - 1, argv + 1);
#endif
    bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fputs("longwave bench WHAT [options]\n\n"
          "  decode     decode steps of attention over synthetic K and V\n"
          "  tokens     whole decode steps of a model with random weights in the same shapes (cuda)\n"
          "  agree      a real model on a GPU against the CPU, both through one index\n\n"
          "longwave bench WHAT --help says more.\n",
          help ? stdout : stderr);
    return help ? 0 : 2;
}
