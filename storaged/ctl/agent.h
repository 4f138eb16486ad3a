/* agent.h - the part of a node that keeps in touch with the catalogue: heartbeats out, endings and views in, and the
 * questions of the data threads. One thread; it never waits for an answer, it is woken by it. Used by ctl.c. */
#ifndef LWD_CTL_AGENT_H
#define LWD_CTL_AGENT_H

#include "storaged/ctl/ctl.h"

typedef struct ctl_agent ctl_agent_t;

LW_CHECK lw_status_t lwd_ctl_agent_start(lwd_ctl_t *ctl, ctl_agent_t **agent_out, lw_error_t *error);
void lwd_ctl_agent_kick(ctl_agent_t *agent); /* a heartbeat now; NULL is fine */
/* Answers what waits with ERR_CANCELED and ends the thread. Requests in flight must be ending: the control thread has
 * stopped and the channel to the holder is closed. */
void lwd_ctl_agent_stop(ctl_agent_t *agent);

#endif /* LWD_CTL_AGENT_H */
