/* catalogue_etcd_move.c - where copies are, as nodes ask and change it on etcd: orphans, placed, move. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdio.h>
#include <stdlib.h>

/* The range that a name is of, at any generation. */
static lw_status_t row_of(etcd_op_t *op, const etcd_session_t *session, const lw_segment_name_t *name,
                          etcd_manifest_t **manifest_out, etcd_row_t *row, bool *found_out)
{
    size_t at = 0;
    *found_out = false;
    if (name->rank >= session->row.shape.rank_count)
        return LW_OK;
    lw_status_t status = lwd_kv_manifest_load(op, session, name->rank, manifest_out);
    while (status == LW_OK && !*found_out && lwd_kv_row_next(*manifest_out, &at, row))
        *found_out = row->first_token == name->first_token;
    return status;
}

typedef struct orphans {
    uint16_t node_index;
    const lw_segment_name_t *names;
    uint32_t count;
    uint64_t now;
    bool *dead;
} orphans_t;

/* Nodes' clocks differ. Before one is told that a writer's lease has run out, the session remembers it, so that no other node
 * takes a commit of that term any more. */
static void orphan_fence(const orphans_t *orphans, etcd_session_t *session, uint32_t generation, uint32_t *fenced)
{
    const lwd_session_row_t *row = &session->row;
    if (row->state != LWD_SESSION_ACTIVE || session->fenced || generation < row->term ||
        lwd_session_live(row, orphans->now) || *fenced == ETCD_BATCH)
        return;
    session->fenced = true;
    session->changed = true;
    ++*fenced;
}

static lw_status_t orphan_one(etcd_op_t *op, const orphans_t *orphans, const lw_segment_name_t *name, bool *dead_out,
                              uint32_t *fenced)
{
    etcd_session_t *session;
    etcd_manifest_t *manifest;
    etcd_row_t row;
    bool found = false;
    *dead_out = true;
    lw_status_t status = lwd_kv_session_load(op, name->origin, &session);
    if (status != LW_OK || !session)
        return status;
    status = row_of(op, session, name, &manifest, &row, &found);
    if (status != LW_OK)
        return status;
    if (found && row.generation == name->generation) {
        lwd_range_t range;
        lwd_kv_row_full(manifest, &row, &range);
        *dead_out = orphans->node_index != LWD_NODE_ANY &&
                    !lwd_range_holds(&range, manifest->layers, name->layer, orphans->node_index);
    } else {
        *dead_out = name->rank >= session->row.shape.rank_count || !lwd_session_live(&session->row, orphans->now) ||
                    name->generation < session->row.term;
        orphan_fence(orphans, session, name->generation, fenced);
    }
    return LW_OK;
}

static lw_status_t orphans_body(etcd_op_t *op)
{
    const orphans_t *orphans = op->arg;
    uint64_t *ids = calloc(orphans->count + 1, sizeof(*ids));
    uint32_t id_count = 0, fenced = 0;
    if (!ids)
        return ETCD_FAIL(op, LW_ERR_NO_MEMORY, "no memory for %u names", orphans->count);
    for (uint32_t i = 0; i < orphans->count; i++) { /* names come grouped by session, mostly */
        uint32_t known = id_count;
        while (known && ids[known - 1] != orphans->names[i].origin)
            known--;
        if (known == 0)
            ids[id_count++] = orphans->names[i].origin;
    }
    lw_status_t status = lwd_kv_sessions_fetch(op, ids, id_count);
    for (uint32_t i = 0; i < orphans->count && status == LW_OK; i++)
        status = orphan_one(op, orphans, &orphans->names[i], &orphans->dead[i], &fenced);
    free(ids);
    return status == LW_OK && fenced == ETCD_BATCH ? LW_INPROGRESS : status;
}

lw_status_t lwd_kv_orphans(lwd_catalogue_t *cat, uint16_t node_index, const lw_segment_name_t *names, uint32_t count,
                             uint64_t now, bool *dead, lw_error_t *error)
{
    orphans_t orphans = {.node_index = node_index, .names = names, .count = count, .now = now, .dead = dead};
    return count ? lwd_kv_op_run(cat, orphans_body, &orphans, error) : LW_OK;
}

/* ---- placed ---- */

typedef struct placed {
    const lwd_placed_key_t *after;
    lwd_placed_t *rows;
    uint32_t capacity, count;
} placed_t;

static int key_compare(uint64_t origin, uint32_t rank, uint32_t first_token, const lwd_placed_key_t *key)
{
    if (origin != key->origin)
        return origin < key->origin ? -1 : 1;
    if (rank != key->rank)
        return rank < key->rank ? -1 : 1;
    return first_token < key->first_token ? -1 : first_token > key->first_token;
}

static lw_status_t placed_of(etcd_op_t *op, const etcd_session_t *session, uint16_t rank, placed_t *placed)
{
    etcd_manifest_t *manifest;
    etcd_row_t row;
    size_t at = 0;
    lw_status_t status = lwd_kv_manifest_load(op, session, rank, &manifest);
    while (status == LW_OK && placed->count < placed->capacity && lwd_kv_row_next(manifest, &at, &row)) {
        if (key_compare(session->row.session_id, rank, row.first_token, placed->after) <= 0)
            continue;
        lwd_placed_t *out = &placed->rows[placed->count++];
        out->rank = rank;
        out->layers = manifest->layers;
        lwd_kv_row_full(manifest, &row, &out->range);
    }
    return status;
}

static lw_status_t placed_body(etcd_op_t *op)
{
    placed_t *placed = op->arg;
    etcd_scan_t scan;
    etcd_scanned_t found;
    lw_status_t status = LW_OK;
    placed->count = 0;
    lwd_kv_scan_start(op, placed->after->origin ? placed->after->origin - 1 : 0, &scan);
    while (status == LW_OK && placed->count < placed->capacity) {
        status = lwd_kv_scan_next(&scan, &found);
        const lwd_session_row_t *row = &found.session.row;
        bool past = status == LW_OK && row->session_id == placed->after->origin; /* ranks before `after` are told */
        for (uint32_t rank = past ? placed->after->rank : 0;
             status == LW_OK && rank < row->shape.rank_count && placed->count < placed->capacity; rank++)
            if (found.session.ends[rank] > row->cut_tokens || row->state == LWD_SESSION_RETAINED)
                status = placed_of(op, &found.session, (uint16_t)rank, placed);
    }
    lwd_kv_scan_stop(&scan);
    return status == LW_ERR_NOT_FOUND ? LW_OK : status;
}

lw_status_t lwd_kv_placed(lwd_catalogue_t *cat, const lwd_placed_key_t *after, uint32_t capacity, lwd_placed_t *rows,
                            uint32_t *count_out, lw_error_t *error)
{
    placed_t placed = {.after = after, .rows = rows, .capacity = capacity};
    lw_status_t status = lwd_kv_op_run(cat, placed_body, &placed, error);
    if (status == LW_OK)
        *count_out = placed.count;
    return status;
}

/* ---- move ---- */

typedef struct move {
    const lw_segment_name_t *name;
    uint16_t from, to;
} move_t;

static lw_status_t move_body(etcd_op_t *op)
{
    const move_t *move = op->arg;
    etcd_session_t *session;
    etcd_manifest_t *manifest;
    etcd_row_t row;
    bool found = false;
    lwd_range_t range;
    lw_status_t status = lwd_kv_session_load(op, move->name->origin, &session);
    if (status == LW_OK && session)
        status = row_of(op, session, move->name, &manifest, &row, &found);
    if (status == LW_OK && !found)
        return ETCD_FAIL(op, LW_ERR_STALE, "no manifest has the segment");
    if (status != LW_OK)
        return status;
    lwd_kv_row_full(manifest, &row, &range);
    status = lwd_range_move(&range, manifest->layers, move->name, move->from, move->to, op->error);
    if (status != LW_OK)
        return status;
    lwd_kv_row_set(manifest, &row, &range);
    manifest->changed = true;
    session->guard = session->row.state == LWD_SESSION_RETAINED; /* its manifest may be shortened here */
    return LW_OK;
}

lw_status_t lwd_kv_move(lwd_catalogue_t *cat, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                          lw_error_t *error)
{
    move_t move = {.name = name, .from = from, .to = to};
    lw_status_t status = lwd_catalogue_check_node(to, error);
    return status == LW_OK ? lwd_kv_op_run(cat, move_body, &move, error) : status;
}
