/* tickets.h - misses of the select op to fetches, and arrivals back to the ops. Belongs to whoever has the step's store: the
 * caller's thread on host backends, the courier on asynchronous ones. Allocates at open only.
 *
 * The ring of tickets, their head and tail, the arrivals and the landing memory are pinned: the only device
 * state that the host reads. A ticket's number is its tag in the store. */
#ifndef LWC_TICKETS_H
#define LWC_TICKETS_H

#include <stdbool.h>

#include "client/device.h"
#include "client/model.h"
#include "client/store/store.h"

typedef struct lwc_tickets {
    const lwc_device_t *device;
    lwk_memory_t kind;     /* of ring, head, tail, arrivals: PINNED, or DEVICE where only ops read them */
    lwk_ticket_t *ring;    /* [capacity] */
    uint64_t *head, *tail; /* written by select and admit */
    uint64_t *arrivals;    /* [capacity] */
    uint8_t *landing;      /* pinned */
    uint64_t landing_bytes;
    uint32_t capacity, layers;
    bool async; /* the ops run while this does: a ticket's words may be another's once it was released */
    uint64_t pair_bytes;
    lwc_want_t *wants; /* [capacity] */
    uint32_t *rows;    /* [capacity] of tickets that take landing memory, until they are released; else 0 */

    uint64_t seen;     /* tickets taken from the ring */
    uint64_t released; /* tickets told to the store as used */
    uint64_t bytes;    /* of landed and coming records not yet released */
    uint64_t busy_since_us; /* asynchronous: the store has had no room since then; 0: it has */
    uint32_t waiting;  /* fetched and not arrived, all layers */
    uint32_t waiting_layer[LW_LAYERS_MAX];
    lw_status_t failed; /* host: first failure since lwc_tickets_clear */
    lw_error_t error;
    void (*failing)(void *arg, const lw_error_t *cause); /* asynchronous: before a ticket is answered FAILED */
    void *failing_arg;
    lwc_store_t *store;
} lwc_tickets_t;

LW_CHECK lw_status_t lwc_tickets_init(lwc_tickets_t *tickets, const lwc_device_t *device,
                                      const lwc_model_t *model, const lwc_sizes_t *sizes, bool local,
                                      lw_error_t *error);
void lwc_tickets_fini(lwc_tickets_t *tickets);
/* The doorbell: tickets issued so far. */
uint64_t lwc_tickets_rung(const lwc_tickets_t *tickets);
/* Host: takes what select has issued since the last call and starts fetching it. Failures end in arrivals. */
void lwc_tickets_collect(lwc_tickets_t *tickets, uint64_t deadline_us);
/* Asynchronous: the same for tickets below `rung`. A segment that is not in `known`, or any when that is NULL, is answered
 * FAILED at once; a store without room is asked again by the next call, until the deadline of those that wait. Returns how
 * many tickets it took. */
unsigned lwc_tickets_take(lwc_tickets_t *tickets, uint64_t rung, uint64_t now_us, uint64_t deadline_us,
                          const bool *known);
/* After admit: gives the landing memory of used records back. */
void lwc_tickets_release(lwc_tickets_t *tickets);
/* Whether landing memory or tickets run short enough that admit must not wait for the step's end. */
bool lwc_tickets_tight(const lwc_tickets_t *tickets);
void lwc_tickets_clear(lwc_tickets_t *tickets);

#endif /* LWC_TICKETS_H */
