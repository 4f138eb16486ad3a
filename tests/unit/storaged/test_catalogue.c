/* test_catalogue.c - the conformance test of every catalogue: `test_catalogue sim`, `... sqlite`, `... etcd`. */
#include "test_catalogue_support.h"

#ifdef LW_HAVE_ETCD
#include "etcd_process.h"

static etcd_process_t etcd;
#endif

static const lwd_catalogue_ops_t *ops;
static lwd_catalogue_t *cat;
static lw_error_t error;

static const char *where(void)
{
#ifdef LW_HAVE_ETCD
    static char text[96];
    static unsigned number; /* a fleet of its own for each test */
    if (etcd.pid) {
        snprintf(text, sizeof(text), "etcd://%s/test-%u?timeout_ms=20000", etcd.endpoint, number++);
        return text;
    }
#endif
    return ":memory:";
}

static int setup(void **state)
{
    return ops->open(where(), &cat, &error) == LW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    ops->close(cat);
    return 0;
}

static lwd_session_row_t create(const char *tenant, uint64_t client, uint32_t ranks)
{
    lwd_create_t request = {.tenant = tenant, .shape = test_shape(2, ranks), .client_id = client, .incarnation = 1,
                            .lease_us = LEASE};
    lwd_session_row_t row;
    assert_int_equal(ops->create(cat, &request, T0, &row, &error), LW_OK);
    return row;
}

static lw_status_t open_at(uint64_t id, bool write, uint64_t client, uint64_t incarnation, uint64_t now,
                           lwd_session_row_t *row)
{
    return ops->open_session(cat, "a", id, write, client, incarnation, LEASE, now, row, &error);
}

static lw_status_t commit(uint64_t id, uint32_t term, uint32_t first, uint32_t tokens, uint32_t flags)
{
    lwd_range_t range = test_range(first, tokens, term, flags);
    return ops->commit(cat, id, 0, term, &range, 1, T0, &error);
}

static lwd_session_row_t get(uint64_t id)
{
    lwd_session_row_t row;
    assert_int_equal(ops->get(cat, NULL, id, &row, &error), LW_OK);
    return row;
}

static lwd_session_row_t fork_of(uint64_t parent, uint32_t max_tokens, uint64_t client)
{
    lwd_session_row_t row;
    assert_int_equal(ops->fork(cat, "a", parent, max_tokens, client, 1, LEASE, T0, &row, &error), LW_OK);
    return row;
}

static uint32_t endings(lwd_ended_t *rows, uint64_t after)
{
    uint32_t count = 0;
    assert_int_equal(ops->ended(cat, after, 64, rows, &count, &error), LW_OK);
    return count;
}

static uint32_t manifest(uint64_t id, lwd_range_t *ranges, uint32_t capacity)
{
    uint32_t count = 0;
    assert_int_equal(ops->ranges(cat, id, 0, 0, capacity, ranges, &count, &error), LW_OK);
    return count;
}

static uint64_t expire(uint64_t bytes, uint64_t now)
{
    uint64_t freed = 0;
    assert_int_equal(ops->expire(cat, bytes, now, &freed, &error), LW_OK);
    return freed;
}

/* ---- what is refused ---- */

static void test_a_session_that_is_not_there_is_not_found(void **state)
{
    lwd_session_row_t row;
    uint64_t freed;
    uint32_t count;
    lwd_range_t range = test_range(0, 10, 1, 0);
    uint64_t origins[4];
    uint32_t cuts[4];
    uint8_t token[LW_TOKEN_BYTES] = {0};
    assert_int_equal(open_at(7, true, 1, 1, T0, &row), LW_ERR_NOT_FOUND);
    assert_int_equal(open_at(7, false, 1, 1, T0, &row), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->release(cat, 7, 1, 1, T0, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->fork(cat, "a", 7, 0, 1, 1, LEASE, T0, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->pin(cat, "a", 7, true, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->drop(cat, "a", 7, T0, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->get(cat, "a", 7, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->commit(cat, 7, 0, 1, &range, 1, T0, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->ranges(cat, 7, 0, 0, 1, &range, &count, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->check(cat, 7, token, false, 0, T0, origins, cuts, 4, &count, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->expire(cat, 100, T0, &freed, &error), LW_OK);
    assert_int_equal(freed, 0);
}

static void test_another_tenants_session_is_as_if_not_there(void **state)
{
    lwd_session_row_t mine = create("a", 1, 1), row;
    assert_int_equal(ops->get(cat, "b", mine.session_id, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->drop(cat, "b", mine.session_id, T0, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->pin(cat, "b", mine.session_id, true, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->fork(cat, "b", mine.session_id, 0, 1, 1, LEASE, T0, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->open_session(cat, "b", mine.session_id, false, 1, 1, LEASE, T0, &row, &error),
                     LW_ERR_NOT_FOUND);
    create("b", 1, 1);
    lwd_session_row_t rows[4];
    uint32_t count;
    assert_int_equal(ops->list(cat, "a", 0, 4, rows, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(ops->list(cat, NULL, 0, 4, rows, &count, &error), LW_OK);
    assert_int_equal(count, 2);
}

static void test_a_stale_writer_is_refused(void **state)
{
    lwd_session_row_t first = create("a", 1, 1), second;
    assert_int_equal(open_at(first.session_id, true, 2, 1, T0 + 1, &second), LW_ERR_BUSY);
    assert_int_equal(open_at(first.session_id, true, 2, 1, T0 + LEASE, &second), LW_OK); /* the lease ran out */
    assert_int_equal(second.term, first.term + 1);
    assert_int_equal(commit(first.session_id, first.term, 0, 1024, 0), LW_ERR_STALE);
    lwd_range_t range = test_range(0, 1024, second.term, 0);
    assert_int_equal(ops->commit(cat, first.session_id, 0, second.term, &range, 1, T0 + LEASE + 1, &error), LW_OK);
    assert_int_equal(ops->commit(cat, first.session_id, 0, second.term, &range, 1, T0 + 2 * LEASE, &error),
                     LW_ERR_STALE); /* and so did this one, although the term is right */
}

static void test_a_lease_that_ran_out_cannot_be_renewed(void **state)
{
    lwd_session_row_t row = create("a", 1, 1);
    uint32_t renewed = 9;
    assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0 + LEASE - 1, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 1);
    assert_int_equal(get(row.session_id).lease_until_us, T0 + 2 * LEASE - 1);
    assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0 + 2 * LEASE - 1, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 0);
    assert_int_equal(ops->renew(cat, 2, 1, LEASE, T0, &renewed, &error), LW_OK); /* a client without leases */
    assert_int_equal(renewed, 0);
}

static void test_a_new_incarnation_ends_the_leases_of_the_old_one(void **state)
{
    lwd_session_row_t row = create("a", 1, 1), other = create("a", 2, 1), again;
    uint32_t renewed;
    assert_int_equal(open_at(other.session_id, false, 1, 1, T0, &again), LW_OK);
    assert_int_equal(ops->renew(cat, 1, 2, LEASE, T0, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 0);
    assert_int_equal(get(row.session_id).state, LWD_SESSION_IDLE);
    assert_int_equal(get(other.session_id).readers, 0);
    assert_int_equal(get(other.session_id).state, LWD_SESSION_ACTIVE);
    assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0, &renewed, &error), LW_ERR_STALE);
    assert_int_equal(open_at(row.session_id, true, 1, 1, T0, &again), LW_ERR_STALE);
    assert_int_equal(ops->release(cat, row.session_id, 1, 1, T0, &error), LW_ERR_STALE);
    assert_int_equal(commit(row.session_id, row.term, 0, 10, 0), LW_ERR_STALE);
    assert_int_equal(open_at(row.session_id, true, 1, 2, T0, &again), LW_OK);
}

static void test_ranges_come_in_order_without_gaps(void **state)
{
    lwd_session_row_t row = create("a", 1, 1);
    uint64_t id = row.session_id;
    assert_int_equal(commit(id, 1, 1024, 1024, 0), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "1024"));
    assert_int_equal(commit(id, 1, 0, 2048, 0), LW_OK);
    assert_int_equal(commit(id, 1, 1024, 1024, 0), LW_ERR_INVALID); /* overlap */
    assert_int_equal(commit(id, 1, 3072, 1024, 0), LW_ERR_INVALID); /* gap */
    assert_int_equal(commit(id, 1, 2048, 1024, 0), LW_OK);
    assert_int_equal(get(id).token_count, 3072);
    assert_int_equal(get(id).bytes, 307200);
}

static void test_malformed_ranges_are_refused(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_range_t range = test_range(0, 0, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID); /* no tokens */
    range = test_range(0, 10, 2, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID); /* generation is not the term */
    range = test_range(0, 10, 1, 4);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID); /* unknown flag */
    range = test_range(0, 10, 1, 0);
    range.replicas = 0;
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID);
    range.replicas = LW_REPLICAS_MAX + 1;
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID);
    range = test_range(0, 10, 1, 0);
    assert_int_equal(ops->commit(cat, id, 1, 1, &range, 1, T0, &error), LW_ERR_INVALID); /* rank */
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 0, T0, &error), LW_ERR_INVALID); /* none */
    range.first_token = range.token_count = 1u << 31;
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_ERR_INVALID);
    assert_int_equal(get(id).token_count, 0);
}

static void test_a_commit_is_all_or_nothing(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_range_t ranges[3] = {test_range(0, 1024, 1, 0), test_range(1024, 1024, 1, 0), test_range(4096, 1024, 1, 0)};
    assert_int_equal(ops->commit(cat, id, 0, 1, ranges, 3, T0, &error), LW_ERR_INVALID);
    assert_int_equal(get(id).token_count, 0);
    assert_int_equal(get(id).bytes, 0);
    ranges[2] = test_range(2048, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, ranges, 3, T0, &error), LW_OK);
    assert_int_equal(get(id).token_count, 3072);
}

static void test_the_largest_manifest_is_a_bound(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_range_t *ranges = calloc(LW_RANGES_MAX, sizeof(*ranges));
    for (uint32_t i = 0; i < LW_RANGES_MAX; i++)
        ranges[i] = test_range(i * 16, 16, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, ranges, LW_RANGES_MAX + 1, T0, &error), LW_ERR_INVALID);
    assert_int_equal(ops->commit(cat, id, 0, 1, ranges, LW_RANGES_MAX, T0, &error), LW_OK);
    assert_int_equal(commit(id, 1, LW_RANGES_MAX * 16, 16, 0), LW_ERR_EXHAUSTED);
    assert_int_equal(manifest(id, ranges, LW_RANGES_MAX), LW_RANGES_MAX);
    assert_int_equal(ranges[LW_RANGES_MAX - 1].first_token, (LW_RANGES_MAX - 1) * 16);
    free(ranges);
}

static void test_a_line_of_forks_has_a_bound(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_session_row_t row;
    assert_int_equal(commit(id, 1, 0, 1024, 0), LW_OK);
    for (uint32_t i = 1; i < LWD_FORK_DEPTH_MAX; i++)
        id = fork_of(id, 0, 1).session_id;
    assert_int_equal(ops->fork(cat, "a", id, 0, 1, 1, LEASE, T0, &row, &error), LW_ERR_EXHAUSTED);
    lwd_range_t ranges[2];
    assert_int_equal(manifest(id, ranges, 2), 1);
    uint64_t origins[LWD_FORK_DEPTH_MAX];
    uint32_t cuts[LWD_FORK_DEPTH_MAX], count;
    row = get(id);
    assert_int_equal(ops->check(cat, id, row.token, false, 0, T0, origins, cuts, LWD_FORK_DEPTH_MAX, &count, &error), LW_OK);
    assert_int_equal(count, LWD_FORK_DEPTH_MAX);
    assert_int_equal(
        ops->check(cat, id, row.token, false, 0, T0, origins, cuts, LWD_FORK_DEPTH_MAX - 1, &count, &error),
        LW_ERR_EXHAUSTED);
}

static void test_a_wrong_token_is_refused_and_an_old_term_is_stale(void **state)
{
    lwd_session_row_t row = create("a", 1, 1), again;
    uint64_t origins[4];
    uint32_t cuts[4], count;
    uint8_t wrong[LW_TOKEN_BYTES];
    for (unsigned i = 0; i < LW_TOKEN_BYTES * 8; i++) { /* each single bit counts */
        memcpy(wrong, row.token, sizeof(wrong));
        wrong[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(ops->check(cat, row.session_id, wrong, false, 0, T0, origins, cuts, 4, &count, &error),
                         LW_ERR_PERMISSION);
    }
    assert_int_equal(ops->check(cat, row.session_id, row.token, true, 2, T0, origins, cuts, 4, &count, &error), LW_ERR_STALE);
    assert_int_equal(ops->check(cat, row.session_id, row.token, true, 1, T0 + LEASE, origins, cuts, 4, &count, &error),
                     LW_ERR_STALE);
    assert_int_equal(open_at(row.session_id, true, 1, 1, T0, &again), LW_OK);
    assert_int_equal(ops->check(cat, row.session_id, row.token, true, 1, T0, origins, cuts, 4, &count, &error), LW_ERR_STALE);
    assert_int_equal(ops->check(cat, row.session_id, row.token, true, 2, T0, origins, cuts, 4, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(origins[0], row.session_id);
    assert_int_equal(cuts[0], UINT32_MAX);
}

/* ---- what works ---- */

static void test_ids_grow_and_tokens_differ(void **state)
{
    lwd_session_row_t first = create("a", 1, 1), second = create("a", 1, 1);
    assert_true(second.session_id > first.session_id);
    assert_memory_not_equal(first.token, second.token, LW_TOKEN_BYTES);
    assert_int_equal(first.state, LWD_SESSION_ACTIVE);
    assert_int_equal(first.term, 1);
    assert_string_equal(first.shape.model_id, "test-model");
    assert_int_equal(first.shape.outlier_ppm, 125000);
    uint64_t last = second.session_id;
    assert_int_equal(ops->drop(cat, "a", last, T0, &error), LW_OK);
    assert_int_equal(ops->trim(cat, UINT64_MAX >> 1, &error), LW_OK); /* no trace of it is left */
    assert_true(create("a", 1, 1).session_id > last);
}

static void test_release_makes_idle_and_the_same_client_reopens_at_once(void **state)
{
    lwd_session_row_t row = create("a", 1, 1), again;
    assert_int_equal(open_at(row.session_id, true, 1, 1, T0, &again), LW_OK); /* its own lease is no obstacle */
    assert_int_equal(again.term, 2);
    assert_int_equal(ops->release(cat, row.session_id, 1, 1, T0, &error), LW_OK);
    assert_int_equal(ops->release(cat, row.session_id, 1, 1, T0, &error), LW_OK);
    assert_int_equal(get(row.session_id).state, LWD_SESSION_IDLE);
    assert_int_equal(get(row.session_id).lease_client, 0);
    assert_int_equal(open_at(row.session_id, true, 2, 1, T0, &again), LW_OK);
    assert_int_equal(again.term, 3);
    assert_int_equal(again.lease_client, 2);
}

static void test_expired_leases_become_idle(void **state)
{
    lwd_session_row_t row = create("a", 1, 1), reader;
    assert_int_equal(open_at(row.session_id, false, 2, 1, T0, &reader), LW_OK);
    assert_int_equal(reader.readers, 1);
    assert_int_equal(reader.term, 1);
    expire(0, T0 + LEASE - 1);
    assert_int_equal(get(row.session_id).state, LWD_SESSION_ACTIVE);
    assert_int_equal(get(row.session_id).readers, 1);
    expire(0, T0 + LEASE);
    assert_int_equal(get(row.session_id).state, LWD_SESSION_IDLE);
    assert_int_equal(get(row.session_id).readers, 0);
}

static void test_a_repeated_commit_changes_nothing_and_another_content_is_refused(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_range_t ranges[2] = {test_range(0, 1024, 1, 0), test_range(1024, 500, 1, LW_RANGE_RAW)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(ops->commit(cat, id, 0, 1, ranges, 2, T0, &error), LW_OK);
    assert_int_equal(get(id).token_count, 1524);
    assert_int_equal(get(id).bytes, 152400);
    lwd_range_t other = ranges[0];
    other.node_index[1] ^= 1;
    assert_int_equal(ops->commit(cat, id, 0, 1, &other, 1, T0, &error), LW_ERR_EXISTS);
    other = ranges[0];
    other.token_count--;
    assert_int_equal(ops->commit(cat, id, 0, 1, &other, 1, T0, &error), LW_ERR_EXISTS);
    lwd_ended_t rows[64];
    assert_int_equal(endings(rows, 0), 0);
}

static void test_a_raw_tail_is_replaced_by_a_later_term_only(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    lwd_session_row_t again;
    assert_int_equal(commit(id, 1, 0, 1024, 0), LW_OK);
    assert_int_equal(commit(id, 1, 1024, 100, LW_RANGE_RAW), LW_OK);
    assert_int_equal(commit(id, 1, 1124, 1024, 0), LW_ERR_INVALID); /* nothing follows a raw tail */
    assert_int_equal(commit(id, 1, 1024, 200, LW_RANGE_RAW), LW_ERR_EXISTS); /* its name would be used twice */
    assert_int_equal(open_at(id, true, 1, 1, T0, &again), LW_OK);
    assert_int_equal(commit(id, 2, 1024, 1024, 0), LW_OK);
    assert_int_equal(commit(id, 2, 1024, 1024, 0), LW_OK);
    assert_int_equal(commit(id, 2, 2048, 10, LW_RANGE_RAW), LW_OK);
    assert_int_equal(get(id).token_count, 2058);
    assert_int_equal(get(id).bytes, 205800);
    lwd_ended_t rows[64];
    assert_int_equal(endings(rows, 0), 1);
    assert_int_equal(rows[0].origin, id);
    assert_int_equal(rows[0].rank, 0);
    assert_int_equal(rows[0].from_token, 1024);
    assert_int_equal(rows[0].generation_max, 1);
}

static void test_the_token_count_is_the_smallest_over_the_ranks(void **state)
{
    uint64_t id = create("a", 1, 2).session_id;
    lwd_range_t range = test_range(0, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_OK);
    assert_int_equal(get(id).token_count, 0);
    assert_int_equal(ops->commit(cat, id, 1, 1, &range, 1, T0, &error), LW_OK);
    assert_int_equal(get(id).token_count, 1024);
    range = test_range(1024, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, id, 1, 1, &range, 1, T0, &error), LW_OK);
    assert_int_equal(get(id).token_count, 1024);
    assert_int_equal(fork_of(id, 0, 1).cut_tokens, 1024); /* rank 0 has no more */
}

static void test_a_fork_shares_ranges_up_to_its_cut(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(commit(id, 1, i * 1024, 1024, 0), LW_OK);
    assert_int_equal(commit(id, 1, 3072, 60, LW_RANGE_RAW), LW_OK);
    assert_int_equal(fork_of(id, 0, 1).cut_tokens, 3072); /* without the raw tail */
    assert_int_equal(fork_of(id, 1023, 1).cut_tokens, 0);
    lwd_session_row_t child = fork_of(id, 2500, 2);
    assert_int_equal(child.cut_tokens, 2048);
    assert_int_equal(child.token_count, 2048);
    assert_int_equal(child.parent_id, id);
    assert_int_equal(child.term, 1);
    assert_int_equal(child.lease_client, 2);
    assert_int_equal(commit(child.session_id, 1, 1024, 1024, 0), LW_ERR_INVALID);
    assert_int_equal(commit(child.session_id, 1, 2048, 500, 0), LW_OK);
    lwd_range_t ranges[8];
    assert_int_equal(manifest(child.session_id, ranges, 8), 3);
    assert_int_equal(ranges[0].origin, id);
    assert_int_equal(ranges[1].origin, id);
    assert_int_equal(ranges[2].origin, child.session_id);
    assert_int_equal(ranges[2].first_token, 2048);
    uint32_t count;
    assert_int_equal(ops->ranges(cat, child.session_id, 0, 1024, 1, ranges, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(ranges[0].first_token, 1024);
    uint64_t origins[4];
    uint32_t cuts[4];
    assert_int_equal(ops->check(cat, child.session_id, child.token, false, 0, T0, origins, cuts, 4, &count, &error), LW_OK);
    assert_int_equal(count, 2);
    assert_int_equal(origins[1], id);
    assert_int_equal(cuts[1], 2048);
    lwd_session_row_t grandchild = fork_of(child.session_id, 1024, 2); /* cut inside the grandparent's part */
    assert_int_equal(grandchild.cut_tokens, 1024);
    assert_int_equal(manifest(grandchild.session_id, ranges, 8), 1);
    assert_int_equal(ranges[0].origin, id);
}

static void test_a_dropped_parent_is_retained_for_its_children_and_no_longer(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(commit(id, 1, i * 1024, 1024, 0), LW_OK);
    uint64_t small = fork_of(id, 1024, 1).session_id, large = fork_of(id, 3072, 1).session_id;
    assert_int_equal(ops->drop(cat, "a", id, T0, &error), LW_OK);
    lwd_session_row_t row = get(id);
    assert_int_equal(row.state, LWD_SESSION_RETAINED);
    assert_int_equal(row.bytes, 307200);
    assert_int_equal(open_at(id, false, 1, 1, T0, &row), LW_ERR_NOT_FOUND);
    assert_int_equal(ops->drop(cat, "a", id, T0, &error), LW_ERR_NOT_FOUND);
    lwd_ended_t rows[64];
    assert_int_equal(endings(rows, 0), 1);
    assert_int_equal(rows[0].from_token, 3072);
    assert_int_equal(rows[0].generation_max, UINT32_MAX);
    assert_int_equal(rows[0].rank, LWD_RANK_ALL);
    lwd_range_t ranges[8];
    assert_int_equal(manifest(large, ranges, 8), 3);
    assert_int_equal(ops->drop(cat, "a", large, T0, &error), LW_OK); /* the largest need goes */
    assert_int_equal(get(id).bytes, 102400);
    assert_int_equal(endings(rows, 0), 3);
    assert_int_equal(rows[1].origin, large);
    assert_int_equal(rows[2].origin, id);
    assert_int_equal(rows[2].from_token, 1024);
    assert_int_equal(ops->drop(cat, "a", small, T0, &error), LW_OK); /* and then the last one */
    assert_int_equal(ops->get(cat, "a", id, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(endings(rows, rows[2].serial), 2);
    assert_int_equal(rows[1].origin, id);
    assert_int_equal(rows[1].from_token, 0);
}

static void test_ttl_ends_idle_sessions_that_nobody_reads_or_pinned(void **state)
{
    lwd_create_t request = {.tenant = "a", .shape = test_shape(2, 1), .client_id = 1, .incarnation = 1,
                            .lease_us = LEASE, .ttl_us = LEASE};
    lwd_session_row_t gone, pinned, read, row;
    assert_int_equal(ops->create(cat, &request, T0, &gone, &error), LW_OK);
    assert_int_equal(ops->create(cat, &request, T0, &pinned, &error), LW_OK);
    assert_int_equal(ops->create(cat, &request, T0, &read, &error), LW_OK);
    assert_int_equal(ops->pin(cat, "a", pinned.session_id, true, &error), LW_OK);
    assert_int_equal(ops->open_session(cat, "a", read.session_id, false, 2, 1, 10 * LEASE, T0, &row, &error), LW_OK);
    expire(0, T0 + LEASE - 1);
    assert_int_equal(get(gone.session_id).state, LWD_SESSION_ACTIVE);
    expire(0, T0 + LEASE);
    assert_int_equal(ops->get(cat, "a", gone.session_id, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(get(pinned.session_id).state, LWD_SESSION_IDLE);
    assert_int_equal(get(read.session_id).state, LWD_SESSION_IDLE);
    expire(0, T0 + 20 * LEASE);
    assert_int_equal(ops->get(cat, "a", read.session_id, &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(get(pinned.session_id).state, LWD_SESSION_IDLE);
}

static void test_eviction_takes_the_least_recently_used_that_nothing_holds(void **state)
{
    enum { ACTIVE, PINNED, PARENT, OLD, NEW, READ, COUNT };
    uint64_t ids[COUNT], now = LATER;
    lwd_session_row_t row;
    for (unsigned i = 0; i < COUNT; i++) {
        ids[i] = create("a", 1, 1).session_id;
        assert_int_equal(commit(ids[i], 1, 0, 1000, 0), LW_OK);
    }
    assert_int_equal(ops->fork(cat, "a", ids[PARENT], 0, 5, 1, 10 * LEASE, T0, &row, &error), LW_OK);
    assert_int_equal(ops->pin(cat, "a", ids[PINNED], true, &error), LW_OK);
    assert_int_equal(ops->open_session(cat, "a", ids[READ], false, 2, 1, 10 * LEASE, T0, &row, &error), LW_OK);
    /* All leases of client 1 end; ACTIVE is opened again, NEW was used after OLD. */
    assert_int_equal(open_at(ids[ACTIVE], true, 3, 1, now, &row), LW_OK);
    assert_int_equal(open_at(ids[NEW], true, 3, 1, now - 10, &row), LW_OK);
    assert_int_equal(ops->release(cat, ids[NEW], 3, 1, now - 5, &error), LW_OK);
    assert_int_equal(expire(1, now), 100000);
    assert_int_equal(ops->get(cat, "a", ids[OLD], &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(get(ids[NEW]).state, LWD_SESSION_IDLE);
    assert_int_equal(expire(UINT64_MAX, now), 100000); /* NEW */
    assert_int_equal(ops->get(cat, "a", ids[NEW], &row, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(get(ids[ACTIVE]).state, LWD_SESSION_ACTIVE);
    assert_int_equal(get(ids[PINNED]).state, LWD_SESSION_IDLE);
    assert_int_equal(get(ids[READ]).state, LWD_SESSION_IDLE);
    assert_int_equal(get(ids[PARENT]).state, LWD_SESSION_IDLE);
    assert_int_equal(expire(UINT64_MAX, T0 + 20 * LEASE), 300000); /* nothing holds ACTIVE, READ, the fork, then PARENT */
    assert_int_equal(get(ids[PINNED]).state, LWD_SESSION_IDLE);
    assert_int_equal(ops->get(cat, "a", ids[PARENT], &row, &error), LW_ERR_NOT_FOUND);
}

static void test_orphans_are_segments_in_no_manifest_without_a_live_writer(void **state)
{
    uint64_t id = create("a", 1, 1).session_id;
    assert_int_equal(commit(id, 1, 0, 1024, 0), LW_OK);
    const lw_segment_name_t names[] = {
        {.origin = id, .first_token = 0, .generation = 1},    /* committed */
        {.origin = id, .first_token = 1024, .generation = 1}, /* being written */
        {.origin = id, .first_token = 1024, .generation = 0}, /* an older term's */
        {.origin = id, .rank = 1, .generation = 1},           /* no such rank */
        {.origin = id + 1, .generation = 1},                  /* no such session */
    };
    bool dead[5];
    assert_int_equal(ops->orphans(cat, LWD_NODE_ANY, names, 5, T0, dead, &error), LW_OK);
    assert_false(dead[0]);
    assert_false(dead[1]);
    assert_true(dead[2]);
    assert_true(dead[3]);
    assert_true(dead[4]);
    assert_int_equal(ops->orphans(cat, LWD_NODE_ANY, names, 5, T0 + LEASE, dead, &error), LW_OK); /* the lease is over */
    assert_false(dead[0]);
    assert_true(dead[1]);
    uint32_t renewed;
    assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0 + LEASE, &renewed, &error), LW_OK);
    lwd_range_t range = test_range(1024, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0 + LEASE, &error), LW_ERR_STALE); /* what was freed stays out */
    assert_int_equal(ops->drop(cat, "a", id, T0, &error), LW_OK);
    assert_int_equal(ops->orphans(cat, LWD_NODE_ANY, names, 5, T0, dead, &error), LW_OK);
    assert_true(dead[0]);
}

static lw_segment_name_t name_of(uint64_t id, uint16_t layer, uint32_t first, uint32_t generation)
{
    lw_segment_name_t name = {.origin = id, .layer = layer, .first_token = first, .generation = generation};
    return name;
}

/* Commits one range of `replicas` copies at term 1: copy r of layer l on node 10 * l + r. */
static lwd_range_t commit_on_nodes(uint64_t id, uint32_t first, uint32_t layers, uint32_t replicas)
{
    lwd_range_t range = test_range(first, 1024, 1, 0);
    range.replicas = replicas;
    for (uint32_t i = 0; i < layers * replicas; i++)
        range.node_index[i] = (uint16_t)(10 * (i / replicas) + i % replicas);
    assert_int_equal(ops->commit(cat, id, 0, 1, &range, 1, T0, &error), LW_OK);
    return range;
}

static void test_a_copy_that_no_manifest_places_on_a_node_is_dead_there(void **state)
{
    uint64_t id = create("a", 2, 1).session_id;
    commit_on_nodes(id, 0, 2, 2);
    const lw_segment_name_t names[] = {name_of(id, 0, 0, 1), name_of(id, 1, 0, 1), name_of(id, 2, 0, 1),
                                       name_of(id, 0, 1024, 1)};
    bool dead[4];
    assert_int_equal(ops->orphans(cat, 1, names, 4, T0, dead, &error), LW_OK);
    assert_false(dead[0]);
    assert_true(dead[1]); /* its range is committed, with this layer elsewhere: the writer's lease does not matter */
    assert_true(dead[2]); /* no such layer */
    assert_false(dead[3]); /* being written */
    assert_int_equal(ops->orphans(cat, 11, names, 4, T0, dead, &error), LW_OK);
    assert_true(dead[0]);
    assert_false(dead[1]);
    assert_int_equal(ops->orphans(cat, LWD_NODE_ANY, names, 4, T0, dead, &error), LW_OK);
    assert_false(dead[0] || dead[1]);
    assert_int_equal(ops->move(cat, &names[0], 1, 7, &error), LW_OK);
    assert_int_equal(ops->orphans(cat, 1, names, 1, T0, dead, &error), LW_OK);
    assert_true(dead[0]);
    assert_int_equal(ops->orphans(cat, 7, names, 1, T0, dead, &error), LW_OK);
    assert_false(dead[0]);
}

static void test_a_move_changes_one_copy_of_one_layer(void **state)
{
    uint64_t id = create("a", 2, 1).session_id;
    lwd_range_t sent = commit_on_nodes(id, 0, 2, 2), stored;
    uint32_t count;
    uint64_t bytes = get(id).bytes;
    lw_segment_name_t name = name_of(id, 1, 0, 1);
    assert_int_equal(ops->move(cat, &name, 10, 5, &error), LW_OK);
    assert_int_equal(ops->ranges(cat, id, 0, 0, 1, &stored, &count, &error), LW_OK);
    const uint16_t expected[4] = {0, 1, 5, 11};
    assert_memory_equal(stored.node_index, expected, sizeof(expected));
    assert_int_equal(stored.flags, LW_RANGE_MOVED);
    assert_int_equal(get(id).bytes, bytes);
    /* The writer's answer was lost: the same commit again is still the same; another one is not. */
    assert_int_equal(ops->commit(cat, id, 0, 1, &sent, 1, T0, &error), LW_OK);
    sent.bytes++;
    assert_int_equal(ops->commit(cat, id, 0, 1, &sent, 1, T0, &error), LW_ERR_EXISTS);
    assert_int_equal(ops->commit(cat, id, 0, 1, &stored, 1, T0, &error), LW_ERR_INVALID); /* the flag is not a writer's */
    sent = test_range(1024, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, id, 0, 1, &sent, 1, T0, &error), LW_OK); /* the manifest goes on */
}

static void test_a_move_of_what_is_no_longer_so_is_stale(void **state)
{
    uint64_t id = create("a", 2, 1).session_id;
    commit_on_nodes(id, 0, 2, 2);
    lw_segment_name_t name = name_of(id, 0, 0, 1), other = name_of(id, 2, 0, 1);
    assert_int_equal(ops->move(cat, &name, 2, 3, &error), LW_ERR_STALE); /* not there */
    assert_int_equal(ops->move(cat, &name, 0, 1, &error), LW_ERR_STALE); /* there already: two copies on one node */
    assert_int_equal(ops->move(cat, &name, 0, 0, &error), LW_ERR_STALE);
    assert_int_equal(ops->move(cat, &name, 0, LW_NODES_MAX, &error), LW_ERR_INVALID);
    assert_int_equal(ops->move(cat, &other, 0, 3, &error), LW_ERR_STALE); /* no such layer */
    other = name_of(id, 0, 0, 2);
    assert_int_equal(ops->move(cat, &other, 0, 3, &error), LW_ERR_STALE); /* no such generation */
    other = name_of(id, 0, 1024, 1);
    assert_int_equal(ops->move(cat, &other, 0, 3, &error), LW_ERR_STALE); /* no such range */
    other = name_of(id + 1, 0, 0, 1);
    assert_int_equal(ops->move(cat, &other, 0, 3, &error), LW_ERR_STALE); /* no such session */
    other = name_of(id, 0, 0, 1);
    other.rank = 1;
    assert_int_equal(ops->move(cat, &other, 0, 3, &error), LW_ERR_STALE);
    assert_int_equal(ops->move(cat, &name, 0, 3, &error), LW_OK);
    assert_int_equal(ops->move(cat, &name, 0, 4, &error), LW_ERR_STALE); /* two nodes wanted the same */
    assert_int_equal(ops->drop(cat, "a", id, T0, &error), LW_OK);
    assert_int_equal(ops->move(cat, &name, 3, 4, &error), LW_ERR_STALE);
}

static void test_every_range_is_placed_once_page_by_page(void **state)
{
    lwd_placed_t rows[8];
    lwd_placed_key_t after = {0};
    uint32_t count;
    assert_int_equal(ops->placed(cat, &after, 8, rows, &count, &error), LW_OK);
    assert_int_equal(count, 0);
    uint64_t a = create("a", 1, 2).session_id, b = create("b", 2, 1).session_id;
    lwd_range_t range = test_range(0, 1024, 1, 0);
    assert_int_equal(ops->commit(cat, a, 1, 1, &range, 1, T0, &error), LW_OK);
    assert_int_equal(ops->commit(cat, a, 0, 1, &range, 1, T0, &error), LW_OK);
    commit_on_nodes(b, 0, 2, 2);
    commit_on_nodes(b, 1024, 2, 2);
    lwd_session_row_t child;
    assert_int_equal(ops->fork(cat, "b", b, 1024, 1, 1, LEASE, T0, &child, &error), LW_OK);
    assert_int_equal(ops->drop(cat, "b", b, T0, &error), LW_OK); /* retained up to 1024 */
    assert_int_equal(ops->placed(cat, &after, 2, rows, &count, &error), LW_OK);
    assert_int_equal(count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(rows[i].range.origin, a);
        assert_int_equal(rows[i].rank, i);
        assert_int_equal(rows[i].layers, 2);
        assert_memory_equal(rows[i].range.node_index, range.node_index, 2 * sizeof(uint16_t));
    }
    after = (lwd_placed_key_t){rows[1].range.origin, rows[1].rank, rows[1].range.first_token};
    assert_int_equal(ops->placed(cat, &after, 8, rows, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].range.origin, b);
    assert_int_equal(rows[0].range.first_token, 0);
    assert_int_equal(rows[0].range.replicas, 2);
    assert_int_equal(rows[0].layers, 2);
    after = (lwd_placed_key_t){b, 0, 0};
    assert_int_equal(ops->placed(cat, &after, 8, rows, &count, &error), LW_OK);
    assert_int_equal(count, 0);
}

static void test_a_node_token_stays_and_a_drain_is_kept(void **state)
{
    uint8_t one[LW_TOKEN_BYTES] = {0}, two[LW_TOKEN_BYTES], none[LW_TOKEN_BYTES] = {0};
    assert_int_equal(ops->node_token(cat, one, &error), LW_OK);
    assert_int_equal(ops->node_token(cat, two, &error), LW_OK);
    assert_memory_equal(one, two, sizeof(one));
    assert_memory_not_equal(one, none, sizeof(one));
    bool drain = true;
    assert_int_equal(ops->drain(cat, 3, &drain, &error), LW_OK);
    assert_false(drain);
    assert_int_equal(ops->set_drain(cat, 3, true, &error), LW_OK);
    assert_int_equal(ops->set_drain(cat, 3, true, &error), LW_OK);
    assert_int_equal(ops->drain(cat, 3, &drain, &error), LW_OK);
    assert_true(drain);
    assert_int_equal(ops->drain(cat, 4, &drain, &error), LW_OK);
    assert_false(drain);
    assert_int_equal(ops->set_drain(cat, 3, false, &error), LW_OK);
    assert_int_equal(ops->drain(cat, 3, &drain, &error), LW_OK);
    assert_false(drain);
    assert_int_equal(ops->set_drain(cat, LW_NODES_MAX, true, &error), LW_ERR_INVALID);
    assert_int_equal(ops->drain(cat, LW_NODES_MAX, &drain, &error), LW_ERR_INVALID);
}

static void test_the_log_of_endings_is_read_on_and_trimmed(void **state)
{
    uint64_t ids[5];
    for (unsigned i = 0; i < 5; i++)
        ids[i] = create("a", 1, 1).session_id;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(ops->drop(cat, "a", ids[i], T0, &error), LW_OK);
    lwd_ended_t rows[64];
    uint32_t count;
    assert_int_equal(ops->ended(cat, 0, 2, rows, &count, &error), LW_OK);
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].origin, ids[1]);
    uint64_t last = rows[1].serial;
    assert_int_equal(endings(rows, last), 3);
    assert_int_equal(rows[0].origin, ids[2]);
    assert_true(rows[0].serial > last);
    assert_int_equal(ops->trim(cat, last, &error), LW_OK);
    assert_int_equal(endings(rows, 0), 3);
    assert_int_equal(rows[0].origin, ids[2]);
    assert_int_equal(ops->trim(cat, rows[2].serial, &error), LW_OK);
    assert_int_equal(endings(rows, 0), 0);
    uint64_t highest = rows[2].serial;
    uint64_t one = create("a", 1, 1).session_id;
    assert_int_equal(ops->drop(cat, "a", one, T0, &error), LW_OK);
    assert_int_equal(endings(rows, highest), 1); /* serials go on after a trim */
}

static void test_a_list_goes_on_from_the_last_id(void **state)
{
    uint64_t ids[5];
    for (unsigned i = 0; i < 5; i++)
        ids[i] = create("a", 1, 1).session_id;
    assert_int_equal(ops->drop(cat, "a", ids[1], T0, &error), LW_OK);
    lwd_session_row_t rows[3];
    uint32_t count;
    assert_int_equal(ops->list(cat, "a", 0, 3, rows, &count, &error), LW_OK);
    assert_int_equal(count, 3);
    assert_int_equal(rows[1].session_id, ids[2]);
    assert_int_equal(ops->list(cat, "a", rows[2].session_id, 3, rows, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].session_id, ids[4]);
}

static void test_the_fleet_has_an_id_an_epoch_that_grows_and_members_that_stay(void **state)
{
    uint64_t fleet_id = 0, epoch = 9;
    assert_int_equal(ops->fleet(cat, &fleet_id, &epoch, &error), LW_OK);
    assert_int_not_equal(fleet_id, 0);
    assert_int_equal(epoch, 0);
    assert_int_equal(ops->set_epoch(cat, 0, &error), LW_ERR_STALE);
    assert_int_equal(ops->set_epoch(cat, 5, &error), LW_OK);
    assert_int_equal(ops->set_epoch(cat, 5, &error), LW_ERR_STALE);
    uint64_t same = 0;
    assert_int_equal(ops->fleet(cat, &same, &epoch, &error), LW_OK);
    assert_int_equal(same, fleet_id);
    assert_int_equal(epoch, 5);
    const char *first[] = {"a:1", "b:1"}, *swapped[] = {"b:1", "a:1"}, *grown[] = {"a:1", "b:1", "c:1"};
    const char *moved[] = {"a:2", "b:1", "c:1"};
    assert_int_equal(ops->members(cat, first, 2, &error), LW_OK);
    assert_int_equal(ops->members(cat, swapped, 2, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "b:1"));
    assert_int_equal(ops->members(cat, grown, 3, &error), LW_OK);
    assert_int_equal(ops->members(cat, moved, 3, &error), LW_OK); /* a node with a new address keeps its number */
    assert_int_equal(ops->members(cat, moved, 3, &error), LW_OK);
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "sim";
    if (strcmp(which, "sim") == 0)
        ops = lwd_catalogue_sim();
#ifdef LW_HAVE_SQLITE
    if (strcmp(which, "sqlite") == 0)
        ops = lwd_catalogue_sqlite();
#endif
#ifdef LW_HAVE_ETCD
    if (strcmp(which, "etcd") == 0 && etcd_process_found()) {
        ops = lwd_catalogue_etcd();
        etcd_process_start(&etcd);
    }
#endif
    if (!ops) {
        printf("skipped: no catalogue '%s' in this build\n", which);
        return 77;
    }
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_a_session_that_is_not_there_is_not_found),
        CASE(test_another_tenants_session_is_as_if_not_there),
        CASE(test_a_stale_writer_is_refused),
        CASE(test_a_lease_that_ran_out_cannot_be_renewed),
        CASE(test_a_new_incarnation_ends_the_leases_of_the_old_one),
        CASE(test_ranges_come_in_order_without_gaps),
        CASE(test_malformed_ranges_are_refused),
        CASE(test_a_commit_is_all_or_nothing),
        CASE(test_the_largest_manifest_is_a_bound),
        CASE(test_a_line_of_forks_has_a_bound),
        CASE(test_a_wrong_token_is_refused_and_an_old_term_is_stale),
        CASE(test_ids_grow_and_tokens_differ),
        CASE(test_release_makes_idle_and_the_same_client_reopens_at_once),
        CASE(test_expired_leases_become_idle),
        CASE(test_a_repeated_commit_changes_nothing_and_another_content_is_refused),
        CASE(test_a_raw_tail_is_replaced_by_a_later_term_only),
        CASE(test_the_token_count_is_the_smallest_over_the_ranks),
        CASE(test_a_fork_shares_ranges_up_to_its_cut),
        CASE(test_a_dropped_parent_is_retained_for_its_children_and_no_longer),
        CASE(test_ttl_ends_idle_sessions_that_nobody_reads_or_pinned),
        CASE(test_eviction_takes_the_least_recently_used_that_nothing_holds),
        CASE(test_orphans_are_segments_in_no_manifest_without_a_live_writer),
        CASE(test_a_copy_that_no_manifest_places_on_a_node_is_dead_there),
        CASE(test_a_move_changes_one_copy_of_one_layer),
        CASE(test_a_move_of_what_is_no_longer_so_is_stale),
        CASE(test_every_range_is_placed_once_page_by_page),
        CASE(test_a_node_token_stays_and_a_drain_is_kept),
        CASE(test_the_log_of_endings_is_read_on_and_trimmed),
        CASE(test_a_list_goes_on_from_the_last_id),
        CASE(test_the_fleet_has_an_id_an_epoch_that_grows_and_members_that_stay),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
#ifdef LW_HAVE_ETCD
    etcd_process_remove(&etcd);
#endif
    return failed;
}
