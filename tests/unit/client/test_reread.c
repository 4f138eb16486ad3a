/* test_reread.c - manifests read again for a store that asks: what the answers hold, and when there is none. The control plane
 * is a catalogue in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/longwave_types.h"
#include "client/reread.h"
#include "sim/control_sim.h"

#define LAYERS 3u
#define RANGES 21u /* more than one page */
#define TOKENS 1024u
#define LEASE_US 10000000ull
#define SLOTS 4u

typedef struct rig {
    lw_control_sim_fleet_t fleet;
    lw_node_t nodes[3];
    lwc_control_t *control;
    lwc_session_info_t session;
    lwc_refresh_t mail;
} rig_t;

static rig_t rig;
static lw_error_t error;

static uint16_t node_of(uint32_t range, uint32_t layer, uint32_t r)
{
    return (uint16_t)((range + layer + r) % 3);
}

static int open_rig(void **state)
{
    static lwc_range_t ranges[RANGES];
    const lwc_shape_t shape = {.model_id = "m", .layer_count = LAYERS, .kv_head_count = 2, .query_head_count = 4,
                               .head_dim = 64, .dtype = LW_DTYPE_BF16, .rank_count = 1, .segment_tokens = TOKENS,
                               .replicas = 2};
    (void)state;
    memset(&rig, 0, sizeof(rig));
    for (uint32_t i = 0; i < 3; i++)
        rig.nodes[i] = (lw_node_t){.id = i + 1, .index = (uint16_t)i, .incarnation = 1, .state = LW_NODE_UP, .weight = 1};
    if (lw_control_sim_init(&rig.fleet, NULL, NULL, rig.nodes, 3, &error) != LW_OK ||
        lw_control_sim_open(&rig.fleet, NULL, 7, 1, &rig.control, &error) != LW_OK ||
        lwc_control_create(rig.control, &shape, LEASE_US, 0, &rig.session, &error) != LW_OK ||
        lwc_refresh_init(&rig.mail, SLOTS, LAYERS, &error) != LW_OK)
        return -1;
    for (uint32_t i = 0; i < RANGES; i++) {
        ranges[i] = (lwc_range_t){.first_token = i * TOKENS, .token_count = TOKENS, .generation = rig.session.term,
                                  .replicas = 2, .bytes = 64};
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t r = 0; r < 2; r++)
                ranges[i].node_index[layer * 2 + r] = node_of(i, layer, r);
        if (lwc_control_commit(rig.control, &rig.session, 0, &ranges[i], 1, &error) != LW_OK)
            return -1;
    }
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    lwc_refresh_fini(&rig.mail);
    lwc_control_close(rig.control);
    lw_control_sim_fini(&rig.fleet);
    return 0;
}

static const lwc_refresh_cell_t *ask(uint32_t slot, const lwc_session_info_t *session)
{
    lwc_refresh_cell_t *cell = &rig.mail.cells[slot];
    cell->session_id = session->session_id;
    memcpy(cell->token, session->token, LW_TOKEN_BYTES);
    atomic_store(&cell->state, LWC_REFRESH_ASKED);
    for (uint32_t i = 0; i < 100 && atomic_load(&cell->state) == LWC_REFRESH_ASKED; i++)
        (void)lwc_reread_round(&rig.mail, rig.control, 0);
    assert_int_equal(atomic_load(&cell->state), LWC_REFRESH_ANSWERED);
    return cell;
}

static void check(const lwc_refresh_cell_t *cell, uint32_t count, uint64_t origin)
{
    assert_int_equal(cell->status, LW_OK);
    assert_int_equal(cell->count, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(cell->places[i].origin, origin);
        assert_int_equal(cell->places[i].first_token, i * TOKENS);
        assert_int_equal(cell->places[i].replicas, 2);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t r = 0; r < 2; r++)
                assert_int_equal(cell->nodes[(i * LAYERS + layer) * LW_REPLICAS_MAX + r], node_of(i, layer, r));
    }
}

static void test_a_catalogue_that_is_away_is_told_as_such_and_then_answers(void **state)
{
    (void)state;
    rig.fleet.away = true;
    assert_int_equal(ask(1, &rig.session)->status, LW_ERR_FLEET);
    rig.fleet.away = false;
    check(ask(1, &rig.session), RANGES, rig.session.session_id);
}

static void test_a_dropped_session_is_not_found(void **state)
{
    (void)state;
    assert_int_equal(lwc_control_drop(rig.control, rig.session.session_id, &error), LW_OK);
    assert_int_equal(ask(0, &rig.session)->status, LW_ERR_NOT_FOUND);
}

static void test_a_wrong_token_is_no_lost_session(void **state)
{
    lwc_session_info_t wrong = rig.session;
    (void)state;
    wrong.token[3] ^= 1;
    lw_status_t status = ask(2, &wrong)->status; /* this control plane may not look at tokens */
    assert_true(status == LW_ERR_PERMISSION || status == LW_OK);
}

static void test_a_manifest_of_several_pages_comes_whole_and_again(void **state)
{
    (void)state;
    assert_int_equal(lwc_reread_round(&rig.mail, rig.control, 0), 0); /* nobody has asked */
    check(ask(3, &rig.session), RANGES, rig.session.session_id);
    check(ask(3, &rig.session), RANGES, rig.session.session_id);
}

static void test_a_forks_answer_has_its_parents_ranges(void **state)
{
    lwc_session_info_t child;
    (void)state;
    assert_int_equal(lwc_control_fork(rig.control, rig.session.session_id, 5 * TOKENS, LEASE_US, &child, &error), LW_OK);
    check(ask(0, &child), 5, rig.session.session_id);
}

static void test_every_asker_gets_an_answer(void **state)
{
    (void)state;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        rig.mail.cells[slot].session_id = rig.session.session_id;
        memcpy(rig.mail.cells[slot].token, rig.session.token, LW_TOKEN_BYTES);
        atomic_store(&rig.mail.cells[slot].state, LWC_REFRESH_ASKED);
    }
    while (lwc_reread_round(&rig.mail, rig.control, 0) > 0)
        ;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        assert_int_equal(atomic_load(&rig.mail.cells[slot].state), LWC_REFRESH_ANSWERED);
        check(&rig.mail.cells[slot], RANGES, rig.session.session_id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_catalogue_that_is_away_is_told_as_such_and_then_answers, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(test_a_dropped_session_is_not_found, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(test_a_wrong_token_is_no_lost_session, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(test_a_manifest_of_several_pages_comes_whole_and_again, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(test_a_forks_answer_has_its_parents_ranges, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(test_every_asker_gets_an_answer, open_rig, close_rig),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
