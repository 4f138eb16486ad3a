/* options.h - the struct that options.def describes, and what the rows alone cannot check. */
#ifndef LWD_OPTIONS_H
#define LWD_OPTIONS_H

#include <stdbool.h>

#include "base/log.h"
#include "base/option.h"
#include "storaged/mem/arena.h"

#define LWD_OPTION_TYPE_BOOL(field) bool field;
#define LWD_OPTION_TYPE_UINT(field) uint64_t field;
#define LWD_OPTION_TYPE_BYTES(field) uint64_t field;
#define LWD_OPTION_TYPE_USEC(field) uint64_t field;
#define LWD_OPTION_TYPE_STRING(field) char field[LW_OPTION_STRING_MAX];

typedef struct lwd_options {
#define OPT(group, name, kind, def, min, max, reload, help) LWD_OPTION_TYPE_##kind(group##_##name)
#include "storaged/options.def"
#undef OPT
} lwd_options_t;

/* Static. */
const lw_option_table_t *lwd_option_table(void);

typedef enum lwd_tier_io { LWD_TIER_IO_AUTO, LWD_TIER_IO_URING, LWD_TIER_IO_THREADS } lwd_tier_io_t;

/* What the strings mean. Filled by lwd_options_check. */
typedef struct lwd_choices {
    lwd_pages_t pages;
    lwd_tier_io_t tier_io;
    int numa_node; /* -1: interleave */
    lw_log_level_t log_level;
} lwd_choices_t;

/* Cross-checks after parsing: enumerations, addresses, wildcards without advertise, TLS files that belong
 * together. ERR_INVALID names the option and its value. */
LW_CHECK lw_status_t lwd_options_check(const lwd_options_t *options, lwd_choices_t *choices_out,
                                       lw_error_t *error);

#endif /* LWD_OPTIONS_H */
