/* test_move.c - four real daemons of a static fleet: one is killed and its copies are made again, one is drained and exits
 * empty. Arguments: the storaged program, the transport. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/longwave_types.h"
#include "client/control/control.h"
#include "e2e/process.h"
#include "unit/storaged/data_client.h"
#include "unit/storaged/segment_make.h"

#define NODES 4u
#define LAYERS 4u
#define RANGES 12u
#define SEGMENTS (LAYERS * RANGES)
#define LEASE_US 30000000ull

static const char *program, *transports;
static uint64_t seed;

typedef struct fleet {
    process_t process[NODES];
    char directory[64], control[NODES][64], addresses[NODES * 64];
    lwc_control_t *handle;
    lwc_session_info_t session;
    lw_segment_name_t names[SEGMENTS];
    uint8_t *segments[SEGMENTS];
    uint64_t bytes[SEGMENTS], total_bytes;
    lwc_range_t ranges[RANGES];
} fleet_t;

static lw_error_t error;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static void pause_a_little(void) /* between two looks at what other processes do */
{
    const struct timespec pause = {.tv_nsec = 20000000};
    (void)nanosleep(&pause, NULL);
}

static void start_node(fleet_t *fleet, uint32_t node)
{
    char catalogue[128];
    snprintf(catalogue, sizeof(catalogue), "%s/catalogue.sqlite", fleet->directory);
    const char *const argv[] = {program,
                                "--ctl.listen", fleet->control[node],
                                "--fleet.nodes", fleet->addresses,
                                "--data.listen", "127.0.0.1:0",
                                "--ctl.http", "127.0.0.1:0",
                                "--catalogue.path", catalogue,
                                "--data.transports", transports,
                                "--mem.arena_bytes", "128m",
                                "--lease.us", "500ms",
                                "--move.repair_after_us", "300ms",
                                "--move.scan_us", "1s",
                                "--move.rebalance", "false",
                                "--stop.drain_us", "30s",
                                "--log.level", "warn",
                                NULL};
    if (!process_start(&fleet->process[node], argv))
        fail_msg("node %u did not start: %s", node, fleet->process[node].errors);
}

static lw_view_t view_of(fleet_t *fleet)
{
    lw_view_t view;
    if (lwc_control_fleet_get(fleet->handle, &view, &error) != LW_OK)
        fail_msg("the view: %s", error.text);
    return view;
}

static uint32_t up_count(fleet_t *fleet)
{
    lw_view_t view = view_of(fleet);
    uint32_t up = 0;
    for (uint32_t i = 0; i < view.node_count; i++)
        up += view.nodes[i].state == LW_NODE_UP;
    lwc_view_free(&view);
    return up;
}

#define WAIT_FOR(condition, seconds)                                                      \
    do {                                                                                  \
        uint64_t until_us = now_us() + (seconds)*1000000ull;                              \
        while (!(condition)) {                                                            \
            if (now_us() > until_us)                                                      \
                fail_msg("not so within " #seconds " s: " #condition);                    \
            pause_a_little();                                                             \
        }                                                                                 \
    } while (0)

/* ---- writing ---- */
static void put(fleet_t *fleet, const lw_node_t *node, uint32_t first, uint32_t count, const uint16_t (*nodes)[2])
{
    data_client_t client;
    data_client_open(&client, lw_fabric_ucx(), transports, node->data, NULL, NULL);
    assert_int_equal(data_hello(&client, fleet->handle->client_id, fleet->handle->incarnation), LW_OK);
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH,
                    .body.attach = {.session_id = fleet->session.session_id, .write = 1, .term = fleet->session.term}};
    memcpy(msg.body.attach.token, fleet->session.token, LW_TOKEN_BYTES);
    assert_true(data_client_call(&client, &msg, NULL, 0));
    assert_int_equal(client.reply.body.attach_reply.status, LW_OK);
    for (uint32_t i = first; i < first + count; i++) {
        uint64_t handle;
        if (nodes[i][0] == node->index || nodes[i][1] == node->index)
            assert_int_equal(data_put(&client, fleet->segments[i], fleet->bytes[i], &handle), LW_OK);
    }
    data_client_close(&client);
}

static void write_session(fleet_t *fleet)
{
    const lwc_shape_t shape = {.model_id = "moved", .layer_count = LAYERS, .kv_head_count = 2, .query_head_count = 4,
                               .head_dim = 64, .dtype = LW_DTYPE_BF16, .rank_count = 1, .segment_tokens = 1024,
                               .replicas = 2};
    uint16_t nodes[SEGMENTS][2];
    if (lwc_control_create(fleet->handle, &shape, LEASE_US, 0, &fleet->session, &error) != LW_OK)
        fail_msg("create: %s", error.text);
    lw_view_t view = view_of(fleet);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        static const segment_shape_t contents = {.heads = 2, .clusters = 60, .outliers = 20, .rows_max = 16, .head_dim = 64};
        uint32_t position[2];
        fleet->names[i] = (lw_segment_name_t){.origin = fleet->session.session_id, .layer = (uint16_t)(i % LAYERS),
                                              .first_token = i / LAYERS * 1024, .generation = fleet->session.term};
        fleet->segments[i] = segment_make(&fleet->names[i], &contents, seed + i, &fleet->bytes[i]);
        fleet->total_bytes += fleet->bytes[i];
        assert_int_equal(lw_place(&view, &fleet->names[i], 2, position), 2);
        for (int r = 0; r < 2; r++)
            nodes[i][r] = view.nodes[position[r]].index;
    }
    for (uint32_t n = 0; n < view.node_count; n++)
        put(fleet, &view.nodes[n], 0, SEGMENTS, (const uint16_t (*)[2])nodes);
    for (uint32_t r = 0; r < RANGES; r++) {
        lwc_range_t *range = &fleet->ranges[r];
        *range = (lwc_range_t){.first_token = r * 1024, .token_count = 1024, .generation = fleet->session.term,
                               .replicas = 2};
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            range->bytes += fleet->bytes[r * LAYERS + layer];
            memcpy(&range->node_index[layer * 2], nodes[r * LAYERS + layer], sizeof(nodes[0]));
        }
    }
    if (lwc_control_commit(fleet->handle, &fleet->session, 0, fleet->ranges, RANGES, &error) != LW_OK)
        fail_msg("commit: %s", error.text);
    lwc_view_free(&view);
}

/* ---- looking ---- */
static void read_manifest(fleet_t *fleet)
{
    uint32_t count = 0, renewed;
    assert_int_equal(lwc_control_renew(fleet->handle, LEASE_US, &renewed, &error), LW_OK);
    if (lwc_control_ranges(fleet->handle, &fleet->session, 0, 0, RANGES, fleet->ranges, &count, &error) != LW_OK)
        fail_msg("ranges: %s", error.text);
    assert_int_equal(count, RANGES);
}

static bool names_node(fleet_t *fleet, uint16_t node)
{
    read_manifest(fleet);
    for (uint32_t r = 0; r < RANGES; r++)
        for (uint32_t i = 0; i < LAYERS * 2; i++)
            if (fleet->ranges[r].node_index[i] == node)
                return true;
    return false;
}

/* Every copy that the manifest names is there and has the right bytes. */
static void check_copies(fleet_t *fleet)
{
    lw_view_t view = view_of(fleet);
    uint32_t copies = 0;
    read_manifest(fleet);
    for (uint32_t n = 0; n < view.node_count; n++) {
        const lw_node_t *node = &view.nodes[n];
        data_client_t client = {0};
        for (uint32_t i = 0; i < SEGMENTS; i++) {
            const uint16_t *nodes = &fleet->ranges[i / LAYERS].node_index[i % LAYERS * 2];
            assert_int_not_equal(nodes[0], nodes[1]);
            if (nodes[0] != node->index && nodes[1] != node->index)
                continue;
            if (client.ops == NULL) {
                data_client_open(&client, lw_fabric_ucx(), transports, node->data, NULL, NULL);
                assert_int_equal(data_hello(&client, 5, 1), LW_OK);
            }
            lw_msg_t msg = {.header.type = LW_MSG_ATTACH,
                            .body.attach = {.session_id = fleet->session.session_id, .name_count = 1}};
            memcpy(msg.body.attach.token, fleet->session.token, LW_TOKEN_BYTES);
            assert_true(data_client_call(&client, &msg, &fleet->names[i], sizeof(fleet->names[i])));
            assert_int_equal(client.reply.body.attach_reply.status, LW_OK);
            lw_msg_attached_t attached = client.reply.attached[0];
            if (attached.status != LW_OK)
                fail_msg("segment %u is not on node %u", i, node->index);
            assert_int_equal(data_read(&client, attached.handle, 0, 0), LW_OK);
            assert_int_equal(client.payload_bytes, fleet->bytes[i]);
            assert_memory_equal(client.payload, fleet->segments[i], fleet->bytes[i]);
            copies++;
        }
        if (client.ops != NULL)
            data_client_close(&client);
    }
    assert_int_equal(copies, 2 * SEGMENTS);
    lwc_view_free(&view);
}

static uint64_t metric(fleet_t *fleet, uint32_t node, const char *name)
{
    lwc_node_status_t status;
    char line[80];
    if (lwc_control_admin_status(fleet->handle, fleet->control[node], &status, &error) != LW_OK)
        return UINT64_MAX;
    snprintf(line, sizeof(line), "\n%s ", name);
    const char *at = strstr(status.metrics, line);
    uint64_t value = at ? strtoull(at + strlen(line), NULL, 10) : UINT64_MAX;
    lwc_node_status_free(&status);
    return value;
}

static void start(fleet_t *fleet)
{
    memset(fleet, 0, sizeof(*fleet));
    strcpy(fleet->directory, "/tmp/longwave-e2e-XXXXXX");
    assert_non_null(mkdtemp(fleet->directory));
    assert_true(process_addresses(NODES, fleet->control, fleet->addresses));
    for (uint32_t i = 0; i < NODES; i++)
        start_node(fleet, i);
    const lwc_control_params_t params = {.size = sizeof(params), .seeds = fleet->addresses};
    if (lwc_control_open(&params, &fleet->handle, &error) != LW_OK)
        fail_msg("open: %s", error.text);
    WAIT_FOR(up_count(fleet) == NODES, 10);
    write_session(fleet);
    check_copies(fleet);
}

static void stop(fleet_t *fleet)
{
    static const char *const files[] = {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"};
    char path[128];
    for (uint32_t i = NODES; i-- > 0;) /* nothing is left to drain for: the session is dropped */
        if (fleet->process[i].pid > 0)
            assert_int_equal(process_end(&fleet->process[i], i == 0 ? SIGTERM : SIGKILL), i == 0 ? 0 : 1000 + SIGKILL);
    lwc_control_close(fleet->handle);
    for (size_t f = 0; f < LW_ARRAY_SIZE(files); f++) {
        snprintf(path, sizeof(path), "%s/%s", fleet->directory, files[f]);
        (void)unlink(path);
    }
    (void)rmdir(fleet->directory);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        free(fleet->segments[i]);
}

static void test_a_killed_nodes_copies_are_made_again_and_a_drained_node_exits_empty(void **state)
{
    fleet_t fleet;
    (void)state;
    start(&fleet);
    uint64_t began = now_us(), pulled = 0;
    assert_int_equal(process_end(&fleet.process[3], SIGKILL), 1000 + SIGKILL);
    WAIT_FOR(!names_node(&fleet, 3), 30);
    double seconds = (double)(now_us() - began) * 1e-6;
    for (uint32_t i = 0; i < 3; i++)
        pulled += metric(&fleet, i, "storaged_moves_bytes");
    printf("killed: %.1f MB copied again %.2f s after the kill\n", (double)pulled * 1e-6, seconds);
    check_copies(&fleet);
    WAIT_FOR(metric(&fleet, 0, "storaged_segments_degraded") == 0, 10);

    began = now_us();
    assert_int_equal(process_end(&fleet.process[2], SIGTERM), 0);
    printf("drained in %.2f s\n", (double)(now_us() - began) * 1e-6);
    assert_false(names_node(&fleet, 2));
    check_copies(&fleet);
    WAIT_FOR(metric(&fleet, 0, "storaged_segments") == SEGMENTS, 10);
    assert_int_equal(metric(&fleet, 1, "storaged_segments"), SEGMENTS);
    assert_int_equal(lwc_control_drop(fleet.handle, fleet.session.session_id, &error), LW_OK);
    WAIT_FOR(metric(&fleet, 0, "storaged_segments") == 0 && metric(&fleet, 1, "storaged_segments") == 0, 10);
    stop(&fleet);
}

/* The operator's drain stays until it is taken back; old copies are freed once nobody can need them; a node that comes
 * back with nothing gets what the manifest has there. */
static void test_a_drained_node_stays_empty_until_that_is_taken_back_and_an_empty_one_is_filled(void **state)
{
    fleet_t fleet;
    (void)state;
    start(&fleet);
    assert_int_equal(lwc_control_drain(fleet.handle, 9, true, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(lwc_control_drain(fleet.handle, 1, true, &error), LW_OK);
    WAIT_FOR(!names_node(&fleet, 1), 30);
    check_copies(&fleet);
    WAIT_FOR(metric(&fleet, 1, "storaged_segments") == 0, 10); /* swept */
    assert_int_equal(up_count(&fleet), NODES - 1);

    /* Killed and back before the grace is over: nothing is placed elsewhere, and it pulls what it lost. */
    assert_int_equal(process_end(&fleet.process[2], SIGKILL), 1000 + SIGKILL);
    start_node(&fleet, 2);
    read_manifest(&fleet);
    uint64_t placed = 0;
    WAIT_FOR(up_count(&fleet) == NODES - 1 && metric(&fleet, 0, "storaged_segments_degraded") == 0, 20);
    WAIT_FOR(metric(&fleet, 2, "storaged_scans") >= 1 && metric(&fleet, 2, "storaged_moves_waiting") == 0, 20);
    WAIT_FOR((placed = metric(&fleet, 2, "storaged_segments_placed")) == metric(&fleet, 2, "storaged_segments"), 20);
    check_copies(&fleet);
    printf("refilled: %llu segments on the node that came back\n", (unsigned long long)placed);
    assert_int_equal(lwc_control_drain(fleet.handle, 1, false, &error), LW_OK);
    WAIT_FOR(up_count(&fleet) == NODES, 10);
    assert_int_equal(lwc_control_drop(fleet.handle, fleet.session.session_id, &error), LW_OK);
    stop(&fleet);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    program = argv[1];
    transports = argv[2];
    const char *given = getenv("LW_TEST_SEED");
    seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    printf("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_killed_nodes_copies_are_made_again_and_a_drained_node_exits_empty),
        cmocka_unit_test(test_a_drained_node_stays_empty_until_that_is_taken_back_and_an_empty_one_is_filled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
