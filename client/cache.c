/* cache.c - allocates the pages of the block cache and writes the first free lists. Called by lw_open. */
#include "client/cache.h"

#include <stdlib.h>
#include <string.h>

#define SETTLE_US 10000000u

static lw_status_t settle(const lwc_device_t *device, lwk_event_t *settled, void *stream, lw_error_t *error)
{
    lw_status_t status = lwc_device_record(device, settled, stream, error);

    return status == LW_OK ? lwc_device_await(device, settled, SETTLE_US, NULL, NULL, error) : status;
}

/* The free list holds every page, the owners say "free". Written through a staging buffer: device memory is
 * not host's. */
static lw_status_t fill_lists(const lwc_device_t *device, const lwk_page_class_t *pages,
                              lwk_event_t *settled, void *stream, lw_error_t *error)
{
    size_t bytes = pages->count * sizeof(lwk_page_owner_t);
    void *staging = NULL;
    lw_status_t status =
        lwc_device_alloc(device, LWK_MEMORY_PINNED, bytes, "block cache staging", &staging, error);

    if (status != LW_OK)
        return status;
    uint32_t *list = staging;
    for (uint32_t i = 0; i < pages->count; i++)
        list[i] = pages->count - 1 - i; /* the stack's top is page 0 */
    status = lwc_device_copy(device, pages->free_list, list, pages->count * sizeof(*list), stream, error);
    if (status == LW_OK)
        status = settle(device, settled, stream, error);
    lwk_page_owner_t *owners = staging;
    for (uint32_t i = 0; i < pages->count; i++)
        owners[i] = (lwk_page_owner_t){.tile = UINT32_MAX};
    if (status == LW_OK)
        status = lwc_device_copy(device, pages->owner, owners, bytes, stream, error);
    if (status == LW_OK)
        status = settle(device, settled, stream, error);
    lwc_device_free(device, LWK_MEMORY_PINNED, staging);
    return status;
}

static lw_status_t class_init(lwk_page_class_t *pages, uint32_t tokens, uint64_t bytes,
                              const lwc_device_t *device, const lwc_model_t *model, lwk_event_t *settled,
                              void *stream, lw_error_t *error)
{
    uint64_t page_bytes = tokens * model->pair_bytes, count = bytes / page_bytes;
    void *memory[3] = {NULL, NULL, NULL};

    if (count == 0)
        count = 1;
    if (count >= 1u << 30) /* page numbers have 30 bits */
        count = (1u << 30) - 1;
    lw_status_t status =
        lwc_device_alloc(device, LWK_MEMORY_DEVICE, count * page_bytes, "block cache", &memory[0], error);
    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_DEVICE, count * sizeof(lwk_page_owner_t),
                                  "block cache owners", &memory[1], error);
    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_DEVICE, count * sizeof(uint32_t),
                                  "block cache free list", &memory[2], error);
    *pages = (lwk_page_class_t){.bytes = memory[0],
                                .owner = memory[1],
                                .free_list = memory[2],
                                .count = (uint32_t)count,
                                .tokens = tokens,
                                .free_count = (uint32_t)count};
    return status == LW_OK ? fill_lists(device, pages, settled, stream, error) : status;
}

lw_status_t lwc_cache_init(lwc_cache_t *cache, const lwc_device_t *device, const lwc_model_t *model,
                           uint64_t bytes, uint64_t single_ppm, lwk_event_t *settled, void *stream,
                           lw_error_t *error)
{
    uint64_t single = (uint64_t)((unsigned __int128)bytes * single_ppm / 1000000u);

    memset(cache, 0, sizeof(*cache));
    lw_status_t status =
        class_init(&cache->classes[0], LWK_PAGE_TOKENS, bytes - single, device, model, settled, stream,
                   error);
    if (status == LW_OK)
        status = class_init(&cache->classes[1], 1, single, device, model, settled, stream, error);
    for (int c = 0; c < 2; c++)
        cache->bytes += cache->classes[c].count * cache->classes[c].tokens * model->pair_bytes;
    return status;
}

void lwc_cache_fini(lwc_cache_t *cache, const lwc_device_t *device)
{
    for (int c = 0; c < 2; c++) {
        lwc_device_free(device, LWK_MEMORY_DEVICE, cache->classes[c].bytes);
        lwc_device_free(device, LWK_MEMORY_DEVICE, cache->classes[c].owner);
        lwc_device_free(device, LWK_MEMORY_DEVICE, cache->classes[c].free_list);
    }
    memset(cache, 0, sizeof(*cache));
}
