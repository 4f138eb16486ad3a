/* fabric_rig.h - two ends in one thread, over any fabric, that count everything that happens to them.
 *
 * Each payload is made from a seed that travels in the head, so the receiver checks every byte by itself.
 * Each send has a ticket whose memory is scribbled over once its callback has run: a fabric that reads it
 * later delivers wrong bytes. */
#ifndef LW_TEST_FABRIC_RIG_H
#define LW_TEST_FABRIC_RIG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fabric/fabric.h"
#include "fabric/fabric_sim.h"

#define RIG_TICKETS_MAX 8192u

typedef enum rig_taking {
    RIG_RECV,          /* land every payload by recv */
    RIG_LOOK,          /* check an eager payload in place, land the others */
    RIG_DROP,          /* take no payload */
    RIG_CLOSE_INSIDE,  /* close the connection from inside on_message, take nothing */
    RIG_RECV_AND_CLOSE, /* ask for the payload, then close */
    RIG_RECV_AND_CANCEL /* ask for the payload, then give it up if that is possible */
} rig_taking_t;

typedef struct rig_head {
    uint32_t sequence, reserved;
    uint64_t bytes, seed;
} rig_head_t;

typedef struct rig_ticket {
    struct rig_end *end;
    uint8_t *memory;
    size_t bytes;
    unsigned done; /* must be 1 in the end */
    lw_status_t status;
} rig_ticket_t;

typedef struct rig_end {
    struct rig *rig;
    const char *name;
    lw_fabric_t *fabric;
    lw_conn_t *conn; /* the last one that was accepted or made; NULL after on_closed */
    rig_taking_t taking;
    bool echo; /* answer each message with one of the same size */
    void *landing; /* the last receive that was begun, until it is over */
    unsigned accepted, closed, messages, landed, land_failed, canceled, wrong, out_of_order, sent, failed, inside;
    uint32_t next_in, next_out;
    uint64_t bytes_in;
    lw_status_t closed_status;
    bool progressing; /* guards against callbacks outside of progress and close */
    rig_ticket_t tickets[RIG_TICKETS_MAX];
    uint32_t ticket_count;
} rig_end_t;

typedef struct rig {
    const lw_fabric_ops_t *ops;
    const char *transports; /* NULL: sim */
    lw_sim_net_t *net;
    uint64_t now_us, seed;
    lw_prng_t prng;
    rig_end_t server, client;
    char address[128];
    atomic_bool closed; /* the end that rig_close closes is closed */
} rig_t;

/* "sim", "tcp" or "shm", from the program's first argument. Skips the program where UCX is not built in. */
void rig_choose(int argc, char **argv);
bool rig_is(const char *kind);
int rig_setup(void **state); /* a server that listens, no connection yet */
int rig_setup_connected(void **state);
int rig_teardown(void **state); /* closes what is open and checks that every callback ran exactly once */

void rig_open(rig_t *rig, rig_end_t *end, const char *name);
void rig_close(rig_end_t *end);
void rig_connect(rig_t *rig);
_Noreturn void rig_gave_up(const rig_t *rig, const char *condition); /* fails the test, with the seed */
#define rig_until(rig, condition)                          \
    do {                                                   \
        uint64_t rig_end_us = rig_now_us(rig) + 10000000u; \
        while (!(condition)) {                             \
            rig_round(rig);                                \
            if (rig_now_us(rig) > rig_end_us)              \
                rig_gave_up(rig, #condition);              \
        }                                                  \
    } while (0)
void rig_round(rig_t *rig);
uint64_t rig_now_us(const rig_t *rig); /* simulated where there is a net */

/* Sends bytes from `end` over conn in `pieces` pieces of random sizes. */
lw_status_t rig_send(rig_end_t *end, lw_conn_t *conn, size_t bytes, uint32_t pieces, lw_send_mode_t mode);
lw_status_t rig_send_front(rig_end_t *end, lw_conn_t *conn, size_t front, size_t rest); /* two pieces */
void rig_cancel(rig_end_t *end); /* gives up the last receive, if it is not over and that is possible */
unsigned rig_pending(const rig_end_t *end); /* sends whose callback has not run */

#endif /* LW_TEST_FABRIC_RIG_H */
