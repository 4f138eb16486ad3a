/* test_catalogue_etcd_value.c - the bytes of the catalogue's values on etcd: they come back as they were, and damaged ones are
 * refused without harm. */
#include "test_catalogue_support.h"

#include "base/clock.h"
#include "base/prng.h"
#include "storaged/catalogue/catalogue_etcd_private.h"

static lw_prng_t prng;

static int setup(void **state)
{
    const char *given = getenv("LW_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    print_message("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    return 0;
}

static etcd_session_t some_session(void)
{
    etcd_session_t session = {.kept = 77, .fenced = true};
    session.row = (lwd_session_row_t){.tenant = "a tenant", .shape = test_shape(3, 5), .state = LWD_SESSION_IDLE, .term = 9,
                                      .lease_client = lw_prng_u64(&prng), .lease_incarnation = lw_prng_u64(&prng),
                                      .ttl_us = lw_prng_u64(&prng), .created_us = T0, .used_us = T0 + 1, .parent_id = 4,
                                      .cut_tokens = 100, .bytes = lw_prng_u64(&prng), .pinned = true};
    for (uint32_t rank = 0; rank < 5; rank++)
        session.ends[rank] = 100 + (uint32_t)lw_prng_below(&prng, 1000);
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        session.row.token[i] = (uint8_t)lw_prng_u64(&prng);
    lwd_kv_count_tokens(&session);
    return session;
}

static void test_a_session_comes_back_as_it_was(void **state)
{
    etcd_session_t session = some_session(), back;
    uint8_t bytes[ETCD_SESSION_BYTES_MAX];
    size_t count = lwd_kv_session_pack(&session, bytes);
    memset(&back, 0xA5, sizeof(back));
    assert_true(lwd_kv_session_unpack(bytes, count, &back));
    assert_memory_equal(&back.row, &session.row, sizeof(back.row));
    assert_memory_equal(back.ends, session.ends, 5 * sizeof(*back.ends));
    assert_int_equal(back.kept, 77);
    assert_true(back.fenced);
}

static etcd_manifest_t some_manifest(uint32_t count)
{
    etcd_manifest_t manifest = {.session_id = 3, .rank = 1, .layers = 7};
    for (uint32_t i = 0; i < count; i++) {
        lwd_range_t range = test_range(i * 10, 10, 2, i % 2 ? LW_RANGE_MOMENTS : 0);
        range.replicas = 1 + i % LW_REPLICAS_MAX;
        for (uint32_t n = 0; n < 7 * range.replicas; n++)
            range.node_index[n] = (uint16_t)lw_prng_u64(&prng);
        assert_true(lwd_kv_row_add(&manifest, &range));
    }
    return manifest;
}

static size_t manifest_bytes(const etcd_manifest_t *manifest, uint8_t *out)
{
    lwd_kv_manifest_pack_head(manifest, out);
    memcpy(out + ETCD_MANIFEST_HEAD, manifest->rows, manifest->bytes);
    return ETCD_MANIFEST_HEAD + manifest->bytes;
}

static void test_a_manifest_comes_back_row_by_row(void **state)
{
    static uint8_t bytes[65536];
    etcd_manifest_t manifest = some_manifest(50), back = {.session_id = 3, .rank = 1, .layers = 7};
    assert_true(lwd_kv_manifest_unpack(bytes, manifest_bytes(&manifest, bytes), &back));
    assert_int_equal(back.count, 50);
    etcd_row_t row, other;
    size_t at = 0, other_at = 0;
    for (uint32_t i = 0; i < 50; i++) {
        lwd_range_t a, b;
        assert_true(lwd_kv_row_next(&manifest, &at, &row) && lwd_kv_row_next(&back, &other_at, &other));
        lwd_kv_row_full(&manifest, &row, &a);
        lwd_kv_row_full(&back, &other, &b);
        assert_memory_equal(&a, &b, sizeof(a));
        assert_int_equal(a.first_token, i * 10);
        a.node_index[6] ^= 1;
        a.flags |= LW_RANGE_MOVED;
        lwd_kv_row_set(&back, &other, &a);
        lwd_kv_row_full(&back, &other, &b);
    }
    assert_false(lwd_kv_row_next(&back, &other_at, &other));
    free(manifest.rows);
    free(back.rows);
}

/* A copy of exactly that size, so that a sanitizer sees each byte too many. */
static uint8_t *copy_of(const uint8_t *bytes, size_t count)
{
    uint8_t *copy = malloc(count ? count : 1);
    assert_non_null(copy);
    if (count)
        memcpy(copy, bytes, count);
    return copy;
}

static void test_a_value_that_is_cut_off_is_refused(void **state)
{
    static uint8_t session_bytes[ETCD_SESSION_BYTES_MAX], rows[4096], client_bytes[256], ended_bytes[64];
    etcd_session_t session = some_session(), back;
    etcd_manifest_t manifest = some_manifest(5);
    etcd_lease_t leases[3] = {{.session_id = 1}, {.session_id = 2}, {.session_id = 3}};
    etcd_client_t client = {.incarnation = 5, .leases = leases, .count = 3};
    const lwd_ended_t endings[2] = {{.origin = 4, .rank = 2}, {.origin = 5, .from_token = 9}};
    lwd_ended_t told[8];
    size_t count = lwd_kv_session_pack(&session, session_bytes), row_bytes = manifest_bytes(&manifest, rows);
    lwd_kv_client_pack(&client, client_bytes);
    for (size_t cut = 0; cut < count; cut++) {
        uint8_t *copy = copy_of(session_bytes, cut);
        assert_false(lwd_kv_session_unpack(copy, cut, &back));
        free(copy);
    }
    for (size_t cut = 0; cut < row_bytes; cut++) {
        etcd_manifest_t part = {.layers = 7};
        uint8_t *copy = copy_of(rows, cut);
        assert_false(lwd_kv_manifest_unpack(copy, cut, &part));
        free(copy);
        free(part.rows);
    }
    for (size_t cut = 0; cut < lwd_kv_client_bytes(&client); cut++) {
        etcd_client_t part = {.id = 1};
        uint8_t *copy = copy_of(client_bytes, cut);
        assert_false(lwd_kv_client_unpack(copy, cut, &part));
        free(copy);
        free(part.leases);
    }
    size_t ended_count = lwd_kv_ended_pack(endings, 2, ended_bytes);
    assert_int_equal(lwd_kv_ended_unpack(ended_bytes, ended_count, 7, told), 2);
    assert_int_equal(told[1].serial, 7 * 256 + 1);
    assert_int_equal(told[1].from_token, 9);
    for (size_t cut = 0; cut < ended_count; cut++)
        assert_int_equal(lwd_kv_ended_unpack(ended_bytes, cut, 7, told), 0);
    free(manifest.rows);
}

static void test_damaged_values_do_no_harm(void **state)
{
    static uint8_t rows[4096], session_bytes[ETCD_SESSION_BYTES_MAX];
    etcd_session_t session = some_session(), back;
    etcd_manifest_t manifest = some_manifest(5);
    size_t row_bytes = manifest_bytes(&manifest, rows), count = lwd_kv_session_pack(&session, session_bytes);
    for (unsigned i = 0; i < 20000; i++) {
        etcd_manifest_t part = {.layers = 7};
        uint8_t *copy = copy_of(rows, row_bytes), *other = copy_of(session_bytes, count);
        for (uint64_t n = 1 + lw_prng_below(&prng, 4); n > 0; n--) {
            copy[lw_prng_below(&prng, row_bytes)] = (uint8_t)lw_prng_u64(&prng);
            other[lw_prng_below(&prng, count)] = (uint8_t)lw_prng_u64(&prng);
        }
        if (lwd_kv_manifest_unpack(copy, row_bytes, &part)) {
            etcd_row_t row;
            size_t at = 0;
            lwd_range_t range;
            while (lwd_kv_row_next(&part, &at, &row))
                lwd_kv_row_full(&part, &row, &range);
            assert_int_equal(at, part.bytes);
        }
        if (lwd_kv_session_unpack(other, count, &back)) {
            assert_in_range(back.row.shape.rank_count, 1, LWD_RANKS_MAX);
            assert_non_null(memchr(back.row.tenant, 0, sizeof(back.row.tenant)));
        }
        free(part.rows);
        free(copy);
        free(other);
    }
    free(manifest.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_session_comes_back_as_it_was),
        cmocka_unit_test(test_a_manifest_comes_back_row_by_row),
        cmocka_unit_test(test_a_value_that_is_cut_off_is_refused),
        cmocka_unit_test(test_damaged_values_do_no_harm),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
