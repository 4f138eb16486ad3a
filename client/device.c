/* device.c - allocation, copies and events on the handle's device, with words when they fail. */
#include "client/device.h"

#include <time.h>

#define NAP_FIRST_US 5u
#define NAP_MAX_US 100u

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

lw_status_t lwc_device_event(const lwc_device_t *device, lwk_event_t **event_out, lw_error_t *error)
{
    lw_status_t status = device->backend->event_create(device->dev, event_out);

    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "event of the device: %s", lw_status_text(status));
}

void lwc_device_event_free(const lwc_device_t *device, lwk_event_t *event)
{
    if (event)
        device->backend->event_destroy(event);
}

lw_status_t lwc_device_record(const lwc_device_t *device, lwk_event_t *event, void *stream, lw_error_t *error)
{
    lw_status_t status = device->backend->event_record(event, stream);

    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "event on a stream: %s", lw_status_text(status));
}

bool lwc_device_passed(const lwc_device_t *device, lwk_event_t *event)
{
    return !device->async || !event || device->backend->event_query(event) != LW_INPROGRESS;
}

void lwc_device_nap(uint64_t us)
{
    struct timespec time = {.tv_sec = (time_t)(us / 1000000u), .tv_nsec = (long)(us % 1000000u) * 1000};

    (void)nanosleep(&time, NULL);
}

lw_status_t lwc_device_await(const lwc_device_t *device, lwk_event_t *event, uint64_t timeout_us,
                             lwc_idle_t idle, void *arg, lw_error_t *error)
{
    uint64_t until = lw_now_us(device->clock) + timeout_us, nap = NAP_FIRST_US;

    while (!lwc_device_passed(device, event)) {
        if (lw_now_us(device->clock) >= until)
            return lw_fail(error, LW_ERR_DEVICE, "the device did not finish within %llu ms",
                           (unsigned long long)(timeout_us / 1000));
        if (idle)
            idle(arg);
        lwc_device_nap(nap);
        nap = lw_min_u64(nap + nap / 4 + 1, NAP_MAX_US);
    }
    return LW_OK;
}
