/* cuda_lang_emu.cc - the cases for the C++ compiler, and the launcher that they need. */
#include "kernels/cuda/launch.cu"
#include "unit/kernels/cuda_lang_cases.cu"
