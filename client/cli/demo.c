/* demo.c - `longwave demo`: the main job, end to end. A model reads a document while its KV goes to the fleet range by range;
 * then it answers, each layer step attending through the wave index and fetching clusters from the daemons. Full attention over
 * the same bf16 K and V runs beside it. Exit status 0 only when the gates hold and the controls fail them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/limits.h"
#include "client/cli/commands.h"
#include "client/cli/engine.h"
#include "client/cli/json.h"
#include "client/cli/words.h"

#define GATE_TOP1 0.98
#define GATE_KL 0.01
#define GATE_SEALED 0.80

static const char opening[] = "<|im_start|>user\nRead this document.\n\n";
static const char question[] = "\n\nIn a few sentences: what is this document about?<|im_end|>\n<|im_start|>assistant\n";

typedef struct {
    lwc_run_words_t run;
    uint32_t decode, control, retrieve_ppm;
} options_t;

typedef struct {
    const char *name, *why;
    lwc_score_t score;
    lwc_figures_t figures;
    lw_status_t status; /* a control that could not run proves nothing: the demo fails */
    char error[160];
    bool fails;
} control_t;

typedef struct {
    options_t options;
    lwc_engine_t engine;
    lw_session_t *session;
    lw_session_attr_t session_attr;
    lw_attr_t attr;
    float *expected;
    lwc_score_t score;
    lwc_figures_t figures;
    control_t controls[3];
    uint32_t control_count;
    uint32_t *full_tokens, *wave_tokens;
    double full_seconds, wave_seconds, sealed;
    bool gates, passed;
} demo_t;

static void usage(FILE *out)
{
    fputs("longwave demo --model FILE.gguf --document FILE --fleet HOST:PORT,... [options]\n"
          "\n"
          "Reads the document with the model, stores its KV in the fleet, answers through the wave index, and compares\n"
          "with full attention. Exit status 0 only if the gates hold.\n"
          "\n"
          "  --context N       tokens to read (6272)\n"
          "  --teacher N       further tokens compared one by one (512)\n"
          "  --decode N        tokens to answer with (128)\n"
          "  --control N       tokens of each control (96)\n"
          "  --retrieve-ppm N  share of tokens attended exactly; 0: the library's default\n"
          "  --backend NAME    cpu or ref (cpu): the model runs on the host\n"
          "  --config TEXT     client options, 'group.name=value;...' (docs/reference/options-client.md)\n"
          "  --threads N       of the model runner (one a core)\n"
          "  --json FILE       the same figures for a program; '-' is standard output\n"
          "  --quiet           no progress lines\n",
          out);
}

static int parse(int argc, char **argv, options_t *options)
{
    *options = (options_t){.run = {.context = 6272, .teacher = 512}, .decode = 128, .control = 96};
    const lwc_word_t own[] = {
        {"decode", LWC_WORD_NUMBER, &options->decode},
        {"control", LWC_WORD_NUMBER, &options->control},
        {"retrieve-ppm", LWC_WORD_NUMBER, &options->retrieve_ppm},
    };
    int done = lwc_words_parse("demo", argc, argv, &options->run, own, LW_ARRAY_SIZE(own), usage);
    if (done >= 0)
        return done;
    uint32_t teacher = options->run.teacher;
    if (!options->run.model || !options->run.document || teacher == 0 || options->decode == 0 ||
        options->control == 0 || options->control > teacher)
        return lwc_words_wrong("demo",
                               "--model and --document are required; --teacher, --decode and --control at least 1, "
                               "--control at most --teacher",
                               usage);
    return -1;
}

/* ---- the parts of the job ---- */

static lw_status_t read_document(demo_t *demo, lw_error_t *error)
{
    lw_session_params_t params = {.size = sizeof(params), .segment_tokens = 2 * LW_UNIT_TOKENS,
                                  .replicas = 1, /* its memory is counted in the report, and nothing is lost on purpose */
                                  .retrieve_ppm = demo->options.retrieve_ppm};
    lw_status_t status = lw_session_open(demo->engine.kv, &params, &demo->session);
    if (status != LW_OK)
        return lw_fail(error, status, "session: %s", lw_last_error(demo->engine.kv));
    status = lwc_engine_read(&demo->engine, demo->options.run.context, demo->session, error);
    if (status == LW_OK)
        status = lwc_engine_flush(&demo->engine, demo->session, error);
    demo->session_attr.field_mask = LW_SESSION_ATTR_TOKENS | LW_SESSION_ATTR_INDEX;
    if (status == LW_OK)
        status = lw_session_query(demo->session, &demo->session_attr);
    return status;
}

/* A child with a policy of its own, scored over the document's next tokens. */
static lw_status_t score_fork(demo_t *demo, const lw_session_params_t *policy, uint32_t count, const char *label,
                              lwc_score_t *score, lw_error_t *error)
{
    lw_session_t *child = NULL;
    lw_status_t status = lw_session_fork(demo->session, policy, &child);
    if (status != LW_OK)
        return lw_fail(error, status, "fork: %s", lw_last_error(demo->engine.kv));
    status = lwc_engine_score(&demo->engine, child, demo->options.run.context, count, demo->expected, label, score, error);
    lw_status_t dropped = lw_session_drop(child);
    lw_session_close(child);
    if (status == LW_OK && dropped != LW_OK)
        status = lw_fail(error, dropped, "drop: %s", lw_last_error(demo->engine.kv));
    return status;
}

static bool gates_hold(const lwc_figures_t *figures)
{
    return figures->top1 >= GATE_TOP1 && figures->kl <= GATE_KL;
}

/* A control that passes the gates would mean that they measure nothing. */
static void run_control(demo_t *demo, const char *name, const char *why, uint32_t policy)
{
    control_t *control = &demo->controls[demo->control_count++];
    lw_error_t error = {0};
    lw_session_params_t params = {.size = sizeof(params), .policy = policy,
                                  .retrieve_ppm = policy == LW_POLICY_DEFAULT ? demo->options.retrieve_ppm : 0};
    control->name = name;
    control->why = why;
    control->status = score_fork(demo, &params, demo->options.control, name, &control->score, &error);
    snprintf(control->error, sizeof(control->error), "%.159s", error.text);
    control->figures = lwc_figures(&demo->engine, &control->score);
    control->fails = control->status == LW_OK && !gates_hold(&control->figures);
}

static void run_controls(demo_t *demo)
{
    run_control(demo, "control: steady zone only", "everything sealed is ignored", LW_POLICY_STEADY);
    run_control(demo, "control: nothing retrieved", "everything sealed is only estimated", LW_POLICY_NOTHING);
#ifdef LW_FAULTS
    lw_fault_enable(LW_FAULT_RECORD_SWAP, 1.0);
    run_control(demo, "control: two records swapped", "two fetched records change places in each layer step",
                LW_POLICY_DEFAULT);
    lw_fault_enable(LW_FAULT_RECORD_SWAP, 0.0);
#endif
}

static lw_status_t answer(demo_t *demo, lw_error_t *error)
{
    lwc_engine_t *engine = &demo->engine;
    uint32_t count = demo->options.decode, position = demo->options.run.context;
    llama_tokens_t prompt = {0};
    llama_full_t *full = NULL;
    lw_session_t *child = NULL;
    lwc_engine_attention_t attention = {0};
    demo->full_tokens = calloc(count, sizeof(uint32_t));
    demo->wave_tokens = calloc(count, sizeof(uint32_t));
    lw_status_t status = demo->full_tokens && demo->wave_tokens ? LW_OK : LW_ERR_NO_MEMORY;
    if (status == LW_OK)
        status = llama_encode(llama_model_tokenizer(engine->model), question, strlen(question), true, &prompt);
    if (status == LW_OK)
        status = llama_full_fork(engine->full, position, position + (uint32_t)prompt.count + count, engine->pool, &full);
    if (status == LW_OK)
        status = lw_session_fork(demo->session, NULL, &child);
    if (status == LW_OK)
        status = lwc_engine_attention_init(engine, child, &attention);
    if (status != LW_OK) {
        lw_fail(error, status, "answer: %s: %s", lw_status_text(status), lw_last_error(engine->kv));
    } else {
        llama_attention_t exact = llama_full_attention(full), wave = lwc_engine_attention(&attention);
        status = lwc_engine_decode(engine, &exact, prompt.ids, (uint32_t)prompt.count, position, count, demo->full_tokens,
                                   &demo->full_seconds, "answer, full attention", error);
        if (status == LW_OK)
            status = lwc_engine_decode(engine, &wave, prompt.ids, (uint32_t)prompt.count, position, count,
                                       demo->wave_tokens, &demo->wave_seconds, "answer, Longwave", error);
    }
    lwc_engine_attention_fini(&attention);
    if (child) {
        lw_status_t dropped = lw_session_drop(child);
        if (status == LW_OK && dropped != LW_OK)
            status = lw_fail(error, dropped, "drop: %s", lw_last_error(engine->kv));
        lw_session_close(child);
    }
    llama_full_destroy(full);
    llama_tokens_free(&prompt);
    return status;
}

static lw_status_t run(demo_t *demo, lw_error_t *error)
{
    lw_status_t status = read_document(demo, error);
    if (status != LW_OK)
        return status;
    demo->expected = lwc_engine_expect(&demo->engine, demo->options.run.context, demo->options.run.teacher, error);
    if (!demo->expected)
        return error->status;
    status = score_fork(demo, NULL, demo->options.run.teacher, "Longwave, teacher-forced", &demo->score, error);
    if (status != LW_OK)
        return status;
    demo->figures = lwc_figures(&demo->engine, &demo->score);
    status = answer(demo, error);
    if (status != LW_OK)
        return status;
    demo->attr.field_mask = LW_ATTR_NODES | LW_ATTR_BACKEND | LW_ATTR_MEMORY | LW_ATTR_TRAFFIC;
    status = lw_query(demo->engine.kv, &demo->attr);
    if (status != LW_OK)
        return lw_fail(error, status, "query: %s", lw_last_error(demo->engine.kv));
    run_controls(demo);

    demo->sealed = (double)demo->session_attr.sealed_tokens / (demo->options.run.context + demo->options.run.teacher);
    demo->gates = gates_hold(&demo->figures);
    demo->passed = demo->gates && demo->sealed >= GATE_SEALED && demo->figures.records_fetched > 0;
    for (uint32_t i = 0; i < demo->control_count; i++)
        demo->passed = demo->passed && demo->controls[i].fails;
    return LW_OK;
}

/* ---- what it says ---- */

static void print_text(const demo_t *demo, const char *title, const uint32_t *tokens)
{
    char *text = lwc_engine_text(&demo->engine, tokens, demo->options.decode);
    printf("\n-- %s --\n%s\n", title, text ? text : "(out of memory)");
    free(text);
}

static void line(const char *what, const char *gate, bool good, const char *format, double value)
{
    char figure[48];
    snprintf(figure, sizeof(figure), format, value);
    printf("  %-52s %14s   %s%s\n", what, figure, gate, gate[0] == 0 ? "" : good ? "  ok" : "  MISSED");
}

static uint32_t tokens_in_common(const demo_t *demo)
{
    uint32_t same = 0;
    while (same < demo->options.decode && demo->full_tokens[same] == demo->wave_tokens[same])
        same++;
    return same;
}

static void print(const demo_t *demo)
{
    const lwc_figures_t *f = &demo->figures;
    print_text(demo, "full attention", demo->full_tokens);
    print_text(demo, "Longwave", demo->wave_tokens);
    printf("\n%u tokens read, %u compared one by one, %u decoded; backend %s (%s)\n\n", demo->options.run.context,
           demo->options.run.teacher, demo->options.decode, demo->attr.backend, demo->attr.device);
    line("next-token top-1 agreement with full attention", ">= 98%", f->top1 >= GATE_TOP1, "%.2f %%", 100 * f->top1);
    line("mean KL against full attention, nats", "<= 0.01", f->kl <= GATE_KL, "%.5f", f->kl);
    line("tokens sealed into the fleet", ">= 80%", demo->sealed >= GATE_SEALED, "%.1f %%", 100 * demo->sealed);
    line("records fetched while comparing", "> 0", f->records_fetched > 0, "%.0f", (double)f->records_fetched);
    line("tokens attended exactly, steady zone included", "", true, "%.2f %%", 100 * f->exact_share);
    line("tokens retrieved, of those sealed", "", true, "%.2f %%", 100 * f->retrieved_share);
    line("clusters and outliers retrieved, of those indexed", "", true, "%.2f %%", 100 * f->cluster_share);
    line("cache hit ratio", "", true, "%.1f %%", 100 * f->hit_ratio);
    line("KiB fetched a token", "", true, "%.1f", f->bytes_per_token / 1024);
    line("KiB retrieved a token (without a cache)", "", true, "%.1f", f->retrieved_bytes_per_token / 1024);
    line("mean negative log probability, full attention", "", true, "%.4f", f->nll_full);
    line("mean negative log probability, Longwave", "", true, "%.4f", f->nll);
    line("tokens/s decoding, full attention", "", true, "%.1f", demo->options.decode / demo->full_seconds);
    line("tokens/s decoding, Longwave", "", true, "%.1f", demo->options.decode / demo->wave_seconds);
    line("tokens of the answer before the two differ", "", true, "%.0f", tokens_in_common(demo));
    line("index on this side, MiB", "", true, "%.1f", (double)demo->session_attr.index_bytes / (1 << 20));
    for (uint32_t i = 0; i < demo->attr.node_count; i++) {
        char what[80];
        snprintf(what, sizeof(what), "stored on node %llu at %.30s, MiB",
                 (unsigned long long)demo->attr.nodes[i].node_id, demo->attr.nodes[i].address);
        line(what, "", true, "%.1f", (double)demo->attr.nodes[i].bytes_stored / (1 << 20));
    }
    printf("\n  controls, which must miss the gates:\n");
    for (uint32_t i = 0; i < demo->control_count; i++) {
        const control_t *c = &demo->controls[i];
        if (c->status != LW_OK)
            printf("  %-34s did not run: %s\n", c->name, c->error);
        else
            printf("  %-34s top-1 %6.2f %%  KL %8.5f   %s\n", c->name, 100 * c->figures.top1, c->figures.kl,
                   c->fails ? "misses them, as it must" : "PASSES: the gates measure nothing");
    }
    printf("\n%s\n", demo->passed ? "demo: all gates hold" : "demo: FAILED");
}

static void write_figures(lwc_json_t *json, const lwc_figures_t *f)
{
    lwc_json_number(json, "top1_agreement", f->top1);
    lwc_json_number(json, "mean_kl", f->kl);
    lwc_json_number(json, "max_kl", f->kl_max);
    lwc_json_number(json, "exact_share", f->exact_share);
    lwc_json_number(json, "retrieved_token_share", f->retrieved_share);
    lwc_json_number(json, "retrieved_entry_share", f->cluster_share);
    lwc_json_number(json, "cache_hit_ratio", f->hit_ratio);
    lwc_json_number(json, "bytes_fetched_per_token", f->bytes_per_token);
    lwc_json_number(json, "bytes_retrieved_per_token", f->retrieved_bytes_per_token);
    lwc_json_uint(json, "records_fetched", f->records_fetched);
    lwc_json_number(json, "nll_full", f->nll_full);
    lwc_json_number(json, "nll", f->nll);
    lwc_json_number(json, "tokens_per_s", f->tokens_per_s);
}

static bool write_json(const demo_t *demo)
{
    FILE *out = strcmp(demo->options.run.json, "-") == 0 ? stdout : fopen(demo->options.run.json, "w");
    if (!out) {
        fprintf(stderr, "longwave demo: --json: '%s' cannot be written\n", demo->options.run.json);
        return false;
    }
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    lwc_json_bool(&json, "passed", demo->passed);
    lwc_json_uint(&json, "context_tokens", demo->options.run.context);
    lwc_json_uint(&json, "compared_tokens", demo->options.run.teacher);
    lwc_json_number(&json, "sealed_share", demo->sealed);
    write_figures(&json, &demo->figures);
    lwc_json_number(&json, "full_tokens_per_s", demo->options.decode / demo->full_seconds);
    lwc_json_number(&json, "longwave_tokens_per_s", demo->options.decode / demo->wave_seconds);
    lwc_json_uint(&json, "answer_tokens_in_common", tokens_in_common(demo));
    lwc_json_uint(&json, "index_bytes", demo->session_attr.index_bytes);
    char *full = lwc_engine_text(&demo->engine, demo->full_tokens, demo->options.decode);
    char *wave = lwc_engine_text(&demo->engine, demo->wave_tokens, demo->options.decode);
    lwc_json_text(&json, "answer_full", full);
    lwc_json_text(&json, "answer_longwave", wave);
    free(full);
    free(wave);
    lwc_json_open(&json, "nodes", '[');
    for (uint32_t i = 0; i < demo->attr.node_count; i++) {
        lwc_json_open(&json, NULL, '{');
        lwc_json_uint(&json, "node_id", demo->attr.nodes[i].node_id);
        lwc_json_text(&json, "address", demo->attr.nodes[i].address);
        lwc_json_uint(&json, "bytes_stored", demo->attr.nodes[i].bytes_stored);
        lwc_json_uint(&json, "bytes_fetched", demo->attr.nodes[i].bytes_fetched);
        lwc_json_close(&json);
    }
    lwc_json_close(&json);
    lwc_json_open(&json, "controls", '[');
    for (uint32_t i = 0; i < demo->control_count; i++) {
        const control_t *c = &demo->controls[i];
        lwc_json_open(&json, NULL, '{');
        lwc_json_text(&json, "name", c->name);
        lwc_json_text(&json, "what", c->why);
        lwc_json_bool(&json, "misses_the_gates", c->fails);
        lwc_json_text(&json, "error", c->status == LW_OK ? NULL : c->error);
        write_figures(&json, &c->figures);
        lwc_json_close(&json);
    }
    lwc_json_close(&json);
    lwc_json_close(&json);
    bool good = lwc_json_end(&json);
    return (out == stdout || fclose(out) == 0) && good;
}

int lwc_cmd_demo(int argc, char **argv)
{
    static demo_t demo;
    lw_error_t error = {0};
    int usage_status = parse(argc, argv, &demo.options);
    if (usage_status >= 0)
        return usage_status;
    const lwc_run_words_t *o = &demo.options.run;
    uint32_t decode = demo.options.decode;
    lwc_engine_params_t params = {.model_path = o->model,
                                  .document_path = o->document,
                                  .fleet = o->fleet,
                                  .backend = o->backend,
                                  .config = o->config,
                                  .threads = o->threads,
                                  .tokens_max = o->context + (o->teacher > decode + 64 ? o->teacher : decode + 64),
                                  .sessions_max = 4,
                                  .quiet = o->quiet,
                                  .opening = opening};
    if (lwc_engine_open(&params, &demo.engine, &error) != LW_OK || run(&demo, &error) != LW_OK) {
        fprintf(stderr, "longwave demo: %s\n", error.text);
        demo.passed = false;
    } else {
        print(&demo);
        if (o->json && !write_json(&demo))
            demo.passed = false;
    }
    if (demo.session) {
        if (lw_session_drop(demo.session) != LW_OK)
            fprintf(stderr, "longwave demo: drop: %s\n", lw_last_error(demo.engine.kv));
        lw_session_close(demo.session);
    }
    lwc_engine_close(&demo.engine);
    free(demo.expected);
    free(demo.full_tokens);
    free(demo.wave_tokens);
    return demo.passed ? 0 : 1;
}
