/* test_async.c - what asynchronous backends promise beyond right answers: calls only enqueue, failures are told later and
 * take back what was built on them, graphs are replayed over rebound slots, and nothing waits for ever. Over
 * queue_backend.h, or LW_TEST_BACKEND=cuda. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "unit/client/engine.h"
#include "unit/client/fake_store.h"
#include "unit/client/queue_backend.h"

static uint64_t seed_value;
static harness_params_t small = {.layers = 2};

/* Some promises can only be seen where the device's queues can be stopped. */
static void needs_queues(void)
{
    if (strcmp(small.backend, "queue") != 0)
        skip();
}

/* Sleeping is how a thread of the library waits: the caller's naps are counted while it must not take any. */
static __thread bool counting;
static __thread uint32_t naps;
int __real_nanosleep(const struct timespec *wanted, struct timespec *left);
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left);
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left) /* the linker's --wrap */
{
    naps += counting;
    return __real_nanosleep(wanted, left);
}

static void test_the_counter_sees_naps(void **state)
{
    (void)state;
    counting = true;
    lwc_device_nap(1);
    counting = false;
    assert_int_equal(naps, 1);
    naps = 0;
}

static uint64_t real_us(void)
{
    return lw_now_us(lw_clock_real());
}

typedef struct bed {
    harness_t h;
    sequence_t seq;
    lw_session_t *session;
    engine_t engine;
} bed_t;

/* A session with `tokens` tokens, sealed as far as they can be, and an engine over one slot. */
static void bed_init(bed_t *bed, uint32_t tokens)
{
    harness_open(&bed->h, &small, seed_value);
    sequence_init(&bed->seq, &bed->h, 8000);
    sequence_grow(&bed->seq, &bed->h, tokens);
    bed->session = harness_session(&bed->h, LW_POLICY_FULL, 1024);
    harness_prefill(&bed->h, bed->session, &bed->seq, 0, tokens, 400);
    harness_settle(&bed->h);
    engine_init(&bed->engine, &bed->h, 1, 1);
    bed->engine.sessions[0] = bed->session;
    bed->engine.sequences[0] = &bed->seq;
}

static void bed_fini(bed_t *bed)
{
    if (bed->session)
        lw_session_close(bed->session);
    engine_fini(&bed->engine);
    sequence_fini(&bed->seq);
    harness_close(&bed->h);
}

static lw_status_t step(bed_t *bed, uint32_t timeout_us)
{
    lw_status_t status = LW_OK;

    for (uint32_t layer = 0; layer < bed->h.model.layer_count && status == LW_OK; layer++)
        status = engine_layer(&bed->engine, layer, bed->engine.sessions, timeout_us);
    return status;
}

static lw_status_t status_of(bed_t *bed)
{
    lw_status_t status = LW_OK;
    assert_int_equal(lw_step_status(bed->h.kv, bed->session, &status), LW_OK);
    return status;
}

static void check_exact(bed_t *bed)
{
    engine_fill(&bed->engine);
    if (step(bed, 0) != LW_OK)
        fail_msg("step: %s", lw_last_error(bed->h.kv));
    engine_settle(&bed->engine);
    assert_int_equal(status_of(bed), LW_OK);
    if (!(engine_error(&bed->engine, 0) < 1e-4))
        fail_msg("after token %u: off by %g", harness_tokens(bed->session), engine_error(&bed->engine, 0));
}

static void test_steps_are_enqueued_without_waiting(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    queue_backend_hold(true);
    uint64_t before = queue_backend_enqueued();
    counting = true;
    for (int i = 0; i < 5; i++)
        assert_int_equal(step(&bed, 0), LW_OK);
    counting = false;
    assert_int_equal(naps, 0);
    assert_int_equal(queue_backend_enqueued() - before, 5 * (2 * 5 + 1));
    assert_int_equal(status_of(&bed), LW_INPROGRESS);
    assert_int_equal(harness_tokens(bed.session), 1306); /* counted when they are enqueued */
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    assert_int_equal(status_of(&bed), LW_OK);
    assert_int_equal(lw_session_truncate(bed.session, 1301), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

static void test_an_op_is_accepted_and_completes_in_progress(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 40);
    lw_op_t op;
    lw_tensor_t out = {.data = bed.engine.out, .sessions = 1, .tokens = 1, .heads = 4, .head_dim = 16};
    lw_step_t args = {.size = sizeof(args),
                      .sessions = bed.engine.sessions,
                      .session_count = 1,
                      .query = {.data = bed.engine.query, .sessions = 1, .tokens = 1, .heads = 4, .head_dim = 16},
                      .key = {.data = bed.engine.key, .sessions = 1, .tokens = 1, .heads = 2, .head_dim = 16},
                      .value = {.data = bed.engine.value, .sessions = 1, .tokens = 1, .heads = 2, .head_dim = 16}};
    queue_backend_hold(true);
    for (args.layer = 0; args.layer < 2; args.layer++) {
        assert_int_equal(lw_attend(bed.h.kv, &args, &out, &op), LW_INPROGRESS);
        assert_int_equal(lw_progress(bed.h.kv), 1);
        assert_int_equal(op.status, LW_OK);
    }
    assert_int_equal(status_of(&bed), LW_INPROGRESS);
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    assert_int_equal(status_of(&bed), LW_OK);
    bed_fini(&bed);
}

static void test_steps_ahead_are_bounded(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 40);
    engine_fill(&bed.engine);
    queue_backend_hold(true);
    uint32_t enqueued = 0;
    lw_status_t status;
    while ((status = step(&bed, 0)) == LW_OK)
        enqueued++;
    assert_int_equal(status, LW_ERR_BUSY);
    assert_int_equal(enqueued, LWK_OUTCOME_STEPS - 1);
    assert_non_null(strstr(lw_last_error(bed.h.kv), "63 steps"));
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    assert_int_equal(lw_session_truncate(bed.session, 40), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

/* Later steps were built on the failed one: all of them are taken back, and the reason is told once. */
static void test_a_failure_takes_back_the_steps_after_it(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, true);
    engine_fill(&bed.engine);
    queue_backend_hold(true);
    for (int i = 0; i < 3; i++)
        assert_int_equal(step(&bed, 0), LW_OK);
    assert_int_equal(harness_tokens(bed.session), 1304);
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, false);
    assert_int_equal(status_of(&bed), LW_ERR_UNREACHABLE);
    assert_int_equal(status_of(&bed), LW_ERR_UNREACHABLE); /* looking tells nothing */
    assert_int_equal(step(&bed, 0), LW_ERR_UNREACHABLE);
    assert_non_null(strstr(lw_last_error(bed.h.kv), "is down"));
    assert_int_equal(harness_tokens(bed.session), 1301);
    assert_int_equal(status_of(&bed), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

static void test_a_stalled_progress_thread_ends_steps_in_bounded_time(void **state)
{
    (void)state;
    bed_t bed;
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    atomic_store(&bed.h.kv->courier.mode, LWC_COURIER_STALLED);
    uint64_t began = real_us();
    assert_int_equal(step(&bed, 100000), LW_OK);
    engine_settle(&bed.engine);
    uint64_t took = real_us() - began;
    assert_int_equal(status_of(&bed), LW_ERR_TIMEOUT);
    assert_true(took >= 100000);
    /* One wait of 100 ms, not one for each layer; the rest is the machine's. */
    assert_true(took < 5000000);
    lw_attr_t attr = {.field_mask = LW_ATTR_TRAFFIC};
    assert_int_equal(lw_query(bed.h.kv, &attr), LW_ERR_TIMEOUT);
    assert_int_equal(step(&bed, 0), LW_ERR_TIMEOUT);
    assert_int_equal(harness_tokens(bed.session), 1301);
    atomic_store(&bed.h.kv->courier.mode, LWC_COURIER_RUNNING);
    assert_int_equal(lw_query(bed.h.kv, &attr), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

static void test_close_with_steps_in_flight_is_bounded(void **state)
{
    (void)state;
    bed_t bed;
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    fake_store_hold(true); /* nobody answers */
    for (int i = 0; i < 3; i++)
        assert_int_equal(step(&bed, 300000), LW_OK);
    uint64_t began = real_us();
    lw_session_close(bed.session);
    assert_true(real_us() - began < 10000000);
    bed.session = NULL;
    bed_fini(&bed);
    assert_true(real_us() - began < 20000000);
    fake_store_hold(false);
}

/* The handle is closed while the GPU waits for records: they are refused, it goes on. */
static void test_lw_close_refuses_what_is_in_flight(void **state)
{
    (void)state;
    bed_t bed;
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    fake_store_hold(true);
    assert_int_equal(step(&bed, 3600000000u), LW_OK); /* would wait for an hour */
    lw_session_close(bed.session);
    uint64_t began = real_us();
    lwc_courier_refuse(&bed.h.kv->courier); /* what lw_close begins with; the engine's stream must drain first */
    engine_settle(&bed.engine);
    assert_true(real_us() - began < 20000000);
    bed.session = NULL;
    bed_fini(&bed);
    fake_store_hold(false);
}

static void test_a_slot_that_is_reused_hears_nothing_of_the_session_before(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    fake_store_node_down(0, true), fake_store_node_down(1, true), fake_store_node_down(2, true);
    queue_backend_hold(true);
    assert_int_equal(step(&bed, 0), LW_OK);
    lw_session_close(bed.session);
    lw_session_t *other = harness_session(&bed.h, LW_POLICY_FULL, 1024);
    assert_ptr_equal(other, bed.session); /* the same slot */
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    fake_store_node_down(0, false), fake_store_node_down(1, false), fake_store_node_down(2, false);
    assert_int_equal(status_of(&bed), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

/* ---- bound slots ---- */

/* Sessions come, grow past seals, change slots, fork and go, over one graph. */
static void test_one_graph_serves_rebinding_sealing_and_churn(void **state)
{
    (void)state;
    harness_t h;
    engine_t engine;
    sequence_t seqs[3];
    lw_session_t *sessions[3];
    static const uint32_t lengths[3] = {1060, 0, 2300};
    harness_open(&h, &small, seed_value);
    engine_init(&engine, &h, 3, 1);
    for (int i = 0; i < 3; i++) {
        sequence_init(&seqs[i], &h, 8000);
        sequence_grow(&seqs[i], &h, lengths[i]);
        sessions[i] = harness_session(&h, LW_POLICY_FULL, 1024);
        harness_prefill(&h, sessions[i], &seqs[i], 0, lengths[i], 500);
    }
    engine_capture(&engine); /* before anybody is bound */
    engine_bind(&engine, 0, sessions[0], &seqs[0]);
    engine_bind(&engine, 2, sessions[2], &seqs[2]);
    sequence_t forked;
    sequence_init(&forked, &h, 8000);
    lw_session_t *child = NULL;
    size_t token = (size_t)h.model.layer_count * h.model.kv_head_count * h.model.head_dim;
    for (int i = 0; i < 60; i++) {
        if (i == 10)
            engine_bind(&engine, 1, sessions[1], &seqs[1]);
        if (i == 20) { /* places are changed */
            engine_bind(&engine, 0, NULL, NULL);
            engine_bind(&engine, 1, sessions[0], &seqs[0]);
            engine_bind(&engine, 0, sessions[1], &seqs[1]);
        }
        if (i == 40) { /* one goes, a fork of another comes */
            lw_session_close(sessions[2]);
            engine.sessions[2] = NULL;
            assert_int_equal(lw_session_fork(sessions[0], NULL, &child), LW_OK);
            forked.count = harness_tokens(child);
            memcpy(forked.keys, seqs[0].keys, forked.count * token * sizeof(float));
            memcpy(forked.values, seqs[0].values, forked.count * token * sizeof(float));
            engine_bind(&engine, 2, child, &forked);
        }
        if (i == 50) /* and one goes on by prefill */
            for (uint32_t s = 0; s < 3; s++)
                if (engine.sessions[s] == sessions[1]) {
                    sequence_grow(&seqs[1], &h, 1500);
                    harness_prefill(&h, sessions[1], &seqs[1], harness_tokens(sessions[1]), 1500, 500);
                }
        engine_fill(&engine);
        counting = true;
        naps = 0;
        lw_status_t status = engine_replay(&engine);
        counting = false;
        if (status != LW_OK)
            fail_msg("replay %d: %s", i, lw_last_error(h.kv));
        assert_int_equal(naps, 0);
        engine_settle(&engine);
        for (uint32_t slot = 0; slot < 3; slot++)
            if (engine.sessions[slot] && !(engine_error(&engine, slot) < 1e-4))
                fail_msg("replay %d, slot %u: off by %g", i, slot, engine_error(&engine, slot));
        harness_settle(&h);
    }
    assert_int_equal(harness_sealed(sessions[0]), 1024); /* by decoding: published between replays */
    assert_int_equal(harness_sealed(sessions[1]), 1024);
    lw_session_close(child);
    lw_session_close(sessions[0]);
    lw_session_close(sessions[1]);
    engine_fini(&engine);
    sequence_fini(&forked);
    for (int i = 0; i < 3; i++)
        sequence_fini(&seqs[i]);
    harness_close(&h);
}

static void test_bound_steps_also_run_eagerly(void **state)
{
    (void)state;
    bed_t bed;
    bed_init(&bed, 1300);
    engine_bind(&bed.engine, 0, bed.session, &bed.seq);
    for (int i = 0; i < 3; i++) {
        engine_fill(&bed.engine);
        assert_int_equal(lw_replay(bed.h.kv, 1, 1, bed.engine.stream), LW_OK);
        for (uint32_t layer = 0; layer < 2; layer++)
            assert_int_equal(engine_layer(&bed.engine, layer, NULL, 0), LW_OK);
        engine_settle(&bed.engine);
        assert_true(engine_error(&bed.engine, 0) < 1e-4);
    }
    check_exact(&bed); /* and the other way in between */
    bed_fini(&bed);
}

static void test_replay_tells_failures_and_refusals(void **state)
{
    (void)state;
    bed_t bed;
    bed_init(&bed, 1300);
    lw_t *kv = bed.h.kv;
    assert_int_equal(lw_bind(kv, LW_BATCH_MAX, bed.session), LW_ERR_INVALID);
    assert_non_null(strstr(lw_last_error(kv), "slot is 64"));
    assert_int_equal(lw_bind(kv, 3, bed.session), LW_OK);
    assert_int_equal(lw_bind(kv, 2, bed.session), LW_ERR_INVALID);
    assert_int_equal(lw_bind(kv, 3, NULL), LW_OK);
    assert_int_equal(lw_replay(kv, 0, 1, bed.engine.stream), LW_ERR_INVALID);
    assert_int_equal(lw_replay(kv, 1, 9, bed.engine.stream), LW_ERR_INVALID);
    assert_int_equal(engine_layer(&bed.engine, 1, NULL, 0), LW_ERR_INVALID); /* layer 0 comes first */
    engine_bind(&bed.engine, 0, bed.session, &bed.seq);
    engine_capture(&bed.engine);
    engine_fill(&bed.engine);
    assert_int_equal(engine_replay(&bed.engine), LW_OK);
    engine_settle(&bed.engine);
    harness_settle(&bed.h);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, true);
    engine_fill(&bed.engine);
    assert_int_equal(engine_replay(&bed.engine), LW_OK);
    engine_settle(&bed.engine);
    assert_int_equal(engine_replay(&bed.engine), LW_ERR_UNREACHABLE);
    assert_int_equal(harness_tokens(bed.session), 1301);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, false);
    engine_fill(&bed.engine);
    assert_int_equal(engine_replay(&bed.engine), LW_OK);
    engine_settle(&bed.engine);
    assert_true(engine_error(&bed.engine, 0) < 1e-4);
    bed_fini(&bed);
}

static void test_each_backend_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    harness_t h;
    lw_error_t error;
    struct lw *kv = NULL;
    harness_open(&h, &(harness_params_t){.backend = "cpu"}, seed_value);
    assert_int_equal(lw_bind(h.kv, 0, NULL), LW_ERR_UNSUPPORTED);
    assert_int_equal(lw_replay(h.kv, 1, 1, NULL), LW_ERR_UNSUPPORTED);
    lw_open_params_t open = {
        .size = sizeof(open), .backend = "cpu", .model = h.model, .progress = LW_PROGRESS_THREAD};
    lwc_env_t env = h.kv->env;
    env.control = NULL;
    assert_int_equal(lwc_ctx_open(&open, &env, &kv, &error), LW_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.text, "progress is 2"));
    env.backend = queue_backend();
    open.progress = LW_PROGRESS_CALLER;
    assert_int_equal(lwc_ctx_open(&open, &env, &kv, &error), LW_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.text, "progress is 1"));
    harness_close(&h);
}

/* A guessed query's records come while nothing waits for them, and change no answer. */
static void test_prefetch_is_enqueued_too(void **state)
{
    (void)state;
    bed_t bed;
    needs_queues();
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    engine_fill(&bed.engine);
    lw_step_t guess = {.size = sizeof(guess),
                       .layer = 1,
                       .sessions = bed.engine.sessions,
                       .session_count = 1,
                       .query = {.data = bed.engine.query, .sessions = 1, .tokens = 1, .heads = 4, .head_dim = 16},
                       .stream = bed.engine.stream};
    queue_backend_hold(true);
    naps = 0;
    counting = true;
    assert_int_equal(lw_prefetch(bed.h.kv, &guess, NULL), LW_OK);
    assert_int_equal(step(&bed, 0), LW_OK);
    counting = false;
    assert_int_equal(naps, 0);
    queue_backend_hold(false);
    engine_settle(&bed.engine);
    assert_int_equal(status_of(&bed), LW_OK);
    assert_true(engine_error(&bed.engine, 0) < 1e-4);
    bed_fini(&bed);
}

/* ---- limits ---- */

static void test_letters_and_reads_are_bounded(void **state)
{
    (void)state;
    bed_t bed;
    uint8_t bytes[LWC_READS + 1][8];
    lwc_reading_t reading[LWC_READS + 1];
    lw_error_t error;
    bed_init(&bed, 1300);
    check_exact(&bed);
    harness_settle(&bed.h);
    lwc_courier_t *courier = &bed.h.kv->courier;
    lwc_letter_t letter = {.kind = LWC_LETTER_SEGMENT_FORGET, .key = courier->segment_capacity - 1};
    atomic_store(&courier->mode, LWC_COURIER_STALLED);
    while (atomic_load(&courier->tail) != atomic_load(&courier->head))
        lwc_device_nap(100);
    lwc_device_nap(2000); /* it is in its nap by now, or nearly */
    uint32_t posted = 0;
    while (posted < 2 * LWC_LETTERS && lwc_courier_post(courier, &letter) == LW_OK)
        posted++;
    assert_true(posted >= LWC_LETTERS && posted < 2 * LWC_LETTERS);
    atomic_store(&courier->mode, LWC_COURIER_RUNNING);
    while (atomic_load(&courier->tail) != atomic_load(&courier->head))
        lwc_device_nap(100);
    fake_store_hold(true);
    for (uint32_t i = 0; i < LWC_READS; i++)
        assert_int_equal(
            lwc_read_start(bed.h.kv, &reading[i], 0, 0, 8, bytes[i], lwc_now(bed.h.kv) + 60000000, &error), LW_OK);
    assert_int_equal(lwc_read_start(bed.h.kv, &reading[LWC_READS], 0, 0, 8, bytes[LWC_READS],
                                    lwc_now(bed.h.kv) + 60000000, &error),
                     LW_ERR_BUSY);
    fake_store_hold(false);
    for (uint32_t i = 0; i < LWC_READS; i++)
        assert_int_equal(lwc_read_wait(bed.h.kv, &reading[i], &error), LW_OK);
    check_exact(&bed);
    bed_fini(&bed);
}

static void test_notes_that_the_device_never_reads_end_in_an_error(void **state)
{
    (void)state;
    harness_t h;
    needs_queues();
    harness_params_t quick = small;
    quick.config = "client.ship_timeout=100ms";
    harness_open(&h, &quick, seed_value);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_drain(&h);
    queue_backend_hold(true);
    uint32_t written = 0;
    while (written < 2 * LWC_NOTES && lw_session_truncate(s, 0) == LW_OK)
        written++;
    assert_int_equal(written, LWC_NOTES);
    assert_non_null(strstr(lw_last_error(h.kv), "did not finish"));
    queue_backend_hold(false);
    harness_drain(&h);
    assert_int_equal(lw_session_truncate(s, 0), LW_OK);
    lw_session_close(s);
    harness_close(&h);
}

int main(void)
{
    const char *backend = getenv("LW_TEST_BACKEND");
    small.backend = backend ? backend : "queue";
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED)\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_counter_sees_naps),
        cmocka_unit_test(test_steps_are_enqueued_without_waiting),
        cmocka_unit_test(test_an_op_is_accepted_and_completes_in_progress),
        cmocka_unit_test(test_steps_ahead_are_bounded),
        cmocka_unit_test(test_a_failure_takes_back_the_steps_after_it),
        cmocka_unit_test(test_a_stalled_progress_thread_ends_steps_in_bounded_time),
        cmocka_unit_test(test_close_with_steps_in_flight_is_bounded),
        cmocka_unit_test(test_lw_close_refuses_what_is_in_flight),
        cmocka_unit_test(test_a_slot_that_is_reused_hears_nothing_of_the_session_before),
        cmocka_unit_test(test_one_graph_serves_rebinding_sealing_and_churn),
        cmocka_unit_test(test_bound_steps_also_run_eagerly),
        cmocka_unit_test(test_replay_tells_failures_and_refusals),
        cmocka_unit_test(test_each_backend_refuses_what_it_cannot_do),
        cmocka_unit_test(test_prefetch_is_enqueued_too),
        cmocka_unit_test(test_letters_and_reads_are_bounded),
        cmocka_unit_test(test_notes_that_the_device_never_reads_end_in_an_error),
    };
    cmocka_set_test_filter(getenv("LW_TEST_FILTER")); /* a pattern; NULL: all */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
