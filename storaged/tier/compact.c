/* compact.c - empties zones of which much is dead, a record at a time, so that they can be begun anew. The copies go through
 * one chunk of memory; they are not verified here, since whoever loads a record verifies all of it. */
#include "storaged/tier/tier_private.h"

#define FREE_ZONES_MIN 2u    /* compaction begins when no more are free */
#define DEAD_SHARE 8u        /* a zone is worth emptying when this share of it is dead */
#define COPIES_FAILED_MAX 3u /* in a row; then compaction leaves the disk alone until an append has gone well */

uint32_t lwd_tier_victim(const lwd_tier_t *tier)
{
    uint32_t best = LWD_TIER_NONE;
    uint64_t best_live = UINT64_MAX;
    if (tier->copies_failed >= COPIES_FAILED_MAX || (tier->cramped && lwd_tier_free_zones(tier) == 0))
        return LWD_TIER_NONE;
    for (uint32_t zone = 0; zone < tier->zone_count; zone++) {
        const tier_zone_t *at = &tier->zones[zone];
        if (zone == tier->open_zone || at->live == 0 || at->live > tier->zone_bytes - tier->zone_bytes / DEAD_SHARE)
            continue;
        if (at->live < best_live) {
            best = zone;
            best_live = at->live;
        }
    }
    return best;
}

/* Reads the next chunk of the record. */
static void copy_read(lwd_tier_t *tier)
{
    tier_writer_t *writer = &tier->writer;
    uint64_t left = lw_align_up(writer->is.bytes, LWD_LOG_BLOCK) - writer->at;
    writer->state = TIER_COPY_READ;
    writer->op = (lwd_disk_op_t){.kind = LWD_DISK_READ,
                                 .offset = writer->cookie + LWD_LOG_BLOCK + writer->at,
                                 .bytes = lw_min_u64(left, LWD_TIER_CHUNK_BYTES),
                                 .data = writer->chunk};
    tier->ops->submit(tier->disk, &writer->op);
}

void lwd_tier_compact(lwd_tier_t *tier)
{
    tier_writer_t *writer = &tier->writer;
    if (writer->state != TIER_IDLE || !tier->changed)
        return;
    tier->changed = false; /* until a record is forgotten, a read ends or something is written */
    if (tier->compacting != LWD_TIER_NONE && tier->zones[tier->compacting].live == 0)
        tier->compacting = LWD_TIER_NONE;
    if (tier->compacting == LWD_TIER_NONE) {
        if (lwd_tier_free_zones(tier) >= FREE_ZONES_MIN)
            return;
        tier->compacting = lwd_tier_victim(tier);
    }
    if (tier->compacting == LWD_TIER_NONE)
        return;
    uint32_t record = tier->zones[tier->compacting].first;
    tier->cramped = !lwd_tier_place(tier, tier->records[record].is.bytes, 0);
    if (tier->cramped) { /* a write that failed has closed the zone that was kept for this */
        tier->compacting = LWD_TIER_NONE;
        return;
    }
    writer->from = tier->compacting;
    writer->record = record;
    writer->is = tier->records[record].is;
    writer->cookie = tier->records[record].offset; /* where the record is read from */
    writer->at = 0;
    tier->zones[writer->from].reads++;
    copy_read(tier);
}

static void copy_end(lwd_tier_t *tier, lw_status_t status)
{
    tier_writer_t *writer = &tier->writer;
    tier->zones[writer->from].reads--;
    tier->changed = true;
    if (status == LW_OK) {
        lwd_tier_placed(tier);
        if (writer->record != LWD_TIER_NONE) /* not forgotten meanwhile */
            lwd_tier_record_move(tier, writer->record, writer->zone, writer->offset);
        tier->compacted_bytes += writer->is.bytes;
        tier->copies_failed = 0;
    } else {
        lwd_tier_write_failed(tier);
        tier->copies_failed++;
        tier->compacting = LWD_TIER_NONE;
    }
    writer->record = LWD_TIER_NONE;
    writer->state = TIER_IDLE;
}

void lwd_tier_copy_step(lwd_tier_t *tier)
{
    tier_writer_t *writer = &tier->writer;
    if (writer->op.status != LW_OK) {
        copy_end(tier, writer->op.status);
        return;
    }
    switch (writer->state) {
    case TIER_COPY_READ:
        writer->state = TIER_COPY_WRITE;
        writer->op = (lwd_disk_op_t){.kind = LWD_DISK_WRITE,
                                     .offset = writer->offset + LWD_LOG_BLOCK + writer->at,
                                     .bytes = writer->op.bytes,
                                     .data = writer->chunk};
        tier->ops->submit(tier->disk, &writer->op);
        break;
    case TIER_COPY_WRITE:
        writer->at += writer->op.bytes;
        if (writer->at < writer->is.bytes)
            copy_read(tier);
        else
            lwd_tier_write_header(tier, TIER_COPY_HEADER);
        break;
    default: copy_end(tier, LW_OK); break;
    }
}
