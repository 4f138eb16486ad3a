/* host.c - the device half of a backend that computes on the calling thread. alloc, free and copy: any
 * thread. */
#include "kernels/host.h"

#include <stdlib.h>
#include <string.h>

#define HOST_ALIGN 64u
/* Above this, memory that is read at random gains from transparent huge pages, which need the alignment. */
#define HOST_HUGE_BYTES (2u << 20)

lw_status_t lwk_host_alloc(lwk_dev_t *dev, lwk_memory_t kind, size_t bytes, void **ptr_out)
{
    if (kind != LWK_MEMORY_DEVICE && kind != LWK_MEMORY_PINNED && kind != LWK_MEMORY_PEER)
        return LW_ERR_INVALID;
    if (bytes > SIZE_MAX / 2)
        return LW_ERR_NO_MEMORY;
    size_t align = bytes >= HOST_HUGE_BYTES ? HOST_HUGE_BYTES : HOST_ALIGN;
    size_t rounded = lw_align_up(bytes > 0 ? bytes : 1, HOST_ALIGN);
    void *ptr = NULL;
    if (posix_memalign(&ptr, align, rounded) != 0)
        return LW_ERR_NO_MEMORY;
    memset(ptr, 0, rounded);
    *ptr_out = ptr;
    return LW_OK;
}

void lwk_host_free(lwk_dev_t *dev, lwk_memory_t kind, void *ptr)
{
    free(ptr);
}

lw_status_t lwk_host_register(lwk_dev_t *dev, void *ptr, size_t bytes)
{
    return ptr != NULL && bytes > 0 ? LW_OK : LW_ERR_INVALID;
}

void lwk_host_unregister(lwk_dev_t *dev, void *ptr) {}

lw_status_t lwk_host_copy(lwk_dev_t *dev, void *to, const void *from, size_t bytes, void *stream)
{
    memcpy(to, from, bytes);
    return LW_OK;
}

/* Streams and events need an address that is not NULL; nobody looks at what is there. */
static char host_token[2];

lw_status_t lwk_host_stream_create(lwk_dev_t *dev, void **stream_out)
{
    *stream_out = &host_token[0];
    return LW_OK;
}

void lwk_host_stream_destroy(lwk_dev_t *dev, void *stream) {}

lw_status_t lwk_host_event_create(lwk_dev_t *dev, lwk_event_t **event_out)
{
    *event_out = (lwk_event_t *)(void *)&host_token[1];
    return LW_OK;
}

void lwk_host_event_destroy(lwk_event_t *event) {}
lw_status_t lwk_host_event_record(lwk_event_t *event, void *stream)
{
    return LW_OK;
}
lw_status_t lwk_host_event_query(lwk_event_t *event)
{
    return LW_OK;
}
lw_status_t lwk_host_stream_wait(lwk_dev_t *dev, void *stream, lwk_event_t *event)
{
    return LW_OK;
}
lw_status_t lwk_host_warm_up(lwk_dev_t *dev, const lwk_dims_t *dims)
{
    return LW_OK;
}
