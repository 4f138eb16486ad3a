foreach(name am claim put fetch worker stats)
  lw_add_test(NAME test_lwd_${name} SOURCES test_${name}.c node.c node_fixture.c data_client.c segment_make.c LIBS lwd_net)
endforeach()
# Without the fabric: UCX and the thread sanitizer do not go together in a process that starts threads.
lw_add_test(NAME test_lwd_ring SOURCES test_ring.c ${PROJECT_SOURCE_DIR}/storaged/net/ring.c LIBS lw_base Threads::Threads)
