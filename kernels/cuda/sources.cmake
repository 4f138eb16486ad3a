# The sources of the CUDA backend, compiled by nvcc here and by the C++ compiler in emu/.
set(LWK_CUDA_SOURCES)
foreach(noun admit append attend backend_cuda encode extend finish gather kmeans launch moments outliers pack prepare publish score
             select unpack)
  list(APPEND LWK_CUDA_SOURCES ${CMAKE_CURRENT_LIST_DIR}/${noun}.cu)
endforeach()
