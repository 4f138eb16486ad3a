/* choose.c - which replica a want asks, and when its answer is late.
 *
 * Load is what this store has asked of a node and not got: a slow node keeps its load, so that the next wants pass it by.
 * A node that owes a late answer and says nothing is asked last, before anybody has judged that it is gone. */
#include "client/store/store_private.h"

/* 0: not to be asked. */
static uint32_t rank(const lwc_store_t *store, const lwc_segment_t *segment, const lwc_want_t *want, uint32_t r)
{
    const lwc_peer_t *peer = lwc_peer(store, segment->replica[r].node_index);
    if (lwc_want_failed(want, r) || !peer || !peer->in_view)
        return 0;
    if (peer->state == LWC_PEER_READY)
        return peer->late ? 3 : 4;
    return peer->node.state == LW_NODE_DOWN ? 1 : 2;
}

uint32_t lwc_choose(const lwc_store_t *store, const lwc_want_t *want, uint32_t except)
{
    const lwc_segment_t *segment = lwc_segment(store, want->segment);
    uint32_t best = LW_REPLICAS_MAX, best_rank = 0;
    uint64_t best_load = 0;
    for (uint32_t r = 0; segment && !segment->gone && r < segment->replica_count; r++) {
        uint32_t found = r == except ? 0 : rank(store, segment, want, r);
        if (found == 0 || found < best_rank)
            continue;
        uint64_t load = lwc_peer(store, segment->replica[r].node_index)->load_bytes;
        if (found > best_rank || load + LWC_LOAD_SLACK_BYTES < best_load) {
            best = r;
            best_rank = found;
            best_load = load;
        }
    }
    return best;
}

uint32_t lwc_choose_ready(const lwc_store_t *store, const lwc_want_t *want, uint32_t except)
{
    uint32_t r = lwc_choose(store, want, except);
    bool ready = r != LW_REPLICAS_MAX &&
                 lwc_peer(store, store->segments[want->segment].replica[r].node_index)->state == LWC_PEER_READY;
    return ready ? r : LW_REPLICAS_MAX;
}

void lwc_latency_add(lwc_latency_t *latency, uint64_t us)
{
    uint32_t first = 0, second = 0;
    latency->us[latency->next] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    latency->next = (latency->next + 1) % LWC_LATENCY_SAMPLES;
    if (latency->count < LWC_LATENCY_SAMPLES)
        latency->count++;
    if (latency->next % LWC_LATENCY_FEW != 0)
        return;
    for (uint32_t i = 0; i < latency->count; i++) {
        uint32_t value = latency->us[i];
        if (value > first) {
            second = first;
            first = value;
        } else if (value > second) {
            second = value;
        }
    }
    latency->late_us = second;
}

uint64_t lwc_late_after_us(const lwc_peer_t *peer)
{
    uint64_t set = peer->store->params.hedge_us;
    if (set != LWC_HEDGE_AUTO)
        return set > 0 ? set : UINT64_MAX;
    if (peer->latency.count < LWC_LATENCY_FEW)
        return LWC_HEDGE_FIRST_US;
    return lw_min_u64(lw_max_u64(peer->latency.late_us, LWC_HEDGE_MIN_US), LWC_HEDGE_MAX_US);
}
