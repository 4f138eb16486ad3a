/* host.h - memory, streams and events of the backends whose device memory is host memory (ref, cpu): work is
 * done when the call returns, so a stream is a token, an event is always past, and every kind of memory is
 * the same. */
#ifndef LWK_HOST_H
#define LWK_HOST_H

#include "kernels/backend.h"

lw_status_t lwk_host_alloc(lwk_dev_t *dev, lwk_memory_t kind, size_t bytes, void **ptr_out);
void lwk_host_free(lwk_dev_t *dev, lwk_memory_t kind, void *ptr);
lw_status_t lwk_host_register(lwk_dev_t *dev, void *ptr, size_t bytes);
void lwk_host_unregister(lwk_dev_t *dev, void *ptr);
lw_status_t lwk_host_copy(lwk_dev_t *dev, void *to, const void *from, size_t bytes, void *stream);
lw_status_t lwk_host_stream_create(lwk_dev_t *dev, void **stream_out);
void lwk_host_stream_destroy(lwk_dev_t *dev, void *stream);
lw_status_t lwk_host_event_create(lwk_dev_t *dev, lwk_event_t **event_out);
void lwk_host_event_destroy(lwk_event_t *event);
lw_status_t lwk_host_event_record(lwk_event_t *event, void *stream);
lw_status_t lwk_host_event_query(lwk_event_t *event);
lw_status_t lwk_host_stream_wait(lwk_dev_t *dev, void *stream, lwk_event_t *event);
lw_status_t lwk_host_warm_up(lwk_dev_t *dev, const lwk_dims_t *dims);

/* What host memory decides in a backend's table: these rows stand in its initializer. Needs kernels/stubs.h.
 */
#define LWK_HOST_ROWS                                                                                       \
    .alloc = lwk_host_alloc, .free = lwk_host_free, .register_host = lwk_host_register,                     \
    .unregister_host = lwk_host_unregister, .copy = lwk_host_copy, .stream_create = lwk_host_stream_create, \
    .stream_destroy = lwk_host_stream_destroy, .event_create = lwk_host_event_create,                       \
    .event_destroy = lwk_host_event_destroy, .event_record = lwk_host_event_record,                         \
    .event_query = lwk_host_event_query, .stream_wait = lwk_host_stream_wait,                               \
    .capture_begin = lwk_no_capture_begin,                             \
    .capture_end = lwk_no_capture_end, .graph_launch = lwk_no_graph_launch,                                 \
    .graph_destroy = lwk_no_graph_destroy, .warm_up = lwk_host_warm_up

#endif /* LWK_HOST_H */
