/* Kernels that only move 16-bit elements, for the shapes of decoding: Paddle's own move them one at a time. */
#include <string.h>

#include <vector>

#include "half.h"
#include "paddle/phi/kernels/index_select_kernel.h"
#include "paddle/phi/kernels/scatter_kernel.h"
#include "paddle/phi/kernels/transpose_kernel.h"

namespace vilg_half {
namespace {

/* Replaces rows of x, which stay together. */
template <typename T>
void Scatter(const CPUContext& context, const DenseTensor& x, const DenseTensor& index, const DenseTensor& updates,
             bool overwrite, DenseTensor* out) {
  if (!overwrite || index.dtype() != phi::DataType::INT64 || index.dims().size() > 1 || x.numel() == 0)
    return Half<&phi::ScatterKernel<float, CPUContext>>::run<T>(context, x, index, updates, overwrite, out);
  const T *from = x.data<T>(), *rows = updates.data<T>();
  const int64_t* places = index.data<int64_t>();
  const int64_t size = x.numel() / x.dims()[0];
  T* to = context.template Alloc<T>(out);
  if (to != from) memcpy(to, from, x.numel() * sizeof(T));
  for (int64_t i = 0; i < index.numel(); ++i) {
    PADDLE_ENFORCE_EQ(places[i] >= 0 && places[i] < x.dims()[0], true,
                      phi::errors::OutOfRange("scatter: row %d of %d", places[i], x.dims()[0]));
    memcpy(to + places[i] * size, rows + i * size, size * sizeof(T));
  }
}

/* Moves rows along the last axis as wholes if that axis stays the last. */
template <typename T>
void Transpose(const CPUContext& context, const DenseTensor& x, const std::vector<int>& axis, DenseTensor* out) {
  const int rank = x.dims().size();
  bool last_stays = rank >= 2 && x.numel() > 0 && axis.back() == rank - 1;
  for (int i : axis) last_stays &= i >= 0; /* an axis may be counted from the end */
  if (!last_stays)
    return phi::TransposeKernel<T, CPUContext>(context, x, axis, out);
  std::vector<int64_t> strides(rank, 1), sizes(rank);
  for (int i = rank - 2; i >= 0; --i) strides[i] = strides[i + 1] * x.dims()[i + 1];
  for (int i = 0; i < rank; ++i) sizes[i] = x.dims()[axis[i]];
  const int64_t width = sizes[rank - 1], rows = x.numel() / width;
  const T* from = x.data<T>();
  T* to = context.template Alloc<T>(out);
#pragma omp parallel for schedule(static) if (x.numel() > 16384)
  for (int64_t row = 0; row < rows; ++row) {
    int64_t rest = row, place = 0;
    for (int i = rank - 2; i >= 0; --i) place += rest % sizes[i] * strides[axis[i]], rest /= sizes[i];
    memcpy(to + row * width, from + place, width * sizeof(T));
  }
}

/* Copies what follows the axis as a whole. */
template <typename T>
void IndexSelect(const CPUContext& context, const DenseTensor& x, const DenseTensor& index, int axis,
                 DenseTensor* out) {
  if (index.dtype() != phi::DataType::INT64 || x.numel() == 0)
    return Half<&phi::IndexSelectKernel<float, CPUContext>>::run<T>(context, x, index, axis, out);
  if (axis < 0) axis += x.dims().size();
  int64_t before = 1, after = 1;
  for (int i = 0; i < axis; ++i) before *= x.dims()[i];
  for (int i = axis + 1; i < x.dims().size(); ++i) after *= x.dims()[i];
  const int64_t size = x.dims()[axis], count = index.numel();
  const int64_t* places = index.data<int64_t>();
  const T* from = x.data<T>();
  T* to = context.template Alloc<T>(out);
  for (int64_t i = 0; i < count; ++i)
    PADDLE_ENFORCE_EQ(places[i] >= -size && places[i] < size, true,
                      phi::errors::OutOfRange("index_select: index %d of %d", places[i], size));
  for (int64_t outer = 0; outer < before; ++outer)
    for (int64_t i = 0; i < count; ++i)
      memcpy(to + (outer * count + i) * after,
             from + (outer * size + (places[i] < 0 ? places[i] + size : places[i])) * after, after * sizeof(T));
}

template <typename T>
void register_all() {
  register_kernel<T, &IndexSelect<T>>("index_select");
  register_kernel<T, &Scatter<T>>("scatter");
  register_kernel<T, &Transpose<T>>("transpose");
}

const bool registered = (register_all<phi::bfloat16>(), register_all<phi::float16>(), true);

}  // namespace
}  // namespace vilg_half
