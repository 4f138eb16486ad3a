/* catalogue_check.c - input that no catalogue takes, and the moves between a session's states. Pure; any thread. */
#include "storaged/catalogue/catalogue_private.h"

#include "base/longwave_types.h"

typedef struct bound {
    const char *name;
    uint64_t value, min, max;
} bound_t;

static lw_status_t check_bounds(const bound_t *bounds, size_t count, lw_error_t *error)
{
    for (size_t i = 0; i < count; i++)
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max)
            return lw_fail(error, LW_ERR_INVALID, "%s is %llu, must be %llu to %llu", bounds[i].name,
                           (unsigned long long)bounds[i].value, (unsigned long long)bounds[i].min,
                           (unsigned long long)bounds[i].max);
    return LW_OK;
}

static lw_status_t check_shape(const lwd_session_shape_t *shape, lw_error_t *error)
{
    const bound_t bounds[] = {
        {"layer_count", shape->layer_count, 1, LW_LAYERS_MAX},
        {"kv_head_count", shape->kv_head_count, 1, LW_KV_HEADS_MAX},
        {"query_head_count", shape->query_head_count, 1, LW_KV_HEADS_MAX * LW_GROUP_MAX},
        {"head_dim", shape->head_dim, 8, LW_HEAD_DIM_MAX},
        {"dtype", shape->dtype, LW_DTYPE_BF16, LW_DTYPE_FP32},
        {"rank_count", shape->rank_count, 1, LWD_RANKS_MAX},
        {"segment_tokens", shape->segment_tokens, 1, LW_SEGMENT_TOKENS_MAX},
        {"replicas", shape->replicas, 1, LW_REPLICAS_MAX},
        {"cluster_encoding", shape->cluster_encoding, 0, LW_ENCODING_FP32},
        {"outlier_encoding", shape->outlier_encoding, 0, LW_ENCODING_FP32},
        {"outlier_ppm", shape->outlier_ppm, 0, 1000000},
        {"cluster_tokens", shape->cluster_tokens, 0, 1024},
    };
    lw_status_t status = check_bounds(bounds, LW_ARRAY_SIZE(bounds), error);
    if (status != LW_OK)
        return status;
    if (shape->head_dim % 8)
        return lw_fail(error, LW_ERR_INVALID, "head_dim is %u, must be a multiple of 8", shape->head_dim);
    if (shape->query_head_count % shape->kv_head_count ||
        shape->query_head_count / shape->kv_head_count > LW_GROUP_MAX)
        return lw_fail(error, LW_ERR_INVALID, "query_head_count %u does not fit kv_head_count %u",
                       shape->query_head_count, shape->kv_head_count);
    if (!memchr(shape->model_id, 0, sizeof(shape->model_id)) || !shape->model_id[0])
        return lw_fail(error, LW_ERR_INVALID, "model_id is empty or longer than %u bytes", LW_MODEL_ID_MAX - 1);
    return LW_OK;
}

lw_status_t lwd_catalogue_check_lease(uint64_t client_id, uint64_t lease_us, lw_error_t *error)
{
    const bound_t bounds[] = {
        {"client_id", client_id, 1, UINT64_MAX},
        {"lease_us", lease_us, 1, LWD_LEASE_MAX_US},
    };
    return check_bounds(bounds, LW_ARRAY_SIZE(bounds), error);
}

lw_status_t lwd_catalogue_check_create(const lwd_create_t *create, lw_error_t *error)
{
    size_t tenant = create->tenant ? strlen(create->tenant) : 0;
    if (tenant == 0 || tenant >= sizeof(((lwd_session_row_t *)0)->tenant))
        return lw_fail(error, LW_ERR_INVALID, "tenant is %zu bytes long, must be 1 to 63", tenant);
    const bound_t ttl = {"ttl_us", create->ttl_us, 0, INT64_MAX / 4};
    lw_status_t status = check_bounds(&ttl, 1, error);
    if (status == LW_OK)
        status = lwd_catalogue_check_lease(create->client_id, create->lease_us, error);
    return status == LW_OK ? check_shape(&create->shape, error) : status;
}

lw_status_t lwd_catalogue_check_ranges(const lwd_session_shape_t *shape, uint16_t rank, uint32_t term,
                                       const lwd_range_t *ranges, uint32_t count, lw_error_t *error)
{
    const bound_t whole[] = {
        {"rank", rank, 0, shape->rank_count - 1},
        {"range count", count, 1, LW_RANGES_MAX},
    };
    lw_status_t status = check_bounds(whole, LW_ARRAY_SIZE(whole), error);
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        const bound_t bounds[] = {
            {"range's first_token", ranges[i].first_token, 0, LWD_TOKENS_MAX},
            {"range's token_count", ranges[i].token_count, 1, LWD_TOKENS_MAX},
            {"range's generation", ranges[i].generation, term, term},
            {"range's flags", ranges[i].flags, 0, LW_RANGE_RAW | LW_RANGE_MOMENTS},
            {"range's replicas", ranges[i].replicas, 1, LW_REPLICAS_MAX},
            {"range's bytes", ranges[i].bytes, 0, 1ull << 48},
        };
        status = check_bounds(bounds, LW_ARRAY_SIZE(bounds), error);
    }
    return status;
}

lw_status_t lwd_catalogue_check_members(const char *const *control, uint32_t count, lw_error_t *error)
{
    const bound_t nodes = {"number of nodes", count, 1, LW_NODES_MAX};
    lw_status_t status = check_bounds(&nodes, 1, error);
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        if (!control[i][0] || strlen(control[i]) >= LW_ADDRESS_MAX)
            status = lw_fail(error, LW_ERR_INVALID, "node %u has no usable address", i);
        for (uint32_t j = 0; j < i && status == LW_OK; j++)
            if (strcmp(control[i], control[j]) == 0)
                status = lw_fail(error, LW_ERR_INVALID, "node %s comes twice in the fleet", control[i]);
    }
    return status;
}

lw_status_t lwd_catalogue_check_node(uint16_t node_index, lw_error_t *error)
{
    const bound_t node = {"node index", node_index, 0, LW_NODES_MAX - 1};
    return check_bounds(&node, 1, error);
}

bool lwd_range_holds(const lwd_range_t *range, uint32_t layers, uint32_t layer, uint16_t node_index)
{
    for (uint32_t r = 0; r < range->replicas && layer < layers; r++)
        if (range->node_index[layer * range->replicas + r] == node_index)
            return true;
    return false;
}

lw_status_t lwd_range_move(lwd_range_t *range, uint32_t layers, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                           lw_error_t *error)
{
    char text[LW_SEGMENT_NAME_TEXT_BYTES];
    if (range->generation != name->generation || !lwd_range_holds(range, layers, name->layer, from))
        return lw_fail(error, LW_ERR_STALE, "segment %s is not on node %u", lw_segment_name_text(name, text), from);
    if (lwd_range_holds(range, layers, name->layer, to))
        return lw_fail(error, LW_ERR_STALE, "segment %s is on node %u already", lw_segment_name_text(name, text), to);
    uint16_t *node = &range->node_index[name->layer * range->replicas];
    while (*node != from)
        node++;
    *node = to;
    range->flags |= LW_RANGE_MOVED;
    return LW_OK;
}

bool lwd_session_may_move(lwd_session_state_t from, lwd_session_state_t to)
{
    static const uint8_t moves[LWD_SESSION_ENDED + 1] = {
        [LWD_SESSION_ACTIVE] = 1u << LWD_SESSION_IDLE | 1u << LWD_SESSION_RETAINED | 1u << LWD_SESSION_ENDED,
        [LWD_SESSION_IDLE] = 1u << LWD_SESSION_ACTIVE | 1u << LWD_SESSION_EVICTING | 1u << LWD_SESSION_RETAINED |
                             1u << LWD_SESSION_ENDED,
        [LWD_SESSION_EVICTING] = 1u << LWD_SESSION_ENDED,
        [LWD_SESSION_RETAINED] = 1u << LWD_SESSION_ENDED,
    };
    return from == to || (from >= LWD_SESSION_ACTIVE && from <= LWD_SESSION_ENDED && moves[from] >> to & 1u);
}

const char *lwd_session_state_text(lwd_session_state_t state)
{
    static const char *const texts[] = {"none", "active", "idle", "evicting", "retained", "ended"};
    return (unsigned)state < LW_ARRAY_SIZE(texts) ? texts[state] : "unknown";
}
