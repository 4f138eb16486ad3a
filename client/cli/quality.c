/* quality.c - `longwave quality`: does Longwave change this model's answers on this document? One row for each policy, varied one
 * factor at a time around the default; every row has a session and an index of its own, so that no row lives on another's cache.
 * The table decides the defaults (docs/benchmarks.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/limits.h"
#include "client/cli/commands.h"
#include "client/cli/engine.h"
#include "client/cli/json.h"
#include "client/cli/words.h"

#define SMALL_BLOCKS 4u /* contexts of the smallest steady zone: 4, 5, 6 and 7 units before the 64 newest */

typedef struct {
    const char *name, *what;
    lw_session_params_t params;
} row_t;

#define EXACT(ppm) .retrieve_ppm = (ppm)
#define OUT(ppm) .outlier_ppm = (ppm)
#define ENC(clusters, outliers) .cluster_encoding = (clusters), .outlier_encoding = (outliers)
#define ROW(name, what, ...) {name, what, {.size = sizeof(lw_session_params_t), .replicas = 1, __VA_ARGS__}}

/* Around the default: an error target, 4-token clusters, 12.5% outliers, int4 everywhere, everything estimated without corrections;
 * rows with a fixed budget rank by the expected maximum. Rows name what differs. */
static const row_t rows[] = {
    ROW("default", "the library's default", .policy = LW_POLICY_DEFAULT),
    ROW("paper", "1.8% of clusters by centroid, 23.2% estimated", .policy = LW_POLICY_PAPER),
    ROW("nothing", "nothing retrieved", .policy = LW_POLICY_NOTHING),
    ROW("steady", "steady zone only", .policy = LW_POLICY_STEADY),
    ROW("exact-1.2", "1.2% of tokens retrieved", EXACT(12000)),
    ROW("exact-3.2", "3.2%", EXACT(32000)),
    ROW("exact-6", "6%", EXACT(60000)),
    ROW("rank-mean-3.2", "3.2%, ranked by centroid", EXACT(32000), .rank_mean = 1),
    ROW("target-0.05", "error target 0.05", .accuracy_ppm = 50000),
    ROW("target-0.02", "error target 0.02", .accuracy_ppm = 20000),
    ROW("target-0.005", "error target 0.005", .accuracy_ppm = 5000),
    ROW("outliers-0", "no outliers", OUT(LW_PPM_NONE)),
    ROW("outliers-3", "3% outliers", OUT(30000)),
    ROW("outliers-6", "6% outliers", OUT(60000)),
    ROW("clusters-8", "8-token clusters", .cluster_tokens = 8),
    ROW("clusters-16", "16-token clusters", .cluster_tokens = 16),
    ROW("estimate-23.2", "23.2% of the rest estimated", .estimate_ppm = 232000),
    ROW("variance", "all estimated, variance correction", .correct = LW_CORRECT_VARIANCE),
    ROW("value", "all, both corrections", .correct = LW_CORRECT_VARIANCE | LW_CORRECT_VALUE),
    ROW("exact-3.2-value", "3.2%, both corrections", EXACT(32000), .correct = LW_CORRECT_VARIANCE | LW_CORRECT_VALUE),
    ROW("bf16", "bf16 index", ENC(LW_ENCODING_BF16, LW_ENCODING_BF16)),
    ROW("int8", "int8 clusters, int8 outliers", ENC(LW_ENCODING_INT8, LW_ENCODING_INT8)),
    ROW("int8-int4", "int8 clusters, int4 outliers", ENC(LW_ENCODING_INT8, LW_ENCODING_INT4)),
    ROW("full", "everything retrieved", .policy = LW_POLICY_FULL),
};

typedef struct {
    lwc_run_words_t run;
    const char *names;
    bool small;
} options_t;

typedef struct {
    const row_t *row;
    lwc_figures_t figures;
    double index_bytes; /* of a token and KV head */
    lw_status_t status;
    char error[160];
} result_t;

static void usage(FILE *out)
{
    fputs("longwave quality --model FILE.gguf --document FILE --fleet HOST:PORT,... [options]\n"
          "\n"
          "Compares policies with full attention, teacher-forced on a document: a table in Markdown.\n"
          "\n"
          "  --context N     tokens read before the comparison (6272)\n"
          "  --teacher N     tokens compared (512)\n"
          "  --small-steady  keep the steady zone at its smallest: compare after 4, 5, 6 and 7 sealed units\n"
          "  --rows A,B      these rows only; --rows help lists them\n"
          "  --backend NAME, --config TEXT, --threads N, --json FILE, --quiet   as for longwave demo\n",
          out);
}

static int parse(int argc, char **argv, options_t *options)
{
    *options = (options_t){.run = {.context = 6272, .teacher = 512}};
    const lwc_word_t own[] = {
        {"rows", LWC_WORD_TEXT, &options->names},
        {"small-steady", LWC_WORD_SWITCH, &options->small},
    };
    int done = lwc_words_parse("quality", argc, argv, &options->run, own, LW_ARRAY_SIZE(own), usage);
    if (done >= 0)
        return done;
    if (options->names && strcmp(options->names, "help") == 0) {
        for (size_t i = 0; i < LW_ARRAY_SIZE(rows); i++)
            printf("%-16s %s\n", rows[i].name, rows[i].what);
        return 0;
    }
    if (!options->run.model || !options->run.document || options->run.teacher < SMALL_BLOCKS)
        return lwc_words_wrong("quality", "--model and --document are required, --teacher at least 4", usage);
    return -1;
}

static bool chosen(const options_t *options, const row_t *row)
{
    if (!options->names)
        return true;
    size_t bytes = strlen(row->name);
    for (const char *at = options->names; (at = strstr(at, row->name)) != NULL; at += bytes)
        if ((at == options->names || at[-1] == ',') && (at[bytes] == 0 || at[bytes] == ','))
            return true;
    return false;
}

/* One stretch of comparing: tokens first .. first + count - 1 after `first` tokens of context. */
typedef struct {
    uint32_t first, count;
    float *expected;
} block_t;

static lw_status_t score_block(lwc_engine_t *engine, lw_session_t *session, const block_t *block, const char *label,
                               lwc_score_t *score, lw_error_t *error)
{
    lw_session_t *child = NULL;
    lw_status_t status = lwc_engine_replay(engine, session, block->first, error);
    if (status == LW_OK)
        status = lwc_engine_flush(engine, session, error);
    if (status != LW_OK)
        return status;
    status = lw_session_fork(session, NULL, &child);
    if (status != LW_OK)
        return lw_fail(error, status, "fork: %s", lw_last_error(engine->kv));
    status = lwc_engine_score(engine, child, block->first, block->count, block->expected, label, score, error);
    lw_status_t dropped = lw_session_drop(child);
    lw_session_close(child);
    return status != LW_OK ? status : dropped;
}

static void run_row(lwc_engine_t *engine, const options_t *options, const block_t *blocks, uint32_t block_count,
                    result_t *result)
{
    lw_error_t error = {0};
    lw_session_params_t params = result->row->params;
    lw_session_t *session = NULL;
    lwc_score_t score = {0};
    params.segment_tokens = options->small ? LW_UNIT_TOKENS : 2 * LW_UNIT_TOKENS;
    result->status = lw_session_open(engine->kv, &params, &session);
    if (result->status != LW_OK)
        lw_fail(&error, result->status, "session: %s", lw_last_error(engine->kv));
    for (uint32_t b = 0; b < block_count && result->status == LW_OK; b++)
        result->status = score_block(engine, session, &blocks[b], result->row->name, &score, &error);
    if (result->status == LW_OK) {
        lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_INDEX | LW_SESSION_ATTR_TOKENS};
        result->status = lw_session_query(session, &attr);
        result->index_bytes = (double)attr.index_bytes / ((double)attr.sealed_tokens * engine->shape->layers *
                                                          engine->shape->kv_heads);
    }
    result->figures = lwc_figures(engine, &score);
    snprintf(result->error, sizeof(result->error), "%.159s", error.text);
    if (session) {
        if (lw_session_drop(session) != LW_OK)
            fprintf(stderr, "longwave quality: drop: %s\n", lw_last_error(engine->kv));
        lw_session_close(session);
    }
}

static void print_head(void)
{
    printf("| policy | top-1 %% | mean KL | max KL | exact %% | retrieved %% | index B/token | KiB retrieved a token | "
           "KiB fetched a token | hits %% | NLL |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
}

static void print_row(const result_t *result)
{
    const lwc_figures_t *f = &result->figures;
    if (result->status != LW_OK)
        printf("| %s | %s |\n", result->row->name, result->error);
    else
        printf("| %s: %s | %.2f | %.5f | %.3f | %.2f | %.2f | %.1f | %.1f | %.1f | %.1f | %.4f |\n", result->row->name,
               result->row->what, 100 * f->top1, f->kl, f->kl_max, 100 * f->exact_share, 100 * f->retrieved_share,
               result->index_bytes, f->retrieved_bytes_per_token / 1024, f->bytes_per_token / 1024, 100 * f->hit_ratio,
               f->nll);
    fflush(stdout);
}

static void write_row(lwc_json_t *json, const result_t *result)
{
    const lwc_figures_t *f = &result->figures;
    lwc_json_open(json, NULL, '{');
    lwc_json_text(json, "policy", result->row->name);
    lwc_json_text(json, "what", result->row->what);
    lwc_json_text(json, "error", result->status == LW_OK ? NULL : result->error);
    lwc_json_number(json, "top1_agreement", f->top1);
    lwc_json_number(json, "mean_kl", f->kl);
    lwc_json_number(json, "max_kl", f->kl_max);
    lwc_json_number(json, "exact_share", f->exact_share);
    lwc_json_number(json, "retrieved_token_share", f->retrieved_share);
    lwc_json_number(json, "index_bytes_per_token_and_head", result->index_bytes);
    lwc_json_number(json, "bytes_retrieved_per_token", f->retrieved_bytes_per_token);
    lwc_json_number(json, "bytes_fetched_per_token", f->bytes_per_token);
    lwc_json_number(json, "cache_hit_ratio", f->hit_ratio);
    lwc_json_number(json, "nll", f->nll);
    lwc_json_number(json, "nll_full", f->nll_full);
    lwc_json_close(json);
}

static lw_status_t run(lwc_engine_t *engine, const options_t *options, lwc_json_t *json, lw_error_t *error)
{
    block_t blocks[SMALL_BLOCKS];
    uint32_t block_count = options->small ? SMALL_BLOCKS : 1, failed = 0;
    lw_status_t status = LW_OK;
    memset(blocks, 0, sizeof(blocks));
    for (uint32_t b = 0; b < block_count && status == LW_OK; b++) {
        blocks[b].first = options->small ? (4 + b) * LW_UNIT_TOKENS + LW_RECENT_TOKENS : options->run.context;
        blocks[b].count = options->run.teacher / block_count;
        status = lwc_engine_read(engine, blocks[b].first, NULL, error);
        if (status == LW_OK && !(blocks[b].expected = lwc_engine_expect(engine, blocks[b].first, blocks[b].count, error)))
            status = error->status;
    }
    if (status == LW_OK)
        print_head();
    for (size_t i = 0; i < LW_ARRAY_SIZE(rows) && status == LW_OK; i++) {
        if (!chosen(options, &rows[i]))
            continue;
        result_t result = {.row = &rows[i]};
        run_row(engine, options, blocks, block_count, &result);
        print_row(&result);
        if (json)
            write_row(json, &result);
        failed += result.status != LW_OK;
    }
    for (uint32_t b = 0; b < block_count; b++)
        free(blocks[b].expected);
    return status != LW_OK ? status : failed ? lw_fail(error, LW_ERR_IO, "%u rows failed", failed) : LW_OK;
}

int lwc_cmd_quality(int argc, char **argv)
{
    options_t options;
    lwc_engine_t engine;
    lw_error_t error = {0};
    int usage_status = parse(argc, argv, &options);
    if (usage_status >= 0)
        return usage_status;
    uint32_t longest = options.small ? (3 + SMALL_BLOCKS) * LW_UNIT_TOKENS + LW_RECENT_TOKENS + options.run.teacher / SMALL_BLOCKS
                                     : options.run.context + options.run.teacher;
    lwc_engine_params_t params = {.model_path = options.run.model,
                                  .document_path = options.run.document,
                                  .fleet = options.run.fleet,
                                  .backend = options.run.backend,
                                  .config = options.run.config,
                                  .threads = options.run.threads,
                                  .tokens_max = longest,
                                  .sessions_max = 3,
                                  .quiet = options.run.quiet};
    FILE *out = NULL;
    lwc_json_t json;
    if (options.run.json) {
        out = strcmp(options.run.json, "-") == 0 ? stdout : fopen(options.run.json, "w");
        if (!out) {
            fprintf(stderr, "longwave quality: --json: '%s' cannot be written\n", options.run.json);
            return 1;
        }
        json = lwc_json(out);
        lwc_json_open(&json, NULL, '[');
    }
    lw_status_t status = lwc_engine_open(&params, &engine, &error);
    if (status == LW_OK) {
        status = run(&engine, &options, out ? &json : NULL, &error);
        lwc_engine_close(&engine);
    }
    if (status != LW_OK)
        fprintf(stderr, "longwave quality: %s\n", error.text);
    if (out) {
        lwc_json_close(&json);
        if (!lwc_json_end(&json) || (out != stdout && fclose(out) != 0))
            status = LW_ERR_IO;
    }
    return status == LW_OK ? 0 : 1;
}
