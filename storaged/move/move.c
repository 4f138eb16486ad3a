/* move.c - the mover's life, its round, and what other threads tell it. */
#include "storaged/move/move.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "storaged/move/move_private.h"

#define JUDGE_US 50000u      /* between two looks at who is gone for how long */
#define SLEEP_BUSY_US 200u   /* while tasks or answers are awaited, which wake nobody */
#define SLEEP_IDLE_US 20000u

void lwd_move_failed(lwd_move_t *move, const char *format, ...)
{
    static lw_log_rate_t rate;
    char text[sizeof(move->status.error)];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    lw_log_rated(&rate, LW_LOG_WARN, "move", "%s", text);
    pthread_mutex_lock(&move->lock);
    memcpy(move->status.error, text, sizeof(text));
    pthread_mutex_unlock(&move->lock);
}

/* ---- life ---- */
lw_status_t lwd_move_create(const lwd_move_params_t *params, lwd_move_t **move_out, lw_error_t *error)
{
    LW_ASSERT(params->limits.in_flight >= 1 && params->limits.in_flight <= LWD_MOVE_IN_FLIGHT_MAX);
    lwd_move_t *move = aligned_alloc(64, lw_align_up(sizeof(*move), 64));
    if (move == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for moves");
    memset(move, 0, sizeof(*move));
    move->params = *params;
    move->limits = params->limits;
    pthread_mutex_init(&move->lock, NULL);
    lw_fabric_params_t fabric = {
        .transports = params->transports,
        .handler = {.on_message = lwd_links_message,
                    .on_accept = lwd_links_accept,
                    .on_closed = lwd_links_closed,
                    .arg = move},
    };
    lw_status_t status = params->fabric->open(&fabric, &move->fabric, error);
    if (status != LW_OK) {
        lwd_move_destroy(move);
        return status;
    }
    *move_out = move;
    return LW_OK;
}

void lwd_move_destroy(lwd_move_t *move)
{
    if (move == NULL)
        return;
    if (move->fabric != NULL)
        move->params.fabric->close(move->fabric);
    pthread_mutex_destroy(&move->lock);
    free(move->next_view.nodes);
    free(move->plan.view.nodes);
    free(move->nodes);
    free(move);
}

/* ---- what others tell ---- */
void lwd_move_set_limits(lwd_move_t *move, const lwd_move_limits_t *limits)
{
    pthread_mutex_lock(&move->lock);
    move->next_limits = *limits;
    move->limits_wait = true;
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_set_view(lwd_move_t *move, const lw_view_t *view)
{
    size_t bytes = (size_t)view->node_count * sizeof(*view->nodes);
    for (uint32_t i = 0; i < view->node_count; i++)
        LW_ASSERT(view->nodes[i].index < LW_NODES_MAX); /* whoever decodes a view checks it */
    lw_node_t *nodes = view->node_count > 0 && view->node_count <= LW_NODES_MAX ? malloc(bytes) : NULL;
    if (nodes == NULL)
        return;
    memcpy(nodes, view->nodes, bytes);
    pthread_mutex_lock(&move->lock);
    free(move->next_view.nodes);
    move->next_view = *view;
    move->next_view.nodes = nodes;
    move->view_waits = true;
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_set_token(lwd_move_t *move, const uint8_t token[LW_TOKEN_BYTES])
{
    pthread_mutex_lock(&move->lock);
    memcpy(move->next_token, token, LW_TOKEN_BYTES);
    move->token_waits = true;
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_tell_placed(lwd_move_t *move, lw_status_t status, const lwd_placed_t *rows, uint32_t count)
{
    LW_ASSERT(count <= LWD_MOVE_PAGE);
    pthread_mutex_lock(&move->lock);
    move->page_waits = true;
    move->page_status = status;
    move->page_count = count;
    if (count > 0)
        memcpy(move->page, rows, count * sizeof(*rows));
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_tell_moved(lwd_move_t *move, uint64_t ticket, lw_status_t status)
{
    uint32_t index = (uint32_t)ticket;
    LW_ASSERT(index < MOVE_JOBS_MAX);
    move_job_t *job = &move->jobs[index];
    pthread_mutex_lock(&move->lock);
    if (job->turn == (uint32_t)(ticket >> 32)) {
        job->answered = true;
        job->answer = status;
    }
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_status(lwd_move_t *move, lwd_move_status_t *status_out)
{
    pthread_mutex_lock(&move->lock);
    *status_out = move->status;
    pthread_mutex_unlock(&move->lock);
}

void lwd_move_stop(lwd_move_t *move)
{
    atomic_store(&move->stopping, true);
}

/* ---- the view ---- */
static uint8_t judged(const lwd_move_t *move, const lw_node_t *node)
{
    if (node->state == LW_NODE_DRAINING)
        return LW_NODE_DRAINING;
    bool gone = node->state != LW_NODE_UP && move->now_us - move->gone_us[node->index] >= move->limits.repair_after_us;
    return gone ? LW_NODE_DOWN : LW_NODE_UP;
}

void lwd_move_judge(lwd_move_t *move)
{
    lwd_plan_t *plan = &move->plan;
    bool changed = false;
    move->judged_us = move->now_us;
    for (uint32_t i = 0; i < plan->view.node_count; i++) {
        const lw_node_t *node = &move->nodes[i];
        uint8_t state = judged(move, node);
        changed = changed || state != plan->state[node->index];
        plan->state[node->index] = state;
        plan->view.nodes[i].state = state;
    }
    if (changed)
        move->scan.next_us = lw_min_u64(move->scan.next_us, move->now_us + MOVE_SETTLE_US);
}

/* Takes a new view over; its nodes become ours. */
static void take_view(lwd_move_t *move, const lw_view_t *view)
{
    lwd_plan_t *plan = &move->plan;
    size_t bytes = (size_t)view->node_count * sizeof(*view->nodes);
    lw_node_t *copy = malloc(bytes);
    if (copy == NULL) {
        free(view->nodes);
        return;
    }
    memcpy(copy, view->nodes, bytes);
    free(plan->view.nodes);
    free(move->nodes);
    plan->view = *view;
    plan->view.nodes = copy;
    move->nodes = view->nodes;
    plan->known = false;
    bool was_alive[LW_NODES_MAX];
    memcpy(was_alive, plan->alive, sizeof(was_alive));
    memset(plan->alive, 0, sizeof(plan->alive));
    for (uint32_t i = 0; i < LW_NODES_MAX; i++)
        plan->state[i] = LW_NODE_DOWN;
    for (uint32_t i = 0; i < view->node_count; i++) {
        const lw_node_t *node = &view->nodes[i];
        plan->alive[node->index] = node->state != LW_NODE_DOWN;
        if (node->state == LW_NODE_DOWN && (was_alive[node->index] || move->gone_us[node->index] == 0))
            move->gone_us[node->index] = move->now_us;
        if (node->id == move->params.node_id) {
            plan->known = true;
            plan->own = node->index;
        }
    }
    move->changed_us = move->now_us;
    move->scan.next_us = lw_min_u64(move->scan.next_us, move->now_us + MOVE_SETTLE_US);
    lwd_move_judge(move);
}

static void hear(lwd_move_t *move)
{
    lw_view_t view = {0};
    pthread_mutex_lock(&move->lock);
    if (move->view_waits)
        view = move->next_view;
    if (move->limits_wait)
        move->limits = move->next_limits;
    if (move->token_waits) {
        memcpy(move->token, move->next_token, LW_TOKEN_BYTES);
        move->token_known = true;
    }
    if (move->view_waits)
        move->next_view.nodes = NULL;
    move->view_waits = move->limits_wait = move->token_waits = false;
    move->status.jobs = move->job_count;
    pthread_mutex_unlock(&move->lock);
    if (view.nodes != NULL)
        take_view(move, &view);
}

/* ---- the body ---- */
unsigned lwd_move_round(lwd_move_t *move, uint64_t now_us)
{
    move->now_us = now_us;
    hear(move);
    if (now_us - move->judged_us >= JUDGE_US)
        lwd_move_judge(move);
    unsigned events = move->params.fabric->progress(move->fabric);
    events += lwd_links_step(move);
    events += lwd_scan_step(move);
    events += lwd_jobs_step(move);
    lw_gauge(&move->params.stats->moves_waiting, move->job_count);
    return events;
}

void lwd_move_run(lwd_move_t *move, const lw_clock_t *clock)
{
    while (!atomic_load(&move->stopping)) {
        if (lwd_move_round(move, lw_now_us(clock)) > 0)
            continue;
        bool awaits = move->job_count > 0 || move->scan.state != MOVE_SCAN_IDLE;
        (void)lw_fabric_wait(move->params.fabric, move->fabric, 0, awaits ? SLEEP_BUSY_US : SLEEP_IDLE_US);
    }
}
