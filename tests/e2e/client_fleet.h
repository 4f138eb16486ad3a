/* client_fleet.h - storaged processes, three or four, and handles of the real library over them. */
#ifndef CLIENT_FLEET_H
#define CLIENT_FLEET_H

#include "e2e/process.h"
#include "unit/client/harness.h"

#define FLEET_NODES 3
#define FLEET_NODES_MAX 4

typedef struct client_fleet {
    const char *program, *transports, *arena_bytes;
    process_t process[FLEET_NODES_MAX];
    uint32_t nodes;
    char directory[64];
    char control[FLEET_NODES_MAX][64]; /* the nodes' control addresses */
    char addresses[FLEET_NODES_MAX * 64];
    const char *etcd; /* its endpoint; NULL: a static fleet */
    const char *seeds;          /* of handles; NULL: the addresses */
    const char *const *options; /* "--name", "value" pairs of every node, NULL at the end; NULL: none */
} client_fleet_t;

void client_fleet_start(client_fleet_t *fleet, const char *program, const char *transports,
                        const char *arena_bytes);
/* The same on etcd. */
void client_fleet_start_on(client_fleet_t *fleet, const char *program, const char *transports,
                           const char *arena_bytes, const char *etcd);
/* `nodes` of them, with these options. */
void client_fleet_start_with(client_fleet_t *fleet, const char *program, const char *transports, const char *arena_bytes,
                             uint32_t nodes, const char *const *options);
void client_fleet_start_node(client_fleet_t *fleet, uint32_t node);
void client_fleet_stop(client_fleet_t *fleet); /* SIGTERM; every exit status must be 0 */
/* Opens a handle over the fleet; close it with lw_close. The harness's time is not used. */
void client_fleet_open(client_fleet_t *fleet, harness_t *h, const harness_params_t *params, uint64_t seed);

#endif /* CLIENT_FLEET_H */
