/* replica_rig.c - see replica_rig.h. */
#include "replica_rig.h"

#include <stdio.h>

#define FLEET 7u

static uint64_t rig_now(void *self)
{
    return ((rig_t *)self)->now_us;
}

/* ---- what is stored ---- */

static lw_segment_name_t name_of(uint32_t key)
{
    return (lw_segment_name_t){.origin = 1, .first_token = 1024 * key};
}

static uint8_t byte_of(uint32_t key, uint32_t entry, uint64_t at)
{
    return (uint8_t)(key * 31 + entry * 7 + at);
}

/* ---- a node ---- */

static void reply_sent(void *arg, lw_status_t status)
{
    free(arg);
}

/* A copy of the payload is borrowed by the fabric until it has been sent. */
static void send_reply(rig_node_t *node, lw_conn_t *conn, lw_msg_t *reply, uint64_t request_id, const void *payload,
                       uint64_t payload_bytes)
{
    uint8_t head[LW_MSG_HEAD_MAX];
    reply->header.fleet_id = FLEET;
    reply->header.request_id = request_id;
    void *copy = malloc(lw_max_u64(payload_bytes, 1));
    if (payload_bytes > 0)
        memcpy(copy, payload, payload_bytes);
    lw_iov_t piece = {copy, payload_bytes};
    uint32_t head_bytes = lw_msg_encode(reply, copy, lw_msg_list_bytes(reply), head);
    if (lw_fabric_sim()->send(conn, head, head_bytes, &piece, payload_bytes ? 1 : 0, LW_SEND_AUTO, reply_sent, copy) !=
        LW_OK)
        free(copy); /* the client has left */
}

static void answer_attach(rig_node_t *node, lw_conn_t *conn, const lw_msg_t *asked)
{
    lw_msg_attached_t rows[RIG_SEGMENTS];
    uint32_t count = asked->body.attach.name_count;
    assert_true(count <= RIG_SEGMENTS);
    memset(rows, 0, sizeof(rows));
    for (uint32_t i = 0; i < count; i++) {
        rows[i].handle = node->absent ? 0 : asked->names[i].first_token / 1024 + 1;
        rows[i].status = node->absent ? LW_ERR_NOT_FOUND : LW_OK;
    }
    lw_msg_t reply = {.header.type = LW_MSG_ATTACH_REPLY, .body.attach_reply.name_count = count};
    send_reply(node, conn, &reply, asked->header.request_id, rows, count * sizeof(rows[0]));
}

static void answer_fetch(rig_node_t *node, lw_conn_t *conn, const lw_msg_t *asked)
{
    static uint8_t payload[4u << 20];
    const lw_msg_fetch_t *fetch = &asked->body.fetch;
    lw_msg_t reply = {.header.type = LW_MSG_FETCH_REPLY};
    uint32_t list_bytes = 4 * (fetch->run_count + fetch->entry_count), want = 0;
    int32_t *status = (int32_t *)payload;
    uint32_t *checks = (uint32_t *)payload + fetch->run_count;
    uint64_t bulk_at = lw_wire_bulk_offset(list_bytes), at = bulk_at;
    memset(payload, 0, bulk_at);
    for (uint32_t run = 0; run < fetch->run_count; run++) {
        uint32_t key = (uint32_t)asked->runs[run].handle - 1, rows = asked->runs[run].head + 1u; /* head: rows less 1 */
        lw_segment_name_t name = name_of(key);
        status[run] = LW_OK;
        for (uint32_t i = 0; i < asked->runs[run].count; i++, want++) {
            uint64_t bytes = (uint64_t)rows * RIG_ROW_BYTES;
            uint32_t entry = asked->entries[want];
            assert_true(at + bytes <= sizeof(payload));
            for (uint64_t b = 0; b < bytes; b++)
                payload[at + b] = byte_of(key, entry, b);
            checks[want] = lw_record_check(lw_record_seed(&name, rows - 1, entry), payload + at, bytes);
            if (node->spoils)
                payload[at + bytes / 2] ^= 0x40;
            at += bytes;
        }
    }
    reply.body.fetch_reply = (lw_msg_fetch_reply_t){
        .run_count = fetch->run_count, .record_count = fetch->entry_count, .epoch = 1, .bulk_bytes = at - bulk_at};
    send_reply(node, conn, &reply, asked->header.request_id, payload, at);
}

static void answer_read(rig_node_t *node, lw_conn_t *conn, const lw_msg_t *asked)
{
    static uint8_t payload[4096];
    uint32_t key = (uint32_t)asked->body.read.handle - 1;
    for (uint32_t b = 0; b < sizeof(payload); b++)
        payload[b] = byte_of(key, 0, b);
    lw_msg_t reply = {.header.type = LW_MSG_READ_REPLY,
                      .body.read_reply = {.bytes = sizeof(payload), .segment_bytes = sizeof(payload), .epoch = 1}};
    node->reads++;
    send_reply(node, conn, &reply, asked->header.request_id, payload, sizeof(payload));
}

static void hold_fetch(rig_node_t *node, lw_conn_t *conn, const lw_msg_t *asked, const void *lists, size_t bytes)
{
    uint32_t i = 0;
    while (i < RIG_HELD && node->held[i].conn != NULL)
        i++;
    assert_true(i < RIG_HELD && bytes <= sizeof(node->held[i].lists));
    node->held[i].conn = conn;
    node->held[i].msg = *asked;
    node->held[i].due_us = node->rig->now_us + node->delay_us;
    node->held[i].bytes = bytes;
    memcpy(node->held[i].lists, lists, bytes);
}

static void answer_held(rig_node_t *node)
{
    for (uint32_t i = 0; i < RIG_HELD; i++) {
        rig_held_t *held = &node->held[i];
        lw_error_t error;
        if (held->conn == NULL || held->due_us > node->rig->now_us)
            continue;
        assert_int_equal(lw_msg_decode_lists(&held->msg, held->lists, held->bytes, &error), LW_OK);
        answer_fetch(node, held->conn, &held->msg);
        held->conn = NULL;
    }
}

typedef struct pending { /* a message whose lists come by rendezvous; one at a time for each node */
    rig_node_t *node;
    lw_conn_t *conn;
    lw_msg_t msg;
    size_t bytes;
    uint64_t lists[1024];
} pending_t;

static void with_lists(pending_t *pending)
{
    lw_error_t error;
    lw_msg_t *asked = &pending->msg;
    assert_int_equal(lw_msg_decode_lists(asked, pending->lists, pending->bytes, &error), LW_OK);
    if (asked->header.type == LW_MSG_FETCH) {
        pending->node->fetches++;
        hold_fetch(pending->node, pending->conn, asked, pending->lists, pending->bytes);
    } else {
        assert_int_equal(asked->header.type, LW_MSG_ATTACH);
        if (!pending->node->deaf_to_attach)
            answer_attach(pending->node, pending->conn, asked);
    }
}

static void lists_landed(void *arg, lw_status_t status)
{
    pending_t *pending = arg;
    if (status == LW_OK)
        with_lists(pending);
    free(pending);
}

static void node_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    rig_node_t *node = arg;
    lw_error_t error;
    lw_msg_t asked, reply = {0};
    assert_int_equal(lw_msg_decode_head(msg->head, msg->head_bytes, msg->data_bytes, &asked, &error), LW_OK);
    switch ((lw_msg_type_t)asked.header.type) {
    case LW_MSG_HELLO:
        reply.header.type = LW_MSG_HELLO_REPLY;
        reply.body.hello_reply = (lw_msg_hello_reply_t){.version = LW_WIRE_VERSION,
                                                        .fleet_id = FLEET,
                                                        .node_id = node->index + 1,
                                                        .attach_limit = 64,
                                                        .fetch_entry_limit = 64};
        send_reply(node, conn, &reply, asked.header.request_id, NULL, 0);
        return;
    case LW_MSG_PING:
        reply.header.type = LW_MSG_PING_REPLY;
        reply.body.ping_reply.sent_us = asked.body.ping.sent_us;
        send_reply(node, conn, &reply, asked.header.request_id, NULL, 0);
        return;
    case LW_MSG_CANCEL: node->cancels++; return;
    case LW_MSG_READ: answer_read(node, conn, &asked); return;
    default: break;
    }
    pending_t *pending = calloc(1, sizeof(*pending));
    *pending = (pending_t){.node = node, .conn = conn, .msg = asked, .bytes = msg->data_bytes};
    assert_true(msg->data_bytes <= sizeof(pending->lists));
    lw_fabric_sim()->recv(node->fabric, msg, pending->lists, NULL, lists_landed, pending);
}

static void node_accept(void *arg, lw_conn_t *conn) {}
static void node_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    rig_node_t *node = arg;
    for (uint32_t i = 0; i < RIG_HELD; i++)
        if (node->held[i].conn == conn)
            node->held[i].conn = NULL;
}

static void open_node(rig_t *rig, uint32_t index)
{
    rig_node_t *node = &rig->node[index];
    lw_error_t error;
    lw_fabric_params_t params = {.handler = {node_message, node_accept, node_closed, node}};
    char host[16];
    snprintf(host, sizeof(host), "node%u", index);
    node->rig = rig;
    node->index = index;
    lw_node_t *row = &rig->rows[index];
    *row = (lw_node_t){.id = index + 1, .index = (uint16_t)index, .incarnation = 1, .state = LW_NODE_UP, .weight = 1};
    snprintf(row->data, sizeof(row->data), "%s:1", host);
    lw_fabric_sim_use(rig->net, host);
    assert_int_equal(lw_fabric_sim()->open(&params, &node->fabric, &error), LW_OK);
    assert_int_equal(lw_fabric_sim()->listen(node->fabric, row->data, &error), LW_OK);
}

/* ---- the rig ---- */

void rig_open(rig_t *rig, uint64_t seed, uint64_t hedge_us, uint64_t landing_bytes)
{
    rig_open_refresh(rig, seed, hedge_us, landing_bytes, NULL);
}

lw_segment_name_t rig_name(uint32_t key)
{
    return name_of(key);
}

void rig_open_refresh(rig_t *rig, uint64_t seed, uint64_t hedge_us, uint64_t landing_bytes, lwc_refresh_t *refresh)
{
    lw_error_t error;
    static const uint16_t nodes[] = {0, 1};
    uint8_t token[LW_TOKEN_BYTES] = {1};
    memset(rig, 0, sizeof(*rig));
    rig->now_us = 1000000;
    rig->clock = (lw_clock_t){.now_us = rig_now, .unix_us = rig_now, .self = rig};
    rig->landing = aligned_alloc(64, landing_bytes);
    assert_int_equal(lw_sim_net_create(seed, &rig->net), LW_OK);
    for (uint32_t i = 0; i < RIG_NODES; i++)
        open_node(rig, i);
    rig->view = (lw_view_t){.epoch = 1, .fleet_id = FLEET, .node_count = RIG_NODES, .nodes = rig->rows};
    lwc_store_params_t params = {.fabric = lw_fabric_sim(),
                                 .clock = &rig->clock,
                                 .client_id = 1,
                                 .incarnation = 1,
                                 .segment_capacity = RIG_SEGMENTS,
                                 .session_capacity = RIG_SESSIONS,
                                 .wants_max = 4096,
                                 .puts_max = 1,
                                 .landing = rig->landing,
                                 .landing_bytes = landing_bytes,
                                 .hedge_us = hedge_us,
                                 .refresh = refresh};
    lw_fabric_sim_use(rig->net, "client");
    assert_int_equal(lwc_store_create(&params, &rig->store, &error), LW_OK);
    assert_int_equal(lwc_store_set_view(rig->store, &rig->view, &error), LW_OK);
    assert_int_equal(lwc_store_session(rig->store, 0, 1, token, false, 0), LW_OK);
    for (uint32_t key = 0; key < RIG_SEGMENTS; key++) {
        lw_segment_name_t name = name_of(key);
        assert_int_equal(lwc_store_segment(rig->store, key, 0, &name, RIG_ROW_BYTES, nodes, 2), LW_OK);
    }
}

void rig_close(rig_t *rig)
{
    lwc_store_t *store = rig->store;
    rig->store = NULL;
    lwc_store_destroy(store);
    for (uint32_t i = 0; i < RIG_NODES; i++)
        lw_fabric_sim()->close(rig->node[i].fabric);
    lw_sim_net_destroy(rig->net);
    free(rig->landing);
}

static void tick(rig_t *rig)
{
    rig->now_us += RIG_TICK_US;
    lw_sim_net_round(rig->net, rig->now_us);
    for (uint32_t i = 0; i < RIG_NODES; i++) {
        rig_node_t *node = &rig->node[i];
        if (node->stopped || node->killed)
            continue;
        lw_fabric_sim()->progress(node->fabric);
        answer_held(node);
    }
    lwc_store_round(rig->store, rig->now_us);
}

void rig_run_us(rig_t *rig, uint64_t us)
{
    for (uint64_t end_us = rig->now_us + us; rig->now_us < end_us;)
        tick(rig);
}

uint64_t rig_finish(rig_t *rig, uint64_t us)
{
    uint64_t begin_us = rig->now_us;
    while (lwc_store_wants_in_flight(rig->store) > 0 && rig->now_us - begin_us < us)
        tick(rig);
    assert_int_equal(lwc_store_wants_in_flight(rig->store), 0);
    return rig->now_us - begin_us;
}

void rig_warm_up(rig_t *rig)
{
    for (uint32_t ticks = 0; ticks < 1000; ticks++) {
        uint32_t attached = 0;
        for (uint32_t key = 0; key < RIG_SEGMENTS; key++)
            for (uint32_t r = 0; r < 2; r++) {
                uint64_t handle;
                bool absent;
                attached += lwc_segment_handle(rig->store, key, r, &handle, &absent) || absent;
            }
        if (attached == 2 * RIG_SEGMENTS)
            return;
        lwc_attach_flush(rig->store);
        tick(rig);
    }
    fail_msg("nodes 0 and 1 do not attach");
}

static void on_arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record)
{
    rig_t *rig = arg;
    assert_true(tag < rig->tags);
    assert_true(record != NULL || status != LW_OK);
    rig->answers[tag]++;
    rig->status[tag] = status;
    rig->record[tag] = record;
    rig->answered_us = rig->now_us;
}

uint32_t rig_fetch(rig_t *rig, uint32_t key, uint32_t count, uint32_t rows, uint64_t time_us)
{
    static lwc_want_t wants[1024];
    uint32_t first = rig->tags;
    assert_true(count <= LW_ARRAY_SIZE(wants) && first + count <= RIG_TAGS);
    for (uint32_t i = 0; i < count; i++) {
        wants[i] = (lwc_want_t){
            .segment = key, .head = (uint16_t)(rows - 1), .entry = (uint16_t)i, .rows = rows, .tag = first + i};
        rig->key[first + i] = key;
        rig->entry[first + i] = i;
    }
    rig->tags += count;
    assert_int_equal(lwc_store_fetch(rig->store, wants, count, rig->now_us + time_us, false, on_arrived, rig), LW_OK);
    return first;
}

void rig_check(const rig_t *rig, uint32_t first)
{
    for (uint32_t tag = 0; tag < rig->tags; tag++) {
        assert_int_equal(rig->answers[tag], 1);
        if (tag < first)
            continue;
        if (rig->status[tag] != LW_OK)
            fail_msg("tag %u: %s (%s)", tag, lw_status_text(rig->status[tag]), lwc_store_last_error(rig->store));
        for (uint32_t b = 0; b < RIG_ROW_BYTES; b++)
            assert_int_equal(rig->record[tag][b], byte_of(rig->key[tag], rig->entry[tag], b));
    }
}

lwc_store_stats_t rig_stats(const rig_t *rig)
{
    lwc_store_stats_t stats;
    lwc_store_stats(rig->store, &stats);
    return stats;
}
