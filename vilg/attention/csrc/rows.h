/* What a transformer does to each row between its matrix products: the C interface of the CPU kernels.

   All arrays are float32 and lie row behind row. Results do not depend on the number of threads. Nothing is allocated:
   the caller brings `workspace` of as many floats as the query asks for. */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VILG_ROW_MULTIPLE = 16 }; /* a width of layer norm is a multiple of it */

/* out = (x - mean) / sqrt(variance + epsilon) weight + bias of each row [width] */
void vilg_layer_norm(int64_t rows, int64_t width, const float* x, const float* weight, const float* bias,
                     float epsilon, float* out, int threads);

int64_t vilg_layer_norm_grad_workspace(int64_t rows, int64_t width);
void vilg_layer_norm_grad(int64_t rows, int64_t width, const float* x, const float* weight, const float* grad_out,
                          float epsilon, float* grad_x, float* grad_weight, float* grad_bias, float* workspace,
                          int threads);

/* GELU in its tanh form, of `count` numbers */
void vilg_gelu(int64_t count, const float* x, float* out, int threads);
void vilg_gelu_grad(int64_t count, const float* x, const float* grad_out, float* grad_x, int threads);

#ifdef __cplusplus
}
#endif
