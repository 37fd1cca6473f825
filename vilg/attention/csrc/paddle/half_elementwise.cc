/* Sums and products of 16-bit tensors on a CPU, for the shapes of a transformer: two tensors of equal sizes, and a
   tensor and one that is repeated along its leading axes, for example a bias. Other shapes are computed by Paddle's
   kernels for float32. */
#include <string.h>

#include <algorithm>

#include "half.h"
#include "paddle/phi/kernels/elementwise_add_grad_kernel.h"
#include "paddle/phi/kernels/elementwise_add_kernel.h"
#include "paddle/phi/kernels/elementwise_multiply_kernel.h"

namespace vilg_half {
namespace {

constexpr int64_t kElements = 16384; /* that a thread computes at a time */

/* Whether x is y repeated along leading axes, or of the same sizes. */
bool repeats(const phi::DDim& x, const phi::DDim& y) {
  const int more = x.size() - y.size();
  if (more < 0) return false;
  for (int i = 0; i < y.size(); ++i)
    if (x[more + i] != y[i]) return false;
  return true;
}

using Function = void (*)(int type, int64_t count, const uint16_t* x, const uint16_t* y, uint16_t* out);

/* out = f(x, y) if one of the tensors is repeated to the sizes of the other. Otherwise false. f is commutative. */
template <typename T>
bool mapped(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, DenseTensor* out, Function f) {
  if (x.dtype() != kType<T> || y.dtype() != kType<T> || x.numel() == 0) return false;
  const bool y_repeats = repeats(x.dims(), y.dims());
  if (!y_repeats && !repeats(y.dims(), x.dims())) return false;
  const DenseTensor &whole = y_repeats ? x : y, &part = y_repeats ? y : x;
  auto* to = reinterpret_cast<uint16_t*>(context.template Alloc<T>(out));
  const auto* from = reinterpret_cast<const uint16_t*>(whole.data<T>());
  const auto* other = reinterpret_cast<const uint16_t*>(part.data<T>());
  const int64_t period = part.numel(), total = whole.numel();
  const int64_t chunk = std::min(period, kElements), chunks = (period + chunk - 1) / chunk;
  const int64_t tasks = total / period * chunks;
#pragma omp parallel for schedule(static) if (total > kElements)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t at = task % chunks * chunk, start = task / chunks * period + at;
    f(kElement<T>, std::min(chunk, period - at), from + start, other + at, to + start);
  }
  return true;
}

template <typename T>
void Add(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, DenseTensor* out) {
  if (!mapped<T>(context, x, y, out, vilg_add))
    Half<&phi::AddKernel<float, CPUContext>>::run<T>(context, x, y, out);
}

template <typename T>
void Multiply(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, DenseTensor* out) {
  if (!mapped<T>(context, x, y, out, vilg_multiply))
    Half<&phi::MultiplyKernel<float, CPUContext>>::run<T>(context, x, y, out);
}

template <typename T>
void AddGrad(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, const DenseTensor& grad, int axis,
             DenseTensor* grad_x, DenseTensor* grad_y) {
  for (auto [input, result] : {std::pair{&x, &grad_x}, std::pair{&y, &grad_y}}) {
    if (!*result || input->dims() != grad.dims()) continue;
    T* copy = context.template Alloc<T>(*result);
    if (copy != grad.data<T>()) memcpy(copy, grad.data<T>(), grad.numel() * sizeof(T));
    *result = nullptr; /* done */
  }
  if (grad_x || grad_y)
    Half<&phi::AddGradKernel<float, CPUContext>>::run<T>(context, x, y, grad, axis, grad_x, grad_y);
}

template <typename T>
void register_all() {
  register_kernel<T, &Add<T>>("add");
  register_kernel<T, &AddGrad<T>>("add_grad");
  register_kernel<T, &Multiply<T>>("multiply");
}

const bool registered = (register_all<phi::bfloat16>(), register_all<phi::float16>(), true);

}  // namespace
}  // namespace vilg_half
