/* stream.h - the stream that a handle works on: the one that its caller gave last. Caller's thread.
 *
 * All that the caller's thread enqueues goes to one stream at a time, so its order is the order of the calls; when a call
 * brings another stream, an event makes the new one wait for the old one, on the device. On host backends all of this is
 * nothing: work is done when a call returns. */
#ifndef LWC_STREAM_H
#define LWC_STREAM_H

#include "client/device.h"

struct lw;

#define LWC_NOTES 64u
#define LWC_NOTE_BYTES 512u

/* Small writes from the host to device memory: each has a pinned piece of its own until the device has read it. */
typedef struct lwc_stream {
    uint8_t *notes;                 /* pinned, [LWC_NOTES][LWC_NOTE_BYTES] */
    lwk_event_t *events[LWC_NOTES]; /* behind each note's copy */
    uint32_t next;
    lwk_event_t *turn, *settled;
} lwc_stream_t;

LW_CHECK lw_status_t lwc_stream_init(struct lw *kv, lw_error_t *error);
void lwc_stream_fini(struct lw *kv);
/* From here on the handle works on `stream`, after what it has enqueued so far. */
LW_CHECK lw_status_t lwc_stream_use(struct lw *kv, void *stream, lw_error_t *error);
/* Writes at most LWC_NOTE_BYTES to device memory in the stream's order; `from` may be any memory and is not needed
 * any more. Waits only when LWC_NOTES of them have not been read yet. */
LW_CHECK lw_status_t lwc_stream_note(struct lw *kv, void *to, const void *from, uint32_t bytes,
                                     lw_error_t *error);
/* Waits until all that was enqueued has run. For calls that may wait; bounded. */
LW_CHECK lw_status_t lwc_stream_settle(struct lw *kv, lw_error_t *error);

#endif /* LWC_STREAM_H */
