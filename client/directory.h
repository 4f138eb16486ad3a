/* directory.h - the handle's table of ranges: which rows of the device's tile table are in use, where their
 * segments are stored, who shares them. Owned and used by the caller's thread only.
 *
 * A row is held once by each session that has it in its list (a fork shares rows) and once while its range is
 * being sealed. A segment's key in the store is row * layers + layer. */
#ifndef LWC_DIRECTORY_H
#define LWC_DIRECTORY_H

#include "base/error.h"
#include "base/limits.h"
#include "client/arena.h"
#include "wire/segment_name.h"

#define LWC_ROW_BURIED UINT32_MAX /* as holders: nobody holds it, the device may still read it */

typedef struct lwc_range_row {
    uint32_t holders;   /* 0: free */
    uint32_t registrar; /* session slot whose token the step store shows for it */
    uint32_t first_token, token_count, entry_slots;
    uint32_t replicas, next_grave;
    lw_segment_name_t name;             /* of layer 0 */
    uint64_t stored_bytes, index_bytes; /* all layers, one replica; on the device */
    uint64_t clusters, outliers;
} lwc_range_row_t;

typedef struct lwc_directory {
    uint32_t row_capacity, layers;
    lwc_range_row_t *rows;
    lwc_run_t *runs;         /* [row][layer] */
    uint64_t *segment_bytes; /* [row][layer]: of the stored segment */
    uint16_t *node_index;    /* [row][layer][LW_REPLICAS_MAX] */
    uint32_t next;           /* where the search for a free row goes on */
} lwc_directory_t;

LW_CHECK lw_status_t lwc_directory_init(lwc_directory_t *directory, uint32_t row_capacity, uint32_t layers,
                                        lw_error_t *error);
void lwc_directory_fini(lwc_directory_t *directory);
/* A free row with one holder. ERR_EXHAUSTED when there is none. */
LW_CHECK lw_status_t lwc_directory_take(lwc_directory_t *directory, uint32_t *row_out, lw_error_t *error);

static inline lwc_run_t *lwc_directory_runs(lwc_directory_t *directory, uint32_t row)
{
    return directory->runs + (size_t)row * directory->layers;
}
static inline uint64_t *lwc_directory_bytes(lwc_directory_t *directory, uint32_t row)
{
    return directory->segment_bytes + (size_t)row * directory->layers;
}
static inline uint16_t *lwc_directory_nodes(lwc_directory_t *directory, uint32_t row)
{
    return directory->node_index + (size_t)row * directory->layers * LW_REPLICAS_MAX;
}
/* Tells the store where the row's segments are, in the name of the session in `slot`. */
struct lw;
LW_CHECK lw_status_t lwc_directory_register(struct lw *kv, uint32_t row, uint32_t slot, lw_error_t *error);
void lwc_directory_unregister(struct lw *kv, uint32_t row);

#endif /* LWC_DIRECTORY_H */
