/* budget.c - reads /proc and /sys/fs/cgroup, once, at start. */
#include "storaged/mem/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/mem/arena.h"

#define PATH_MAX_BYTES 1024

/* First number in a file; UINT64_MAX for "max", a missing file or no number. */
static uint64_t read_number(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    uint64_t value = UINT64_MAX;
    if (fscanf(file, "%" SCNu64, &value) != 1)
        value = UINT64_MAX;
    (void)fclose(file);
    return value;
}

static uint64_t machine_left(const char *root)
{
    char path[PATH_MAX_BYTES], line[256];
    (void)snprintf(path, sizeof(path), "%s/proc/meminfo", root);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    uint64_t kib = UINT64_MAX;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    }
    (void)fclose(file);
    return kib == UINT64_MAX ? UINT64_MAX : kib << 10;
}

/* Limit minus use of one cgroup directory. */
static uint64_t group_left(const char *directory, const char *limit_name, const char *use_name)
{
    char path[2 * PATH_MAX_BYTES];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, limit_name);
    uint64_t limit = read_number(path);
    if (limit == UINT64_MAX)
        return UINT64_MAX;
    (void)snprintf(path, sizeof(path), "%s/%s", directory, use_name);
    uint64_t use = read_number(path);
    if (use == UINT64_MAX)
        use = 0;
    return use < limit ? limit - use : 0;
}

/* The smallest over a group and its ancestors. A path that is not mounted here (a container's view) just has
 * no files. */
static uint64_t tree_left(const char *mount, const char *group, const char *limit_name, const char *use_name)
{
    char path[PATH_MAX_BYTES];
    (void)snprintf(path, sizeof(path), "%s%s", mount, group);
    uint64_t left = UINT64_MAX;
    for (;;) {
        left = lw_min_u64(left, group_left(path, limit_name, use_name));
        char *slash = strrchr(path, '/');
        if (slash == NULL || slash < path + strlen(mount))
            break;
        *slash = '\0';
    }
    return left;
}

/* One line of /proc/self/cgroup: "id:controllers:path"; v2 has id 0 and no controllers. */
static uint64_t line_left(const char *root, char *line)
{
    char mount[PATH_MAX_BYTES / 2];
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (group == NULL)
        return UINT64_MAX;
    *controllers++ = '\0';
    *group++ = '\0';
    if (*controllers == '\0') {
        (void)snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup", root);
        return tree_left(mount, group, "memory.max", "memory.current");
    }
    char list[PATH_MAX_BYTES];
    (void)snprintf(list, sizeof(list), ",%s,", controllers);
    if (strstr(list, ",memory,") == NULL)
        return UINT64_MAX;
    (void)snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/memory", root);
    return tree_left(mount, group, "memory.limit_in_bytes", "memory.usage_in_bytes");
}

uint64_t lwd_budget_left(const char *root)
{
    char path[PATH_MAX_BYTES], line[PATH_MAX_BYTES];
    if (root == NULL)
        root = "";
    uint64_t left = machine_left(root);
    (void)snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return left;
    while (fgets(line, sizeof(line), file) != NULL)
        left = lw_min_u64(left, line_left(root, line));
    (void)fclose(file);
    return left;
}

uint64_t lwd_budget_arena(const char *root)
{
    uint64_t left = lwd_budget_left(root);
    if (left == UINT64_MAX)
        return LWD_ARENA_BYTES_MIN;
    return lw_max_u64((left / 2) >> 20 << 20, LWD_ARENA_BYTES_MIN);
}
