/* test_catalogue_check.c - what no catalogue takes; which state follows which. */
#include "test_catalogue_support.h"

#include "storaged/catalogue/catalogue_private.h"

static lwd_create_t good(void)
{
    return (lwd_create_t){.tenant = "t", .shape = test_shape(4, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
}

static void refused(const lwd_create_t *create, const char *word)
{
    lw_error_t error = {0};
    assert_int_equal(lwd_catalogue_check_create(create, &error), LW_ERR_INVALID);
    if (!strstr(error.text, word))
        fail_msg("'%s' does not name %s", error.text, word);
}

static void test_each_absurd_field_of_a_shape_is_refused_by_name(void **state)
{
    static const struct { size_t offset; uint32_t value; const char *word; } bad[] = {
#define FIELD(name, value) {offsetof(lwd_session_shape_t, name), value, #name}
        FIELD(layer_count, 0), FIELD(layer_count, LW_LAYERS_MAX + 1), FIELD(kv_head_count, 0),
        FIELD(kv_head_count, LW_KV_HEADS_MAX + 1), FIELD(query_head_count, 0), FIELD(query_head_count, 7),
        FIELD(query_head_count, 2 * (LW_GROUP_MAX + 1)), FIELD(head_dim, 0), FIELD(head_dim, 12),
        FIELD(head_dim, LW_HEAD_DIM_MAX + 8), FIELD(dtype, 0), FIELD(dtype, 4), FIELD(rank_count, 0),
        FIELD(rank_count, 65), FIELD(segment_tokens, 0), FIELD(segment_tokens, LW_SEGMENT_TOKENS_MAX + 1),
        FIELD(replicas, 0), FIELD(replicas, LW_REPLICAS_MAX + 1), FIELD(cluster_encoding, 9),
        FIELD(outlier_encoding, 9), FIELD(outlier_ppm, 1000001), FIELD(cluster_tokens, 100000),
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        lwd_create_t create = good();
        memcpy((char *)&create.shape + bad[i].offset, &bad[i].value, sizeof(uint32_t));
        refused(&create, bad[i].word);
    }
}

static void test_tenant_model_client_and_lease_have_bounds(void **state)
{
    char long_tenant[80];
    memset(long_tenant, 'x', sizeof(long_tenant));
    long_tenant[79] = 0;
    lwd_create_t create = good();
    create.tenant = "";
    refused(&create, "tenant");
    create.tenant = NULL;
    refused(&create, "tenant");
    create.tenant = long_tenant;
    refused(&create, "tenant");
    create = good();
    create.shape.model_id[0] = 0;
    refused(&create, "model_id");
    memset(create.shape.model_id, 'm', sizeof(create.shape.model_id)); /* no end */
    refused(&create, "model_id");
    create = good();
    create.client_id = 0;
    refused(&create, "client_id");
    create = good();
    create.lease_us = 0;
    refused(&create, "lease_us");
    create.lease_us = LWD_LEASE_MAX_US + 1;
    refused(&create, "lease_us");
    create = good();
    create.ttl_us = UINT64_MAX;
    refused(&create, "ttl_us");
    create = good();
    assert_int_equal(lwd_catalogue_check_create(&create, NULL), LW_OK);
}

static void test_a_fleet_with_doubles_or_nobody_is_refused(void **state)
{
    const char *twice[] = {"a:1", "b:1", "a:1"};
    const char *empty[] = {"a:1", ""};
    lw_error_t error;
    assert_int_equal(lwd_catalogue_check_members(twice, 3, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "a:1"));
    assert_int_equal(lwd_catalogue_check_members(empty, 2, &error), LW_ERR_INVALID);
    assert_int_equal(lwd_catalogue_check_members(twice, 0, &error), LW_ERR_INVALID);
    assert_int_equal(lwd_catalogue_check_members(twice, 2, &error), LW_OK);
}

static void test_only_the_drawn_moves_are_allowed(void **state)
{
    static const char *const allowed = "12 14 15 21 23 24 25 35 45"; /* from, to: active idle evicting retained ended */
    for (int from = 1; from <= 5; from++)
        for (int to = 1; to <= 5; to++) {
            char pair[3] = {(char)('0' + from), (char)('0' + to), 0};
            bool expected = from == to || strstr(allowed, pair) != NULL;
            assert_int_equal(lwd_session_may_move((lwd_session_state_t)from, (lwd_session_state_t)to), expected);
        }
    assert_string_equal(lwd_session_state_text(LWD_SESSION_EVICTING), "evicting");
    assert_string_equal(lwd_session_state_text((lwd_session_state_t)77), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_absurd_field_of_a_shape_is_refused_by_name),
        cmocka_unit_test(test_tenant_model_client_and_lease_have_bounds),
        cmocka_unit_test(test_a_fleet_with_doubles_or_nobody_is_refused),
        cmocka_unit_test(test_only_the_drawn_moves_are_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
