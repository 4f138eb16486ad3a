/* perftest_fetch.c - perftest's store client: fills the store, fetches from it, checks what came. One thread.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "client/cli/perftest.h"
#include "wire/header.h"

#define DEADLINE_US 10000000u
#define LEASE_US 60000000ull
#define RENEW_US 10000000ull
#define PUTS_AT_ONCE 4u
#define LATENCIES_MAX (4u << 20)
#define SPIN_US 100u

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static lw_status_t renew(lwc_perf_client_t *client, lw_error_t *error)
{
    uint32_t renewed;
    if (now_us() < client->renew_at_us)
        return LW_OK;
    client->renew_at_us = now_us() + RENEW_US;
    return lwc_control_renew(client->control, LEASE_US, &renewed, error);
}

/* ---- opening ---- */

static lw_status_t create_session(lwc_perf_client_t *client, lw_error_t *error)
{
    lwc_shape_t shape = {
        .model_id = "perftest",
        .layer_count = 32,
        .kv_head_count = LWC_PERF_HEADS,
        .query_head_count = 4 * LWC_PERF_HEADS,
        .head_dim = LWC_PERF_HEAD_DIM,
        .dtype = LW_DTYPE_BF16,
        .rank_count = 1,
        .segment_tokens = LWC_PERF_TOKENS,
        .replicas = 1,
        .cluster_encoding = LW_ENCODING_BF16,
        .outlier_encoding = LW_ENCODING_BF16,
        .cluster_tokens = 16,
    };
    client->renew_at_us = now_us() + RENEW_US;
    return lwc_control_create(client->control, &shape, LEASE_US, 0, &client->session, error);
}

static lw_status_t create_store(lwc_perf_client_t *client, lw_error_t *error)
{
    const lwc_perf_options_t *options = client->options;
    uint32_t batch = 1, segments = client->uniform.segment_count + client->mixed.segment_count;
    for (uint32_t i = 0; i < options->batch_count; i++)
        batch = batch > options->batches[i] ? batch : options->batches[i];
    /* No larger than it has to be, so that it stays in the cache; more than what is in flight, since answers
     * overtake each other. Mixed records have about 4 KiB on the average. */
    uint64_t record = lw_max_u64(options->record_bytes, 8192);
    client->landing_bytes = lw_align_up((uint64_t)(options->depth + 2) * (batch * (record + 8) + 4096), 64);
    client->landing =
        mmap(NULL, client->landing_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (client->landing == MAP_FAILED) {
        client->landing = NULL;
        return lw_fail(error, LW_ERR_NO_MEMORY, "%llu bytes of landing memory",
                       (unsigned long long)client->landing_bytes);
    }
    (void)madvise(client->landing, client->landing_bytes, MADV_HUGEPAGE);
    memset(client->landing, 0, client->landing_bytes);
    lwc_store_params_t params = {
        .fabric = lw_fabric_ucx(),
        .transports = options->transport,
        .clock = lw_clock_real(),
        .client_id = client->control->client_id,
        .incarnation = client->control->incarnation,
        .segment_capacity = segments,
        .session_capacity = 1,
        .wants_max = (options->depth + 1) * batch,
        .puts_max = PUTS_AT_ONCE,
        .landing = client->landing,
        .landing_bytes = client->landing_bytes,
        .spin_us = SPIN_US,
    };
    if (params.fabric == NULL)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "this build has no UCX");
    lw_status_t status = lwc_store_create(&params, &client->store, error);
    if (status == LW_OK)
        status = lwc_store_set_view(client->store, &client->view, error);
    if (status == LW_OK)
        status = lwc_store_session(client->store, 0, client->session.session_id, client->session.token, true,
                                   client->session.term);
    return status;
}

lw_status_t lwc_perf_client_open(lwc_perf_client_t *client, const char *control, lw_error_t *error)
{
    const lwc_perf_options_t *options = client->options;
    lwc_control_params_t params = {.size = sizeof(params), .seeds = control};
    lw_prng_seed(&client->prng, now_us());
    lw_status_t status =
        lwc_perf_set_init(&client->uniform, false, options->record_bytes, options->store_bytes, 0, error);
    if (status == LW_OK && options->modes[LWC_PERF_MIX])
        status = lwc_perf_set_init(&client->mixed, true, options->record_bytes, options->mix_bytes,
                                   client->uniform.segment_count, error);
    if (status == LW_OK)
        status = lwc_control_open(&params, &client->control, error);
    if (status == LW_OK)
        status = create_session(client, error);
    if (status == LW_OK)
        status = lwc_control_fleet_get(client->control, &client->view, error);
    if (status == LW_OK)
        status = create_store(client, error);
    client->uniform.session_id = client->mixed.session_id = client->session.session_id;
    client->uniform.term = client->mixed.term = client->session.term;
    return status;
}

void lwc_perf_client_close(lwc_perf_client_t *client)
{
    lw_error_t error = {0};
    if (client->control != NULL && client->session.session_id != 0 &&
        lwc_control_drop(client->control, client->session.session_id, &error) != LW_OK)
        fprintf(stderr, "perftest: session %llu stays behind: %s\n",
                (unsigned long long)client->session.session_id, error.text);
    if (client->store != NULL)
        lwc_store_destroy(client->store);
    lwc_view_free(&client->view);
    lwc_control_close(client->control);
    lwc_perf_set_fini(&client->uniform);
    lwc_perf_set_fini(&client->mixed);
    if (client->landing != NULL)
        munmap(client->landing, client->landing_bytes);
}

/* ---- filling ---- */

typedef struct filling {
    uint32_t flying;
    lw_status_t status;
} filling_t;

static void put_done(void *arg, lw_status_t status)
{
    filling_t *filling = arg;
    filling->flying--;
    if (status != LW_OK)
        filling->status = status;
}

static lw_status_t choose_node(const lwc_perf_client_t *client, const lw_segment_name_t *name,
                               uint16_t *index_out, lw_error_t *error)
{
    uint32_t position[LW_REPLICAS_MAX];
    if (lw_place(&client->view, name, 1, position) == 0)
        return lw_fail(error, LW_ERR_FLEET, "the fleet has no node that takes segments");
    *index_out = client->view.nodes[position[0]].index;
    return LW_OK;
}

/* Puts segments first..first+count-1, prebuilt in `extents`, and waits for them. */
static lw_status_t put_some(lwc_perf_client_t *client, const lwc_perf_set_t *set, uint32_t first,
                            uint32_t count, uint8_t *const *extents, lw_error_t *error)
{
    filling_t filling = {0};
    for (uint32_t i = 0; i < count; i++) {
        lw_segment_name_t name = lwc_perf_set_name(set, first + i);
        uint16_t node;
        lw_status_t status = choose_node(client, &name, &node, error);
        if (status == LW_OK)
            status = lwc_store_segment(client->store, set->first_key + first + i, 0, &name,
                                       LWC_PERF_ROW_BYTES, &node, 1);
        if (status == LW_OK)
            status = lwc_store_put(client->store, 0, extents[i], set->segment_bytes, &node, 1,
                                   now_us() + DEADLINE_US, put_done, &filling);
        filling.flying += status == LW_OK;
        filling.status = status != LW_OK ? status : filling.status;
    }
    while (filling.flying > 0)
        lwc_store_wait(client->store, 1000);
    if (filling.status != LW_OK)
        return lw_fail(error, filling.status, "put: %s", lwc_store_last_error(client->store));
    return LW_OK;
}

static lw_status_t fill_set(lwc_perf_client_t *client, const lwc_perf_set_t *set, lwc_perf_row_t *row,
                            lw_error_t *error)
{
    uint8_t *extents[PUTS_AT_ONCE] = {0};
    lw_status_t status = LW_OK;
    for (uint32_t i = 0; i < PUTS_AT_ONCE && status == LW_OK; i++) {
        extents[i] = aligned_alloc(4096, lw_align_up(set->segment_bytes, 4096));
        if (extents[i] == NULL)
            status = lw_fail(error, LW_ERR_NO_MEMORY, "a segment of %llu bytes",
                             (unsigned long long)set->segment_bytes);
    }
    uint64_t told_us = now_us();
    for (uint32_t at = 0; at < set->segment_count && status == LW_OK; at += PUTS_AT_ONCE) {
        uint32_t count = set->segment_count - at < PUTS_AT_ONCE ? set->segment_count - at : PUTS_AT_ONCE;
        for (uint32_t i = 0; i < count; i++)
            lwc_perf_set_build(set, at + i, extents[i]);
        uint64_t begin_ns = now_ns();
        double client_cpu_s = lwc_perf_cpu_s(), server_cpu_s = lwc_perf_child_cpu_s(client->daemon);
        status = put_some(client, set, at, count, extents, error);
        row->seconds += (double)(now_ns() - begin_ns) / 1e9;
        row->client_cpu_s += lwc_perf_cpu_s() - client_cpu_s;
        row->server_cpu_s += lwc_perf_child_cpu_s(client->daemon) - server_cpu_s;
        row->bytes += count * set->segment_bytes;
        row->requests += count;
        if (status == LW_OK)
            status = renew(client, error);
        if (!client->options->quiet && now_us() - told_us > 1000000) {
            told_us = now_us();
            fprintf(stderr, "filling: %llu of %llu MiB\n",
                    (unsigned long long)((at + count) * set->segment_bytes >> 20),
                    (unsigned long long)(set->bytes >> 20));
        }
    }
    for (uint32_t i = 0; i < PUTS_AT_ONCE; i++)
        free(extents[i]);
    return status;
}

static lw_status_t attach_all(lwc_perf_client_t *client, lw_error_t *error)
{
    uint32_t count = client->uniform.segment_count + client->mixed.segment_count;
    uint32_t *keys = calloc(count, sizeof(*keys));
    filling_t filling = {.flying = 1};
    if (keys == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "%u keys", count);
    for (uint32_t i = 0; i < count; i++)
        keys[i] = i;
    lw_status_t status =
        lwc_store_attach(client->store, keys, count, now_us() + DEADLINE_US, put_done, &filling);
    while (status == LW_OK && filling.flying > 0)
        lwc_store_wait(client->store, 1000);
    free(keys);
    if (status == LW_OK)
        status = filling.status;
    return status == LW_OK ? LW_OK
                           : lw_fail(error, status, "attach: %s", lwc_store_last_error(client->store));
}

lw_status_t lwc_perf_fill(lwc_perf_client_t *client, lwc_perf_row_t *row_out, lw_error_t *error)
{
    memset(row_out, 0, sizeof(*row_out));
    row_out->mode = LWC_PERF_PUT;
    lw_status_t status = fill_set(client, &client->uniform, row_out, error);
    if (status == LW_OK && client->mixed.segment_count > 0)
        status = fill_set(client, &client->mixed, row_out, error);
    if (status == LW_OK)
        status = attach_all(client, error);
    return status;
}

/* ---- fetching ---- */

typedef struct run run_t;

typedef struct slot { /* one request in flight */
    run_t *run;
    uint64_t first_tag, asked_ns;
    uint32_t left;
    lwc_want_t wants[LWC_PERF_BATCH_MAX];
} slot_t;

struct run {
    lwc_perf_client_t *client;
    const lwc_perf_set_t *set;
    lwc_perf_row_t row;
    uint32_t batch, active;
    bool asking, contiguous, compare;
    lw_status_t status;
    char text[160];
    uint64_t latency_count;
    uint32_t *latency_ns100;
    slot_t *slots;
};

static void ask(slot_t *slot);

static void release_used(run_t *run)
{
    uint64_t until = run->client->next_tag;
    for (uint32_t i = 0; i < run->client->options->depth; i++)
        if (run->slots[i].left > 0 && run->slots[i].first_tag < until)
            until = run->slots[i].first_tag;
    lwc_store_release(run->client->store, until);
}

static void check(slot_t *slot, uint64_t tag, const uint8_t *record)
{
    run_t *run = slot->run;
    const lwc_want_t *want = &slot->wants[tag - slot->first_tag];
    if (lwc_perf_set_matches(run->set, want->segment - run->set->first_key, want->head, want->entry, record))
        return;
    run->status = LW_ERR_CORRUPT;
    snprintf(run->text, sizeof(run->text), "segment %u head %u entry %u came with wrong bytes", want->segment,
             want->head, want->entry);
}

static void arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record)
{
    slot_t *slot = arg;
    run_t *run = slot->run;
    if (status != LW_OK) {
        run->row.failures++;
        run->status = status;
        snprintf(run->text, sizeof(run->text), "%s", lwc_store_last_error(run->client->store));
    } else if (run->compare) {
        check(slot, tag, record);
    }
    if (--slot->left > 0)
        return;
    run->active--;
    run->row.requests++;
    run->row.records += run->batch;
    for (uint32_t i = 0; i < run->batch; i++)
        run->row.bytes += slot->wants[i].rows * LWC_PERF_ROW_BYTES;
    if (run->latency_count < LATENCIES_MAX)
        run->latency_ns100[run->latency_count++] =
            (uint32_t)lw_min_u64((now_ns() - slot->asked_ns) / 100, UINT32_MAX);
    release_used(run);
    if (run->asking && run->status == LW_OK)
        ask(slot);
}

static void ask(slot_t *slot)
{
    run_t *run = slot->run;
    lwc_perf_client_t *client = run->client;
    for (uint32_t i = 0; i < run->batch; i++) {
        lwc_perf_set_want(run->set, &client->prng, i, &slot->wants[i]);
        slot->wants[i].tag = client->next_tag + i;
    }
    slot->first_tag = client->next_tag;
    slot->left = run->batch;
    slot->asked_ns = now_ns();
    client->next_tag += run->batch;
    run->active++;
    lw_status_t status = lwc_store_fetch(client->store, slot->wants, run->batch, now_us() + DEADLINE_US,
                                         run->contiguous, arrived, slot);
    if (status == LW_OK)
        return;
    run->active--;
    slot->left = 0;
    run->status = status;
    snprintf(run->text, sizeof(run->text), "%s", lwc_store_last_error(client->store));
}

/* Asks until `bytes` have come or the time is over. */
static void drive(run_t *run, uint64_t end_us, uint64_t bytes)
{
    lwc_perf_client_t *client = run->client;
    uint64_t begin_ns = now_ns();
    double client_cpu_s = lwc_perf_cpu_s(), server_cpu_s = lwc_perf_child_cpu_s(client->daemon);
    run->asking = true;
    for (uint32_t i = 0; i < client->options->depth && run->status == LW_OK; i++)
        ask(&run->slots[i]);
    while (run->status == LW_OK && now_us() < end_us && run->row.bytes < bytes)
        lwc_store_wait(client->store, 1000);
    run->asking = false;
    while (run->active > 0)
        lwc_store_wait(client->store, 1000);
    run->row.seconds = (double)(now_ns() - begin_ns) / 1e9;
    run->row.client_cpu_s = lwc_perf_cpu_s() - client_cpu_s;
    run->row.server_cpu_s = lwc_perf_child_cpu_s(client->daemon) - server_cpu_s;
    lwc_perf_row_latency(&run->row, run->latency_ns100, run->latency_count);
}

static lw_status_t run_init(run_t *run, lwc_perf_client_t *client, const lwc_perf_set_t *set, uint32_t batch,
                            lw_error_t *error)
{
    memset(run, 0, sizeof(*run));
    run->client = client;
    run->set = set;
    run->batch = batch;
    run->slots = calloc(client->options->depth, sizeof(*run->slots));
    run->latency_ns100 = malloc(LATENCIES_MAX * sizeof(uint32_t));
    if (run->slots == NULL || run->latency_ns100 == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "a run");
    for (uint32_t i = 0; i < client->options->depth; i++)
        run->slots[i].run = run;
    return LW_OK;
}

static lw_status_t run_fini(run_t *run, lw_status_t status, lw_error_t *error)
{
    free(run->slots);
    free(run->latency_ns100);
    if (status == LW_OK && run->status != LW_OK)
        status = lw_fail(error, run->status, "fetch: %s", run->text);
    return status;
}

lw_status_t lwc_perf_fetch(lwc_perf_client_t *client, lwc_perf_mode_t mode, uint32_t batch, double seconds,
                           lwc_perf_row_t *row_out, lw_error_t *error)
{
    run_t run;
    lw_status_t status =
        run_init(&run, client, mode == LWC_PERF_MIX ? &client->mixed : &client->uniform, batch, error);
    run.row.mode = mode;
    run.row.batch = batch;
    run.contiguous = mode == LWC_PERF_CEILING;
    if (status == LW_OK)
        status = renew(client, error);
    if (status == LW_OK)
        drive(&run, now_us() + (uint64_t)(seconds * 1e6), UINT64_MAX);
    *row_out = run.row;
    return run_fini(&run, status, error);
}

lw_status_t lwc_perf_verify(lwc_perf_client_t *client, uint64_t bytes, lw_error_t *error)
{
    lw_status_t status = LW_OK;
    for (uint32_t i = 0; i < client->options->batch_count && status == LW_OK; i++) {
        for (int mixed = 0; mixed < (client->mixed.segment_count > 0 ? 2 : 1) && status == LW_OK; mixed++) {
            run_t run;
            status = run_init(&run, client, mixed ? &client->mixed : &client->uniform,
                              client->options->batches[i], error);
            run.compare = true;
            if (status == LW_OK)
                drive(&run, UINT64_MAX, bytes);
            status = run_fini(&run, status, error);
        }
    }
    return status;
}
