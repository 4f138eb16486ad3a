/* client.c - one simulated client: writes sessions range by range through the product's store, reads back what was acknowledged,
 * forgets and drops, dies and comes back. It keeps the true bytes of everything, and is the checker of what it reads:
 *   - a record or segment that arrives has the right bytes, always;
 *   - what was acknowledged can be read while one of its nodes was not restarted and its session has not ended;
 *   - an operation ends once, and not after its deadline (plus a tick). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define LANDING_BYTES (256u << 10)
#define GRACE_US 20000ull
#define LONG_US 400000ull  /* a fetch with so much time gets its record while one copy is undisturbed */
#define CALM_US 2500000ull /* what happened longer ago than this has no effect any more */

lw_status_t sim_client_start(sim_client_t *client)
{
    sim_world_t *world = client->world;
    lw_error_t error = {0};
    char host[16];
    snprintf(host, sizeof(host), "client%u", client->index);
    client->client_id = 100 + client->index;
    client->incarnation++;
    client->tag = 1;
    client->landing = aligned_alloc(64, LANDING_BYTES);
    if (!client->landing)
        return LW_ERR_NO_MEMORY;
    lwc_store_params_t params = {.fabric = lw_fabric_sim(),
                                 .clock = &world->clock,
                                 .client_id = client->client_id,
                                 .incarnation = client->incarnation,
                                 .segment_capacity = SIM_SEGMENTS,
                                 .session_capacity = SIM_SESSIONS,
                                 .wants_max = 256,
                                 .puts_max = 8,
                                 .landing = client->landing,
                                 .landing_bytes = LANDING_BYTES,
                                 .hedge_us = LWC_HEDGE_AUTO};
    lw_fabric_sim_use(world->net, host);
    lw_status_t status = lwc_store_create(&params, &client->store, &error);
    if (status == LW_OK)
        status = lwc_store_set_view(client->store, &world->view, &error);
    if (status != LW_OK)
        fprintf(stderr, "sim: client %u: %s\n", client->index, error.text);
    client->started_us = world->now_us;
    client->up = status == LW_OK;
    return status;
}

void sim_client_stop(sim_client_t *client)
{
    client->up = false;
    lwc_store_destroy(client->store);
    client->store = NULL;
    free(client->landing);
    client->landing = NULL;
    for (uint32_t i = 0; i < SIM_SEGMENTS; i++) {
        free(client->segments[i].extent);
        free(client->segments[i].readback);
    }
    memset(client->segments, 0, sizeof(client->segments));
    memset(client->sessions, 0, sizeof(client->sessions)); /* the catalogue keeps them until their leases end */
    memset(client->fetches, 0, sizeof(client->fetches));
}

/* ---- what must hold ---- */

/* Must this segment be readable? Sessions of a live client have live leases, so nothing evicts them. */
static bool lively(const sim_client_t *client, const sim_segment_t *segment)
{
    bool held = false;
    for (uint32_t r = 0; r < segment->replicas; r++) {
        const sim_node_t *node = &client->world->nodes[segment->node[r]];
        held = held || (node->up && node->incarnation == segment->node_incarnation[r]);
    }
    return held && segment->acknowledged && client->sessions[segment->session].state == SIM_OPEN;
}

/* Statuses that a read of a live segment may end with: only time, and only while the net or a node is disturbed. */
static bool excused(const sim_client_t *client, lw_status_t status)
{
    return status == LW_ERR_TIMEOUT || status == LW_ERR_UNREACHABLE || status == LW_ERR_BUSY || status == LW_ERR_CANCELED ||
           (status == LW_ERR_CORRUPT && client->world->corrupts);
}

/* May a fetch end without its record? Not while one copy is where nothing has happened for long, and there was time to
 * turn to it. */
static bool patience_ends(const sim_client_t *client, const sim_segment_t *segment, const sim_fetch_t *fetch)
{
    const sim_world_t *world = client->world;
    if (world->lossy || world->corrupts || fetch->deadline_us - fetch->asked_us < LONG_US || client->started_us + CALM_US > fetch->asked_us)
        return true;
    for (uint32_t r = 0; r < segment->replicas; r++) {
        const sim_node_t *node = &world->nodes[segment->node[r]];
        if (node->up && node->incarnation == segment->node_incarnation[r] && node->disturbed_us + CALM_US < fetch->asked_us)
            return false;
    }
    return true;
}

/* ---- putting ---- */

/* A key is given to another segment only when nothing in flight names it. */
static bool being_fetched(const sim_client_t *client, uint32_t key)
{
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(client->fetches); i++)
        for (uint32_t w = 0; client->fetches[i].used && w < client->fetches[i].count; w++)
            if (client->fetches[i].want[w].segment == key && !client->fetches[i].want[w].answered)
                return true;
    return false;
}

static void forget_segment(sim_client_t *client, uint32_t key)
{
    sim_segment_t *segment = &client->segments[key];
    if (segment->putting || segment->reading || being_fetched(client, key))
        return;
    if (segment->known)
        lwc_store_segment_forget(client->store, key);
    free(segment->extent);
    free(segment->readback);
    memset(segment, 0, sizeof(*segment));
}

typedef struct {
    sim_client_t *client;
    uint32_t key;
} segment_arg_t;
static segment_arg_t segment_args[SIM_CLIENTS][SIM_SEGMENTS];

static void *arg_of(sim_client_t *client, uint32_t key)
{
    segment_arg_t *arg = &segment_args[client->index][key];
    *arg = (segment_arg_t){client, key};
    return arg;
}

static void on_deadline(sim_client_t *client, uint64_t deadline_us, const char *what)
{
    sim_world_t *world = client->world;
    if (client->up && world->now_us > deadline_us + GRACE_US)
        sim_violation(world, "client %u: a %s ended %llu us after its deadline", client->index, what,
                      (unsigned long long)(world->now_us - deadline_us));
}

static void put_done(void *arg, lw_status_t status)
{
    segment_arg_t *a = arg;
    sim_segment_t *segment = &a->client->segments[a->key];
    sim_session_t *session = &a->client->sessions[segment->session];
    if (!segment->putting)
        sim_violation(a->client->world, "client %u: a put ended twice", a->client->index);
    on_deadline(a->client, segment->deadline_us, "put");
    segment->putting = false;
    segment->put_status = status;
    session->segments_pending--;
    a->client->world->stats.puts++;
    a->client->world->stats.puts_failed += status != LW_OK;
    if (status != LW_OK)
        sim_trace(a->client->world, "client %u: put of segment %u: %s: %s", a->client->index, a->key, lw_status_text(status),
                  a->client->up ? lwc_store_last_error(a->client->store) : "");
}

static uint32_t free_segment(const sim_client_t *client)
{
    uint32_t key = 0;
    while (key < SIM_SEGMENTS && client->segments[key].used)
        key++;
    return key;
}

static bool start_put(sim_client_t *client, uint32_t s, uint32_t layer)
{
    sim_world_t *world = client->world;
    sim_session_t *session = &client->sessions[s];
    uint32_t key = free_segment(client), position[SIM_REPLICAS], replicas = session->row.shape.replicas;
    if (key == SIM_SEGMENTS)
        return false;
    sim_segment_t *segment = &client->segments[key];
    lw_segment_name_t name = {.origin = session->row.session_id, .layer = (uint16_t)layer, .first_token = session->next_token,
                              .generation = session->row.term};
    if (lw_place(&world->view, &name, replicas, position) < replicas)
        return false;
    memset(segment, 0, sizeof(*segment));
    segment->name = name;
    segment->session = s;
    segment->replicas = replicas;
    for (uint32_t r = 0; r < replicas; r++) {
        segment->node[r] = world->view.nodes[position[r]].index;
        segment->node_incarnation[r] = world->nodes[segment->node[r]].incarnation;
    }
    segment->extent = sim_content_make(world, &name, &segment->bytes);
    segment->deadline_us = world->now_us + 500000 + sim_below(world, 3000000);
    uint64_t deadline = segment->deadline_us;
    if (!segment->extent || lwc_store_put(client->store, s, segment->extent, segment->bytes, segment->node, replicas, deadline,
                                          put_done, arg_of(client, key)) != LW_OK) {
        free(segment->extent);
        segment->extent = NULL;
        return false;
    }
    segment->used = segment->putting = true;
    session->segments_pending++;
    return true;
}

static void start_range(sim_client_t *client, uint32_t s)
{
    sim_session_t *session = &client->sessions[s];
    session->range_open = true;
    for (uint32_t layer = 0; layer < SIM_LAYERS; layer++)
        if (!start_put(client, s, layer))
            return; /* the range then has too few segments, and is given up */
}

/* All puts of the open range have ended: commit it, or give it up. */
static void end_range(sim_client_t *client, uint32_t s)
{
    sim_world_t *world = client->world;
    sim_session_t *session = &client->sessions[s];
    lwd_range_t range = {.first_token = session->next_token, .token_count = 1024, .generation = session->row.term,
                         .replicas = session->row.shape.replicas};
    uint32_t keys[SIM_LAYERS], found = 0;
    bool good = true;
    for (uint32_t key = 0; key < SIM_SEGMENTS; key++) {
        sim_segment_t *segment = &client->segments[key];
        if (!segment->used || segment->session != s || segment->name.first_token != session->next_token ||
            segment->acknowledged || segment->name.origin != session->row.session_id)
            continue;
        good = good && segment->put_status == LW_OK && segment->name.generation == session->row.term;
        if (found < SIM_LAYERS) {
            memcpy(&range.node_index[segment->name.layer * range.replicas], segment->node,
                   range.replicas * sizeof(*segment->node));
            keys[found] = key;
        }
        range.bytes += segment->bytes;
        found++;
    }
    session->range_open = false;
    lw_error_t error = {0};
    lw_status_t status = LW_ERR_CANCELED;
    if (good && found == SIM_LAYERS)
        status = world->catalogue_ops->commit(world->catalogue, session->row.session_id, 0, session->row.term, &range, 1,
                                              world->now_us, &error);
    if (status == LW_OK) {
        world->stats.commits++;
        for (uint32_t i = 0; i < SIM_LAYERS; i++)
            client->segments[keys[i]].acknowledged = true;
        session->next_token += range.token_count;
        return;
    }
    sim_trace(world, "client %u: session %llu: range at %u given up: %s", client->index,
              (unsigned long long)session->row.session_id, session->next_token, error.text);
    for (uint32_t key = 0; key < SIM_SEGMENTS; key++)
        if (client->segments[key].used && client->segments[key].session == s && !client->segments[key].acknowledged)
            forget_segment(client, key);
    /* A name is not used twice with other contents: the next try has a new term. */
    status = world->catalogue_ops->open_session(world->catalogue, "sim", session->row.session_id, true, client->client_id,
                                                client->incarnation, SIM_LEASE_US, world->now_us, &session->row, &error);
    if (status == LW_OK)
        status = lwc_store_session(client->store, s, session->row.session_id, session->row.token, true, session->row.term);
    if (status != LW_OK)
        session->state = SIM_OVER;
}

/* ---- sessions ---- */

static void open_session(sim_client_t *client, uint32_t s)
{
    sim_world_t *world = client->world;
    sim_session_t *session = &client->sessions[s];
    lwd_create_t create = {.tenant = "sim",
                           .shape = {.model_id = "sim", .layer_count = SIM_LAYERS, .kv_head_count = SIM_HEADS,
                                     .query_head_count = SIM_HEADS, .head_dim = SIM_DIM, .dtype = LW_DTYPE_BF16,
                                     .rank_count = 1, .segment_tokens = 1024, .replicas = world->replicas,
                                     .cluster_encoding = LW_ENCODING_INT8, .outlier_encoding = LW_ENCODING_INT4,
                                     .cluster_tokens = 16},
                           .client_id = client->client_id,
                           .incarnation = client->incarnation,
                           .lease_us = SIM_LEASE_US};
    lw_error_t error = {0};
    memset(session, 0, sizeof(*session));
    lw_status_t status = world->catalogue_ops->create(world->catalogue, &create, world->now_us, &session->row, &error);
    if (status == LW_OK)
        status = lwc_store_session(client->store, s, session->row.session_id, session->row.token, true, session->row.term);
    if (status == LW_OK)
        session->state = SIM_OPEN;
    else
        sim_trace(world, "client %u: create: %s", client->index, error.text);
}

static void drop_session(sim_client_t *client, uint32_t s)
{
    sim_world_t *world = client->world;
    sim_session_t *session = &client->sessions[s];
    lw_error_t error = {0};
    session->state = SIM_OVER;
    world->stats.drops++;
    if (world->catalogue_ops->drop(world->catalogue, "sim", session->row.session_id, world->now_us, &error) != LW_OK)
        sim_trace(world, "client %u: drop: %s", client->index, error.text);
}

/* An ended session is still read for a while: with handles of freed segments, which must never give data of others. */
static void bury_session(sim_client_t *client, uint32_t s)
{
    bool empty = true;
    for (uint32_t key = 0; key < SIM_SEGMENTS; key++) {
        if (!client->segments[key].used || client->segments[key].session != s)
            continue;
        forget_segment(client, key);
        empty = empty && !client->segments[key].used;
    }
    if (empty && client->sessions[s].segments_pending == 0)
        client->sessions[s].state = SIM_NONE;
}

/* ---- reading ---- */

/* Follows the manifest: where a copy has moved, the store is told. False while something is in flight that names the old
 * place, which serves for a lease. */
static bool refresh(sim_client_t *client, uint32_t key)
{
    sim_world_t *world = client->world;
    sim_segment_t *segment = &client->segments[key];
    lwd_range_t range;
    uint32_t count = 0;
    if (!world->moves || client->sessions[segment->session].state != SIM_OPEN ||
        world->catalogue_ops->ranges(world->catalogue, segment->name.origin, 0, segment->name.first_token, 1, &range, &count,
                                     NULL) != LW_OK || count == 0 || range.first_token != segment->name.first_token)
        return true;
    const uint16_t *nodes = &range.node_index[segment->name.layer * range.replicas];
    bool same = memcmp(nodes, segment->node, segment->replicas * sizeof(*nodes)) == 0;
    if (!same && (segment->reading || being_fetched(client, key)))
        return false;
    if (!same && segment->known)
        lwc_store_segment_forget(client->store, key);
    segment->known = segment->known && same;
    for (uint32_t r = 0; r < segment->replicas; r++) {
        const sim_node_t *node = &world->nodes[nodes[r]];
        segment->node[r] = nodes[r];
        if (sim_node_holds(node, &segment->name)) /* it may have been made again there */
            segment->node_incarnation[r] = node->incarnation;
    }
    return true;
}

static bool known(sim_client_t *client, uint32_t key)
{
    sim_segment_t *segment = &client->segments[key];
    if (!segment->known)
        segment->known = lwc_store_segment(client->store, key, segment->session, &segment->name,
                                           (uint32_t)lw_row_pair_bytes(LW_DTYPE_BF16, SIM_DIM), segment->node,
                                           segment->replicas) == LW_OK;
    return segment->known;
}

static void end_fetches(sim_client_t *client)
{
    uint64_t until = client->tag;
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(client->fetches); i++)
        if (client->fetches[i].used)
            until = lw_min_u64(until, client->fetches[i].tag_first);
    lwc_store_release(client->store, until);
}

static void arrived(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record)
{
    sim_client_t *client = arg;
    sim_world_t *world = client->world;
    sim_fetch_t *fetch = NULL;
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(client->fetches); i++)
        if (client->fetches[i].used && tag - client->fetches[i].tag_first < client->fetches[i].count)
            fetch = &client->fetches[i];
    if (!fetch || fetch->want[tag - fetch->tag_first].answered) {
        sim_violation(world, "client %u: record with tag %llu arrived twice, or was never asked for", client->index,
                      (unsigned long long)tag);
        return;
    }
    uint32_t i = (uint32_t)(tag - fetch->tag_first), key = fetch->want[i].segment;
    const sim_segment_t *segment = &client->segments[key];
    const uint8_t *truth = NULL;
    on_deadline(client, fetch->deadline_us, "fetch");
    fetch->want[i].answered = true;
    world->stats.records++;
    world->stats.records_failed += status != LW_OK;
    if (status == LW_OK && segment->used) {
        uint32_t rows = sim_content_record(segment->extent, fetch->want[i].head, fetch->want[i].entry, &truth);
        if (memcmp(truth, record, rows * lw_row_pair_bytes(LW_DTYPE_BF16, SIM_DIM)) != 0)
            sim_violation(world, "client %u: segment %u head %u entry %u: fetched bytes are wrong", client->index, key,
                          fetch->want[i].head, fetch->want[i].entry);
    } else if (status == LW_ERR_CORRUPT && !world->corrupts) {
        sim_violation(world, "client %u: segment %u head %u entry %u: CORRUPT although the net corrupts nothing",
                      client->index, key, fetch->want[i].head, fetch->want[i].entry);
    } else if (status != LW_OK && fetch->want[i].lively && lively(client, segment) && !excused(client, status)) {
        sim_violation(world, "client %u: acknowledged segment %u is lost: %s (%s)", client->index, key,
                      lw_status_text(status), lwc_store_last_error(client->store));
    } else if (status != LW_OK && status != LW_ERR_CANCELED && fetch->want[i].lively && lively(client, segment) &&
               !patience_ends(client, segment, fetch)) {
        sim_violation(world, "client %u: segment %u not fetched in %llu us though a copy was undisturbed: %s (%s)",
                      client->index, key, (unsigned long long)(world->now_us - fetch->asked_us), lw_status_text(status),
                      lwc_store_last_error(client->store));
    }
    if (--fetch->left == 0)
        fetch->used = false;
}

static void start_fetch(sim_client_t *client)
{
    sim_world_t *world = client->world;
    sim_fetch_t *fetch = NULL;
    lwc_want_t wants[16];
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(client->fetches) && !fetch; i++)
        if (!client->fetches[i].used)
            fetch = &client->fetches[i];
    if (!fetch)
        return;
    memset(fetch, 0, sizeof(*fetch));
    for (uint32_t tries = 0; tries < 12; tries++) {
        uint32_t key = (uint32_t)sim_below(world, SIM_SEGMENTS);
        const sim_segment_t *segment = &client->segments[key];
        if (!segment->used || segment->putting || segment->put_status != LW_OK || !segment->acknowledged ||
            !refresh(client, key) || !known(client, key))
            continue;
        uint32_t i = fetch->count++, head = (uint32_t)sim_below(world, SIM_HEADS);
        const uint8_t *bytes;
        fetch->want[i].segment = key;
        fetch->want[i].head = (uint16_t)head;
        fetch->want[i].entry = (uint16_t)sim_below(world, sim_content_entries(segment->extent, head));
        fetch->want[i].rows = sim_content_record(segment->extent, head, fetch->want[i].entry, &bytes);
        fetch->want[i].lively = lively(client, segment);
        wants[i] = (lwc_want_t){.segment = key, .head = (uint16_t)head, .entry = fetch->want[i].entry,
                                .rows = fetch->want[i].rows, .tag = client->tag + i};
    }
    if (fetch->count == 0)
        return;
    fetch->used = true;
    fetch->left = fetch->count;
    fetch->tag_first = client->tag;
    fetch->asked_us = world->now_us;
    fetch->deadline_us = world->now_us + 100000 + sim_below(world, 2000000);
    client->tag += fetch->count;
    lw_status_t status = lwc_store_fetch(client->store, wants, fetch->count, fetch->deadline_us, false, arrived, client);
    if (status != LW_OK)
        fetch->used = false;
    world->stats.fetches++;
}

static void read_done(void *arg, lw_status_t status)
{
    segment_arg_t *a = arg;
    sim_client_t *client = a->client;
    sim_segment_t *segment = &client->segments[a->key];
    segment->reading = false;
    client->world->stats.reads++;
    on_deadline(client, segment->deadline_us, "read");
    if (status == LW_OK && !client->world->corrupts &&
        (segment->readback_bytes != segment->bytes || memcmp(segment->readback, segment->extent, segment->bytes) != 0))
        sim_violation(client->world, "client %u: segment %u reads back wrong (%llu bytes of %llu)", client->index, a->key,
                      (unsigned long long)segment->readback_bytes, (unsigned long long)segment->bytes);
    if (status != LW_OK && lively(client, segment) && !excused(client, status))
        sim_violation(client->world, "client %u: acknowledged segment %u cannot be read: %s", client->index, a->key,
                      lw_status_text(status));
    free(segment->readback);
    segment->readback = NULL;
}

static void start_read(sim_client_t *client)
{
    sim_world_t *world = client->world;
    uint32_t key = (uint32_t)sim_below(world, SIM_SEGMENTS);
    sim_segment_t *segment = &client->segments[key];
    if (!segment->used || segment->putting || segment->reading || !segment->acknowledged || !refresh(client, key) ||
        !known(client, key))
        return;
    segment->readback = malloc(segment->bytes);
    segment->deadline_us = world->now_us + 100000 + sim_below(world, 2000000);
    segment->reading = segment->readback != NULL;
    if (segment->reading &&
        lwc_store_read(client->store, key, 0, 0, segment->readback, segment->bytes, &segment->readback_bytes,
                       segment->deadline_us, read_done, arg_of(client, key)) != LW_OK)
        segment->reading = false;
}

/* ---- the round ---- */

static void session_round(sim_client_t *client, uint32_t s)
{
    sim_world_t *world = client->world;
    sim_session_t *session = &client->sessions[s];
    bool ending = world->now_us >= world->end_us;
    switch (session->state) {
    case SIM_NONE:
        if (!ending && sim_chance(world, 0.002))
            open_session(client, s);
        break;
    case SIM_OPEN:
        if (session->range_open && session->segments_pending == 0)
            end_range(client, s);
        else if (!session->range_open && !ending && session->next_token < 6 * 1024 && sim_chance(world, 0.004))
            start_range(client, s);
        else if (!session->range_open && sim_chance(world, 0.0005))
            drop_session(client, s);
        break;
    case SIM_OVER:
        if (ending || sim_chance(world, 0.001))
            bury_session(client, s);
        break;
    }
}

void sim_client_round(sim_client_t *client)
{
    sim_world_t *world = client->world;
    if (world->now_us >= client->renew_us) {
        uint32_t renewed;
        lw_error_t error = {0};
        client->renew_us = world->now_us + SIM_LEASE_US / 3;
        if (world->catalogue_ops->renew(world->catalogue, client->client_id, client->incarnation, SIM_LEASE_US, world->now_us,
                                        &renewed, &error) != LW_OK)
            sim_violation(world, "client %u: renew: %s", client->index, error.text);
    }
    for (uint32_t s = 0; s < SIM_SESSIONS; s++)
        session_round(client, s);
    if (world->now_us < world->end_us) {
        if (sim_chance(world, 0.02))
            start_fetch(client);
        if (sim_chance(world, 0.003))
            start_read(client);
    }
    lwc_store_round(client->store, world->now_us);
    end_fetches(client);
}

void sim_client_drop_all(sim_client_t *client)
{
    for (uint32_t s = 0; s < SIM_SESSIONS; s++)
        if (client->sessions[s].state == SIM_OPEN && !client->sessions[s].range_open)
            drop_session(client, s);
}

bool sim_client_idle(const sim_client_t *client)
{
    for (uint32_t s = 0; s < SIM_SESSIONS; s++)
        if (client->sessions[s].state != SIM_NONE)
            return false;
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(client->fetches); i++)
        if (client->fetches[i].used)
            return false;
    return true;
}
