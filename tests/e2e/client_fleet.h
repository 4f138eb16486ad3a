/* client_fleet.h - three storaged processes and handles of the real library over them. */
#ifndef CLIENT_FLEET_H
#define CLIENT_FLEET_H

#include "e2e/process.h"
#include "unit/client/harness.h"

#define FLEET_NODES 3

typedef struct client_fleet {
    const char *program, *transports, *arena_bytes;
    process_t process[FLEET_NODES];
    char directory[64];
    char control[FLEET_NODES][64]; /* the nodes' control addresses */
    char addresses[FLEET_NODES * 64];
    const char *etcd; /* its endpoint; NULL: a static fleet */
} client_fleet_t;

void client_fleet_start(client_fleet_t *fleet, const char *program, const char *transports,
                        const char *arena_bytes);
/* The same on etcd. */
void client_fleet_start_on(client_fleet_t *fleet, const char *program, const char *transports,
                           const char *arena_bytes, const char *etcd);
void client_fleet_start_node(client_fleet_t *fleet, uint32_t node);
void client_fleet_stop(client_fleet_t *fleet); /* SIGTERM; every exit status must be 0 */
/* Opens a handle over the fleet; close it with lw_close. The harness's time is not used. */
void client_fleet_open(client_fleet_t *fleet, harness_t *h, const harness_params_t *params, uint64_t seed);

#endif /* CLIENT_FLEET_H */
