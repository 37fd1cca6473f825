/* Vectors of VILG_LANES floats. Compiled once for each instruction set, each time in a separate namespace,
   VILG_ISA. */
#pragma once
#include <stdint.h>
#include <string.h>

namespace VILG_ISA {

constexpr int kLanes = VILG_LANES;
typedef float Vector __attribute__((vector_size(VILG_LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(VILG_LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }
inline Vector load_some(const float* from, int64_t count) { /* zeros after the first `count` elements */
  Vector x = {};
  memcpy(&x, from, count * sizeof(float));
  return x;
}
inline void store_some(float* to, Vector x, int64_t count) { memcpy(to, &x, count * sizeof(float)); }
/* The compiler can remove the subtraction of 0. It could not remove an addition of 0, which changes -0 to +0. */
inline Vector all(float x) { return x - Vector{}; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float sum(Vector x) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += x[lane];
  return total;
}

/* Transposes a matrix of kLanes x kLanes in place. Each round interleaves the first half of the rows with the
   second half. After log2(kLanes) rounds the matrix is transposed. */
inline void transpose_square(Vector (&rows)[kLanes]) {
  Integers low, high;
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = lane / 2 + lane % 2 * kLanes;
    high[lane] = low[lane] + kLanes / 2;
  }
#pragma GCC unroll 8
  for (int round = 1; round < kLanes; round *= 2) {
    Vector next[kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kLanes / 2; ++r) {
      next[2 * r] = __builtin_shuffle(rows[r], rows[r + kLanes / 2], low);
      next[2 * r + 1] = __builtin_shuffle(rows[r], rows[r + kLanes / 2], high);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) rows[r] = next[r];
  }
}

/* 2^x with a relative error of 2e-7. The result is 0 for x < -126, so that masked pairs get a weight of exactly
   0. x must not exceed 127.

   x = n + f with an integer n and f in [-1/2, 1/2]. 2^f is computed by its Taylor polynomial, and n becomes the
   exponent of the result. Adding 1.5 * 2^23 rounds x to the nearest integer, which is then in the low bits of the
   sum. */
inline Vector exp2(Vector x) {
  const Vector clamped = x < all(-126.0f) ? all(-126.0f) : x; /* NaN stays NaN */
  const Vector shifted = clamped + 12582912.0f;
  const Vector f = clamped - (shifted - 12582912.0f);
  Vector p = all(1.54035304e-4f);
  p = p * f + 1.33335581e-3f;
  p = p * f + 9.61812911e-3f;
  p = p * f + 5.55041087e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147181e-1f;
  p = p * f + 1.0f;
  const Integers exponent = (reinterpret_cast<Integers>(shifted) - 0x4B400000 + 127) << 23;
  const Vector result = p * reinterpret_cast<Vector>(exponent);
  return x < all(-126.0f) ? Vector{} : result;
}

}  // namespace VILG_ISA
