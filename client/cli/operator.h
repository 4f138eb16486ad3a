/* operator.h - what status, sessions and doctor share: reaching the fleet, printing sizes and times. */
#ifndef LWC_CLI_OPERATOR_H
#define LWC_CLI_OPERATOR_H

#include <stdio.h>

#include "client/control/control.h"

typedef struct lwc_operator {
    const char *fleet;  /* --fleet, else option client.fleet; owned by argv or by `text` */
    const char *tenant; /* NULL: "default" */
    const char *json;   /* file to write, "-": stdout, NULL: a table for people */
    const char *config; /* --config, as lw_open's */
    char text[256];
} lwc_operator_t;

#define LWC_OPERATOR_HELP                                                                      \
    "  --fleet ADDRESSES  control addresses, host:port,host:port (default: LW_CLIENT_FLEET)\n" \
    "  --tenant NAME      tenant whose sessions are meant (default: default)\n"                \
    "  --config TEXT      options of the client library, group.name=value;...\n"               \
    "  --json [FILE]      writes JSON, to stdout without FILE\n"                               \
    "  --help             this text\n"

/* Takes the options above out of argv (argv[0] stays); what is left are words. Returns the number of words
 * with argv[0], or -1 after printing what is wrong. *help_out: --help was there. */
int lwc_operator_args(int argc, char **argv, lwc_operator_t *op, bool *help_out);
/* Prints the cause when it fails. */
LW_CHECK lw_status_t lwc_operator_connect(lwc_operator_t *op, lwc_control_t **control_out);

/* "1.5 GiB"; "3 d 4 h". The text is in `out`, which is returned. */
const char *lwc_bytes_text(uint64_t bytes, char out[32]);
const char *lwc_time_text(uint64_t us, char out[32]);

/* The stream for --json; NULL when it cannot be written (said so). lwc_operator_json_close returns an exit
 * status. */
FILE *lwc_operator_json_open(const lwc_operator_t *op);
int lwc_operator_json_close(const lwc_operator_t *op, FILE *out, bool written);

#endif /* LWC_CLI_OPERATOR_H */
