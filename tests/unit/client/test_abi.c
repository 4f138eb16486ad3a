/* test_abi.c - what a program that was built against longwave.h relies on: sizes and offsets on 64-bit Linux. A line here
 * changes only by adding; new fields go at the end of their struct. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "longwave.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")

SIZE(lw_op_t, 64);
AT(lw_op_t, status, 0);
AT(lw_op_t, reserved, 4);
AT(lw_op_t, user_data, 8);
AT(lw_op_t, priv, 16);
SIZE(lw_model_t, 48);
AT(lw_model_t, size, 0);
AT(lw_model_t, layer_count, 4);
AT(lw_model_t, kv_head_count, 8);
AT(lw_model_t, query_head_count, 12);
AT(lw_model_t, head_dim, 16);
AT(lw_model_t, dtype, 20);
AT(lw_model_t, scale, 24);
AT(lw_model_t, soft_cap, 28);
AT(lw_model_t, model_id, 32);
AT(lw_model_t, rank, 40);
AT(lw_model_t, rank_count, 44);
SIZE(lw_open_params_t, 112);
AT(lw_open_params_t, size, 0);
AT(lw_open_params_t, device, 4);
AT(lw_open_params_t, backend, 8);
AT(lw_open_params_t, fleet, 16);
AT(lw_open_params_t, config, 24);
AT(lw_open_params_t, tenant, 32);
AT(lw_open_params_t, device_bytes, 40);
AT(lw_open_params_t, model, 48);
AT(lw_open_params_t, sessions_max, 96);
AT(lw_open_params_t, tokens_max, 100);
AT(lw_open_params_t, progress, 104);
SIZE(lw_session_params_t, 72);
AT(lw_session_params_t, size, 0);
AT(lw_session_params_t, replicas, 4);
AT(lw_session_params_t, session_id, 8);
AT(lw_session_params_t, read_only, 16);
AT(lw_session_params_t, policy, 20);
AT(lw_session_params_t, ttl_us, 24);
AT(lw_session_params_t, accuracy_ppm, 32);
AT(lw_session_params_t, retrieve_ppm, 36);
AT(lw_session_params_t, estimate_ppm, 40);
AT(lw_session_params_t, outlier_ppm, 44);
AT(lw_session_params_t, cluster_tokens, 48);
AT(lw_session_params_t, segment_tokens, 52);
AT(lw_session_params_t, cluster_encoding, 56);
AT(lw_session_params_t, outlier_encoding, 60);
AT(lw_session_params_t, correct, 64);
AT(lw_session_params_t, rank_mean, 68);
SIZE(lw_tensor_t, 48);
AT(lw_tensor_t, data, 0);
AT(lw_tensor_t, sessions, 8);
AT(lw_tensor_t, tokens, 12);
AT(lw_tensor_t, heads, 16);
AT(lw_tensor_t, head_dim, 20);
AT(lw_tensor_t, session_stride, 24);
AT(lw_tensor_t, token_stride, 32);
AT(lw_tensor_t, head_stride, 40);
SIZE(lw_step_t, 200);
AT(lw_step_t, size, 0);
AT(lw_step_t, layer, 4);
AT(lw_step_t, sessions, 8);
AT(lw_step_t, session_count, 16);
AT(lw_step_t, timeout_us, 20);
AT(lw_step_t, estimate_after_us, 24);
AT(lw_step_t, query, 32);
AT(lw_step_t, key, 80);
AT(lw_step_t, value, 128);
AT(lw_step_t, tree_mask, 176);
AT(lw_step_t, lse_out, 184);
AT(lw_step_t, stream, 192);
SIZE(lw_node_attr_t, 168);
AT(lw_node_attr_t, node_id, 0);
AT(lw_node_attr_t, up, 8);
AT(lw_node_attr_t, address, 12);
AT(lw_node_attr_t, bytes_stored, 144);
AT(lw_node_attr_t, bytes_fetched, 152);
AT(lw_node_attr_t, fetches, 160);
SIZE(lw_attr_t, 11056);
AT(lw_attr_t, field_mask, 0);
AT(lw_attr_t, fleet_id, 8);
AT(lw_attr_t, fleet_epoch, 16);
AT(lw_attr_t, backend, 24);
AT(lw_attr_t, device, 32);
AT(lw_attr_t, index_bytes, 40);
AT(lw_attr_t, cache_bytes, 48);
AT(lw_attr_t, cache_used_bytes, 56);
AT(lw_attr_t, steady_bytes, 64);
AT(lw_attr_t, scratch_bytes, 72);
AT(lw_attr_t, landing_bytes, 80);
AT(lw_attr_t, host_bytes, 88);
AT(lw_attr_t, bytes_fetched, 96);
AT(lw_attr_t, bytes_shipped, 104);
AT(lw_attr_t, fetch_requests, 112);
AT(lw_attr_t, records_fetched, 120);
AT(lw_attr_t, fetch_retries, 128);
AT(lw_attr_t, checksum_failures, 136);
AT(lw_attr_t, fetch_wait_us, 144);
AT(lw_attr_t, layer_steps, 152);
AT(lw_attr_t, selections, 160);
AT(lw_attr_t, entries_indexed, 168);
AT(lw_attr_t, entries_retrieved, 176);
AT(lw_attr_t, entries_estimated, 184);
AT(lw_attr_t, tokens_indexed, 192);
AT(lw_attr_t, tokens_retrieved, 200);
AT(lw_attr_t, tokens_steady, 208);
AT(lw_attr_t, hits, 216);
AT(lw_attr_t, misses, 224);
AT(lw_attr_t, hit_tokens, 232);
AT(lw_attr_t, miss_tokens, 240);
AT(lw_attr_t, admitted, 248);
AT(lw_attr_t, evicted, 256);
AT(lw_attr_t, node_count, 264);
AT(lw_attr_t, nodes, 272);
AT(lw_attr_t, hedges, 11024);
AT(lw_attr_t, hedges_won, 11032);
AT(lw_attr_t, hedges_denied, 11040);
AT(lw_attr_t, reroutes, 11048);
SIZE(lw_session_attr_t, 72);
AT(lw_session_attr_t, field_mask, 0);
AT(lw_session_attr_t, session_id, 8);
AT(lw_session_attr_t, token_count, 16);
AT(lw_session_attr_t, sealed_tokens, 20);
AT(lw_session_attr_t, committed_tokens, 24);
AT(lw_session_attr_t, range_count, 28);
AT(lw_session_attr_t, term, 32);
AT(lw_session_attr_t, reserved, 36);
AT(lw_session_attr_t, index_bytes, 40);
AT(lw_session_attr_t, stored_bytes, 48);
AT(lw_session_attr_t, clusters, 56);
AT(lw_session_attr_t, outliers, 64);

static void test_enums_keep_their_numbers(void **state)
{
    (void)state;
    assert_int_equal(LW_POLICY_EXPECTED_MAX, 1);
    assert_int_equal(LW_POLICY_STEADY, 5);
    assert_int_equal(LW_DTYPE_BF16, 1);
    assert_int_equal(LW_ENCODING_FP32, 4);
    assert_int_equal(LW_INPROGRESS, 1);
    assert_int_equal(LW_ERR_BUSY, -3);
    assert_int_equal(LW_ERR_SESSION_LOST, -20);
    assert_int_equal(LW_ERR_VERSION, -42);
}

static void test_every_status_has_words(void **state)
{
    (void)state;
#define XX(name, code, text) assert_string_equal(lw_status_string(LW_##name), text);
    LW_STATUS_MAP(XX)
#undef XX
    assert_non_null(lw_status_string((lw_status_t)-999));
    assert_non_null(lw_version());
    assert_non_null(lw_last_error(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_enums_keep_their_numbers),
        cmocka_unit_test(test_every_status_has_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
