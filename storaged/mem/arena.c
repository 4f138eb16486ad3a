/* arena.c - reserves the arena at start, on the main thread, with threads of its own that touch its pages. */
#include "storaged/mem/arena.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "storaged/mem/arena_private.h"
#include "storaged/mem/numa.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#define HUGE_2M_SHIFT 21
#define HUGE_1G_SHIFT 30
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define TOUCH_THREADS_MAX 16u

static const char *const pages_name[] = {"auto", "1g", "2m", "thp", "none"};

lw_status_t lwd_pages_parse(const char *text, lwd_pages_t *pages_out)
{
    for (size_t i = 0; i < LW_ARRAY_SIZE(pages_name); i++) {
        if (strcmp(text, pages_name[i]) == 0) {
            *pages_out = (lwd_pages_t)i;
            return LW_OK;
        }
    }
    return LW_ERR_INVALID;
}

const char *lwd_pages_text(lwd_pages_t pages)
{
    return (size_t)pages < LW_ARRAY_SIZE(pages_name) ? pages_name[pages] : "unknown";
}

static void *map_plain(uint64_t bytes, int flags)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* A mapping whose address is a multiple of 2 MiB, so that transparent huge pages can cover all of it. */
static void *map_aligned(uint64_t bytes)
{
    uint64_t align = 1ull << HUGE_2M_SHIFT;
    uint8_t *memory = map_plain(bytes + align, MAP_NORESERVE);
    if (memory == NULL)
        return NULL;
    uint8_t *start = (uint8_t *)lw_align_up((uintptr_t)memory, align);
    if (start > memory)
        (void)munmap(memory, (size_t)(start - memory));
    uint64_t tail = align - (uint64_t)(start - memory);
    if (tail > 0)
        (void)munmap(start + bytes, tail);
    return start;
}

static bool thp_allowed(void)
{
    char text[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (file == NULL)
        return false;
    bool read = fgets(text, sizeof(text), file) != NULL;
    (void)fclose(file);
    return read && strstr(text, "[never]") == NULL;
}

static void *map_best(uint64_t bytes, lwd_pages_t want, uint64_t *mapped_out, lwd_pages_t *got_out)
{
    static const struct {
        lwd_pages_t pages;
        int shift;
    } huge[] = {{LWD_PAGES_1G, HUGE_1G_SHIFT}, {LWD_PAGES_2M, HUGE_2M_SHIFT}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(huge); i++) {
        if (want > huge[i].pages || (want == LWD_PAGES_AUTO && huge[i].pages == LWD_PAGES_1G))
            continue;
        uint64_t mapped = lw_align_up(bytes, 1ull << huge[i].shift);
        void *memory = map_plain(mapped, MAP_HUGETLB | (huge[i].shift << MAP_HUGE_SHIFT));
        if (memory != NULL) {
            *mapped_out = mapped;
            *got_out = huge[i].pages;
            return memory;
        }
    }
    uint64_t mapped = lw_align_up(bytes, 1ull << HUGE_2M_SHIFT);
    void *memory = map_aligned(mapped);
    if (memory == NULL)
        return NULL;
    *mapped_out = mapped;
    *got_out = LWD_PAGES_NONE;
    if (want != LWD_PAGES_NONE && thp_allowed() && madvise(memory, mapped, MADV_HUGEPAGE) == 0)
        *got_out = LWD_PAGES_THP;
    return memory;
}

typedef struct touch {
    uint8_t *base;
    uint64_t bytes;
} touch_t;

static void *touch_run(void *arg)
{
    const touch_t *part = arg;
    if (madvise(part->base, part->bytes, MADV_POPULATE_WRITE) == 0)
        return NULL; /* one call for all pages (Linux 5.14) */
    for (uint64_t at = 0; at < part->bytes; at += 4096) /* or: a file's bytes stay what they are */
        (void)__atomic_fetch_or(part->base + at, 0, __ATOMIC_RELAXED);
    return NULL;
}

static uint32_t allowed_cpus(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

/* Touches every page with several threads; what they could not be started for is touched here. */
static void prefault(uint8_t *base, uint64_t bytes, uint32_t threads)
{
    if (threads == 0)
        threads = allowed_cpus();
    if (threads > TOUCH_THREADS_MAX)
        threads = TOUCH_THREADS_MAX;
    uint64_t share = lw_align_up(lw_div_up(bytes, threads), 1ull << HUGE_2M_SHIFT);
    pthread_t thread[TOUCH_THREADS_MAX];
    touch_t part[TOUCH_THREADS_MAX];
    uint32_t started = 0;
    for (uint64_t at = 0; at < bytes; at += share) {
        part[started] = (touch_t){base + at, lw_min_u64(share, bytes - at)};
        if (at + share < bytes && pthread_create(&thread[started], NULL, touch_run, &part[started]) == 0)
            started++;
        else
            (void)touch_run(&part[started]);
    }
    for (uint32_t i = 0; i < started; i++)
        (void)pthread_join(thread[i], NULL);
}

lw_status_t lwd_arena_finish(const lwd_arena_params_t *params, lwd_arena_t *arena, lw_error_t *error)
{
    arena->book_bytes = lw_align_up(arena->bytes / LWD_ARENA_BOOK_SHARE, 1ull << HUGE_2M_SHIFT);
    lwd_pages_t book_pages;
    arena->book = map_best(arena->book_bytes, LWD_PAGES_THP, &arena->book_mapped_bytes, &book_pages);
    if (arena->book == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "cannot map %llu bytes of bookkeeping: %s",
                       (unsigned long long)arena->book_bytes, strerror(errno));
    lwd_numa_place(arena->base, arena->mapped_bytes, params->numa_node);
    lwd_numa_place(arena->book, arena->book_mapped_bytes, params->numa_node);
    if (params->prefault) {
        prefault(arena->base, arena->bytes, params->threads);
        prefault(arena->book, arena->book_bytes, params->threads);
    }
    LW_INFO("mem", "arena of %llu MiB (+ %llu MiB bookkeeping), pages %s (asked %s), NUMA %s",
            (unsigned long long)(arena->bytes >> 20), (unsigned long long)(arena->book_bytes >> 20),
            lwd_pages_text(arena->pages), lwd_pages_text(params->pages), lwd_numa_text(params->numa_node));
    return LW_OK;
}

lw_status_t lwd_arena_init(const lwd_arena_params_t *params, lwd_arena_t *arena_out, lw_error_t *error)
{
    if (params->bytes < LWD_ARENA_BYTES_MIN)
        return lw_fail(error, LW_ERR_INVALID, "arena of %llu bytes is smaller than the minimum of %llu",
                       (unsigned long long)params->bytes, LWD_ARENA_BYTES_MIN);
    lwd_arena_t arena = {.bytes = lw_align_up(params->bytes, LWD_ARENA_UNIT_BYTES)};
    arena.base = map_best(arena.bytes, params->pages, &arena.mapped_bytes, &arena.pages);
    if (arena.base == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "cannot map an arena of %llu bytes: %s",
                       (unsigned long long)arena.bytes, strerror(errno));
    lw_status_t status = lwd_arena_finish(params, &arena, error);
    if (status != LW_OK) {
        (void)munmap(arena.base, arena.mapped_bytes);
        return status;
    }
    *arena_out = arena;
    return LW_OK;
}

void lwd_arena_fini(lwd_arena_t *arena)
{
    if (arena->base != NULL)
        (void)munmap(arena->base, arena->mapped_bytes);
    if (arena->book != NULL)
        (void)munmap(arena->book, arena->book_mapped_bytes);
    memset(arena, 0, sizeof(*arena));
}
