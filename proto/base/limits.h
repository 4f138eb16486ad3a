/* limits.h - the named maximum of every queue, list, message and retry. A test reaches each of them. */
#ifndef LW_LIMITS_H
#define LW_LIMITS_H

#define LW_UNIT_TOKENS 1024u            /* tokens in a unit; segments are 1..8 units */
#define LW_SEGMENT_UNITS_MAX 8u
#define LW_SEGMENT_TOKENS_MAX (LW_UNIT_TOKENS * LW_SEGMENT_UNITS_MAX)
#define LW_SINK_TOKENS 4u               /* first tokens of a session, always exact */
#define LW_RECENT_TOKENS 64u            /* newest tokens that are never sealed */
#define LW_STEADY_TOKENS_MIN 3072u      /* room of the steady zone, at least */
#define LW_CLUSTERS_PER_UNIT_MAX 320u   /* index capacity: clusters per 1,024 tokens and KV head */
#define LW_OUTLIERS_PER_UNIT_MAX 128u   /* index capacity: outliers per 1,024 tokens and KV head */
#define LW_LAYERS_MAX 256u
#define LW_KV_HEADS_MAX 64u
#define LW_GROUP_MAX 16u                /* query heads per KV head */
#define LW_QUERY_TOKENS_MAX 8u          /* query tokens of one decode step */
#define LW_HEAD_DIM_MAX 256u            /* multiple of 8 */
#define LW_RANGES_MAX 4096u             /* ranges of one session: 4M tokens of 1,024, 32M of 8,192 */
#define LW_BATCH_MAX 64u                /* sessions in one step */

#define LW_MSG_HEAD_MAX 256u            /* wire header and fixed body of a message */
#define LW_MSG_LIST_MAX (1u << 20)      /* bytes of the lists of one message */
#define LW_MSG_BULK_MAX (64u << 20)     /* bytes of the bulk part of one message */
#define LW_FETCH_RUNS_MAX 8192u
#define LW_FETCH_ENTRIES_MAX 65536u
#define LW_ATTACH_NAMES_MAX 16384u
#define LW_WRITE_CHUNK_BYTES (1u << 20) /* a segment travels in chunks of this size */
#define LW_SEGMENT_BYTES_MAX (1ull << 30)
#define LW_NODES_MAX 1024u
#define LW_REPLICAS_MAX 4u
#define LW_ADDRESS_MAX 128u             /* "host:port" with its terminator */
#define LW_MODEL_ID_MAX 128u
#define LW_TOKEN_BYTES 16u              /* a session's data-plane token */
#define LW_REQUESTS_MAX 4096u           /* requests in flight of one store client */
#define LW_RETRIES_MAX 8u

#endif /* LW_LIMITS_H */
