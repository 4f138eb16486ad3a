/* test_step_alloc.c - between lw_attend and its completion the caller's thread neither allocates nor takes a
 * lock, nor sleeps where a progress thread fetches, hits and misses mixed, against real daemons. malloc and friends and the mutex are interposed in this
 * program; what the transport library under us does inside itself is told apart by the caller's address,
 * printed, and not ours to forbid. Arguments: the storaged program, the transport. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "e2e/client_fleet.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

#define SEEN_MAX 4096u
static __thread bool counting;
static void *seen[SEEN_MAX];
static const char *seen_what[SEEN_MAX];
static uint32_t seen_count;

static void note(const char *what, void *caller)
{
    if (!counting)
        return;
    if (seen_count < SEEN_MAX) {
        seen[seen_count] = caller;
        seen_what[seen_count] = what;
    }
    seen_count++;
}

__attribute__((noinline)) void *malloc(size_t bytes)
{
    note("malloc", __builtin_return_address(0));
    return __libc_malloc(bytes);
}
__attribute__((noinline)) void *calloc(size_t count, size_t bytes)
{
    note("calloc", __builtin_return_address(0));
    return __libc_calloc(count, bytes);
}
__attribute__((noinline)) void *realloc(void *old, size_t bytes)
{
    note("realloc", __builtin_return_address(0));
    return __libc_realloc(old, bytes);
}
__attribute__((noinline)) void free(void *old)
{
    if (old)
        note("free", __builtin_return_address(0));
    __libc_free(old);
}
__attribute__((noinline)) int posix_memalign(void **out, size_t align, size_t bytes)
{
    note("posix_memalign", __builtin_return_address(0));
    *out = __libc_memalign(align, bytes);
    return *out ? 0 : ENOMEM;
}
__attribute__((noinline)) void *aligned_alloc(size_t align, size_t bytes)
{
    note("aligned_alloc", __builtin_return_address(0));
    return __libc_memalign(align, bytes);
}

static int (*real_lock)(pthread_mutex_t *), (*real_trylock)(pthread_mutex_t *);
__attribute__((noinline)) int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (!real_lock)
        *(void **)&real_lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    note("pthread_mutex_lock", __builtin_return_address(0));
    return real_lock(mutex);
}
__attribute__((noinline)) int pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    if (!real_trylock)
        *(void **)&real_trylock = dlsym(RTLD_NEXT, "pthread_mutex_trylock");
    note("pthread_mutex_trylock", __builtin_return_address(0));
    return real_trylock(mutex);
}

/* How a thread of the library waits for the device or for another thread. */
__attribute__((noinline)) int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    note("nanosleep", __builtin_return_address(0));
    return clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, left);
}

static const char *program, *transports;

/* How many of the noted calls came from this program (which links the library's archive). */
static uint32_t own_calls(void)
{
    Dl_info self, info;
    uint32_t own = 0, shown = 0;

    assert_true(dladdr((void *)(uintptr_t)own_calls, &self) != 0);
    for (uint32_t i = 0; i < seen_count && i < SEEN_MAX; i++) {
        bool known = dladdr(seen[i], &info) != 0;
        bool ours = known && info.dli_fbase == self.dli_fbase;
        own += ours;
        if (ours || shown++ < 5)
            printf("%s from %s (+%#lx)\n", seen_what[i], known ? info.dli_fname : "?",
                   known ? (unsigned long)((char *)seen[i] - (char *)info.dli_fbase) : 0ul);
    }
    return own;
}

/* How many came from a library whose file name has this in it. */
static uint32_t calls_of(const char *name)
{
    Dl_info info;
    uint32_t count = 0;

    for (uint32_t i = 0; i < seen_count && i < SEEN_MAX; i++)
        count += dladdr(seen[i], &info) != 0 && strstr(info.dli_fname, name) != NULL;
    return count;
}

typedef struct bench {
    harness_t *h;
    lw_session_t *session;
    const sequence_t *sequence;
    float *query, *out;
} bench_t;

static lw_tensor_t tensor(const harness_t *h, const float *data, uint32_t layer, uint32_t token,
                          uint32_t heads)
{
    size_t row = (size_t)h->model.layer_count * h->model.kv_head_count * h->model.head_dim;
    size_t at = heads == h->model.kv_head_count ? token * row + (size_t)layer * heads * h->model.head_dim : 0;
    return (lw_tensor_t){.data = (void *)(uintptr_t)(data + at),
                         .sessions = 1,
                         .tokens = 1,
                         .heads = heads,
                         .head_dim = h->model.head_dim};
}

static void step(bench_t *b)
{
    harness_t *h = b->h;
    uint32_t token = harness_tokens(b->session);
    lw_status_t ended = LW_OK;

    for (uint32_t layer = 0; layer < h->model.layer_count; layer++) {
        for (uint32_t i = 0; i < h->model.query_head_count * h->model.head_dim; i++)
            b->query[i] = 4 * ((float)lw_prng_unit(&h->prng) - 0.5f);
        lw_tensor_t out = tensor(h, b->out, layer, 0, h->model.query_head_count);
        lw_step_t args = {.size = sizeof(args),
                          .layer = layer,
                          .sessions = &b->session,
                          .session_count = 1,
                          .query = tensor(h, b->query, layer, 0, h->model.query_head_count),
                          .key = tensor(h, b->sequence->keys, layer, token, h->model.kv_head_count),
                          .value = tensor(h, b->sequence->values, layer, token, h->model.kv_head_count)};
        counting = true;
        lw_status_t status = lw_attend(h->kv, &args, &out, NULL);
        counting = false;
        if (status != LW_OK)
            fail_msg("step: %s", lw_last_error(h->kv));
    }
    if (h->kv->device.async) {
        lw_error_t error;
        assert_int_equal(lwc_stream_settle(h->kv, &error), LW_OK);
        assert_int_equal(lw_step_status(h->kv, b->session, &ended), LW_OK);
        assert_int_equal(ended, LW_OK);
    }
}

static void test_step_allocates_nothing_and_takes_no_lock(void **state)
{
    (void)state;
    static const harness_params_t params = {.layers = 4, .device_bytes = 512 << 10};
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    client_fleet_start(&fleet, program, transports, "64m");
    client_fleet_open(&fleet, &h, &params, (uint64_t)time(NULL));
    sequence_init(&seq, &h, 9000);
    sequence_grow(&seq, &h, 5000);
    lw_session_t *s = harness_session(&h, LW_POLICY_DEFAULT, 2048);
    harness_prefill(&h, s, &seq, 0, 4200, 420);
    bench_t bench = {.h = &h,
                     .session = s,
                     .sequence = &seq,
                     .query = calloc(h.model.query_head_count * h.model.head_dim, sizeof(float)),
                     .out = calloc(h.model.query_head_count * h.model.head_dim, sizeof(float))};
    step(&bench); /* ends the prefill */
    harness_settle(&h);
    for (int i = 0; i < 60; i++)
        step(&bench);
    lw_attr_t before = {.field_mask = LW_ATTR_ATTENTION}, after = before;
    assert_int_equal(lw_query(h.kv, &before), LW_OK);
    seen_count = 0;
    for (int i = 0; i < 200; i++)
        step(&bench);
    uint32_t total = seen_count, own = own_calls();
    assert_int_equal(lw_query(h.kv, &after), LW_OK);
    printf("%s: 200 steps of 4 layers: %llu hits, %llu misses; %u calls of malloc, free or a mutex, %u of "
           "them ours\n",
           transports, (unsigned long long)(after.hits - before.hits),
           (unsigned long long)(after.misses - before.misses), total, own);
    assert_true(after.hits > before.hits && after.misses > before.misses);
    assert_int_equal(own, 0);
    if (h.kv->device.async) /* and nothing of the transport's runs in this thread either */
        assert_int_equal(calls_of("libuc"), 0);
    lw_session_close(s);
    lw_close(h.kv);
    free(bench.query);
    free(bench.out);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
}

static void test_counter_sees_what_it_should(void **state)
{
    (void)state;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    seen_count = 0;
    counting = true;
    void *volatile memory = malloc(10);
    free(memory);
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    lwc_device_nap(1);
    counting = false;
    assert_int_equal(own_calls(), 4);
    seen_count = 0;
}

int main(int argc, char **argv)
{
    if (argc < 3 || !lw_fabric_ucx())
        return 77;
    program = argv[1];
    transports = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counter_sees_what_it_should),
        cmocka_unit_test(test_step_allocates_nothing_and_takes_no_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
