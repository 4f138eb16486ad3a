/* test_rpc_support.h - a small server with one method of each kind, for the tests of proto/rpc. */
#ifndef TEST_RPC_SUPPORT_H
#define TEST_RPC_SUPPORT_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rpc/rpc.h"

#define SECOND 1000000ull

/* Calls that a handler keeps; the test waits for them and answers. */
typedef struct test_kept {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    lw_rpc_call_t *calls[64];
    unsigned count;
} test_kept_t;

#define TEST_KEPT_INIT {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}

static inline void test_serve_echo(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    lw_rpc_reply(call, LW_OK, NULL, request, bytes);
}

/* Fails with the status whose number the request spells. */
static inline void test_serve_fail(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    char text[16] = "";
    memcpy(text, request, bytes < sizeof(text) ? bytes : sizeof(text) - 1);
    lw_rpc_reply(call, (lw_status_t)atoi(text), "the server's words", NULL, 0);
}

static inline void test_serve_peer(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    const char *peer = lw_rpc_peer(call);
    lw_rpc_reply(call, LW_OK, NULL, peer, strlen(peer));
}

/* "yes" when the client's certificate carries the URI that the request is. */
static inline void test_serve_has(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    char uri[128] = "";
    if (bytes < sizeof(uri))
        memcpy(uri, request, bytes);
    const char *answer = lw_rpc_peer_has(call, uri) ? "yes" : "no";
    lw_rpc_reply(call, LW_OK, NULL, answer, strlen(answer));
}

static inline void test_serve_keep(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    test_kept_t *kept = arg;
    pthread_mutex_lock(&kept->lock);
    kept->calls[kept->count++] = call;
    pthread_cond_broadcast(&kept->changed);
    pthread_mutex_unlock(&kept->lock);
}

/* Streams the numbers 0..n-1 of a request that spells n, then ends well. */
static inline void test_serve_count(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes)
{
    char text[16] = "";
    memcpy(text, request, bytes < sizeof(text) ? bytes : sizeof(text) - 1);
    uint32_t n = (uint32_t)atoi(text);
    for (uint32_t i = 0; i < n; i++)
        if (lw_rpc_write(call, &i, sizeof(i)) != LW_OK) {
            lw_rpc_finish(call, LW_ERR_EXHAUSTED, "too many");
            return;
        }
    lw_rpc_finish(call, LW_OK, NULL);
}

static inline lw_rpc_call_t *test_kept_wait(test_kept_t *kept, unsigned index)
{
    pthread_mutex_lock(&kept->lock);
    while (kept->count <= index)
        pthread_cond_wait(&kept->changed, &kept->lock);
    lw_rpc_call_t *call = kept->calls[index];
    pthread_mutex_unlock(&kept->lock);
    return call;
}

static inline lw_rpc_server_t *test_server(const lw_rpc_tls_t *tls, test_kept_t *kept)
{
    const lw_rpc_method_t methods[] = {
        {.path = "/test.Test/Echo", .serve = test_serve_echo},
        {.path = "/test.Test/Fail", .serve = test_serve_fail},
        {.path = "/test.Test/Peer", .serve = test_serve_peer},
        {.path = "/test.Test/Has", .serve = test_serve_has},
        {.path = "/test.Test/Keep", .serve = test_serve_keep, .arg = kept},
        {.path = "/test.Test/KeepStream", .streaming = true, .serve = test_serve_keep, .arg = kept},
        {.path = "/test.Test/Count", .streaming = true, .serve = test_serve_count},
    };
    lw_rpc_server_t *server = NULL;
    lw_error_t error = {0};
    if (lw_rpc_serve("127.0.0.1:0", tls, methods, LW_ARRAY_SIZE(methods), &server, &error) != LW_OK)
        fail_msg("serve: %s", error.text);
    return server;
}

static inline lw_rpc_channel_t *test_channel(const char *address, const lw_rpc_tls_t *tls)
{
    lw_rpc_channel_t *channel = NULL;
    lw_error_t error = {0};
    if (lw_rpc_connect(address, tls, &channel, &error) != LW_OK)
        fail_msg("connect: %s", error.text);
    return channel;
}

#endif /* TEST_RPC_SUPPORT_H */
