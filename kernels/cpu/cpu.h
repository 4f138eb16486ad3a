/* cpu.h - the cpu backend: the ops of ref.h with vector loops, chosen once by what the processor has. */
#ifndef LWK_CPU_H
#define LWK_CPU_H

#include "kernels/backend.h"

const lwk_backend_t *lwk_cpu_backend(void);

#endif /* LWK_CPU_H */
