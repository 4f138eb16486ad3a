/* gpu.c - finds the library that runs models on a GPU. */
#include "client/examples/llama/gpu.h"

#include <dlfcn.h>
#include <stdlib.h>

#define LIBRARY "liblw_llama_cuda.so"
#define LIBRARY_ENV "LW_LLAMA_CUDA_LIBRARY"
#define SYMBOL "llama_gpu_cuda" /* const llama_gpu_api_t *(void) */

const llama_gpu_api_t *llama_gpu_find(lw_error_t *error)
{
    const char *other = getenv(LIBRARY_ENV), *name = other != NULL && other[0] != '\0' ? other : LIBRARY;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    union {
        void *object;
        const llama_gpu_api_t *(*function)(void);
    } entry;
    if (library == NULL) {
        lw_fail(error, LW_ERR_UNSUPPORTED, "%s: %s (%s names another file)", name, dlerror(), LIBRARY_ENV);
        return NULL;
    }
    entry.object = dlsym(library, SYMBOL);
    const llama_gpu_api_t *api = entry.object != NULL ? entry.function() : NULL;
    if (api == NULL || api->version != LLAMA_GPU_VERSION || api->size < sizeof(*api)) {
        lw_fail(error, LW_ERR_VERSION, "%s is of another version", name);
        dlclose(library);
        return NULL;
    }
    return api;
}
