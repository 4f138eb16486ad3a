/* bench_phase.c - stands between the library and its backend and notes when each op of a step begins and
 * ends: by the host's clock on host backends, by the device's own in the stream's order on others. Switched
 * off it costs a branch an op. */
#include "client/cli/bench.h"

#include <string.h>

#define CLOCK_ROUNDS 20u

enum { OP_PREPARE, OP_SCORE, OP_SELECT, OP_ATTEND, OP_FINISH, OP_ADMIT };
const char *const lwc_bench_op_names[LWC_BENCH_OPS] = {"prepare", "score",  "select",
                                                       "attend",  "finish", "admit"};

typedef lw_status_t (*op_t)(lwk_dev_t *, const lwk_step_t *, void *);

static struct {
    const lwk_backend_t *inner;
    lwk_backend_t table;
    const llama_gpu_api_t *gpu; /* whose clock is read; NULL: the host's */
    uint64_t *stamps;           /* pinned, [layers][LWC_BENCH_OPS][2], and one more */
    uint32_t layers;
    int64_t offset_ns; /* from the device's clock to the host's */
    bool on;
} phase;

static lw_status_t stamp(uint64_t *to, void *stream)
{
    if (phase.gpu)
        return phase.gpu->stamp(stream, to);
    *to = lwc_bench_now_ns();
    return LW_OK;
}

static lw_status_t run(uint32_t number, op_t op, lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    if (!phase.on || !phase.stamps || step->layer >= phase.layers)
        return op(dev, step, stream);
    uint64_t *stamps = phase.stamps + ((uint64_t)step->layer * LWC_BENCH_OPS + number) * 2;
    lw_status_t status = stamp(stamps, stream);
    if (status == LW_OK)
        status = op(dev, step, stream);
    return status == LW_OK ? stamp(stamps + 1, stream) : status;
}

#define OP(name, number)                                                               \
    static lw_status_t name##_op(lwk_dev_t *dev, const lwk_step_t *step, void *stream) \
    {                                                                                  \
        return run(number, phase.inner->name, dev, step, stream);                      \
    }
OP(prepare, OP_PREPARE)
OP(score, OP_SCORE)
OP(select, OP_SELECT)
OP(attend, OP_ATTEND)
OP(finish, OP_FINISH)
OP(admit, OP_ADMIT)

static const lwk_backend_t *wrap(const lwk_backend_t *found)
{
    if (phase.inner == found || found == &phase.table)
        return &phase.table;
    if (phase.inner)
        return found; /* one backend is watched */
    phase.inner = found;
    phase.table = *found;
    phase.table.prepare = prepare_op;
    phase.table.score = score_op;
    phase.table.select = select_op;
    phase.table.attend = attend_op;
    phase.table.finish = finish_op;
    phase.table.admit = admit_op;
    return &phase.table;
}

void lwc_bench_phase_install(void)
{
    lwk_backend_wrap(wrap);
}

/* The device's time in the middle of the shortest of a few round trips. */
static lw_status_t find_offset(lwc_bench_t *bench, lw_error_t *error)
{
    uint64_t best_ns = UINT64_MAX, *slot = phase.stamps;
    for (uint32_t i = 0; i < CLOCK_ROUNDS; i++) {
        uint64_t began_ns = lwc_bench_now_ns();
        lw_status_t status = stamp(slot, bench->device.stream);
        if (status == LW_OK)
            status = lwc_bench_wait(&bench->device, error);
        if (status != LW_OK)
            return lw_fail(error, status, "the device's clock cannot be read");
        uint64_t took_ns = lwc_bench_now_ns() - began_ns;
        if (took_ns < best_ns) {
            best_ns = took_ns;
            phase.offset_ns = (int64_t)(began_ns + took_ns / 2) - (int64_t)*slot;
        }
    }
    *slot = 0;
    return LW_OK;
}

lw_status_t lwc_bench_phase_init(lwc_bench_t *bench, lw_error_t *error)
{
    uint64_t bytes = bench->options.shape.layers * LWC_BENCH_OPS * 2 * sizeof(uint64_t);
    phase.layers = bench->options.shape.layers;
    phase.gpu = NULL;
    if (bench->async && !(phase.gpu = llama_gpu_find(error)))
        return LW_ERR_UNSUPPORTED;
    lw_status_t status =
        lwc_bench_alloc(&bench->device, LWK_MEMORY_PINNED, bytes, (void **)&phase.stamps, error);
    return status == LW_OK ? find_offset(bench, error) : status;
}

void lwc_bench_phase_fini(lwc_bench_t *bench)
{
    if (phase.stamps)
        bench->device.backend->free(bench->device.dev, LWK_MEMORY_PINNED, phase.stamps);
    phase.stamps = NULL;
    phase.on = false;
}

void lwc_bench_phase_switch(bool on)
{
    phase.on = on;
}

uint64_t lwc_bench_phase_ns(uint32_t layer, uint32_t op, uint32_t end)
{
    uint64_t ns = phase.stamps[((uint64_t)layer * LWC_BENCH_OPS + op) * 2 + end];
    return ns == 0 ? 0 : (uint64_t)((int64_t)ns + phase.offset_ns);
}
