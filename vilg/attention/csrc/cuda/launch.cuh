/* Launches a kernel. */
#pragma once
#include <cuda_runtime.h>

namespace vilg_cuda {

/* Returns a cudaError_t. Dynamic shared memory of more than 48 KiB has to be requested explicitly. */
template <typename Kernel, typename Arguments>
inline int launch(Kernel kernel, dim3 blocks, int threads, size_t shared, cudaStream_t stream, const Arguments& arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<blocks, threads, shared, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace vilg_cuda
