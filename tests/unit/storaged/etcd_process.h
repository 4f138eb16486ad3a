/* etcd_process.h - one etcd of the machine's, on loopback, for a test: started, killed, stopped and started again on its data. */
#ifndef TEST_ETCD_PROCESS_H
#define TEST_ETCD_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "storaged/etcd/etcd.h"

typedef struct etcd_process {
    pid_t pid; /* 0: not running */
    unsigned port, peer_port;
    char folder[64], endpoint[32];
    const char *ca_file, *cert_file, *key_file; /* NULL: plaintext */
    const char *name, *peers; /* of a member of several; NULL: alone */
} etcd_process_t;

/* False: there is no etcd command here; skip the test. */
bool etcd_process_found(void);
/* With a new data folder, or with the one it has; waits until it answers. Ends the test when it does not. */
void etcd_process_start(etcd_process_t *etcd);
/* Three members that elect one of them. endpoints: "host:port,host:port,host:port", at least 128 bytes; peers: 256, used as long
 * as they run. */
void etcd_process_start_three(etcd_process_t three[3], char *endpoints, char *peers);
void etcd_process_signal(const etcd_process_t *etcd, int signum); /* SIGSTOP, SIGCONT */
void etcd_process_kill(etcd_process_t *etcd);   /* kill -9 and wait; the data stay */
void etcd_process_remove(etcd_process_t *etcd); /* the data too; NULL is fine */
/* A client of it. */
lwd_etcd_t *etcd_process_client(const etcd_process_t *etcd);

#endif /* TEST_ETCD_PROCESS_H */
