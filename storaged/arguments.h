/* arguments.h - the words of the command line that are not options. */
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

#endif /* LWD_ARGUMENTS_H */
