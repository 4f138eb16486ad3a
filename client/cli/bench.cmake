# `longwave bench`: synthetic K and V through the library. On a GPU it uses the model runner's library when it is there; its
# baseline on host backends is the model runner's attention.
set(LW_CLI_BENCH_SOURCES bench_baseline.c bench_ceiling.c bench_decode.c bench_device.c bench_exact.c bench_inputs.c bench_kv.c
    bench_options.c bench_phase.c bench_report.c bench_shape.c bench_step.c bench_steps.c bench_threads.c bench_tokens.c
    bench_trace.c)
