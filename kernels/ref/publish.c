/* publish.c - a committed range becomes part of a session's index, in all layers at once. Runs between steps.
 * Serves every backend whose memory is host memory. */
#include <stdbool.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"

static bool local_is_sound(const lwk_tile_t *tile)
{
    return tile->local == 0 || (tile->row_base != NULL && (tile->local - 1) % LWK_LANDING_UNIT == 0);
}

static lw_status_t check(const lwk_publish_t *args)
{
    if (args->store == NULL || args->session == NULL || args->row >= args->range_capacity)
        return LW_ERR_INVALID;
    if (args->session->sealed_count + args->token_count > args->session->token_count)
        return LW_ERR_INVALID; /* tokens that do not exist yet */
    uint32_t per_row = args->shape.layer_count * args->shape.kv_head_count;
    const lwk_tile_t *tiles =
        args->tiles != NULL ? args->tiles : &args->store->tiles[(size_t)args->row * per_row];
    for (uint32_t i = 0; i < per_row; i++)
        if (tiles[i].index == NULL || lwk_tile_entries(&tiles[i]) > args->entry_slots || !local_is_sound(&tiles[i]))
            return LW_ERR_INVALID;
    return LW_OK;
}

/* Nothing of it is cached yet, and nobody has wanted it. */
static void init_placement(lwk_tile_t *tile)
{
    for (uint32_t e = 0; e < lwk_tile_entries(tile); e++) {
        tile->place[e] = lwk_place(LWK_PLACE_REMOTE, 0);
        tile->stamp[e] = 0;
    }
    uint32_t base = 0, row = 0;
    for (uint32_t c = 0; c < tile->cluster_count; c++) {
        tile->page_base[c] = (uint16_t)base;
        base += lwk_cluster_pages(tile->sizes[c]);
        if (tile->row_base != NULL)
            tile->row_base[c] = (uint16_t)row;
        row += tile->sizes[c];
    }
    LW_ASSERT(base <= UINT16_MAX && row <= UINT16_MAX);
}

/* Where parts begin among the outliers. */
static void init_parts(lwk_tile_t *tile, uint32_t head_dim)
{
    const uint16_t *parents = (const uint16_t *)(const void *)(tile->index + lwk_tile_layout(tile, head_dim).outlier_parents);
    for (uint32_t i = 1; i < LWK_PARTS_MAX; i++)
        tile->outlier_eighths[i - 1] =
            (uint16_t)lwk_outliers_below(parents, tile->outlier_count, lwk_eighth(tile->cluster_count, i));
}

lw_status_t lwk_ref_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream)
{
    lw_status_t status = check(args);
    if (status != LW_OK)
        return status;
    const lwk_shape_t *shape = &args->shape;
    uint32_t per_row = shape->layer_count * shape->kv_head_count;
    lwk_session_t *session = args->session;
    if (args->tiles != NULL) {
        lwk_tile_t *tiles = &args->store->tiles[(size_t)args->row * per_row];
        memcpy(tiles, args->tiles, per_row * sizeof *tiles);
        for (uint32_t i = 0; i < per_row; i++) {
            init_placement(&tiles[i]);
            init_parts(&tiles[i], shape->head_dim);
        }
    }
    if (args->moments != NULL)
        memcpy(session->moments, args->moments, per_row * lwk_moments_bytes(shape->head_dim));
    session->ranges[session->range_count++] =
        (lwk_range_ref_t){.row = args->row, .entry_base = session->entry_count};
    session->entry_count += args->entry_slots;
    session->sealed_count += args->token_count;
    return LW_OK;
}
