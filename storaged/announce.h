/* announce.h - tells people and scripts that the node serves, and where. */
#ifndef LWD_ANNOUNCE_H
#define LWD_ANNOUNCE_H

#include "storaged/server.h"

typedef struct lwd_announce {
    const char *ready_file; /* appears complete or not at all; NULL: none */
    int ready_fd;           /* written once and closed; -1: none */
    bool json;              /* the line on standard output */
} lwd_announce_t;

/* Main thread, once, when the node is ready. What cannot be written is logged. */
void lwd_announce(const lwd_announce_t *how, const lwd_server_addresses_t *addresses);

#endif /* LWD_ANNOUNCE_H */
