/* perftest.c - `longwave perftest`: how fast the store puts and fetches, without a model. Options, rounds,
 * progress.
 *
 * Rounds of the chosen modes are interleaved, so that a disturbed moment hits all of them; medians are
 * reported. Checking every byte (--verify) is a pass of its own before the timed rounds; checksums are always
 * verified by the client. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/perftest.h"

#define ARENA_SPARE_BYTES ((uint64_t)192 << 20)
#define VERIFY_BYTES (256ull << 20)

static const char usage[] =
    "longwave perftest - measures fabric and store without a model: put, fetch, and what they could be at "
    "best\n"
    "\n"
    "  --modes LIST        of fetch, ceiling, stream, mix, put (default: fetch,ceiling,stream,put)\n"
    "                        fetch    records at random places, one request for a batch, checksums verified\n"
    "                        ceiling  the same request answered from one contiguous cold extent, same "
    "checksums\n"
    "                        stream   as many bytes as bare UCX active messages from cold memory\n"
    "                        mix      records as the index makes them: clusters of about 16 tokens, half "
    "single tokens\n"
    "                        put      the filling of the store\n"
    "  --ceiling, --stream add these modes to fetch\n"
    "  --transport T       tcp (default) or shm\n"
    "  --record-bytes N    multiple of 512 that divides 512 KiB (default 8192)\n"
    "  --batch LIST        records a request (default 64,256)\n"
    "  --depth N           requests in flight (default 4, at most 64)\n"
    "  --store-mib N       size of the store (default 4096); the mix gets a quarter of it on top\n"
    "  --rounds N          rounds of each mode and batch, interleaved (default 5)\n"
    "  --seconds S         of a round (default 1)\n"
    "  --verify            also fetch 256 MiB a batch size and compare every byte, before the timed rounds\n"
    "  --fleet ADDRESS     use a running fleet (its control address) instead of an own daemon\n"
    "  --storaged PATH     the daemon to start (default: beside this program, or on the path)\n"
    "  --json FILE         write the medians as JSON (-: standard output, instead of the table)\n"
    "  --rounds-from-stdin run one round for each line \"MODE BATCH\", answer with a line of JSON\n"
    "  --quiet             no progress lines\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

/* ---- options ---- */

static bool parse_mode(const char *text, lwc_perf_mode_t *mode_out)
{
    for (lwc_perf_mode_t mode = 0; mode < LWC_PERF_MODES; mode++)
        if (strcmp(text, lwc_perf_mode_text(mode)) == 0) {
            *mode_out = mode;
            return true;
        }
    return false;
}

static bool parse_modes(const char *list, lwc_perf_options_t *options)
{
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", list);
    memset(options->modes, 0, sizeof(options->modes));
    for (char *rest = copy, *word; (word = strsep(&rest, ",")) != NULL;) {
        lwc_perf_mode_t mode;
        if (!parse_mode(word, &mode)) {
            fprintf(stderr, "perftest: --modes: '%s' is none of fetch, ceiling, stream, mix, put\n", word);
            return false;
        }
        options->modes[mode] = true;
    }
    return true;
}

static bool parse_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *value_out)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "perftest: --%s is '%s', must be %" PRIu64 " to %" PRIu64 "\n", name, text, min, max);
        return false;
    }
    *value_out = value;
    return true;
}

static bool parse_batches(const char *list, lwc_perf_options_t *options)
{
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", list);
    options->batch_count = 0;
    for (char *rest = copy, *word; (word = strsep(&rest, ",")) != NULL;) {
        uint64_t batch;
        if (options->batch_count == LWC_PERF_BATCHES_MAX) {
            fprintf(stderr, "perftest: --batch takes at most %u sizes\n", LWC_PERF_BATCHES_MAX);
            return false;
        }
        if (!parse_number("batch", word, 1, LWC_PERF_BATCH_MAX, &batch))
            return false;
        options->batches[options->batch_count++] = (uint32_t)batch;
    }
    return true;
}

static bool check_together(const lwc_perf_options_t *options)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < options->batch_count; i++)
        largest = lw_max_u64(largest, options->batches[i]);
    if (options->record_bytes % LWC_PERF_ROW_BYTES != 0 ||
        (LWC_PERF_TOKENS * LWC_PERF_ROW_BYTES) % options->record_bytes != 0) {
        fprintf(stderr, "perftest: --record-bytes is %u, must be a multiple of 512 that divides 524288\n",
                options->record_bytes);
        return false;
    }
    if (largest * options->record_bytes > LW_MSG_BULK_MAX ||
        2 * largest * options->record_bytes > options->store_bytes) {
        fprintf(stderr,
                "perftest: %" PRIu64 " records of %u bytes are too many for one request or for the store\n",
                largest, options->record_bytes);
        return false;
    }
    if (strcmp(options->transport, "tcp") != 0 && strcmp(options->transport, "shm") != 0 &&
        strcmp(options->transport, "rdma") != 0 && strcmp(options->transport, "auto") != 0) {
        fprintf(stderr, "perftest: --transport is '%s', must be tcp, shm, rdma or auto\n",
                options->transport);
        return false;
    }
    return true;
}

/* 0: go on; otherwise the exit status plus one. */
static int parse(int argc, char **argv, lwc_perf_options_t *options)
{
    enum {
        MODES = 256,
        CEILING,
        STREAM,
        TRANSPORT,
        RECORD,
        BATCH,
        DEPTH,
        STORE,
        ROUNDS,
        SECONDS,
        VERIFY,
        FLEET,
        STORAGED,
        JSON,
        STDIN,
        QUIET,
        HELP
    };
    static const struct option known[] = {
        {"modes", 1, NULL, MODES},
        {"ceiling", 0, NULL, CEILING},
        {"stream", 0, NULL, STREAM},
        {"transport", 1, NULL, TRANSPORT},
        {"record-bytes", 1, NULL, RECORD},
        {"batch", 1, NULL, BATCH},
        {"depth", 1, NULL, DEPTH},
        {"store-mib", 1, NULL, STORE},
        {"rounds", 1, NULL, ROUNDS},
        {"seconds", 1, NULL, SECONDS},
        {"verify", 0, NULL, VERIFY},
        {"fleet", 1, NULL, FLEET},
        {"storaged", 1, NULL, STORAGED},
        {"json", 1, NULL, JSON},
        {"rounds-from-stdin", 0, NULL, STDIN},
        {"quiet", 0, NULL, QUIET},
        {"help", 0, NULL, HELP},
        {0},
    };
    uint64_t number = 0;
    bool fine = true, added = false;
    optind = 1;
    for (int opt; fine && (opt = getopt_long(argc, argv, "h", known, NULL)) != -1;) {
        switch (opt) {
        case MODES: fine = parse_modes(optarg, options); break;
        case CEILING:
        case STREAM:
            if (!added)
                fine = parse_modes("fetch", options);
            added = true;
            options->modes[opt == CEILING ? LWC_PERF_CEILING : LWC_PERF_STREAM] = true;
            break;
        case TRANSPORT: options->transport = optarg; break;
        case RECORD:
            fine = parse_number("record-bytes", optarg, LWC_PERF_ROW_BYTES, 512u << 10, &number);
            options->record_bytes = (uint32_t)number;
            break;
        case BATCH: fine = parse_batches(optarg, options); break;
        case DEPTH:
            fine = parse_number("depth", optarg, 1, LWC_PERF_DEPTH_MAX, &number);
            options->depth = (uint32_t)number;
            break;
        case STORE:
            fine = parse_number("store-mib", optarg, 16, 1u << 20, &number);
            options->store_bytes = number << 20;
            break;
        case ROUNDS:
            fine = parse_number("rounds", optarg, 1, LWC_PERF_ROUNDS_MAX, &number);
            options->rounds = (uint32_t)number;
            break;
        case SECONDS:
            options->seconds = atof(optarg);
            fine = options->seconds > 0 && options->seconds <= 3600;
            break;
        case VERIFY: options->verify = true; break;
        case FLEET: options->fleet = optarg; break;
        case STORAGED: options->storaged = optarg; break;
        case JSON: options->json = optarg; break;
        case STDIN: options->from_stdin = true; break;
        case QUIET: options->quiet = true; break;
        case HELP:
        case 'h': fputs(usage, stdout); return 1;
        default: fine = false;
        }
    }
    options->mix_bytes = options->store_bytes / 4;
    fine = fine && optind == argc && check_together(options);
    if (!fine)
        fprintf(stderr, "perftest: see longwave perftest --help\n");
    return fine ? 0 : 3;
}

/* ---- running ---- */

typedef struct perftest {
    lwc_perf_options_t options;
    lwc_perf_child_t daemon;
    lwc_perf_stream_t *stream;
    lwc_perf_client_t client;
    lwc_perf_row_t *rows;
    uint32_t row_count, row_capacity;
    lw_error_t error;
} perftest_t;

static void say(const perftest_t *test, const char *what)
{
    if (!test->options.quiet)
        fprintf(stderr, "%s\n", what);
}

static lw_status_t start_daemon(perftest_t *test, char *control, size_t control_bytes)
{
    const lwc_perf_options_t *options = &test->options;
    if (options->fleet != NULL) {
        snprintf(control, control_bytes, "%s", options->fleet);
        return LW_OK;
    }
    char program[1024], arena[32];
    if (options->storaged != NULL)
        snprintf(program, sizeof(program), "%s", options->storaged);
    else
        lwc_perf_find_storaged(program, sizeof(program));
    uint64_t bytes = options->store_bytes + (options->modes[LWC_PERF_MIX] ? options->mix_bytes : 0);
    snprintf(arena, sizeof(arena), "%" PRIu64, bytes + bytes / 16 + ARENA_SPARE_BYTES);
    const char *const argv[] = {program,
                                "--ctl.listen",
                                "127.0.0.1:0",
                                "--ctl.http",
                                "",
                                "--data.listen",
                                "127.0.0.1:0",
                                "--data.transports",
                                options->transport,
                                "--data.threads",
                                "1",
                                "--mem.arena_bytes",
                                arena,
                                "--catalogue.path",
                                ":memory:",
                                "--log.level",
                                "warn",
                                "--ready-fd",
                                "%ready",
                                NULL};
    say(test, "starting a daemon");
    lw_status_t status = lwc_perf_child_start(&test->daemon, argv, &test->error);
    if (status == LW_OK)
        status = lwc_perf_child_text(&test->daemon, "control", control, control_bytes);
    return status;
}

static lw_status_t add_row(perftest_t *test, const lwc_perf_row_t *row)
{
    if (test->row_count == test->row_capacity) {
        uint32_t capacity = test->row_capacity > 0 ? 2 * test->row_capacity : 64;
        lwc_perf_row_t *rows = realloc(test->rows, capacity * sizeof(*rows));
        if (rows == NULL)
            return lw_fail(&test->error, LW_ERR_NO_MEMORY, "rows");
        test->rows = rows;
        test->row_capacity = capacity;
    }
    test->rows[test->row_count++] = *row;
    return LW_OK;
}

static lw_status_t run_one(perftest_t *test, lwc_perf_mode_t mode, uint32_t batch, double seconds,
                           lwc_perf_row_t *row)
{
    if (mode != LWC_PERF_STREAM)
        return lwc_perf_fetch(&test->client, mode, batch, seconds, row, &test->error);
    lw_status_t status = lwc_perf_stream_run(test->stream, (uint64_t)batch * test->options.record_bytes,
                                             seconds, row, &test->error);
    row->batch = batch;
    return status;
}

static lw_status_t run_rounds(perftest_t *test)
{
    const lwc_perf_options_t *options = &test->options;
    for (uint32_t round = 0; round < options->rounds; round++) {
        for (uint32_t b = 0; b < options->batch_count; b++) {
            for (lwc_perf_mode_t mode = 0; mode < LWC_PERF_PUT; mode++) {
                lwc_perf_row_t row;
                if (!options->modes[mode])
                    continue;
                lw_status_t status =
                    run_one(test, mode, options->batches[b], options->seconds / 10, &row); /* warm-up */
                if (status == LW_OK)
                    status = run_one(test, mode, options->batches[b], options->seconds, &row);
                if (status == LW_OK)
                    status = add_row(test, &row);
                if (status != LW_OK)
                    return status;
            }
        }
        if (!options->quiet)
            fprintf(stderr, "round %u of %u\n", round + 1, options->rounds);
    }
    return LW_OK;
}

static lw_status_t run_lines(perftest_t *test)
{
    char line[64], name[16];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        lwc_perf_mode_t mode;
        lwc_perf_row_t row;
        unsigned batch;
        bool known = sscanf(line, "%15s %u", name, &batch) == 2 && parse_mode(name, &mode) &&
                     mode != LWC_PERF_PUT && test->options.modes[mode];
        for (uint32_t b = 0; known && test->options.batches[b] != batch; b++)
            known = b + 1 < test->options.batch_count;
        if (!known)
            return lw_fail(&test->error, LW_ERR_INVALID, "'%s' is no round of this run", line);
        lw_status_t status = run_one(test, mode, batch, test->options.seconds / 10, &row);
        if (status == LW_OK)
            status = run_one(test, mode, batch, test->options.seconds, &row);
        if (status != LW_OK)
            return status;
        lwc_perf_print_row_json(&row);
    }
    return LW_OK;
}

static bool wants_store(const lwc_perf_options_t *options)
{
    return options->modes[LWC_PERF_FETCH] || options->modes[LWC_PERF_CEILING] ||
           options->modes[LWC_PERF_MIX] || options->modes[LWC_PERF_PUT] || options->verify;
}

static lw_status_t prepare_store(perftest_t *test)
{
    char control[LW_ADDRESS_MAX];
    lwc_perf_row_t put;
    lw_status_t status = start_daemon(test, control, sizeof(control));
    if (status == LW_OK)
        status = lwc_perf_client_open(&test->client, control, &test->error);
    if (status == LW_OK) {
        say(test, "filling the store");
        status = lwc_perf_fill(&test->client, &put, &test->error);
    }
    if (status == LW_OK && test->options.modes[LWC_PERF_PUT])
        status = add_row(test, &put);
    if (status == LW_OK && test->options.verify) {
        say(test, "verifying every byte");
        status = lwc_perf_verify(&test->client, VERIFY_BYTES, &test->error);
        if (status == LW_OK)
            say(test, "every byte is right");
    }
    return status;
}

int lwc_cmd_perftest(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--stream-server") == 0) /* the child of lwc_perf_stream_open */
        return lwc_perf_stream_serve(argc - 1, argv + 1);
    perftest_t test = {
        .options = {.transport = "tcp",
                    .record_bytes = 8192,
                    .batches = {64, 256},
                    .batch_count = 2,
                    .depth = 4,
                    .store_bytes = 4096ull << 20,
                    .rounds = 5,
                    .seconds = 1.0,
                    .modes = {[LWC_PERF_FETCH] = true,
                              [LWC_PERF_CEILING] = true,
                              [LWC_PERF_STREAM] = true,
                              [LWC_PERF_PUT] = true}},
    };
    int ended = parse(argc, argv, &test.options);
    if (ended > 0)
        return ended - 1;
    test.client.options = &test.options;
    test.client.daemon = &test.daemon;
    lw_status_t status = LW_OK;
    if (test.options
            .modes[LWC_PERF_STREAM]) /* first: it starts a child of this process, and UCX dislikes forks */
        status = lwc_perf_stream_open(&test.options, &test.stream, &test.error);
    if (status == LW_OK && wants_store(&test.options))
        status = prepare_store(&test);
    if (status == LW_OK)
        status = test.options.from_stdin ? run_lines(&test) : run_rounds(&test);
    if (status == LW_OK && !test.options.from_stdin &&
        !lwc_perf_report(&test.options, test.rows, test.row_count))
        status = lw_fail(&test.error, LW_ERR_IO, "cannot write %s", test.options.json);
    if (status != LW_OK)
        fprintf(stderr, "perftest: %s: %s\n", lw_status_text(status),
                test.error.text[0] != '\0' ? test.error.text : "no more is known");
    lwc_perf_client_close(&test.client);
    lwc_perf_stream_close(test.stream);
    lwc_perf_child_stop(&test.daemon);
    free(test.rows);
    return status == LW_OK ? 0 : 1;
}
