/* test_catalogue_model.c - thousands of random operations, the same on SQLite (or etcd: `test_catalogue_model etcd`) and on
 * the simulated catalogue: every status, every row and every byte that comes out must agree (tokens apart, which are drawn
 * from the system, and the serials of endings, which only grow). */
#include "test_catalogue_support.h"

#include "base/clock.h"
#include "base/prng.h"
#ifdef LW_HAVE_ETCD
#include "etcd_process.h"

static etcd_process_t etcd;
#endif

static unsigned operations = 10000;
#define KNOWN 24u /* sessions that the operations are drawn from */
#define RANKS 2u
#define KINDS 17u

typedef struct side {
    const lwd_catalogue_ops_t *ops;
    lwd_catalogue_t *cat;
} side_t;

typedef struct model {
    lw_prng_t prng;
    side_t sides[2];
    uint64_t now, last_id, serial[2], incarnation[5];
    unsigned done[KINDS], good[KINDS];
} model_t;

static uint64_t draw(model_t *model, uint64_t bound)
{
    return lw_prng_below(&model->prng, bound);
}

static void same_row(lwd_session_row_t *a, lwd_session_row_t *b)
{
    memset(a->token, 0, sizeof(a->token));
    memset(b->token, 0, sizeof(b->token));
    assert_int_equal(a->session_id, b->session_id);
    assert_int_equal(a->state, b->state);
    assert_int_equal(a->term, b->term);
    assert_int_equal(a->lease_client, b->lease_client);
    assert_int_equal(a->lease_incarnation, b->lease_incarnation);
    assert_int_equal(a->lease_until_us, b->lease_until_us);
    assert_int_equal(a->ttl_us, b->ttl_us);
    assert_int_equal(a->created_us, b->created_us);
    assert_int_equal(a->used_us, b->used_us);
    assert_int_equal(a->parent_id, b->parent_id);
    assert_int_equal(a->cut_tokens, b->cut_tokens);
    assert_int_equal(a->token_count, b->token_count);
    assert_int_equal(a->bytes, b->bytes);
    assert_int_equal(a->pinned, b->pinned);
    assert_int_equal(a->readers, b->readers);
    assert_string_equal(a->tenant, b->tenant);
    assert_memory_equal(&a->shape, &b->shape, sizeof(a->shape));
}

static uint64_t some_session(model_t *model)
{
    return model->last_id < KNOWN ? 1 + draw(model, model->last_id + 1) : model->last_id + 2 - draw(model, KNOWN);
}

static lwd_range_t some_range(model_t *model, uint64_t id, uint32_t rank, uint32_t term)
{
    lwd_range_t ranges[64];
    uint32_t count = 0, first = 0;
    const side_t *sim = &model->sides[1];
    lwd_session_row_t row;
    if (sim->ops->get(sim->cat, NULL, id, &row, NULL) == LW_OK)
        first = row.cut_tokens;
    if (sim->ops->ranges(sim->cat, id, (uint16_t)rank, 0, 64, ranges, &count, NULL) == LW_OK && count) {
        const lwd_range_t *last = &ranges[count - 1];
        if (draw(model, 6) == 0) { /* sent again */
            lwd_range_t again = ranges[draw(model, count)];
            again.flags &= ~LW_RANGE_MOVED;
            return again;
        }
        first = last->flags & LW_RANGE_RAW && draw(model, 5) ? last->first_token : last->first_token + last->token_count;
    }
    if (draw(model, 12) == 0)
        first += (uint32_t)draw(model, 100);
    return test_range(first, 1 + (uint32_t)draw(model, 50), term, draw(model, 4) == 0 ? LW_RANGE_RAW : 0);
}

/* Mostly a name that a manifest has. */
static void name_to_move(model_t *model, lw_segment_name_t *name)
{
    const side_t *sim = &model->sides[1];
    const lwd_placed_key_t after = {some_session(model), 0, 0};
    lwd_placed_t row;
    uint32_t count;
    assert_int_equal(sim->ops->placed(sim->cat, &after, 1, &row, &count, NULL), LW_OK);
    if (count == 0)
        return;
    name->origin = row.range.origin;
    name->rank = row.rank;
    name->layer = (uint16_t)draw(model, row.layers + draw(model, 8) / 7);
    name->first_token = row.range.first_token;
    name->generation = row.range.generation + draw(model, 8) / 7;
}

/* Runs one operation on both sides; returns its kind. */
static unsigned step(model_t *model, lw_status_t status[2])
{
    static const char *const tenants[] = {"a", "b"};
    unsigned kind = (unsigned)draw(model, KINDS);
    uint64_t id = some_session(model), client = 1 + draw(model, 4);
    model->incarnation[client] += draw(model, 60) == 0;
    uint64_t incarnation = model->incarnation[client] + 1 - (draw(model, 20) == 0);
    uint64_t lease = 1 + draw(model, 5000), number = draw(model, 4);
    uint32_t rank = (uint32_t)draw(model, RANKS), tokens = (uint32_t)draw(model, 400);
    bool flag = draw(model, 3) > 0;
    const char *tenant = tenants[draw(model, 8) == 0];
    lwd_session_row_t rows[2][32], known = {.term = 1};
    if (model->sides[1].ops->get(model->sides[1].cat, NULL, id, &known, NULL) == LW_OK)
        tenant = draw(model, 10) ? known.tenant : tenant;
    uint32_t term = known.term - (draw(model, 10) == 0);
    lwd_range_t commit[2] = {some_range(model, id, rank, term)};
    commit[1] = test_range(commit[0].first_token + commit[0].token_count, 5, term, 0);
    lw_segment_name_t names[8];
    for (unsigned i = 0; i < 8; i++) {
        memset(&names[i], 0, sizeof(names[i]));
        names[i].origin = some_session(model);
        names[i].rank = (uint16_t)draw(model, RANKS);
        names[i].first_token = draw(model, 2) ? 0 : (uint32_t)draw(model, 200);
        names[i].generation = 1 + (uint32_t)draw(model, 2);
    }
    uint16_t to = (uint16_t)draw(model, 4);
    if (kind == 16)
        name_to_move(model, &names[0]);
    lwd_range_t ranges[2][64];
    lwd_placed_t placed[2][32];
    lwd_placed_key_t after = {id > 8 ? id - 8 : 0, (uint16_t)rank, flag ? 0 : tokens};
    lwd_ended_t ended[2][64];
    uint64_t origins[2][LWD_FORK_DEPTH_MAX], out[2] = {0, 0};
    uint32_t cuts[2][LWD_FORK_DEPTH_MAX], count[2] = {0, 0};
    bool dead[2][8];
    for (int i = 0; i < 2; i++) {
        const lwd_catalogue_ops_t *ops = model->sides[i].ops;
        lwd_catalogue_t *cat = model->sides[i].cat;
        lwd_create_t create = {.tenant = tenant, .shape = test_shape(2, RANKS), .client_id = client,
                               .incarnation = incarnation, .lease_us = lease, .ttl_us = number ? 0 : 1 + lease * 3};
        lwd_session_row_t own = {0};
        switch (kind) {
        case 0: status[i] = ops->create(cat, &create, model->now, &rows[i][0], NULL); break;
        case 1: status[i] = ops->open_session(cat, tenant, id, flag, client, incarnation, lease, model->now, &rows[i][0], NULL); break;
        case 2: status[i] = ops->renew(cat, client, incarnation, lease, model->now, &count[i], NULL); break;
        case 3: status[i] = ops->release(cat, id, client, incarnation, model->now, NULL); break;
        case 4: status[i] = ops->fork(cat, tenant, id, flag ? 0 : tokens, client, incarnation, lease, model->now, &rows[i][0], NULL); break;
        case 5: status[i] = ops->pin(cat, tenant, id, number == 0, NULL); break;
        case 6: status[i] = number ? ops->get(cat, tenant, id, &rows[i][0], NULL) : ops->drop(cat, tenant, id, model->now, NULL); break;
        case 7: status[i] = ops->list(cat, flag ? NULL : tenant, id > 16 ? id - 16 : 0, 32, rows[i], &count[i], NULL); break;
        case 8:
        case 9:
        case 10: status[i] = ops->commit(cat, id, (uint16_t)rank, term, commit, number ? 1 : 2, model->now, NULL); break;
        case 11: status[i] = ops->ranges(cat, id, (uint16_t)rank, flag ? 0 : tokens, 64, ranges[i], &count[i], NULL); break;
        case 12:
            if (ops->get(cat, NULL, id, &own, NULL) != LW_OK)
                own.session_id = id;
            status[i] = ops->check(cat, id, own.token, flag, term, model->now, origins[i], cuts[i], LWD_FORK_DEPTH_MAX, &count[i], NULL);
            break;
        case 13: status[i] = ops->orphans(cat, flag ? (uint16_t)number : LWD_NODE_ANY, names, 8, model->now, dead[i], NULL); break;
        case 14:
            status[i] = ops->expire(cat, number ? 0 : tokens * 20, model->now, &out[i], NULL);
            assert_int_equal(ops->ended(cat, model->serial[i], 64, ended[i], &count[i], NULL), LW_OK);
            break;
        case 15: status[i] = ops->placed(cat, &after, 32, placed[i], &count[i], NULL); break;
        case 16: status[i] = ops->move(cat, &names[0], (uint16_t)number, to, NULL); break;
        }
    }
    assert_int_equal(status[0], status[1]);
    if (status[0] != LW_OK)
        return kind;
    if (kind == 0 || kind == 1 || kind == 4 || (kind == 6 && number))
        same_row(&rows[0][0], &rows[1][0]);
    if (kind == 0 || kind == 4)
        model->last_id = rows[0][0].session_id;
    assert_int_equal(count[0], count[1]);
    assert_int_equal(out[0], out[1]);
    for (uint32_t i = 0; i < count[0]; i++) {
        if (kind == 7)
            same_row(&rows[0][i], &rows[1][i]);
        if (kind == 11) {
            assert_int_equal(ranges[0][i].origin, ranges[1][i].origin);
            assert_int_equal(ranges[0][i].first_token, ranges[1][i].first_token);
            assert_int_equal(ranges[0][i].token_count, ranges[1][i].token_count);
            assert_int_equal(ranges[0][i].generation, ranges[1][i].generation);
            assert_int_equal(ranges[0][i].flags, ranges[1][i].flags);
            assert_int_equal(ranges[0][i].bytes, ranges[1][i].bytes);
            assert_memory_equal(ranges[0][i].node_index, ranges[1][i].node_index, 4);
        }
        if (kind == 15) {
            assert_int_equal(placed[0][i].rank, placed[1][i].rank);
            assert_int_equal(placed[0][i].layers, placed[1][i].layers);
            assert_int_equal(placed[0][i].range.origin, placed[1][i].range.origin);
            assert_int_equal(placed[0][i].range.first_token, placed[1][i].range.first_token);
            assert_int_equal(placed[0][i].range.generation, placed[1][i].range.generation);
            assert_int_equal(placed[0][i].range.flags, placed[1][i].range.flags);
            assert_memory_equal(placed[0][i].range.node_index, placed[1][i].range.node_index, 4);
        }
        if (kind == 12) {
            assert_int_equal(origins[0][i], origins[1][i]);
            assert_int_equal(cuts[0][i], cuts[1][i]);
        }
        if (kind == 14) {
            assert_true(i == 0 || ended[0][i].serial > ended[0][i - 1].serial);
            assert_int_equal(ended[0][i].origin, ended[1][i].origin);
            assert_int_equal(ended[0][i].rank, ended[1][i].rank);
            assert_int_equal(ended[0][i].from_token, ended[1][i].from_token);
            assert_int_equal(ended[0][i].generation_max, ended[1][i].generation_max);
        }
    }
    if (kind == 13)
        assert_memory_equal(dead[0], dead[1], sizeof(dead[0]));
    for (int i = 0; i < 2 && kind == 14 && count[0]; i++) {
        model->serial[i] = ended[i][count[i] - 1].serial;
        if (flag)
            assert_int_equal(model->sides[i].ops->trim(model->sides[i].cat, model->serial[i], NULL), LW_OK);
    }
    return kind;
}

static void test_both_catalogues_answer_alike(void **state)
{
    const char *given = getenv("LW_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    print_message("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    model_t model = {.sides = {{lwd_catalogue_sqlite(), NULL}, {lwd_catalogue_sim(), NULL}}, .now = T0};
    lw_prng_seed(&model.prng, seed);
    char where[64] = ":memory:";
#ifdef LW_HAVE_ETCD
    if (etcd.pid) {
        model.sides[0].ops = lwd_catalogue_etcd();
        snprintf(where, sizeof(where), "etcd://%s/model?timeout_ms=20000", etcd.endpoint);
    }
#endif
    for (int i = 0; i < 2; i++)
        assert_int_equal(model.sides[i].ops->open(where, &model.sides[i].cat, NULL), LW_OK);
    for (unsigned i = 0; i < operations; i++) {
        lw_status_t status[2] = {LW_ERR_IO, LW_ERR_INVALID};
        model.now += draw(&model, 30);
        unsigned kind = step(&model, status);
        model.done[kind]++;
        model.good[kind] += status[0] == LW_OK;
    }
    for (unsigned kind = 0; kind < KINDS; kind++) { /* the draw must reach the interesting paths */
        print_message("operation %u: %u of %u good\n", kind, model.good[kind], model.done[kind]);
        assert_in_range(model.good[kind], operations / 1000, operations);
    }
    for (int i = 0; i < 2; i++)
        model.sides[i].ops->close(model.sides[i].cat);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_catalogues_answer_alike)};
    bool on_etcd = argc > 1 && strcmp(argv[1], "etcd") == 0;
#ifdef LW_HAVE_ETCD
    if (on_etcd && etcd_process_found()) {
        operations = 3000; /* each of them waits for a disk */
        etcd_process_start(&etcd);
        int failed = cmocka_run_group_tests(tests, NULL, NULL);
        etcd_process_remove(&etcd);
        return failed;
    }
#endif
    return on_etcd ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}
