/* Rows of 16-bit elements in shared memory, and the matrix products of a warp with them.

   A thread block owns 64 rows (queries, or keys in the kernel for dK and dV), 16 for each warp. It iterates over
   the rows of the other side, 32 at a time; these are called "passed". */
#pragma once
#include "../attention_cuda.h"
#include "../layout.h"
#include "warp.cuh"

namespace vilg_cuda {

constexpr int kOwned = VILG_CUDA_OWNED, kPassed = VILG_CUDA_PASSED;
constexpr int kThreads = 128, kRowsOfWarp = 16;
constexpr int kColumns = kPassed / 8; /* number of accumulators, each of 8 columns */

/* The index of the first element of a piece of 16 bytes (8 elements) in shared memory. The piece index is XORed with
   bits of the row (swizzled), so that the same piece of eight consecutive rows is in different banks. All banks
   together hold eight pieces: a row of 64 elements, or two rows of 32, which share a value of the XOR. */
template <int D>
__device__ inline int piece_at(int row, int piece) {
  static_assert(D == 32 || D % 64 == 0, "the XOR would leave the row");
  return (row * (D / 8) + (piece ^ (D == 32 ? row / 2 & 3 : row & 7))) * 8;
}

/* Copies the rows at the positions order[0 .. kRows) of a head asynchronously into shared memory, with zeros for
   padding. */
template <typename T, int D, int kRows>
__device__ inline void load_rows(T* to, const int32_t* order, const T* from, int64_t row_distance) {
  for (int i = threadIdx.x; i < kRows * (D / 8); i += kThreads) {
    const int row = i / (D / 8), piece = i % (D / 8);
    const int position = order[row];
    copy_16(to + piece_at<D>(row, piece), from + (position < 0 ? 0 : position) * row_distance + piece * 8,
            position >= 0);
  }
}

/* Calls compute(tile) for each tile in [first, last) while the rows of the next tile are copied. fetch(tile)
   starts the copy and commits it as one group. */
template <typename Fetch, typename Compute>
__device__ inline void pass_tiles(int first, int last, Fetch fetch, Compute compute) {
  if (first < last) fetch(first);
  for (int tile = first; tile < last; ++tile) {
    if (tile + 1 < last) {
      fetch(tile + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    compute(tile);
    __syncthreads(); /* the next iteration overwrites the buffer that was just read */
  }
}

/* c[16 x 32] += owned[row .. row + 16)[D] passed[32][D]^T */
template <typename T, int D>
__device__ inline void times_turned(float (&c)[kColumns][4], const T* owned, int row, const T* passed) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    uint32_t a[4];
    load_matrices(a, owned + piece_at<D>(row + lane % 16, d / 8 + lane / 16));
#pragma unroll
    for (int column = 0; column < kPassed; column += 16) {
      uint32_t b[4];
      load_matrices(b, passed + piece_at<D>(column + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
      multiply(c[column / 8], a, b[0], b[1], T());
      multiply(c[column / 8 + 1], a, b[2], b[3], T());
    }
  }
}

/* c[16 x D] += p[16 x 32] passed[32][D] */
template <typename T, int D>
__device__ inline void times(float (&c)[D / 8][4], const float (&p)[kColumns][4], const T* passed) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int key = 0; key < kPassed; key += 16) {
    const float(&left)[4] = p[key / 8], (&right)[4] = p[key / 8 + 1];
    const uint32_t a[4] = {pack(left[0], left[1], T()), pack(left[2], left[3], T()), pack(right[0], right[1], T()),
                           pack(right[2], right[3], T())};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t b[4];
      load_matrices_turned(b, passed + piece_at<D>(key + lane % 16, d / 8 + lane / 16));
      multiply(c[d / 8], a, b[0], b[1], T());
      multiply(c[d / 8 + 1], a, b[2], b[3], T());
    }
  }
}

/* Writes the 16 rows of the warp to global memory, multiplied by factor_low (row g of the accumulator) and
   factor_high (row g + 8). They are staged in `shared`, in the rows that belong to this warp. */
template <typename T, int D>
__device__ inline void store_rows(const float (&c)[D / 8][4], float factor_low, float factor_high, T* shared, int row,
                                  const int32_t* order, T* to, int64_t row_distance) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    *reinterpret_cast<uint32_t*>(shared + piece_at<D>(row + g, n) + 2 * t) =
        pack(c[n][0] * factor_low, c[n][1] * factor_low, T());
    *reinterpret_cast<uint32_t*>(shared + piece_at<D>(row + g + 8, n) + 2 * t) =
        pack(c[n][2] * factor_high, c[n][3] * factor_high, T());
  }
  __syncwarp();
  for (int i = lane; i < kRowsOfWarp * (D / 8); i += kWarp) {
    const int r = row + i / (D / 8), piece = i % (D / 8);
    const int position = order[r];
    if (position >= 0)
      *reinterpret_cast<uint4*>(to + position * row_distance + piece * 8) =
          *reinterpret_cast<const uint4*>(shared + piece_at<D>(r, piece));
  }
}

}  // namespace vilg_cuda
