/* harness_sim.c - opens the harness over the fake store and a catalogue in this process. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "unit/client/fake_store.h"
#include "unit/client/harness.h"

static uint64_t clock_now(void *self)
{
    harness_t *h = self;
    return h->time_us += 10; /* every look takes a little time, so that nothing waits for ever */
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
    nodes_init(h);
    harness_model(h, params);
    if (lw_control_sim_init(&h->fleet, NULL, &h->clock, h->nodes, 3, &error) != LW_OK ||
        lw_control_sim_open(&h->fleet, NULL, 7, 1, &control, &error) != LW_OK)
        fail_msg("control: %s", error.text);
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = params->backend ? params->backend : "ref",
                             .config = params->config,
                             .device_bytes = params->device_bytes,
                             .model = h->model,
                             .sessions_max = params->sessions_max ? params->sessions_max : 4,
                             .tokens_max = params->tokens_max ? params->tokens_max : 16384};
    lwc_env_t env = {.fabric = (const lw_fabric_ops_t *)&h->fleet, /* the fake store never looks at it */
                     .clock = &h->clock,
                     .control = control};
    if (lwc_ctx_open(&open, &env, &h->kv, &error) != LW_OK)
        fail_msg("open: %s", error.text);
}

void harness_close(harness_t *h)
{
    lw_close(h->kv);
    lw_control_sim_fini(&h->fleet);
    fake_store_reset();
}
