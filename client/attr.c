/* attr.c - what lw_query tells. Reads pinned counters and the store's statistics, which a progress thread may have to be
 * asked for; never waits for the device. Caller's thread. */
#include "client/ctx.h"

#include <stdio.h>
#include <string.h>

static void query_memory(struct lw *kv, lw_attr_t *attr)
{
    const lwc_model_t *model = &kv->model;
    uint64_t page_bytes = 0;

    attr->index_bytes = lwc_arena_used(&kv->arena);
    attr->cache_bytes = kv->cache.bytes;
    /* Entries kept: an outlier is one token, a cluster's pages are counted by its average size. */
    const lwk_counters_t *c = kv->counters;
    uint64_t kept = c->admitted > c->evicted ? c->admitted - c->evicted : 0;
    uint64_t entries = c->hits + c->misses + c->pending,
             tokens = c->hit_tokens + c->miss_tokens + c->pending_tokens;
    page_bytes = entries > 0 ? kept * tokens / entries * model->pair_bytes : 0;
    attr->cache_used_bytes = lw_min_u64(page_bytes, kv->cache.bytes);
    attr->steady_bytes = 0;
    for (uint32_t slot = 0; slot < kv->sizes.sessions_max; slot++)
        attr->steady_bytes +=
            (uint64_t)kv->sessions[slot].steady.rows * model->layers * model->heads * model->pair_bytes;
    attr->scratch_bytes = kv->step.scratch_bytes;
    attr->landing_bytes = kv->tickets.landing_bytes;
    attr->host_bytes = (2 + kv->keeper.parcel_count) * kv->sizes.extent_bytes;
    if (kv->local.on) {
        attr->host_bytes += lwc_arena_used(&kv->local.arena);
        attr->landing_bytes = 0;
    }
}

static void query_traffic(struct lw *kv, lw_attr_t *attr)
{
    const lwc_store_stats_t *stats = &kv->answer.stats;

    attr->bytes_fetched = stats->bytes_fetched;
    attr->records_fetched = stats->records_fetched;
    attr->fetch_requests = stats->fetch_requests;
    attr->fetch_retries = stats->fetch_retries;
    attr->checksum_failures = stats->checksum_failures;
    attr->bytes_shipped = atomic_load_explicit(&kv->keeper.stats.bytes_shipped, memory_order_relaxed);
    attr->fetch_wait_us = kv->step.wait_us;
}

static void query_attention(struct lw *kv, lw_attr_t *attr)
{
    const lwk_counters_t *c = kv->counters;

    attr->layer_steps = c->steps;
    attr->selections = c->head_steps;
    attr->entries_indexed = c->entries_indexed;
    attr->entries_retrieved = c->entries_retrieved;
    attr->entries_estimated = c->entries_estimated;
    attr->tokens_indexed = c->tokens_indexed;
    attr->tokens_retrieved = c->tokens_retrieved;
    attr->tokens_steady = c->tokens_steady;
    attr->hits = c->hits;
    attr->misses = c->misses + c->pending;
    attr->hit_tokens = c->hit_tokens;
    attr->miss_tokens = c->miss_tokens + c->pending_tokens;
    attr->admitted = c->admitted;
    attr->evicted = c->evicted;
}

/* Bytes that this handle's open sessions keep on a node; segments of one range are taken as equally large. */
static uint64_t bytes_on_node(struct lw *kv, uint16_t node_index)
{
    uint64_t bytes = 0;

    for (uint32_t row = 0; row < kv->directory.row_capacity; row++) {
        const lwc_range_row_t *range = &kv->directory.rows[row];
        if (range->holders == 0 || range->holders == LWC_ROW_BURIED || range->registrar == UINT32_MAX)
            continue;
        const uint16_t *nodes = lwc_directory_nodes(&kv->directory, row);
        uint64_t segments = 0;
        for (uint32_t layer = 0; layer < kv->model.layers; layer++)
            for (uint32_t r = 0; r < range->replicas; r++)
                segments += nodes[layer * LW_REPLICAS_MAX + r] == node_index;
        bytes += range->stored_bytes * segments / kv->model.layers;
    }
    return bytes;
}

static void query_nodes(struct lw *kv, lw_attr_t *attr)
{
    const lwc_store_answer_t *answer = &kv->answer;

    attr->node_count = answer->node_count;
    for (uint32_t i = 0; i < attr->node_count; i++) {
        const lw_node_t *node = &answer->nodes[i];
        lw_node_attr_t *out = &attr->nodes[i];
        memset(out, 0, sizeof(*out));
        out->node_id = node->id;
        out->up = node->state == LW_NODE_UP;
        snprintf(out->address, sizeof(out->address), "%s", node->data);
        out->bytes_stored = bytes_on_node(kv, node->index);
        out->bytes_fetched = answer->node_stats[i].bytes_fetched;
        out->fetches = answer->node_stats[i].fetches;
    }
}

static void query_replicas(struct lw *kv, lw_attr_t *attr)
{
    const lwc_store_stats_t *stats = &kv->answer.stats;

    attr->hedges = stats->hedges;
    attr->hedges_won = stats->hedges_won;
    attr->hedges_denied = stats->hedges_denied;
    attr->reroutes = stats->reroutes;
}

lw_status_t lwc_query(struct lw *kv, lw_attr_t *attr, lw_error_t *error)
{
    uint64_t known = LW_ATTR_FLEET | LW_ATTR_BACKEND | LW_ATTR_MEMORY | LW_ATTR_TRAFFIC | LW_ATTR_ATTENTION |
                     LW_ATTR_NODES | LW_ATTR_REPLICAS;

    if (attr->field_mask & ~known)
        return lw_fail(error, LW_ERR_INVALID, "field_mask is %#llx, known are %#llx",
                       (unsigned long long)attr->field_mask, (unsigned long long)known);
    if (attr->field_mask & (LW_ATTR_FLEET | LW_ATTR_TRAFFIC | LW_ATTR_NODES | LW_ATTR_REPLICAS)) {
        lw_status_t status = lwc_route_ask(kv, &kv->answer, error);
        if (status != LW_OK)
            return status;
    }
    if (attr->field_mask & LW_ATTR_FLEET) {
        attr->fleet_id = kv->answer.fleet_id;
        attr->fleet_epoch = kv->answer.epoch;
    }
    if (attr->field_mask & LW_ATTR_BACKEND) {
        attr->backend = kv->device.backend->name;
        attr->device = kv->device_text;
    }
    if (attr->field_mask & LW_ATTR_MEMORY)
        query_memory(kv, attr);
    if (attr->field_mask & LW_ATTR_TRAFFIC)
        query_traffic(kv, attr);
    if (attr->field_mask & LW_ATTR_ATTENTION)
        query_attention(kv, attr);
    if (attr->field_mask & LW_ATTR_NODES)
        query_nodes(kv, attr);
    if (attr->field_mask & LW_ATTR_REPLICAS)
        query_replicas(kv, attr);
    return LW_OK;
}
