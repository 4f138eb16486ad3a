/* fuzz_guard.c - copies that end at a forbidden page. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

fuzz_guard_t fuzz_guard_copy(const void *bytes, size_t byte_count, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (byte_count + align + page - 1) & ~(page - 1);
    fuzz_guard_t guard = {.map_bytes = room + page};

    guard.map = mmap(NULL, guard.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_REQUIRE(guard.map != MAP_FAILED);
    FUZZ_REQUIRE(mprotect((uint8_t *)guard.map + room, page, PROT_NONE) == 0);
    guard.bytes = (uint8_t *)guard.map + ((room - byte_count) & ~(align - 1));
    if (byte_count > 0) {
        memcpy(guard.bytes, bytes, byte_count);
    }
    return guard;
}

void fuzz_guard_free(fuzz_guard_t *guard) { munmap(guard->map, guard->map_bytes); }
