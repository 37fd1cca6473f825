/* The computations of rows.h for a range of rows or elements, as function pointers. */
#pragma once
#include <stdint.h>

namespace vilg {

struct LayerNormIn {
  const float *x, *weight, *bias, *grad_out; /* bias only in the forward pass, grad_out only in the backward pass */
  int64_t width;
  float epsilon;
};

struct RowKernels {
  void (*layer_norm)(const LayerNormIn&, int64_t first, int64_t last, float* out);
  /* Writes grad_x; adds to grad_weight and grad_bias. */
  void (*layer_norm_grad)(const LayerNormIn&, int64_t first, int64_t last, float* grad_x, float* grad_weight,
                          float* grad_bias);
  void (*gelu)(const float* x, int64_t count, float* out);
  void (*gelu_grad)(const float* x, const float* grad_out, int64_t count, float* grad_x);
};

const RowKernels* row_kernels_avx512();
const RowKernels* row_kernels_avx2();
const RowKernels* row_kernels_plain();

}  // namespace vilg
