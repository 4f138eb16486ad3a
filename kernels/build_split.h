/* build_split.h - cuts clusters that grew too large. Every host backend cuts the same way, so the cut has one
 * home.
 *
 * Input is the assignment after the last k-means iteration; clusters without members are dropped and the
 * others numbered anew in the old order, the pieces of one cluster in a row. Any thread; no state.
 */
#ifndef LWK_BUILD_SPLIT_H
#define LWK_BUILD_SPLIT_H

#include "kernels/build_args.h"

#define LWK_SPLIT_ROUNDS 4 /* of turning the cutting direction towards the halves' means */

typedef struct lwk_split {
    const float *rows; /* [n][d] keys without their mean */
    uint32_t head_dim, size_max;
    uint16_t *assign;               /* [n] out */
    uint32_t next;                  /* number of the next piece */
    double *direction, *low, *high; /* [d] each */
} lwk_split_t;

static inline void lwk_split_mean(const lwk_split_t *split, const lwk_ranked_t *members, uint32_t count,
                                  double *mean_out)
{
    for (uint32_t j = 0; j < split->head_dim; j++)
        mean_out[j] = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < split->head_dim; j++)
            mean_out[j] += split->rows[(size_t)members[i].token * split->head_dim + j];
    for (uint32_t j = 0; j < split->head_dim; j++)
        mean_out[j] /= count;
}

/* Starts from the direction of the member farthest from the mean. */
static inline void lwk_split_first_direction(lwk_split_t *split, const lwk_ranked_t *members, uint32_t count)
{
    uint32_t farthest = 0;
    double most = -1;
    lwk_split_mean(split, members, count, split->low);
    for (uint32_t i = 0; i < count; i++) {
        double distance = 0;
        for (uint32_t j = 0; j < split->head_dim; j++) {
            double gap = split->rows[(size_t)members[i].token * split->head_dim + j] - split->low[j];
            distance += gap * gap;
        }
        if (distance > most) {
            most = distance;
            farthest = i;
        }
    }
    for (uint32_t j = 0; j < split->head_dim; j++)
        split->direction[j] =
            split->rows[(size_t)members[farthest].token * split->head_dim + j] - split->low[j];
}

static inline void lwk_split_sort(const lwk_split_t *split, lwk_ranked_t *members, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const float *row = split->rows + (size_t)members[i].token * split->head_dim;
        members[i].key = 0;
        for (uint32_t j = 0; j < split->head_dim; j++)
            members[i].key += row[j] * split->direction[j];
    }
    lwk_ranked_sort(members, count);
}

/* Cuts members (ascending by token) into pieces of even size along the direction in which they differ most.
 * The depth is log2(n / size_max). */
static inline void lwk_split_cut(lwk_split_t *split, lwk_ranked_t *members, uint32_t count, uint32_t pieces)
{
    if (pieces == 1) {
        for (uint32_t i = 0; i < count; i++)
            split->assign[members[i].token] = (uint16_t)split->next;
        split->next++;
        return;
    }
    /* Rounded up, both sides stay within pieces * size_max. */
    uint32_t low_pieces = pieces / 2;
    uint32_t low_count = (uint32_t)lw_div_up((uint64_t)count * low_pieces, pieces);
    lwk_split_first_direction(split, members, count);
    lwk_split_sort(split, members, count);
    for (int round = 0; round < LWK_SPLIT_ROUNDS; round++) {
        lwk_split_mean(split, members, low_count, split->low);
        lwk_split_mean(split, members + low_count, count - low_count, split->high);
        for (uint32_t j = 0; j < split->head_dim; j++)
            split->direction[j] = split->high[j] - split->low[j];
        lwk_split_sort(split, members, count);
    }
    lwk_split_cut(split, members, low_count, low_pieces);
    lwk_split_cut(split, members + low_count, count - low_count, pieces - low_pieces);
}

/* counts: [clusters] members of each; starts: [clusters] scratch; members: [n] scratch. Returns the new
 * number of clusters. */
static inline uint32_t lwk_split_all(lwk_split_t *split, uint32_t token_count, uint32_t clusters,
                                     const uint32_t *counts, uint32_t *starts, lwk_ranked_t *members)
{
    uint32_t at = 0;
    for (uint32_t c = 0; c < clusters; c++) {
        starts[c] = at;
        at += counts[c];
    }
    for (uint32_t t = 0; t < token_count; t++)
        members[starts[split->assign[t]]++].token = t;
    split->next = 0;
    at = 0;
    for (uint32_t c = 0; c < clusters; c++) {
        if (counts[c] > 0)
            lwk_split_cut(split, members + at, counts[c], (uint32_t)lw_div_up(counts[c], split->size_max));
        at += counts[c];
    }
    return split->next;
}

#endif /* LWK_BUILD_SPLIT_H */
