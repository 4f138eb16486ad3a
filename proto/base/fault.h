/* fault.h - named fault points in production code, free when built without LW_FAULTS.
 *
 * A point is first enabled for the run, then fires with a chance, both from the seed (two stages, so that
 * runs differ in kind and not only in order). The simulator enables them; a daemon takes LW_FAULT_POINTS
 * ("name=chance;name=chance", chance in [0, 1]) from its environment when built with them. */
#ifndef LW_FAULT_H
#define LW_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

#define LW_FAULT_MAP(XX)                                                                     \
    XX(COMMIT_ACK_EARLY, "planted bug: a commit is acknowledged before it is verified")       \
    XX(CHECKSUM_SKIP, "planted bug: the reader accepts records without comparing checksums")  \
    XX(GENERATION_REUSE, "planted bug: a freed handle's generation is used again")            \
    XX(MOVE_EARLY, "planted bug: a manifest is changed before the copy has landed")           \
    XX(REPLY_DROP, "a data-plane reply is not sent")                                          \
    XX(REPLY_CORRUPT, "one byte of a fetch reply is flipped")                                 \
    XX(RESERVE_FULL, "a reservation is refused as if the arena were full")                    \
    XX(SHIP_DROP_COMMIT, "the writer dies between write and commit")                          \
    XX(RECORD_SWAP, "a control: two fetched records of different heads change places")

typedef enum lw_fault {
#define XX(name, text) LW_FAULT_##name,
    LW_FAULT_MAP(XX)
#undef XX
    LW_FAULT_COUNT
} lw_fault_t;

#ifdef LW_FAULTS
bool lw_fault_fires(lw_fault_t fault);
void lw_fault_reset(uint64_t seed);                    /* all off; seeds the draws */
void lw_fault_enable(lw_fault_t fault, double chance); /* chance in [0, 1] */
LW_CHECK lw_status_t lw_fault_enable_text(const char *text); /* "NAME=chance;NAME=chance" */
#define LW_FAULT(name) lw_fault_fires(LW_FAULT_##name)
#else
#define LW_FAULT(name) false
#endif

#endif /* LW_FAULT_H */
