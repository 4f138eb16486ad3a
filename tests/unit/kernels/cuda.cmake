# The dialect of kernels/cuda/: over the emulator everywhere, and on a GPU where nvcc is.
if(LW_HAVE_CUDA_EMULATOR)
  lw_add_test(NAME test_cuda_emu SOURCES test_cuda_lang.c cuda_lang_emu.cc LIBS lwk_emu LABELS unit ops)
  target_compile_definitions(test_cuda_emu PRIVATE CUDA_LANG_EMULATED)
endif()
if(LW_HAVE_CUDA)
  lw_add_test(NAME test_cuda_lang SOURCES test_cuda_lang.c cuda_lang_cases.cu ../../../kernels/cuda/launch.cu
              LIBS lw_base LABELS unit ops gpu)
endif()
