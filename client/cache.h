/* cache.h - the device's block cache: two classes of pages, sized and first written here, then touched by ops
 * only. */
#ifndef LWC_CACHE_H
#define LWC_CACHE_H

#include "client/device.h"
#include "client/model.h"

typedef struct lwc_cache {
    lwk_page_class_t classes[2]; /* [0]: LWK_PAGE_TOKENS tokens a page, [1]: one. Device pointers */
    uint64_t bytes;              /* of all pages */
} lwc_cache_t;

/* Splits `bytes` between the classes; single_ppm of it for pages of one token. Every class has at least one
 * page. Waits for the stream by means of `settled`. */
LW_CHECK lw_status_t lwc_cache_init(lwc_cache_t *cache, const lwc_device_t *device, const lwc_model_t *model,
                                    uint64_t bytes, uint64_t single_ppm, lwk_event_t *settled, void *stream,
                                    lw_error_t *error);
void lwc_cache_fini(lwc_cache_t *cache, const lwc_device_t *device);

#endif /* LWC_CACHE_H */
