/* options.h - the client library's options, from options.def: defaults, environment (LW_CLIENT_FLEET ...),
 * then the `config` text of lw_open. Read at open only. */
#ifndef LWC_OPTIONS_H
#define LWC_OPTIONS_H

#include <stdbool.h>

#include "base/option.h"

#define LWC_OPTION_BOOL(name) bool name
#define LWC_OPTION_UINT(name) uint64_t name
#define LWC_OPTION_BYTES(name) uint64_t name
#define LWC_OPTION_USEC(name) uint64_t name
#define LWC_OPTION_STRING(name) char name[LW_OPTION_STRING_MAX]

typedef struct lwc_options {
#define OPT(group, name, kind, def, min, max, reload, help) LWC_OPTION_##kind(group##_##name);
#include "client/options.def"
#undef OPT
} lwc_options_t;

extern const lw_option_table_t lwc_option_table;

#define LWC_AUTO UINT64_MAX /* a BYTES or USEC option left at "auto" */

/* Defaults, environment, then config ("group.name=value;group.name=value"; NULL: none). */
LW_CHECK lw_status_t lwc_options_load(const char *config, lwc_options_t *options_out, lw_error_t *error);

#endif /* LWC_OPTIONS_H */
