if(TARGET lwd_ctl AND TARGET lwc_control)
  # A node's control plane against the client's: the two ends of one contract.
  lw_add_test(NAME test_ctl SOURCES test_ctl.c LIBS lwd_ctl lwc_control lw_rpc lw_pb TIMEOUT 120)
  lw_add_test(NAME test_ctl_params SOURCES test_ctl_params.c LIBS lwd_ctl)
  lw_add_test(NAME test_ctl_fleet SOURCES test_ctl_fleet.c LIBS lwd_ctl lwc_control lw_rpc lw_pb TIMEOUT 120)
  lw_add_test(NAME test_ctl_etcd SOURCES test_ctl_etcd.c etcd_process.c LIBS lwd_ctl lwd_etcd lwc_control TIMEOUT 180)
  if(MHD_FOUND)
    lw_add_test(NAME test_ctl_http SOURCES test_ctl_http.c LIBS lwd_ctl TIMEOUT 60)
  endif()

  # An independent client, in Python. Skips where Python's gRPC or protoc's plugin is missing.
  add_executable(ctl_node ctl_node.c)
  target_link_libraries(ctl_node PRIVATE lwd_ctl)
  add_test(NAME test_ctl_python
           COMMAND /usr/bin/env python3 ${CMAKE_CURRENT_SOURCE_DIR}/ctl_python.py $<TARGET_FILE:ctl_node>
                   ${PROJECT_SOURCE_DIR}/proto/pb)
  set_tests_properties(test_ctl_python PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS unit)
endif()
