/* select.cu - which entries are attended exactly, and where they are: votes, budgets, lookup, tickets and the doorbell in one
 * launch (ALGORITHM.md sections 4 and 6; the exact order is in ops.h).
 *
 * Grid: for each (session, KV head) as many blocks of SELECT_THREADS as the device has processors for, at most
 * LWK_SELECT_SPLIT_MAX; all of them resident, because they wait for each other. How many work follows from the session's length
 * (one for each SELECT_SLICE_MIN slots), so a captured launch serves every length. Where there are more jobs than processors,
 * each block takes one after the other, alone. The result does not depend on how many blocks there are.
 *
 * Floor: the logits once (votes.cuh says how many bytes), and latencies one after the other: normalisers, votes, two barriers
 * (about a microsecond each; none where one block is enough), two or three histograms, place, ticket number, doorbell. */
#include "kernels/cuda/errors.cuh"
#include "kernels/cuda/lookup.cuh"

/* ---- workspace ---- */

static uint8_t *carve(uint8_t *memory, uint64_t *at, uint64_t bytes)
{
    uint64_t offset = *at;
    *at = (offset + bytes + 255) & ~(uint64_t)255;
    return memory != NULL ? memory + offset : NULL;
}

uint64_t lwk_cuda_select_carve(const lwk_shape_t *shape, uint32_t sessions, uint32_t query_tokens, uint32_t entry_capacity,
                               void *workspace, lwk_select_work_t *work_out)
{
    uint8_t *memory = (uint8_t *)workspace;
    uint64_t at = 0, jobs = (uint64_t)sessions * shape->kv_head_count;
    uint64_t split_jobs = jobs < LWK_SELECT_JOBS_MAX ? jobs : LWK_SELECT_JOBS_MAX;
    uint64_t candidates = 2ull * LWK_SELECT_BLOCKS_MAX * LWK_SELECT_CANDIDATES_MAX;
    lwk_select_work_t work;
    work.global = (lwk_select_global_t *)carve(memory, &at, sizeof(lwk_select_global_t));
    work.states = (lwk_select_state_t *)carve(memory, &at, LWK_SELECT_JOBS_MAX * sizeof(lwk_select_state_t));
    work.candidate_rank = (uint64_t *)carve(memory, &at, candidates * sizeof(uint64_t));
    work.candidate_size = (uint16_t *)carve(memory, &at, candidates * sizeof(uint16_t));
    work.plan = (lwk_admit_plan_t *)carve(memory, &at, LWK_ADMIT_PLAN_MAX * sizeof(lwk_admit_plan_t));
    work.victims = (lwk_admit_victim_t *)carve(memory, &at, LWK_ADMIT_VICTIMS_MAX * sizeof(lwk_admit_victim_t));
    work.buffers = (lwk_select_buffers_t *)carve(memory, &at, split_jobs * sizeof(lwk_select_buffers_t));
    work.key = (uint32_t *)carve(memory, &at, jobs * entry_capacity * sizeof(uint32_t));
    work.size = (uint16_t *)carve(memory, &at, jobs * entry_capacity * sizeof(uint16_t));
    if (work_out != NULL)
        *work_out = work;
    return at;
}

/* ---- one job ---- */

/* Digits: as many bins as the sums have room for. Votes are at most the number of queries; errors for a token at most
 * e^LWK_VARIANCE_MAX. What is smaller than the bins reach shares the lowest one. */
LWK_DEVICE void set_digits(select_job_t *job, bool by_error)
{
    job->bits = SELECT_BIN_BITS;
    while (by_error && (job->queries << job->bits) > SELECT_SUMS)
        job->bits--;
    uint32_t coarser = SELECT_BIN_BITS - job->bits, top = by_error ? 19 : 8; /* 2^top: above all keys */
    job->key_shift = 18 + coarser; /* 32 bins an octave */
    job->key_base = (((127 + top) << 5) - SELECT_BINS) >> coarser;
}

/* Thread 0: fills in the job; false: this block has no part in it. All loads come before the first store. */
LWK_DEVICE bool open_job(select_job_t *job, const lwk_step_t *step, const lwk_select_work_t *work, uint32_t number,
                         uint32_t split)
{
    const uint64_t launches = __ldcg(&work->global->launches);
    const uint32_t heads = step->shape.kv_head_count, block = blockIdx.x % split;
    lwk_session_t *session = lwk_step_session(step, number / heads);
    if (session == NULL)
        return false;
    const lwk_policy_t policy = session->policy;
    const uint32_t entries = session->entry_count, ranges = session->range_count, indexed = lwk_indexed_tokens(session);
    const uint32_t blocks = min(max((entries + SELECT_SLICE_MIN - 1) / SELECT_SLICE_MIN, 1u), split);
    const size_t capacity = step->scratch.entry_capacity;
    if (block >= blocks)
        return false;
    job->step = step;
    job->session = session;
    job->policy = policy;
    job->indexed = indexed;
    job->number = number;
    job->s = number / heads;
    job->head = number % heads;
    job->block = block;
    job->blocks = blocks;
    job->entry_count = entries;
    job->range_count = ranges;
    job->queries = step->query_tokens * step->shape.group;
    job->slots = (entries + blocks * SELECT_CHUNK - 1) / (blocks * SELECT_CHUNK) * SELECT_CHUNK;
    job->own.first = min(block * job->slots, entries);
    job->own.end = min(job->own.first + job->slots, entries);
    job->own.key = work->key + number * capacity;
    job->own.size = work->size + number * capacity;
    job->state = blocks > 1 ? &work->states[number] : NULL;
    job->buffers = blocks > 1 ? &work->buffers[number] : NULL;
    job->epoch = launches << 8;
    job->stale = -1;
    set_digits(job, policy.budget == LWK_BUDGET_ERROR);
    return true;
}

/* What later levels add to begins at zero. They begin behind the first barrier, whose histogram was left zero. */
LWK_DEVICE void zero_buffers(const select_job_t *job, bool by_error)
{
    if (job->blocks == 1)
        return;
    const uint32_t worker = job->block * SELECT_THREADS + threadIdx.x, workers = job->blocks * SELECT_THREADS;
    uint4 *hist = (uint4 *)job->buffers->hist, *sums = (uint4 *)job->buffers->sums;
#pragma unroll 1
    for (uint32_t i = worker; i < (sizeof job->buffers->hist) / (sizeof(uint4)); i += workers)
        hist[i] = make_uint4(0, 0, 0, 0);
    if (by_error)
#pragma unroll 1
        for (uint32_t i = worker; i < (sizeof job->buffers->sums) / (sizeof(uint4)); i += workers)
            sums[i] = make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (uint32_t q = worker; by_error && q < job->queries; q += workers)
        job->buffers->rest[q] = 0;
}

LWK_DEVICE cut_limit_t retrieve_limit(const select_job_t *job)
{
    const lwk_policy_t *policy = &job->policy;
    const uint64_t n = job->indexed, capacity = job->step->scratch.item_capacity;
    cut_limit_t limit = {capacity, 0, UINT64_MAX, 0};
    if (policy->budget == LWK_BUDGET_ERROR) {
        double accuracy = policy->accuracy_ppm / 1e6;
        limit.least = policy->floor_entries;
        limit.tokens_ppm = policy->cap_ppm * n;
        limit.target = (uint64_t)(accuracy * accuracy * 0x1p40 + 0.5);
    } else if (policy->retrieve_ppm >= 1000000) {
        /* everything */
    } else if (policy->budget == LWK_BUDGET_TOKENS) {
        limit.tokens_ppm = policy->retrieve_ppm * n;
    } else {
        uint64_t clusters = lwk_budget_clusters(policy->retrieve_ppm, n, policy->cluster_tokens);
        limit.most = min(limit.most, clusters);
    }
    return limit;
}

LWK_DEVICE cut_limit_t estimate_limit(const select_job_t *job)
{
    const lwk_policy_t *policy = &job->policy;
    const uint64_t n = job->indexed;
    cut_limit_t limit = {UINT64_MAX, 0, UINT64_MAX, 0};
    if (policy->budget == LWK_BUDGET_CLUSTERS)
        limit.most = lwk_budget_clusters(policy->estimate_ppm, n, policy->cluster_tokens);
    else
        limit.tokens_ppm = policy->estimate_ppm * n;
    return limit;
}

/* Whether the item capacity ended the selection before its budget did. */
LWK_DEVICE bool was_cut(const select_job_t *job, const cut_limit_t *limit, const cut_t *retrieve, uint32_t all)
{
    const lwk_policy_t *policy = &job->policy;
    if (retrieve->entries < job->step->scratch.item_capacity || retrieve->entries == all)
        return false;
    cut_limit_t open = *limit;
    open.most = UINT64_MAX;
    if (policy->budget == LWK_BUDGET_CLUSTERS && policy->retrieve_ppm < 1000000)
        open.most = lwk_budget_clusters(policy->retrieve_ppm, job->indexed, policy->cluster_tokens);
    return cut_wants_more(&open, retrieve->entries, retrieve->tokens, retrieve->not_small);
}

/* Retrieved entries in slices before this one, where no gathering has told. `mine`: of this slice. */
LWK_DEVICE uint32_t count_before(select_job_t *job, select_shared_t *sh, const cut_t *retrieve, uint32_t mine, uint32_t before)
{
    if (job->blocks == 1)
        return 0;
    if (retrieve->gathered)
        return before;
    if (threadIdx.x == 0)
        job->buffers->retrieved[job->block] = mine;
    select_barrier(job);
    uint32_t count = select_lane() < job->block ? __ldcg(&job->buffers->retrieved[select_lane()]) : 0;
    return __reduce_add_sync(LWK_WARP_ALL, count);
}

LWK_DEVICE void drop_all(const select_job_t *job, uint8_t *mark)
{
#pragma unroll 1
    for (uint32_t slot = job->own.first + threadIdx.x; slot < job->own.end; slot += SELECT_THREADS)
        mark[slot] = LWK_MARK_DROP;
}

LWK_DEVICE void select_one(select_job_t *job, select_shared_t *sh, const lwk_select_work_t *work)
{
    const lwk_policy_t *policy = &job->policy;
    const lwk_scratch_t *scratch = &job->step->scratch;
    const bool by_error = policy->budget == LWK_BUDGET_ERROR;
    uint8_t *mark = scratch->mark + lwk_kv_row(job->step, job->s, job->head) * scratch->entry_capacity;
    uint32_t counted[COUNTS] = {0};
    const cut_t none = {SELECT_NO_RANK, 0, 0, false, true};
    if (policy->steady_only) {
        drop_all(job, mark);
        lookup_count(job, sh, work->global, counted, &none, 0, 0, false);
        return;
    }
    zero_buffers(job, by_error);
    votes_open_queries(job, sh);
    cut_zero(job, sh, &sh->first, false);
    if (by_error) {
        errors_all(job, sh, retrieve_limit(job));
    } else {
        votes_all(job, sh);
        cut_share(job, sh, &sh->first, 0, false);
    }
    const uint32_t all = cut_count_all(job, sh);
    cut_t retrieve = none, estimate = {SELECT_FIRST_RANK, all, 0, false, true};
    uint32_t before = 0;
    bool ended_early = false;
#pragma unroll 1
    for (uint32_t turn = 0; turn < (policy->estimate_ppm < 1000000 ? 2u : 1u); turn++) {
        const cut_limit_t limit = turn == 0 ? retrieve_limit(job) : estimate_limit(job);
        const cut_t cut = cut_find(job, sh, work, &limit, turn == 0 ? &none : &retrieve, turn);
        if (turn == 0) {
            retrieve = cut;
            before = sh->before;
            ended_early = was_cut(job, &limit, &cut, all);
        } else {
            estimate = cut;
        }
    }
    uint32_t mine = lookup_mark(job, sh, mark, &retrieve, &estimate);
    uint32_t first_item = count_before(job, sh, &retrieve, mine, before);
    lookup_all(job, sh, work->global, mark, &retrieve, first_item, mine, counted);
    lookup_count(job, sh, work->global, counted, &retrieve, all, estimate.entries - retrieve.entries, ended_early);
    if (job->stale >= 0)
        select_barrier(job); /* a histogram is left, and all have read it */
}

/* Opens a job and the first ranges of its slice: nothing that the launches of this layer write. The block calls. */
LWK_CALLED void begin_job(select_shared_t *sh, const lwk_step_t *step, const lwk_select_work_t *work, uint32_t number,
                          uint32_t split)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        sh->range_count = 0;
        sh->has_part = open_job(&sh->job, step, work, number, split);
    }
    __syncthreads();
    const select_job_t *job = &sh->job;
    if (!sh->has_part || job->own.first >= job->own.end || job->policy.steady_only ||
        job->policy.budget == LWK_BUDGET_ERROR)
        return;
    (void)votes_open_ranges(job, sh, select_find_range(job, job->own.first), SELECT_RANGES);
}

LWK_KERNEL(SELECT_THREADS, 1) void select_kernel(LWK_ARGS(lwk_step_t) step, LWK_ARGS(lwk_select_work_t) work, uint32_t split)
{
    LWK_SHARED(select_shared_t, sh);
    const uint32_t jobs = step.session_count * step.shape.kv_head_count;
    if (threadIdx.x == 0)
        sh->issued_any = 0;
    uint32_t number = blockIdx.x / split;
    if (number < jobs)
        begin_job(sh, &step, &work, number, split);
    lwk_wait_before();
    lwk_let_next();
    if (threadIdx.x == SELECT_THREADS - 1) {
        sh->head = __ldcg(&work.global->head);
        sh->tail = __ldcg(&work.global->tail);
        sh->now = step.store->step;
        sh->window = step.store->admit_window;
    }
    while (number < jobs) {
        if (sh->has_part)
            select_one(&sh->job, sh, &work);
        number += gridDim.x / split;
        if (number < jobs)
            begin_job(sh, &step, &work, number, split);
    }
    lookup_end(&step, sh, work.global);
}

lw_status_t lwk_cuda_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
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
    const uint32_t jobs = step->session_count * step->shape.kv_head_count;
    uint32_t resident = lwk_resident_blocks(select_kernel, SELECT_THREADS, sizeof(select_shared_t));
    if (resident == 0)
        return LW_ERR_DEVICE;
    resident = min(resident, LWK_SELECT_BLOCKS_MAX);
    uint32_t split = jobs == 0 ? 1 : min(max(resident / jobs, 1u), LWK_SELECT_SPLIT_MAX);
    uint32_t useful = (step->scratch.entry_capacity + SELECT_SLICE_MIN - 1) / SELECT_SLICE_MIN;
    split = min(split, max(useful, 1u));
    dim3 grid(min(jobs, resident / split) * split);
    return lwk_launch_early("select", select_kernel, grid, SELECT_THREADS, sizeof(select_shared_t), (cudaStream_t)stream,
                            LWK_LAUNCH_RESIDENT, *step, work, split);
}
