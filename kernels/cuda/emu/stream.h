/* stream.h - work in order on a thread of its own, recorded instead while the stream captures. Private to the runtime. */
#ifndef LWK_EMU_STREAM_H
#define LWK_EMU_STREAM_H

#include "kernels/cuda/emu/runtime.h"

/* Runs work after all that was put before (or records it). */
cudaError_t emu_stream_put(cudaStream_t stream, std::function<void()> work);
/* Waits until all that was put so far has run; an error while the stream captures. */
cudaError_t emu_stream_drain(cudaStream_t stream);
bool emu_stream_captures(cudaStream_t stream);
/* Remembers an error for cudaGetLastError of this thread, and returns it. */
cudaError_t emu_error(cudaError_t error);

#endif /* LWK_EMU_STREAM_H */
