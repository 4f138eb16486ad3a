foreach(name guard known segment_state reserve commit reap attach shard journal)
  lw_add_test(NAME test_lwd_${name} SOURCES test_${name}.c shard_place.c segment_make.c LIBS lwd_shard)
endforeach()
