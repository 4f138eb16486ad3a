# Copies between real daemons: repair, drain, refill.
if(TARGET storaged AND TARGET lwc_control)
  add_executable(test_move test_move.c process.c ../unit/storaged/data_client.c ../unit/storaged/segment_make.c)
  target_link_libraries(test_move PRIVATE lwc_control lw_fabric lw_wire PkgConfig::CMOCKA)
  target_include_directories(test_move PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_test(NAME test_move_tcp COMMAND test_move $<TARGET_FILE:storaged> tcp)
  set_tests_properties(test_move_tcp PROPERTIES TIMEOUT 180 LABELS e2e)
endif()
