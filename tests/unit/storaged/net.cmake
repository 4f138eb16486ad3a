set(node_sources node.c data_client.c segment_make.c)
lw_add_test(NAME test_lwd_am SOURCES test_am.c ${node_sources} LIBS lwd_net)
