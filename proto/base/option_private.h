/* option_private.h - what the three option files share: the value of one row as text and back. */
#ifndef LW_OPTION_PRIVATE_H
#define LW_OPTION_PRIVATE_H

#include "base/option.h"

/* Room for any value as text: a quoted string of escapes. */
#define OPTION_TEXT_MAX (2 * LW_OPTION_STRING_MAX + 4)

/* Parses, checks bounds and stores into the row's field. */
LW_CHECK lw_status_t lw_option_store(const lw_option_t *row, const char *value, void *options,
                                     lw_error_t *error);
/* The field's value as a configuration file spells it; `text` holds OPTION_TEXT_MAX bytes. Returns text. */
const char *lw_option_show(const lw_option_t *row, const void *options, char *text);
/* "10 to 4g", "at least 10", "at most 4g"; NULL when the row has no bounds. `text` as above. */
const char *lw_option_bounds(const lw_option_t *row, char *text);

#endif /* LW_OPTION_PRIVATE_H */
