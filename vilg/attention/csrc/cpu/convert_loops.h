/* convert.h for a range of elements. */
#pragma once
#include <string.h>

#include "../convert.h"

namespace VILG_ISA {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

inline float widened_bf16(uint16_t x) { return float_of(uint32_t(x) << 16); }

/* Adding slightly less than half of the last place that remains, and 1 more if that place is odd, rounds to even. */
inline uint16_t narrowed_bf16(float x) {
  const uint32_t bits = bits_of(x), rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return uint16_t(x != x ? 0x7FFF : rounded);
}

/* The fraction moves to its place, and the exponent grows by the difference of the biases: 127 - 15 = 112. */
inline float widened_fp16(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000) << 16, rest = uint32_t(x & 0x7FFF) << 13;
  const uint32_t special = (x & 0x7C00) == 0x7C00 ? 112u << 23 : 0; /* infinity and NaN have the largest exponent */
  const uint32_t normal = rest + (112u << 23) + special;
  const uint32_t subnormal = bits_of(float(x & 0x3FF) * 0x1p-24f);
  return float_of(sign | ((x & 0x7C00) == 0 ? subnormal : normal));
}

inline uint16_t narrowed_fp16(float x) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000, rest = bits & 0x7FFFFFFF;
  const uint32_t normal = (rest - (112u << 23) + 0xFFF + ((rest >> 13) & 1)) >> 13;
  /* The last place of 0.5 is 2^-24, the smallest number of fp16: the addition rounds to a multiple of it. */
  const uint32_t subnormal = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = rest < 0x38800000 ? subnormal : normal;  /* below 2^-14 */
  const uint32_t bounded = rest >= 0x477FF000 ? 0x7C00 : finite;   /* 65520 and more round to infinity */
  return uint16_t(sign | (rest > 0x7F800000 ? 0x7E00 : bounded));
}

struct BFloat16 {
  static float widened(uint16_t x) { return widened_bf16(x); }
  static uint16_t narrowed(float x) { return narrowed_bf16(x); }
};
struct Float16 {
  static float widened(uint16_t x) { return widened_fp16(x); }
  static uint16_t narrowed(float x) { return narrowed_fp16(x); }
};

/* Calls work(Type{}) for the type. The loops have no branches, so that the compiler vectorizes them. */
template <typename F>
inline void for_type(int type, F work) {
  if (type == VILG_BFLOAT16)
    work(BFloat16{});
  else
    work(Float16{});
}

inline void widen(int type, const uint16_t* from, int64_t count, float* to) {
  for_type(type, [=](auto half) {
    for (int64_t i = 0; i < count; ++i) to[i] = half.widened(from[i]);
  });
}

inline void narrow(int type, const float* from, int64_t count, uint16_t* to) {
  for_type(type, [=](auto half) {
    for (int64_t i = 0; i < count; ++i) to[i] = half.narrowed(from[i]);
  });
}

inline void add(int type, const uint16_t* x, const uint16_t* y, int64_t count, uint16_t* out) {
  for_type(type, [=](auto half) {
    for (int64_t i = 0; i < count; ++i) out[i] = half.narrowed(half.widened(x[i]) + half.widened(y[i]));
  });
}

inline void multiply(int type, const uint16_t* x, const uint16_t* y, int64_t count, uint16_t* out) {
  for_type(type, [=](auto half) {
    for (int64_t i = 0; i < count; ++i) out[i] = half.narrowed(half.widened(x[i]) * half.widened(y[i]));
  });
}

inline void times_vector(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                         uint16_t* out, float* scratch) {
  float *wide = scratch, *sums = scratch + width;
  widen(type, vector, width, wide);
  for_type(type, [=](auto half) {
    for (int64_t row = 0; row < rows; ++row) {
      float lanes[16] = {}, sum = 0; /* sums that the compiler may add in parallel */
      int64_t i = 0;
      for (; i + 16 <= width; i += 16)
        for (int lane = 0; lane < 16; ++lane)
          lanes[lane] += half.widened(matrix[row * width + i + lane]) * wide[i + lane];
      for (; i < width; ++i) sum += half.widened(matrix[row * width + i]) * wide[i];
      for (int lane = 0; lane < 16; ++lane) sum += lanes[lane];
      sums[row] = sum;
    }
  });
  narrow(type, sums, rows, out);
}

inline void vector_times(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                         uint16_t* out, float* scratch) {
  float *wide = scratch, *sums = scratch + rows;
  widen(type, vector, rows, wide);
  for (int64_t i = 0; i < width; ++i) sums[i] = 0;
  for_type(type, [=](auto half) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < width; ++i) sums[i] += wide[row] * half.widened(matrix[row * width + i]);
  });
  narrow(type, sums, width, out);
}

}  // namespace VILG_ISA
