/* device.c - allocation and copies on the handle's device, with words when they fail. */
#include "client/device.h"

lw_status_t lwc_device_alloc(const lwc_device_t *device, lwk_memory_t kind, uint64_t bytes, const char *what,
                             void **ptr_out, lw_error_t *error)
{
    void *ptr = NULL;
    lw_status_t status = device->backend->alloc(device->dev, kind, bytes, &ptr);

    if (status != LW_OK)
        return lw_fail(error, status, "%s: %llu bytes of %s memory: %s", what, (unsigned long long)bytes,
                       kind == LWK_MEMORY_DEVICE ? "device" : "pinned", lw_status_text(status));
    *ptr_out = ptr;
    return LW_OK;
}

void lwc_device_free(const lwc_device_t *device, lwk_memory_t kind, void *ptr)
{
    if (ptr)
        device->backend->free(device->dev, kind, ptr);
}

lw_status_t lwc_device_copy(const lwc_device_t *device, void *to, const void *from, uint64_t bytes,
                            void *stream, lw_error_t *error)
{
    lw_status_t status = device->backend->copy(device->dev, to, from, bytes, stream);

    if (status != LW_OK)
        return lw_fail(error, status, "copy of %llu bytes on the device: %s", (unsigned long long)bytes,
                       lw_status_text(status));
    return LW_OK;
}
