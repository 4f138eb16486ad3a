if(TARGET lwd_keep)
  lw_add_test(NAME test_lwd_restore SOURCES test_restore.c shard_place.c segment_make.c LIBS lwd_keep)
endif()
