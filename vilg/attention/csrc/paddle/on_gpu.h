/* The operators of op.cc on a GPU. Compiled only if nvcc is available and Paddle is built for CUDA. */
#pragma once
#include <vector>

#include "../attention_cuda.h"
#include "../layout.h"
#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace vilg_gpu {

using paddle::Tensor;
using Sizes = std::vector<int64_t>;

/* The arguments that Forward and Backward share.

   bshd: the sizes [B, S, H, D] of queries, keys and values. layout: two packed layouts, one after the other; the
   first has tiles of 64 queries x 32 keys, the second of 32 queries x 64 keys. headers: the first 8 elements of
   each of them. row: the distance in elements between two positions of q, k and v. */
struct Call {
  Sizes bshd;
  float scale;
  const Tensor& layout;
  const std::vector<int>& headers;
  int64_t row;
};

/* starts: index of the first element of queries, keys and values in their tensors, which may be one packed
   tensor. Returns {out, lse}. */
std::vector<Tensor> Forward(const Call&, const Tensor& q, const Tensor& k, const Tensor& v, const int64_t (&starts)[3]);

/* Writes to grad_q, grad_k and grad_v, which may be the same tensor, with different starts. */
void Backward(const Call&, const Tensor& q, const Tensor& k, const Tensor& v, const int64_t (&starts)[3],
              const Tensor& out, const Tensor& lse, const Tensor& grad_out, Tensor* grad_q, Tensor* grad_k,
              Tensor* grad_v);

}  // namespace vilg_gpu
