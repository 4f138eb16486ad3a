/* log.c - the log: append, load, forget. One thread; the disk's own threads only finish operations. */
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "storaged/tier/tier_private.h"

#define KEEP_ZONES 1u /* for compaction alone */

/* ---- records and zones ---- */
static void zone_link(lwd_tier_t *tier, uint32_t record, uint32_t zone)
{
    tier_record_t *at = &tier->records[record];
    at->zone = zone;
    at->prev = LWD_TIER_NONE;
    at->next = tier->zones[zone].first;
    if (at->next != LWD_TIER_NONE)
        tier->records[at->next].prev = record;
    tier->zones[zone].first = record;
    tier->zones[zone].live += lwd_log_record_space(at->is.bytes);
}

static void zone_unlink(lwd_tier_t *tier, uint32_t record)
{
    tier_record_t *at = &tier->records[record];
    if (at->prev != LWD_TIER_NONE)
        tier->records[at->prev].next = at->next;
    else
        tier->zones[at->zone].first = at->next;
    if (at->next != LWD_TIER_NONE)
        tier->records[at->next].prev = at->prev;
    tier->zones[at->zone].live -= lwd_log_record_space(at->is.bytes);
}

uint32_t lwd_tier_record_new(lwd_tier_t *tier, const lwd_tier_record_t *is, uint32_t zone, uint64_t offset)
{
    uint32_t record = tier->free_record;
    if (record == LWD_TIER_NONE)
        return LWD_TIER_NONE;
    tier->free_record = tier->records[record].next;
    tier->record_count++;
    tier->records[record].is = *is;
    tier->records[record].offset = offset;
    zone_link(tier, record, zone);
    return record;
}

void lwd_tier_record_move(lwd_tier_t *tier, uint32_t record, uint32_t zone, uint64_t offset)
{
    zone_unlink(tier, record);
    tier->records[record].offset = offset;
    zone_link(tier, record, zone);
}

void lwd_tier_forget(lwd_tier_t *tier, uint32_t record)
{
    tier_record_t *at = &tier->records[record];
    LW_ASSERT(record < tier->record_max && at->zone != LWD_TIER_NONE);
    zone_unlink(tier, record);
    at->zone = LWD_TIER_NONE;
    at->next = tier->free_record;
    tier->free_record = record;
    tier->record_count--;
    tier->changed = true;
    if (tier->writer.record == record) /* compaction is copying it: the copy will be dead */
        tier->writer.record = LWD_TIER_NONE;
}

bool lwd_tier_record(const lwd_tier_t *tier, uint32_t record, lwd_tier_record_t *record_out)
{
    if (record >= tier->record_max || tier->records[record].zone == LWD_TIER_NONE)
        return false;
    *record_out = tier->records[record].is;
    return true;
}

uint32_t lwd_tier_free_zones(const lwd_tier_t *tier)
{
    uint32_t count = 0;
    for (uint32_t zone = 0; zone < tier->zone_count; zone++)
        count += tier_zone_free(tier, zone) ? 1 : 0;
    return count;
}

static uint32_t begin_zone(lwd_tier_t *tier)
{
    for (uint32_t zone = 0; zone < tier->zone_count; zone++) {
        if (!tier_zone_free(tier, zone))
            continue;
        tier->zones[zone] = (tier_zone_t){.use = ++tier->uses, .first = LWD_TIER_NONE};
        return zone;
    }
    return LWD_TIER_NONE;
}

bool lwd_tier_place(lwd_tier_t *tier, uint64_t bytes, uint32_t keep)
{
    tier_writer_t *writer = &tier->writer;
    if (tier->open_zone == LWD_TIER_NONE ||
        tier->zone_bytes - tier->zones[tier->open_zone].used < lwd_log_record_space(bytes)) {
        if (lwd_tier_free_zones(tier) <= keep)
            return false;
        tier->open_zone = begin_zone(tier);
    }
    writer->zone = tier->open_zone;
    writer->offset = tier_zone_offset(tier, writer->zone) + tier->zones[writer->zone].used;
    return true;
}

void lwd_tier_placed(lwd_tier_t *tier)
{
    tier_zone_t *zone = &tier->zones[tier->writer.zone];
    zone->used += lwd_log_record_space(tier->writer.is.bytes);
    zone->index++;
}

/* The zone is not written to again before it is begun anew: what lies behind its last record is not known. */
void lwd_tier_write_failed(lwd_tier_t *tier)
{
    tier->errors++;
    if (tier->open_zone == tier->writer.zone)
        tier->open_zone = LWD_TIER_NONE;
}

void lwd_tier_write_header(lwd_tier_t *tier, tier_writer_state_t state)
{
    tier_writer_t *writer = &tier->writer;
    lwd_log_record_t header = {
        .magic = LWD_LOG_RECORD_MAGIC,
        .version = LWD_LOG_VERSION,
        .index = tier->zones[writer->zone].index,
        .log_id = tier->log_id,
        .zone_use = tier->zones[writer->zone].use,
        .name = writer->is.name,
        .bytes = writer->is.bytes,
        .fleet_id = writer->is.fleet_id,
    };
    lwd_log_record_seal(&header);
    memset(writer->header, 0, LWD_LOG_BLOCK);
    memcpy(writer->header, &header, sizeof(header));
    writer->state = state;
    writer->op = (lwd_disk_op_t){
        .kind = LWD_DISK_WRITE, .offset = writer->offset, .bytes = LWD_LOG_BLOCK, .data = writer->header};
    tier->ops->submit(tier->disk, &writer->op);
}

/* ---- append and load ---- */
lw_status_t lwd_tier_append(lwd_tier_t *tier, const lwd_tier_record_t *record, const void *data, uint64_t cookie)
{
    tier_writer_t *writer = &tier->writer;
    if (lwd_log_record_space(record->bytes) > tier->zone_bytes)
        return LW_ERR_INVALID;
    if (writer->state != TIER_IDLE)
        return LW_ERR_BUSY;
    if (tier->free_record == LWD_TIER_NONE)
        return LW_ERR_EXHAUSTED;
    if (!lwd_tier_place(tier, record->bytes, KEEP_ZONES)) {
        tier->changed = true;
        return lwd_tier_victim(tier) != LWD_TIER_NONE || tier->compacting != LWD_TIER_NONE ? LW_ERR_BUSY
                                                                                           : LW_ERR_EXHAUSTED;
    }
    writer->is = *record;
    writer->cookie = cookie;
    writer->record = LWD_TIER_NONE;
    writer->state = TIER_APPEND_DATA;
    writer->op = (lwd_disk_op_t){.kind = LWD_DISK_WRITE,
                                 .offset = writer->offset + LWD_LOG_BLOCK,
                                 .bytes = lw_align_up(record->bytes, LWD_LOG_BLOCK),
                                 .data = (void *)(uintptr_t)data};
    tier->ops->submit(tier->disk, &writer->op);
    return LW_OK;
}

lw_status_t lwd_tier_load(lwd_tier_t *tier, uint32_t record, void *into, uint64_t cookie)
{
    const tier_record_t *at = &tier->records[record];
    LW_ASSERT(record < tier->record_max && at->zone != LWD_TIER_NONE);
    for (uint32_t i = 0; i < LWD_TIER_LOADS_MAX; i++) {
        tier_load_t *load = &tier->loads[i];
        if (load->zone != LWD_TIER_NONE)
            continue;
        load->zone = at->zone;
        load->cookie = cookie;
        load->op = (lwd_disk_op_t){.kind = LWD_DISK_READ,
                                   .offset = at->offset + LWD_LOG_BLOCK,
                                   .bytes = lw_align_up(at->is.bytes, LWD_LOG_BLOCK),
                                   .data = into};
        tier->zones[at->zone].reads++;
        tier->loading++;
        tier->ops->submit(tier->disk, &load->op);
        return LW_OK;
    }
    return LW_ERR_BUSY;
}

/* ---- what has ended ---- */
static bool append_step(lwd_tier_t *tier, lwd_tier_event_t *event)
{
    tier_writer_t *writer = &tier->writer;
    lw_status_t status = writer->op.status;
    if (status == LW_OK && writer->state == TIER_APPEND_DATA) {
        lwd_tier_write_header(tier, TIER_APPEND_HEADER);
        return false;
    }
    *event = (lwd_tier_event_t){LWD_TIER_APPENDED, status, LWD_TIER_NONE, writer->cookie};
    if (status == LW_OK) {
        event->record = lwd_tier_record_new(tier, &writer->is, writer->zone, writer->offset);
        lwd_tier_placed(tier);
        tier->copies_failed = 0;
    } else {
        lwd_tier_write_failed(tier);
    }
    writer->state = TIER_IDLE;
    tier->changed = true;
    return true;
}

static void load_step(lwd_tier_t *tier, tier_load_t *load, lwd_tier_event_t *event)
{
    tier->errors += load->op.status != LW_OK ? 1 : 0;
    tier->zones[load->zone].reads--;
    tier->loading--;
    load->zone = LWD_TIER_NONE;
    tier->changed = true;
    *event = (lwd_tier_event_t){LWD_TIER_LOADED, load->op.status, LWD_TIER_NONE, load->cookie};
}

uint32_t lwd_tier_round(lwd_tier_t *tier, lwd_tier_event_t *events)
{
    uint32_t count = 0;
    for (lwd_disk_op_t *op = tier->ops->reap(tier->disk), *next; op != NULL; op = next) {
        next = op->next;
        if (op != &tier->writer.op)
            load_step(tier, (tier_load_t *)(void *)op, &events[count++]);
        else if (tier->writer.state == TIER_APPEND_DATA || tier->writer.state == TIER_APPEND_HEADER)
            count += append_step(tier, &events[count]) ? 1 : 0;
        else
            lwd_tier_copy_step(tier);
    }
    lwd_tier_compact(tier);
    return count;
}

/* ---- figures ---- */
bool lwd_tier_has_room(const lwd_tier_t *tier)
{
    return tier->free_record != LWD_TIER_NONE &&
           (lwd_tier_free_zones(tier) > KEEP_ZONES || lwd_tier_victim(tier) != LWD_TIER_NONE);
}

bool lwd_tier_idle(const lwd_tier_t *tier)
{
    return tier->writer.state == TIER_IDLE && tier->loading == 0;
}

void lwd_tier_usage(const lwd_tier_t *tier, lwd_tier_usage_t *usage_out)
{
    *usage_out = (lwd_tier_usage_t){.bytes = tier->zone_count * tier->zone_bytes,
                                    .compacted_bytes = tier->compacted_bytes,
                                    .errors = tier->errors,
                                    .records = tier->record_count,
                                    .zones = tier->zone_count,
                                    .free_zones = lwd_tier_free_zones(tier)};
    for (uint32_t zone = 0; zone < tier->zone_count; zone++) {
        usage_out->live_bytes += tier->zones[zone].live;
        if (!tier_zone_free(tier, zone))
            usage_out->dead_bytes += tier->zones[zone].used - tier->zones[zone].live;
    }
}

bool lwd_tier_check(const lwd_tier_t *tier)
{
    uint32_t records = 0, spare = 0, reads = 0;
    for (uint32_t z = 0; z < tier->zone_count; z++) {
        const tier_zone_t *zone = &tier->zones[z];
        uint64_t live = 0;
        uint32_t before = LWD_TIER_NONE;
        for (uint32_t r = zone->first; r != LWD_TIER_NONE; before = r, r = tier->records[r].next) {
            const tier_record_t *record = &tier->records[r];
            uint64_t at = record->offset - tier_zone_offset(tier, z), space = lwd_log_record_space(record->is.bytes);
            if (record->zone != z || record->prev != before || at > zone->used || space > zone->used - at ||
                ++records > tier->record_max)
                return false;
            live += space;
        }
        if (live != zone->live || zone->used > tier->zone_bytes)
            return false;
        reads += zone->reads;
    }
    for (uint32_t r = tier->free_record; r != LWD_TIER_NONE; r = tier->records[r].next) {
        if (tier->records[r].zone != LWD_TIER_NONE || ++spare > tier->record_max)
            return false;
    }
    bool copying = tier->writer.state >= TIER_COPY_READ;
    return records == tier->record_count && records + spare == tier->record_max &&
           reads == tier->loading + (copying ? 1 : 0);
}

/* ---- life ---- */
static uint64_t choose_zone_bytes(uint64_t bytes)
{
    uint64_t most = lwd_log_record_space(LW_SEGMENT_BYTES_MAX), least = 8u << 20;
    uint64_t zone = lw_max_u64(lw_align_up(bytes / 32, 1u << 20), least);
    zone = lw_min_u64(zone, most);
    return lw_max_u64(zone, lw_align_up(bytes / LWD_LOG_ZONES_MAX + 1, 1u << 20));
}

static lw_status_t allocate(lwd_tier_t *tier)
{
    tier->zones = calloc(tier->zone_count, sizeof(*tier->zones));
    tier->records = calloc(tier->record_max, sizeof(*tier->records));
    tier->writer.header = aligned_alloc(LWD_LOG_BLOCK, LWD_LOG_BLOCK);
    tier->writer.chunk = aligned_alloc(LWD_LOG_BLOCK, LWD_TIER_CHUNK_BYTES);
    if (tier->zones == NULL || tier->records == NULL || tier->writer.header == NULL || tier->writer.chunk == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint32_t zone = 0; zone < tier->zone_count; zone++)
        tier->zones[zone].first = LWD_TIER_NONE;
    for (uint32_t i = 0; i < LWD_TIER_LOADS_MAX; i++)
        tier->loads[i].zone = LWD_TIER_NONE;
    tier->free_record = LWD_TIER_NONE;
    for (uint32_t record = tier->record_max; record-- > 0;) {
        tier->records[record] = (tier_record_t){.zone = LWD_TIER_NONE, .next = tier->free_record};
        tier->free_record = record;
    }
    return LW_OK;
}

lw_status_t lwd_tier_open(const lwd_tier_params_t *params, lwd_tier_t **tier_out, lw_error_t *error)
{
    lwd_tier_t *tier = calloc(1, sizeof(*tier));
    if (tier == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the log");
    tier->ops = params->disk;
    tier->record_max = params->record_max;
    tier->zone_bytes = params->zone_bytes != 0 ? params->zone_bytes : choose_zone_bytes(params->bytes);
    tier->zone_count = (uint32_t)((params->bytes - LWD_LOG_BLOCK) / tier->zone_bytes);
    tier->open_zone = tier->compacting = tier->writer.record = LWD_TIER_NONE;
    LW_ASSERT(tier->zone_count >= 2 && tier->zone_count <= LWD_LOG_ZONES_MAX && tier->record_max > 0);
    lw_status_t status = allocate(tier);
    if (status != LW_OK)
        (void)lw_fail(error, status, "no memory for %u records of the log", tier->record_max);
    lwd_disk_params_t disk = {
        .path = params->path, .bytes = params->bytes, .notify = params->notify, .arg = params->arg};
    if (status == LW_OK)
        status = tier->ops->open(&disk, &tier->disk, error);
    if (status == LW_OK)
        status = lwd_tier_recover(tier, params, error);
    if (status != LW_OK) {
        lwd_tier_close(tier);
        return status;
    }
    *tier_out = tier;
    return LW_OK;
}

void lwd_tier_close(lwd_tier_t *tier)
{
    if (tier == NULL)
        return;
    if (tier->disk != NULL)
        tier->ops->close(tier->disk);
    free(tier->zones);
    free(tier->records);
    free(tier->writer.header);
    free(tier->writer.chunk);
    free(tier);
}
