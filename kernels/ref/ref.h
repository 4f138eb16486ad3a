/* ref.h - the reference backend's ops. The ones without arithmetic (lookup, admit, append, publish, retire,
 * gather) also serve the cpu backend, whose memory is host memory too. All run to the end on the calling
 * thread; see backend.h for threads. */
#ifndef LWK_REF_H
#define LWK_REF_H

#include "kernels/backend.h"

const lwk_backend_t *lwk_ref_backend(void);

lw_status_t lwk_ref_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_admit(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_ref_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream);
lw_status_t lwk_ref_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream);
lw_status_t lwk_ref_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream);
lw_status_t lwk_ref_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream);
lw_status_t lwk_ref_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream);
uint64_t lwk_ref_workspace_bytes(const lwk_dims_t *dims);

/* Turns the marks of one (session, KV head) into items: page table, stamps, tickets. An entry for which no
 * ticket is left goes back to LWK_MARK_ESTIMATE and the session gets LW_ERR_EXHAUSTED. indexed, estimated:
 * how many entries there are, and how many are marked LWK_MARK_ESTIMATE, for the counters. */
void lwk_ref_lookup(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t indexed, uint32_t estimated);
/* The landed record of a pending item; NULL, and the session's error set, when it failed or has not come. */
const uint8_t *lwk_ref_landed(const lwk_step_t *step, lwk_session_t *session, const lwk_item_t *item);

/* steady.c: partials of query token t of the query head with scratch row `row` over the steady zone. */
void lwk_ref_steady(const lwk_step_t *step, const lwk_session_t *session, uint32_t head, uint32_t t,
                    size_t row);

#endif /* LWK_REF_H */
