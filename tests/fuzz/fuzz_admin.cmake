if(TARGET lwd_ctl AND TARGET lw_rpc)
  lw_add_fuzz(NAME admin SOURCES fuzz_admin.c LIBS lwd_ctl)
endif()
