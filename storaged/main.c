/* main.c - storaged: arguments -> options -> lwd_server_run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "storaged/arguments.h"
#include "storaged/server.h"
#include "storaged/stats.h"

#define EXIT_USAGE 2

/* Defaults, then the file, the environment, the flags. Also the answer to SIGHUP. */
static lw_status_t load(void *arg, lwd_options_t *options, lw_error_t *error)
{
    const lwd_arguments_t *args = arg;
    const lw_option_table_t *table = lwd_option_table();
    int argc = args->argc;
    memcpy(args->scratch, args->argv, (size_t)argc * sizeof(*args->argv));
    memset(options, 0, sizeof(*options));
    lw_status_t status = lw_options_default(table, options, error);
    if (status == LW_OK && args->config != NULL)
        status = lw_options_file(table, args->config, options, error);
    if (status == LW_OK)
        status = lw_options_env(table, options, error);
    if (status == LW_OK)
        status = lw_options_args(table, &argc, args->scratch, options, error);
    if (status == LW_OK && argc > 1)
        status = lw_fail(error, LW_ERR_INVALID, "unknown argument \"%s\" (try --help)", args->scratch[1]);
    return status;
}

static void on_ready(void *arg, const lwd_server_addresses_t *addresses)
{
    const lwd_arguments_t *args = arg;
    lwd_announce(&args->announce, addresses);
}

static void print_help(void)
{
    printf("storaged: holds segments of KV caches and answers fetches\n\n"
           "  --config FILE          options from a file, under the environment and the flags\n"
           "  --ready-file PATH      writes one JSON line there once the node serves\n"
           "  --ready-fd N           the same, to an open descriptor\n"
           "  --json                 the start line as JSON\n"
           "  --dump-config          the options in force, as a file\n"
           "  --reference            the options page in Markdown; --stats-reference: the figures page\n"
           "  --version, --help\n\n");
    lw_options_help(lwd_option_table(), stdout);
}

static int print_and_leave(const lwd_arguments_t *args, const lwd_options_t *options)
{
    size_t row_count;
    const lw_stat_row_t *rows = lwd_stat_rows(&row_count);
    if (args->help)
        print_help();
    else if (args->version)
        printf(args->announce.json ? "{\"program\":\"storaged\",\"version\":\"%s\"}\n" : "storaged %s\n",
               LW_VERSION);
    else if (args->dump_config)
        lw_options_dump(lwd_option_table(), options, stdout);
    else if (args->reference)
        lw_options_reference(lwd_option_table(), stdout);
    else
        lw_stat_reference("Figures of storaged", LWD_STATS_PREFIX, rows, row_count, stdout);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    lw_error_t error = {0};
    lwd_options_t options;
    lwd_choices_t choices;
    lwd_arguments_t args = {.argv = calloc((size_t)argc + 1, sizeof(char *)),
                            .scratch = calloc((size_t)argc + 1, sizeof(char *))};
    int exit_status = EXIT_USAGE;
    lw_status_t status = args.argv != NULL && args.scratch != NULL ? LW_OK : LW_ERR_NO_MEMORY;
    if (status == LW_OK)
        status = lwd_arguments_take(argc, argv, &args, &error);
    if (status == LW_OK)
        status = load(&args, &options, &error);
    if (status == LW_OK &&
        (args.help || args.version || args.dump_config || args.reference || args.stats_reference)) {
        exit_status = print_and_leave(&args, &options);
    } else if (status == LW_OK && (status = lwd_options_check(&options, &choices, &error)) == LW_OK) {
        lw_log_set_level(choices.log_level);
#ifdef LW_FAULTS
        if (getenv("LW_FAULT_POINTS") != NULL && lw_fault_enable_text(getenv("LW_FAULT_POINTS")) != LW_OK)
            status = lw_fail(&error, LW_ERR_INVALID, "LW_FAULT_POINTS is \"%s\"", getenv("LW_FAULT_POINTS"));
#endif
        lwd_server_params_t params = {
            .options = &options, .on_ready = on_ready, .reload = load, .arg = &args};
        if (status == LW_OK)
            status = lwd_server_run(&params, &error);
        exit_status = status == LW_OK ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    if (status != LW_OK)
        fprintf(stderr, "storaged: %s\n", error.text);
    free(args.argv);
    free(args.scratch);
    return exit_status;
}
