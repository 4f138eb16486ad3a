/* publish.cu - a committed range becomes part of a session's index in all layers at once, and a row that nobody uses any more
 * is emptied. Between steps; on the step's stream, so that what ran before has seen the old state and what follows sees the new.
 *
 * publish: a block for each tile of the row; bytes: the tiles and moments once from pinned memory, 8 for each entry, 6 for each
 * cluster. retire: three launches, because pages go back to the free list in the order of tiles and entries: counts, their
 * prefix sums, pages. */
#include "kernels/cuda/lang.cuh"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/scan.cuh"

#define PUBLISH_THREADS 256u
#define PUBLISH_WARPS (PUBLISH_THREADS / 32)

typedef struct publish_shared {
    uint64_t scan[PUBLISH_WARPS];
} publish_shared_t;

/* ---- publish ---- */

/* Nothing of it is cached yet, and nobody has wanted it. */
LWK_DEVICE void init_placement(publish_shared_t *sh, const lwk_tile_t *tile)
{
    const uint32_t entries = lwk_tile_entries(tile), clusters = tile->cluster_count;
    for (uint32_t e = threadIdx.x; e < entries; e += PUBLISH_THREADS) {
        tile->place[e] = lwk_place(LWK_PLACE_REMOTE, 0);
        tile->stamp[e] = 0;
    }
    uint64_t carried = 0; /* pages high, rows low */
    for (uint32_t at = 0; at < clusters; at += PUBLISH_THREADS) {
        uint32_t c = at + threadIdx.x, size = c < clusters ? tile->sizes[c] : 0;
        uint64_t total, before = scan_block<PUBLISH_WARPS>(sh->scan, (uint64_t)lwk_cluster_pages(size) << 32 | size, &total);
        before += carried;
        if (c < clusters) {
            tile->page_base[c] = (uint16_t)(before >> 32);
            if (tile->row_base != NULL)
                tile->row_base[c] = (uint16_t)before;
        }
        carried += total;
    }
}

/* Where parts begin among the outliers. */
LWK_DEVICE void init_parts(lwk_tile_t *tile, uint32_t head_dim)
{
    const uint32_t i = threadIdx.x + 1;
    if (i >= LWK_PARTS_MAX)
        return;
    const uint8_t *parents = tile->index + lwk_tile_layout(tile, head_dim).outlier_parents;
    tile->outlier_eighths[i - 1] = (uint16_t)lwk_outliers_below(
        (const uint16_t *)(const void *)parents, tile->outlier_count, lwk_eighth(tile->cluster_count, i));
}

/* The new range at the end of the session's list. Tokens that do not exist yet are nobody's: an error of the session. */
LWK_DEVICE void add_range(const lwk_publish_t *args)
{
    lwk_session_t *session = args->session;
    if ((uint64_t)session->sealed_count + args->token_count > session->token_count) {
        lwk_session_fail(session, LW_ERR_INVALID);
        return;
    }
    session->ranges[session->range_count].row = args->row;
    session->ranges[session->range_count].entry_base = session->entry_count;
    session->range_count++;
    session->entry_count += args->entry_slots;
    session->sealed_count += args->token_count;
}

LWK_KERNEL(PUBLISH_THREADS, 2) void publish_kernel(LWK_ARGS(lwk_publish_t) args)
{
    LWK_SHARED(publish_shared_t, sh);
    const uint32_t tiles = args.shape.layer_count * args.shape.kv_head_count;
    for (uint32_t i = blockIdx.x; args.tiles != NULL && i < tiles; i += gridDim.x) {
        lwk_tile_t *to = &args.store->tiles[(size_t)args.row * tiles + i];
        __syncthreads(); /* the tile before this one is done */
        if (threadIdx.x == 0)
            *to = args.tiles[i];
        __syncthreads();
        init_placement(sh, to);
        init_parts(to, args.shape.head_dim);
    }
    if (args.moments != NULL) {
        const uint64_t units = tiles * lwk_moments_bytes(args.shape.head_dim) / 16;
        uint4 *to = (uint4 *)(void *)args.session->moments;
        const uint4 *from = (const uint4 *)(const void *)args.moments;
        for (uint64_t i = (uint64_t)blockIdx.x * PUBLISH_THREADS + threadIdx.x; i < units;
             i += (uint64_t)gridDim.x * PUBLISH_THREADS)
            to[i] = from[i];
    }
    if (blockIdx.x == 0 && threadIdx.x == 0)
        add_range(&args);
}

static bool tile_is_sound(const lwk_tile_t *tile, uint32_t entry_slots)
{
    if (tile->index == NULL || lwk_tile_entries(tile) > entry_slots)
        return false;
    return tile->local == 0 || (tile->row_base != NULL && (tile->local - 1) % LWK_LANDING_UNIT == 0);
}

lw_status_t lwk_cuda_publish(lwk_dev_t *dev, const lwk_publish_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_shape_check(&args->shape);
    if (status != LW_OK)
        return status;
    if (args->store == NULL || args->session == NULL || args->row >= args->range_capacity)
        return LW_ERR_INVALID;
    const uint32_t tiles = args->shape.layer_count * args->shape.kv_head_count;
    for (uint32_t i = 0; args->tiles != NULL && i < tiles; i++) /* pinned: the host can look */
        if (!tile_is_sound(&args->tiles[i], args->entry_slots))
            return LW_ERR_INVALID;
    dim3 grid(args->tiles != NULL || args->moments != NULL ? min(tiles, 512u) : 1);
    return lwk_launch("publish", publish_kernel, grid, PUBLISH_THREADS, sizeof(publish_shared_t), (cudaStream_t)stream, *args);
}

/* ---- retire ---- */

/* Pages of a cached entry in either class: class 0 high, 1 low. */
LWK_DEVICE uint64_t cached_pages(const lwk_tile_t *tile, uint32_t entry)
{
    if (entry >= lwk_tile_entries(tile) || lwk_place_kind(tile->place[entry]) != LWK_PLACE_CACHED)
        return 0;
    return entry < tile->cluster_count ? (uint64_t)lwk_cluster_pages(tile->sizes[entry]) << 32 : 1;
}

/* Leaves the pages of each tile in tile.local, and how many clusters have them in tile.reserved: the tile is about to go. */
LWK_KERNEL(PUBLISH_THREADS, 2) void retire_count_kernel(lwk_store_t *store, uint32_t first)
{
    LWK_SHARED(publish_shared_t, sh);
    lwk_tile_t *tile = &store->tiles[first + blockIdx.x];
    uint64_t mine = 0, clusters = 0, total, cached;
    for (uint32_t e = threadIdx.x; e < lwk_tile_entries(tile); e += PUBLISH_THREADS) {
        uint64_t pages = cached_pages(tile, e);
        mine += pages;
        clusters += pages >> 32 > 0;
    }
    (void)scan_block<PUBLISH_WARPS>(sh->scan, mine, &total);
    (void)scan_block<PUBLISH_WARPS>(sh->scan, clusters, &cached);
    if (threadIdx.x == 0) {
        tile->local = total;
        tile->reserved = (uint16_t)cached;
    }
}

/* tile.local becomes where in the free lists its pages go, both lists having grown by all of them. One block. */
LWK_KERNEL(PUBLISH_THREADS, 1) void retire_sum_kernel(lwk_store_t *store, uint32_t first, uint32_t tiles)
{
    LWK_SHARED(publish_shared_t, sh);
    uint64_t carried = (uint64_t)store->pages[0].free_count << 32 | store->pages[1].free_count, evicted = 0;
    __syncthreads();
    for (uint32_t at = 0; at < tiles; at += PUBLISH_THREADS) {
        uint32_t i = at + threadIdx.x;
        uint64_t total, mine = i < tiles ? store->tiles[first + i].local : 0;
        uint64_t before = scan_block<PUBLISH_WARPS>(sh->scan, mine, &total);
        if (i < tiles) {
            evicted += store->tiles[first + i].reserved + (uint32_t)mine;
            store->tiles[first + i].local = carried + before;
        }
        carried += total;
    }
    (void)scan_block<PUBLISH_WARPS>(sh->scan, evicted, &evicted);
    if (threadIdx.x == 0) {
        store->counters->evicted += evicted;
        store->pages[0].free_count = (uint32_t)(carried >> 32);
        store->pages[1].free_count = (uint32_t)carried;
    }
}

LWK_DEVICE void give_back(lwk_store_t *store, const lwk_tile_t *tile, uint32_t entry, uint64_t at)
{
    const uint32_t which = entry < tile->cluster_count ? 0 : 1;
    const uint32_t count = which == 0 ? lwk_cluster_pages(tile->sizes[entry]) : 1;
    lwk_page_class_t *pages = &store->pages[which];
    for (uint32_t k = 0; k < count; k++) {
        uint32_t page = which == 1 ? lwk_place_number(tile->place[entry]) : tile->pages[tile->page_base[entry] + k];
        pages->owner[page].tile = UINT32_MAX;
        pages->free_list[(uint32_t)(which == 0 ? at >> 32 : at) + k] = page;
    }
}

LWK_KERNEL(PUBLISH_THREADS, 2) void retire_kernel(lwk_store_t *store, uint32_t first)
{
    LWK_SHARED(publish_shared_t, sh);
    lwk_tile_t *tile = &store->tiles[first + blockIdx.x];
    const uint32_t entries = lwk_tile_entries(tile);
    uint64_t carried = tile->local;
    for (uint32_t at = 0; at < entries; at += PUBLISH_THREADS) {
        uint32_t e = at + threadIdx.x;
        uint64_t total, mine = cached_pages(tile, e), before = scan_block<PUBLISH_WARPS>(sh->scan, mine, &total);
        if (mine > 0)
            give_back(store, tile, e, carried + before);
        carried += total;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        memset(tile, 0, sizeof *tile);
}

lw_status_t lwk_cuda_retire(lwk_dev_t *dev, const lwk_retire_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_shape_check(&args->shape);
    if (status != LW_OK)
        return status;
    if (args->store == NULL || args->row >= args->range_capacity)
        return LW_ERR_INVALID;
    const uint32_t tiles = args->shape.layer_count * args->shape.kv_head_count, first = args->row * tiles;
    const size_t shared = sizeof(publish_shared_t);
    status = lwk_launch("retire count", retire_count_kernel, dim3(tiles), PUBLISH_THREADS, shared, (cudaStream_t)stream,
                        args->store, first);
    if (status == LW_OK)
        status = lwk_launch("retire sum", retire_sum_kernel, dim3(1), PUBLISH_THREADS, shared, (cudaStream_t)stream,
                            args->store, first, tiles);
    if (status == LW_OK)
        status = lwk_launch("retire", retire_kernel, dim3(tiles), PUBLISH_THREADS, shared, (cudaStream_t)stream, args->store,
                            first);
    return status;
}
