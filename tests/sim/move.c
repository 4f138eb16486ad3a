/* move.c - the movers of simulated nodes: the product's, with the catalogue's answers late, lost, or given and lost; and the
 * checkers of what they must keep true. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define PAGE LWD_MOVE_PAGE

/* ---- what a mover asks ---- */
static lw_status_t on_submit(void *arg, lwd_task_t *task)
{
    sim_node_t *node = arg;
    return lwd_worker_submit(node->worker, task);
}

static lw_status_t ask(sim_node_t *node, const sim_move_ask_t *question)
{
    for (uint32_t i = 0; i < SIM_MOVE_ASKS; i++) {
        sim_move_ask_t *slot = &node->move_asks[i];
        if (slot->used)
            continue;
        *slot = *question;
        slot->used = true;
        slot->due_us = node->world->now_us + 100 + sim_below(node->world, 5000);
        return LW_OK;
    }
    return LW_ERR_BUSY;
}

static lw_status_t on_placed(void *arg, const lwd_placed_key_t *after, uint32_t capacity)
{
    LW_ASSERT(capacity == PAGE);
    const sim_move_ask_t question = {.page = true, .after = *after};
    return ask(arg, &question);
}

static lw_status_t on_move(void *arg, uint64_t ticket, const lw_segment_name_t *name, uint16_t from, uint16_t to)
{
    const sim_move_ask_t question = {.ticket = ticket, .name = *name, .from = from, .to = to};
    return ask(arg, &question);
}

/* Sometimes the catalogue is away, and sometimes only its answer gets lost. */
static void answer(sim_node_t *node, const sim_move_ask_t *question)
{
    sim_world_t *world = node->world;
    const lwd_catalogue_ops_t *ops = world->catalogue_ops;
    bool calm = world->calm || world->now_us >= world->end_us;
    bool away = !calm && sim_chance(world, 0.02), lost = !calm && sim_chance(world, 0.02);
    if (question->page) {
        static lwd_placed_t rows[PAGE];
        uint32_t count = 0;
        lw_status_t status = away ? LW_ERR_FLEET : ops->placed(world->catalogue, &question->after, PAGE, rows, &count, NULL);
        lwd_move_tell_placed(node->move, status, rows, count);
        return;
    }
    lw_status_t status = away ? LW_ERR_FLEET : ops->move(world->catalogue, &question->name, question->from, question->to, NULL);
    char name[LW_SEGMENT_NAME_TEXT_BYTES];
    sim_trace(world, "node %u: move of %s from node %u: %s%s", node->index, lw_segment_name_text(&question->name, name),
              question->from, lw_status_text(status), lost ? ", and the answer is lost" : "");
    world->stats.moves += status == LW_OK;
    lwd_move_tell_moved(node->move, question->ticket, lost ? LW_ERR_FLEET : status);
}

/* ---- life ---- */
lw_status_t sim_move_start(sim_node_t *node)
{
    sim_world_t *world = node->world;
    lw_error_t error = {0};
    memset(&node->move_stats, 0, sizeof(node->move_stats));
    memset(node->move_asks, 0, sizeof(node->move_asks));
    lwd_move_params_t params = {.fabric = lw_fabric_sim(),
                                .node_id = node->index + 1u,
                                .incarnation = node->incarnation,
                                .shard = node->shard,
                                .stats = &node->move_stats,
                                .limits = world->move_limits,
                                .arg = node,
                                .submit = on_submit,
                                .placed = on_placed,
                                .move = on_move};
    uint8_t token[LW_TOKEN_BYTES];
    uint64_t halves[2];
    lw_fabric_sim_use(world->net, node->host);
    lw_status_t status = world->catalogue_ops->node_token(world->catalogue, token, &error);
    if (status == LW_OK)
        status = lwd_move_create(&params, &node->move, &error);
    if (status != LW_OK) {
        fprintf(stderr, "sim: node %u: mover: %s\n", node->index, error.text);
        return status;
    }
    memcpy(halves, token, sizeof(halves));
    for (int i = 0; i < 2; i++)
        atomic_store(&node->node.node_token[i], halves[i]);
    lwd_move_set_token(node->move, token);
    return LW_OK;
}

void sim_move_stop(sim_node_t *node)
{
    if (!node->move)
        return;
    node->world->stats.moves_failed += atomic_load(&node->move_stats.moves_failed);
    lwd_move_destroy(node->move);
    node->move = NULL;
}

void sim_move_round(sim_node_t *node)
{
    for (uint32_t i = 0; i < SIM_MOVE_ASKS; i++) {
        sim_move_ask_t *slot = &node->move_asks[i];
        if (!slot->used || slot->due_us > node->world->now_us)
            continue;
        sim_move_ask_t question = *slot;
        slot->used = false;
        answer(node, &question);
    }
    lwd_move_round(node->move, node->world->now_us);
}

/* ---- checking ---- */
typedef bool (*copy_fn)(sim_world_t *world, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                        uint32_t which, char *why, size_t why_bytes);

/* Looks at each copy that a manifest names, until one is not as it should be. */
static bool each_copy(sim_world_t *world, copy_fn look, char *why, size_t why_bytes)
{
    static lwd_placed_t rows[PAGE];
    lwd_placed_key_t key = {0};
    uint32_t count = PAGE;
    while (count == PAGE) {
        if (world->catalogue_ops->placed(world->catalogue, &key, PAGE, rows, &count, NULL) != LW_OK)
            return false;
        for (uint32_t i = 0; i < count; i++) {
            const lwd_range_t *range = &rows[i].range;
            key = (lwd_placed_key_t){range->origin, rows[i].rank, range->first_token};
            for (uint32_t c = 0; c < rows[i].layers * range->replicas; c++) {
                uint32_t layer = c / range->replicas;
                const lw_segment_name_t name = {.origin = range->origin, .rank = rows[i].rank, .layer = (uint16_t)layer,
                                                .first_token = range->first_token, .generation = range->generation};
                if (!look(world, &name, &range->node_index[layer * range->replicas], range->replicas, c % range->replicas,
                          why, why_bytes))
                    return false;
            }
        }
    }
    return true;
}

static bool found_elsewhere(const sim_world_t *world, const lw_segment_name_t *name, const uint16_t *nodes,
                            uint32_t replicas, uint32_t which)
{
    for (uint32_t r = 0; r < replicas; r++)
        if (r != which && sim_node_holds(&world->nodes[nodes[r]], name))
            return true;
    return false;
}

static bool copy_is_there(sim_world_t *world, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                          uint32_t which, char *why, size_t why_bytes)
{
    const sim_node_t *node = &world->nodes[nodes[which]];
    char text[LW_SEGMENT_NAME_TEXT_BYTES];
    if (!node->up || sim_node_holds(node, name) || node->incarnation > 1) /* what a restart lost is all_whole's business */
        return true;
    snprintf(why, why_bytes, "segment %s is not on node %u, where its manifest has it%s", lw_segment_name_text(name, text),
             node->index, found_elsewhere(world, name, nodes, replicas, which) ? "" : ", nor elsewhere");
    return false;
}

void sim_check_placed(sim_world_t *world)
{
    char why[200] = "";
    if (!each_copy(world, copy_is_there, why, sizeof(why)))
        sim_violation(world, "%s", why);
}

static bool copy_is_whole(sim_world_t *world, const lw_segment_name_t *name, const uint16_t *nodes, uint32_t replicas,
                          uint32_t which, char *why, size_t why_bytes)
{
    const sim_node_t *node = &world->nodes[nodes[which]];
    char text[LW_SEGMENT_NAME_TEXT_BYTES];
    lwd_ref_t ref;
    lw_error_t error;
    lw_segment_name_text(name, text);
    for (uint32_t r = 0; r < which; r++)
        if (nodes[r] == nodes[which]) {
            snprintf(why, why_bytes, "both copies of segment %s are on node %u", text, nodes[r]);
            return false;
        }
    if (node->up && lwd_shard_find(node->shard, name, &ref) == LW_OK) {
        const lwd_segment_t *segment = lwd_shard_slot(node->shard, ref.slot);
        if (lw_segment_verify(segment->extent, segment->bytes, &error) == LW_OK)
            return true;
        sim_violation(world, "segment %s on node %u has wrong bytes: %s", text, node->index, error.text);
        return false;
    }
    if (!found_elsewhere(world, name, nodes, replicas, which)) /* lost with its last node */
        return true;
    snprintf(why, why_bytes, "segment %s has a copy less than promised: node %u lacks it", text, node->index);
    return false;
}

bool sim_all_whole(sim_world_t *world, char *why, size_t why_bytes)
{
    return each_copy(world, copy_is_whole, why, why_bytes);
}
