/* bench_device.c - memory, copies and order through the table of ops, whatever the device is. */
#include "client/cli/bench.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#define BANDWIDTH_BYTES (256ull << 20)
#define BANDWIDTH_ROUNDS 5u

uint64_t lwc_bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

lw_status_t lwc_bench_device_open(const char *backend, lwc_bench_device_t *device, lw_error_t *error)
{
    memset(device, 0, sizeof(*device));
    device->backend = lwk_backend_find(backend);
    if (!device->backend)
        return lw_fail(
            error, LW_ERR_UNSUPPORTED,
            "backend '%s' is not to be had here (cuda needs liblwk_cuda.so and a device; LWK_CUDA_LIBRARY "
            "names another file)",
            backend ? backend : "");
    lw_status_t status = device->backend->open(0, &device->dev, error);
    if (status == LW_OK && device->backend->stream_create(device->dev, &device->stream) != LW_OK)
        status = lw_fail(error, LW_ERR_DEVICE, "backend '%s' makes no stream", device->backend->name);
    if (status == LW_OK && device->backend->event_create(device->dev, &device->event) != LW_OK)
        status = lw_fail(error, LW_ERR_DEVICE, "backend '%s' makes no event", device->backend->name);
    if (status != LW_OK)
        lwc_bench_device_close(device);
    return status;
}

void lwc_bench_device_close(lwc_bench_device_t *device)
{
    if (device->event)
        device->backend->event_destroy(device->event);
    if (device->stream)
        device->backend->stream_destroy(device->dev, device->stream);
    if (device->dev)
        device->backend->close(device->dev);
    memset(device, 0, sizeof(*device));
}

lw_status_t lwc_bench_alloc(lwc_bench_device_t *device, lwk_memory_t kind, uint64_t bytes, void **ptr_out,
                            lw_error_t *error)
{
    lw_status_t status = device->backend->alloc(device->dev, kind, bytes, ptr_out);
    if (status == LW_OK)
        return LW_OK;
    return lw_fail(error, status, "%llu bytes of %s memory are not to be had", (unsigned long long)bytes,
                   kind == LWK_MEMORY_DEVICE ? "device" : "pinned");
}

lw_status_t lwc_bench_copy(lwc_bench_device_t *device, void *to, const void *from, uint64_t bytes,
                           lw_error_t *error)
{
    lw_status_t status = device->backend->copy(device->dev, to, from, bytes, device->stream);
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "copy of %llu bytes failed", (unsigned long long)bytes);
}

lw_status_t lwc_bench_wait(lwc_bench_device_t *device, lw_error_t *error)
{
    lw_status_t status = device->backend->event_record(device->event, device->stream);
    while (status == LW_OK && (status = device->backend->event_query(device->event)) == LW_INPROGRESS) {
        sched_yield();
        status = LW_OK;
    }
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "waiting for the device: %s", lw_status_text(status));
}

lw_status_t lwc_bench_bandwidth(lwc_bench_device_t *device, double *gbps_out, lw_error_t *error)
{
    void *from = NULL, *to = NULL;
    double best_s = 1e9;
    lw_status_t status = lwc_bench_alloc(device, LWK_MEMORY_DEVICE, BANDWIDTH_BYTES, &from, error);
    if (status == LW_OK)
        status = lwc_bench_alloc(device, LWK_MEMORY_DEVICE, BANDWIDTH_BYTES, &to, error);
    for (uint32_t i = 0; i < BANDWIDTH_ROUNDS && status == LW_OK; i++) {
        uint64_t began_ns = lwc_bench_now_ns();
        for (uint32_t copies = 0; copies < 4 && status == LW_OK; copies++)
            status = lwc_bench_copy(device, to, from, BANDWIDTH_BYTES, error);
        if (status == LW_OK)
            status = lwc_bench_wait(device, error);
        double s = (double)(lwc_bench_now_ns() - began_ns) / 1e9;
        best_s = s < best_s ? s : best_s;
    }
    if (from)
        device->backend->free(device->dev, LWK_MEMORY_DEVICE, from);
    if (to)
        device->backend->free(device->dev, LWK_MEMORY_DEVICE, to);
    if (status == LW_OK)
        *gbps_out = 2.0 * 4 * BANDWIDTH_BYTES / best_s / 1e9;
    return status;
}
