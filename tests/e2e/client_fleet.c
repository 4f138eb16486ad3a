/* client_fleet.c - see client_fleet.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "e2e/client_fleet.h"
#include "unit/client/queue_backend.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void client_fleet_start_node(client_fleet_t *fleet, uint32_t node)
{
    char catalogue[128];
    snprintf(catalogue, sizeof(catalogue), "%s/catalogue.sqlite", fleet->directory);
    const char *argv[48] = {fleet->program,
                                "--ctl.listen",
                                fleet->control[node],
                                fleet->etcd ? "--etcd.endpoints" : "--fleet.nodes",
                                fleet->etcd ? fleet->etcd : fleet->addresses,
                                "--data.listen",
                                "127.0.0.1:0",
                                "--ctl.http",
                                "127.0.0.1:0",
                                "--catalogue.path",
                                catalogue,
                                "--data.transports",
                                fleet->transports,
                                "--mem.arena_bytes",
                                fleet->arena_bytes,
                                "--log.level",
                                "warn",
                                NULL};
    uint32_t used = 0, more = 0;
    while (argv[used])
        used++;
    while (fleet->options && fleet->options[more] && used < LW_ARRAY_SIZE(argv) - 1)
        argv[used++] = fleet->options[more++];
    if (!process_start(&fleet->process[node], argv))
        fail_msg("node %u did not start: %s", node, fleet->process[node].errors);
}

static void start(client_fleet_t *fleet, const char *program, const char *transports, const char *arena_bytes)
{
    fleet->program = program;
    fleet->transports = transports;
    fleet->arena_bytes = arena_bytes;
    strcpy(fleet->directory, "/tmp/longwave-e2e-XXXXXX");
    assert_non_null(mkdtemp(fleet->directory));
    assert_true(process_addresses(fleet->nodes, fleet->control, fleet->addresses));
    for (uint32_t i = 0; i < fleet->nodes; i++)
        client_fleet_start_node(fleet, i);
}

void client_fleet_start(client_fleet_t *fleet, const char *program, const char *transports,
                        const char *arena_bytes)
{
    client_fleet_start_on(fleet, program, transports, arena_bytes, NULL);
}

void client_fleet_start_on(client_fleet_t *fleet, const char *program, const char *transports,
                           const char *arena_bytes, const char *etcd)
{
    memset(fleet, 0, sizeof(*fleet));
    fleet->etcd = etcd;
    fleet->nodes = FLEET_NODES;
    start(fleet, program, transports, arena_bytes);
}

void client_fleet_start_with(client_fleet_t *fleet, const char *program, const char *transports, const char *arena_bytes,
                             uint32_t nodes, const char *const *options)
{
    memset(fleet, 0, sizeof(*fleet));
    fleet->nodes = nodes;
    fleet->options = options;
    start(fleet, program, transports, arena_bytes);
}

void client_fleet_stop(client_fleet_t *fleet)
{
    char path[128];

    for (uint32_t i = fleet->nodes; i-- > 0;) /* the catalogue's node last: the others ask it whether they may leave */
        if (fleet->process[i].pid > 0)
            assert_int_equal(process_end(&fleet->process[i], SIGTERM), 0);
    static const char *const files[] = {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"};
    for (size_t f = 0; f < LW_ARRAY_SIZE(files); f++) {
        snprintf(path, sizeof(path), "%s/%s", fleet->directory, files[f]);
        (void)unlink(path);
    }
    (void)rmdir(fleet->directory);
}

void client_fleet_open(client_fleet_t *fleet, harness_t *h, const harness_params_t *params, uint64_t seed)
{
    char config[256];

    memset(h, 0, sizeof(*h));
    lw_prng_seed(&h->prng, seed);
    harness_model(h, params);
    snprintf(config, sizeof(config), "client.transports=%s;%s", fleet->transports,
             params->config ? params->config : "");
    const char *backend = params->backend ? params->backend : getenv("LW_TEST_BACKEND");
    backend = backend ? backend : "cpu";
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = backend,
                             .fleet = fleet->seeds ? fleet->seeds : fleet->addresses,
                             .config = config,
                             .device_bytes = params->device_bytes,
                             .model = h->model,
                             .sessions_max = params->sessions_max ? params->sessions_max : 4,
                             .tokens_max = params->tokens_max ? params->tokens_max : 16384};
    /* The other nodes hear of each other within a moment of their start. */
    lwc_env_t queue = {.fabric = lw_fabric_ucx(),
                       .clock = lw_clock_real(),
                       .keeper_thread = true,
                       .backend = queue_backend()};
    lw_error_t error = {.text = ""};
    lw_status_t status =
        strcmp(backend, "queue") == 0 ? lwc_ctx_open(&open, &queue, &h->kv, &error) : lw_open(&open, &h->kv);
    if (status != LW_OK)
        fail_msg("open: %s: %s%s", lw_status_string(status), error.text, lw_last_error(NULL));
}
