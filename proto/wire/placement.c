/* placement.c - weighted rendezvous hashing in integers, so that every machine gives the same answer. Pure;
 * any thread.
 *
 * Node i with weight w draws u in (0, 1) from the segment's key and its own id, and scores w / -log2(u): the
 * largest score wins, and a node's chance is proportional to w. A node that comes or goes changes no other
 * node's score, so only the segments that it gains or loses move. Called by writers once a segment. */
#include "wire/placement.h"

#include <string.h>

#include "wire/checksum.h"

#define LOG_FRACTION_BITS 48

typedef struct score {
    uint64_t weight, cost; /* cost: -log2(u), fixed point; a smaller cost per weight is better */
    uint32_t position;
} score_t;

/* -log2(draw / 2^64) with LOG_FRACTION_BITS of fraction; draw > 0. Never 0. */
static uint64_t cost_of(uint64_t draw)
{
    unsigned leading = (unsigned)__builtin_clzll(draw);
    uint64_t mantissa = draw << leading; /* in [1, 2) with 63 bits of fraction */
    uint64_t fraction = 0;

    for (int bit = 0; bit < LOG_FRACTION_BITS;
         bit++) { /* squaring doubles the logarithm: one bit of it a turn */
        unsigned __int128 square = (unsigned __int128)mantissa * mantissa;
        bool two = (square >> 127) != 0;

        mantissa = (uint64_t)(square >> (two ? 64 : 63));
        fraction = fraction << 1 | two;
    }
    /* log2(draw) = 63 - leading + fraction, so the cost is leading + 1 - fraction. */
    uint64_t cost = ((uint64_t)(leading + 1) << LOG_FRACTION_BITS) - fraction;
    return lw_max_u64(cost, 1);
}

static uint64_t key_of(const lw_segment_name_t *name)
{
    lw_segment_name_t key = *name;

    key.generation = 0; /* a rewrite by a later term goes to the same nodes */
    key.reserved = 0;
    return lw_segment_name_hash(&key);
}

static bool better(const score_t *a, const score_t *b, const lw_view_t *view)
{
    unsigned __int128 left = (unsigned __int128)a->weight * b->cost,
                      right = (unsigned __int128)b->weight * a->cost;

    if (left != right) {
        return left > right;
    }
    return view->nodes[a->position].id < view->nodes[b->position].id;
}

static bool same_zone(const lw_node_t *a, const lw_node_t *b)
{
    return strncmp(a->zone, b->zone, sizeof(a->zone)) == 0;
}

/* How many of the chosen nodes share the candidate's zone. */
static uint32_t zone_load(const lw_view_t *view, uint32_t candidate, const uint32_t *chosen,
                          uint32_t chosen_count)
{
    uint32_t load = 0;

    for (uint32_t i = 0; i < chosen_count; i++) {
        load += same_zone(&view->nodes[candidate], &view->nodes[chosen[i]]);
    }
    return load;
}

uint32_t lw_place(const lw_view_t *view, const lw_segment_name_t *name, uint32_t replicas,
                  uint32_t *position_out)
{
    score_t scores[LW_NODES_MAX];
    uint32_t score_count = 0, chosen = 0;
    uint64_t key = key_of(name);

    LW_ASSERT(view->node_count <= LW_NODES_MAX);
    LW_ASSERT(replicas <= LW_REPLICAS_MAX);
    for (uint32_t i = 0; i < view->node_count; i++) {
        const lw_node_t *node = &view->nodes[i];

        if (node->state == LW_NODE_UP && node->weight > 0) {
            uint64_t draw = lw_checksum64(key, &node->id, sizeof(node->id));
            scores[score_count++] =
                (score_t){.weight = node->weight, .cost = cost_of(draw | 1), .position = i};
        }
    }
    while (chosen < replicas && score_count > 0) {
        uint32_t best = 0, best_load = zone_load(view, scores[0].position, position_out, chosen);

        for (uint32_t i = 1; i < score_count; i++) {
            uint32_t load = zone_load(view, scores[i].position, position_out, chosen);

            if (load < best_load || (load == best_load && better(&scores[i], &scores[best], view))) {
                best = i;
                best_load = load;
            }
        }
        position_out[chosen++] = scores[best].position;
        scores[best] = scores[--score_count];
    }
    return chosen;
}
