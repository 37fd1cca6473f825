/* Replaces csrc/cuda/launch.cuh: runs the blocks of the grid in the emulator. */
#pragma once
#include "emulator.h"

namespace vilg_cuda {

template <typename Kernel, typename Arguments>
inline int launch(Kernel kernel, dim3 blocks, int threads, size_t shared, cudaStream_t, const Arguments& arguments) {
  for (unsigned z = 0; z < blocks.z; ++z)
    for (unsigned y = 0; y < blocks.y; ++y)
      for (unsigned x = 0; x < blocks.x; ++x)
        emulator::run_block({x, y, z}, threads, shared, [&] { kernel(arguments); });
  return cudaSuccess;
}

}  // namespace vilg_cuda
