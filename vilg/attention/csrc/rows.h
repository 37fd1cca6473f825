/* LayerNorm and GELU, the row-wise operations of a transformer: the C interface of the CPU kernels.

   All arrays are float32 and contiguous, in row-major order. Results do not depend on the number of threads.
   Nothing is allocated: the caller provides `workspace`, whose size in floats vilg_layer_norm_grad_workspace
   returns. */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VILG_ROW_MULTIPLE = 16 }; /* the width of a LayerNorm row has to be a multiple of this */

/* out = (x - mean) / sqrt(variance + epsilon) * weight + bias, for each row [width] */
void vilg_layer_norm(int64_t rows, int64_t width, const float* x, const float* weight, const float* bias,
                     float epsilon, float* out, int threads);

int64_t vilg_layer_norm_grad_workspace(int64_t rows, int64_t width);
void vilg_layer_norm_grad(int64_t rows, int64_t width, const float* x, const float* weight, const float* grad_out,
                          float epsilon, float* grad_x, float* grad_weight, float* grad_bias, float* workspace,
                          int threads);

/* GELU in its tanh form, for `count` elements */
void vilg_gelu(int64_t count, const float* x, float* out, int threads);
void vilg_gelu_grad(int64_t count, const float* x, const float* grad_out, float* grad_x, int threads);

#ifdef __cplusplus
}
#endif
