/* needle_eval.c - how far the index is from exact attention, on captured tensors, for a list of policies.
 *
 *   needle_eval FOLDER [--backend NAME] [--segment TOKENS[,TOKENS]] [--only TEXT] [--every N] [--layers]
 * [--json FILE]
 *
 * FOLDER holds the tensors (tensors.h). --only: rows whose factor or policy contains TEXT. --every: each N-th
 * query. --layers: one line for each layer as well. The table goes to standard output, progress to standard
 * error. One thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/eval/metrics.h"

typedef struct options {
    const char *folder, *backend, *only, *json;
    uint32_t segments[4], segment_count, every;
    int layers;
} options_t;

/* What the next row can use again. */
typedef struct kept {
    eval_zone_t zone;
    eval_exact_t *exact;
    eval_index_spec_t spec;
    eval_host_t *host;
} kept_t;

static int usage(void)
{
    fprintf(
        stderr,
        "usage: needle_eval FOLDER [--backend NAME] [--segment TOKENS[,TOKENS]] [--only TEXT] [--every N] "
        "[--layers] [--json FILE]\n");
    return 2;
}

static int parse_segments(const char *text, options_t *to)
{
    to->segment_count = 0;
    while (*text != '\0' && to->segment_count < LW_ARRAY_SIZE(to->segments)) {
        char *end;
        unsigned long tokens = strtoul(text, &end, 10);
        if (end == text || tokens < LW_UNIT_TOKENS || tokens > LW_SEGMENT_TOKENS_MAX)
            return 0;
        to->segments[to->segment_count++] = (uint32_t)tokens;
        text = *end == ',' ? end + 1 : end;
    }
    return *text == '\0' && to->segment_count > 0;
}

static int parse(int argc, char **argv, options_t *to)
{
    *to = (options_t){.backend = "cpu", .only = "", .segments = {8192, 2048}, .segment_count = 2, .every = 1};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--layers") == 0) {
            to->layers = 1;
            continue;
        }
        if (name[0] != '-' && to->folder == NULL) {
            to->folder = name;
            continue;
        }
        if (value == NULL)
            return 0;
        i++;
        if (strcmp(name, "--backend") == 0)
            to->backend = value;
        else if (strcmp(name, "--only") == 0)
            to->only = value;
        else if (strcmp(name, "--json") == 0)
            to->json = value;
        else if (strcmp(name, "--every") == 0)
            to->every = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--segment") != 0 || !parse_segments(value, to))
            return 0;
    }
    return to->folder != NULL && to->every > 0;
}

/* The captured outputs were worked out elsewhere: they check our own exact attention. */
static double check_exact(const eval_tensors_t *tensors, const eval_exact_t *exact, uint32_t every)
{
    double worst = 0;
    for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++)
        for (uint32_t i = 0; i < EVAL_OUTPUTS; i++) {
            uint32_t query = EVAL_QUERIES - EVAL_OUTPUTS + i;
            for (uint32_t head = 0; head < EVAL_HEADS && query % every == 0; head++) {
                const float *want = tensors->outputs +
                                    (((size_t)layer * EVAL_OUTPUTS + i) * EVAL_HEADS + head) * EVAL_HEAD_DIM;
                const float *got = exact[eval_exact_at(layer, query, head)].out;
                double gap = 0, size = 0;
                for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++) {
                    gap += ((double)got[j] - want[j]) * ((double)got[j] - want[j]);
                    size += (double)want[j] * want[j];
                }
                worst = fmax(worst, sqrt(gap / size));
            }
        }
    return worst;
}

static void prepare_exact(const eval_tensors_t *tensors, const eval_zone_t *zone, uint32_t every,
                          kept_t *kept)
{
    if (kept->exact != NULL && memcmp(zone, &kept->zone, sizeof *zone) == 0)
        return;
    free(kept->exact);
    kept->exact = eval_exact_all(tensors, zone, every);
    kept->zone = *zone;
    if (zone->recent == 0)
        fprintf(stderr, "exact attention: largest difference from the captured outputs %.2g\n",
                check_exact(tensors, kept->exact, every));
}

static void prepare_host(const lwk_backend_t *backend, const eval_tensors_t *tensors,
                         const eval_index_spec_t *spec, kept_t *kept)
{
    if (kept->host != NULL && memcmp(spec, &kept->spec, sizeof *spec) == 0)
        return;
    if (kept->host != NULL)
        eval_host_destroy(kept->host);
    kept->host = eval_host_create(backend, tensors, spec);
    kept->spec = *spec;
}

static void run(const options_t *options, const lwk_backend_t *backend, const eval_tensors_t *tensors,
                FILE *json)
{
    eval_policy_t rows[EVAL_POLICIES_MAX];
    uint32_t count = eval_policies(rows), printed = 0;
    kept_t kept = {.exact = NULL};
    eval_print_head(stdout);
    for (uint32_t s = 0; s < options->segment_count; s++)
        for (uint32_t r = 0; r < count; r++) {
            const eval_policy_t *row = &rows[r];
            if (strstr(row->name, options->only) == NULL && strstr(row->group, options->only) == NULL)
                continue;
            uint32_t recent = row->recent == 0 ? LW_RECENT_TOKENS : row->recent;
            eval_zone_t zone = {EVAL_TOKENS - EVAL_QUERIES - recent, row->recent};
            eval_index_spec_t spec = {options->segments[s],  zone.index_end,        row->outlier_ppm,
                                      row->cluster_encoding, row->outlier_encoding, row->cluster_tokens};
            prepare_exact(tensors, &zone, options->every, &kept);
            prepare_host(backend, tensors, &spec, &kept);
            eval_result_t result = eval_measure(tensors, kept.host, row, &zone, kept.exact, options->every);
            eval_print_row(stdout, row, options->segments[s], &result);
            if (options->layers)
                eval_print_layers(stdout, row, options->segments[s], &result);
            fflush(stdout);
            if (json != NULL) {
                fprintf(json, printed++ == 0 ? "[\n" : ",\n");
                eval_print_json(json, row, options->segments[s], &result);
            }
            fprintf(stderr, "%u %s, %s: build %.2f s, layer step %.0f us\n", options->segments[s], row->group,
                    row->name, result.build_seconds, result.step_us);
        }
    if (json != NULL)
        fprintf(json, printed == 0 ? "[]\n" : "\n]\n");
    free(kept.exact);
    if (kept.host != NULL)
        eval_host_destroy(kept.host);
}

int main(int argc, char **argv)
{
    options_t options;
    eval_tensors_t tensors;
    lw_error_t error;
    if (!parse(argc, argv, &options))
        return usage();
    const lwk_backend_t *backend = lwk_backend_find(options.backend);
    if (backend == NULL || (backend->caps & LWK_CAP_ASYNC) != 0) {
        fprintf(stderr, "needle_eval: %s: no such backend on host memory\n", options.backend);
        return 2;
    }
    if (eval_tensors_open(options.folder, &tensors, &error) != LW_OK) {
        fprintf(stderr, "needle_eval: %s\n", error.text);
        return 1;
    }
    FILE *json = options.json == NULL ? NULL : fopen(options.json, "w");
    if (options.json != NULL && json == NULL) {
        fprintf(stderr, "needle_eval: %s: cannot be written\n", options.json);
        eval_tensors_close(&tensors);
        return 1;
    }
    run(&options, backend, &tensors, json);
    if (json != NULL)
        fclose(json);
    eval_tensors_close(&tensors);
    return 0;
}
