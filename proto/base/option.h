/* option.h - configuration from rows: one table gives parsing, bounds, --help, --dump-config and the reference page.
 *
 * Rows live in a .def file: OPT(group, name, KIND, default, min, max, RELOAD, help). A module includes the
 * .def twice: once for the struct, once for the table of lw_option_t rows. Precedence, last wins: default,
 * file ("group.name = value" lines, # comments), environment (LW_GROUP_NAME), flags (--group.name=value or
 * --group.name value). Sizes take k, m, g, t suffixes (powers of 1,024); times need us, ms, s, m, h unless 0.
 * A value in double quotes may hold anything but control characters; proto/base/README.md has the rules of the text. */
#ifndef LW_OPTION_H
#define LW_OPTION_H

#include <stdio.h>

#include "base/error.h"

typedef enum lw_option_kind {
    LW_OPTION_BOOL,   /* bool: true/false/yes/no/1/0 */
    LW_OPTION_UINT,   /* uint64_t */
    LW_OPTION_BYTES,  /* uint64_t, "auto" is UINT64_MAX where the default is "auto" */
    LW_OPTION_USEC,   /* uint64_t microseconds, "auto" as for BYTES */
    LW_OPTION_STRING, /* char[256] */
} lw_option_kind_t;

#define LW_OPTION_STRING_MAX 256

typedef enum lw_option_reload { LW_OPTION_RESTART, LW_OPTION_LIVE } lw_option_reload_t;

typedef struct lw_option {
    const char *group, *name;
    lw_option_kind_t kind;
    const char *default_text, *min_text, *max_text; /* min, max: NULL or "" when unbounded */
    lw_option_reload_t reload;
    const char *help;
    size_t offset; /* of the field in the options struct */
} lw_option_t;

typedef struct lw_option_table {
    const char *program; /* "storaged" */
    const lw_option_t *rows;
    size_t row_count;
} lw_option_table_t;

/* All of these write into `options` (the struct the offsets refer to). An error names the option, its value and its bounds. */
LW_CHECK lw_status_t lw_options_default(const lw_option_table_t *table, void *options, lw_error_t *error);
LW_CHECK lw_status_t lw_options_file(const lw_option_table_t *table, const char *path, void *options, lw_error_t *error);
/* Parses the text of a configuration file (fuzzed). */
LW_CHECK lw_status_t lw_options_text(const lw_option_table_t *table, const char *text, size_t bytes, void *options,
                                     lw_error_t *error);
LW_CHECK lw_status_t lw_options_env(const lw_option_table_t *table, void *options, lw_error_t *error);
/* Takes known flags out of argv; what is left (argv[0] first) stays, *argc is updated. Unknown "--a.b" flags are an error. */
LW_CHECK lw_status_t lw_options_args(const lw_option_table_t *table, int *argc, char **argv, void *options,
                                     lw_error_t *error);
LW_CHECK lw_status_t lw_options_set(const lw_option_table_t *table, const char *group_dot_name, const char *value,
                                    void *options, lw_error_t *error);

void lw_options_help(const lw_option_table_t *table, FILE *out);                       /* --help */
void lw_options_dump(const lw_option_table_t *table, const void *options, FILE *out);  /* --dump-config: a valid file */
void lw_options_reference(const lw_option_table_t *table, FILE *out);                  /* docs/reference page, Markdown */

#endif /* LW_OPTION_H */
