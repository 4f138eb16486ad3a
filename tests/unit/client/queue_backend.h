/* queue_backend.h - a backend for tests that is asynchronous without a GPU: each stream is a thread with a queue, in which
 * the `cpu` backend's ops run. finish waits for arrivals as a GPU does; steps can be captured into graphs.
 *
 * Copies and arguments are read when their turn comes, so that memory which is reused too early shows. */
#ifndef CLIENT_QUEUE_BACKEND_H
#define CLIENT_QUEUE_BACKEND_H

#include "kernels/backend.h"

const lwk_backend_t *queue_backend(void);
/* While held, no stream takes anything from its queue. */
void queue_backend_hold(bool held);
/* Ops whose items were enqueued since the program began. */
uint64_t queue_backend_enqueued(void);

#endif /* CLIENT_QUEUE_BACKEND_H */
