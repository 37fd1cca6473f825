/* Runs the CUDA kernels on a CPU, one thread block after the other, to test their results without a GPU. Each
   thread is a coroutine. Operations of a warp wait until all its threads have reached them. Asynchronous copies
   are made as late as allowed: when the kernel waits for them. The emulator says nothing about the speed of the
   kernels. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <stdexcept>
#include <vector>

#undef __device__
#undef __global__
#undef __shared__
#undef __launch_bounds__
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

namespace emulator {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
/* A copy of 16 bytes that has been requested; zeros are written if not `there`. */
struct Copy {
  void* to;
  const void* from;
  bool there;
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(256 * 1024);
  Index index;
  bool done = false;
  int syncs = 0, warp_syncs = 0;          /* how many barriers it has reached */
  std::vector<std::vector<Copy>> groups;  /* committed copies, the oldest group first */
  std::vector<Copy> open;                 /* copies that are not committed yet */
  /* Operands that other lanes of the warp read. */
  struct {
    float number;
    const void* row;
    uint32_t a[4], b[2];
  } brought;
};

struct Block {
  std::vector<Thread> threads;
  ucontext_t scheduler;
  size_t current = 0;
  std::vector<unsigned char> shared;
  Index index;
  std::function<void()> kernel;
};
inline Block* block = nullptr;

inline Thread& self() { return block->threads[block->current]; }
inline Thread& lane(size_t number) { return block->threads[block->current / 32 * 32 + number]; }
inline size_t own_lane() { return block->current % 32; }
inline void pause() { swapcontext(&self().context, &block->scheduler); }

/* Waits until the threads [first, last) have reached this barrier. */
inline void wait_for(size_t first, size_t last, int Thread::*barrier) {
  const int mine = ++(self().*barrier);
  for (bool all = false; !all;) {
    all = true;
    for (size_t other = first; other < last; ++other) all &= block->threads[other].*barrier >= mine;
    if (!all) pause();
  }
}
/* A barrier of the warp. */
inline void warp() { wait_for(block->current / 32 * 32, block->current / 32 * 32 + 32, &Thread::warp_syncs); }

inline void enter() {
  block->kernel();
  self().done = true;
  swapcontext(&self().context, &block->scheduler);
}

/* Runs all threads of one block in turn until they are done. */
inline void run_block(Index index, int threads, size_t shared, std::function<void()> kernel) {
  Block now;
  block = &now;
  now.threads.resize(threads);
  now.shared.assign(shared + 128, 0xFF); /* NaN in every format, which exposes reads before a write */
  now.index = index;
  now.kernel = std::move(kernel);
  for (int number = 0; number < threads; ++number) {
    Thread& thread = now.threads[number];
    thread.index.x = number;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &now.scheduler;
    makecontext(&thread.context, enter, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (now.current = 0; now.current < now.threads.size(); ++now.current)
      if (!now.threads[now.current].done) {
        running = true;
        swapcontext(&now.scheduler, &now.threads[now.current].context);
      }
  }
  block = nullptr;
}

}  // namespace emulator

#define threadIdx (emulator::self().index)
#define blockIdx (emulator::block->index)
inline void __syncthreads() { emulator::wait_for(0, emulator::block->threads.size(), &emulator::Thread::syncs); }
inline void __syncwarp() { emulator::warp(); }
inline float __shfl_xor_sync(uint32_t, float x, int distance) {
  emulator::self().brought.number = x;
  emulator::warp();
  const float other = emulator::lane(emulator::own_lane() ^ distance).brought.number;
  emulator::warp();
  return other;
}
