/* error.c - records a cause in words. Any thread; the lw_error_t belongs to its caller. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

lw_status_t lw_fail(lw_error_t *error, lw_status_t status, const char *format, ...)
{
    va_list args;

    if (error != NULL) {
        error->status = status;
        va_start(args, format);
        vsnprintf(error->text, sizeof(error->text), format, args);
        va_end(args);
        /* Causes quote what peers and files said: one line, whatever that was. */
        for (char *c = error->text; *c != '\0'; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f) {
                *c = '?';
            }
        }
    }
    return status;
}
