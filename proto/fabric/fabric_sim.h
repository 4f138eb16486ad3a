/* fabric_sim.h - the simulated network: any number of fabrics in one process and one thread, driven by a
 * seed.
 *
 * A net owns the time and the randomness of delivery. Messages wait in the net until lw_sim_net_round(now)
 * hands them to the receivers' queues; the receiver sees them in its own progress(). Faults are set for the
 * net or for a pair. */
#ifndef LW_FABRIC_SIM_H
#define LW_FABRIC_SIM_H

#include "base/prng.h"
#include "fabric/fabric.h"

typedef struct lw_sim_net lw_sim_net_t;

typedef struct lw_sim_faults {
    double drop; /* chance that a message is lost; the connection then closes after `close_after_us` (a stream
                    transport never loses silently) */
    double corrupt;   /* chance that one bit of a payload flips */
    double duplicate; /* chance that a message is delivered twice (0 for stream transports) */
    uint32_t delay_min_us, delay_max_us; /* order within a connection is kept unless `reorder` */
    bool reorder;
    uint32_t close_after_us;
} lw_sim_faults_t;

LW_CHECK lw_status_t lw_sim_net_create(uint64_t seed, lw_sim_net_t **net_out);
void lw_sim_net_destroy(lw_sim_net_t *net);
void lw_sim_net_faults(lw_sim_net_t *net, const lw_sim_faults_t *faults);
/* Moves due messages to their receivers. Returns how many. `now_us` never goes back. */
unsigned lw_sim_net_round(lw_sim_net_t *net, uint64_t now_us);
/* When the next message is due; UINT64_MAX when none waits. */
uint64_t lw_sim_net_next_us(const lw_sim_net_t *net);
/* Cuts or heals everything between two hosts. Messages in flight wait. */
void lw_sim_net_partition(lw_sim_net_t *net, const char *host_a, const char *host_b, bool cut);
/* All fabrics of a host vanish as by kill -9: peers see on_closed after a delay; the fabrics themselves may
 * then only be closed. */
void lw_sim_net_crash(lw_sim_net_t *net, const char *host);

/* The table whose open() makes fabrics in the net and host set here last (addresses are "host:port"). */
const lw_fabric_ops_t *lw_fabric_sim(void);
void lw_fabric_sim_use(lw_sim_net_t *net, const char *host);

#endif /* LW_FABRIC_SIM_H */
