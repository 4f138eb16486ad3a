/* session.h - what client and daemon both say of a session: the shape of its KV and the ranges of its
 * manifest. Nothing of the data plane's bytes; the control plane's messages carry it (proto/pb/convert.h). */
#ifndef LW_WIRE_SESSION_H
#define LW_WIRE_SESSION_H

#include <stdint.h>

#include "base/limits.h"

/* What a session's KV looks like and how its index is built. Fixed at creation. */
typedef struct lw_session_shape {
    char model_id[LW_MODEL_ID_MAX];
    uint32_t layer_count, kv_head_count, query_head_count, head_dim;
    uint32_t dtype;                              /* lw_dtype_t */
    uint32_t rank_count;                         /* tensor-parallel ranks; 1 for none */
    uint32_t segment_tokens;                     /* size of a prefill segment */
    uint32_t replicas;                           /* 1..LW_REPLICAS_MAX */
    uint32_t cluster_encoding, outlier_encoding; /* lw_encoding_t */
    uint32_t outlier_ppm, cluster_tokens;
} lw_session_shape_t;

/* One committed range of one rank: the segments of all layers over the same tokens. */
typedef struct lw_session_range {
    uint64_t origin; /* session that wrote it: a fork's manifest begins with its parent's ranges. Ignored by a
                        commit */
    uint32_t first_token, token_count;
    uint32_t generation;                                  /* the writer's term */
    uint32_t flags;                                       /* LW_RANGE_* */
    uint32_t replicas;                                    /* copies of each segment that are verified */
    uint64_t bytes;                                       /* of all layers, one replica */
    uint16_t node_index[LW_LAYERS_MAX * LW_REPLICAS_MAX]; /* of layer l, replica r: [l * replicas + r] */
} lw_session_range_t;
#define LW_RANGE_RAW 1u     /* raw tail: replaced by the next range that begins at the same token */
#define LW_RANGE_MOMENTS 2u /* its segments carry moments */
#define LW_RANGE_MOVED 4u   /* a copy is on another node than at the commit; set by the catalogue, refused in a commit */

#endif /* LW_WIRE_SESSION_H */
