/* directory.c - rows of ranges: taking, naming, telling the step's store. Caller's thread. */
#include "client/ctx.h"

#include <stdlib.h>
#include <string.h>

lw_status_t lwc_directory_init(lwc_directory_t *directory, uint32_t row_capacity, uint32_t layers,
                               lw_error_t *error)
{
    memset(directory, 0, sizeof(*directory));
    directory->row_capacity = row_capacity;
    directory->layers = layers;
    directory->rows = calloc(row_capacity, sizeof(*directory->rows));
    directory->runs = calloc((size_t)row_capacity * layers, sizeof(*directory->runs));
    directory->node_index =
        calloc((size_t)row_capacity * layers * LW_REPLICAS_MAX, sizeof(*directory->node_index));
    directory->segment_bytes = calloc((size_t)row_capacity * layers, sizeof(*directory->segment_bytes));
    if (!directory->rows || !directory->runs || !directory->segment_bytes || !directory->node_index)
        return lw_fail(error, LW_ERR_NO_MEMORY, "range table: out of memory for %u ranges", row_capacity);
    return LW_OK;
}

void lwc_directory_fini(lwc_directory_t *directory)
{
    free(directory->rows);
    free(directory->runs);
    free(directory->segment_bytes);
    free(directory->node_index);
    memset(directory, 0, sizeof(*directory));
}

lw_status_t lwc_directory_take(lwc_directory_t *directory, uint32_t *row_out, lw_error_t *error)
{
    for (uint32_t i = 0; i < directory->row_capacity; i++) {
        uint32_t row = (directory->next + i) % directory->row_capacity;
        if (directory->rows[row].holders != 0)
            continue;
        directory->next = (row + 1) % directory->row_capacity;
        directory->rows[row] = (lwc_range_row_t){.holders = 1, .registrar = UINT32_MAX};
        memset(lwc_directory_runs(directory, row), 0, directory->layers * sizeof(lwc_run_t));
        *row_out = row;
        return LW_OK;
    }
    return lw_fail(error, LW_ERR_EXHAUSTED,
                   "all %u range rows are in use: open with a larger sessions_max or tokens_max",
                   directory->row_capacity);
}

lw_status_t lwc_directory_register(struct lw *kv, uint32_t row, uint32_t slot, lw_error_t *error)
{
    lwc_directory_t *directory = &kv->directory;
    lwc_range_row_t *range = &directory->rows[row];
    const uint16_t *nodes = lwc_directory_nodes(directory, row);

    for (uint32_t layer = 0; layer < directory->layers; layer++) {
        lw_segment_name_t name = range->name;
        name.layer = (uint16_t)layer;
        lw_status_t status = lwc_route_segment(kv, row * directory->layers + layer, slot, &name,
                                               nodes + (size_t)layer * LW_REPLICAS_MAX, range->replicas, error);
        if (status != LW_OK)
            return status;
    }
    range->registrar = slot;
    return LW_OK;
}

void lwc_directory_unregister(struct lw *kv, uint32_t row)
{
    for (uint32_t layer = 0; layer < kv->directory.layers; layer++)
        lwc_route_segment_forget(kv, row * kv->directory.layers + layer);
    kv->directory.rows[row].registrar = UINT32_MAX;
}
