/* Kernels for 16 bits on a CPU, made from Paddle's kernels for float32.

   Paddle's CPU library has few kernels for bfloat16 and float16. `Half<kernel>` makes one of a float32 kernel: inputs are
   widened, the kernel computes in float32, and outputs are rounded once. `register_half` adds it to Paddle's kernels
   when the library is loaded. A kernel that Paddle has is replaced, because Paddle's kernels for 16 bits also
   accumulate in 16 bits. */
#pragma once
#include <omp.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "../convert.h"
#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/kernel_registry.h"

namespace vilg_half {

using phi::CPUContext;
using phi::DenseTensor;

template <typename T>
constexpr phi::DataType kType = phi::CppTypeToDataType<T>::Type();

template <typename T>
constexpr int kElement = kType<T> == phi::DataType::BFLOAT16 ? VILG_BFLOAT16 : VILG_FLOAT16;

template <typename T>
void widen(const T* from, int64_t count, float* to) {
  vilg_widen(kElement<T>, count, reinterpret_cast<const uint16_t*>(from), to, omp_get_max_threads());
}

template <typename T>
void narrow(const float* from, int64_t count, T* to) {
  vilg_narrow(kElement<T>, count, from, reinterpret_cast<uint16_t*>(to), omp_get_max_threads());
}

inline DenseTensor floats(const CPUContext& context, const phi::DDim& sizes) {
  DenseTensor x;
  x.Resize(sizes);
  context.Alloc<float>(&x);
  return x;
}

/* x in float32, or x itself if it is not of type T. */
template <typename T>
DenseTensor widened(const CPUContext& context, const DenseTensor& x) {
  if (!x.initialized() || x.dtype() != kType<T>) return x;
  DenseTensor wide = floats(context, x.dims());
  widen(x.data<T>(), x.numel(), wide.data<float>());
  return wide;
}

template <typename T>
void narrow_into(const CPUContext& context, const DenseTensor& wide, DenseTensor* out) {
  out->Resize(wide.dims());
  narrow(wide.data<float>(), wide.numel(), context.template Alloc<T>(out));
}

/* An argument of a kernel: fp32() is what the float32 kernel gets, finish() stores a result. Attributes are passed
   on as they are. */
template <typename T, typename A>
struct Argument {
  A value;
  Argument(const CPUContext&, A value) : value(value) {}
  A fp32() { return value; }
  void finish(const CPUContext&) {}
};

template <typename T>
struct Argument<T, const DenseTensor&> {
  DenseTensor wide;
  Argument(const CPUContext& context, const DenseTensor& x) : wide(widened<T>(context, x)) {}
  const DenseTensor& fp32() { return wide; }
  void finish(const CPUContext&) {}
};

template <typename T>
struct Argument<T, const paddle::optional<DenseTensor>&> {
  paddle::optional<DenseTensor> wide;
  Argument(const CPUContext& context, const paddle::optional<DenseTensor>& x) {
    if (x) wide = widened<T>(context, *x);
  }
  const paddle::optional<DenseTensor>& fp32() { return wide; }
  void finish(const CPUContext&) {}
};

template <typename T>
struct Argument<T, const std::vector<const DenseTensor*>&> {
  std::vector<DenseTensor> wide;
  std::vector<const DenseTensor*> pointers;
  Argument(const CPUContext& context, const std::vector<const DenseTensor*>& all) {
    for (const DenseTensor* x : all) wide.push_back(widened<T>(context, *x));
    for (const DenseTensor& x : wide) pointers.push_back(&x);
  }
  const std::vector<const DenseTensor*>& fp32() { return pointers; }
  void finish(const CPUContext&) {}
};

template <typename T>
struct Argument<T, DenseTensor*> {
  DenseTensor* out;
  DenseTensor wide;
  bool rounded;
  Argument(const CPUContext&, DenseTensor* out) : out(out), rounded(out && out->dtype() == kType<T>) {
    if (rounded) wide = DenseTensor(std::shared_ptr<phi::Allocation>(), {phi::DataType::FLOAT32, out->dims()});
  }
  DenseTensor* fp32() { return rounded ? &wide : out; }
  void finish(const CPUContext& context) {
    if (rounded && wide.initialized()) narrow_into<T>(context, wide, out);
  }
};

template <typename T>
struct Argument<T, std::vector<DenseTensor*>> {
  std::vector<Argument<T, DenseTensor*>> all;
  Argument(const CPUContext& context, std::vector<DenseTensor*> outs) {
    for (DenseTensor* out : outs) all.emplace_back(context, out);
  }
  std::vector<DenseTensor*> fp32() {
    std::vector<DenseTensor*> pointers;
    for (auto& one : all) pointers.push_back(one.fp32());
    return pointers;
  }
  void finish(const CPUContext& context) {
    for (auto& one : all) one.finish(context);
  }
};

/* Half<kernel>::run<T> is the kernel for T. */
template <auto kKernel>
struct Half;

template <typename... A, void (*kKernel)(const CPUContext&, A...)>
struct Half<kKernel> {
  template <typename T>
  static void run(const CPUContext& context, A... values) {
    std::tuple<Argument<T, A>...> arguments(Argument<T, A>(context, values)...);
    std::apply([&](auto&... all) { kKernel(context, all.fp32()...), (all.finish(context), ...); }, arguments);
  }
};

inline void no_change(const phi::KernelKey&, phi::Kernel*) {}

/* Adds kFn to Paddle's kernels, as `name` for type T. define: sets the types of its arguments. */
template <typename T, auto kFn>
void register_kernel(const char* name, void (*define)(const phi::KernelKey&, phi::Kernel*) = no_change) {
  using Signature = std::remove_pointer_t<decltype(kFn)>;
  const phi::KernelRegistrar registrar(
      phi::RegType::INNER, name, "CPU", phi::DataLayout::ALL_LAYOUT, kType<T>,
      phi::KernelArgsParseFunctor<Signature*>::Parse, define,
      phi::KernelImpl<Signature*, kFn>::Compute,
      reinterpret_cast<void*>(&phi::KernelImpl<Signature*, kFn>::VariadicCompute));
}

template <auto kKernel>
void register_half(const char* name) {
  register_kernel<phi::bfloat16, &Half<kKernel>::template run<phi::bfloat16>>(name);
  register_kernel<phi::float16, &Half<kKernel>::template run<phi::float16>>(name);
}

}  // namespace vilg_half
