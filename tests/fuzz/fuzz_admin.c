/* fuzz_admin.c - requests of the control plane, run on a small catalogue as the control thread would. An input is a row of
 * requests: method (u8), length (u16, little-endian), bytes. Each must be answered once, a refusal with words, and the
 * catalogue must stay in order. */
#include "fuzz.h"

#include <string.h>

#include "base/log.h"
#include "storaged/ctl/ctl_private.h"

#define T0 1700000000000000ull
#define LEASE 60000000ull

typedef struct answer {
    unsigned count;
    lw_status_t status;
} answer_t;

static void silent(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)level, (void)component, (void)line;
}

static uint64_t still(void *self)
{
    (void)self;
    return T0;
}

static void answered(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    answer_t *answer = arg;
    answer->count++;
    answer->status = status;
    FUZZ_REQUIRE(status <= LW_OK);
    FUZZ_REQUIRE(status == LW_OK || text[0] != 0);
    FUZZ_REQUIRE(status == LW_OK || reply->bytes == 0);
    FUZZ_REQUIRE(reply->bytes <= LW_RPC_MESSAGE_MAX);
}

/* Session 1 with two ranges, session 2 a fork of its first. */
static void world_fill(lwd_ctl_t *ctl)
{
    lwd_session_row_t row;
    lwd_create_t create = {.tenant = "t", .client_id = 1, .incarnation = 1, .lease_us = LEASE,
                           .shape = {.model_id = "m", .layer_count = 2, .kv_head_count = 1, .query_head_count = 2,
                                     .head_dim = 64, .dtype = 1, .rank_count = 1, .segment_tokens = 1024,
                                     .replicas = 1}};
    lwd_range_t ranges[2] = {{.token_count = 1024, .generation = 1, .replicas = 1, .bytes = 10},
                             {.first_token = 1024, .token_count = 1024, .generation = 1, .replicas = 1, .bytes = 10}};
    FUZZ_REQUIRE(ctl->ops->create(ctl->catalogue, &create, T0, &row, NULL) == LW_OK);
    FUZZ_REQUIRE(ctl->ops->commit(ctl->catalogue, row.session_id, 0, 1, ranges, 2, T0, NULL) == LW_OK);
    FUZZ_REQUIRE(ctl->ops->fork(ctl->catalogue, "t", row.session_id, 1024, 1, 1, LEASE, T0, &row, NULL) == LW_OK);
}

/* Every session that can be read has a manifest without gaps up to its token count. */
static void world_check(lwd_ctl_t *ctl)
{
    static lwd_session_row_t rows[64];
    static lwd_range_t ranges[256];
    uint32_t count = 0;
    FUZZ_REQUIRE(ctl->ops->list(ctl->catalogue, NULL, 0, 64, rows, &count, NULL) == LW_OK);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t range_count = 0, end = 0;
        if (rows[i].state > LWD_SESSION_IDLE)
            continue;
        FUZZ_REQUIRE(rows[i].shape.layer_count <= LW_LAYERS_MAX && rows[i].term > 0);
        FUZZ_REQUIRE(ctl->ops->ranges(ctl->catalogue, rows[i].session_id, 0, 0, 256, ranges, &range_count, NULL) == LW_OK);
        for (uint32_t r = 0; r < range_count; r++) {
            FUZZ_REQUIRE(ranges[r].first_token == end);
            end += ranges[r].token_count;
        }
        FUZZ_REQUIRE(rows[i].token_count <= end || range_count == 256);
    }
}

static const ctl_method_t *method_pick(uint8_t number)
{
    static const char *const admin[] = {"/longwave.v1.Fleet/Get", "/longwave.v1.Fleet/Sync", "/longwave.v1.Fleet/Orphans",
                                        "/longwave.v1.Fleet/Expire", "/longwave.v1.Fleet/Placed",
                                        "/longwave.v1.Fleet/Move", "/longwave.v1.Fleet/Drain",
                                        "/longwave.v1.Admin/Status",
                                        "/longwave.v1.Admin/SetLogLevel", "/grpc.health.v1.Health/Check"};
    number %= LW_ARRAY_SIZE(ctl_session_methods) + LW_ARRAY_SIZE(admin);
    return number < LW_ARRAY_SIZE(ctl_session_methods) ? &ctl_session_methods[number]
                                                       : lwd_ctl_method(admin[number - LW_ARRAY_SIZE(ctl_session_methods)]);
}

static void request_run(lwd_ctl_t *ctl, uint8_t number, const uint8_t *bytes, size_t byte_count)
{
    answer_t answer = {0};
    ctl_job_t *job = calloc(1, sizeof(*job) + byte_count);
    FUZZ_REQUIRE(job != NULL);
    job->ctl = ctl;
    job->method = method_pick(number);
    job->done = answered;
    job->done_arg = &answer;
    job->request_bytes = byte_count;
    if (byte_count)
        memcpy(job->request, bytes, byte_count);
    job->method->run(ctl, job);
    FUZZ_REQUIRE(answer.count == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    static const lw_clock_t clock = {still, still, NULL};
    static lwd_ctl_t ctl;
    lw_error_t error;
    lw_log_set_sink(silent, NULL);
    memset(&ctl, 0, sizeof(ctl));
    pthread_mutex_init(&ctl.view_lock, NULL);
    ctl.clock = &clock;
    ctl.holder = true;
    ctl.ops = lwd_catalogue_sim();
    ctl.fleet_count = 1;
    strcpy(ctl.fleet[0], "127.0.0.1:1");
    FUZZ_REQUIRE(ctl.ops->open("", &ctl.catalogue, &error) == LW_OK);
    FUZZ_REQUIRE(lwd_ctl_fleet_start(&ctl, &error) == LW_OK);
    world_fill(&ctl);
    for (unsigned requests = 0; byte_count >= 3 && requests < 64; requests++) {
        size_t length = (size_t)bytes[1] | (size_t)bytes[2] << 8;
        uint8_t number = bytes[0];
        bytes += 3;
        byte_count -= 3;
        length = length < byte_count ? length : byte_count;
        request_run(&ctl, number, bytes, length);
        bytes += length;
        byte_count -= length;
    }
    world_check(&ctl);
    ctl.ops->close(ctl.catalogue);
    pthread_mutex_destroy(&ctl.view_lock);
    return 0;
}
