/* courier.h - the progress thread of a handle on an asynchronous backend: carries misses to the nodes and arrivals back,
 * while the caller's thread goes on and the GPU works.
 *
 * It owns the step's store and the tickets. It calls no function of the backend: it reads the doorbell and writes arrivals
 * in pinned memory, so that it never waits for the GPU, which waits for it. The caller's thread hands it letters: whatever
 * the store must know or read. A letter that was posted before a step was enqueued is read before that step's tickets.
 *
 *   RUNNING --lw_close--> REFUSING (the store is gone; every ticket is answered FAILED) --> STOPPED
 *   RUNNING <--> STALLED   a test's: nothing is done at all
 *
 * Datum                    owner
 * letters[tail..head)      the courier; the rest of the ring: the caller
 * reads[i]                 the caller while FREE or DONE, the courier while FLYING
 * answer                   the caller but while asked
 * cause                    the courier while its state is 0, else the caller
 */
#ifndef LWC_COURIER_H
#define LWC_COURIER_H

#include <pthread.h>
#include <stdatomic.h>

#include "client/tickets.h"

struct lwc_keeper;

#define LWC_LETTERS 1024u /* a power of two; four times the segments of a range */
#define LWC_READS 4u

typedef enum lwc_letter_kind {
    LWC_LETTER_SESSION = 1,
    LWC_LETTER_SESSION_FORGET,
    LWC_LETTER_SEGMENT,
    LWC_LETTER_SEGMENT_FORGET,
    LWC_LETTER_ATTACH,
    LWC_LETTER_READ,
    LWC_LETTER_ASK,
} lwc_letter_kind_t;

typedef struct lwc_letter {
    lwc_letter_kind_t kind;
    uint32_t key; /* of a segment (ATTACH: the first), or a session's slot */
    union {
        struct {
            uint64_t session_id;
            uint8_t token[LW_TOKEN_BYTES];
            uint32_t term;
        } session;
        struct {
            lw_segment_name_t name;
            uint32_t slot, pair_bytes, replicas;
            uint16_t node_index[LW_REPLICAS_MAX];
        } segment;
        struct {
            uint32_t count;
            uint64_t deadline_us;
        } attach;
        struct {
            uint32_t slot; /* of reads */
            uint64_t offset, bytes, deadline_us;
            uint8_t *into;
        } read;
    };
} lwc_letter_t;

typedef enum lwc_read_state { LWC_READ_FREE, LWC_READ_FLYING, LWC_READ_DONE } lwc_read_state_t;

typedef struct lwc_courier_read {
    _Atomic uint32_t state; /* lwc_read_state_t */
    lw_error_t result;
    struct lwc_courier *courier;
} lwc_courier_read_t;

/* What lw_query tells of the store. */
typedef struct lwc_store_answer {
    lwc_store_stats_t stats;
    uint64_t fleet_id, epoch;
    uint32_t node_count;
    lw_node_t nodes[LW_ATTR_NODES_MAX];
    lwc_node_stats_t node_stats[LW_ATTR_NODES_MAX];
} lwc_store_answer_t;
void lwc_store_ask(const lwc_store_t *store, lwc_store_answer_t *answer_out);

typedef enum lwc_courier_mode {
    LWC_COURIER_RUNNING,
    LWC_COURIER_STALLED,
    LWC_COURIER_REFUSING,
    LWC_COURIER_STOPPED
} lwc_courier_mode_t;

typedef struct lwc_courier {
    lwc_store_t *store; /* NULL once it refuses */
    lwc_tickets_t *tickets;
    struct lwc_keeper *keeper; /* for changed views */
    const lw_clock_t *clock;
    uint64_t spin_us;
    bool *known; /* [segment_capacity] which keys have a segment */
    uint32_t segment_capacity;

    lwc_letter_t *letters;
    _Atomic uint32_t head, tail; /* posted by the caller; read by the courier */
    _Atomic uint64_t wait_us;    /* of the newest step: how long its records may take */
    _Atomic uint32_t mode;       /* lwc_courier_mode_t; the caller's */
    lwc_courier_read_t reads[LWC_READS];
    lwc_store_answer_t answer;
    _Atomic uint32_t asked;
    lw_error_t cause; /* why a ticket failed, the first since it was last looked at */
    _Atomic uint32_t cause_state;
    _Atomic uint64_t failures; /* tickets answered FAILED */
    _Atomic uint64_t rounds; /* for tests: that it lives */

    bool threaded;
    pthread_t thread;
} lwc_courier_t;

/* The store and the tickets are given away to the courier. */
LW_CHECK lw_status_t lwc_courier_init(lwc_courier_t *courier, lwc_store_t *store, lwc_tickets_t *tickets,
                                      struct lwc_keeper *keeper, const lw_clock_t *clock,
                                      uint32_t segment_capacity, uint64_t spin_us, lw_error_t *error);
LW_CHECK lw_status_t lwc_courier_start(lwc_courier_t *courier, lw_error_t *error);
/* From here on every ticket is answered at once, FAILED; what was under way is canceled. */
void lwc_courier_refuse(lwc_courier_t *courier);
/* Ends the thread and frees everything, the store too. */
void lwc_courier_fini(lwc_courier_t *courier);

/* One pass of bounded work; the thread loops over it. Returns what happened. */
unsigned lwc_courier_round(lwc_courier_t *courier, uint64_t now_us);

/* ---- the caller's side ---- */
/* ERR_TIMEOUT: the courier has read nothing for a second and the ring is full. */
LW_CHECK lw_status_t lwc_courier_post(lwc_courier_t *courier, const lwc_letter_t *letter);
/* The words of the first failed ticket since the last call; status OK: none. */
void lwc_courier_cause(lwc_courier_t *courier, lw_error_t *cause_out);

#endif /* LWC_COURIER_H */
