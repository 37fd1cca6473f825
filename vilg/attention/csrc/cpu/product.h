/* Small matrix products whose accumulators stay in registers. */
#pragma once
#include "vector.h"

namespace VILG_ISA {

/* One register tile: c[M rows][N vectors] = sum over t < depth of a(i, t) * b[t][..], added to c if kAdd. Element
   (i, t) of a is a[i * a_row + t * a_step], so that a may be stored in row-major or column-major order. */
template <int M, int N, bool kAdd>
inline __attribute__((always_inline)) void patch(int depth, const float* a, int a_row, int a_step, const float* b,
                                                 int b_row, float* c, int c_row) {
  Vector sums[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[i][n] = kAdd ? load(c + i * c_row + n * kLanes) : Vector{};
  for (int t = 0; t < depth; ++t) {
    Vector row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = load(b + t * b_row + n * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vector factor = all(a[i * a_row + t * a_step]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[i][n] += factor * row[n];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + i * c_row + n * kLanes, sums[i][n]);
}

/* The size of the register tile, M rows x N vectors, chosen for 32 vector registers with AVX-512 and 16 otherwise. */
template <int kWidth>
struct Patch {
  static constexpr int kVectors = kWidth / kLanes;
  static constexpr bool kMany = VILG_REGISTERS >= 32;
  static constexpr int N = kMany ? (kVectors <= 6 ? kVectors : kVectors / 2) : 2;
  static constexpr int M = kMany && N <= 2 ? 8 : 4;
};

/* c[kRows][kWidth] = a b with inner dimension `depth`, added to c if kAdd. kRows is a multiple of 8, kWidth of 16. */
template <int kRows, int kWidth, bool kAdd>
inline void product(int depth, const float* a, int a_row, int a_step, const float* b, int b_row, float* c,
                    int c_row) {
  constexpr int M = Patch<kWidth>::M, N = Patch<kWidth>::N;
  static_assert(kWidth % (N * kLanes) == 0 && kRows % M == 0, "the patches tile c");
  for (int column = 0; column < kWidth; column += N * kLanes)
    for (int row = 0; row < kRows; row += M)
      patch<M, N, kAdd>(depth, a + row * a_row, a_row, a_step, b + column, b_row, c + row * c_row + column, c_row);
}

}  // namespace VILG_ISA
