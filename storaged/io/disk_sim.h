/* disk_sim.h - a disk in memory whose owner decides when operations finish and what goes wrong: torn writes, flipped
 * bits, no space, errors. For tests and the simulator; one thread. */
#ifndef LWD_IO_DISK_SIM_H
#define LWD_IO_DISK_SIM_H

#include "storaged/io/disk.h"

/* The bytes are what a crash leaves; the rest says what happens next. */
typedef struct lwd_disk_sim {
    uint8_t *bytes;
    uint64_t size;
    bool hold;               /* operations wait for lwd_disk_sim_run */
    uint64_t torn_after;     /* bytes that later writes put down together before the plug is pulled; UINT64_MAX: all */
    lw_status_t write_fails; /* every write ends with this; OK: none */
    lw_status_t read_fails;
    uint64_t writes, reads; /* finished */
} lwd_disk_sim_t;

/* The next open() of lwd_disk_sim_ops() is over this memory, which the caller owns and zeroes. */
void lwd_disk_sim_use(lwd_disk_sim_t *sim);
const lwd_disk_ops_t *lwd_disk_sim_ops(void);
/* Finishes up to `most` of what was held, in the order of submission; returns how many. */
uint32_t lwd_disk_sim_run(lwd_disk_sim_t *sim, lwd_disk_t *disk, uint32_t most);

#endif /* LWD_IO_DISK_SIM_H */
