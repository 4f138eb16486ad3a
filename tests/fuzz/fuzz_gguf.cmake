if(TARGET lw_llama)
  lw_add_fuzz(NAME gguf SOURCES fuzz_gguf.c LIBS lw_llama)
endif()
