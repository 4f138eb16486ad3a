/* parts.h - a tile's work cut into parts, so that a GPU has enough blocks where a session has few ranges.
 *
 * A part is a span of clusters and the outliers of these clusters, which lie together because outliers are sorted by parent. How
 * many parts a range has follows from the session's number of ranges and the shape alone, never from the batch or the device:
 * results do not depend on who shares a launch. Every part has one slot for what score leaves (tile_max, tile_sum) and one for a
 * partial: lwk_part_slot(). A backend that does not cut uses a range's first slot and leaves the others empty. */
#ifndef LWK_PARTS_H
#define LWK_PARTS_H

#include <stdint.h>

#include "kernels/hd.h"

#define LWK_PARTS_MAX 8u     /* of one range; a power of two, like every number of parts */
#define LWK_PARTS_HEAD 96u   /* parts of one KV head are at most so many, or what ranges need anyhow, ... */
#define LWK_PARTS_LAYER 768u /* ... or as many as give a layer this many */

/* Parts of one KV head above which ranges are not cut further. */
LWK_HD uint32_t lwk_parts_wanted(uint32_t kv_head_count)
{
    uint32_t each = LWK_PARTS_LAYER / (kv_head_count > 0 ? kv_head_count : 1);
    return each > LWK_PARTS_HEAD ? each : LWK_PARTS_HEAD;
}

/* Parts of each range of a session with so many ranges: 1, 2, 4 or 8. */
LWK_HD uint32_t lwk_parts(uint32_t range_count, uint32_t kv_head_count)
{
    uint32_t parts = LWK_PARTS_MAX, wanted = lwk_parts_wanted(kv_head_count);
    while (parts > 1 && parts * range_count > wanted)
        parts /= 2;
    return parts;
}

LWK_HD uint32_t lwk_part_slot(uint32_t range, uint32_t part, uint32_t parts)
{
    return range * parts + part;
}

/* Slots that sessions of at most so many ranges need. */
LWK_HD uint32_t lwk_part_slots(uint32_t ranges, uint32_t kv_head_count)
{
    uint32_t wanted = lwk_parts_wanted(kv_head_count), most = ranges * LWK_PARTS_MAX;
    most = most < wanted ? most : wanted;
    return most > ranges ? most : ranges;
}

/* First cluster of eighth 0..8 of a tile; multiples of 16, so that matrix units need not cut rows. Part p of `parts` is the
 * eighths from p * 8 / parts on. */
LWK_HD uint32_t lwk_eighth(uint32_t clusters, uint32_t eighth)
{
    uint32_t each = (clusters + 16 * LWK_PARTS_MAX - 1) / (16 * LWK_PARTS_MAX) * 16, first = eighth * each;
    return first < clusters ? first : clusters;
}

typedef struct lwk_part {
    uint32_t cluster_first, cluster_end; /* may be empty */
    uint32_t outlier_first, outlier_end; /* among the tile's outliers; their parents are those clusters */
} lwk_part_t;

/* outlier_eighths: outliers whose parents lie below eighths 1..7; as lwk_tile_t has them. */
LWK_HD lwk_part_t lwk_part(uint32_t clusters, uint32_t outliers, const uint16_t outlier_eighths[LWK_PARTS_MAX - 1],
                           uint32_t part, uint32_t parts)
{
    uint32_t first = part * (LWK_PARTS_MAX / parts), end = first + LWK_PARTS_MAX / parts;
    lwk_part_t p;
    p.cluster_first = lwk_eighth(clusters, first);
    p.cluster_end = lwk_eighth(clusters, end);
    p.outlier_first = first == 0 ? 0 : outlier_eighths[first - 1];
    p.outlier_end = end == LWK_PARTS_MAX ? outliers : outlier_eighths[end - 1];
    return p;
}

/* Outliers, sorted by parent, whose parent is below `cluster`. */
LWK_HD uint32_t lwk_outliers_below(const uint16_t *parents, uint32_t outliers, uint32_t cluster)
{
    uint32_t low = 0, high = outliers;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (parents[middle] < cluster)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

#endif /* LWK_PARTS_H */
