/* longwave_types.h - small enums that the public header, the wire and the kernels share. Codes never change. */
#ifndef LONGWAVE_TYPES_H
#define LONGWAVE_TYPES_H

#include <stdint.h>

typedef enum lw_dtype { LW_DTYPE_BF16 = 1, LW_DTYPE_FP16 = 2, LW_DTYPE_FP32 = 3 } lw_dtype_t;

/* How an index entry is stored. Outliers keep their key only. */
typedef enum lw_encoding {
    LW_ENCODING_BF16 = 1,
    LW_ENCODING_INT8 = 2,
    LW_ENCODING_INT4 = 3,
    LW_ENCODING_FP32 = 4, /* for tests and as the unquantised yardstick */
} lw_encoding_t;

#endif /* LONGWAVE_TYPES_H */
