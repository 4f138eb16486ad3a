/* control_sim.h - the control plane without a network: lwc_control_t calls a catalogue in this process.
 *
 * For the client library's tests and the simulator. Several handles may share one catalogue through one lw_control_sim_fleet;
 * a lock in it makes their calls safe from several threads. Time is the clock's unix_us. */
#ifndef LW_CONTROL_SIM_H
#define LW_CONTROL_SIM_H

#include <pthread.h>

#include "base/clock.h"
#include "client/control/control.h"
#include "storaged/catalogue/catalogue.h"

typedef struct lw_control_sim_fleet {
    const lwd_catalogue_ops_t *ops;
    lwd_catalogue_t *catalogue; /* owned */
    const lw_clock_t *clock;    /* borrowed */
    lw_view_t view;             /* its nodes are borrowed; change it under `lock` */
    bool away;                  /* true: every call answers ERR_FLEET */
    pthread_mutex_t lock;
} lw_control_sim_fleet_t;

/* `ops` NULL: the simulated catalogue. `clock` NULL: the machine's. `nodes` are borrowed until fini and get this fleet's
 * epoch 1; node i must have index i. */
LW_CHECK lw_status_t lw_control_sim_init(lw_control_sim_fleet_t *fleet, const lwd_catalogue_ops_t *ops,
                                         const lw_clock_t *clock, lw_node_t *nodes, uint32_t node_count,
                                         lw_error_t *error);
void lw_control_sim_fini(lw_control_sim_fleet_t *fleet); /* after its handles are closed */

/* A client's handle; close it with lwc_control_close. tenant NULL: "default". */
LW_CHECK lw_status_t lw_control_sim_open(lw_control_sim_fleet_t *fleet, const char *tenant, uint64_t client_id,
                                         uint64_t incarnation, lwc_control_t **control_out, lw_error_t *error);

#endif /* LW_CONTROL_SIM_H */
