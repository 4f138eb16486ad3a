foreach(name am claim put fetch worker stats)
  lw_add_test(NAME test_lwd_${name} SOURCES test_${name}.c node.c node_fixture.c data_client.c segment_make.c LIBS lwd_net)
endforeach()
lw_add_test(NAME test_lwd_ring SOURCES test_ring.c LIBS lwd_net Threads::Threads)
