/* server_keep.c - what outlives the process: the arena's file with its journal, and the log on disk. Main thread, at
 * start and at the end. */
#include <sys/random.h>
#include <time.h>

#include "storaged/keep/restore.h"
#include "storaged/mem/budget.h"
#include "storaged/server_private.h"

uint64_t lwd_server_arena_bytes(const lwd_options_t *options)
{
    lwd_journal_header_t header;
    if (options->mem_arena_bytes != UINT64_MAX)
        return options->mem_arena_bytes;
    if (options->mem_arena_file[0] != '\0' &&
        lwd_arena_file_peek(options->mem_arena_file, &header, sizeof(header)) &&
        header.magic == LWD_JOURNAL_MAGIC && header.version == LWD_JOURNAL_VERSION)
        return header.arena_bytes;
    return lwd_budget_arena(NULL);
}

/* A new journal where there is none, or none that this build and this arena can use. */
static lw_status_t open_journal(lwd_server_t *server, lw_error_t *error)
{
    const char *path = server->options.mem_arena_file;
    lwd_arena_file_t *file = &server->arena_file;
    lw_error_t cause = {0};
    if (!file->fresh && lwd_journal_open(file->head, file->head_bytes, server->arena.bytes, file->head_bytes,
                                         LWD_ARENA_UNIT_BYTES, &server->journal, &cause) == LW_OK)
        return LW_OK;
    if (!file->fresh)
        LW_WARN("keep", "%s: %s: what it held is dropped", path, cause.text);
    uint64_t arena_id = 0;
    if (getrandom(&arena_id, sizeof(arena_id), 0) != (ssize_t)sizeof(arena_id))
        return lw_fail(error, LW_ERR_IO, "no random bytes for the arena's id");
    lwd_journal_format(file->head, server->arena.bytes, file->head_bytes, LWD_ARENA_UNIT_BYTES, arena_id);
    return lwd_journal_open(file->head, file->head_bytes, server->arena.bytes, file->head_bytes,
                            LWD_ARENA_UNIT_BYTES, &server->journal, error);
}

lw_status_t lwd_server_arena(lwd_server_t *server, const lwd_arena_params_t *params, lw_error_t *error)
{
    const char *path = server->options.mem_arena_file;
    if (path[0] == '\0')
        return lwd_arena_init(params, &server->arena, error);
    lw_error_t cause = {0};
    uint64_t head_bytes =
        lwd_arena_file_head(lwd_journal_bytes(lw_align_up(params->bytes, LWD_ARENA_UNIT_BYTES), LWD_ARENA_UNIT_BYTES));
    lw_status_t status = lwd_arena_file_init(params, path, LWD_JOURNAL_MAGIC, head_bytes, &server->arena,
                                             &server->arena_file, &cause);
    if (status == LW_OK)
        status = open_journal(server, &cause);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "mem.arena_file: %s", cause.text);
}

/* ---- what an earlier life left ---- */
static void say(const lwd_server_t *server, const char *where, const lwd_restored_t *restored, uint64_t before_us)
{
    uint64_t us = lw_now_us(lw_clock_real()) - before_us;
    lw_count(&server->stats[0].restore_us, us);
    lw_count(&server->stats[0].restores_dropped, restored->dropped);
    LW_INFO("keep", "%s still holds %llu segments of %llu MiB, looked through in %llu ms; %llu dropped", where,
            (unsigned long long)restored->segments, (unsigned long long)(restored->bytes >> 20),
            (unsigned long long)(us / 1000), (unsigned long long)restored->dropped);
}

static void nudge(void *arg)
{
    lwd_server_t *server = arg;
    if (server->workers[0] != NULL)
        lwd_worker_nudge(server->workers[0]);
}

static lw_status_t open_tier(lwd_server_t *server, uint32_t segment_max, lw_error_t *error)
{
    const lwd_options_t *options = &server->options;
    lwd_tier_params_t params = {
        .path = options->tier_path,
        .bytes = options->tier_bytes,
        .record_max = segment_max,
        .notify = nudge,
        .arg = server,
    };
    lw_error_t cause = {0};
    lw_status_t status = lw_fail(&cause, LW_ERR_UNSUPPORTED, "built without liburing");
    if (server->choices.tier_io != LWD_TIER_IO_THREADS && lwd_disk_uring() != NULL) {
        params.disk = lwd_disk_uring();
        status = lwd_tier_open(&params, &server->tier, &cause);
    }
    if (status == LW_ERR_UNSUPPORTED && server->choices.tier_io != LWD_TIER_IO_URING) {
        if (server->choices.tier_io == LWD_TIER_IO_AUTO)
            LW_INFO("keep", "the log is read and written by threads: %s", cause.text);
        params.disk = lwd_disk_threads();
        status = lwd_tier_open(&params, &server->tier, &cause);
    }
    return status == LW_OK
               ? LW_OK
               : lw_fail(error, status, "tier.path \"%s\", tier.bytes %llu, tier.io %s: %s", options->tier_path,
                         (unsigned long long)options->tier_bytes, options->tier_io, cause.text);
}

static lw_status_t restore_tier(lwd_server_t *server, lw_error_t *error)
{
    uint32_t segment_max = lwd_server_segment_max(&server->options, server->arena.bytes);
    uint64_t before_us = lw_now_us(lw_clock_real());
    lwd_restored_t restored;
    lw_status_t status = open_tier(server, segment_max, error);
    if (status != LW_OK)
        return status;
    lwd_keep_params_t params = {.shard = server->shard, .tier = server->tier, .stats = &server->stats[0]};
    if (lwd_keep_create(&params, &server->keep) != LW_OK)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the log's traffic");
    lwd_restore_log(server->shard, server->tier, segment_max, &restored);
    say(server, "the log", &restored, before_us);
    return LW_OK;
}

lw_status_t lwd_server_restore(lwd_server_t *server, lw_error_t *error)
{
    lw_status_t status = LW_OK;
    if (server->arena_file.head != NULL && !server->arena_file.fresh) {
        lwd_restored_t restored;
        uint64_t before_us = lw_now_us(lw_clock_real());
        status = lwd_restore_arena(server->shard, &server->journal, server->arena.base, 0, &restored, error);
        if (status == LW_OK)
            say(server, "the arena", &restored, before_us);
    }
    if (status == LW_OK && server->options.tier_path[0] != '\0')
        status = restore_tier(server, error);
    return status;
}

unsigned lwd_server_duty(void *arg, uint64_t now_us)
{
    lwd_server_t *server = arg;
    return lwd_keep_round(server->keep, now_us);
}

void lwd_server_flush(lwd_server_t *server)
{
    if (server->keep == NULL || server->arena_file.head != NULL)
        return;
    const struct timespec pause = {.tv_nsec = 200000};
    uint64_t before_us = lw_now_us(lw_clock_real()), now_us = before_us;
    while (!lwd_keep_flush(server->keep, now_us) && now_us - before_us < server->options.stop_flush_us) {
        (void)nanosleep(&pause, NULL);
        now_us = lw_now_us(lw_clock_real());
    }
    LW_INFO("keep", "what was in memory only is in the log after %llu ms",
            (unsigned long long)((now_us - before_us) / 1000));
}

void lwd_server_tier_close(lwd_server_t *server)
{
    lwd_tier_close(server->tier);
    server->tier = NULL;
}

void lwd_server_keep_fini(lwd_server_t *server)
{
    lwd_keep_destroy(server->keep);
    if (server->arena_file.head != NULL)
        lwd_arena_file_fini(&server->arena_file);
}
