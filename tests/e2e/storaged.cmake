# The daemon alone.
if(TARGET storaged_open)
  add_executable(test_storaged_data test_storaged_data.c process.c ../unit/storaged/data_client.c
    ../unit/storaged/segment_make.c)
  target_link_libraries(test_storaged_data PRIVATE lw_fabric lw_wire PkgConfig::CMOCKA)
  target_include_directories(test_storaged_data PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  foreach(transports tcp shm)
    add_test(NAME test_storaged_data_${transports}
      COMMAND test_storaged_data $<TARGET_FILE:storaged_open> ${transports})
    set_tests_properties(test_storaged_data_${transports} PROPERTIES TIMEOUT 120 LABELS e2e)
  endforeach()
endif()

if(TARGET storaged_open)
  add_executable(test_storaged_restart test_storaged_restart.c process.c ../unit/storaged/data_client.c
    ../unit/storaged/segment_make.c)
  target_link_libraries(test_storaged_restart PRIVATE lw_fabric lw_wire PkgConfig::CMOCKA)
  target_include_directories(test_storaged_restart PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_test(NAME test_storaged_restart COMMAND test_storaged_restart $<TARGET_FILE:storaged_open>)
  set_tests_properties(test_storaged_restart PROPERTIES TIMEOUT 180 LABELS e2e)
endif()

if(TARGET storaged)
  add_executable(test_storaged_process test_storaged_process.c process.c)
  target_link_libraries(test_storaged_process PRIVATE lw_base PkgConfig::CMOCKA)
  target_include_directories(test_storaged_process PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_test(NAME test_storaged_process COMMAND test_storaged_process $<TARGET_FILE:storaged> ${PROJECT_SOURCE_DIR})
  set_tests_properties(test_storaged_process PROPERTIES TIMEOUT 180 LABELS e2e)
endif()
