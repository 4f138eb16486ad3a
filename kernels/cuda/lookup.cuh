/* lookup.cuh - the second half of select: from cuts to marks, items, stamps, tickets, counters and the doorbell. The only place
 * that issues tickets, and between two admits the only one that changes a placement.
 *
 * An entry that several sessions of a batch want at once gets one ticket: who moves its place from REMOTE to BEING_ISSUED by
 * compare-and-swap numbers it; the others wait until the number stands there. Numbers come from one counter of the launch, a
 * block's at once and in slot order; blocks may come in any order. That a touch asks for admission is a bit of the place
 * (PLACE_ADMIT), because the ring is the host's memory and its tickets may be under way. What finds no ticket is estimated, and
 * leaves an item that is neither CACHED nor PENDING. */
#ifndef LWK_CUDA_LOOKUP_CUH
#define LWK_CUDA_LOOKUP_CUH

#include "kernels/cuda/cut.cuh"
#include "kernels/cuda/place.cuh"

enum { COUNT_HITS, COUNT_HIT_TOKENS, COUNT_MISSES, COUNT_MISS_TOKENS, COUNT_PENDING, COUNT_PENDING_TOKENS, COUNT_REFUSED, COUNTS };

/* Marks all entries of the slice and lists the retrieved ones: sh->offset[w]: how many lie in the parts of warps before w.
 * Returns how many there are. Each warp has one part of the slice, so that the list is in slot order. */
LWK_DEVICE uint32_t lookup_mark(const select_job_t *job, select_shared_t *sh, uint8_t *mark, const cut_t *retrieve,
                                const cut_t *estimate)
{
    const select_slice_t own = job->own;
    const uint32_t part = (job->slots / SELECT_WARPS + 31) / 32 * 32, lane = select_lane();
    const uint32_t first = own.first + select_warp() * part, end = min(first + part, own.end);
    uint32_t count = 0;
#pragma unroll 1
    for (uint32_t at = first; at < end; at += 32) {
        uint32_t slot = at + lane;
        uint64_t rank = slot < end ? select_rank(select_key(&own, sh, slot), slot) : 0;
        bool entry = rank >= SELECT_FIRST_RANK, taken = entry && rank >= retrieve->from;
        if (slot < end)
            mark[slot] = taken ? LWK_MARK_RETRIEVE : entry && rank >= estimate->from ? LWK_MARK_ESTIMATE : LWK_MARK_DROP;
        count += __popc(__ballot_sync(LWK_WARP_ALL, taken));
    }
    if (lane == 0)
        sh->offset[select_warp()] = count;
    __syncthreads();
    uint32_t inclusive = lane < SELECT_WARPS ? sh->offset[lane] : 0;
#pragma unroll 1
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t x = __shfl_up_sync(LWK_WARP_ALL, inclusive, step);
        if (lane >= step)
            inclusive += x;
    }
    uint32_t total = __shfl_sync(LWK_WARP_ALL, inclusive, 31);
    __syncthreads();
    if (lane == select_warp())
        sh->offset[lane] = inclusive - count;
    __syncthreads();
    return total;
}

/* Retrieved entries number `from`.. of the slice, as many as the list holds. */
LWK_DEVICE void lookup_list(const select_job_t *job, select_shared_t *sh, const cut_t *retrieve, uint32_t from)
{
    const select_slice_t own = job->own;
    const uint32_t part = (job->slots / SELECT_WARPS + 31) / 32 * 32, lane = select_lane();
    const uint32_t first = own.first + select_warp() * part, end = min(first + part, own.end);
    uint32_t number = sh->offset[select_warp()];
    __syncthreads(); /* the list lies where candidates were, or the list before it */
#pragma unroll 1
    for (uint32_t at = first; at < end; at += 32) {
        uint32_t slot = at + lane;
        uint64_t rank = slot < end ? select_rank(select_key(&own, sh, slot), slot) : 0;
        bool taken = rank >= SELECT_FIRST_RANK && rank >= retrieve->from;
        uint32_t lanes = __ballot_sync(LWK_WARP_ALL, taken), to = number + __popc(lanes & ((1u << lane) - 1)) - from;
        if (taken && to < SELECT_LIST)
            sh->list[to] = slot;
        number += __popc(lanes);
    }
    __syncthreads();
}

typedef struct lookup {
    const select_job_t *job;
    lwk_store_t *store;
    lwk_tile_t *tile;
    uint32_t range, entry, size;
    uint32_t *place_at, *stamp_at;
    uint32_t place;  /* REMOTE 0: no ticket */
    uint32_t admit;  /* LWK_TICKET_ADMIT or 0 */
} lookup_t;

LWK_DEVICE lookup_t lookup_open(const select_job_t *job, select_shared_t *sh, uint32_t slot)
{
    lookup_t look;
    const lwk_step_t *step = job->step;
    look.job = job;
    look.store = step->store;
    look.size = select_size(&job->own, sh, slot);
    uint32_t open_end = sh->range_count == 0 ? 0 : sh->range[sh->range_count - 1].base;
    /* All ranges of most slices are open still; the last open one may end anywhere. */
    if (sh->range_count > 0 && slot >= sh->range[0].base && (slot < open_end || select_all_open(job, sh))) {
        uint32_t open = select_open_range_of(sh, slot);
        look.range = sh->range_first + open;
        look.tile = (lwk_tile_t *)sh->range[open].tile;
        look.entry = slot - sh->range[open].base;
        look.place_at = sh->range[open].place + look.entry;
        look.stamp_at = sh->range[open].stamp + look.entry;
        return look;
    }
    look.range = select_range_of(job, slot);
    lwk_range_ref_t ref = job->session->ranges[look.range];
    look.tile = &look.store->tiles[lwk_tile_number(&step->shape, ref.row, step->layer, job->head)];
    look.entry = slot - ref.entry_base;
    look.place_at = look.tile->place + look.entry;
    look.stamp_at = look.tile->stamp + look.entry;
    return look;
}

/* Stamps the entry; says whether it was wanted within the window before. A touch by another session in this very step
 * counts. */
LWK_DEVICE uint32_t lookup_touch(const lookup_t *look, const select_shared_t *sh)
{
    if (look->job->step->flags & LWK_STEP_PREFETCH)
        return 0;
    uint32_t now = sh->now, stamp = atomicExch(look->stamp_at, now), window = sh->window;
    return window == 0 || (stamp != 0 && now - stamp <= window) ? LWK_TICKET_ADMIT : 0;
}

/* Writes ticket `index` of this launch; false: the ring has no room for it. */
LWK_DEVICE bool lookup_issue(lookup_t *look, const select_shared_t *sh, uint32_t index)
{
    lwk_store_t *store = look->store;
    const lwk_step_t *step = look->job->step;
    uint64_t ticket = sh->head + index;
    if (ticket - sh->tail >= store->ticket_capacity) {
        atomicExch(look->place_at, lwk_place(LWK_PLACE_REMOTE, 0));
        look->place = lwk_place(LWK_PLACE_REMOTE, 0);
        return false;
    }
    uint32_t at = (uint32_t)ticket & (store->ticket_capacity - 1);
    bool local = look->tile->local != 0;
    alignas(16) lwk_ticket_t t = {look->job->session->ranges[look->range].row, (uint16_t)step->layer, (uint16_t)look->job->head, (uint16_t)look->entry, (uint16_t)look->size,
                      look->admit | (step->flags & LWK_STEP_PREFETCH ? LWK_TICKET_PREFETCH : 0) |
                          (local ? LWK_TICKET_LOCAL : 0)};
    lwk_copy16(&store->tickets[at], &t);
    if (local)
        store->arrivals[at] = lwk_arrival(ticket, lwk_local_record(&step->shape, look->tile, look->entry));
    look->place = lwk_place(LWK_PLACE_PENDING, (uint32_t)ticket);
    atomicExch(look->place_at, look->place | (look->admit ? PLACE_ADMIT : 0));
    return true;
}

/* The place of an entry that this thread did not move, when nobody is issuing it any more. */
LWK_DEVICE uint32_t lookup_settled(const lookup_t *look, uint32_t place)
{
    while (place == PLACE_BEING_ISSUED) {
        lwk_pause();
        place = lwk_load_acquire(look->place_at);
    }
    return place;
}

LWK_DEVICE void lookup_found(lookup_t *look, uint32_t place, uint32_t counted[COUNTS])
{
    if (place_kind(place) == LWK_PLACE_CACHED) {
        counted[COUNT_HITS]++;
        counted[COUNT_HIT_TOKENS] += look->size;
    } else if (place_kind(place) == LWK_PLACE_PENDING) {
        if (look->admit)
            atomicOr(look->place_at, PLACE_ADMIT);
        counted[COUNT_PENDING]++;
        counted[COUNT_PENDING_TOKENS] += look->size;
    }
    look->place = place_plain(place);
}

/* One round: the thread's entry of the list, if it has one. The block calls. */
LWK_DEVICE void lookup_round(const select_job_t *job, select_shared_t *sh, lwk_select_global_t *global, uint8_t *mark,
                             lwk_item_t *items, uint32_t number, bool valid, uint32_t slot, uint32_t counted[COUNTS])
{
    lookup_t look = {};
    uint32_t old = 0;
    if (valid) {
        look = lookup_open(job, sh, slot);
        old = atomicCAS(look.place_at, lwk_place(LWK_PLACE_REMOTE, 0), PLACE_BEING_ISSUED);
        look.admit = lookup_touch(&look, sh);
    }
    bool mine = valid && old == lwk_place(LWK_PLACE_REMOTE, 0);
    uint32_t total, index = select_scan<uint32_t>(sh, mine ? 1u : 0u, &total);
    if (total > 0) {
        if (threadIdx.x == 0) {
            sh->ticket_base = atomicAdd(&global->issued, total);
            sh->issued_any = 1;
        }
        __syncthreads();
        if (mine && lookup_issue(&look, sh, sh->ticket_base + index)) {
            counted[COUNT_MISSES]++;
            counted[COUNT_MISS_TOKENS] += look.size;
        }
        __syncthreads(); /* so that no thread of this warp waits for one that has not issued */
    }
    if (!valid)
        return;
    if (!mine)
        lookup_found(&look, lookup_settled(&look, old), counted);
    if (look.place == lwk_place(LWK_PLACE_REMOTE, 0)) {
        counted[COUNT_REFUSED]++;
        mark[slot] = LWK_MARK_ESTIMATE;
        if (!(job->step->flags & LWK_STEP_PREFETCH))
            atomicCAS((uint32_t *)&job->session->error, 0u, (uint32_t)LW_ERR_EXHAUSTED);
    }
    if (!(job->step->flags & LWK_STEP_PREFETCH)) {
        alignas(16) lwk_item_t item = {look.range, (uint16_t)look.entry, (uint16_t)look.size, look.place, 0};
        lwk_copy16(&items[number], &item);
    }
}

/* Looks up all retrieved entries of the slice; the first one is item `before` of the job. */
LWK_DEVICE void lookup_all(const select_job_t *job, select_shared_t *sh, lwk_select_global_t *global, uint8_t *mark,
                           const cut_t *retrieve, uint32_t before, uint32_t count, uint32_t counted[COUNTS])
{
    const lwk_scratch_t *scratch = &job->step->scratch;
    lwk_item_t *items = scratch->items + lwk_kv_row(job->step, job->s, job->head) * scratch->item_capacity;
#pragma unroll 1
    for (uint32_t from = 0; from < count; from += SELECT_LIST) {
        uint32_t listed = min(count - from, SELECT_LIST);
        lookup_list(job, sh, retrieve, from);
#pragma unroll 1
        for (uint32_t at = 0; at < listed; at += SELECT_THREADS) {
            uint32_t i = at + threadIdx.x;
            bool valid = i < listed;
            lookup_round(job, sh, global, mark, items, before + from + i, valid, valid ? sh->list[i] : 0, counted);
        }
    }
}

/* ---- counters ---- */

LWK_DEVICE void lookup_add(uint64_t *counter, uint32_t n)
{
    if (n > 0)
        atomicAdd(counter, (uint64_t)n);
}

/* What the job adds; all blocks of it call. indexed, estimated: entries, for block 0 to add. */
LWK_DEVICE void lookup_count(const select_job_t *job, select_shared_t *sh, lwk_select_global_t *global,
                             const uint32_t counted[COUNTS], const cut_t *retrieve, uint32_t indexed, uint32_t estimated,
                             bool was_cut)
{
    lwk_counters_t *delta = &global->delta;
    if (threadIdx.x < COUNTS)
        sh->count[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < COUNTS; i++) {
        uint32_t sum = __reduce_add_sync(LWK_WARP_ALL, counted[i]);
        if (select_lane() == 0 && sum > 0)
            atomicAdd(&sh->count[i], sum);
    }
    __syncthreads();
    if (threadIdx.x == 0 && job->block == 0)
        job->step->scratch.item_count[lwk_kv_row(job->step, job->s, job->head)] =
            job->step->flags & LWK_STEP_PREFETCH ? 0 : retrieve->entries;
    if (threadIdx.x == 0 && !(job->step->flags & LWK_STEP_PREFETCH)) {
        const uint32_t *n = sh->count;
        lookup_add(&delta->hits, n[COUNT_HITS]);
        lookup_add(&delta->misses, n[COUNT_MISSES]);
        lookup_add(&delta->pending, n[COUNT_PENDING]);
        lookup_add(&delta->hit_tokens, n[COUNT_HIT_TOKENS]);
        lookup_add(&delta->miss_tokens, n[COUNT_MISS_TOKENS]);
        lookup_add(&delta->pending_tokens, n[COUNT_PENDING_TOKENS]);
        lookup_add(&delta->entries_retrieved, n[COUNT_HITS] + n[COUNT_MISSES] + n[COUNT_PENDING]);
        lookup_add(&delta->tokens_retrieved, n[COUNT_HIT_TOKENS] + n[COUNT_MISS_TOKENS] + n[COUNT_PENDING_TOKENS]);
        lookup_add(&delta->entries_estimated, n[COUNT_REFUSED]);
        if (job->block == 0) {
            lookup_add(&delta->head_steps, 1);
            lookup_add(&delta->entries_indexed, indexed);
            lookup_add(&delta->entries_estimated, estimated);
            lookup_add(&delta->tokens_indexed, job->indexed);
            lookup_add(&delta->tokens_steady, lwk_steady_count(job->session));
            lookup_add(&delta->selections_cut, was_cut);
        }
    }
}

/* ---- the end of the launch ---- */

/* Rings the doorbell: the block that comes last. All blocks call. */
LWK_DEVICE void lookup_end(const lwk_step_t *step, select_shared_t *sh, lwk_select_global_t *global)
{
    const lwk_store_t *store = step->store;
    __syncthreads();
    if (threadIdx.x == 0) {
        if (sh->issued_any)
            __threadfence_system(); /* the tickets of all threads of the block, before the doorbell */
        else
            __threadfence();
        sh->count[0] = atomicAdd(&global->done, 1u) + 1 == gridDim.x;
    }
    __syncthreads();
    if (sh->count[0] == 0)
        return;
    __threadfence();
    if (threadIdx.x == SELECT_THREADS - 1) {
        uint64_t issued = __ldcg(&global->issued), room = store->ticket_capacity - (sh->head - sh->tail);
        if (issued > room)
            issued = room;
        if (issued > 0)
            lwk_store_release_sys(store->ticket_head, sh->head + issued);
        global->issued = 0;
        global->done = 0;
        global->launches++;
    }
}

#endif /* LWK_CUDA_LOOKUP_CUH */
