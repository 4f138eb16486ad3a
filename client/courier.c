/* courier.c - the progress thread: doorbell, letters, the store's rounds. The letters' and the caller's side are at the
 * end. See courier.h for who owns what. */
#include "client/courier.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "client/keeper.h"

#define NAP_US 20u        /* once it has spun in vain */
#define QUIET_NAP_US 200u /* once nothing has happened for a while */
#define QUIET_AFTER_US 1000000u
#define POST_TIMEOUT_US 1000000u
#define LETTER_NAP_US 20u

/* ---- what letters ask for ---- */

static void attached(void *arg, lw_status_t status)
{
    /* Only ahead of time: a fetch attaches what is missing and reports why it cannot. */
    (void)arg;
    (void)status;
}

static void attach(lwc_courier_t *courier, const lwc_letter_t *letter)
{
    uint32_t keys[LW_LAYERS_MAX];

    for (uint32_t i = 0; i < letter->attach.count; i++)
        keys[i] = letter->key + i;
    lw_status_t status = lwc_store_attach(courier->store, keys, letter->attach.count,
                                          letter->attach.deadline_us, attached, NULL);
    if (status != LW_OK && status != LW_ERR_BUSY)
        LW_DEBUG("client", "attach ahead: %s", lwc_store_last_error(courier->store));
}

static void read_ended(lwc_courier_read_t *read, lw_status_t status, const char *words)
{
    lw_fail(&read->result, status, "%s", words);
    atomic_store_explicit(&read->state, LWC_READ_DONE, memory_order_release);
}

static void read_done(void *arg, lw_status_t status)
{
    lwc_courier_read_t *read = arg;

    read_ended(read, status, status == LW_OK ? "" : lwc_store_last_error(read->courier->store));
}

static void start_read(lwc_courier_t *courier, const lwc_letter_t *letter)
{
    lwc_courier_read_t *read = &courier->reads[letter->read.slot];
    lw_status_t status =
        lwc_store_read(courier->store, letter->key, letter->read.offset, letter->read.bytes, letter->read.into,
                       letter->read.bytes, NULL, letter->read.deadline_us, read_done, read);

    if (status != LW_OK)
        read_ended(read, status, lwc_store_last_error(courier->store));
}

void lwc_store_ask(const lwc_store_t *store, lwc_store_answer_t *answer_out)
{
    const lw_view_t *view = lwc_store_view(store);

    lwc_store_stats(store, &answer_out->stats);
    answer_out->fleet_id = view->fleet_id;
    answer_out->epoch = view->epoch;
    answer_out->node_count = (uint32_t)lw_min_u64(view->node_count, LW_ATTR_NODES_MAX);
    for (uint32_t i = 0; i < answer_out->node_count; i++) {
        answer_out->nodes[i] = view->nodes[i];
        if (lwc_store_node_stats(store, view->nodes[i].index, &answer_out->node_stats[i]) != LW_OK)
            memset(&answer_out->node_stats[i], 0, sizeof(answer_out->node_stats[i]));
    }
}

static lw_status_t follow(lwc_courier_t *courier, const lwc_letter_t *letter)
{
    switch (letter->kind) {
    case LWC_LETTER_SESSION:
        return lwc_store_session(courier->store, letter->key, letter->session.session_id,
                                 letter->session.token, false, letter->session.term);
    case LWC_LETTER_SESSION_FORGET: lwc_store_session_forget(courier->store, letter->key); break;
    case LWC_LETTER_SEGMENT:
        courier->known[letter->key] = true;
        return lwc_store_segment(courier->store, letter->key, letter->segment.slot, &letter->segment.name,
                                 letter->segment.pair_bytes, letter->segment.node_index,
                                 letter->segment.replicas);
    case LWC_LETTER_SEGMENT_FORGET:
        courier->known[letter->key] = false;
        lwc_store_segment_forget(courier->store, letter->key);
        break;
    case LWC_LETTER_ATTACH: attach(courier, letter); break;
    case LWC_LETTER_READ: start_read(courier, letter); break;
    case LWC_LETTER_ASK:
        lwc_store_ask(courier->store, &courier->answer);
        atomic_store_explicit(&courier->asked, 0, memory_order_release);
        break;
    }
    return LW_OK;
}

/* Nothing can be asked of a store that is gone. */
static void refuse(lwc_courier_t *courier, const lwc_letter_t *letter)
{
    if (letter->kind == LWC_LETTER_READ)
        read_ended(&courier->reads[letter->read.slot], LW_ERR_CANCELED, "the handle is closing");
    if (letter->kind == LWC_LETTER_ASK)
        atomic_store_explicit(&courier->asked, 0, memory_order_release);
}

static unsigned take_letters(lwc_courier_t *courier)
{
    uint32_t tail = atomic_load_explicit(&courier->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&courier->head, memory_order_acquire);

    for (uint32_t at = tail; at != head; at++) {
        const lwc_letter_t *letter = &courier->letters[at & (LWC_LETTERS - 1)];
        if (!courier->store)
            refuse(courier, letter);
        else if (follow(courier, letter) != LW_OK) /* whoever fetches from it is told */
            LW_WARN("client", "the store did not take a segment or session: %s",
                    lwc_store_last_error(courier->store));
        atomic_store_explicit(&courier->tail, at + 1, memory_order_release);
    }
    return head - tail;
}

static unsigned take_view(lwc_courier_t *courier)
{
    lw_view_t *view = lwc_keeper_take_view(courier->keeper);
    lw_error_t error = {.text = ""};

    if (!view)
        return 0;
    if (courier->store && lwc_store_set_view(courier->store, view, &error) != LW_OK)
        LW_WARN("client", "the view at epoch %llu was not taken: %s", (unsigned long long)view->epoch,
                error.text);
    lwc_view_mail_free(view);
    return 1;
}

/* ---- rounds ---- */

/* Before the ticket is answered: whoever sees the failure finds the words. */
static void tell_cause(void *arg, const lw_error_t *cause)
{
    lwc_courier_t *courier = arg;

    atomic_fetch_add_explicit(&courier->failures, 1, memory_order_release);
    if (atomic_load_explicit(&courier->cause_state, memory_order_acquire) != 0)
        return;
    courier->cause = *cause;
    atomic_store_explicit(&courier->cause_state, 1, memory_order_release);
}

/* A little less than the GPU waits, so that what fails is told before it gives up. */
static uint64_t deadline(const lwc_courier_t *courier, uint64_t now_us)
{
    uint64_t wait_us = atomic_load_explicit(&courier->wait_us, memory_order_relaxed);

    return now_us + wait_us - wait_us / 8;
}

unsigned lwc_courier_round(lwc_courier_t *courier, uint64_t now_us)
{
    /* The doorbell first: what was posted before the tickets that it shows is then in the ring. */
    uint64_t rung = lwc_tickets_rung(courier->tickets);
    unsigned events = take_letters(courier) + take_view(courier);

    events += lwc_tickets_take(courier->tickets, rung, now_us, deadline(courier, now_us),
                               courier->store ? courier->known : NULL);
    if (courier->store) {
        lwc_tickets_release(courier->tickets);
        events += lwc_store_round(courier->store, now_us);
    }
    return events;
}

static void rest(const lwc_courier_t *courier, uint64_t idle_us)
{
    if (idle_us < courier->spin_us)
        sched_yield();
    else
        lwc_device_nap(idle_us < QUIET_AFTER_US ? NAP_US : QUIET_NAP_US);
}

static void *courier_main(void *arg)
{
    lwc_courier_t *courier = arg;
    uint64_t last = lw_now_us(courier->clock);
    uint32_t mode;

    (void)prctl(PR_SET_TIMERSLACK, 1000ul); /* naps as short as they are asked for */
    while ((mode = atomic_load_explicit(&courier->mode, memory_order_acquire)) != LWC_COURIER_STOPPED) {
        if (mode == LWC_COURIER_STALLED) {
            lwc_device_nap(QUIET_NAP_US);
            continue;
        }
        if (mode == LWC_COURIER_REFUSING && courier->store) {
            lwc_store_t *store = courier->store;
            lwc_store_destroy(store); /* what is under way ends here, in FAILED arrivals */
            courier->store = NULL;
        }
        uint64_t now = lw_now_us(courier->clock);
        atomic_fetch_add_explicit(&courier->rounds, 1, memory_order_relaxed);
        if (lwc_courier_round(courier, now) > 0)
            last = now;
        else
            rest(courier, now - last);
    }
    return NULL;
}

/* ---- the caller's side ---- */

lw_status_t lwc_courier_init(lwc_courier_t *courier, lwc_store_t *store, lwc_tickets_t *tickets,
                             struct lwc_keeper *keeper, const lw_clock_t *clock, uint32_t segment_capacity,
                             uint64_t spin_us, lw_error_t *error)
{
    memset(courier, 0, sizeof(*courier));
    courier->store = store;
    courier->tickets = tickets;
    courier->keeper = keeper;
    courier->clock = clock;
    courier->segment_capacity = segment_capacity;
    courier->spin_us = spin_us;
    tickets->failing = tell_cause;
    tickets->failing_arg = courier;
    courier->known = calloc(segment_capacity, sizeof(*courier->known));
    courier->letters = calloc(LWC_LETTERS, sizeof(*courier->letters));
    for (uint32_t i = 0; i < LWC_READS; i++)
        courier->reads[i].courier = courier;
    if (!courier->known || !courier->letters)
        return lw_fail(error, LW_ERR_NO_MEMORY, "progress thread: out of memory");
    return LW_OK;
}

lw_status_t lwc_courier_start(lwc_courier_t *courier, lw_error_t *error)
{
    if (pthread_create(&courier->thread, NULL, courier_main, courier) != 0)
        return lw_fail(error, LW_ERR_EXHAUSTED, "the progress thread cannot be started");
    courier->threaded = true;
    return LW_OK;
}

void lwc_courier_refuse(lwc_courier_t *courier)
{
    atomic_store_explicit(&courier->mode, LWC_COURIER_REFUSING, memory_order_release);
}

void lwc_courier_fini(lwc_courier_t *courier)
{
    atomic_store_explicit(&courier->mode, LWC_COURIER_STOPPED, memory_order_release);
    if (courier->threaded)
        pthread_join(courier->thread, NULL);
    lwc_store_destroy(courier->store);
    free(courier->known);
    free(courier->letters);
    memset(courier, 0, sizeof(*courier));
}

lw_status_t lwc_courier_post(lwc_courier_t *courier, const lwc_letter_t *letter)
{
    uint32_t head = atomic_load_explicit(&courier->head, memory_order_relaxed);

    for (uint64_t waited = 0;
         head - atomic_load_explicit(&courier->tail, memory_order_acquire) == LWC_LETTERS;
         waited += LETTER_NAP_US) {
        if (waited >= POST_TIMEOUT_US)
            return LW_ERR_TIMEOUT;
        lwc_device_nap(LETTER_NAP_US);
    }
    courier->letters[head & (LWC_LETTERS - 1)] = *letter;
    atomic_store_explicit(&courier->head, head + 1, memory_order_release);
    return LW_OK;
}

void lwc_courier_cause(lwc_courier_t *courier, lw_error_t *cause_out)
{
    *cause_out = (lw_error_t){.status = LW_OK};
    if (atomic_load_explicit(&courier->cause_state, memory_order_acquire) == 0)
        return;
    *cause_out = courier->cause;
    atomic_store_explicit(&courier->cause_state, 0, memory_order_release);
}
