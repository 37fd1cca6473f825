/* The kernels of rows.h as Paddle operators, for float32 on a CPU. On other devices and in other dtypes,
   vilg/model/fused.py uses Paddle's own operators:

     vilg_layer_norm(X [.., width], Weight [width], Bias [width]; epsilon) -> Out, with the shape of X
     vilg_gelu(X) -> Out */
#include "../rows.h"

#include <omp.h>

#include <vector>

#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace {

using paddle::Tensor;

const float* floats(const Tensor& x) {
  PD_CHECK(x.is_cpu() && x.dtype() == phi::DataType::FLOAT32, "vilg rows: the inputs must be float32 on the CPU");
  return x.data<float>();
}

Tensor like(const Tensor& x) { return paddle::experimental::empty(x.shape(), x.dtype(), x.place()); }

int64_t width_of(const Tensor& x, const Tensor& weight) {
  const int64_t width = weight.numel();
  PD_CHECK(width > 0 && width % VILG_ROW_MULTIPLE == 0 && !x.shape().empty() && x.shape().back() == width,
           "vilg layer norm: rows and weight must have the same width, a multiple of ", int(VILG_ROW_MULTIPLE));
  return width;
}

std::vector<Tensor> LayerNorm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon) {
  const int64_t width = width_of(x, weight);
  PD_CHECK(bias.numel() == width, "vilg layer norm: weight and bias must have the same width");
  Tensor out = like(x);
  vilg_layer_norm(x.numel() / width, width, floats(x), floats(weight), floats(bias), epsilon, out.data<float>(),
                  omp_get_max_threads());
  return {out};
}

std::vector<Tensor> LayerNormGrad(const Tensor& x, const Tensor& weight, const Tensor& grad_out, float epsilon) {
  const int64_t width = width_of(x, weight), rows = x.numel() / width;
  Tensor grad_x = like(x), grad_weight = like(weight), grad_bias = like(weight);
  Tensor workspace =
      paddle::experimental::empty({vilg_layer_norm_grad_workspace(rows, width)}, x.dtype(), x.place());
  vilg_layer_norm_grad(rows, width, floats(x), floats(weight), floats(grad_out), epsilon, grad_x.data<float>(),
                       grad_weight.data<float>(), grad_bias.data<float>(), workspace.data<float>(),
                       omp_get_max_threads());
  return {grad_x, grad_weight, grad_bias};
}

std::vector<Tensor> Gelu(const Tensor& x) {
  Tensor out = like(x);
  vilg_gelu(x.numel(), floats(x), out.data<float>(), omp_get_max_threads());
  return {out};
}

std::vector<Tensor> GeluGrad(const Tensor& x, const Tensor& grad_out) {
  Tensor grad_x = like(x);
  vilg_gelu_grad(x.numel(), floats(x), floats(grad_out), grad_x.data<float>(), omp_get_max_threads());
  return {grad_x};
}

}  // namespace

PD_BUILD_OP(vilg_layer_norm)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Out"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(LayerNorm));

PD_BUILD_GRAD_OP(vilg_layer_norm)
    .Inputs({"X", "Weight", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(LayerNormGrad));

PD_BUILD_OP(vilg_gelu).Inputs({"X"}).Outputs({"Out"}).SetKernelFn(PD_KERNEL(Gelu));

PD_BUILD_GRAD_OP(vilg_gelu)
    .Inputs({"X", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(GeluGrad));
