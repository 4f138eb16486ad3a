/* work.c - the workspace of the step ops, and the walk over (session, KV head) that they share. */
#include "kernels/cpu/cpu_private.h"

static void *take(uint8_t *memory, uint64_t *at, uint64_t bytes)
{
    uint64_t offset = lw_align_up(*at, 64);
    *at = offset + bytes;
    return memory != NULL ? memory + offset : NULL;
}

static uint64_t lay_out(uint64_t n, uint64_t queries, uint64_t head_dim, uint8_t *memory,
                        lwk_cpu_work_t *work)
{
    uint64_t at = 0;
    work->weight = take(memory, &at, queries * n * sizeof(float));
    work->vote = take(memory, &at, n * sizeof(float));
    work->rank = take(memory, &at, n * sizeof(float));
    work->list = take(memory, &at, n * sizeof(uint32_t));
    work->candidates = take(memory, &at, n * sizeof(uint32_t));
    work->size = take(memory, &at, n * sizeof(uint16_t));
    work->ranked = take(memory, &at, n * sizeof(lwk_ranked_t));
    work->spread = take(memory, &at, n * sizeof(float));
    work->log_size = take(memory, &at, n * sizeof(float));
    work->scale = take(memory, &at, n * sizeof(float));
    work->bias = take(memory, &at, n * sizeof(float));
    work->value_scale = take(memory, &at, n * sizeof(float));
    work->rows = take(memory, &at, n * sizeof(const uint8_t *));
    work->dots = take(memory, &at, queries * LWK_CPU_BLOCK * sizeof(float));
    work->coded_query = take(memory, &at, queries * head_dim * sizeof(float));
    work->coded_out = take(memory, &at, queries * head_dim * sizeof(float));
    return at;
}

uint64_t lwk_cpu_workspace_bytes(const lwk_dims_t *dims)
{
    lwk_cpu_work_t work;
    return lay_out(dims->entry_capacity, (uint64_t)dims->query_tokens * dims->shape.group,
                   dims->shape.head_dim, NULL, &work);
}

lw_status_t lwk_cpu_work(const lwk_step_t *step, lwk_cpu_work_t *work_out)
{
    const lwk_scratch_t *scratch = &step->scratch;
    const lwk_shape_t *shape = &step->shape;
    uint64_t used = lay_out(scratch->entry_capacity, (uint64_t)step->query_tokens * shape->group,
                            shape->head_dim, scratch->workspace, work_out);
    return scratch->workspace != NULL && used <= scratch->workspace_bytes ? LW_OK : LW_ERR_INVALID;
}

void lwk_cpu_queries(const lwk_step_t *step, uint32_t s, lwk_session_t *session, uint32_t head,
                     lwk_cpu_queries_t *queries_out)
{
    const lwk_shape_t *shape = &step->shape;
    queries_out->step = step;
    queries_out->session = session;
    queries_out->s = s;
    queries_out->head = head;
    queries_out->count = step->query_tokens * shape->group;
    for (uint32_t q = 0; q < queries_out->count; q++) {
        queries_out->row[q] =
            lwk_query_row(step, s, q / shape->group, head * shape->group + q % shape->group);
        queries_out->query[q] = step->scratch.query + queries_out->row[q] * shape->head_dim;
    }
}

lw_status_t lwk_cpu_each_head(lwk_dev_t *dev, const lwk_step_t *step, lwk_cpu_body_t *body)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    lwk_cpu_work_t work;
    status = lwk_cpu_work(step, &work);
    if (status != LW_OK)
        return status;
    const lwk_loops_t *loops = lwk_cpu_loops(dev, step->shape.head_dim);
    for (uint32_t s = 0; s < step->session_count; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        for (uint32_t head = 0; session != NULL && head < step->shape.kv_head_count; head++) {
            lwk_cpu_queries_t queries;
            lwk_cpu_queries(step, s, session, head, &queries);
            body(loops, &work, &queries);
        }
    }
    return LW_OK;
}
