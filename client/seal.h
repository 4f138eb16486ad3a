/* seal.h - turns a layer's unsealed tokens into a stored segment: clusters, outliers, moments, index,
 * records, checksums. Used by the keeper's thread only; owns the buffers that the build ops work in (those of
 * one layer). */
#ifndef LWC_SEAL_H
#define LWC_SEAL_H

#include "client/policy.h"
#include "client/steady.h"
#include "client/tile.h"
#include "wire/segment_name.h"

typedef struct lwc_seal {
    const lwc_device_t *device;
    const lwc_model_t *model;
    void *stream;
    uint32_t iterations;
    lwk_build_t build; /* with all buffers set; counts and inputs are set for each layer */
    void *pinned_memory, *device_memory; /* all buffers */
    uint64_t workspace_capacity;
    uint8_t **records;   /* [heads] */
    double *sums;        /* [heads][sums_count] */
    lwk_event_t *done;   /* behind what was enqueued last */
    uint64_t timeout_us; /* for the device; set by the owner */
    bool unchecked;      /* segments stay in this process: no checksums */
    lwc_idle_t idle;     /* runs while the device works; NULL: nothing */
    void *idle_arg;
} lwc_seal_t;

/* One layer of one range. */
typedef struct lwc_seal_job {
    lw_segment_name_t name;
    uint32_t token_count; /* name.first_token 0: sinks included */
    lwc_index_shape_t shape;
    const lwc_steady_t *steady;
    double *sums_out;       /* [heads][sums_count]: this range's own; written by lwc_seal_build */
    const uint8_t *moments; /* [heads] of lwk_moments_bytes to store with the segment, or NULL */
} lwc_seal_job_t;

LW_CHECK lw_status_t lwc_seal_init(lwc_seal_t *seal, const lwc_device_t *device, const lwc_model_t *model,
                                   void *stream, uint32_t iterations, lw_error_t *error);
void lwc_seal_fini(lwc_seal_t *seal);

/* First half: clusters the layer, fills sums_out and tells what the tiles will hold (heads_out[heads] borrows
 * the seal's buffers until the next build). */
LW_CHECK lw_status_t lwc_seal_build(lwc_seal_t *seal, const lwc_seal_job_t *job, lwc_tile_source_t *heads_out,
                                    lw_error_t *error);
/* Second half: writes the sealed segment into `extent` (capacity bytes, pinned). */
LW_CHECK lw_status_t lwc_seal_write(lwc_seal_t *seal, const lwc_seal_job_t *job,
                                    const lwc_tile_source_t *heads, uint8_t *extent, uint64_t capacity,
                                    uint64_t *bytes_out, lw_error_t *error);
/* Bytes that lwc_seal_write needs. */
LW_CHECK lw_status_t lwc_seal_size(const lwc_seal_t *seal, const lwc_seal_job_t *job,
                                   const lwc_tile_source_t *heads, uint64_t *bytes_out, lw_error_t *error);
/* A raw tail: rows in token order, no index. */
LW_CHECK lw_status_t lwc_seal_raw(lwc_seal_t *seal, const lwc_seal_job_t *job, uint8_t *extent,
                                  uint64_t capacity, uint64_t *bytes_out, lw_error_t *error);

/* Adds a range's sums to a running total; makes the stored form of a total. `count` (layer, head) pairs. */
void lwc_moments_add(double *total, const double *sums, uint64_t count, uint64_t sums_count);
void lwc_moments_encode(const double *total, uint64_t count, uint32_t head_dim, uint8_t *moments_out);
/* The total that encodes to these moments (as exactly as floats allow). */
void lwc_moments_decode(const uint8_t *moments, uint64_t count, uint32_t head_dim, double *total_out);

#endif /* LWC_SEAL_H */
