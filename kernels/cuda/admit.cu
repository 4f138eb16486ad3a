/* admit.cu - once a step, after its last layer: releases tickets in order, keeps in pages what was wanted twice, and makes room
 * for it. Between two selects the only op that changes a placement.
 *
 * Grid: one block of ADMIT_THREADS on each processor, all resident, in phases with barriers between them: which tickets have
 * arrived; what each wants (a plan, with prefix sums of pages, so that pages are given in ticket order); victims, if pages are
 * short; copies, a warp for each record. Nothing to release costs one look at two pinned numbers.
 *
 * Victims: the pages from the hand on are cut into windows of one warp's size; in each, the entry whose stamp is oldest goes,
 * unless this step wanted it. An entry stands for its first page only, so no two windows want the same one. Close to LRU, and
 * the same whatever the number of blocks but for where the hand stops.
 *
 * Bytes: 16 a ticket, each kept record once from pinned memory (the floor: 50 GB/s of host link) and once to the pages. */
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/place.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/select_work.h"

#if defined(__CUDACC__)
#define ADMIT_THREADS 512u
#define ADMIT_PLAN LWK_ADMIT_PLAN_MAX
#else
#define ADMIT_THREADS 64u
#define ADMIT_PLAN 256u
#endif
#define ADMIT_WARPS (ADMIT_THREADS / 32)

typedef struct admit_shared {
    uint64_t scan[ADMIT_WARPS];
    uint64_t head, tail;
    uint64_t before[LWK_SELECT_BLOCKS_MAX]; /* pages wanted by the parts of blocks before each */
    uint64_t wanted;                        /* by all */
    uint32_t first[LWK_ADMIT_VICTIMS_MAX];  /* pages freed by victims before each */
    uint32_t chosen, freed;
} admit_shared_t;

typedef struct admit {
    const lwk_shape_t *shape;
    lwk_store_t *store;
    const lwk_select_work_t *work;
    uint64_t tail, epoch;
    uint32_t count;                      /* tickets of this round */
    uint32_t free_count[2], hand[2];     /* as they will be */
    uint32_t evicted;
} admit_t;

LWK_DEVICE uint32_t admit_worker(void)
{
    return blockIdx.x * ADMIT_THREADS + threadIdx.x;
}
LWK_DEVICE uint32_t admit_workers(void)
{
    return gridDim.x * ADMIT_THREADS;
}
LWK_DEVICE uint32_t admit_lane(void)
{
    return threadIdx.x % 32;
}

/* What any block wrote before is seen by all after. */
LWK_DEVICE void admit_barrier(admit_t *admit)
{
    lwk_select_global_t *global = admit->work->global;
    __syncthreads();
    admit->epoch++;
    if (threadIdx.x == 0)
        lwk_store_release(&global->admit_flag[blockIdx.x], admit->epoch);
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += ADMIT_THREADS)
        while ((int64_t)(lwk_load_acquire(&global->admit_flag[i]) - admit->epoch) < 0)
            lwk_pause();
    __syncthreads();
}

/* ---- what is released, and what it wants ---- */

/* Leaves in the plan where each record landed, and in admit_open the first ticket that has not been answered. */
LWK_DEVICE void find_open(admit_t *admit)
{
    const lwk_store_t *store = admit->store;
    for (uint32_t i = admit_worker(); i < admit->count; i += admit_workers()) {
        uint64_t ticket = admit->tail + i;
        uint64_t arrival = lwk_load_acquire_sys(&store->arrivals[ticket & (store->ticket_capacity - 1)]);
        if (!lwk_has_arrived(arrival, ticket))
            atomicMax(&admit->work->global->admit_open, LWK_ADMIT_PLAN_MAX - i);
        admit->work->plan[i].where = (uint32_t)arrival;
    }
}

/* Takes back the place that a ticket has; pages that its record is to be kept in, 0: none. */
LWK_DEVICE uint32_t release(admit_t *admit, uint64_t number, lwk_admit_plan_t *plan)
{
    lwk_store_t *store = admit->store;
    alignas(16) lwk_ticket_t ticket;
    lwk_copy16(&ticket, &store->tickets[number & (store->ticket_capacity - 1)]);
    const bool failed = plan->where == LWK_LANDING_FAILED;
    if (failed)
        atomicAdd(&admit->work->global->admit_failed, 1u);
    plan->tile = lwk_tile_number(admit->shape, ticket.row, ticket.layer, ticket.head);
    plan->entry = ticket.entry;
    lwk_tile_t *tile = &store->tiles[plan->tile];
    /* After a retire the row may be empty, or hold another range whose entry never heard of this ticket. */
    if (ticket.entry >= lwk_tile_entries(tile))
        return 0;
    uint32_t place = tile->place[ticket.entry];
    if ((place & ~PLACE_ADMIT) != lwk_place(LWK_PLACE_PENDING, (uint32_t)number))
        return 0;
    tile->place[ticket.entry] = lwk_place(LWK_PLACE_REMOTE, 0);
    if (failed || !(place & PLACE_ADMIT))
        return 0;
    const uint32_t which = ticket.entry < tile->cluster_count ? 0 : 1;
    plan->size = lwk_entry_size(tile, ticket.entry);
    uint32_t pages = which == 0 ? lwk_cluster_pages(plan->size) : 1;
    if (pages <= store->pages[which].count)
        return pages;
    atomicAdd(&admit->work->global->admit_refused, 1u);
    return 0;
}

LWK_DEVICE uint32_t plan_class(const admit_t *admit, const lwk_admit_plan_t *plan)
{
    return plan->entry < admit->store->tiles[plan->tile].cluster_count ? 0 : 1;
}

/* This block's part of the plan; its demand. */
LWK_DEVICE void make_plan(admit_t *admit, admit_shared_t *sh)
{
    const uint32_t part = (admit->count + gridDim.x - 1) / gridDim.x;
    const uint32_t first = min(blockIdx.x * part, admit->count), end = min(first + part, admit->count);
    uint64_t demand = 0;
    for (uint32_t at = first; at < end; at += ADMIT_THREADS) {
        uint32_t i = at + threadIdx.x;
        uint64_t wanted = 0, total;
        lwk_admit_plan_t *plan = &admit->work->plan[i];
        if (i < end) {
            plan->pages = release(admit, admit->tail + i, plan);
            plan->block = blockIdx.x;
            if (plan->pages > 0)
                wanted = (uint64_t)plan->pages << (plan_class(admit, plan) == 0 ? 32 : 0);
        }
        uint64_t before = scan_block<ADMIT_WARPS>(sh->scan, wanted, &total);
        if (i < end)
            plan->first = demand + before;
        demand += total;
    }
    if (threadIdx.x == 0)
        admit->work->global->admit_demand[blockIdx.x] = demand;
}

/* What the parts of the plan want before each other: sh->before, and in all. */
LWK_DEVICE void sum_demand(const admit_t *admit, admit_shared_t *sh)
{
    uint64_t carried = 0;
    for (uint32_t at = 0; at < gridDim.x; at += ADMIT_THREADS) {
        uint32_t i = at + threadIdx.x;
        uint64_t total, mine = i < gridDim.x ? __ldcg(&admit->work->global->admit_demand[i]) : 0;
        uint64_t before = scan_block<ADMIT_WARPS>(sh->scan, mine, &total);
        if (i < gridDim.x)
            sh->before[i] = carried + before;
        carried += total;
    }
    if (threadIdx.x == 0)
        sh->wanted = carried;
    __syncthreads();
}

/* ---- room ---- */

/* The victim of window w: of the pages that are the first of their entry, the one whose entry was wanted longest ago. The warp
 * calls. */
LWK_DEVICE lwk_admit_victim_t find_victim(const admit_t *admit, uint32_t which, uint32_t w)
{
    const lwk_page_class_t *pages = &admit->store->pages[which];
    const uint32_t number = w * 32 + admit_lane();
    lwk_admit_victim_t victim = {0, 0, 0, 0};
    uint32_t stamp = UINT32_MAX;
    if (number < pages->count) {
        uint32_t page = (uint32_t)(((uint64_t)admit->hand[which] + number) % pages->count);
        lwk_page_owner_t owner = pages->owner[page];
        if (owner.tile != UINT32_MAX) {
            const lwk_tile_t *tile = &admit->store->tiles[owner.tile];
            uint32_t wanted = tile->stamp[owner.entry];
            if (wanted < admit->store->step && (which == 1 || tile->pages[tile->page_base[owner.entry]] == page)) {
                stamp = wanted;
                victim.tile = owner.tile;
                victim.entry = owner.entry;
                victim.pages = which == 1 ? 1 : lwk_cluster_pages(tile->sizes[owner.entry]);
            }
        }
    }
    uint32_t oldest = __reduce_min_sync(LWK_WARP_ALL, stamp);
    uint32_t lanes = __ballot_sync(LWK_WARP_ALL, oldest != UINT32_MAX && stamp == oldest);
    if (lanes == 0 || admit_lane() != (uint32_t)__ffs((int)lanes) - 1)
        victim.pages = 0;
    return victim; /* of one lane, if any */
}

/* Of the victims found, the first ones that together free `shortage` pages: how many windows that takes, and what they free. */
LWK_DEVICE void choose_victims(const admit_t *admit, admit_shared_t *sh, uint32_t windows, uint32_t shortage)
{
    uint32_t carried = 0;
    if (threadIdx.x == 0) {
        sh->chosen = windows;
        sh->freed = 0;
    }
    __syncthreads();
    for (uint32_t at = 0; at < windows; at += ADMIT_THREADS) {
        uint32_t i = at + threadIdx.x, total, pages = i < windows ? __ldcg(&admit->work->victims[i].pages) : 0;
        uint32_t before = carried + scan_block<ADMIT_WARPS>((uint32_t *)(void *)sh->scan, pages, &total);
        if (i < windows) {
            sh->first[i] = before;
            if (before >= shortage)
                atomicMin(&sh->chosen, i);
            else if (pages > 0)
                atomicMax(&sh->freed, before + pages);
        }
        carried += total;
    }
    __syncthreads();
}

LWK_DEVICE void evict(admit_t *admit, uint32_t which, const lwk_admit_victim_t *victim, uint32_t first)
{
    lwk_page_class_t *pages = &admit->store->pages[which];
    lwk_tile_t *tile = &admit->store->tiles[victim->tile];
    for (uint32_t k = admit_lane(); k < victim->pages; k += 32) {
        uint32_t page = which == 1 ? lwk_place_number(tile->place[victim->entry])
                                   : tile->pages[tile->page_base[victim->entry] + k];
        pages->owner[page].tile = UINT32_MAX;
        pages->free_list[admit->free_count[which] + first + k] = page;
    }
    __syncwarp();
    if (admit_lane() == 0)
        tile->place[victim->entry] = lwk_place(LWK_PLACE_REMOTE, 0);
}

/* Frees pages of a class until `wanted` are free, or nobody is left who may go. All blocks do the same. */
LWK_DEVICE void make_room(admit_t *admit, admit_shared_t *sh, uint32_t which, uint32_t wanted)
{
    const lwk_page_class_t *pages = &admit->store->pages[which];
    const uint32_t warps = gridDim.x * ADMIT_WARPS, warp = blockIdx.x * ADMIT_WARPS + threadIdx.x / 32;
    wanted = min(wanted, pages->count);
    for (uint32_t seen = 0; admit->free_count[which] < wanted && seen < pages->count;) {
        const uint32_t shortage = wanted - admit->free_count[which];
        const uint32_t windows = min(min((pages->count + 31) / 32, LWK_ADMIT_VICTIMS_MAX), shortage);
        for (uint32_t w = warp; w < windows; w += warps) {
            alignas(16) lwk_admit_victim_t victim = find_victim(admit, which, w);
            uint32_t lanes = __ballot_sync(LWK_WARP_ALL, victim.pages > 0);
            if (victim.pages > 0 || (lanes == 0 && admit_lane() == 0))
                lwk_copy16(&admit->work->victims[w], &victim);
        }
        admit_barrier(admit);
        choose_victims(admit, sh, windows, shortage);
        const uint32_t chosen = sh->chosen, freed = sh->freed;
        uint32_t gone = 0;
        for (uint32_t at = 0; at < chosen; at += ADMIT_THREADS) {
            uint32_t i = at + threadIdx.x;
            gone += __syncthreads_count(i < chosen && __ldcg(&admit->work->victims[i].pages) > 0);
        }
        for (uint32_t w = warp; w < chosen; w += warps) {
            alignas(16) lwk_admit_victim_t victim;
            lwk_copy16(&victim, &admit->work->victims[w]);
            if (victim.pages > 0)
                evict(admit, which, &victim, sh->first[w]);
        }
        admit->free_count[which] += freed;
        admit->hand[which] = (uint32_t)(((uint64_t)admit->hand[which] + chosen * 32) % pages->count);
        admit->evicted += gone;
        seen = gone > 0 ? 0 : seen + chosen * 32;
        admit_barrier(admit);
    }
}

/* ---- keeping ---- */

/* Rows of a page: `units` of 16 bytes of K, as many of V. The warp calls. */
LWK_DEVICE void copy_rows(uint8_t *keys_to, const uint8_t *keys, uint8_t *values_to, const uint8_t *values, uint32_t units)
{
    const uint32_t total = 2 * units;
    for (uint32_t at = admit_lane(); at < total; at += 4 * 32) {
        uint4 part[4];
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t i = at + 32 * k;
            if (i < total)
                part[k] = __ldcg((const uint4 *)(const void *)(i < units ? keys : values) + (i < units ? i : i - units));
        }
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t i = at + 32 * k;
            if (i < total)
                ((uint4 *)(void *)(i < units ? keys_to : values_to))[i < units ? i : i - units] = part[k];
        }
    }
}

/* Gives a record its pages, or refuses it when they do not suffice. The warp calls. */
LWK_DEVICE void keep(admit_t *admit, const admit_shared_t *sh, const lwk_admit_plan_t *plan)
{
    lwk_store_t *store = admit->store;
    lwk_select_global_t *global = admit->work->global;
    lwk_tile_t *tile = &store->tiles[plan->tile];
    const uint32_t which = plan_class(admit, plan);
    lwk_page_class_t *pages = &store->pages[which];
    const uint32_t first = (uint32_t)((plan->first + sh->before[plan->block]) >> (which == 0 ? 32 : 0));
    if (first + plan->pages > admit->free_count[which]) {
        if (admit_lane() == 0)
            atomicAdd(&global->admit_refused, 1u);
        return;
    }
    const uint64_t row_bytes = lwk_row_bytes(admit->shape), page_bytes = lwk_page_bytes(admit->shape, pages);
    const uint8_t *record = store->landing + (uint64_t)plan->where * LWK_LANDING_UNIT;
    uint32_t page = 0;
    for (uint32_t k = 0; k < plan->pages; k++) {
        uint32_t row = k * pages->tokens, rows = min(plan->size - row, pages->tokens);
        page = pages->free_list[admit->free_count[which] - 1 - (first + k)];
        uint8_t *to = pages->bytes + page * page_bytes;
        copy_rows(to, record + row * row_bytes, to + pages->tokens * row_bytes, record + (plan->size + row) * row_bytes,
                  (uint32_t)(rows * row_bytes / 16));
        if (admit_lane() == 0) {
            pages->owner[page].tile = plan->tile;
            pages->owner[page].entry = plan->entry;
            if (which == 0)
                tile->pages[tile->page_base[plan->entry] + k] = page;
        }
    }
    if (admit_lane() == 0) {
        tile->place[plan->entry] = lwk_place(LWK_PLACE_CACHED, which == 0 ? 0 : page);
        atomicAdd(&global->admit_kept, 1u);
        atomicMax(&global->admit_used[which], first + plan->pages);
    }
}

LWK_DEVICE void keep_all(admit_t *admit, const admit_shared_t *sh)
{
    for (uint32_t i = blockIdx.x * ADMIT_WARPS + threadIdx.x / 32; i < admit->count; i += gridDim.x * ADMIT_WARPS) {
        lwk_admit_plan_t plan = admit->work->plan[i];
        if (plan.pages > 0)
            keep(admit, sh, &plan);
    }
}

/* ---- the op ---- */

/* One round of at most ADMIT_PLAN tickets; false: an open ticket ends it. */
LWK_DEVICE bool admit_round(admit_t *admit, admit_shared_t *sh)
{
    lwk_select_global_t *global = admit->work->global;
    admit->count = (uint32_t)min(sh->head - admit->tail, (uint64_t)ADMIT_PLAN);
    find_open(admit);
    admit_barrier(admit);
    const uint32_t open = __ldcg(&global->admit_open);
    if (open > 0)
        admit->count = LWK_ADMIT_PLAN_MAX - open;
    if (blockIdx.x == 0 && threadIdx.x < 2)
        global->admit_used[threadIdx.x] = 0;
    make_plan(admit, sh);
    admit_barrier(admit);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        global->admit_open = 0;
    sum_demand(admit, sh);
    make_room(admit, sh, 0, (uint32_t)(sh->wanted >> 32));
    make_room(admit, sh, 1, (uint32_t)sh->wanted);
    keep_all(admit, sh);
    admit_barrier(admit);
    for (uint32_t which = 0; which < 2; which++)
        admit->free_count[which] -= __ldcg(&global->admit_used[which]);
    admit->tail += admit->count;
    return open == 0;
}

/* Block 0, behind the last barrier: what the host and the next step see. */
LWK_DEVICE void finish_admit(const admit_t *admit)
{
    lwk_store_t *store = admit->store;
    lwk_select_global_t *global = admit->work->global;
    volatile lwk_counters_t *counters = store->counters;
    if (blockIdx.x > 0 || threadIdx.x > 0)
        return;
    for (uint32_t which = 0; which < 2; which++) {
        store->pages[which].free_count = admit->free_count[which];
        store->pages[which].hand = admit->hand[which];
    }
    counters->admitted = counters->admitted + __ldcg(&global->admit_kept);
    counters->evicted = counters->evicted + admit->evicted;
    counters->admit_refused = counters->admit_refused + __ldcg(&global->admit_refused);
    counters->tickets_failed = counters->tickets_failed + __ldcg(&global->admit_failed);
    global->admit_kept = global->admit_refused = global->admit_failed = 0;
    global->admit_epoch = admit->epoch;
    __threadfence_system();
    lwk_store_release_sys(store->ticket_tail, admit->tail);
}

/* What the step's selections have counted. One block calls. */
LWK_DEVICE void add_counters(lwk_store_t *store, lwk_select_global_t *global)
{
    const uint32_t words = sizeof(lwk_counters_t) / sizeof(uint64_t);
    if (threadIdx.x >= words)
        return;
    uint64_t *delta = (uint64_t *)&global->delta + threadIdx.x, added = __ldcg(delta);
    if (added > 0)
        atomicAdd((uint64_t *)store->counters + threadIdx.x, added);
    *delta = 0;
}

LWK_KERNEL(ADMIT_THREADS, 1) void admit_kernel(LWK_ARGS(lwk_shape_t) shape, lwk_store_t *store, LWK_ARGS(lwk_select_work_t) work)
{
    LWK_SHARED(admit_shared_t, sh);
    if (blockIdx.x == 0)
        add_counters(store, work.global);
    if (threadIdx.x == 0) {
        sh->head = *(volatile uint64_t *)store->ticket_head;
        sh->tail = *(volatile uint64_t *)store->ticket_tail;
    }
    __syncthreads();
    if (sh->head == sh->tail)
        return;
    admit_t admit;
    admit.shape = &shape;
    admit.store = store;
    admit.work = &work;
    admit.tail = sh->tail;
    admit.epoch = __ldcg(&work.global->admit_epoch);
    admit.evicted = 0;
    for (uint32_t which = 0; which < 2; which++) {
        admit.free_count[which] = store->pages[which].free_count;
        admit.hand[which] = store->pages[which].hand;
    }
    while (admit.tail < sh->head && admit_round(&admit, sh))
        ;
    finish_admit(&admit);
}

/* One block, behind admit: how the step ended for each session, then that it has. Two words of pinned memory a session. */
LWK_KERNEL(LW_BATCH_MAX, 1) void outcomes_kernel(lwk_store_t *store, const lwk_session_t *sessions, const uint32_t *slots, uint32_t count)
{
    const uint32_t step = store->step;
    uint64_t *row = store->outcomes;
    if (row == NULL || store->step_done == NULL)
        return;
    row += (uint64_t)(step % LWK_OUTCOME_STEPS) * store->session_capacity;
    if (threadIdx.x < count && slots[threadIdx.x] != LWK_SLOT_NONE)
        *(volatile uint64_t *)&row[slots[threadIdx.x]] = lwk_outcome(step, sessions[slots[threadIdx.x]].error);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0)
        lwk_store_release_sys(store->step_done, step);
}

static lw_status_t tell_outcomes(const lwk_step_t *step, cudaStream_t stream)
{
    if (step->layer + 1 < step->shape.layer_count)
        return LW_OK;
    return lwk_launch("outcomes", outcomes_kernel, dim3(1), LW_BATCH_MAX, 0, stream, step->store, step->sessions,
                      step->slots, step->session_count);
}

lw_status_t lwk_cuda_admit(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    lwk_select_work_t work;
    uint64_t needed = lwk_cuda_select_carve(&step->shape, step->session_count, step->query_tokens,
                                            step->scratch.entry_capacity, step->scratch.workspace, &work);
    if (step->scratch.workspace == NULL || step->scratch.workspace_bytes < needed)
        return LW_ERR_INVALID;
    uint32_t resident = lwk_resident_blocks(admit_kernel, ADMIT_THREADS, sizeof(admit_shared_t));
    if (resident == 0)
        return LW_ERR_DEVICE;
    /* More than one block a processor would only make barriers slower. */
    uint32_t blocks = min(resident, LWK_SELECT_BLOCKS_MAX);
    status = lwk_launch_resident("admit", admit_kernel, dim3(blocks), ADMIT_THREADS, sizeof(admit_shared_t),
                                 (cudaStream_t)stream, step->shape, step->store, work);
    return status == LW_OK ? tell_outcomes(step, (cudaStream_t)stream) : status;
}
