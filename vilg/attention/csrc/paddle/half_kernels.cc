/* The kernels for 16 bits that compute like Paddle's kernels for float32 and round once. Those with an own
   implementation are in the other files half_*.cc. */
#include "half.h"
#include "paddle/phi/kernels/activation_grad_kernel.h"
#include "paddle/phi/kernels/activation_kernel.h"
#include "paddle/phi/kernels/amp_kernel.h"
#include "paddle/phi/kernels/concat_grad_kernel.h"
#include "paddle/phi/kernels/elementwise_divide_grad_kernel.h"
#include "paddle/phi/kernels/elementwise_divide_kernel.h"
#include "paddle/phi/kernels/elementwise_multiply_grad_kernel.h"
#include "paddle/phi/kernels/elementwise_subtract_grad_kernel.h"
#include "paddle/phi/kernels/elementwise_subtract_kernel.h"
#include "paddle/phi/kernels/embedding_grad_kernel.h"
#include "paddle/phi/kernels/flatten_grad_kernel.h"
#include "paddle/phi/kernels/flatten_kernel.h"
#include "paddle/phi/kernels/gather_kernel.h"
#include "paddle/phi/kernels/index_select_grad_kernel.h"
#include "paddle/phi/kernels/scale_kernel.h"
#include "paddle/phi/kernels/softmax_grad_kernel.h"
#include "paddle/phi/kernels/softmax_kernel.h"
#include "paddle/phi/kernels/unsqueeze_kernel.h"
#include "paddle/phi/kernels/where_grad_kernel.h"
#include "paddle/phi/kernels/where_kernel.h"

namespace {

const bool registered = [] {
  using namespace vilg_half;
  using phi::CPUContext;
  register_half<&phi::SubtractKernel<float, CPUContext>>("subtract");
  register_half<&phi::SubtractGradKernel<float, CPUContext>>("subtract_grad");
  register_half<&phi::MultiplyGradKernel<float, CPUContext>>("multiply_grad");
  register_half<&phi::DivideKernel<float, CPUContext>>("divide");
  register_half<&phi::DivideGradKernel<float, CPUContext>>("divide_grad");
  register_half<&phi::SoftmaxKernel<float, CPUContext>>("softmax");
  register_half<&phi::SoftmaxGradKernel<float, CPUContext>>("softmax_grad");
  register_half<&phi::EmbeddingGradKernel<float, CPUContext>>("embedding_grad");
  register_half<&phi::IndexSelectGradKernel<float, CPUContext>>("index_select_grad");
  register_half<&phi::WhereKernel<float, CPUContext>>("where");
  register_half<&phi::WhereGradKernel<float, CPUContext>>("where_grad");
  register_half<&phi::ScaleKernel<float, CPUContext>>("scale");
  /* Paddle has these for bfloat16. */
  register_kernel<phi::float16, &Half<&phi::GatherKernel<float, CPUContext>>::run<phi::float16>>("gather");
  register_kernel<phi::float16, &Half<&phi::FlattenKernel<float, CPUContext>>::run<phi::float16>>("flatten");
  register_kernel<phi::float16, &Half<&phi::FlattenGradKernel<float, CPUContext>>::run<phi::float16>>("flatten_grad");
  register_kernel<phi::float16, &Half<&phi::UnsqueezeKernel<float, CPUContext>>::run<phi::float16>>("unsqueeze");
  register_half<&phi::ConcatGradKernel<float, CPUContext>>("concat_grad");
  register_half<&phi::CheckFiniteAndUnscaleKernel<float, CPUContext>>("check_finite_and_unscale");
  return true;
}();

}  // namespace
