/* AdamW of 16-bit parameters on a CPU: the master weights are updated in float32, and the parameters become the rounded
   master weights. */
#include "../adamw.h"

#include <algorithm>

#include "half.h"
#include "paddle/phi/core/enforce.h"
#include "paddle/phi/kernels/adamw_kernel.h"

namespace vilg_half {
namespace {

using Optional = const paddle::optional<DenseTensor>&;

bool skips(Optional skip_update) { return skip_update && skip_update->data<bool>()[0]; }

/* The elements of `out`, which has the values of `x` and usually is `x`. */
float* updated(const CPUContext& context, const DenseTensor& x, DenseTensor* out) {
  const float* from = x.data<float>();
  float* to = context.Alloc<float>(out);
  if (to != from) std::copy(from, from + x.numel(), to);
  return to;
}

template <typename T>
void AdamW(const CPUContext& context, const DenseTensor& param, const DenseTensor& grad, const DenseTensor& lr,
           const DenseTensor& moment1, const DenseTensor& moment2, Optional moment2_max, const DenseTensor& beta1_pow,
           const DenseTensor& beta2_pow, Optional master, Optional skip_update, const phi::Scalar& beta1,
           const phi::Scalar& beta2, const phi::Scalar& epsilon, float lr_ratio, float coeff, bool with_decay,
           bool lazy, int64_t rows_of_thread, bool multi_precision, bool global_beta_pow, bool amsgrad,
           DenseTensor* param_out, DenseTensor* moment1_out, DenseTensor* moment2_out, DenseTensor* moment2_max_out,
           DenseTensor* beta1_pow_out, DenseTensor* beta2_pow_out, DenseTensor* master_out) {
  PADDLE_ENFORCE_EQ(multi_precision && master, true,
                    phi::errors::InvalidArgument("AdamW of 16-bit parameters needs master weights"));
  if (!lazy && !amsgrad && !skips(skip_update)) {
    const float power1 = beta1_pow.data<float>()[0], power2 = beta2_pow.data<float>()[0];
    const vilg_adamw_step step{beta1.to<float>(), beta2.to<float>(), epsilon.to<float>(), power1, power2,
                               lr.data<float>()[0] * lr_ratio, with_decay ? coeff : 0.0f};
    vilg_adamw(&step, param.numel(), widened<T>(context, grad).template data<float>(), updated(context, *master, master_out),
               updated(context, moment1, moment1_out), updated(context, moment2, moment2_out), kElement<T>,
               reinterpret_cast<uint16_t*>(context.template Alloc<T>(param_out)), omp_get_max_threads());
    if (!global_beta_pow) {
      context.Alloc<float>(beta1_pow_out)[0] = step.beta1 * power1;
      context.Alloc<float>(beta2_pow_out)[0] = step.beta2 * power2;
    }
    return;
  }
  phi::AdamwDenseKernel<float, CPUContext>(context, *master, widened<T>(context, grad), lr, moment1, moment2,
                                           moment2_max, beta1_pow, beta2_pow, paddle::none, skip_update, beta1, beta2,
                                           epsilon, lr_ratio, coeff, with_decay, lazy, rows_of_thread, false,
                                           global_beta_pow, amsgrad, master_out, moment1_out, moment2_out,
                                           moment2_max_out, beta1_pow_out, beta2_pow_out, nullptr);
  narrow(master_out->data<float>(), master_out->numel(), context.template Alloc<T>(param_out));
}

const bool registered = (register_kernel<phi::bfloat16, &AdamW<phi::bfloat16>>("adamw"),
                         register_kernel<phi::float16, &AdamW<phi::float16>>("adamw"), true);

}  // namespace
}  // namespace vilg_half
