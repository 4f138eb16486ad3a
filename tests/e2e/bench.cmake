# `longwave bench`, on the CPU and over the emulated device (and a real one, by hand or from tests/gpu).
if(TARGET storaged AND TARGET longwave_cli AND TARGET lwc_synth AND TARGET lw_llama_gpu)
  add_test(NAME test_bench_cpu COMMAND ${CMAKE_CURRENT_LIST_DIR}/test_bench.sh $<TARGET_FILE:longwave_cli>
    $<TARGET_FILE:storaged> cpu)
  set_tests_properties(test_bench_cpu PROPERTIES TIMEOUT 300 LABELS e2e)
  if(TARGET lwk_cuda_emu AND TARGET lw_llama_cuda_emu)
    add_test(NAME test_bench_cuda_emulated COMMAND ${CMAKE_CURRENT_LIST_DIR}/test_bench.sh $<TARGET_FILE:longwave_cli>
      $<TARGET_FILE:storaged> cuda)
    set_tests_properties(test_bench_cuda_emulated PROPERTIES TIMEOUT 900 LABELS e2e SKIP_RETURN_CODE 77 ENVIRONMENT
      "LWK_CUDA_LIBRARY=$<TARGET_FILE:lwk_cuda_emu>;LW_LLAMA_CUDA_LIBRARY=$<TARGET_FILE:lw_llama_cuda_emu>")
  endif()
  if(TARGET lwk_cuda AND TARGET lw_llama_cuda)
    add_test(NAME test_bench_cuda COMMAND ${CMAKE_CURRENT_LIST_DIR}/test_bench.sh $<TARGET_FILE:longwave_cli>
      $<TARGET_FILE:storaged> cuda)
    set_tests_properties(test_bench_cuda PROPERTIES TIMEOUT 300 LABELS "e2e;gpu" SKIP_RETURN_CODE 77 ENVIRONMENT
      "LWK_CUDA_LIBRARY=$<TARGET_FILE:lwk_cuda>;LW_LLAMA_CUDA_LIBRARY=$<TARGET_FILE:lw_llama_cuda>")
  endif()
endif()
