/* bench_options.c - the words after `longwave bench decode`. */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "client/cli/bench.h"

static void usage(FILE *out)
{
    fputs("longwave bench decode [options]\n"
          "\n"
          "Decode steps of attention in a model's shape over synthetic K and V, through the library: time, "
          "hit ratio, bytes,\n"
          "error against exact attention, memory. One table, or JSON.\n"
          "\n"
          "  --shape NAME      the model (llama3-8b):\n",
          out);
    lwc_bench_shapes(out);
    fputs(
        "  --layers N        layers (the shape's)\n"
        "  --context N       tokens of each session before the first step (131072)\n"
        "  --batch N         sessions, each with a text of its own (1)\n"
        "  --steps N         steps that are timed (64); --warm-up N before them (8)\n"
        "  --policy NAME     default, expected-max, paper, full, nothing or steady\n"
        "  --budget PPM      share of tokens retrieved (the policy's); --target PPM: expected error of a "
        "head's output\n"
        "  --outliers PPM    share of tokens with an index entry of their own (the policy's); --clusters N: "
        "tokens of one\n"
        "  --cache SHARE     block cache as a share of the KV (0.05)\n"
        "  --hits RATIO      steer the queries to this hit ratio (what drifting queries give)\n"
        "  --backend NAME    cuda, cpu or ref (best available)\n"
        "  --transport NAME  tcp, shm or rdma: to the daemons of --fleet; local: in this process (local "
        "without --fleet)\n"
        "  --fleet ADDRESSES control addresses, host:port,host:port (deploy/local-fleet.sh starts a fleet)\n"
        "  --graph           replay steps from a captured graph (cuda)\n"
        "  --baseline full   time full attention over the same shape in the same run\n"
        "  --ceiling         measure what the transport could give at best, in the same run\n"
        "  --samples N       outputs of query heads compared with exact attention after the timed steps "
        "(64)\n"
        "  --trace FILE      a timeline of the last step for chrome://tracing\n"
        "  --config TEXT     client options, 'group.name=value;...' (docs/reference/options-client.md)\n"
        "  --threads N       that make K and V (one a core); --seed N\n"
        "  --json FILE       the figures for a program; '-' is standard output, instead of the table\n"
        "  --quiet           no progress lines\n"
        "\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage.\n",
        out);
}

bool lwc_bench_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *value_out)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "longwave bench: --%s is '%s', must be %" PRIu64 " to %" PRIu64 "\n", name, text, min,
                max);
        return false;
    }
    *value_out = value;
    return true;
}

static bool number32(const char *name, const char *text, uint32_t min, uint32_t max, uint32_t *value_out)
{
    uint64_t value = 0;
    if (!lwc_bench_number(name, text, min, max, &value))
        return false;
    *value_out = (uint32_t)value;
    return true;
}

/* "0.05" to 50,000. */
static bool share(const char *name, const char *text, uint32_t *ppm_out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= 1)) {
        fprintf(stderr, "longwave bench: --%s is '%s', must be 0 to 1\n", name, text);
        return false;
    }
    *ppm_out = (uint32_t)lround(value * 1e6);
    return true;
}

static bool policy(const char *name, lwc_bench_options_t *options)
{
    static const char *const names[] = {
        [LW_POLICY_DEFAULT] = "default", [LW_POLICY_EXPECTED_MAX] = "expected-max",
        [LW_POLICY_PAPER] = "paper",     [LW_POLICY_FULL] = "full",
        [LW_POLICY_NOTHING] = "nothing", [LW_POLICY_STEADY] = "steady",
    };
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(names); i++)
        if (strcmp(names[i], name) == 0) {
            options->policy.policy = i;
            options->policy_name = names[i];
            return true;
        }
    fprintf(
        stderr,
        "longwave bench: --policy is '%s', must be default, expected-max, paper, full, nothing or steady\n",
        name);
    return false;
}

static bool together(lwc_bench_options_t *options)
{
    uint32_t layers = options->shape.layers;
    if (!lwc_bench_shape(options->shape_name, &options->shape)) {
        fprintf(stderr, "longwave bench: --shape is '%s', must be one of\n", options->shape_name);
        lwc_bench_shapes(stderr);
        return false;
    }
    if (layers)
        options->shape.layers = layers;
    if (!options->transport)
        options->transport = options->fleet ? "tcp" : "local";
    bool local = strcmp(options->transport, "local") == 0;
    if (!local && strcmp(options->transport, "tcp") != 0 && strcmp(options->transport, "shm") != 0 &&
        strcmp(options->transport, "rdma") != 0) {
        fprintf(stderr, "longwave bench: --transport is '%s', must be tcp, shm, rdma or local\n",
                options->transport);
        return false;
    }
    if (local == (options->fleet != NULL)) {
        fprintf(stderr,
                local ? "longwave bench: --fleet is set, but --transport is local\n"
                      : "longwave bench: --transport %s needs --fleet\n",
                options->transport);
        return false;
    }
    return true;
}

enum {
    SHAPE = 256,
    LAYERS,
    CONTEXT,
    BATCH,
    STEPS,
    WARM_UP,
    POLICY,
    BUDGET,
    TARGET,
    OUTLIERS,
    CLUSTERS,
    CACHE,
    HITS,
    BACKEND,
    TRANSPORT,
    FLEET,
    GRAPH,
    BASELINE,
    CEILING,
    SAMPLES,
    TRACE,
    CONFIG,
    THREADS,
    SEED,
    JSON,
    QUIET,
    HELP
};

static const struct option known[] = {
    {"shape", 1, NULL, SHAPE},         {"layers", 1, NULL, LAYERS},
    {"context", 1, NULL, CONTEXT},     {"batch", 1, NULL, BATCH},
    {"steps", 1, NULL, STEPS},         {"warm-up", 1, NULL, WARM_UP},
    {"policy", 1, NULL, POLICY},       {"budget", 1, NULL, BUDGET},
    {"target", 1, NULL, TARGET},       {"outliers", 1, NULL, OUTLIERS},
    {"clusters", 1, NULL, CLUSTERS},   {"cache", 1, NULL, CACHE},
    {"hits", 1, NULL, HITS},           {"backend", 1, NULL, BACKEND},
    {"transport", 1, NULL, TRANSPORT}, {"fleet", 1, NULL, FLEET},
    {"graph", 0, NULL, GRAPH},         {"baseline", 1, NULL, BASELINE},
    {"ceiling", 0, NULL, CEILING},     {"samples", 1, NULL, SAMPLES},
    {"trace", 1, NULL, TRACE},         {"config", 1, NULL, CONFIG},
    {"threads", 1, NULL, THREADS},     {"seed", 1, NULL, SEED},
    {"json", 1, NULL, JSON},           {"quiet", 0, NULL, QUIET},
    {"help", 0, NULL, HELP},           {0},
};

static bool baseline(const char *name, lwc_bench_options_t *options)
{
    options->baseline = LWC_BENCH_BASELINE_FULL;
    if (strcmp(name, "full") == 0)
        return true;
    fprintf(stderr, "longwave bench: --baseline is '%s', must be full\n", name);
    return false;
}

static bool take(int opt, const char *name, const char *value, lwc_bench_options_t *options)
{
    switch (opt) {
    case SHAPE: options->shape_name = value; return true;
    case LAYERS: return number32(name, value, 1, 256, &options->shape.layers);
    case CONTEXT: return number32(name, value, 1, 16u << 20, &options->context);
    case BATCH: return number32(name, value, 1, LWC_BENCH_BATCH_MAX, &options->batch);
    case STEPS: return number32(name, value, 1, LWC_BENCH_STEPS_MAX, &options->steps);
    case WARM_UP: return number32(name, value, 0, LWC_BENCH_STEPS_MAX, &options->warm_up);
    case POLICY: return policy(value, options);
    case BUDGET: return number32(name, value, 1, 1000000, &options->policy.retrieve_ppm);
    case TARGET: return number32(name, value, 1, 1000000, &options->policy.accuracy_ppm);
    case OUTLIERS:
        if (!number32(name, value, 0, 1000000, &options->policy.outlier_ppm))
            return false;
        options->policy.outlier_ppm = options->policy.outlier_ppm ? options->policy.outlier_ppm : LW_PPM_NONE;
        return true;
    case CLUSTERS: return number32(name, value, 8, 256, &options->policy.cluster_tokens);
    case CACHE: return share(name, value, &options->cache_ppm);
    case HITS: return share(name, value, &options->hits_ppm);
    case BACKEND: options->backend = value; return true;
    case TRANSPORT: options->transport = value; return true;
    case FLEET: options->fleet = value; return true;
    case GRAPH: options->graph = true; return true;
    case BASELINE: return baseline(value, options);
    case CEILING: options->ceiling = true; return true;
    case SAMPLES: return number32(name, value, 0, 4096, &options->samples);
    case TRACE: options->trace = value; return true;
    case CONFIG: options->config = value; return true;
    case THREADS: return number32(name, value, 1, 64, &options->threads);
    case SEED: return lwc_bench_number(name, value, 0, UINT64_MAX, &options->seed);
    case JSON: options->json = value; return true;
    case QUIET: options->quiet = true; return true;
    default: return false;
    }
}

int lwc_bench_parse(int argc, char **argv, lwc_bench_options_t *options)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *options = (lwc_bench_options_t){.shape_name = "llama3-8b",
                                     .context = 131072,
                                     .batch = 1,
                                     .steps = 64,
                                     .warm_up = 8,
                                     .threads = cores > 64  ? 64
                                                : cores > 0 ? (uint32_t)cores
                                                            : 1,
                                     .samples = 64,
                                     .cache_ppm = 50000,
                                     .hits_ppm = LW_PPM_NONE,
                                     .policy = {.size = sizeof(lw_session_params_t), .replicas = 1},
                                     .policy_name = "default",
                                     .seed = 1};
    bool fine = true;
    int opt, index = 0;
    optind = 1;
    while (fine && (opt = getopt_long(argc, argv, "h", known, &index)) != -1) {
        if (opt == HELP || opt == 'h') {
            usage(stdout);
            return 0;
        }
        fine = opt >= SHAPE && take(opt, known[index].name, optarg, options);
    }
    if (fine && optind < argc) {
        fprintf(stderr, "longwave bench: '%s' is no option\n", argv[optind]);
        fine = false;
    }
    if (fine && together(options))
        return -1;
    fprintf(stderr, "longwave bench: see longwave bench decode --help\n");
    return 2;
}
