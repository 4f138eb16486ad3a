/* recover.c - what is in the log at start: the super block, then the record headers of every zone. Main thread, blocking. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "storaged/tier/tier_private.h"

static lw_status_t block_now(lwd_tier_t *tier, lwd_disk_kind_t kind, uint64_t offset)
{
    lwd_disk_op_t op = {.kind = kind, .offset = offset, .bytes = LWD_LOG_BLOCK, .data = tier->writer.header};
    return tier->ops->now(tier->disk, &op);
}

/* A new log: the records of an earlier one do not carry its id. */
static lw_status_t begin(lwd_tier_t *tier, lw_error_t *error)
{
    lwd_log_super_t super = {.magic = LWD_LOG_MAGIC,
                             .version = LWD_LOG_VERSION,
                             .zone_count = tier->zone_count,
                             .zone_bytes = tier->zone_bytes};
    if (getrandom(&super.log_id, sizeof(super.log_id), 0) != (ssize_t)sizeof(super.log_id))
        return lw_fail(error, LW_ERR_IO, "no random bytes for the log's id");
    lwd_log_super_seal(&super);
    memset(tier->writer.header, 0, LWD_LOG_BLOCK);
    memcpy(tier->writer.header, &super, sizeof(super));
    tier->log_id = super.log_id;
    lw_status_t status = block_now(tier, LWD_DISK_WRITE, 0);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "the log's first block cannot be written");
}

/* Takes one record in; the later copy of a name that was there already is the one that counts. */
static void take(lwd_tier_t *tier, const lwd_log_record_t *header, uint32_t zone, uint64_t offset, uint32_t *full)
{
    lwd_tier_record_t is = {header->name, header->bytes, header->fleet_id};
    if (lwd_tier_record_new(tier, &is, zone, offset) == LWD_TIER_NONE)
        (*full)++;
}

static lw_status_t read_zone(lwd_tier_t *tier, uint32_t z, uint32_t *full, lw_error_t *error)
{
    tier_zone_t *zone = &tier->zones[z];
    while (tier->zone_bytes - zone->used >= 2 * LWD_LOG_BLOCK) {
        uint64_t offset = tier_zone_offset(tier, z) + zone->used;
        lwd_log_record_t header;
        lw_status_t status = block_now(tier, LWD_DISK_READ, offset);
        if (status != LW_OK)
            return lw_fail(error, status, "the log cannot be read at %llu", (unsigned long long)offset);
        memcpy(&header, tier->writer.header, sizeof(header));
        status = lwd_log_record_check(&header, tier->log_id, zone->index, zone->use, tier->zone_bytes - zone->used);
        if (status != LW_OK) {
            if (status != LW_ERR_NOT_FOUND)
                LW_WARN("tier", "zone %u of the log ends at a header that is broken (%s), after %u records", z,
                        lw_status_text(status), zone->index);
            return LW_OK;
        }
        zone->use = header.zone_use;
        zone->index++;
        zone->used += lwd_log_record_space(header.bytes);
        take(tier, &header, z, offset, full);
    }
    return LW_OK;
}

/* By name, the latest copy first. */
static int order(const void *a, const void *b, void *arg)
{
    const lwd_tier_t *tier = arg;
    const tier_record_t *x = &tier->records[*(const uint32_t *)a], *y = &tier->records[*(const uint32_t *)b];
    int names = memcmp(&x->is.name, &y->is.name, sizeof(x->is.name));
    uint64_t use_x = tier->zones[x->zone].use, use_y = tier->zones[y->zone].use;
    if (names != 0)
        return names;
    if (use_x != use_y)
        return use_x > use_y ? -1 : 1;
    return x->offset > y->offset ? -1 : 1;
}

/* A crash between a copy and the reuse of where it came from leaves both. */
static lw_status_t drop_older_copies(lwd_tier_t *tier)
{
    uint32_t count = 0;
    uint32_t *sorted = malloc((tier->record_count + 1) * sizeof(*sorted));
    if (sorted == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t record = 0; record < tier->record_max; record++) {
        if (tier->records[record].zone != LWD_TIER_NONE)
            sorted[count++] = record;
    }
    qsort_r(sorted, count, sizeof(*sorted), order, tier);
    uint32_t kept = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (lw_segment_name_equal(&tier->records[sorted[i]].is.name, &tier->records[sorted[kept]].is.name))
            lwd_tier_forget(tier, sorted[i]);
        else
            kept = i;
    }
    free(sorted);
    return LW_OK;
}

static lw_status_t read_zones(lwd_tier_t *tier, lw_error_t *error)
{
    uint32_t full = 0;
    lw_status_t status = LW_OK;
    for (uint32_t z = 0; z < tier->zone_count && status == LW_OK; z++) {
        status = read_zone(tier, z, &full, error);
        if (tier->zones[z].use > tier->uses) {
            tier->uses = tier->zones[z].use;
            tier->open_zone = z; /* the latest: it goes on where the last life stopped */
        }
    }
    if (status == LW_OK)
        status = drop_older_copies(tier);
    if (full > 0)
        LW_WARN("tier", "the log holds %u records more than the daemon has room for: dropped", full);
    return status;
}

lw_status_t lwd_tier_recover(lwd_tier_t *tier, const lwd_tier_params_t *params, lw_error_t *error)
{
    lwd_log_super_t super;
    lw_status_t status = block_now(tier, LWD_DISK_READ, 0);
    if (status != LW_OK)
        return lw_fail(error, status, "%s cannot be read", params->path);
    memcpy(&super, tier->writer.header, sizeof(super));
    bool empty = true;
    for (size_t i = 0; i < sizeof(super); i++)
        empty = empty && ((const uint8_t *)&super)[i] == 0;
    if (empty)
        return begin(tier, error);
    status = lwd_log_super_check(&super);
    if (status == LW_ERR_NOT_FOUND)
        return lw_fail(error, LW_ERR_INVALID, "%s is a file that is no log: it is left alone", params->path);
    if (status != LW_OK || super.zone_count != tier->zone_count || super.zone_bytes != tier->zone_bytes) {
        LW_WARN("tier", "%s: %s: what it held is dropped", params->path,
                status != LW_OK ? lw_status_text(status) : "the log was made with another size");
        return begin(tier, error);
    }
    tier->log_id = super.log_id;
    return read_zones(tier, error);
}
