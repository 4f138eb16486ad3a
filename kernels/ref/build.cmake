# The build ops of the ref backend; included by kernels/CMakeLists.txt once lwk_ref exists.
target_sources(lwk_ref PRIVATE
  ref/kmeans.c
  ref/outliers.c
  ref/moments.c
  ref/encode.c
  ref/pack.c
  ref/unpack.c)
