# `longwave bench`: synthetic K and V through the library. Its baseline on host backends is the model runner's attention.
set(LW_CLI_BENCH_SOURCES bench_decode.c bench_device.c bench_exact.c bench_kv.c bench_options.c bench_report.c bench_shape.c
    bench_steps.c bench_threads.c)
