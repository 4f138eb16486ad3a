/* gates_policy.c - what each policy chooses, counted from the marks and items that select leaves behind. */
#include "ops/gates_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/view.h"

/* What select said about (session 0, head): marks of all entries, retrieved and estimated entries and tokens.
 */
typedef struct chosen {
    uint32_t retrieved, estimated, dropped;
    uint64_t retrieved_tokens, estimated_tokens, largest_size;
} chosen_t;

static chosen_t count_marks(ops_rig_t *rig, uint32_t layer, uint32_t head)
{
    lwk_session_t session = ops_session(rig, 0);
    uint8_t *mark = malloc(rig->dims.entry_capacity);
    ops_get(rig, mark, rig->scratch.mark + (size_t)head * rig->dims.entry_capacity, rig->dims.entry_capacity);
    lwk_range_ref_t refs[OPS_RANGES_MAX];
    ops_get(rig, refs, session.ranges, session.range_count * sizeof *refs);
    chosen_t c = {0};
    for (uint32_t r = 0; r < session.range_count; r++) {
        const ops_part_t *part =
            &rig->ranges[refs[r].row].parts[layer * rig->config.shape.kv_head_count + head];
        for (uint32_t e = 0; e < part->cluster_count + part->outlier_count; e++) {
            uint32_t size = e < part->cluster_count ? part->sizes[e] : 1, m = mark[refs[r].entry_base + e];
            c.retrieved += m == LWK_MARK_RETRIEVE;
            c.estimated += m == LWK_MARK_ESTIMATE;
            c.dropped += m == LWK_MARK_DROP;
            c.retrieved_tokens += m == LWK_MARK_RETRIEVE ? size : 0;
            c.estimated_tokens += m == LWK_MARK_ESTIMATE ? size : 0;
            c.largest_size = lw_max_u64(c.largest_size, size);
        }
    }
    free(mark);
    return c;
}

static void one_step(ops_rig_t *rig)
{
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(ops_session(rig, 0).error, 0);
}

static ops_config_t policy_config(void)
{
    ops_config_t config = gates_config();
    config.shape.layer_count = 1;
    config.outlier_ppm = 80000;
    return config;
}

static void test_a_token_budget_takes_entries_until_it_is_filled(void **state)
{
    ops_config_t config = policy_config();
    config.policy.retrieve_ppm = 30000;
    config.policy.estimate_ppm = 200000;
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    one_step(rig);
    uint64_t n = 2000 - LW_SINK_TOKENS;
    for (uint32_t head = 0; head < 2; head++) {
        chosen_t c = count_marks(rig, 0, head);
        assert_true(c.retrieved_tokens * 1000000 >= 30000 * n);
        assert_true((c.retrieved_tokens - c.largest_size) * 1000000 < 30000 * n || c.retrieved == 1);
        assert_true(c.estimated_tokens * 1000000 >= 200000 * n);
        assert_true((c.estimated_tokens - c.largest_size) * 1000000 < 200000 * n);
        assert_true(c.dropped > 0);
    }
    ops_rig_destroy(rig);
}

static void test_a_cluster_budget_counts_clusters_whatever_their_size(void **state)
{
    ops_config_t config = policy_config();
    config.outlier_ppm = 0;
    config.policy = (lwk_policy_t){.rank = LWK_RANK_MEAN,
                                   .budget = LWK_BUDGET_CLUSTERS,
                                   .cluster_tokens = 16,
                                   .retrieve_ppm = 18000,
                                   .estimate_ppm = 232000};
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    one_step(rig);
    chosen_t c = count_marks(rig, 0, 1);
    assert_int_equal(c.retrieved, (int)lround(0.018 * 1996 / 16));
    assert_int_equal(c.estimated, (int)lround(0.232 * 1996 / 16));
    assert_true(c.dropped > 0);
    ops_rig_destroy(rig);
}

static void test_nothing_and_everything_mean_just_that(void **state)
{
    ops_config_t config = policy_config();
    for (uint32_t budget = LWK_BUDGET_TOKENS; budget <= LWK_BUDGET_CLUSTERS; budget++) {
        config.policy.budget = budget;
        config.policy.retrieve_ppm = 0;
        ops_rig_t *rig = gates_rig(&config, 800, 80);
        one_step(rig);
        chosen_t c = count_marks(rig, 0, 0);
        assert_int_equal(c.retrieved, 0);
        assert_int_equal(c.dropped, 0);
        assert_int_equal(*rig->ticket_head, 0);
        config.policy.retrieve_ppm = 1000000;
        ops_set_policy(rig, 0, &config.policy);
        one_step(rig);
        c = count_marks(rig, 0, 0);
        assert_int_equal(c.estimated + c.dropped, 0);
        assert_int_equal(c.retrieved_tokens, 796);
        ops_rig_destroy(rig);
    }
}

/* A control: ranges get no weight, so a session whose ranges are ignored is one that never had those tokens.
 */
static void test_steady_only_ignores_the_ranges(void **state)
{
    ops_config_t config = policy_config();
    config.policy.steady_only = 1;
    ops_rig_t *rig = gates_rig(&config, 800, 80);
    ops_query_zero(rig);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(*rig->ticket_head, 0);
    assert_true(fabs(rig->lse_host[0] - log(LW_SINK_TOKENS + 80 + 1)) < 1e-5);
    ops_rig_destroy(rig);
}

static void test_items_lie_in_slot_order_without_gaps(void **state)
{
    ops_config_t config = policy_config();
    config.policy.retrieve_ppm = 100000;
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    one_step(rig);
    for (uint32_t head = 0; head < 2; head++) {
        uint32_t count;
        ops_get(rig, &count, rig->scratch.item_count + head, sizeof count);
        assert_int_equal(count, count_marks(rig, 0, head).retrieved);
        lwk_item_t *items = malloc(count * sizeof *items);
        ops_get(rig, items, rig->scratch.items + (size_t)head * rig->dims.item_capacity,
                count * sizeof *items);
        for (uint32_t i = 1; i < count; i++)
            assert_true(items[i - 1].range < items[i].range ||
                        (items[i - 1].range == items[i].range && items[i - 1].entry < items[i].entry));
        free(items);
    }
    ops_rig_destroy(rig);
}

static void test_a_selection_ends_at_the_item_capacity(void **state)
{
    ops_config_t config = policy_config();
    config.item_capacity = 5;
    config.policy.retrieve_ppm = 300000;
    ops_rig_t *rig = gates_rig(&config, 1000, 80);
    one_step(rig);
    assert_int_equal(count_marks(rig, 0, 0).retrieved, 5);
    assert_int_equal(count_marks(rig, 0, 0).dropped, 0); /* the others are estimated */
    assert_int_equal(rig->counters->selections_cut, 2);
    assert_true(ops_gate_zero_query(rig, false));
    ops_rig_destroy(rig);
}

/* ---- the error budget
 * -------------------------------------------------------------------------------------------- */

static void test_a_smaller_error_target_retrieves_more(void **state)
{
    ops_config_t config = policy_config();
    config.policy.budget = LWK_BUDGET_ERROR;
    config.policy.floor_entries = 2;
    config.policy.cap_ppm = 1000000;
    uint32_t targets[] = {900000, 300000, 100000, 20000}, last = 0;
    for (size_t i = 0; i < LW_ARRAY_SIZE(targets); i++) {
        config.policy.accuracy_ppm = targets[i];
        ops_rig_t *rig = gates_rig(&config, 2000, 80);
        one_step(rig);
        chosen_t c = count_marks(rig, 0, 0);
        assert_true(c.retrieved >= last);
        assert_true(c.retrieved >= 2);
        last = c.retrieved;
        ops_rig_destroy(rig);
    }
    assert_true(last > 2);
}

static void test_the_error_budget_keeps_its_cap(void **state)
{
    ops_config_t config = policy_config();
    config.policy.budget = LWK_BUDGET_ERROR;
    config.policy.accuracy_ppm = 1;
    config.policy.cap_ppm = 50000;
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    one_step(rig);
    chosen_t c = count_marks(rig, 0, 0);
    assert_true(c.retrieved_tokens * 1000000 >= 50000 * 1996ull);
    assert_true((c.retrieved_tokens - c.largest_size) * 1000000 < 50000 * 1996ull || c.retrieved <= 8);
    ops_rig_destroy(rig);
}

/* A query whose best token is an outlier retrieves it at every target: its key is exact but its value is not
 * known. */
static void test_an_outlier_on_top_is_retrieved_at_every_error_target(void **state)
{
    uint32_t targets[] = {900000, 500000, 10000};
    for (size_t i = 0; i < LW_ARRAY_SIZE(targets); i++) {
        ops_config_t config = policy_config();
        config.policy.budget = LWK_BUDGET_ERROR;
        config.policy.accuracy_ppm = targets[i];
        config.policy.floor_entries = 0;
        ops_rig_t *rig = gates_rig(&config, 600, 80);
        assert_true(ops_gate_probe(rig, 0, rig->ranges[0].parts[0].cluster_count));
        ops_rig_destroy(rig);
    }
}

/* Corrections that help: with clusters of similar keys, estimating with them is closer to the truth than
 * without. */
static void test_corrections_shrink_the_error_of_the_estimate(void **state)
{
    double error[2] = {0, 0}, lse[2] = {0, 0};
    for (uint32_t corrected = 0; corrected < 2; corrected++)
        for (uint64_t i = 0; i < 6; i++) { /* one index in a few dozen is no better for it */
            ops_config_t config = policy_config();
            config.seed += i;
            config.data = OPS_DATA_SYNTH;
            config.clustering = OPS_CLUSTER_KMEANS;
            config.policy.correct = corrected ? LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE : 0;
            config.policy.retrieve_ppm = 20000;
            ops_rig_t *rig = gates_rig(&config, 2400, 80);
            for (int step = 0; step < 4; step++) {
                one_step(rig);
                ops_errors_t errors = ops_errors(rig, 0);
                error[corrected] += errors.out;
                lse[corrected] += errors.lse;
            }
            ops_rig_destroy(rig);
        }
    assert_true(error[1] < 1.05 * error[0]);
    assert_true(lse[1] < 1.05 * lse[0]);
}

const struct CMUnitTest gates_policy_tests[] = {
    cmocka_unit_test(test_a_token_budget_takes_entries_until_it_is_filled),
    cmocka_unit_test(test_a_cluster_budget_counts_clusters_whatever_their_size),
    cmocka_unit_test(test_nothing_and_everything_mean_just_that),
    cmocka_unit_test(test_steady_only_ignores_the_ranges),
    cmocka_unit_test(test_items_lie_in_slot_order_without_gaps),
    cmocka_unit_test(test_a_selection_ends_at_the_item_capacity),
    cmocka_unit_test(test_a_smaller_error_target_retrieves_more),
    cmocka_unit_test(test_the_error_budget_keeps_its_cap),
    cmocka_unit_test(test_an_outlier_on_top_is_retrieved_at_every_error_target),
    cmocka_unit_test(test_corrections_shrink_the_error_of_the_estimate),
};
const size_t gates_policy_count = LW_ARRAY_SIZE(gates_policy_tests);
