/* LayerNorm and GELU of 16-bit tensors on a CPU, with the kernels of rows.h. */
#include "../rows.h"

#include <algorithm>

#include "half.h"
#include "paddle/phi/kernels/gelu_grad_kernel.h"
#include "paddle/phi/kernels/gelu_kernel.h"
#include "paddle/phi/kernels/layer_norm_grad_kernel.h"
#include "paddle/phi/kernels/layer_norm_kernel.h"

namespace vilg_half {
namespace {

using Optional = const paddle::optional<DenseTensor>&;

/* Whether rows.h has a kernel: rows along the last axis, with weight and bias. */
bool has_row_kernel(const DenseTensor& x, Optional weight, Optional bias, int first_axis) {
  const int64_t width = x.dims()[x.dims().size() - 1];
  return weight && bias && first_axis == x.dims().size() - 1 && x.numel() > 0 && width % VILG_ROW_MULTIPLE == 0;
}

constexpr int64_t kRows = 64;       /* of a LayerNorm, that are widened at a time */
constexpr int64_t kElements = 4096; /* of a GELU */

/* Calls work(first row, rows, scratch) in parallel for blocks of `rows` rows. The scratch has kArrays blocks of floats.
   The rows of a GELU have width 1. */
template <int kArrays, typename F>
void in_blocks(int64_t rows, int64_t width, F work) {
  const int64_t together = width == 1 ? kElements : kRows, blocks = (rows + together - 1) / together;
#pragma omp parallel if (blocks > 1)
  {
    std::vector<float> scratch(kArrays * together * width);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block)
      work(block * together, std::min(together, rows - block * together), scratch.data());
  }
}

template <typename T>
void read(const T* from, int64_t count, float* to) {
  vilg_widen(kElement<T>, count, reinterpret_cast<const uint16_t*>(from), to, 1);
}

template <typename T>
void write(const float* from, int64_t count, T* to) {
  vilg_narrow(kElement<T>, count, from, reinterpret_cast<uint16_t*>(to), 1);
}

/* Stores the gradient of `parameter`, which may be in float32. */
template <typename T>
void store_sum(const CPUContext& context, const DenseTensor& parameter, const float* sum, DenseTensor* gradient) {
  if (!gradient) return;
  if (parameter.dtype() == kType<T>)
    write(sum, parameter.numel(), context.template Alloc<T>(gradient));
  else
    std::copy(sum, sum + parameter.numel(), context.template Alloc<float>(gradient));
}

template <typename T>
void LayerNorm(const CPUContext& context, const DenseTensor& x, Optional weight, Optional bias, float epsilon,
               int first_axis, DenseTensor* out, DenseTensor* mean, DenseTensor* variance) {
  if (!has_row_kernel(x, weight, bias, first_axis)) {
    Half<&phi::LayerNormKernel<float, CPUContext>>::run<T>(context, x, weight, bias, epsilon, first_axis, out, mean,
                                                           variance);
    return;
  }
  /* The kernel of the gradient computes the statistics again. */
  for (DenseTensor* unused : {mean, variance})
    if (unused) context.template Alloc<float>(unused);
  const DenseTensor scale = widened<T>(context, *weight), shift = widened<T>(context, *bias);
  const int64_t width = scale.numel();
  T* to = context.template Alloc<T>(out);
  in_blocks<1>(x.numel() / width, width, [&](int64_t first, int64_t rows, float* block) {
    read(x.data<T>() + first * width, rows * width, block);
    vilg_layer_norm(rows, width, block, scale.data<float>(), shift.data<float>(), epsilon, block, 1);
    write(block, rows * width, to + first * width);
  });
}

template <typename T>
void LayerNormGrad(const CPUContext& context, const DenseTensor& x, Optional weight, Optional bias,
                   const DenseTensor& mean, const DenseTensor& variance, const DenseTensor& grad_out, float epsilon,
                   int first_axis, DenseTensor* grad_x, DenseTensor* grad_weight, DenseTensor* grad_bias) {
  if (!has_row_kernel(x, weight, bias, first_axis)) {
    Half<&phi::LayerNormGradKernel<float, CPUContext>>::run<T>(context, x, weight, bias, mean, variance, grad_out,
                                                               epsilon, first_axis, grad_x, grad_weight, grad_bias);
    return;
  }
  const DenseTensor scale = widened<T>(context, *weight);
  const int64_t width = scale.numel(), rows = x.numel() / width, blocks = (rows + kRows - 1) / kRows;
  DenseTensor sums = floats(context, {blocks, 2, width}), workspace = floats(context, {blocks, 2, width});
  T* to = grad_x ? context.template Alloc<T>(grad_x) : nullptr;
  float *sum = sums.data<float>(), *work = workspace.data<float>();
  in_blocks<2>(rows, width, [&](int64_t first, int64_t some, float* block) {
    float *grad = block + kRows * width, *of_block = sum + first / kRows * 2 * width;
    read(x.data<T>() + first * width, some * width, block);
    read(grad_out.data<T>() + first * width, some * width, grad);
    vilg_layer_norm_grad(some, width, block, scale.data<float>(), grad, epsilon, grad, of_block, of_block + width,
                         work + first / kRows * 2 * width, 1);
    if (to) write(grad, some * width, to + first * width);
  });
  /* The sums of the blocks are added in a fixed order. */
  for (int64_t block = 1; block < blocks; ++block)
    for (int64_t d = 0; d < 2 * width; ++d) sum[d] += sum[block * 2 * width + d];
  store_sum<T>(context, *weight, sum, grad_weight);
  store_sum<T>(context, *bias, sum + width, grad_bias);
}

template <typename T>
void Gelu(const CPUContext& context, const DenseTensor& x, bool tanh, DenseTensor* out) {
  if (!tanh) return Half<&phi::GeluKernel<float, CPUContext>>::run<T>(context, x, tanh, out);
  T* to = context.template Alloc<T>(out);
  in_blocks<1>(x.numel(), 1, [&](int64_t first, int64_t count, float* block) {
    read(x.data<T>() + first, count, block);
    vilg_gelu(count, block, block, 1);
    write(block, count, to + first);
  });
}

template <typename T>
void GeluGrad(const CPUContext& context, const DenseTensor& x, const DenseTensor& grad_out, bool tanh,
              DenseTensor* grad_x) {
  if (!tanh) return Half<&phi::GeluGradKernel<float, CPUContext>>::run<T>(context, x, grad_out, tanh, grad_x);
  T* to = context.template Alloc<T>(grad_x);
  in_blocks<2>(x.numel(), 1, [&](int64_t first, int64_t count, float* block) {
    read(x.data<T>() + first, count, block);
    read(grad_out.data<T>() + first, count, block + kElements);
    vilg_gelu_grad(count, block, block + kElements, block, 1);
    write(block, count, to + first);
  });
}

template <typename T>
void register_all() {
  register_kernel<T, &LayerNorm<T>>("layer_norm");
  register_kernel<T, &LayerNormGrad<T>>("layer_norm_grad");
  register_kernel<T, &Gelu<T>>("gelu");
  register_kernel<T, &GeluGrad<T>>("gelu_grad");
}

const bool registered = (register_all<phi::bfloat16>(), register_all<phi::float16>(), true);

}  // namespace
}  // namespace vilg_half
