/* arguments.c - splits the command line into the program's own words and option flags, and loads the options.
 * Main thread. */
#include "storaged/arguments.h"

#include <stdlib.h>
#include <string.h>

lw_status_t lwd_arguments_take(int argc, char **argv, lwd_arguments_t *out, lw_error_t *error)
{
    const struct {
        const char *word;
        bool *flag;
    } flags[] = {
        {"--json", &out->announce.json},  {"--help", &out->help},
        {"--version", &out->version},     {"--dump-config", &out->dump_config},
        {"--reference", &out->reference}, {"--stats-reference", &out->stats_reference},
    };
    const char *fd_text = NULL;
    const struct {
        const char *word;
        const char **value;
    } valued[] = {
        {"--config", &out->config},
        {"--ready-file", &out->announce.ready_file},
        {"--ready-fd", &fd_text},
    };
    out->argv[out->argc++] = argv[0];
    for (int i = 1; i < argc; i++) {
        bool taken = false;
        for (size_t f = 0; f < LW_ARRAY_SIZE(flags) && !taken; f++) {
            taken = strcmp(argv[i], flags[f].word) == 0;
            if (taken)
                *flags[f].flag = true;
        }
        for (size_t v = 0; v < LW_ARRAY_SIZE(valued) && !taken; v++) {
            taken = strcmp(argv[i], valued[v].word) == 0;
            if (taken && i + 1 >= argc)
                return lw_fail(error, LW_ERR_INVALID, "%s needs a value", argv[i]);
            if (taken)
                *valued[v].value = argv[++i];
        }
        if (!taken)
            out->argv[out->argc++] = argv[i];
    }
    char *end = NULL;
    out->announce.ready_fd = fd_text != NULL ? (int)strtol(fd_text, &end, 10) : -1;
    if (fd_text != NULL && (*fd_text == '\0' || *end != '\0' || out->announce.ready_fd < 0))
        return lw_fail(error, LW_ERR_INVALID, "--ready-fd is \"%s\", must be a file descriptor's number",
                       fd_text);
    return LW_OK;
}

lw_status_t lwd_arguments_load(const lwd_arguments_t *args, lwd_options_t *options, lw_error_t *error)
{
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
