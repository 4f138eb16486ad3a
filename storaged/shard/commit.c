/* commit.c - the second phase of a put: nothing is readable before every checksum was compared. */
#include "base/fault.h"
#include "storaged/shard/shard_private.h"
#include "wire/segment_fmt.h"

lw_status_t lwd_shard_commit_begin(lwd_shard_t *shard, lwd_ref_t ref, uint64_t bytes, bool *done_out)
{
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL)
        return LW_ERR_STALE;
    if (segment->bytes != bytes) {
        lw_count(&shard->params.stats->commits_refused, 1);
        return LW_ERR_INVALID;
    }
    *done_out = lwd_segment_is_committed(lwd_segment_state(segment));
    if (*done_out)
        return LW_OK;
    if (lwd_segment_state(segment) == LWD_SEGMENT_VERIFYING)
        return LW_ERR_BUSY;
    lwd_segment_move(segment, LWD_SEGMENT_VERIFYING);
    if (atomic_load_explicit(&segment->borrows, memory_order_seq_cst) != 0) {
        lwd_segment_move(segment, LWD_SEGMENT_RESERVED);
        return LW_ERR_BUSY;
    }
    lwd_segment_borrow(segment); /* for the verification, which may run elsewhere */
    return LW_OK;
}

lw_status_t lwd_shard_commit_verify(lwd_shard_t *shard, lwd_ref_t ref, lw_error_t *error)
{
    const lwd_segment_t *segment = &shard->slots[ref.slot];
    /* The planted bug still needs a structure that can be walked; a broken one is acknowledged and lost. */
    lw_status_t status = LW_FAULT(COMMIT_ACK_EARLY)
                             ? lw_segment_check(segment->extent, segment->bytes, error)
                             : lw_segment_verify(segment->extent, segment->bytes, error);
    if (status != LW_OK)
        return status;
    if (!lw_segment_name_equal(&lw_segment_header(segment->extent)->name, &segment->name)) {
        char held[LW_SEGMENT_NAME_TEXT_BYTES], stored[LW_SEGMENT_NAME_TEXT_BYTES];
        return lw_fail(error, LW_ERR_INVALID, "segment is called %s inside, and %s was reserved",
                       lw_segment_name_text(&lw_segment_header(segment->extent)->name, stored),
                       lw_segment_name_text(&segment->name, held));
    }
    return LW_OK;
}

/* Builds the record tables of a verified segment: one allocation, heads first. */
lw_status_t lwd_segment_build_table(lwd_shard_t *shard, lwd_segment_t *segment)
{
    const lw_segment_head_t *head = lw_segment_heads(segment->extent);
    uint32_t head_count = lw_segment_header(segment->extent)->head_count;
    uint64_t record_count = 0;
    for (uint32_t h = 0; h < head_count; h++)
        record_count += (uint64_t)head[h].cluster_count + head[h].outlier_count + 1;
    uint64_t bytes = head_count * sizeof(lwd_head_t) + record_count * sizeof(lwd_record_t);
    uint64_t offset = lwd_extents_alloc(shard->params.book_extents, bytes);
    if (offset == LWD_EXTENT_NONE)
        return LW_ERR_EXHAUSTED;
    lwd_head_t *heads = (lwd_head_t *)(shard->params.book + offset);
    lwd_record_t *records = (lwd_record_t *)(heads + head_count);
    uint32_t first = 0;
    for (uint32_t h = 0; h < head_count; h++) {
        uint32_t entries = head[h].cluster_count + head[h].outlier_count;
        const uint32_t *check = (const uint32_t *)(segment->extent + head[h].checks_offset);
        lw_segment_record_offsets(segment->extent, h, shard->scratch);
        heads[h] = (lwd_head_t){.entry_count = entries, .first = first};
        for (uint32_t e = 0; e < entries; e++)
            records[first + e] = (lwd_record_t){.offset = shard->scratch[e], .check = check[e]};
        records[first + entries] = (lwd_record_t){.offset = shard->scratch[entries], .check = 0};
        first += entries + 1;
    }
    segment->book_offset = offset;
    segment->heads = heads;
    segment->records = records;
    segment->head_count = head_count;
    return LW_OK;
}

void lwd_segment_journal(lwd_shard_t *shard, const lwd_segment_t *segment)
{
    if (shard->params.journal == NULL)
        return;
    const lw_segment_header_t *header = lw_segment_header(segment->extent);
    lwd_journal_row_t row = {
        .name = segment->name,
        .offset = segment->extent_offset,
        .bytes = segment->bytes,
        .fleet_id = atomic_load_explicit(&shard->fleet_id, memory_order_relaxed),
        .header_check = header->header_check,
        .table_check = header->table_check,
    };
    lwd_journal_put(shard->params.journal, &row);
}

lw_status_t lwd_shard_commit_end(lwd_shard_t *shard, lwd_ref_t ref, lw_status_t verdict, uint64_t now_us)
{
    lwd_segment_release(&shard->slots[ref.slot]);
    lwd_segment_t *segment = lwd_segment_live(shard, ref);
    if (segment == NULL) /* ended or fenced meanwhile */
        return LW_ERR_STALE;
    LW_ASSERT(lwd_segment_state(segment) == LWD_SEGMENT_VERIFYING);
    if (verdict == LW_OK)
        verdict = lwd_segment_build_table(shard, segment);
    if (verdict != LW_OK) {
        lwd_segment_move(segment, LWD_SEGMENT_RESERVED);
        lw_count(&shard->params.stats->commits_refused, 1);
        return LW_FAULT(COMMIT_ACK_EARLY) ? LW_OK : verdict;
    }
    lwd_slot_list_remove(shard, &shard->reserved, ref.slot);
    lwd_slot_list_push(shard, &shard->written, ref.slot);
    segment->written_us = now_us;
    segment->ask_us = now_us + atomic_load_explicit(&shard->lease_us, memory_order_relaxed);
    lwd_segment_touch(segment, now_us);
    lwd_segment_journal(shard, segment);
    lwd_segment_move(segment, LWD_SEGMENT_WRITTEN);
    lw_count(&shard->params.stats->commits, 1);
    return LW_OK;
}

lw_status_t lwd_shard_commit(lwd_shard_t *shard, lwd_ref_t ref, uint64_t bytes, uint64_t now_us,
                             lw_error_t *error)
{
    bool done = false;
    lw_status_t status = lwd_shard_commit_begin(shard, ref, bytes, &done);
    if (status != LW_OK || done)
        return status;
    return lwd_shard_commit_end(shard, ref, lwd_shard_commit_verify(shard, ref, error), now_us);
}
