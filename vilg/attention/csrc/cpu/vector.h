/* Vectors of VILG_LANES floats. Compiled once for each instruction set, in a namespace of its own (VILG_ISA). */
#pragma once
#include <stdint.h>
#include <string.h>

namespace VILG_ISA {

constexpr int kLanes = VILG_LANES;
typedef float Vector __attribute__((vector_size(VILG_LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(VILG_LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }
inline Vector load_some(const float* from, int64_t count) { /* zeros behind the first `count` */
  Vector x = {};
  memcpy(&x, from, count * sizeof(float));
  return x;
}
inline void store_some(float* to, Vector x, int64_t count) { memcpy(to, &x, count * sizeof(float)); }
inline Vector all(float x) { return x - Vector{}; } /* minus zero is no work, plus zero would be */
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float sum(Vector x) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += x[lane];
  return total;
}

/* Transposes a square of kLanes x kLanes. Each round interleaves the first half of the rows with the second; after
   log2(kLanes) rounds every number has come to its place. */
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

/* 2^x, off by 2e-7 of itself; 0 below -126, so that what is masked weighs exactly nothing. x must not exceed 127.

   x = n + f with f in [-1/2, 1/2]: 2^f is its Taylor polynomial, 2^n goes into the exponent. Adding 1.5 * 2^23 rounds
   to the nearest integer and leaves it in the low bits. */
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
