/* warp.cc - functions in which the lanes of a warp exchange something: each lane leaves what it brings and waits; the last
 * of those that the mask names makes everybody's result. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emu/block.h"
#include "kernels/cuda/emu/warp.h"
#include "kernels/convert.h"

static const unsigned LANES = 32;

static emu_thread_t *running(void)
{
    return (emu_thread_t *)lwk_emu_self;
}

static bool same_call(const emu_warp_call_t *a, const emu_warp_call_t *b)
{
    return a->kind == b->kind && a->mask == b->mask && a->site.line == b->site.line &&
           (a->site.file == b->site.file || strcmp(a->site.file, b->site.file) == 0);
}

/* ---- results
 * ------------------------------------------------------------------------------------------------------ */

static uint64_t shuffled(emu_thread_t *const lanes[32], unsigned called, unsigned lane)
{
    const emu_warp_call_t *c = &lanes[lane]->call;
    int width = c->width, first = (int)lane & ~(width - 1), from = (int)lane;
    switch (c->kind) {
    case EMU_SHFL: from = first + (c->select & (width - 1)); break;
    case EMU_SHFL_UP: from = (int)lane - c->select; break;
    case EMU_SHFL_DOWN: from = (int)lane + c->select; break;
    default: from = (int)lane ^ c->select; break;
    }
    if (from < first || from >= first + width)
        from = (int)lane;
    return (called >> from & 1u) != 0 ? lanes[from]->call.in : ~0ull; /* from a lane that is not there: garbage */
}

static uint32_t reduced(emu_thread_t *const lanes[32], unsigned called, int kind)
{
    uint32_t all = 0;
    bool first = true;
    for (unsigned i = 0; i < LANES; i++) {
        if ((called >> i & 1u) == 0)
            continue;
        uint32_t x = (uint32_t)lanes[i]->call.in;
        if (first)
            all = x;
        else if (kind == EMU_REDUCE_ADD)
            all += x;
        else if (kind == EMU_REDUCE_OR)
            all |= x;
        else if (kind == EMU_REDUCE_AND)
            all &= x;
        else if (kind == EMU_REDUCE_MAX)
            all = x > all ? x : all;
        else if (kind == EMU_REDUCE_MIN)
            all = x < all ? x : all;
        else if (kind == EMU_REDUCE_MAX_INT)
            all = (int32_t)x > (int32_t)all ? x : all;
        else
            all = (int32_t)x < (int32_t)all ? x : all;
        first = false;
    }
    return all;
}

static uint32_t voted(emu_thread_t *const lanes[32], unsigned called)
{
    uint32_t votes = 0;
    for (unsigned i = 0; i < LANES; i++)
        if ((called >> i & 1u) != 0 && lanes[i]->call.in != 0)
            votes |= 1u << i;
    return votes;
}

static uint32_t matching(emu_thread_t *const lanes[32], unsigned called, unsigned lane)
{
    uint32_t same = 0;
    for (unsigned i = 0; i < LANES; i++)
        if ((called >> i & 1u) != 0 && lanes[i]->call.in == lanes[lane]->call.in)
            same |= 1u << i;
    return same;
}

static emu_fragment_t *fragment(emu_thread_t *lane)
{
    return (emu_fragment_t *)lane->call.fragment;
}

static float half_of(uint32_t two, unsigned which, uint32_t dtype)
{
    uint16_t bits = (uint16_t)(two >> 16 * which);
    return dtype == LW_DTYPE_BF16 ? lwk_bf16_to_f32(bits) : lwk_f16_to_f32(bits);
}

static void multiply_16(emu_thread_t *const lanes[32])
{
    float a[16][16], b[16][8];
    for (unsigned i = 0; i < LANES; i++) {
        const emu_fragment_t *f = fragment(lanes[i]);
        unsigned g = i / 4, t = i % 4;
        for (unsigned h = 0; h < 2; h++) {
            a[g][2 * t + h] = half_of(f->a[0], h, f->dtype);
            a[g + 8][2 * t + h] = half_of(f->a[1], h, f->dtype);
            a[g][2 * t + 8 + h] = half_of(f->a[2], h, f->dtype);
            a[g + 8][2 * t + 8 + h] = half_of(f->a[3], h, f->dtype);
            b[2 * t + h][g] = half_of(f->b[0], h, f->dtype);
            b[2 * t + 8 + h][g] = half_of(f->b[1], h, f->dtype);
        }
    }
    for (unsigned i = 0; i < LANES; i++) {
        emu_fragment_t *f = fragment(lanes[i]);
        for (unsigned e = 0; e < 4; e++) {
            unsigned row = i / 4 + 8 * (e / 2), column = 2 * (i % 4) + e % 2;
            float sum = 0;
            for (unsigned k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            f->d[e] += sum;
        }
    }
}

static void multiply_8(emu_thread_t *const lanes[32])
{
    int a[16][32], b[32][8];
    for (unsigned i = 0; i < LANES; i++) {
        const emu_fragment_t *f = fragment(lanes[i]);
        unsigned g = i / 4, t = i % 4;
        for (unsigned h = 0; h < 4; h++) {
            a[g][4 * t + h] = (int8_t)(f->a[0] >> 8 * h);
            a[g + 8][4 * t + h] = (int8_t)(f->a[1] >> 8 * h);
            a[g][4 * t + 16 + h] = (int8_t)(f->a[2] >> 8 * h);
            a[g + 8][4 * t + 16 + h] = (int8_t)(f->a[3] >> 8 * h);
            b[4 * t + h][g] = (int8_t)(f->b[0] >> 8 * h);
            b[4 * t + 16 + h][g] = (int8_t)(f->b[1] >> 8 * h);
        }
    }
    for (unsigned i = 0; i < LANES; i++) {
        emu_fragment_t *f = fragment(lanes[i]);
        for (unsigned e = 0; e < 4; e++)
            for (unsigned k = 0; k < 32; k++)
                f->d_int[e] += a[i / 4 + 8 * (e / 2)][k] * b[k][2 * (i % 4) + e % 2];
    }
}

static void load_matrices(emu_thread_t *const lanes[32], bool transposed)
{
    for (unsigned i = 0; i < LANES; i++) {
        uint32_t *r = fragment(lanes[i])->r;
        for (unsigned m = 0; m < 4; m++) {
            uint16_t two[2];
            for (unsigned h = 0; h < 2; h++) {
                unsigned row = transposed ? 2 * (i % 4) + h : i / 4, column = transposed ? i / 4 : 2 * (i % 4) + h;
                const char *at = (const char *)fragment(lanes[8 * m + row])->address;
                memcpy(&two[h], at + 2 * column, 2);
            }
            r[m] = (uint32_t)two[0] | (uint32_t)two[1] << 16;
        }
    }
}

/* Everybody in `called` is here with the same call. */
static void complete(emu_thread_t *const lanes[32], unsigned called, int kind)
{
    uint32_t votes = voted(lanes, called);
    bool whole = kind == EMU_MMA_16 || kind == EMU_MMA_8 || kind == EMU_LDMATRIX || kind == EMU_LDMATRIX_TRANS;
    if (whole && called != 0xFFFFFFFFu)
        emu_fail("a matrix function needs the whole warp", lanes[__builtin_ctz(called)]->call.site);
    if (kind == EMU_MMA_16)
        multiply_16(lanes);
    else if (kind == EMU_MMA_8)
        multiply_8(lanes);
    else if (whole)
        load_matrices(lanes, kind == EMU_LDMATRIX_TRANS);
    uint32_t all = kind >= EMU_REDUCE_ADD && kind <= EMU_REDUCE_MIN_INT ? reduced(lanes, called, kind) : 0;
    for (unsigned i = 0; i < LANES; i++) {
        if ((called >> i & 1u) == 0)
            continue;
        uint64_t result = all;
        if (kind <= EMU_SHFL_XOR)
            result = shuffled(lanes, called, i);
        else if (kind == EMU_BALLOT)
            result = votes;
        else if (kind == EMU_MATCH)
            result = matching(lanes, called, i);
        lanes[i]->result = result;
    }
    unsigned first = (unsigned)emu_random() % LANES, any = (unsigned)__builtin_ctz(called);
    lanes[any]->block->warp_waiting[lanes[any]->number / LANES] &= ~called;
    for (unsigned i = 0; i < LANES; i++)
        if ((called >> (first + i) % LANES & 1u) != 0)
            emu_make_ready(lanes[(first + i) % LANES]);
}

void emu_warp_try(emu_thread_t *any)
{
    emu_block_t *b = any->block;
    unsigned warp = any->number / LANES, needed = any->call.mask & b->warp_live[warp];
    if ((needed & ~b->warp_waiting[warp]) != 0)
        return;
    emu_thread_t *lanes[32];
    for (unsigned i = 0; i < LANES; i++) {
        lanes[i] = &b->threads[warp * LANES + i];
        if ((needed >> i & 1u) != 0 && !same_call(&lanes[i]->call, &any->call))
            return;
    }
    complete(lanes, needed, any->call.kind);
}

uint64_t lwk_emu_warp(int kind, unsigned mask, uint64_t in, int select, int width, void *fragment_of_lane, const char *file,
                      int line)
{
    emu_thread_t *t = running();
    emu_site_t site = {file, line};
    if ((mask >> t->lane & 1u) == 0)
        emu_fail("the mask does not name the lane that calls", site);
    t->call.kind = kind;
    t->call.mask = mask;
    t->call.site = t->site = site;
    t->call.in = in;
    t->call.select = select;
    t->call.width = width;
    t->call.fragment = fragment_of_lane;
    t->state = EMU_AT_WARP;
    t->block->paused = 0;
    t->block->warp_waiting[t->number / LANES] |= 1u << t->lane;
    emu_warp_try(t);
    emu_next(t);
    return t->result;
}

/* ---- asynchronous copies: they land when they are waited for, and not before
 * ----------------------------------------- */

void lwk_emu_copy_start(void *to, const void *from)
{
    emu_thread_t *t = running();
    if (((uintptr_t)to & 15) != 0 || ((uintptr_t)from & 15) != 0)
        emu_fail("an asynchronous copy is not 16-byte aligned", emu_site_t{"lwk_copy16_async", 0});
    if (t->copy_count == t->copy_capacity) {
        t->copy_capacity = t->copy_capacity != 0 ? 2 * t->copy_capacity : 64;
        t->copies = (emu_copy_t *)realloc(t->copies, t->copy_capacity * sizeof *t->copies);
    }
    t->copies[t->copy_count++] = emu_copy_t{to, from, t->copy_group};
    memset(to, 0xFF, 16); /* whoever reads it now reads nothing good */
}

void lwk_emu_copy_commit(void)
{
    running()->copy_group++;
}

void lwk_emu_copy_wait(unsigned under_way)
{
    emu_thread_t *t = running();
    unsigned kept = 0;
    for (unsigned i = 0; i < t->copy_count; i++) {
        const emu_copy_t copy = t->copies[i];
        if (copy.group + under_way >= t->copy_group) { /* too young, or not committed */
            t->copies[kept++] = copy;
            continue;
        }
        if (copy.from != NULL)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    }
    t->copy_count = kept;
}
