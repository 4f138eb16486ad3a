/* extent.c - two-level segregated fit (Masmano et al. 2004) with the tags kept beside the memory, not inside
 * it.
 *
 * length[u] holds a run's units at its first and at its last unit, with LIVE set while it is allocated; what
 * lies between is meaningless. next/prev chain the free runs of one class by their first units. */
#include "storaged/mem/extent.h"

#include <stdlib.h>
#include <string.h>

#define LIVE 0x80000000u
#define NIL UINT32_MAX
#define FINE_BITS 4u
#define FINE (1u << FINE_BITS)
#define COARSE 28u
#define EXACT_SEARCH_MAX 64u /* runs looked at in the class that may or may not fit */

struct lwd_extents {
    uint32_t unit_shift, units;
    uint32_t used_units, extent_count, free_runs;
    uint32_t take_at; /* first unit of a run, not after the last one taken; 0 after alloc or free */
    uint32_t coarse_map;
    uint32_t fine_map[COARSE];
    uint32_t head[COARSE][FINE];
    uint32_t *length, *next, *prev;
};

/* Class of a run of `units`: runs below FINE have a class each, then FINE classes for every power of two. */
static void class_of(uint32_t units, uint32_t *coarse, uint32_t *fine)
{
    if (units < FINE) {
        *coarse = 0;
        *fine = units;
        return;
    }
    uint32_t top = 31u - (uint32_t)__builtin_clz(units);
    *coarse = top - FINE_BITS + 1;
    *fine = (units >> (top - FINE_BITS)) & (FINE - 1);
}

/* Smallest class all of whose runs hold `units`. */
static void class_above(uint32_t units, uint32_t *coarse, uint32_t *fine)
{
    if (units >= FINE) {
        uint32_t top = 31u - (uint32_t)__builtin_clz(units);
        units += (1u << (top - FINE_BITS)) - 1;
    }
    class_of(units, coarse, fine);
}

static void tag(lwd_extents_t *extents, uint32_t first, uint32_t units, uint32_t live)
{
    extents->length[first] = units | live;
    extents->length[first + units - 1] = units | live;
}

static void list_insert(lwd_extents_t *extents, uint32_t first, uint32_t units)
{
    uint32_t coarse, fine;
    class_of(units, &coarse, &fine);
    uint32_t old = extents->head[coarse][fine];
    extents->next[first] = old;
    extents->prev[first] = NIL;
    if (old != NIL)
        extents->prev[old] = first;
    extents->head[coarse][fine] = first;
    extents->fine_map[coarse] |= 1u << fine;
    extents->coarse_map |= 1u << coarse;
    extents->free_runs++;
    tag(extents, first, units, 0);
}

static void list_remove(lwd_extents_t *extents, uint32_t first)
{
    uint32_t coarse, fine;
    class_of(extents->length[first], &coarse, &fine);
    uint32_t next = extents->next[first], prev = extents->prev[first];
    if (next != NIL)
        extents->prev[next] = prev;
    if (prev != NIL)
        extents->next[prev] = next;
    else
        extents->head[coarse][fine] = next;
    if (extents->head[coarse][fine] == NIL) {
        extents->fine_map[coarse] &= ~(1u << fine);
        if (extents->fine_map[coarse] == 0)
            extents->coarse_map &= ~(1u << coarse);
    }
    extents->free_runs--;
}

lw_status_t lwd_extents_create(uint64_t bytes, uint64_t unit_bytes, lwd_extents_t **extents_out)
{
    if (unit_bytes == 0 || (unit_bytes & (unit_bytes - 1)) != 0)
        return LW_ERR_INVALID;
    uint64_t units = bytes / unit_bytes;
    if (units == 0 || units > LWD_EXTENT_UNITS_MAX)
        return LW_ERR_INVALID;
    lwd_extents_t *extents = calloc(1, sizeof(*extents));
    if (extents == NULL)
        return LW_ERR_NO_MEMORY;
    extents->unit_shift = (uint32_t)__builtin_ctzll(unit_bytes);
    extents->units = (uint32_t)units;
    extents->length = calloc(units, sizeof(uint32_t));
    extents->next = calloc(units, sizeof(uint32_t));
    extents->prev = calloc(units, sizeof(uint32_t));
    if (extents->length == NULL || extents->next == NULL || extents->prev == NULL) {
        lwd_extents_destroy(extents);
        return LW_ERR_NO_MEMORY;
    }
    memset(extents->head, 0xff, sizeof(extents->head));
    list_insert(extents, 0, extents->units);
    *extents_out = extents;
    return LW_OK;
}

void lwd_extents_destroy(lwd_extents_t *extents)
{
    if (extents == NULL)
        return;
    free(extents->length);
    free(extents->next);
    free(extents->prev);
    free(extents);
}

/* First free run that holds `units`, or NIL. */
static uint32_t find(const lwd_extents_t *extents, uint32_t units)
{
    uint32_t coarse, fine;
    class_above(units, &coarse, &fine);
    if (coarse < COARSE) {
        uint32_t map = extents->fine_map[coarse] & ~((1u << fine) - 1);
        if (map == 0) {
            uint32_t above = coarse + 1 < COARSE ? extents->coarse_map & ~((2u << coarse) - 1) : 0;
            if (above != 0) {
                coarse = (uint32_t)__builtin_ctz(above);
                map = extents->fine_map[coarse];
            }
        }
        if (map != 0)
            return extents->head[coarse][__builtin_ctz(map)];
    }
    class_of(units, &coarse, &fine);
    uint32_t run = extents->head[coarse][fine];
    for (uint32_t i = 0; run != NIL && i < EXACT_SEARCH_MAX; i++, run = extents->next[run]) {
        if (extents->length[run] >= units)
            return run;
    }
    return NIL;
}

uint64_t lwd_extents_alloc(lwd_extents_t *extents, uint64_t bytes)
{
    LW_ASSERT(bytes > 0);
    if (bytes > (uint64_t)extents->units << extents->unit_shift)
        return LWD_EXTENT_NONE;
    uint32_t units = (uint32_t)((bytes + (1ull << extents->unit_shift) - 1) >> extents->unit_shift);
    uint32_t first = find(extents, units);
    if (first == NIL)
        return LWD_EXTENT_NONE;
    uint32_t run = extents->length[first];
    LW_ASSERT((run & LIVE) == 0 && run >= units);
    extents->take_at = 0;
    list_remove(extents, first);
    if (run > units)
        list_insert(extents, first + units, run - units);
    tag(extents, first, units, LIVE);
    extents->used_units += units;
    extents->extent_count++;
    return (uint64_t)first << extents->unit_shift;
}

lw_status_t lwd_extents_take(lwd_extents_t *extents, uint64_t offset, uint64_t bytes)
{
    uint64_t unit_bytes = 1ull << extents->unit_shift, at = offset >> extents->unit_shift;
    if (bytes == 0 || bytes > (uint64_t)extents->units << extents->unit_shift || at << extents->unit_shift != offset ||
        at >= extents->units || (bytes + unit_bytes - 1) >> extents->unit_shift > extents->units - at)
        return LW_ERR_INVALID;
    uint32_t first = (uint32_t)at, units = (uint32_t)((bytes + unit_bytes - 1) >> extents->unit_shift);
    uint32_t run = first >= extents->take_at ? extents->take_at : 0;
    while (run + (extents->length[run] & ~LIVE) <= first)
        run += extents->length[run] & ~LIVE;
    uint32_t run_units = extents->length[run];
    if ((run_units & LIVE) != 0 || run_units - (first - run) < units)
        return LW_ERR_EXISTS;
    list_remove(extents, run);
    if (first > run)
        list_insert(extents, run, first - run);
    if (run + run_units > first + units)
        list_insert(extents, first + units, run + run_units - first - units);
    tag(extents, first, units, LIVE);
    extents->used_units += units;
    extents->extent_count++;
    extents->take_at = first;
    return LW_OK;
}

void lwd_extents_free(lwd_extents_t *extents, uint64_t offset)
{
    uint64_t at = offset >> extents->unit_shift;
    LW_ASSERT(at < extents->units && at << extents->unit_shift == offset);
    uint32_t first = (uint32_t)at;
    LW_ASSERT((extents->length[first] & LIVE) != 0);
    uint32_t units = extents->length[first] & ~LIVE;
    LW_ASSERT(units > 0 && first + units <= extents->units &&
              extents->length[first + units - 1] == (units | LIVE));
    extents->take_at = 0;
    extents->used_units -= units;
    extents->extent_count--;
    extents->length[first] = extents->length[first + units - 1] =
        0; /* a second free of the same offset asserts */
    uint32_t after = first + units;
    if (after < extents->units && (extents->length[after] & LIVE) == 0) {
        uint32_t more = extents->length[after];
        list_remove(extents, after);
        units += more;
    }
    if (first > 0 && (extents->length[first - 1] & LIVE) == 0) {
        uint32_t more = extents->length[first - 1];
        first -= more;
        list_remove(extents, first);
        units += more;
    }
    list_insert(extents, first, units);
}

uint64_t lwd_extents_bytes(const lwd_extents_t *extents, uint64_t offset)
{
    uint32_t tagged = extents->length[offset >> extents->unit_shift];
    LW_ASSERT((tagged & LIVE) != 0);
    return (uint64_t)(tagged & ~LIVE) << extents->unit_shift;
}

void lwd_extents_usage(const lwd_extents_t *extents, lwd_extents_usage_t *usage_out)
{
    uint64_t largest = 0;
    if (extents->coarse_map != 0) {
        uint32_t coarse = 31u - (uint32_t)__builtin_clz(extents->coarse_map);
        uint32_t fine = 31u - (uint32_t)__builtin_clz(extents->fine_map[coarse]);
        largest = extents->length[extents->head[coarse][fine]];
    }
    *usage_out = (lwd_extents_usage_t){
        .bytes = (uint64_t)extents->units << extents->unit_shift,
        .used_bytes = (uint64_t)extents->used_units << extents->unit_shift,
        .largest_free_bytes = largest << extents->unit_shift,
        .extent_count = extents->extent_count,
        .free_run_count = extents->free_runs,
    };
}

/* Is the free run in the list of its class, with links that agree? */
static bool listed(const lwd_extents_t *extents, uint32_t first)
{
    uint32_t coarse, fine;
    class_of(extents->length[first], &coarse, &fine);
    uint32_t prev = extents->prev[first], next = extents->next[first];
    if (prev == NIL ? extents->head[coarse][fine] != first : extents->next[prev] != first)
        return false;
    if (next != NIL && extents->prev[next] != first)
        return false;
    return (extents->fine_map[coarse] >> fine & 1u) != 0 && (extents->coarse_map >> coarse & 1u) != 0;
}

bool lwd_extents_check(const lwd_extents_t *extents)
{
    uint32_t at = 0, used = 0, live = 0, runs = 0;
    bool before_free = false;
    while (at < extents->units) {
        uint32_t tagged = extents->length[at], units = tagged & ~LIVE;
        bool is_free = (tagged & LIVE) == 0;
        if (units == 0 || units > extents->units - at || extents->length[at + units - 1] != tagged)
            return false;
        if (is_free && (before_free || !listed(extents, at)))
            return false;
        used += is_free ? 0 : units;
        live += is_free ? 0 : 1;
        runs += is_free ? 1 : 0;
        before_free = is_free;
        at += units;
    }
    for (uint32_t coarse = 0; coarse < COARSE; coarse++) {
        for (uint32_t fine = 0; fine < FINE; fine++) {
            if ((extents->head[coarse][fine] != NIL) != ((extents->fine_map[coarse] >> fine & 1u) != 0))
                return false;
        }
        if ((extents->fine_map[coarse] != 0) != ((extents->coarse_map >> coarse & 1u) != 0))
            return false;
    }
    return used == extents->used_units && live == extents->extent_count && runs == extents->free_runs;
}
