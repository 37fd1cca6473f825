/* Conversion between float32 and 16 bits on a CPU. Paddle's kernels convert one element at a time, with one thread. */
#include "half.h"
#include "paddle/phi/kernels/cast_kernel.h"

namespace vilg_half {
namespace {

template <typename T>
void FromHalf(const CPUContext& context, const DenseTensor& x, phi::DataType type, DenseTensor* out) {
  if (type != phi::DataType::FLOAT32 || out == &x) return phi::CastKernel<T, CPUContext>(context, x, type, out);
  widen(x.data<T>(), x.numel(), context.template Alloc<float>(out));
}

void FromFloat(const CPUContext& context, const DenseTensor& x, phi::DataType type, DenseTensor* out) {
  if (out == &x || (type != kType<phi::bfloat16> && type != kType<phi::float16>))
    phi::CastKernel<float, CPUContext>(context, x, type, out);
  else if (type == kType<phi::bfloat16>)
    narrow(x.data<float>(), x.numel(), context.Alloc<phi::bfloat16>(out));
  else
    narrow(x.data<float>(), x.numel(), context.Alloc<phi::float16>(out));
}

/* The result has the type of an attribute. */
void define(const phi::KernelKey&, phi::Kernel* kernel) { kernel->OutputAt(0).SetDataType(phi::DataType::UNDEFINED); }

const bool registered = [] {
  register_kernel<phi::bfloat16, &FromHalf<phi::bfloat16>>("cast", define);
  register_kernel<phi::float16, &FromHalf<phi::float16>>("cast", define);
  register_kernel<float, &FromFloat>("cast", define);
  return true;
}();

}  // namespace
}  // namespace vilg_half
