/* seal.c - one layer of a range becomes a segment. The keeper's thread. */
#include "client/seal.h"

#include <stdlib.h>
#include <string.h>

#include "wire/segment_fmt.h"

#define CLUSTERS_MAX (LW_SEGMENT_UNITS_MAX * LW_CLUSTERS_PER_UNIT_MAX)
#define OUTLIERS_MAX (LW_SEGMENT_UNITS_MAX * LW_OUTLIERS_PER_UNIT_MAX)

static void *carve(uint8_t *memory, uint64_t *at, uint64_t bytes)
{
    uint64_t offset = lw_align_up(*at, 64);
    *at = offset + bytes;
    return memory ? memory + offset : NULL;
}

/* What the host reads, and pointers that the device reads. */
static uint64_t lay_out_pinned(lwc_seal_t *seal, uint8_t *memory)
{
    lwk_build_t *build = &seal->build;
    uint64_t heads = seal->model->heads, at = 0;

    build->sizes = carve(memory, &at, heads * CLUSTERS_MAX * sizeof(uint16_t));
    build->parents = carve(memory, &at, heads * OUTLIERS_MAX * sizeof(uint16_t));
    build->cluster_count = carve(memory, &at, heads * sizeof(uint32_t));
    build->outlier_count = carve(memory, &at, heads * sizeof(uint32_t));
    build->index = carve(memory, &at, heads * build->index_stride);
    seal->records = carve(memory, &at, heads * sizeof(uint8_t *));
    seal->sums = carve(memory, &at, heads * seal->model->sums_count * sizeof(double));
    return at;
}

/* What only the ops read. */
static uint64_t lay_out_device(lwc_seal_t *seal, uint8_t *memory)
{
    lwk_build_t *build = &seal->build;
    uint64_t heads = seal->model->heads, d = seal->model->head_dim, at = 0;

    build->assign = carve(memory, &at, heads * LW_SEGMENT_TOKENS_MAX * sizeof(uint16_t));
    build->order = carve(memory, &at, heads * LW_SEGMENT_TOKENS_MAX * sizeof(uint32_t));
    build->centroids = carve(memory, &at, heads * CLUSTERS_MAX * d * sizeof(float));
    build->value_means = carve(memory, &at, heads * CLUSTERS_MAX * d * sizeof(float));
    build->spreads = carve(memory, &at, heads * CLUSTERS_MAX * sizeof(float));
    build->workspace = carve(memory, &at, seal->workspace_capacity);
    return at;
}

static void shape_build(lwk_build_t *build, const lwc_model_t *model, uint32_t tokens)
{
    uint32_t units = (uint32_t)lw_div_up(tokens, LW_UNIT_TOKENS);

    build->job_count = model->heads;
    build->token_count = tokens;
    build->head_dim = model->head_dim;
    build->dtype = model->shape.dtype;
    build->cluster_capacity = units * LW_CLUSTERS_PER_UNIT_MAX;
    build->outlier_capacity = units * LW_OUTLIERS_PER_UNIT_MAX;
}

lw_status_t lwc_seal_init(lwc_seal_t *seal, const lwc_device_t *device, const lwc_model_t *model,
                          void *stream, uint32_t iterations, lw_error_t *error)
{
    memset(seal, 0, sizeof(*seal));
    seal->device = device;
    seal->model = model;
    seal->stream = stream;
    seal->iterations = iterations;
    shape_build(&seal->build, model, LW_SEGMENT_TOKENS_MAX);
    seal->build.cluster_tokens = LWC_CLUSTER_TOKENS;
    seal->build.outlier_ppm = LWC_OUTLIER_PPM;
    seal->build.iterations = iterations;
    seal->build.cluster_encoding = seal->build.outlier_encoding = LW_ENCODING_FP32;
    seal->build.ring_rows = lwc_steady_rows(LW_SEGMENT_TOKENS_MAX);
    seal->build.index_stride = lw_align_up(
        lwk_index_layout(LW_ENCODING_FP32, LW_ENCODING_FP32, CLUSTERS_MAX, OUTLIERS_MAX, model->head_dim)
                .bytes +
            4096,
        64);
    seal->workspace_capacity = device->backend->build_workspace_bytes(&seal->build);
    lw_status_t status = lwc_device_alloc(device, LWK_MEMORY_PINNED, lay_out_pinned(seal, NULL),
                                          "sealing buffers", &seal->pinned_memory, error);
    if (status == LW_OK)
        status = lwc_device_alloc(device, LWK_MEMORY_DEVICE, lay_out_device(seal, NULL), "sealing buffers",
                                  &seal->device_memory, error);
    if (status == LW_OK) {
        (void)lay_out_pinned(seal, seal->pinned_memory);
        (void)lay_out_device(seal, seal->device_memory);
    }
    return status == LW_OK ? lwc_device_event(device, &seal->done, error) : status;
}

void lwc_seal_fini(lwc_seal_t *seal)
{
    if (seal->device) {
        lwc_device_event_free(seal->device, seal->done);
        lwc_device_free(seal->device, LWK_MEMORY_PINNED, seal->pinned_memory);
        lwc_device_free(seal->device, LWK_MEMORY_DEVICE, seal->device_memory);
    }
    memset(seal, 0, sizeof(*seal));
}

/* Tokens that are clustered: all but the sinks. */
static uint32_t clustered(const lwc_seal_job_t *job)
{
    return job->name.first_token == 0 ? job->token_count - LW_SINK_TOKENS : job->token_count;
}

static void set_input(lwc_seal_t *seal, const lwc_seal_job_t *job)
{
    lwk_build_t *build = &seal->build;
    const lwc_steady_t *steady = job->steady;
    uint64_t stream_bytes = steady->rows * seal->model->row_bytes;
    uint32_t first = job->name.first_token == 0 ? LW_SINK_TOKENS : job->name.first_token;

    shape_build(build, seal->model, clustered(job));
    build->keys = steady->keys + (uint64_t)job->name.layer * seal->model->heads * stream_bytes;
    build->values = steady->values + (uint64_t)job->name.layer * seal->model->heads * stream_bytes;
    build->job_stride = (uint64_t)steady->rows * seal->model->head_dim;
    build->first_row = first % steady->rows;
    build->ring_rows = steady->rows;
    build->cluster_tokens = job->shape.cluster_tokens;
    build->outlier_ppm = job->shape.outlier_ppm;
    build->iterations = seal->iterations;
    build->cluster_encoding = job->shape.cluster_encoding;
    build->outlier_encoding = job->shape.outlier_encoding;
    build->moment_sums = seal->sums;
    build->records = seal->records;
    build->workspace_bytes = seal->workspace_capacity;
}

/* Results are there, and buffers free, once the device has done all that was enqueued. */
static lw_status_t settle(lwc_seal_t *seal, lw_error_t *error)
{
    if (!seal->device->async)
        return LW_OK;
    lw_status_t status = lwc_device_record(seal->device, seal->done, seal->stream, error);
    return status == LW_OK ? lwc_device_await(seal->device, seal->done, seal->timeout_us, seal->idle,
                                              seal->idle_arg, error)
                           : status;
}

lw_status_t lwc_seal_build(lwc_seal_t *seal, const lwc_seal_job_t *job, lwc_tile_source_t *heads_out,
                           lw_error_t *error)
{
    const lwk_backend_t *backend = seal->device->backend;
    const struct {
        const char *name;
        lw_status_t (*op)(lwk_dev_t *, const lwk_build_t *, void *);
    } ops[] = {{"kmeans", backend->kmeans},
               {"outliers", backend->outliers},
               {"moments", backend->moments},
               {"encode", backend->encode}};

    set_input(seal, job);
    if (backend->build_workspace_bytes(&seal->build) > seal->workspace_capacity)
        return lw_fail(error, LW_ERR_NO_MEMORY, "sealing %u tokens needs more workspace than was planned",
                       job->token_count);
    for (size_t i = 0; i < LW_ARRAY_SIZE(ops); i++) {
        lw_status_t status = ops[i].op(seal->device->dev, &seal->build, seal->stream);
        if (status != LW_OK)
            return lw_fail(error, status, "op %s over layer %u, tokens %u..%u: %s", ops[i].name,
                           job->name.layer, job->name.first_token,
                           job->name.first_token + job->token_count - 1, lw_status_text(status));
    }
    lw_status_t settled = settle(seal, error);
    if (settled != LW_OK)
        return settled;
    memcpy(job->sums_out, seal->sums, seal->model->heads * seal->model->sums_count * sizeof(double));
    for (uint32_t j = 0; j < seal->model->heads; j++) {
        const lwk_build_t *build = &seal->build;
        uint32_t clusters = build->cluster_count[j], outliers = build->outlier_count[j];
        heads_out[j] = (lwc_tile_source_t){.cluster_count = clusters,
                                           .outlier_count = outliers,
                                           .rows = build->token_count,
                                           .index = build->index + j * build->index_stride,
                                           .index_bytes = lwk_index_layout(build->cluster_encoding,
                                                                           build->outlier_encoding, clusters,
                                                                           outliers, build->head_dim)
                                                              .bytes,
                                           .sizes = build->sizes + (uint64_t)j * build->cluster_capacity};
    }
    return LW_OK;
}

static lw_status_t lay_out_segment(const lwc_seal_t *seal, const lw_segment_plan_t *plan, uint8_t *extent,
                                   uint64_t capacity, uint64_t *bytes_out, lw_error_t *error)
{
    lw_status_t status = lw_segment_layout(plan, NULL, bytes_out, error);

    if (status == LW_OK && *bytes_out > capacity)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "segment of %llu bytes, room for %llu",
                         (unsigned long long)*bytes_out, (unsigned long long)capacity);
    if (status == LW_OK)
        status = lw_segment_layout(plan, extent, bytes_out, error);
    return status;
}

static void plan_segment(const lwc_seal_t *seal, const lwc_seal_job_t *job, uint32_t flags,
                         lw_segment_plan_t *plan)
{
    memset(plan, 0, sizeof(*plan));
    plan->name = job->name;
    plan->flags = flags;
    plan->token_count = job->token_count;
    plan->head_count = seal->model->heads;
    plan->head_dim = seal->model->head_dim;
    plan->dtype = seal->model->shape.dtype;
    plan->cluster_encoding = job->shape.cluster_encoding;
    plan->outlier_encoding = job->shape.outlier_encoding;
    plan->moments_bytes = (flags & LW_SEGMENT_MOMENTS) ? seal->model->moments_bytes : 0;
}

/* Returns the flags. */
static uint32_t plan_clustered(const lwc_seal_t *seal, const lwc_seal_job_t *job, const lwc_tile_source_t *heads,
                               lw_segment_plan_t *plan)
{
    uint32_t flags =
        (job->name.first_token == 0 ? LW_SEGMENT_SINKS : 0) | (job->moments ? LW_SEGMENT_MOMENTS : 0);

    plan_segment(seal, job, flags, plan);
    for (uint32_t j = 0; j < seal->model->heads; j++) {
        plan->head[j].cluster_count = heads[j].cluster_count;
        plan->head[j].outlier_count = heads[j].outlier_count;
        plan->head[j].index_bytes = heads[j].index_bytes;
        plan->head[j].row_count = heads[j].rows;
    }
    return flags;
}

lw_status_t lwc_seal_size(const lwc_seal_t *seal, const lwc_seal_job_t *job, const lwc_tile_source_t *heads,
                          uint64_t *bytes_out, lw_error_t *error)
{
    lw_segment_plan_t plan;

    (void)plan_clustered(seal, job, heads, &plan);
    return lw_segment_layout(&plan, NULL, bytes_out, error);
}

static lw_status_t write_sinks(const lwc_seal_t *seal, const lwc_seal_job_t *job, uint8_t *sinks,
                               lw_error_t *error)
{
    uint64_t half = LW_SINK_TOKENS * seal->model->row_bytes;
    lw_status_t status = LW_OK;

    for (uint32_t j = 0; j < seal->model->heads && status == LW_OK; j++, sinks += 2 * half)
        status = lwc_steady_read(job->steady, job->name.layer, j, 0, LW_SINK_TOKENS, sinks, sinks + half,
                                 seal->stream, error);
    return status;
}

lw_status_t lwc_seal_write(lwc_seal_t *seal, const lwc_seal_job_t *job, const lwc_tile_source_t *heads,
                           uint8_t *extent, uint64_t capacity, uint64_t *bytes_out, lw_error_t *error)
{
    lw_segment_plan_t plan;
    uint32_t flags = plan_clustered(seal, job, heads, &plan);
    lw_status_t status = lay_out_segment(seal, &plan, extent, capacity, bytes_out, error);
    if (status != LW_OK)
        return status;
    const lw_segment_header_t *header = lw_segment_header(extent);
    for (uint32_t j = 0; j < seal->model->heads; j++) {
        const lw_segment_head_t *head = &lw_segment_heads(extent)[j];
        memcpy(extent + head->sizes_offset, heads[j].sizes, 2ull * heads[j].cluster_count);
        memcpy(extent + head->index_offset, heads[j].index, heads[j].index_bytes);
        seal->records[j] = extent + head->records_offset;
    }
    status = seal->device->backend->pack(seal->device->dev, &seal->build, seal->stream);
    if (status != LW_OK)
        return lw_fail(error, status, "op pack over layer %u: %s", job->name.layer, lw_status_text(status));
    if (flags & LW_SEGMENT_SINKS)
        status = write_sinks(seal, job, extent + header->sinks_offset, error);
    if (job->moments)
        memcpy(extent + header->moments_offset, job->moments, seal->model->moments_bytes);
    if (status == LW_OK)
        status = settle(seal, error);
    if (status == LW_OK && !seal->unchecked)
        lw_segment_seal(extent);
    return status;
}

static lw_status_t write_raw_head(const lwc_seal_t *seal, const lwc_seal_job_t *job, uint32_t j,
                                  uint8_t *extent, lw_error_t *error)
{
    const lw_segment_head_t *head = &lw_segment_heads(extent)[j];
    uint16_t *sizes = (uint16_t *)(void *)(extent + head->sizes_offset);
    uint8_t *record = extent + head->records_offset;
    lw_status_t status = LW_OK;

    for (uint32_t c = 0; c < head->cluster_count && status == LW_OK; c++) {
        uint32_t first = c * LW_SEGMENT_RAW_ROWS;
        uint32_t rows = (uint32_t)lw_min_u64(LW_SEGMENT_RAW_ROWS, job->token_count - first);
        sizes[c] = (uint16_t)rows;
        status = lwc_steady_read(job->steady, job->name.layer, j, job->name.first_token + first, rows, record,
                                 record + rows * seal->model->row_bytes, seal->stream, error);
        record += rows * seal->model->pair_bytes;
    }
    return status;
}

lw_status_t lwc_seal_raw(lwc_seal_t *seal, const lwc_seal_job_t *job, uint8_t *extent, uint64_t capacity,
                         uint64_t *bytes_out, lw_error_t *error)
{
    lw_segment_plan_t plan;

    plan_segment(seal, job, LW_SEGMENT_RAW, &plan);
    for (uint32_t j = 0; j < seal->model->heads; j++) {
        plan.head[j].cluster_count = (uint32_t)lw_div_up(job->token_count, LW_SEGMENT_RAW_ROWS);
        plan.head[j].row_count = job->token_count;
    }
    lw_status_t status = lay_out_segment(seal, &plan, extent, capacity, bytes_out, error);
    for (uint32_t j = 0; j < seal->model->heads && status == LW_OK; j++)
        status = write_raw_head(seal, job, j, extent, error);
    if (status == LW_OK)
        status = settle(seal, error);
    if (status == LW_OK)
        lw_segment_seal(extent);
    return status;
}
