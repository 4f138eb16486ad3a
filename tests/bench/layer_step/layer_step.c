/* layer_step.c - how long one attention layer step takes on a backend, beside the bytes that it must read and beside full attention.
 *
 *   layer_step [--suite table|misses|build|tiny] [--backend NAME] [--shape NAME] [--contexts N,N] [--layers N]
 *              [--outliers PPM,PPM] [--policies NAME,NAME] [--full FILE] [--json FILE] [--threads N] [--seed N]
 *
 *   table    all records cached: every policy at every context, time by op, the fixed cost of the launches
 *   misses   records in this host's memory: set hit ratios, and a cache of 5% with drifting queries
 *   build    what building the index of 128K tokens takes, all layers of the model
 *   tiny     the code of the three on a few tokens; no figure means anything
 *
 * A step goes over `layers` layers of distinct data, so that nothing is in a cache from the step before; its queries are new in
 * each step; a batch of steps runs from a captured graph and is timed as a whole; figures are medians over batches, for one
 * layer. The floor of a row is its bytes over the copy bandwidth that this run measured. Exit status 1: a time below its floor,
 * or an output that is no number. Rows are synthetic (rows.h). FILE of --full is what full_attention.py wrote. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/layer_step/report.h"
#include "bench/layer_step/rig.h"
#include "kernels/view.h"

typedef struct options {
    const char *suite, *backend, *shape, *contexts, *outliers, *policies, *full, *json;
    uint32_t layers, range_tokens;
    unsigned threads;
    uint64_t seed;
    bool tiny;
} options_t;

/* ---- shapes and policies
 * ----------------------------------------------------------------------------------------- */

typedef struct named_shape {
    const char *name;
    uint32_t model_layers, kv_heads, group, head_dim;
} named_shape_t;

static const named_shape_t shapes[] = {
    {"llama3-8b", 32, 8, 4, 128},
    {"llama3-70b-tp8", 80, 1, 8, 128},
    {"qwen2.5-7b", 28, 4, 7, 128},
    {"smollm2", 30, 3, 3, 64},
};

static const named_shape_t *find_shape(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    fprintf(stderr, "layer_step: no shape '%s'\n", name);
    exit(2);
}

typedef struct named_policy {
    const char *name;
    uint32_t rank, budget, correct, retrieve_ppm, estimate_ppm;
} named_policy_t;

static const named_policy_t policies[] = {
    {"3.2%", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE, 32000, 1000000},
    {"1.2%", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE, 12000, 1000000},
    {"paper", LWK_RANK_MEAN, LWK_BUDGET_CLUSTERS, 0, 18000, 232000},
};

static lwk_policy_t policy_of(const named_policy_t *p)
{
    return (lwk_policy_t){.rank = p->rank,
                          .budget = p->budget,
                          .correct = p->correct,
                          .cluster_tokens = 16,
                          .retrieve_ppm = p->retrieve_ppm,
                          .estimate_ppm = p->estimate_ppm,
                          .z = 1.5f};
}

static bool listed(const char *list, const char *name)
{
    const char *at = strstr(list, name);
    size_t length = strlen(name);
    return at != NULL && (at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ',');
}

/* ---- one rig
 * ------------------------------------------------------------------------------------------------------ */

static bench_config_t config_of(const options_t *o, const named_shape_t *shape, uint32_t tokens, uint32_t outlier_ppm)
{
    const lwk_backend_t *backend = lwk_backend_find(o->backend);
    if (backend == NULL) {
        printf("layer_step: no backend '%s' here\n", o->backend != NULL ? o->backend : "");
        exit(77);
    }
    return (bench_config_t){.backend = backend,
                            .shape = {.layer_count = o->layers,
                                      .kv_head_count = shape->kv_heads,
                                      .group = shape->group,
                                      .head_dim = shape->head_dim,
                                      .dtype = LW_DTYPE_BF16,
                                      .scale = 1.0f / sqrtf((float)shape->head_dim)},
                            .seed = o->seed,
                            .token_capacity = tokens,
                            .range_tokens = o->range_tokens,
                            .steady_tokens = o->tiny ? 96 : 512,
                            .cluster_encoding = LW_ENCODING_INT8,
                            .outlier_encoding = LW_ENCODING_INT4,
                            .outlier_ppm = outlier_ppm,
                            .cluster_tokens = 16,
                            .cache_ppm = 1000000,
                            .threads = o->threads};
}

/* What one selection may retrieve: a share of the tokens, and outliers are one token each. */
static uint32_t items_for(const lwk_policy_t *policy, uint32_t tokens)
{
    uint64_t items = (uint64_t)tokens * policy->retrieve_ppm / 1000000 / (policy->budget == LWK_BUDGET_CLUSTERS ? 16 : 2);
    return (uint32_t)((items + 1024) / 512 * 512);
}

static bench_run_t run_of(const options_t *o, const named_policy_t *policy, uint32_t tokens)
{
    bench_run_t run = {.policy = policy_of(policy),
                       .op_count = BENCH_OPS,
                       .admit_window = 1,
                       .warm_steps = o->tiny ? 1 : 4,
                       .steps = o->tiny ? 1 : 12,
                       .batches = o->tiny ? 1 : 11};
    run.item_capacity = items_for(&run.policy, tokens);
    return run;
}

static void fill_bytes(const bench_rig_t *rig, const bench_config_t *config, const bench_result_t *result, bench_row_t *row)
{
    double steps = (double)result->layer_steps, pair = 2.0 * (double)lwk_row_bytes(&config->shape);
    row->index_bytes = (double)bench_rig_index_bytes(rig);
    row->retrieved_bytes = (double)result->counters.tokens_retrieved / steps * pair;
    row->steady_bytes = (double)result->counters.tokens_steady / steps * pair;
    row->miss_bytes = (double)result->counters.miss_tokens / steps * pair;
    double wanted = (double)(result->counters.hits + result->counters.misses + result->counters.pending);
    row->hit_ratio = wanted > 0 ? (double)result->counters.hits / wanted : 1;
    row->retrieved_share = result->counters.tokens_indexed > 0
                               ? (double)result->counters.tokens_retrieved / (double)result->counters.tokens_indexed
                               : 0;
    row->cut = result->counters.selections_cut;
    row->us = result->layer_us;
    row->us_min = result->layer_us_min;
    row->us_max = result->layer_us_max;
    row->finite = result->finite;
}

/* Times of the ops: differences between runs of the first 1, 2 .. of them. */
static void time_ops(bench_rig_t *rig, const bench_run_t *whole, bench_row_t *row)
{
    double before = 0;
    for (uint32_t count = 1; count <= BENCH_ADMIT; count++) {
        bench_run_t run = *whole;
        run.op_count = count;
        run.batches = (whole->batches + 1) / 2;
        double us = bench_rig_run(rig, &run).layer_us;
        row->op_us[count - 1] = us - before;
        before = us;
    }
    row->op_us[BENCH_ADMIT] = row->us - before;
}

/* ---- suites
 * ------------------------------------------------------------------------------------------------------- */

static void measure(const options_t *o, bench_rig_t *rig, const bench_config_t *config, const char *shape, bench_report_t *report)
{
    uint32_t tokens = bench_rig_tokens(rig);
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        /* The paper's index has no outliers. */
        if (!listed(o->policies, policies[p].name) || (policies[p].rank == LWK_RANK_MEAN && config->outlier_ppm > 0))
            continue;
        bench_run_t run = run_of(o, &policies[p], tokens);
        bench_result_t result = bench_rig_run(rig, &run);
        bench_row_t row = {.kind = "hits",
                           .shape = shape,
                           .policy = policies[p].name,
                           .context = tokens,
                           .outlier_ppm = config->outlier_ppm,
                           .layers = config->shape.layer_count};
        fill_bytes(rig, config, &result, &row);
        if (!o->tiny)
            time_ops(rig, &run, &row);
        bench_report_row(report, &row);
    }
}

/* What the launches cost: nobody in the batch, and a session with 68 tokens. */
static void measure_fixed(const options_t *o, bench_rig_t *rig, const bench_config_t *config, const char *shape,
                          bench_report_t *report)
{
    for (int bare = 0; bare < 2; bare++) {
        bench_run_t run = run_of(o, &policies[0], bench_rig_tokens(rig));
        run.empty = !bare;
        run.bare = bare;
        bench_result_t result = bench_rig_run(rig, &run);
        bench_row_t row = {.kind = bare ? "bare" : "empty",
                           .shape = shape,
                           .policy = policies[0].name,
                           .context = bench_rig_tokens(rig),
                           .outlier_ppm = config->outlier_ppm,
                           .layers = config->shape.layer_count};
        fill_bytes(rig, config, &result, &row);
        row.index_bytes = 0;
        time_ops(rig, &run, &row);
        bench_report_row(report, &row);
    }
}

static uint32_t next_number(const char **list)
{
    char *end;
    uint32_t number = (uint32_t)strtoul(*list, &end, 0);
    if (end == *list) {
        fprintf(stderr, "layer_step: '%s' is not a list of numbers\n", *list);
        exit(2);
    }
    *list = *end == ',' ? end + 1 : end;
    return number;
}

static uint32_t largest(const char *list)
{
    uint32_t most = 0;
    while (*list != '\0') {
        uint32_t number = next_number(&list);
        most = number > most ? number : most;
    }
    return most;
}

static void note_rig(const bench_config_t *config, bench_rig_t *rig, bench_report_t *report)
{
    bench_build_t build = bench_rig_build(rig);
    printf("# loaded: %u layers, %u tokens, outliers %u ppm; %.2f GB on the device; built at %.1f M head tokens/s\n",
           config->shape.layer_count, bench_rig_tokens(rig), config->outlier_ppm, (double)bench_rig_device_bytes(rig) * 1e-9,
           build.seconds > 0 ? (double)build.head_tokens / build.seconds * 1e-6 : 0);
    fflush(stdout);
}

static void run_table(const options_t *o, bench_report_t *report)
{
    const named_shape_t *shape = find_shape(o->shape);
    for (const char *outliers = o->outliers; *outliers != '\0';) {
        bench_config_t config = config_of(o, shape, largest(o->contexts), next_number(&outliers));
        bench_rig_t *rig = bench_rig_create(&config);
        if (report->copy_rate == 0)
            report->copy_rate = bench_copy_rate(rig, o->tiny ? 1u << 20 : 512u << 20);
        bool first = true;
        for (const char *contexts = o->contexts; *contexts != '\0'; first = false) {
            bench_rig_grow(rig, next_number(&contexts));
            note_rig(&config, rig, report);
            if (first)
                measure_fixed(o, rig, &config, shape->name, report);
            measure(o, rig, &config, shape->name, report);
        }
        bench_rig_destroy(rig);
    }
}

static bench_row_t miss_row(const options_t *o, bench_rig_t *rig, const bench_config_t *config, const char *shape,
                            const named_policy_t *policy, const char *kind, uint32_t keep_ppm)
{
    uint32_t tokens = bench_rig_tokens(rig);
    bench_run_t run = run_of(o, policy, tokens);
    bool natural = config->cache_ppm < 1000000;
    run.keep_ppm = keep_ppm;
    run.admit_window = natural ? 48 : 1;
    run.warm_steps = natural && !o->tiny ? 48 : run.warm_steps;
    bench_result_t result = bench_rig_run(rig, &run);
    bench_row_t row = {.kind = kind,
                       .shape = shape,
                       .policy = policy->name,
                       .context = tokens,
                       .outlier_ppm = config->outlier_ppm,
                       .layers = config->shape.layer_count};
    fill_bytes(rig, config, &result, &row);
    return row;
}

static void run_misses(const options_t *o, bench_report_t *report)
{
    const named_shape_t *shape = find_shape(o->shape);
    const char *contexts = o->contexts, *outliers = o->outliers;
    bench_config_t config = config_of(o, shape, next_number(&contexts), next_number(&outliers));
    config.keep_records = true;
    bench_rig_t *rig = bench_rig_create(&config);
    report->copy_rate = report->copy_rate > 0 ? report->copy_rate : bench_copy_rate(rig, o->tiny ? 1u << 20 : 512u << 20);
    bench_rig_grow(rig, config.token_capacity);
    report->gather_rate = bench_gather_rate(rig);
    note_rig(&config, rig, report);
    printf("# gather of 8 KiB records from pinned memory: %.1f GB/s\n", report->gather_rate * 1e-3);
    double hits_us[2] = {0, 0};
    static const uint32_t left_ppm[] = {1000000, 990000, 950000, 900000, 800000};
    for (size_t i = 0; i < sizeof left_ppm / sizeof *left_ppm; i++) {
        if (i > 0)
            bench_rig_forget(rig, (uint32_t)(1000000.0 - 1e6 * left_ppm[i] / left_ppm[i - 1]));
        for (uint32_t p = 0; p < 2; p++) {
            bench_row_t row = miss_row(o, rig, &config, shape->name, &policies[p], i == 0 ? "hits" : "set", 0);
            if (i == 0)
                hits_us[p] = row.us;
            row.hits_us = hits_us[p];
            bench_report_row(report, &row);
        }
    }
    bench_rig_destroy(rig);
    config.cache_ppm = 50000;
    for (uint32_t p = 0; p < 2; p++) {
        rig = bench_rig_create(&config);
        bench_rig_grow(rig, config.token_capacity);
        bench_row_t row = miss_row(o, rig, &config, shape->name, &policies[p], "5% cache", 850000);
        row.hits_us = hits_us[p];
        bench_report_row(report, &row);
        bench_rig_destroy(rig);
    }
}

static void run_build(const options_t *o, bench_report_t *report)
{
    const named_shape_t *shape = find_shape(o->shape);
    const char *contexts = o->contexts, *outliers = o->outliers;
    bench_config_t config = config_of(o, shape, next_number(&contexts), next_number(&outliers));
    config.cache_ppm = 1000;
    if (!o->tiny)
        config.shape.layer_count = shape->model_layers;
    bench_rig_t *rig = bench_rig_create(&config);
    bench_rig_grow(rig, config.token_capacity);
    bench_build_t build = bench_rig_build(rig);
    double tokens = (double)build.head_tokens / config.shape.layer_count / config.shape.kv_head_count;
    bench_report_build(report, shape->name, bench_rig_tokens(rig), config.shape.layer_count, config.outlier_ppm,
                       tokens > 0 ? build.seconds * bench_rig_tokens(rig) / tokens : 0);
    bench_rig_destroy(rig);
}

/* ---- the command line
 * --------------------------------------------------------------------------------------------- */

static options_t read_options(int argc, char **argv)
{
    options_t o = {.suite = "table",
                   .shape = "llama3-8b",
                   .contexts = "131072,1048576",
                   .outliers = "125000,0",
                   .policies = "3.2%,1.2%,paper",
                   .layers = 10,
                   .range_tokens = LW_SEGMENT_TOKENS_MAX,
                   .threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN),
                   .seed = 1};
    static const struct option known[] = {{"suite", 1, NULL, 's'},    {"backend", 1, NULL, 'b'}, {"shape", 1, NULL, 'h'},
                                          {"contexts", 1, NULL, 'c'}, {"layers", 1, NULL, 'l'},  {"outliers", 1, NULL, 'o'},
                                          {"policies", 1, NULL, 'p'}, {"full", 1, NULL, 'f'},    {"json", 1, NULL, 'j'},
                                          {"threads", 1, NULL, 't'},  {"seed", 1, NULL, 'e'},    {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 's': o.suite = optarg; break;
        case 'b': o.backend = optarg; break;
        case 'h': o.shape = optarg; break;
        case 'c': o.contexts = optarg; break;
        case 'l': o.layers = (uint32_t)strtoul(optarg, NULL, 0); break;
        case 'o': o.outliers = optarg; break;
        case 'p': o.policies = optarg; break;
        case 'f': o.full = optarg; break;
        case 'j': o.json = optarg; break;
        case 't': o.threads = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'e': o.seed = strtoull(optarg, NULL, 0); break;
        default: exit(2);
        }
    }
    if (o.layers == 0 || o.layers > LW_LAYERS_MAX || optind < argc) {
        fprintf(stderr, "layer_step: --layers is 1 to %u, and there are no other arguments\n", LW_LAYERS_MAX);
        exit(2);
    }
    if (strcmp(o.suite, "tiny") == 0) {
        o.tiny = true;
        o.shape = "smollm2";
        o.contexts = "1024,2048";
        o.policies = "3.2%,paper";
        o.layers = 2;
        o.range_tokens = 1024;
        o.threads = 2;
    }
    return o;
}

int main(int argc, char **argv)
{
    options_t o = read_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    bench_report_t report = {.judge = !o.tiny};
    const lwk_backend_t *backend = lwk_backend_find(o.backend);
    bench_report_open(&report, backend, o.full);
    bool known = o.tiny;
    if (o.tiny || strcmp(o.suite, "table") == 0) {
        run_table(&o, &report);
        known = true;
    }
    if (o.tiny || strcmp(o.suite, "misses") == 0) {
        run_misses(&o, &report);
        known = true;
    }
    if (o.tiny || strcmp(o.suite, "build") == 0) {
        run_build(&o, &report);
        known = true;
    }
    if (!known) {
        fprintf(stderr, "layer_step: no suite '%s'\n", o.suite);
        return 2;
    }
    return bench_report_close(&report, o.json);
}
