/* outcome.h - how steps end on an asynchronous backend: what admit wrote into pinned memory, read without waiting.
 * Caller's thread.
 *
 * Steps have numbers, counted here as the device counts them (lwk_store_t.step). A step is entered when it is enqueued
 * (or announced: lw_replay) and taken when its number is at most step_done. At most LWK_OUTCOME_STEPS - 1 are under way. */
#ifndef LWC_OUTCOME_H
#define LWC_OUTCOME_H

#include "client/device.h"

struct lw;
struct lw_session;

/* A step under way. */
typedef struct lwc_flight {
    uint32_t count, tokens;
    uint32_t slots[LW_BATCH_MAX]; /* of sessions */
    uint32_t before[LW_BATCH_MAX]; /* tokens that the session had */
} lwc_flight_t;

typedef struct lwc_outcomes {
    uint64_t *words;          /* pinned, [LWK_OUTCOME_STEPS][sessions_max] */
    uint32_t *done;           /* pinned */
    uint32_t entered, taken;  /* step numbers */
    lwc_flight_t flights[LWK_OUTCOME_STEPS];
} lwc_outcomes_t;

LW_CHECK lw_status_t lwc_outcomes_init(struct lw *kv, lw_error_t *error);
void lwc_outcomes_fini(struct lw *kv);
/* Whether another step can be enqueued now. */
bool lwc_outcomes_room(const struct lw *kv);
/* The next step has been enqueued: its layer 0 at least. Nobody takes part in it yet. */
void lwc_outcomes_enter(struct lw *kv);
/* The newest step appends `tokens` to this session, whose counts move now. */
void lwc_outcomes_join(struct lw *kv, struct lw_session *session, uint32_t tokens);
/* Takes over the outcomes of all steps that have ended. */
void lwc_outcomes_take(struct lw *kv);
/* The failure of a step of this session that was not told yet: told now. Its tokens and those of later steps are taken
 * back, on the device in the stream's order. OK: there is none. */
LW_CHECK lw_status_t lwc_outcomes_tell(struct lw_session *session, lw_error_t *error);

#endif /* LWC_OUTCOME_H */
