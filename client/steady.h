/* steady.h - a session's exact zone on the device: the sinks, the ring of recent and unsealed tokens, the
 * moments, the list of ranges. Written from the caller's thread, by copies and the ops append and prepare; read by
 * the keeper while it seals, rows that nobody writes then.
 *
 * Position p < LW_SINK_TOKENS lies in the sinks, any other in ring row p % rows. [layer][KV
 * head][row][head_dim]. */
#ifndef LWC_STEADY_H
#define LWC_STEADY_H

#include <stdbool.h>

#include "client/device.h"
#include "client/model.h"

typedef struct lwc_steady {
    const lwc_device_t *device;
    const lwc_model_t *model;
    uint32_t rows; /* 0: nothing allocated */
    uint8_t *sink_keys, *sink_values, *keys, *values;
    uint8_t *moments; /* [layer][head] */
    lwk_range_ref_t *ranges;
} lwc_steady_t;

/* Makes a steady zone with `rows` rows; one that is large enough already stays as it is. */
LW_CHECK lw_status_t lwc_steady_init(lwc_steady_t *steady, const lwc_device_t *device,
                                     const lwc_model_t *model, uint32_t rows, uint32_t ranges_max,
                                     lw_error_t *error);
void lwc_steady_fini(lwc_steady_t *steady);

/* Appends tokens of one layer from an engine's tensors [token][head][head_dim] at positions first... The
 * tensors have been checked. */
LW_CHECK lw_status_t lwc_steady_append(const lwc_steady_t *steady, uint32_t layer, uint32_t first,
                                       const lw_tensor_t *key, const lw_tensor_t *value, void *stream,
                                       lw_error_t *error);
/* Rows of positions first .. first + count - 1 of one (layer, head), dense, to and from host memory or the
 * device's. */
LW_CHECK lw_status_t lwc_steady_read(const lwc_steady_t *steady, uint32_t layer, uint32_t head,
                                     uint32_t first, uint32_t count, void *keys, void *values, void *stream,
                                     lw_error_t *error);
LW_CHECK lw_status_t lwc_steady_write(const lwc_steady_t *steady, uint32_t layer, uint32_t head,
                                      uint32_t first, uint32_t count, const void *keys, const void *values,
                                      void *stream, lw_error_t *error);
/* Copies the sinks, the moments and positions first .. end - 1 of all layers. Both have equally many rows. */
LW_CHECK lw_status_t lwc_steady_clone(const lwc_steady_t *to, const lwc_steady_t *from, uint32_t first,
                                      uint32_t end, void *stream, lw_error_t *error);

#endif /* LWC_STEADY_H */
