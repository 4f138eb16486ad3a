/* scratch.c - one layout of the step's scratch memory for all backends. Called by the client at open. Any
 * thread. */
#include "kernels/backend.h"

/* Gives the next 64-byte aligned part; with memory == NULL only counts. */
static void *carve(uint8_t *memory, uint64_t *at, uint64_t bytes)
{
    uint64_t offset = lw_align_up(*at, 64);
    *at = offset + bytes;
    return memory != NULL ? memory + offset : NULL;
}

static lwk_scratch_t lay_out(const lwk_dims_t *dims, uint8_t *memory, uint64_t workspace_bytes,
                             uint64_t *bytes_out)
{
    uint64_t head_dim = dims->shape.head_dim;
    uint64_t kv_rows = (uint64_t)dims->session_count * dims->shape.kv_head_count;
    uint64_t rows = kv_rows * dims->query_tokens * dims->shape.group; /* (session, query token, query head) */
    uint64_t parts = lwk_part_slots(dims->range_list_capacity, dims->shape.kv_head_count);
    uint64_t slots = lwk_partial_slots((uint32_t)parts, dims->steady_rows, dims->item_capacity);
    lwk_scratch_t s = {
        .entry_capacity = dims->entry_capacity,
        .range_list_capacity = dims->range_list_capacity,
        .item_capacity = dims->item_capacity,
        .partial_capacity = (uint32_t)slots,
        .part_capacity = (uint32_t)parts,
        .workspace_bytes = workspace_bytes,
    };
    uint64_t at = 0;
    /* First, so that what a backend keeps at its beginning lies at one address whatever the step's dims. */
    s.workspace = carve(memory, &at, workspace_bytes);
    s.query = carve(memory, &at, rows * head_dim * sizeof(float));
    s.spread = carve(memory, &at, rows * sizeof(float));
    s.shift = carve(memory, &at, rows * head_dim * sizeof(float));
    s.logit = carve(memory, &at, rows * dims->entry_capacity * sizeof(float));
    s.tile_max = carve(memory, &at, rows * parts * sizeof(float));
    s.tile_sum = carve(memory, &at, rows * parts * sizeof(float));
    s.mark = carve(memory, &at, kv_rows * dims->entry_capacity);
    s.items = carve(memory, &at, kv_rows * dims->item_capacity * sizeof(lwk_item_t));
    s.item_count = carve(memory, &at, kv_rows * sizeof(uint32_t));
    s.partial = carve(memory, &at, rows * slots * sizeof(lwk_partial_t));
    s.partial_out = carve(memory, &at, rows * slots * head_dim * sizeof(float));
    *bytes_out = lw_align_up(at, 64);
    return s;
}

uint64_t lwk_scratch_bytes(const lwk_dims_t *dims, uint64_t workspace_bytes)
{
    uint64_t bytes;
    (void)lay_out(dims, NULL, workspace_bytes, &bytes);
    return bytes;
}

lwk_scratch_t lwk_scratch_carve(const lwk_dims_t *dims, void *memory, uint64_t workspace_bytes)
{
    uint64_t bytes;
    return lay_out(dims, memory, workspace_bytes, &bytes);
}
