# Daemons on a real etcd; skips where there is no etcd command.
if(TARGET storaged AND TARGET longwave_static AND TARGET lwd_etcd)
  add_executable(test_etcd_fleet test_etcd_fleet.c client_fleet.c process.c ../unit/client/harness.c
    ../unit/storaged/etcd_process.c)
  target_link_libraries(test_etcd_fleet PRIVATE longwave_static lwc_control lwd_etcd lw_queue_backend PkgConfig::CMOCKA m
    ${CMAKE_DL_LIBS})
  target_include_directories(test_etcd_fleet PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_test(NAME test_etcd_fleet COMMAND test_etcd_fleet $<TARGET_FILE:storaged>)
  set_tests_properties(test_etcd_fleet PROPERTIES TIMEOUT 600 LABELS e2e SKIP_RETURN_CODE 77)
endif()
