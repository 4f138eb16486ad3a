# The build ops of the cpu backend; included by kernels/CMakeLists.txt once lwk_cpu exists.
set(LWK_CPU_BUILD_SOURCES
  cpu/build_plain.c
  cpu/build_avx2.c
  cpu/build_avx512.c
  cpu/kmeans.c
  cpu/outliers.c
  cpu/moments.c
  cpu/encode.c
  cpu/pack.c
  cpu/unpack.c)
target_sources(lwk_cpu PRIVATE ${LWK_CPU_BUILD_SOURCES})
# Their loops over channels have no known length, which -O2 leaves as they are.
set_source_files_properties(${LWK_CPU_BUILD_SOURCES} PROPERTIES COMPILE_OPTIONS
  "$<$<CONFIG:RelWithDebInfo,Release>:-O3>")
