/* stream.c - the handle's place in the caller's stream: turning to another one, notes, settling. */
#include <string.h>

#include "client/ctx.h"

lw_status_t lwc_stream_init(struct lw *kv, lw_error_t *error)
{
    lwc_stream_t *at = &kv->at;
    lw_status_t status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, LWC_NOTES * LWC_NOTE_BYTES,
                                          "notes to the device", (void **)&at->notes, error);

    for (uint32_t i = 0; i < LWC_NOTES && status == LW_OK; i++)
        status = lwc_device_event(&kv->device, &at->events[i], error);
    if (status == LW_OK)
        status = lwc_device_event(&kv->device, &at->turn, error);
    if (status == LW_OK)
        status = lwc_device_event(&kv->device, &at->settled, error);
    return status;
}

void lwc_stream_fini(struct lw *kv)
{
    for (uint32_t i = 0; i < LWC_NOTES; i++)
        lwc_device_event_free(&kv->device, kv->at.events[i]);
    lwc_device_event_free(&kv->device, kv->at.turn);
    lwc_device_event_free(&kv->device, kv->at.settled);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->at.notes);
}

lw_status_t lwc_stream_use(struct lw *kv, void *stream, lw_error_t *error)
{
    if (!kv->device.async || stream == kv->stream)
        return LW_OK;
    lw_status_t status = lwc_device_record(&kv->device, kv->at.turn, kv->stream, error);
    if (status != LW_OK)
        return status;
    status = kv->device.backend->stream_wait(kv->device.dev, stream, kv->at.turn);
    if (status != LW_OK)
        return lw_fail(error, status, "turning to another stream: %s", lw_status_text(status));
    kv->stream = stream;
    return LW_OK;
}

lw_status_t lwc_stream_note(struct lw *kv, void *to, const void *from, uint32_t bytes, lw_error_t *error)
{
    lwc_stream_t *at = &kv->at;
    uint32_t i = at->next;

    LW_ASSERT(bytes <= LWC_NOTE_BYTES);
    if (!kv->device.async)
        return lwc_device_copy(&kv->device, to, from, bytes, kv->stream, error);
    lw_status_t status =
        lwc_device_await(&kv->device, at->events[i], kv->options.client_ship_timeout, NULL, NULL, error);
    if (status != LW_OK)
        return status;
    at->next = (i + 1) % LWC_NOTES;
    uint8_t *note = at->notes + (size_t)i * LWC_NOTE_BYTES;
    memcpy(note, from, bytes);
    status = lwc_device_copy(&kv->device, to, note, bytes, kv->stream, error);
    return status == LW_OK ? lwc_device_record(&kv->device, at->events[i], kv->stream, error) : status;
}

lw_status_t lwc_stream_settle(struct lw *kv, lw_error_t *error)
{
    if (!kv->device.async)
        return LW_OK;
    lw_status_t status = lwc_device_record(&kv->device, kv->at.settled, kv->stream, error);
    if (status == LW_OK)
        status = lwc_device_await(&kv->device, kv->at.settled, kv->options.client_ship_timeout, NULL, NULL,
                                  error);
    return status;
}
