/* restore.c - looks through the journal's rows and what they speak of. Main thread, at start, with threads of its
 * own that only read. */
#include "storaged/keep/restore.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/log.h"
#include "wire/segment_fmt.h"

#define LINES_MAX 8u /* dropped segments that get a line of their own */

typedef struct candidate {
    lwd_journal_row_t row;
    lw_status_t status;
    char text[120]; /* why not */
} candidate_t;

typedef struct search {
    const uint8_t *arena;
    candidate_t *candidates;
    uint64_t count;
    _Atomic uint64_t next;
} search_t;

static lw_status_t verify(const uint8_t *extent, const lwd_journal_row_t *row, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    if (header->header_check != row->header_check || header->table_check != row->table_check ||
        !lw_segment_name_equal(&header->name, &row->name))
        return lw_fail(error, LW_ERR_CORRUPT, "another segment lies there");
    return lw_segment_verify(extent, row->bytes, error);
}

static void *search_run(void *arg)
{
    search_t *search = arg;
    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&search->next, 1, memory_order_relaxed);
        if (i >= search->count)
            return NULL;
        candidate_t *candidate = &search->candidates[i];
        lw_error_t error = {0};
        if (candidate->status == LW_OK)
            candidate->status = verify(search->arena + candidate->row.offset, &candidate->row, &error);
        if (error.text[0] != '\0')
            (void)snprintf(candidate->text, sizeof(candidate->text), "%.100s", error.text);
    }
}

static void search_all(search_t *search, uint32_t threads)
{
    pthread_t thread[LWD_RESTORE_THREADS_MAX];
    uint32_t started = 0;
    cpu_set_t set;
    if (threads == 0)
        threads = sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
    threads = (uint32_t)lw_min_u64(lw_min_u64(threads, LWD_RESTORE_THREADS_MAX), search->count);
    while (started + 1 < threads && pthread_create(&thread[started], NULL, search_run, search) == 0)
        started++;
    (void)search_run(search);
    for (uint32_t i = 0; i < started; i++)
        (void)pthread_join(thread[i], NULL);
}

/* Rows that are in use, whole or not. */
static uint64_t collect(const lwd_journal_t *journal, candidate_t *candidates)
{
    uint64_t count = 0;
    for (uint64_t unit = 0; unit < journal->count; unit++) {
        lwd_journal_row_t row = {.offset = unit * journal->header->unit_bytes};
        lw_status_t status = lwd_journal_read(journal, unit, &row);
        if (status == LW_ERR_NOT_FOUND)
            continue;
        if (candidates != NULL)
            candidates[count] = (candidate_t){.row = row, .status = status, .text = "its journal row is torn"};
        count++;
    }
    return count;
}

static void drop(lwd_journal_t *journal, const candidate_t *candidate, uint64_t dropped)
{
    char name[LW_SEGMENT_NAME_TEXT_BYTES];
    lwd_journal_clear(journal, candidate->row.offset);
    if (dropped < LINES_MAX)
        LW_WARN("keep", "segment %s at %llu of the arena is dropped: %s: %s",
                lw_segment_name_text(&candidate->row.name, name), (unsigned long long)candidate->row.offset,
                lw_status_text(candidate->status), candidate->text);
}

lw_status_t lwd_restore_arena(lwd_shard_t *shard, lwd_journal_t *journal, const uint8_t *arena, uint32_t threads,
                              lwd_restored_t *restored_out, lw_error_t *error)
{
    search_t search = {.arena = arena, .count = collect(journal, NULL)};
    *restored_out = (lwd_restored_t){0};
    if (search.count == 0)
        return LW_OK;
    search.candidates = malloc(search.count * sizeof(*search.candidates));
    if (search.candidates == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory to look through %llu segments of the arena",
                       (unsigned long long)search.count);
    (void)collect(journal, search.candidates);
    search_all(&search, threads);
    for (uint64_t i = 0; i < search.count; i++) {
        candidate_t *candidate = &search.candidates[i];
        const lwd_journal_row_t *row = &candidate->row;
        if (candidate->status == LW_OK) {
            lwd_restore_t restore = {row->name, row->bytes, row->fleet_id, row->offset, LWD_LOG_NONE};
            candidate->status = lwd_shard_restore(shard, &restore);
            (void)snprintf(candidate->text, sizeof(candidate->text), "the daemon has no place for it");
        }
        if (candidate->status == LW_OK) {
            restored_out->segments++;
            restored_out->bytes += row->bytes;
        } else {
            drop(journal, candidate, restored_out->dropped++);
        }
    }
    free(search.candidates);
    return LW_OK;
}

void lwd_restore_log(lwd_shard_t *shard, lwd_tier_t *tier, uint32_t record_max, lwd_restored_t *restored_out)
{
    *restored_out = (lwd_restored_t){0};
    for (uint32_t record = 0; record < record_max; record++) {
        lwd_tier_record_t is;
        if (!lwd_tier_record(tier, record, &is))
            continue;
        lwd_restore_t restore = {is.name, is.bytes, is.fleet_id, LWD_EXTENT_NONE, record};
        lw_status_t status = lwd_shard_restore(shard, &restore);
        if (status == LW_OK) {
            restored_out->segments++;
            restored_out->bytes += is.bytes;
            continue;
        }
        restored_out->dropped += status == LW_ERR_EXHAUSTED ? 1 : 0;
        lwd_tier_forget(tier, record);
    }
}
