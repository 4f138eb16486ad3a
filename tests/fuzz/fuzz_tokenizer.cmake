if(TARGET llama_test_support)
  lw_add_fuzz(NAME tokenizer SOURCES fuzz_tokenizer.c LIBS lw_llama llama_test_support)
endif()
