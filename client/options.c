/* options.c - reads the client library's options. Called by lw_open. */
#include "client/options.h"

#include <stdlib.h>
#include <string.h>

static const lw_option_t rows[] = {
#define OPT(group, name, kind, def, min, max, reload, help) \
    {#group,                                                \
     #name,                                                 \
     LW_OPTION_##kind,                                      \
     def,                                                   \
     min,                                                   \
     max,                                                   \
     LW_OPTION_##reload,                                    \
     help,                                                  \
     offsetof(lwc_options_t, group##_##name)},
#include "client/options.def"
#undef OPT
};

const lw_option_table_t lwc_option_table = {"longwave", rows, LW_ARRAY_SIZE(rows)};

/* One "group.name=value" of the config text. */
static lw_status_t set_pair(char *pair, lwc_options_t *options, lw_error_t *error)
{
    pair += strspn(pair, " \t\n");
    if (*pair == '\0')
        return LW_OK;
    char *equals = strchr(pair, '=');
    if (!equals)
        return lw_fail(error, LW_ERR_INVALID, "config: '%s' is not group.name=value", pair);
    char *name_end = equals, *value = equals + 1;
    while (name_end > pair && (name_end[-1] == ' ' || name_end[-1] == '\t'))
        name_end--;
    *name_end = '\0';
    value += strspn(value, " \t");
    return lw_options_set(&lwc_option_table, pair, value, options, error);
}

static lw_status_t set_config(const char *config, lwc_options_t *options, lw_error_t *error)
{
    char *copy = strdup(config), *rest = copy;
    lw_status_t status = LW_OK;

    if (!copy)
        return lw_fail(error, LW_ERR_NO_MEMORY, "config: out of memory");
    for (char *pair = strtok_r(rest, ";", &rest); pair && status == LW_OK; pair = strtok_r(NULL, ";", &rest))
        status = set_pair(pair, options, error);
    free(copy);
    return status;
}

lw_status_t lwc_options_load(const char *config, lwc_options_t *options_out, lw_error_t *error)
{
    lwc_options_t options;
    lw_status_t status;

    memset(&options, 0, sizeof(options));
    status = lw_options_default(&lwc_option_table, &options, error);
    if (status == LW_OK)
        status = lw_options_env(&lwc_option_table, &options, error);
    if (status == LW_OK && config)
        status = set_config(config, &options, error);
    if (status == LW_OK)
        *options_out = options;
    return status;
}
