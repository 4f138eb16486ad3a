/* device.h - a backend and its device, with allocation that names what did not fit. Two threads use one
 * (backend.h): the caller's and the keeper's, the latter only for alloc, free, copy, events and the build ops. */
#ifndef LWC_DEVICE_H
#define LWC_DEVICE_H

#include <stdbool.h>

#include "base/clock.h"
#include "kernels/backend.h"

typedef struct lwc_device {
    const lwk_backend_t *backend;
    lwk_dev_t *dev;
    const lw_clock_t *clock;
    bool async; /* LWK_CAP_ASYNC: what is enqueued runs later, in the order of its stream */
} lwc_device_t;

/* Zeroed. ERR_NO_MEMORY names `what` and the bytes. */
LW_CHECK lw_status_t lwc_device_alloc(const lwc_device_t *device, lwk_memory_t kind, uint64_t bytes,
                                      const char *what, void **ptr_out, lw_error_t *error);
void lwc_device_free(const lwc_device_t *device, lwk_memory_t kind, void *ptr); /* NULL is fine */
/* Copies between any kinds of memory, in the order of the stream; a failure is the device's. On an asynchronous
 * backend host memory must be pinned, and stay as it is until the copy has run. */
LW_CHECK lw_status_t lwc_device_copy(const lwc_device_t *device, void *to, const void *from, uint64_t bytes,
                                     void *stream, lw_error_t *error);

LW_CHECK lw_status_t lwc_device_event(const lwc_device_t *device, lwk_event_t **event_out, lw_error_t *error);
void lwc_device_event_free(const lwc_device_t *device, lwk_event_t *event); /* NULL is fine */
LW_CHECK lw_status_t lwc_device_record(const lwc_device_t *device, lwk_event_t *event, void *stream,
                                       lw_error_t *error);
/* Whether the event has passed; one that the device cannot answer for has. NULL: nothing was recorded. */
bool lwc_device_passed(const lwc_device_t *device, lwk_event_t *event);
typedef void (*lwc_idle_t)(void *arg);
/* Looks at the event until it has passed, sleeping in between; idle (may be NULL) runs between two looks. ERR_DEVICE
 * after timeout_us. For calls that may wait, never on the step path. */
LW_CHECK lw_status_t lwc_device_await(const lwc_device_t *device, lwk_event_t *event, uint64_t timeout_us,
                                      lwc_idle_t idle, void *arg, lw_error_t *error);
/* Sleeps; for threads that look again and again. */
void lwc_device_nap(uint64_t us);

#endif /* LWC_DEVICE_H */
