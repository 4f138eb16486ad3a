/* fabric_sim_net.c - the simulated network: what is in flight, when it lands, and what goes wrong on the way.
 *
 * Everything in flight is an event in one list sorted by due time. A round moves due events to inboxes, where
 * the receiving fabric's progress() finds them. Events between hosts that are cut from each other stay in the
 * list. */
#include "fabric/fabric_sim_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PORT 10000u

lw_sim_event_t *lw_sim_event_create(lw_sim_kind_t kind, lw_conn_t *conn)
{
    lw_sim_event_t *event = calloc(1, sizeof(*event));
    LW_ASSERT(event != NULL);
    lw_sim_list_init(&event->link);
    event->kind = kind;
    event->conn = conn;
    return event;
}

void lw_sim_event_destroy(lw_sim_event_t *event)
{
    lw_sim_list_remove(&event->link);
    free(event->data);
    free(event);
}

bool lw_sim_chance(lw_sim_net_t *net, double chance)
{
    return chance > 0 && lw_prng_unit(&net->prng) < chance;
}

static void insert(lw_sim_net_t *net, lw_sim_event_t *event)
{
    lw_sim_link_t *after = net->flight.prev;
    while (after != &net->flight && ((lw_sim_event_t *)after)->due_us > event->due_us)
        after = after->prev;
    event->link.prev = after;
    event->link.next = after->next;
    after->next->prev = &event->link;
    after->next = &event->link;
}

void lw_sim_net_post(lw_sim_net_t *net, lw_conn_t *from, lw_sim_event_t *event)
{
    uint64_t spread = net->faults.delay_max_us - net->faults.delay_min_us;
    uint64_t due_us =
        net->now_us + net->faults.delay_min_us + (spread > 0 ? lw_prng_below(&net->prng, spread + 1) : 0);
    bool ordered = !net->faults.reorder || event->kind != LW_SIM_MESSAGE || from->peer == NULL;
    if (ordered && due_us < from->last_due_us)
        due_us = from->last_due_us;
    if (due_us > from->last_due_us)
        from->last_due_us = due_us;
    event->due_us = due_us;
    insert(net, event);
}

static void post_close(lw_conn_t *conn, uint64_t after_us)
{
    lw_sim_event_t *event = lw_sim_event_create(LW_SIM_CLOSE, conn);
    event->status = LW_ERR_UNREACHABLE;
    event->due_us = conn->fabric->net->now_us + after_us;
    insert(conn->fabric->net, event);
}

void lw_sim_net_break(lw_conn_t *conn, uint64_t after_us)
{
    conn->lost = true;
    post_close(conn, after_us);
    if (conn->peer != NULL) {
        conn->peer->lost = true;
        post_close(conn->peer, after_us);
    }
}

/* ---- delivery ---- */

static lw_fabric_t *find_listener(const lw_sim_net_t *net, const char *address)
{
    for (lw_sim_link_t *at = net->fabrics.next; at != &net->fabrics; at = at->next) {
        lw_fabric_t *fabric = (lw_fabric_t *)at;
        if (!fabric->crashed && fabric->address[0] != '\0' && strcmp(fabric->address, address) == 0)
            return fabric;
    }
    return NULL;
}

static bool cut_between(const lw_sim_net_t *net, const char *a, const char *b)
{
    for (const struct lw_sim_cut *cut = net->cuts; cut != NULL; cut = cut->next)
        if ((strcmp(cut->a, a) == 0 && strcmp(cut->b, b) == 0) ||
            (strcmp(cut->a, b) == 0 && strcmp(cut->b, a) == 0))
            return true;
    return false;
}

static bool is_cut(const lw_sim_net_t *net, const lw_sim_event_t *event)
{
    const lw_conn_t *conn = event->conn;
    if (net->cuts == NULL || event->kind == LW_SIM_CLOSE)
        return false;
    if (event->kind == LW_SIM_CONNECT) {
        const char *colon = strrchr(event->address, ':');
        char host[LW_ADDRESS_MAX];
        snprintf(host, sizeof(host), "%.*s", (int)(colon - event->address), event->address);
        return cut_between(net, conn->fabric->host, host);
    }
    return conn->peer != NULL && cut_between(net, conn->fabric->host, conn->peer->fabric->host);
}

static void deliver_connect(lw_sim_net_t *net, lw_sim_event_t *event)
{
    lw_conn_t *conn = event->conn;
    lw_fabric_t *listener = find_listener(net, event->address);
    if (listener == NULL) {
        lw_sim_net_break(conn, net->faults.delay_max_us);
        lw_sim_event_destroy(event);
        return;
    }
    conn->peer = lw_sim_conn_create(listener);
    conn->peer->peer = conn;
    event->kind = LW_SIM_ACCEPT;
    event->conn = conn->peer;
    lw_sim_list_add(&listener->inbox, &event->link);
}

static void deliver(lw_sim_net_t *net, lw_sim_event_t *event)
{
    lw_sim_list_remove(&event->link);
    if (event->kind == LW_SIM_CONNECT) {
        deliver_connect(net, event);
        return;
    }
    if (event->kind == LW_SIM_MESSAGE) {
        if (event->conn->peer == NULL || event->conn->peer->fabric->crashed) {
            lw_sim_event_destroy(event); /* its send ends with the connection */
            return;
        }
        event->conn = event->conn->peer;
    }
    lw_sim_list_add(&event->conn->fabric->inbox, &event->link);
}

unsigned lw_sim_net_round(lw_sim_net_t *net, uint64_t now_us)
{
    LW_ASSERT(now_us >= net->now_us);
    net->now_us = now_us;
    unsigned moved = 0;
    lw_sim_link_t *next;
    for (lw_sim_link_t *at = net->flight.next; at != &net->flight; at = next) {
        next = at->next;
        lw_sim_event_t *event = (lw_sim_event_t *)at;
        if (event->due_us > now_us)
            break;
        if (is_cut(net, event))
            continue;
        deliver(net, event);
        moved++;
    }
    return moved;
}

uint64_t lw_sim_net_next_us(const lw_sim_net_t *net)
{
    for (lw_sim_link_t *at = net->flight.next; at != &net->flight; at = at->next)
        if (!is_cut(net, (lw_sim_event_t *)at))
            return ((lw_sim_event_t *)at)->due_us;
    return UINT64_MAX;
}

/* ---- the net itself ---- */

lw_status_t lw_sim_net_create(uint64_t seed, lw_sim_net_t **net_out)
{
    lw_sim_net_t *net = calloc(1, sizeof(*net));
    if (net == NULL)
        return LW_ERR_NO_MEMORY;
    lw_prng_seed(&net->prng, seed);
    net->next_port = FIRST_PORT;
    lw_sim_list_init(&net->fabrics);
    lw_sim_list_init(&net->flight);
    *net_out = net;
    return LW_OK;
}

void lw_sim_net_destroy(lw_sim_net_t *net)
{
    if (net == NULL)
        return;
    LW_ASSERT(lw_sim_list_empty(&net->fabrics)); /* close them first */
    while (!lw_sim_list_empty(&net->flight))
        lw_sim_event_destroy((lw_sim_event_t *)net->flight.next);
    while (net->cuts != NULL) {
        struct lw_sim_cut *cut = net->cuts;
        net->cuts = cut->next;
        free(cut);
    }
    free(net);
}

void lw_sim_net_faults(lw_sim_net_t *net, const lw_sim_faults_t *faults)
{
    LW_ASSERT(faults->delay_min_us <= faults->delay_max_us);
    net->faults = *faults;
}

void lw_sim_net_partition(lw_sim_net_t *net, const char *host_a, const char *host_b, bool cut)
{
    struct lw_sim_cut **at = &net->cuts;
    while (*at != NULL) {
        struct lw_sim_cut *old = *at;
        bool same = (strcmp(old->a, host_a) == 0 && strcmp(old->b, host_b) == 0) ||
                    (strcmp(old->a, host_b) == 0 && strcmp(old->b, host_a) == 0);
        if (same) {
            *at = old->next;
            free(old);
        } else {
            at = &old->next;
        }
    }
    if (!cut)
        return;
    struct lw_sim_cut *new_cut = calloc(1, sizeof(*new_cut));
    LW_ASSERT(new_cut != NULL);
    snprintf(new_cut->a, sizeof(new_cut->a), "%s", host_a);
    snprintf(new_cut->b, sizeof(new_cut->b), "%s", host_b);
    new_cut->next = net->cuts;
    net->cuts = new_cut;
}

/* Takes back from the peer's inbox what it can't have any more: from the first message on whose payload still
 * lay with conn. Receives that have begun fail later, when progress finds no sender. */
static void take_back(lw_conn_t *conn)
{
    lw_fabric_t *receiver = conn->peer->fabric;
    lw_sim_link_t *next;
    bool torn = false;
    for (lw_sim_link_t *at = receiver->inbox.next; at != &receiver->inbox; at = next) {
        next = at->next;
        lw_sim_event_t *event = (lw_sim_event_t *)at;
        if (event->conn != conn->peer || event->kind != LW_SIM_MESSAGE)
            continue;
        torn = torn || event->send != NULL;
        if (torn)
            lw_sim_event_destroy(event);
    }
    for (lw_sim_link_t *at = receiver->landing.next; at != &receiver->landing; at = at->next)
        if (((lw_sim_event_t *)at)->conn == conn->peer)
            ((lw_sim_event_t *)at)->send = NULL;
}

void lw_sim_net_detach(lw_conn_t *conn)
{
    lw_sim_net_t *net = conn->fabric->net;
    lw_sim_link_t *next;
    for (lw_sim_link_t *at = net->flight.next; at != &net->flight; at = next) {
        next = at->next;
        if (((lw_sim_event_t *)at)->conn == conn)
            lw_sim_event_destroy((lw_sim_event_t *)at);
    }
    lw_conn_t *peer = conn->peer;
    if (peer == NULL)
        return;
    take_back(conn);
    uint64_t spread = net->faults.delay_max_us - net->faults.delay_min_us;
    post_close(peer, net->faults.delay_min_us + (spread > 0 ? lw_prng_below(&net->prng, spread + 1) : 0));
    peer->lost = true;
    peer->peer = NULL;
    conn->peer = NULL;
}

void lw_sim_net_crash(lw_sim_net_t *net, const char *host)
{
    for (lw_sim_link_t *at = net->fabrics.next; at != &net->fabrics; at = at->next) {
        lw_fabric_t *fabric = (lw_fabric_t *)at;
        if (fabric->crashed || strcmp(fabric->host, host) != 0)
            continue;
        fabric->crashed = true;
        fabric->address[0] = '\0';
        for (lw_sim_link_t *c = fabric->conns.next; c != &fabric->conns; c = c->next)
            lw_sim_net_detach((lw_conn_t *)c);
    }
}
