/* base.h - attributes, assertions and small inline helpers that every module uses.
 *
 * LW_ASSERT guards our own mistakes and stays on in release builds; input, peers and disks are checked
 * with `if` and answered with a status. */
#ifndef LW_BASE_H
#define LW_BASE_H

#include <stddef.h>
#include <stdint.h>

#include "base/longwave_status.h"

#define LW_CHECK __attribute__((warn_unused_result))
#define LW_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define LW_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define LW_ASSERT(cond) \
    ((cond) ? (void)0 : lw_assert_failed(__FILE__, __LINE__, #cond))

#ifdef __cplusplus
extern "C" {
#endif

__attribute__((noreturn)) void lw_assert_failed(const char *file, int line, const char *cond);

/* Text of a status; "unknown status" for a code outside the list. Never NULL, static. */
const char *lw_status_text(int status);
/* Short name of a status ("ERR_BUSY"). Never NULL, static. */
const char *lw_status_name(int status);

#ifdef __cplusplus
}
#endif

static inline uint64_t lw_align_up(uint64_t value, uint64_t align) /* align: a power of two */
{
    return (value + align - 1) & ~(align - 1);
}
static inline uint64_t lw_div_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }
static inline uint64_t lw_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t lw_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

#endif /* LW_BASE_H */
