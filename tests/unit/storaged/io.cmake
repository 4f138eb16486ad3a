if(TARGET lwd_io)
  lw_add_test(NAME test_lwd_io_uv SOURCES test_io_uv.c LIBS lwd_io)
endif()
