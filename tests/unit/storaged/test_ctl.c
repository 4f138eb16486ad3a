/* test_ctl.c - one node's control plane through the client, through raw calls, and through the agent's questions. */
#include "test_ctl_support.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/prng.h"
#include "client/control/control.h"
#include "pb/fleet.pb-c.h"
#include "pb/health.pb-c.h"
#include "rpc/rpc.h"

#define LEASE (60 * SECOND)

static seen_t seen;
static lwd_ctl_t *ctl;
static lwc_control_t *control;
static lw_error_t error;

static lwc_control_t *client_open(const char *seeds, const char *tenant)
{
    lwc_control_params_t params = {.size = sizeof(params), .seeds = seeds, .tenant = tenant, .timeout_us = 10 * SECOND};
    lwc_control_t *opened = NULL;
    if (lwc_control_open(&params, &opened, &error) != LW_OK)
        fail_msg("open: %s", error.text);
    return opened;
}

static int setup(void **state)
{
    lwd_ctl_params_t params = node_params(&seen);
    ctl = node_start(&params);
    control = client_open(lwd_ctl_address(ctl), NULL);
    return 0;
}

static int teardown(void **state)
{
    lwc_control_close(control);
    if (ctl)
        lwd_ctl_stop(ctl, SECOND);
    return 0;
}

static lwc_shape_t shape(void)
{
    return (lwc_shape_t){.model_id = "m", .layer_count = 3, .kv_head_count = 1, .query_head_count = 4, .head_dim = 64,
                         .dtype = LW_DTYPE_BF16, .rank_count = 1, .segment_tokens = 2048, .replicas = 2,
                         .cluster_encoding = LW_ENCODING_INT8, .outlier_encoding = LW_ENCODING_INT4,
                         .outlier_ppm = 125000, .cluster_tokens = 16};
}

static lwc_session_info_t create(void)
{
    lwc_shape_t wanted = shape();
    lwc_session_info_t info;
    if (lwc_control_create(control, &wanted, LEASE, 0, &info, &error) != LW_OK)
        fail_msg("create: %s", error.text);
    return info;
}

static lwc_range_t range_of(uint32_t first, uint32_t tokens, uint32_t term)
{
    lwc_range_t range = {.first_token = first, .token_count = tokens, .generation = term, .replicas = 2, .bytes = 1000};
    for (unsigned i = 0; i < 6; i++)
        range.node_index[i] = (uint16_t)(first / 1024 + i);
    return range;
}

/* ---- what is refused ---- */

static void test_bytes_that_are_no_message_are_refused_by_every_method(void **state)
{
    static const char *const methods[] = {
        "Session/Create", "Session/Open", "Session/Renew", "Session/Release", "Session/Fork", "Session/Pin",
        "Session/Drop", "Session/List", "Session/Get", "Session/Commit", "Session/Ranges", "Session/Check",
        "Fleet/Sync", "Fleet/Orphans", "Fleet/Expire", "Admin/SetLogLevel",
    };
    lw_prng_t prng;
    uint64_t seed = lw_clock_real()->unix_us(NULL);
    print_message("seed %llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    lw_rpc_channel_t *channel = NULL;
    assert_int_equal(lw_rpc_connect(lwd_ctl_address(ctl), NULL, &channel, &error), LW_OK);
    for (size_t i = 0; i < LW_ARRAY_SIZE(methods); i++)
        for (unsigned round = 0; round < 20; round++) {
            uint8_t noise[64];
            char path[64];
            lw_rpc_bytes_t reply = {0};
            noise[0] = 0x07; /* wire type 7 does not exist: no message begins like this */
            for (size_t b = 1; b < sizeof(noise); b++)
                noise[b] = (uint8_t)lw_prng_u64(&prng);
            snprintf(path, sizeof(path), "/longwave.v1.%s", methods[i]);
            lw_status_t status = lw_rpc_call(channel, path, noise, 1 + lw_prng_below(&prng, 63), 10 * SECOND, &reply, &error);
            if (status != LW_ERR_INVALID)
                fail_msg("%s answered %d", path, status);
        }
    /* An empty message is a message with nothing in it: refused for what is missing, where something must be there. */
    for (size_t i = 0; i < 9; i++) {
        char path[64];
        lw_rpc_bytes_t reply = {0};
        snprintf(path, sizeof(path), "/longwave.v1.%s", methods[i]);
        assert_int_equal(lw_rpc_call(channel, path, "", 0, 10 * SECOND, &reply, &error), LW_ERR_INVALID);
        assert_string_equal(error.text, "client is missing");
    }
    lw_rpc_disconnect(channel);
}

static void test_shapes_out_of_bounds_are_refused_by_name(void **state)
{
    lwc_shape_t wanted = shape();
    lwc_session_info_t info;
    wanted.layer_count = LW_LAYERS_MAX + 1;
    assert_int_equal(lwc_control_create(control, &wanted, LEASE, 0, &info, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "layer_count"));
    wanted = shape();
    memset(wanted.model_id, 'x', sizeof(wanted.model_id));
    assert_int_equal(lwc_control_create(control, &wanted, LEASE, 0, &info, &error), LW_ERR_INVALID);
    wanted = shape();
    assert_int_equal(lwc_control_create(control, &wanted, 0, 0, &info, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "lease_us"));
}

static void test_a_wrong_token_and_a_missing_session_are_answered_alike(void **state)
{
    lwc_session_info_t mine = create(), wrong = mine, missing = mine;
    lwc_range_t range = range_of(0, 1024, 1), out[1];
    char first[256], second[256];
    uint32_t count;
    wrong.token[3] ^= 1;
    missing.session_id += 1000;
    assert_int_equal(lwc_control_commit(control, &wrong, 0, &range, 1, &error), LW_ERR_PERMISSION);
    snprintf(first, sizeof(first), "%s", strchr(strchr(error.text, ' ') + 9, ':'));
    assert_int_equal(lwc_control_commit(control, &missing, 0, &range, 1, &error), LW_ERR_PERMISSION);
    snprintf(second, sizeof(second), "%s", strchr(strchr(error.text, ' ') + 9, ':'));
    assert_string_equal(first, second);
    assert_int_equal(lwc_control_ranges(control, &wrong, 0, 0, 1, out, &count, &error), LW_ERR_PERMISSION);
    assert_int_equal(lwc_control_ranges(control, &missing, 0, 0, 1, out, &count, &error), LW_ERR_PERMISSION);
    lwc_control_t *other = client_open(lwd_ctl_address(ctl), "somebody-else");
    lwc_session_info_t info;
    assert_int_equal(lwc_control_get(other, mine.session_id, &info, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(lwc_control_drop(other, mine.session_id, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(lwc_control_release(other, mine.session_id, &error), LW_ERR_NOT_FOUND);
    lwc_control_close(other);
}

static void test_commits_that_do_not_fit_are_refused_with_both_values(void **state)
{
    lwc_session_info_t session = create(), stale = session;
    lwc_range_t range = range_of(512, 1024, 1);
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "512"));
    range = range_of(0, 1024, 1);
    range.replicas = 0;
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_ERR_INVALID);
    range = range_of(0, 1024, 1);
    range.node_index[2] = LW_NODES_MAX;
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_ERR_INVALID);
    range = range_of(0, 1024, 1);
    session.shape.layer_count = 2; /* the client thinks of fewer layers than the session has */
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "3 layers"));
    lwc_session_info_t again;
    assert_int_equal(lwc_control_open_session(control, stale.session_id, true, LEASE, &again, &error), LW_OK);
    assert_int_equal(again.term, 2);
    assert_int_equal(lwc_control_commit(control, &stale, 0, &range, 1, &error), LW_ERR_STALE);
}

static void test_unreachable_seeds_are_each_named_and_a_good_one_is_found(void **state)
{
    lwc_control_t *lost = client_open("127.0.0.1:1,127.0.0.1:2", NULL);
    lwc_session_info_t info;
    assert_int_equal(lwc_control_get(lost, 1, &info, &error), LW_ERR_UNREACHABLE);
    assert_non_null(strstr(error.text, "127.0.0.1:1"));
    lwc_control_close(lost);
    char seeds[256];
    snprintf(seeds, sizeof(seeds), "127.0.0.1:1, %s", lwd_ctl_address(ctl));
    lwc_control_t *found = client_open(seeds, NULL);
    assert_int_equal(lwc_control_get(found, 1, &info, &error), LW_ERR_NOT_FOUND); /* an answer */
    lwc_control_close(found);
    lwc_control_params_t params = {.size = sizeof(params), .seeds = " ,"};
    lwc_control_t *none = NULL;
    assert_int_equal(lwc_control_open(&params, &none, &error), LW_ERR_INVALID);
    params.seeds = "no-port";
    assert_int_equal(lwc_control_open(&params, &none, &error), LW_ERR_INVALID);
    params.size = 3;
    assert_int_equal(lwc_control_open(&params, &none, &error), LW_ERR_VERSION);
    assert_null(none);
}

/* A port that takes connections and says nothing: a call that must not be sent twice goes to the seed after it, once. */
static void test_a_create_passes_a_silent_seed_and_happens_once(void **state)
{
    (void)state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);
    int silent = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(silent >= 0 && bind(silent, (struct sockaddr *)&address, bytes) == 0 && listen(silent, 4) == 0);
    assert_int_equal(getsockname(silent, (struct sockaddr *)&address, &bytes), 0);
    char seeds[256];
    snprintf(seeds, sizeof(seeds), "127.0.0.1:%u,%s", ntohs(address.sin_port), lwd_ctl_address(ctl));
    lwc_control_params_t params = {.size = sizeof(params), .seeds = seeds, .tenant = "once", .timeout_us = 4 * SECOND};
    lwc_control_t *found;
    lwc_session_info_t created, rows[4];
    uint32_t count = 0;
    assert_int_equal(lwc_control_open(&params, &found, &error), LW_OK);
    lwc_shape_t wanted = shape();
    if (lwc_control_create(found, &wanted, 10 * SECOND, 0, &created, &error) != LW_OK)
        fail_msg("create: %s", error.text);
    assert_int_equal(lwc_control_list(found, 0, 4, rows, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].session_id, created.session_id);
    assert_int_equal(lwc_control_drop(found, created.session_id, &error), LW_OK);
    lwc_control_close(found);
    close(silent);
}

static void test_an_unknown_log_level_is_refused(void **state)
{
    assert_int_equal(lwc_control_set_log_level(control, NULL, "loud", &error), LW_ERR_INVALID);
    assert_int_equal(lwc_control_set_log_level(control, lwd_ctl_address(ctl), "error", &error), LW_OK);
}

/* ---- what works ---- */

static void test_the_life_of_a_session(void **state)
{
    lwc_session_info_t session = create(), info, child;
    lwc_range_t ranges[3] = {range_of(0, 2048, 1), range_of(2048, 2048, 1), range_of(4096, 100, 1)}, back[8];
    uint32_t count = 0, renewed = 0;
    ranges[2].flags = LWC_RANGE_RAW;
    assert_int_equal(session.state, LWC_SESSION_ACTIVE);
    assert_int_equal(session.lease_client, control->client_id);
    assert_in_range(session.lease_us_left, LEASE - 10 * SECOND, LEASE);
    assert_int_equal(lwc_control_commit(control, &session, 0, ranges, 3, &error), LW_OK);
    assert_int_equal(lwc_control_commit(control, &session, 0, ranges, 3, &error), LW_OK); /* again */
    assert_int_equal(lwc_control_renew(control, LEASE, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 1);
    assert_int_equal(lwc_control_get(control, session.session_id, &info, &error), LW_OK);
    assert_int_equal(info.token_count, 4196);
    assert_int_equal(info.bytes, 6000);
    assert_memory_equal(info.token, session.token, LW_TOKEN_BYTES);
    assert_int_equal(info.shape.outlier_ppm, 125000);
    assert_int_equal(lwc_control_ranges(control, &session, 0, 2048, 8, back, &count, &error), LW_OK);
    assert_int_equal(count, 2);
    assert_int_equal(back[0].origin, session.session_id);
    assert_memory_equal(back[0].node_index, ranges[1].node_index, 6 * sizeof(uint16_t));
    assert_int_equal(back[1].flags, LWC_RANGE_RAW);
    assert_int_equal(lwc_control_fork(control, session.session_id, 3000, LEASE, &child, &error), LW_OK);
    assert_int_equal(child.cut_tokens, 2048);
    assert_int_equal(child.parent_id, session.session_id);
    assert_int_equal(lwc_control_pin(control, child.session_id, true, &error), LW_OK);
    lwc_session_info_t rows[4];
    assert_int_equal(lwc_control_list(control, 0, 4, rows, &count, &error), LW_OK);
    assert_int_equal(count, 2);
    assert_true(rows[1].pinned);
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        assert_int_equal(rows[0].token[i], 0); /* a list does not give rights away */
    assert_int_equal(lwc_control_release(control, session.session_id, &error), LW_OK);
    assert_int_equal(lwc_control_open_session(control, session.session_id, false, LEASE, &info, &error), LW_OK);
    assert_int_equal(info.state, LWC_SESSION_IDLE);
    assert_int_equal(info.readers, 1);
    assert_int_equal(lwc_control_drop(control, session.session_id, &error), LW_OK);
    assert_int_equal(lwc_control_get(control, session.session_id, &info, &error), LW_OK);
    assert_int_equal(info.state, LWC_SESSION_RETAINED);
    WAIT_FOR(seen_endings_of(&seen, session.session_id) == 1);
    assert_int_equal(seen.ended[0].from_token, 2048);
    assert_int_equal(lwc_control_drop(control, child.session_id, &error), LW_OK);
    WAIT_FOR(seen_endings_of(&seen, child.session_id) == 1 && seen_endings_of(&seen, session.session_id) == 2);
}

static void test_a_long_manifest_comes_in_pages(void **state)
{
    lwc_session_info_t session = create();
    enum { COUNT = 2500 };
    lwc_range_t *ranges = calloc(COUNT, sizeof(*ranges)), *back = calloc(COUNT + 1, sizeof(*back));
    for (uint32_t i = 0; i < COUNT; i++)
        ranges[i] = range_of(i * 64, 64, 1);
    for (uint32_t i = 0; i < COUNT; i++)
        for (unsigned n = 0; n < 6; n++)
            ranges[i].node_index[n] = (uint16_t)((i + n) % LW_NODES_MAX);
    assert_int_equal(lwc_control_commit(control, &session, 0, ranges, COUNT, &error), LW_OK);
    uint32_t total = 0, count = 0, pages = 0;
    do {
        uint32_t from = total ? back[total - 1].first_token + 64 : 0;
        assert_int_equal(lwc_control_ranges(control, &session, 0, from, COUNT + 1 - total, back + total, &count, &error), LW_OK);
        total += count;
        pages += count > 0;
    } while (count);
    assert_int_equal(total, COUNT);
    assert_true(pages > 1);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_memory_equal(back[i].node_index, ranges[i].node_index, 6 * sizeof(uint16_t));
    free(back);
    free(ranges);
}

static void test_the_view_has_this_node_up(void **state)
{
    lw_view_t view = {0};
    WAIT_FOR(lwc_control_fleet_get(control, &view, &error) == LW_OK);
    assert_int_equal(view.node_count, 1);
    assert_string_equal(view.nodes[0].control, lwd_ctl_address(ctl));
    assert_string_equal(view.nodes[0].data, "127.0.0.1:4242");
    assert_string_equal(view.nodes[0].zone, "z1");
    assert_int_equal(view.nodes[0].weight, 100);
    assert_int_equal(view.fleet_id, lwd_ctl_fleet_id(ctl));
    lwc_view_free(&view);
    WAIT_FOR(lwd_ctl_writable(ctl));
    lw_view_t *copy = lwd_ctl_view_copy(ctl);
    assert_int_equal(copy->node_count, 1);
    assert_int_equal(copy->nodes[0].id, lwd_ctl_node_id(lwd_ctl_address(ctl)));
    assert_int_equal(copy->epoch, lwd_ctl_epoch(ctl));
    free(copy);
}

static void test_a_node_gives_account_of_itself(void **state)
{
    lwc_node_status_t status;
    WAIT_FOR(lwd_ctl_epoch(ctl) > 0);
    assert_int_equal(lwc_control_admin_status(control, NULL, &status, &error), LW_OK);
    assert_true(status.ready);
    assert_true(status.holds_catalogue);
    assert_int_equal(status.used_bytes, 1000);
    assert_int_equal(status.free_bytes, 24000);
    assert_string_equal(status.control, lwd_ctl_address(ctl));
    assert_string_equal(status.reasons, "");
    assert_non_null(strstr(status.metrics, "storaged_test 17"));
    assert_non_null(strstr(status.metrics, "storaged_ctl_syncs "));
    assert_string_equal(status.options, "arena.bytes = 16m\n");
    lwc_node_status_free(&status);
    atomic_store(&seen.not_ready, true);
    assert_int_equal(lwc_control_admin_status(control, lwd_ctl_address(ctl), &status, &error), LW_OK);
    assert_false(status.ready);
    assert_non_null(strstr(status.reasons, "moon"));
    lwc_node_status_free(&status);
    assert_int_equal(lwc_control_admin_status(control, "127.0.0.1:1", &status, &error), LW_ERR_UNREACHABLE);
}

/* ---- the agent's questions ---- */

typedef struct answer {
    pthread_mutex_t lock;
    unsigned count;
    lw_status_t status;
    uint64_t origins[4], bytes_freed;
    uint32_t cuts[4], origin_count;
    bool dead[4];
} answer_t;

static void answer_checked(void *arg, lw_status_t status, const uint64_t *origins, const uint32_t *cuts, uint32_t count)
{
    answer_t *answer = arg;
    pthread_mutex_lock(&answer->lock);
    answer->status = status;
    answer->origin_count = count;
    for (uint32_t i = 0; i < count && i < 4; i++) {
        answer->origins[i] = origins[i];
        answer->cuts[i] = cuts[i];
    }
    answer->count++;
    pthread_mutex_unlock(&answer->lock);
}

static void answer_orphans(void *arg, lw_status_t status, const bool *dead, uint32_t count)
{
    answer_t *answer = arg;
    pthread_mutex_lock(&answer->lock);
    answer->status = status;
    for (uint32_t i = 0; i < count && i < 4; i++)
        answer->dead[i] = dead[i];
    answer->count++;
    pthread_mutex_unlock(&answer->lock);
}

static void answer_expired(void *arg, lw_status_t status, uint64_t bytes_freed)
{
    answer_t *answer = arg;
    pthread_mutex_lock(&answer->lock);
    answer->status = status;
    answer->bytes_freed = bytes_freed;
    answer->count++;
    pthread_mutex_unlock(&answer->lock);
}

static bool answered(answer_t *answer, unsigned count)
{
    pthread_mutex_lock(&answer->lock);
    bool is = answer->count >= count;
    pthread_mutex_unlock(&answer->lock);
    return is;
}

static lw_status_t check(const lwc_session_info_t *session, bool write, uint32_t term, answer_t *answer)
{
    lwd_ctl_check_t what = {.session_id = session->session_id, .write = write, .term = term};
    memcpy(what.token, session->token, sizeof(what.token));
    unsigned before = answer->count;
    assert_int_equal(lwd_ctl_check_async(ctl, &what, answer_checked, answer), LW_OK);
    WAIT_FOR(answered(answer, before + 1));
    return answer->status;
}

static void test_rights_are_checked_and_reading_is_cached_until_an_ending(void **state)
{
    answer_t answer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    lwc_session_info_t session = create(), child, wrong, missing;
    lwc_range_t range = range_of(0, 1024, 1);
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_OK);
    assert_int_equal(lwc_control_fork(control, session.session_id, 0, LEASE, &child, &error), LW_OK);
    wrong = missing = session;
    wrong.token[0] ^= 1;
    missing.session_id += 1000;
    assert_int_equal(check(&wrong, false, 0, &answer), LW_ERR_PERMISSION);
    assert_int_equal(check(&missing, false, 0, &answer), LW_ERR_PERMISSION);
    assert_int_equal(check(&session, true, 2, &answer), LW_ERR_STALE);
    assert_int_equal(check(&session, true, 1, &answer), LW_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(check(&child, false, 0, &answer), LW_OK);
        assert_int_equal(answer.origin_count, 2);
        assert_int_equal(answer.origins[0], child.session_id);
        assert_int_equal(answer.origins[1], session.session_id);
        assert_int_equal(answer.cuts[0], UINT32_MAX);
        assert_int_equal(answer.cuts[1], 1024);
    }
    wrong = child;
    wrong.token[15] ^= 0x80;
    assert_int_equal(check(&wrong, false, 0, &answer), LW_ERR_PERMISSION); /* the cache is no way around */
    lwc_node_status_t status;
    assert_int_equal(lwc_control_admin_status(control, NULL, &status, &error), LW_OK);
    const char *figure = strstr(status.metrics, "\nstoraged_ctl_checks_cached ");
    assert_non_null(figure);
    assert_true(atoi(strchr(figure, ' ') + 1) >= 1);
    lwc_node_status_free(&status);
    assert_int_equal(lwc_control_drop(control, child.session_id, &error), LW_OK);
    WAIT_FOR(seen_endings_of(&seen, child.session_id) == 1);
    assert_int_equal(check(&child, false, 0, &answer), LW_ERR_PERMISSION);
}

static void test_orphans_and_room_are_asked_for(void **state)
{
    answer_t answer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    lwc_session_info_t session = create();
    lwc_range_t range = range_of(0, 1024, 1);
    assert_int_equal(lwc_control_commit(control, &session, 0, &range, 1, &error), LW_OK);
    const lw_segment_name_t names[] = {{.origin = session.session_id, .generation = 1, .layer = 0},
                                       {.origin = session.session_id, .first_token = 5, .generation = 1},
                                       {.origin = session.session_id + 7, .generation = 1},
                                       {.origin = session.session_id, .generation = 1, .layer = 2}};
    assert_int_equal(lwd_ctl_orphans_async(ctl, names, LWD_CTL_ORPHANS_MAX + 1, answer_orphans, &answer), LW_ERR_INVALID);
    assert_int_equal(lwd_ctl_orphans_async(ctl, names, 4, answer_orphans, &answer), LW_OK);
    WAIT_FOR(answered(&answer, 1));
    assert_int_equal(answer.status, LW_OK);
    assert_false(answer.dead[0]);
    assert_false(answer.dead[1]); /* its writer lives */
    assert_true(answer.dead[2]);
    assert_true(answer.dead[3]); /* committed on other nodes than this one */
    assert_int_equal(lwd_ctl_expire_async(ctl, 1, answer_expired, &answer), LW_OK);
    WAIT_FOR(answered(&answer, 2));
    assert_int_equal(answer.bytes_freed, 0); /* it is in use */
    assert_int_equal(lwc_control_release(control, session.session_id, &error), LW_OK);
    assert_int_equal(lwd_ctl_expire_async(ctl, 1, answer_expired, &answer), LW_OK);
    WAIT_FOR(answered(&answer, 3));
    assert_int_equal(answer.status, LW_OK);
    assert_int_equal(answer.bytes_freed, 2000);
    WAIT_FOR(seen_endings_of(&seen, session.session_id) == 1);
}

/* ---- streams, health, the end ---- */

static void test_health_is_what_readiness_is(void **state)
{
    lw_rpc_channel_t *channel = NULL;
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t reply = {0};
    WAIT_FOR(lwd_ctl_epoch(ctl) > 0);
    assert_int_equal(lw_rpc_connect(lwd_ctl_address(ctl), NULL, &channel, &error), LW_OK);
    assert_int_equal(lw_rpc_call(channel, "/grpc.health.v1.Health/Check", "\x0a\x03xyz", 5, 10 * SECOND, &reply, &error),
                     LW_ERR_NOT_FOUND);
    assert_int_equal(lw_rpc_stream_open(channel, "/grpc.health.v1.Health/Watch", "", 0, &stream, &error), LW_OK);
    static const uint8_t expected[] = {1, 2, 1, 2}; /* serving, not serving */
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(lw_rpc_stream_next(stream, 20 * SECOND, &reply, &error), LW_OK);
        Grpc__Health__V1__HealthCheckResponse *health =
            grpc__health__v1__health_check_response__unpack(NULL, reply.bytes, reply.data);
        assert_int_equal(health->status, expected[i]);
        grpc__health__v1__health_check_response__free_unpacked(health, NULL);
        lw_rpc_bytes_free(&reply);
        if (i < 2)
            atomic_store(&seen.not_ready, i == 0);
        else
            lwd_ctl_drain(ctl);
    }
    lw_rpc_stream_close(stream);
    lw_rpc_disconnect(channel);
}

static void test_a_watcher_sees_each_view(void **state)
{
    lw_rpc_channel_t *channel = NULL;
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t reply = {0};
    uint64_t epoch = 0;
    uint32_t state_seen = 0;
    assert_int_equal(lw_rpc_connect(lwd_ctl_address(ctl), NULL, &channel, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_open(channel, "/longwave.v1.Fleet/Watch", "", 0, &stream, &error), LW_OK);
    while (state_seen != LW_NODE_DRAINING) {
        assert_int_equal(lw_rpc_stream_next(stream, 20 * SECOND, &reply, &error), LW_OK);
        Longwave__V1__View *view = longwave__v1__view__unpack(NULL, reply.bytes, reply.data);
        assert_true(view->epoch > epoch); /* each once, in order */
        epoch = view->epoch;
        state_seen = view->nodes[0]->state;
        longwave__v1__view__free_unpacked(view, NULL);
        lw_rpc_bytes_free(&reply);
        if (state_seen == LW_NODE_UP)
            lwd_ctl_drain(ctl);
    }
    lw_rpc_stream_close(stream);
    lw_rpc_disconnect(channel);
}

static void test_more_streams_than_fit_are_refused(void **state)
{
    enum { ROOM = 256 };
    lw_rpc_channel_t *channel = NULL;
    lw_rpc_stream_t *streams[ROOM + 1];
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_connect(lwd_ctl_address(ctl), NULL, &channel, &error), LW_OK);
    for (unsigned i = 0; i <= ROOM; i++)
        assert_int_equal(lw_rpc_stream_open(channel, "/grpc.health.v1.Health/Watch", "", 0, &streams[i], &error), LW_OK);
    unsigned refused = 0;
    for (unsigned i = 0; i <= ROOM; i++) {
        lw_status_t status = lw_rpc_stream_next(streams[i], 20 * SECOND, &reply, &error);
        refused += status == LW_ERR_EXHAUSTED;
        lw_rpc_bytes_free(&reply);
    }
    assert_int_equal(refused, 1);
    for (unsigned i = 0; i <= ROOM; i++)
        lw_rpc_stream_close(streams[i]);
    lw_rpc_disconnect(channel);
}

static void test_stopping_answers_every_question_and_ends_every_stream(void **state)
{
    enum { QUESTIONS = 200 };
    answer_t answer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    lw_rpc_channel_t *channel = NULL;
    lw_rpc_stream_t *stream = NULL;
    lw_rpc_bytes_t reply = {0};
    lwc_session_info_t session = create();
    lwd_ctl_check_t what = {.session_id = session.session_id};
    assert_int_equal(lw_rpc_connect(lwd_ctl_address(ctl), NULL, &channel, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_open(channel, "/grpc.health.v1.Health/Watch", "", 0, &stream, &error), LW_OK);
    assert_int_equal(lw_rpc_stream_next(stream, 20 * SECOND, &reply, &error), LW_OK);
    lw_rpc_bytes_free(&reply);
    for (unsigned i = 0; i < QUESTIONS; i++)
        assert_int_equal(lwd_ctl_check_async(ctl, &what, answer_checked, &answer), LW_OK);
    uint64_t start = lw_now_us(lw_clock_real());
    lwd_ctl_stop(ctl, 20 * SECOND);
    ctl = NULL;
    assert_int_equal(answer.count, QUESTIONS);
    assert_true(lw_now_us(lw_clock_real()) - start < 10 * SECOND); /* the open stream did not use the grace up */
    lw_status_t status = LW_OK;
    while (status == LW_OK) { /* perhaps a NOT_SERVING first */
        status = lw_rpc_stream_next(stream, 20 * SECOND, &reply, &error);
        lw_rpc_bytes_free(&reply);
    }
    assert_int_equal(status, LW_ERR_UNREACHABLE);
    lw_rpc_stream_close(stream);
    lw_rpc_disconnect(channel);
}

static void test_more_questions_than_fit_are_busy(void **state)
{
    answer_t answer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    lwd_ctl_check_t what = {.session_id = 1};
    unsigned asked = 0;
    lw_status_t status = LW_OK;
    pthread_mutex_lock(&answer.lock); /* the agent waits in the first answer */
    while (status == LW_OK && asked <= LWD_CTL_ASKS_MAX) {
        status = lwd_ctl_check_async(ctl, &what, answer_checked, &answer);
        asked += status == LW_OK;
    }
    pthread_mutex_unlock(&answer.lock);
    assert_int_equal(status, LW_ERR_BUSY);
    assert_int_equal(asked, LWD_CTL_ASKS_MAX);
    WAIT_FOR(answered(&answer, asked));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_bytes_that_are_no_message_are_refused_by_every_method),
        CASE(test_shapes_out_of_bounds_are_refused_by_name),
        CASE(test_a_wrong_token_and_a_missing_session_are_answered_alike),
        CASE(test_commits_that_do_not_fit_are_refused_with_both_values),
        CASE(test_unreachable_seeds_are_each_named_and_a_good_one_is_found),
        CASE(test_a_create_passes_a_silent_seed_and_happens_once),
        CASE(test_an_unknown_log_level_is_refused),
        CASE(test_more_streams_than_fit_are_refused),
        CASE(test_more_questions_than_fit_are_busy),
        CASE(test_stopping_answers_every_question_and_ends_every_stream),
        CASE(test_the_life_of_a_session),
        CASE(test_a_long_manifest_comes_in_pages),
        CASE(test_the_view_has_this_node_up),
        CASE(test_a_node_gives_account_of_itself),
        CASE(test_rights_are_checked_and_reading_is_cached_until_an_ending),
        CASE(test_orphans_and_room_are_asked_for),
        CASE(test_health_is_what_readiness_is),
        CASE(test_a_watcher_sees_each_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
