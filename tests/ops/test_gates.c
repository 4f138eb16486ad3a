/* test_gates.c - the claims of ALGORITHM.md section 9, for every backend that runs here: conservation,
 * exactness, planted faults, adversarial input, failures. The cache and the policies have files of their own.
 */
#include "ops/gates_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"
#include "ops/variants.h"

const lwk_backend_t *gates_backend;
uint64_t gates_seed;

ops_config_t gates_config(void)
{
    return (ops_config_t){
        .backend = gates_backend,
        .seed = gates_seed,
        .shape = {.layer_count = 2, .kv_head_count = 2, .group = 3, .head_dim = 64, .dtype = LW_DTYPE_FP32},
        .token_count = 2600,
        .data = OPS_DATA_GAUSS,
        .policy = ops_policy()};
}

ops_rig_t *gates_rig(const ops_config_t *config, uint32_t sealed, uint32_t open)
{
    ops_rig_t *rig = ops_rig_create(config);
    ops_fill(rig, 0, sealed + open);
    for (uint32_t done = 0; done < sealed;) {
        uint32_t count = 100 + (uint32_t)lw_prng_below(&rig->prng, 600);
        count = count < sealed - done ? count : sealed - done;
        (void)ops_seal(rig, 0, count);
        done += count;
    }
    ops_fill(rig, 0, sealed + open);
    return rig;
}

void gates_truncate(ops_rig_t *rig, uint32_t s, uint32_t token_count)
{
    lwk_session_t session = ops_session(rig, s);
    session.token_count = token_count;
    ops_set_session(rig, s, &session);
}

/* ---- conservation
 * ------------------------------------------------------------------------------------------------ */

static void test_zero_query_sees_every_token_once_in_every_policy(void **state)
{
    ops_config_t config = gates_config();
    ops_rig_t *rig = gates_rig(&config, 2000, 100);
    lwk_policy_t policies[6];
    for (size_t i = 0; i < LW_ARRAY_SIZE(policies); i++)
        policies[i] = ops_policy();
    policies[0].retrieve_ppm = 0;
    policies[1].rank = LWK_RANK_MEAN;
    policies[1].budget = LWK_BUDGET_CLUSTERS;
    policies[1].correct = 0;
    policies[2].retrieve_ppm = 1000000;
    policies[3].retrieve_ppm = 400000;
    policies[4].budget = LWK_BUDGET_ERROR;
    for (size_t i = 0; i < LW_ARRAY_SIZE(policies); i++) {
        ops_set_policy(rig, 0, &policies[i]);
        for (int again = 0; again < 3; again++) /* misses, then a mix of hits and misses */
            assert_true(ops_gate_zero_query(rig, true));
    }
    assert_true(rig->counters->hits > 0);
    assert_true(rig->counters->misses > 0);
    ops_rig_destroy(rig);
}

static void test_zero_query_sees_outliers_and_coded_entries_once(void **state)
{
    uint32_t encodings[] = {LW_ENCODING_FP32, LW_ENCODING_BF16, LW_ENCODING_INT8, LW_ENCODING_INT4};
    for (size_t i = 0; i < LW_ARRAY_SIZE(encodings); i++) {
        ops_config_t config = gates_config();
        config.cluster_encoding = encodings[i];
        config.outlier_encoding = encodings[(i + 1) % 4];
        config.outlier_ppm = 125000;
        config.shape.soft_cap = i % 2 == 0 ? 30.0f : 0.0f;
        ops_rig_t *rig = gates_rig(&config, 900, 80);
        for (int again = 0; again < 2; again++)
            assert_true(ops_gate_zero_query(rig, false));
        ops_rig_destroy(rig);
    }
}

/* One step over a range with more clusters to a part, and more outliers to one cluster, than a GPU's block takes at once. */
static ops_rig_t *step_large_range(const lwk_backend_t *backend, ops_clustering_t clustering, uint32_t encoding)
{
    ops_config_t config = gates_config();
    config.backend = backend;
    config.shape = (lwk_shape_t){.layer_count = 1, .kv_head_count = 1, .group = 5, .head_dim = 64, .dtype = LW_DTYPE_BF16};
    config.token_count = LW_SEGMENT_TOKENS_MAX + 200;
    config.clustering = clustering;
    config.cluster_tokens = 4;
    config.cluster_encoding = encoding;
    config.outlier_encoding = LW_ENCODING_INT4;
    config.outlier_ppm = 125000;
    config.policy.retrieve_ppm = 0; /* what backends choose may differ where votes are nearly equal */
    ops_rig_t *rig = ops_rig_create(&config);
    ops_fill(rig, 0, LW_SEGMENT_TOKENS_MAX + 100);
    (void)ops_seal(rig, 0, LW_SEGMENT_TOKENS_MAX);
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    return rig;
}

static void test_a_large_range_gives_what_ref_gives(void **state)
{
    static const ops_clustering_t clusterings[] = {OPS_CLUSTER_CONTIGUOUS, OPS_CLUSTER_HALF};
    static const uint32_t encodings[] = {LW_ENCODING_INT8, LW_ENCODING_INT4};
    for (size_t i = 0; i < LW_ARRAY_SIZE(clusterings); i++) {
        ops_rig_t *rig = step_large_range(gates_backend, clusterings[i], encodings[i]);
        ops_rig_t *ref = step_large_range(lwk_ref_backend(), clusterings[i], encodings[i]);
        for (uint32_t h = 0; h < 5; h++) {
            double difference = 0, norm = 0;
            for (uint32_t j = 64 * h; j < 64 * h + 64; j++) {
                difference += (rig->out_host[j] - ref->out_host[j]) * (rig->out_host[j] - ref->out_host[j]);
                norm += ref->out_host[j] * ref->out_host[j];
            }
            assert_true(sqrt(difference) <= 2e-3 * sqrt(norm));
            assert_true(fabs(rig->lse_host[h] - ref->lse_host[h]) <= 1e-4);
        }
        ops_rig_destroy(rig);
        ops_rig_destroy(ref);
    }
}

static void test_zero_query_holds_across_seals(void **state)
{
    ops_config_t config = gates_config();
    config.steady_rows = 1300; /* the ring wraps */
    ops_rig_t *rig = gates_rig(&config, 0, 1200);
    for (int round = 0; round < 3; round++) {
        assert_true(ops_gate_zero_query(rig, true));
        lwk_session_t session = ops_session(rig, 0);
        (void)ops_seal(rig, 0, round == 0 ? 1024 : session.token_count - session.sealed_count - 64);
        assert_true(ops_gate_zero_query(rig, true));
        for (int step = 0; step < 300; step++)
            assert_true(ops_gate_zero_query(rig, false));
    }
    ops_rig_destroy(rig);
}

static void test_zero_query_holds_in_a_fork_and_its_parent(void **state)
{
    ops_config_t config = gates_config();
    config.session_count = 2;
    ops_rig_t *rig = ops_rig_create(&config);
    rig->session_stream[1] = 0; /* the child has the parent's tokens */
    ops_fill(rig, 0, 1500);
    ops_fill(rig, 1, 1300);
    uint32_t first = ops_seal(rig, 0, 700), second = ops_seal(rig, 0, 500);
    ops_share(rig, 1, first);
    ops_share(rig, 1, second);
    ops_fill(rig, 1, 1300);
    for (int again = 0; again < 3; again++)
        assert_true(ops_gate_zero_query(rig, true));
    (void)ops_seal(rig, 0, 200); /* the parent goes on alone */
    assert_true(ops_gate_zero_query(rig, true));
    assert_true(rig->counters->pending > 0); /* one session's miss was the other's */
    ops_rig_destroy(rig);
}

static void test_zero_query_holds_after_truncate(void **state)
{
    ops_config_t config = gates_config();
    config.query_tokens = 4;
    ops_rig_t *rig = gates_rig(&config, 600, 90);
    for (int round = 0; round < 4; round++) {
        assert_true(ops_gate_zero_query(rig, true));
        gates_truncate(rig, 0, ops_session(rig, 0).token_count - 3); /* one of four accepted */
        uint32_t n = ops_session(rig, 0).token_count;
        for (uint32_t layer = 0; layer < 2; layer++) /* other tokens take their place */
            for (uint32_t j = 0; j < 3 * config.shape.head_dim; j++) {
                size_t at = ((size_t)layer * 2 * config.token_count + n) * config.shape.head_dim + j;
                rig->values[0][at] += 1.0f;
            }
        assert_true(ops_gate_zero_query(rig, true));
    }
    ops_rig_destroy(rig);
}

static void test_an_empty_batch_slot_is_left_alone(void **state)
{
    ops_config_t config = gates_config();
    config.session_count = 3;
    ops_rig_t *rig = ops_rig_create(&config);
    for (uint32_t s = 0; s < 3; s++) {
        ops_fill(rig, s, 400 + 50 * s);
        (void)ops_seal(rig, s, 300);
    }
    uint32_t none = LWK_SLOT_NONE;
    ops_put(rig, &rig->slots[1], &none, sizeof none);
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_int_equal(ops_session(rig, 0).token_count, 401);
    assert_int_equal(ops_session(rig, 1).token_count, 450);
    assert_int_equal(ops_session(rig, 2).token_count, 501);
    ops_rig_destroy(rig);
}

/* ---- exactness
 * --------------------------------------------------------------------------------------------------- */

static void test_full_retrieval_is_exact_for_any_partition(void **state)
{
    for (int round = 0; round < 3; round++) {
        ops_config_t config = gates_config();
        config.seed += (uint64_t)round;
        config.policy = ops_policy_full();
        config.outlier_ppm = round * 60000u;
        config.clustering = round == 1 ? OPS_CLUSTER_CONTIGUOUS : OPS_CLUSTER_RANDOM;
        ops_rig_t *rig = gates_rig(&config, 1500, 70 + 400 * (uint32_t)round);
        for (int again = 0; again < 3; again++)
            assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
        ops_rig_destroy(rig);
    }
}

static void test_a_tree_of_query_tokens_sees_what_its_mask_says(void **state)
{
    ops_config_t config = gates_config();
    config.query_tokens = 8;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 500, 70);
    for (uint32_t t = 0; t < 8; t++)
        rig->tree_mask_host[t] = 1u << t | (t > 0 ? rig->tree_mask_host[(t - 1) / 2] : 0); /* a binary tree */
    void *mask = NULL;
    assert_int_equal(rig->backend->alloc(rig->dev, LWK_MEMORY_DEVICE, sizeof rig->tree_mask_host, &mask),
                     LW_OK);
    ops_put(rig, mask, rig->tree_mask_host, sizeof rig->tree_mask_host);
    rig->tree_mask = mask;
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    assert_true(ops_gate_zero_query(rig, true));
    ops_rig_destroy(rig);
}

static void test_a_causal_step_of_eight_tokens_is_exact(void **state)
{
    ops_config_t config = gates_config();
    config.query_tokens = 8;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 500, 70);
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    ops_rig_destroy(rig);
}

static void test_a_probe_returns_its_token_from_record_and_page(void **state)
{
    ops_config_t config = gates_config();
    config.shape.layer_count = 1;
    config.policy = ops_policy_full();
    config.outlier_ppm = 100000;
    ops_rig_t *rig = gates_rig(&config, 300, 70);
    const ops_part_t *part = &rig->ranges[0].parts[0];
    uint32_t last = part->cluster_count + part->outlier_count - 1;
    assert_true(ops_gate_probe(rig, 0, 0)); /* from landing; everything is cached from here on */
    uint64_t misses = rig->counters->misses;
    assert_true(ops_gate_probe(rig, 0, 0));
    assert_true(ops_gate_probe(rig, 0, part->cluster_count));
    assert_true(ops_gate_probe(rig, 0, last));
    assert_true(rig->counters->hits > 0);
    assert_true(misses > 0);
    ops_rig_destroy(rig);
}

static void test_plain_estimate_never_exceeds_the_mass(void **state)
{
    ops_data_t data[] = {OPS_DATA_GAUSS, OPS_DATA_SYNTH, OPS_DATA_HARSH};
    for (size_t i = 0; i < LW_ARRAY_SIZE(data); i++) {
        ops_config_t config = gates_config();
        config.data = data[i];
        config.policy.correct = 0;
        ops_rig_t *rig = gates_rig(&config, 1600, 80);
        for (uint32_t ppm = 0; ppm <= 100000; ppm += 50000) {
            config.policy.retrieve_ppm = ppm;
            ops_set_policy(rig, 0, &config.policy);
            for (uint32_t layer = 0; layer < 2; layer++) {
                ops_query(rig, layer);
                assert_int_equal(ops_step(rig, layer), LW_OK);
                ops_errors_t errors = ops_errors(rig, layer);
                assert_true(errors.lse_bias <= 2e-5);
                assert_true(errors.lse < 1e6);
            }
        }
        ops_rig_destroy(rig);
    }
}

static void test_two_runs_give_the_same_bits(void **state)
{
    ops_config_t config = gates_config();
    config.shape.dtype = LW_DTYPE_BF16;
    config.cluster_encoding = LW_ENCODING_INT8;
    config.outlier_encoding = LW_ENCODING_INT4;
    config.outlier_ppm = 125000;
    config.admit_window = 48;
    config.policy.retrieve_ppm = 50000;
    ops_rig_t *a = gates_rig(&config, 1500, 90), *b = gates_rig(&config, 1500, 90);
    for (int step = 0; step < 6; step++)
        for (uint32_t layer = 0; layer < 2; layer++) {
            ops_query(a, layer);
            ops_query(b, layer);
            assert_int_equal(ops_step(a, layer), LW_OK);
            assert_int_equal(ops_step(b, layer), LW_OK);
            assert_memory_equal(a->out_host, b->out_host, 6 * 64 * sizeof(float));
            assert_memory_equal(a->lse_host, b->lse_host, 6 * sizeof(float));
        }
    assert_memory_equal(a->counters, b->counters, sizeof *a->counters);
    ops_rig_destroy(a);
    ops_rig_destroy(b);
}

/* ---- planted faults
 * ---------------------------------------------------------------------------------------------- */

static ops_rig_t *mutation_rig(void)
{
    ops_config_t config = gates_config();
    config.shape.layer_count = 1;
    ops_rig_t *rig = gates_rig(&config, 400, 70);
    assert_true(ops_gate_zero_query(rig, true));
    return rig;
}

static void write_size(ops_rig_t *rig, uint32_t cluster, uint16_t size)
{
    const lwk_tile_t *tile = &rig->ranges[0].parts[0].tile;
    ops_put(rig, (void *)(uintptr_t)(tile->sizes + cluster), &size, sizeof size);
}

static void test_a_lost_cluster_is_noticed(void **state)
{
    ops_rig_t *rig = mutation_rig();
    write_size(rig, 0, 0);
    assert_false(ops_gate_zero_query(rig, false));
    write_size(rig, 0, rig->ranges[0].parts[0].sizes[0]);
    assert_true(ops_gate_zero_query(rig, true));
    ops_rig_destroy(rig);
}

static void test_a_doubled_cluster_is_noticed(void **state)
{
    ops_rig_t *rig = mutation_rig();
    lwk_policy_t policy = ops_policy();
    policy.retrieve_ppm = 0;
    ops_set_policy(rig, 0, &policy);
    write_size(rig, 0, (uint16_t)(2 * rig->ranges[0].parts[0].sizes[0])); /* the first range may have few */
    assert_false(ops_gate_zero_query(rig, false));
    ops_rig_destroy(rig);
}

static void test_a_range_published_twice_is_noticed(void **state)
{
    ops_rig_t *rig = mutation_rig();
    lwk_session_t session = ops_session(rig, 0);
    session.sealed_count -=
        rig->ranges[0].token_count; /* else publish refuses: more sealed tokens than tokens */
    ops_set_session(rig, 0, &session);
    ops_share(rig, 0, 0);
    assert_false(ops_gate_zero_query(rig, false));
    ops_rig_destroy(rig);
}

static void test_swapped_values_are_noticed(void **state)
{
    ops_rig_t *rig = mutation_rig();
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    ops_part_t *part = &rig->ranges[0].parts[0];
    uint32_t entry = 0;
    while (part->sizes[entry] < 2)
        entry++;
    size_t row = lwk_row_bytes(&rig->config.shape);
    uint8_t *values = part->records + part->offsets[entry] + part->sizes[entry] * row,
            kept[64 * sizeof(float)];
    memcpy(kept, values, row);
    memcpy(values, values + row, row);
    memcpy(values + row, kept, row);
    /* Whatever was cached before the fault is good: forget it. */
    lwk_tile_t tile = part->tile;
    uint32_t remote = lwk_place(LWK_PLACE_REMOTE, 0);
    ops_put(rig, &tile.place[entry], &remote, sizeof remote);
    assert_false(ops_gate_probe(rig, 0, entry));
    ops_rig_destroy(rig);
}

static void test_a_stale_page_is_noticed(void **state)
{
    ops_rig_t *rig = mutation_rig();
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    for (int again = 0; again < 2; again++)
        assert_true(ops_gate_zero_query(rig, true));
    const lwk_tile_t *tile = &rig->ranges[0].parts[0].tile;
    assert_true(ops_gate_probe(rig, 0, 1));
    uint32_t pages[2];
    uint16_t base[2];
    ops_get(rig, base, tile->page_base, sizeof base);
    ops_get(rig, &pages[0], tile->pages + base[0], sizeof pages[0]);
    ops_get(rig, &pages[1], tile->pages + base[1], sizeof pages[1]);
    ops_put(rig, tile->pages + base[1], &pages[0], sizeof pages[0]); /* cluster 1 reads cluster 0's page */
    assert_false(ops_gate_probe(rig, 0, 1));
    ops_put(rig, tile->pages + base[1], &pages[1], sizeof pages[1]);
    assert_true(ops_gate_probe(rig, 0, 1));
    ops_rig_destroy(rig);
}

static void test_a_token_off_by_one_is_noticed(void **state)
{
    for (int sign = -1; sign <= 1; sign += 2) {
        ops_rig_t *rig = mutation_rig();
        lwk_session_t session = ops_session(rig, 0);
        session.sealed_count += (uint32_t)sign; /* one token twice, or one not at all */
        ops_set_session(rig, 0, &session);
        assert_false(ops_gate_zero_query(rig, false));
        ops_rig_destroy(rig);
    }
}

/* ---- adversarial input
 * ------------------------------------------------------------------------------------------- */

static void test_equal_keys_are_estimated_exactly(void **state)
{
    ops_config_t config = gates_config();
    config.data = OPS_DATA_EQUAL;
    ops_rig_t *rig = gates_rig(&config, 1000, 80);
    for (int again = 0; again < 2; again++) {
        ops_query(rig, 0);
        assert_int_equal(ops_step(rig, 0), LW_OK);
        assert_true(ops_errors(rig, 0).out < 1e-4);
        assert_true(ops_errors(rig, 0).lse < 1e-4);
    }
    ops_rig_destroy(rig);
}

static void test_half_of_all_tokens_in_one_cluster_and_nobody_in_another(void **state)
{
    ops_config_t config = gates_config();
    config.clustering = OPS_CLUSTER_HALF;
    ops_rig_t *rig = gates_rig(&config, 1800, 80);
    for (int again = 0; again < 2; again++)
        assert_true(ops_gate_zero_query(rig, true));
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    for (int again = 0; again < 2; again++)
        assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    ops_rig_destroy(rig);
}

static void test_fewer_tokens_than_the_steady_zone_are_exact(void **state)
{
    for (uint32_t n = 0; n < 70; n += n < 8 ? 1 : 20) {
        ops_config_t config = gates_config();
        ops_rig_t *rig = gates_rig(&config, 0, n);
        assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
        assert_true(ops_gate_zero_query(rig, true));
        ops_rig_destroy(rig);
    }
}

static void test_logits_of_eighty_stay_finite_and_exact(void **state)
{
    ops_config_t config = gates_config();
    config.data = OPS_DATA_HARSH;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 1200, 80);
    for (int again = 0; again < 3; again++)
        assert_true(ops_gate_exact(rig, 2e-5, 5e-5));
    config.policy = ops_policy();
    ops_set_policy(rig, 0, &config.policy);
    for (int again = 0; again < 3; again++) {
        ops_query(rig, 0);
        assert_int_equal(ops_step(rig, 0), LW_OK);
        assert_true(ops_errors(rig, 0).lse < 160); /* an estimate may be poor here, but it is a number */
    }
    ops_rig_destroy(rig);
}

static void test_a_head_whose_mass_is_in_the_sinks(void **state)
{
    ops_config_t config = gates_config();
    config.data = OPS_DATA_SINKS;
    ops_rig_t *rig = gates_rig(&config, 1200, 80);
    for (int again = 0; again < 3; again++)
        assert_true(ops_gate_exact(rig, 1e-3, 1e-3));
    ops_rig_destroy(rig);
}

static void test_soft_caps_are_exact_under_full_retrieval(void **state)
{
    ops_config_t config = gates_config();
    config.shape.soft_cap = 5.0f;
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 1000, 80);
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    ops_rig_destroy(rig);
    config.shape.soft_cap = 20.0f; /* and the estimate follows the cap's slope */
    config.policy.retrieve_ppm = 50000;
    rig = gates_rig(&config, 1000, 80);
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    assert_true(ops_errors(rig, 0).lse < 0.25);
    ops_rig_destroy(rig);
}

/* ---- bad arguments
 * ----------------------------------------------------------------------------------------------- */

static void test_bad_shapes_are_refused(void **state)
{
    ops_config_t config = gates_config();
    config.shape.layer_count = 1;
    ops_rig_t *rig = gates_rig(&config, 200, 70);
    lwk_step_t step = ops_step_args(rig, 0);
    step.query_tokens = LW_QUERY_TOKENS_MAX + 1;
    assert_int_equal(rig->backend->prepare(rig->dev, &step, NULL), LW_ERR_INVALID);
    step = ops_step_args(rig, 1); /* one layer only */
    assert_int_equal(rig->backend->score(rig->dev, &step, NULL), LW_ERR_INVALID);
    step = ops_step_args(rig, 0);
    step.key.data = NULL;
    assert_int_equal(rig->backend->prepare(rig->dev, &step, NULL), LW_ERR_INVALID);
    assert_int_equal(ops_session(rig, 0).token_count, 270);
    lwk_publish_t publish = {.shape = rig->config.shape,
                             .range_capacity = OPS_RANGES_MAX,
                             .store = rig->store,
                             .session = &rig->sessions[0],
                             .row = OPS_RANGES_MAX};
    assert_int_equal(rig->backend->publish(rig->dev, &publish, NULL), LW_ERR_INVALID);
    lwk_retire_t retire = {.shape = rig->config.shape,
                           .range_capacity = OPS_RANGES_MAX,
                           .store = rig->store,
                           .row = OPS_RANGES_MAX};
    assert_int_equal(rig->backend->retire(rig->dev, &retire, NULL), LW_ERR_INVALID);
    ops_rig_destroy(rig);
}

static const struct CMUnitTest gates_tests[] = {
    cmocka_unit_test(test_bad_shapes_are_refused),
    cmocka_unit_test(test_zero_query_sees_every_token_once_in_every_policy),
    cmocka_unit_test(test_zero_query_sees_outliers_and_coded_entries_once),
    cmocka_unit_test(test_a_large_range_gives_what_ref_gives),
    cmocka_unit_test(test_zero_query_holds_across_seals),
    cmocka_unit_test(test_zero_query_holds_in_a_fork_and_its_parent),
    cmocka_unit_test(test_zero_query_holds_after_truncate),
    cmocka_unit_test(test_an_empty_batch_slot_is_left_alone),
    cmocka_unit_test(test_full_retrieval_is_exact_for_any_partition),
    cmocka_unit_test(test_a_tree_of_query_tokens_sees_what_its_mask_says),
    cmocka_unit_test(test_a_causal_step_of_eight_tokens_is_exact),
    cmocka_unit_test(test_a_probe_returns_its_token_from_record_and_page),
    cmocka_unit_test(test_plain_estimate_never_exceeds_the_mass),
    cmocka_unit_test(test_two_runs_give_the_same_bits),
    cmocka_unit_test(test_a_lost_cluster_is_noticed),
    cmocka_unit_test(test_a_doubled_cluster_is_noticed),
    cmocka_unit_test(test_a_range_published_twice_is_noticed),
    cmocka_unit_test(test_swapped_values_are_noticed),
    cmocka_unit_test(test_a_stale_page_is_noticed),
    cmocka_unit_test(test_a_token_off_by_one_is_noticed),
    cmocka_unit_test(test_equal_keys_are_estimated_exactly),
    cmocka_unit_test(test_half_of_all_tokens_in_one_cluster_and_nobody_in_another),
    cmocka_unit_test(test_fewer_tokens_than_the_steady_zone_are_exact),
    cmocka_unit_test(test_logits_of_eighty_stay_finite_and_exact),
    cmocka_unit_test(test_a_head_whose_mass_is_in_the_sinks),
    cmocka_unit_test(test_soft_caps_are_exact_under_full_retrieval),
};

/* test_gates [VARIANT]: all variants, or one ("cpu-avx2"). 77: none of them can run here. */
int main(int argc, char **argv)
{
    int failures = 0, ran = 0;
    gates_seed = ops_seed();
    for (uint32_t v = 0; v < OPS_VARIANTS; v++) {
        if (argc > 1 && strcmp(argv[1], ops_variants[v].name) != 0)
            continue;
        gates_backend = ops_variant_use(&ops_variants[v]);
        if (gates_backend == NULL) {
            printf("%s: cannot run here\n", ops_variants[v].name);
            continue;
        }
        printf("== %s\n", ops_variants[v].name);
        ran++;
        failures += _cmocka_run_group_tests("gates", gates_tests, LW_ARRAY_SIZE(gates_tests), NULL, NULL);
        failures += _cmocka_run_group_tests("gates_alloc", gates_alloc_tests, gates_alloc_count, NULL, NULL);
        failures += _cmocka_run_group_tests("gates_cache", gates_cache_tests, gates_cache_count, NULL, NULL);
        failures +=
            _cmocka_run_group_tests("gates_local", gates_local_tests, gates_local_count, NULL, NULL);
        failures +=
            _cmocka_run_group_tests("gates_policy", gates_policy_tests, gates_policy_count, NULL, NULL);
    }
    return failures > 0 ? 1 : ran > 0 ? 0 : 77;
}
