/* hd.h - LWK_HD, which begins every inline function that host code and device code share: `static inline` for C and
 * C++ compilers, and for nvcc a function of both sides, so that addresses and conversions have one definition. */
#ifndef LWK_HD_H
#define LWK_HD_H

#if defined(__CUDACC__)
#define LWK_HD static __host__ __device__ __forceinline__
#else
#define LWK_HD static inline
#endif

#endif /* LWK_HD_H */
