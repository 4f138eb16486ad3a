/* device.h - a backend and its device, with allocation that names what did not fit. Two threads use one
 * (backend.h): the caller's and the keeper's, the latter only for alloc, free, copy and the build ops. */
#ifndef LWC_DEVICE_H
#define LWC_DEVICE_H

#include "kernels/backend.h"

typedef struct lwc_device {
    const lwk_backend_t *backend;
    lwk_dev_t *dev;
} lwc_device_t;

/* Zeroed. ERR_NO_MEMORY names `what` and the bytes. */
LW_CHECK lw_status_t lwc_device_alloc(const lwc_device_t *device, lwk_memory_t kind, uint64_t bytes,
                                      const char *what, void **ptr_out, lw_error_t *error);
void lwc_device_free(const lwc_device_t *device, lwk_memory_t kind, void *ptr); /* NULL is fine */
/* Copies between any kinds of memory; a failure is the device's. */
LW_CHECK lw_status_t lwc_device_copy(const lwc_device_t *device, void *to, const void *from, uint64_t bytes,
                                     void *stream, lw_error_t *error);

#endif /* LWC_DEVICE_H */
