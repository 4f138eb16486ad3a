/* main.c - storaged: arguments -> options -> lwd_server_run. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "storaged/arguments.h"
#include "storaged/server.h"
#include "storaged/stats.h"

#define EXIT_USAGE 2

static lw_status_t reload(void *arg, lwd_options_t *options, lw_error_t *error)
{
    return lwd_arguments_load(arg, options, error);
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

/* What needs no configuration, so that a bad one cannot keep it back. */
static bool print_page(const lwd_arguments_t *args)
{
    size_t row_count;
    const lw_stat_row_t *rows = lwd_stat_rows(&row_count);
    if (args->help)
        print_help();
    else if (args->version)
        printf(args->announce.json ? "{\"program\":\"storaged\",\"version\":\"%s\"}\n" : "storaged %s\n",
               LW_VERSION);
    else if (args->reference)
        lw_options_reference(lwd_option_table(), stdout);
    else if (args->stats_reference)
        lw_stat_reference("Figures of storaged", LWD_STATS_PREFIX, rows, row_count, stdout);
    else
        return false;
    return true;
}

/* The exit status; *error says why it is not EXIT_SUCCESS. */
static int run(int argc, char **argv, lwd_arguments_t *args, lw_error_t *error)
{
    lwd_options_t options;
    lwd_choices_t choices;
    if (lwd_arguments_take(argc, argv, args, error) != LW_OK)
        return EXIT_USAGE;
    if (print_page(args))
        return EXIT_SUCCESS;
    if (lwd_arguments_load(args, &options, error) != LW_OK ||
        lwd_options_check(&options, &choices, error) != LW_OK)
        return EXIT_USAGE;
    if (args->dump_config) {
        lw_options_dump(lwd_option_table(), &options, stdout);
        return EXIT_SUCCESS;
    }
    lw_log_set_level(choices.log_level);
#ifdef LW_FAULTS
    const char *points = getenv("LW_FAULT_POINTS");
    if (points != NULL && lw_fault_enable_text(points) != LW_OK) {
        (void)lw_fail(error, LW_ERR_INVALID, "LW_FAULT_POINTS is \"%s\"", points);
        return EXIT_USAGE;
    }
#endif
    lwd_server_params_t params = {.options = &options, .on_ready = on_ready, .reload = reload, .arg = args};
    return lwd_server_run(&params, error) == LW_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    lw_error_t error = {.text = "no memory for the command line"};
    lwd_arguments_t args = {.argv = calloc((size_t)argc + 1, sizeof(char *)),
                            .scratch = calloc((size_t)argc + 1, sizeof(char *))};
    int exit_status = EXIT_FAILURE;
    if (args.argv != NULL && args.scratch != NULL)
        exit_status = run(argc, argv, &args, &error);
    if (exit_status != EXIT_SUCCESS)
        fprintf(stderr, "storaged: %s\n", error.text);
    free(args.argv);
    free(args.scratch);
    return exit_status;
}
