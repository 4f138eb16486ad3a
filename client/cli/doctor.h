/* doctor.h - what `longwave doctor` looks at: one function a check, each fills one row. */
#ifndef LWC_CLI_DOCTOR_H
#define LWC_CLI_DOCTOR_H

#include "base/base.h"

typedef enum lwc_finding {
    LWC_FINDING_OK,
    LWC_FINDING_LIMITED,
    LWC_FINDING_MISSING,
    LWC_FINDING_BROKEN
} lwc_finding_t;

typedef struct lwc_check {
    const char *name;
    lwc_finding_t finding; /* BROKEN: nothing works without it */
    char found[256];       /* what is there */
    char advice[320];      /* what it costs and how to get it; "" when all is well */
} lwc_check_t;

typedef void (*lwc_check_fn_t)(lwc_check_t *check);

extern const struct lwc_check_row {
    const char *name;
    lwc_check_fn_t run;
} lwc_checks[];
extern const unsigned lwc_check_count;

#endif /* LWC_CLI_DOCTOR_H */
