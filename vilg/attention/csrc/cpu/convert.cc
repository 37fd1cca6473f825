/* Divides the elements among threads and implements the C interface of convert.h. */
#include "../convert.h"

#include <algorithm>

#include "instruction_set.h"

namespace {

constexpr int64_t kElements = 16384; /* elements that a thread converts at a time */

/* Calls work(first, count) for all parts of `count` elements. */
template <typename F>
void share_out(int64_t count, int threads, F work) {
  const int64_t parts = (count + kElements - 1) / kElements;
#pragma omp parallel for schedule(static) num_threads(threads) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part)
    work(part * kElements, std::min(kElements, count - part * kElements));
}

}  // namespace

extern "C" void vilg_widen(int type, int64_t count, const uint16_t* from, float* to, int threads) {
  const auto widen = vilg::instruction_set().elements()->widen;
  share_out(count, threads, [&](int64_t first, int64_t size) { widen(type, from + first, size, to + first); });
}

extern "C" void vilg_add(int type, int64_t count, const uint16_t* x, const uint16_t* y, uint16_t* out) {
  vilg::instruction_set().elements()->add(type, x, y, count, out);
}

extern "C" void vilg_multiply(int type, int64_t count, const uint16_t* x, const uint16_t* y, uint16_t* out) {
  vilg::instruction_set().elements()->multiply(type, x, y, count, out);
}

extern "C" void vilg_times_vector(int type, int64_t rows, int64_t width, const uint16_t* matrix,
                                  const uint16_t* vector, uint16_t* out, float* scratch) {
  vilg::instruction_set().elements()->times_vector(type, rows, width, matrix, vector, out, scratch);
}

extern "C" void vilg_vector_times(int type, int64_t rows, int64_t width, const uint16_t* matrix,
                                  const uint16_t* vector, uint16_t* out, float* scratch) {
  vilg::instruction_set().elements()->vector_times(type, rows, width, matrix, vector, out, scratch);
}

extern "C" void vilg_narrow(int type, int64_t count, const float* from, uint16_t* to, int threads) {
  const auto narrow = vilg::instruction_set().elements()->narrow;
  share_out(count, threads, [&](int64_t first, int64_t size) { narrow(type, from + first, size, to + first); });
}
