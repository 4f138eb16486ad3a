#include "attend_plain.h"
#include "quick.h"

static llama_pool_t *pool;

static llama_full_t *create(llama_shape_t shape, uint32_t capacity)
{
    llama_full_t *full;
    assert_int_equal(llama_full_create(&shape, capacity, pool, &full), LW_OK);
    return full;
}

static llama_shape_t shape_of(uint32_t query_heads, uint32_t kv_heads, uint32_t head_dim)
{
    return (llama_shape_t){
        .layers = 2, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim};
}

static void equals_plain(const plain_t *plain, uint32_t first, uint32_t count, const float *out,
                         double tolerance)
{
    uint32_t heads = plain->shape.query_heads, d = plain->shape.head_dim;
    for (uint32_t t = 0; t < count;
         t += t + 4 < count && count > 16 ? 3 : 1) { /* all of a small chunk, and its end */
        for (uint32_t head = 0; head < heads; head++) {
            double expected[256];
            plain_attend(plain, first + t, head, expected);
            for (uint32_t i = 0; i < d; i++) {
                float actual = out[((size_t)t * heads + head) * d + i];
                if (!(fabs(actual - expected[i]) <= tolerance))
                    fail_msg("token %u of %u, head %u, value %u: %g, not %g", first + t, first + count, head,
                             i, actual, expected[i]);
            }
        }
    }
}

/* Runs a whole sequence in chunks of the given sizes (cycled), and compares each with double precision. */
static void check_chunks(lw_prng_t *prng, llama_shape_t shape, uint32_t tokens, double scale,
                         const uint32_t *chunks, size_t chunk_count)
{
    plain_t plain = plain_make(prng, shape, tokens, scale);
    llama_full_t *full = create(shape, tokens);
    llama_attention_t attention = llama_full_attention(full);
    float *out = malloc((size_t)tokens * shape.query_heads * shape.head_dim * sizeof(*out));
    for (uint32_t first = 0, i = 0; first < tokens; i++) {
        uint32_t count = chunks[i % chunk_count] < tokens - first ? chunks[i % chunk_count] : tokens - first;
        for (uint32_t layer = 0; layer < 2; layer++)
            assert_int_equal(plain_feed(&plain, &attention, layer, first, count, out), LW_OK);
        equals_plain(&plain, first, count, out, 2e-5);
        first += count;
    }
    assert_int_equal(llama_full_tokens(full), tokens);
    free(out);
    llama_full_destroy(full);
    plain_free(&plain);
}

static void test_wrong_calls_are_refused(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    plain_t plain = plain_make(&prng, shape_of(4, 2, 16), 20, 1);
    llama_full_t *full = create(plain.shape, 10);
    llama_attention_t attention = llama_full_attention(full);
    float out[20 * 4 * 16];
    assert_int_equal(plain_feed(&plain, &attention, 0, 1, 4, out), LW_ERR_INVALID); /* a gap */
    assert_int_equal(plain_feed(&plain, &attention, 2, 0, 4, out), LW_ERR_INVALID); /* no such layer */
    assert_int_equal(plain_feed(&plain, &attention, 0, 0, 0, out), LW_ERR_INVALID);
    assert_int_equal(plain_feed(&plain, &attention, 0, 0, 11, out), LW_ERR_EXHAUSTED);
    assert_int_equal(plain_feed(&plain, &attention, 0, 0, 10, out), LW_OK);
    assert_int_equal(plain_feed(&plain, &attention, 0, 10, 1, out), LW_ERR_EXHAUSTED);
    assert_int_equal(llama_full_tokens(full), 0); /* layer 1 has none yet */
    assert_int_equal(llama_full_truncate(full, 5), LW_ERR_INVALID);
    llama_full_destroy(full);
    plain_free(&plain);

    llama_full_t *none;
    llama_shape_t shape = shape_of(5, 2, 16);
    assert_int_equal(llama_full_create(&shape, 10, pool, &none), LW_ERR_INVALID);
    shape = shape_of(4, 2, 264);
    assert_int_equal(llama_full_create(&shape, 10, pool, &none), LW_ERR_INVALID);
}

static void test_prefill_equals_double_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    check_chunks(&prng, shape_of(9, 3, 64), quick_count(400, 200), 2,
                 (uint32_t[]){quick_count(256, 128), quick_count(130, 65)}, 2);
    check_chunks(&prng, shape_of(4, 4, 24), 300, 1, (uint32_t[]){9, 64, 65, 100}, 4);
}

static void test_decoding_equals_double_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    check_chunks(&prng, shape_of(6, 3, 32), quick_count(1100, 300), 2,
                 (uint32_t[]){quick_count(1018, 250), 1, 8, 1, 3, 1, 1, 2}, 8);
    check_chunks(&prng, shape_of(16, 1, 8), 40, 1, (uint32_t[]){1, 8}, 2);
}

static void test_steep_and_flat_logits(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    check_chunks(&prng, shape_of(2, 1, 64), 300, 9, (uint32_t[]){128, 5}, 2); /* logits of about +-80 */
    check_chunks(&prng, shape_of(2, 1, 64), 300, 0, (uint32_t[]){128, 5}, 2); /* the mean of the values */
}

static void test_a_later_chunk_does_not_change_with_the_threads(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    uint32_t tokens = quick_count(1200, 300);
    plain_t plain = plain_make(&prng, shape_of(9, 3, 64), tokens + 1, 2);
    float *out[2];
    for (int side = 0; side < 2; side++) {
        llama_pool_t *threads;
        llama_full_t *full;
        assert_int_equal(llama_pool_create(side ? 3 : 1, &threads, NULL), LW_OK);
        assert_int_equal(llama_full_create(&plain.shape, tokens + 1, threads, &full), LW_OK);
        llama_attention_t attention = llama_full_attention(full);
        out[side] = malloc((tokens + 1) * 9ul * 64 * sizeof(float));
        assert_int_equal(plain_feed(&plain, &attention, 0, 0, tokens, out[side]), LW_OK);
        assert_int_equal(plain_feed(&plain, &attention, 0, tokens, 1, out[side] + tokens * 9 * 64), LW_OK);
        llama_full_destroy(full);
        llama_pool_destroy(threads);
    }
    assert_memory_equal(out[0], out[1], (tokens + 1) * 9ul * 64 * sizeof(float));
    free(out[0]);
    free(out[1]);
    plain_free(&plain);
}

static void test_a_fork_goes_its_own_way(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    plain_t plain = plain_make(&prng, shape_of(4, 2, 16), 80, 1),
            other = plain_make(&prng, plain.shape, 80, 1);
    size_t q = 4 * 16, kv = 2 * 16;
    memcpy(other.key, plain.key, 50 * kv * sizeof(*other.key)); /* the first 50 tokens are shared */
    memcpy(other.value, plain.value, 50 * kv * sizeof(*other.value));
    llama_full_t *parent = create(plain.shape, 60), *child;
    llama_attention_t attention = llama_full_attention(parent);
    float *out = malloc(80 * q * sizeof(*out));
    for (uint32_t layer = 0; layer < 2; layer++)
        assert_int_equal(plain_feed(&plain, &attention, layer, 0, 55, out), LW_OK);
    assert_int_equal(llama_full_fork(parent, 56, 80, pool, &child), LW_ERR_INVALID);
    assert_int_equal(llama_full_fork(parent, 50, 49, pool, &child), LW_ERR_INVALID);
    assert_int_equal(llama_full_fork(parent, 50, 80, pool, &child), LW_OK);
    assert_int_equal(llama_full_tokens(child), 50);
    llama_attention_t forked = llama_full_attention(child);
    for (uint32_t layer = 0; layer < 2; layer++) {
        assert_int_equal(plain_feed(&other, &forked, layer, 50, 30, out), LW_OK);
        equals_plain(&other, 50, 30, out, 2e-5);
        assert_int_equal(plain_feed(&plain, &attention, layer, 55, 3, out), LW_OK);
        equals_plain(&plain, 55, 3, out, 2e-5);
    }
    llama_full_destroy(parent);
    llama_full_destroy(child);
    free(out);
    plain_free(&plain);
    plain_free(&other);
}

static void test_truncated_tokens_are_forgotten(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    plain_t plain = plain_make(&prng, shape_of(4, 2, 16), 60, 1);
    llama_full_t *full = create(plain.shape, 60);
    llama_attention_t attention = llama_full_attention(full);
    float out[60 * 4 * 16];
    for (uint32_t layer = 0; layer < 2; layer++)
        assert_int_equal(plain_feed(&plain, &attention, layer, 0, 60, out), LW_OK);
    assert_int_equal(llama_full_truncate(full, 61), LW_ERR_INVALID);
    assert_int_equal(llama_full_truncate(full, 40), LW_OK);
    assert_int_equal(llama_full_tokens(full), 40);
    assert_int_equal(plain_feed(&plain, &attention, 1, 40, 20, out), LW_OK);
    equals_plain(&plain, 40, 20, out, 2e-5);
    llama_full_destroy(full);
    plain_free(&plain);
}

static void test_cached_rows_can_be_read(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    plain_t plain = plain_make(&prng, shape_of(4, 2, 16), 10, 1);
    llama_full_t *full = create(plain.shape, 32);
    llama_attention_t attention = llama_full_attention(full);
    float out[10 * 4 * 16];
    assert_int_equal(plain_feed(&plain, &attention, 1, 0, 10, out), LW_OK);
    for (uint32_t t = 0; t < 10; t++) {
        for (uint32_t head = 0; head < 2; head++) {
            assert_memory_equal(llama_full_keys(full, 1, head) + t * 16, plain.key + (t * 2 + head) * 16, 32);
            assert_memory_equal(llama_full_values(full, 1, head) + t * 16, plain.value + (t * 2 + head) * 16,
                                32);
        }
    }
    llama_full_destroy(full);
    plain_free(&plain);
}

static int set_up(void **state)
{
    return llama_pool_create(2, &pool, NULL);
}
static int tear_down(void **state)
{
    llama_pool_destroy(pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_calls_are_refused),
        cmocka_unit_test(test_prefill_equals_double_precision),
        cmocka_unit_test(test_decoding_equals_double_precision),
        cmocka_unit_test(test_steep_and_flat_logits),
        cmocka_unit_test(test_a_later_chunk_does_not_change_with_the_threads),
        cmocka_unit_test(test_a_fork_goes_its_own_way),
        cmocka_unit_test(test_truncated_tokens_are_forgotten),
        cmocka_unit_test(test_cached_rows_can_be_read),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
