/* catalogue_etcd_range.c - manifests on etcd: commit, ranges, check, and where a fork may be cut. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdlib.h>

void lwd_kv_count_tokens(etcd_session_t *session)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t rank = 0; rank < session->row.shape.rank_count; rank++)
        least = session->ends[rank] < least ? session->ends[rank] : least;
    session->row.token_count = least;
}

/* ---- where a fork may be cut ---- */

/* Does a range that is not raw end at `token`? */
static bool manifest_ends_at(const etcd_manifest_t *manifest, uint32_t token)
{
    etcd_row_t row;
    size_t at = 0;
    while (lwd_kv_row_next(manifest, &at, &row))
        if (etcd_row_end(&row) == token)
            return !(row.flags & LW_RANGE_RAW);
    return false;
}

/* Largest own end <= limit that all ranks share; 0: none. */
static lw_status_t session_cut(etcd_op_t *op, const etcd_session_t *session, uint32_t limit, uint32_t *cut_out)
{
    etcd_manifest_t *first, *other;
    etcd_row_t row;
    size_t at = 0;
    uint32_t best = 0;
    lw_status_t status = lwd_kv_manifest_load(op, session, 0, &first);
    while (status == LW_OK && lwd_kv_row_next(first, &at, &row)) {
        bool all = etcd_row_end(&row) <= limit && !(row.flags & LW_RANGE_RAW);
        for (uint32_t rank = 1; rank < session->row.shape.rank_count && all && status == LW_OK; rank++) {
            status = lwd_kv_manifest_load(op, session, (uint16_t)rank, &other);
            all = status == LW_OK && manifest_ends_at(other, etcd_row_end(&row));
        }
        if (all)
            best = etcd_row_end(&row);
    }
    *cut_out = best;
    return status;
}

lw_status_t lwd_kv_cut(etcd_op_t *op, etcd_session_t *session, uint32_t limit, uint32_t *cut_out)
{
    lw_status_t status = LW_OK;
    *cut_out = 0;
    while (session && status == LW_OK && *cut_out == 0) {
        status = session_cut(op, session, limit, cut_out);
        limit = session->row.cut_tokens < limit ? session->row.cut_tokens : limit;
        if (status == LW_OK)
            status = lwd_kv_session_parent(op, session, &session);
    }
    return status;
}

/* ---- commit ---- */

typedef struct commit {
    uint64_t session_id, now;
    uint16_t rank;
    uint32_t term, count;
    const lwd_range_t *ranges;
} commit_t;

typedef struct place { /* what a manifest says about where a range begins */
    etcd_row_t last, same;
    bool has_last, found;
} place_t;

static place_t place_find(const etcd_manifest_t *manifest, uint32_t first_token)
{
    place_t place = {.has_last = false};
    etcd_row_t row;
    size_t at = 0;
    while (lwd_kv_row_next(manifest, &at, &row)) {
        if (row.first_token == first_token) {
            place.same = row;
            place.found = true;
        }
        place.last = row;
        place.has_last = true;
    }
    return place;
}

/* Takes the raw tail away that `range` replaces, and tells the nodes. */
static void commit_replace(etcd_op_t *op, etcd_session_t *session, etcd_manifest_t *manifest, const etcd_row_t *old)
{
    manifest->bytes = old->at;
    manifest->count--;
    session->row.bytes -= old->bytes * old->replicas;
    lwd_kv_log_ending(op, session->row.session_id, manifest->rank, old->first_token, old->generation);
}

static lw_status_t commit_add(etcd_op_t *op, etcd_session_t *session, etcd_manifest_t *manifest, const lwd_range_t *range)
{
    if (manifest->count >= LW_RANGES_MAX)
        return ETCD_FAIL(op, LW_ERR_EXHAUSTED, "the session has %u ranges", manifest->count);
    if (!lwd_kv_row_add(manifest, range))
        return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for a manifest");
    if (ETCD_MANIFEST_HEAD + manifest->bytes > ETCD_MANIFEST_MAX)
        return ETCD_FAIL(op, LW_ERR_EXHAUSTED, "session %llu, rank %u: with the range at token %u its manifest has %zu bytes, "
                         "one key of etcd takes %u: larger segments or fewer replicas make it smaller",
                         (unsigned long long)session->row.session_id, manifest->rank, range->first_token,
                         manifest->bytes + ETCD_MANIFEST_HEAD, ETCD_MANIFEST_MAX);
    manifest->changed = true;
    session->row.bytes += range->bytes * range->replicas;
    session->ends[manifest->rank] = lwd_range_end(range);
    return LW_OK;
}

static lw_status_t commit_one(etcd_op_t *op, etcd_session_t *session, etcd_manifest_t *manifest, const lwd_range_t *range)
{
    const place_t place = place_find(manifest, range->first_token);
    const etcd_row_t *last = &place.last;
    uint32_t end = place.has_last ? etcd_row_end(last) : session->row.cut_tokens;
    if (place.found) {
        lwd_range_t same;
        lwd_kv_row_full(manifest, &place.same, &same);
        if (lwd_range_same(&same, range, manifest->layers))
            return LW_OK;
        if (same.first_token != last->first_token || !(same.flags & LW_RANGE_RAW) || same.generation >= range->generation)
            return ETCD_FAIL(op, LW_ERR_EXISTS, "another range of term %u begins at token %u", same.generation,
                             range->first_token);
        commit_replace(op, session, manifest, &place.same);
    } else if (place.has_last && last->flags & LW_RANGE_RAW) {
        return ETCD_FAIL(op, LW_ERR_INVALID, "range begins at token %u, the raw tail that it must replace at %u",
                         range->first_token, last->first_token);
    } else if (range->first_token != end) {
        return ETCD_FAIL(op, LW_ERR_INVALID, "range begins at token %u, the manifest ends at %u", range->first_token, end);
    }
    return commit_add(op, session, manifest, range);
}

static lw_status_t commit_body(etcd_op_t *op)
{
    const commit_t *commit = op->arg;
    etcd_session_t *session;
    etcd_manifest_t *manifest;
    etcd_client_t *writer;
    lw_status_t status = lwd_kv_session_open(op, NULL, commit->session_id, &session);
    if (status == LW_OK)
        status = lwd_kv_writer(op, session, commit->term, commit->now);
    if (status == LW_OK)
        status = lwd_catalogue_check_ranges(&session->row.shape, commit->rank, commit->term, commit->ranges, commit->count,
                                            op->error);
    if (status == LW_OK)
        status = lwd_kv_client_load(op, session->row.lease_client, &writer);
    if (status == LW_OK)
        status = lwd_kv_manifest_load(op, session, commit->rank, &manifest);
    for (uint32_t i = 0; i < commit->count && status == LW_OK; i++)
        status = commit_one(op, session, manifest, &commit->ranges[i]);
    if (status != LW_OK)
        return status;
    writer->guard = true; /* live when this happens, too */
    session->row.used_us = commit->now;
    session->changed = true;
    lwd_kv_count_tokens(session);
    return LW_OK;
}

lw_status_t lwd_kv_commit(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t term,
                            const lwd_range_t *ranges, uint32_t count, uint64_t now, lw_error_t *error)
{
    commit_t commit = {.session_id = session_id, .now = now, .rank = rank, .term = term, .count = count, .ranges = ranges};
    return lwd_kv_op_run(cat, commit_body, &commit, error);
}

/* ---- reading ---- */

/* The line of forks from a session up to its root; of each, the token up to which it counts. */
typedef struct line {
    etcd_session_t *sessions[LWD_FORK_DEPTH_MAX];
    uint32_t limits[LWD_FORK_DEPTH_MAX];
    uint32_t count;
} line_t;

static lw_status_t line_load(etcd_op_t *op, etcd_session_t *session, line_t *line)
{
    uint32_t limit = UINT32_MAX;
    lw_status_t status = LW_OK;
    line->count = 0;
    while (session && status == LW_OK) {
        LW_ASSERT(line->count < LWD_FORK_DEPTH_MAX); /* fork() refuses longer ones */
        line->sessions[line->count] = session;
        line->limits[line->count++] = limit;
        limit = session->row.cut_tokens < limit ? session->row.cut_tokens : limit;
        status = lwd_kv_session_parent(op, session, &session);
    }
    return status;
}

typedef struct listing {
    uint64_t session_id;
    uint16_t rank;
    uint32_t from_token, capacity, count;
    lwd_range_t *ranges;
} listing_t;

static lw_status_t ranges_of(etcd_op_t *op, const etcd_session_t *session, uint32_t limit, listing_t *listing)
{
    etcd_manifest_t *manifest;
    etcd_row_t row;
    size_t at = 0;
    if (limit <= listing->from_token)
        return LW_OK; /* nothing here begins late enough */
    lw_status_t status = lwd_kv_manifest_load(op, session, listing->rank, &manifest);
    while (status == LW_OK && listing->count < listing->capacity && lwd_kv_row_next(manifest, &at, &row))
        if (row.first_token >= listing->from_token && etcd_row_end(&row) <= limit)
            lwd_kv_row_full(manifest, &row, &listing->ranges[listing->count++]);
    return status;
}

static lw_status_t ranges_body(etcd_op_t *op)
{
    listing_t *listing = op->arg;
    etcd_session_t *session;
    line_t line;
    listing->count = 0;
    lw_status_t status = lwd_kv_session_open(op, NULL, listing->session_id, &session);
    if (status != LW_OK)
        return status;
    if (listing->rank >= session->row.shape.rank_count)
        return ETCD_FAIL(op, LW_ERR_INVALID, "rank is %u, the session has %u", listing->rank, session->row.shape.rank_count);
    status = line_load(op, session, &line);
    for (uint32_t i = line.count; status == LW_OK && i-- > 0 && listing->count < listing->capacity;)
        status = ranges_of(op, line.sessions[i], line.limits[i], listing);
    return status;
}

lw_status_t lwd_kv_ranges(lwd_catalogue_t *cat, uint64_t session_id, uint16_t rank, uint32_t from_token,
                            uint32_t capacity, lwd_range_t *ranges, uint32_t *count_out, lw_error_t *error)
{
    listing_t listing = {.session_id = session_id, .rank = rank, .from_token = from_token, .capacity = capacity,
                         .ranges = ranges};
    lw_status_t status = lwd_kv_op_run(cat, ranges_body, &listing, error);
    if (status == LW_OK)
        *count_out = listing.count;
    return status;
}

typedef struct check {
    uint64_t session_id, now;
    const uint8_t *token;
    bool write;
    uint32_t term, capacity, count;
    uint64_t *origins;
    uint32_t *cuts;
} check_t;

static lw_status_t check_body(etcd_op_t *op)
{
    check_t *check = op->arg;
    etcd_session_t *session;
    line_t line;
    lw_status_t status = lwd_kv_session_open(op, NULL, check->session_id, &session);
    if (status != LW_OK)
        return status;
    if (!lwd_token_equal(check->token, session->row.token))
        return ETCD_FAIL(op, LW_ERR_PERMISSION, "session %llu: wrong token", (unsigned long long)check->session_id);
    if (check->write)
        status = lwd_kv_writer(op, session, check->term, check->now);
    if (status == LW_OK)
        status = line_load(op, session, &line);
    if (status != LW_OK)
        return status;
    if (line.count > check->capacity)
        return ETCD_FAIL(op, LW_ERR_EXHAUSTED, "more than %u origins", check->capacity);
    for (uint32_t i = 0; i < line.count; i++) {
        check->origins[i] = line.sessions[i]->row.session_id;
        check->cuts[i] = line.limits[i];
    }
    check->count = line.count;
    return LW_OK;
}

lw_status_t lwd_kv_check(lwd_catalogue_t *cat, uint64_t session_id, const uint8_t token[LW_TOKEN_BYTES], bool write,
                           uint32_t term, uint64_t now, uint64_t *origins, uint32_t *cuts, uint32_t capacity,
                           uint32_t *count_out, lw_error_t *error)
{
    check_t check = {.session_id = session_id, .now = now, .token = token, .write = write, .term = term,
                     .capacity = capacity, .origins = origins, .cuts = cuts};
    lw_status_t status = lwd_kv_op_run(cat, check_body, &check, error);
    if (status == LW_OK)
        *count_out = check.count;
    return status;
}
