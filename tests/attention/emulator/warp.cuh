/* Replaces csrc/cuda/warp.cuh: the same functions without a GPU, with the behaviour that the PTX manual describes. */
#pragma once
#include "emulator.h"

namespace vilg_cuda {

constexpr int kWarp = 32;

inline unsigned char* shared_memory() {
  unsigned char* start = emulator::block->shared.data();
  return start + (128 - reinterpret_cast<uintptr_t>(start) % 128) % 128;
}

inline void copy_16(void* to, const void* from, bool there) { emulator::self().open.push_back({to, from, there}); }
inline void end_copies() {
  emulator::self().groups.push_back(std::move(emulator::self().open));
  emulator::self().open.clear();
}
template <int kOpen>
inline void wait_copies() {
  auto& groups = emulator::self().groups;
  for (; groups.size() > kOpen; groups.erase(groups.begin()))
    for (const emulator::Copy& copy : groups.front())
      copy.there ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
}

inline void load(uint32_t (&to)[4], const void* row, bool turned) {
  emulator::self().brought.row = row;
  emulator::warp();
  const size_t g = emulator::own_lane() / 4, t = emulator::own_lane() % 4;
  for (size_t matrix = 0; matrix < 4; ++matrix) {
    auto number = [&](size_t r, size_t column) {
      return uint32_t(static_cast<const uint16_t*>(emulator::lane(matrix * 8 + r).brought.row)[column]);
    };
    to[matrix] = turned ? number(2 * t, g) | number(2 * t + 1, g) << 16 : number(g, 2 * t) | number(g, 2 * t + 1) << 16;
  }
  emulator::warp();
}
inline void load_matrices(uint32_t (&to)[4], const void* row) { load(to, row, false); }
inline void load_matrices_turned(uint32_t (&to)[4], const void* row) { load(to, row, true); }

/* The lower (which = 0) or upper (which = 1) 16-bit element of a register, as a float. */
template <typename T>
inline float number_in(uint32_t pair, int which) {
  const uint16_t bits = uint16_t(pair >> (16 * which));
  T value;
  memcpy(&value, &bits, 2);
  return float(value);
}

template <typename T>
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  auto& brought = emulator::self().brought;
  memcpy(brought.a, a, sizeof(a));
  brought.b[0] = b0, brought.b[1] = b1;
  emulator::warp();
  const int g = int(emulator::own_lane()) / 4, t = int(emulator::own_lane()) % 4;
  for (int e = 0; e < 4; ++e) {
    const int row = g + e / 2 * 8, column = 2 * t + e % 2;
    for (int k = 0; k < 16; ++k) {
      const auto& left = emulator::lane(row % 8 * 4 + k % 8 / 2).brought;
      const auto& right = emulator::lane(column * 4 + k % 8 / 2).brought;
      c[e] += number_in<T>(left.a[row / 8 + k / 8 * 2], k % 2) * number_in<T>(right.b[k / 8], k % 2);
    }
  }
  emulator::warp();
}

inline uint32_t bits_of(__half x) { return __half_raw(x).x; }
inline uint32_t bits_of(__nv_bfloat16 x) { return __nv_bfloat16_raw(x).x; }
inline uint32_t pack(float low, float high, __half) {
  return bits_of(__float2half_rn(low)) | bits_of(__float2half_rn(high)) << 16;
}
inline uint32_t pack(float low, float high, __nv_bfloat16) {
  return bits_of(__float2bfloat16_rn(low)) | bits_of(__float2bfloat16_rn(high)) << 16;
}

inline float row_maximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

}  // namespace vilg_cuda
