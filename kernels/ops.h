/* ops.h - the plain-data arguments of every op: what lies in device memory, who writes it, in which order.
 *
 * Device memory is the backend's (host memory for `ref` and `cpu`). The client sizes and owns every buffer and never reads
 * device memory on the host. Pinned memory is read by both sides: the ticket ring, the arrivals, the counters.
 *
 * The step path, for each layer: prepare, score (which also attends the steady zone: LWK_BUDGET_ERROR needs its weight),
 * select, attend, finish; after the last layer, admit. All are enqueued on one stream in that order and read the same lwk_step_t. publish runs between steps.
 *
 * Shapes: S sessions in the batch, T query tokens (1..8), H query heads, J KV heads, G = H / J query heads a KV head
 * (query head h reads KV head h / G), d head_dim, L layers.
 */
#ifndef LWK_OPS_H
#define LWK_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/longwave_types.h"
#include "kernels/index_fmt.h"
#include "kernels/parts.h"

/* ---- the model and the policy --------------------------------------------------------------------------------- */

typedef struct lwk_shape {
    uint32_t layer_count, kv_head_count, group, head_dim;
    uint32_t dtype;    /* lw_dtype_t of q, k, v, the steady zone, pages and records */
    uint32_t reserved;
    float scale;       /* logit = scale * q.k; 1 / sqrt(head_dim) unless the model says otherwise */
    float soft_cap;    /* c > 0: logit = c tanh(logit / c); 0: none */
} lwk_shape_t;

typedef enum lwk_rank {
    LWK_RANK_MEAN = 0,         /* the paper's: the logit of the centroid */
    LWK_RANK_EXPECTED_MAX = 1, /* ALGORITHM section 4: l + z sigma(q) sqrt(2 ln s) */
} lwk_rank_t;

typedef enum lwk_budget {
    LWK_BUDGET_TOKENS = 0,   /* entries in vote order while the tokens taken so far are < retrieve_ppm * n / 1e6 */
    LWK_BUDGET_CLUSTERS = 1, /* the paper's: round(retrieve_ppm * n / cluster_tokens / 1e6) entries, whatever their size;
                                then round(estimate_ppm * n / cluster_tokens / 1e6) more are estimated */
    LWK_BUDGET_ERROR = 2,    /* entries by expected squared error for each token that they cost, until what is left of it is
                                < (accuracy_ppm / 1e6)^2 for every query head. Of an entry with share p = e^A / Z (Z: the
                                steady zone included): p^2 (e^variance - 1) / size for a cluster, p^2 for an outlier; taken
                                over the group's heads by the largest */
} lwk_budget_t;

#define LWK_CORRECT_VARIANCE 1u
#define LWK_CORRECT_VALUE 2u

/* The terms of one entry for one (query token, query head), with l = its soft-capped logit, s = its size:
 *   g        = 1 - (l / soft_cap)^2, 1 without a soft cap: the slope of the cap at l
 *   spread'  = min(the entry's spread, LWK_VARIANCE_MAX / scratch.spread), 0 for an outlier
 *   variance = spread' * scratch.spread * g^2
 *   noise    = key scale^2 * shape.scale^2 * |channel * q|^2 / 24 * g^2 for a coded key, else 0
 *   A        = ln s + l + variance / 2 (with LWK_CORRECT_VARIANCE) - noise       its mass is e^A
 *   R        = l, or with LWK_RANK_EXPECTED_MAX  l + z sqrt(variance * 2 ln s)
 * An entry of size 0 has no weight and no vote anywhere. Vote of an entry: sum over query tokens, then over the group's heads,
 * of e^R / (sum over all entries of e^R), added in fp32 in that order; entries are taken by (vote descending, entry slot
 * ascending). LWK_BUDGET_ERROR takes them by (largest error for each token over query tokens and heads descending, slot
 * ascending); the sums that decide when to stop are integers in units of 2^-40. A selection ends at item_capacity, whatever the
 * budget. */
#define LWK_VARIANCE_MAX 12.0f

/* n in the budgets: tokens of the session that lie in ranges, sinks excluded. */
typedef struct lwk_policy {
    uint32_t rank, budget;     /* lwk_rank_t, lwk_budget_t */
    uint32_t correct;          /* LWK_CORRECT_* */
    uint32_t cluster_tokens;   /* 16: the unit of LWK_BUDGET_CLUSTERS */
    uint32_t retrieve_ppm;     /* share of tokens (or clusters) attended exactly; 0: nothing; 1,000,000: everything */
    uint32_t estimate_ppm;     /* share of the rest that is estimated, in vote order (of n tokens); 1,000,000: all */
    uint32_t accuracy_ppm;     /* LWK_BUDGET_ERROR */
    uint32_t floor_entries, cap_ppm; /* LWK_BUDGET_ERROR: at least so many entries, at most this share of tokens */
    float z;                   /* LWK_RANK_EXPECTED_MAX: 1.5 */
    uint32_t steady_only;      /* a control: ranges get no weight at all */
    uint32_t reserved;
} lwk_policy_t;

/* ---- what lies in device memory ------------------------------------------------------------------------------- */

/* Where an entry's rows are. Two bits of kind, 30 of number. select moves REMOTE to PENDING (compare-and-swap) and stamps;
 * admit alone does everything else. */
#define LWK_PLACE_REMOTE 0u
#define LWK_PLACE_PENDING 1u /* number: low 30 bits of the ticket */
#define LWK_PLACE_CACHED 2u  /* number: one-token page of an outlier; 0 for a cluster (its pages are in tile.pages) */
LWK_HD uint32_t lwk_place(uint32_t kind, uint32_t number) { return kind << 30 | (number & 0x3FFFFFFFu); }
LWK_HD uint32_t lwk_place_kind(uint32_t place) { return place >> 30; }
LWK_HD uint32_t lwk_place_number(uint32_t place) { return place & 0x3FFFFFFFu; }

#define LWK_PAGE_TOKENS 4u
/* Page references that a tile needs at most. */
LWK_HD uint32_t lwk_page_refs_max(uint32_t clusters, uint32_t tokens)
{
    return clusters + tokens / LWK_PAGE_TOKENS;
}

/* One (range, layer, KV head): an index block and the placement of its entries. Entries: clusters 0..C-1, then outliers
 * C..C+O-1, as in the stored segment. There are range_capacity * L * J of them. */
typedef struct lwk_tile {
    const uint8_t *index;      /* index part, lwk_index_layout(cluster_encoding, outlier_encoding, C, O, d) */
    const uint16_t *sizes;     /* [C] members of each cluster */
    uint32_t *place;           /* [C + O] */
    uint32_t *stamp;           /* [C + O] step of the last selection; 0: never */
    uint16_t *page_base;       /* [C] first reference of a cluster in pages; filled by publish */
    uint32_t *pages;           /* [lwk_page_refs_max] page numbers of cached clusters, ceil(size / LWK_PAGE_TOKENS) each */
    uint64_t local;            /* 0: the records are elsewhere; else 1 + where the first one lies in `landing`, in bytes */
    uint16_t *row_base;        /* [C] first row of a cluster's record; filled by publish; NULL: never local */
    uint16_t cluster_count, outlier_count;
    uint8_t cluster_encoding, outlier_encoding;
    uint16_t reserved;
    uint16_t outlier_eighths[LWK_PARTS_MAX - 1]; /* outliers whose parents lie below eighths 1..7; filled by publish */
} lwk_tile_t;

/* Local mode: the records of a tile lie together in pinned memory that begins at `landing`, in record order (clusters, then
 * outliers), a multiple of LWK_LANDING_UNIT bytes from it and within 2^32 units. lookup then answers the ticket of a miss itself,
 * in the same op: the record is attended where it lies. Tickets, counters, admission and placement are as for a remote tile, and
 * the records must stay as long as the row is published. A handle all of whose tiles are local may have tickets, head, tail and
 * arrivals in device memory: nobody else reads them. */

/* In the list of batch slots: nobody here, nothing is read or written. */
#define LWK_SLOT_NONE UINT32_MAX

/* One range in a session's list. */
typedef struct lwk_range_ref {
    uint32_t row;        /* of the tile table: tile (row * L + layer) * J + head */
    uint32_t entry_base; /* first slot of its entries in the per-head scratch arrays */
} lwk_range_ref_t;

/* A session as the ops see it; an array of them, one for each batch slot that a handle has. Written by publish, prepare
 * (token_count at layer 0) and the session ops only. */
typedef struct lwk_session {
    uint32_t token_count;  /* tokens so far, those of the running step included once its layer 0 was prepared */
    uint32_t sealed_count; /* tokens that lie in ranges, sinks included; 0 before the first range */
    uint32_t range_count;
    uint32_t entry_count;  /* slots used in the per-head scratch arrays */
    int32_t error;         /* first error of the running step (lw_status_t), 0: none */
    uint32_t steady_rows;  /* rows of the ring; position p >= LW_SINK_TOKENS lies in row p % steady_rows */
    lwk_range_ref_t *ranges; /* [LW_RANGES_MAX or what the handle allows] */
    void *sink_keys, *sink_values;     /* [L][J][LW_SINK_TOKENS][d] */
    void *steady_keys, *steady_values; /* [L][J][steady_rows][d] */
    uint8_t *moments;      /* [L][J] of lwk_moments_bytes(d) */
    lwk_policy_t policy;
} lwk_session_t;
/* Steady zone of a session: positions 0..min(4, n)-1 and max(4, sealed_count)..n-1. */

/* One miss, and the life of its landing (a ticket that no place points to any more, after a retire, is still answered and
 * released): select issues ticket number t into tickets[t % ticket_capacity], the progress side
 * answers in arrivals[t % ticket_capacity], admit releases in order. Numbers only grow. */
typedef struct lwk_ticket {
    uint32_t row;         /* range row; the client maps (row, layer) to a segment */
    uint16_t layer, head;
    uint16_t entry, size; /* rows to come */
    uint32_t flags;       /* LWK_TICKET_* */
} lwk_ticket_t;
#define LWK_TICKET_ADMIT 1u    /* second touch within the window: keep it */
#define LWK_TICKET_PREFETCH 2u
#define LWK_TICKET_LOCAL 4u    /* its arrival was written before the doorbell: nothing is to be fetched */

/* arrivals[]: high half: low 32 bits of (ticket number + 1); low half: where the record landed, in units of
 * LWK_LANDING_UNIT bytes from `landing`, or LWK_LANDING_FAILED. */
#define LWK_LANDING_UNIT 16u
#define LWK_LANDING_FAILED 0xFFFFFFFFu
LWK_HD uint64_t lwk_arrival(uint64_t ticket, uint32_t where) { return ((ticket + 1) & 0xFFFFFFFFu) << 32 | where; }

typedef struct lwk_page_owner {
    uint32_t tile;        /* in the tile table; UINT32_MAX: free */
    uint32_t entry;
} lwk_page_owner_t;

/* One size class of the device cache. A page holds `tokens` rows of K, then `tokens` rows of V. */
typedef struct lwk_page_class {
    uint8_t *bytes;           /* [count][2 * tokens * d elements] */
    lwk_page_owner_t *owner;  /* [count] */
    uint32_t *free_list;      /* [count] stack of free page numbers */
    uint32_t count, tokens;   /* tokens: LWK_PAGE_TOKENS or 1 */
    uint32_t free_count, hand; /* hand: where the clock goes on */
} lwk_page_class_t;

/* Written by ops, in pinned memory: what the host may know without waiting. All only grow. */
typedef struct lwk_counters {
    uint64_t steps;             /* layer steps finished */
    uint64_t head_steps;        /* (session, query token 0, KV head) selections done */
    uint64_t entries_indexed, entries_retrieved, entries_estimated; /* summed over selections */
    uint64_t tokens_indexed, tokens_retrieved, tokens_steady;       /* same */
    uint64_t hits, misses, pending;     /* retrieved entries by where they were */
    uint64_t hit_tokens, miss_tokens, pending_tokens;
    uint64_t admitted, evicted, admit_refused; /* entries */
    uint64_t tickets_failed;
    uint64_t selections_cut;            /* that ended at item_capacity before their budget */
} lwk_counters_t;

/* What all sessions of a handle share. One in device memory. */
typedef struct lwk_store {
    lwk_shape_t shape;
    lwk_tile_t *tiles;          /* [range_capacity][L][J] */
    uint32_t range_capacity;
    uint32_t step;              /* number of the running step: 0 before the first, prepare adds one at layer 0 */
    uint32_t admit_window;      /* steps within which a second touch admits; 48; 0: every touch admits */
    uint32_t ticket_capacity;   /* a power of two, at most 2^29 */
    lwk_page_class_t pages[2];  /* [0]: LWK_PAGE_TOKENS tokens, [1]: 1 token */
    /* pinned: */
    lwk_ticket_t *tickets;      /* [ticket_capacity] */
    uint64_t *ticket_head;      /* issued; the doorbell: stored with release after the tickets */
    uint64_t *ticket_tail;      /* released; stored with release by admit */
    uint64_t *arrivals;         /* [ticket_capacity]; loaded with acquire; those of local tiles are stored by select */
    const uint8_t *landing;     /* base of the landing memory, and of local records */
    lwk_counters_t *counters;
    uint64_t *outcomes;         /* [LWK_OUTCOME_STEPS][session_capacity] lwk_outcome(); NULL: not wanted */
    uint32_t *step_done;        /* newest step that has ended; stored with release after its outcomes; NULL: not wanted */
    uint32_t session_capacity;  /* batch slots of the handle */
    uint32_t reserved;
} lwk_store_t;

/* What admit tells about a step when it runs after the last layer, for each session of the batch: how a host learns that a
 * step has ended, and how, without waiting. The step with number n (lwk_store_t.step) writes row n % LWK_OUTCOME_STEPS. */
#define LWK_OUTCOME_STEPS 64u
LWK_HD uint64_t lwk_outcome(uint32_t step, int32_t error) { return (uint64_t)step << 32 | (uint32_t)error; }

/* ---- one layer step ------------------------------------------------------------------------------------------- */

/* [session][token][head][head_dim] with strides in elements, head_dim contiguous. */
typedef struct lwk_tensor {
    void *data;
    int64_t session_stride, token_stride, head_stride;
} lwk_tensor_t;

#define LWK_MARK_ESTIMATE 0u
#define LWK_MARK_RETRIEVE 1u
#define LWK_MARK_DROP 2u /* gets no weight (policies that estimate only a share) */

/* A retrieved entry. */
typedef struct lwk_item {
    uint32_t range;       /* index in the session's list */
    uint16_t entry, size;
    uint32_t place;       /* as select found or made it: CACHED or PENDING; a REMOTE one found no ticket and is estimated */
    uint32_t reserved;
} lwk_item_t;

/* Partial attention of a part of the tokens, for one (session, query token, query head):
 * m = largest exponent, z = sum of e^(x - m), t = sum of e^(A - m) tau (the weight of the value correction),
 * o = sum of e^(x - m) value, not divided by z. An empty part has m = -INFINITY and z = 0. */
typedef struct lwk_partial {
    float m, z, t, reserved;
} lwk_partial_t;

/* Laid out by lwk_scratch_carve(); reused by every layer step of a handle. P = partial slots. */
typedef struct lwk_scratch {
    float *query;            /* [S][T][H][d] queries in fp32, not scaled */
    float *spread;           /* [S][T][H]    scale^2 q'Sq: variance of the logit for spread 1; 0 without moments */
    float *shift;            /* [S][T][H][d] scale S_vk q: shift of the value for spread 1; 0 without moments */
    float *logit;            /* [S][T][H][entry_capacity] scale q.c of every entry, soft-capped */
    float *tile_max, *tile_sum; /* [S][T][H][part_capacity] maximum of R and sum of e^(R - max), by lwk_part_slot(); an empty
                                   part has -INFINITY and 0 */
    uint8_t *mark;           /* [S][J][entry_capacity] LWK_MARK_* */
    lwk_item_t *items;       /* [S][J][item_capacity] in entry-slot order */
    uint32_t *item_count;    /* [S][J] */
    lwk_partial_t *partial;  /* [S][T][H][partial_capacity] slots: a function of part, steady tile and item tile only */
    float *partial_out;      /* [S][T][H][partial_capacity][d] */
    void *workspace;         /* the backend's own, workspace_bytes from backend->workspace_bytes() */
    uint32_t entry_capacity, range_list_capacity, item_capacity, partial_capacity;
    uint32_t part_capacity, reserved; /* lwk_part_slots() */
    uint64_t workspace_bytes;
} lwk_scratch_t;

#define LWK_STEADY_TILE 64u /* steady tokens of one partial slot */
#define LWK_ITEM_TILE 32u    /* items of one partial slot, at most */
#define LWK_ITEM_TILES 64u   /* tiles of one (session, KV head) that are worth having: few items make small tiles */

/* Items of each tile where there are so many: 4, 8, 16 or 32. A backend may always use 32. */
LWK_HD uint32_t lwk_item_tile(uint32_t items)
{
    uint32_t tile = 4;
    while (tile < LWK_ITEM_TILE && items > tile * LWK_ITEM_TILES)
        tile *= 2;
    return tile;
}

/* Slots that the tiles of at most so many items need. */
LWK_HD uint32_t lwk_item_slots(uint32_t items)
{
    uint32_t large = items / LWK_ITEM_TILE + 1, small = items / 4 + 1;
    small = small < LWK_ITEM_TILES ? small : LWK_ITEM_TILES;
    return large > small ? large : small;
}

/* Partial slots: parts of ranges first, then steady tiles, then item tiles for hits, then item tiles for arrivals. */
LWK_HD uint32_t lwk_partial_slots(uint32_t part_slots, uint32_t steady_rows, uint32_t items)
{
    return part_slots + (steady_rows + LW_SINK_TOKENS) / LWK_STEADY_TILE + 2 + 2 * lwk_item_slots(items);
}

/* prepare, score and select with a guessed query: nothing appended or counted, no stamps, items not kept, misses issued. */
#define LWK_STEP_PREFETCH 1u

typedef struct lwk_step {
    lwk_shape_t shape;          /* the store's, by value: a host cannot read the store of every backend */
    uint32_t layer, session_count, query_tokens, flags;
    lwk_store_t *store;
    lwk_session_t *sessions;    /* device array of all batch slots */
    const uint32_t *slots;      /* [session_count] which of them, device memory */
    lwk_scratch_t scratch;
    lwk_tensor_t query;         /* [S][T][H][d] dtype */
    lwk_tensor_t key, value;    /* [S][T][J][d] dtype; appended by prepare */
    lwk_tensor_t out;           /* [S][T][H][d] dtype */
    float *out_fp32;            /* optional [S][T][H][d], contiguous; NULL: none */
    float *lse_out;             /* optional [S][T][H]; NULL: none */
    const uint32_t *tree_mask;  /* [T] bit u set: query token t sees new token u; NULL: causal */
    uint64_t wait_us;           /* finish: how long an arrival may take; a session whose error is set is not waited for any more.
                                   Host backends are called when all have arrived */
} lwk_step_t;

/* ---- between steps -------------------------------------------------------------------------------------------- */

/* publish: adds one range to a session (its L * J tiles) and moves sealed_count; the tokens leave the steady zone of all
 * layers at once. Tiles come from pinned memory and are copied to the table unless the row is already there (a fork or a
 * prefix: tiles == NULL); place, stamp, page_base and row_base of a new row are initialised here. moments != NULL replaces the
 * session's. Arrays that the tiles point to are already in device memory. */
typedef struct lwk_publish {
    lwk_shape_t shape;           /* the store's */
    uint32_t range_capacity;     /* the store's */
    lwk_store_t *store;
    lwk_session_t *session;
    uint32_t row, entry_slots;   /* slots to reserve: most entries of any of its tiles */
    const lwk_tile_t *tiles;     /* [L][J] or NULL */
    uint32_t token_count;        /* of the range, sinks included */
    const uint8_t *moments;      /* [L][J] or NULL */
} lwk_publish_t;

/* retire: the row is no longer used by any session: frees its cached pages and forgets its tickets. */
typedef struct lwk_retire {
    lwk_shape_t shape;       /* the store's */
    uint32_t range_capacity; /* the store's */
    lwk_store_t *store;
    uint32_t row;
} lwk_retire_t;

/* append: writes K and V of token_count tokens into a session's sinks and ring, for one layer: position first + t lies where
 * lwk_session_t says. At most steady_rows tokens, which do not overlap what is read meanwhile. Counts nothing. */
typedef struct lwk_append {
    lwk_shape_t shape;
    uint32_t layer, first, token_count, steady_rows;
    lwk_tensor_t key, value;           /* [1][token_count][J][d] dtype */
    void *sink_keys, *sink_values;     /* as in lwk_session_t */
    void *steady_keys, *steady_values;
} lwk_append_t;

/* extend: exact attention of many query tokens over rows that all of them may see, or causally; accumulates into running
 * partials (initialised by the first call: `first` set), writes out when `out.data` is set (the last call). Only query heads of
 * the KV heads head_first .. head_first + head_count - 1 are initialised, accumulated and written. */
typedef struct lwk_rows {
    const void *keys, *values; /* dtype; row r of KV head head_first + j at base + j * head_stride + r * row_stride elements */
    int64_t head_stride, row_stride;
    uint32_t row_count;
    uint32_t first_row_position; /* for causal rows: position of row 0 */
} lwk_rows_t;

typedef struct lwk_extend {
    const lwk_shape_t *shape;
    uint32_t query_tokens;       /* any number */
    uint32_t first_position;     /* of query token 0 */
    lwk_tensor_t query;          /* [1][T][H][d] dtype */
    lwk_rows_t rows;
    uint32_t head_first, head_count; /* KV heads that `rows` covers (row counts may differ by head) */
    uint32_t causal;             /* 0: all rows visible to all queries */
    uint32_t first;
    lwk_partial_t *partial;      /* [T][H] */
    float *partial_out;          /* [T][H][d] */
    lwk_tensor_t out;            /* [1][T][H][d]; data NULL: not the last call */
    float *out_fp32, *lse_out;   /* optional, with out */
} lwk_extend_t;

/* ---- building an index, off the step path ---------------------------------------------------------------------- */

/* One job is one (layer, KV head) of a range; jobs are independent and of equal token count n <= 8,192. The ops run in this
 * order over the same struct: kmeans, outliers, moments, encode, pack. Identical input gives bit-identical output on one
 * backend and machine.
 *
 * Results lie where the caller's pointers point, any memory that the device can address, and are there when the stream has come
 * so far: an asynchronous backend writes straight to it, 16 bytes at a time where that matters. What the host wants to read
 * (cluster_count, outlier_count, sizes, parents, moment_sums) is best in pinned memory, records in their final pinned place;
 * assign, order, centroids, value_means, spreads, index and workspace are read again by later ops and belong into device memory.
 * The arrays of pointers (records) are read by the device too. Keys, values, records and index are 16-byte aligned. An
 * asynchronous backend doesn't know the counts when encode is called: index_stride must have room for a full cluster_capacity and
 * as many outliers as outlier_ppm allows, else LW_ERR_INVALID. */
typedef struct lwk_build {
    uint32_t job_count, token_count, head_dim, dtype;
    /* input rows: row i of job j at base + j * job_stride + ((first_row + i) % ring_rows) * d elements */
    const void *keys, *values;
    uint64_t job_stride;
    uint32_t first_row, ring_rows;
    /* how */
    uint32_t cluster_tokens;     /* 16: average size; a cluster is split above 4 times this */
    uint32_t outlier_ppm;        /* share of tokens that become outliers: floor(n * ppm / 1e6), at most the capacity */
    uint32_t iterations;         /* 10 */
    uint32_t cluster_encoding, outlier_encoding;
    uint32_t cluster_capacity, outlier_capacity; /* per job: at most LW_CLUSTERS_PER_UNIT_MAX and LW_OUTLIERS_PER_UNIT_MAX a
                                                    unit (rounded up) */
    /* between the ops, and for tests; all owned by the caller */
    uint16_t *assign;            /* [job][n] cluster of each token (outliers: base cluster) */
    uint32_t *order;             /* [job][n] token numbers in record order: clusters in index order, tokens ascending in
                                    each, then outliers by (parent, token) */
    uint16_t *sizes;             /* [job][cluster_capacity] members without outliers; each >= 1 */
    uint16_t *parents;           /* [job][outlier_capacity] */
    uint32_t *cluster_count, *outlier_count; /* [job] */
    float *centroids;            /* [job][cluster_capacity][d] exact means of the final members */
    float *value_means;          /* same shape: means over the members and the cluster's outliers */
    float *spreads;              /* [job][cluster_capacity] mean |k - c|^2 over members */
    double *moment_sums;         /* [job][1 + 1 + d * d + d * d]: tokens, sum |k - c|^2, sum (k-c)(k-c)', sum (v-u)(k-c)';
                                    this range's own sums (the caller accumulates and normalises) */
    /* encode */
    uint8_t *index;              /* [job] at index + job * index_stride, lwk_index_layout() of its own counts */
    uint64_t index_stride;
    /* pack */
    uint8_t *const *records;     /* [job] where each job's records go (row pairs in record order) */
    void *workspace;
    uint64_t workspace_bytes;    /* lwk_build_workspace_bytes() of the backend */
} lwk_build_t;

/* unpack: records of one head back to token order: rows of K and of V, [n][d] each. sizes and order are input from outside and
 * are checked on the host: they are pinned, and as they are when the op is called. */
typedef struct lwk_unpack {
    uint32_t head_dim, dtype, cluster_count, outlier_count, token_count;
    const uint16_t *sizes;
    const uint32_t *order;
    const uint8_t *records;
    void *keys, *values;
} lwk_unpack_t;

/* gather: copies records from host memory to landing memory (local mode; also what a daemon does). Both memories and the lists
 * are pinned; 16-byte aligned records travel fastest. */
typedef struct lwk_gather {
    uint32_t count;
    const uint8_t *const *from; /* [count] */
    const uint32_t *bytes;      /* [count] */
    const uint64_t *to;         /* [count] offsets in `into` */
    uint8_t *into;
} lwk_gather_t;

#endif /* LWK_OPS_H */
