/* softmax(Q K^T scale) V. A thread block computes 64 queries of one head with an online softmax over tiles of 32
   keys. Scores, weights and sums stay in registers. */
#pragma once
#include "tile.cuh"

namespace vilg_cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

template <typename T>
struct ForwardArguments {
  vilg::Layout layout; /* tiles of 64 queries x 32 keys */
  const T *q, *k, *v;
  T* out;
  int64_t q_row, k_row, v_row, out_row;
  float* lse;
  int64_t length, heads;
  float scale;
};

/* Whether query `query` sees key `key` in a tile (64 queries x 32 keys) with this bit mask. */
__device__ inline bool sees(const uint32_t* bits, int key, int query) {
  return bits[key * (kOwned / 32) + query / 32] >> (query % 32) & 1;
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads) forward(const ForwardArguments<T> in) {
  T* queries = reinterpret_cast<T*>(shared_memory());
  T* keys = queries + kOwned * D; /* keys and values have two buffers each: one is read while the other is filled */
  T* values = keys + 2 * kPassed * D;
  const int block = blockIdx.x, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int row = threadIdx.x / kWarp * kRowsOfWarp;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int32_t* order = in.layout.order + block * kOwned;
  const T *k = in.k + first_position * in.k_row + head, *v = in.v + first_position * in.v_row + head;
  const vilg::TileCSR& side = in.layout.by_query;

  load_rows<T, D, kOwned>(queries, order, in.q + first_position * in.q_row + head, in.q_row);
  auto fetch = [&](int tile) {
    const int32_t* others = in.layout.order + side.others[tile] * kPassed;
    load_rows<T, D, kPassed>(keys + tile % 2 * kPassed * D, others, k, in.k_row);
    load_rows<T, D, kPassed>(values + tile % 2 * kPassed * D, others, v, in.v_row);
    end_copies();
  };

  float out[D / 8][4] = {}, maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const float scale = in.scale * kLog2E;
  pass_tiles(side.starts[block], side.starts[block + 1], fetch, [&](int tile) {
    float scores[kColumns][4] = {};
    times_turned<T, D>(scores, queries, row, keys + tile % 2 * kPassed * D);
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.layout.bits + int64_t(kind) * kPassed * (kOwned / 32);
    float highest[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool seen = kind < 0 || sees(bits, n * 8 + 2 * t + e % 2, row + g + e / 2 * 8);
        scores[n][e] = seen ? scores[n][e] * scale : -INFINITY;
        highest[e / 2] = fmaxf(highest[e / 2], scores[n][e]);
      }
    float base[2], shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = row_maximum(highest[r]);
      base[r] = highest[r] == -INFINITY ? 0 : highest[r]; /* no key seen yet: avoids -inf - (-inf) */
      shrink[r] = exp2f(maximum[r] - base[r]);
      maximum[r] = highest[r];
      total[r] *= shrink[r];
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2f(scores[n][e] - base[e / 2]);
        total[e / 2] += scores[n][e];
      }
    times<T, D>(out, scores, values + tile % 2 * kPassed * D);
  });

  for (int r = 0; r < 2; ++r) {
    total[r] = row_sum(total[r]);
    const int position = order[row + g + r * 8];
    if (t == 0 && position >= 0)
      in.lse[(blockIdx.z * in.heads + blockIdx.y) * in.length + position] = (maximum[r] + log2f(total[r])) * kLn2;
  }
  store_rows<T, D>(out, 1 / total[0], 1 / total[1], queries, row, order, in.out + first_position * in.out_row + head,
                   in.out_row);
}

}  // namespace vilg_cuda
