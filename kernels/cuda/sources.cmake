# The sources of the CUDA backend, compiled by nvcc here and by the C++ compiler in emu/.
set(LWK_CUDA_SOURCES)
foreach(noun launch backend_cuda prepare score select attend finish lookup admit publish kmeans outliers moments encode
             pack unpack gather append extend)
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/${noun}.cu)
    list(APPEND LWK_CUDA_SOURCES ${CMAKE_CURRENT_LIST_DIR}/${noun}.cu)
  endif()
endforeach()
