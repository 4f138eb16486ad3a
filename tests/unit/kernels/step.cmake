# The step path: how scratch is laid out, how a backend is found, the cpu backend's inner loops.
lw_add_test(NAME test_kernels_scratch SOURCES test_scratch.c LIBS lwk)
lw_add_test(NAME test_kernels_backend SOURCES test_backend.c LIBS lwk)
lw_add_test(NAME test_kernels_loops SOURCES test_loops.c LIBS lwk)
