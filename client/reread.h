/* reread.h - the reader's side of the mailbox of client/store/refresh.h: answers where the ranges of sessions are, from the
 * control plane. One thread, the keeper's or a simulator's; init and fini: while no other thread has the mailbox. */
#ifndef LWC_REREAD_H
#define LWC_REREAD_H

#include "client/control/control.h"
#include "client/store/refresh.h"

LW_CHECK lw_status_t lwc_refresh_init(lwc_refresh_t *refresh, uint32_t session_capacity, uint32_t layers, lw_error_t *error);
void lwc_refresh_fini(lwc_refresh_t *refresh);
/* One pass: one control call, two where the session is refused. Returns what happened. */
unsigned lwc_reread_round(lwc_refresh_t *refresh, lwc_control_t *control, uint16_t rank);

#endif /* LWC_REREAD_H */
