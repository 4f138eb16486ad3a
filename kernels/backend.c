/* backend.c - finds a backend by name. The two host backends are linked in; the CUDA one is a shared object
 * that is opened on first use, so that a program that never asks for it needs no GPU library. Any thread. */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

#define CUDA_LIBRARY "liblwk_cuda.so"
#define CUDA_LIBRARY_ENV "LWK_CUDA_LIBRARY" /* names another file: the emulated one, or one that is not installed */
#define CUDA_SYMBOL "lwk_backend_cuda" /* const lwk_backend_t *(void); NULL when no device can be used */

static const lwk_backend_t *cuda_backend;
static pthread_once_t cuda_once = PTHREAD_ONCE_INIT;

static void load_cuda(void)
{
    const char *other = getenv(CUDA_LIBRARY_ENV);
    void *library = dlopen(other != NULL && other[0] != '\0' ? other : CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return;
    union {
        void *object;
        const lwk_backend_t *(*function)(void);
    } entry;
    entry.object = dlsym(library, CUDA_SYMBOL);
    const lwk_backend_t *backend = entry.object != NULL ? entry.function() : NULL;
    if (backend == NULL || backend->version != LWK_BACKEND_VERSION || backend->size < sizeof(lwk_backend_t)) {
        dlclose(library);
        return;
    }
    cuda_backend = backend;
}

static const lwk_backend_t *find_cuda(void)
{
    pthread_once(&cuda_once, load_cuda);
    return cuda_backend;
}

static const lwk_backend_t *(*wrapper)(const lwk_backend_t *found);

void lwk_backend_wrap(const lwk_backend_t *(*wrap)(const lwk_backend_t *found))
{
    wrapper = wrap;
}

static const lwk_backend_t *find(const char *name)
{
    if (name == NULL || name[0] == '\0')
        name = getenv("LWK_BACKEND");
    if (name == NULL || name[0] == '\0') {
        const lwk_backend_t *best = find_cuda();
        return best != NULL ? best : lwk_cpu_backend();
    }
    if (strcmp(name, "ref") == 0)
        return lwk_ref_backend();
    if (strcmp(name, "cpu") == 0)
        return lwk_cpu_backend();
    if (strcmp(name, "cuda") == 0)
        return find_cuda();
    return NULL;
}

const lwk_backend_t *lwk_backend_find(const char *name)
{
    const lwk_backend_t *found = find(name);
    return found != NULL && wrapper != NULL ? wrapper(found) : found;
}
