/* finish.c - as ref/finish.c: landed records in place, then one merge of all partials in slot order. */
#include <string.h>

#include "kernels/cpu/cpu_private.h"
#include "kernels/ref/ref.h"

static void attend_arrivals(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                            const lwk_cpu_queries_t *queries)
{
    const lwk_step_t *step = queries->step;
    size_t kv_row = lwk_kv_row(step, queries->s, queries->head);
    const lwk_item_t *items = step->scratch.items + kv_row * step->scratch.item_capacity;
    uint32_t count = step->scratch.item_count[kv_row];
    for (uint32_t first = 0; first < count; first += LWK_ITEM_TILE) {
        lwk_cpu_run_t run;
        lwk_cpu_run_begin(&run, loops, work, queries,
                          lwk_slot_arrivals(&step->scratch, first / LWK_ITEM_TILE));
        lwk_cpu_batch_t batch;
        batch.run = &run;
        batch.count = 0;
        for (uint32_t i = first; i < count && i < first + LWK_ITEM_TILE; i++) {
            if (lwk_place_kind(items[i].place) != LWK_PLACE_PENDING)
                continue;
            const uint8_t *record = lwk_ref_landed(step, queries->session, &items[i]);
            if (record != NULL)
                lwk_cpu_batch_add(&batch, record, items[i].size, items[i].size);
        }
        lwk_cpu_batch_flush(&batch);
    }
}

/* The partial slots that a step of this session used, as up to four runs of slots in slot order. */
typedef struct slots {
    uint32_t first[4], count[4];
} slots_t;

static slots_t used_slots(const lwk_cpu_queries_t *queries)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    uint32_t items = scratch->item_count[lwk_kv_row(queries->step, queries->s, queries->head)];
    uint32_t item_tiles = (items + LWK_ITEM_TILE - 1) / LWK_ITEM_TILE;
    return (slots_t){
        .first = {0, lwk_slot_steady(scratch, 0), lwk_slot_hits(scratch, 0), lwk_slot_arrivals(scratch, 0)},
        .count = {queries->session->range_count,
                  (lwk_steady_count(queries->session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE, item_tiles,
                  item_tiles},
    };
}

/* out = sum of e^(m - largest) o over the slots with any weight; z and t likewise. */
static lwk_partial_t merge(const lwk_loops_t *loops, const slots_t *slots, const lwk_partial_t *partial,
                           const float *value, uint32_t d, float *out)
{
    lwk_partial_t sum = {.m = -INFINITY};
    const uint8_t *rows[LWK_CPU_BLOCK];
    float weight[LWK_CPU_BLOCK];
    const float *weights = weight;
    uint32_t count = 0;
    memset(out, 0, d * sizeof *out);
    for (int part = 0; part < 4; part++)
        for (uint32_t i = slots->first[part]; i < slots->first[part] + slots->count[part]; i++)
            if (partial[i].z > 0)
                sum.m = fmaxf(sum.m, partial[i].m);
    for (int part = 0; part < 4; part++)
        for (uint32_t i = slots->first[part]; i < slots->first[part] + slots->count[part]; i++) {
            if (!(partial[i].z > 0))
                continue;
            if (count == LWK_CPU_BLOCK) {
                loops->accumulate[LWK_ROW_FP32](rows, count, &weights, 1, d, &out);
                count = 0;
            }
            weight[count] = expf(partial[i].m - sum.m);
            sum.z += weight[count] * partial[i].z;
            sum.t += weight[count] * partial[i].t;
            rows[count++] = (const uint8_t *)(value + (size_t)i * d);
        }
    loops->accumulate[LWK_ROW_FP32](rows, count, &weights, 1, d, &out);
    return sum;
}

static void write_out(const lwk_cpu_queries_t *queries, uint32_t q, const float *out, float lse)
{
    const lwk_step_t *step = queries->step;
    const lwk_shape_t *shape = &step->shape;
    uint32_t d = shape->head_dim;
    size_t to = lwk_tensor_at(&step->out, queries->s, q / shape->group,
                              queries->head * shape->group + q % shape->group);
    for (uint32_t j = 0; j < d && step->out.data != NULL; j++)
        lwk_store(step->out.data, shape->dtype, to + j, out[j]);
    if (step->out_fp32 != NULL)
        memcpy(step->out_fp32 + queries->row[q] * d, out, d * sizeof *out);
    if (step->lse_out != NULL)
        step->lse_out[queries->row[q]] = lse;
}

static void finish_head(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                        const lwk_cpu_queries_t *queries)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    uint32_t d = queries->step->shape.head_dim;
    attend_arrivals(loops, work, queries);
    slots_t slots = used_slots(queries);
    for (uint32_t q = 0; q < queries->count; q++) {
        size_t first = queries->row[q] * scratch->partial_capacity;
        float out[LW_HEAD_DIM_MAX];
        const float *shift = scratch->shift + queries->row[q] * d;
        lwk_partial_t sum =
            merge(loops, &slots, scratch->partial + first, scratch->partial_out + first * d, d, out);
        for (uint32_t j = 0; j < d; j++)
            out[j] = sum.z > 0 ? (out[j] + sum.t * shift[j]) / sum.z : 0;
        write_out(queries, q, out, sum.z > 0 ? sum.m + logf(sum.z) : -INFINITY);
    }
}

lw_status_t lwk_cpu_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    if (step->out.data == NULL && step->out_fp32 == NULL)
        return LW_ERR_INVALID;
    lw_status_t status = lwk_cpu_each_head(dev, step, finish_head);
    if (status == LW_OK)
        step->store->counters->steps++;
    return status;
}
