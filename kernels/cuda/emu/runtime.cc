/* runtime.cc - the device, its memory, copies and launches. Device and pinned pointers are host pointers; which memory is
 * which is remembered, because a copy from pageable memory is done with it when the call returns. Any thread. */
#include "kernels/cuda/emu/runtime.h"

#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/emu/block.h"
#include "kernels/cuda/emu/stream.h"

static const size_t DEVICE_ALIGN = 256, PAGE = 4096;
static const int DEVICE_POISON = 0xFF;
static const size_t POISON_BYTES_MAX = 256u << 20; /* of one allocation: the rest is left as the system gives it */
static const unsigned THREADS_MAX = 1024, PROCESSOR_THREADS = 2048, PROCESSOR_BLOCKS = 32;
static const size_t SHARED_BYTES_MAX = 227u << 10, PROCESSOR_SHARED_BYTES = 228u << 10;

/* ---- the lock that everything on the device holds, and errors
 * ---------------------------------------------------- */

static std::mutex device_lock;

void emu_lock(void)
{
    device_lock.lock();
}

void emu_unlock(void)
{
    device_lock.unlock();
}

static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t emu_error(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorHostMemoryAlreadyRegistered: return "cudaErrorHostMemoryAlreadyRegistered";
    case cudaErrorHostMemoryNotRegistered: return "cudaErrorHostMemoryNotRegistered";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    }
    return "unknown error";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}

/* ---- the device
 * -------------------------------------------------------------------------------------------------- */

/* Few, so that a grid that fills the device stays small. LWK_EMU_PROCESSORS. */
static int processors(void)
{
    const char *text = getenv("LWK_EMU_PROCESSORS");
    int count = text != NULL ? atoi(text) : 4;
    return count > 0 ? count : 1;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : emu_error(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device != 0)
        return emu_error(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    size_t free_bytes;
    cudaMemGetInfo(&free_bytes, &p->totalGlobalMem);
    p->sharedMemPerBlock = 48u << 10;
    p->sharedMemPerBlockOptin = SHARED_BYTES_MAX;
    p->sharedMemPerMultiprocessor = PROCESSOR_SHARED_BYTES;
    p->major = 9;
    p->multiProcessorCount = processors();
    p->maxThreadsPerBlock = (int)THREADS_MAX;
    p->maxThreadsPerMultiProcessor = (int)PROCESSOR_THREADS;
    p->l2CacheSize = 50 << 20;
    p->warpSize = 32;
    p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = p->cooperativeLaunch = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = processors(); return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)PROCESSOR_SHARED_BYTES; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)SHARED_BYTES_MAX; return cudaSuccess;
    case cudaDevAttrClockRate: *value = 1000000; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
    case cudaDevAttrCooperativeLaunch: *value = 1; return cudaSuccess;
    }
    return emu_error(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    return cudaDriverGetVersion(version);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    *total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * page;
    return cudaSuccess;
}

cudaError_t lwk_emu_occupancy(int *blocks, int threads, size_t shared_bytes)
{
    if (threads <= 0 || (unsigned)threads > THREADS_MAX || shared_bytes > SHARED_BYTES_MAX) {
        *blocks = 0;
        return cudaSuccess;
    }
    unsigned warps = ((unsigned)threads + 31) / 32 * 32;
    size_t by_threads = PROCESSOR_THREADS / warps, by_shared = PROCESSOR_SHARED_BYTES / (shared_bytes + 1024);
    size_t most = by_threads < by_shared ? by_threads : by_shared;
    *blocks = (int)(most < PROCESSOR_BLOCKS ? most : PROCESSOR_BLOCKS);
    return cudaSuccess;
}

/* ---- memory
 * ------------------------------------------------------------------------------------------------------ */

struct area {
    size_t bytes;
    cudaMemoryType type;
    bool registered; /* foreign memory */
};
static std::mutex areas_lock;
static std::map<uintptr_t, area> areas;

static std::map<uintptr_t, area>::iterator area_of(const void *ptr) /* under areas_lock */
{
    auto next = areas.upper_bound((uintptr_t)ptr);
    if (next == areas.begin())
        return areas.end();
    --next;
    return (uintptr_t)ptr < next->first + next->second.bytes ? next : areas.end();
}

static bool is_pageable(const void *ptr)
{
    std::lock_guard<std::mutex> hold(areas_lock);
    return area_of(ptr) == areas.end();
}

static cudaError_t take(void **ptr, size_t bytes, size_t align, cudaMemoryType type)
{
    size_t rounded = (bytes + align - 1) / align * align;
    void *memory = bytes == 0 ? NULL : aligned_alloc(align, rounded);
    if (bytes != 0 && memory == NULL)
        return emu_error(cudaErrorMemoryAllocation);
    if (memory != NULL) {
        memset(memory, DEVICE_POISON, bytes < POISON_BYTES_MAX ? bytes : POISON_BYTES_MAX);
        std::lock_guard<std::mutex> hold(areas_lock);
        areas[(uintptr_t)memory] = area{bytes, type, false};
    }
    *ptr = memory;
    return cudaSuccess;
}

static cudaError_t give(void *ptr, cudaMemoryType type)
{
    if (ptr == NULL)
        return cudaSuccess;
    {
        std::lock_guard<std::mutex> hold(areas_lock);
        auto found = areas.find((uintptr_t)ptr);
        if (found == areas.end() || found->second.type != type || found->second.registered)
            return emu_error(cudaErrorInvalidValue);
        areas.erase(found);
    }
    free(ptr);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **ptr, size_t bytes)
{
    return take(ptr, bytes, DEVICE_ALIGN, cudaMemoryTypeDevice);
}

/* As on a GPU, what runs ends first. */
cudaError_t cudaFree(void *ptr)
{
    cudaDeviceSynchronize();
    cudaGetLastError();
    return give(ptr, cudaMemoryTypeDevice);
}

cudaError_t cudaHostAlloc(void **ptr, size_t bytes, unsigned flags)
{
    return take(ptr, bytes, PAGE, cudaMemoryTypeHost);
}

cudaError_t cudaMallocHost(void **ptr, size_t bytes)
{
    return cudaHostAlloc(ptr, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *ptr)
{
    return give(ptr, cudaMemoryTypeHost);
}

cudaError_t cudaHostRegister(void *ptr, size_t bytes, unsigned flags)
{
    if (ptr == NULL || bytes == 0)
        return emu_error(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> hold(areas_lock);
    auto next = areas.lower_bound((uintptr_t)ptr);
    if (area_of(ptr) != areas.end() || (next != areas.end() && next->first < (uintptr_t)ptr + bytes))
        return emu_error(cudaErrorHostMemoryAlreadyRegistered);
    areas[(uintptr_t)ptr] = area{bytes, cudaMemoryTypeHost, true};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *ptr)
{
    std::lock_guard<std::mutex> hold(areas_lock);
    auto found = areas.find((uintptr_t)ptr);
    if (found == areas.end() || !found->second.registered)
        return emu_error(cudaErrorHostMemoryNotRegistered);
    areas.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags)
{
    if (is_pageable(host))
        return emu_error(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *ptr)
{
    std::lock_guard<std::mutex> hold(areas_lock);
    auto found = area_of(ptr);
    memset(attributes, 0, sizeof *attributes);
    if (found == areas.end())
        return cudaSuccess;
    attributes->type = found->second.type;
    attributes->devicePointer = (void *)ptr;
    attributes->hostPointer = found->second.type == cudaMemoryTypeHost ? (void *)ptr : NULL;
    return cudaSuccess;
}

static void copy_now(void *to, const void *from, size_t bytes)
{
    std::lock_guard<std::mutex> hold(device_lock);
    memmove(to, from, bytes);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (bytes == 0)
        return cudaSuccess;
    if (to == NULL || from == NULL)
        return emu_error(cudaErrorInvalidValue);
    bool captures = emu_stream_captures(stream);
    if (!captures && is_pageable(from)) {
        std::shared_ptr<char> staged((char *)malloc(bytes), free);
        memcpy(staged.get(), from, bytes);
        emu_stream_put(stream, [to, staged, bytes] { copy_now(to, staged.get(), bytes); });
    } else {
        emu_stream_put(stream, [to, from, bytes] { copy_now(to, from, bytes); });
    }
    return !captures && is_pageable(to) ? emu_stream_drain(stream) : cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    return error != cudaSuccess ? error : emu_stream_drain(NULL);
}

cudaError_t cudaMemsetAsync(void *ptr, int value, size_t bytes, cudaStream_t stream)
{
    return emu_stream_put(stream, [ptr, value, bytes] {
        std::lock_guard<std::mutex> hold(device_lock);
        memset(ptr, value, bytes);
    });
}

cudaError_t cudaMemset(void *ptr, int value, size_t bytes)
{
    cudaMemsetAsync(ptr, value, bytes, NULL);
    return emu_stream_drain(NULL);
}

/* ---- launches
 * ---------------------------------------------------------------------------------------------------- */

cudaError_t lwk_emu_launch(const char *name, dim3 grid, unsigned threads, size_t shared_bytes, cudaStream_t stream,
                           bool resident, std::function<void()> body)
{
    if (threads == 0 || threads > THREADS_MAX || shared_bytes > SHARED_BYTES_MAX || grid.y > 65535 || grid.z > 65535)
        return emu_error(cudaErrorInvalidConfiguration);
    auto launch = std::make_shared<emu_launch_t>(emu_launch_t{name, grid, threads, shared_bytes, resident, std::move(body)});
    return emu_stream_put(stream, [launch] {
        std::lock_guard<std::mutex> hold(device_lock);
        emu_run(launch.get());
    });
}
