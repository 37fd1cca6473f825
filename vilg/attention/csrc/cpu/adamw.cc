/* Divides the elements among threads and implements the C interface of adamw.h. */
#include "../adamw.h"

#include <algorithm>

#include "instruction_set.h"

extern "C" void vilg_adamw(const vilg_adamw_step* step, int64_t count, const float* gradient, float* weight,
                           float* moment1, float* moment2, int type, uint16_t* rounded, int threads) {
  constexpr int64_t kElements = 4096; /* that a thread updates at a time; the weights are rounded while in the cache */
  const auto adamw = vilg::instruction_set().elements()->adamw;
  const int64_t parts = (count + kElements - 1) / kElements;
#pragma omp parallel for schedule(static) num_threads(threads) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * kElements, size = std::min(kElements, count - first);
    adamw(*step, size, gradient + first, weight + first, moment1 + first, moment2 + first, type, rounded + first);
  }
}
