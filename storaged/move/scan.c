/* scan.c - the walk over all manifests: what is placed here and missing, whose copies this node replaces, what there is
 * to count. A page at a time, and no faster than jobs find room. */
#include "storaged/move/move_private.h"

static void scan_reset(lwd_move_t *move, uint64_t next_us)
{
    move->scan.state = MOVE_SCAN_IDLE;
    move->scan.next_us = next_us;
}

static void scan_begin(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    if (!scan->retries) /* all that the last one found was done */
        move->retry_us = 0;
    scan->retries = false;
    scan->number++;
    scan->began_us = move->now_us;
    scan->key = (lwd_placed_key_t){0};
    scan->row_count = scan->row = scan->layer = scan->mark_count = scan->found = scan->failed = 0;
    scan->placed = scan->degraded = scan->lost = 0;
    scan->last_page = false;
    scan->rebalance = move->limits.rebalance_after_us != UINT64_MAX &&
                      move->now_us - move->changed_us >= move->limits.rebalance_after_us;
    scan->state = MOVE_SCAN_ASKING;
    if (move->params.placed(move->params.arg, &scan->key, LWD_MOVE_PAGE) != LW_OK)
        scan_reset(move, move->now_us + MOVE_RETRY_US);
}

/* ---- names that are placed here ---- */
static void run_marks(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_scan_t *scan = (move_scan_t *)task;
    (void)now_us;
    lwd_shard_placed(shard, scan->marks, scan->mark_count, scan->number, scan->have);
}

static void run_scanned(lwd_task_t *task, lwd_shard_t *shard, uint64_t now_us)
{
    move_scan_t *scan = (move_scan_t *)task;
    (void)now_us;
    lwd_shard_scanned(shard, scan->number, scan->began_us);
}

static bool scan_submit(lwd_move_t *move, void (*run)(lwd_task_t *, lwd_shard_t *, uint64_t))
{
    move_scan_t *scan = &move->scan;
    if (!scan->running) {
        scan->task.run = run;
        scan->running = move->params.submit(move->params.arg, &scan->task) == LW_OK;
        return false;
    }
    if (!atomic_load_explicit(&scan->task.done, memory_order_acquire))
        return false;
    scan->running = false;
    return true;
}

static void want(lwd_move_t *move, lwd_move_reason_t reason, const lw_segment_name_t *name, uint16_t from,
                 const uint16_t *nodes, uint32_t replicas)
{
    uint16_t sources[LW_REPLICAS_MAX];
    uint32_t count = lwd_plan_sources(&move->plan, name, nodes, replicas, sources);
    if (count == 0) { /* a copy that is missing here is the last one; of others look_at() has counted that */
        move->scan.lost += reason == LWD_MOVE_MISSING && move->plan.alive[move->plan.own];
        return;
    }
    if (lwd_job_add(move, reason, name, from, sources, count))
        move->scan.found++;
    else
        move->scan.failed++;
}

static void take_marks(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    for (uint32_t i = 0; i < scan->mark_count; i++)
        if (!scan->have[i] && move->plan.known && move->plan.state[move->plan.own] == LW_NODE_UP)
            want(move, LWD_MOVE_MISSING, &scan->marks[i], move->plan.own, scan->mark_nodes[i], scan->mark_replicas[i]);
    scan->mark_count = 0;
}

static void mark(move_scan_t *scan, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas)
{
    uint32_t i = scan->mark_count++;
    scan->marks[i] = *name;
    scan->mark_replicas[i] = replicas;
    memcpy(scan->mark_nodes[i], nodes, replicas * sizeof(*nodes));
}

/* ---- one segment ---- */
static void look_at(lwd_move_t *move, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas)
{
    move_scan_t *scan = &move->scan;
    const lwd_plan_t *plan = &move->plan;
    uint32_t alive = 0;
    uint16_t from = 0;
    bool own = false;
    for (uint32_t r = 0; r < replicas; r++) {
        alive += nodes[r] < LW_NODES_MAX && plan->alive[nodes[r]];
        own = own || nodes[r] == plan->own;
    }
    scan->degraded += alive < replicas;
    scan->lost += alive == 0;
    if (own) {
        scan->placed++;
        mark(scan, name, nodes, replicas);
        return;
    }
    lwd_move_reason_t reason = lwd_plan_choose(plan, name, nodes, replicas, scan->rebalance, &from);
    if (reason != LWD_MOVE_NONE)
        want(move, reason, name, from, nodes, replicas);
}

/* A page's rows, until there is no more room for what they may lead to. */
static unsigned scan_rows(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    for (uint32_t steps = 0; steps < MOVE_SCAN_STEP && scan->row < scan->row_count; steps++) {
        if (scan->mark_count == MOVE_MARKS_MAX || MOVE_JOBS_MAX - move->job_count <= MOVE_MARKS_MAX)
            break;
        const lwd_placed_t *placed = &scan->rows[scan->row];
        const lwd_range_t *range = &placed->range;
        const lw_segment_name_t name = {.origin = range->origin, .rank = placed->rank, .layer = (uint16_t)scan->layer,
                                        .first_token = range->first_token, .generation = range->generation};
        look_at(move, &name, &range->node_index[scan->layer * range->replicas], range->replicas);
        if (++scan->layer == placed->layers) {
            scan->layer = 0;
            scan->row++;
        }
    }
    if (scan->mark_count == MOVE_MARKS_MAX || (scan->row == scan->row_count && scan->mark_count > 0)) {
        scan->state = MOVE_SCAN_MARKING;
        return 1;
    }
    if (scan->row < scan->row_count)
        return 0;
    if (scan->last_page) {
        scan->state = MOVE_SCAN_ENDING;
        return 1;
    }
    scan->state = MOVE_SCAN_ASKING;
    if (move->params.placed(move->params.arg, &scan->key, LWD_MOVE_PAGE) != LW_OK)
        scan_reset(move, move->now_us + MOVE_RETRY_US);
    return 1;
}

static unsigned take_page(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    pthread_mutex_lock(&move->lock);
    bool waits = move->page_waits;
    lw_status_t status = move->page_status;
    scan->row_count = waits && status == LW_OK ? move->page_count : 0;
    if (scan->row_count > 0)
        memcpy(scan->rows, move->page, scan->row_count * sizeof(*scan->rows));
    move->page_waits = false;
    pthread_mutex_unlock(&move->lock);
    if (!waits)
        return 0;
    if (status != LW_OK) {
        lwd_move_failed(move, "the manifests cannot be read: %s", lw_status_text(status));
        scan_reset(move, move->now_us + MOVE_RETRY_US);
        return 1;
    }
    scan->row = scan->layer = 0;
    scan->last_page = scan->row_count < LWD_MOVE_PAGE;
    if (scan->row_count > 0) {
        const lwd_placed_t *last = &scan->rows[scan->row_count - 1];
        scan->key = (lwd_placed_key_t){last->range.origin, last->rank, last->range.first_token};
    }
    scan->state = MOVE_SCAN_ROWS;
    return 1;
}

static void scan_end(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    lwd_stats_t *stats = move->params.stats;
    if (scan->lost > 0)
        lwd_move_failed(move, "%llu segments have no copy on a living node", (unsigned long long)scan->lost);
    lw_count(&stats->scans, 1);
    lw_gauge(&stats->segments_placed, scan->placed);
    lw_gauge(&stats->segments_degraded, scan->degraded);
    lw_gauge(&stats->segments_lost, scan->lost);
    bool leaving = move->plan.known && move->plan.state[move->plan.own] == LW_NODE_DRAINING;
    pthread_mutex_lock(&move->lock);
    move->status.scans++;
    move->status.empty_scans = leaving && scan->placed == 0 ? move->status.empty_scans + 1 : 0;
    move->status.placed = scan->placed;
    move->status.degraded = scan->degraded;
    move->status.lost = scan->lost;
    pthread_mutex_unlock(&move->lock);
    scan_reset(move, move->now_us + (leaving || scan->found > 0 ? MOVE_AGAIN_US : move->limits.scan_us));
}

/* A scan is due: at its time, and not while the last one's jobs are there. */
static bool scan_due(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    if (!move->plan.known || !move->token_known || move->plan.view.node_count < 2 || move->job_count > 0)
        return false;
    if (scan->failed > 0) { /* what has failed is looked for again, soon at first */
        scan->failed = 0;
        scan->retries = true;
        move->retry_us = lw_min_u64(lw_max_u64(2 * move->retry_us, MOVE_RETRY_US),
                                    lw_max_u64(move->limits.scan_us, MOVE_RETRY_US));
        scan->next_us = move->now_us + move->retry_us;
    }
    return move->now_us >= scan->next_us;
}

unsigned lwd_scan_step(lwd_move_t *move)
{
    move_scan_t *scan = &move->scan;
    switch (scan->state) {
    case MOVE_SCAN_IDLE:
        if (!scan_due(move))
            return 0;
        scan_begin(move);
        return 1;
    case MOVE_SCAN_ASKING: return take_page(move);
    case MOVE_SCAN_ROWS: return scan_rows(move);
    case MOVE_SCAN_MARKING:
        if (!scan_submit(move, run_marks))
            return 0;
        take_marks(move);
        scan->state = MOVE_SCAN_ROWS;
        return 1;
    case MOVE_SCAN_ENDING:
        if (!scan_submit(move, run_scanned))
            return 0;
        scan_end(move);
        return 1;
    }
    return 0;
}
