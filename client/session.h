/* session.h - one sequence as the handle sees it. Everything here belongs to the caller's thread but `keep`
 * (keeper.h).
 *
 * Token counts:  0 .. sealed  in published ranges
 *                sealed .. cut  being sealed by the keeper, still attended in the steady zone
 *                cut .. token_count  unsealed
 */
#ifndef LWC_SESSION_H
#define LWC_SESSION_H

#include <stdbool.h>

#include "client/directory.h"
#include "client/keeper.h"
#include "client/policy.h"
#include "client/steady.h"

typedef enum lwc_append_kind { LWC_APPEND_NONE, LWC_APPEND_PREFILL, LWC_APPEND_EXTEND } lwc_append_kind_t;

struct lw_session {
    struct lw *kv;
    uint32_t slot;
    bool open, read_only, dropped;
    lwc_session_info_t info; /* as the control plane gave it */
    lwc_index_shape_t shape;
    lwk_policy_t policy;
    lwc_steady_t steady; /* kept from one session in this slot to the next */

    uint32_t token_count, sealed, cut;
    uint32_t range_count, entry_count;
    uint32_t *rows;              /* [ranges_max] of the directory, in token order */
    bool task_busy;              /* the keeper has a task of this session */
    bool prefilling;             /* tokens came by prefill or extend and no step followed */
    uint32_t raw_first, raw_end; /* the raw tail at the manifest's end; equal: none */
    bool raw_stale;              /* tokens of it were taken back */

    lwc_append_kind_t append_kind; /* a chunk is between its layers */
    uint32_t append_layer, append_tokens;
    bool stepping; /* part of the running step */

    /* Asynchronous backends: steps that are enqueued and have not ended (outcome.h). */
    uint32_t flying;
    uint32_t confirmed;      /* while any fly: tokens of appends and of steps that ended well */
    uint32_t ignored_step;   /* outcomes up to this step are not this session's, or were told */
    lw_status_t step_status; /* of the first step that failed and was not told yet */
    uint32_t failed_tokens;  /* tokens before it */
    lw_error_t step_cause;   /* why, as far as it is known */

    lwc_keep_t keep;
};

/* All of these: caller's thread; errors go to `error` in words. */
LW_CHECK lw_status_t lwc_session_open(struct lw *kv, const lw_session_params_t *params,
                                      struct lw_session **session_out, lw_error_t *error);
LW_CHECK lw_status_t lwc_session_fork(struct lw_session *parent, const lw_session_params_t *params,
                                      struct lw_session **child_out, lw_error_t *error);
void lwc_session_close(struct lw_session *session);
LW_CHECK lw_status_t lwc_session_truncate(struct lw_session *session, uint32_t token_count,
                                          lw_error_t *error);
LW_CHECK lw_status_t lwc_session_query(struct lw_session *session, lw_session_attr_t *attr,
                                       lw_error_t *error);

/* Pieces that open, fork and reopen share. */
LW_CHECK lw_status_t lwc_session_take_slot(struct lw *kv, uint32_t segment_tokens,
                                           struct lw_session **session_out, lw_error_t *error);
LW_CHECK lw_status_t lwc_session_begin(struct lw_session *session, const lwc_session_info_t *info,
                                       lw_error_t *error);
void lwc_session_abort(struct lw_session *session); /* undoes take_slot and all that was published since */
/* Reads everything that is stored of a session that was just begun and publishes it. */
LW_CHECK lw_status_t lwc_session_restore(struct lw_session *session, lw_error_t *error);

/* Sets the device's idea of the session's length. */
LW_CHECK lw_status_t lwc_session_write_tokens(struct lw_session *session, uint32_t token_count,
                                              lw_error_t *error);
/* The sticky error of background work; OK: none. */
LW_CHECK lw_status_t lwc_session_fault(struct lw_session *session, lw_error_t *error);
/* Tokens that are here to stay: no step that has not ended, or failed, can take them back. */
uint32_t lwc_session_confirmed(const struct lw_session *session);
/* Tokens that the steady zone has room for now. */
uint32_t lwc_session_room(const struct lw_session *session);

/* ---- cut.c: what is handed to the keeper, and when ---- */
void lwc_session_cut(struct lw_session *session);      /* after tokens came */
void lwc_session_cut_tail(struct lw_session *session); /* prefill has ended */
bool lwc_session_cut_raw(struct lw_session *session);  /* flush: false: nothing left to write */

/* ---- publish.c ---- */
/* Takes the keeper's results: registers, publishes and accounts for them. At step boundaries only. Returns
 * how many. */
unsigned lwc_publish_ready(struct lw *kv);
/* Adds a range to a session's list; tiles NULL: its row is on the device already. */
LW_CHECK lw_status_t lwc_publish_range(struct lw_session *session, uint32_t row, const lwk_tile_t *tiles,
                                       const uint8_t *moments, lw_error_t *error);
/* Lets go of a session's hold on a row. With the last holder the device forgets it, in the stream's order, and the row is
 * free again once that has run. */
void lwc_publish_release(struct lw_session *session, uint32_t row);
/* Frees rows whose end the device has reached. */
void lwc_publish_bury(struct lw *kv);

#endif /* LWC_SESSION_H */
