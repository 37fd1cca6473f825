/* The gradients of forward.cuh (formulas: ../cpu/backward.h). No two thread blocks add to the same element, so
   the result is deterministic: in one kernel a thread block owns queries and computes dQ, in the other it owns
   keys and computes dK and dV. Both recompute the weights. */
#pragma once
#include "forward.cuh"

namespace vilg_cuda {

template <typename T>
struct BackwardArguments {
  vilg::Layout by_query; /* tiles of 64 queries x 32 keys */
  vilg::Layout by_key;   /* tiles of 32 queries x 64 keys */
  const T *q, *k, *v, *out, *grad_out;
  T *grad_q, *grad_k, *grad_v;
  int64_t q_row, k_row, v_row, out_row, grad_out_row, grad_q_row, grad_k_row, grad_v_row;
  const float* lse;
  float* delta; /* [batch, heads, length]: the sum over d of out * grad_out */
  int64_t length, heads;
  float scale;
};

/* Computes delta. One warp for each (batch, head, position). */
template <typename T, int D>
__global__ void __launch_bounds__(kThreads) sum_out_times_gradient(const BackwardArguments<T> in) {
  const int64_t position = int64_t(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (position >= in.length) return;
  const int64_t at = blockIdx.z * in.length + position, head = blockIdx.y * D;
  float sum = 0;
  for (int d = threadIdx.x % kWarp; d < D; d += kWarp)
    sum += float(in.out[at * in.out_row + head + d]) * float(in.grad_out[at * in.grad_out_row + head + d]);
#pragma unroll
  for (int distance = kWarp / 2; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % kWarp == 0) in.delta[(blockIdx.z * in.heads + blockIdx.y) * in.length + position] = sum;
}

/* dQ of 64 queries. */
template <typename T, int D>
__global__ void __launch_bounds__(kThreads) gradient_of_queries(const BackwardArguments<T> in) {
  T* queries = reinterpret_cast<T*>(shared_memory());
  T* grads = queries + kOwned * D;
  T* keys = grads + kOwned * D;
  T* values = keys + 2 * kPassed * D;
  const int block = blockIdx.x, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int row = threadIdx.x / kWarp * kRowsOfWarp;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int64_t of_head = (blockIdx.z * in.heads + blockIdx.y) * in.length;
  const int32_t* order = in.by_query.order + block * kOwned;
  const T *k = in.k + first_position * in.k_row + head, *v = in.v + first_position * in.v_row + head;
  const vilg::TileCSR& side = in.by_query.by_query;

  load_rows<T, D, kOwned>(queries, order, in.q + first_position * in.q_row + head, in.q_row);
  load_rows<T, D, kOwned>(grads, order, in.grad_out + first_position * in.grad_out_row + head, in.grad_out_row);
  auto fetch = [&](int tile) {
    const int32_t* others = in.by_query.order + side.others[tile] * kPassed;
    load_rows<T, D, kPassed>(keys + tile % 2 * kPassed * D, others, k, in.k_row);
    load_rows<T, D, kPassed>(values + tile % 2 * kPassed * D, others, v, in.v_row);
    end_copies();
  };

  float lse[2], delta[2];
  for (int r = 0; r < 2; ++r) {
    const int position = order[row + g + r * 8];
    lse[r] = position < 0 ? INFINITY : in.lse[of_head + position] * kLog2E; /* padding gets weight 0 */
    delta[r] = position < 0 ? 0 : in.delta[of_head + position];
  }
  float grad[D / 8][4] = {};
  const float scale = in.scale * kLog2E;
  pass_tiles(side.starts[block], side.starts[block + 1], fetch, [&](int tile) {
    float weights[kColumns][4] = {}, grad_weights[kColumns][4] = {};
    times_turned<T, D>(weights, queries, row, keys + tile % 2 * kPassed * D);
    times_turned<T, D>(grad_weights, grads, row, values + tile % 2 * kPassed * D);
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.by_query.bits + int64_t(kind) * kPassed * (kOwned / 32);
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool seen = kind < 0 || sees(bits, n * 8 + 2 * t + e % 2, row + g + e / 2 * 8);
        const float weight = seen ? exp2f(weights[n][e] * scale - lse[e / 2]) : 0;
        weights[n][e] = weight * (grad_weights[n][e] - delta[e / 2]);
      }
    times<T, D>(grad, weights, keys + tile % 2 * kPassed * D);
  });
  store_rows<T, D>(grad, in.scale, in.scale, queries, row, order, in.grad_q + first_position * in.grad_q_row + head,
                   in.grad_q_row);
}

/* dK and dV of 64 keys. In the products, keys are rows and queries are columns. */
template <typename T, int D>
__global__ void __launch_bounds__(kThreads) gradient_of_keys(const BackwardArguments<T> in) {
  T* keys = reinterpret_cast<T*>(shared_memory());
  T* values = keys + kOwned * D;
  T* queries = values + kOwned * D;
  T* grads = queries + 2 * kPassed * D;
  float* lse = reinterpret_cast<float*>(grads + 2 * kPassed * D); /* [2][32], double-buffered; so is delta */
  float* delta = lse + 2 * kPassed;
  const int block = blockIdx.x, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int row = threadIdx.x / kWarp * kRowsOfWarp;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int64_t of_head = (blockIdx.z * in.heads + blockIdx.y) * in.length;
  const int32_t* order = in.by_key.order + block * kOwned;
  const T *q = in.q + first_position * in.q_row + head, *d_out = in.grad_out + first_position * in.grad_out_row + head;
  const vilg::TileCSR& side = in.by_key.by_key;

  load_rows<T, D, kOwned>(keys, order, in.k + first_position * in.k_row + head, in.k_row);
  load_rows<T, D, kOwned>(values, order, in.v + first_position * in.v_row + head, in.v_row);
  auto fetch = [&](int tile) {
    const int32_t* others = in.by_key.order + side.others[tile] * kPassed;
    const int half = tile % 2;
    load_rows<T, D, kPassed>(queries + half * kPassed * D, others, q, in.q_row);
    load_rows<T, D, kPassed>(grads + half * kPassed * D, others, d_out, in.grad_out_row);
    end_copies();
    if (threadIdx.x < kPassed) {
      const int position = others[threadIdx.x];
      lse[half * kPassed + threadIdx.x] = position < 0 ? INFINITY : in.lse[of_head + position] * kLog2E;
      delta[half * kPassed + threadIdx.x] = position < 0 ? 0 : in.delta[of_head + position];
    }
  };

  float grad_k[D / 8][4] = {}, grad_v[D / 8][4] = {};
  const float scale = in.scale * kLog2E;
  pass_tiles(side.starts[block], side.starts[block + 1], fetch, [&](int tile) {
    const int half = tile % 2;
    float weights[kColumns][4] = {}, grad_weights[kColumns][4] = {};
    times_turned<T, D>(weights, keys, row, queries + half * kPassed * D);
    times_turned<T, D>(grad_weights, values, row, grads + half * kPassed * D);
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.by_key.bits + int64_t(kind) * kOwned;
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = n * 8 + 2 * t + e % 2;
        const bool seen = kind < 0 || (bits[row + g + e / 2 * 8] >> query & 1);
        const float weight = seen ? exp2f(weights[n][e] * scale - lse[half * kPassed + query]) : 0;
        weights[n][e] = weight;
        grad_weights[n][e] = weight * (grad_weights[n][e] - delta[half * kPassed + query]);
      }
    times<T, D>(grad_v, weights, grads + half * kPassed * D);
    times<T, D>(grad_k, grad_weights, queries + half * kPassed * D);
  });
  store_rows<T, D>(grad_k, in.scale, in.scale, keys, row, order, in.grad_k + first_position * in.grad_k_row + head,
                   in.grad_k_row);
  store_rows<T, D>(grad_v, 1, 1, values, row, order, in.grad_v + first_position * in.grad_v_row + head, in.grad_v_row);
}

}  // namespace vilg_cuda
