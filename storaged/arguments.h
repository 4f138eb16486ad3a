/* arguments.h - the command line: words of the program's own, and where its options come from. */
#ifndef LWD_ARGUMENTS_H
#define LWD_ARGUMENTS_H

#include "storaged/announce.h"

typedef struct lwd_arguments {
    const char *config;
    lwd_announce_t announce;
    bool help, version, dump_config, reference, stats_reference;
    int argc; /* what is left: option flags */
    char **argv;
    char **scratch; /* [argc], for parsing them again on SIGHUP */
} lwd_arguments_t;

/* Takes the program's own words out of argv; the rest goes to out->argv, which has room for argc entries. */
LW_CHECK lw_status_t lwd_arguments_take(int argc, char **argv, lwd_arguments_t *out, lw_error_t *error);
/* Defaults, then the file, the environment, the flags; at start and for SIGHUP. An error names where the
 * value came from, the option, the value and its bounds; a word that is no option is one, too. */
LW_CHECK lw_status_t lwd_arguments_load(const lwd_arguments_t *args, lwd_options_t *options,
                                        lw_error_t *error);

#endif /* LWD_ARGUMENTS_H */
