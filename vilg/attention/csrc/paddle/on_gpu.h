/* The operators of op.cc on a GPU; only in libraries that were built with nvcc. */
#pragma once
#include <vector>

#include "../attention_cuda.h"
#include "../layout.h"
#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace vilg_gpu {

using paddle::Tensor;
using Sizes = std::vector<int64_t>;

/* bshd: [B, S, H, D] of queries, keys and values, which begin at q, k, v (numbers behind the start of `from`) and lie
   `row` numbers apart. headers: the first 8 numbers of the two packed layouts that `layout` holds behind each other. */
struct Call {
  Sizes bshd;
  float scale;
  const Tensor& layout;
  const std::vector<int>& headers;
  int64_t row;
};

std::vector<Tensor> Forward(const Call&, const Tensor& q, const Tensor& k, const Tensor& v, const int64_t (&starts)[3]);

/* Into grad_q, grad_k, grad_v, which may be one tensor with different starts. */
void Backward(const Call&, const Tensor& q, const Tensor& k, const Tensor& v, const int64_t (&starts)[3],
              const Tensor& out, const Tensor& lse, const Tensor& grad_out, Tensor* grad_q, Tensor* grad_k,
              Tensor* grad_v);

}  // namespace vilg_gpu
