/* fabric_sim_private.h - what the simulated network and the fabrics in it share. One thread; nothing here
 * locks. */
#ifndef LW_FABRIC_SIM_PRIVATE_H
#define LW_FABRIC_SIM_PRIVATE_H

#include "base/limits.h"
#include "fabric/fabric_sim.h"

typedef struct lw_sim_link {
    struct lw_sim_link *next, *prev;
} lw_sim_link_t;

typedef enum lw_sim_kind {
    LW_SIM_CONNECT, /* to an address; `conn` is who asks */
    LW_SIM_ACCEPT,  /* in a listener's inbox; `conn` is the new end */
    LW_SIM_MESSAGE, /* `conn` is the sender while in the net, the receiver in an inbox */
    LW_SIM_CLOSE    /* to `conn` */
} lw_sim_kind_t;

typedef struct lw_sim_event {
    lw_sim_link_t link; /* first; in the net's flight or a fabric's inbox or its landing list */
    lw_sim_kind_t kind;
    lw_conn_t *conn;
    uint64_t due_us;
    char address[LW_ADDRESS_MAX]; /* CONNECT */
    lw_status_t status;           /* CLOSE */
    uint8_t head[LW_MSG_HEAD_MAX];
    size_t head_bytes, data_bytes;
    uint8_t *data; /* the payload's copy; NULL: it still lies with `send` (rendezvous) */
    bool flip;     /* corrupt one bit */
    uint64_t flip_at;
    struct lw_sim_send *send; /* rendezvous: whose memory it is */
    void *into;               /* landing: where to, and whom to tell */
    lw_fabric_done_t done;
    void *arg;
} lw_sim_event_t;

typedef struct lw_sim_send { /* one for each unfinished send */
    lw_sim_link_t link;      /* first; in its connection's list or its fabric's ready list */
    lw_conn_t *conn;
    lw_fabric_done_t done;
    void *arg;
    lw_status_t status;
    uint32_t piece_count;
    lw_iov_t pieces[]; /* the memory is the caller's until done */
} lw_sim_send_t;

struct lw_conn {
    lw_sim_link_t link; /* first; in the fabric's list */
    lw_sim_link_t sends;
    lw_fabric_t *fabric;
    lw_conn_t *peer; /* NULL before the connection is made and after the peer has ended */
    void *user;
    uint64_t last_due_us; /* of what it sent: order */
    bool announced;       /* the owner knows it: from connect, or by on_accept */
    bool ending, lost;    /* lost: a message of it was dropped, nothing after it arrives */
    lw_status_t status;
};

struct lw_region {
    lw_fabric_t *fabric;
};

struct lw_fabric {
    lw_sim_link_t link; /* first; in the net's list */
    lw_sim_net_t *net;
    lw_fabric_handler_t handler;
    char host[LW_ADDRESS_MAX], address[LW_ADDRESS_MAX]; /* address: "" unless it listens */
    bool crashed, closing;
    lw_sim_link_t conns, inbox, landing, ready;
};

struct lw_sim_net {
    lw_prng_t prng;
    lw_sim_faults_t faults;
    uint64_t now_us;
    uint32_t next_port;
    lw_sim_link_t fabrics;
    lw_sim_link_t flight; /* events by due time, equal ones by age */
    struct lw_sim_cut {
        struct lw_sim_cut *next;
        char a[LW_ADDRESS_MAX], b[LW_ADDRESS_MAX];
    } * cuts;
};

static inline void lw_sim_list_init(lw_sim_link_t *list)
{
    list->next = list->prev = list;
}
static inline bool lw_sim_list_empty(const lw_sim_link_t *list)
{
    return list->next == list;
}
static inline void lw_sim_list_add(lw_sim_link_t *list, lw_sim_link_t *link) /* at the end */
{
    link->next = list;
    link->prev = list->prev;
    list->prev->next = link;
    list->prev = link;
}
static inline void lw_sim_list_remove(lw_sim_link_t *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    lw_sim_list_init(link);
}

/* fabric_sim_net.c */
lw_sim_event_t *lw_sim_event_create(lw_sim_kind_t kind,
                                    lw_conn_t *conn); /* aborts without memory: it is a test tool */
void lw_sim_event_destroy(lw_sim_event_t *event);
void lw_sim_net_post(lw_sim_net_t *net, lw_conn_t *from,
                     lw_sim_event_t *event); /* with the net's delay and order */
void lw_sim_net_detach(
    lw_conn_t *conn); /* conn is over: what it has in flight vanishes, its peer will hear of it */
void lw_sim_net_break(lw_conn_t *conn, uint64_t after_us); /* both ends hear of a lost connection */
bool lw_sim_chance(lw_sim_net_t *net, double chance);

/* fabric_sim.c */
lw_conn_t *lw_sim_conn_create(lw_fabric_t *fabric);
void lw_sim_send_finish(lw_sim_send_t *send, lw_status_t status); /* its callback runs from progress */

#endif /* LW_FABRIC_SIM_PRIVATE_H */
