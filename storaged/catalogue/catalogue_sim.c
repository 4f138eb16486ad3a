/* catalogue_sim.c - the catalogue in memory: deterministic, no disk, written for being obviously right. The simulator and
 * the tests use it, and the conformance test holds it against SQLite operation by operation. */
#include "storaged/catalogue/catalogue_private.h"

#include <stdlib.h>

#include "base/prng.h"

typedef struct sim_ranges {
    lwd_range_t *rows; /* own ranges of one rank, ascending */
    uint32_t count, capacity;
} sim_ranges_t;

typedef struct sim_reader {
    uint64_t client_id, until_us;
} sim_reader_t;

typedef struct sim_session {
    lwd_session_row_t row;
    sim_ranges_t ranks[LWD_RANKS_MAX];
    sim_reader_t *readers;
    uint32_t reader_count;
    uint32_t kept;         /* RETAINED: tokens kept for children */
    uint64_t ended_serial; /* ENDED: its last ending */
} sim_session_t;

typedef struct sim_client {
    uint64_t id, incarnation, seen_us;
} sim_client_t;

struct lwd_catalogue {
    lw_prng_t prng;
    uint64_t next_id, next_serial, fleet_id, epoch;
    sim_session_t **sessions; /* ascending by id */
    uint32_t session_count;
    sim_client_t *clients;
    uint32_t client_count;
    lwd_ended_t *ended;
    uint32_t ended_count;
    char (*members)[LW_ADDRESS_MAX];
    uint32_t member_count;
    bool drain[LW_NODES_MAX];
};

/* Tests are its only users: out of memory is a mistake of theirs. */
static void *sim_grow(void *rows, size_t count, size_t row_bytes)
{
    void *grown = realloc(rows, (count + 1) * row_bytes);
    LW_ASSERT(grown != NULL);
    return grown;
}

static lw_status_t sim_open(const char *where, lwd_catalogue_t **out, lw_error_t *error)
{
    (void)where;
    lwd_catalogue_t *cat = calloc(1, sizeof(*cat));
    if (!cat)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a catalogue");
    lw_prng_seed(&cat->prng, 1);
    cat->next_id = 1;
    cat->next_serial = 1;
    cat->fleet_id = lw_prng_u64(&cat->prng) | 1;
    *out = cat;
    return LW_OK;
}

static void sim_session_free(sim_session_t *session)
{
    for (uint32_t r = 0; r < LWD_RANKS_MAX; r++)
        free(session->ranks[r].rows);
    free(session->readers);
    free(session);
}

static void sim_close(lwd_catalogue_t *cat)
{
    if (!cat)
        return;
    for (uint32_t i = 0; i < cat->session_count; i++)
        sim_session_free(cat->sessions[i]);
    free(cat->sessions);
    free(cat->clients);
    free(cat->ended);
    free(cat->members);
    free(cat);
}

static sim_session_t *sim_find(lwd_catalogue_t *cat, uint64_t id)
{
    for (uint32_t i = 0; i < cat->session_count; i++)
        if (cat->sessions[i]->row.session_id == id)
            return cat->sessions[i];
    return NULL;
}

/* A session that can be opened, read or forked. tenant NULL: any. */
static sim_session_t *sim_find_open(lwd_catalogue_t *cat, const char *tenant, uint64_t id)
{
    sim_session_t *session = sim_find(cat, id);
    if (!session || !lwd_session_open(&session->row) || (tenant && strcmp(tenant, session->row.tenant) != 0))
        return NULL;
    return session;
}

static lw_status_t sim_no_session(lw_error_t *error, uint64_t id)
{
    return lw_fail(error, LW_ERR_NOT_FOUND, "session %llu: no such session", (unsigned long long)id);
}

static void sim_set_state(sim_session_t *session, lwd_session_state_t state)
{
    LW_ASSERT(lwd_session_may_move(session->row.state, state));
    session->row.state = state;
    if (state != LWD_SESSION_ACTIVE) {
        session->row.lease_client = 0;
        session->row.lease_incarnation = 0;
        session->row.lease_until_us = 0;
    }
}

static void sim_row(const sim_session_t *session, lwd_session_row_t *out)
{
    *out = session->row;
    out->readers = session->reader_count;
}

/* ---- clients ---- */

static sim_client_t *sim_client(lwd_catalogue_t *cat, uint64_t id)
{
    for (uint32_t i = 0; i < cat->client_count; i++)
        if (cat->clients[i].id == id)
            return &cat->clients[i];
    return NULL;
}

static lw_status_t sim_client_check(lwd_catalogue_t *cat, uint64_t id, uint64_t incarnation, lw_error_t *error)
{
    const sim_client_t *client = sim_client(cat, id);
    if (client && client->incarnation > incarnation)
        return lw_fail(error, LW_ERR_STALE, "client %llx: incarnation %llu was superseded by %llu", (unsigned long long)id,
                       (unsigned long long)incarnation, (unsigned long long)client->incarnation);
    return LW_OK;
}

static void sim_reader_drop(sim_session_t *session, uint64_t client_id)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < session->reader_count; i++)
        if (session->readers[i].client_id != client_id)
            session->readers[kept++] = session->readers[i];
    session->reader_count = kept;
}

static void sim_client_touch(lwd_catalogue_t *cat, uint64_t id, uint64_t incarnation, uint64_t now)
{
    sim_client_t *client = sim_client(cat, id);
    if (!client) {
        cat->clients = sim_grow(cat->clients, cat->client_count, sizeof(*cat->clients));
        client = &cat->clients[cat->client_count++];
        *client = (sim_client_t){.id = id, .incarnation = incarnation};
    }
    client->seen_us = now;
    if (client->incarnation == incarnation)
        return;
    client->incarnation = incarnation;
    for (uint32_t i = 0; i < cat->session_count; i++) {
        sim_session_t *session = cat->sessions[i];
        if (session->row.state == LWD_SESSION_ACTIVE && session->row.lease_client == id)
            sim_set_state(session, LWD_SESSION_IDLE);
        sim_reader_drop(session, id);
    }
}

/* ---- manifests ---- */

/* Where rank's manifest ends. */
static uint32_t sim_rank_end(const sim_session_t *session, uint32_t rank)
{
    const sim_ranges_t *ranges = &session->ranks[rank];
    return ranges->count ? lwd_range_end(&ranges->rows[ranges->count - 1]) : session->row.cut_tokens;
}

static void sim_count_tokens(sim_session_t *session)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t r = 0; r < session->row.shape.rank_count; r++)
        if (sim_rank_end(session, r) < least)
            least = sim_rank_end(session, r);
    session->row.token_count = least;
}

static uint64_t sim_charge(const lwd_range_t *range)
{
    return range->bytes * range->replicas;
}

static sim_session_t *sim_parent(lwd_catalogue_t *cat, const sim_session_t *session)
{
    return session->row.parent_id && session->row.cut_tokens ? sim_find(cat, session->row.parent_id) : NULL;
}

/* Does a range that is not raw end at `token` in this rank of the merged manifest? */
static bool sim_is_boundary(lwd_catalogue_t *cat, const sim_session_t *session, uint32_t rank, uint32_t token)
{
    if (token == session->row.cut_tokens)
        return true;
    if (token < session->row.cut_tokens) {
        const sim_session_t *parent = sim_parent(cat, session);
        return parent && sim_is_boundary(cat, parent, rank, token);
    }
    const sim_ranges_t *own = &session->ranks[rank];
    for (uint32_t i = 0; i < own->count; i++)
        if (lwd_range_end(&own->rows[i]) == token && !(own->rows[i].flags & LW_RANGE_RAW))
            return true;
    return false;
}

/* Largest end <= limit that is a boundary in every rank. */
static uint32_t sim_cut(lwd_catalogue_t *cat, const sim_session_t *session, uint32_t limit)
{
    uint32_t best = 0;
    for (const sim_session_t *at = session; at; at = sim_parent(cat, at)) {
        const sim_ranges_t *own = &at->ranks[0];
        for (uint32_t i = 0; i < own->count; i++) {
            uint32_t end = lwd_range_end(&own->rows[i]);
            bool all = end <= limit && end > best;
            for (uint32_t r = 0; r < session->row.shape.rank_count && all; r++)
                all = sim_is_boundary(cat, session, r, end);
            if (all)
                best = end;
        }
    }
    return best;
}

/* ---- endings ---- */

static uint64_t sim_log_ending(lwd_catalogue_t *cat, uint64_t origin, uint16_t rank, uint32_t from, uint32_t generation)
{
    cat->ended = sim_grow(cat->ended, cat->ended_count, sizeof(*cat->ended));
    cat->ended[cat->ended_count++] = (lwd_ended_t){.serial = cat->next_serial, .origin = origin, .rank = rank,
                                                   .from_token = from, .generation_max = generation};
    return cat->next_serial++;
}

/* Largest cut of the children that are not over; 0: nobody needs this session. */
static uint32_t sim_needed(lwd_catalogue_t *cat, uint64_t id)
{
    uint32_t needed = 0;
    for (uint32_t i = 0; i < cat->session_count; i++) {
        const lwd_session_row_t *row = &cat->sessions[i]->row;
        if (row->parent_id == id && row->state != LWD_SESSION_ENDED && row->cut_tokens > needed)
            needed = row->cut_tokens;
    }
    return needed;
}

/* Takes away own ranges that end after `keep`; returns the bytes freed. */
static uint64_t sim_cut_off(sim_session_t *session, uint32_t keep)
{
    uint64_t freed = 0;
    for (uint32_t r = 0; r < session->row.shape.rank_count; r++) {
        sim_ranges_t *own = &session->ranks[r];
        while (own->count && lwd_range_end(&own->rows[own->count - 1]) > keep)
            freed += sim_charge(&own->rows[--own->count]);
    }
    session->row.bytes -= freed;
    sim_count_tokens(session);
    return freed;
}

/* Drops what nobody needs of a session that has no owner any more, and goes on to its parent when it is over. */
static uint64_t sim_end(lwd_catalogue_t *cat, sim_session_t *session)
{
    uint32_t needed = sim_needed(cat, session->row.session_id);
    bool retained = session->row.state == LWD_SESSION_RETAINED;
    if (retained && needed == session->kept)
        return 0;
    uint64_t freed = sim_cut_off(session, needed);
    uint64_t serial = sim_log_ending(cat, session->row.session_id, LWD_RANK_ALL, needed, UINT32_MAX);
    session->kept = needed;
    session->reader_count = 0;
    session->row.pinned = false;
    sim_set_state(session, needed ? LWD_SESSION_RETAINED : LWD_SESSION_ENDED);
    if (needed)
        return freed;
    session->ended_serial = serial;
    sim_session_t *parent = sim_parent(cat, session);
    if (parent && parent->row.state == LWD_SESSION_RETAINED)
        freed += sim_end(cat, parent);
    return freed;
}

/* ---- the table ---- */

static sim_session_t *sim_add(lwd_catalogue_t *cat, const lwd_session_shape_t *shape, const char *tenant,
                              uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now)
{
    sim_client_touch(cat, client_id, incarnation, now);
    sim_session_t *session = calloc(1, sizeof(*session));
    LW_ASSERT(session != NULL);
    lwd_session_row_t *row = &session->row;
    row->session_id = cat->next_id++;
    strncpy(row->tenant, tenant, sizeof(row->tenant) - 1);
    row->shape = *shape;
    row->state = LWD_SESSION_ACTIVE;
    row->term = 1;
    row->lease_client = client_id;
    row->lease_incarnation = incarnation;
    row->lease_until_us = now + lease_us;
    row->created_us = row->used_us = now;
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        row->token[i] = (uint8_t)lw_prng_u64(&cat->prng);
    cat->sessions = sim_grow(cat->sessions, cat->session_count, sizeof(*cat->sessions));
    cat->sessions[cat->session_count++] = session;
    return session;
}

static lw_status_t sim_create(lwd_catalogue_t *cat, const lwd_create_t *create, uint64_t now, lwd_session_row_t *row_out,
                              lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_create(create, error);
    if (status == LW_OK)
        status = sim_client_check(cat, create->client_id, create->incarnation, error);
    if (status != LW_OK)
        return status;
    sim_session_t *session = sim_add(cat, &create->shape, create->tenant, create->client_id, create->incarnation,
                                     create->lease_us, now);
    session->row.ttl_us = create->ttl_us;
    sim_row(session, row_out);
    return LW_OK;
}

static lw_status_t sim_open_session(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool write,
                                    uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                                    lwd_session_row_t *row_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = sim_client_check(cat, client_id, incarnation, error);
    if (status != LW_OK)
        return status;
    sim_session_t *session = sim_find_open(cat, tenant, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    if (write && lwd_session_live(&session->row, now) && session->row.lease_client != client_id)
        return lw_fail(error, LW_ERR_BUSY, "session %llu: client %llx writes it", (unsigned long long)session_id,
                       (unsigned long long)session->row.lease_client);
    sim_client_touch(cat, client_id, incarnation, now);
    session->row.used_us = now;
    if (write) {
        session->row.term++;
        sim_set_state(session, LWD_SESSION_ACTIVE);
        session->row.lease_client = client_id;
        session->row.lease_incarnation = incarnation;
        session->row.lease_until_us = now + lease_us;
    } else {
        sim_reader_drop(session, client_id);
        session->readers = sim_grow(session->readers, session->reader_count, sizeof(*session->readers));
        session->readers[session->reader_count++] = (sim_reader_t){client_id, now + lease_us};
    }
    sim_row(session, row_out);
    return LW_OK;
}

static lw_status_t sim_renew(lwd_catalogue_t *cat, uint64_t client_id, uint64_t incarnation, uint64_t lease_us,
                             uint64_t now, uint32_t *renewed_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = sim_client_check(cat, client_id, incarnation, error);
    if (status != LW_OK)
        return status;
    sim_client_touch(cat, client_id, incarnation, now);
    uint32_t renewed = 0;
    for (uint32_t i = 0; i < cat->session_count; i++) {
        sim_session_t *session = cat->sessions[i];
        uint32_t before = renewed;
        if (lwd_session_live(&session->row, now) && session->row.lease_client == client_id) {
            session->row.lease_until_us = now + lease_us;
            renewed++;
        }
        for (uint32_t r = 0; r < session->reader_count; r++)
            if (session->readers[r].client_id == client_id && session->readers[r].until_us > now) {
                session->readers[r].until_us = now + lease_us;
                renewed++;
            }
        if (renewed > before)
            session->row.used_us = now;
    }
    *renewed_out = renewed;
    return LW_OK;
}

static lw_status_t sim_release(lwd_catalogue_t *cat, uint64_t session_id, uint64_t client_id, uint64_t incarnation,
                               uint64_t now, lw_error_t *error)
{
    lw_status_t status = sim_client_check(cat, client_id, incarnation, error);
    if (status != LW_OK)
        return status;
    sim_session_t *session = sim_find_open(cat, NULL, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    sim_client_touch(cat, client_id, incarnation, now);
    if (session->row.state == LWD_SESSION_ACTIVE && session->row.lease_client == client_id)
        sim_set_state(session, LWD_SESSION_IDLE);
    sim_reader_drop(session, client_id);
    return LW_OK;
}

static lw_status_t sim_fork(lwd_catalogue_t *cat, const char *tenant, uint64_t parent_id, uint32_t max_tokens,
                            uint64_t client_id, uint64_t incarnation, uint64_t lease_us, uint64_t now,
                            lwd_session_row_t *row_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_lease(client_id, lease_us, error);
    if (status == LW_OK)
        status = sim_client_check(cat, client_id, incarnation, error);
    if (status != LW_OK)
        return status;
    sim_session_t *parent = sim_find_open(cat, tenant, parent_id);
    if (!parent)
        return sim_no_session(error, parent_id);
    uint32_t depth = 1;
    for (const sim_session_t *at = parent; at; at = sim_parent(cat, at))
        depth++;
    if (depth > LWD_FORK_DEPTH_MAX)
        return lw_fail(error, LW_ERR_EXHAUSTED, "session %llu is the end of a line of %u forks",
                       (unsigned long long)parent_id, depth - 1);
    uint32_t cut = sim_cut(cat, parent, max_tokens ? max_tokens : UINT32_MAX);
    parent->row.used_us = now;
    sim_session_t *child =
        sim_add(cat, &parent->row.shape, parent->row.tenant, client_id, incarnation, lease_us, now);
    child->row.ttl_us = parent->row.ttl_us;
    child->row.parent_id = parent_id;
    child->row.cut_tokens = cut;
    child->row.token_count = cut;
    sim_row(child, row_out);
    return LW_OK;
}

static lw_status_t sim_pin(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, bool pinned, lw_error_t *error)
{
    sim_session_t *session = sim_find_open(cat, tenant, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    session->row.pinned = pinned;
    return LW_OK;
}

static lw_status_t sim_drop(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, uint64_t now,
                            lw_error_t *error)
{
    (void)now;
    sim_session_t *session = sim_find_open(cat, tenant, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    sim_end(cat, session);
    return LW_OK;
}

static lw_status_t sim_get(lwd_catalogue_t *cat, const char *tenant, uint64_t session_id, lwd_session_row_t *row_out,
                           lw_error_t *error)
{
    const sim_session_t *session = sim_find(cat, session_id);
    if (!session || session->row.state == LWD_SESSION_ENDED || (tenant && strcmp(tenant, session->row.tenant) != 0))
        return sim_no_session(error, session_id);
    sim_row(session, row_out);
    return LW_OK;
}

static lw_status_t sim_list(lwd_catalogue_t *cat, const char *tenant, uint64_t after_id, uint32_t capacity,
                            lwd_session_row_t *rows, uint32_t *count_out, lw_error_t *error)
{
    (void)error;
    uint32_t count = 0;
    for (uint32_t i = 0; i < cat->session_count && count < capacity; i++) {
        const lwd_session_row_t *row = &cat->sessions[i]->row;
        if (row->session_id > after_id && row->state != LWD_SESSION_ENDED &&
            (!tenant || strcmp(tenant, row->tenant) == 0))
            sim_row(cat->sessions[i], &rows[count++]);
    }
    *count_out = count;
    return LW_OK;
}

/* Puts one range into `own`, a copy of the rank's ranges; `from` is where its own part begins. */
static lw_status_t sim_commit_one(lwd_catalogue_t *cat, const sim_session_t *session, uint16_t rank, sim_ranges_t *own,
                                  const lwd_range_t *range, int64_t *bytes, lwd_ended_t *replaced, lw_error_t *error)
{
    (void)cat;
    lwd_range_t *last = own->count ? &own->rows[own->count - 1] : NULL;
    uint32_t end = last ? lwd_range_end(last) : session->row.cut_tokens;
    for (uint32_t i = 0; i < own->count; i++) {
        lwd_range_t *old = &own->rows[i];
        if (old->first_token != range->first_token)
            continue;
        if (lwd_range_same(old, range, session->row.shape.layer_count))
            return LW_OK;
        if (old != last || !(old->flags & LW_RANGE_RAW) || old->generation >= range->generation)
            return lw_fail(error, LW_ERR_EXISTS, "another range of term %u begins at token %u", old->generation,
                           range->first_token);
        *replaced = (lwd_ended_t){.origin = session->row.session_id, .rank = rank, .from_token = old->first_token,
                                  .generation_max = old->generation};
        *bytes -= (int64_t)sim_charge(old);
        own->count--;
        end = range->first_token;
        last = NULL;
        break;
    }
    if (last && last->flags & LW_RANGE_RAW)
        return lw_fail(error, LW_ERR_INVALID, "range begins at token %u, the raw tail that it must replace at %u",
                       range->first_token, last->first_token);
    if (range->first_token != end)
        return lw_fail(error, LW_ERR_INVALID, "range begins at token %u, the manifest ends at %u", range->first_token, end);
    if (own->count >= LW_RANGES_MAX)
        return lw_fail(error, LW_ERR_EXHAUSTED, "the session has %u ranges", own->count);
    if (own->count == own->capacity) {
        own->capacity = own->capacity * 2 + 8;
        own->rows = realloc(own->rows, own->capacity * sizeof(*own->rows));
        LW_ASSERT(own->rows != NULL);
    }
    own->rows[own->count] = *range;
    own->rows[own->count++].origin = session->row.session_id;
    *bytes += (int64_t)sim_charge(range);
    return LW_OK;
}

static lw_status_t sim_writer(const sim_session_t *session, uint32_t term, uint64_t now, lw_error_t *error)
{
    if (term != session->row.term)
        return lw_fail(error, LW_ERR_STALE, "session %llu: term is %u, not %u",
                       (unsigned long long)session->row.session_id, session->row.term, term);
    if (!lwd_session_live(&session->row, now))
        return lw_fail(error, LW_ERR_STALE, "session %llu: the lease of term %u has ended",
                       (unsigned long long)session->row.session_id, term);
    return LW_OK;
}

static lw_status_t sim_commit(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t term,
                              const lwd_range_t *ranges, uint32_t count, uint64_t now, lw_error_t *error)
{
    sim_session_t *session = sim_find_open(cat, NULL, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    lw_status_t status = sim_writer(session, term, now, error);
    if (status == LW_OK)
        status = lwd_catalogue_check_ranges(&session->row.shape, rank, term, ranges, count, error);
    if (status != LW_OK)
        return status;
    sim_ranges_t *own = &session->ranks[rank];
    sim_ranges_t copy = {.count = own->count, .capacity = own->count + count};
    copy.rows = calloc(copy.capacity, sizeof(*copy.rows));
    LW_ASSERT(copy.rows != NULL);
    if (own->count)
        memcpy(copy.rows, own->rows, own->count * sizeof(*copy.rows));
    int64_t bytes = 0;
    lwd_ended_t replaced = {0}; /* at most one: only the first range can find a raw tail of an earlier term */
    for (uint32_t i = 0; i < count && status == LW_OK; i++)
        status = sim_commit_one(cat, session, rank, &copy, &ranges[i], &bytes, &replaced, error);
    if (status != LW_OK) {
        free(copy.rows);
        return status;
    }
    free(own->rows);
    *own = copy;
    if (replaced.origin)
        sim_log_ending(cat, replaced.origin, replaced.rank, replaced.from_token, replaced.generation_max);
    session->row.bytes = (uint64_t)((int64_t)session->row.bytes + bytes);
    session->row.used_us = now;
    sim_count_tokens(session);
    return LW_OK;
}

/* Own ranges that end at or before `limit`, after the parent's. */
static void sim_collect(lwd_catalogue_t *cat, const sim_session_t *session, uint16_t rank, uint32_t limit, uint32_t from,
                        uint32_t capacity, lwd_range_t *ranges, uint32_t *count)
{
    const sim_session_t *parent = sim_parent(cat, session);
    if (parent)
        sim_collect(cat, parent, rank, limit < session->row.cut_tokens ? limit : session->row.cut_tokens, from, capacity,
                    ranges, count);
    const sim_ranges_t *own = &session->ranks[rank];
    for (uint32_t i = 0; i < own->count && *count < capacity; i++)
        if (own->rows[i].first_token >= from && lwd_range_end(&own->rows[i]) <= limit)
            ranges[(*count)++] = own->rows[i];
}

static lw_status_t sim_ranges(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t from_token,
                              uint32_t capacity, lwd_range_t *ranges, uint32_t *count_out, lw_error_t *error)
{
    const sim_session_t *session = sim_find_open(cat, NULL, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    if (rank >= session->row.shape.rank_count)
        return lw_fail(error, LW_ERR_INVALID, "rank is %u, the session has %u", rank, session->row.shape.rank_count);
    uint32_t count = 0;
    sim_collect(cat, session, rank, UINT32_MAX, from_token, capacity, ranges, &count);
    *count_out = count;
    return LW_OK;
}

static lw_status_t sim_check(lwd_catalogue_t *cat, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                             uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                             uint32_t *count_out, lw_error_t *error)
{
    const sim_session_t *session = sim_find_open(cat, NULL, session_id);
    if (!session)
        return sim_no_session(error, session_id);
    if (!lwd_token_equal(token, session->row.token))
        return lw_fail(error, LW_ERR_PERMISSION, "session %llu: wrong token", (unsigned long long)session_id);
    if (write) {
        lw_status_t status = sim_writer(session, term, now, error);
        if (status != LW_OK)
            return status;
    }
    uint32_t count = 0, cut = UINT32_MAX;
    for (const sim_session_t *at = session; at; at = sim_parent(cat, at)) {
        if (count == capacity)
            return lw_fail(error, LW_ERR_EXHAUSTED, "more than %u origins", capacity);
        origins[count] = at->row.session_id;
        cuts[count++] = cut;
        if (at->row.cut_tokens < cut)
            cut = at->row.cut_tokens;
    }
    *count_out = count;
    return LW_OK;
}

/* The range that a name is of, at any generation; NULL: none. */
static lwd_range_t *sim_range_of(sim_session_t *session, const lw_segment_name_t *name)
{
    if (!session || name->rank >= session->row.shape.rank_count)
        return NULL;
    sim_ranges_t *own = &session->ranks[name->rank];
    for (uint32_t r = 0; r < own->count; r++)
        if (own->rows[r].first_token == name->first_token)
            return &own->rows[r];
    return NULL;
}

static lw_status_t sim_orphans(lwd_catalogue_t *cat, uint16_t node_index, const lw_segment_name_t *names, uint32_t count,
                               uint64_t now, bool *dead, lw_error_t *error)
{
    (void)error;
    for (uint32_t i = 0; i < count; i++) {
        const lw_segment_name_t *name = &names[i];
        sim_session_t *session = sim_find(cat, name->origin);
        const lwd_range_t *range = sim_range_of(session, name);
        if (range && range->generation == name->generation)
            dead[i] = node_index != LWD_NODE_ANY &&
                      !lwd_range_holds(range, session->row.shape.layer_count, name->layer, node_index);
        else
            dead[i] = !session || name->rank >= session->row.shape.rank_count ||
                      !lwd_session_live(&session->row, now) || name->generation < session->row.term;
    }
    return LW_OK;
}

static int sim_key_compare(uint64_t origin, uint32_t rank, uint32_t first_token, const lwd_placed_key_t *key)
{
    if (origin != key->origin)
        return origin < key->origin ? -1 : 1;
    if (rank != key->rank)
        return rank < key->rank ? -1 : 1;
    return first_token < key->first_token ? -1 : first_token > key->first_token;
}

static lw_status_t sim_placed(lwd_catalogue_t *cat, const lwd_placed_key_t *after, uint32_t capacity, lwd_placed_t *rows,
                              uint32_t *count_out, lw_error_t *error)
{
    (void)error;
    uint32_t count = 0;
    for (uint32_t s = 0; s < cat->session_count; s++) {
        const sim_session_t *session = cat->sessions[s];
        uint64_t id = session->row.session_id;
        for (uint32_t rank = 0; id >= after->origin && rank < session->row.shape.rank_count; rank++) {
            const sim_ranges_t *own = &session->ranks[rank];
            for (uint32_t i = 0; i < own->count && count < capacity; i++)
                if (sim_key_compare(id, rank, own->rows[i].first_token, after) > 0)
                    rows[count++] = (lwd_placed_t){(uint16_t)rank, session->row.shape.layer_count, own->rows[i]};
        }
    }
    *count_out = count;
    return LW_OK;
}

static lw_status_t sim_move(lwd_catalogue_t *cat, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                            lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_node(to, error);
    if (status != LW_OK)
        return status;
    sim_session_t *session = sim_find(cat, name->origin);
    lwd_range_t *range = sim_range_of(session, name);
    if (!range)
        return lw_fail(error, LW_ERR_STALE, "no manifest has the segment");
    return lwd_range_move(range, session->row.shape.layer_count, name, from, to, error);
}

static bool sim_evictable(lwd_catalogue_t *cat, const sim_session_t *session)
{
    return session->row.state == LWD_SESSION_IDLE && !session->row.pinned && session->reader_count == 0 &&
           (session->row.bytes > 0 || session->row.parent_id) && sim_needed(cat, session->row.session_id) == 0;
}

static void sim_expire_leases(lwd_catalogue_t *cat, uint64_t now)
{
    for (uint32_t i = 0; i < cat->session_count; i++) {
        sim_session_t *session = cat->sessions[i];
        uint32_t kept = 0;
        for (uint32_t r = 0; r < session->reader_count; r++)
            if (session->readers[r].until_us > now)
                session->readers[kept++] = session->readers[r];
        session->reader_count = kept;
        if (session->row.state == LWD_SESSION_ACTIVE && session->row.lease_until_us <= now)
            sim_set_state(session, LWD_SESSION_IDLE);
    }
}

static void sim_forget_clients(lwd_catalogue_t *cat, uint64_t now)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < cat->client_count; i++) {
        bool busy = cat->clients[i].seen_us + LWD_CLIENT_KEPT_US > now;
        for (uint32_t s = 0; s < cat->session_count && !busy; s++) {
            const sim_session_t *session = cat->sessions[s];
            busy = session->row.lease_client == cat->clients[i].id;
            for (uint32_t r = 0; r < session->reader_count && !busy; r++)
                busy = session->readers[r].client_id == cat->clients[i].id;
        }
        if (busy)
            cat->clients[kept++] = cat->clients[i];
    }
    cat->client_count = kept;
}

static lw_status_t sim_expire(lwd_catalogue_t *cat, uint64_t bytes, uint64_t now, uint64_t *bytes_freed_out,
                              lw_error_t *error)
{
    (void)error;
    uint64_t freed = 0;
    sim_expire_leases(cat, now);
    for (uint32_t i = 0; i < cat->session_count; i++) {
        sim_session_t *session = cat->sessions[i];
        const lwd_session_row_t *row = &session->row;
        if (row->state == LWD_SESSION_IDLE && !row->pinned && row->ttl_us && row->used_us + row->ttl_us <= now &&
            session->reader_count == 0)
            freed += sim_end(cat, session);
    }
    while (freed < bytes) {
        sim_session_t *victim = NULL;
        for (uint32_t i = 0; i < cat->session_count; i++)
            if (sim_evictable(cat, cat->sessions[i]) &&
                (!victim || cat->sessions[i]->row.used_us < victim->row.used_us))
                victim = cat->sessions[i];
        if (!victim)
            break;
        sim_set_state(victim, LWD_SESSION_EVICTING);
        freed += sim_end(cat, victim);
    }
    sim_forget_clients(cat, now);
    *bytes_freed_out = freed;
    return LW_OK;
}

static lw_status_t sim_ended(lwd_catalogue_t *cat, uint64_t after, uint32_t capacity, lwd_ended_t *rows,
                             uint32_t *count_out, lw_error_t *error)
{
    (void)error;
    uint32_t count = 0;
    for (uint32_t i = 0; i < cat->ended_count && count < capacity; i++)
        if (cat->ended[i].serial > after)
            rows[count++] = cat->ended[i];
    *count_out = count;
    return LW_OK;
}

static lw_status_t sim_trim(lwd_catalogue_t *cat, uint64_t serial, lw_error_t *error)
{
    (void)error;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < cat->ended_count; i++)
        if (cat->ended[i].serial > serial)
            cat->ended[kept++] = cat->ended[i];
    cat->ended_count = kept;
    kept = 0;
    for (uint32_t i = 0; i < cat->session_count; i++) {
        sim_session_t *session = cat->sessions[i];
        if (session->row.state == LWD_SESSION_ENDED && session->ended_serial <= serial)
            sim_session_free(session);
        else
            cat->sessions[kept++] = session;
    }
    cat->session_count = kept;
    return LW_OK;
}

static lw_status_t sim_fleet(lwd_catalogue_t *cat, uint64_t *fleet_id_out, uint64_t *epoch_out, lw_error_t *error)
{
    (void)error;
    *fleet_id_out = cat->fleet_id;
    *epoch_out = cat->epoch;
    return LW_OK;
}

static lw_status_t sim_set_epoch(lwd_catalogue_t *cat, uint64_t epoch, lw_error_t *error)
{
    if (epoch <= cat->epoch)
        return lw_fail(error, LW_ERR_STALE, "epoch %llu is not after %llu", (unsigned long long)epoch,
                       (unsigned long long)cat->epoch);
    cat->epoch = epoch;
    return LW_OK;
}

static lw_status_t sim_members(lwd_catalogue_t *cat, const char *const *control, uint32_t count, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_members(control, count, error);
    if (status != LW_OK)
        return status;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < cat->member_count; j++)
            if (i != j && strcmp(control[i], cat->members[j]) == 0)
                return lw_fail(error, LW_ERR_INVALID, "node %s was number %u of the fleet and is now %u: the list may only "
                               "grow at its end", control[i], j, i);
    for (uint32_t i = 0; i < count; i++) {
        if (i == cat->member_count) {
            cat->members = sim_grow(cat->members, cat->member_count, sizeof(*cat->members));
            cat->member_count++;
        }
        memset(cat->members[i], 0, sizeof(*cat->members));
        strncpy(cat->members[i], control[i], sizeof(*cat->members) - 1);
    }
    return LW_OK;
}

static lw_status_t sim_node_token(lwd_catalogue_t *cat, uint8_t token_out[LW_TOKEN_BYTES], lw_error_t *error)
{
    (void)error;
    lw_prng_t prng; /* its own: the draws of the other calls stay as they are */
    lw_prng_seed(&prng, cat->fleet_id);
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        token_out[i] = (uint8_t)lw_prng_u64(&prng);
    return LW_OK;
}

static lw_status_t sim_set_drain(lwd_catalogue_t *cat, uint16_t node_index, bool drain, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    if (status == LW_OK)
        cat->drain[node_index] = drain;
    return status;
}

static lw_status_t sim_drain(lwd_catalogue_t *cat, uint16_t node_index, bool *drain_out, lw_error_t *error)
{
    lw_status_t status = lwd_catalogue_check_node(node_index, error);
    if (status == LW_OK)
        *drain_out = cat->drain[node_index];
    return status;
}

const lwd_catalogue_ops_t *lwd_catalogue_sim(void)
{
    static const lwd_catalogue_ops_t ops = {
        .name = "sim", .open = sim_open, .close = sim_close,
        .create = sim_create, .open_session = sim_open_session, .renew = sim_renew, .release = sim_release,
        .fork = sim_fork, .pin = sim_pin, .drop = sim_drop, .get = sim_get, .list = sim_list,
        .commit = sim_commit, .ranges = sim_ranges, .check = sim_check, .orphans = sim_orphans,
        .placed = sim_placed, .move = sim_move,
        .expire = sim_expire, .ended = sim_ended, .trim = sim_trim,
        .fleet = sim_fleet, .set_epoch = sim_set_epoch, .members = sim_members,
        .node_token = sim_node_token, .set_drain = sim_set_drain, .drain = sim_drain,
    };
    return &ops;
}
