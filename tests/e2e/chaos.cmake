# Faults on a fleet in network namespaces, while a client decodes. test_chaos is short; tests/dev chaos runs as long as it is told.
if(TARGET storaged AND TARGET longwave_static)
  add_executable(chaos_decode chaos/decode.c ../unit/client/harness.c)
  target_link_libraries(chaos_decode PRIVATE longwave_static PkgConfig::CMOCKA m)
  target_include_directories(chaos_decode PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_executable(chaos_audit chaos/audit.c ../unit/storaged/data_client.c)
  target_link_libraries(chaos_audit PRIVATE lwc_control lw_fabric lw_wire)
  target_include_directories(chaos_audit PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_test(NAME test_chaos COMMAND ${CMAKE_CURRENT_LIST_DIR}/chaos/chaos.py --storaged $<TARGET_FILE:storaged>
    --decode $<TARGET_FILE:chaos_decode> --audit $<TARGET_FILE:chaos_audit> --minutes 0.6)
  set_tests_properties(test_chaos PROPERTIES TIMEOUT 600 LABELS e2e SKIP_RETURN_CODE 77)
endif()
