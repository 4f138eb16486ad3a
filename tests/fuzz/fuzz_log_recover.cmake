if(TARGET lwd_tier)
  lw_add_fuzz(NAME log_recover SOURCES fuzz_log_recover.c LIBS lwd_tier)
endif()
