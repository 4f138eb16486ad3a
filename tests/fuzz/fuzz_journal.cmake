if(TARGET lwd_shard)
  lw_add_fuzz(NAME journal SOURCES fuzz_journal.c LIBS lwd_shard)
endif()
