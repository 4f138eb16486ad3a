# The fabric's units: one conformance program for each implementation, a server in another process, the net.
lw_add_test(NAME test_fabric SOURCES test_fabric.c fabric_rig.c LIBS lw_fabric ARGS sim)
lw_add_test(NAME test_fabric_sim SOURCES test_fabric_sim.c LIBS lw_fabric)
lw_add_test(NAME test_fabric_address SOURCES test_fabric_address.c LIBS lw_fabric)
lw_add_test(NAME test_fabric_gather SOURCES test_fabric_gather.c LIBS lw_fabric)
if(UCX_FOUND)
  lw_add_test(NAME test_fabric_process SOURCES test_fabric_process.c LIBS lw_fabric ARGS tcp)
  # Its own connect() and send() stand before the C library's, also for UCX.
  lw_add_test(NAME test_fabric_vanish SOURCES test_fabric_vanish.c LIBS lw_fabric ${CMAKE_DL_LIBS} TIMEOUT 120)
  set_target_properties(test_fabric_vanish PROPERTIES ENABLE_EXPORTS ON)
  add_test(NAME test_fabric_tcp COMMAND test_fabric tcp)
  add_test(NAME test_fabric_shm COMMAND test_fabric shm)
  add_test(NAME test_fabric_process_shm COMMAND test_fabric_process shm)
  set_tests_properties(test_fabric_tcp test_fabric_shm test_fabric_process_shm PROPERTIES
    TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS unit)
  # The thread sanitizer and UCX's memory hooks don't mix.
  set_tests_properties(test_fabric_tcp test_fabric_shm test_fabric_process test_fabric_process_shm test_fabric_vanish PROPERTIES
    ENVIRONMENT "UCX_MEM_MMAP_HOOK_MODE=none;UCX_MEM_EVENTS=n")
  # Leaving a stopped peer leaves a UCX worker behind over shared memory, on purpose.
  set_property(TEST test_fabric_process_shm APPEND PROPERTY ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0")
endif()
