if(TARGET lwd_server)
  # The daemon with a control plane that allows everything: for tests of the data plane alone, never installed.
  add_executable(storaged_open ${PROJECT_SOURCE_DIR}/storaged/main.c ctl_open.c)
  target_link_libraries(storaged_open PRIVATE lwd_server lwd_net lw_wire Threads::Threads)
  target_compile_definitions(storaged_open PRIVATE LW_VERSION="${PROJECT_VERSION}")
  lw_add_test(NAME test_lwd_server SOURCES test_server.c ctl_open.c LIBS lwd_server lwd_net lw_wire Threads::Threads)
endif()
