/* harness_sim.c - opens the harness over the fake store and a catalogue in this process. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quick.h"
#include "unit/client/fake_store.h"
#include "unit/client/harness.h"
#include "unit/client/queue_backend.h"

static uint64_t clock_now(void *self)
{
    harness_t *h = self;
    /* Every look takes a little time, so that nothing waits for ever. */
    return __atomic_add_fetch(&h->time_us, 10, __ATOMIC_RELAXED);
}

static void nodes_init(harness_t *h)
{
    memset(h->nodes, 0, sizeof(h->nodes));
    for (uint16_t i = 0; i < 3; i++) {
        h->nodes[i] =
            (lw_node_t){.id = 100u + i, .incarnation = 1, .state = LW_NODE_UP, .weight = 1, .index = i};
        snprintf(h->nodes[i].data, sizeof(h->nodes[i].data), "127.0.0.1:%u", 7000u + i);
    }
}

void harness_open(harness_t *h, const harness_params_t *params, uint64_t seed)
{
    lw_error_t error = {.text = ""};
    lwc_control_t *control = NULL;

    memset(h, 0, sizeof(*h));
    fake_store_reset();
    lw_prng_seed(&h->prng, seed);
    h->time_us = 1000000;
    h->clock = (lw_clock_t){.now_us = clock_now, .unix_us = clock_now, .self = h};
    const char *backend = params->backend ? params->backend : getenv("LW_TEST_BACKEND");
    if (!backend)
        backend = quick_run() ? "cpu" : "ref"; /* ref has its own run under sanitizers in the op matrix */
    bool queue = strcmp(backend, "queue") == 0;
    bool async = queue || strcmp(backend, "cuda") == 0;
    char config[512]; /* leases are renewed by a thread that waits for a slow device here */
    const char *patient = async ? "client.lease=1h;client.ship_timeout=30m;client.room_timeout=30m;" : "";
    if (params->impatient)
        patient = async ? "client.lease=1h;client.ship_timeout=5s;client.room_timeout=1h;"
                        : "client.ship_timeout=300ms;client.room_timeout=1h;";
    const char *build = quick_run() ? "index.iterations=2;" : ""; /* worse clusters, the same answers */
    snprintf(config, sizeof(config), "%s%s%s", patient, build, params->config ? params->config : "");
    if (async)
        h->clock = *lw_clock_real(); /* several threads look, often */
    nodes_init(h);
    harness_model(h, params);
    if (lw_control_sim_init(&h->fleet, NULL, &h->clock, h->nodes, 3, &error) != LW_OK ||
        lw_control_sim_open(&h->fleet, NULL, 7, 1, &control, &error) != LW_OK)
        fail_msg("control: %s", error.text);
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = backend,
                             .config = config,
                             .fleet = params->local ? "local" : NULL,
                             .device_bytes = params->device_bytes,
                             .model = h->model,
                             .sessions_max = params->sessions_max ? params->sessions_max : 4,
                             .tokens_max = params->tokens_max ? params->tokens_max : 16384};
    lwc_env_t env = {.fabric = (const lw_fabric_ops_t *)&h->fleet, /* the fake store never looks at it */
                     .clock = &h->clock,
                     .control = params->local ? NULL : control,
                     .backend = queue ? queue_backend() : NULL};
    if (params->local)
        lwc_control_close(control);
    if (lwc_ctx_open(&open, &env, &h->kv, &error) != LW_OK)
        fail_msg("open: %s", error.text);
}

void harness_close(harness_t *h)
{
    lw_close(h->kv);
    lw_control_sim_fini(&h->fleet);
    fake_store_reset();
}
