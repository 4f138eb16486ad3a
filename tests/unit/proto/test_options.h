/* test_options.h - one small option table with a row of every kind, as a module would write it in its .def file. */
#ifndef LW_TEST_OPTIONS_H
#define LW_TEST_OPTIONS_H

#include "base/option.h"

#define TEST_OPTIONS(OPT)                                                                                          \
    OPT(mem, arena_bytes, BYTES, "auto", "16m", "16t", RESTART, "Memory served to clients.")                        \
    OPT(mem, slice_bytes, BYTES, "1g", "4k", "3g", RESTART, "Largest registration.")                                \
    OPT(shard, lease_us, USEC, "30s", "1s", "1h", LIVE, "How long a client may be silent.")                         \
    OPT(shard, late_us, USEC, "auto", "0us", "10s", LIVE, "When something is late.")                                \
    OPT(shard, threads, UINT, "2", "1", "64", RESTART, "Data threads.")                                             \
    OPT(shard, any, UINT, "0", "", NULL, LIVE, "A number without bounds.")                                          \
    OPT(shard, low, UINT, "9", "3", "", LIVE, "A number with one bound.")                                           \
    OPT(net, verify, BOOL, "true", "", "", LIVE, "Whether to verify.")                                              \
    OPT(net, listen, STRING, "127.0.0.1:7000", "", "", RESTART, "Address to listen on; it may be a long sentence " \
                                                               "that has to be wrapped when it is shown by help.") \
    OPT(net, label, STRING, "", "", "", RESTART, "Free text.")

typedef uint64_t test_field_BYTES, test_field_USEC, test_field_UINT;
typedef bool test_field_BOOL;
typedef char test_field_STRING[LW_OPTION_STRING_MAX];

typedef struct test_options {
    uint64_t guard_before;
#define OPT(group, name, kind, def, min, max, reload, help) test_field_##kind group##_##name;
    TEST_OPTIONS(OPT)
#undef OPT
    uint64_t guard_after;
} test_options_t;

static const lw_option_t test_rows[] = {
#define OPT(group, name, kind, def, min, max, reload, help)                                                       \
    {#group, #name, LW_OPTION_##kind, def, min, max, LW_OPTION_##reload, help, offsetof(test_options_t, group##_##name)},
    TEST_OPTIONS(OPT)
#undef OPT
};

static const lw_option_table_t test_table = {"testd", test_rows, LW_ARRAY_SIZE(test_rows)};

#endif /* LW_TEST_OPTIONS_H */
