# The runner on a GPU: compiled by nvcc here and by the C++ compiler in emu/. kernels/cuda/launch.cu is how kernels start.
set(LLAMA_CUDA_SOURCES)
foreach(noun fill full graph layers runner)
  list(APPEND LLAMA_CUDA_SOURCES ${CMAKE_CURRENT_LIST_DIR}/${noun}.cu)
endforeach()
list(APPEND LLAMA_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/kernels/cuda/launch.cu)
