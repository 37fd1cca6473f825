/* The kernels of forward.cuh and backward.cuh in float32 without tensor cores. They are slow but accurate, and
   short enough to serve as a reference. Each owned query or key (a row) is processed by D / 32 adjacent threads;
   each of them keeps 32 elements of the row in registers. */
#pragma once
#include "backward.cuh"

namespace vilg_cuda {

constexpr int kPart = 32;

/* Operations on the 32 elements of a row that a thread has. */
template <int D>
struct Single {
  static constexpr int kParts = D / kPart, kThreadsOfBlock = kOwned * kParts;

  /* The sum of x over the threads of a row. */
  __device__ static float together(float x) {
#pragma unroll
    for (int distance = 1; distance < kParts; distance *= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
  }
  __device__ static float dot(const float (&mine)[kPart], const float* row) {
    float sum = 0;
#pragma unroll
    for (int d = 0; d < kPart; ++d) sum += mine[d] * row[d];
    return together(sum);
  }
  __device__ static void add(float (&to)[kPart], float factor, const float* row) {
#pragma unroll
    for (int d = 0; d < kPart; ++d) to[d] += factor * row[d];
  }
  __device__ static void read(float (&to)[kPart], const float* row, bool there) {
#pragma unroll
    for (int d = 0; d < kPart; ++d) to[d] = there ? row[d] : 0;
  }
  __device__ static void write(float* row, const float (&from)[kPart], float factor) {
#pragma unroll
    for (int d = 0; d < kPart; ++d) row[d] = from[d] * factor;
  }
  /* Copies 32 rows of a head into shared memory, with zeros for padding. */
  __device__ static void load(float* to, const int32_t* order, const float* from, int64_t distance) {
    for (int i = threadIdx.x; i < kPassed * D; i += kThreadsOfBlock) {
      const int position = order[i / D];
      to[i] = position < 0 ? 0 : from[position * distance + i % D];
    }
  }
};

template <int D>
__global__ void single_forward(const ForwardArguments<float> in) {
  using Rows = Single<D>;
  __shared__ float keys[kPassed * D], values[kPassed * D];
  const int row = threadIdx.x / Rows::kParts, part = threadIdx.x % Rows::kParts * kPart;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int position = in.layout.order[blockIdx.x * kOwned + row];
  const int64_t at = first_position + (position < 0 ? 0 : position);
  const vilg::TileCSR& side = in.layout.by_query;
  float q[kPart], out[kPart] = {}, maximum = -INFINITY, total = 0;
  Rows::read(q, in.q + at * in.q_row + head + part, position >= 0);
  for (int tile = side.starts[blockIdx.x]; tile < side.starts[blockIdx.x + 1]; ++tile) {
    const int32_t* others = in.layout.order + side.others[tile] * kPassed;
    __syncthreads();
    Rows::load(keys, others, in.k + first_position * in.k_row + head, in.k_row);
    Rows::load(values, others, in.v + first_position * in.v_row + head, in.v_row);
    __syncthreads();
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.layout.bits + int64_t(kind) * kPassed * (kOwned / 32);
    for (int key = 0; key < kPassed; ++key) {
      const float score = Rows::dot(q, keys + key * D + part) * in.scale;
      if (kind >= 0 && !sees(bits, key, row)) continue;
      const float highest = fmaxf(maximum, score), shrink = expf(maximum - highest), weight = expf(score - highest);
      maximum = highest;
      total = total * shrink + weight;
#pragma unroll
      for (int d = 0; d < kPart; ++d) out[d] = out[d] * shrink + weight * values[key * D + part + d];
    }
  }
  if (position < 0) return;
  Rows::write(in.out + at * in.out_row + head + part, out, 1 / total);
  if (part == 0) in.lse[(blockIdx.z * in.heads + blockIdx.y) * in.length + position] = maximum + logf(total);
}

template <int D>
__global__ void single_gradient_of_queries(const BackwardArguments<float> in) {
  using Rows = Single<D>;
  __shared__ float keys[kPassed * D], values[kPassed * D];
  const int row = threadIdx.x / Rows::kParts, part = threadIdx.x % Rows::kParts * kPart;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int64_t of_head = (blockIdx.z * in.heads + blockIdx.y) * in.length;
  const int position = in.by_query.order[blockIdx.x * kOwned + row];
  const int64_t at = first_position + (position < 0 ? 0 : position);
  const vilg::TileCSR& side = in.by_query.by_query;
  float q[kPart], d_out[kPart], grad[kPart] = {};
  Rows::read(q, in.q + at * in.q_row + head + part, position >= 0);
  Rows::read(d_out, in.grad_out + at * in.grad_out_row + head + part, position >= 0);
  const float lse = position < 0 ? INFINITY : in.lse[of_head + position];
  const float delta = position < 0 ? 0 : in.delta[of_head + position];
  for (int tile = side.starts[blockIdx.x]; tile < side.starts[blockIdx.x + 1]; ++tile) {
    const int32_t* others = in.by_query.order + side.others[tile] * kPassed;
    __syncthreads();
    Rows::load(keys, others, in.k + first_position * in.k_row + head, in.k_row);
    Rows::load(values, others, in.v + first_position * in.v_row + head, in.v_row);
    __syncthreads();
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.by_query.bits + int64_t(kind) * kPassed * (kOwned / 32);
    for (int key = 0; key < kPassed; ++key) {
      const float score = Rows::dot(q, keys + key * D + part) * in.scale;
      const float grad_weight = Rows::dot(d_out, values + key * D + part);
      if (kind >= 0 && !sees(bits, key, row)) continue;
      Rows::add(grad, expf(score - lse) * (grad_weight - delta), keys + key * D + part);
    }
  }
  if (position >= 0) Rows::write(in.grad_q + at * in.grad_q_row + head + part, grad, in.scale);
}

template <int D>
__global__ void single_gradient_of_keys(const BackwardArguments<float> in) {
  using Rows = Single<D>;
  __shared__ float queries[kPassed * D], grads[kPassed * D];
  const int row = threadIdx.x / Rows::kParts, part = threadIdx.x % Rows::kParts * kPart;
  const int64_t head = blockIdx.y * D, first_position = blockIdx.z * in.length;
  const int64_t of_head = (blockIdx.z * in.heads + blockIdx.y) * in.length;
  const int position = in.by_key.order[blockIdx.x * kOwned + row];
  const int64_t at = first_position + (position < 0 ? 0 : position);
  const vilg::TileCSR& side = in.by_key.by_key;
  float k[kPart], v[kPart], grad_k[kPart] = {}, grad_v[kPart] = {};
  Rows::read(k, in.k + at * in.k_row + head + part, position >= 0);
  Rows::read(v, in.v + at * in.v_row + head + part, position >= 0);
  for (int tile = side.starts[blockIdx.x]; tile < side.starts[blockIdx.x + 1]; ++tile) {
    const int32_t* others = in.by_key.order + side.others[tile] * kPassed;
    __syncthreads();
    Rows::load(queries, others, in.q + first_position * in.q_row + head, in.q_row);
    Rows::load(grads, others, in.grad_out + first_position * in.grad_out_row + head, in.grad_out_row);
    __syncthreads();
    const int kind = side.kinds[tile];
    const uint32_t* bits = in.by_key.bits + int64_t(kind) * kOwned;
    for (int query = 0; query < kPassed; ++query) {
      const float score = Rows::dot(k, queries + query * D + part) * in.scale;
      const float grad_weight = Rows::dot(v, grads + query * D + part);
      const int other = others[query];
      if (other < 0 || (kind >= 0 && !(bits[row] >> query & 1))) continue;
      const float weight = expf(score - in.lse[of_head + other]);
      Rows::add(grad_v, weight, grads + query * D + part);
      Rows::add(grad_k, weight * (grad_weight - in.delta[of_head + other]), queries + query * D + part);
    }
  }
  if (position < 0) return;
  Rows::write(in.grad_k + at * in.grad_k_row + head + part, grad_k, in.scale);
  Rows::write(in.grad_v + at * in.grad_v_row + head + part, grad_v, 1);
}

}  // namespace vilg_cuda
