/* base.c - the words of every status, and the end of the road for broken assertions. Any thread. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>

const char *lw_status_text(int status)
{
    switch (status) {
#define XX(name, code, text) \
    case code:               \
        return text;
        LW_STATUS_MAP(XX)
#undef XX
    default:
        return "unknown status";
    }
}

const char *lw_status_name(int status)
{
    switch (status) {
#define XX(name, code, text) \
    case code:               \
        return #name;
        LW_STATUS_MAP(XX)
#undef XX
    default:
        return "UNKNOWN";
    }
}

/* Writes past the log on purpose: the sink may be what is broken. */
void lw_assert_failed(const char *file, int line, const char *cond)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, cond);
    fflush(stderr);
    abort();
}
