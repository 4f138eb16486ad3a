/* error.h - a status and its cause in words: what names the field and the value.
 *
 * Functions that check input take an optional lw_error_t; NULL drops the words, never the status. */
#ifndef LW_ERROR_H
#define LW_ERROR_H

#include "base/base.h"

typedef struct lw_error {
    lw_status_t status;
    char text[240]; /* one line, no newline at its end */
} lw_error_t;

#ifdef __cplusplus
extern "C" {
#endif

/* Records status and text (when error is not NULL) and returns status, so that `return lw_fail(...)` reads well. */
lw_status_t lw_fail(lw_error_t *error, lw_status_t status, const char *format, ...) LW_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif

#endif /* LW_ERROR_H */
