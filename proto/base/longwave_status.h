/* longwave_status.h - the status list that the library, the daemon and the wire share.
 *
 * One list makes the enum, the strings, the wire values and docs/reference/status.md. Codes are never
 * renumbered or reused. Errors are grouped by the largest object that the failure spoiled, so that a
 * caller knows what to throw away without reading prose: -1..-19 this call, -20..-39 this session,
 * -40.. this client. */
#ifndef LONGWAVE_STATUS_H
#define LONGWAVE_STATUS_H

/* clang-format off */
#define LW_STATUS_MAP(XX)                                                     \
    XX(OK,                0, "done")                                          \
    XX(INPROGRESS,        1, "accepted, not finished")                        \
    /* this call: fix the input, or progress and retry */                     \
    XX(ERR_INVALID,      -1, "invalid argument")                              \
    XX(ERR_NO_MEMORY,    -2, "out of memory")                                 \
    XX(ERR_BUSY,         -3, "no free slot now, progress and retry")          \
    XX(ERR_TIMEOUT,      -4, "deadline passed")                               \
    XX(ERR_CANCELED,     -5, "canceled by caller")                            \
    XX(ERR_UNSUPPORTED,  -6, "not supported by this backend or peer")         \
    XX(ERR_STALE,        -7, "out of date: refresh and retry")                \
    XX(ERR_NOT_FOUND,    -8, "no such object, or not yours")                  \
    XX(ERR_PERMISSION,   -9, "permission denied")                             \
    XX(ERR_EXHAUSTED,   -10, "fleet or node full, retry later")               \
    XX(ERR_QUOTA,       -11, "quota exceeded")                                \
    XX(ERR_UNREACHABLE, -12, "peer unreachable")                              \
    XX(ERR_EXISTS,      -13, "already exists with other contents")            \
    XX(ERR_IO,          -14, "input or output failed")                        \
    /* this session: close it */                                              \
    XX(ERR_SESSION_LOST,-20, "a cluster has no readable copy")                \
    XX(ERR_CORRUPT,     -21, "no replica with a valid checksum")              \
    /* this client: close it and open a new one */                            \
    XX(ERR_FLEET,       -40, "fleet membership unreachable")                  \
    XX(ERR_DEVICE,      -41, "accelerator in a sticky error state")           \
    XX(ERR_VERSION,     -42, "struct or wire version not understood")
/* clang-format on */

typedef enum lw_status {
#define XX(name, code, text) LW_##name = (code),
    LW_STATUS_MAP(XX)
#undef XX
} lw_status_t;

#endif /* LONGWAVE_STATUS_H */
