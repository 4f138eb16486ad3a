# `longwave perftest`: included by whoever builds a program with it.
set(LW_CLI_PERFTEST_SOURCES perftest.c perftest_daemon.c perftest_fetch.c perftest_report.c perftest_set.c perftest_stream.c)
